"""Posterior fading: the closed form, an integral by scipy, and what the paper argues."""

import numpy as np
import pytest
import scipy.integrate
import scipy.stats

from jaxnas.search.posterior import posterior_fading, shared_posterior


@pytest.mark.parametrize("num_models", [1, 2, 3, 10, 243])
def test_closed_form_of_one_parameter(num_models):
    """KL = (K - 1 - ln K + K (mu_k - mean)^2 / sigma^2) / 2."""
    means, variance = np.random.default_rng(num_models).normal(size=(num_models, 1)), 0.49
    k = num_models
    expected = 0.5 * (k - 1 - np.log(k) + k * (means[:, 0] - means.mean()) ** 2 / variance)
    np.testing.assert_allclose(posterior_fading(means, np.full_like(means, variance)), expected, atol=1e-12)


def test_numbers_by_hand():
    """Two standard normals at -1 and 1 share N(0, 1/2): (2 - 1 - ln 2 + 2) / 2 each; alone nothing fades."""
    np.testing.assert_allclose(posterior_fading([[-1.0], [1.0]], [[1.0], [1.0]]), [(3 - np.log(2)) / 2] * 2)
    np.testing.assert_allclose(posterior_fading([[3.0, 4.0]], [[1.0, 2.0]]), [0])
    assert [array.tolist() for array in shared_posterior([[-1.0], [1.0]], [[1.0], [1.0]])] == [[0.0], [0.5]]
    # Precisions 1 and 3: the mean is (1 * 0 + 3 * 4) / 4.
    assert [array.tolist() for array in shared_posterior([[0.0], [4.0]], [[1.0], [1 / 3]])] == [[3.0], [0.25]]


def test_it_is_the_divergence_to_the_normalised_product():
    """By numerical integration of densities, with means and variances that differ."""
    means, variances = np.array([[0.3], [-0.5], [1.1]]), np.array([[0.5], [1.5], [0.8]])
    grid = np.linspace(-12, 12, 20_001)
    densities = scipy.stats.norm.pdf(grid, means, np.sqrt(variances))
    product = densities.prod(axis=0)
    product /= scipy.integrate.trapezoid(product, grid)
    terms = np.where(densities > 1e-200, densities * (np.log(densities + 1e-300) - np.log(product + 1e-300)), 0)
    expected = scipy.integrate.trapezoid(np.where(np.abs(grid) < 8, terms, 0), grid, axis=1)
    np.testing.assert_allclose(posterior_fading(means, variances), expected, rtol=1e-6)


def test_more_models_fade_more_and_parameters_add_up():
    means = np.zeros((5, 3))
    by_size = [posterior_fading(means[:k], np.ones((k, 3)))[0] for k in range(1, 6)]
    assert by_size[0] == 0 and (np.diff(by_size) > 0).all()
    rng = np.random.default_rng(0)
    means, variances = rng.normal(size=(4, 3)), rng.uniform(0.5, 2, (4, 3))
    alone = [posterior_fading(means[:, [i]], variances[:, [i]]) for i in range(3)]
    np.testing.assert_allclose(posterior_fading(means, variances), sum(alone))


@pytest.mark.parametrize(
    "means, variances, message",
    [
        (np.zeros(3), np.ones(3), r"means \(3,\) and variances \(3,\), expected both \[num_models, num_params\]"),
        (np.zeros((2, 1)), np.ones((1, 2)), r"means \(2, 1\) and variances \(1, 2\)"),
        (np.zeros((2, 1)), np.zeros((2, 1)), "finite variances above 0"),
        (np.full((2, 1), np.nan), np.ones((2, 1)), "must have finite means"),
    ],
)
def test_what_is_no_posterior(means, variances, message):
    with pytest.raises(ValueError, match=message):
        posterior_fading(means, variances)
