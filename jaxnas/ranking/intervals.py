"""How sure one can be of a rank statistic: intervals over architectures, over training seeds, over both.

Bootstrap intervals are percentile intervals. Each resample draws architectures with replacement, the same ones of every
array (Efron, "Bootstrap methods: another look at the jackknife", 1979), and where there are several training seeds of
the super-net, seeds too. That suits tau-b, in which copies of a row cancel, and not extremes (best rank,
regret). The spread of few seeds comes out too small, by about sqrt((S - 1) / S) for S seeds: say how many there were.
Resamples in which the statistic is nan are left out; where it always is, so are both ends.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import scipy.stats
from numpy.typing import ArrayLike


class Estimate(NamedTuple):
    """A figure and the two ends of its interval, nan where there is none."""

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
    statistic: Callable[..., float],
    scores: ArrayLike,
    *arrays: ArrayLike,
    num_resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Estimate:
    """`statistic(scores, *arrays)` with its bootstrap interval of confidence `level`; `seed` is that of the resamples.

    With `scores` [num_archs] the interval is over architectures, axis 0 of every array. With [num_seeds, num_archs], a
    row for each training seed of the super-net, the value is the mean over rows, and the interval over seeds too if
    there are several.
    """
    rows = np.atleast_2d(scores)
    return Estimate(_mean(statistic, rows, arrays), *_bootstrap(statistic, rows.T, arrays, num_resamples, level, seed))


def estimate_difference(
    statistic: Callable[..., float],
    scores: ArrayLike,
    baseline: ArrayLike,
    *arrays: ArrayLike,
    num_resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Estimate:
    """How much larger the mean of `statistic(row, *arrays)` is over the rows of `scores` than over those of `baseline`.

    Both are [num_seeds, num_archs]; row i of both comes from the same seed. Resamples are those of `estimate`, the same
    ones on both sides, so that what a seed or an architecture does to both cancels.
    """
    rows, base = np.asarray(scores), np.asarray(baseline)
    if rows.ndim != 2 or rows.shape != base.shape:
        raise ValueError(
            f"scores have shape {rows.shape} and baseline {base.shape}, expected [num_seeds, num_archs] of both."
        )

    def difference(pair: np.ndarray, *arrays: np.ndarray) -> float:
        return statistic(pair[:, 0], *arrays) - statistic(pair[:, 1], *arrays)

    value = _mean(statistic, rows, arrays) - _mean(statistic, base, arrays)
    pairs = np.stack([rows.T, base.T], axis=-1)
    return Estimate(value, *_bootstrap(difference, pairs, arrays, num_resamples, level, seed))


def estimate_mean(values: ArrayLike, *, level: float = 0.95) -> Estimate:
    """The mean of `values` [num_seeds], one a seed, with Student's t interval; nan where there are too few."""
    values = np.asarray(values, np.float64)
    mean = float(values.mean()) if values.size else float("nan")
    if values.size < 2:
        return Estimate(mean, float("nan"), float("nan"))
    reach = float(scipy.stats.t.ppf((1 + level) / 2, len(values) - 1) * scipy.stats.sem(values))
    return Estimate(mean, mean - reach, mean + reach)


def _mean(statistic: Callable[..., float], rows: np.ndarray, arrays: tuple[ArrayLike, ...]) -> float:
    return float(np.mean([statistic(row, *arrays) for row in rows]))


def _bootstrap(
    statistic: Callable[..., float],
    scores: np.ndarray,
    arrays: tuple[ArrayLike, ...],
    num_resamples: int,
    level: float,
    seed: int,
) -> tuple[float, float]:
    """The interval of the mean over i of `statistic(scores[:, i], *arrays)`; scores are [num_archs, num_seeds, ...]."""
    aligned = [scores, *(np.atleast_1d(array) for array in arrays)]
    num_archs, num_seeds = scores.shape[:2]
    if num_archs < 2 or num_seeds < 1 or any(len(array) != num_archs for array in aligned):
        shapes = ", ".join(str(array.shape) for array in aligned)
        raise ValueError(f"got arrays of shapes {shapes}, expected one length, at least 2, along architectures.")
    if num_resamples < 1 or not 0 < level < 1:
        raise ValueError(
            f"got {num_resamples} resamples and level {level}, expected 1 or more and a level within (0, 1)."
        )
    rng = np.random.default_rng(seed)
    draws = []
    for _ in range(num_resamples):
        rows = rng.integers(num_archs, size=num_archs)
        drawn, *others = (array[rows] for array in aligned)
        seeds, counts = np.array([0]), np.array([1])
        if num_seeds > 1:
            seeds, counts = np.unique(rng.integers(num_seeds, size=num_seeds), return_counts=True)
        draws.append(np.average([statistic(drawn[:, i], *others) for i in seeds], weights=counts))
    defined = np.asarray(draws)[~np.isnan(draws)]
    if defined.size == 0:
        return float("nan"), float("nan")
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
