"""Ground truth by search space and data set: the embedded table, tables as their authors published them, your own.

A published file is accepted only as it was published: its SHA-256 is known here.
"""

import hashlib
import importlib.resources
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxnas.files import decode_arrays, decode_json, read_file
from jaxnas.space import SearchSpace
from jaxnas.tables.comma_separated import read_csv
from jaxnas.tables.format import Table, decode_table, is_table, make_table, read_table
from jaxnas.tables.nats_bench import SPLITS


class Published(NamedTuple):
    """A file that somebody published, and how to read it."""

    file_name: str
    sha256: str
    source: str
    licence: str
    decode: Callable[[bytes, SearchSpace], Table]
    note: str | None = None  # what is not known about its figures, or was decided here


BROUGHT = {  # what `jaxnas data get` has for a space on a data set
    ("nasbench_macro", "cifar10"): "nasbench_macro",
    ("nasbench101", "cifar10"): "nasbench101",
    **{("nasbench201", dataset): "nats_bench" for dataset in SPLITS},
}


class MissingTable(ValueError):
    """There is no table, as opposed to one that is damaged or of another space."""


def load_truth(space: SearchSpace, dataset: str, *, data_dir: str | os.PathLike[str] | None = None) -> Table:
    """The stand-alone figures of the architectures of `space` on `dataset`.

    Every table has the column `test_accuracy`, fractions [num_archs] or [num_archs, num_seeds]. Where it comes from:
    digits_chain on digits lies in the package; those of `PUBLISHED` are read as published; any
    other (and nasbench_macro where the published file is absent) from `{space}_{dataset}.npz`, a file of `write_table`,
    or `{space}_{dataset}.csv`, see `read_csv` ("/" in the data set's name becomes "-").

    Args:
      data_dir: the folder of the files; else the environment variable JAXNAS_DATA.

    Raises:
      MissingTable: a ValueError; there is no such table.
      ValueError: it is damaged or of another space.
      OSError: the file cannot be read.
    """
    if (space.name, dataset) == ("digits_chain", "digits"):
        table = _read_embedded(space)
    else:
        table = _read_from_folder(space, dataset, data_dir or os.environ.get("JAXNAS_DATA"))
    if table.units.get("test_accuracy") != "fraction":
        raise ValueError(
            f"{space.name} on {dataset}: ground truth needs the column test_accuracy in the unit fraction;"
            f" the table has {table.units}."
        )
    return table


def read_nasbench_macro(path: str | os.PathLike[str], space: SearchSpace) -> Table:
    """NAS-Bench-Macro (Su et al., CVPR 2021), `nas-bench-macro_cifar10.json` of github.com/xiusu/NAS-Bench-Macro.

    All 3^8 = 6,561 chains in the order of their codes, with the columns `test_accuracy` [6561, 3], the fraction of
    CIFAR-10's test images after 50 epochs with three seeds; `params`; and `macs`, which the file calls FLOPs.
    `space` names its operations identity, mb3_k3 and mb6_k5, in any order.

    Raises:
      ValueError: the file is not the published one, or the space has other operations.
      OSError: the file cannot be read.
    """
    return _read_published(Path(path), PUBLISHED["nasbench_macro", "cifar10"], space)


def read_nasbench201(path: str | os.PathLike[str], space: SearchSpace) -> Table:
    """NAS-Bench-201 (Dong and Yang, ICLR 2020) as one small file, `nasbench201_cifar10.npz`: CIFAR-10 only.

    All 15,625 cells in the order of the official index, which is column `index`. Accuracies are fractions:
    `test_accuracy` [15625], the mean of two or three seeds after 200 epochs; `valid_accuracy` likewise and
    `valid_accuracy_seeds` [15625, 3], NaN where a third seed is missing; `ep12_test_accuracy` and `ep12_valid_accuracy`
    after a run of 12 epochs; `oneshot_accuracy` and `fewshot_accuracy`, what other people's super-nets gave the cells.
    `params`, and `macs` to float32 precision (the file calls them FLOPs). `space` has the official operation names, in
    any order.

    Raises:
      ValueError: the file is not the known one, or the space has other operations.
      OSError: the file cannot be read.
    """
    return _read_published(Path(path), PUBLISHED["nasbench201", "cifar10"], space)


def read_nasbench101_cells(path: str | os.PathLike[str], space: SearchSpace) -> Table:
    """500 cells of NAS-Bench-101 as one small file, `nb101_subset_naslib500.npz`: CIFAR-10 only.

    Column `valid_accuracy` [500], fractions: of one of three trainings each, after 108 epochs. Codes are as the file
    has them, of random wiring, of which many are the same cell by `space.isomorphs`; `space` is `nasbench101`.

    Raises:
      ValueError: the file is not the known one, or the space has other operations.
      OSError: the file cannot be read.
    """
    return _read_published(Path(path), NASBENCH101_CELLS, space)


