"""Populations that were drawn on the host beforehand."""

from typing import NamedTuple

import chex
import jax.numpy as jnp

from jaxnas.samplers.sampler import Sampler, tile_of
from jaxnas.space import SearchSpace


class Replay(NamedTuple):
    """Populations, and which is next."""

    archs: chex.Array  # int32 [num_steps, num_archs, num_choices]
    next: chex.Array  # int32


def replayed(space: SearchSpace, *, num_archs: int, num_steps: int) -> Sampler:
    """Train on populations that were drawn on the host: `jaxnas.search` knows every kind of limit, and is exact.

    Put the draws of an interval into the training state, `state._replace(sampler_state=replay(...))`; after the last
    population comes the first again. A run killed inside an interval finds draws and place in its checkpoint.

    Args:
      num_archs: architectures per step, at least 1.
      num_steps: most populations that are put in at once.
    """
    if num_archs < 1 or num_steps < 1:
        raise ValueError(f"replayed: num_archs and num_steps must be at least 1, got {num_archs} and {num_steps}.")
    shape = num_steps, num_archs, space.num_choices
    return Sampler(
        init=lambda key: Replay(jnp.zeros(shape, jnp.int32), jnp.zeros((), jnp.int32)),
        sample=lambda key, state: state.archs[state.next % num_steps],
        update=lambda state, archs, losses: state._replace(next=state.next + 1),
        groups=tile_of(space, num_archs),
    )


def replay(archs: chex.ArrayNumpy, *, num_archs: int, first: int = 0) -> Replay:
    """The sampler's state that holds archs [num_steps * num_archs, num_choices] and has used up `first` populations."""
    return Replay(jnp.asarray(archs.reshape(-1, num_archs, archs.shape[1])), jnp.asarray(first, jnp.int32))
