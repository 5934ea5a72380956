"""Latency: tables of measured operations that predict whole networks by summing, and measured whole networks.

The table of operations of a space is a `jaxnas.tables.Table` of another space, with one choice: which row. Row 0 is the
fixed rest of the network, then comes every operation of every choice ("3/mb6_k5"), each with its column `latency_ms`
[num_rows, num_rounds]. So it is written, checked and read like any other table; its provenance says for which network
and in which setting it was measured.
"""

import os
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import chex
import numpy as np

from jaxnas.checks import array, choice, number, shown, whole
from jaxnas.codes import check, exist, to_index, to_text
from jaxnas.costs.limits import CostTable, cost_table
from jaxnas.ranking import kendall_tau, mean_truth, spearman
from jaxnas.space import SearchSpace
from jaxnas.tables import Table, make_table, read_table

LATENCY_MS = "latency_ms"
DTYPES = ("float32", "bfloat16", "float16")


class Setting(NamedTuple):
    """What a latency depends on beside the network."""

    device: str  # as jax.devices()[0].device_kind has it
    batch_size: int  # images
    dtype: str  # "float32", "bfloat16"


class Calibration(NamedTuple):
    """measured = constant + scale * predicted; a table that `with_calibration` made has one."""

    constant: float  # ms
    scale: float


class Agreement(NamedTuple):
    """How predictions compare with measurements of whole networks."""

    spearman: float  # in [-1, 1]
    kendall_tau: float  # in [-1, 1]
    median_relative_error: float  # median of |predicted - measured| / measured


def operations_table(
    space: SearchSpace,
    per_op_ms: chex.ArrayNumpy,
    fixed_ms: chex.ArrayNumpy,
    setting: Setting,
    *,
    provenance: Mapping[str, str],
) -> Table:
    """The measured operations of `space` as a table; `write_table` writes it.

    Args:
      per_op_ms: [num_choices, max(num_ops), num_rounds], summed over all places of a choice; NaN: not measured.
      fixed_ms: [num_rounds], the rest of the network.
      provenance: versions and what else made the figures, in words.

    Raises:
      ValueError: another shape, a latency below 0 or infinite, or a setting that is none.
    """
    per_op = array("per_op_ms", per_op_ms, (None, None, None), finite=False).astype(np.float64)
    fixed = array("fixed_ms", fixed_ms, (None,), finite=False).astype(np.float64)
    _check_setting(*setting)
    shape = (space.num_choices, max(space.num_ops))
    if per_op.shape[:2] != shape or fixed.shape != per_op.shape[2:] or not fixed.size:
        raise ValueError(
            f"{space.name}: latencies of shapes {per_op.shape} and {fixed.shape},"
            f" expected {(*shape, 'rounds')} and ('rounds',)."
        )
    rows = operation_rows(space)
    figures = np.concatenate([fixed[None], *(per_op[choice, :num] for choice, num in enumerate(space.num_ops))])
    measured = ~np.isnan(figures).all(axis=1)
    if (wrong := (figures < 0) | np.isinf(figures)).any():
        row, place = np.argwhere(wrong)[0]
        raise ValueError(
            f"{space.name}: the latency of {rows.op_names[0][row]} is {figures[row, place]}, negative or infinite,"
            " expected milliseconds."
        )
    about = {"layout": repr(space.layout), **{name: str(value) for name, value in setting._asdict().items()}}
    return make_table(
        rows,
        np.flatnonzero(measured)[:, None],
        {LATENCY_MS: figures[measured]},
        units={LATENCY_MS: "ms"},
        provenance={**provenance, **about},
    )


