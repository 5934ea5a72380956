"""The spaces: equal networks found by rule, against cells and chains that are evaluated one by one."""

import json
import math
import re
import textwrap

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import prune_cells

from jaxnas.codes import enumerate_archs, from_text, to_text
from jaxnas.costs import arch_costs
from jaxnas.ops import OPS
from jaxnas.space import ChainLayout, SearchSpace
from jaxnas.spaces import (
    SPACES,
    Stage,
    chain_space,
    digits_chain,
    get_space,
    mobile,
    mobile_large,
    mobile_large_cifar,
    mobile_small,
    mobile_small_140,
    mobile_space,
    mobilenet_v2,
    nasbench201,
    nasbench_macro,
    outline,
)

NONE, SKIP, CONV_1X1, CONV_3X3, POOL = range(5)
CELLS = enumerate_archs(nasbench201)
CHAINS = ("nasbench_macro", "digits_chain")


def labels(keys) -> np.ndarray:
    """The partition that equal keys make: the number of each item's class, in order of first appearance."""
    numbers: dict = {}
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys])


def rows(archs: np.ndarray) -> list[tuple[int, ...]]:
    return list(map(tuple, archs.tolist()))


# NAS-Bench-201


def live_terms(code, node=3, *, affine):
    """What node sums, as nested sets of (edge, operation, source's terms); nothing is known of any operation but that
    it maps zero to zero or not."""
    terms = set()
    for edge, (source, target) in enumerate(nasbench201.layout.edges):
        if target == node and code[edge] != NONE:
            inside = {"input"} if source == 0 else live_terms(code, source, affine=affine)
            if inside or (affine and code[edge] in (CONV_1X1, CONV_3X3)):
                terms.add((edge, code[edge], frozenset(inside)))
    return frozenset(terms)


@pytest.mark.parametrize("bn_mode", ["batch", "calibrated"])
@pytest.mark.parametrize(("affine", "num_left"), [(False, 9_445), (True, 10_405)])
def test_pruned_cells_are_equal_exactly_where_their_live_edges_are(affine, num_left, bn_mode):
    pruned = prune_cells(CELLS, affine=affine, bn_mode=bn_mode)
    terms = [live_terms(code, affine=affine) for code in rows(CELLS)]
    np.testing.assert_array_equal(labels(rows(pruned)), labels(terms))
    assert labels(terms).max() + 1 == num_left
    assert [live_terms(code, affine=affine) for code in rows(pruned)] == terms
    np.testing.assert_array_equal(prune_cells(pruned, affine=affine, bn_mode=bn_mode), pruned)


def cell_outputs(archs, *, affine, bn_mode):
    """[num_archs, 4 * 3]: the cells computed on 4 images of 3 features, convolution and pooling being random matrices.

    Four more images are there to calibrate by.
    """
    random = np.random.default_rng(0)
    convs = random.normal(size=(6, 5, 3, 3))
    biases = random.normal(size=(6, 5, 3)) * affine
    pool = random.normal(size=(3, 3))
    tracked_means, tracked_variances = random.normal(size=(6, 5, 3)), random.uniform(1, 2, size=(6, 5, 3))

    def operate(x, edge, op):
        if op == SKIP:
            return x
        if op == POOL:
            return x @ pool
        x = np.maximum(x, 0) @ convs[edge, op]
        reference = x[:, :4] if bn_mode == "batch" else x[:, 4:]
        mean, variance = reference.mean(axis=1, keepdims=True), reference.var(axis=1, keepdims=True)
        if bn_mode == "tracked":
            mean, variance = tracked_means[edge, op], tracked_variances[edge, op]
        return (x - mean) / np.sqrt(variance + 1e-5) + biases[edge, op]

    nodes = np.zeros((4, len(archs), 8, 3))
    nodes[0] = random.normal(size=(8, 3))
    for edge, (source, target) in enumerate(nasbench201.layout.edges):
        for op in (SKIP, CONV_1X1, CONV_3X3, POOL):
            cells = archs[:, edge] == op
            nodes[target, cells] += operate(nodes[source, cells], edge, op)
    return nodes[3, :, :4].reshape(len(archs), -1)


