"""ranking.fingerprints and ranking.one_factor: against numpy's SVD, planted factors, memory, refusals."""

import tracemalloc

import numpy as np
import pytest
import scipy.stats

from jaxnas import ranking
from jaxnas.ranking import _decomposition

RNG = np.random.default_rng(0)
QUALITY, SIZE = RNG.normal(size=(2, 60))


def planted(num_images=80, *, second=0.0, noise=0.3, seed=1):
    """Losses whose logarithms are a quality times how hard each image is on it, a second factor, and noise."""
    rng = np.random.default_rng(seed)
    weights, others = rng.uniform(0.5, 1.5, num_images), rng.normal(size=num_images)
    logs = -np.outer(QUALITY, weights) + second * np.outer(SIZE, others) + noise * rng.normal(size=(60, num_images))
    return np.exp(logs + rng.normal(size=num_images)).astype(np.float32)


def sure(num_images=80):
    """Losses of networks that differ in how sure they are: the surer the better on seven images of ten, on the others
    the worse, so that the mean tells which way most go."""
    rng = np.random.default_rng(2)
    way = np.where(np.arange(num_images) % 10 < 7, 1.0, -1.0)
    return np.exp(-np.outer(SIZE, way) + 0.3 * rng.normal(size=(60, num_images))).astype(np.float32)


def components(matrix, number):
    """numpy's, up to their signs: (features, shares)."""
    centred = matrix - matrix.mean(axis=0)
    left, sizes, _ = np.linalg.svd(centred / np.linalg.norm(centred), full_matrices=False)
    return left[:, :number] * sizes[:number] * np.sqrt(len(matrix)), sizes[:number] ** 2


def assert_same(found, expected):
    np.testing.assert_allclose(np.abs(found), np.abs(expected), atol=1e-6)


@pytest.mark.parametrize(
    ("transform", "function"),
    [
        ("log", np.log),
        ("sqrt", np.sqrt),
        ("margin", lambda loss: -np.log(np.exp(-loss) / (1 - np.exp(-loss)))),  # the label's odds, from its probability
        ("none", lambda loss: loss),
    ],
)
def test_components_are_those_of_a_full_decomposition(transform, function):
    losses = planted(second=0.7).astype(np.float64) + 0.01
    found = ranking.fingerprints(losses, transform=transform, num_components=2)
    features, shares = components(function(losses), 2)
    assert_same(found.features, features)
    np.testing.assert_allclose(found.shares, shares, rtol=1e-6)
    np.testing.assert_allclose((found.features**2).mean(axis=0), shares, rtol=1e-6)


def test_blocks_stand_side_by_side_with_equal_weight():
    one, other = planted(second=1.0, seed=1), planted(30, second=1.0, seed=2)
    scaled = [np.log(block) - np.log(block).mean(axis=0) for block in (one, other)]
    together = np.concatenate([block / np.linalg.norm(block) for block in scaled], axis=1)
    expected = components(together, 2)[0]
    assert_same(ranking.fingerprints([one, other], num_components=2).features, expected)
    assert_same(
        ranking.fingerprints([one, other**0.2], num_components=2).features, expected
    )  # a fifth of the logarithm
    stacked = ranking.fingerprints(np.stack([one, one]), num_components=2).features
    assert_same(stacked, ranking.fingerprints(one, num_components=2).features)


def test_rows_are_read_some_at_a_time(monkeypatch):
    whole = ranking.fingerprints([planted(), planted(33)])
    monkeypatch.setattr(_decomposition, "CHUNK", 200)
    parts = ranking.fingerprints([planted(), planted(33)])
    np.testing.assert_allclose(parts.features, whole.features, atol=1e-9)


@pytest.mark.slow("principal components of a large matrix")
def test_a_large_matrix_is_not_copied(tmp_path, monkeypatch):
    """4,000 x 1,000 floats of a file are 16 MB, their float64 32 MB; a tenth of it is held."""
    matrix = np.lib.format.open_memmap(tmp_path / "losses.npy", mode="w+", dtype=np.float32, shape=(4000, 1000))
    matrix[:] = np.exp(np.outer(RNG.normal(size=4000), RNG.normal(size=1000)).astype(np.float32) / 4)
    monkeypatch.setattr(_decomposition, "CHUNK", 2**14)
    tracemalloc.start()
    found = ranking.fingerprints(matrix, num_components=2)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.shares[0] > 0.99 and peak < 5e6


def test_components_are_counted_without_labels():
    """As many as were planted; of images that have nothing in common one is kept, the least there is."""
    assert ranking.fingerprints(planted()).features.shape == (60, 1)
    found = ranking.fingerprints(planted(second=1.0))
    assert found.features.shape == (60, 2) and (found.found_again > 0.9).all()
    noise = ranking.fingerprints(np.random.default_rng(5).exponential(size=(400, 40)))
    assert noise.features.shape == (400, 1) and noise.found_again[0] < 0.5


