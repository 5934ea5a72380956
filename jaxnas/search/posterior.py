"""Posterior fading where it can be computed: Gaussian posteriors of the shared parameters (PC-NAS, arXiv 1910.02543).

One-shot training replaces each model's own posterior p_k by one shared by all K models, which if they contribute
independently is p_share = prod_i p_i / Z. Then KL(p_k || p_share) = sum over the other i of the cross-entropies
H(p_k, p_i), plus log Z: a term for every other model in the training (the paper's derivation). With log Z counted it
grows with K for Gaussians even where all models agree, since K equal posteriors multiply to one that is K times too
sure.
"""

import chex
import numpy as np


def shared_posterior(means: chex.ArrayNumpy, variances: chex.ArrayNumpy) -> tuple[np.ndarray, np.ndarray]:
    """The normalised product of K diagonal Gaussians, float [num_models, num_params]: its mean and variance
    [num_params]."""
    means, precisions = _check(means, variances)
    precision = precisions.sum(axis=0)
    return (precisions * means).sum(axis=0) / precision, 1 / precision


def posterior_fading(means: chex.ArrayNumpy, variances: chex.ArrayNumpy) -> np.ndarray:
    """KL(p_k || p_share) in nats of each model's own posterior to the shared one: float64 [num_models].

    Args:
      means, variances: of the diagonal Gaussian p_k, float [num_models, num_params]; variances above 0. For models of
        one parameter with means mu_k and a common variance v it is (K - 1 - ln K + K (mu_k - mean mu)^2 / v) / 2.

    Raises:
      ValueError: shapes that are none, means that are not finite, a variance that is not above 0.
    """
    means, precisions = _check(means, variances)
    mean, variance = shared_posterior(means, 1 / precisions)
    ratio = 1 / (precisions * variance)  # own variance over the shared one
    return 0.5 * (ratio - 1 - np.log(ratio) + (means - mean) ** 2 / variance).sum(axis=1)


def _check(means: chex.ArrayNumpy, variances: chex.ArrayNumpy) -> tuple[np.ndarray, np.ndarray]:
    """Means and precisions as float64."""
    means, variances = np.asarray(means, np.float64), np.asarray(variances, np.float64)
    if means.ndim != 2 or not means.size or means.shape != variances.shape:
        raise ValueError(
            f"posteriors have means {means.shape} and variances {variances.shape},"
            " expected both [num_models, num_params]."
        )
    if not (np.isfinite(means).all() and np.isfinite(variances).all() and (variances > 0).all()):
        raise ValueError("posteriors must have finite means and finite variances above 0.")
    return means, 1 / variances
