"""Uniform sampling: over codes (Random-NAS, single-path one-shot), or over a list of architectures."""

from typing import Any

import chex
import jax
import jax.numpy as jnp

from jaxnas.codes import check
from jaxnas.codes import sample as sample_archs
from jaxnas.samplers.sampler import Sampler, drawing
from jaxnas.space import SearchSpace


def uniform(space: SearchSpace, *, num_archs: int = 1) -> Sampler:
    """Draw every choice of every architecture independently and uniformly; codes that don't exist are drawn again.

    Codes that are the same network weigh more: this is the "Random-NAS" of "How to Train Your Super-Net".

    Args:
      num_archs: architectures per step, at least 1.

    Raises:
      ValueError: no architectures, or a space that cannot tell while traced which codes exist.
    """
    try:
        jax.eval_shape(space.is_valid, jax.ShapeDtypeStruct((1, space.num_choices), "int32"))
    except jax.errors.TracerArrayConversionError:
        raise ValueError(
            f"uniform: is_valid of {space.name} takes NumPy's arrays only; write it for JAX's too, or take 'listed'."
        ) from None

    def draw_valid(key: chex.PRNGKey) -> chex.Array:
        def body(state: Any) -> Any:
            key, own_key = jax.random.split(state[0])
            return key, sample_archs(own_key, space, 1)

        return jax.lax.while_loop(lambda state: ~space.is_valid(state[1])[0], body, body((key, None)))[1][0]

    def sample(key: chex.PRNGKey, state: Any) -> chex.Array:
        if space.has_all_codes:
            return sample_archs(key, space, num_archs)
        return jax.vmap(draw_valid)(jax.random.split(key, num_archs))

    return drawing("uniform", space, num_archs, sample)


def listed(space: SearchSpace, archs: chex.ArrayNumpy, *, num_archs: int = 1) -> Sampler:
    """Draw every architecture uniformly from a list, independently.

    With each distinct network once (`spaces.enumerate_cells`) this is the "Random-A" of "How to Train Your
    Super-Net".

    Args:
      archs: int [size, num_choices].
      num_archs: architectures per step, at least 1.

    Raises:
      ValueError: an architecture that is not in the space, or no list.
    """
    codes = jnp.asarray(check(space, archs))

    def sample(key: chex.PRNGKey, state: tuple[()]) -> chex.Array:
        return codes[jax.random.randint(key, (num_archs,), 0, len(codes))]

    return drawing("listed", space, num_archs, sample)
