"""Strict fairness: in every step each operation of each choice is trained equally often."""

import math

import chex
import jax
import jax.numpy as jnp

from jaxnas.checks import whole
from jaxnas.samplers.sampler import Sampler
from jaxnas.space import SearchSpace


def fair(space: SearchSpace, *, num_archs: int | None = None) -> Sampler:
    """Draw a permutation of the operations per choice and read the architectures across the permutations.

    Each step trains every candidate of every choice exactly num_archs / num_ops times, and a batch of such
    architectures runs without any switch (FairNAS, arXiv 1907.01845, section 3).

    Args:
      num_archs: architectures per step, a multiple of every choice's number of operations; None: the smallest.
    """
    if not space.has_all_codes:
        raise ValueError(f"fair: permuting choices gives codes that {space.name} does not have; take 'uniform'.")
    smallest = math.lcm(*space.num_ops)
    num_archs = smallest if num_archs is None else whole("fair: num_archs", num_archs, 1)
    if num_archs % smallest:
        raise ValueError(f"fair: num_archs must be a multiple of {smallest} on {space.name}, got {num_archs}.")

    def sample(key: chex.PRNGKey, state: tuple[()]) -> chex.Array:
        columns = [jnp.arange(num_archs, dtype=jnp.int32) % num_ops for num_ops in space.num_ops]
        return jax.random.permutation(key, jnp.stack(columns, axis=1), axis=0, independent=True)

    return Sampler(
        init=lambda key: (),
        sample=sample,
        update=lambda state, archs, losses: state,
        groups="balanced",
    )
