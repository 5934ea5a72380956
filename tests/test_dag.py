"""Super-nets whose wiring is searched, against a plain NumPy network of the true widths, and by every route."""

import dataclasses
import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.special
import scipy.stats
from conftest import control_flow, random_params
from oracles import network_costs, vertex_channels

from jaxnas.codes import enumerate_archs, to_index
from jaxnas.evaluation import make_evaluator, work
from jaxnas.ops import MaxPool, PlaceChannels, Tape
from jaxnas.ops.dynamic import narrow
from jaxnas.samplers import fair, listed, uniform
from jaxnas.spaces import SPACES, nasbench101_space
from jaxnas.spaces._nasbench101 import OP_NAMES, adjacency, enumerate_cells, prune
from jaxnas.supernets import make_supernet, only, select_stats
from jaxnas.supernets.wiring import Part, make_decode, output_slots, vertex_widths
from jaxnas.training import init_train_state, make_cross_entropy_loss, make_train_step

CONV3, CONV1, POOL = range(3)
RNG = np.random.default_rng(0)
IMAGES = RNG.normal(size=(6, 8, 8, 3)).astype(np.float32)
LABELS = RNG.integers(0, 10, 6)


def small(num_vertices=4, *, width=8, num_stages=1, image_size=8, output_degree=None):
    space = nasbench101_space(num_vertices, output_degree=output_degree)
    space = space.resized(width=width, image_size=image_size, cells_per_stage=1)
    return dataclasses.replace(space, layout=space.layout._replace(num_stages=num_stages))


def code(edges: str, ops, num_vertices: int = 4) -> tuple[int, ...]:
    """From edges such as "01 12" and the operations of the inner vertices."""
    pairs = {tuple(map(int, edge)) for edge in edges.split()}
    return (*(int(pair in pairs) for pair in itertools.combinations(range(num_vertices), 2)), *ops)


# Two conv vertices side by side, one of half the width after another, a chain, the input alone, dead ends.
CELLS = [
    code("01 02 13 23", [CONV3, CONV1]),
    code("01 02 12 13 23 03", [CONV3, CONV3]),
    code("01 12 23", [CONV1, POOL]),
    code("01 12 23 02", [POOL, CONV3]),
    code("03", [CONV3, CONV1]),
    code("01 13 12", [CONV1, CONV3]),  # vertex 2 leads nowhere
]


# The plain network


def conv(x, kernels):
    """x [num_images, height, width, channels], zero-padded, by kernels [k, k, in, out]; with loops."""
    size, pad = x.shape[1], len(kernels) // 2
    padded = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    places = itertools.product(range(len(kernels)), repeat=2)
    return sum(padded[:, i : i + size, j : j + size] @ kernels[i, j] for i, j in places)


def batch_norm(x):
    return (x - x.mean(axis=(0, 1, 2))) / np.sqrt(x.var(axis=(0, 1, 2)) + 1e-5)


def max_pool(x):
    size = x.shape[1]
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-np.inf)
    return np.max([padded[:, i : i + size, j : j + size] for i in range(3) for j in range(3)], axis=0)


