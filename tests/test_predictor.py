"""ranking.predict: rankings that it can and cannot learn, from no label on; its models against others'; refusals."""

import numpy as np
import pytest
import scipy.optimize
import scipy.stats
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel
from sklearn.linear_model import Ridge
from sklearn.model_selection import LeaveOneOut, cross_val_predict

from jaxnas import ranking
from jaxnas.codes import enumerate_archs
from jaxnas.costs import arch_costs
from jaxnas.ranking import _gaussian_process, predictor
from jaxnas.spaces import digits_chain

ARCHS = enumerate_archs(digits_chain)
MACS = arch_costs(digits_chain, ARCHS).macs
ORDER = np.random.default_rng(1).permutation(len(ARCHS))
LINEAR = (ARCHS == 0) @ np.array([1.0, -2.0, 0.5, 0.0, 3.0])  # accuracy is linear in which layers are identities
NOISE = np.random.default_rng(0).normal(size=(3, len(ARCHS)))


def predicted(truth, scores, num_known=30, **options):
    """(prediction, Kendall's tau of the architectures that are not known, before and after)."""
    known, others = ORDER[:num_known], ORDER[num_known:]
    prediction = ranking.predict(ARCHS, known, truth[known], scores=scores, **{"macs": MACS, **options})
    return (
        prediction,
        scipy.stats.kendalltau(scores[others], truth[others]).statistic if scores is not None else None,
        scipy.stats.kendalltau(prediction.ranks[others], truth[others]).statistic,
    )


def test_it_learns_what_the_codes_say():
    _, alone, corrected = predicted(LINEAR, NOISE[0])
    assert corrected > 0.7 and abs(alone) < 0.2


def test_it_leaves_a_score_that_is_right():
    prediction, _, corrected = predicted(NOISE[0], 7 * NOISE[0] - 3)
    assert corrected == pytest.approx(1) and prediction.model == "score"


def test_the_baseline_without_a_super_net_has_no_score():
    prediction, _, corrected = predicted(LINEAR, None)
    assert corrected > 0.7 and "score" not in prediction.model
    prediction, _, _ = predicted(MACS, None)
    assert prediction.model == "macs"
    assert predicted(LINEAR, None, macs=None)[2] > 0.7


@pytest.mark.parametrize("num_known", [0, 1])
def test_without_labels_it_is_the_mean_of_what_is_given(num_known):
    prediction, *_ = predicted(LINEAR, NOISE[0], num_known)
    mean = scipy.stats.zscore(scipy.stats.rankdata(NOISE[0])) + scipy.stats.zscore(scipy.stats.rankdata(MACS))
    assert prediction.model == "no labels"
    assert scipy.stats.kendalltau(prediction.ranks, mean).statistic == pytest.approx(1)
    alone, *_ = predicted(LINEAR, NOISE[0], num_known, macs=None)
    assert scipy.stats.kendalltau(alone.ranks, NOISE[0]).statistic == pytest.approx(1)


@pytest.mark.parametrize("num_known", [2, 3, 19])
def test_a_few_labels_choose_no_model(num_known):
    prediction, _, corrected = predicted(NOISE[0], NOISE[1], num_known)
    assert -1 <= corrected <= 1 and np.isfinite(prediction.deviations).all()
    assert prediction.model == "gaussian process"


def test_a_population_of_two():
    for known in ([], [0], [0, 1]):
        prediction = ranking.predict(ARCHS[:2], known, [0.5, 0.6][: len(known)], scores=[2.0, 1.0])
        assert prediction.ranks.shape == (2,) and np.isfinite(prediction.ranks).all()
    assert prediction.ranks[1] > prediction.ranks[0]
    with pytest.raises(ValueError, match="number is 1, expected"):
        prediction.next_labels(1)


def test_it_learns_what_fingerprints_say():
    """Quality bends along the first component; nothing else knows of it."""
    features = np.stack([NOISE[0], 0.5 * NOISE[1]], axis=1)
    truth = -((NOISE[0] - 0.5) ** 2)
    prediction, _, corrected = predicted(truth, None, fingerprints=features)
    assert corrected > 0.8 and prediction.model.startswith("gaussian process")
    assert predicted(truth, None)[2] < 0.3