@pytest.mark.parametrize("bn_mode", ["batch", "calibrated", "tracked"])
@pytest.mark.parametrize("affine", [False, True])
def test_pruned_cells_compute_the_same(affine, bn_mode):
    pruned = prune_cells(CELLS, affine=affine, bn_mode=bn_mode)
    before, after = (cell_outputs(codes, affine=affine, bn_mode=bn_mode) for codes in (CELLS, pruned))
    np.testing.assert_allclose(after, before, rtol=1e-9, atol=1e-9)


def test_tracked_statistics_leave_every_code_since_a_zero_input_comes_out():
    np.testing.assert_array_equal(prune_cells(CELLS, affine=False, bn_mode="tracked"), CELLS)
    zero_source = np.array([[NONE, SKIP, CONV_3X3, NONE, NONE, SKIP]])
    pruned = prune_cells(zero_source, affine=False, bn_mode="batch")
    np.testing.assert_array_equal(pruned, [[NONE, SKIP, NONE, NONE, NONE, SKIP]])
    before, after = (cell_outputs(codes, affine=False, bn_mode="tracked") for codes in (zero_source, pruned))
    assert np.abs(before - after).max() > 0.1


def test_7548_cells_compute_something_else_when_linear_operations_are_seen_through():
    outputs = cell_outputs(CELLS, affine=False, bn_mode="batch")
    assert len(np.unique(outputs.round(6), axis=0)) == 7_548


def test_isomorphs_are_6466_classes_each_of_one_network():
    found = nasbench201.isomorphs(CELLS)
    assert len(np.unique(found, axis=0)) == 6_466
    np.testing.assert_array_equal(nasbench201.isomorphs(found), found)
    np.testing.assert_array_equal(nasbench201.isomorphs(CELLS[::-7]), found[::-7])  # whatever else is asked for

    def network(code, node=3):  # the sum at node as a sorted list of terms, the sum of a sum as one sum, without zeros
        terms = []
        for op, (source, target) in zip(code, nasbench201.layout.edges):
            inside = ["input"] if source == 0 else network(code, source) if target == node else []
            if target == node and op != NONE and inside:
                terms += inside if op == SKIP else [f"{op}{inside}"]
        return sorted(terms)

    networks = labels(map(str, map(network, rows(CELLS))))
    assert networks.max() + 1 == 4_930
    assert len(set(zip(rows(found), networks))) == 6_466  # no class has two networks


def test_isomorphs_are_the_published_classes(data_dir):
    with np.load(data_dir / "nasbench201_cifar10.npz") as table:
        archs, published = table["ops"], table["isomorph"]
    np.testing.assert_array_equal(labels(rows(nasbench201.isomorphs(archs))), labels(published.tolist()))


# Chains


def layers(space: SearchSpace, code) -> tuple:
    """The layers of a chain that are there: identities that keep stride and width are left out."""
    there, in_width = [], space.layout.stem_width
    for names, op, width, stride in zip(space.op_names, code, space.layout.widths, space.layout.strides):
        if names[op] != "identity" or stride != 1 or width != in_width:
            there.append((names[op], in_width, width, stride))
        in_width = width
    return tuple(there)


@pytest.mark.parametrize(("name", "num_networks"), [("nasbench_macro", 3_969), ("digits_chain", 243)])
def test_chain_isomorphs_are_equal_exactly_where_the_layers_are(name, num_networks):
    space = get_space(name)
    archs = enumerate_archs(space)
    networks = [layers(space, code) for code in rows(archs)]
    found = space.isomorphs(archs)
    np.testing.assert_array_equal(labels(rows(found)), labels(networks))
    assert len(set(networks)) == num_networks
    assert [layers(space, code) for code in rows(found)] == networks


def test_equal_chains_have_equal_published_costs(data_dir):
    table = json.loads((data_dir / "nas-bench-macro_cifar10.json").read_text())
    archs = enumerate_archs(nasbench_macro)
    costs = {}
    for code, same in zip(archs, nasbench_macro.isomorphs(archs)):
        entry = table["".join(map(str, code))]
        costs.setdefault(to_text(nasbench_macro, same), set()).add((entry["params"], entry["flops"]))
    assert len(costs) == 3_969 and all(len(pairs) == 1 for pairs in costs.values())


shapes = st.lists(st.tuples(st.sampled_from([4, 8]), st.sampled_from([1, 1, 2])), min_size=1, max_size=5)


