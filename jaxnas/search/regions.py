"""What a limit leaves of a space: which architectures, how many, and uniform draws of them without trial and error.

A partial architecture is an int vector `[num_choices]` with `OPEN` where nothing is decided yet; `None` stands for all
open. Its completions within an additive limit are counted by dynamic programming over the sums that the open choices
can reach, from the last choice to the first, and a uniform draw walks from the first to the last, taking each operation
in proportion to the completions behind it. Where more than `MAX_SUMS` sums are distinct, near ones are merged into the
smallest of them: the counts become upper bounds, what is feasible at all stays exact, and a draw is dropped with the
chance that makes the others uniform again.

Limits that aren't additive, and spaces where not every code exists, are listed where few completions are left, and
drawn by rejection where many are.

    region = Region(space, parse("macs:50e6", space))
    partial = np.array([2, 0, OPEN, OPEN, OPEN])
    if region.count(partial):
        archs = region.sample(np.random.default_rng(0), 100, partial)
"""

import functools

import chex
import numpy as np

from jaxnas.checks import shown
from jaxnas.costs import Limit, number
from jaxnas.search.sums import Completions, in_quanta, list_completions, make_sums, walk
from jaxnas.space import SearchSpace

OPEN = -1
MAX_SUMS = 2**16  # distinct sums kept for a set of open choices
MAX_MEMBERS = 2**16  # architectures that are listed
MAX_DRAWS = 2**17  # tried by one call of `sample`, beside two for each architecture wanted


class Region:
    """The feasible architectures of a space; it may be empty: `count` tells.

    A `partial` may be left out everywhere: all open. `members` and `sample` raise a ValueError where nothing is
    feasible, with the smallest cost possible; `members` and `bounds` where more than MAX_MEMBERS would have to be
    listed; `sample` where rejection finds too few.

    Attributes:
      space, limit: what it was made of; limit None: the whole space.
    """

    def __init__(
        self,
        space: SearchSpace,
        limit: Limit | None = None,
        *,
        max_sums: int = MAX_SUMS,
        max_members: int = MAX_MEMBERS,
    ):
        if limit is not None and not isinstance(limit, Limit):
            raise ValueError(f"limit is {shown(limit)}, expected a Limit; `costs.limits.parse` reads one from text.")
        self.space, self.limit, self.max_members = space, limit, max_members
        self._units, self._budget = in_quanta(space, limit)
        self._sums = make_sums(self._units, self._budget, max_sums)
        self._is_additive = limit is None or limit.table is not None
        self._listed = functools.lru_cache(maxsize=4)(self._list)

    def contains(self, archs: np.ndarray) -> np.ndarray:
        """archs int [num_archs, num_choices], codes in range -> bool [num_archs]: it exists and is feasible."""
        if not len(archs):
            return np.zeros(0, bool)
        exists = self.space.is_valid(archs)
        return exists if self.limit is None else exists & (self.limit.costs(archs) <= self.limit.value)

    def bounds(self, partial: chex.ArrayNumpy | None = None) -> tuple[float, float]:
        """(least, most), exact: the costs between which the completions of a partial lie, feasible or not."""
        codes = _check(self.space, partial)
        if self.limit is None:
            return 0.0, 0.0
        if self.limit.table is None or not self.space.has_all_codes:
            costs = self.limit.costs(Region(self.space, max_members=self.max_members).members(codes))
            return float(costs.min()), float(costs.max())
        rows = [self.limit.table.per_op[choice, :num_ops] for choice, num_ops in enumerate(self.space.num_ops)]
        rows = [row if op == OPEN else row[op : op + 1] for row, op in zip(rows, codes, strict=True)]
        fixed = self.limit.table.fixed
        return float(fixed + sum(row.min() for row in rows)), float(fixed + sum(row.max() for row in rows))

    def count(self, partial: chex.ArrayNumpy | None = None) -> int:
        """Number of feasible completions; whether it is 0 is right wherever it can be known.

        Exact below 2^53 for an additive limit with at most MAX_SUMS distinct sums, and wherever at most MAX_MEMBERS
        come out; else an upper bound, a close one for additive limits.
        """
        todo = self._read(partial)
        ways = int(todo.ways)
        return ways if todo.is_certain or ways > self.max_members else len(self._listed(tuple(todo.codes.tolist())))

    def members(self, partial: chex.ArrayNumpy | None = None) -> np.ndarray:
        """Every feasible completion, int32 [num_archs, num_choices], in lexicographic order."""
        todo = self._read(partial)
        if todo.ways > self.max_members:
            by = "" if self._is_additive and self.space.has_all_codes else " by rejection"
            raise ValueError(
                f"{self.space.name}: {int(todo.ways)} architectures are too many to list, at most {self.max_members};"
                f" `sample` draws from them{by}, `count` bounds their number."
            )
        found = self._listed(tuple(todo.codes.tolist()))
        if not len(found):
            raise self._nothing(todo.codes)
        return found.copy()

    def sample(self, rng: np.random.Generator, num_archs: int, partial: chex.ArrayNumpy | None = None) -> np.ndarray:
        """Feasible completions, uniform and independent, int32 [num_archs, num_choices]."""
        todo = self._read(partial)
        if not todo.ways:
            raise self._nothing(todo.codes)
        if not todo.is_certain and todo.ways <= self.max_members:
            found = self.members(todo.codes)
            return found[rng.integers(len(found), size=num_archs)]
        batches, num_found, num_drawn = [todo.codes[None][:0]], 0, 0
        while num_found < num_archs:
            size = max(num_archs - num_found, num_drawn, 16)
            if num_drawn + size > MAX_DRAWS + 2 * num_archs:
                raise ValueError(
                    f"{self.space.name}: of {num_drawn} draws{_of(todo.codes)} only {num_found} meet"
                    f" {self.limit or 'is_valid'}, {num_archs} are wanted; loosen the limit."
                )
            archs = walk(self._sums, self._units, todo, rng, size)
            archs = archs if todo.is_certain else archs[self.contains(archs)]
            batches.append(archs)
            num_found, num_drawn = num_found + len(archs), num_drawn + size
        return np.concatenate(batches)[:num_archs]

    def _read(self, partial: chex.ArrayNumpy | None) -> Completions:
        codes = _check(self.space, partial)
        choices = tuple(np.flatnonzero(codes == OPEN).tolist())
        left = self._budget - sum(int(self._units[choice][op]) for choice, op in enumerate(codes) if op != OPEN)
        reachable = self._sums(choices)
        certain = self._is_additive and self.space.has_all_codes and reachable.is_exact
        return Completions(codes, choices, left, float(reachable.ways(left)), certain)

    def _list(self, partial: tuple[int, ...]) -> np.ndarray:
        archs = list_completions(self._sums, self._units, self._read(np.array(partial)))
        return archs[self.contains(archs)]

    def _nothing(self, codes: np.ndarray) -> ValueError:
        if self.limit is None:
            return ValueError(f"{self.space.name}: no architecture{_of(codes)} exists.")
        try:
            smallest = f"the smallest possible is {number(self.bounds(codes)[0])}"
        except ValueError:
            smallest = "too many exist to find the smallest, or none does"
        return ValueError(f"{self.space.name}: no architecture{_of(codes)} meets {self.limit}; {smallest}.")


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


def _of(codes: np.ndarray) -> str:
    """' of 2 ? ? 0' for a partial architecture, nothing where all is open."""
    return "" if (codes == OPEN).all() else " of " + " ".join("?" if op == OPEN else str(op) for op in codes)
