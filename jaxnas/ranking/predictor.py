"""A ranking predicted from the accuracies that are known, be they none, a dozen or some hundred.

    known = [0, 17, 230]  # rows of archs that have been trained alone
    same = spaces.pruned(space, archs)  # without what leads nowhere
    codes = {"macs": costs.arch_costs(space, same).macs, "features": [spaces.graph_features(space, same)]}
    of_images = {"scores": -scores.loss, "fingerprints": ranking.fingerprints(scores.image_loss).features}
    prediction = ranking.predict(same, known, accuracies, **codes, **of_images)
    best = archs[prediction.ranks.argmax()]
    next_to_train = prediction.next_labels(10)

A regulariser is told the accuracies of some architectures while the super-net trains. Whoever has those can as well
correct the ranking of a super-net trained without them, so this is what the regulariser is to be compared with.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import scipy.stats
from numpy.typing import ArrayLike

from jaxnas.checks import array, whole
from jaxnas.ranking._gaussian_process import Fitted, buy, gaussian_process

LEAST_TO_CHOOSE = 20  # labels; from fewer, leaving one out chooses by chance (on digits_chain tau falls by 0.02)
PENALTIES = (1.0, 10.0, 100.0)


class Prediction(NamedTuple):
    """Where architectures stand among the known ones, whose ranks have mean 0 and deviation 1; higher is better."""

    ranks: np.ndarray  # float64 [num_archs]
    deviations: np.ndarray  # float64 [num_archs], the standard deviation of each one's rank around what is predicted
    model: str  # the one that predicted best what was left out; "no labels" where there was nothing to learn from
    next_labels: Callable[[int], np.ndarray]  # number -> int [number], distinct rows, none known, that would tell most


def predict(
    archs: ArrayLike,
    known: ArrayLike = (),
    accuracies: ArrayLike = (),
    *,
    scores: ArrayLike | None = None,
    macs: ArrayLike | None = None,
    fingerprints: ArrayLike | None = None,
    features: Sequence[ArrayLike] = (),
) -> Prediction:
    """What is to be expected of all `archs`, given a few accuracies.

    Without labels it is the mean of the ranks by scores and by MACs, whichever are given; that is where a Gaussian
    process over codes, scores, MACs, fingerprints and features begins, and labels move it. From 20 labels on it has
    rivals: scores or MACs alone, the process without codes or without fingerprints, ridge regressions over everything.
    The one taken has the highest Kendall's tau between the known accuracies and what it says of each from all others
    (leave one out). Nothing but the labels decides. Scores and MACs enter as ranks among all architectures; the target
    is the rank among the known, since tau knows nothing else and a few very bad architectures would otherwise rule the
    fit.
    Without `scores` and `fingerprints` it is the baseline that any use of a super-net has to beat.

    Deviations are those of a new label: the process states its own; for ridge they are the textbook's for regression,
    the residuals' variance over the degrees of freedom that the penalty leaves, times one plus the leverage.

    `Prediction.next_labels` takes the most uncertain architecture under the process, then the most uncertain once that
    label is known, and so on: what they turn out to be is of no matter to it.

    Args:
      archs: int [num_archs, num_choices]; of `spaces.pruned`, since an accuracy says nothing of what leads nowhere.
      known: int [num_known], rows of `archs`; none or one orders nothing and is as good as none.
      accuracies: [num_known], of training alone, or whatever else orders them; higher is better.
      scores: [num_archs], of a super-net; or [num_archs, num_scores], of several, or of proxies. Higher is better.
      macs: [num_archs].
      fingerprints: [num_archs, any], `Fingerprints.features`; components count by their variance.
      features: other groups of them, each [num_archs, any], such as `spaces.graph_features`.

    Raises a ValueError for shapes that don't match, rows that don't exist or come twice, values that are not finite,
    accuracies that are all equal, and where there is neither a label nor a score nor a cost.
    """
    archs = array("archs", archs, (None, None), "integer")
    if archs.shape[0] < 2 or archs.shape[1] < 1:
        raise ValueError(f"archs: shape {archs.shape}, expected two architectures or more, of one choice or more.")
    known, accuracies = _labels(len(archs), known, accuracies)
    columns = {}
    if scores is not None:
        of_all = array("score", scores, (len(archs), None) if np.ndim(scores) == 2 else (len(archs),))
        columns["score"] = of_all.reshape(len(archs), -1)
    if macs is not None:
        columns["macs"] = array("macs", macs, (len(archs),))[:, None]
    ranked = {name: _standard(scipy.stats.rankdata(column, axis=0)) for name, column in columns.items()}
    codes = np.concatenate([choice[:, None] == np.unique(choice) for choice in archs.T], axis=1).astype(np.float64)
    groups = {"codes": codes - codes.mean(axis=0), **ranked}
    if fingerprints is not None:
        prints = array("fingerprints", fingerprints, (len(archs), None)).astype(np.float64)
        groups["fingerprints"] = prints - prints.mean(axis=0)
    for number, group in enumerate(features):
        name = f"features[{number}]"
        of_group = array(name, group, (len(archs), None)).astype(np.float64)
        groups[name] = of_group - of_group.mean(axis=0)
    prior = _standard(sum((column.sum(axis=1) for column in ranked.values()), np.zeros(len(archs))))

    def process(*without: str) -> Fitted:
        return gaussian_process([group for name, group in groups.items() if name not in without], known, target, prior)

    target = _standard(scipy.stats.rankdata(accuracies)) if len(known) else np.zeros(0)
    everything = process()
    if not len(known) and not columns:
        raise ValueError("there is neither a label, nor a score, nor a cost to rank by; give one of them.")
    candidates = {"gaussian process": everything}
    if len(known) >= LEAST_TO_CHOOSE:
        candidates = {name: _ridge(column, known, target, 1e-3) for name, column in ranked.items()} | candidates
        if fingerprints is not None:
            candidates["gaussian process without fingerprints"] = process("fingerprints")
            if columns:
                candidates["gaussian process without codes"] = process("codes")
        all_columns = np.concatenate([group / _size(group) for group in groups.values()], axis=1)
        candidates |= {f"ridge {alpha:g}": _ridge(all_columns, known, target, alpha) for alpha in PENALTIES}
    taus = {
        name: np.nan_to_num(scipy.stats.kendalltau(fitted.left_out, target).statistic, nan=-1.0)
        for name, fitted in candidates.items()
        if len(candidates) > 1
    }
    model = max(taus, key=lambda name: taus[name]) if taus else "gaussian process"
    fitted = candidates[model]

    def next_labels(number: int) -> np.ndarray:
        return buy(everything, known, whole("number", number, 1, len(archs) - len(known)))

    return Prediction(fitted.mean, fitted.deviations, model if len(known) else "no labels", next_labels)


def _labels(num_archs: int, known: ArrayLike, accuracies: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Rows and accuracies, checked; fewer than two are none."""
    if np.size(known) == 0:
        known = np.zeros(0, np.int64)
    known = array("known", known, (None,), "integer", least=0, most=num_archs - 1)
    accuracies = array("accuracies", accuracies, (len(known),)).astype(np.float64)
    if len(np.unique(known)) < len(known):
        raise ValueError(f"known has rows {known.tolist()}, expected distinct ones.")
    if len(known) < 2:
        return known[:0], accuracies[:0]
    if np.ptp(accuracies) == 0:
        raise ValueError(f"all {len(known)} known accuracies are {accuracies[0]:g}, which orders nothing; know others.")
    return known, accuracies


