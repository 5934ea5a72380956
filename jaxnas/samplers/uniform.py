"""Uniform sampling over codes (Random-NAS, single-path one-shot)."""

from jaxnas import arch
from jaxnas.samplers.sampler import Sampler


def uniform(space: arch.SearchSpace, *, num_archs: int = 1) -> Sampler:
    """Draw every choice of every architecture independently and uniformly.

    Codes that are the same network weigh more: this is the "Random-NAS" of "How to Train Your Super-Net".

    Args:
      num_archs: architectures per step, at least 1.
    """
    if num_archs < 1:
        raise ValueError(f"uniform: num_archs must be at least 1, got {num_archs}.")
    return Sampler(
        init=lambda key: (),
        sample=lambda key, state: arch.sample(key, space, num_archs),
        update=lambda state, archs, losses: state,
        groups=max(1, min(4, num_archs // max(space.num_ops))),  # a larger tile would be padding for the most part
    )
