"""The super-net's factors, each against a plain super-net whose parameters are set by hand, and by every route."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats
from conftest import random_params

from jaxnas.codes import enumerate_archs
from jaxnas.evaluation import make_evaluator
from jaxnas.ops import OPS, Policy, Tape
from jaxnas.samplers import Sampler
from jaxnas.space import CellLayout, ChainLayout, SearchSpace
from jaxnas.spaces import SPACES, chain_space
from jaxnas.supernets import make_supernet
from jaxnas.supernets.dropout import draw_keep, make_dropout
from jaxnas.training import Recipe, init_train_state, make_cross_entropy_loss, make_standalone, make_train_step

NONE, SKIP, CONV_1, CONV_3 = range(4)
EDGES = ["01", "02", "12"]
CELLS = SearchSpace(  # one cell of three nodes
    "cells",
    (("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3"),) * 3,
    CellLayout(width=3, cells_per_stage=1, edges=((0, 1), (0, 2), (1, 2)), num_stages=1, image_size=4),
)
MOBILE = chain_space(  # a larger kernel of fewer channels: neither candidate's own serves both
    "mobile",
    ChainLayout(stem_width=2, widths=(2, 3), strides=(1, 2), head_width=4, image_size=6, in_channels=1),
    [("mb1_k5", "mb2_k3")] * 2,
)
PLAIN_CHAIN = chain_space(
    "plain",
    ChainLayout(stem_width=2, widths=(2,), strides=(1,), head_width=0, image_size=4),
    [("identity", "nor_conv_3x3")],
)
RNG = np.random.default_rng(0)
IMAGES, LABELS = RNG.normal(size=(5, 4, 4, 3)).astype(np.float32), RNG.integers(0, 10, 5)
GREY = RNG.normal(size=(5, 6, 6, 1)).astype(np.float32)


@functools.cache
def built(space=CELLS, **settings):
    supernet = make_supernet(space, **settings)
    return supernet, random_params(supernet)


def logits_of(supernet, params, code, images):
    return jax.jit(functools.partial(supernet.apply, groups=None))(params, jnp.array(code), images)[0]


def edge(name: str) -> str:
    return f"stage0_cell0_edge{name}"


def node(name: str) -> str:
    return f"stage0_cell0_node{name[1]}"


class TestOpOnNode:
    def test_equals_copies_on_the_edges(self):
        supernet, params = built(op_on="node")
        assert {name for name in params if name.startswith("stage")} == {"stage0_cell0_node1", "stage0_cell0_node2"}
        plain, _ = built()
        copied = {name: params[name] for name in ("stem", "head")} | {edge(e): params[node(e)] for e in EDGES}
        for code in ([CONV_3, CONV_1, CONV_3], [CONV_1, CONV_3, CONV_3]):
            np.testing.assert_array_equal(
                logits_of(supernet, params, code, IMAGES), logits_of(plain, copied, code, IMAGES)
            )

    def test_each_input_normalised_by_its_own_scale_and_shift(self):
        supernet, params = built(op_on="node", batch_norm="per_input")
        assert set(params[node("02")]["nor_conv_3x3"]) == {"Conv_0"}
        assert {e: set(params[edge(e)]["nor_conv_3x3"]) for e in EDGES} == {e: {"BatchNorm_0"} for e in EDGES}
        plain, _ = built()
        copied = {name: params[name] for name in ("stem", "head")}
        for e in EDGES:
            own = {op: params[node(e)][op] | params[edge(e)][op] for op in ("nor_conv_1x1", "nor_conv_3x3")}
            copied[edge(e)] = own | {"none": {}, "skip_connect": {}}
        code = [CONV_3, CONV_3, CONV_3]
        np.testing.assert_array_equal(logits_of(supernet, params, code, IMAGES), logits_of(plain, copied, code, IMAGES))

    def test_number_of_parameters(self):
        """By hand, width 3: an edge has 81 + 9 weights and 2 x 6 of normalisation; a cell has 3 edges and 2 nodes."""
        settings = {
            "edge": {},
            "node": {"op_on": "node"},
            "per_input": {"op_on": "node", "batch_norm": "per_input"},
            "centre": {"kernels": "centre"},
            "transform": {"kernels": "transform"},
        }
        cells = {how: [tree for key, tree in built(**settings[how])[1].items() if "cell" in key] for how in settings}
        sizes = {how: sum(leaf.size for leaf in jax.tree.leaves(trees)) for how, trees in cells.items()}
        assert sizes == {
            "edge": 3 * (90 + 12),
            "node": 2 * (90 + 12),
            "per_input": 2 * 90 + 3 * 12,
            "centre": 3 * (81 + 12),
            "transform": 3 * (81 + 1 + 12),
        }


class TestSharedKernels:
    @pytest.mark.parametrize("kernels", ["centre", "transform"])
    def test_dense_kernel_equals_its_cut(self, kernels):
        supernet, params = built(kernels=kernels)
        plain, other = built()
        cut = jax.tree.map(np.asarray, other)
        for e in EDGES:
            stored = params[edge(e)]
            kernel = np.asarray(stored["dense_kernel"]["kernel"])
            factor = float(stored["nor_conv_1x1"]["transform"][0, 0]) if kernels == "transform" else 1.0
            for op, own in (("nor_conv_3x3", kernel), ("nor_conv_1x1", factor * kernel[1:2, 1:2])):
                cut[edge(e)][op] = {"Conv_0": {"kernel": own}, "BatchNorm_0": stored[op]["BatchNorm_0"]}
        cut |= {name: params[name] for name in ("stem", "head")}
        code = [CONV_3, CONV_1, CONV_1]
        got, expected = logits_of(supernet, params, code, IMAGES), logits_of(plain, cut, code, IMAGES)
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)

    def test_depthwise_kernel_and_its_gradient(self):
        """5x5 of 2 channels beside 3x3 of 4: a kernel of 5x5x4. Its gradient by hand: that of the 5x5 on the first
        channels, and on the middle pixels that of the 3x3 through the transposed transform."""
        layout = MOBILE.layout._replace(widths=(3,), strides=(2,))
        space = chain_space("one_layer", layout, MOBILE.op_names[:1])
        supernet, params = built(space, kernels="transform")
        plain, other = built(space)
        sizes = {"layer0": (2, 4)}

        def cut(params):
            own = {name: params[name] for name in ("stem", "head")}
            for name, (few, many) in sizes.items():
                kernel, small = params[name]["depthwise_kernel"]["kernel"], params[name]["mb2_k3"]
                matrix = small["transform"]
                turned = jnp.einsum("pq,qc->pc", matrix, kernel[1:4, 1:4, :many].reshape(9, many)).reshape(3, 3, many)
                own[name] = {
                    "mb1_k5": params[name]["mb1_k5"] | {"depthwise": {"kernel": kernel[:, :, :few]}},
                    "mb2_k3": {k: small[k] for k in small if k != "transform"} | {"depthwise": {"kernel": turned}},
                }
            return own

        assert params["layer0"]["depthwise_kernel"]["kernel"].shape == (5, 5, 4)
        assert params["layer0"]["mb2_k3"]["transform"].shape == (9, 9)
        assert jax.tree.map(jnp.shape, cut(params)) == jax.tree.map(jnp.shape, other)
        codes = jnp.array([[0], [1], [1]])

        def loss(params, net):
            return jnp.sum(jnp.sin(jax.vmap(lambda code: net.apply(params, code, GREY, groups=3)[0])(codes)))

        value, gradient = jax.jit(jax.value_and_grad(lambda params: loss(params, supernet)))(params)
        expected, own = jax.jit(jax.value_and_grad(lambda params: loss(params, plain)))(cut(params))
        assert value == pytest.approx(float(expected), rel=1e-5)
        for name, (few, many) in sizes.items():
            matrix = np.asarray(params[name]["mb2_k3"]["transform"])
            middle = np.asarray(params[name]["depthwise_kernel"]["kernel"])[1:4, 1:4].reshape(9, many)
            small = np.asarray(own[name]["mb2_k3"]["depthwise"]["kernel"]).reshape(9, many)
            whole = np.zeros((5, 5, 4), np.float32)
            whole[:, :, :few] += own[name]["mb1_k5"]["depthwise"]["kernel"]
            whole[1:4, 1:4] += (matrix.T @ small).reshape(3, 3, many)
            np.testing.assert_allclose(gradient[name]["depthwise_kernel"]["kernel"], whole, rtol=1e-3, atol=1e-4)
            np.testing.assert_allclose(gradient[name]["mb2_k3"]["transform"], small @ middle.T, rtol=1e-3, atol=1e-4)

    def test_initial_values(self):
        """Once He-normal over the large kernel's pixels; transforms the identity."""
        space = SPACES["nasbench_macro"].resized(width=16)
        params = make_supernet(space, kernels="transform").init(jax.random.key(0))
        np.testing.assert_array_equal(params["layer1"]["mb3_k3"]["transform"], np.eye(9))
        assert "depthwise" not in params["layer1"]["mb6_k5"]
        assert np.std(params["layer1"]["depthwise_kernel"]["kernel"]) == pytest.approx(np.sqrt(2 / 25), rel=0.05)


