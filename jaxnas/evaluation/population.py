"""A population whose work is planned, and what that work is."""

import itertools
import threading
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from jaxnas.evaluation.planning import Plan
from jaxnas.evaluation.route import Unit
from jaxnas.supernets import Supernet


class Population(NamedTuple):
    """Architectures whose work is planned, for so many images."""

    archs: np.ndarray  # int32 [num_archs, num_choices], checked
    num_images: int
    plan: Plan
    settings: Plan  # before it was known which architectures these are
    units: Iterable[Unit]


class PlannedUnits:
    """The units of a population, each planned when it is first asked for, and kept: the next one is planned while this
    one runs."""

    def __init__(self, units: Iterator[Unit]):
        self._units, self._planned, self._turn = units, list[Unit](), threading.Lock()

    def __iter__(self) -> Iterator[Unit]:
        for place in itertools.count():
            with self._turn:
                if place == len(self._planned):
                    self._planned.extend(itertools.islice(self._units, 1))
                if place == len(self._planned):
                    return
            yield self._planned[place]


def work(supernet: Supernet, population: Population) -> tuple[float, float]:
    """MACs per image that a population needs and that its plan executes, padding and repetitions included.

    Needed: each architecture runs its own operations, one after the other, stem and head included. Counted from the
    codes; a test checks the counts with counters inside the branches. Calibration, of the same work per image, is not
    counted.
    """
    taken = supernet.taken(population.archs).items()
    needed = sum(supernet.layers[name].costs.macs[indices].sum() for name, indices in taken)
    return float(needed), sum(unit.macs() for unit in population.units)


def host_calls(population: Population) -> int:
    """How many compiled programs the host calls to score it; those of calibration, as many for as many batches, and of
    pooling its statistics are not counted."""
    plan = population.plan
    num_batches = -(-population.num_images // plan.images_per_call)
    return -(-num_batches // plan.batches_per_call) * sum(unit.calls() for unit in population.units)
