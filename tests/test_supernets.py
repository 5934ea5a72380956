"""Super-nets: every route gives the same scores and gradients, in programs without a grouped convolution."""

import dataclasses
import functools
import math
import re

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import control_flow, random_params

from jaxnas.codes import enumerate_archs
from jaxnas.evaluation import make_evaluator
from jaxnas.ops import OPS, Policy
from jaxnas.samplers import fair
from jaxnas.space import ChainLayout
from jaxnas.spaces import SPACES, chain_space
from jaxnas.supernets import make_supernet, select_stats
from jaxnas.training import init_train_state, make_cross_entropy_loss, make_train_step

NUM_IMAGES = 5
ALL = np.ones(NUM_IMAGES, bool)
MASK = np.array([True] * 4 + [False])


def some_images(space, num_images=NUM_IMAGES):
    layout = space.layout
    shape = (num_images, layout.image_size, layout.image_size, layout.in_channels)
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def num_archs(space) -> int:
    """Few, but more than a tile of 3, and a multiple of the operations of each choice."""
    return 6 if space.num_ops[0] == 3 else 5


def balanced_archs(space, size=None, seed=0):
    """Each operation of a choice equally often, in an order of its own at each choice."""
    rng = np.random.default_rng(seed)
    columns = [rng.permutation(np.arange(size or num_archs(space)) % num_ops) for num_ops in space.num_ops]
    return np.stack(columns, axis=1).astype(np.int32)


def random_archs(space, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, space.num_ops, (num_archs(space), space.num_choices)).astype(np.int32)


def population(supernet, route):
    """(params, archs, images, stats, mask) -> (logits, statistics) of a population by one route; statistics given per
    architecture, or None."""

    def one(params, arch, images, stats, mask, groups):
        return supernet.apply(params, arch, images, stats=stats, mask=mask, groups=groups)

    def run(params, archs, images, stats, mask):
        if route == "serial":
            return jax.lax.map(lambda xs: one(params, xs[0], images, xs[1], mask, None), (archs, stats))
        if route == "mask":
            archs = jax.nn.one_hot(archs, max(supernet.space.num_ops))
        return jax.vmap(lambda code, own: one(params, code, images, own, mask, route))(archs, stats)

    return run


@pytest.fixture(scope="module")
def programs(small_supernet):
    """(name, affine, route, with_stats) -> a route of a small super-net, lowered and compiled, once for all tests."""

    @functools.cache
    def program(name, affine, route, with_stats):
        supernet, params = small_supernet(name, affine)
        archs, images = random_archs(supernet.space), some_images(supernet.space)
        stats = {
            name: jax.ShapeDtypeStruct((len(archs), 2, layer.stats_size), "float32")
            for name, layer in supernet.layers.items()
        }
        run = jax.jit(population(supernet, route))
        lowered = run.lower(params, archs, images, stats if with_stats else None, None if with_stats else MASK)
        return lowered, lowered.compile()

    return program


@pytest.fixture
def scores(small_supernet, programs):
    """(name, route, archs, images, ...) -> (logits, statistics) of the small super-net of that name; the mask is for
    batch statistics."""

    def run(name, route, archs, images, *, stats=None, mask=ALL, affine=True):
        _, compiled = programs(name, affine, route, stats is not None)
        params = small_supernet(name, affine)[1]
        return jax.device_get(compiled(params, archs, images, stats, mask if stats is None else None))

    return run


def assert_same(got, expected):
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-4), got, expected)


SLOW = pytest.mark.slow("routes of chains and of whole super-nets, and their gradients")


@pytest.mark.parametrize(
    "name, affine, routes",
    [
        pytest.param("digits_chain", True, ["mask", 3], marks=SLOW),
        pytest.param("nasbench_macro", False, ["mask", "balanced"], marks=SLOW),
        pytest.param("nasbench201", True, ["mask", 3], marks=SLOW),
        ("tiny", True, ["mask", 3, 100]),
        ("tiny", False, [1, "balanced"]),
    ],
)
def test_routes_agree_with_serial(small_supernet, scores, name, affine, routes):
    """With batch statistics of all images, or of those under a mask; then with those statistics given back, as
    calibrated and tracked ones are, to each architecture its own."""
    supernet, params = small_supernet(name, affine)
    paths = jax.tree_util.tree_leaves_with_path(params)
    kinds = {path[-1].key for path, _ in paths if path[0].key != "head"}
    assert kinds == ({"kernel", "scale", "bias"} if affine else {"kernel"})
    images = some_images(supernet.space)
    for route in routes:
        archs = balanced_archs(supernet.space) if route == "balanced" else random_archs(supernet.space)
        expected, used = scores(name, "serial", archs, images, mask=MASK, affine=affine)
        assert expected.shape == (len(archs), NUM_IMAGES, 10) and expected.dtype == np.float32
        assert np.std(expected) > 0.1
        logits, also_used = scores(name, route, archs, images, mask=MASK, affine=affine)
        assert_same((logits[:, MASK], also_used), (expected[:, MASK], used))
        if route == 3:
            whole = scores(name, route, archs, images, affine=affine)
            assert_same(whole, scores(name, "serial", archs, images, affine=affine))
            assert np.abs(whole[0] - logits).max() > 1e-3
        if route == 3 and affine:
            given, returned = scores(name, route, archs, images, stats=used)
            assert_same(given[:, MASK], expected[:, MASK])
            jax.tree.map(np.testing.assert_array_equal, returned, used)