def averages(kernels, axis, width):
    """Adaptive average pooling, one channel after the other."""
    whole = kernels.shape[axis]
    spans = [range(i * whole // width, math.ceil((i + 1) * whole / width)) for i in range(width)]
    return np.stack([np.mean([kernels.take(channel, axis) for channel in span], axis=0) for span in spans], axis)


def kernels_of(supernet, params, channels, name, op, in_width, width):
    """The kernels [k, k, in_width, width] that a layer's operation has at this width."""
    layer = supernet.layers[name]
    full = layer.out_shape[-1]
    if channels == "expanded" and width < full:
        return np.float64(params[name][f"{op}_{width}"]["kernel"])
    kernels = np.float64(params[name][op]["kernel"])
    if channels in ("expanded", "disabled"):
        return kernels
    for axis, number in ((2, in_width), (3, width)):
        if channels == "interpolated":
            kernels = averages(kernels, axis, number)
        elif channels == "shuffled" and number < kernels.shape[axis]:
            seed = layer.candidates[op].module.seed
            kernels = kernels.take(drawn_channels(seed, kernels.shape[axis], number, axis), axis)
        else:
            kernels = kernels.take(range(number), axis)
    return kernels


def drawn_channels(seed, channels, width, axis):
    numbers = jnp.arange(channels).reshape([channels if each == axis else 1 for each in range(4)])
    return np.asarray(narrow(numbers, axis, width, rule="shuffled", seed=seed)).ravel()


def plain_network(supernet, params, arch_code, images, *, channels="fixed", per_input=False):
    """Logits of one architecture, with arrays of the true widths only."""
    layout = supernet.space.layout
    last = layout.num_vertices - 1
    pruned = prune(np.array(arch_code)[None])
    (edges,), ops = adjacency(pruned), pruned[0, -(last - 1) :]

    def unit(name, op, x, width, affine_of=None):
        x = batch_norm(conv(x, kernels_of(supernet, params, channels, name, op, x.shape[-1], width)))
        own = op if channels != "expanded" or width == supernet.layers[name].out_shape[-1] else f"{op}_{width}"
        leaves = params[name][own] if affine_of is None else params[f"{name}_inputs"][affine_of]
        return np.maximum(x * np.float64(leaves["scale"][:width]) + np.float64(leaves["bias"][:width]), 0)

    stem = params["stem"]["stem"]
    kernels = np.float64(stem["Unfold_0"]["kernel"]).reshape(3, 3, layout.in_channels, layout.width)
    x = batch_norm(conv(np.float64(images), kernels))
    x = np.maximum(x * np.float64(stem["BatchNorm_0"]["scale"]) + np.float64(stem["BatchNorm_0"]["bias"]), 0)
    for stage in range(layout.num_stages):
        if stage:
            x = np.max([x[:, i::2, j::2] for i in (0, 1) for j in (0, 1)], axis=0)
        cell, width = f"stage{stage}_cell0", layout.width * 2**stage
        widths = vertex_channels(edges, x.shape[-1], width)
        vertices = {0: x}
        for vertex in range(1, last):
            if not widths[vertex]:
                continue
            sources = [source for source in range(vertex) if edges[source, vertex]]
            inputs = [vertices[source][..., : widths[vertex]] for source in sources if source]
            if edges[0, vertex]:
                inputs.append(unit(f"{cell}_edge0{vertex}", "conv1x1-bn-relu", x, widths[vertex]))
            name, op = f"{cell}_vertex{vertex}", OP_NAMES[ops[vertex - 1]]
            affine_of = "inputs" + "".join(map(str, sources)) if per_input else None
            if op == "maxpool3x3":
                vertices[vertex] = max_pool(sum(inputs))
            else:
                vertices[vertex] = unit(name, op, sum(inputs), widths[vertex], affine_of)
        parts = [vertices[vertex] for vertex in range(1, last) if edges[vertex, last]]
        out = np.concatenate(parts, axis=-1) if parts else 0
        if edges[0, last]:
            leaves = params[f"{cell}_edge0{last}"]["project"]
            projected = batch_norm(conv(x, np.float64(leaves["kernel"])))
            out = out + np.maximum(projected * np.float64(leaves["scale"]) + np.float64(leaves["bias"]), 0)
        x = out
    dense = params["head"]["head"]["Dense_0"]
    return x.mean(axis=(1, 2)) @ np.float64(dense["kernel"]) + np.float64(dense["bias"])


@functools.cache
def built(channels="fixed", batch_norm="shared", num_stages=1, num_vertices=4, width=8, output_degree=None):
    space = small(num_vertices, width=width, num_stages=num_stages, output_degree=output_degree)
    supernet = make_supernet(space, channels=channels, batch_norm=batch_norm)
    return supernet, random_params(supernet)


def in_turn(supernet, params, codes, images):
    return jax.lax.map(lambda code: supernet.apply(params, code, images, groups=None)[0], codes)


@pytest.mark.parametrize(
    ("channels", "batch_norm", "settings"),
    [
        ("fixed", "shared", {"num_stages": 2}),
        ("shuffled", "shared", {}),
        ("interpolated", "shared", {"width": 7}),
        ("expanded", "per_input", {}),
        ("disabled", "shared", {"output_degree": 2}),
    ],
)
def test_sub_networks_are_plain_networks_of_the_true_widths(channels, batch_norm, settings):
    supernet, params = built(channels, batch_norm, **settings)
    codes = np.array(CELLS, np.int32)
    codes = codes[supernet.space.is_valid(codes)]
    assert len(codes) == (2 if channels == "disabled" else len(CELLS))
    if channels == "fixed":  # traced codes; the others by Python ints, which compile faster
        logits = jax.jit(lambda *args: in_turn(supernet, *args))(params, codes, IMAGES)
    else:
        codes = codes[:2]
        logits = jax.jit(lambda params, images: [supernet.apply(params, code, images)[0] for code in CELLS[:2]])(
            params, IMAGES
        )
    per_input = batch_norm == "per_input"
    for row, each in enumerate(codes):
        expected = plain_network(supernet, params, each, IMAGES, channels=channels, per_input=per_input)
        np.testing.assert_allclose(logits[row], expected, rtol=2e-3, atol=2e-4, err_msg=str(each))
        assert np.std(expected) > 0.1


def test_variants_differ_in_narrow_vertices_only():
    """By NumPy alone: the variants agree on a chain, which has the full width, and nowhere else."""
    supernet, params = built("shuffled")
    for each, same in ((CELLS[2], True), (CELLS[0], False)):
        fixed, shuffled, interpolated = (
            plain_network(supernet, params, each, IMAGES, channels=channels)
            for channels in ("fixed", "shuffled", "interpolated")
        )
        for other in (shuffled, interpolated):
            assert (np.abs(other - fixed).max() < 1e-9) == same


def test_shuffled_channels():
    """Some of all, each once, drawn for each layer, width and axis anew, and the same whenever asked."""
    draws = [drawn_channels(*args) for args in ((1, 64, 21, 2), (1, 64, 21, 3), (2, 64, 21, 2), (1, 64, 22, 2))]
    for drawn in draws:
        assert len(set(drawn.tolist())) == len(drawn) and drawn.min() >= 0 and drawn.max() < 64
    assert len({tuple(sorted(drawn.tolist())) for drawn in draws}) == 4
    np.testing.assert_array_equal(drawn_channels(1, 64, 21, 2), draws[0])
    supernet, _ = built("shuffled")
    seeds = [supernet.layers[f"stage0_cell0_vertex{v}"].candidates["conv3x3-bn-relu"].module.seed for v in (1, 2)]
    assert seeds[0] != seeds[1]


def test_interpolated_channels_by_hand():
    """Three of four: the averages of channels 0 and 1, 1 and 2, 2 and 3; two of three: 0 and 1, 1 and 2."""
    kernels = jnp.array([1.0, 3.0, 5.0, 11.0]).reshape(1, 1, 1, 4)
    assert narrow(kernels, 3, 3, rule="interpolated").ravel().tolist() == [2, 4, 8]
    assert narrow(kernels[..., :3].swapaxes(2, 3), 2, 2, rule="interpolated").ravel().tolist() == [2, 4]


# What a code means


def taken(supernet, codes):
    """layer -> names of the candidates that the codes take there."""
    names = [supernet.taken_by(code) for code in codes]
    searched = [name for name, layer in supernet.layers.items() if layer.choice is not None]
    return {name: [of_code[name].replace("-bn-relu", "") for of_code in names] for name in searched}


def test_decoded_codes_by_hand():
    supernet, _ = built("fixed", "per_input", width=7)
    names = taken(supernet, CELLS)
    expected = {
        "edge01": ["conv1x1_4", "conv1x1_4", "conv1x1", "conv1x1", "no_edge", "conv1x1"],
        "edge02": ["conv1x1_3", "conv1x1_3", "no_edge", "conv1x1", "no_edge", "no_edge"],
        "edge12": ["no_edge", "edge", "edge", "edge", "no_edge", "no_edge"],
        "edge03": ["no_edge", "project", "no_edge", "no_edge", "project", "no_edge"],
        "edge13": ["1of2", "1of2", "no_edge", "no_edge", "no_edge", "1of1"],
        "edge23": ["2of2", "2of2", "1of1", "1of1", "no_edge", "no_edge"],
        "vertex1": ["conv3x3_4", "conv3x3_4", "conv1x1", "maxpool3x3", "no_vertex", "conv1x1"],
        "vertex2": ["conv1x1_3", "conv3x3_3", "maxpool3x3", "conv3x3", "no_vertex", "no_vertex"],
        "vertex1_inputs": ["inputs0", "inputs0", "inputs0", "no_convolution", "no_convolution", "inputs0"],
        "vertex2_inputs": ["inputs0", "inputs01", "no_convolution", "inputs01", "no_convolution", "no_convolution"],
    }
    assert names == {f"stage0_cell0_{part}": column for part, column in expected.items()}


@pytest.mark.parametrize("width", [8, 13])
def test_widths_are_those_of_the_published_rule(width):
    """Every vertex of random cells of six vertices, in the stages of `width` and twice that."""
    space = small(6, width=width, num_stages=2)
    codes = RNG.integers(0, space.num_ops, (300, space.num_choices)).astype(np.int32)
    codes = codes[space.is_valid(codes)]
    codes[:, -4:] = CONV3
    parts = [Part(stage, "vertex", vertex, vertex) for stage in (0, 1) for vertex in range(1, 5)]
    decode = make_decode(space, space.layout, parts, 1)
    decoded = decode(codes)
    for stage in (0, 1):
        widths = [0, *vertex_widths(space.layout, width * 2**stage)]
        for row, edges in enumerate(adjacency(prune(codes))):
            expected = vertex_channels(edges, width, width * 2**stage)[1:-1]
            assert [widths[number] for number in decoded[row, 4 * stage : 4 * stage + 4]] == expected
    if width == 13:
        traced = jax.jit(decode)(codes)
        np.testing.assert_array_equal(traced, decoded)
        assert traced.dtype == decoded.dtype == np.int32


def test_slots_fill_the_output():
    layout = small(7, width=13).layout
    slots = output_slots(layout, 13)
    assert [slots[3, rank] for rank in range(3)] == [(0, 5), (5, 4), (9, 4)]
    for degree in range(1, 6):
        taken = [slots[degree, rank] for rank in range(degree)]
        assert [channel for first, size in taken for channel in range(first, first + size)] == list(range(13))
    x = jnp.arange(1.0, 7.0).reshape(1, 1, 1, 6)
    assert PlaceChannels(3, 2).apply({}, x, Tape(None, None)).ravel().tolist() == [0, 0, 0, 1, 2, 0]


@pytest.mark.parametrize("stride", [1, 2])
def test_max_pool(stride):
    x = RNG.normal(size=(2, 6, 6, 3)).astype(np.float32) - 3.0  # below zero, as padding must not be
    pool = MaxPool(stride, kernel=3 if stride == 1 else 2)
    got = pool.apply({}, x, Tape(None, None))
    expected = max_pool(x) if stride == 1 else x.reshape(2, 3, 2, 3, 2, 3).max(axis=(2, 4))
    np.testing.assert_array_equal(got, expected)
    x[0, 2, 2, 0] = np.nan
    assert np.isnan(pool.apply({}, x, Tape(None, None))).sum() == (9 if stride == 1 else 1)


def test_parameters_of_a_sub_network_are_those_of_the_network_alone():
    """Without shared kernels: of all 91 cells by the cost table, and of two rows of the published table."""
    small_one, published = small(num_stages=2), SPACES["nasbench101"]
    rows = [
        code("01 04 05 12 23 26 35 45 56", [CONV3, POOL, CONV3, CONV3, CONV1], 7),
        code("01 02 03 05 16 26 34 46 56", [CONV1, CONV3, CONV3, CONV3, POOL], 7),
    ]
    cells = enumerate_cells(small_one)
    for space, codes, expected in (
        (small_one, cells, network_costs(small_one, cells)[1].tolist()),
        (published, rows, [8_555_530, 2_694_282]),
    ):
        supernet = make_supernet(space, channels="expanded")
        params = jax.eval_shape(supernet.init, jax.random.key(0))
        counts = [sum(leaf.size for leaf in jax.tree.leaves(only(supernet, params, each))) for each in codes]
        assert counts == expected


def test_work_of_all_cells():
    """By the cost table, which counts whole networks. One after the other they need just that; the graph has the
    most in common; the mask route runs every candidate."""
    supernet, _ = built("fixed", num_stages=2)
    cells = enumerate_cells(supernet.space)
    macs = network_costs(supernet.space, cells)[0].sum()
    executed = {}
    for route in ("serial", "dispatch", "graph", "mask"):
        population = make_evaluator(supernet, strategy=route, archs_per_call=91).prepare(cells, 6)
        needed, executed[route] = work(supernet, population)
        assert needed == macs
    assert executed["serial"] == macs
    assert executed["graph"] < executed["dispatch"] < macs < executed["mask"] / 3


def test_sets_of_scale_and_shift():
    """2^v - 1 for the operations of a vertex with v before it, and none in the operations themselves."""
    _, params = built("expanded", "per_input")
    cell = {name.removeprefix("stage0_cell0_"): tree for name, tree in params.items()}
    assert len(cell["vertex1_inputs"]) == 2 and cell["vertex1_inputs"]["no_convolution"] == {}
    assert set(cell["vertex2_inputs"]) == {"no_convolution", "inputs0", "inputs1", "inputs01"}
    assert set(cell["vertex2"]["conv3x3-bn-relu"]) == {"kernel"}
    assert cell["vertex2"]["conv3x3-bn-relu"]["kernel"].shape == (3, 3, 8, 8)
    assert cell["vertex2"]["conv3x3-bn-relu_4"]["kernel"].shape == (3, 3, 4, 4)
    _, params = built("fixed")
    assert set(params["stage0_cell0_vertex2"]) == {"no_vertex", *OP_NAMES}  # all widths in one


# Routes, training, sampling


@pytest.fixture(scope="module")
def scores():
    """(params, route) -> scores of all 91 cells."""
    supernet, _ = built("fixed", "per_input")
    cells = enumerate_cells(supernet.space)
    assert len(cells) == 91
    routes = ("serial", "dispatch", "graph", "mask")
    evaluators = {route: make_evaluator(supernet, strategy=route).evaluate for route in routes}

    @functools.cache
    def random_ones(route):
        return evaluators[route](built("fixed", "per_input")[1], cells, IMAGES, LABELS)

    def run(route, params=None):
        return random_ones(route) if params is None else evaluators[route](params, cells, IMAGES, LABELS)

    return run


def assert_same_scores(got, expected):
    np.testing.assert_allclose(got.loss, expected.loss, rtol=1e-4)
    np.testing.assert_array_equal(got.accuracy, expected.accuracy)
    assert len(np.unique(expected.loss)) == 91


@pytest.mark.parametrize("route", ["dispatch", "graph", "mask"])
def test_routes_agree_on_all_cells(scores, route):
    assert_same_scores(scores(route), scores("serial"))
    assert scores(route).strategy == route


def test_scores_of_cells_are_those_of_the_plain_network(scores):
    """With a scale and a shift for each configuration of inputs."""
    supernet, params = built("fixed", "per_input")
    codes = scores("serial").archs
    for row in range(0, 91, 6):
        logits = plain_network(supernet, params, codes[row], IMAGES, per_input=True)
        expected = -scipy.special.log_softmax(logits, axis=-1)[np.arange(len(LABELS)), LABELS].mean()
        np.testing.assert_allclose(scores("serial").loss[row], expected, rtol=1e-3, err_msg=str(codes[row]))


def test_one_path_by_python_ints_and_with_statistics_given():
    """A code of Python ints is decided while tracing, and what it used serves again."""
    supernet, params = built("fixed", "per_input")
    expected = plain_network(supernet, params, CELLS[1], IMAGES, per_input=True)

    @jax.jit
    def run(params, images):
        logits, used = supernet.apply(params, CELLS[1], images)
        return logits, supernet.apply(params, CELLS[1], images[:2], stats=used)[0]

    assert control_flow(run, params, IMAGES) == set()
    logits, two = run(params, IMAGES)
    np.testing.assert_allclose(logits, expected, rtol=2e-3, atol=2e-4)
    np.testing.assert_allclose(two, logits[:2], rtol=1e-3, atol=1e-4)


def test_gradients_of_a_batch_equal_a_loop_over_paths():
    """Two architectures dispatched against each with its code as Python ints, by a weight of its own. With few
    candidates: gradients take long to compile."""
    space = small(width=4, image_size=4, output_degree=2)
    ops = (("conv1x1-bn-relu", "maxpool3x3"),) * 2
    space = dataclasses.replace(space, op_names=space.op_names[:-2] + ops)
    supernet = make_supernet(space, channels="disabled", batch_norm="per_input")
    codes = [code("01 02 13 23", [0, 0]), code("01 02 12 13 23 03", [1, 0])]
    params, images, weights = random_params(supernet), IMAGES[:, :4, :4], np.array([0.5, 2.0], np.float32)

    def loss(params, each, **how):
        return jnp.sum(jnp.sin(supernet.apply(params, each, images, **how)[0]))

    @jax.jit
    @jax.grad
    def one_by_one(params):
        return sum(weight * loss(params, each) for weight, each in zip(weights, codes, strict=True))

    @jax.jit
    @jax.grad
    def dispatched(params, codes):
        return jnp.sum(weights * jax.vmap(lambda each: loss(params, each, groups=1))(codes))

    expected, got = one_by_one(params), dispatched(params, np.array(codes, np.int32))
    size = max(np.abs(leaf).max() for leaf in jax.tree.leaves(expected))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5 * size), got, expected)
    inputs = expected["stage0_cell0_vertex2_inputs"]
    assert np.abs(inputs["inputs0"]["scale"]).max() > 0 and np.abs(inputs["inputs01"]["scale"]).max() > 0
    assert not np.any(inputs["inputs1"]["scale"])  # of an input configuration that neither has


