"""Intervals of rank statistics: textbook formulas, variances by hand, and how often they hold what they are of."""

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import scipy.stats

from benchmarks import coverage
from jaxnas import ranking
from jaxnas.ranking import intervals

pytestmark = pytest.mark.filterwarnings("error")
RNG = np.random.default_rng(0)
SCORES = RNG.normal(size=(4, 30)) + np.array([[0.0], [1.0], [0.5], [3.0]]) + 2 * RNG.normal(size=30)
ARCHS = np.arange(30)
TWENTY = np.arange(20.0)
RESULTS = Path(__file__).parents[1] / "results/coverage.json"


def mean(scores, *_):
    return float(scores.mean())


def student(centre, variance, degrees, level=0.95):
    reach = scipy.stats.t.ppf((1 + level) / 2, degrees) * math.sqrt(variance)
    return pytest.approx((centre, centre - reach, centre + reach), rel=1e-9)


@pytest.mark.parametrize("level", [0.5, 0.95])
def test_over_architectures_a_mean_has_the_textbooks_interval(level):
    low, high = scipy.stats.t.interval(level, 29, SCORES[0].mean(), scipy.stats.sem(SCORES[0]))
    expected = pytest.approx((SCORES[0].mean(), low, high))
    assert ranking.estimate(mean, SCORES[0], ARCHS, level=level) == expected
    assert ranking.estimate(mean, SCORES[:1], ARCHS, level=level) == expected


def test_over_architectures_tau_has_the_jackknifes_variance():
    """Delete one: (n - 1) / n times the squared deviations of what is left from their mean (Efron, 1982)."""
    truth = SCORES[0] + RNG.normal(size=30)
    tau = [scipy.stats.kendalltau(np.delete(SCORES[0], i), np.delete(truth, i)).statistic for i in range(30)]
    variance = 29 / 30 * ((tau - np.mean(tau)) ** 2).sum()
    full = scipy.stats.kendalltau(SCORES[0], truth).statistic
    assert ranking.estimate(ranking.kendall_tau, SCORES[0], truth) == student(full, variance, 29)


@pytest.mark.parametrize("num_archs", [300, 301, 1000])
def test_many_architectures_are_left_out_in_groups(num_archs):
    seen = []

    def statistic(scores, twice, both):
        np.testing.assert_array_equal(twice, 2 * scores)
        np.testing.assert_array_equal(both, np.stack([scores, -scores], axis=1))
        seen.append(set(scores.tolist()))
        return scores.mean()

    x = np.arange(float(num_archs))
    _, low, high = ranking.estimate(statistic, x, 2 * x, np.stack([x, -x], axis=1))
    everything, *kept = seen
    left_out = [everything - rows for rows in kept]
    assert len(kept) == 300 and set().union(*left_out) == everything
    assert sum(map(len, left_out)) == num_archs  # each once
    assert max(map(len, left_out)) - min(map(len, left_out)) <= 1
    # An ascending row is the worst case for groups of neighbours, whose interval would be 1.8 times as long for 1,000.
    assert high - low == pytest.approx(2 * 1.97 * scipy.stats.sem(x), rel=0.15)
    assert ranking.estimate(statistic, x, 2 * x, np.stack([x, -x], axis=1))[1:] == (low, high)


def test_seeds_that_architectures_do_not_matter_to_have_students_interval():
    values = [0.2, 0.5, 0.9]
    got = ranking.estimate(mean, np.repeat(np.array(values)[:, None], 8, axis=1), np.arange(8))
    low, high = scipy.stats.t.interval(0.95, 2, np.mean(values), scipy.stats.sem(values))
    assert got == pytest.approx((np.mean(values), low, high))


def test_seeds_that_do_not_differ_leave_the_interval_of_one():
    assert ranking.estimate(mean, [SCORES[0]] * 5, ARCHS) == pytest.approx(ranking.estimate(mean, SCORES[0], ARCHS))


def test_the_variance_of_crossed_effects():
    """Of a mean: between seeds that of their means, over seeds; besides, what two seeds' scores have in common."""
    between = SCORES.mean(axis=1).var(ddof=1) / 4
    covariances = np.cov(SCORES) / 30
    common = np.mean([covariances[i, j] for i in range(4) for j in range(4) if i != j])
    degrees = (between + common) / (between / 3 + common / 29)
    assert 3 < degrees < 29
    assert ranking.estimate(mean, SCORES, ARCHS) == student(SCORES.mean(), between + common, degrees)


