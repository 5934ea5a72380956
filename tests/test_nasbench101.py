"""NAS-Bench-101 against the published counts, hash, channels and parameters, and against brute force."""

import itertools

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import network_costs, vertex_channels

from jaxnas.codes import check, enumerate_archs, sample, to_index
from jaxnas.costs import arch_costs, op_costs
from jaxnas.spaces._nasbench101 import (
    OP_NAMES,
    adjacency,
    enumerate_cells,
    graph_hash,
    nasbench101,
    nasbench101_space,
    prune,
)

CONV3, CONV1, POOL = range(3)
V4 = nasbench101_space(4)
ALL_V4 = np.array(list(itertools.product(*(range(n) for n in V4.num_ops))), np.int32)


def code(edges: str, ops, num_vertices: int = 7) -> np.ndarray:
    """From edges such as "01 12" and the operations of the inner vertices."""
    pairs = {tuple(map(int, edge)) for edge in edges.split()}
    bits = [int(pair in pairs) for pair in itertools.combinations(range(num_vertices), 2)]
    assert sum(bits) == len(pairs)
    return np.array([*bits, *ops], np.int32)


# Two rows of the published table, with what it says of them.
FIRST = code("01 04 05 12 23 26 35 45 56", [CONV3, POOL, CONV3, CONV3, CONV1])
FIRST_HASH, FIRST_PARAMS = "00005c142e6f48ac74fdcf73e3439874", 8_555_530
INCEPTION = code("01 02 03 05 16 26 34 46 56", [CONV1, CONV3, CONV3, CONV3, POOL])
INCEPTION_STORED = code("01 02 03 04 16 26 36 45 56", [CONV3, CONV1, POOL, CONV3, CONV3])
INCEPTION_PARAMS = 2_694_282


# The space


def test_codes():
    edges = adjacency(code("01 13 26", [0] * 5)[None])[0]
    assert np.argwhere(edges).tolist() == [[0, 1], [1, 3], [2, 6]]
    assert nasbench101.num_choices == 26 and nasbench101.layout.num_vertices == 7
    assert nasbench101.op_names[-1] == OP_NAMES and nasbench101.op_names[20] == ("no_edge", "edge")
    with pytest.raises(ValueError, match="num_vertices is 8, expected 4 to 7"):
        nasbench101_space(8)
    with pytest.raises(ValueError, match=r"^nasbench101: 509607936 codes are too many to enumerate"):
        enumerate_archs(nasbench101)


def paths(edges, start, end):
    """All ways from start to end, as sets of edges; by walking."""
    if start == end:
        return [set()]
    return [
        {(start, to), *rest}
        for to in range(start + 1, len(edges))
        if edges[start, to]
        for rest in paths(edges, to, end)
    ]


def on_the_way(edges):
    return set().union(*paths(edges, 0, len(edges) - 1))


def test_a_code_exists_where_a_way_exists():
    exists = [len(on_the_way(edges)) > 0 for edges in adjacency(ALL_V4)]
    assert V4.is_valid(ALL_V4).tolist() == exists and 0 < sum(exists) < len(exists)
    with pytest.raises(
        ValueError, match="nasbench101_v4: architecture 0, 0-0-0-0-0-0-0-0, does not exist in the space"
    ):
        check(V4, np.zeros((1, 8), int))


def test_only_edges_that_count_count():
    nine = "01 02 03 04 16 26 36 46 06"
    for edges, valid in {
        nine: True,
        nine + " 12": False,  # ten, all on a way
        nine + " 15 25 35": True,  # twelve, of which three end nowhere
        nine + " 56": True,  # begins nowhere
        nine + " 15 56": False,
        "12 23 36": False,
        "06": True,
    }.items():
        assert nasbench101.is_valid(code(edges, [0] * 5)[None]).tolist() == [valid], edges


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)).filter(lambda e: e[0] < e[1]), max_size=12, unique=True)
)
def test_pruned_codes_have_what_is_on_a_way(pairs):
    archs = code(" ".join(f"{a}{b}" for a, b in pairs), [1, 2, 1, 2, 1])[None]
    alive = on_the_way(adjacency(archs)[0])
    if not 0 < len(alive) <= 9:
        assert not nasbench101.is_valid(archs)[0]
        return
    pruned = prune(archs)
    assert set(map(tuple, np.argwhere(adjacency(pruned)[0]).tolist())) == alive
    used = {vertex for edge in alive for vertex in edge}
    assert pruned[0, -5:].tolist() == [op if v in used else 0 for v, op in enumerate([1, 2, 1, 2, 1], 1)]
    np.testing.assert_array_equal(prune(pruned), pruned)
    assert graph_hash(pruned[0]) == graph_hash(archs[0])


# Isomorphism


def test_published_hash():
    assert graph_hash(FIRST) == FIRST_HASH
    assert graph_hash(INCEPTION) == graph_hash(INCEPTION_STORED)
    two = nasbench101.isomorphs(np.stack([INCEPTION, INCEPTION_STORED]))
    assert (two[0] == two[1]).all()


@pytest.mark.parametrize("num_vertices", [4, 5])
def test_smallest_codes_are_the_classes_of_the_published_hash(num_vertices):
    """Of every code at four vertices, and of many random ones at five."""
    space = nasbench101_space(num_vertices)
    codes = ALL_V4 if num_vertices == 4 else np.random.default_rng(0).integers(0, space.num_ops, (1500, 13), np.int32)
    codes = codes[space.is_valid(codes)]
    representatives = space.isomorphs(codes)
    hashes = [graph_hash(arch) for arch in codes]
    texts = [tuple(arch) for arch in representatives.tolist()]
    assert len(set(hashes)) == len(set(texts)) == len(set(zip(hashes, texts, strict=True))) < len(codes) / 2
    assert (to_index(space, representatives) <= to_index(space, codes)).all()
    np.testing.assert_array_equal(space.isomorphs(representatives), representatives)