def test_one_path_by_python_ints_and_by_weights(small_supernet, scores):
    """A code of Python ints is decided while tracing; float weights mix the candidates of a choice."""
    supernet, params = small_supernet("tiny")
    images, code = some_images(supernet.space), (1, 2, 0)
    fixed = jax.jit(lambda params, x: supernet.apply(params, code, x))
    assert control_flow(fixed, params, images) == set()
    logits, used = fixed(params, images)
    expected = scores("tiny", "serial", np.array([code] * 6, np.int32), images)
    assert_same((logits, used), jax.tree.map(lambda leaf: leaf[0], expected))
    run = jax.jit(supernet.apply)
    one_hot = np.eye(3, dtype=np.float32)
    assert_same(run(params, one_hot[list(code)], images)[0], logits)
    mixed, _ = run(params, 0.5 * (one_hot[list(code)] + one_hot[[0, 2, 0]]), images)
    assert np.abs(mixed - logits).max() > 1e-3


SHORT: dict[str, tuple[int, dict]] = {  # the first choices or stage of each space: gradients take long to compile
    "digits_chain": (2, {"widths": (4, 8), "strides": (1, 2)}),
    "nasbench_macro": (2, {"widths": (8, 8), "strides": (2, 1)}),
    "nasbench201": (6, {"num_stages": 1}),
    "tiny": (3, {}),
}


@pytest.mark.parametrize(
    "name, routes",
    [
        pytest.param("digits_chain", [3], marks=SLOW),
        pytest.param("nasbench_macro", ["balanced"], marks=SLOW),
        ("nasbench201", ["balanced"]),
        ("tiny", [3, "balanced"]),
    ],
)
def test_gradients_of_dispatch_equal_a_loop_over_paths(small_space, name, routes):
    """Tiles and balanced populations against one path after the other with its code as Python ints, no switch at all.

    Each architecture's loss has a weight of its own, so that a gradient that went astray shows.
    """
    num_choices, sizes = SHORT[name]
    space = small_space(name)
    space = dataclasses.replace(space, op_names=space.op_names[:num_choices], layout=space.layout._replace(**sizes))
    supernet = make_supernet(space)
    params, images, codes = random_params(supernet), some_images(space), balanced_archs(space, size=space.num_ops[0])
    rng = np.random.default_rng(0)

    def loss(params, code, **how):
        return jnp.sum(jnp.sin(supernet.apply(params, code, images, **how)[0]))

    @jax.jit
    def one_by_one(params):
        return [jax.grad(loss)(params, [int(op) for op in code]) for code in codes]

    @functools.partial(jax.jit, static_argnames="groups")
    @jax.grad
    def dispatched(params, archs, weights, *, groups):
        return jnp.sum(weights * jax.vmap(lambda code: loss(params, code, groups=groups))(archs))

    gradients = jax.device_get(one_by_one(params))
    for groups in routes:
        picks = rng.permutation(len(codes)) if groups == "balanced" else rng.integers(0, len(codes), 7)
        weights = np.zeros(len(codes))
        factors = rng.normal(size=len(picks)).astype(np.float32)
        np.add.at(weights, picks, factors)
        expected = jax.tree.map(lambda *leaves, weights=weights: np.tensordot(weights, np.stack(leaves), 1), *gradients)
        got = dispatched(params, codes[picks].astype(np.int32), factors, groups=groups)
        size = max(np.abs(leaf).max() for leaf in jax.tree.leaves(expected))
        compare = functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-5 * size)
        jax.tree.map(compare, got, expected)

    if name == "tiny":  # one architecture whose code is traced: a plain switch can be differentiated unbatched
        unbatched = jax.jit(jax.grad(functools.partial(loss, groups=None)))(params, codes[1])
        jax.tree.map(compare, unbatched, gradients[1])


