"""Zero-cost proxies against published figures: 500 cells of NAS-Bench-101, each alone with fresh weights of its own.

    python -m benchmarks.proxies --data-dir DIR

The published ones are those of NASLib, at 128 channels, three cells a stage and 32 px (`nb101_subset_naslib500.npz` in
DIR, from automl/NASLib, branch benchmarks). Ours are of the same cells at the size that is asked for, on other images
and draws of weights, so that ranks are compared. naswot is not among theirs. Seconds are those of all four together.
"""

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp

from benchmarks import command
from jaxnas import datasets, ranking
from jaxnas.checks import Count, Pair, Text
from jaxnas.files import decode_arrays, read_file
from jaxnas.ranking.proxies import make_proxies
from jaxnas.spaces import nasbench101
from jaxnas.supernets import make_supernet, masked
from jaxnas.tables import published
from jaxnas.training import standardise

THEIRS = {"synflow": "synflow", "jacob_cov": "jacov", "snip": "snip", "grad_norm": "grad_norm"}
FILE = "nb101_subset_naslib500.npz"


@dataclasses.dataclass(frozen=True)
class Config:
    """Which networks, on how many images."""

    data_dir: Annotated[str, Text("a folder")] = ""  # of the file and of CIFAR-10
    width: Count = 16  # channels of the first stage; published: 128
    cells_per_stage: Count = 1  # published: 3
    image_size: Count = 16  # published: 32
    num_images: Pair = 32
    num_archs: Pair = 500
    quick: bool = False
    json: bool = False
    out: Annotated[str, Text("a file")] | None = None


QUICK = Config(width=5, image_size=8, num_images=8, num_archs=20, quick=True)


def run(config: Config) -> command.Records:
    path = Path(config.data_dir) / FILE
    truth = published.read_nasbench101_cells(path, nasbench101)
    arrays = decode_arrays(read_file(path))
    theirs = dict(zip(arrays["measure_names"].tolist(), arrays["measures"].T))
    archs, accuracy = truth.archs[: config.num_archs], truth.columns["valid_accuracy"][: config.num_archs]
    size: dict[str, Any] = {"image_size": config.image_size, "data_dir": config.data_dir}
    data = datasets.load("cifar10", num_train=config.num_images, num_valid=100, **size)
    space = nasbench101.resized(
        width=config.width, cells_per_stage=config.cells_per_stage, image_size=config.image_size
    )
    images = standardise(jnp.asarray(data.train_images), data.mean, data.std)
    proxies = make_proxies(masked(make_supernet(space, affine=True)), images, data.train_labels, names=[*THEIRS])
    records = []
    begin = time.perf_counter()
    found = proxies(jax.random.key(0), archs)
    seconds = time.perf_counter() - begin
    for name, scores in found.items():
        known = theirs[THEIRS[name]][: len(archs)]
        records.append(
            {
                "proxy": name,
                "num_archs": len(archs),
                "spearman": ranking.spearman(scores, known),
                "kendall_tau": ranking.kendall_tau(scores, known),
                "accuracy_tau_ours": ranking.kendall_tau(scores, accuracy),
                "accuracy_tau_theirs": ranking.kendall_tau(known, accuracy),
                "seconds": round(seconds, 1),
                "device": command.device_name(),
                "versions": command.versions(),
            }
        )
    return records


def table(records: Sequence[dict[str, Any]]) -> str:
    lines = [f"{'proxy':11}{'Spearman':>9}{'tau':>7}{'tau with accuracy, ours':>25}{'theirs':>8}{'seconds':>9}"]
    for record in records:
        lines.append(
            "{proxy:11}{spearman:9.3f}{kendall_tau:7.3f}{accuracy_tau_ours:25.3f}{accuracy_tau_theirs:8.3f}"
            "{seconds:9.1f}".format(**record)
        )
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    command.main("proxies", Config, QUICK, __doc__, run, table, argv)


if __name__ == "__main__":
    main()
