"""How well a ranking agrees with the truth, and how sure one can be of it: NumPy and SciPy, on the host.

`scores` is what a super-net (or FLOPs, or a proxy) gives each architecture, `truth` its stand-alone accuracy: entry i
of both belongs to architecture i, and **higher is better in both**, so pass a loss with a minus sign. Shapes are
[num_archs] unless a docstring says otherwise; rank 1 is the best. Input of unequal lengths, of fewer than two
architectures or with a value that is not finite raises a one-line ValueError. A correlation with a constant vector is
undefined: nan, without a warning.

A top-k metric over tied scores would depend on the order of the rows. Here a fair draw breaks ties and the exact
expectation over draws is returned, so that coarse scores (accuracy on few images, FLOPs) are neither flattered nor
punished. Ties in the truth need no draw: equals share the best of their ranks.
"""

import itertools

import numpy as np
import scipy.stats
from numpy.typing import ArrayLike

from jaxnas.checks import array, choice, number, rectangular, whole


def kendall_tau(scores: ArrayLike, truth: ArrayLike) -> float:
    """Kendall's tau-b in [-1, 1], made for ties (Kendall, "The treatment of ties in ranking problems", 1945).

    >>> round(kendall_tau([0.1, 0.2, 0.3, 0.4], [0.90, 0.92, 0.91, 0.93]), 3)  # one pair of six is the wrong way round
    0.667
    """
    scores, truth = _pair(scores, truth)
    return float(scipy.stats.kendalltau(scores, truth).statistic)


def spearman(scores: ArrayLike, truth: ArrayLike) -> float:
    """Spearman's rho in [-1, 1]: Pearson's correlation of ranks, equals sharing their mean rank (Spearman, 1904)."""
    scores, truth = _pair(scores, truth)
    if np.ptp(scores) == 0 or np.ptp(truth) == 0:
        return float("nan")
    return float(scipy.stats.spearmanr(scores, truth).statistic)


def sparse_kendall_tau(
    scores: ArrayLike, truth: ArrayLike, *, threshold: float = 1e-3, variant: str = "clean"
) -> float:
    """Kendall's tau-b in [-1, 1] that ignores differences in truth below `threshold` (Yu et al., arXiv 2003.04276).

    `truth` holds fractions in [0, 1] and is binned, floor(truth / threshold); scores are not. "clean" is tau-b(scores,
    bins). "published" is what the authors' code computes (kcyu2014/nas-landmarkreg, nasws/cnn/utils.py): the sorted
    bins against the bins in order of score, so that positions within one bin's span are tied as well; equal scores
    keep the order of the rows. The authors log with 1e-3 and analyse with 1e-2: state the threshold with the figure.
    """
    scores, truth = _pair(scores, truth)
    if truth.min() < 0 or truth.max() > 1:
        raise ValueError(f"truth is in [{truth.min():g}, {truth.max():g}], expected [0, 1]; divide percentages by 100.")
    threshold = number("threshold", threshold, above=0)
    choice("variant", variant, ("clean", "published"))
    # 0.29 / 1e-2 is 28.999...: what is below a multiple by no more than float32 rounding counts as that multiple.
    bins = np.floor(truth / threshold * (1 + np.finfo(np.float32).eps))
    if variant == "clean":
        return kendall_tau(scores, bins)
    return kendall_tau(np.sort(bins), bins[np.argsort(scores, kind="stable")])


def precision_at_k(scores: ArrayLike, truth: ArrayLike, *, k: int) -> float:
    """P@k: the share, in [0, 1], of the k best architectures by score whose true rank is k or better."""
    scores, truth = _pair(scores, truth)
    return float(_top_k_chances(scores, k) @ (_true_ranks(truth) <= k) / k)


def best_rank_at_k(scores: ArrayLike, truth: ArrayLike, *, k: int) -> float:
    """The best true rank, in [1, num_archs], among the k best architectures by score."""
    scores, truth = _pair(scores, truth)
    return _expected_min(_true_ranks(truth), scores, k)


def worst_rank_at_k(scores: ArrayLike, truth: ArrayLike, *, k: int) -> float:
    """The worst true rank, in [1, num_archs], among the k best architectures by score."""
    scores, truth = _pair(scores, truth)
    return -_expected_min(-_true_ranks(truth), scores, k)


