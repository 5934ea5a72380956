"""How sure one can be of a rank statistic: intervals over architectures, over training seeds, over both.

The architectures are a draw from a space, and the seeds of a super-net are a draw too. Each seed ranks the same
architectures, so that the mean of a statistic over seeds has the variance of crossed effects (Owen, "The pigeonhole
bootstrap", Annals of Applied Statistics 1, 2007): resampling rows and columns at once would count what a seed does to
single architectures three times. Here it is counted once. The variance of the statistic between seeds, over their
number, holds all that seeds do; the rest is what architectures do to all seeds alike, the mean covariance of two seeds'
statistics under the jackknife over architectures (in groups beyond 300: Busing, Meijer and Van der Leeden, "Delete-m
jackknife for unequal m", Statistics and Computing 9, 1999). Nothing is drawn, so an interval has no seed.

The interval is Student's. Its degrees of freedom are the mean of both parts', harmonic and weighted by their variances.
Satterthwaite's formula has squares of these weights, which covers 0.91 to 0.96 with three seeds: weights that were
estimated from three seeds are off themselves.

Coverage at 95 %, in simulations with a known Kendall's tau (`python -m benchmarks.coverage`, results/coverage.json; 50
to 200 architectures; super-nets that rank equally well or not, and err on the same architectures, on others, or half
and half; each figure to 0.007):

    seeds                   1       3               5               10
    estimate                0.961   0.940 to 0.963  0.944 to 0.973  0.936 to 0.957
    estimate_difference     0.973   0.936 to 0.968  0.948 to 0.966  0.952 to 0.955

It is conservative where both sides of a difference, and all seeds, err on the same architectures, 0.955 to 0.973 with
lengths 1.15 to 1.2 times the necessary: the jackknife counts twice what pairs of architectures do (Efron and Stein,
"The jackknife estimate of variance", Annals of Statistics 9, 1981).

An interval of few seeds is wide, and has to be: with three of them its half length is 4.3 standard errors where seeds
are all that varies. The jackknife suits smooth statistics, such as correlations, means and agreements, and not extremes
(best rank, regret). Ends may lie beyond a statistic's range. Groups of architectures without which the statistic is nan
are left out; where fewer than two are left, or the statistic itself is nan, so are both ends.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import scipy.stats
from numpy.typing import ArrayLike

from jaxnas.checks import array, number

MAX_GROUPS = 300  # of the jackknife: a length is then known to 4 %


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

    def text(self, *, digits: int = 2, unit: str = "") -> str:
        """With so many digits behind the point, and the interval in brackets if there is one.

        >>> Estimate(0.1234, 0.05, 0.2).text(unit=" nats"), Estimate(0.1234, np.nan, np.nan).text(digits=4)
        ('0.12 nats [0.05, 0.20]', '0.1234')
        """
        value, low, high = (f"{end:.{digits}f}" for end in self)
        return f"{value}{unit}" + (f" [{low}, {high}]" if np.isfinite(self[1:]).all() else "")

    def verdict(self, sentence: str, better: str, worse: str, *, digits: int = 2, unit: str = "") -> str:
        """What a difference comes to, in words: `sentence` has a pair of braces for `better` or `worse`.

        An interval that holds zero tells neither; without an interval nothing is claimed but the number.

        >>> Estimate(0.06, 0.01, 0.11).verdict("ranks {} than counting MACs", "better", "worse")
        'ranks better than counting MACs by 0.06 [0.01, 0.11]'
        >>> Estimate(-0.02, -0.05, 0.01).verdict("regret is {} than by chance", "higher", "lower")
        'regret is neither clearly higher nor clearly lower than by chance: -0.02 [-0.05, 0.01]'
        """
        if self.low <= 0 <= self.high:
            which = sentence.format(f"neither clearly {better} nor clearly {worse}")
            return f"{which}: {self.text(digits=digits, unit=unit)}"
        which, size = (worse, Estimate(-self.value, -self.high, -self.low)) if self.value < 0 else (better, self)
        unknown = "" if np.isfinite(self.low) and np.isfinite(self.high) else ", of which no interval is known"
        return f"{sentence.format(which)} by {size.text(digits=digits, unit=unit)}{unknown}"


def estimate(statistic: Callable[..., float], scores: ArrayLike, *arrays: ArrayLike, level: float = 0.95) -> Estimate:
    """`statistic(scores, *arrays)` with its interval of confidence `level`.

    With `scores` [num_archs] the interval is over architectures, axis 0 of every array, and says nothing of other
    super-nets. With [num_seeds, num_archs], a row for each training seed of the super-net, the value is the mean over
    rows, and the interval over seeds too if there are several. It is nan for fewer than three architectures.

    >>> tau = estimate(lambda scores, truth: float((scores * truth).mean()), [1.0, 2.0, 3.0], [1, 1, 1])
    >>> [round(end, 2) for end in tau]  # of a mean it is the textbook's: 2 +- 4.303 / sqrt(3)
    [2.0, -0.48, 4.48]
    """
    rows = np.asarray(scores)
    rows = rows[None] if rows.ndim == 1 else rows
    if rows.ndim != 2:
        raise ValueError(f"scores have shape {rows.shape}, expected [num_archs] or [num_seeds, num_archs].")
    _check(rows, arrays, level)
    values = np.array([statistic(row, *arrays) for row in rows])
    return _around(float(values.mean()), values, statistic, rows, arrays, level)


def estimate_difference(
    statistic: Callable[..., float],
    scores: ArrayLike,
    baseline: ArrayLike,
    *arrays: ArrayLike,
    level: float = 0.95,
) -> Estimate:
    """How much larger the mean of `statistic(row, *arrays)` is over the rows of `scores` than over those of `baseline`.

    Both are [num_seeds, num_archs]; row i of both comes from the same seed. The interval is that of `estimate`, of the
    differences, so that what a seed or an architecture does to both cancels.
    """
    rows, base = np.asarray(scores), np.asarray(baseline)
    if rows.ndim != 2 or rows.shape != base.shape:
        raise ValueError(
            f"scores have shape {rows.shape} and baseline {base.shape}, expected [num_seeds, num_archs] of both."
        )
    _check(rows, arrays, level)

    def difference(pair: np.ndarray, *arrays: np.ndarray) -> float:
        return statistic(pair[:, 0], *arrays) - statistic(pair[:, 1], *arrays)

    of_scores, of_base = (np.array([statistic(row, *arrays) for row in side]) for side in (rows, base))
    pairs = np.stack([rows, base], axis=-1)
    value = float(of_scores.mean() - of_base.mean())
    return _around(value, of_scores - of_base, difference, pairs, arrays, level)


def estimate_mean(values: ArrayLike, *, level: float = 0.95) -> Estimate:
    """The mean of `values` [num_seeds], one a seed, with Student's t interval; nan where there are too few.

    Exact where seeds are normal. Of a skewed figure it covers less: 0.883, 0.885, 0.912 with 3, 5, 10 seeds of an
    exponential one, for 0.95 (`python -m benchmarks.coverage`).
    """
    values = array("values", values, (None,), finite=False).astype(np.float64)
    level = number("level", level, above=0, below=1)
    mean = float(values.mean()) if values.size else float("nan")
    if values.size < 2:
        return Estimate(mean, float("nan"), float("nan"))
    reach = float(scipy.stats.t.ppf((1 + level) / 2, len(values) - 1) * scipy.stats.sem(values))
    return Estimate(mean, mean - reach, mean + reach)


def _check(rows: np.ndarray, arrays: tuple[ArrayLike, ...], level: float) -> None:
    num_seeds, num_archs = rows.shape
    shapes = [rows.shape, *(np.shape(array) for array in arrays)]
    if num_archs < 2 or num_seeds < 1 or any(shape[:1] != (num_archs,) for shape in shapes[1:]):
        raise ValueError(
            f"got arrays of shapes {', '.join(map(str, shapes))}, expected [num_seeds >= 1, num_archs >= 2] and then as"
            " many architectures along axis 0."
        )
    number("level", level, above=0, below=1)


def _around(
    value: float,
    values: np.ndarray,
    statistic: Callable[..., float],
    rows: np.ndarray,
    arrays: tuple[ArrayLike, ...],
    level: float,
) -> Estimate:
    """The interval around `value`, the mean of `values` [num_seeds]; rows are [num_seeds, num_archs, ...]."""
    nothing = Estimate(value, float("nan"), float("nan"))
    num_archs = rows.shape[1]
    if num_archs < 3 or not np.isfinite(values).all():
        return nothing
    aligned = [np.asarray(array) for array in arrays]
    # Codes come in the order of the space: a group of neighbours would be much alike.
    order = np.random.default_rng(0).permutation(num_archs)
    without, sizes = [], []
    for group in np.array_split(order, min(num_archs, MAX_GROUPS)):
        kept = np.ones(num_archs, bool)
        kept[group] = False
        others = [array[kept] for array in aligned]
        without.append([statistic(row, *others) for row in rows[:, kept]])
        sizes.append(len(group))
    defined = np.isfinite(without).all(axis=1)
    if defined.sum() < 2:
        return nothing
    shares = np.array(sizes)[defined] / num_archs
    between_seeds, between_archs = _variances(values, np.array(without)[defined], shares)
    variance = between_seeds + between_archs
    if variance == 0:
        return Estimate(value, value, value)
    of_seeds = between_seeds / (len(values) - 1) if len(values) > 1 else 0.0
    degrees = variance / (of_seeds + between_archs / (defined.sum() - 1))
    reach = float(scipy.stats.t.ppf((1 + level) / 2, degrees) * np.sqrt(variance))
    return Estimate(value, value - reach, value + reach)


def _variances(values: np.ndarray, without: np.ndarray, shares: np.ndarray) -> tuple[float, float]:
    """Variance of the mean of `values` [num_seeds] by what differs between seeds, and by what architectures do to all.

    `without` [num_groups, num_seeds] are the values without each group, which has that share of the architectures.
    """
    num_groups, num_seeds = without.shape
    pseudo = (values - (1 - shares[:, None]) * without) / shares[:, None]
    deviations = (pseudo - np.average(pseudo, axis=0, weights=shares)) / np.sqrt(1 / shares[:, None] - 1)
    covariances = deviations.T @ deviations / num_groups
    if num_seeds == 1:
        return 0.0, float(covariances[0, 0])
    of_two_seeds = (covariances.sum() - np.trace(covariances)) / (num_seeds * (num_seeds - 1))
    return float(values.var(ddof=1)) / num_seeds, max(float(of_two_seeds), 0.0)
