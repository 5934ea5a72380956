"""What policies share that draw codes and follow the gradient of their expected reward (REINFORCE with a baseline)."""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxnas.checks import number, whole
from jaxnas.costs import Limit
from jaxnas.policies.drawing import Chain, make_drawer, moving_baseline
from jaxnas.policies.policy import Gradients, Policy, Rewards, ScoreFn, Terms, Timetable, best_of, feasible_region
from jaxnas.supernets import Supernet
from jaxnas.training import descend

TERMS = ("reward", "baseline", "policy_entropy", "policy_loss", "policy_grad_norm")


class ControllerState(NamedTuple):
    """A controller while it learns."""

    params: Any
    opt_state: optax.OptState
    baseline: chex.Array  # float, the moving average of rewards
    num_updates: chex.Array  # int32


class Learning(NamedTuple):
    """How a controller learns.

    Attributes:
      num_asked: codes judged for an update.
      baseline_decay: the old value's share in the baseline, which begins at the first mean reward. It moves before it
        is used, as in the authors' code.
      entropy_weight: of the entropy, in nats, that is added to the reward. It isn't differentiated.
      num_final: codes that are drawn in the end, of which the best by score is taken.
    """

    num_asked: int
    baseline_decay: float
    entropy_weight: float
    num_final: int


def make_controller(
    name: str,
    supernet: Supernet,
    limit: Limit | None,
    chain: Chain,
    init_params: Callable[[chex.PRNGKey], Any],
    tx: optax.GradientTransformation,
    learning: Learning,
    timetable: Callable[[int, int], Timetable],
    *,
    num_archs: int,
) -> Policy:
    """A policy from a chain of logits and how it learns; `num_archs` codes train in a weight step.

    An update descends mean(-log-probability * (reward + entropy_weight * entropy - baseline)) over the codes asked.
    """
    num_asked, decay, entropy_weight, num_final = learning
    for kind, count in (("num_asked", num_asked), ("num_final", num_final), ("num_archs", num_archs)):
        whole(f"{name}: {kind}", count, 1)
    number(f"{name}: baseline_decay", decay, 0, below=1)
    number(f"{name}: entropy_weight", entropy_weight, 0)
    drawer = make_drawer(feasible_region(supernet, limit), chain)

    def init(key: chex.PRNGKey) -> ControllerState:
        params = init_params(key)
        return ControllerState(params, tx.init(params), jnp.zeros(()), jnp.zeros((), jnp.int32))

    @jax.jit
    def learn(
        state: ControllerState, archs: chex.Array, rewards: chex.Array
    ) -> tuple[ControllerState, tuple[chex.Array, ...]]:
        mean = rewards.mean()
        baseline = moving_baseline(state.baseline, mean, state.num_updates, decay)

        def loss_fn(params: Any) -> tuple[chex.Array, chex.Array]:
            logs, entropies = jax.vmap(drawer.log_prob, in_axes=(None, 0))(params, archs)
            signal = jax.lax.stop_gradient(rewards + entropy_weight * entropies - baseline)
            return (-logs * signal).mean(), entropies.mean()

        (loss, entropy), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
        params, opt_state = descend(tx, grads, state.opt_state, state.params)
        terms = mean, baseline, entropy, loss, optax.tree.norm(grads)
        return ControllerState(params, opt_state, baseline, state.num_updates + 1), terms

    def update(
        key: chex.PRNGKey, state: ControllerState, feedback: Rewards | Gradients
    ) -> tuple[ControllerState, Terms]:
        if not isinstance(feedback, Rewards):
            raise ValueError(f"{name} learns from rewards of codes, got {type(feedback).__name__}.")
        rewards = jnp.asarray(feedback.rewards, jnp.float32)
        state, terms = learn(state, jnp.asarray(feedback.archs, jnp.int32), rewards)
        return state, dict(zip(TERMS, map(float, jax.device_get(terms)), strict=True))

    def decide(key: chex.PRNGKey, state: ControllerState, score: ScoreFn) -> Any:
        return best_of(drawer.draw(key, state.params, num_final), score)

    log_probs = jax.jit(lambda params, archs: jax.vmap(drawer.log_prob, in_axes=(None, 0))(params, archs)[0])

    return Policy(
        name,
        supernet,
        init,
        propose=lambda key, state: drawer.draw(key, state.params, num_archs),
        ask=lambda key, state: drawer.draw(key, state.params, num_asked),
        update=update,
        decide=decide,
        timetable=timetable,
        terms=TERMS,
        prefer=lambda state, archs: np.asarray(log_probs(state.params, jnp.asarray(archs, jnp.int32))),
    )