@pytest.mark.parametrize(
    "space, settings, bn_mode",
    [
        (CELLS, {"op_on": "node", "batch_norm": "per_input", "kernels": "transform", "path_dropout": 0.5}, "batch"),
        (MOBILE, {"kernels": "centre", "global_dropout": 0.5}, "tracked"),
    ],
    ids=["cells", "chain"],
)
def test_routes_agree(space, settings, bn_mode):
    """Every route, with everything that is shared; nothing is dropped where nothing is trained."""
    supernet, params = built(space, **settings)
    images = IMAGES if space is CELLS else GREY
    every = enumerate_archs(space)
    archs = every if len(every) < 6 else np.concatenate([every[[0]], RNG.choice(every, 6)])
    given = {}
    if bn_mode == "tracked":
        given["stats"] = {
            name: RNG.uniform([[-0.5], [0.5]], 1.0, (len(layer.candidates), 2, layer.stats_size)).astype(np.float32)
            for name, layer in supernet.layers.items()
        }
    losses = {
        route: make_evaluator(supernet, strategy=route, bn_mode=bn_mode, images_per_call=5, groups=2, workers=1)
        .evaluate(params, archs, images, LABELS, **given)
        .loss
        for route in ("serial", "mask", "dispatch", "graph")
    }
    assert len(np.unique(losses["serial"].round(4))) >= 4  # or nothing has been compared
    for route in losses:
        np.testing.assert_allclose(losses[route], losses["serial"], rtol=1e-3, atol=1e-4, err_msg=route)


