"""Losses against SciPy and numbers by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from jaxnas.losses import cross_entropy, is_correct

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
