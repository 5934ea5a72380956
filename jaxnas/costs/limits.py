"""Hard limits on what an architecture may cost: MACs, parameters, a measured latency, a table of your own.

A cost is additive where it is a sum over operations plus a constant (`CostTable`), or any function of the codes. What
is left of a space under a limit, and how to draw from it, is in `jaxnas.search.regions`.
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import chex
import numpy as np

from jaxnas.checks import array, choice, rectangular, shown
from jaxnas.checks import number as finite
from jaxnas.costs.counted import arch_costs, is_additive, op_costs
from jaxnas.space import SearchSpace

CostFn = Callable[[np.ndarray], np.ndarray]  # archs int32 [num_archs, num_choices] -> costs [num_archs]


class CostTable(NamedTuple):
    """An additive cost. `cost_table` builds a checked one.

    Attributes:
      per_op: float64 [num_choices, max(num_ops)], 0 where a choice has fewer operations.
      fixed: what every architecture costs.
      quantum: a power of two that divides all of them so coarsely that no sum of them is ever rounded.
    """

    per_op: np.ndarray
    fixed: float
    quantum: float


class Limit(NamedTuple):
    """A hard limit: an architecture is feasible where `costs(archs) <= value`. `make_limit` builds a checked one.

    Attributes:
      name: the quantity with its unit, such as "macs", "params" or "latency_ms".
      value: the largest cost allowed.
      costs: archs int [num_archs, num_choices], codes in range -> float64 [num_archs].
      table: what `costs` sums, or None where it isn't additive.
    """

    name: str
    value: float
    costs: CostFn
    table: CostTable | None

    def __str__(self) -> str:
        return f"{self.name} <= {number(self.value)}"


def cost_table(space: SearchSpace, per_op: chex.ArrayNumpy, fixed: float = 0.0) -> CostTable:
    """Build the additive cost with `per_op` [num_choices, max(num_ops)]; what a choice has no operation for is ignored.

    Sums of floats depend on their order, and "exactly at the limit" would depend on it too. So each cost is rounded to
    a multiple of a power of two, some 1e-15 of the dearest architecture, of which all sums are exact. Whole numbers
    below 2^50 stay as they are.

    Raises:
      ValueError: another shape, or a cost that is not finite.
    """
    shape = space.num_choices, max(space.num_ops)
    per_op = rectangular("the cost table", per_op)
    per_op = array("the cost table", per_op, per_op.shape, finite=False).astype(np.float64)
    fixed = finite("the fixed cost", fixed)
    if per_op.shape != shape:
        raise ValueError(
            f"{space.name}: the cost table has shape {per_op.shape}, expected {shape} (choices, operations)."
        )
    per_op[np.arange(shape[1]) >= np.array(space.num_ops)[:, None]] = 0.0
    wrong = ~np.isfinite(per_op)
    if wrong.any():
        choice, op = np.argwhere(wrong)[0]
        raise ValueError(
            f"{space.name}: the cost of {space.op_names[choice][op]} at choice {choice} is {per_op[choice, op]},"
            " expected a finite number; measure or state it."
        )
    largest = abs(fixed) + sum(np.abs(per_op).max(axis=1).tolist())
    if not math.isfinite(largest):
        raise ValueError(
            f"{space.name}: the largest cost of an architecture is {largest}, with {fixed} fixed,"
            " expected finite numbers."
        )
    quantum = 2.0 ** max(math.frexp(largest)[1] - 50, -1000)  # no sum of smaller ones would be a normal number
    return CostTable(np.rint(per_op / quantum) * quantum, round(fixed / quantum) * quantum, quantum)


def table_costs(table: CostTable, archs: chex.ArrayNumpy) -> np.ndarray:
    """The costs float64 [num_archs] of archs int [num_archs, num_choices], codes in range."""
    return table.fixed + table.per_op[np.arange(len(table.per_op)), np.asarray(archs)].sum(axis=1)


def make_limit(space: SearchSpace, name: str, value: float, cost: CostTable | CostFn) -> Limit:
    """Limit the quantity `name` to `value`; `cost` is a table of `space`, or a function of many codes.

    Raises:
      ValueError: the value is not finite; the table is of another shape. The limit's own `costs` raises one where the
        function returns another shape or NaN.
    """
    value = finite(f"the limit of {name}", value)
    if not (isinstance(cost, CostTable) or callable(cost)):
        raise ValueError(f"{space.name}: the cost of {name} is {shown(cost)}, expected a CostTable or a function.")
    if isinstance(cost, CostTable):
        if cost.per_op.shape != (expected := (space.num_choices, max(space.num_ops))):
            raise ValueError(f"{space.name}: the {name} table has shape {cost.per_op.shape}, expected {expected}.")
        return Limit(name, float(value), functools.partial(table_costs, cost), cost)
    cost_fn = cost

    def costs(archs: np.ndarray) -> np.ndarray:
        figures = np.asarray(cost_fn(archs), np.float64)
        if figures.shape != (len(archs),) or np.isnan(figures).any():
            raise ValueError(
                f"{space.name}: the {name} of {len(archs)} architectures came as shape {figures.shape} with"
                f" {np.isnan(figures).sum()} NaN, expected a number for each."
            )
        return figures

    return Limit(name, float(value), costs, None)


Others = Mapping[str, CostTable | CostFn]  # costs by name beside "macs" and "params", which are counted


def functions(space: SearchSpace, names: Sequence[str], others: Others | None = None) -> dict[str, CostFn]:
    """The costs of those names: name -> (archs int [num_archs, num_choices] -> float64 [num_archs]).

    Args:
      others: as for `parse`.

    Raises:
      ValueError: an unknown name; the functions raise one for NaN.
    """
    known = ("macs", "params", *(others or {}))
    return {
        choice("cost", name, known): make_limit(space, name, 0.0, _cost(space, name, others or {})).costs
        for name in names
    }


def parse(text: str, space: SearchSpace, others: Others | None = None) -> Limit:
    """The limit that a text such as "macs:50e6", "params:2e6" or "latency_ms:12.5" names; of several, with a comma
    between them, all have to be met.

    >>> from jaxnas.spaces import get_space
    >>> print(parse("macs:80e6", get_space("nasbench201")))
    macs <= 80000000
    >>> print(parse("macs:80e6,params:1e6", get_space("nasbench201")))
    max(macs / 80000000, params / 1000000) <= 1

    Args:
      others: costs by name beside "macs" and "params", which are counted; a latency comes from a measured table.

    Raises:
      ValueError: no such text, an unknown quantity, or a value that is no finite number; one of several that is not
        above 0.
    """
    if not isinstance(text, str):
        raise ValueError(f"limit is {shown(text)}, expected a text QUANTITY:VALUE as in 'macs:50e6'.")
    limits = [_parse_one(part, space, others or {}) for part in text.split(",")]
    if len(limits) == 1:
        return limits[0]
    for limit in limits:
        finite(f"the limit of {limit.name}, one of several,", limit.value, above=0)
    name = f"max({', '.join(f'{limit.name} / {number(limit.value)}' for limit in limits)})"
    return make_limit(
        space, name, 1.0, lambda archs: np.max([each.costs(archs) / each.value for each in limits], axis=0)
    )


def _parse_one(text: str, space: SearchSpace, others: Others) -> Limit:
    name, colon, value = text.partition(":")
    known = ", ".join(dict.fromkeys(["macs", "params", *others]))
    if not colon or name not in {"macs", "params", *others}:
        hint = "; a latency needs a measured table (measure_latency makes one)" if name.startswith("latency") else ""
        raise ValueError(f"limit {text!r}: expected QUANTITY:VALUE as in 'macs:50e6', with one of {known}{hint}.")
    try:
        number_of_value = float(value)
    except ValueError:
        raise ValueError(f"limit {text!r}: {value!r} is no number.") from None
    return make_limit(space, name, number_of_value, _cost(space, name, others))


def _cost(space: SearchSpace, name: str, others: Others) -> CostTable | CostFn:
    if name in others:
        return others[name]
    if not is_additive(space):
        return lambda archs: getattr(arch_costs(space, archs), name)
    per_op, fixed = op_costs(space)
    return cost_table(space, getattr(per_op, name), float(getattr(fixed, name)))


def number(value: float) -> str:
    """A cost as text from which it can be read back: whole numbers without a point."""
    return repr(float(value)).removesuffix(".0")
