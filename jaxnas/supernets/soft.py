"""Codes as mixtures that lean towards them: how super-nets that train as mixtures meet single architectures.

"softoneshot" in the code of landmark regularisation (arXiv 2104.05309; kcyu2014/nas-landmarkreg), there for PC-DARTS.
"""

from collections.abc import Sequence
from typing import Any

import chex
import jax.numpy as jnp
import numpy as np

from jaxnas.checks import number
from jaxnas.codes import exist
from jaxnas.supernets.supernet import Supernet

TILT = 0.01  # the authors' setting; their ablation goes to 0.15


def soft_weights(weights: chex.Array, num_candidates: Sequence[int], *, tilt: float = TILT) -> chex.Array:
    """The weights of codes, as `Supernet.weights` gives them, brought near those of a uniform mixture.

    Of n candidates at a place the one taken weighs 1 / n + tilt, the others 1 / n - tilt / (n - 1): the sum is 1.

    >>> [f"{weight:.4f}" for weight in soft_weights(jnp.array([[0.0, 1.0, 0.0, 0.0, 0.0]]), [5])[0]]
    ['0.1975', '0.2100', '0.1975', '0.1975', '0.1975']

    Args:
      weights: float [..., num_places, max(num_candidates)], 1 for what is taken, else 0.
      num_candidates: of each place.
      tilt: in [0, 1 - 1 / n], n being the fewest candidates that a place with a choice has; there the mixture is the
        architecture itself.

    Raises:
      ValueError: a tilt beyond that.
    """
    counts = np.array(num_candidates)
    tilt = number("tilt", tilt, 0, 1 - 1 / max(2, counts[counts > 1].min(initial=max(counts))))
    taken = np.where(counts > 1, 1 / counts + tilt, 1.0)
    others = np.where(counts > 1, 1 / counts - tilt / np.maximum(counts - 1, 1), 0.0)
    least, lead = (
        jnp.asarray(np.broadcast_to(part, weights.shape), weights.dtype)
        for part in (exist(num_candidates) * others[:, None], (taken - others)[:, None])
    )
    return least + lead * weights


def softened(supernet: Supernet, *, tilt: float = TILT) -> Supernet:
    """The same super-net, which runs a code as the mixture that `soft_weights` makes of it, all candidates of it.

    Losses and evaluators take it in place of the other. The routes "serial" and "mask" know mixtures; what follows the
    wiring, as "graph" does, is refused.

    Raises:
      ValueError: a tilt that `soft_weights` refuses.
    """
    counts = supernet.num_candidates
    soft_weights(jnp.zeros((len(counts), max(counts))), counts, tilt=tilt)

    def apply(params: Any, arch: Any, images: chex.Array, **given: Any) -> Any:
        is_code = jnp.issubdtype(jnp.result_type(arch), jnp.integer)
        weights = soft_weights(supernet.weights(arch) if is_code else arch, counts, tilt=tilt)
        return supernet.apply(params, weights, images, **given)

    def wire(run: Any, images: Any) -> Any:
        raise ValueError("in a softened super-net every candidate runs, whatever the code")

    return supernet._replace(apply=apply, wire=wire)
