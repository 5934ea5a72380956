"""A population whose work is planned, and what that work is."""

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
    units: list[Unit]


def work(supernet: Supernet, population: Population) -> tuple[float, float]:
    """MACs per image that a population needs and that its plan executes, padding and repetitions included.

    Needed: each architecture runs its own operations, one after the other, stem and head included. Counted from the
    codes; a test checks the counts with counters inside the branches. Calibration, of the same work per image, is not
    counted.
    """
    taken = supernet.taken(population.archs).items()
    needed = sum(supernet.layers[name].costs.macs[indices].sum() for name, indices in taken)
    return float(needed), sum(unit.macs() for unit in population.units)