@settings(deadline=None, max_examples=50)
@given(shapes, st.booleans(), st.data())
def test_isomorphs_of_any_chain(shapes, same_candidates, data):
    widths, strides = zip(*shapes)
    candidates = [("mb3_k3", "identity", "mb6_k5"), ("identity", "mb6_k5"), ("mb3_k3", "mb6_k5")]
    op_names = [data.draw(st.sampled_from(candidates)) for _ in shapes]
    if same_candidates:
        op_names = [op_names[0]] * len(shapes)
    space = chain_space("any", ChainLayout(4, widths, strides, head_width=0), op_names)
    archs = enumerate_archs(space)
    networks = [layers(space, code) for code in rows(archs)]
    found = space.isomorphs(archs)
    assert [layers(space, code) for code in rows(found)] == networks
    if same_candidates:
        np.testing.assert_array_equal(labels(rows(found)), labels(networks))


def test_a_chain_of_your_own_in_a_dozen_lines():
    my_chain = chain_space(
        "my_chain",
        ChainLayout(stem_width=16, widths=(16, 32, 32, 32), strides=(1, 2, 1, 1), head_width=128),
        [("identity", "mb3_k3", "mb4_k7")] * 4,
    )
    assert my_chain.size == 81
    np.testing.assert_array_equal(my_chain.isomorphs(from_text(my_chain, ["0102", "0120"])), [[0, 1, 2, 0]] * 2)
    small = my_chain.resized(width=4, image_size=8)
    assert small.fingerprint == my_chain.fingerprint and small.layout.widths == (4, 8, 8, 8)
    assert (arch_costs(small, [[2, 2, 2, 2]]).macs < arch_costs(my_chain, [[2, 2, 2, 2]]).macs).all()


@pytest.mark.parametrize(
    ("widths", "op_names", "message"),
    [
        (
            (8, 8),
            [("identity", "mb3_k3")],
            "mine: the layout has 2 widths and 1 strides, op_names has 1 choices; give as many of each, at least one.",
        ),
        (
            (8,),
            [],
            "mine: the layout has 1 widths and 1 strides, op_names has 0 choices; give as many of each, at least one.",
        ),
        ((8,), ["identity"], "mine: op_names[0] is 'identity', expected a list of distinct operation names."),
        ((8,), [()], "mine: op_names[0] is (), expected a list of distinct operation names."),
        ((8,), [("a", "a")], "mine: op_names[0] is ('a', 'a'), expected a list of distinct operation names."),
        (
            (8,),
            [("identity", "conv3")],
            "mine: no operation named conv3; enter it in the space's `operations`, or take one of "
            + ", ".join(OPS)
            + ".",
        ),
    ],
)
def test_chain_space_refuses_what_does_not_fit(widths, op_names, message):
    with pytest.raises(ValueError) as error:
        chain_space("mine", ChainLayout(8, widths, strides=(1,), head_width=0), op_names)
    assert str(error.value) == message


def test_mobile_layouts():
    """MobileNetV2's table 2: 17 blocks, five of them halve the image with the stem; CIFAR keeps 32 px until the 32s."""
    for space, sizes in ((mobile_small, (112, 56, 28, 14, 7)), (mobile_large_cifar, (32, 32, 16, 8, 4))):
        layout, size, seen = space.layout, math.ceil(space.layout.image_size / space.layout.stem_stride), {}
        for width, stride in zip(layout.widths, layout.strides):
            size = math.ceil(size / stride)
            seen[width] = size
        assert [layout.widths.count(width) for width in seen] == [1, 2, 3, 4, 3, 3, 1]
        assert list(seen) == [16, 24, 32, 64, 96, 160, 320]
        assert [seen[width] for width in (16, 24, 32, 64, 160)] == list(sizes)
    assert mobile_small.op_names[0] == ("mb1_k3",)
    assert mobile_small.op_names[1] == ("mb3_k3", "mb3_k5", "mb3_k7", "mb6_k3", "mb6_k5", "mb6_k7")
    assert mobile_small.op_names[2] == (*mobile_small.op_names[1], "identity")  # the stage's second layer
    families = [re.sub(r"\d*_k\d", "", name) for name in mobile_large.op_names[2]]
    assert {name: families.count(name) for name in families} == {
        "mb": 6,
        "nconv": 3,
        "rconv": 1,
        "dconv": 3,
        "identity": 1,
    }
    assert all(name in OPS for names in mobile_large.op_names for name in names)