def test_the_factor_is_the_planted_quality():
    factor = ranking.one_factor(planted(), transform="log")
    assert factor.trusted and factor.share > 0.8 and factor.split_half > 0.95 and factor.agreement > 0.8
    assert factor.same_way == 1
    assert scipy.stats.kendalltau(factor.scores, QUALITY).statistic > 0.9
    assert (factor.scores.mean(), factor.scores.std()) == pytest.approx((0, 1))


@pytest.mark.parametrize(
    ("losses", "doubt"),
    [
        (RNG.exponential(size=(60, 80)), "share of the variance"),
        (RNG.exponential(size=(60, 80)), "correlation between halves"),
        (planted(second=3.0), "tau with the mean"),  # size rules, and no image's loss says which way is better
        (sure(), "share of images on which it goes the same way is 0.70, below 0.8"),
        (planted(1), "halves of the images is nan"),
        (planted()[:5], "5 architectures are fewer than 10"),
    ],
)
def test_a_factor_that_is_not_to_be_trusted_says_why(losses, doubt):
    factor = ranking.one_factor(losses)
    assert not factor.trusted and any(doubt in said for said in factor.doubts)


@pytest.mark.parametrize("transform", ["log", "none"])
def test_loadings_are_correlations_and_find_the_wrong_label(transform, monkeypatch):
    """By numpy's, over two matrices; on the last image the order is turned round."""
    losses = planted(20)
    losses[:, 19] = 1 / losses[:, 19]
    other = planted(7, seed=3)
    matrices = [np.log(part.astype(np.float64)) if transform == "log" else part for part in (losses, other)]
    monkeypatch.setattr(_decomposition, "CHUNK", 60)
    found = ranking.loadings([losses, other], QUALITY, transform=transform)
    expected = [-np.corrcoef(column, QUALITY)[0, 1] for matrix in matrices for column in matrix.T]
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert found.argmin() == 19


def test_an_image_that_all_do_alike_loads_nothing():
    losses = planted(4)
    losses[:, 2] = 0.1
    assert ranking.loadings(losses, QUALITY)[2] == 0 and ranking.loadings(losses, QUALITY)[[0, 1, 3]].min() > 0.5
    for scores, message in ((QUALITY[:9], r"scores: shape \(9,\)"), (np.ones(60), "all scores are 1, which orders")):
        with pytest.raises(ValueError, match=message):
            ranking.loadings(losses, scores)


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_values_that_are_not_finite_are_named_and_taken_as_the_worst(wrong):
    losses = planted(second=1.0).astype(np.float64)
    filled = losses.copy()
    losses[[7, 30], 3] = wrong
    filled[[7, 30], 3] = np.delete(filled[:, 3], [7, 30]).max()
    with pytest.warns(UserWarning, match="2 of 60 networks .* at rows 7, 30: taken as the largest finite one"):
        found = ranking.fingerprints(losses, num_components=2)
    assert_same(found.features, components(np.log(filled), 2)[0])
    with pytest.warns(UserWarning, match="2 of 60 networks"):
        assert np.isfinite(ranking.one_factor(losses).scores).all()


def test_least_populations():
    """One image, two architectures, one component."""
    one_image = ranking.fingerprints(planted(1))
    assert_same(one_image.features[:, 0], scipy.stats.zscore(np.log(planted(1)[:, 0].astype(np.float64))))
    assert np.isnan(one_image.found_again).all()
    pair = ranking.fingerprints(planted()[:2])
    assert_same(pair.features, [[1.0], [-1.0]])
    assert ranking.fingerprints(planted(), num_components=200).features.shape == (60, 59)


@pytest.mark.parametrize(
    ("values", "options", "message"),
    [
        (planted()[0], {}, r"shapes \(80,\), expected \[num_archs, num_images\]"),
        ([planted(), planted()[:9]], {}, r"shapes \(60, 80\), \(9, 80\), expected .* of the same architectures"),
        (planted()[:1], {}, "values are of one architecture"),
        (planted()[:, :0], {}, r"shapes \(60, 0\)"),
        (-planted(), {}, "no loss is below 0"),
        (np.full((4, 3), np.nan), {}, "image 0 of matrix 0 has no finite value"),
        (np.full((4, 3), 0.25), {}, "all architectures have the same values"),
        ([["a", "b"], ["c", "d"]], {}, "expected real numbers"),
        (planted(), {"transform": "exp"}, "transform is 'exp', expected one of log, sqrt, margin, none"),
        (planted(), {"num_components": 0}, "num_components is 0"),
    ],
)
def test_bad_input_ends_in_one_line(values, options, message):
    with pytest.raises(ValueError, match=message) as error:
        ranking.fingerprints(values, **options)
    assert "\n" not in str(error.value)