def test_a_few_steps_of_training(scores):
    """The loss falls; what a step does not use rests, the unused part of shared kernels too; two routes score what
    came of it."""
    supernet, _ = built("fixed", "per_input")
    sampler = listed(supernet.space, [CELLS[0]])  # vertices of half the width, a 3x3 and a 1x1 convolution
    state = init_train_state(supernet, sampler, optax.sgd(0.1), jax.random.key(0))
    loss_fn = make_cross_entropy_loss(supernet)
    step = make_train_step(supernet, loss_fn, sampler, optax.sgd(0.1), idle="rest", stats_momentum=0.9)
    before = jax.tree.map(np.array, state.params)
    for _ in range(30):
        state, metrics = step(state, {"train": {"images": IMAGES, "labels": LABELS}})
    assert metrics["loss"] < 2.0 < math.log(10)
    moved = jax.tree.map(lambda old, new: np.abs(np.asarray(new) - old) > 0, before, state.params)
    kernel = moved["stage0_cell0_vertex1"]["conv3x3-bn-relu"]["kernel"]
    assert kernel[:, :, :4, :4].all() and not kernel[:, :, 4:].any() and not kernel[..., 4:].any()
    assert not moved["stage0_cell0_vertex1"]["conv1x1-bn-relu"]["kernel"].any()
    own = "stage0_cell0_vertex1"
    names, tracked = list(supernet.layers[own].candidates), np.asarray(state.stats[own])
    changed = [name for name, stats in zip(names, tracked, strict=True) if (stats != [[0], [1]]).any()]
    assert changed == ["conv3x3-bn-relu_4"]
    selected = select_stats(supernet, state.stats, np.array([CELLS[0], CELLS[2]]))[own]
    np.testing.assert_array_equal(selected, tracked[[names.index("conv3x3-bn-relu_4"), names.index("conv1x1-bn-relu")]])
    assert_same_scores(scores("dispatch", state.params), scores("serial", state.params))