def test_seeds_that_contradict_one_another_take_nothing_from_the_variance():
    scores = np.stack([TWENTY, 3 - TWENTY])  # their covariance is negative
    between = scores.mean(axis=1).var(ddof=1) / 2
    assert ranking.estimate(mean, scores, TWENTY) == student(1.5, between, 1)


def test_a_difference_cancels_what_both_sides_share():
    shared = RNG.normal(size=(3, 50)) + 100 * RNG.normal(size=50)
    gain = np.array([[0.1], [0.0], [0.4]])
    got = ranking.estimate_difference(mean, shared + gain, shared, np.arange(50))
    assert got == pytest.approx(ranking.estimate_mean(gain[:, 0]), abs=1e-9)
    assert ranking.estimate_difference(ranking.kendall_tau, shared, shared, np.arange(50)) == (0, 0, 0)


def test_a_difference_is_the_estimate_of_differences():
    baseline, scores = SCORES[:2], SCORES[2:]
    got = ranking.estimate_difference(mean, scores, baseline, ARCHS)
    assert got == pytest.approx(ranking.estimate(mean, scores - baseline, ARCHS))
    one = ranking.estimate_difference(mean, scores[:1], baseline[:1], ARCHS)
    assert one == pytest.approx(ranking.estimate(mean, (scores - baseline)[:1], ARCHS))


def test_what_is_undefined():
    def statistic(scores, *_):
        return math.nan if 5 not in scores else scores.mean()

    values = np.arange(8.0)  # without 5 it is nan; the variance is that of the seven others' jackknife
    without = np.array([np.delete(values, i).mean() for i in range(8) if i != 5])
    pseudo = 8 * 3.5 - 7 * without
    variance = ((pseudo - pseudo.mean()) ** 2).mean() / 7
    assert ranking.estimate(statistic, values, values) == student(3.5, variance, 6)
    nothing = lambda got: np.isnan(got.low) and np.isnan(got.high)  # noqa: E731
    assert nothing(ranking.estimate(ranking.kendall_tau, np.ones(9), np.arange(9)))
    assert nothing(ranking.estimate(ranking.kendall_tau, [np.arange(9), np.ones(9)], np.arange(9)))
    of_three = lambda scores, *_: 1.0 if len(scores) == 3 else math.nan  # noqa: E731
    assert ranking.estimate(of_three, [1, 2, 3], [1, 2, 3]).value == 1
    assert nothing(ranking.estimate(of_three, [1, 2, 3], [1, 2, 3]))
    two = ranking.estimate(ranking.kendall_tau, [1, 2], [1, 2])  # without one there is no pair
    assert two.value == pytest.approx(1) and nothing(two)


def test_a_mean_has_students_interval():
    """By hand, with 4.302653 of the standard error from the table for two degrees of freedom."""
    assert ranking.estimate_mean([1.0, 2.0, 3.0]) == pytest.approx((2, 2 - 2.4841, 2 + 2.4841), abs=1e-4)
    _, low, high = ranking.estimate_mean([1.0, 2.0, 4.0])
    assert high - 7 / 3 == pytest.approx(4.302653 * math.sqrt(7 / 9), rel=1e-6) == pytest.approx(7 / 3 - low)
    assert ranking.estimate_mean([0.3, 0.3]) == (0.3, 0.3, 0.3)
    assert ranking.estimate_mean([1.0])[0] == 1 and np.isnan(ranking.estimate_mean([1.0])[1:]).all()
    assert np.isnan(ranking.estimate_mean([])).all()


def test_simulated_ranks_have_the_tau_that_they_are_said_to_have():
    quality = np.sort(RNG.normal(size=200))
    taus = np.array([0.3, 0.5, 0.7])
    ranks = [coverage.score(quality, RNG.normal(size=(3, 200)), taus) for _ in range(30)]
    found = np.array([[ranking.kendall_tau(row, quality) for row in rows] for rows in ranks])
    np.testing.assert_allclose([coverage.kendall_tau(row, quality) for row in ranks[0]], found[0], atol=1e-12)
    np.testing.assert_allclose(found.mean(axis=0), taus, atol=4 * 0.05 / math.sqrt(30))


