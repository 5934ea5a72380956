"""ranking.report and the estimates in it, against the single metrics and numbers by hand."""

import itertools

import numpy as np
import pytest
import scipy.stats

from jaxnas import ranking

pytestmark = pytest.mark.filterwarnings("error")
RNG = np.random.default_rng(0)
SEEDS = np.clip(0.9 + 0.01 * (RNG.normal(size=(40, 1)) + 0.5 * RNG.normal(size=(40, 3))), 0, 1)  # of the truth
TRUTH = SEEDS.mean(axis=1)
SCORES = 100 * TRUTH + RNG.normal(size=(2, 40))
MACS = 1e6 * (100 * TRUTH + 2 * RNG.normal(size=40))


def tau(first, second):
    return scipy.stats.kendalltau(first, second).statistic


def report(scores=SCORES, truth=SEEDS, **options):
    return ranking.report(scores, truth, **options)


def test_every_figure_of_two_super_nets():
    accuracies = np.round(SCORES)
    got = report(accuracies=accuracies, macs=MACS, top_k=5)
    assert (got.num_archs, got.num_supernets) == (40, 2)
    assert got.kendall_tau.value == pytest.approx(np.mean([tau(row, TRUTH) for row in SCORES]))
    assert got.kendall_tau_accuracy == pytest.approx(np.mean([tau(row, TRUTH) for row in accuracies]))
    assert got.ensemble_kendall_tau.value == pytest.approx(tau(SCORES[0] + SCORES[1], TRUTH))
    assert got.kendall_tau_between_supernets == pytest.approx(tau(*SCORES))
    assert got.spearman == pytest.approx(np.mean([scipy.stats.spearmanr(row, TRUTH).statistic for row in SCORES]))
    binned = np.floor(TRUTH / 1e-3)
    assert got.sparse_kendall_tau == pytest.approx(np.mean([tau(row, binned) for row in SCORES]))
    assert got.macs_kendall_tau.value == pytest.approx(tau(MACS, TRUTH))
    parts = [tau(row, TRUTH) - tau(MACS, TRUTH) for row in SCORES]
    assert got.kendall_tau_minus_macs.value == pytest.approx(np.mean(parts))
    assert got.kendall_tau_minus_macs.low < np.mean(parts) < got.kendall_tau_minus_macs.high
    pairs = list(itertools.combinations(SEEDS.T, 2))
    assert got.kendall_tau_between_truth_seeds == pytest.approx(np.mean([tau(*pair) for pair in pairs]))
    assert got.top_decile_kendall_tau == np.mean([ranking.top_decile_kendall_tau(row, SEEDS) for row in SCORES])
    assert got.top_decile_macs_kendall_tau == ranking.top_decile_kendall_tau(MACS, SEEDS)
    ordered = [np.argsort(-row)[:5] for row in SCORES]
    best = set(np.argsort(-TRUTH)[:5])
    assert got.precision_at_k == pytest.approx(np.mean([len(best & set(rows)) / 5 for rows in ordered]))
    assert got.top_k_mean_accuracy == pytest.approx(np.mean([TRUTH[rows].mean() for rows in ordered]))
    place = list(np.argsort(-TRUTH)).index(SCORES[0].argmax()) + 1
    assert (got.best_found_rank, got.best_accuracy) == (place, TRUTH.max())
    assert got.prob_surpass_random_10 == pytest.approx((1 - place / 40) ** 10)


def test_what_was_not_given_is_none():
    got = report(SCORES[0], TRUTH)
    unknown = {name for name, value in got._asdict().items() if value is None}
    assert unknown == {
        "kendall_tau_minus_macs", "kendall_tau_accuracy", "kendall_tau_between_supernets", "macs_kendall_tau",
        "kendall_tau_between_truth_seeds", "truth_reliability", "top_decile_kendall_tau", "top_decile_macs_kendall_tau",
    }  # fmt: skip
    assert got.kendall_tau == got.ensemble_kendall_tau


def test_noise_of_a_truth_without_seeds_comes_from_other_measurements():
    got = report(SCORES[0], TRUTH, truth_seeds=SEEDS[:, :2], choose_by=SEEDS[:, 2])
    assert got.kendall_tau_between_truth_seeds == pytest.approx(tau(*SEEDS[:, :2].T))
    assert got.truth_reliability == ranking.reliability(SEEDS[:, :2])
    top = SEEDS[:, 2] >= np.sort(SEEDS[:, 2])[-4]
    assert got.top_decile_kendall_tau == pytest.approx(tau(SCORES[0][top], TRUTH[top]))


def test_names_say_the_k_and_whose_seeds():
    figures = report(SCORES[0], TRUTH, top_k=5).figures()
    assert {"precision_at_5", "best_rank_at_5", "top_5_mean_accuracy", "num_supernets"} <= set(figures)
    assert not [name for name in figures if "flops" in name or "_k" in name.replace("_kendall", "")]


@pytest.mark.parametrize(
    ("estimate", "words"),
    [
        ((0.06, 0.01, 0.11), "ranks better by 0.06 [0.01, 0.11]"),
        ((-0.06, -0.11, -0.01), "ranks worse by 0.06 [0.01, 0.11]"),
        ((0.02, -0.03, 0.07), "ranks neither clearly better nor clearly worse: 0.02 [-0.03, 0.07]"),
        ((0.02, np.nan, np.nan), "ranks better by 0.02, of which no interval is known"),
    ],
)
def test_a_verdict_claims_no_more_than_its_interval(estimate, words):
    assert ranking.Estimate(*estimate).verdict("ranks {}", "better", "worse") == words