def test_the_order_of_vertices_does_not_matter():
    """One cell in every order of its inner vertices that keeps its edges forwards."""
    edges = adjacency(FIRST[None])[0]
    found = []
    for inner in itertools.permutations(range(1, 6)):
        order = [0, *inner, 6]
        moved = edges[np.ix_(order, order)]
        if not np.tril(moved).any():
            found.append(np.r_[moved[np.triu_indices(7, 1)], FIRST[-5:][np.array(inner) - 1]].astype(np.int32))
    assert len(found) == 4  # vertex 4 anywhere along the chain 1, 2, 3
    assert len(np.unique(nasbench101.isomorphs(np.stack(found)), axis=0)) == 1
    assert {graph_hash(arch) for arch in found} == {FIRST_HASH}


@pytest.mark.parametrize(("num_vertices", "num_cells"), [(4, 91), (5, 2_532), (6, 64_542)])
def test_number_of_cells(num_vertices, num_cells):
    """The published numbers; and the representatives are valid, their own, and in order."""
    space = nasbench101_space(num_vertices)
    cells = enumerate_cells(space)
    assert len(cells) == num_cells and cells.dtype == np.int32
    assert (np.diff(to_index(space, cells)) > 0).all()
    some = cells[:: max(1, num_cells // 1000)]
    np.testing.assert_array_equal(space.isomorphs(some), some)
    assert len({graph_hash(arch) for arch in some}) == len(some)


def test_random_codes_are_cells_of_the_list():
    space, cells = nasbench101_space(5), enumerate_cells(nasbench101_space(5))
    codes = np.asarray(sample(jax.random.key(0), space, 500))
    codes = codes[space.is_valid(codes)]
    assert np.isin(to_index(space, space.isomorphs(codes)), to_index(space, cells)).all() and len(codes) > 100


# Channels and costs


@pytest.mark.parametrize(
    ("edges", "num_vertices", "in_channels", "out_channels", "expected"),
    [
        ("01 12 23", 4, 8, 16, [8, 16, 16, 16]),  # a chain
        ("01", 2, 1, 5, [1, 5]),
        ("01 02 13 23", 4, 8, 8, [8, 4, 4, 8]),
        ("01 02 13 23", 4, 8, 15, [8, 8, 7, 15]),  # the first takes the remainder
        ("01 02 03 14 24 34", 5, 8, 8, [8, 3, 3, 2, 8]),
        ("01 02 13 23 34", 5, 16, 8, [16, 8, 8, 8, 8]),  # branches inside only
        ("01 12 13 24 34", 5, 8, 9, [8, 5, 5, 4, 9]),  # vertex 1 takes the larger of 5 and 4
        ("01 03 12 14 23 34", 5, 8, 15, [8, 8, 7, 7, 15]),
        ("01 14 04", 5, 8, 6, [8, 6, 0, 0, 6]),  # two vertices are not used; an edge from the input counts for nothing
    ],
)
def test_channel_rule_by_hand(edges, num_vertices, in_channels, out_channels, expected):
    matrix = np.zeros((num_vertices, num_vertices), bool)
    for source, target in (map(int, edge) for edge in edges.split()):
        matrix[source, target] = True
    assert vertex_channels(matrix, in_channels, out_channels) == expected


def test_published_parameters():
    _, params = network_costs(nasbench101, np.stack([FIRST, INCEPTION, INCEPTION_STORED]))
    assert params.tolist() == [FIRST_PARAMS, INCEPTION_PARAMS, INCEPTION_PARAMS]


def test_macs_by_hand():
    """One cell a stage at 8 pixels and 4 channels; vertex 1 a 3x3 convolution, and a way past it."""
    space = V4.resized(width=4, image_size=8, cells_per_stage=1)
    macs, params = network_costs(space, code("01 03 13", [CONV3, POOL], 4)[None])
    stem, head = 27 * 4 * 64, 16 * 10
    cell = lambda inside, out, pixels: (2 * inside * out + 9 * out * out) * pixels  # noqa: E731
    assert macs.tolist() == [stem + cell(4, 4, 64) + cell(4, 8, 16) + cell(8, 16, 4) + head]
    norms = 2 * 4 + 3 * 2 * (4 + 8 + 16)
    assert params.tolist() == [27 * 4 + cell(4, 4, 1) + cell(4, 8, 1) + cell(8, 16, 1) + norms + head + 10]
    assert [found.tolist() for found in arch_costs(space, code("01 03 13", [CONV3, POOL], 4)[None])] == [
        macs.tolist(),
        params.tolist(),
    ]


def test_costs_are_those_of_the_published_rule():
    rng = np.random.default_rng(0)
    archs = rng.integers(0, nasbench101.num_ops, (200, nasbench101.num_choices)).astype(np.int32)
    archs = np.concatenate([archs[nasbench101.is_valid(archs)], np.stack([FIRST, INCEPTION, INCEPTION_STORED])])
    np.testing.assert_array_equal(arch_costs(nasbench101, archs), network_costs(nasbench101, archs))
    with pytest.raises(
        ValueError, match=r"^nasbench101: what an operation costs depends on the whole code; costs\.arch"
    ):
        op_costs(nasbench101)