def test_uniform_draws_are_uniform_over_the_codes_that_exist():
    """Chi-square over 20,000 draws against every valid code of four vertices."""
    space = small()
    codes = enumerate_archs(space)
    draws = np.asarray(jax.jit(uniform(space, num_archs=20_000).sample)(jax.random.key(0), ()))
    counts = np.bincount(to_index(space, draws), minlength=space.size)  # which checks that they exist
    exist = np.isin(np.arange(space.size), to_index(space, codes))
    assert 91 < exist.sum() < space.size and not counts[~exist].any()
    assert scipy.stats.chisquare(counts[exist]).pvalue > 1e-3


def test_listed_draws_are_uniform_over_the_list():
    space = small()
    cells = enumerate_cells(space)
    draws = np.asarray(listed(space, cells, num_archs=9100).sample(jax.random.key(0), ()))
    counts = np.bincount(np.searchsorted(to_index(space, cells), to_index(space, draws)), minlength=91)
    assert scipy.stats.chisquare(counts).pvalue > 1e-3


# The fixed channel configuration, and what is refused


@pytest.mark.parametrize("num_vertices", [4, 5])
def test_spaces_of_one_output_degree_share_out_the_cells(num_vertices):
    """Every cell but the input alone leads to the output from one or more vertices."""
    cells = {tuple(cell) for cell in enumerate_cells(nasbench101_space(num_vertices)).tolist()}
    parts = []
    for degree in range(1, num_vertices - 1):
        space = nasbench101_space(num_vertices, output_degree=degree)
        part = enumerate_cells(space)
        assert (adjacency(part)[:, 1:-1, -1].sum(axis=1) == degree).all()
        assert space.name == f"nasbench101_v{num_vertices}_out{degree}"
        assert space.fingerprint != nasbench101_space(num_vertices).fingerprint
        parts += map(tuple, part.tolist())
    assert len(set(parts)) == len(parts) == len(cells) - 1 and cells - set(parts) == {
        tuple(int(edge == (0, num_vertices - 1)) for edge in small(num_vertices).layout.edges)
        + (0,) * (num_vertices - 2)
    }


