"""What the way from ImageNet to a found network comes to on one H100, by counts alone: bytes, steps, hours.

    python -m benchmarks.imagenet
    python -m benchmarks.imagenet --json --out FILE  # flat records

An estimate, no measurement. A convolution with its batch normalisation reads its input and moves its output six times:
written, read for the moments, read and written to normalise, and to activate. A training step moves three times as much
as a forward pass, a program of XLA `overhead` times that. Networks are of their published size, in bfloat16; lengths
of the trainings are those of `jaxnas pcnas paper` and `jaxnas retrain paper`. Arithmetic and reading the pictures, of
which neither is the bound on enough cores, are left out.
"""

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import chex
import jax
import numpy as np

from benchmarks import command
from benchmarks.roofline import BANDWIDTH
from jaxnas.checks import Count, Pair, Positive, Share
from jaxnas.codes import sample
from jaxnas.costs import arch_costs
from jaxnas.ops import Operation, Tape
from jaxnas.space import SearchSpace
from jaxnas.spaces import get_space, mobilenet_v2
from jaxnas.supernets import make_supernet
from jaxnas.training import RECIPES

TRAINING_PICTURES = 1_281_167  # of ImageNet
BYTES = 2  # of a number
PASSES = 3  # forward passes that a training step moves as much as


@dataclasses.dataclass(frozen=True)
class Config:
    """What is counted, and what the card is thought to do."""

    num_archs: Pair = 200  # random networks of a space, of which the mean is taken
    share: Share = 0.7  # of the published bandwidth
    overhead: Positive = 1.2  # bytes of a compiled step over those counted here, as benchmarks.compiled has them
    batch_size: Count = 1024
    search_steps: Count = 144_000
    num_scored_images: Count = 5000
    pool_size: Count = 5  # prefixes kept
    num_completions: Count = 20  # scored for each candidate
    num_valid: Count = 10_000  # of the training pictures, held out of a retraining
    quick: bool = False  # other defaults
    json: bool = False  # records instead of a table
    out: Path | None = None  # write the records to this file as well


QUICK = Config(num_archs=8, quick=True)


class Counting(Tape):
    """Notes how many numbers each normalised output of one image has."""

    def __init__(self) -> None:
        super().__init__(None, None)
        self.outputs: list[int] = []

    def normalise(self, x: chex.Array) -> chex.Array:
        self.outputs.append(x.size // len(x))
        return super().normalise(x)


@functools.cache
def moved(operation: Operation, in_shape: tuple[int, ...]) -> int:
    """Numbers that an operation's convolutions, one after the other, move for an image [height, width, channels]."""
    tape, x = Counting(), jax.ShapeDtypeStruct((2, *in_shape), "float32")
    jax.eval_shape(lambda key, x: operation.init_with_output(key, x, tape), jax.random.key(0), x)
    outputs = tape.outputs
    return int(np.prod(in_shape)) + sum(outputs[:-1]) + 6 * sum(outputs) if outputs else 0


def megabytes(space: SearchSpace, archs: np.ndarray, overhead: float) -> np.ndarray:
    """Of a picture in a training step, float64 [num_archs]; archs int [num_archs, num_choices] of a chain."""
    total = np.zeros(len(archs))
    for layer in make_supernet(space).layers.values():
        of_each = np.array([moved(operation, layer.in_shape) for operation in layer.candidates.values()])
        total += of_each[layer.taken(archs)]
    return total * BYTES * PASSES * overhead / 1e6


def num_scored(space: SearchSpace, config: Config) -> int:
    """Networks that a search of PC-NAS scores at most: for each prefix of its pool and each candidate of the next
    choice, so many completions."""
    kept, total = 1, 0
    for number in space.num_ops:
        total += kept * number * config.num_completions
        kept = min(config.pool_size, kept * number)
    return total


def run(config: Config) -> list[dict[str, Any]]:
    """A flat record for every network: what it moves, and the hours of what is trained of it."""
    small, large, wide = (get_space(name) for name in ("mobile_small", "mobile_large", "mobile_small_140"))
    drawn = {space.name: np.asarray(sample(jax.random.key(0), space, config.num_archs)) for space in (small, large)}
    networks = [
        ("random", small, drawn[small.name]),
        ("random", large, drawn[large.name]),
        ("MobileNetV2 1.0", small, mobilenet_v2(small)[None]),
        ("MobileNetV2 1.4", wide, mobilenet_v2(wide)[None]),
    ]
    rate = config.share * BANDWIDTH / 1e6  # MB a second
    epochs = RECIPES["imagenet"].num_epochs
    retraining_steps = (TRAINING_PICTURES - config.num_valid) // config.batch_size * epochs
    records = []
    for name, space, archs in networks:
        of_a_step = float(megabytes(space, archs, config.overhead).mean())
        pictures = rate / of_a_step
        record = {
            "network": name,
            "space": space.name,
            "macs": float(arch_costs(space, archs).macs.mean()),
            "megabytes": of_a_step,
            "pictures_per_s": pictures,
            "step_s": config.batch_size / pictures,
            "retraining_steps": retraining_steps,
            "retraining_h": retraining_steps * config.batch_size / pictures / 3600,
        }
        if name == "random":
            scored = num_scored(space, config)
            record |= {
                "search_steps": config.search_steps,
                "search_h": config.search_steps * config.batch_size / pictures / 3600,
                "num_scored": scored,
                "scoring_h": scored * config.num_scored_images / (PASSES * pictures) / 3600,
            }
        records.append(record | {"device": "H100, counted for", "versions": command.versions()})
    return records


def table(records: Sequence[dict[str, Any]]) -> str:
    lines = [
        f"{'network':18}{'space':18}{'MACs, millions':>15}{'MB':>6}{'pictures/s':>12}{'step s':>8}{'retraining h':>14}"
        f"{'search h':>10}{'scored':>9}{'scoring h':>11}"
    ]
    for record in records:
        search = ""
        if "search_h" in record:
            search = f"{record['search_h']:10.1f}{record['num_scored']:9,}{record['scoring_h']:11.1f}"
        lines.append(
            f"{record['network']:18}{record['space']:18}{record['macs'] / 1e6:15.0f}{record['megabytes']:6.0f}"
            f"{record['pictures_per_s']:12,.0f}{record['step_s']:8.2f}{record['retraining_h']:14.1f}{search}"
        )
    steps = f"{records[0]['search_steps']:,} steps of a search, {records[0]['retraining_steps']:,} of a retraining"
    return "\n".join([f"{records[0]['device']}; {records[0]['versions']}; {steps}", *lines])


def main(argv: Sequence[str] | None = None) -> None:
    command.main("imagenet", Config, QUICK, __doc__, run, table, argv)


if __name__ == "__main__":
    main()
