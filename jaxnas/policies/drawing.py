"""Codes drawn choice by choice from logits that may depend on the choices before, within a hard limit.

A `Chain` says how logits come about: a table of them (REINFORCE, mixtures), or a recurrent network (ENAS). Under an
additive limit an operation is only drawn where the cheapest rest of the code still fits, in float32; every draw is then
checked by the exact limit on the host, and codes that don't exist, or miss it, are drawn again. What is missing after
`MAX_ROUNDS` is drawn uniformly from the feasible region, so that there always is an answer.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from jaxnas.codes import exist
from jaxnas.costs import Limit
from jaxnas.search import host_rng
from jaxnas.search.regions import Region
from jaxnas.space import SearchSpace

MAX_ROUNDS = 16
MIN_DRAWS = 64  # of a round; what is drawn beyond need is dropped


class Chain(NamedTuple):
    """Logits choice by choice.

    Attributes:
      start: params -> carry before the first choice.
      step: (params, carry, op before, choice) -> (carry, logits [max(num_ops)]); op and choice are int32 scalars, of
        the first choice the op before is 0.
    """

    start: Callable[[Any], Any]
    step: Callable[[Any, Any, chex.Array, chex.Array], tuple[Any, chex.Array]]


TABLE = Chain(start=lambda params: (), step=lambda params, carry, op, choice: (carry, params[choice]))


class Drawer(NamedTuple):
    """Draws from a chain and says how likely a draw was.

    Attributes:
      draw: (key, params, num_archs) -> archs int32 [num_archs, num_choices], feasible; on the host.
      log_prob: (params, arch int32 [num_choices]) -> (log-probability, entropies summed over the choices made), pure.
        Of all codes that the masks leave: that infeasible ones are drawn again is left out of it.
    """

    draw: Callable[[chex.PRNGKey, Any, int], np.ndarray]
    log_prob: Callable[[Any, chex.Array], tuple[chex.Array, chex.Array]]


def make_drawer(region: Region, chain: Chain = TABLE) -> Drawer:
    """The drawer over the feasible region, of which at least one architecture must exist."""
    space, choices = region.space, jnp.arange(region.space.num_choices)
    exists = jnp.asarray(exist(space.num_ops))
    costs, budget = _budget(space, region.limit)

    def logits_of(params: Any, carry: Any, op: chex.Array, choice: chex.Array, spent: chex.Array) -> Any:
        carry, logits = chain.step(params, carry, op, choice)
        return carry, jnp.where(exists[choice] & (spent + costs[choice] <= budget), logits, -jnp.inf)

    zero = jnp.zeros((), jnp.int32), jnp.zeros(())

    def draw_one(key: chex.PRNGKey, params: Any) -> chex.Array:
        def step(state: Any, inputs: Any) -> Any:
            carry, op, spent = state
            own_key, choice = inputs
            carry, logits = logits_of(params, carry, op, choice, spent)
            op = jax.random.categorical(own_key, logits).astype(jnp.int32)
            return (carry, op, spent + costs[choice, op]), op

        keys = jax.random.split(key, space.num_choices)
        return jax.lax.scan(step, (chain.start(params), *zero), (keys, choices))[1]

    def log_prob(params: Any, arch: chex.Array) -> tuple[chex.Array, chex.Array]:
        def step(state: Any, inputs: Any) -> Any:
            carry, before, spent = state
            choice, op = inputs
            carry, logits = logits_of(params, carry, before, choice, spent)
            logs = jax.nn.log_softmax(logits)
            return (carry, op, spent + costs[choice, op]), (logs[op], entropies(logs))

        _, (logs, of_choices) = jax.lax.scan(step, (chain.start(params), *zero), (choices, arch))
        return logs.sum(), of_choices.sum()

    @functools.partial(jax.jit, static_argnames="size")
    def draw_round(key: chex.PRNGKey, number: int, params: Any, *, size: int) -> chex.Array:
        keys = jax.random.split(jax.random.fold_in(key, number), size)
        return jax.vmap(draw_one, in_axes=(0, None))(keys, params)

    def draw(key: chex.PRNGKey, params: Any, num_archs: int) -> np.ndarray:
        found, size = np.zeros((0, space.num_choices), np.int32), max(MIN_DRAWS, num_archs)
        for number in range(MAX_ROUNDS):
            archs = np.asarray(draw_round(key, number, params, size=size))
            found = np.concatenate([found, archs[region.contains(archs)]])
            if len(found) >= num_archs:
                return found[:num_archs]
        return np.concatenate([found, region.sample(host_rng(key), num_archs - len(found))])

    return Drawer(draw, log_prob)


def entropies(logs: chex.Array) -> chex.Array:
    """Of log-probabilities [..., num_ops], -inf where there is no operation: [...], in nats."""
    is_possible = jnp.isfinite(logs)
    return -jnp.where(is_possible, jnp.exp(logs) * jnp.where(is_possible, logs, 0), 0).sum(axis=-1)


def moving_baseline(before: chex.Array, mean: chex.Array, num_updates: chex.Array, decay: float) -> chex.Array:
    """The moving average of mean rewards, which begins at the first one."""
    return jnp.where(num_updates == 0, mean, decay * before + (1 - decay) * mean)


def _budget(space: SearchSpace, limit: Limit | None) -> tuple[chex.Array, chex.Array]:
    """Of an additive limit: what each operation costs beyond the cheapest of its choice, [num_choices, max(num_ops)],
    and what all may cost beyond them, in units of the latter; a hair more, for float32 sums."""
    shape = space.num_choices, max(space.num_ops)
    if limit is None or limit.table is None:
        return jnp.zeros(shape), jnp.ones(())
    exists = exist(space.num_ops)
    least = np.where(exists, limit.table.per_op, np.inf).min(axis=1)
    left = max(0.0, limit.value - limit.table.fixed - least.sum())
    over = np.where(exists, limit.table.per_op - least[:, None], 0.0) / (left or 1.0)
    return jnp.asarray(over, jnp.float32), jnp.asarray(bool(left) + 1e-5, jnp.float32)