def test_one_kernel_for_3x3_and_1x1():
    """Of all widths: the plain super-net with the kernels cut out has the same logits."""
    supernet, plain = make_supernet(small(), kernels="centre"), make_supernet(small())
    params = random_params(supernet)
    own = {layer: dict(candidates) for layer, candidates in params.items()}
    for vertex in ("stage0_cell0_vertex1", "stage0_cell0_vertex2"):
        kernel = own[vertex].pop("dense_kernel")["kernel"]
        assert kernel.shape == (3, 3, 8, 8)
        own[vertex]["conv3x3-bn-relu"] = params[vertex]["conv3x3-bn-relu"] | {"kernel": kernel}
        own[vertex]["conv1x1-bn-relu"] = params[vertex]["conv1x1-bn-relu"] | {"kernel": kernel[1:2, 1:2]}
    assert jax.tree.map(jnp.shape, own) == jax.tree.map(jnp.shape, jax.eval_shape(plain.init, jax.random.key(0)))
    for cell in CELLS[:2]:
        got, expected = (
            jax.jit(functools.partial(net.apply, groups=None))(tree, jnp.array(cell), IMAGES)[0]
            for net, tree in ((supernet, params), (plain, own))
        )
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


def test_path_dropout_takes_vertices_image_by_image():
    """One vertex between input and output, statistics given: an image's logits are those of the vertex scaled up, or of
    nothing but the bias of the classifier."""
    supernet = make_supernet(small(), path_dropout=0.5)
    params = random_params(supernet)
    images = np.random.default_rng(1).normal(size=(100, 8, 8, 3)).astype(np.float32)
    sizes = {name: layer.stats_size for name, layer in supernet.layers.items()}
    stats = {name: jnp.stack([jnp.zeros(size), jnp.ones(size)]) for name, size in sizes.items()}
    run = jax.jit(functools.partial(supernet.apply, groups=None))
    cell = jnp.array(code("01 13", [CONV1, CONV3]))
    assert set(supernet.dropout.path) == {"stage0_cell0_vertex1", "stage0_cell0_vertex2"}
    whole, logits = (run(params, cell, images, stats=stats, key=key)[0] for key in (None, jax.random.key(0)))
    leaves = jax.tree.leaves(params["head"])
    (bias,) = (leaf for leaf in leaves if leaf.shape == (10,))
    is_lost = np.isclose(logits, bias, rtol=1e-4, atol=1e-5).all(axis=1)
    np.testing.assert_allclose(logits[~is_lost] - bias[None], 2 * (whole[~is_lost] - bias[None]), rtol=1e-3, atol=1e-4)
    assert scipy.stats.binomtest(int(is_lost.sum()), 100, 0.5).pvalue > 1e-3


