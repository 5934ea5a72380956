"""Sums that open choices can reach under an additive limit, counted from the last choice to the first."""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from jaxnas.costs.limits import Limit
from jaxnas.space import SearchSpace


class Completions(NamedTuple):
    """A partial architecture and what is left to do."""

    codes: np.ndarray  # int32 [num_choices]
    choices: tuple[int, ...]  # the open ones
    left: int  # quanta for them
    ways: float  # completions that the sums allow
    is_certain: bool  # just these are feasible


class Sums(NamedTuple):
    """The sums that some open choices can reach."""

    values: np.ndarray  # int64 [num_sums], increasing, in quanta
    counts: np.ndarray  # float64 [num_sums], completions of each
    below: np.ndarray  # float64 [num_sums + 1], completions of the first so many
    is_exact: bool  # none were merged

    def ways(self, left: np.ndarray | int) -> np.ndarray:
        """How many completions cost at most `left`, of any shape."""
        return self.below[np.searchsorted(self.values, left, side="right")]


SumsOf = Callable[[tuple[int, ...]], Sums]


def make_sums(units: list[np.ndarray], budget: int, max_sums: int) -> SumsOf:
    """choices -> their sums, up to the largest that can be afforded when all other choices are the cheapest."""
    least = np.array([costs.min() for costs in units])

    @functools.lru_cache(maxsize=4 * len(units))
    def sums(choices: tuple[int, ...]) -> Sums:
        if not choices:
            return Sums(np.zeros(1, np.int64), np.ones(1), np.array([0.0, 1.0]), True)
        rest = sums(choices[1:])
        values = units[choices[0]][:, None] + rest.values
        fits = values <= budget - least.sum() + least[list(choices)].sum()
        values, group = np.unique(values[fits], return_inverse=True)
        counts = np.bincount(group, weights=np.broadcast_to(rest.counts, fits.shape)[fits], minlength=len(values))
        is_exact = rest.is_exact and len(values) <= max_sums
        if len(values) > max_sums:  # buckets of equal width: the sparse sums near the smallest stay apart
            bucket = (values - values[0]) // (1 + (values[-1] - values[0]) // max_sums)
            starts = np.flatnonzero(np.diff(bucket, prepend=-1))
            values, counts = values[starts], np.add.reduceat(counts, starts)
        return Sums(values, counts, np.append(0.0, np.cumsum(counts)), is_exact)

    return sums


def list_completions(sums: SumsOf, units: list[np.ndarray], todo: Completions) -> np.ndarray:
    """Every completion within the sums; no branch is followed that has none."""
    archs, left = todo.codes[None], np.array([todo.left])
    for position, choice in enumerate(todo.choices):
        after = left[:, None] - units[choice]
        row, op = np.nonzero(sums(todo.choices[position + 1 :]).ways(after))
        archs, left = archs[row], after[row, op]
        archs[:, choice] = op
    return archs[left >= 0]


def walk(sums: SumsOf, units: list[np.ndarray], todo: Completions, rng: np.random.Generator, size: int) -> np.ndarray:
    """At most `size` completions within the sums, uniform and independent.

    Where sums were merged, fewer ways lie behind the operations of a choice together than were counted for it. Draws
    that fall into the difference are dropped, which leaves every architecture the chance 1 / todo.ways.
    """
    archs, left, alive = np.tile(todo.codes, (size, 1)), np.full(size, todo.left), np.ones(size, bool)
    for position, choice in enumerate(todo.choices):
        after = left[:, None] - units[choice]
        ends = np.cumsum(sums(todo.choices[position + 1 :]).ways(after), axis=1)
        point = rng.random(size) * sums(todo.choices[position:]).ways(left)
        alive &= point < ends[:, -1]
        archs[:, choice] = np.argmax(point[:, None] < ends, axis=1)
        left = after[np.arange(size), archs[:, choice]]
    return archs[alive]


def in_quanta(space: SearchSpace, limit: Limit | None) -> tuple[list[np.ndarray], int]:
    """The additive part in whole quanta: costs int64 [num_ops] of each choice, and what they may sum to."""
    table = None if limit is None else limit.table
    if limit is None or table is None:
        return [np.zeros(num_ops, np.int64) for num_ops in space.num_ops], 0
    rows = [
        np.rint(row[:num_ops] / table.quantum).astype(np.int64)
        for row, num_ops in zip(table.per_op, space.num_ops, strict=True)
    ]
    fixed = round(table.fixed / table.quantum)
    least, most = (fixed + sum(int(pick(row)) for row in rows) for pick in (np.min, np.max))
    budget = math.floor(min(max(limit.value / table.quantum, least - 1), most))
    budget -= budget * table.quantum > limit.value  # a tiny negative limit over the quantum is 0
    return rows, budget - fixed
