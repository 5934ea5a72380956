"""Losses against SciPy and numbers by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from jaxnas.evaluation import cross_entropy, is_correct
from jaxnas.training import ranking_loss

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(3, 7, 4)).astype(np.float32) * 3
LABELS = RNG.integers(0, 4, 7)


def test_by_hand():
    logits = jnp.log(jnp.array([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]]))
    np.testing.assert_allclose(cross_entropy(logits, jnp.array([0, 1])), [np.log(2), np.log(10)], rtol=1e-6)
    smooth = cross_entropy(logits, jnp.array([0, 1]), label_smoothing=0.3)
    # seven tenths on the label and a tenth on each class
    expected = [0.8 * np.log(2) + 0.2 * np.log(4), 0.8 * np.log(10) + 0.1 * np.log(10) - 0.1 * np.log(0.8)]
    np.testing.assert_allclose(smooth, expected, rtol=1e-6)
    assert is_correct(logits, jnp.array([0, 1])).tolist() == [True, False]


def test_agrees_with_scipy_per_image_and_architecture():
    expected = -np.take_along_axis(scipy.special.log_softmax(LOGITS, axis=-1), LABELS[None, :, None], axis=-1)[..., 0]
    np.testing.assert_allclose(cross_entropy(LOGITS, LABELS), expected, rtol=1e-5)
    np.testing.assert_array_equal(is_correct(LOGITS, LABELS), LOGITS.argmax(-1) == LABELS)


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_gradient_is_softmax_minus_target(label_smoothing):
    gradient = jax.grad(lambda logits: cross_entropy(logits, LABELS, label_smoothing=label_smoothing).sum())(LOGITS)
    target = (1 - label_smoothing) * np.eye(4)[LABELS] + label_smoothing / 4
    np.testing.assert_allclose(gradient, scipy.special.softmax(LOGITS, axis=-1) - target, atol=1e-6)


def test_large_logits_stay_finite_and_nan_stays_nan():
    np.testing.assert_allclose(cross_entropy(jnp.array([[1e4, -1e4]]), jnp.array([1])), [2e4])
    assert np.isnan(cross_entropy(jnp.array([[jnp.nan, 0.0]]), jnp.array([1]))).all()


# Ranking. Four architectures, the best first: of the six pairs, (0, 1) and (2, 3) are the wrong way round.
ORDER = jnp.array([0.9, 0.8, 0.6, 0.5])
LOSS = jnp.array([1.0, 0.75, 2.0, 1.5])


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, (0.25 + 0.5) / 6),
        ({"reduce_fn": jnp.sum}, 0.25 + 0.5),
        ({"pairs": jnp.array([[0, 1], [2, 3]])}, 0.75 / 2),
        # differences better - worse: (0,1) .25, (0,2) -1, (0,3) -.5, (1,2) -1.25, (1,3) -.75, (2,3) .5
        ({"margin": 0.75, "reduce_fn": jnp.sum}, 1.0 + 0.0 + 0.25 + 0.0 + 0.0 + 1.25),
        ({"beta": 2.0, "reduce_fn": jnp.sum}, sum(np.log1p(np.exp([0.5, -2, -1, -2.5, -1.5, 1.0]))) / 2),
        ({"beta": 4.0, "margin": 0.5, "pairs": jnp.array([[2, 3]])}, np.log1p(np.exp(4 * 1.0)) / 4),
        # ties: (0, 1) and (2, 3) lie 0.1 apart
        ({"tolerance": 0.15, "reduce_fn": jnp.sum}, 0.0),
        ({"tolerance": 0.15, "margin": 0.75}, 0.25 / 4),
        ({"where": jnp.array([True, True, True, False]), "reduce_fn": jnp.sum}, 0.25),
        ({"where": jnp.array([True, True, True, False])}, 0.25 / 3),
        ({"pairs": jnp.array([[0, 1], [1, 0], [3, 1]])}, (0.25 + 0.25 + 0.0) / 3),
        ({"tolerance": 1.0}, 0.0),  # all tied
        ({"where": jnp.zeros(4, bool), "beta": 1.0}, 0.0),
    ],
)
def test_ranking_by_hand(options, expected):
    np.testing.assert_allclose(ranking_loss(LOSS, ORDER, **options), expected, rtol=1e-6)


def test_ranking_takes_any_unit_and_drops_what_has_no_order():
    np.testing.assert_allclose(ranking_loss(LOSS, 1e8 * ORDER), ranking_loss(LOSS, ORDER))
    np.testing.assert_allclose(ranking_loss(LOSS, -ORDER, reduce_fn=jnp.sum), 1.0 + 0.5 + 1.25 + 0.75)
    np.testing.assert_allclose(ranking_loss(LOSS, jnp.array([0.9, jnp.nan, 0.6, 0.5])), 0.5 / 3)
    tied = jnp.array([0.5, 0.5, 0.7, 0.7])  # 2 and 3 are better than 0 and 1, and cost 1, 1.25, 0.5, 0.75
    np.testing.assert_allclose(ranking_loss(LOSS, tied), 3.5 / 4)


@pytest.mark.parametrize("options", [{}, {"margin": 0.3}, {"beta": 5.0}, {"beta": 1.0, "margin": 0.1}])
def test_ranking_gradient_against_finite_differences(options):
    rng = np.random.default_rng(3)
    losses, order = rng.normal(size=6), np.array([0.1, 0.2, 0.2, 0.7, 0.5, 0.9])
    pairs = jnp.array([[0, 1], [4, 2], [1, 2], [5, 3], [0, 5], [0, 5]])
    for chosen in (None, pairs):
        with jax.enable_x64(True):
            function = jax.jit(lambda x, chosen=chosen: ranking_loss(x, order, pairs=chosen, **options))
            got = jax.grad(function)(jnp.asarray(losses))
            steps = 1e-6 * np.eye(6)
            expected = [(function(losses + step) - function(losses - step)) / 2e-6 for step in steps]
        assert np.abs(got).max() > 0.05
        np.testing.assert_allclose(got, expected, atol=1e-8)


def test_ranking_pulls_both_and_dropped_items_get_nothing():
    gradient = jax.grad(lambda losses: ranking_loss(losses, ORDER, reduce_fn=jnp.sum))(LOSS)
    assert gradient.tolist() == [1.0, -1.0, 1.0, -1.0]  # the better loss down, the worse up
    losses = jnp.array([1.0, 0.75, 2.0, jnp.nan])
    for beta in (None, 3.0):
        loss = lambda x, beta=beta: ranking_loss(x, ORDER, where=jnp.isfinite(x), beta=beta)  # noqa: E731
        assert np.isfinite(jax.grad(loss)(losses)).all() and jax.grad(loss)(losses)[3] == 0
        everything_tied = jax.grad(lambda x, beta=beta: ranking_loss(x, 0 * ORDER, beta=beta))(losses)
        assert everything_tied.tolist() == [0.0] * 4
    assert np.isnan(ranking_loss(losses, ORDER))  # nothing is hidden that was not dropped


@pytest.mark.parametrize(
    ("losses", "order", "options", "message"),
    [
        (LOSS[:1], ORDER[:1], {}, r"losses have shape \(1,\) and order \(1,\); expected .* at least 2"),
        (LOSS, ORDER[:3], {}, r"losses have shape \(4,\) and order \(3,\)"),
        (LOSS[None], ORDER[None], {}, "expected two vectors"),
        (LOSS, ORDER, {"pairs": jnp.zeros(2, int)}, r"pairs have shape \(2,\), expected \[num_pairs, 2\]"),
    ],
)
def test_ranking_refuses(losses, order, options, message):
    with pytest.raises(ValueError, match=message) as error:
        ranking_loss(losses, order, **options)
    assert "\n" not in str(error.value)