def top_k_mean(scores: ArrayLike, truth: ArrayLike, *, k: int) -> float:
    """Mean truth of the k best architectures by score, in truth's unit.

    The "final search performance" of Yu et al. (arXiv 2003.04276), with k = 10 on NAS-Bench-201 and 5 elsewhere.
    """
    scores, truth = _pair(scores, truth)
    return float(_top_k_chances(scores, k) @ truth / k)


def top_k_regret(scores: ArrayLike, truth: ArrayLike, *, k: int) -> float:
    """Truth of the best architecture minus the best truth among the k best by score: 0 or more, in truth's unit.

    >>> round(top_k_regret([3, 2, 1], [0.91, 0.93, 0.94], k=2), 3)
    0.01
    """
    scores, truth = _pair(scores, truth)
    return float(truth.max() + _expected_min(-truth, scores, k))


def prob_surpass_random(rank: float, *, num_archs: int, num_draws: int) -> float:
    """Chance, in [0, 1], that an architecture of true rank `rank` beats all of `num_draws` uniform draws.

    (1 - rank / num_archs) ** num_draws (Yu et al., "Evaluating the Search Phase of NAS", ICLR 2020; 10 draws there, one
    a seed): draws are with replacement, and drawing the architecture itself is no win.
    """
    num_archs, num_draws = whole("num_archs", num_archs, 1), whole("num_draws", num_draws, 1)
    rank = number("rank", rank, 1, num_archs)
    return float((1 - rank / num_archs) ** num_draws)


