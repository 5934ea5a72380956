"""Softened super-nets: weights by hand, the forward against one with these weights, losses and routes that take it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnas.evaluation import cross_entropy, make_evaluator
from jaxnas.space import ChainLayout
from jaxnas.spaces import chain_space
from jaxnas.supernets import make_supernet, soft_weights, softened
from jaxnas.training.landmarks import make_ranking_loss_fn

SPACE = chain_space(
    "soft",
    ChainLayout(stem_width=3, widths=(3, 3), strides=(1, 1), head_width=0, image_size=4, in_channels=1),
    [("nor_conv_1x1", "nor_conv_3x3"), ("identity", "nor_conv_1x1", "nor_conv_3x3")],
)
SUPERNET = make_supernet(SPACE)
SOFT = softened(SUPERNET, tilt=0.1)
CODES = np.array([[0, 2], [1, 0], [1, 1]], np.int32)
THIRD = 1 / 3
WEIGHTS = np.array(  # of CODES, by hand: 1/2 +- 0.1, no third candidate; 1/3 + 0.1 and 1/3 - 0.05
    [
        [[0.6, 0.4, 0.0], [THIRD - 0.05, THIRD - 0.05, THIRD + 0.1]],
        [[0.4, 0.6, 0.0], [THIRD + 0.1, THIRD - 0.05, THIRD - 0.05]],
        [[0.4, 0.6, 0.0], [THIRD - 0.05, THIRD + 0.1, THIRD - 0.05]],
    ],
    np.float32,
)
IMAGES = np.random.default_rng(0).normal(size=(6, 4, 4, 1)).astype(np.float32)
LABELS = np.array([0, 3, 1, 9, 4, 4])


@pytest.fixture(scope="module")
def params():
    return SUPERNET.init(jax.random.key(0))


@pytest.fixture(scope="module")
def losses(params):
    """Of the codes, each as the mixture of the weights by hand: [3]."""
    apply = jax.jit(lambda weights: SUPERNET.apply(params, weights, IMAGES, groups=None)[0])
    return np.array([cross_entropy(apply(weights), LABELS).mean() for weights in WEIGHTS])


def test_weights_by_hand():
    found = soft_weights(SUPERNET.weights(CODES), SUPERNET.num_candidates, tilt=0.1)
    np.testing.assert_allclose(found, WEIGHTS, rtol=1e-6)
    np.testing.assert_allclose(found.sum(axis=-1), 1, rtol=1e-6)
    published = soft_weights(jnp.eye(5)[3][None], [5])[0]
    np.testing.assert_allclose(published, [0.1975, 0.1975, 0.1975, 0.21, 0.1975], rtol=1e-6)


def test_a_lone_candidate_keeps_its_weight():
    found = soft_weights(jnp.array([[1.0, 0.0], [0.0, 1.0]]), [1, 2], tilt=0.25)
    np.testing.assert_allclose(found, [[1, 0], [0.25, 0.75]], rtol=1e-6)


def test_the_largest_tilt_of_two_candidates_is_the_code():
    codes = jnp.eye(2)[None, 1]
    np.testing.assert_allclose(soft_weights(codes, [2], tilt=0.5), codes, atol=1e-6)
    np.testing.assert_allclose(soft_weights(codes, [2], tilt=0.0), [[0.5, 0.5]], rtol=1e-6)


@pytest.mark.parametrize("tilt", [-0.1, 0.51, float("nan"), "much"])
def test_a_tilt_out_of_range(tilt):
    with pytest.raises(ValueError, match="expected a number, at least 0 and at most 0\\.5"):
        softened(SUPERNET, tilt=tilt)


@pytest.mark.parametrize("strategy", ["serial", "mask"])
def test_scores_are_those_of_the_mixture(params, losses, strategy):
    scores = make_evaluator(SOFT, strategy=strategy).evaluate(params, CODES, IMAGES, LABELS)
    np.testing.assert_allclose(scores.loss, losses, rtol=1e-5)


def test_what_follows_the_wiring_is_refused():
    with pytest.raises(ValueError, match="in a softened super-net every candidate runs"):
        make_evaluator(SOFT, strategy="graph")
    with pytest.warns(UserWarning, match="'auto' takes 'serial'"):
        make_evaluator(SOFT)


def test_the_ranking_loss_takes_it(params, losses):
    """Landmarks as mixtures: the value by hand, and a gradient for a candidate that no landmark takes."""
    batch = {"valid": {"images": IMAGES, "labels": LABELS}}

    def of(supernet, codes, order, **how):
        loss_fn = make_ranking_loss_fn(supernet, codes, order, **how)
        return lambda params: loss_fn(params, None, batch, jax.random.key(1), jnp.int32(0))[0]

    order = -losses[::-1]  # the hinge is active, whichever way the losses lie
    pairs = [(worse, better) for worse in range(3) for better in range(3) if order[worse] < order[better]]
    expected = np.mean([max(0.0, losses[better] - losses[worse]) for worse, better in pairs])
    assert expected > 0
    # a difference of losses of two nats or so, whose last digit is 2.4e-7
    assert float(jax.jit(of(SOFT, CODES, order))(params)) == pytest.approx(expected, abs=1e-6)

    both = of(SOFT, [[0, 2], [1, 2]], [1, 2], beta=1.0)  # softplus: always a gradient
    grads = jax.jit(jax.grad(both))(params)["layer1"]["nor_conv_1x1"]
    assert any(np.any(leaf) for leaf in jax.tree.leaves(grads))
