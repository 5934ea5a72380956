"""From the official NAS-Bench-101 file to our own: `convert_nasbench101`, once.

The file, of github.com/google-research/nasbench, is a TFRecord of JSON lists [hash of the cell, epochs, adjacency
matrix as a row of 0 and 1, operations, metrics]; the metrics are a protobuf message in base64 (model_metrics.proto
there). Each list is one training run; the full file has 423,624 cells x 4 lengths x 3 repeats.
"""

import base64
import binascii
import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from jaxnas.checks import number, whole
from jaxnas.files import decode_json
from jaxnas.space import DagLayout, SearchSpace
from jaxnas.tables.format import make_table, write_table
from jaxnas.tables.parts import Arrays, by_seed, collect, remove_parts
from jaxnas.tables.tfrecord import protobuf_fields, read_batches

SOURCE = "https://storage.googleapis.com/nasbench/"
LICENCE = "Apache-2.0, that of github.com/google-research/nasbench"
OFFICIAL = {  # file name -> SHA-256, from the README of github.com/google-research/nasbench
    "nasbench_full.tfrecord": "3d64db8180fb1b0207212f9032205064312b6907a3bbc81eabea10db2f5c7e9c",  # 1.95 GB
    "nasbench_only108.tfrecord": "4c39c3936e36a85269881d659e44e61a245babcb72cb374eacacf75d0e5f4fd1",  # 499 MB
}
MEASURES = {2: "train_seconds", 3: "train_accuracy", 4: "valid_accuracy", 5: "test_accuracy"}  # by protobuf field
_MOST_SECONDS = 1e9
_NAMES = [prefix + name for prefix in ("half_", "") for name in MEASURES.values()]


def convert_nasbench101(
    path: str | os.PathLike[str],
    out_dir: str | os.PathLike[str],
    space: SearchSpace,
    *,
    batch_size: int = 20_000,
    progress: bool = True,
) -> Path:
    """Write `{space.name}_cifar10.npz` of `jaxnas.tables.write_table` into `out_dir` and return its path.

    Columns [num_cells, num_repeats], for each length of training: `test_accuracy`, `valid_accuracy`, `train_accuracy`,
    fractions of CIFAR-10's images, and `train_seconds`; with the prefix `half_` after half the training; with `ep4_`,
    `ep12_`, `ep36_` before all that where a training is not the longest. `params` [num_cells]. The repeats of the file
    have no seeds; they are numbered in the order of the file.

    The cells' codes are `space.isomorphs` of what the file has: look up `space.isomorphs(archs)`. Cells with more
    vertices than `space` has are left out. A killed conversion, started again, goes on where it was.

    Args:
      path: `nasbench_only108.tfrecord` or `nasbench_full.tfrecord`. A file of these names must be the official one; one
        of another name may be any file of the format.
      space: `nasbench101`, or one of its sub-spaces.

    Raises:
      ValueError: the file is damaged or cut short, not official or of another format, or there is another file at the
        place of the table.
      OSError: a file cannot be read or written.
    """
    path, out = Path(path), Path(out_dir) / f"{space.name}_cifar10.npz"
    if not isinstance(space.layout, DagLayout):
        raise ValueError(f"{space.name}: NAS-Bench-101 has cells whose wiring is searched; take space nasbench101.")
    if out.exists():
        raise ValueError(f"{out}: there is a file already; move it away or choose another folder.")
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != OFFICIAL.get(path.name, digest):
        raise ValueError(
            f"{path}: not the official file or not all of it ({path.stat().st_size} bytes, sha256 {digest[:12]}...,"
            f" expected {OFFICIAL[path.name][:12]}...); take it again from {SOURCE}{path.name}."
        )

    def read_from(position: int) -> Iterator[tuple[int, Arrays]]:
        for next_position, records in read_batches(path, position, batch_size):
            yield next_position, _decode(records, space, path)

    folder = out.with_suffix(".parts")
    size = path.stat().st_size
    runs = collect(folder, f"{digest} {space.fingerprint}", read_from, end=size, progress=progress)
    if not runs or not len(runs["hash"]):
        raise ValueError(f"{path}: no run of a cell of {space.name} in the file.")
    _, first, rows = np.unique(runs["hash"], return_index=True, return_inverse=True)
    archs = space.isomorphs(runs["code"][first].astype(np.int32))
    _check_same_cells(runs, archs, rows, space, path)
    columns, repeats = by_seed(
        rows,
        runs["epochs"],
        _repeats(rows, runs["epochs"]),
        dict(zip(_NAMES, runs["values"].T, strict=True)),
        len(first),
    )
    units = {name: "s" if name.endswith("seconds") else "fraction" for name in columns} | {"params": "count"}
    columns["params"] = runs["params"][first]
    provenance = {"source": SOURCE, "licence": LICENCE, "file": path.name, "sha256": digest}
    provenance |= {"dataset": "cifar10", "repeats": repeats}
    write_table(out, make_table(space, archs, columns, units=units, provenance=provenance))
    remove_parts(folder)
    return out


