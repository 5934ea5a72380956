"""GDAS: a straight-through Gumbel softmax draws candidates (Dong and Yang, CVPR 2019, arXiv 1910.04465)."""

import chex
import jax
import jax.numpy as jnp

from jaxnas.checks import number, whole
from jaxnas.costs import Limit
from jaxnas.policies.mixture import Mixture, adam, every_step, make_mixture, masked, normal_alphas
from jaxnas.policies.policy import Policy
from jaxnas.supernets import Drawn, Supernet


def gdas(
    supernet: Supernet,
    limit: Limit | None = None,
    *,
    learning_rate: float = 3e-4,
    beta1: float = 0.5,
    weight_decay: float = 1e-3,
    first_temperature: float = 10.0,
    last_temperature: float = 0.1,
    num_updates: int = 10_000,
) -> Policy:
    """Draw a candidate for each place, run it alone, and let the gradient pass as through the soft weights.

    Weights are softmax((log_softmax(alphas) + Gumbel noise) / temperature), made hard in value only. The gradient is
    that of the released code (AutoDL-Projects, search_cells.forward_gdas; see `jaxnas.supernets.choice.draw`), and so
    are the settings. In the code that landmark regularisation was published with, the temperature becomes negative
    before the policy learns; what was meant is here: it falls linearly over `num_updates`. The learning rate there is
    6e-4.

    Args:
      num_updates: from the first temperature to the last.

    Raises:
      ValueError: a bad setting, a limit that nothing meets, or a space of which no code stands for a mixture.
    """
    number("gdas: learning_rate", learning_rate, above=0)
    number("gdas: beta1", beta1, 0, below=1)
    number("gdas: weight_decay", weight_decay, 0)
    number("gdas: last_temperature", last_temperature, above=0)
    number("gdas: first_temperature", first_temperature, last_temperature)
    whole("gdas: num_updates", num_updates, 1)

    def weights(key: chex.PRNGKey, alphas: chex.Array, done: chex.Array) -> Drawn:
        share = jnp.minimum(1.0, done.astype(jnp.float32) / num_updates)
        temperature = first_temperature + (last_temperature - first_temperature) * share
        logs = jax.nn.log_softmax(masked(supernet, alphas), axis=-1)
        perturbed = logs + jax.random.gumbel(key, logs.shape)
        soft, taken = jax.nn.softmax(perturbed / temperature, axis=-1), jnp.argmax(perturbed, axis=-1)
        hard = jax.nn.one_hot(taken, logs.shape[-1])
        return Drawn(soft + jax.lax.stop_gradient(hard - soft), taken.astype(jnp.int32))

    mixture = Mixture(
        init=lambda key: (normal_alphas(supernet, key), ()),
        weights=weights,
        logits=lambda alphas: masked(supernet, alphas),
    )
    return make_mixture("gdas", supernet, limit, mixture, adam(learning_rate, weight_decay, b1=beta1), every_step)
