"""Populations that were drawn on the host beforehand."""

from typing import NamedTuple

import chex
import jax.numpy as jnp

from jaxnas.checks import array, whole
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
    num_archs = whole("replayed: num_archs", num_archs, 1)
    num_steps = whole("replayed: num_steps", num_steps, 1)
    shape = num_steps, num_archs, space.num_choices
    return Sampler(
        init=lambda key: Replay(jnp.zeros(shape, jnp.int32), jnp.zeros((), jnp.int32)),
        sample=lambda key, state: state.archs[state.next % num_steps],
        update=lambda state, archs, losses: state._replace(next=state.next + 1),
        groups=tile_of(space, num_archs),
    )


def replay(archs: chex.ArrayNumpy, *, num_archs: int, first: int = 0) -> Replay:
    """The sampler's state that holds archs [num_steps * num_archs, num_choices] and has used up `first` populations."""
    archs = array("replay: archs", archs, (None, None), "integer")
    num_archs, first = whole("replay: num_archs", num_archs, 1), whole("replay: first", first)
    if len(archs) % num_archs:
        raise ValueError(f"replay: {len(archs)} archs, expected a multiple of num_archs = {num_archs}.")
    return Replay(jnp.asarray(archs.reshape(-1, num_archs, archs.shape[1])), jnp.asarray(first, jnp.int32))
