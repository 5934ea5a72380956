"""ranking.predict: rankings that it can and cannot learn, the uncertainty of each model, refusals."""

import numpy as np
import pytest
import scipy.stats

from jaxnas import ranking
from jaxnas.codes import enumerate_archs
from jaxnas.costs import arch_costs
from jaxnas.ranking import predictor
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


@pytest.mark.parametrize("num_known", [2, 3])
def test_fewer_known_than_folds(num_known):
    prediction, _, corrected = predicted(NOISE[0], NOISE[1], num_known)
    assert -1 <= corrected <= 1 and np.isfinite(prediction.deviations).all()


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
    got = predictor._ridge_deviations(x[:, None], known, residuals, alpha=0.0)
    np.testing.assert_allclose(got, np.sqrt(variance), rtol=1e-12)


def test_scores_and_accuracies_count_by_their_order_alone():
    first, *_ = predicted(LINEAR + NOISE[1], NOISE[0])
    second, *_ = predicted(np.exp(LINEAR + NOISE[1]), NOISE[0] ** 3)
    np.testing.assert_array_equal(first.ranks, second.ranks)


@pytest.mark.parametrize(
    ("known", "accuracies", "options", "message"),
    [
        ([3], [0.5], {}, "1 known accuracies, expected .* two known or more"),
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


@pytest.mark.parametrize("archs", [ARCHS / 2, ARCHS[:, 0], ARCHS[:, :0], [["conv"], ["pool"]]])
def test_codes_that_are_none_are_refused(archs):
    with pytest.raises(ValueError, match="archs") as error:
        ranking.predict(archs, [0, 1], [0.5, 0.6])
    assert "\n" not in str(error.value)
