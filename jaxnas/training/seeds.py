"""Several super-nets in one program: seeds of one experiment side by side, on a device that one of them leaves idle.

States, and what belongs to them, have a leading axis of super-nets; each ends as it would alone, but for rounding.

    step = seeds.side_by_side(make_train_step(supernet, loss_fn, sampler, tx))
    state = seeds.stack([init_train_state(supernet, sampler, tx, key) for key in keys])
    batch_at = seeds.stack_batches([batches(key, images, labels, 64) for key in keys])
    state = fit(step, state, batch_at, num_steps)
    first = seeds.state_of(state, 0)
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import chex
import jax
import jax.numpy as jnp

from jaxnas.training._batches import BatchAt, Batches, Stacked
from jaxnas.training.losses import Batch
from jaxnas.training.step import TrainState, TrainStep

_AXES = TrainState(None, 0, 0, 0, 0, 0, 0)  # type: ignore[arg-type]  # all are at the same step


@functools.lru_cache(maxsize=8)
def side_by_side(step: TrainStep) -> TrainStep:
    """The step of `make_train_step` for several super-nets at once, of states that `stack` made and batches with the
    same leading axis: {split: {"images": [num_seeds, num_images, ...], "labels": [num_seeds, num_images]}}.

    Metrics are those of each super-net, `loss_0`, `loss_1` and so on. What costs what: kernels of a convolution become
    a grouped one, and where each super-net draws paths of its own, every candidate is run and one kept, as an
    accelerator does for one path anyway; strictly fair populations run nothing twice. CPUs are slower at both, and
    gain nothing: there the super-nets are trained one after the other. Of a step over a mesh there is none of this.
    """

    def step_of_all(state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, chex.Array]]:
        state, metrics = jax.vmap(step, in_axes=(_AXES, 0), out_axes=(_AXES, 0))(state, batch)
        number = len(state.key)
        return state, {f"{name}_{seed}": values[seed] for seed in range(number) for name, values in metrics.items()}

    return jax.jit(step_of_all, donate_argnums=0)


def stack(states: Sequence[TrainState]) -> TrainState:
    """States of several super-nets, all at the same step, as one: `step` is theirs, all else has a leading axis.

    Raises:
      ValueError: there is none, or they are at several steps.
    """
    steps = sorted({int(state.step) for state in states})
    if len(steps) != 1:
        raise ValueError(f"states are at the steps {steps}, expected one step; train those behind up to the others.")
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
    return stacked._replace(step=states[0].step)


def state_of(state: TrainState, number: int) -> TrainState:
    """Of stacked states that of super-net `number`, as it would be alone."""
    return jax.tree.map(lambda leaf: leaf[number], state._replace(step=()))._replace(step=state.step)


def stack_batches(of_each: Sequence[BatchAt]) -> BatchAt:
    """Step -> the batches of each super-net with a leading axis. Of `batches` of the same images, which were given as
    an array on the device, that lies there once, what comes is like them: a compiled loop can take it as well."""
    parts = [batch_at.parts for batch_at in of_each if isinstance(batch_at, Batches)]
    if len(parts) == len(of_each) and all(_are_of_the_same(same) for same in zip(*parts, strict=True)):
        return Batches(tuple(Stacked(same) for same in zip(*parts, strict=True)))
    return lambda step: jax.tree.map(lambda *leaves: jnp.stack(leaves), *(batch_at(step) for batch_at in of_each))


def _are_of_the_same(parts: Sequence[Any]) -> bool:
    first = parts[0]
    return all(part.split == first.split and part.arrays[0] is first.arrays[0] for part in parts)


def rows_of(rows: Sequence[Mapping[str, float]], number: int, num_seeds: int) -> list[dict[str, float]]:
    """Of the metrics that such a training reports those of super-net `number`, by the names that they have alone;
    `seconds` are its share of what all take."""
    ending, found = f"_{number}", []
    for row in rows:
        own = {name.removesuffix(ending): value for name, value in row.items() if name.endswith(ending)}
        common = {name: row[name] for name in ("step",) if name in row}
        shared = {name: row[name] / num_seeds for name in ("seconds",) if name in row}
        found.append({**common, **own, **shared})
    return found
