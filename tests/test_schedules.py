"""Weights of loss terms at points that were worked out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnas.training.schedules import (
    SCHEDULES,
    constant,
    cosine_decrease,
    cosine_increase,
    published_increase,
    stepped,
    stepped_decrease,
)

ROOT = 2**0.5


@pytest.mark.parametrize(
    ("schedule", "points"),
    [
        (constant(10.0), {0: 10.0, 99: 10.0}),
        (constant(10.0, warmup_steps=3), {0: 0.0, 2: 0.0, 3: 10.0}),
        # half a cosine over the four steps after the warm-up: pi / 4, pi / 2, 3 pi / 4, pi
        (
            cosine_increase(8.0, num_steps=10, warmup_steps=6),
            {0: 0.0, 5: 0.0, 6: 4 - 2 * ROOT, 7: 4.0, 8: 4 + 2 * ROOT, 9: 8.0, 20: 8.0},
        ),
        (cosine_increase(8.0, num_steps=2), {0: 4.0, 1: 8.0}),
        # eight epochs of three steps, four of them warm-up: pi / 8 an epoch, and only half way at the end
        (
            published_increase(8.0, num_epochs=8, steps_per_epoch=3, warmup_epochs=4),
            {0: 0.0, 11: 0.0, 12: 4 - 4 * np.cos(np.pi / 8), 14: 4 - 4 * np.cos(np.pi / 8), 15: 4 - 2 * ROOT}
            | {21: 4.0, 23: 4.0, 33: 8.0},
        ),
        # four epochs of two steps: cosines of pi / 4, pi / 2, 3 pi / 4, pi
        (
            cosine_decrease(8.0, num_epochs=5, steps_per_epoch=2, warmup_epochs=1),
            {1: 0.0, 2: 4 + 2 * ROOT, 3: 4 + 2 * ROOT, 4: 4.0, 7: 4 - 2 * ROOT, 9: 0.0, 30: 0.0},
        ),
        # eight epochs after the warm-up: two for each factor
        (
            stepped(5.0, num_epochs=10, steps_per_epoch=3, warmup_epochs=2),
            {0: 0.0, 6: 0.0, 11: 0.0, 12: 0.05, 17: 0.05, 18: 0.5, 23: 0.5, 24: 5.0, 29: 5.0, 100: 5.0},
        ),
        (stepped(5.0, num_epochs=4, steps_per_epoch=1, factors=(1.0, 2.0, 3.0, 4.0)), {0: 5.0, 1: 10.0, 2: 15.0}),
        (stepped_decrease(4.0, num_epochs=4, steps_per_epoch=1), {0: 4.0, 1: 0.4, 2: 0.04, 3: 0.004, 9: 0.004}),
    ],
)
def test_by_hand(schedule, points):
    for step, expected in points.items():
        np.testing.assert_allclose(schedule(step), expected, rtol=1e-5, atol=1e-6)
    traced = jax.jit(jax.vmap(schedule))(jnp.array(list(points)))  # a step is a traced int32 in training
    np.testing.assert_allclose(traced, list(points.values()), rtol=1e-5, atol=1e-6)
    assert traced.dtype == "float32"


@pytest.mark.parametrize(
    ("num_epochs", "warmup_epochs", "last"),
    [(200, 100, 5.0), (400, 150, 6.9), (400, 100, 8.5), (200, 140, 2.1), (400, 250, 3.1), (400, 300, 1.5)],
)
def test_the_published_runs_end_where_their_code_does(num_epochs, warmup_epochs, last):
    schedule = published_increase(10.0, num_epochs=num_epochs, steps_per_epoch=7, warmup_epochs=warmup_epochs)
    assert float(schedule(7 * num_epochs - 1)) == pytest.approx(last, abs=0.05)
    assert schedule(7 * warmup_epochs - 1) == 0 < schedule(7 * warmup_epochs)


@pytest.mark.parametrize(
    ("num_epochs", "parts"),
    [
        (1, "3"), (2, "13"), (3, "133"), (4, "0123"), (5, "01233"), (6, "011333"), (7, "0113333"), (8, "00112233"),
        (11, "00111233333"),
    ],
)  # fmt: skip
def test_steps_change_in_the_epochs_in_which_the_authors_code_changes_them(num_epochs, parts):
    """By hand from its conditions, asked in this order: below E // 4, below E // 2, below E // 4 * 3, else."""
    schedule = stepped(1.0, num_epochs=2 + num_epochs, steps_per_epoch=5, warmup_epochs=2, factors=(1.0, 2.0, 3.0, 4.0))
    steps = range(5 * (2 + num_epochs))
    assert [float(schedule(step)) for step in steps] == [0.0] * 10 + [
        1.0 + int(part) for part in parts for _ in range(5)
    ]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: cosine_increase(1.0, num_steps=5, warmup_steps=5), "warmup_steps is 5, expected 0 to 4"),
        (lambda: cosine_increase(1.0, num_steps=0), "num_steps is 0"),
        (lambda: cosine_increase(float("nan"), num_steps=5), "cosine_increase: value is nan"),
        (lambda: constant(float("inf")), "constant: value is inf"),
        (lambda: constant(1.0, warmup_steps=2.5), "constant: warmup_steps is 2.5, expected a whole number"),
        (
            lambda: published_increase(1.0, num_epochs=5, steps_per_epoch=1, warmup_epochs=-1),
            "published_increase: warmup_epochs is -1, expected 0 to 4",
        ),
        (lambda: cosine_decrease(1.0, num_epochs=5, steps_per_epoch=0), "cosine_decrease: steps_per_epoch is 0"),
        (lambda: stepped(1.0, num_epochs=0, steps_per_epoch=1), "stepped: num_epochs is 0"),
        (lambda: stepped(1.0, num_epochs=4, steps_per_epoch=1, factors=(0.1, 1.0)), "got 2 factors, expected 4"),
        (lambda: stepped(1.0, num_epochs=4, steps_per_epoch=1, factors=(0, 1, 2, None)), "a factor is None"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message) as error:
        call()
    assert "\n" not in str(error.value)


def test_schedules_are_found_by_their_names():
    assert all(SCHEDULES[name].__name__ == name for name in SCHEDULES)
