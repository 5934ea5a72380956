"""The distinct work of a population: how much there is, that programs do all of it within bounds, and equal scores."""

import collections
import dataclasses
import itertools

import jax
import numpy as np
import pytest
from conftest import SMALL_SPACES, random_params
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import prune_cells

from jaxnas import codes
from jaxnas.evaluation import host_calls, make_evaluator
from jaxnas.evaluation.graph import programs, running
from jaxnas.evaluation.graph.programs import make_programs
from jaxnas.evaluation.graph.tracing import IMAGES, MOST_INPUTS, make_graph
from jaxnas.evaluation.planning import Target
from jaxnas.ops import Policy, as_operation
from jaxnas.ops.convolution import ConvBN
from jaxnas.ops.normalisation import Unwritten
from jaxnas.ops.platform import portable
from jaxnas.ops.pooling import AveragePool
from jaxnas.spaces import SPACES
from jaxnas.supernets import make_supernet
from jaxnas.supernets.layer import outline

pytestmark = pytest.mark.codegen

RNG = np.random.default_rng(0)
CELLS = SPACES["nasbench201"].resized(width=2, image_size=4, cells_per_stage=1)
CODES = codes.enumerate_archs(CELLS)


@pytest.fixture(scope="module")
def graphs():
    """By affine: the graph of all 15,625 cells."""
    return {
        affine: make_graph(make_supernet(CELLS, affine=affine), CODES, given_stats=False) for affine in (False, True)
    }


def test_cells_with_equal_outputs_are_one_leaf(graphs):
    """7,548 without affine normalisation, as counted numerically; what differs in dead edges only is never two."""
    assert len(set(graphs[0].leaves)) == 7548
    for affine, graph in graphs.items():
        by_prune = collections.defaultdict(set)
        for row, leaf in zip(map(tuple, prune_cells(CODES, affine=bool(affine), bn_mode="batch")), graph.leaves):
            by_prune[row].add(leaf)
        assert all(len(merged) == 1 for merged in by_prune.values())
        assert len(by_prune) == (10_405 if affine else 9_445) > len(set(graph.leaves))


def test_given_statistics_are_like_affine_ones():
    """A convolution of nothing is no longer nothing, but the same wherever it is read."""
    few = CODES[::7]
    supernets = {affine: make_supernet(CELLS, affine=affine) for affine in (False, True)}
    tracked = make_graph(supernets[False], few, given_stats=True)
    affine = make_graph(supernets[True], few, given_stats=False)
    assert tracked.nodes == affine.nodes
    np.testing.assert_array_equal(tracked.leaves, affine.leaves)


def test_nodes_of_the_first_cell(graphs):
    """By hand: an edge from the input has 2 convolutions of its own, and pooling the input is one node wherever it is
    done. Node 1 is the input, one of two convolutions of it, or its pool (or nothing): each edge from there has 2
    convolutions of these 4, and the pools of all but the input, which edge 0-1 met before."""
    names = collections.Counter(node.layer for node in graphs[0].nodes if node.op is not None)
    assert names["stem"] == 1 and names["head"] == 7548
    assert sum(names[f"stage0_cell0_edge0{node}"] for node in (1, 2, 3)) == 3 * 2 + 1
    from_node_1 = [node for node in graphs[0].nodes if node.layer in ("stage0_cell0_edge12", "stage0_cell0_edge13")]
    done = collections.Counter((node.layer, node.op) for node in from_node_1 if node.op is not None)
    assert [times for (_, op), times in done.items() if op != "avg_pool_3x3"] == [4] * 4
    assert sum(times for (_, op), times in done.items() if op == "avg_pool_3x3") == 3


def tiny_graph(num_archs: int = 27):
    supernet = make_supernet(SMALL_SPACES["tiny"])
    archs = codes.enumerate_archs(supernet.space)[:num_archs]
    return supernet, make_graph(supernet, archs, given_stats=False)