def read_operations_table(path: str | os.PathLike[str], space: SearchSpace, **wanted: str | int | None) -> Table:
    """Read the operations of `space` as they were written.

    Args:
      wanted: any of device, batch_size, dtype (see `Setting`): what the table must have been measured with.

    Raises:
      ValueError: damaged; of another space, another network of that space, or another setting than wanted.
      OSError: the file cannot be read.
    """
    table = read_table(path, operation_rows(space))
    remedy = "measure again, or give the table that fits"
    try:
        setting_of(table)
    except ValueError as error:
        raise ValueError(f"{path}: {error}; {remedy}.") from None
    if table.provenance.get("layout") != repr(space.layout):
        raise ValueError(
            f"{path}: measured on another network of {space.name}, {table.provenance.get('layout')},"
            f" expected {space.layout!r}; {remedy}."
        )
    for name in Setting._fields:
        there, here = table.provenance.get(name), wanted.pop(name, None)
        if here is not None and there != str(here):
            raise ValueError(f"{path}: measured with {name} {there}, expected {here}; {remedy}.")
    if wanted:
        raise ValueError(f"{path}: unknown setting {next(iter(wanted))!r}; a table has {', '.join(Setting._fields)}.")
    return table


def setting_of(table: Table) -> Setting:
    """The setting in which the table of operations was measured; a ValueError where it doesn't say so."""
    if missing := [name for name in Setting._fields if name not in table.provenance]:
        raise ValueError(f"a table of {table.space} that doesn't say with which {missing[0]} it was measured")
    device, batch_size, dtype = (table.provenance[name] for name in Setting._fields)
    return _check_setting(device, int(batch_size) if batch_size.isdecimal() else batch_size, dtype)


def with_calibration(table: Table, calibration: Calibration) -> Table:
    """The table of operations with the calibration that its sums are taken by."""
    stated = {name: repr(value) for name, value in calibration._asdict().items()}
    return table._replace(provenance={**table.provenance, **stated})


def calibration_of(table: Table) -> Calibration:
    """The calibration of a table of operations: constant 0 and scale 1 where it has none."""
    given = [table.provenance.get(name, plain) for name, plain in (("constant", "0"), ("scale", "1"))]
    try:
        return Calibration(*map(float, given))
    except ValueError:
        raise ValueError(f"the table of {table.space} has the calibration {given}, expected two numbers.") from None


def operation_costs(
    space: SearchSpace, table: Table, calibration: Calibration | None = None, *, column: str = LATENCY_MS
) -> CostTable:
    """The medians over rounds as an additive cost in ms, for `limits.table_costs` and `limits.make_limit`.

    Args:
      calibration: None: the table's own, see `calibration_of`.

    Raises:
      ValueError: the table misses an operation, which is named, or is of other operations or in another unit.
    """
    rows = operation_rows(space)
    if table.fingerprint != rows.fingerprint:
        raise ValueError(f"a table of {table.space}, expected {rows.name}, or the same with other operations.")
    (names,) = rows.op_names
    medians = np.full(len(names), np.nan)
    rounds = _milliseconds(table, column)
    measured = ~np.isnan(rounds).all(axis=1)
    medians[table.archs[measured, 0]] = np.nanmedian(rounds[measured], axis=1)
    if np.isnan(medians).any():
        missing = [names[row] for row in np.flatnonzero(np.isnan(medians))]
        raise ValueError(
            f"the latency table of {space.name} misses {missing[0]} ({len(missing)} of {len(names)} rows);"
            " measure it again."
        )
    constant, scale = calibration or calibration_of(table)
    number("constant", constant)
    number("scale", scale, above=0)
    per_op = np.zeros((space.num_choices, max(space.num_ops)))
    per_op[exist(space.num_ops)] = medians[1:]
    return cost_table(space, scale * per_op, scale * float(medians[0]) + constant)


def calibrate(predicted: chex.ArrayNumpy, measured: chex.ArrayNumpy) -> Calibration:
    """The least-squares constant and scale that take predictions to measurements, both [num_archs].

    >>> calibration = calibrate([1.0, 2.0, 3.0], [3.0, 5.0, 7.0])
    >>> round(calibration.constant, 6), round(calibration.scale, 6)
    (1.0, 2.0)

    Raises:
      ValueError: fewer than three networks, all predicted alike, or slower where predicted faster.
    """
    predicted, measured = _pair(predicted, measured)
    if np.ptp(predicted) == 0:
        raise ValueError("calibrate: all predictions are equal, expected networks that differ.")
    scale, constant = np.polyfit(predicted, measured, 1)
    if scale <= 0:
        raise ValueError(
            f"calibrate: measured latency falls with the predicted one (scale {scale:.3g}); measure again, on a machine"
            " that does nothing else."
        )
    return Calibration(float(constant), float(scale))