def test_refusals():
    space = small()
    for settings, message in (
        ({"channels": "random"}, r"channels is 'random', expected one of fixed, shuffled, interpolated, "),
        ({"batch_norm": "wsbn"}, r"batch_norm is 'wsbn', expected one of shared, per_input"),
        ({"batch_norm": "per_input", "affine": False}, r"it needs affine=True"),
        ({"channels": "disabled"}, r"take nasbench101_space\(num_vertices, output_degree=\.\.\.\)"),
        ({"op_on": "node"}, r"op_on='node' is for cells with operations on edges; .*; leave it 'edge'"),
        (
            {"channels": "expanded", "kernels": "centre"},
            r"has separate kernels for every width, kernels='centre' shared",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            make_supernet(space, **settings)
    with pytest.raises(ValueError, match="share without a remainder, got 7; choose a multiple of 2"):
        make_supernet(small(width=7, output_degree=2), channels="disabled")
    with pytest.raises(ValueError, match="up to 5 vertices share the width, got 4; choose 5 or more"):
        make_supernet(small(7, width=4))
    with pytest.raises(ValueError, match="image_size 10 cannot be halved 2 times; choose a multiple of 4"):
        make_supernet(small(image_size=10, num_stages=3))
    for name in ("digits_chain", "nasbench201"):
        with pytest.raises(ValueError, match=f"^{name}: .* is for cells whose wiring is searched; leave it 'fixed'"):
            make_supernet(SPACES[name], channels="expanded")
    with pytest.raises(ValueError, match="nasbench101: output_degree is 3, expected 1 to 2"):
        nasbench101_space(4, output_degree=3)
    with pytest.raises(ValueError, match="fair: permuting choices gives codes that nasbench101_v4 does not have"):
        fair(space)
    with pytest.raises(ValueError, match="nasbench101_v4: architecture 0, 0-0-0-0-0-0-0-0, does not exist"):
        listed(space, np.zeros((1, 8), int))
    for_numpy = dataclasses.replace(space, is_valid=lambda archs: np.asarray(archs)[:, 0] > 0)
    with pytest.raises(ValueError, match="is_valid of nasbench101_v4 takes NumPy's arrays only"):
        uniform(for_numpy)


def test_what_routes_refuse():
    supernet, params = built()
    with pytest.raises(ValueError, match=r"weights of shape \(8, 3\) cannot express a wiring"):
        supernet.apply(params, jax.nn.one_hot(np.array(CELLS[0]), 3), IMAGES)
    evaluate = make_evaluator(supernet, strategy="dispatch", groups="balanced").evaluate
    with pytest.raises(ValueError, match="groups='balanced', but archs take the candidates at index"):
        evaluate(params, np.array(CELLS), IMAGES, LABELS)