def _standard(values: np.ndarray) -> np.ndarray:
    """Mean 0 and deviation 1; zeros where all are equal."""
    centred: np.ndarray = values - values.mean(axis=0)
    return centred / np.maximum(centred.std(axis=0), 1e-12)


def _size(group: np.ndarray) -> float:
    return max(float(np.sqrt(group.var(axis=0).sum())), 1e-12)


def _ridge(features: np.ndarray, known: np.ndarray, target: np.ndarray, alpha: float) -> Fitted:
    """Ridge regression with an intercept; deviations of a new observation.

    With no penalty they are what a textbook on linear regression gives; see Hastie, Tibshirani and Friedman, "The
    Elements of Statistical Learning", 3.4.1, for the degrees of freedom under one, and 7.10.1 for what is left out.
    """
    centred = features - features[known].mean(axis=0)
    gram = centred[known].T @ centred[known] + alpha * np.eye(features.shape[1])
    mean = target.mean() + centred @ np.linalg.solve(gram, centred[known].T @ (target - target.mean()))
    leverage = 1 / len(known) + np.einsum("ij,ji->i", centred, np.linalg.solve(gram, centred.T))
    residuals = target - mean[known]
    degrees = max(len(known) - leverage[known].sum(), 1.0)  # two known architectures leave none
    deviations = np.sqrt(residuals @ residuals / degrees * (1 + leverage))
    left_out = target - residuals / np.maximum(1 - leverage[known], 1e-12)
    return Fitted(mean, deviations, left_out)