@SLOW
def test_gradient_of_an_unbatched_call(small_supernet):
    """One architecture's gradient at the default groups is that of a plain switch."""
    supernet, params = small_supernet("tiny")
    images, code = some_images(supernet.space), jnp.array([1, 2, 0])
    default, plain = (
        jax.grad(lambda params: supernet.apply(params, code, images, **settings)[0].sum())(params)  # noqa: B023
        for settings in ({}, {"groups": None})
    )
    chex.assert_trees_all_close(default, plain, rtol=1e-5)
    assert any(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(default))


def group_counts(text: str) -> list[int]:
    return [int(count) for count in re.findall(r"feature_group_count ?= ?(\d+)", text)]


@pytest.mark.parametrize("name", ["digits_chain", "nasbench201", "nasbench_macro"])
def test_no_grouped_convolution(programs, name):
    """What makes `vmap` over paths slow: kernels batched into grouped convolutions (five to six times slower)."""
    for route in ("serial", "balanced" if name == "nasbench_macro" else 3):
        lowered, compiled = programs(name, name != "nasbench_macro", route, False)
        counts = group_counts(lowered.as_text())
        assert set(counts) <= {1}
        assert (len(counts) > 0) == (name == "nasbench201")  # the chains are matrix products and shifted products
        assert set(group_counts(compiled.as_text())) <= {1}


def test_grouped_convolutions_would_be_seen():
    convolve = lambda x, w: jax.lax.conv(x, w, (1, 1), "SAME")  # noqa: E731
    text = jax.jit(jax.vmap(convolve)).lower(jnp.ones((2, 1, 3, 4, 4)), jnp.ones((2, 3, 3, 3, 3))).as_text()
    assert group_counts(text) == [2]


def test_parameters(small_space):
    """He-normal kernels over their fan-in, unit scales, zero biases; the same key gives the same parameters."""
    space = SPACES["digits_chain"].resized(width=16)
    supernet = make_supernet(space)
    params = supernet.init(jax.random.key(0))
    leaves = {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(params)}
    checked = 0
    for path, leaf in leaves.items():
        if path.endswith("['scale']") or path.endswith("['bias']"):
            np.testing.assert_array_equal(leaf, 1.0 if path.endswith("['scale']") else 0.0, err_msg=path)
        elif leaf.size > 2000:
            fan_in = 9 if "depthwise" in path else math.prod(leaf.shape[:-1])
            assert np.std(leaf) == pytest.approx(math.sqrt(2 / fan_in), rel=0.1), path
            assert abs(np.mean(leaf)) < 5 * np.std(leaf) / math.sqrt(leaf.size), path
            checked += 1
    assert checked > 10
    assert "['layer0']['mb6_k3']['depthwise']['kernel']" in leaves and "['head']['head']['Conv_0']['kernel']" in leaves
    assert leaves["['layer0']['mb6_k3']['depthwise']['kernel']"].shape == (3, 3, 96)
    kernels = [np.asarray(leaf).ravel()[:4] for path, leaf in leaves.items() if path.endswith("['kernel']")]
    assert len({kernel.tobytes() for kernel in kernels}) == len(kernels)  # no draw is used twice
    again, other = supernet.init(jax.random.key(0)), supernet.init(jax.random.key(1))
    jax.tree.map(np.testing.assert_array_equal, again, params)
    assert (
        np.abs(other["stem"]["stem"]["Unfold_0"]["kernel"] - params["stem"]["stem"]["Unfold_0"]["kernel"]).max() > 0.1
    )


def test_leaf_paths_of_cells(small_space):
    supernet = make_supernet(small_space("nasbench201"))
    params = jax.eval_shape(supernet.init, jax.random.key(0))
    assert list(params) == sorted(supernet.layers)  # every layer, also those without parameters
    edges = ["edge01", "edge02", "edge12", "edge03", "edge13", "edge23"]
    names = ["stem", *(f"stage0_cell0_{edge}" for edge in edges), "reduction1"]
    assert list(supernet.layers)[:8] == names and list(supernet.layers)[-1] == "head"
    assert set(params["stage2_cell0_edge13"]) == set(SPACES["nasbench201"].op_names[0])
    assert params["stage2_cell0_edge13"]["nor_conv_3x3"]["Conv_0"]["kernel"].shape == (3, 3, 16, 16)
    assert params["stage2_cell0_edge13"]["skip_connect"] == {}


