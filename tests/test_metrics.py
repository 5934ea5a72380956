import itertools
import json
import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from jaxnas import ranking

# nan is an answer here and never comes with a warning.
pytestmark = pytest.mark.filterwarnings("error")


def tied_pairs(max_archs):
    """Two short integer vectors of one length, with many ties."""
    pairs = st.integers(2, max_archs).map(
        lambda num_archs: npst.arrays(np.int64, (2, num_archs), elements=st.integers(0, 3))
    )
    return pairs.flatmap(lambda pair: pair)


def brute_tau_b(x, y):
    concordant = discordant = untied_x = untied_y = 0
    for i, j in itertools.combinations(range(len(x)), 2):
        sign = np.sign(x[i] - x[j]) * np.sign(y[i] - y[j])
        concordant += sign > 0
        discordant += sign < 0
        untied_x += x[i] != x[j]
        untied_y += y[i] != y[j]
    if untied_x == 0 or untied_y == 0:
        return math.nan
    return (concordant - discordant) / math.sqrt(untied_x * untied_y)


def test_kendall_tau_by_hand():
    assert ranking.kendall_tau([1, 2, 3, 4], [1, 3, 2, 4]) == pytest.approx((5 - 1) / 6)
    # One tie in x: pairs are 2 concordant, 0 discordant, 2 untied in x, 3 untied in y.
    assert ranking.kendall_tau([1, 1, 2], [1, 2, 3]) == pytest.approx(2 / math.sqrt(2 * 3))


@given(tied_pairs(12))
def test_kendall_tau_equals_a_loop_over_pairs(pair):
    assert ranking.kendall_tau(*pair) == pytest.approx(brute_tau_b(*pair), nan_ok=True)


@given(tied_pairs(12))
def test_spearman_equals_pearson_of_counted_ranks(pair):
    ranks = [[np.mean(np.flatnonzero(np.sort(x) == value)) for value in x] for x in pair]
    deviations = np.asarray(ranks) - np.mean(ranks, axis=1, keepdims=True)
    norm = math.sqrt((deviations[0] ** 2).sum() * (deviations[1] ** 2).sum())
    expected = deviations[0] @ deviations[1] / norm if norm else math.nan
    assert ranking.spearman(*pair) == pytest.approx(expected, nan_ok=True)


def test_random_floats_agree_with_scipy():
    x, y = np.random.default_rng(0).normal(size=(2, 500)).astype(np.float32)
    assert ranking.kendall_tau(x, x + y) == pytest.approx(
        scipy.stats.weightedtau(x, x + y, rank=None, weigher=lambda _: 1)[0]
    )
    assert ranking.spearman(x, x + y) == pytest.approx(scipy.stats.spearmanr(x, x + y).statistic)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("num_bins", [10, 100, 1000, 10000])
def test_sparse_tau_bins_exact_multiples_of_the_threshold_upwards(num_bins, dtype):
    bins = np.arange(num_bins)
    # One architecture at each multiple (computed in two ways) and one in the middle of each bin: all in bin i.
    truth = np.concatenate([bins / num_bins, bins * (1 / num_bins), (bins + 0.5) / num_bins]).astype(dtype)
    assert ranking.sparse_kendall_tau(np.tile(bins, 3), truth, threshold=1 / num_bins) == pytest.approx(1, rel=1e-12)


def test_sparse_tau_by_hand():
    truth = [0.9301, 0.9309, 0.9312, 0.9420]  # bins 930, 930, 931, 942 at 1e-3; 93, 93, 93, 94 at 1e-2
    scores = [0.2, 0.1, 0.3, 0.4]
    assert ranking.kendall_tau(scores, truth) == pytest.approx(4 / 6)
    assert ranking.sparse_kendall_tau(scores, truth) == pytest.approx(5 / math.sqrt(6 * 5))
    assert ranking.sparse_kendall_tau(scores, truth, threshold=1e-2) == pytest.approx(3 / math.sqrt(6 * 3))
    # Both sequences are (930, 930, 931, 942): a swap within a bin leaves no trace.
    assert ranking.sparse_kendall_tau(scores, truth, variant="published") == 1