class TestDropout:
    def test_chances_grow_linearly(self):
        """NAO's form by hand: a rate of 0.3 over three cells, at half of the training."""
        dropout = make_dropout([["a", "b"], ["c", "d"], ["e"]], 0.3, 0.0, 4)
        np.testing.assert_allclose([*dropout.path.values()], [0.1, 0.1, 0.2, 0.2, 0.3])
        keep = draw_keep(dropout, jax.random.key(0), 0.5, 20_000)
        for name, chance in zip("abcde", [0.05, 0.05, 0.1, 0.1, 0.15]):
            values = np.asarray(keep[name])
            np.testing.assert_allclose(np.unique(values), [0, 1 / (1 - chance)], rtol=1e-6)
            assert scipy.stats.binomtest(int((values == 0).sum()), values.size, chance).pvalue > 1e-3
        assert make_dropout([["a"]], 0.0, 0.0, 4) is None

    def test_an_edge_is_lost_image_by_image(self):
        """Under given statistics images don't touch: each has the logits of a lost edge, or of one scaled to make up
        for it. What can't be lost is the same with and without a key."""
        supernet, params = built(path_dropout=0.4)
        images = np.random.default_rng(1).normal(size=(200, 4, 4, 3)).astype(np.float32)
        sizes = {name: layer.stats_size for name, layer in supernet.layers.items()}
        stats = {name: jnp.stack([jnp.zeros(size), jnp.ones(size)]) for name, size in sizes.items()}
        run = jax.jit(functools.partial(supernet.apply, groups=None))
        code, layers = jnp.array([NONE, CONV_3, NONE]), supernet.layers

        @jax.jit
        def by_hand(images):
            x, _ = layers["stem"](params, code, images, stats, None, None)
            y, _ = layers[edge("02")](params, code, x, stats, None, None)
            kept, lost = (layers["head"](params, code, h, stats, None, None)[0] for h in (y / (1 - 0.4), 0 * y))
            return kept, lost

        kept, lost = by_hand(images)
        logits, _ = run(params, code, images, stats=stats, key=jax.random.key(0))
        is_lost = np.isclose(logits, lost, rtol=1e-4, atol=1e-5).all(axis=1)
        np.testing.assert_allclose(logits[~is_lost], kept[~is_lost], rtol=1e-4, atol=1e-5)
        assert scipy.stats.binomtest(int(is_lost.sum()), 200, 0.4).pvalue > 1e-3
        skips = jnp.array([SKIP, NONE, SKIP])
        with_key, without = (run(params, skips, images, stats=stats, key=key)[0] for key in (jax.random.key(0), None))
        np.testing.assert_allclose(with_key, without, rtol=1e-6)

    @pytest.mark.parametrize("op", ["mb2_k3", "nconv2_k3", "rconv_k3", "dconv_k3"])
    def test_a_block_keeps_its_shortcut(self, op):
        module = OPS[op](2, 1, True, Policy())
        assert module.has_shortcut(2) and not module.has_shortcut(3)
        x = RNG.normal(size=(3, 4, 4, 2)).astype(np.float32)
        variables = module.init(jax.random.key(0), x, Tape(None, None))
        whole = module.apply(variables, x, Tape(None, None))
        dropped = module.apply(variables, x, Tape(None, None, keep=jnp.array([0.0, 2.0, 1.0])))
        np.testing.assert_allclose(dropped, np.stack([x[0], 2 * whole[1] - x[1], whole[2]]), rtol=1e-4, atol=1e-5)

    def test_inputs_of_the_classifier(self):
        """Three features: each image's logits are those of one of the eight subsets, scaled; each kept as often as
        it should be."""
        supernet, params = built(global_dropout=0.25)
        images = np.random.default_rng(2).normal(size=(300, 4, 4, 3)).astype(np.float32)
        code = jnp.array([SKIP] * 3)
        run = jax.jit(functools.partial(supernet.apply, groups=None))
        logits = np.asarray(run(params, code, images, key=jax.random.key(3))[0])
        dense = jax.tree.map(np.asarray, params["head"]["head"]["Classifier_0"]["Dense_0"])
        solve = np.linalg.pinv(dense["kernel"])  # ten classes of three features
        features = (np.asarray(run(params, code, images)[0]) - dense["bias"]) @ solve
        ratio = ((logits - dense["bias"]) @ solve) / features
        np.testing.assert_allclose(ratio, np.where(ratio > 0.5, 1 / 0.75, 0), atol=1e-2)
        assert scipy.stats.binomtest(int((ratio > 0.5).sum()), ratio.size, 0.75).pvalue > 1e-3
        assert len({tuple(row) for row in ratio > 0.5}) == 8

    def test_loss_draws_for_each_architecture_and_ramps(self):
        layout = MOBILE.layout._replace(widths=(2,), strides=(1,))  # the same shape in and out: a shortcut
        space = chain_space("one_block", layout, MOBILE.op_names[:1])
        supernet, params = built(space, path_dropout=0.5)
        batch = {"train": {"images": jnp.asarray(GREY), "labels": jnp.asarray(LABELS)}}
        archs = jnp.array([[1], [1]])

        @functools.partial(jax.jit, static_argnums=2)
        def losses(key, step, steps):
            loss_fn = make_cross_entropy_loss(supernet, dropout_steps=steps)
            return loss_fn(params, archs, batch, key, step)[1].arch_loss

        first, second = losses(jax.random.key(0), 0, 1)
        assert abs(first - second) > 1e-3
        np.testing.assert_array_equal(losses(jax.random.key(0), 0, 1), [first, second])
        np.testing.assert_allclose(losses(jax.random.key(0), 9, 10), [first, second], rtol=1e-5)  # at full strength
        plain = make_cross_entropy_loss(built(space)[0])
        expected = jax.jit(plain)(params, archs, batch, jax.random.key(0), 0)[1].arch_loss
        np.testing.assert_allclose(losses(jax.random.key(0), 0, 10**8), expected, rtol=1e-4)


