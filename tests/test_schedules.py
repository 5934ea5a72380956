"""Weights of loss terms at points that were worked out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnas.training.schedules import SCHEDULES, constant, cosine_increase, published_increase, stepped

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
        (
            stepped(5.0, num_steps=10, warmup_steps=2),
            {0: 0.0, 2: 0.0, 3: 0.0, 4: 0.05, 6: 0.5, 8: 5.0, 9: 5.0, 100: 5.0},
        ),
        (stepped(5.0, num_steps=4, factors=(1.0, 0.1)), {0: 5.0, 1: 5.0, 2: 0.5, 3: 0.5}),
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


def test_refusals():
    with pytest.raises(ValueError, match=r"warmup_steps must be within \[0, num_steps = 5\), got 5"):
        cosine_increase(1.0, num_steps=5, warmup_steps=5)
    with pytest.raises(ValueError, match=r"warmup_epochs must be within \[0, num_epochs = 5\), got -1"):
        published_increase(1.0, num_epochs=5, steps_per_epoch=1, warmup_epochs=-1)
    with pytest.raises(ValueError, match="steps_per_epoch must be at least 1, got 0"):
        published_increase(1.0, num_epochs=5, steps_per_epoch=0)
    with pytest.raises(ValueError, match="stepped: warmup_steps"):
        stepped(1.0, num_steps=0)
    assert all(SCHEDULES[name].__name__ == name for name in SCHEDULES)