def test_a_chain_runs_each_prefix_once():
    """The prefix tree of three choices among three: 3 + 9 + 27 operations, one stem, 27 heads; the first and the last
    choice have an identity that is nothing, hence 2 + 9 + 2 * 9 and heads on 27 sums."""
    _, graph = tiny_graph()
    names = collections.Counter(node.layer for node in graph.nodes)
    assert names == {"stem": 1, "layer0": 2, "layer1": 9, "layer2": 18, "head": 27}
    assert sorted(graph.leaves) == sorted(set(graph.leaves))


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 27), st.integers(1, 30), st.sampled_from([0.0, 1e3, 2.5e3, 1e9]), st.sampled_from([1, 2, 4, 16]))
def test_programs_do_everything_once_within_the_bound(num_archs, leaves_per_program, most_bytes, nodes_per_call):
    """Every leaf in one program; each value made before it is read and freed after its last use; the bound kept by all
    programs of more than one leaf. What a call runs is of one kind, its size a power of two, a quarter of it repeated
    at most."""
    supernet, graph = tiny_graph(num_archs)
    programs = make_programs(
        supernet,
        graph,
        leaves_per_program=leaves_per_program,
        most_bytes=most_bytes,
        nodes_per_call=nodes_per_call,
    )
    assert sorted(leaf for program in programs for leaf in program.leaves) == sorted(set(graph.leaves))
    for program in programs:
        assert len(program.leaves) <= leaves_per_program
        assert program.peak_bytes <= most_bytes or len(program.leaves) == 1
        held, leaves = {IMAGES}, set(program.leaves.tolist())
        for step in program.steps:
            assert step.size in (1, 2, 4, 8, 16)[: nodes_per_call.bit_length()]
            assert 3 * step.size <= 4 * len(step.numbers) <= 4 * step.size
            for number, inputs in zip(step.numbers, step.inputs, strict=True):
                assert graph.node(number) == (step.layer, step.op, tuple(inputs))
                assert set(inputs) <= held and number not in held
                assert (number in leaves) == step.is_leaf
            assert len({len(inputs) for inputs in step.inputs}) == 1
            held = (held | set(step.numbers)) - set(step.free)
        assert held - {IMAGES} == leaves


def test_what_a_program_holds():
    """By hand: one chain of stem, layer1 (1x1, stride 2) and head. 4 x 4 x 1 images of 4 bytes; the stem returns
    4 x 4 x 3, layer1 2 x 2 x 4, the head 10 logits. While a node runs, its input and what it normalises are there too,
    at the input's size."""
    supernet = make_supernet(SMALL_SPACES["tiny"])
    archs = np.array([[0, 1, 0]])
    graph = make_graph(supernet, archs, given_stats=False)
    (program,) = make_programs(supernet, graph, leaves_per_program=1, most_bytes=1e9)
    assert [step.layer for step in program.steps] == ["stem", "layer1", "head"]
    at_stem = 48 + (16 + 3 * 16)
    at_layer1 = 48 + 16 + (48 + 4 * 16)
    at_head = 16 + 10 + (16 + 5 * 4)
    assert program.peak_bytes == 4 * max(at_stem, at_layer1, at_head)


def test_bfloat16_takes_half():
    """On accelerators: all but the images, which the stem reads, and the logits."""
    space, archs = SMALL_SPACES["nasbench201"], np.array([[3, 3, 3, 3, 3, 3]])
    peaks = {}
    for compute in ("float32", "bfloat16"):
        supernet = make_supernet(space, policy=Policy(compute=compute))
        graph = make_graph(supernet, archs, given_stats=False)
        (program,) = make_programs(supernet, graph, leaves_per_program=1, most_bytes=1e9, nodes_per_call=16)
        peaks[compute] = program.peak_bytes
    assert peaks["bfloat16"] == peaks["float32"] / 2


@pytest.fixture(scope="module")
def deep():
    """Two cells one after the other: sums of more terms than an operation takes."""
    space = CELLS.resized(cells_per_stage=2)
    space = dataclasses.replace(space, layout=space.layout._replace(num_stages=1))
    supernet = make_supernet(space, affine=True)
    return supernet, random_params(supernet)


@pytest.fixture
def all_is_large(monkeypatch):
    """Values that end in a normalisation are left to whoever reads them, however small; in programs compiled anew."""
    cached = running._operation, running._scores
    for module in (programs, running):
        monkeypatch.setattr(module, "LARGE", 1)
    for each in cached:
        each.cache_clear()
    yield
    for each in cached:
        each.cache_clear()


