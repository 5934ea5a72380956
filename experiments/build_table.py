"""Stand-alone ground truth: train every architecture of a space from scratch, several seeds each, into one table.

The table that comes with jaxnas, all 243 chains of digits_chain on scikit-learn's digits, was made by

    python -m experiments.build_table --workdir runs/table

and WORKDIR/digits_chain_digits.npz then copied to jaxnas/tables/digits_chain.npz. The task was tuned so that
architectures differ by more than their seeds do: test accuracy is that over all shifts of the test images by one pixel,
as in training, since 897 images alone leave too much to chance. Every `archs_per_save` architectures are saved, and a
killed run goes on from there.
"""

import dataclasses
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
from tqdm import tqdm

from experiments import workdir as cli
from experiments.problem import ProblemConfig, load_images, resize
from jaxnas import costs, ranking, tables
from jaxnas.codes import enumerate_archs
from jaxnas.spaces import get_space
from jaxnas.supernets import make_supernet
from jaxnas.training import Recipe, make_standalone


@dataclasses.dataclass(frozen=True)
class Config(ProblemConfig):
    """Which networks are trained, on what, and how."""

    num_archs: int | None = None  # the first so many codes; None: the whole space
    num_seeds: int = 5
    num_epochs: int = 24
    batch_size: int = 50
    learning_rate: float = 0.1
    weight_decay: float = 5e-4
    crop: int = 1  # pixels of random shift in training
    test_shift: int = 1  # test images are scored at every shift by up to so many pixels
    flip: bool = False
    compiled: Literal["once", "each"] = "once"
    archs_per_save: int = 9


PRESETS = {
    "tiny": Config(num_archs=4, num_seeds=2, num_train=60, num_epochs=2, batch_size=20, archs_per_save=2),
    "quick": Config(),
    # NAS-Bench-Macro's published protocol: 50 epochs, batch 256, three seeds, on an accelerator.
    "paper": Config(
        space="nasbench_macro", dataset="cifar10", num_seeds=3, num_train=45_000, num_valid=5_000, num_epochs=50,
        batch_size=256, crop=4, test_shift=0, flip=True, compiled="each",
    ),
}  # fmt: skip


def run(config: Config, workdir: Path) -> Mapping[str, Any]:
    """Train all, in saved blocks; write WORKDIR/SPACE_DATASET.npz."""
    for name, least in (("num_archs", 2), ("num_seeds", 1), ("num_epochs", 1), ("archs_per_save", 1)):
        if (value := getattr(config, name)) is not None and value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}.")
    space = get_space(config.space)
    data = load_images(config, space)
    space = resize(config, space, data)
    recipe = Recipe(
        num_epochs=config.num_epochs,
        batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        crop=config.crop,
        flip=config.flip,
    )
    train = make_standalone(
        make_supernet(space),
        recipe,
        mean=data.mean,
        std=data.std,
        compiled=config.compiled,
        workers=(os.cpu_count() or 1) if jax.default_backend() == "cpu" else 1,
    )
    archs = enumerate_archs(space)[: config.num_archs]
    keys = jax.random.split(jax.random.key(config.seed), config.num_seeds)
    units = {"test_accuracy": "fraction", "test_loss": "nats"}
    test_images, test_labels = all_shifts(data.test_images, data.test_labels, data.mean, config.test_shift)
    parts, seconds = [], 0.0
    with tqdm(total=len(archs), unit="arch", desc="train alone", disable=not config.progress) as bar:
        for start in range(0, len(archs), config.archs_per_save):
            path = workdir / "blocks" / f"{start:06d}.npz"
            codes = archs[start : start + config.archs_per_save]
            if not path.exists():
                path.parent.mkdir(exist_ok=True)
                begin = time.perf_counter()
                result = train(codes, keys, data.train_images, data.train_labels, test_images, test_labels)
                columns = {
                    "test_accuracy": result.accuracy.astype(np.float32),
                    "test_loss": result.loss.astype(np.float32),
                }
                took = {"seconds": repr(time.perf_counter() - begin)}
                tables.write_table(path, tables.make_table(space, codes, columns, units=units, provenance=took))
            part = tables.read_table(path, space)
            parts.append(part.columns)
            seconds += float(part.provenance["seconds"])
            bar.update(len(codes))
    columns = {name: np.concatenate([part[name] for part in parts]) for name in units}
    compared = [field for field in dataclasses.fields(config) if field.compare]
    provenance = {
        "source": "python -m experiments.build_table",
        "config": ", ".join(f"{field.name}={getattr(config, field.name)}" for field in compared),
        "seeds": f"jax.random.split(jax.random.key({config.seed}), {config.num_seeds})",
        "versions": ", ".join(f"{name} {version}" for name, version in cli.versions().items()),
        "device": jax.devices()[0].device_kind,
    }
    path = workdir / f"{config.space}_{config.dataset.replace('/', '-')}.npz"
    tables.write_table(path, tables.make_table(space, archs, columns, units=units, provenance=provenance))
    accuracy = columns["test_accuracy"].astype(np.float64)
    several = config.num_seeds > 1
    macs = costs.arch_costs(space, archs).macs
    return {
        "space": space.name,
        "dataset": config.dataset,
        "num_archs": len(archs),
        "num_seeds": config.num_seeds,
        "seed_kendall_tau": ranking.seed_kendall_tau(accuracy) if several else math.nan,
        "reliability_of_mean": ranking.reliability(accuracy) if several else math.nan,
        "flops_kendall_tau": ranking.kendall_tau(macs, accuracy.mean(axis=1)),
        "lowest_accuracy": float(accuracy.mean(axis=1).min()),
        "highest_accuracy": float(accuracy.mean(axis=1).max()),
        "seconds_per_network": seconds / accuracy.size,
        "table": path.name,
        "table_bytes": path.stat().st_size,
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
    cli.main("build_table", run, PRESETS)
