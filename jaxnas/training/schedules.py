"""How the weight of a loss term grows: functions from the step, counted from 0, to the weight, as optax's schedules.

The forms of landmark regularisation (arXiv 2104.05309 and its authors' code). All are zero through the warm-up.
"""

from collections.abc import Sequence

import chex
import jax.numpy as jnp
import optax


def constant(value: float, *, warmup_steps: int = 0) -> optax.Schedule:
    """`value` from step `warmup_steps` on."""
    return lambda step: jnp.where(step < warmup_steps, 0.0, value)


def cosine_increase(value: float, *, num_steps: int, warmup_steps: int = 0) -> optax.Schedule:
    """Half a cosine that starts to rise after the warm-up and reaches `value` at step `num_steps - 1`.

    The published shape, rescaled to what its name promises; `published_increase` is the literal one.

    >>> [round(float(cosine_increase(10.0, num_steps=3)(step)), 3) for step in range(3)]
    [2.5, 7.5, 10.0]
    """
    _check_warmup("cosine_increase", warmup_steps, num_steps, "steps")

    def schedule(step: chex.Numeric) -> chex.Numeric:
        share = jnp.clip((step - warmup_steps + 1) / (num_steps - warmup_steps), 0.0, 1.0)
        return jnp.where(step < warmup_steps, 0.0, 0.5 * value * (1 - jnp.cos(jnp.pi * share)))

    return schedule


def published_increase(
    value: float, *, num_epochs: int, steps_per_epoch: int, warmup_epochs: int = 0
) -> optax.Schedule:
    """The authors' schedule as their code runs it: value * (1 - cos(pi (epoch - warmup_epochs + 1) / num_epochs)) / 2.

    It moves once an epoch, and divides by all epochs though the warm-up has taken some of them: with 200 epochs, 100 of
    them warm-up, and a value of 10 it ends at 5. Beyond `num_epochs` (their later search phase) it keeps growing.
    """
    _check_warmup("published_increase", warmup_epochs, num_epochs, "epochs")
    if steps_per_epoch < 1:
        raise ValueError(f"published_increase: steps_per_epoch must be at least 1, got {steps_per_epoch}.")

    def schedule(step: chex.Numeric) -> chex.Numeric:
        epoch = step // steps_per_epoch
        share = (epoch - warmup_epochs + 1) / num_epochs
        return jnp.where(epoch < warmup_epochs, 0.0, 0.5 * value * (1 - jnp.cos(jnp.pi * share)))

    return schedule


def stepped(
    value: float, *, num_steps: int, warmup_steps: int = 0, factors: Sequence[float] = (0.0, 0.01, 0.1, 1.0)
) -> optax.Schedule:
    """`value` times one factor after the other, each for an equal part of what follows the warm-up.

    The default is the authors' increase by tens over quarters; reversed, their decrease.
    """
    _check_warmup("stepped", warmup_steps, num_steps, "steps")

    def schedule(step: chex.Numeric) -> chex.Numeric:
        part = (step - warmup_steps) * len(factors) // (num_steps - warmup_steps)
        factor = jnp.asarray(factors, jnp.float32)[jnp.clip(part, 0, len(factors) - 1)]
        return jnp.where(step < warmup_steps, 0.0, value * factor)

    return schedule


SCHEDULES = {
    "constant": constant,
    "cosine_increase": cosine_increase,
    "published_increase": published_increase,
    "stepped": stepped,
}


def _check_warmup(name: str, warmup: int, total: int, unit: str) -> None:
    if not 0 <= warmup < total:
        raise ValueError(f"{name}: warmup_{unit} must be within [0, num_{unit} = {total}), got {warmup}.")
