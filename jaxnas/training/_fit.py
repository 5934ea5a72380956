"""The loop around the training step."""

from collections.abc import Callable, Iterable

import chex
import jax
import numpy as np

from jaxnas.training.losses import Batch
from jaxnas.training.step import TrainState, TrainStep

BatchAt = Callable[[int], Batch]  # step number -> batch
Callback = Callable[[int, dict[str, float], TrainState], None]  # (steps done, metrics, state)


def fit(
    step: TrainStep,
    state: TrainState,
    batch_at: BatchAt,
    num_steps: int,
    *,
    report_at: Callable[[int], bool] = lambda steps: steps % 50 == 0,
    callbacks: Iterable[Callback] = (),
) -> TrainState:
    """Run from `state.step` to `num_steps`.

    Args:
      state: stays as it is; the training begins from a copy.
      batch_at: step number -> batch; a pure function, so that a resumed run sees what an uninterrupted one saw.
      report_at: number of steps done -> whether to report; a report fetches the metrics since the last one. The end of
        the training always reports.
      callbacks: called as (steps done, metrics averaged over the reported steps, state), at each report. The next
        step consumes the state: a callback that keeps it keeps a copy.

    Raises:
      FloatingPointError: the loss or the gradient of a step is not finite; says which step, counted from 0.
    """
    first = int(state.step)
    state = jax.tree.map(lambda leaf: leaf.copy(), state)  # `step` consumes what it is given
    pending: list[dict[str, chex.Array]] = []
    for number in range(first, num_steps):
        state, metrics = step(state, batch_at(number))
        pending.append(metrics)
        if report_at(number + 1) or number + 1 == num_steps:
            fetched = jax.device_get(pending)
            for at, row in enumerate(fetched, number + 1 - len(fetched)):
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
                callback(number + 1, means, state)
            pending = []
    return state