def _decode(records: list[bytes], space: SearchSpace, path: Path) -> Arrays:
    encode = _encoder(space)
    rows = []
    for record in records:
        try:
            key, epochs, bits, ops, metrics = decode_json(record)
            code = encode(bits, ops.split(","))
            if code is not None:
                params, values = _metrics(base64.b64decode(metrics, validate=True))
                rows.append((_hash(key), whole("epochs", epochs, 1), code, params, values))
        except (ValueError, TypeError, AttributeError, binascii.Error) as error:
            reason = " ".join(str(error).split())[:200]
            raise ValueError(f"{path}: no record of NAS-Bench-101, {record[:40]!r}... ({reason}).") from None
    keys, epochs_of, codes, params_of, values_of = zip(*rows, strict=True) if rows else ((),) * 5
    return {
        "hash": np.array([key.hex() for key in keys], "S32"),
        "epochs": np.array(epochs_of, np.int32),
        "code": np.array(codes, np.int8).reshape(-1, space.num_choices),
        "params": np.array(params_of, np.int64),
        "values": np.array(values_of, np.float32).reshape(-1, len(_NAMES)),
    }


def _hash(key: str) -> bytes:
    if len(digest := bytes.fromhex(key)) != 16:
        raise ValueError(f"a hash of {len(digest)} bytes, expected 16")
    return digest


def _encoder(space: SearchSpace) -> Callable[[str, list[str]], list[int] | None]:
    """(adjacency as a text of 0 and 1, operations) -> code, or None where the space has too few vertices."""
    layout = space.layout
    assert isinstance(layout, DagLayout)
    num_vertices, place_of_edge = layout.num_vertices, {edge: place for place, edge in enumerate(layout.edges)}
    op_codes = {name: code for code, name in enumerate(space.op_names[-1])}

    def encode(bits: str, ops: list[str]) -> list[int] | None:
        used = len(ops)
        if len(bits) != used**2 or set(bits) - {"0", "1"} or (ops[0], ops[-1]) != ("input", "output"):
            raise ValueError(f"{len(bits)} bits of adjacency for {used} vertices")
        if used > num_vertices:
            return None
        code = [0] * space.num_choices
        vertex = [*range(used - 1), num_vertices - 1]  # unused vertices stand before the output
        for place, bit in enumerate(bits):
            if bit == "1":
                source, target = divmod(place, used)
                if source >= target:
                    raise ValueError("an edge that points backwards")
                code[place_of_edge[vertex[source], vertex[target]]] = 1
        for place, op in enumerate(ops[1:-1], len(layout.edges)):
            if op not in op_codes:
                raise ValueError(f"unknown operation {op!r}")
            code[place] = op_codes[op]
        return code

    return encode


def _metrics(message: bytes) -> tuple[int, list[float]]:
    """Parameters, and the measures half-way and at the end; the first evaluation is that before training."""
    evaluations: list[dict[int, float]] = []
    params = -1
    for field, value in protobuf_fields(message):
        if field == 1 and isinstance(value, bytes):
            evaluations.append(dict((name, one) for name, one in protobuf_fields(value) if isinstance(one, float)))
        elif field == 2 and isinstance(value, int):
            params = value
    if len(evaluations) != 3 or params < 0 or any(set(MEASURES) - set(one) for one in evaluations[1:]):
        raise ValueError(f"metrics with {len(evaluations)} evaluations, expected 3 with accuracies, and parameters")
    return whole("parameters", params), [
        number(name, one[field], 0, 1 if name.endswith("accuracy") else _MOST_SECONDS)
        for one in evaluations[1:]
        for field, name in MEASURES.items()
    ]


def _check_same_cells(runs: Arrays, archs: np.ndarray, rows: np.ndarray, space: SearchSpace, path: Path) -> None:
    """Runs of one hash are of one cell: `archs` [num_cells, num_choices], of which run i has number `rows[i]`."""
    first = np.unique(rows, return_index=True)[1]
    wrong = np.flatnonzero(runs["params"] != runs["params"][first][rows])
    others = np.flatnonzero((runs["code"] != runs["code"][first][rows]).any(axis=1))
    if others.size and not wrong.size:  # the same cell, written otherwise?
        wrong = others[(space.isomorphs(runs["code"][others].astype(np.int32)) != archs[rows[others]]).any(axis=1)]
    if wrong.size:
        raise ValueError(
            f"{path}: runs of the hash {runs['hash'][wrong[0]].decode()} are of different cells; take the file again."
        )


def _repeats(rows: np.ndarray, epochs: np.ndarray) -> np.ndarray:
    """The number of each run among those of its cell and length, in the order of the file."""
    order = np.lexsort((np.arange(len(rows)), epochs, rows))
    is_first = np.r_[True, (np.diff(rows[order]) != 0) | (np.diff(epochs[order]) != 0)]
    places = np.arange(len(rows))
    repeats = np.empty(len(rows), np.int64)
    repeats[order] = places - np.maximum.accumulate(np.where(is_first, places, 0))
    return repeats
