"""One form for all that ranks architectures, and one table of them.

    rankers = [Ranker("macs", lambda archs: costs.arch_costs(space, archs).macs), proxy_ranker("naswot", ...), ...]
    for row in compare(rankers, archs, truth):
        print(row)

A row has the tau with its interval, and what the ranker cost.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from jaxnas.checks import array
from jaxnas.ranking.intervals import estimate, estimate_difference
from jaxnas.ranking.metrics import kendall_tau, mean_truth, spearman
from jaxnas.ranking.predictor import predict


class Ranker(NamedTuple):
    """Anything that ranks architectures: a cost, a proxy, a super-net, a predictor.

    Attributes:
      name: what it is called in tables.
      score: codes int [num_archs, num_choices] -> float [num_archs], higher is better.
      labels: accuracies of networks trained alone that it was told.
      steps: of the training of shared weights that it needs.
      passes: of an image through one architecture, forward; a backward one counts twice.
    """

    name: str
    score: Callable[[Any], np.ndarray]
    labels: int = 0
    steps: int = 0
    passes: float = 0.0


def scored(name: str, archs: ArrayLike, scores: ArrayLike, **cost: Any) -> Ranker:
    """A ranker of scores that are known already, [num_archs]; asked for another architecture, it raises a KeyError."""
    known = {tuple(code): score for code, score in zip(np.asarray(archs).tolist(), np.asarray(scores), strict=True)}
    return Ranker(name, lambda archs: np.array([known[tuple(code)] for code in np.asarray(archs).tolist()]), **cost)


def predicted(name: str, rankers: Sequence[Ranker], known: ArrayLike, accuracies: ArrayLike) -> Ranker:
    """A ranker that is `predict` by codes and by what other rankers say, given the accuracies of a few architectures,
    known int [num_known, num_choices]; none of them is enough without labels."""
    few = array("known", known, (None, None), "integer")

    def score(archs: Any) -> np.ndarray:
        everything = np.concatenate([few, archs])
        scores = np.stack([ranker.score(everything) for ranker in rankers], axis=1) if rankers else None
        return predict(everything, np.arange(len(few)), accuracies, scores=scores).ranks[len(few) :]

    costs = {field: sum(getattr(ranker, field) for ranker in rankers) for field in ("labels", "steps", "passes")}
    return Ranker(name, score, **costs | {"labels": costs["labels"] + len(few)})


def compare(rankers: Sequence[Ranker], archs: ArrayLike, truth: ArrayLike) -> list[dict[str, Any]]:
    """A row for each ranker, in order: its name, Kendall's tau with the truth and its interval over architectures, how
    much that is above the first ranker's (None of the first), Spearman's rho, labels, steps and passes.

    Args:
      archs: int [num_archs, num_choices].
      truth: stand-alone accuracies, [num_archs] or [num_archs, num_seeds].
    """
    mean = mean_truth(truth)
    rows: list[dict[str, Any]] = []
    all_scores = [np.asarray(ranker.score(archs), np.float64) for ranker in rankers]
    for ranker, scores in zip(rankers, all_scores, strict=True):
        over_first: dict[str, Any] = dict.fromkeys(("over_first", "over_first_low", "over_first_high"))
        if rows:
            difference = estimate_difference(kendall_tau, scores[None], all_scores[0][None], mean)
            over_first = difference.named("over_first")
        rows.append(
            {
                "ranker": ranker.name,
                **estimate(kendall_tau, scores, mean).named("tau"),
                **over_first,
                "spearman": spearman(scores, mean),
                "labels": ranker.labels,
                "steps": ranker.steps,
                "passes": ranker.passes,
            }
        )
    return rows