@pytest.fixture
def at_the_prior(monkeypatch):
    """A process whose lengths and variances are where the prior has them, nothing fitted."""
    monkeypatch.setattr(
        scipy.optimize, "minimize", lambda function, start, *args, **options: scipy.optimize.OptimizeResult(x=start)
    )


def test_the_process_is_that_of_scikit_learn(at_the_prior):
    """One group, whose mean squared distance is made 1; no ranking without labels."""
    features, known = NOISE[:2].T, np.arange(20)
    target = scipy.stats.zscore(NOISE[2, known])
    scaled = features / np.sqrt(2 * features.var(axis=0).sum())
    kernel = Matern(np.exp(0.5), nu=2.5) + ConstantKernel(_gaussian_process.OFFSET**2)
    oracle = GaussianProcessRegressor(kernel + WhiteKernel(np.exp(-1.5)), optimizer=None).fit(scaled[known], target)
    mean, deviations = oracle.predict(scaled, return_std=True)
    fitted = _gaussian_process.gaussian_process([features], known, target, np.zeros(len(ARCHS)))
    np.testing.assert_allclose(fitted.mean, mean, atol=1e-8)
    np.testing.assert_allclose(fitted.deviations, deviations, atol=1e-8)


GROUPS, PRIOR = [NOISE[:2].T, MACS[:, None] / 1e6], scipy.stats.zscore(NOISE[2])


def test_what_is_left_out_is_predicted_from_the_others(at_the_prior):
    known, target = ORDER[:8], LINEAR[ORDER[:8]]
    left_out = [
        _gaussian_process.gaussian_process(GROUPS, np.delete(known, i), np.delete(target, i), PRIOR).mean[row]
        for i, row in enumerate(known)
    ]
    fitted = _gaussian_process.gaussian_process(GROUPS, known, target, PRIOR)
    np.testing.assert_allclose(fitted.left_out, left_out, atol=1e-10)
    ridge = cross_val_predict(Ridge(alpha=2.0), ARCHS[known], target, cv=LeaveOneOut())
    np.testing.assert_allclose(predictor._ridge(ARCHS.astype(float), known, target, 2.0).left_out, ridge, atol=1e-10)


def test_labels_are_bought_where_they_tell_most(at_the_prior):
    """Each is the least certain one once those before are known, found by fitting anew."""
    known, bought = ORDER[:5], []
    fitted = _gaussian_process.gaussian_process(GROUPS, known, LINEAR[known], PRIOR)
    for _ in range(6):
        told = np.array([*known, *bought])
        deviations = _gaussian_process.gaussian_process(GROUPS, told, LINEAR[told], PRIOR).deviations
        deviations[told] = 0
        bought.append(int(deviations.argmax()))
    assert _gaussian_process.buy(fitted, known, 6).tolist() == bought


def test_the_gradient_is_that_of_finite_differences():
    rng = np.random.default_rng(2)
    apart = np.array([_gaussian_process._squared_distances(group[:9], group[:9]) for group in GROUPS])
    given = (apart, 0.2 * np.ones((9, 9)), rng.normal(size=9), np.full(4, -0.5), np.full(4, 1.5))
    for logs in rng.normal(size=(3, 4)):
        value, gradient = (
            (lambda at: _gaussian_process._objective(at, *given)[0]),
            _gaussian_process._objective(logs, *given)[1],
        )
        np.testing.assert_allclose(gradient, scipy.optimize.approx_fprime(logs, value), rtol=1e-4, atol=1e-5)


def test_labels_to_buy_are_new_ones():
    prediction, *_ = predicted(LINEAR, NOISE[0], 30)
    rows = prediction.next_labels(40)
    assert len(set(rows.tolist()) | set(ORDER[:30].tolist())) == 70
    assert len(set(predicted(LINEAR, NOISE[0], 0)[0].next_labels(243).tolist())) == 243
    with pytest.raises(ValueError, match="number is 214, expected 1 to 213"):
        prediction.next_labels(214)


