"""NAS-Bench-101 by masks: what switches give, and networks alone by what kernels of their own give."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import random_params

from jaxnas.spaces import nasbench101_space, nasbench201
from jaxnas.supernets import make_supernet, masked

V4 = nasbench101_space(4)
SPACE = V4.resized(width=3, image_size=4, cells_per_stage=1, in_channels=1)  # of width 3, halves have a remainder
FAN = np.array([1, 1, 0, 0, 1, 1, 0, 1], np.int32)  # both vertices between lead to the output: 3x3 and 1x1


@pytest.fixture(scope="module")
def both():
    supernet = make_supernet(SPACE)
    params, images = random_params(supernet), jax.random.normal(jax.random.key(0), (6, 4, 4, 1))
    here = [jax.jit(lambda arch, stats, net=net: net.apply(params, arch, images, stats=stats, groups=None))
            for net in (supernet, masked(supernet))]  # fmt: skip
    return here


@pytest.mark.slow("compiles both super-nets")
def test_masks_give_what_switches_give(both):
    """Logits and statistics of a fifth of all codes, normalised by these images and by statistics of another cell."""
    codes = np.array(list(itertools.product(*(range(number) for number in V4.num_ops))), np.int32)
    codes = codes[V4.is_valid(codes)][::5]
    switched, by_masks = both
    _, other = switched(jnp.asarray(FAN), None)
    found = []
    for code in map(jnp.asarray, codes):
        for stats in (None, other):
            (logits, used), (expected, expected_used) = by_masks(code, stats), switched(code, stats)
            size = max(1, np.abs(expected).max())  # of another cell's statistics, some channel's variance is next to 0
            np.testing.assert_allclose(logits, expected, atol=2e-5 * size)
            if stats is None:
                for name in used:
                    np.testing.assert_allclose(used[name], expected_used[name], atol=2e-5, err_msg=name)
        found.append(np.asarray(logits).tobytes())
    assert len(codes) > 50 and len(set(found)) > 25


def test_a_network_alone_begins_at_its_own_fan_in():
    """Halves of 8 channels: a vertex reads four, so that its kernel's deviation is sqrt(2) of that of eight."""
    net = masked(make_supernet(V4.resized(width=8, image_size=4, cells_per_stage=1)))
    params = jax.tree.map(lambda leaf: jnp.ones(leaf.shape), jax.eval_shape(net.init, jax.random.key(0)))
    alone = jax.jit(net.alone)
    own = alone(params, jnp.asarray(FAN))
    assert own["stage0_cell0_vertex1"]["conv3x3-bn-relu"]["kernel"][0, 0, 0, 0] == pytest.approx(2**0.5)
    assert own["stage2_cell0_vertex2"]["conv1x1-bn-relu"]["kernel"][0, 0, 0, 0] == pytest.approx(2**0.5)
    assert own["stage0_cell0_edge01"]["conv1x1-bn-relu"]["kernel"][0, 0, 0, 0] == 1  # reads all of the cell's input
    assert own["stage0_cell0_vertex1"]["conv3x3-bn-relu"]["scale"].tolist() == [1] * 8
    chain = alone(params, jnp.asarray([1, 0, 0, 1, 0, 1, 0, 1], jnp.int32))
    assert chain["stage0_cell0_vertex1"]["conv3x3-bn-relu"]["kernel"][0, 0, 0, 0] == 1


@pytest.mark.slow("compiles two gradients")
def test_gradients_alone_are_those_of_kernels_of_its_own():
    """Of the super-net whose widths share nothing, at the same values."""
    space = V4.resized(width=4, image_size=4, cells_per_stage=1, in_channels=1)
    shared = make_supernet(space)
    net, expanded = masked(shared), make_supernet(space, channels="expanded")
    params, images = random_params(shared), jax.random.normal(jax.random.key(0), (6, 4, 4, 1))
    shapes, taken = jax.eval_shape(expanded.init, jax.random.key(0)), expanded.taken_by(FAN)
    own = {name: {op: {} for op in tree} for name, tree in shapes.items()}
    for name, op in taken.items():
        if op in shapes[name]:
            own[name][op] = jax.tree.map(inside, params[name].get(owner(op), {}), shapes[name][op])

    def loss(params, net, arch):
        return (jax.nn.log_softmax(net.apply(params, arch, images, groups=None)[0])[:, 3]).mean()

    expected = jax.grad(loss)(own, expanded, FAN)
    found = jax.jit(jax.grad(lambda params, arch: loss(params, net, arch)))(params, jnp.asarray(FAN))
    number = 0
    for name, op in taken.items():
        got = found[name].get(owner(op), {})
        for leaf, own_leaf in zip(jax.tree.leaves(got), jax.tree.leaves(expected[name].get(op, {})), strict=True):
            np.testing.assert_allclose(inside(leaf, own_leaf), own_leaf, atol=1e-5, err_msg=name)
            assert np.abs(leaf).sum() == pytest.approx(np.abs(inside(leaf, own_leaf)).sum())  # beyond it nothing moves
            number += own_leaf.size
    assert number > 500


def owner(op: str) -> str:
    """The candidate under whose name the parameters of all its widths are stored."""
    name, _, width = op.rpartition("_")
    return name if width.isdigit() else op


def inside(leaf, like):
    """The first channels of each axis, as many as there."""
    return leaf[tuple(map(slice, like.shape))]


@pytest.mark.parametrize(
    ("space", "factors"),
    [
        (SPACE, {"channels": "expanded"}),
        (SPACE, {"channels": "shuffled"}),
        (SPACE, {"kernels": "centre"}),
        (SPACE, {"batch_norm": "per_input"}),
        (SPACE, {"path_dropout": 0.1}),
        (nasbench201, {}),
    ],
)
def test_what_has_no_mask(space, factors):
    with pytest.raises(ValueError, match=rf"^{space.name}: masks (take the first channels|are for cells whose wiring)"):
        masked(make_supernet(space, **factors))