def test_a_shared_kernel_moves_with_whoever_uses_it():
    """idle="rest": a step of 1x1 convolutions moves the kernels that they share with 3x3 ones, and no 3x3's own scale,
    which weight decay would move."""
    supernet, _ = built(op_on="node", kernels="centre")
    archs = jnp.array([[CONV_1, SKIP, SKIP]])
    fixed = Sampler(lambda key: (), lambda key, state: archs, lambda state, archs, losses: state, 1)
    tx = optax.chain(optax.add_decayed_weights(0.1), optax.sgd(0.1, momentum=0.9))
    batch = {"train": {"images": jnp.asarray(IMAGES), "labels": jnp.asarray(LABELS)}}
    loss_fn = make_cross_entropy_loss(supernet)
    state = init_train_state(supernet, fixed, tx, jax.random.key(0))
    before = jax.tree.map(np.array, state.params)
    state, _ = make_train_step(supernet, loss_fn, fixed, tx, idle="rest")(state, batch)
    moved = jax.tree.map(lambda old, new: bool((old != new).any()), before, state.params)
    nodes = [moved[f"stage0_cell0_node{i}"] for i in (1, 2)]
    assert [moves["dense_kernel"]["kernel"] for moves in nodes] == [True, False]
    assert [moves["nor_conv_1x1"]["BatchNorm_0"]["scale"] for moves in nodes] == [True, False]
    assert not any(jax.tree.leaves([moves["nor_conv_3x3"] for moves in nodes]))


