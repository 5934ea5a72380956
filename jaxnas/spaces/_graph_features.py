"""What can be read off architectures' graphs, for predictors of their accuracy; and codes without what is dead."""

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from jaxnas.codes import check
from jaxnas.space import CellLayout, ChainLayout, DagLayout, SearchSpace
from jaxnas.spaces._nasbench101 import live_edges
from jaxnas.spaces._nats_size import SizeLayout

MOST_KINDS = 4  # of operations in a set whose paths are looked at
ANY = -1  # what is in every set
NONE = "none"


def graph_features(space: SearchSpace, archs: ArrayLike) -> np.ndarray:
    """Features of the graph for `ranking.predict`, float64 [num_archs, any]: standardised over `archs`, without what is
    equal in all of them.

    How often each operation occurs. Of a cell besides, for each set of up to four operations: the shortest and the
    longest path from input to output by these alone (one more than any, and 0, where there is none), how many of them
    enter the output, and how many leave the input; after GRAF (Kadlecová et al., "Surprisingly Strong Performance
    Prediction with Neural Graph Features", arXiv 2404.16551), from its abstract. Of a cell of vertices the number of
    edges, and only vertices that an edge enters count. Of a chain how often each operation occurs among neighbours of
    one width, and which is their first. Of widths that are searched their logarithms.

    Give `pruned(space, archs)`, so that codes of the same network have the same features.

    Args:
      archs: int [num_archs, num_choices].

    Raises a ValueError as `codes.check` does.
    """
    archs = check(space, np.asarray(archs))
    names = list(dict.fromkeys(name for choice in space.op_names for name in choice))
    kinds = [np.array([names.index(name) for name in choice])[codes] for choice, codes in zip(space.op_names, archs.T)]
    ops = np.stack(kinds, axis=1)
    columns = FEATURES.get(type(space.layout), _counts)(space.layout, ops, archs)
    features = np.stack(columns, axis=1).astype(np.float64)
    features = features[:, np.ptp(features, axis=0) > 0]
    return (features - features.mean(axis=0)) / features.std(axis=0)


def pruned(space: SearchSpace, archs: ArrayLike) -> np.ndarray:
    """Codes of the same networks without what their outputs do not depend on, int32 [num_archs, num_choices].

    In a cell of edges whatever nothing enters or leads nowhere becomes "none": 9,445 codes of NAS-Bench-201 are left.
    (Its published classes, `isomorphs`, keep some of that, and take two convolutions of the same input for one.) Of
    other spaces it is `space.isomorphs`. MACs counted of these codes are those that are computed.

    Args:
      archs: int [num_archs, num_choices].

    Raises a ValueError as `codes.check` does.
    """
    archs = check(space, np.asarray(archs))
    prune = PRUNED.get(type(space.layout), lambda space, archs: space.isomorphs(archs))
    return prune(space, archs)


def _prune_cells(space: SearchSpace, archs: np.ndarray) -> np.ndarray:
    if any(NONE not in choice for choice in space.op_names):
        return space.isomorphs(archs)
    begins, ends = np.array(space.layout._asdict()["edges"]).T
    none = np.array([choice.index(NONE) for choice in space.op_names])
    there = np.zeros((len(archs), ends.max() + 1, ends.max() + 1), bool)
    there[:, begins, ends] = archs != none
    return np.where(live_edges(there)[:, begins, ends], archs, none).astype(np.int32)


PRUNED: Mapping[type, Callable[[SearchSpace, np.ndarray], np.ndarray]] = {CellLayout: _prune_cells}


def _counts(layout: Any, ops: np.ndarray, archs: np.ndarray) -> list[np.ndarray]:
    return [(ops == kind).sum(axis=1) for kind in range(ops.max() + 1)]


def _of_chains(layout: ChainLayout, ops: np.ndarray, archs: np.ndarray) -> list[np.ndarray]:
    begins = [0, *(np.flatnonzero(np.diff(layout.widths)) + 1), len(layout.widths)]
    columns = _counts(layout, ops, archs)
    for (begin, end), kind in itertools.product(itertools.pairwise(begins), range(ops.max() + 1)):
        columns.append((ops[:, begin:end] == kind).sum(axis=1))
        if end - begin > 1:
            columns.append(ops[:, begin] == kind)
    return columns


def _of_cells(layout: CellLayout, ops: np.ndarray, archs: np.ndarray) -> list[np.ndarray]:
    paths = _of_paths(layout.edges, ops, np.unique(ops), np.ones_like(ops, bool))
    return _counts(layout, ops, archs) + paths


def _of_vertices(layout: DagLayout, ops: np.ndarray, archs: np.ndarray) -> list[np.ndarray]:
    """Of an edge the operation of the vertex that it enters counts."""
    num_bits = len(layout.edges)
    exists, of_vertex = archs[:, :num_bits] == 1, ops[:, num_bits:]
    targets = np.array(layout.edges)[:, 1]
    used = np.stack([exists[:, targets == vertex].any(axis=1) for vertex in range(1, targets.max())], axis=1)
    kinds = np.unique(of_vertex)
    entered = np.insert(of_vertex, of_vertex.shape[1], ANY, axis=1)[:, targets - 1]
    counts = [(used & (of_vertex == kind)).sum(axis=1) for kind in kinds]
    return [*counts, exists.sum(axis=1), *_of_paths(layout.edges, entered, kinds, exists)]


def _of_widths(layout: SizeLayout, ops: np.ndarray, archs: np.ndarray) -> list[np.ndarray]:
    return _counts(layout, ops, archs) + list(np.log(layout.widths)[archs.T])


FEATURES: Mapping[type, Callable[[Any, np.ndarray, np.ndarray], list[np.ndarray]]] = {
    ChainLayout: _of_chains,
    CellLayout: _of_cells,
    DagLayout: _of_vertices,
    SizeLayout: _of_widths,
}


def _of_paths(
    edges: Sequence[tuple[int, int]], ops: np.ndarray, kinds: Iterable[int], exists: np.ndarray
) -> list[np.ndarray]:
    """Of each set of operations what their paths are; `ops` and `exists` are [num_archs, num_edges]."""
    begins, ends = np.array(edges).T
    columns = []
    for size in range(1, MOST_KINDS + 1):
        for chosen in itertools.combinations(kinds, size):
            there = exists & np.isin(ops, [*chosen, ANY])
            columns += _lengths(edges, there)
            columns += [there[:, ends == ends.max()].sum(axis=1), there[:, begins == 0].sum(axis=1)]
    return columns


def _lengths(edges: Sequence[tuple[int, int]], there: np.ndarray) -> list[np.ndarray]:
    """The shortest and the longest path from node 0 to the last by the edges that are there, bool [num_archs,
    num_edges]."""
    last = max(end for _, end in edges)
    shortest = np.full((len(there), last + 1), last + 1.0)
    longest = np.full((len(there), last + 1), -np.inf)
    shortest[:, 0] = longest[:, 0] = 0
    for (begin, end), used in sorted(zip(edges, there.T), key=lambda pair: pair[0]):
        shortest[:, end] = np.minimum(shortest[:, end], np.where(used, shortest[:, begin] + 1, last + 1))
        longest[:, end] = np.maximum(longest[:, end], np.where(used, longest[:, begin] + 1, -np.inf))
    return [shortest[:, last], np.maximum(longest[:, last], 0)]