def published_sparse_tau(scores, ten_thousandths):
    """The steps of the authors' code at threshold 1e-3, on accuracies in integer ten-thousandths."""
    by_truth = sorted(range(len(scores)), key=lambda arch: ten_thousandths[arch])
    counter, previous, bin_rank, sorted_ranks = 0, 0, {}, []
    for arch in by_truth:
        if ten_thousandths[arch] // 10 > previous // 10:
            counter += 1
        bin_rank[arch] = counter
        sorted_ranks.append(counter)
        previous = ten_thousandths[arch]
    by_score = sorted(range(len(scores)), key=lambda arch: scores[arch])
    return brute_tau_b(sorted_ranks, [bin_rank[arch] for arch in by_score])


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 40)), min_size=2, max_size=12))
def test_sparse_tau_equals_the_described_steps(archs):
    scores, ten_thousandths = np.transpose(archs)
    truth = ten_thousandths / 10_000
    assert ranking.sparse_kendall_tau(scores, truth) == pytest.approx(
        brute_tau_b(scores, ten_thousandths // 10), nan_ok=True
    )
    published = ranking.sparse_kendall_tau(scores, truth, variant="published")
    assert published == pytest.approx(published_sparse_tau(scores, ten_thousandths), nan_ok=True)


def test_top_k_by_hand():
    scores = [9, 8, 7, 6, 5]
    truth = [0.7, 0.9, 0.5, 0.8, 0.6]  # ranks 3, 1, 5, 2, 4
    assert ranking.precision_at_k(scores, truth, k=2) == 0.5
    assert ranking.best_rank_at_k(scores, truth, k=1) == 3
    assert ranking.best_rank_at_k(scores, truth, k=3) == 1
    assert ranking.worst_rank_at_k(scores, truth, k=3) == 5
    assert ranking.top_k_mean(scores, truth, k=2) == pytest.approx(0.8)
    assert ranking.top_k_regret(scores, truth, k=1) == pytest.approx(0.2)
    assert ranking.top_k_regret(scores, truth, k=2) == 0


def test_a_fair_draw_breaks_ties_in_the_scores():
    scores = [2, 1, 1, 1, 0]
    truth = [0.5, 0.9, 0.7, 0.1, 0.8]  # ranks 4, 1, 3, 5, 2; the top two are the first and one of the next three
    assert ranking.precision_at_k(scores, truth, k=2) == pytest.approx((1 / 3) / 2)
    assert ranking.best_rank_at_k(scores, truth, k=2) == pytest.approx((1 + 3 + 4) / 3)
    assert ranking.worst_rank_at_k(scores, truth, k=2) == pytest.approx((4 + 4 + 5) / 3)
    assert ranking.top_k_mean(scores, truth, k=2) == pytest.approx((0.5 + (0.9 + 0.7 + 0.1) / 3) / 2)
    assert ranking.top_k_regret(scores, truth, k=2) == pytest.approx((0 + 0.2 + 0.4) / 3)


def top_k_loop(scores, truth, k):
    """P@k, best and worst rank, mean and regret, averaged over every order in which ties could be broken."""
    rows = []
    for draw in itertools.permutations(range(len(scores))):
        top = sorted(range(len(scores)), key=lambda arch: (-scores[arch], draw[arch]))[:k]
        ranks = [1 + sum(other > truth[arch] for other in truth) for arch in top]
        best = max(truth[arch] for arch in top)
        mean = sum(truth[arch] for arch in top) / k
        rows.append([sum(rank <= k for rank in ranks) / k, min(ranks), max(ranks), mean, max(truth) - best])
    return np.mean(rows, axis=0)


@given(tied_pairs(5), st.data())
@settings(max_examples=60, deadline=None)
def test_top_k_equals_the_mean_over_all_tie_breaks(pair, data):
    k = data.draw(st.integers(1, pair.shape[1]))
    functions = (
        ranking.precision_at_k,
        ranking.best_rank_at_k,
        ranking.worst_rank_at_k,
        ranking.top_k_mean,
        ranking.top_k_regret,
    )
    np.testing.assert_allclose([function(*pair, k=k) for function in functions], top_k_loop(*pair, k), atol=1e-12)


def test_prob_surpass_random():
    assert ranking.prob_surpass_random(20, num_archs=100, num_draws=10) == pytest.approx(0.1073741824)  # 0.8 ** 10
    draws = list(itertools.product(range(1, 6), repeat=3))  # every outcome of three draws from five architectures
    all_worse = sum(min(draw) > 2 for draw in draws) / len(draws)
    assert ranking.prob_surpass_random(2, num_archs=5, num_draws=3) == pytest.approx(all_worse)
    # NASBench-101 and 10 draws: 1 - rank / 423,624 is 0.86526, 0.95385, 0.77117; squared, to the 4th and 8th, by hand.
    for rank, published in ((57_079, 0.24), (19_552, 0.62), (96_939, 0.07)):
        assert ranking.prob_surpass_random(rank, num_archs=423_624, num_draws=10) == pytest.approx(published, abs=0.005)


def test_top_decile_by_hand():
    scores = np.arange(30)
    chosen = np.where(np.isin(scores, (3, 5, 8)), 1.0, 0.0)  # the best three of thirty by one measurement
    compared = np.zeros(30)
    compared[[3, 5, 8]] = 2, 1, 3  # one discordant pair of three among them
    assert ranking.top_decile_kendall_tau(scores, compared, choose_by=chosen) == pytest.approx((2 - 1) / 3)


def test_top_decile_averages_over_ordered_pairs_of_seeds():
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 40, size=(95, 3))
    scores = rng.integers(0, 40, size=95)

    def tau_inside(chooser, x, y):
        kth = sorted(chooser, reverse=True)[9]  # the tenth: a tenth of 95 is rounded up
        top = [arch for arch in range(95) if chooser[arch] >= kth]
        return brute_tau_b([x[arch] for arch in top], [y[arch] for arch in top])

    pairs = [(0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1)]
    expected = np.mean([tau_inside(truth[:, a], scores, truth[:, b]) for a, b in pairs])
    assert ranking.top_decile_kendall_tau(scores, truth) == pytest.approx(expected)
    triples = [(0, 1, 2), (1, 0, 2), (2, 0, 1)]
    expected = np.mean([tau_inside(truth[:, a], truth[:, b], truth[:, c]) for a, b, c in triples])
    assert ranking.top_decile_seed_kendall_tau(truth) == pytest.approx(expected)


