"""BayesNAS: switches under a hierarchical prior that prunes them (Zhou et al., ICML 2019, arXiv 1905.04919)."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import optax

from jaxnas.checks import number, whole
from jaxnas.codes import exist
from jaxnas.costs import Limit
from jaxnas.policies.mixture import Mixture, MixtureState, make_mixture, masked
from jaxnas.policies.policy import Gradients, Policy, Rewards, Timetable
from jaxnas.supernets import Supernet


def bayesnas(
    supernet: Supernet,
    limit: Limit | None = None,
    *,
    sparsity: float = 0.01,
    learning_rate: float = 0.1,
    momentum: float = 0.9,
    warmup: float = 0.5,
    curvature_every: int = 100,
) -> Policy:
    """Multiply each candidate's output by a switch and each edge's by another, which a prior pulls to zero.

    The loss has sparsity * sum(omega * |switch|) added. After each `curvature_every` updates, with H the diagonal of
    the Gauss-Newton matrix of the validation loss with respect to the switches: C = 1 / (1 / gamma + H / sparsity),
    omega = sqrt(1 / gamma - C / gamma^2), gamma = |switch| / omega. A candidate's merit is 1 / (1 / gamma + 1 / gamma
    of its edge), and the best of each place stays. The authors' code computes H layer by layer, an approximation,
    shares switches between cells, and stops after one round, whose cell is picked by hand.

    A switch that the loss doesn't depend on at all ("none") has no merit: its omega would be zero and its gamma
    infinite. Before the first curvature the switches themselves are the merits: gamma and omega begin at random.

    Args:
      sparsity: lambda, 0.005 to 0.01 in the authors' runs.
      learning_rate, momentum: of SGD on the switches.
      warmup: share of the training before the first update; the authors train one epoch without and one with switches.
      curvature_every: updates from one curvature to the next.

    Raises:
      ValueError: a bad setting, a limit that nothing meets, or a space of which no code stands for a mixture.
    """
    number("bayesnas: sparsity", sparsity, above=0)
    number("bayesnas: learning_rate", learning_rate, above=0)
    number("bayesnas: momentum", momentum, 0, below=1)
    number("bayesnas: warmup", warmup, 0, below=1)
    whole("bayesnas: curvature_every", curvature_every, 1)
    shape = len(supernet.num_candidates), max(supernet.num_candidates)
    exists = exist(supernet.num_candidates)

    def init(key: chex.PRNGKey) -> tuple[Any, Any]:
        keys = dict(zip(("op_gamma", "edge_gamma", "op_omega", "edge_omega"), jax.random.split(key, 4), strict=True))
        sizes = {"op": shape, "edge": shape[:1]}
        drawn = {name: jax.random.uniform(each, sizes[name.split("_")[0]]) for name, each in keys.items()}
        gamma, omega = ({kind: drawn[f"{kind}_{what}"] for kind in sizes} for what in ("gamma", "omega"))
        return {"op": jnp.ones(shape), "edge": jnp.ones(shape[:1])}, {
            "gamma": gamma,
            "omega": omega,
            "is_known": jnp.zeros((), bool),
        }

    def switches(alphas: Any) -> chex.Array:
        return jnp.where(exists, alphas["op"] * alphas["edge"][:, None], 0.0)

    def penalty(alphas: Any, omega: Any) -> chex.Array:
        ops = jnp.where(exists, omega["op"] * jnp.abs(alphas["op"]), 0.0).sum()
        return sparsity * (ops + (omega["edge"] * jnp.abs(alphas["edge"])).sum())

    def finish(state: MixtureState, feedback: Gradients | Rewards) -> MixtureState:
        if not isinstance(feedback, Gradients) or feedback.curvature is None:
            return state
        gamma = state.extra["gamma"]
        pairs = {
            kind: reestimate(state.alphas[kind], gamma[kind], feedback.curvature[kind], sparsity) for kind in gamma
        }
        gamma, omega = ({kind: pair[place] for kind, pair in pairs.items()} for place in (0, 1))
        return state._replace(extra={"gamma": gamma, "omega": omega, "is_known": jnp.ones((), bool)})

    def merits(state: MixtureState) -> chex.Array:
        gamma = state.extra["gamma"]
        ops, edges = gamma["op"], gamma["edge"][:, None]
        both = ops * edges / jnp.maximum(ops + edges, 1e-30)  # 1 / (1 / ops + 1 / edges)
        return masked(supernet, jnp.where(state.extra["is_known"], both, switches(state.alphas)))

    mixture = Mixture(
        init=init,
        weights=lambda key, alphas, num_updates: switches(alphas),
        logits=lambda alphas: masked(supernet, switches(alphas)),
        penalty=penalty,
        aid=lambda state: state.extra["omega"],
        merits=merits,
        finish=finish,
    )
    return make_mixture(
        "bayesnas",
        supernet,
        limit,
        mixture,
        optax.sgd(learning_rate, momentum),
        lambda num_steps, steps_per_epoch: Timetable(round(warmup * num_steps), 1),
        curvature_every=curvature_every,
    )


def reestimate(
    switch: chex.Array, gamma: chex.Array, curvature: chex.Array, sparsity: float
) -> tuple[chex.Array, chex.Array]:
    """The next (gamma, omega) of switches of one shape, from the last gamma and the curvature of the loss.

    >>> gamma, omega = reestimate(jnp.float32(1.0), jnp.float32(0.5), jnp.float32(0.02), 0.01)  # C = 1 / (2 + 2)
    >>> float(omega), float(gamma)  # sqrt(2 - 4 / 4) = 1
    (1.0, 1.0)
    """
    known = (curvature > 0) & (gamma > 0)
    safe = jnp.where(known, gamma, 1.0)
    spread = 1.0 / (1.0 / safe + curvature / sparsity)
    omega = jnp.sqrt(jnp.maximum(1.0 / safe - spread / safe**2, 1e-12))
    return jnp.where(known, jnp.abs(switch) / omega, 0.0), jnp.where(known, omega, 1.0)
