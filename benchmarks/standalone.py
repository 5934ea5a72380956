"""What training networks alone costs: one after another, on several threads, several seeds or networks side by side.

    python -m benchmarks.standalone                     # a table, minutes on two cores
    python -m benchmarks.standalone --quick             # smaller
    python -m benchmarks.standalone --json --out FILE   # flat records

Random networks of one space on random images, in turns within one run, medians. All routes train the same networks from
the same keys, and must agree in their test losses. Routes:

    one         one network at a time on one host thread
    threads     the same with a host thread for each core
    seeds       one architecture at a time, its seeds side by side (parameters batched)
    seeds_threads    the same with a host thread for each core: what `experiments.build_table` does on CPU
    archs       several architectures and their seeds side by side: each choice computes all its operations
"""

import dataclasses
import functools
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import numpy as np

from benchmarks import command
from jaxnas import codes
from jaxnas.checks import Count, Pixels, Seeds, Width
from jaxnas.space import SearchSpace
from jaxnas.spaces import SpaceName, get_space
from jaxnas.supernets import make_supernet
from jaxnas.training import Recipe, make_standalone

Route = Literal["one", "threads", "seeds", "seeds_threads", "archs"]
ROUTES: tuple[Route, ...] = ("one", "threads", "seeds", "seeds_threads", "archs")
TOLERANCE = 0.02  # nats: rounding that training amplifies


@dataclasses.dataclass(frozen=True)
class Config:
    """What to train, at which size."""

    routes: tuple[Route, ...] = ROUTES
    space: Annotated[str, SpaceName()] = "digits_chain"
    num_archs: Count = 8  # random architectures; `archs` trains all of them at once
    num_seeds: Seeds = 4
    num_images: Count = 600
    batch_size: Count = 50
    num_epochs: Count = 2
    width: Width | None = None  # channels of the stem; None: the space's own
    image_size: Pixels | None = None  # pixels; None: the space's own
    repetitions: Count = 3  # of every route, in turns; the median counts
    quick: bool = False  # other defaults
    json: bool = False  # records instead of a table
    out: Path | None = None  # write the records to this file as well


QUICK = Config(num_archs=2, num_seeds=2, num_images=60, batch_size=20, num_epochs=1, width=4, repetitions=1, quick=True)


def run(config: Config) -> list[dict[str, Any]]:
    """A flat record for every route.

    Raises:
      RuntimeError: routes that disagree in their losses.
    """
    space = get_space(config.space).resized(width=config.width, image_size=config.image_size)
    archs = np.asarray(codes.sample(jax.random.key(0), space, config.num_archs))
    keys = jax.random.split(jax.random.key(1), config.num_seeds)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (config.num_images, *make_supernet(space).layers["stem"].in_shape), np.uint8)
    labels = np.arange(config.num_images, dtype=np.int32) % space.layout.num_classes
    data = images, labels, images[:100], labels[:100]
    trains = {route: make_route(config, space, route) for route in config.routes}
    losses: dict[str, np.ndarray] = {}
    compile_s: dict[str, float] = {}
    took: dict[str, list[float]] = {route: [] for route in trains}
    for repetition in range(config.repetitions + 1):
        for route, train in trains.items():
            print(f"{route} ...", file=sys.stderr, flush=True)
            start = time.perf_counter()
            losses[route] = train(archs, keys, *data)
            seconds = time.perf_counter() - start
            if repetition:
                took[route].append(seconds)
            else:
                compile_s[route] = seconds
    first = config.routes[0]
    for name, loss in losses.items():
        difference = float(np.max(np.abs(loss - losses[first])))
        if not difference <= TOLERANCE:  # NaN too
            raise RuntimeError(
                f"the test losses of {name} and {first} differ by up to {difference:.3g} nats, expected at most"
                f" {TOLERANCE}; nothing is reported."
            )
    median = {route: float(np.median(times)) for route, times in took.items()}
    return [
        {
            "space": space.name,
            "route": route,
            "ms_per_network": 1000 * seconds / (config.num_archs * config.num_seeds),
            "speedup_over_one": median["one"] / seconds if "one" in median else None,
            "first_run_s": compile_s[route],  # compiling included
            **{name: getattr(config, name) for name in ("num_archs", "num_seeds", "num_images", "batch_size")},
            "num_epochs": config.num_epochs,
            "width": make_supernet(space).layers["stem"].out_shape[-1],
            "repetitions": config.repetitions,
            "device": command.device_name(),
            "versions": command.versions(),
        }
        for route, seconds in median.items()
    ]


def make_route(config: Config, space: SearchSpace, route: Route) -> Callable[..., np.ndarray]:
    """(archs, keys, images, labels, test images, test labels) -> test losses [num_archs, num_seeds]."""
    recipe = Recipe(config.num_epochs, config.batch_size, learning_rate=0.05, crop=1)
    make = functools.partial(make_standalone, make_supernet(space), recipe, mean=np.array([0.5]), std=np.array([0.3]))
    if route == "archs":
        train = make(archs_per_call=config.num_archs)
        return lambda archs, keys, *data: train(archs, keys, *data).loss
    train = make(workers=(os.cpu_count() or 1) if route.endswith("threads") else 1)
    if route.startswith("seeds"):
        return lambda archs, keys, *data: train(archs, keys, *data).loss

    def one_seed_at_a_time(archs, keys, *data):
        return np.concatenate(
            [train(archs, keys[number : number + 1], *data).loss for number in range(len(keys))], axis=1
        )

    return one_seed_at_a_time


def table(records: Sequence[dict[str, Any]]) -> str:
    first = records[0]
    lines = [
        f"{first['device']}; {first['versions']}",
        f"{first['num_archs']} architectures x {first['num_seeds']} seeds, {first['num_epochs']} epochs of"
        f" {first['num_images']} images, batch {first['batch_size']}",
        f"{'route':15}{'ms a network':>14}{'against one':>13}{'first run s':>13}",
    ]
    for record in records:
        speedup = f"{record['speedup_over_one']:.2f}x" if record["speedup_over_one"] else "-"
        lines.append(f"{record['route']:15}{record['ms_per_network']:14.1f}{speedup:>13}{record['first_run_s']:13.1f}")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    command.main("standalone", Config, QUICK, __doc__, run, table, argv)


if __name__ == "__main__":
    main()