def test_choosing_the_decile_by_what_is_compared_lowers_tau():
    quality = np.random.default_rng(1).normal(size=4000)
    truth = quality[:, None] + 0.5 * np.random.default_rng(2).normal(size=(4000, 2))
    held_out = ranking.top_decile_kendall_tau(quality, truth)
    assert ranking.top_decile_kendall_tau(quality, truth[:, 0], choose_by=truth[:, 0]) < held_out - 0.05


def test_seed_agreement():
    truth = np.array([[1, 1, 2], [2, 3, 1], [3, 2, 3]])  # pairs of seeds: 1/3, 1/3, -1/3
    assert ranking.seed_kendall_tau(truth) == pytest.approx(1 / 9)
    # Pearson correlations of (1, 2, 3), (1, 3, 2) and (2, 1, 3): 1/2, 1/2, -1/2; mean 1/6; 3/6 / (1 + 2/6) = 3/8.
    assert ranking.reliability(truth) == pytest.approx(3 / 8)


def test_reliability_is_the_squared_correlation_with_the_noiseless_truth():
    rng = np.random.default_rng(0)
    quality = rng.normal(size=20_000)
    truth = quality[:, None] + rng.normal(size=(20_000, 4))  # variance 1, noise of the mean 1/4
    assert ranking.reliability(truth) == pytest.approx(1 / (1 + 1 / 4), abs=0.01)
    assert ranking.reliability(truth) == pytest.approx(np.corrcoef(quality, truth.mean(axis=1))[0, 1] ** 2, abs=0.01)


def test_constant_input_gives_nan_without_a_warning():
    constant, varied = [1.0, 1.0, 1.0], [0.1, 0.2, 0.3]
    for function in (ranking.kendall_tau, ranking.spearman, ranking.sparse_kendall_tau):
        assert math.isnan(function(constant, varied))
        assert math.isnan(function(varied, constant))
    assert math.isnan(ranking.reliability(np.transpose([constant, varied])))


def test_nas_bench_macro_reference_values(data_dir):
    path = data_dir / "nas-bench-macro_cifar10.json"
    entries = list(json.loads(path.read_text()).values())
    truth = np.array([entry["test_acc"] for entry in entries])
    flops = np.array([entry["flops"] for entry in entries])
    assert ranking.seed_kendall_tau(truth) == pytest.approx(0.88, abs=0.005)
    assert ranking.kendall_tau(flops, truth.mean(axis=1)) == pytest.approx(0.556, abs=0.0005)
    assert 0.30 <= ranking.top_decile_kendall_tau(flops, truth) <= 0.325
    assert 0.31 <= ranking.top_decile_seed_kendall_tau(truth) <= 0.39


def test_nasbench201_reference_values(data_dir):
    table = np.load(data_dir / "nasbench201_cifar10.npz")
    assert ranking.kendall_tau(table["flops_m_cifar10"], table["cifar10_test"]) == pytest.approx(0.578, abs=0.0005)
    assert ranking.kendall_tau(table["oneshot_cifar10"], table["cifar10_test"]) == pytest.approx(0.484, abs=0.0005)


