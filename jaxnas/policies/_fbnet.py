"""FBNet: Gumbel softmax weights and a cost term (Wu et al., CVPR 2019, arXiv 1812.03443)."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

from jaxnas.checks import number, whole
from jaxnas.costs import Limit
from jaxnas.policies.mixture import Mixture, MixtureState, adam, make_mixture, masked
from jaxnas.policies.policy import Policy, Timetable
from jaxnas.supernets import Supernet


def fbnet(
    supernet: Supernet,
    limit: Limit | None = None,
    *,
    learning_rate: float = 0.01,
    weight_decay: float = 5e-4,
    first_temperature: float = 5.0,
    last_temperature: float = 0.05,
    temperature_decay: float = 0.045 * 90,
    num_updates: int = 10_000,
    cost_weight: float = 0.2,
    cost_power: float = 0.6,
    updates_per_step: float = 0.25,
) -> Policy:
    """Mix by Gumbel softmax weights whose temperature falls, and pay for what the mixture is expected to cost.

    The loss has cost_weight * (expected cost / limit) ** cost_power added; without a limit nothing. This is the form
    and these are the numbers of a public port; the paper multiplies by cost_weight * log(cost) ** cost_power. The
    expected cost is that of the softmax of theta. A limit that isn't additive enters by what each operation would cost
    in place of that of the likeliest code. The temperature is 5 exp(-0.045 epoch) over 90 epochs (eval-nas, at least
    0.05).

    Args:
      temperature_decay: the exponent at the last update.
      num_updates: over which the temperature falls.
      updates_per_step: of the weights; a fifth of the images are for theta and four fifths for the weights, so that
        their epochs alternate.

    Raises:
      ValueError: a bad setting, a limit that nothing meets, or a space of which no code stands for a mixture, or whose
        wiring is searched and that has a limit.
    """
    positive = {"learning_rate": learning_rate, "last_temperature": last_temperature, "cost_power": cost_power}
    for name, value in (positive | {"updates_per_step": updates_per_step}).items():
        number(f"fbnet: {name}", value, above=0)
    number("fbnet: first_temperature", first_temperature, last_temperature)
    for name, value in (("weight_decay", weight_decay), ("cost_weight", cost_weight)):
        number(f"fbnet: {name}", value, 0)
    number("fbnet: temperature_decay", temperature_decay, 0)
    whole("fbnet: num_updates", num_updates, 1)
    space, shape = supernet.space, (len(supernet.num_candidates), max(supernet.num_candidates))
    if limit is not None and supernet.is_decoded and supernet.encode is not None:
        raise ValueError(
            f"fbnet: of {space.name}, whose wiring is searched, a mixture has no {limit.name}; give no limit."
        )
    if limit is not None and not limit.value > 0:
        raise ValueError(f"fbnet: its cost term divides by the limit, got {limit}; expected one above 0.")

    def weights(key: chex.PRNGKey, alphas: chex.Array, done: chex.Array) -> chex.Array:
        share = jnp.minimum(1.0, done.astype(jnp.float32) / num_updates)
        temperature = jnp.maximum(first_temperature * jnp.exp(-temperature_decay * share), last_temperature)
        logs = jax.nn.log_softmax(masked(supernet, alphas), axis=-1)
        return jax.nn.softmax((logs + jax.random.gumbel(key, logs.shape)) / temperature, axis=-1)

    def aid(state: MixtureState) -> tuple[chex.Array, chex.Array]:
        """Of each operation what it adds, in units of the limit, [num_choices, max(num_ops)]; and the rest."""
        if limit is None:
            return jnp.zeros(shape), jnp.zeros(())
        if limit.table is not None:
            return jnp.asarray(limit.table.per_op / limit.value, jnp.float32), jnp.float32(
                limit.table.fixed / limit.value
            )
        code = np.asarray(masked(supernet, state.alphas)).argmax(axis=1)
        swapped = np.tile(code.astype(np.int32), (*shape, 1))
        for choice, num_ops in enumerate(space.num_ops):
            swapped[choice, :num_ops, choice] = np.arange(num_ops)
        costs = limit.costs(swapped.reshape(-1, len(code))).reshape(shape) / limit.value
        base = costs[0, code[0]]
        return jnp.asarray(costs - base, jnp.float32), jnp.float32(base)

    def penalty(alphas: chex.Array, aid: Any) -> chex.Array:
        if limit is None:
            return jnp.zeros(())
        per_op, rest = aid
        expected = (jax.nn.softmax(masked(supernet, alphas), axis=-1) * per_op).sum() + rest
        return cost_weight * jnp.maximum(expected, 1e-6) ** cost_power

    mixture = Mixture(
        init=lambda key: (jnp.ones(shape), ()),
        weights=weights,
        logits=lambda alphas: masked(supernet, alphas),
        penalty=penalty,
        aid=aid,
    )

    def timetable(num_steps: int, steps_per_epoch: int) -> Timetable:
        return Timetable(0, steps_per_epoch, max(1, round(updates_per_step * steps_per_epoch)))

    return make_mixture("fbnet", supernet, limit, mixture, adam(learning_rate, weight_decay), timetable)
