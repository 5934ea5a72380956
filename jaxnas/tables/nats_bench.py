"""From the official NATS-Bench files to our own: `convert_nats_bench`, once.

It is the topology space, the cells of NAS-Bench-201. Source: the archive `NATS-tss-v1_0-3ffb9-simple.tar` (about 1 GB)
that the README of github.com/D-X-Y/NATS-Bench links to. Its authors publish no checksum of it; 3ffb9 is the beginning
of the MD5 of the one-file form. Unpacked it is a folder with `meta.pickle.pbz2`, whose `meta_archs` lists the 15,625
cells as text, and one `000000.pickle.pbz2` a cell: pickled, compressed by bzip2, {"12" or "200" epochs: {"arch_str":
text, "all_results": {(data set, seed): run}}}.
"""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from jaxnas.checks import number, shown, whole
from jaxnas.space import CellLayout, SearchSpace
from jaxnas.tables.format import make_table, write_table
from jaxnas.tables.parts import Arrays, by_seed, collect, remove_parts
from jaxnas.tables.plain_pickle import read_pickle, sha256_of

SOURCE = "github.com/D-X-Y/NATS-Bench, NATS-tss-v1_0-3ffb9-simple"
LICENCE = "MIT, that of github.com/D-X-Y/NATS-Bench"
# Data set -> split -> (what was trained on, what it was evaluated on), as the authors' API reads them. On CIFAR-10 test
# accuracies are of trainings on both training and validation part, validation accuracies of trainings on the former.
SPLITS = {
    "cifar10": {"test": ("cifar10", "ori-test"), "valid": ("cifar10-valid", "x-valid")},
    "cifar100": {"test": ("cifar100", "x-test"), "valid": ("cifar100", "x-valid")},
    "imagenet16-120": {"test": ("ImageNet16-120", "x-test"), "valid": ("ImageNet16-120", "x-valid")},
}
_MOST_MILLIONS = 1e9  # of parameters and of multiply-accumulates
_MEASURES = ("test_accuracy", "valid_accuracy", "test_loss", "valid_loss")


def convert_nats_bench(
    folder: str | os.PathLike[str],
    out_dir: str | os.PathLike[str],
    space: SearchSpace,
    *,
    archs_per_part: int = 500,
    progress: bool = True,
) -> list[Path]:
    """Write `{space.name}_cifar10.npz`, `..._cifar100.npz` and `..._imagenet16-120.npz` into `out_dir`; their paths.

    Columns [num_archs, num_seeds] after 200 epochs: `test_accuracy` and `valid_accuracy`, fractions, `test_loss` and
    `valid_loss` in nats; after the training of 12 epochs the same with the prefix `ep12_`. Which seed is which column
    is in the provenance under `seeds`; where an architecture lacks a seed there is NaN. `params`, `macs` (the files
    call them FLOPs) and `index`, the official number, [num_archs]. A killed conversion, started again, goes on where
    it was.

    Args:
      folder: the unpacked archive.
      space: `nasbench201`, with the official operation names.

    Raises:
      ValueError: a file is missing, damaged or of another format, or there is another file at the place of a table.
      OSError: a file cannot be read or written.
    """
    folder, out_dir = Path(folder), Path(out_dir)
    outs = {dataset: out_dir / f"{space.name}_{dataset}.npz" for dataset in SPLITS}
    for out in outs.values():
        if out.exists():
            raise ValueError(f"{out}: there is a file already; move it away or choose another folder.")
    # Each file is hashed before it is opened, and again when it is: what is read is what the table's provenance names.
    meta = folder / "meta.pickle.pbz2"
    digest_of_meta = sha256_of(meta)
    texts = read_pickle(meta, digest_of_meta).get("meta_archs")
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"{meta}: no list meta_archs of architectures as texts; expected a NATS-Bench archive.")
    archs = np.array([_code(text, space) for text in texts], np.int32)
    paths = [folder / f"{index:06d}.pickle.pbz2" for index in range(len(texts))]
    for path in paths:
        if not path.is_file():
            raise ValueError(f"{path}: missing, of {len(paths)} architectures; unpack the archive again.")
    digests = [sha256_of(path) for path in paths]
    digest = hashlib.sha256("\n".join([digest_of_meta, *digests]).encode()).hexdigest()

    def read_from(start: int) -> Iterator[tuple[int, Arrays]]:
        for first in range(start, len(paths), archs_per_part):
            chosen = range(first, min(first + archs_per_part, len(paths)))
            runs = [run for index in chosen for run in _runs(paths[index], digests[index], index, texts[index])]
            yield chosen.stop, _as_arrays(runs)

    parts = out_dir / f"{space.name}_nats_bench.parts"
    runs = collect(parts, f"{digest} {space.fingerprint}", read_from, end=len(paths), progress=progress)
    for place, (dataset, out) in enumerate(outs.items()):
        own = {name: array[runs["dataset"] == place] for name, array in runs.items()}
        if not len(own["index"]):
            raise ValueError(f"{folder}: no results on {dataset}.")
        values = dict(zip(_MEASURES, own["values"].T, strict=True))
        known, first, rows = np.unique(own["index"], return_index=True, return_inverse=True)
        columns, seeds = by_seed(rows, own["epochs"], own["seed"], values, len(known))
        units = {name: "nats" if name.endswith("loss") else "fraction" for name in columns}
        columns |= {"params": own["params"][first], "macs": own["macs"][first], "index": known}
        units |= {"params": "count", "macs": "count", "index": "index"}
        provenance = {"source": SOURCE, "licence": LICENCE, "folder": folder.name, "sha256": digest}
        provenance |= {"dataset": dataset, "seeds": seeds}
        write_table(out, make_table(space, archs[known], columns, units=units, provenance=provenance))
    remove_parts(parts)
    return list(outs.values())