TWENTY = np.arange(20.0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ranking.kendall_tau([1, 2], [1, 2, 3]), r"\(2,\) and \(3,\), expected two vectors of one length"),
        (lambda: ranking.kendall_tau([1], [1]), "at least 2"),
        (lambda: ranking.spearman([], []), "at least 2"),
        (lambda: ranking.spearman([[1, 2]], [[1, 2]]), r"scores: shape \(1, 2\)"),
        (lambda: ranking.kendall_tau([1, 2], ["a", "b"]), "truth: dtype"),
        (lambda: ranking.kendall_tau([1, 2], [1, 2j]), "truth: dtype complex128"),
        (lambda: ranking.kendall_tau([None, 1], [1, 2]), "scores: dtype object"),
        (lambda: ranking.spearman([1, 2], [[1], [1, 2]]), "truth: .* is no rectangular array"),
        (lambda: ranking.kendall_tau([1, 2], [1, math.nan]), r"architecture 1 has \[2.0, nan\], expected finite"),
        (lambda: ranking.top_k_mean([1, -math.inf], [1, 2], k=1), "architecture 1 has"),
        (lambda: ranking.sparse_kendall_tau([1, 2], [93, 94]), "divide percentages by 100"),
        (lambda: ranking.sparse_kendall_tau([1, 2], [-0.1, 0.5]), r"expected \[0, 1\]"),
        (lambda: ranking.sparse_kendall_tau([1, 2], [0.1, 0.2], threshold=0), "threshold is 0"),
        (lambda: ranking.sparse_kendall_tau([1, 2], [0.1, 0.2], threshold=math.inf), "threshold is inf"),
        (lambda: ranking.sparse_kendall_tau([1, 2], [0.1, 0.2], threshold="1e-3"), "threshold is '1e-3'"),
        (lambda: ranking.sparse_kendall_tau([1, 2], [0.1, 0.2], variant="both"), "variant is 'both'"),
        (lambda: ranking.precision_at_k([1, 2], [1, 2], k=0), "k is 0"),
        (lambda: ranking.best_rank_at_k([1, 2], [1, 2], k=3), "k is 3, expected 1 to 2"),
        (lambda: ranking.top_k_regret([1, 2], [1, 2], k=1.5), "k is 1.5, expected a whole number"),
        (lambda: ranking.worst_rank_at_k([1, 2], [1, 2], k=math.nan), "k is nan, expected a whole number"),
        (lambda: ranking.prob_surpass_random(math.nan, num_archs=10, num_draws=2), "rank is nan"),
        (lambda: ranking.prob_surpass_random(1, num_archs=10, num_draws=1.5), "num_draws is 1.5"),
        (lambda: ranking.mean_truth(0.5), r"truth: shape \(\)"),
        (lambda: ranking.mean_truth(np.ones((2, 2, 2))), r"truth: shape \(2, 2, 2\)"),
        (lambda: ranking.reliability([["a", "b"]] * 3), "truth: dtype"),
        (lambda: ranking.prob_surpass_random(0, num_archs=10, num_draws=2), "rank is 0"),
        (lambda: ranking.prob_surpass_random(11, num_archs=10, num_draws=2), "rank is 11"),
        (lambda: ranking.prob_surpass_random(1, num_archs=10, num_draws=0), "num_draws is 0"),
        (
            lambda: ranking.top_decile_kendall_tau(TWENTY, TWENTY),
            r"truth: shape \(20,\), expected \(any, any\)",
        ),
        (lambda: ranking.top_decile_kendall_tau(TWENTY, TWENTY[:19], choose_by=TWENTY), r"\(20,\) and \(19,\)"),
        (lambda: ranking.top_decile_kendall_tau(TWENTY[:19], TWENTY, choose_by=TWENTY), r"\(19,\) and \(20,\)"),
        (lambda: ranking.top_decile_kendall_tau(range(10), np.eye(10)), "give at least 11"),
        (lambda: ranking.top_decile_seed_kendall_tau(np.eye(20, 2)), "num_seeds >= 3"),
        (lambda: ranking.seed_kendall_tau(np.full((30, 20), math.nan)), "architecture 0 has"),
        (lambda: ranking.reliability(np.eye(20, 1)), "num_seeds >= 2"),
    ],
)
def test_bad_input_ends_in_one_line(call, message):
    with pytest.raises(ValueError, match=message) as error:
        call()
    assert "\n" not in str(error.value)
