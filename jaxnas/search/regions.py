"""What a limit leaves of a space: which architectures, how many, and uniform draws of them without trial and error.

A partial architecture is an int vector `[num_choices]` with `OPEN` where nothing is decided yet; `None` stands for all
open. Its completions within an additive limit are counted by dynamic programming over the sums that the open choices
can reach, from the last choice to the first, and a uniform draw walks from the first to the last, taking each operation
in proportion to the completions behind it. Where more than `MAX_SUMS` sums are distinct, near ones are merged into the
smallest of them: the counts become upper bounds, what is feasible at all stays exact, and a draw is dropped with the
chance that makes the others uniform again.

Limits that aren't additive, and spaces where not every code exists, are listed where few completions are left, and
drawn by rejection where many are.

    region = make_region(space, parse("macs:50e6", space))
    partial = np.array([2, 0, OPEN, OPEN, OPEN])
    if region.count(partial):
        archs = region.sample(np.random.default_rng(0), 100, partial)
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import chex
import numpy as np

from jaxnas.costs import Limit, number
from jaxnas.space import SearchSpace

OPEN = -1
MAX_SUMS = 2**16  # distinct sums kept for a set of open choices
MAX_MEMBERS = 2**16  # architectures that are listed
MAX_DRAWS = 2**17  # tried by one call of `sample`, beside two for each architecture wanted


class Region(NamedTuple):
    """The feasible architectures of a space.

    Attributes:
      space, limit: what it was made of; limit None: the whole space.
      contains: archs int [num_archs, num_choices], codes in range -> bool [num_archs]: it exists and is feasible.
      bounds: partial -> (least, most), exact: the costs between which its completions lie, feasible or not.
      count: partial -> number of feasible completions; whether it is 0 is right wherever it can be known. Exact below
        2^53 for an additive limit with at most MAX_SUMS distinct sums, and wherever at most MAX_MEMBERS come out; else
        an upper bound, a close one for additive limits.
      members: partial -> every feasible completion, int32 [num_archs, num_choices], in lexicographic order.
      sample: (rng, num_archs, partial) -> feasible completions, uniform and independent, int32
        [num_archs, num_choices].

    The partial may be left out everywhere. `members` and `sample` raise a ValueError where nothing is feasible, with
    the smallest cost possible; `members` and `bounds` where more than MAX_MEMBERS would have to be listed; `sample`
    where rejection finds too few.
    """

    space: SearchSpace
    limit: Limit | None
    contains: Callable[[np.ndarray], np.ndarray]
    bounds: Callable[..., tuple[float, float]]
    count: Callable[..., int]
    members: Callable[..., np.ndarray]
    sample: Callable[..., np.ndarray]


def make_region(
    space: SearchSpace, limit: Limit | None = None, *, max_sums: int = MAX_SUMS, max_members: int = MAX_MEMBERS
) -> Region:
    """The region of `space` within `limit`; it may be empty: `count` tells, `sample` raises."""
    all_exist = space.is_valid is SearchSpace.is_valid  # the default says yes to every code
    is_additive = limit is None or limit.table is not None
    units, budget = _in_quanta(space, limit)
    sums = _make_sums(units, budget, max_sums)

    def contains(archs: np.ndarray) -> np.ndarray:
        if not len(archs):
            return np.zeros(0, bool)
        exists = space.is_valid(archs)
        return exists if limit is None else exists & (limit.costs(archs) <= limit.value)

    def count(partial: chex.ArrayNumpy | None = None) -> int:
        todo = read(partial)
        ways = int(todo.ways)
        return ways if todo.is_certain or ways > max_members else len(listed(tuple(todo.codes.tolist())))

    def members(partial: chex.ArrayNumpy | None = None) -> np.ndarray:
        todo = read(partial)
        if todo.ways > max_members:
            by = "" if is_additive and all_exist else " by rejection"
            raise ValueError(
                f"{space.name}: {int(todo.ways)} architectures are too many to list, at most {max_members}; `sample`"
                f" draws from them{by}, `count` bounds their number."
            )
        found = listed(tuple(todo.codes.tolist()))
        if not len(found):
            raise nothing(todo.codes)
        return found.copy()

    def sample(rng: np.random.Generator, num_archs: int, partial: chex.ArrayNumpy | None = None) -> np.ndarray:
        todo = read(partial)
        if not todo.ways:
            raise nothing(todo.codes)
        if not todo.is_certain and todo.ways <= max_members:
            found = members(todo.codes)
            return found[rng.integers(len(found), size=num_archs)]
        batches, num_found, num_drawn = [todo.codes[None][:0]], 0, 0
        while num_found < num_archs:
            size = max(num_archs - num_found, num_drawn, 16)
            if num_drawn + size > MAX_DRAWS + 2 * num_archs:
                raise ValueError(
                    f"{space.name}: of {num_drawn} draws{_of(todo.codes)} only {num_found} meet {limit or 'is_valid'},"
                    f" {num_archs} are wanted; loosen the limit."
                )
            archs = _walk(sums, units, todo, rng, size)
            archs = archs if todo.is_certain else archs[contains(archs)]
            batches.append(archs)
            num_found, num_drawn = num_found + len(archs), num_drawn + size
        return np.concatenate(batches)[:num_archs]

    def bounds(partial: chex.ArrayNumpy | None = None) -> tuple[float, float]:
        codes = _check(space, partial)
        if limit is None:
            return 0.0, 0.0
        if limit.table is None or not all_exist:
            costs = limit.costs(make_region(space, max_members=max_members).members(codes))
            return float(costs.min()), float(costs.max())
        rows = [limit.table.per_op[choice, :num_ops] for choice, num_ops in enumerate(space.num_ops)]
        rows = [row if op == OPEN else row[op : op + 1] for row, op in zip(rows, codes, strict=True)]
        fixed = limit.table.fixed
        return float(fixed + sum(row.min() for row in rows)), float(fixed + sum(row.max() for row in rows))

    def read(partial: chex.ArrayNumpy | None) -> _Todo:
        codes = _check(space, partial)
        choices = tuple(np.flatnonzero(codes == OPEN).tolist())
        left = budget - sum(int(units[choice][op]) for choice, op in enumerate(codes) if op != OPEN)
        reachable = sums(choices)
        certain = is_additive and all_exist and reachable.is_exact
        return _Todo(codes, choices, left, float(reachable.ways(left)), certain)

    @functools.lru_cache(maxsize=4)
    def listed(partial: tuple[int, ...]) -> np.ndarray:
        archs = _list(sums, units, read(np.array(partial)))
        return archs[contains(archs)]

    def nothing(codes: np.ndarray) -> ValueError:
        if limit is None:
            return ValueError(f"{space.name}: no architecture{_of(codes)} exists.")
        try:
            smallest = f"the smallest possible is {number(bounds(codes)[0])}"
        except ValueError:
            smallest = "too many exist to find the smallest, or none does"
        return ValueError(f"{space.name}: no architecture{_of(codes)} meets {limit}; {smallest}.")

    return Region(space, limit, contains, bounds, count, members, sample)


class _Todo(NamedTuple):
    """A partial architecture and what is left to do."""

    codes: np.ndarray  # int32 [num_choices]
    choices: tuple[int, ...]  # the open ones
    left: int  # quanta for them
    ways: float  # completions that the sums allow
    is_certain: bool  # just these are feasible


class _Sums(NamedTuple):
    """The sums that some open choices can reach."""

    values: np.ndarray  # int64 [num_sums], increasing, in quanta
    counts: np.ndarray  # float64 [num_sums], completions of each
    below: np.ndarray  # float64 [num_sums + 1], completions of the first so many
    is_exact: bool  # none were merged

    def ways(self, left: np.ndarray | int) -> np.ndarray:
        """How many completions cost at most `left`, of any shape."""
        return self.below[np.searchsorted(self.values, left, side="right")]


_SumsFn = Callable[[tuple[int, ...]], _Sums]


def _make_sums(units: list[np.ndarray], budget: int, max_sums: int) -> _SumsFn:
    """choices -> their sums, up to the largest that can be afforded when all other choices are the cheapest."""
    least = np.array([costs.min() for costs in units])

    @functools.lru_cache(maxsize=4 * len(units))
    def sums(choices: tuple[int, ...]) -> _Sums:
        if not choices:
            return _Sums(np.zeros(1, np.int64), np.ones(1), np.array([0.0, 1.0]), True)
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
        return _Sums(values, counts, np.append(0.0, np.cumsum(counts)), is_exact)

    return sums


def _list(sums: _SumsFn, units: list[np.ndarray], todo: _Todo) -> np.ndarray:
    """Every completion within the sums; no branch is followed that has none."""
    archs, left = todo.codes[None], np.array([todo.left])
    for position, choice in enumerate(todo.choices):
        after = left[:, None] - units[choice]
        row, op = np.nonzero(sums(todo.choices[position + 1 :]).ways(after))
        archs, left = archs[row], after[row, op]
        archs[:, choice] = op
    return archs[left >= 0]


def _walk(sums: _SumsFn, units: list[np.ndarray], todo: _Todo, rng: np.random.Generator, size: int) -> np.ndarray:
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


def _check(space: SearchSpace, partial: chex.ArrayNumpy | None) -> np.ndarray:
    """`partial`, checked, as int32 [num_choices]."""
    codes = np.full(space.num_choices, OPEN) if partial is None else np.asarray(partial)
    if codes.shape != (space.num_choices,) or not np.issubdtype(codes.dtype, np.integer):
        raise ValueError(
            f"{space.name}: the partial architecture is {codes.dtype} {codes.shape},"
            f" expected integers [{space.num_choices}]."
        )
    if ((codes < OPEN) | (codes >= np.array(space.num_ops))).any():
        raise ValueError(
            f"{space.name}: partial architecture {codes.tolist()}, expected codes below {list(space.num_ops)},"
            f" or {OPEN} where open."
        )
    return codes.astype(np.int32)


def _in_quanta(space: SearchSpace, limit: Limit | None) -> tuple[list[np.ndarray], int]:
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


def _of(codes: np.ndarray) -> str:
    """' of 2 ? ? 0' for a partial architecture, nothing where all is open."""
    return "" if (codes == OPEN).all() else " of " + " ".join("?" if op == OPEN else str(op) for op in codes)
