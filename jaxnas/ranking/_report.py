"""All figures that belong beside a rank correlation: what super-net scores say of a table, and what they must beat."""

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from jaxnas.checks import array, rectangular
from jaxnas.ranking import metrics
from jaxnas.ranking.intervals import Estimate, estimate, estimate_difference


class Report(NamedTuple):
    """How super-net scores rank architectures. Figures of several super-nets are means over them; None: not asked."""

    num_archs: int
    num_supernets: int
    kendall_tau: Estimate  # over architectures, and over super-nets if there are several
    kendall_tau_minus_macs: Estimate | None  # less what counting multiply-accumulates gives
    kendall_tau_accuracy: float | None  # of the sub-networks' accuracies in place of their scores
    ensemble_kendall_tau: Estimate  # of the mean score over super-nets; over architectures
    kendall_tau_between_supernets: float | None
    spearman: float
    sparse_kendall_tau: float  # differences of truth below 1e-3 are ties
    macs_kendall_tau: Estimate | None  # what counting multiply-accumulates gives
    kendall_tau_between_truth_seeds: float | None  # of one training seed of the truth with another
    truth_reliability: float | None  # of its mean over seeds
    top_decile_kendall_tau: float | None  # chosen by other measurements than those compared; of 11 or more
    top_decile_macs_kendall_tau: float | None
    precision_at_k: float
    best_rank_at_k: float
    top_k_mean_accuracy: float
    best_accuracy: float  # the highest truth of all
    best_found_rank: int  # true rank, from 1, of the architecture that the first super-net scores highest
    prob_surpass_random_10: float  # chance that it beats all of ten architectures drawn at random
    top_k: int  # k of the figures at k

    def figures(self) -> dict[str, float | None]:
        """One flat dict: an estimate is `name`, `name_low`, `name_high`; names say the k, as in `precision_at_10`."""
        flat: dict[str, float | None] = {}
        for name, value in self._named().items():
            flat |= value.named(name) if isinstance(value, Estimate) else {name: value}
        return flat

    def __str__(self) -> str:
        """A line for each figure that is known, intervals in brackets."""
        lines = []
        for name, value in self._named().items():
            if isinstance(value, Estimate):
                lines.append(f"{name:32}{value.value:.3f} [{value.low:.3f}, {value.high:.3f}]")
            elif value is not None:
                lines.append(f"{name:32}{value:.3f}" if isinstance(value, float) else f"{name:32}{value}")
        return "\n".join(lines)

    def _named(self) -> dict[str, Any]:
        """The figures by names that say the k."""
        found = {re.sub(r"(?<=_)k(?=_|$)", str(self.top_k), name): value for name, value in self._asdict().items()}
        del found[f"top_{self.top_k}"]
        return found


