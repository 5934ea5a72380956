"""How the weight of a loss term grows: functions from the step, counted from 0, to the weight, as optax's schedules.

The forms of landmark regularisation (arXiv 2104.05309) and of its authors' ablation, as their code runs them
(kcyu2014/nas-landmarkreg, nasws/cnn/procedures/landmark_procedures.py): weights that move once an epoch. All are zero
through the warm-up. What of theirs is not here:

- A ramp over the first epochs of the constant and the decreasing forms, 5 or 10 in their scripts. To have it, join
  `optax.linear_schedule` and the form with `optax.join_schedules`.
- "inverse_lr", which none of their scripts names and whose weight is zero wherever their landmark loss asks for it.
- A loss weighted by the difference of accuracy ("embed", to which "infinite" comes down where landmarks are sorted),
  and chains of three landmarks for pairs. They are no schedules; no script turns them on.
"""

from collections.abc import Sequence

import chex
import jax.numpy as jnp
import numpy as np
import optax

from jaxnas.checks import number, whole


def constant(value: float, *, warmup_steps: int = 0) -> optax.Schedule:
    """`value` from step `warmup_steps` on."""
    value = number("constant: value", value)
    warmup_steps = whole("constant: warmup_steps", warmup_steps)
    return lambda step: jnp.where(step < warmup_steps, 0.0, value)


def cosine_increase(value: float, *, num_steps: int, warmup_steps: int = 0) -> optax.Schedule:
    """Half a cosine that starts to rise after the warm-up and reaches `value` at step `num_steps - 1`.

    The published shape, rescaled to what its name promises; `published_increase` is the literal one.

    >>> [round(float(cosine_increase(10.0, num_steps=3)(step)), 3) for step in range(3)]
    [2.5, 7.5, 10.0]
    """
    value = number("cosine_increase: value", value)
    num_steps = whole("cosine_increase: num_steps", num_steps, 1)
    warmup_steps = whole("cosine_increase: warmup_steps", warmup_steps, 0, num_steps - 1)

    def schedule(step: chex.Numeric) -> chex.Numeric:
        share = jnp.clip((step - warmup_steps + 1) / (num_steps - warmup_steps), 0.0, 1.0)
        return jnp.where(step < warmup_steps, 0.0, 0.5 * value * (1 - jnp.cos(jnp.pi * share)))

    return schedule


def published_increase(
    value: float, *, num_epochs: int, steps_per_epoch: int, warmup_epochs: int = 0
) -> optax.Schedule:
    """The authors' "cosine_increase": value * (1 - cos(pi (epoch - warmup_epochs + 1) / num_epochs)) / 2.

    It divides by all epochs though the warm-up has taken some of them: with 200 epochs, 100 of them warm-up, and a
    value of 10 it ends at 5. Beyond `num_epochs` (their later search phase) it keeps growing.
    """
    value, num_epochs, steps_per_epoch, warmup_epochs = _epochs(
        "published_increase", value, num_epochs, steps_per_epoch, warmup_epochs
    )

    def schedule(step: chex.Numeric) -> chex.Numeric:
        epoch = step // steps_per_epoch - warmup_epochs
        share = (epoch + 1) / num_epochs
        return jnp.where(epoch < 0, 0.0, 0.5 * value * (1 - jnp.cos(jnp.pi * share)))

    return schedule


def cosine_decrease(value: float, *, num_epochs: int, steps_per_epoch: int, warmup_epochs: int = 0) -> optax.Schedule:
    """The authors' "cosine_decrease": value * (1 + cos(pi (epoch + 1) / E)) / 2 over the E epochs after the warm-up.

    It ends at zero, in the last epoch, and stays there.
    """
    value, num_epochs, steps_per_epoch, warmup_epochs = _epochs(
        "cosine_decrease", value, num_epochs, steps_per_epoch, warmup_epochs
    )

    def schedule(step: chex.Numeric) -> chex.Numeric:
        epoch = step // steps_per_epoch - warmup_epochs
        share = jnp.minimum((epoch + 1) / (num_epochs - warmup_epochs), 1.0)
        return jnp.where(epoch < 0, 0.0, 0.5 * value * (1 + jnp.cos(jnp.pi * share)))

    return schedule


def stepped(
    value: float,
    *,
    num_epochs: int,
    steps_per_epoch: int,
    warmup_epochs: int = 0,
    factors: Sequence[float] = (0.0, 0.01, 0.1, 1.0),
) -> optax.Schedule:
    """`value` times one of four factors after the other: the authors' "linear_step_increase".

    They change after E // 4, E // 2 and 3 (E // 4) of the E epochs that follow the warm-up; what doesn't divide by four
    goes to the second and the last. So of 7 epochs the factors take 1, 2, 0 and 4.

    >>> schedule = stepped(10.0, num_epochs=6, steps_per_epoch=1)
    >>> [round(float(schedule(epoch)), 3) for epoch in range(6)]
    [0.0, 0.1, 0.1, 10.0, 10.0, 10.0]
    """
    value, num_epochs, steps_per_epoch, warmup_epochs = _epochs(
        "stepped", value, num_epochs, steps_per_epoch, warmup_epochs
    )
    factors = [number("stepped: a factor", factor) for factor in factors]
    if len(factors) != 4:
        raise ValueError(f"stepped: got {len(factors)} factors, expected 4, one for each quarter.")
    left = num_epochs - warmup_epochs
    # Of fewer than four epochs the third bound is below the second, which was asked first.
    bounds = np.maximum.accumulate([left // 4, left // 2, 3 * (left // 4)])

    def schedule(step: chex.Numeric) -> chex.Numeric:
        epoch = step // steps_per_epoch - warmup_epochs
        part = sum(jnp.asarray(epoch >= bound, jnp.int32) for bound in bounds.tolist())
        return jnp.where(epoch < 0, 0.0, value * jnp.asarray(factors, jnp.float32)[part])

    return schedule


def stepped_decrease(value: float, *, num_epochs: int, steps_per_epoch: int, warmup_epochs: int = 0) -> optax.Schedule:
    """The authors' "linear_step_decrease": `stepped` with the factors 1, 0.1, 0.01 and 0.001."""
    epochs = {"num_epochs": num_epochs, "steps_per_epoch": steps_per_epoch, "warmup_epochs": warmup_epochs}
    return stepped(value, **epochs, factors=(1.0, 0.1, 0.01, 0.001))


SCHEDULES = {
    "constant": constant,
    "cosine_increase": cosine_increase,
    "published_increase": published_increase,
    "cosine_decrease": cosine_decrease,
    "stepped": stepped,
    "stepped_decrease": stepped_decrease,
}


def _epochs(
    name: str, value: float, num_epochs: int, steps_per_epoch: int, warmup_epochs: int
) -> tuple[float, int, int, int]:
    num_epochs = whole(f"{name}: num_epochs", num_epochs, 1)
    return (
        number(f"{name}: value", value),
        num_epochs,
        whole(f"{name}: steps_per_epoch", steps_per_epoch, 1),
        whole(f"{name}: warmup_epochs", warmup_epochs, 0, num_epochs - 1),
    )