def test_figures_are_flat_and_the_text_leaves_out_what_is_unknown():
    got = report(SCORES[0], TRUTH, macs=MACS)
    figures = got.figures()
    assert [figures[f"macs_kendall_tau{end}"] for end in ("", "_low", "_high")] == list(got.macs_kendall_tau)
    assert figures["kendall_tau_between_truth_seeds"] is None and figures["best_found_rank"] == got.best_found_rank
    assert all(value is None or np.isscalar(value) for value in figures.values())
    lines = str(got).splitlines()
    value, low, high = got.kendall_tau
    assert lines[2].split(maxsplit=1) == ["kendall_tau", f"{value:.3f} [{low:.3f}, {high:.3f}]"]
    assert not any(line.startswith("kendall_tau_between_truth_seeds") for line in lines)


def test_of_ten_architectures_no_decile_is_told():
    few = report(SCORES[:, :10], SEEDS[:10], accuracies=None, macs=MACS[:10])
    assert few.num_archs == 10 and few.top_decile_kendall_tau is few.top_decile_macs_kendall_tau is None
    eleven = report(SCORES[:, :11], SEEDS[:11], accuracies=None, macs=MACS[:11])
    assert abs(eleven.top_decile_kendall_tau) <= 1  # of two


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: report(SCORES[:, :39]), r"scores: shape \(2, 39\), expected \(any, 40\)"),
        (lambda: report(SCORES[None]), r"scores: shape \(1, 2, 40\)"),
        (lambda: report(["high"] * 40), "scores: dtype"),
        (lambda: report(np.where(SCORES > 90, np.nan, SCORES)), "architecture .* expected finite numbers"),
        (lambda: report([1.0], [0.5]), "num_archs >= 2"),
        (lambda: report(accuracies=SCORES[:, 1:]), r"accuracies: shape \(2, 39\)"),
        (lambda: report(SCORES, TRUTH, truth_seeds=SEEDS[1:]), r"truth_seeds: shape \(39, 3\)"),
        (lambda: report(SCORES, TRUTH, choose_by=TRUTH[1:]), r"\(39,\) and \(40,\)"),
        (lambda: report(top_k=2.5), "k is 2.5"),
        (lambda: report(top_k=41), "k is 41"),
        (lambda: report(truth=100 * SEEDS), "divide percentages by 100"),
        (lambda: report(macs=MACS[:9]), r"macs: shape \(9,\), expected \(40\)"),
    ],
)
def test_bad_input_ends_in_one_line(call, message):
    with pytest.raises(ValueError, match=message) as error:
        call()
    assert "\n" not in str(error.value)


def test_mean_truth():
    np.testing.assert_array_equal(ranking.mean_truth([[0.5, 0.7], [0.2, 0.4]]), [0.6, 0.30000000000000004])
    assert ranking.mean_truth(np.float32([0.5, 0.25])).dtype == np.float64


def test_missing_seeds_are_left_out():
    """The mean of two where the third is missing; the seeds that all have are compared with one another."""
    nan = np.nan
    assert ranking.mean_truth([[0.5, 0.7, nan], [nan, 0.2, nan], [0.1, 0.2, 0.6]]) == pytest.approx([0.6, 0.2, 0.3])
    assert np.isnan(ranking.mean_truth([[nan, nan], [0.5, nan]])).tolist() == [True, False]
    holed = SEEDS.copy()
    holed[::2, 2] = nan
    got, complete = report(truth=holed, macs=MACS), report(truth=SEEDS[:, :2], macs=MACS)
    by_hand = np.where(np.isnan(holed[:, 2]), SEEDS[:, :2].mean(axis=1), SEEDS.mean(axis=1))
    assert got.kendall_tau.value == pytest.approx(np.mean([tau(row, by_hand) for row in SCORES]))
    for name in (
        "kendall_tau_between_truth_seeds",
        "truth_reliability",
        "top_decile_kendall_tau",
        "top_decile_macs_kendall_tau",
    ):
        assert getattr(got, name) == getattr(complete, name) is not None
    holed[::2, 1] = nan
    assert report(truth=holed).kendall_tau_between_truth_seeds is None is report(truth=holed).top_decile_kendall_tau
    holed[5] = nan
    with pytest.raises(ValueError, match=r"architecture 5 has .*nan.*, expected finite numbers"):
        report(truth=holed)


def test_the_value_of_an_estimate_is_the_mean_over_seeds():
    got = ranking.estimate(ranking.kendall_tau, SCORES, TRUTH)
    assert got.value == pytest.approx(np.mean([tau(row, TRUTH) for row in SCORES])) and got.low < got.value < got.high
    one = ranking.estimate(ranking.kendall_tau, SCORES[0], TRUTH)
    assert one == ranking.estimate(ranking.kendall_tau, SCORES[:1], TRUTH)


def test_a_difference_is_paired():
    shifted = SCORES + 0.1 * RNG.normal(size=SCORES.shape)
    for rows in (slice(0, 1), slice(0, 2)):
        got = ranking.estimate_difference(ranking.kendall_tau, shifted[rows], SCORES[rows], TRUTH)
        parts = [tau(row, TRUTH) - tau(base, TRUTH) for row, base in zip(shifted[rows], SCORES[rows])]
        assert got.value == pytest.approx(np.mean(parts)) and got.low <= got.value <= got.high
        apart = ranking.estimate(ranking.kendall_tau, shifted[rows], TRUTH)
        assert got.high - got.low < 0.7 * (apart.high - apart.low)  # what both sides share cancels