def counted_by_table(multiplier):
    """MACs and parameters of MobileNetV2 by its paper's table 2 (Sandler et al., CVPR 2018), which has no expansion in
    the first block."""

    def wide(channels):
        return 8 * round(channels * multiplier / 8)

    channels, side = wide(32), 112
    macs, params = 27 * channels * side**2, 27 * channels + 2 * channels
    for expansion, width, repeats, stride in (
        (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)
    ):  # fmt: skip
        for layer in range(repeats):
            hidden, after = channels * expansion, side // (1 if layer else stride)
            expand = channels * hidden if expansion > 1 else 0
            macs += expand * side**2 + (9 * hidden + hidden * wide(width)) * after**2
            params += expand + 9 * hidden + hidden * wide(width)
            params += 2 * ((2 if expansion > 1 else 1) * hidden + wide(width))
            channels, side = wide(width), after
    last = max(1280, wide(1280))
    return (
        macs + channels * last * side**2 + 1000 * last,
        params + channels * last + 2 * last + 1000 * last + 1000,
    )


def test_mobilenet_v2_costs_what_its_authors_say():
    """Their table 4: 300 and 585 million MACs. Here the first block has a 1x1 convolution more, with its norm."""
    for space, multiplier, published in ((mobile_small, 1.0, 300e6), (mobile_small_140, 1.4, 585e6)):
        arch, stem = mobilenet_v2(space), space.layout.stem_width
        assert {names[op] for names, op in zip(space.op_names, arch)} == {"mb1_k3", "mb6_k3"}
        costs = arch_costs(space, arch[None])
        macs, params = counted_by_table(multiplier)
        assert macs == pytest.approx(published, rel=0.006)
        assert (costs.macs[0], costs.params[0]) == (macs + stem**2 * 112**2, params + stem**2 + 2 * stem)
    assert mobile_small_140.layout.widths[1:] == (*[32] * 2, *[48] * 3, *[88] * 4, *[136] * 3, *[224] * 3, 448)
    with pytest.raises(ValueError, match="nasbench201: choice 0 has no mb6_k3"):
        mobilenet_v2(nasbench201)


def test_a_mobile_layout_of_your_own_as_its_docstring_shows_it():
    names = vars(mobile) | {}
    exec(textwrap.dedent(mobile.__doc__.split("list of stages:")[1]), names)
    mine = names["mine"]
    assert mine.layout == ChainLayout(16, (16, 24, 24, 24, 48, 48, 48, 96, 96), (1, 2, 1, 1, 2, 1, 1, 1, 1), 320)
    assert mine.num_ops == (1, 6, 7, 7, 6, 7, 7, 3, 4)
    assert (arch_costs(mine, [[0] * 9]).macs > 0).all()


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ([], "mine: the layout has 0 widths and 0 strides"),
        ([Stage(8, 0, 1)], r"mine: stage 0 is Stage\(.*\), expected width, num_layers and stride of at least 1\.$"),
        ([Stage(8, 2, 1, ())], r"mine: op_names\[0\] is \(\), expected a list of distinct"),
    ],
)
def test_stages_that_are_none(stages, message):
    with pytest.raises(ValueError, match=message):
        mobile_space("mine", stages, ("mb3_k3",))


# All


def test_spaces_are_known_by_name():
    assert {name: space.size for name, space in SPACES.items()} == {
        "nasbench101": 2**21 * 3**5,
        "nasbench101_v4": 2**6 * 3**2,
        "nasbench101_v5": 2**10 * 3**3,
        "nasbench101_v6": 2**15 * 3**4,
        "nasbench201": 15_625,
        "nasbench_macro": 6_561,
        "darts": 8**16 * 14_400**2,
        "nats_size": 32_768,
        "rnn32": 32,
        "darts_rnn": 40_320 * 4**8,
        "digits_chain": 243,
        # Six first layers of a stage without a skip and ten others with one, behind a fixed first block.
        "mobile_small": 6**6 * 7**10,
        "mobile_small_140": 6**6 * 7**10,
        "mobile_large": 13**6 * 14**10,
        "mobile_small_cifar": 6**6 * 7**10,
        "mobile_large_cifar": 13**6 * 14**10,
    }
    assert all(get_space(name) is space and space.name == name for name, space in SPACES.items())
    assert len({space.fingerprint for space in SPACES.values()}) == len(SPACES)
    with pytest.raises(ValueError) as error:
        get_space("nasbench301")
    known = (
        "darts, darts_rnn, digits_chain, mobile_large, mobile_large_cifar, mobile_small, mobile_small_140,"
        " mobile_small_cifar, nasbench101, nasbench101_v4, nasbench101_v5, nasbench101_v6, nasbench201, nasbench_macro,"
        " nats_size, rnn32"
    )
    assert str(error.value).startswith(f"unknown search space 'nasbench301'; choose one of {known}, or one of ")