def distinct_cells(table: Table, space: SearchSpace) -> Table:
    """Each cell of `read_nasbench101_cells` once, by the code that `space.isomorphs` gives it; column `test_accuracy`
    is the mean of the validation accuracies of its codes, all that is known of it."""
    archs, rows, counts = np.unique(space.isomorphs(table.archs), axis=0, return_inverse=True, return_counts=True)
    accuracy = np.bincount(rows.ravel(), table.columns["valid_accuracy"]) / counts
    source = (
        f"{table.provenance.get('source', 'read_nasbench101_cells')}; validation accuracies, means over codes of a cell"
    )
    columns, units = {"test_accuracy": accuracy}, {"test_accuracy": "fraction"}
    return make_table(space, archs, columns, units=units, provenance={"source": source})


def _read_embedded(space: SearchSpace) -> Table:
    file = importlib.resources.files("jaxnas.tables").joinpath("digits_chain.npz")
    if not file.is_file():
        raise ValueError(f"the embedded table {file} is missing; make it by: jaxnas build_table.")
    return decode_table(file.read_bytes(), space, source=str(file))


def _read_from_folder(space: SearchSpace, dataset: str, folder: str | os.PathLike[str] | None) -> Table:
    published = PUBLISHED.get((space.name, dataset))
    own_name = f"{space.name}_{dataset.replace('/', '-')}"
    if not folder:
        raise MissingTable(
            f"{space.name} on {dataset}: the table is not part of the package; name its folder with data_dir or the"
            f" variable JAXNAS_DATA. {_how_to_get(space, dataset, 'DIR')}"
        )
    folder = Path(folder).expanduser()
    if published and (folder / published.file_name).is_file() and not is_table(folder / published.file_name):
        return _read_published(folder / published.file_name, published, space)
    if (folder / f"{own_name}.npz").is_file():
        return read_table(folder / f"{own_name}.npz", space)
    if (folder / f"{own_name}.csv").is_file():
        return read_csv(folder / f"{own_name}.csv", space)
    raise MissingTable(
        f"{space.name} on {dataset}: no table of stand-alone accuracies in {folder.absolute()}, neither"
        f" {own_name}.npz nor {own_name}.csv{f' nor {published.file_name} ({published.source})' if published else ''}."
        f" {_how_to_get(space, dataset, folder)}"
    )


def _how_to_get(space: SearchSpace, dataset: str, folder: str | os.PathLike[str]) -> str:
    """The command that brings a table, or makes it."""
    if (name := BROUGHT.get((space.name, dataset))) is not None:
        return f"It comes with: jaxnas data get {name} --data-dir {folder}"
    return f"It is made, with the same --space, by: jaxnas build_table --dataset {dataset} --workdir {folder}"


def _decode_nasbench_macro(data: bytes, space: SearchSpace) -> Table:
    records = sorted(decode_json(data).items())
    codes = np.array([[int(op) for op in text] for text, _ in records])
    columns = {
        "test_accuracy": np.array([record["test_acc"] for _, record in records]) / 100,
        "params": np.array([record["params"] for _, record in records], np.int64),
        "macs": np.array([record["flops"] for _, record in records], np.int64),
    }
    units = {"test_accuracy": "fraction", "params": "count", "macs": "count"}
    archs = _codes_by_name(space, ("identity", "mb3_k3", "mb6_k5"), codes)
    return make_table(space, archs, columns, units=units, provenance={})


def _decode_nasbench201(data: bytes, space: SearchSpace) -> Table:
    arrays = decode_arrays(data)
    archs = _codes_by_name(space, arrays["op_names"].tolist(), arrays["ops"])
    percents = {
        "test_accuracy": arrays["cifar10_test"],
        "valid_accuracy": arrays["cifar10_valid"],
        "valid_accuracy_seeds": arrays["cifar10_valid_seeds"],
        "ep12_test_accuracy": arrays["ep12_cifar10_test"],
        "ep12_valid_accuracy": arrays["ep12_cifar10_valid"],
        "oneshot_accuracy": arrays["oneshot_cifar10"],
        "fewshot_accuracy": arrays["fewshot_cifar10"],
    }
    millions = {"params": arrays["params_mb_cifar10"], "macs": arrays["flops_m_cifar10"]}
    columns: dict[str, np.ndarray] = {name: column.astype(np.float64) / 100 for name, column in percents.items()}
    columns |= {name: np.rint(column.astype(np.float64) * 1e6).astype(np.int64) for name, column in millions.items()}
    columns["index"] = np.arange(len(archs))
    units = {name: "fraction" for name in percents} | {name: "count" for name in millions} | {"index": "index"}
    return make_table(space, archs, columns, units=units, provenance={})


def _decode_nats_size(data: bytes, space: SearchSpace) -> Table:
    arrays = decode_arrays(data)
    names = [[f"width{channels}" for channels in row] for row in arrays["channels"].tolist()]
    accuracy = arrays["acc"].astype(np.float64) / 100
    archs = np.array([[own.index(name) for own, name in zip(space.op_names, row, strict=True)] for row in names])
    return make_table(space, archs, {"test_accuracy": accuracy}, units={"test_accuracy": "fraction"}, provenance={})