def _runs(path: Path, sha256: str, index: int, text: str) -> Iterator[tuple[Any, ...]]:
    """One line per data set, length and seed: (place of the data set, index, epochs, seed, params, macs, measures)."""
    content = read_pickle(path, sha256)
    try:
        for length, results in content.items():
            epochs = whole("a length of training", int(length), 1)
            if (found := results["arch_str"]) != text:
                raise ValueError(
                    f"it is of {shown(found) if isinstance(found, str) else type(found)}, expected {text!r}"
                )
            trained: dict[str, list[int]] = {}
            for name, seed in results["all_results"]:
                trained.setdefault(name, []).append(whole("a seed", seed))
            for place, splits in enumerate(SPLITS.values()):
                for seed in sorted({seed for name, _ in splits.values() for seed in trained.get(name, ())}):
                    measures, costs = dict.fromkeys(_MEASURES, np.nan), (0, 0)
                    for split, (name, evaluated) in splits.items():
                        if seed not in trained.get(name, ()):
                            continue
                        run = results["all_results"][name, seed]
                        key = f"{evaluated}@{whole('epochs', run['epochs'], 1) - 1}"  # they are counted from 0
                        measures[f"{split}_accuracy"] = number("an accuracy", run["eval_acc1es"][key], 0, 100) / 100
                        measures[f"{split}_loss"] = number("a loss", run["eval_losses"][key], 0)
                        params, macs = (number(name, run[name], 0, _MOST_MILLIONS) for name in ("params", "flop"))
                        costs = round(params * 1e6), round(macs * 1e6)
                    yield place, index, epochs, seed, *costs, [measures[name] for name in _MEASURES]
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise ValueError(f"{path}: not as NATS-Bench has it ({reason}).") from None


def _as_arrays(runs: list[tuple[Any, ...]]) -> Arrays:
    names = ("dataset", "index", "epochs", "seed", "params", "macs")
    columns = list(zip(*runs, strict=True)) if runs else [()] * 7
    arrays = {name: np.array(column, np.int64) for name, column in zip(names, columns[:6], strict=True)}
    return arrays | {"values": np.array(columns[6], np.float32).reshape(-1, len(_MEASURES))}


def _code(text: Any, space: SearchSpace) -> list[int]:
    """The code of an official text such as |nor_conv_3x3~0|+|none~0|none~1|+|...: by node, operation~source."""
    layout = space.layout
    code: dict[tuple[int, int], int] = {}
    try:
        assert isinstance(layout, CellLayout)
        for target, terms in enumerate(text.split("+"), 1):
            for op, source in (term.split("~") for term in terms.strip("|").split("|")):
                place = layout.edges.index((int(source), target))
                code[int(source), target] = space.op_names[place].index(op)
        return [code[edge] for edge in layout.edges]
    except (AssertionError, AttributeError, KeyError, ValueError):
        raise ValueError(f"{space.name}: {text!r} is no architecture of the space; take space nasbench201.") from None