def test_digits_chain_is_for_small_grey_images():
    layout = digits_chain.layout
    assert (layout.image_size, layout.in_channels, layout.num_classes) == (8, 1, 10)
    assert len(layout.widths) == 5 and layout.strides[0] == 1 and layout.widths[0] == layout.stem_width


class TestOutline:
    """What an architecture is said to compute, against the codes and against the cells evaluated."""

    @pytest.mark.parametrize("name", sorted(SPACES))
    def test_edges_go_forward_and_names_are_of_the_code(self, name):
        space, rng, tried = SPACES[name], np.random.default_rng(0), 0
        while tried < 5:
            arch = rng.integers(space.num_ops)
            if not space.is_valid(arch[None])[0]:
                continue
            tried += 1
            taken = [names[op] for names, op in zip(space.op_names, arch)]
            for cell in outline(space, arch).values():
                assert all(source < target < len(cell.nodes) for source, target, _ in cell.edges)
                shown = [op for _, op in cell.nodes if op] + [op for *_, op in cell.edges if op]
                assert set(shown) <= set(taken) and "none" not in shown
                assert all(op in str(cell) for op in shown)

    def test_a_chain_has_each_layer_in_order(self):
        (chain,) = outline(digits_chain, [0, 1, 1, 1, 2]).values()
        assert [op for _, op in chain.nodes] == ["", "identity", "mb2_k3", "mb2_k3", "mb2_k3", "mb6_k3", ""]
        assert str(chain) == "layer 1 identity, layers 2-4 mb2_k3, layer 5 mb6_k3" and chain.is_chain

    def test_a_cell_of_edges_by_hand(self):
        (cell,) = outline(nasbench201, [0, 3, 1, 4, 0, 0]).values()  # nothing comes of node 1, which has no input
        assert cell.edges == ((0, 2, "nor_conv_3x3"), (1, 2, "skip_connect"), (0, 3, "avg_pool_3x3"))
        words = "node 1 = nothing, node 2 = nor_conv_3x3(input) + skip_connect(node 1), output = avg_pool_3x3(input)"
        assert str(cell) == words

    def test_a_cell_of_vertices_has_those_on_a_way_to_the_output(self):
        space = SPACES["nasbench101_v4"]
        wiring = [1, 0, 1, 0, 1, 0]  # 0 -> 1, 0 -> 3, 1 -> 3; vertex 2 hangs in the air
        (cell,) = outline(space, [*wiring, 1, 2]).values()
        assert cell.nodes == (("input", ""), ("vertex 1", space.op_names[-1][1]), ("output", ""))
        assert cell.edges == ((0, 1, ""), (0, 2, ""), (1, 2, ""))
        assert str(cell) == "vertex 1 = conv1x1-bn-relu(input), output = input + vertex 1"

    def test_two_cells_by_hand(self):
        space = get_space("darts")
        normal = [4, 0, 0, 1] + [3, 0, 3, 1] * 3
        reduction = [1, 0, 1, 1] + [0, 0, 5, 2] * 3
        found = outline(space, normal + reduction)
        assert list(found) == ["normal cell", "reduction cell"]
        assert found["normal cell"].edges[:2] == ((0, 2, "sep_conv_3x3"), (0, 3, "skip_connect"))  # "none" is no edge
        assert str(found["normal cell"]).startswith("node 1 = sep_conv_3x3(input 1), node 2 = skip_connect(input 1) +")
        assert str(found["reduction cell"]).endswith("output = node 1 + node 2 + node 3 + node 4")

    def test_a_recurrent_cell_by_hand(self):
        (cell,) = outline(get_space("rnn32"), [1, 1, 3]).values()
        assert str(cell) == "node 1 = relu(input), node 2 = identity(node 1), mean of all nodes = node 1 + node 2"