def _decode_darts(data: bytes, space: SearchSpace) -> Table:
    arrays = decode_arrays(data)
    names, edges = arrays["op_names"].tolist(), arrays["codes"].astype(np.int32)  # [num_archs, 2, num_edges, 2]
    percents = arrays["test_accuracy_curve"].astype(np.float64)  # [num_archs, num_epochs]
    edges[..., 0] = np.array([space.op_names[0].index(name) for name in names])[edges[..., 0]]
    columns = {
        "test_accuracy": percents[:, -10:].mean(axis=1) / 100,
        "last_test_accuracy": percents[:, -1] / 100,
        "best_test_accuracy": percents.max(axis=1) / 100,
    }
    archs = edges.reshape(len(edges), -1)
    return make_table(space, archs, columns, units=dict.fromkeys(columns, "fraction"), provenance={})


def _decode_nasbench101_cells(data: bytes, space: SearchSpace) -> Table:
    if space.name != "nasbench101":
        raise ValueError(f"{space.name}: the cells are those of nasbench101; take that space.")
    arrays = decode_arrays(data)
    sources, targets = np.triu_indices(7, k=1)
    known = [*space.op_names[-1]]
    to_code = np.array([known.index(name) if name in known else -1 for name in arrays["op_names"].tolist()])
    archs = np.concatenate([arrays["matrix"][:, sources, targets], to_code[arrays["ops"][:, 1:-1]]], axis=1)
    columns = {"valid_accuracy": arrays["val_accuracy"].astype(np.float64) / 100}
    return make_table(space, archs.astype(np.int32), columns, units={"valid_accuracy": "fraction"}, provenance={})


NASBENCH101_CELLS = Published(
    file_name="nb101_subset_naslib500.npz",
    sha256="abb1c923d99fa0696e93b65781308654dc323dccf06b160965c3788be124588b",
    source="an extract of zc_nasbench101.json of github.com/automl/NASLib",
    licence="Apache-2.0",
    decode=_decode_nasbench101_cells,
    note="validation accuracy of one training",
)
PUBLISHED = {
    ("nasbench_macro", "cifar10"): Published(
        file_name="nas-bench-macro_cifar10.json",
        sha256="686dee8363cc21cca8c1f321ad5749454f2d9b9ca5972682e137e539bc522297",
        source="github.com/xiusu/NAS-Bench-Macro",
        licence="Apache-2.0",
        decode=_decode_nasbench_macro,
    ),
    ("nasbench201", "cifar10"): Published(
        file_name="nasbench201_cifar10.npz",
        sha256="3a0e14613f0529baa88d16c342abc51924f7f8b4105fcd42cb65ac1a5bf651fa",
        source="an extract of the tables of github.com/D-X-Y/NAS-Bench-201",
        licence="MIT",
        decode=_decode_nasbench201,
    ),
    ("nats_size", "cifar10"): Published(
        file_name="nats_sss_cifar10.npz",
        sha256="e34d776a1a29550418879158a8c339c211cbfddcda12a649413dae1812366fef",
        source="an extract of the tables of github.com/D-X-Y/NATS-Bench",
        licence="MIT",
        decode=_decode_nats_size,
        note="epochs and split of the accuracies are not recorded: for ranks only",
    ),
    ("darts", "cifar10"): Published(
        file_name="darts_yang2020.npz",
        sha256="1ba013e2130b45be247cb374940197675b59cfd8867e3ed644a7f5b7163167c0",
        source="an extract of the 214 random cells of github.com/antoyang/NAS-Benchmark",
        licence="GPL-3.0 (figures only)",
        decode=_decode_darts,
        note="the mean over the last ten of 600 epochs; width and depth are not recorded: for ranks only",
    ),
}


def _read_published(path: Path, published: Published, space: SearchSpace) -> Table:
    table = published.decode(read_as_published(path, published.sha256, published.source), space)
    about = {"source": published.source, "licence": published.licence}
    about |= {"file": published.file_name, "sha256": published.sha256}
    return table._replace(provenance=about | ({"note": published.note} if published.note else {}))


def read_as_published(path: Path, sha256: str, source: str) -> bytes:
    """The content of a file that somebody published, or a ValueError where it isn't the one of that checksum."""
    data = read_file(path)
    digest = hashlib.sha256(data).hexdigest()
    if digest != sha256:
        raise ValueError(
            f"{path}: not the published file or not all of it ({len(data)} bytes, sha256 {digest[:12]}..., expected"
            f" {sha256[:12]}...); take it again from {source}."
        )
    return data


def _codes_by_name(space: SearchSpace, published_ops: Sequence[str], codes: np.ndarray) -> np.ndarray:
    """Codes [num_archs, num_choices] into `published_ops`, as codes of `space`: matched by name, not by position."""
    if codes.shape[1] != space.num_choices or any(set(names) != set(published_ops) for names in space.op_names):
        raise ValueError(
            f"{space.name}: the published table has {codes.shape[1]} choices of {', '.join(published_ops)};"
            f" the space has {space.num_choices} of {', '.join(dict.fromkeys(sum(space.op_names, ())))}."
        )
    to_code = np.array([[names.index(op) for op in published_ops] for names in space.op_names], np.int32)
    return to_code[np.arange(space.num_choices), codes]