@pytest.mark.parametrize("truth", [NOISE[0] + NOISE[1], LINEAR + 0.8 * NOISE[1]], ids=["score", "codes"])
def test_deviations_hold_the_shares_that_a_normal_law_has(truth):
    prediction, *_ = predicted(truth, NOISE[0])
    known, others = np.sort(truth[ORDER[:30]]), ORDER[30:]
    places = np.interp(truth[others], known, np.arange(1.0, 31.0))
    errors = (places - 15.5) / np.std(np.arange(30)) - prediction.ranks[others]
    within = [np.mean(np.abs(errors) <= reach * prediction.deviations[others]) for reach in (0.3, 1, 2)]
    assert within == pytest.approx([0.24, 0.68, 0.95], abs=0.13)


def test_without_a_penalty_a_ridges_deviations_are_those_of_a_textbook():
    """Simple regression: s^2 (1 + 1/n + (x - mean)^2 / Sxx), s^2 on n - 2 degrees of freedom."""
    rng = np.random.default_rng(3)
    x, known = rng.normal(size=40), np.arange(12)
    y = 2 * x[known] + rng.normal(size=12)
    fit = scipy.stats.linregress(x[known], y)
    residuals = y - fit.intercept - fit.slope * x[known]
    spread = x[known] - x[known].mean()
    variance = (residuals**2).sum() / 10 * (1 + 1 / 12 + (x - x[known].mean()) ** 2 / (spread**2).sum())
    got = predictor._ridge(x[:, None], known, y, alpha=0.0).deviations
    np.testing.assert_allclose(got, np.sqrt(variance), rtol=1e-12)


def test_scores_and_accuracies_count_by_their_order_alone():
    first, *_ = predicted(LINEAR + NOISE[1], NOISE[0])
    second, *_ = predicted(np.exp(LINEAR + NOISE[1]), NOISE[0] ** 3)
    np.testing.assert_array_equal(first.ranks, second.ranks)


@pytest.mark.parametrize(
    ("known", "accuracies", "options", "message"),
    [
        ([3], [0.5], {}, "neither a label, nor a score, nor a cost to rank by"),
        ([], [], {"fingerprints": NOISE.T}, "neither a label, nor a score, nor a cost to rank by"),
        ([3, 4], [0.5, 0.6], {"fingerprints": NOISE}, r"fingerprints: shape \(3, 243\), expected \(243, any\)"),
        ([3, 4], [0.5, 0.6], {"fingerprints": NOISE.T * np.nan}, "fingerprints: nan at index"),
        ([3, 4, 5], [0.5, 0.5, 0.5], {}, "all 3 known accuracies are 0.5, which orders nothing"),
        ([3, 4], [0.5, np.nan], {}, r"accuracies: nan at index \(1,\)"),
        ([3, 4], ["good", "bad"], {}, "accuracies: dtype"),
        ([3, 3], [0.5, 0.6], {}, r"rows \[3, 3\], expected distinct ones"),
        ([3, 243], [0.5, 0.6], {}, "known: 243 at index .*, expected at least 0 and at most 242"),
        ([-1, 3], [0.5, 0.6], {}, "known: -1 at index"),
        ([0.5, 3.0], [0.5, 0.6], {}, "known: dtype float64, expected integer"),
        ([True, False], [0.5, 0.6], {}, "known: dtype bool, expected integer"),
        ([3, 4, 5], [0.5, 0.6], {}, r"accuracies: shape \(2,\), expected \(3\)"),
        ([3, 4], [0.5, 0.6], {"scores": NOISE[0][:9]}, r"score: shape \(9,\), expected \(243\)"),
        ([3, 4], [0.5, 0.6], {"macs": np.full(243, np.inf)}, "macs: inf at index .*, expected finite numbers"),
    ],
)
def test_bad_input_ends_in_one_line(known, accuracies, options, message):
    with pytest.raises(ValueError, match=message) as error:
        ranking.predict(ARCHS, known, accuracies, **options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("archs", [ARCHS / 2, ARCHS[:, 0], ARCHS[:, :0], ARCHS[:1], [["conv"], ["pool"]]])
def test_codes_that_are_none_are_refused(archs):
    with pytest.raises(ValueError, match="archs") as error:
        ranking.predict(archs, [0, 1], [0.5, 0.6])
    assert "\n" not in str(error.value)
