"""A ranking predicted from a few known accuracies: what to do with them when a super-net never saw them.

    known = [0, 17, 230]  # rows of archs that have been trained alone, some dozens
    prediction = ranking.predict(archs, known, accuracies, scores=-scores.loss, macs=macs)
    best = archs[prediction.ranks.argmax()]

A regulariser is told the accuracies of some architectures. Whoever has those can as well correct the ranking of a
super-net trained without them, so this is what the regulariser is to be compared with; it needs no training at all.
"""

import warnings
from typing import NamedTuple

import numpy as np
import scipy.stats
from numpy.typing import ArrayLike
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel
from sklearn.linear_model import Ridge
from sklearn.model_selection import KFold, cross_val_predict

from jaxnas.checks import array

NUM_FOLDS = 5


class Prediction(NamedTuple):
    """Where architectures stand among the known ones, whose ranks have mean 0 and deviation 1; higher is better."""

    ranks: np.ndarray  # float64 [num_archs]
    deviations: np.ndarray  # float64 [num_archs], the standard deviation of each one's rank around what is predicted
    model: str  # the one that predicted best across the folds


def predict(
    archs: ArrayLike,
    known: ArrayLike,
    accuracies: ArrayLike,
    *,
    scores: ArrayLike | None = None,
    macs: ArrayLike | None = None,
) -> Prediction:
    """What a predictor fitted to a few known accuracies says of all `archs`.

    Candidates are the super-net's score alone, ridge regressions and a Gaussian process over score, MACs and one-hot
    codes. The one taken has the highest Kendall's tau between the known accuracies and what it predicts for each from
    the other folds: a few dozen may be too few for the codes, and nothing but them may decide that. Scores and MACs
    enter as ranks among all architectures, which needs no ground truth; the target is the rank among the known, since
    tau knows nothing else and a few very bad architectures would otherwise rule the fit. Without `scores` it is the
    baseline that any use of a super-net has to beat once accuracies are known.

    Deviations are those of a new observation: the Gaussian process states its own; for ridge they are the textbook's
    for regression, the residuals' variance over the degrees of freedom that the penalty leaves, times one plus the
    leverage. On the tables of three spaces with 30 known, 50 to 71 % of the others lay within one and 91 to 100 %
    within 1.96 deviations, by model.

    Args:
      archs: int [num_archs, num_choices].
      known: int [num_known], rows of `archs`, two or more.
      accuracies: [num_known], of training alone, or whatever else orders them; higher is better.
      scores: [num_archs], of a super-net; higher is better.
      macs: [num_archs].

    Raises a ValueError for shapes that don't match, rows that don't exist or come twice, values that are not finite,
    and accuracies that are all equal.
    """
    archs = array("archs", archs, (None, None), "integer")
    known = array("known", known, (None,), "integer", least=0, most=len(archs) - 1)
    accuracies = array("accuracies", accuracies, (len(known),)).astype(np.float64)
    _check_known(archs, known, accuracies)
    columns = {"score": scores, "macs": macs}
    given = {name: array(name, values, (len(archs),)) for name, values in columns.items() if values is not None}
    features = _features(archs, list(given.values()))
    target = scipy.stats.zscore(scipy.stats.rankdata(accuracies))

    num_features, names = features.shape[1], list(given)
    kernel = ConstantKernel() * RBF(length_scale=3.0) + WhiteKernel(noise_level=0.3)
    candidates = {name: (1, Ridge(alpha=1e-3)) for name in names[:1]}
    if len(names) == 2:
        candidates["score and macs"] = (2, Ridge(alpha=1.0))
    candidates |= {f"ridge {alpha:g}": (num_features, Ridge(alpha=alpha)) for alpha in (1.0, 10.0, 100.0)}
    candidates["gaussian process"] = (num_features, GaussianProcessRegressor(kernel, random_state=0))
    folds = KFold(min(NUM_FOLDS, len(known)), shuffle=True, random_state=0)
    taus = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a length scale at its bound is a fit like any other
        for name, (width, model) in candidates.items():
            predicted = cross_val_predict(model, features[known, :width], target, cv=folds)
            taus[name] = np.nan_to_num(scipy.stats.kendalltau(predicted, target).statistic, nan=-1.0)
        best = max(taus, key=lambda name: taus[name])
        width, model = candidates[best]
        model.fit(features[known, :width], target)
    if isinstance(model, GaussianProcessRegressor):
        ranks, deviations = model.predict(features, return_std=True)
        return Prediction(ranks, deviations, best)
    ranks = model.predict(features[:, :width])
    return Prediction(ranks, _ridge_deviations(features[:, :width], known, target - ranks[known], model.alpha), best)


def _features(archs: np.ndarray, columns: list[np.ndarray]) -> np.ndarray:
    """Ranks of the columns, then one-hot codes, standardised over all architectures: [num_archs, num_features]."""
    ranked = [scipy.stats.rankdata(column)[:, None] for column in columns]
    one_hot = [choice[:, None] == np.unique(choice) for choice in archs.T]
    features: np.ndarray = np.concatenate([*ranked, *one_hot], axis=1).astype(np.float64)
    features = (features - features.mean(axis=0)) / np.maximum(features.std(axis=0), 1e-12)
    features[:, len(columns) :] *= np.sqrt(1 / archs.shape[1])  # all codes together weigh about as much as the score
    return features


def _ridge_deviations(features: np.ndarray, known: np.ndarray, residuals: np.ndarray, alpha: float) -> np.ndarray:
    """Standard deviation of a new observation around a ridge regression with intercept: [num_archs].

    With no penalty it is what a textbook on linear regression gives; see Hastie, Tibshirani and Friedman, "The Elements
    of Statistical Learning", 3.4.1, for the degrees of freedom under one.
    """
    centred = features - features[known].mean(axis=0)
    gram = centred[known].T @ centred[known] + alpha * np.eye(features.shape[1])
    leverage = 1 / len(known) + np.einsum("ij,ji->i", centred, np.linalg.solve(gram, centred.T))
    degrees = max(len(known) - leverage[known].sum(), 1.0)  # two known architectures leave none
    deviations: np.ndarray = np.sqrt(residuals @ residuals / degrees * (1 + leverage))
    return deviations


def _check_known(archs: np.ndarray, known: np.ndarray, accuracies: np.ndarray) -> None:
    if archs.shape[1] < 1 or len(known) < 2:
        raise ValueError(
            f"got archs of shape {archs.shape} and {len(known)} known accuracies, expected one choice or more, and two"
            " known or more, better a few dozen."
        )
    if len(np.unique(known)) < len(known):
        raise ValueError(f"known has rows {known.tolist()}, expected distinct ones.")
    if np.ptp(accuracies) == 0:
        raise ValueError(f"all {len(known)} known accuracies are {accuracies[0]:g}, which orders nothing; know others.")