def top_decile_kendall_tau(scores: ArrayLike, truth: ArrayLike, *, choose_by: ArrayLike | None = None) -> float:
    """Kendall's tau-b in [-1, 1] inside the best tenth, which is chosen by other measurements than those compared.

    A decile chosen by the very figures that are compared is chosen for their noise, and tau comes out too low. With
    `truth` [num_archs, num_seeds], one training seed chooses and another is compared, averaged over all ordered pairs
    of seeds; so it stands beside `top_decile_seed_kendall_tau`. With `truth` [num_archs], `choose_by` [num_archs] is
    needed, say validation accuracy where truth is test accuracy. Equals at the border are all inside.
    """
    if choose_by is None:
        seeds = _seeds(truth, at_least=2)
        splits = list(itertools.permutations(seeds, 2))
    else:
        splits = [_pair(choose_by, truth)]
    scores, _ = _pair(scores, splits[0][0])
    num_top = -(-len(scores) // 10)
    if num_top < 2:
        raise ValueError(
            f"the best tenth of {len(scores)} architectures is one, expected two or more; give at least 11."
        )
    taus = []
    for chosen, compared in splits:
        top = chosen >= np.partition(chosen, -num_top)[-num_top]
        taus.append(kendall_tau(scores[top], compared[top]))
    return float(np.mean(taus))


def top_decile_seed_kendall_tau(truth: ArrayLike) -> float:
    """Kendall's tau-b in [-1, 1] of one training seed with another inside the best tenth.

    `truth` is [num_archs, num_seeds >= 3]: one seed chooses, two others are compared, averaged over all such triples.
    """
    seeds = _seeds(truth, at_least=3)
    taus = [top_decile_kendall_tau(seed, np.delete(seeds, i, axis=0).T) for i, seed in enumerate(seeds)]
    return float(np.mean(taus))


def seed_kendall_tau(truth: ArrayLike) -> float:
    """Kendall's tau-b in [-1, 1] of one training seed with another, averaged over pairs.

    `truth` is [num_archs, num_seeds >= 2]. A reference for a super-net's tau and no bound: scores without noise may
    agree with a seed better than seeds agree among themselves.
    """
    return float(np.mean([kendall_tau(*pair) for pair in itertools.combinations(_seeds(truth, at_least=2), 2)]))


def reliability(truth: ArrayLike) -> float:
    """Reliability, at most 1, of the mean over seeds of `truth` [num_archs, num_seeds]; nan where a seed is constant.

    An estimate of the mean's squared correlation with the noiseless truth: S r / (1 + (S - 1) r) for S seeds of mean
    pairwise Pearson correlation r (Spearman; Brown; both British Journal of Psychology 3, 1910).
    """
    seeds = _seeds(truth, at_least=2)
    if (np.ptp(seeds, axis=1) == 0).any():
        return float("nan")
    num_seeds = len(seeds)
    correlation = np.corrcoef(seeds)[np.triu_indices(num_seeds, 1)].mean()
    return float(num_seeds * correlation / (1 + (num_seeds - 1) * correlation))


def mean_truth(truth: ArrayLike) -> np.ndarray:
    """Mean over training seeds of `truth` [num_archs] or [num_archs, num_seeds]: float64 [num_archs].

    A seed that is missing, NaN, is left out of the mean; an architecture without any has NaN.

    >>> mean_truth([[0.5, 0.25, np.nan], [0.75, 0.25, 0.5]]).tolist()
    [0.375, 0.5]
    """
    shape = (None, None) if rectangular("truth", truth).ndim == 2 else (None,)
    truth = array("truth", truth, shape, finite=False).astype(np.float64)
    seeds = truth[:, None] if truth.ndim == 1 else truth
    there = ~np.isnan(seeds)
    count = there.sum(axis=1)
    mean: np.ndarray = np.where(count > 0, np.where(there, seeds, 0).sum(axis=1) / np.maximum(count, 1), np.nan)
    return mean


def _top_k_chances(scores: np.ndarray, k: int) -> np.ndarray:
    """Chance of each architecture to be among the k best by score when a fair draw breaks ties: [num_archs]."""
    k = whole("k", k, 1, len(scores))
    border = np.partition(scores, -k)[-k]
    above, tied = scores > border, scores == border
    chances: np.ndarray = above + tied * ((k - above.sum()) / tied.sum())
    return chances


def _expected_min(values: np.ndarray, scores: np.ndarray, k: int) -> float:
    """Expected minimum of `values` [num_archs] over the k best by score when a fair draw breaks ties."""
    chances = _top_k_chances(scores, k)
    certain, drawn = values[chances == 1], np.sort(values[(chances > 0) & (chances < 1)])
    # Chance that a draw without replacement takes none of the first, the first two, ... of `drawn`.
    none_yet = np.cumprod(1 - np.minimum(1, (k - certain.size) / np.arange(drawn.size, 0, -1)))
    first_taken = -np.diff(none_yet, prepend=1)
    least_certain = certain.min(initial=np.inf)
    return float(first_taken @ np.minimum(drawn, least_certain)) if drawn.size else float(least_certain)


def _true_ranks(truth: np.ndarray) -> np.ndarray:
    """1 + the number of better architectures: float64 [num_archs]."""
    ranks: np.ndarray = scipy.stats.rankdata(-truth, method="min").astype(np.float64)
    return ranks


def _pair(first: ArrayLike, second: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Both as float64 [num_archs], checked."""
    first, second = (
        array(name, vector, (None,), finite=False).astype(np.float64)
        for name, vector in (("scores", first), ("truth", second))
    )
    if first.shape != second.shape or len(first) < 2:
        raise ValueError(
            f"got shapes {first.shape} and {second.shape}, expected two vectors of one length, at least 2."
        )
    _check_finite(np.stack([first, second], axis=1))
    return first, second


def _seeds(truth: ArrayLike, *, at_least: int) -> np.ndarray:
    """`truth` [num_archs, num_seeds] as float64 [num_seeds, num_archs], checked."""
    truth = array("truth", truth, (None, None), finite=False).astype(np.float64)
    if len(truth) < 2 or truth.shape[1] < at_least:
        raise ValueError(f"truth has shape {truth.shape}, expected [num_archs >= 2, num_seeds >= {at_least}].")
    _check_finite(truth)
    return np.ascontiguousarray(truth.T)


def _check_finite(rows: np.ndarray) -> None:
    finite = np.isfinite(rows).all(axis=1)
    if not finite.all():
        row = int(np.argmin(finite))
        raise ValueError(
            f"architecture {row} has {rows[row].tolist()}, expected finite numbers; `ranking.as_scores`"
            " ranks networks that diverged last, or leave them out."
        )
