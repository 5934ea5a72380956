"""PC-DARTS: partial channels and edge normalisation (Xu et al., ICLR 2020, arXiv 1907.05737)."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

from jaxnas.checks import number
from jaxnas.costs import Limit
from jaxnas.policies.mixture import Mixture, adam, make_mixture, masked, normal_alphas
from jaxnas.policies.policy import Policy, Timetable
from jaxnas.supernets import Supernet


def pc_darts(
    supernet: Supernet,
    limit: Limit | None = None,
    *,
    learning_rate: float = 6e-4,
    beta1: float = 0.5,
    weight_decay: float = 1e-3,
    warmup: float = 0.3,
) -> Policy:
    """DARTS whose weights are multiplied by a softmax over the edges into each node, which learns too.

    The part of the channels is the super-net's: `make_supernet(space, partial_channels=4)` is the published one. The
    settings are those of the authors' code for CIFAR-10, where alphas and betas rest for 15 of 50 epochs. Decisions are
    by the products of both weights.

    Args:
      warmup: share of the training before the first update.

    Raises:
      ValueError: a bad setting, a limit that nothing meets, or a space whose nodes have one input each.
    """
    number("pc_darts: learning_rate", learning_rate, above=0)
    number("pc_darts: beta1", beta1, 0, below=1)
    number("pc_darts: weight_decay", weight_decay, 0)
    number("pc_darts: warmup", warmup, 0, below=1)
    joins = np.array(supernet.joins)
    if supernet.encode is not None and len(set(supernet.joins)) == len(joins):
        raise ValueError(
            f"pc_darts weighs the edges into a node, and each of {supernet.space.name} has one only; take darts."
        )
    together = joins[:, None] == joins  # bool [num_places, num_places]

    def init(key: chex.PRNGKey) -> tuple[Any, Any]:
        op_key, edge_key = jax.random.split(key)
        return {"op": normal_alphas(supernet, op_key), "edge": 1e-3 * jax.random.normal(edge_key, joins.shape)}, ()

    def logits(alphas: Any) -> chex.Array:
        ops = jax.nn.log_softmax(masked(supernet, alphas["op"]), axis=-1)
        into = jax.nn.logsumexp(jnp.where(together, alphas["edge"][None, :], -jnp.inf), axis=-1)
        return ops + (alphas["edge"] - into)[:, None]

    mixture = Mixture(init=init, weights=lambda key, alphas, num_updates: jnp.exp(logits(alphas)), logits=logits)
    return make_mixture(
        "pc_darts",
        supernet,
        limit,
        mixture,
        adam(learning_rate, weight_decay, b1=beta1),
        lambda num_steps, steps_per_epoch: Timetable(round(warmup * num_steps), 1),
    )
