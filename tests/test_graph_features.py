"""Features of architectures' graphs, and what of them is live, listed one by one."""

import itertools

import jax
import numpy as np
import pytest
import scipy.stats

from jaxnas.codes import enumerate_archs, sample
from jaxnas.spaces import SPACES, digits_chain, graph_features, nasbench201, nasbench_macro, nats_size, pruned
from jaxnas.spaces._nasbench101 import adjacency, enumerate_cells, nasbench101_space


def assert_columns(space, archs, columns):
    expected = np.array(columns, float).T
    expected = expected[:, expected.std(axis=0) > 0]
    np.testing.assert_allclose(graph_features(space, archs), scipy.stats.zscore(expected), atol=1e-9)


def lengths(paths, there, none):
    """The shortest and the longest of paths, tuples of nodes, whose edges are all there."""
    found = [len(path) - 1 for path in paths if set(itertools.pairwise(path)) <= there]
    return min(found, default=none), max(found, default=0)


def paths_of(last):
    """Every path from node 0 to the last one: a subset of the nodes between."""
    for number in range(last):
        for middle in itertools.combinations(range(1, last), number):
            yield 0, *middle, last


def test_cells():
    """All edges of a path must have an operation of the set."""
    archs = np.concatenate([enumerate_archs(nasbench201)[::1201], [[4] * 6, [0] * 6]])
    columns, edges = [[(code == kind).sum() for code in archs] for kind in range(5)], nasbench201.layout.edges
    for size in (1, 2, 3, 4):
        for chosen in itertools.combinations(range(5), size):
            rows = []
            for code in archs:
                there = {edge for edge, op in zip(edges, code) if op in chosen}
                entering, leaving = sum(end == 3 for _, end in there), sum(begin == 0 for begin, _ in there)
                rows.append((*lengths(paths_of(3), there, 4), entering, leaving))
            columns += list(zip(*rows))
    assert_columns(nasbench201, archs, columns)


def test_cells_of_vertices():
    """All vertices of a path must have an operation of the set, the output has none; the first cell is an edge."""
    space = nasbench101_space(5)
    archs = enumerate_cells(space)[::97]
    edges = [set(zip(*map(np.ndarray.tolist, np.nonzero(adjacency(code))))) for code in archs]
    assert edges[0] == {(0, 4)}
    used = [[vertex in {end for _, end in of_cell} for vertex in (1, 2, 3)] for of_cell in edges]
    columns = [((archs[:, -3:] == kind) & np.array(used)).sum(axis=1) for kind in range(3)]
    columns.append([len(of_cell) for of_cell in edges])
    for size in (1, 2, 3):
        for chosen in itertools.combinations(range(3), size):
            rows = []
            for code, of_cell in zip(archs, edges):
                there = {(begin, end) for begin, end in of_cell if end == 4 or code[-4 + end] in chosen}
                entering, leaving = sum(end == 4 for _, end in there), sum(begin == 0 for begin, _ in there)
                rows.append((*lengths(paths_of(4), there, 5), entering, leaving))
            columns += list(zip(*rows))
    assert_columns(space, archs, columns)


def test_pruned_cells_keep_what_is_on_a_path():
    """Each edge of a path from input to output all of whose edges have an operation, and no other."""
    archs, edges = enumerate_archs(nasbench201)[::7], nasbench201.layout.edges
    expected = np.zeros_like(archs)
    for row, code in enumerate(archs):
        there = {edge for edge, op in zip(edges, code) if op}
        paths = [set(itertools.pairwise(path)) for path in paths_of(3)]
        live = set().union(*(path for path in paths if path <= there))
        expected[row] = [op if edge in live else 0 for edge, op in zip(edges, code)]
    np.testing.assert_array_equal(pruned(nasbench201, archs), expected)
    assert (expected != archs).any() and pruned(nasbench201, archs).dtype == np.int32


def test_pruned_keeps_two_convolutions_of_one_input_apart():
    """Which the published classes take for one."""
    apart, one = np.array([[2, 0, 2, 2, 0, 2], [2, 0, 2, 0, 1, 2]])
    np.testing.assert_array_equal(*nasbench201.isomorphs(np.stack([apart, one])))
    np.testing.assert_array_equal(pruned(nasbench201, [apart, one]), [apart, one])


def test_pruned_chains_are_those_of_their_space():
    archs = np.array(sample(jax.random.key(0), nasbench_macro, 50))
    np.testing.assert_array_equal(pruned(nasbench_macro, archs), nasbench_macro.isomorphs(archs))


def test_chains():
    """Widths 64 64, 128 128 128, 256 256 256."""
    archs = np.array(sample(jax.random.key(0), nasbench_macro, 50))
    columns = [(archs == kind).sum(axis=1) for kind in range(3)]
    for stage in ([0, 1], [2, 3, 4], [5, 6, 7]):
        for kind in range(3):
            columns += [(archs[:, stage] == kind).sum(axis=1), archs[:, stage[0]] == kind]
    assert_columns(nasbench_macro, archs, columns)


def test_widths():
    archs = enumerate_archs(nats_size)[::1001]
    columns = [(archs == kind).sum(axis=1) for kind in range(8)]
    columns += [np.log(8 + 8 * choice) for choice in archs.T]
    assert_columns(nats_size, archs, columns)


@pytest.mark.parametrize("name", SPACES)
def test_every_space_has_some(name):
    archs = np.array(sample(jax.random.key(0), SPACES[name], 2000))
    archs = archs[np.asarray(SPACES[name].is_valid(archs))][:20]
    features = graph_features(SPACES[name], pruned(SPACES[name], archs))
    assert len(features) == len(archs) and np.isfinite(features).all()
    assert features.shape[1] > 0


def test_what_is_equal_in_all_is_left_out():
    assert graph_features(digits_chain, [[1, 1, 0, 2, 1]] * 2).shape == (2, 0)
    assert graph_features(digits_chain, [[1, 1, 0, 2, 1], [1, 1, 0, 2, 2]]).std(axis=0) == pytest.approx(1)


def test_refuses_codes_of_another_space():
    with pytest.raises(ValueError, match=r"digits_chain: archs have shape \(1, 6\), expected \[num_archs, 5\]"):
        graph_features(digits_chain, [[0] * 6])