@pytest.mark.parametrize(
    "space, settings, words",
    [
        (CELLS, {"kernels": "half"}, "kernels is 'half', expected one of separate, centre, transform"),
        (CELLS, {"op_on": "vertex"}, "op_on is 'vertex', expected one of edge, node"),
        (CELLS, {"batch_norm": "none"}, "batch_norm is 'none', expected one of shared, per_input"),
        (CELLS, {"batch_norm": "per_input"}, "each input has its own normalisation anyway"),
        (CELLS, {"batch_norm": "per_input", "op_on": "node", "affine": False}, "needs affine normalisation"),
        (CELLS, {"path_dropout": 1.0}, r"path_dropout is 1.0, expected a number, at least 0 and below 1"),
        (CELLS, {"global_dropout": -0.1}, r"global_dropout is -0.1, expected a number, at least 0 and below 1"),
        (
            PLAIN_CHAIN,
            {"op_on": "node"},
            "plain: op_on='node' is for cells, whose nodes have several inputs; .*; leave it 'edge'",
        ),
        (PLAIN_CHAIN, {"path_dropout": 0.1}, "plain: path_dropout needs paths beside a shortcut"),
        (SPACES["digits_chain"], {"kernels": "centre"}, "digits_chain: no choice has kernels of two sizes"),
    ],
)
def test_refusals(space, settings, words):
    with pytest.raises(ValueError, match=words):
        make_supernet(space, **settings)


def test_no_truth_from_shared_parameters():
    supernet, _ = built(op_on="node")
    recipe = Recipe(num_epochs=1, batch_size=5, learning_rate=0.1)
    with pytest.raises(ValueError, match="candidates of this super-net share parameters"):
        make_standalone(supernet, recipe, mean=np.zeros(3), std=np.ones(3))
