"""The sandwich rule: in every step the largest network, the smallest, and random ones between."""

from typing import Any

import chex
import jax.numpy as jnp
import numpy as np

from jaxnas.checks import whole
from jaxnas.codes import sample as sample_archs
from jaxnas.samplers.sampler import Sampler, drawing
from jaxnas.space import SearchSpace
from jaxnas.supernets import make_supernet


def sandwich(space: SearchSpace, *, num_archs: int = 4) -> Sampler:
    """The network of the dearest operation of each choice, that of the cheapest, and `num_archs - 2` drawn uniformly
    (Yu and Huang, "Universally Slimmable Networks and Improved Training Techniques", ICCV 2019, section 3.2).

    An operation costs its multiply-accumulates, in all layers of its choice; of equals the first one counts.

    Args:
      num_archs: architectures per step, at least 3.

    Raises:
      ValueError: fewer architectures; a space where not every code exists, or what a choice stands for depends on the
        rest of the code.
    """
    num_archs = whole("sandwich: num_archs", num_archs, 3)
    supernet = make_supernet(space)
    if not space.has_all_codes or supernet.is_decoded:
        raise ValueError(f"sandwich: {space.name} has no operation of a choice that is the dearest; take 'uniform'.")
    macs = [np.zeros(num_ops) for num_ops in space.num_ops]
    for layer in supernet.layers.values():
        if layer.choice is not None:
            macs[layer.choice] += np.asarray(layer.costs.macs)
    ends = jnp.array([[costs.argmax() for costs in macs], [costs.argmin() for costs in macs]], jnp.int32)

    def sample(key: chex.PRNGKey, state: Any) -> chex.Array:
        return jnp.concatenate([ends, sample_archs(key, space, num_archs - 2)])

    return drawing("sandwich", space, num_archs, sample)