def report(
    scores: ArrayLike,
    truth: ArrayLike,
    *,
    accuracies: ArrayLike | None = None,
    macs: ArrayLike | None = None,
    truth_seeds: ArrayLike | None = None,
    choose_by: ArrayLike | None = None,
    top_k: int = 10,
) -> Report:
    """Every rank statistic of super-net scores against stand-alone accuracies, with its interval.

    Args:
      scores: [num_archs], or [num_seeds, num_archs] with a row for each super-net; higher is better, so pass minus the
        validation loss, which ranks better than accuracy.
      truth: stand-alone accuracy, fractions, [num_archs] or [num_archs, num_seeds], NaN where a seed is missing: it is
        left out of the mean, and figures of single seeds are those of the seeds that every architecture has.
      accuracies: of the sub-networks, as scores; for `kendall_tau_accuracy` alone.
      macs: [num_archs], for the baseline of counting them.
      truth_seeds: [num_archs, num_seeds], single training seeds where `truth` has none; for its noise alone.
      choose_by: [num_archs], what chooses the top decile where `truth` has no seeds, such as validation accuracy.
      top_k: k of the figures `..._at_k` and `top_k_...`.

    Raises a ValueError as the single metrics do: shapes that don't match, a value that is not finite, a k beyond the
    number of architectures.

    >>> found = report([3, 1, 2, 0], [0.94, 0.91, 0.92, 0.93], macs=[4, 1, 2, 3], top_k=2)
    >>> [round(figure, 3) for figure in (found.kendall_tau.value, found.macs_kendall_tau.value, found.spearman)]
    [0.333, 1.0, 0.4]
    """
    mean_truth, truth = metrics.mean_truth(truth), np.asarray(truth)
    num_archs = len(mean_truth)
    scores = _rows("scores", scores, num_archs)
    if accuracies is not None:
        accuracies = _rows("accuracies", accuracies, num_archs)
    if macs is not None:
        macs = array("macs", macs, (num_archs,))
    if truth_seeds is not None:
        truth_seeds = array("truth_seeds", truth_seeds, (num_archs, None))
    together = scores.mean(axis=0)
    if truth.ndim == 2:
        complete = truth[:, ~np.isnan(truth).any(axis=0)]
        truth = complete if complete.shape[1] > 1 else mean_truth
    if truth_seeds is None and truth.ndim == 2:
        truth_seeds = truth

    def tau(of: np.ndarray) -> Estimate:
        return estimate(metrics.kendall_tau, of, mean_truth)

    def mean(statistic: Callable[..., float], of: np.ndarray = scores, **options: int) -> float:
        return float(np.mean([statistic(row, mean_truth, **options) for row in of]))

    def top_decile(of: np.ndarray) -> float | None:
        if num_archs < 11 or (truth.ndim == 1 and choose_by is None):  # a tenth of one has no order
            return None
        return float(np.mean([metrics.top_decile_kendall_tau(row, truth, choose_by=choose_by) for row in of]))

    if macs is not None:
        counted = np.broadcast_to(macs, scores.shape)
        over_macs = estimate_difference(metrics.kendall_tau, scores, counted, mean_truth)
    best = int(np.argmax(scores[0]))
    rank = 1 + int((mean_truth > mean_truth[best]).sum())
    return Report(
        num_archs=num_archs,
        num_supernets=len(scores),
        kendall_tau=tau(scores),
        kendall_tau_minus_macs=None if macs is None else over_macs,
        kendall_tau_accuracy=None if accuracies is None else mean(metrics.kendall_tau, accuracies),
        ensemble_kendall_tau=tau(together),
        kendall_tau_between_supernets=metrics.seed_kendall_tau(scores.T) if len(scores) > 1 else None,
        spearman=mean(metrics.spearman),
        sparse_kendall_tau=mean(metrics.sparse_kendall_tau),
        macs_kendall_tau=None if macs is None else tau(macs),
        kendall_tau_between_truth_seeds=None if truth_seeds is None else metrics.seed_kendall_tau(truth_seeds),
        truth_reliability=None if truth_seeds is None else metrics.reliability(truth_seeds),
        top_decile_kendall_tau=top_decile(scores),
        top_decile_macs_kendall_tau=None if macs is None else top_decile(macs[None]),
        precision_at_k=mean(metrics.precision_at_k, k=top_k),
        best_rank_at_k=mean(metrics.best_rank_at_k, k=top_k),
        top_k_mean_accuracy=mean(metrics.top_k_mean, k=top_k),
        best_accuracy=float(mean_truth.max()),
        best_found_rank=rank,
        prob_surpass_random_10=metrics.prob_surpass_random(rank, num_archs=num_archs, num_draws=10),
        top_k=top_k,
    )


def _rows(name: str, values: ArrayLike, num_archs: int) -> np.ndarray:
    """[num_archs] or [num_seeds, num_archs] as the latter, checked."""
    shape = (None, num_archs) if rectangular(name, values).ndim == 2 else (num_archs,)
    return np.atleast_2d(array(name, values, shape, finite=False))