def test_policy(small_space):
    """Number types reach parameters, logits and statistics, also of candidates that normalise nothing."""
    space = small_space("tiny")
    images = jax.ShapeDtypeStruct(some_images(space).shape, "float32")
    for policy in (Policy(compute="bfloat16"), Policy("bfloat16", "bfloat16", "bfloat16")):
        supernet = make_supernet(space, policy=policy)
        params = jax.eval_shape(supernet.init, jax.random.key(0))
        assert {str(leaf.dtype) for leaf in jax.tree.leaves(params)} == {policy.params}
        archs = jax.ShapeDtypeStruct((7, space.num_choices), "int32")
        logits, stats = jax.eval_shape(population(supernet, 3), params, archs, images, None, None)
        assert logits.dtype == "float32" and {str(leaf.dtype) for leaf in stats.values()} == {policy.stats}
        given = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, "float32"), stats)
        logits, stats = jax.eval_shape(population(supernet, 3), params, archs, images, given, None)
        assert logits.dtype == "float32" and {str(leaf.dtype) for leaf in stats.values()} == {policy.stats}


def test_select_stats(small_supernet):
    supernet, _ = small_supernet("tiny")
    tracked = {
        name: np.arange(len(layer.candidates))[:, None, None] * np.ones((2, layer.stats_size))
        for name, layer in supernet.layers.items()
    }
    selected = select_stats(supernet, tracked, np.array([[0, 1, 2], [2, 1, 1]]))
    assert {name: leaf[:, 0, 0].tolist() for name, leaf in selected.items()} == {
        "stem": [0, 0],
        "layer0": [0, 2],
        "layer1": [1, 1],
        "layer2": [2, 1],
        "head": [0, 0],
    }


def test_refusals(small_space):
    space = small_space("digits_chain")
    unknown = dataclasses.replace(space, op_names=(("identity", "mine"), *space.op_names[1:]))
    with pytest.raises(ValueError, match="digits_chain: no operation named mine; enter it in the space's `op"):
        make_supernet(unknown)
    wide = {"wide": lambda channels, stride, affine, policy: OPS["mb1_k3"](2 * channels, stride, affine, policy)}
    layout = ChainLayout(stem_width=2, widths=(2,), strides=(1,), head_width=0, image_size=4)
    with pytest.raises(ValueError, match=r"layer layer0: candidates must return one shape, got .*'wide': \(4, 4, 4\)"):
        make_supernet(chain_space("mine", layout, [("identity", "wide")], operations=wide))
    with pytest.raises(ValueError, match="image_size 10 cannot be halved 2 times; choose a multiple of 4"):
        make_supernet(SPACES["nasbench201"].resized(image_size=10))


class Shift(nn.Module):
    """An operation of one's own: add a learned number per channel."""

    @nn.compact
    def __call__(self, x, tape):
        return x + self.param("shift", nn.initializers.normal(1.0), (1, 1, 1, x.shape[-1])).astype(x.dtype)


def test_a_space_and_an_operation_of_your_own():
    """A dozen lines from a new space with a new operation to trained and scored sub-networks."""
    layout = ChainLayout(stem_width=4, widths=(4, 4), strides=(1, 1), head_width=8, image_size=6, in_channels=1)
    operations = {"shift": lambda channels, stride, affine, policy: Shift()}
    space = chain_space("mine", layout, [("mb1_k3", "shift")] * 2, operations=operations)
    supernet = make_supernet(space)
    sampler, tx = fair(space), optax.adam(0.03)
    state = init_train_state(supernet, sampler, tx, jax.random.key(0))
    loss_fn = make_cross_entropy_loss(supernet)
    step = make_train_step(supernet, loss_fn, sampler, tx)
    images, labels = some_images(space, 20), np.arange(20) % 10
    shifts = [np.asarray(state.params[layer]["shift"]["shift"]) for layer in ("layer0", "layer1")]
    assert np.abs(shifts[0] - shifts[1]).max() > 0.1  # drawn by itself, for each layer anew
    for _ in range(30):
        state, metrics = step(state, {"train": {"images": images, "labels": labels}})
    assert metrics["loss"] < 2.0 < math.log(10)
    assert np.abs(state.params["layer0"]["shift"]["shift"] - shifts[0]).max() > 1e-3
    scored = make_evaluator(supernet).evaluate(state.params, enumerate_archs(space), images, labels)
    assert scored.loss.shape == (4,) and np.isfinite(scored.loss).all() and scored.accuracy.max() > 0.2
