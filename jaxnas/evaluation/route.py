"""What the routes to the same scores have in common: a population becomes units of work."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, Protocol, TypeVar

import numpy as np

from jaxnas.evaluation.batches import LoadedRow
from jaxnas.evaluation.planning import Plan

Item = TypeVar("Item")
Result = TypeVar("Result")


class UnitScores(NamedTuple):
    """What a unit found out."""

    positions: np.ndarray  # int [num_archs], of its architectures in the population
    losses: np.ndarray  # float [num_archs, num_batches, num_images], 0 for padding
    correct: np.ndarray  # bool, likewise; of text the share of right words, float


class Unit(NamedTuple):
    """A part of a population's work, done by one row of devices in one go."""

    run: Callable[[LoadedRow], UnitScores]
    macs: Callable[[], float]  # that it executes for one image, padding and repetitions included
    calls: Callable[[], int]  # of compiled programs that score `batches_per_call` batches, the host's work


class Route(Protocol):
    """One way to score a population: "mask", "serial" and "dispatch" by `calls`, "graph" by `graph`."""

    def __call__(self, archs: np.ndarray, plan: Plan) -> tuple[Plan, Iterator[Unit]]:
        """The plan, where the population changes it, and the units of archs int32 [num_archs, num_choices], checked;
        together they score each of them once. A unit is planned when it is asked for."""
        ...


def ordered_map(function: Callable[[Item], Result], items: Iterable[Item], workers: int) -> Iterator[Result]:
    """map with threads, in order; the first item alone, so that the program compiles once."""
    items = iter(items)
    for item in items:
        yield function(item)
        break
    if workers == 1:
        yield from map(function, items)
        return
    with ThreadPoolExecutor(workers) as pool:
        yield from pool.map(function, items)
