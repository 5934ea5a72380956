"""A Gaussian process over groups of features, each with a length of its own: small, exact, without a random start.

scikit-learn's has one length for all features or one for each. Here a hundred columns of codes, one of costs and
twenty of fingerprints are three groups: three lengths, which a dozen labels can tell. What is fitted has a prior, so
that it is defined from no label on (maximum a posteriori; Rasmussen and Williams, "Gaussian Processes for Machine
Learning", 2006, 5.4.1 for the gradient and 5.4.2 for what is left out).
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import scipy.linalg
import scipy.optimize

# Means and deviations of the logarithms: one over a group's squared length, the signal's variance, the noise's. With
# targets of variance 1, and groups whose mean squared distance is 1.
CLOSENESS, SIGNAL, NOISE = (-1.0, 1.5), (0.0, 1.0), (-1.5, 1.0)
TRUST = 0.5  # what a deviation of the ranking without labels is taken to mean, in deviations of the target
DOUBT = 0.3  # standard deviation of that
OFFSET = 0.5  # standard deviation of the mean of all over that of the known
MOST_FITTED = 200  # labels, the first ones, that lengths and variances are fitted to; all are then predicted from


class Fitted(NamedTuple):
    """What a model says after the labels."""

    mean: np.ndarray  # float64 [num_archs]
    deviations: np.ndarray  # float64 [num_archs], of a new label
    left_out: np.ndarray  # float64 [num_known], each known one predicted from the others
    noise: float = 0.0  # variance of a label; this and the next of a Gaussian process alone
    covariances: Callable[[int], np.ndarray] | None = None  # row -> of what is not known yet with it, [num_archs]


def gaussian_process(groups: Sequence[np.ndarray], known: np.ndarray, target: np.ndarray, prior: np.ndarray) -> Fitted:
    """Fit to `target` [num_known], the values at rows `known`, and predict all rows.

    Args:
      groups: of features, each float [num_archs, any]; their scale is of no matter.
      prior: float [num_archs], mean 0 and deviation 1 (or all 0): the ranking that is expected without labels.
    """
    scaled = [group / np.sqrt(max(2 * group.var(axis=0).sum(), 1e-12)) for group in groups]
    apart = np.array([_squared_distances(group[known], group[known]) for group in scaled])
    rest = target - TRUST * prior[known]
    fixed = DOUBT**2 * np.outer(prior[known], prior[known]) + OFFSET**2
    means, deviations = np.array([CLOSENESS] * len(groups) + [SIGNAL, NOISE]).T
    found, few = means, slice(MOST_FITTED)
    if len(known):
        given = apart[:, few, few], fixed[few, few], rest[few], means, deviations
        bounds = list(zip(means - 5 * deviations, means + 5 * deviations))
        found = scipy.optimize.minimize(
            _objective, means, given, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": 60}
        ).x
    closeness, signal, noise = np.exp(found[:-2]), np.exp(found[-2]), np.exp(found[-1])
    lower = np.linalg.cholesky(signal * _matern(closeness, apart)[0] + fixed + noise * np.eye(len(known)))
    weights = scipy.linalg.cho_solve((lower, True), rest)
    inverse = scipy.linalg.cho_solve((lower, True), np.eye(len(known)))

    def expected(rows: np.ndarray) -> np.ndarray:
        """Covariances of all with some before any label is known, [num_archs, num_rows]."""
        between = np.array([_squared_distances(group, group[rows]) for group in scaled])
        return signal * _matern(closeness, between)[0] + DOUBT**2 * np.outer(prior, prior[rows]) + OFFSET**2

    across = expected(known)
    explained = scipy.linalg.solve_triangular(lower, across.T, lower=True)
    variance = signal + DOUBT**2 * prior**2 + OFFSET**2 - (explained**2).sum(axis=0)
    return Fitted(
        mean=TRUST * prior + across @ weights,
        deviations=np.sqrt(np.maximum(variance, 0.0) + noise),
        left_out=target - weights / np.diag(inverse),
        noise=float(noise),
        covariances=lambda row: expected(np.array([row]))[:, 0] - explained.T @ explained[:, row],
    )


def buy(fitted: Fitted, known: np.ndarray, number: int) -> np.ndarray:
    """The rows of which the labels are least certain, each given those before: int [number], none of them `known`."""
    assert fitted.covariances is not None
    left = fitted.deviations**2 - fitted.noise
    told, rows = np.zeros((0, len(left))), []
    taken = np.isin(np.arange(len(left)), known)
    for _ in range(number):
        row = int(np.argmax(np.where(taken, -np.inf, left)))
        column = fitted.covariances(row) - told.T @ told[:, row]
        told = np.vstack([told, column / np.sqrt(left[row] + fitted.noise)])
        left = np.maximum(left - told[-1] ** 2, 0.0)
        taken[row] = True
        rows.append(row)
    return np.array(rows)


def _objective(
    logs: np.ndarray, apart: np.ndarray, fixed: np.ndarray, rest: np.ndarray, means: np.ndarray, deviations: np.ndarray
) -> tuple[float, np.ndarray]:
    """Minus the logarithm of the posterior, up to a constant, and its gradient, at logarithms [num_groups + 2]."""
    closeness, signal, noise = np.exp(logs[:-2]), np.exp(logs[-2]), np.exp(logs[-1])
    likeness, slope = _matern(closeness, apart)
    lower = np.linalg.cholesky(signal * likeness + fixed + noise * np.eye(len(rest)))
    weights = scipy.linalg.cho_solve((lower, True), rest)
    off = (logs - means) / deviations
    value = 0.5 * rest @ weights + np.log(np.diag(lower)).sum() + 0.5 * off @ off
    by_entry = 0.5 * (scipy.linalg.cho_solve((lower, True), np.eye(len(rest))) - np.outer(weights, weights))
    gradient = np.empty_like(logs)
    gradient[:-2] = closeness * np.tensordot(apart, by_entry * signal * slope, axes=2)
    gradient[-2] = signal * np.vdot(by_entry, likeness)
    gradient[-1] = noise * np.trace(by_entry)
    return float(value), gradient + off / deviations


def _matern(closeness: np.ndarray, apart: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Matérn's kernel of smoothness 5/2 over squared distances [num_groups, ...] weighted by `closeness`, and its
    derivative by the weighted sum."""
    root = np.sqrt(5 * np.tensordot(closeness, apart, axes=1))
    decay = np.exp(-root)
    return (1 + root + root**2 / 3) * decay, -5 / 6 * (1 + root) * decay


def _squared_distances(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    squares = (rows**2).sum(axis=1)[:, None] + (columns**2).sum(axis=1) - 2 * rows @ columns.T
    return np.maximum(squares, 0.0)
