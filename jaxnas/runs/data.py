"""`jaxnas data list` and `jaxnas data get NAME`: what others publish, where from and under which licence."""

import hashlib
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from jaxnas import datasets, tables
from jaxnas.datasets import Remote
from jaxnas.files import replace_file
from jaxnas.runs.command import one_line_errors, take_option
from jaxnas.spaces import get_space
from jaxnas.tables import PUBLISHED
from jaxnas.tables.nasbench101 import LICENCE as NASBENCH101_LICENCE
from jaxnas.tables.nasbench101 import OFFICIAL, SOURCE
from jaxnas.tables.nats_bench import LICENCE as NATS_LICENCE

Convert = Callable[[Path, Path], Sequence[Path]]  # (what was published, folder) -> tables of ours that it wrote there


class Had(NamedTuple):
    """What `jaxnas data get` brings."""

    what: str
    remote: Remote
    gives: tuple[str, ...]  # what there is afterwards, in the folder
    use: str  # flags of an experiment that reads it
    convert: Convert | None = None  # None: it is read as it was published


def _nasbench101(path: Path, folder: Path) -> list[Path]:
    return [tables.convert_nasbench101(path, folder, get_space("nasbench101"))]


def _nats_bench(path: Path, folder: Path) -> list[Path]:
    return tables.convert_nats_bench(path, folder, get_space("nasbench201"))


def _of_nasbench101(file_name: str, what: str) -> Had:
    remote = Remote(
        file_name, f"sha256:{OFFICIAL[file_name]}", (SOURCE + file_name,),
        "Ying et al., ICML 2019; github.com/google-research/nasbench", NASBENCH101_LICENCE,
    )  # fmt: skip
    use = "--space nasbench101 --dataset cifar10"
    return Had(what, remote, ("nasbench101_cifar10.npz",), use, _nasbench101)


def _macro() -> Had:
    published = PUBLISHED["nasbench_macro", "cifar10"]
    address = f"https://raw.githubusercontent.com/xiusu/NAS-Bench-Macro/HEAD/data/{published.file_name}"
    remote = Remote(
        published.file_name, f"sha256:{published.sha256}", (address,), published.source, published.licence, 1_178_821
    )
    use = "--space nasbench_macro --dataset cifar10"
    return Had("6,561 chains trained alone on CIFAR-10, three seeds", remote, (published.file_name,), use)


def _archive(name: str) -> Had:
    remote, number = datasets.ARCHIVES[name].remote, datasets.ARCHIVES[name].num_classes
    return Had(f"60,000 images of {number} classes, 32 x 32", remote, (remote.file_name,), f"--dataset {name}")


NATS = Remote(
    "NATS-tss-v1_0-3ffb9-simple", "", (), "Dong et al., TPAMI 2021; github.com/D-X-Y/NATS-Bench", NATS_LICENCE
)
KNOWN = {
    "cifar10": _archive("cifar10"),
    "cifar100": _archive("cifar100"),
    "nasbench_macro": _macro(),
    "nasbench101": _of_nasbench101(
        "nasbench_only108.tfrecord", "423,624 cells trained alone on CIFAR-10 for 108 epochs; 0.5 GB"
    ),
    "nasbench101_full": _of_nasbench101("nasbench_full.tfrecord", "the same, and for 4, 12 and 36 epochs; 2 GB"),
    "nats_bench": Had(
        "15,625 cells of NAS-Bench-201 trained alone on three image sets; 1 GB, got by hand",
        NATS,
        tuple(f"nasbench201_{dataset}.npz" for dataset in ("cifar10", "cifar100", "imagenet16-120")),
        "--space nasbench201 --dataset cifar10",
        _nats_bench,
    ),
}


