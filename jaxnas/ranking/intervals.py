"""How sure one can be of a rank statistic: intervals over architectures, over training seeds, over both."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import scipy.stats
from numpy.typing import ArrayLike


class Estimate(NamedTuple):
    """A figure and the two ends of its 95 % interval, nan where there is none."""

    value: float
    low: float
    high: float

    def named(self, name: str) -> dict[str, float]:
        """As result.json and CSV files have it: `name`, `name_low` and `name_high`.

        >>> Estimate(0.5, 0.4, 0.6).named("tau")
        {'tau': 0.5, 'tau_low': 0.4, 'tau_high': 0.6}
        """
        return {name: self.value, f"{name}_low": self.low, f"{name}_high": self.high}


def estimate(
    statistic: Callable[..., float], scores: ArrayLike, *arrays: ArrayLike, num_resamples: int = 1000
) -> Estimate:
    """`statistic(scores, *arrays)` with its bootstrap interval.

    With `scores` [num_archs] the interval is over architectures. With [num_seeds, num_archs], a row for each training
    seed of the super-net, the value is the mean over rows, and the interval over seeds too, if there are two or more.
    """
    rows = np.atleast_2d(scores)
    value = float(np.mean([statistic(row, *arrays) for row in rows]))
    if len(rows) == 1:
        return Estimate(value, *bootstrap_interval(statistic, rows[0], *arrays, num_resamples=num_resamples))
    return Estimate(value, *bootstrap_seeds_interval(statistic, rows, *arrays, num_resamples=num_resamples))


def estimate_difference(
    statistic: Callable[..., float],
    scores: ArrayLike,
    baseline: ArrayLike,
    *arrays: ArrayLike,
    num_resamples: int = 1000,
) -> Estimate:
    """How much larger the mean `statistic(row, *arrays)` is over the rows of `scores` than over those of `baseline`.

    Both are [num_seeds, num_archs], row i of both from one seed; the interval is over architectures, and over seeds
    too, if there are two or more, the same ones on both sides.
    """
    scores, baseline = np.asarray(scores), np.asarray(baseline)
    value = float(np.mean([statistic(row, *arrays) for row in scores]))
    value -= float(np.mean([statistic(row, *arrays) for row in baseline]))
    options = {"num_resamples": num_resamples}
    if len(scores) == len(baseline) == 1:

        def difference(row: np.ndarray, other: np.ndarray, *arrays: np.ndarray) -> float:
            return statistic(row, *arrays) - statistic(other, *arrays)

        return Estimate(value, *bootstrap_interval(difference, scores[0], baseline[0], *arrays, **options))
    return Estimate(value, *bootstrap_paired_interval(statistic, scores, baseline, *arrays, **options))


def estimate_mean(values: ArrayLike) -> Estimate:
    """The mean of `values` [num_seeds], one a seed, with Student's t interval; nan of none."""
    values = np.asarray(values, np.float64)
    return Estimate(float(values.mean()) if values.size else float("nan"), *t_interval(values))


