"""Sorting of points by dominance, pymoo's, which is an extra: float [num_points, num_objectives], all minimised."""

import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from jaxnas.checks import array

INSTALL = "pip install 'jaxnas[pareto]'"
# (points, how many stay, generator) -> rows int [num_stay], and the place of each in a tournament, 0 the best
Survive = Callable[[np.ndarray, int, np.random.Generator], tuple[np.ndarray, np.ndarray]]


def need_pymoo() -> Any:
    """The module pymoo, or a ValueError that says how to get it."""
    try:
        import pymoo  # slow to import, and an extra
    except ImportError as error:
        raise ValueError(f"fronts are sorted by pymoo, which isn't there ({error}); {INSTALL}") from None
    return pymoo


def non_dominated(points: np.ndarray) -> np.ndarray:
    """The rows of the points that no other point is better than in one respect and as good as in all others; of equal
    points the first."""
    need_pymoo()
    from pymoo.util.nds.non_dominated_sorting import NonDominatedSorting

    distinct, first = np.unique(points, axis=0, return_index=True)
    rows: np.ndarray = first[NonDominatedSorting().do(distinct, only_non_dominated_front=True)]
    return rows


def hypervolume(points: np.ndarray, reference: np.ndarray) -> float:
    """The volume that the points dominate up to `reference` [num_objectives]; a point that is worse than that in any
    respect adds nothing (Zitzler and Thiele, IEEE Transactions on Evolutionary Computation 3, 1999).

    Raises:
      ValueError: pymoo isn't installed, or other shapes.
    """
    need_pymoo()
    from pymoo.indicators.hv import HV

    reference = array("reference", reference, (None,)).astype(np.float64)
    points = array("points", points, (None, len(reference))).astype(np.float64)
    return float(HV(ref_point=reference)(points)) if len(points) else 0.0


def crowded(points: np.ndarray, size: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """NSGA-II's survivors: by rank, and by crowding distance within the front that is cut and in tournaments."""
    from pymoo.operators.survival.rank_and_crowding import RankAndCrowding

    survivors = _survivors(RankAndCrowding(), points, size, rng)
    order = np.lexsort((-survivors.get("crowding").astype(float), survivors.get("rank").astype(int)))
    return survivors.get("row").astype(int), np.argsort(order)


def near_directions(num_objectives: int) -> Survive:
    """NSGA-III's survivors: by rank, and near directions within the front that is cut; tournaments are drawn by lot.
    Das and Dennis's directions are as many as the survivors at most."""

    def survive(points: np.ndarray, size: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        from pymoo.algorithms.moo.nsga3 import ReferenceDirectionSurvival
        from pymoo.util.ref_dirs import get_reference_directions

        partitions = 1
        while math.comb(partitions + num_objectives, num_objectives - 1) <= size:
            partitions += 1
        directions = get_reference_directions("das-dennis", num_objectives, n_partitions=partitions)
        with warnings.catch_warnings():  # which pymoo changes for the whole process
            survivors = _survivors(ReferenceDirectionSurvival(directions), points, size, rng)
        return survivors.get("row").astype(int), rng.permutation(len(survivors))

    return survive


def _survivors(survival: Any, points: np.ndarray, size: int, rng: np.random.Generator) -> Any:
    """Of pymoo's own population, after each objective was brought to 0..1: some of its thresholds are absolute."""
    from pymoo.core.population import Population
    from pymoo.core.problem import Problem

    low, high = points.min(axis=0), points.max(axis=0)
    population = Population.new("F", (points - low) / np.where(high > low, high - low, 1))
    population.set("row", np.arange(len(points)))
    return survival.do(Problem(n_obj=points.shape[1]), population, n_survive=size, random_state=rng)