def get(
    name: str, folder: Path, *, mirror: str | None = None, file: Path | None = None, progress: bool = True
) -> list[Path]:
    """Bring what is called `name` into `folder`: the paths of what experiments read.

    Args:
      mirror: as for `datasets.fetch`.
      file: what was published, got by hand; nothing is downloaded.

    Raises:
      ValueError: unknown, or not as published; what to do about it is the last part of the message.
      OSError: as for `datasets.fetch`.
    """
    if name not in KNOWN:
        raise ValueError(f"unknown data {name!r}; expected one of {', '.join(KNOWN)}.")
    known = KNOWN[name]
    paths = [folder / made for made in known.gives]
    if known.convert is not None and all(path.is_file() for path in paths):
        return paths
    if file is None:
        if not known.remote.urls:
            raise ValueError(
                f"{name}: {known.remote.file_name} is behind links that a browser has to follow, on"
                f" {known.remote.source.rpartition(' ')[2]}; unpack it, then:"
                f" jaxnas data get {name} --file FOLDER --data-dir {folder}"
            )
        file = datasets.fetch(known.remote, folder, mirror=mirror, progress=progress)
    elif not file.exists():
        raise ValueError(f"{file}: there is no such file or folder; expected {known.remote.file_name}.")
    if known.convert is not None:
        return [*known.convert(file, folder)]
    if file.resolve() != paths[0].resolve():
        _take_over(name, file, folder)
    return paths


def _take_over(name: str, file: Path, folder: Path) -> None:
    """Copy a file that was got by hand, if it is the published one."""
    remote = KNOWN[name].remote
    content = file.read_bytes()
    if (digest := hashlib.sha256(content).hexdigest()) != remote.hash.removeprefix("sha256:"):
        raise ValueError(
            f"{file}: not the published {remote.file_name} or not all of it ({len(content):,} bytes, sha256"
            f" {digest[:12]}...); take it again, or: jaxnas data get {name} --data-dir {folder}"
        )
    folder.mkdir(parents=True, exist_ok=True)
    replace_file(folder / remote.file_name, content)


def show(folder: Path | None) -> None:
    """Print what there is to be had."""
    for name, known in KNOWN.items():
        remote = known.remote
        is_there = folder is not None and all((folder / made).is_file() for made in known.gives)
        size = f"; {remote.num_bytes / 1e6:,.0f} MB" if remote.num_bytes else ""
        print(f"{name:17} {'there    ' if is_there else 'not there'}  {known.what}{size}")
        print(f"{'':17} from {remote.source}; licence: {remote.licence}")
        print(f"{'':17} read by {known.use}")
    where = f"in {folder}" if folder else "--data-dir DIR or the variable JAXNAS_DATA names the folder"
    print(f"\n{where}; jaxnas data get NAME brings one. Besides: digits, in the package; pictures and arrays of yours,")
    print("--dataset folder:PATH and npz:PATH; tables of yours, SPACE_DATASET.csv in the folder (code,accuracy,seed).")


def main(arguments: Sequence[str]) -> None:
    """What `jaxnas data` does with its arguments."""
    with one_line_errors("jaxnas data"):
        left = list(arguments)
        options = {name: take_option(f"--{name}", left) for name in ("data-dir", "mirror", "file")}
        given = options["data-dir"] or os.environ.get("JAXNAS_DATA")
        folder = Path(given).expanduser() if given else None
        if left == ["list"]:
            return show(folder)
        if len(left) != 2 or left[0] != "get":
            raise ValueError(
                f"expected list, or get NAME [--data-dir DIR] [--mirror URL] [--file PATH], got"
                f" {' '.join(arguments) or 'nothing'}."
            )
        if folder is None:
            raise ValueError("which folder? --data-dir DIR or the variable JAXNAS_DATA names it.")
        file = Path(options["file"]).expanduser() if options["file"] else None
        try:
            paths = get(left[1], folder, mirror=options["mirror"], file=file)
        except KeyboardInterrupt:
            print("\njaxnas data: interrupted; the same command goes on.", file=sys.stderr)
            raise SystemExit(130) from None
        print(f"{left[1]}: {', '.join(map(str, paths))}")
        print(f"use: {KNOWN[left[1]].use} --data-dir {folder}")