@pytest.mark.parametrize("function", ["estimate", "estimate_difference"])
def test_three_seeds_cover_as_they_should(function):
    """150 simulations of 0.95 end between 0.91 and 0.99; 0.88 or 1.00, as bootstraps had here, would not."""
    rng, small = np.random.default_rng(1), range(0, 150 * coverage.NUM_PROBLEMS, coverage.NUM_PROBLEMS)
    for errors in ("own",) if function == "estimate_difference" else ("mixed",):
        found = [coverage.simulate(rng, turn, function, 3, errors, "differing") for turn in small]
        assert 0.91 <= np.mean([low <= 0 <= high for _, low, high in found]) <= 0.99


def test_the_stored_coverage_is_what_the_docstrings_say():
    records = json.loads(RESULTS.read_text())
    settings = list(coverage.settings())
    assert [{name: record[name] for name in settings[0]} for record in records] == settings

    def covered(function, num_seeds, kind=""):
        return [
            record["coverage"]
            for record in records
            if (record["function"], record["num_seeds"]) == (function, num_seeds) and record["errors"].startswith(kind)
        ]

    for function in ("estimate", "estimate_difference"):
        words = [f"{covered(function, 1)[0]:.3f}"]
        for num_seeds in (3, 5, 10):
            found = covered(function, num_seeds)
            assert len(found) == 6 and min(found) >= 0.93 and max(found) <= 0.975 and 0.94 <= np.mean(found) <= 0.96
            words.append(f"{min(found):.3f} to {max(found):.3f}")
        (line,) = [line for line in intervals.__doc__.splitlines() if line.split()[:1] == [function]]
        assert line.split(maxsplit=1)[1].split() == " ".join(words).split()
    skewed = ", ".join(f"{covered('estimate_mean', number, 'exponential')[0]:.3f}" for number in (3, 5, 10))
    assert f"{skewed} with 3, 5, 10 seeds" in ranking.estimate_mean.__doc__
    assert all(0.93 <= covered("estimate_mean", number, "normal")[0] <= 0.97 for number in (3, 5, 10))


def test_the_kept_scores_have_the_intervals_that_are_reported(monkeypatch, capsys):
    monkeypatch.chdir(RESULTS.parents[1])
    (example,) = re.findall(r"```python\n(.*?)```", Path("results/README.md").read_text(), re.DOTALL)
    exec(example, {})
    value, low, high = re.findall(r"=([\d.]+)", capsys.readouterr().out)
    row = f"**{float(value):.3f} [{float(low):.3f}, {float(high):.3f}]**"
    assert row == "**0.595 [0.539, 0.651]**" and row in Path("experiments/README.md").read_text()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ranking.estimate(mean, [1, 2, 3], [1, 2]), r"\(1, 3\), \(2,\)"),
        (lambda: ranking.estimate(mean, TWENTY, level=95), "level is 95"),
        (lambda: ranking.estimate(mean, TWENTY, level=math.nan), "level is nan"),
        (lambda: ranking.estimate(mean, np.eye(20)[:3], [1, 2]), r"\(3, 20\), \(2,\), expected"),
        (lambda: ranking.estimate(mean, np.ones((2, 1)), [1]), "num_archs >= 2"),
        (lambda: ranking.estimate(mean, np.ones((0, 5)), np.ones(5)), "num_seeds >= 1"),
        (lambda: ranking.estimate(mean, np.ones((2, 3, 4)), np.ones(3)), r"expected \[num_archs\]"),
        (lambda: ranking.estimate(mean, 3.0), r"shape \(\)"),
        (lambda: ranking.estimate(mean, [1, 2, 3], 7), r"\(1, 3\), \(\), expected"),
        (lambda: ranking.estimate_difference(mean, np.eye(3), np.eye(2)), r"\(3, 3\) and baseline \(2, 2\)"),
        (lambda: ranking.estimate_difference(mean, np.ones(9), np.ones(9)), r"expected \[num_seeds, num_archs\]"),
        (lambda: ranking.estimate_difference(mean, np.ones((2, 9)), np.ones((2, 9)), level=0), "level is 0"),
        (lambda: ranking.estimate_mean([[1, 2]]), "values: shape"),
        (lambda: ranking.estimate_mean(["a", "b"]), "values: dtype"),
        (lambda: ranking.estimate_mean([1, 2], level=1), "level is 1"),
    ],
)
def test_bad_input_ends_in_one_line(call, message):
    with pytest.raises(ValueError, match=message) as error:
        call()
    assert "\n" not in str(error.value)