def bootstrap_interval(
    statistic: Callable[..., float],
    *arrays: ArrayLike,
    num_resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile bootstrap interval (low, high) of `statistic(*arrays)` over architectures, axis 0 of every array.

    Each resample draws rows with replacement, the same ones of every array (Efron, "Bootstrap methods: another look at
    the jackknife", 1979). It suits tau-b, in which copies of a row cancel, and not extremes (best rank, regret).
    Resamples in which the statistic is nan are left out; where it always is, so are both ends.
    """
    return _bootstrap(lambda rng, *rows: statistic(*rows), arrays, num_resamples, level, seed)


def bootstrap_seeds_interval(
    statistic: Callable[..., float],
    scores: ArrayLike,
    *arrays: ArrayLike,
    num_resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile bootstrap interval (low, high) of the mean over i of `statistic(scores[i], *arrays)`.

    `scores` is [num_seeds >= 2, num_archs], a row for each training seed of the super-net; axis 0 of `arrays` is
    architectures. Each resample draws architectures as `bootstrap_interval` does, and seeds with replacement. The
    spread of few seeds comes out too small, by about sqrt((S - 1) / S) for S seeds: say how many there were.
    """
    scores = np.asarray(scores)
    if scores.ndim != 2 or len(scores) < 2:
        raise ValueError(f"scores have shape {scores.shape}, expected [num_seeds, num_archs] with two seeds or more.")
    return _bootstrap(_mean_over_seeds(statistic), (scores.T, *arrays), num_resamples, level, seed)


def bootstrap_paired_interval(
    statistic: Callable[..., float],
    scores: ArrayLike,
    baseline: ArrayLike,
    *arrays: ArrayLike,
    num_resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile bootstrap interval (low, high) of the mean over i of `statistic(scores[i], *arrays)` less
    `statistic(baseline[i], *arrays)`: how much better one way to train is than another.

    Row i of `scores` and of `baseline`, both [num_seeds >= 2, num_archs], comes from the same seed. Each resample draws
    architectures and seeds as `bootstrap_seeds_interval` does, the same ones on both sides, so that what a seed or an
    architecture does to both cancels.
    """
    scores, baseline = np.asarray(scores), np.asarray(baseline)
    if scores.ndim != 2 or scores.shape != baseline.shape or len(scores) < 2:
        raise ValueError(
            f"scores have shape {scores.shape} and baseline {baseline.shape}, expected [num_seeds, num_archs] of both,"
            " with two seeds or more."
        )

    def difference(pair: np.ndarray, *arrays: np.ndarray) -> float:
        return statistic(pair[:, 0], *arrays) - statistic(pair[:, 1], *arrays)

    pairs = np.stack([scores.T, baseline.T], axis=-1)
    return _bootstrap(_mean_over_seeds(difference), (pairs, *arrays), num_resamples, level, seed)


def t_interval(values: ArrayLike, *, level: float = 0.95) -> tuple[float, float]:
    """Student's t interval of the mean of `values` [num_seeds], one a seed; (nan, nan) for fewer than two."""
    values = np.asarray(values, np.float64)
    if len(values) < 2:
        return float("nan"), float("nan")
    reach = scipy.stats.t.ppf((1 + level) / 2, len(values) - 1) * scipy.stats.sem(values)
    return float(values.mean() - reach), float(values.mean() + reach)


def _mean_over_seeds(statistic: Callable[..., float]) -> Callable[..., float]:
    """The mean of `statistic(scores[:, i], *arrays)` over as many seeds i as there are, drawn with replacement."""

    def mean(rng: np.random.Generator, scores: np.ndarray, *arrays: np.ndarray) -> float:
        seeds, counts = np.unique(rng.integers(scores.shape[1], size=scores.shape[1]), return_counts=True)
        return float(np.average([statistic(scores[:, i], *arrays) for i in seeds], weights=counts))

    return mean


def _bootstrap(
    statistic: Callable[..., float], arrays: tuple[ArrayLike, ...], num_resamples: int, level: float, seed: int
) -> tuple[float, float]:
    """The interval of `statistic(rng, *arrays)` over resampled rows."""
    aligned = [np.atleast_1d(array) for array in arrays]
    lengths = {len(array) for array in aligned}
    if len(lengths) != 1 or min(lengths) < 2:
        shapes = ", ".join(str(array.shape) for array in aligned)
        raise ValueError(
            f"got arrays of shapes {shapes or 'none'}, expected one length, at least 2, along architectures."
        )
    if num_resamples < 1 or not 0 < level < 1:
        raise ValueError(
            f"got {num_resamples} resamples and level {level}, expected 1 or more and a level within (0, 1)."
        )
    rng = np.random.default_rng(seed)
    (num_archs,) = lengths
    draws = []
    for _ in range(num_resamples):
        rows = rng.integers(num_archs, size=num_archs)
        draws.append(statistic(rng, *(array[rows] for array in aligned)))
    defined = np.asarray(draws)[~np.isnan(draws)]
    if defined.size == 0:
        return float("nan"), float("nan")
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