@pytest.mark.parametrize(
    "bn_mode, form",
    [
        *itertools.product(["batch", "tracked"], ["alone", "side_by_side", "unwritten"]),
        ("calibrated", "alone"),
        *(
            pytest.param("calibrated", form, marks=pytest.mark.slow("calibrated scores of nodes side by side"))
            for form in ("side_by_side", "unwritten")
        ),
    ],
)
def test_scores_of_cells_equal_serial_ones(deep, bn_mode, form, monkeypatch, request):
    """Random cells, dead ones and sums of many skips among them, in every mode, node by node as on CPU and side by side
    as on accelerators, batches too, small activations and large ones; the last batch is ragged."""
    target = None if form == "alone" else Target("gpu", 2**33)
    if target:
        monkeypatch.setattr("jaxnas.evaluation.evaluator.target_of", lambda mesh: target)
    if form == "unwritten":
        request.getfixturevalue("all_is_large")
    supernet, params = deep
    images, labels = RNG.normal(size=(7, 4, 4, 3)).astype(np.float32), RNG.integers(0, 10, 7)
    archs = np.concatenate([[[0] * 6, [1] * 6, [4] * 6, [1, 1, 1, 3, 1, 4], [2, 0, 0, 1, 3, 0]], RNG.choice(CODES, 11)])
    graph = make_graph(supernet, archs, given_stats=False)
    assert any(node.op is None for node in graph.nodes)
    assert max(len(node.inputs) for node in graph.nodes if node.op is not None) <= MOST_INPUTS
    given = {}
    if bn_mode == "tracked":
        given["stats"] = {
            name: RNG.uniform([[-0.5], [0.5]], 1.0, (len(layer.candidates), 2, layer.stats_size)).astype(np.float32)
            for name, layer in supernet.layers.items()
        }
    if bn_mode == "calibrated":
        given["calibration_images"] = images[::-1][:5] + 0.5
    calls = collections.Counter()
    for name in ("_operation", "_scores"):
        count_calls(monkeypatch, name, calls)
    scores = {}
    for route in ("serial", "graph"):
        evaluator = make_evaluator(supernet, strategy=route, bn_mode=bn_mode, images_per_call=4, archs_per_call=8)
        population = evaluator.prepare(archs, len(images))
        scores[route] = evaluator.evaluate(params, population, images, labels, **given)
    plan = population.plan
    assert (plan.batches_per_call, plan.nodes_per_call) == ((2, 16) if target else (1, 1))
    batches = -(-5 // (4 * plan.batches_per_call)) if bn_mode == "calibrated" else 0  # of calibration
    assert calls["made"] == (1 + batches * plan.batches_per_call / 2) * host_calls(population)
    np.testing.assert_allclose(scores["graph"].loss, scores["serial"].loss, rtol=1e-3, atol=1e-4)
    assert len(np.unique(scores["serial"].loss.round(4))) > 8  # or nothing has been compared


def count_calls(monkeypatch, name, calls):
    """Count how often what `name` of `running` returns is called."""
    honest = getattr(running, name)

    def counted(*args):
        run = honest(*args)

        def call(*given):
            if not isinstance(given[1][0][0].x, jax.core.Tracer):
                calls["made"] += 1
            return run(*given)

        return call

    monkeypatch.setattr(running, name, counted)


def test_one_architecture_and_many_times_the_same(deep):
    supernet, params = deep
    images, labels = RNG.normal(size=(4, 4, 4, 3)).astype(np.float32), RNG.integers(0, 10, 4)
    evaluator = make_evaluator(supernet, strategy="graph", images_per_call=4)
    evaluate, plan = evaluator.evaluate, evaluator.plan(50, 4)
    one = evaluate(params, CODES[7777:7778], images, labels)
    many = evaluate(params, np.repeat(CODES[7777:7778], 50, axis=0), images, labels)
    assert many.loss.shape == (50,) and set(many.loss) == set(one.loss)
    assert (plan.strategy, plan.images_per_call) == ("graph", 4)


def test_pooling_of_sums_in_the_form_of_accelerators():
    """Each pooled, then added, is the pool of the sum: of a value that was normalised and one that was not."""
    x, y = (RNG.normal(size=(2, 3, 4, 4, 5)).astype(np.float32) for _ in range(2))
    by = RNG.uniform(0.5, 1.5, (2, 2, 5)).astype(np.float32)
    given = ((Unwritten(x, by), Unwritten(y, None)),)
    run = running._operation.__wrapped__(as_operation(AveragePool()), "float32")
    with portable():
        ((pooled,), _) = run({}, given, None, None, keep_stats=False)
    scale, shift = (by[:, row, None, None, None] for row in range(2))
    total = np.pad(x * scale + shift + y, [(0, 0), (0, 0), (1, 1), (1, 1), (0, 0)])
    count = np.pad(np.ones((4, 4)), 1)
    for row, column in itertools.product(range(4), repeat=2):
        window = np.s_[row : row + 3], np.s_[column : column + 3]
        expected = total[:, :, *window].sum((2, 3)) / count[window].sum()
        np.testing.assert_allclose(pooled.value[:, :, row, column], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("affine", [False, True])
def test_what_is_left_unwritten(affine, all_is_large):
    """The convolution is returned, with what it is to be scaled and shifted by: NumPy's moments."""
    operation = as_operation(ConvBN(3, 1, affine=affine))
    x = RNG.normal(2.0, 3.0, size=(2, 6, 4, 4, 5)).astype(np.float32)
    params = jax.tree.map(lambda leaf: RNG.normal(size=leaf.shape).astype(np.float32), outline(operation, (4, 4, 5))[1])
    run = running._operation(operation, "float32")
    ((made,), _) = run(params, ((Unwritten(x, None),),), None, None, keep_stats=False)
    raw = x @ params["Conv_0"]["kernel"][0, 0]
    np.testing.assert_allclose(made.x, raw, rtol=1e-4, atol=1e-4)
    expected = (raw - raw.mean((1, 2, 3), keepdims=True)) / np.sqrt(raw.var((1, 2, 3), keepdims=True) + 1e-5)
    if affine:
        expected = expected * params["BatchNorm_0"]["scale"] + params["BatchNorm_0"]["bias"]
    np.testing.assert_allclose(made.value, expected, rtol=1e-4, atol=1e-4)
