"""Uniform sampling from a part of the space that can be changed between steps."""

import chex
import jax
import jax.numpy as jnp
import numpy as np

from jaxnas.samplers.sampler import Sampler, drawing
from jaxnas.space import SearchSpace


def restricted(space: SearchSpace, allowed: chex.ArrayNumpy, *, num_archs: int = 1) -> Sampler:
    """Draw every choice of every architecture independently and uniformly among the operations allowed there.

    Its state is `allowed`, bool [num_choices, max(num_ops)]. So a training shrinks or grows its space, in one compiled
    step, by `state._replace(sampler_state=jnp.asarray(other))`; `check_allowed` checks another one.

    Args:
      allowed: as it begins; what a choice has no operation for is False.
      num_archs: architectures per step, at least 1.

    Raises:
      ValueError: see `check_allowed`; num_archs below 1.
    """
    begin = check_allowed(space, allowed)

    def sample(key: chex.PRNGKey, allowed: chex.Array) -> chex.Array:
        draws = jax.random.uniform(key, (num_archs, *begin.shape))
        return jnp.argmax(jnp.where(allowed, draws, -1.0), axis=-1).astype(jnp.int32)

    return drawing("restricted", space, num_archs, sample, init=lambda key: jnp.asarray(begin))


def check_allowed(space: SearchSpace, allowed: chex.ArrayNumpy) -> np.ndarray:
    """`allowed` as bool [num_choices, max(num_ops)], or a ValueError: another shape, an operation that does not exist,
    or a choice without any."""
    allowed = np.asarray(allowed)
    shape = space.num_choices, max(space.num_ops)
    if allowed.shape != shape or allowed.dtype != bool:
        raise ValueError(f"{space.name}: allowed is {allowed.dtype} {allowed.shape}, expected bool {shape}.")
    if (allowed & (np.arange(shape[1]) >= np.array(space.num_ops)[:, None])).any():
        raise ValueError(f"{space.name}: allowed names operations that a choice does not have.")
    if not allowed.any(axis=1).all():
        choice = int(np.argmin(allowed.any(axis=1)))
        raise ValueError(f"{space.name}: no operation is allowed at choice {choice}, expected at least one.")
    return allowed
