"""Uniform sampling over distinct architectures (Random-A)."""

import chex
import jax
import jax.numpy as jnp
import numpy as np

from jaxnas.codes import enumerate_archs
from jaxnas.samplers.sampler import Sampler, drawing
from jaxnas.space import SearchSpace


def distinct(space: SearchSpace, *, num_archs: int = 1) -> Sampler:
    """Draw a stand-alone network uniformly, then one of its codes uniformly.

    The "Random-A" of "How to Train Your Super-Net" (arXiv 2003.04276, section 3): codes of the same network, by the
    space's `isomorphs`, weigh together as much as a network with one code. Any of them is trained, so that no weight
    that scoring a code needs is left out. Where all codes are distinct it is `uniform`.

    Args:
      num_archs: architectures per step, at least 1.

    Raises:
      ValueError: num_archs below 1, or a space of more codes than can be enumerated.
    """
    codes = enumerate_archs(space)
    _, network, counts = np.unique(space.isomorphs(codes), axis=0, return_inverse=True, return_counts=True)
    codes = codes[np.argsort(network.ravel(), kind="stable")]  # those of one network side by side
    firsts = np.cumsum(counts) - counts

    def sample(key: chex.PRNGKey, state: tuple[()]) -> chex.Array:
        network_key, code_key = jax.random.split(key)
        network = jax.random.randint(network_key, (num_archs,), 0, len(counts))
        rows = jnp.asarray(firsts)[network] + jax.random.randint(
            code_key, (num_archs,), 0, jnp.asarray(counts)[network]
        )
        return jnp.asarray(codes)[rows]

    return drawing("distinct", space, num_archs, sample)