def agreement(predicted: chex.ArrayNumpy, measured: chex.ArrayNumpy) -> Agreement:
    """Compare predicted with measured latencies, both [num_archs] and in ms.

    Judge a calibration on other networks than those that it was fitted to.
    """
    predicted, measured = _pair(predicted, measured)
    error = float(np.median(np.abs(predicted - measured) / measured))
    return Agreement(spearman(predicted, measured), kendall_tau(predicted, measured), error)


def measured_costs(space: SearchSpace, table: Table, column: str) -> Callable[[np.ndarray], np.ndarray]:
    """archs -> ms from a column of whole networks, for `limits.make_limit`: the mean over the rounds that there are.

    Raises:
      ValueError: there is no such column, or it is in another unit than ms. The function raises one for an architecture
        that the table lacks, or has no round of.
    """
    figures = mean_truth(_milliseconds(table, column))
    archs, figures = table.archs[~np.isnan(figures)], figures[~np.isnan(figures)]
    if not len(archs):
        raise ValueError(f"the table of {table.space} has no figure in its column {column!r}.")
    indices = to_index(space, archs)
    order = np.argsort(indices)
    indices, figures = indices[order], figures[order]

    def costs(archs: np.ndarray) -> np.ndarray:
        wanted = to_index(space, archs)
        rows = np.minimum(np.searchsorted(indices, wanted), len(indices) - 1)
        if (absent := indices[rows] != wanted).any():
            text = to_text(space, check(space, archs)[np.argmax(absent)])
            raise ValueError(f"the table of {table.space} ({len(indices)} architectures) lacks {text}.")
        return figures[rows]

    return costs


def operation_rows(space: SearchSpace) -> SearchSpace:
    """The space of one choice that a table of the operations of `space` is keyed by: "fixed", then choice/name."""
    names = [f"{choice}/{name}" for choice, names in enumerate(space.op_names) for name in names]
    return SearchSpace(f"{space.name} operations", (("fixed", *names),), space.layout)


def _milliseconds(table: Table, column: str) -> np.ndarray:
    """A column in ms, float64 [num_rows, num_rounds]."""
    if column not in table.columns:
        raise ValueError(f"the table of {table.space} has no column {column!r}; it has {', '.join(table.columns)}.")
    if (unit := table.units.get(column)) != "ms":
        raise ValueError(f"the table of {table.space} has its column {column!r} in the unit {unit}, expected ms.")
    rounds: np.ndarray = table.columns[column].reshape(len(table.archs), -1).astype(np.float64)
    return rounds


def _check_setting(device: Any, batch_size: Any, dtype: Any) -> Setting:
    if not isinstance(device, str) or not device:
        raise ValueError(f"device is {shown(device)}, expected the name of one.")
    return Setting(device, whole("batch_size", batch_size, 1), choice("dtype", dtype, DTYPES))


def _pair(predicted: chex.ArrayNumpy, measured: chex.ArrayNumpy) -> tuple[np.ndarray, np.ndarray]:
    predicted = array("predicted", predicted, (None,), finite=False).astype(np.float64)
    measured = array("measured", measured, (None,), finite=False).astype(np.float64)
    if predicted.shape != measured.shape or len(predicted) < 3:
        raise ValueError(
            f"latencies of shapes {predicted.shape} and {measured.shape}, expected two of one [num_archs], at least 3."
        )
    if not (np.isfinite(predicted).all() and np.isfinite(measured).all() and (measured > 0).all()):
        raise ValueError("latencies must be finite, and the measured ones above 0 ms.")
    return predicted, measured
