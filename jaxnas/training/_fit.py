"""The loop around the training step."""

import functools
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnas.checks import whole
from jaxnas.training._batches import BatchAt, Batches, take
from jaxnas.training.step import TrainState, TrainStep

MOST_STEPS_PER_CALL = 100  # on accelerators, if nothing else is asked for
Callback = Callable[[int, dict[str, float], TrainState], None]  # (steps done, metrics, state)


def fit(
    step: TrainStep,
    state: TrainState,
    batch_at: BatchAt,
    num_steps: int,
    *,
    report_at: Callable[[int], bool] = lambda steps: steps % 50 == 0,
    callbacks: Iterable[Callback] = (),
    steps_per_call: int | None = None,
) -> TrainState:
    """Run from `state.step` to `num_steps`.

    Args:
      state: stays as it is; the training begins from a copy.
      batch_at: step number -> batch; a pure function, so that a resumed run sees what an uninterrupted one saw.
      report_at: number of steps done -> whether to report; a report fetches the metrics since the last one. The end of
        the training always reports.
      callbacks: called as (steps done, metrics averaged over the reported steps, state), at each report. The next
        step consumes the state: a callback that keeps it keeps a copy.
      steps_per_call: so many steps that no report parts run in one call, a compiled loop, from multiples of it on;
        where the step is jitted and the batches are `batches` of images. None: on accelerators as many as there are to
        the first report, 100 at most; 1 on CPU, where gradients of convolutions are slow in loops. Another number
        may round otherwise.

    Raises:
      ValueError: a `steps_per_call` below 1.
      FloatingPointError: the loss or the gradient of a step is not finite; says which step, counted from 0.
    """
    first = int(state.step)
    state = _copy(state)  # `step` consumes what it is given
    most = 1
    if isinstance(batch_at, Batches) and hasattr(step, "lower"):
        most = _most_steps(report_at) if steps_per_call is None else whole("steps_per_call", steps_per_call, 1)
    pending: list[dict[str, Any]] = []  # of each call, metrics [number of its steps]
    number = first
    while number < num_steps:
        end = number + most
        if most > 1 and number % most == 0 and end <= num_steps and not any(map(report_at, range(number + 1, end))):
            assert isinstance(batch_at, Batches)  # or `most` would be 1
            state, metrics = _loop(step, batch_at.splits)(state, batch_at.arrays, batch_at.rows(number, most))
        else:
            state, metrics = step(state, batch_at(number))
            end = number + 1
        number = end
        pending.append(metrics)
        if report_at(number) or number == num_steps:
            calls = jax.device_get(pending)
            columns = {name: np.concatenate([np.ravel(call[name]) for call in calls]) for name in metrics}
            fetched = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
            for at, row in enumerate(fetched, number - len(fetched)):
                bad = ", ".join(f"{name} is {value}" for name, value in row.items() if not np.isfinite(value))
                if bad:
                    terms = {name: value for name, value in row.items() if name.startswith("term_")}
                    finite = ", ".join(f"{name} is {value:.3g}" for name, value in terms.items() if np.isfinite(value))
                    raise FloatingPointError(
                        f"training stopped: {bad} at step {at}{f', where {finite}' if finite else ''}; lower"
                        f" {'the weight of a term, ' if terms else ''}the learning rate or clip_norm."
                    )
            means = {name: float(np.mean([row[name] for row in fetched], dtype=np.float64)) for name in fetched[0]}
            for callback in callbacks:
                callback(number, means, state)
            pending = []
    return state


def _most_steps(report_at: Callable[[int], bool]) -> int:
    if jax.default_backend() == "cpu":
        return 1
    return next((steps for steps in range(1, MOST_STEPS_PER_CALL) if report_at(steps)), MOST_STEPS_PER_CALL)


@jax.jit
def _copy(tree: Any) -> Any:
    """One program; a copy of each leaf by itself would be one for each of their shapes."""
    return jax.tree.map(jnp.copy, tree)


@functools.lru_cache(maxsize=8)
def _loop(step: TrainStep, splits: tuple[str, ...]) -> Callable[[TrainState, Any, Any], Any]:
    """Several steps in one call: (state, arrays of each split, rows of each split and step) -> state, metrics."""

    def run(state: TrainState, arrays: Any, rows: Any) -> Any:
        return jax.lax.scan(lambda state, rows: step(state, take(splits, arrays, rows)), state, rows)

    return jax.jit(run, donate_argnums=0)
