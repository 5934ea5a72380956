"""NAS-Bench-101 (Ying et al., ICML 2019, arXiv 1902.09635): 423,624 cells, directed graphs of operations.

A cell has up to seven vertices: 0 is its input, the last its output, those between compute an operation each. A code
has one bit for each pair of vertices, (0, 1), (0, 2) ... (1, 2) ..., 1 for an edge, and then the operation of each
vertex between. Vertices that are not on a way from input to output count for nothing, so that one space of seven
vertices has the smaller cells too; a code exists where input and output are connected by at most nine edges that count.

A quarter of random codes do not exist, and many are the same cell: draw from `enumerate_cells`, or by the samplers, not
by `arch.sample`.
"""

import functools
import hashlib
import itertools
from collections.abc import Sequence
from typing import Any

import chex
import jax
import numpy as np

from jaxnas.checks import whole
from jaxnas.codes import check, from_index
from jaxnas.space import DagLayout, SearchSpace

OP_NAMES = ("conv3x3-bn-relu", "conv1x1-bn-relu", "maxpool3x3")  # in the order of the published labels
MAX_EDGES = 9
_NUM_VERTICES = {8: 4, 13: 5, 19: 6, 26: 7}  # by number of choices
_CHUNK = 20_000  # cells whose relabellings are compared at a time: some megabytes


def adjacency(archs: chex.Array) -> Any:
    """The edges of codes [..., num_choices]: bool [..., num_vertices, num_vertices], from row to column.

    Like `live_edges` and `is_valid` it takes NumPy's arrays and JAX's, also traced ones, and returns the same kind.
    """
    archs = archs if isinstance(archs, jax.Array) else np.asarray(archs)
    num_vertices = _NUM_VERTICES[archs.shape[-1]]
    sources, targets = np.triu_indices(num_vertices, k=1)
    position = np.zeros((num_vertices, num_vertices), int)
    position[sources, targets] = np.arange(len(sources))
    upper = np.triu(np.ones((num_vertices, num_vertices), bool), k=1)
    return (archs[..., position] > 0) & np.expand_dims(upper, tuple(range(archs.ndim - 1)))


def live_edges(edges: chex.Array) -> Any:
    """Of edges, bool [..., num_vertices, num_vertices], those on a way from input to output; none where there is no
    way."""
    num_vertices = edges.shape[-1]
    vertices = np.expand_dims(np.arange(num_vertices), tuple(range(edges.ndim - 2)))
    reached, leading = vertices == 0, vertices == num_vertices - 1
    for _ in range(num_vertices - 1):
        reached = reached | (edges & reached[..., :, None]).any(axis=-2)
        leading = leading | (edges & leading[..., None, :]).any(axis=-1)
    live = reached & leading
    return edges & live[..., :, None] & live[..., None, :]


def is_valid(archs: chex.Array, *, output_degree: int | None = None) -> Any:
    """Whether input and output are connected by at most nine edges that count, and, where `output_degree` is given, so
    many of the vertices between lead straight to the output: bool [...] of codes [..., num_choices]."""
    edges = live_edges(adjacency(archs))
    num_edges = edges.sum(axis=(-2, -1))
    valid = (num_edges > 0) & (num_edges <= MAX_EDGES)
    return valid if output_degree is None else valid & (edges[..., 1:-1, -1].sum(axis=-1) == output_degree)


def prune(archs: np.ndarray) -> np.ndarray:
    """Zero the edges and operations that are not on a way from input to output; archs int32 [num_archs, num_choices].

    The vertices stay where they are.
    """
    archs = check(_space_of(archs), archs)
    edges = live_edges(adjacency(archs))
    sources, targets = np.triu_indices(edges.shape[1], k=1)
    live = edges[:, sources, targets].astype(np.int32)
    ops = np.where(edges[:, 1:-1].any(axis=2), archs[:, len(sources) :], 0)
    return np.concatenate([live, ops], axis=1, dtype=np.int32)


def isomorphs(archs: np.ndarray) -> np.ndarray:
    """The smallest code of the same cell, whatever the order of its vertices: int32 [num_archs, num_choices].

    The same classes as those of the published hash (see `graph_hash`), without its cost: all orders of the vertices are
    tried at once.
    """
    space = _space_of(archs)
    pruned = prune(archs)
    chunks = [_smallest_index(pruned[start : start + _CHUNK]) for start in range(0, len(pruned), _CHUNK)]
    return from_index(space, np.concatenate(chunks))


def enumerate_cells(space: SearchSpace) -> np.ndarray:
    """One code of every cell of a space of this file: int32 [num_cells, num_choices], in lexicographic order.

    91, 2,532, 64,542 and 423,624 cells with up to four, five, six and seven vertices; of a space with an output degree
    those that have it.
    """
    num_vertices = _NUM_VERTICES[space.num_choices]
    found = []
    for used in range(2, num_vertices + 1):
        sources, targets = np.triu_indices(used, k=1)
        bits = (np.arange(2 ** len(sources))[:, None] >> np.arange(len(sources))) & 1
        bits = bits[bits.sum(axis=1) <= MAX_EDGES].astype(bool)
        leaves = np.stack([bits[:, sources == vertex].any(axis=1) for vertex in range(used - 1)])
        enters = np.stack([bits[:, targets == vertex].any(axis=1) for vertex in range(1, used)])
        bits = bits[leaves.all(axis=0) & enters.all(axis=0)]
        place = np.r_[np.arange(used - 1), num_vertices - 1]  # unused vertices stand before the output
        edges = np.zeros((len(bits), num_vertices, num_vertices), np.int32)
        edges[:, place[sources], place[targets]] = bits
        edges = edges[:, *np.triu_indices(num_vertices, k=1)]
        for labels in itertools.product(range(len(OP_NAMES)), repeat=used - 2):
            ops = np.zeros((len(edges), num_vertices - 2), np.int32)
            ops[:, : used - 2] = labels
            codes = np.concatenate([edges, ops], axis=1)
            chunks = [_smallest_index(codes[start : start + _CHUNK]) for start in range(0, len(codes), _CHUNK)]
            found.append(np.unique(np.concatenate(chunks)))
    cells = from_index(space, np.unique(np.concatenate(found)))
    return cells[space.is_valid(cells)]


def graph_hash(arch: chex.ArrayNumpy | Sequence[int]) -> str:
    """The key of a cell in the published table: 32 hex digits, the same for every order of its vertices.

    Each vertex starts from the MD5 of its out-degree, in-degree and label (input -1, output -2), and takes up its
    neighbours' as often as there are vertices; the cell's hash is that of the sorted hashes of its vertices.
    """
    (code,) = prune(np.asarray(arch)[None])
    (edges,) = adjacency(code[None])
    num_vertices = len(edges)
    used = [0, *(np.flatnonzero(edges[1:-1].any(axis=1)) + 1), num_vertices - 1]
    edges = edges[np.ix_(used, used)]
    labels = [-1, *code[len(code) - num_vertices + 2 :][[vertex - 1 for vertex in used[1:-1]]].tolist(), -2]
    degrees = zip(edges.sum(axis=1).tolist(), edges.sum(axis=0).tolist(), labels, strict=True)
    hashes = [_md5(str(triple)) for triple in degrees]
    for _ in used:
        hashes = [
            _md5("|".join([_sorted_text(hashes, before), _sorted_text(hashes, after), own]))
            for own, before, after in zip(hashes, edges.T, edges, strict=True)
        ]
    return _md5(str(sorted(hashes)))


def _smallest_index(pruned: np.ndarray) -> np.ndarray:
    """The smallest lexicographic index over all orders of the inner vertices of pruned codes: int64 [num_archs]."""
    edges = adjacency(pruned)
    num_vertices = edges.shape[1]
    sources, targets = np.triu_indices(num_vertices, k=1)
    flat = edges.reshape(len(edges), -1).astype(np.float64)  # exact: an index is below 2^29
    ops = pruned[:, len(sources) :].astype(np.float64)
    op_weights = 3.0 ** np.arange(num_vertices - 3, -1, -1)
    edge_weights = 3.0 ** (num_vertices - 2) * 2.0 ** np.arange(len(sources) - 1, -1, -1)
    num_edges = flat.sum(axis=1)
    smallest = np.full(len(pruned), np.inf)
    for inner in itertools.permutations(range(1, num_vertices - 1)):
        order = np.array([0, *inner, num_vertices - 1])
        bits = flat[:, order[sources] * num_vertices + order[targets]]
        index = bits @ edge_weights + ops[:, order[1:-1] - 1] @ op_weights
        keeps_direction = bits.sum(axis=1) == num_edges  # else an edge would point backwards
        smallest = np.where(keeps_direction, np.minimum(smallest, index), smallest)
    return smallest.astype(np.int64)


def _md5(text: str) -> str:
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


def _sorted_text(hashes: Sequence[str], chosen: np.ndarray) -> str:
    return "".join(sorted(itertools.compress(hashes, chosen)))


def _space_of(archs: np.ndarray) -> SearchSpace:
    return nasbench101_space(_NUM_VERTICES.get(np.shape(archs)[-1], 7))


@functools.cache
def nasbench101_space(num_vertices: int = 7, *, output_degree: int | None = None) -> SearchSpace:
    """The cells of up to `num_vertices` vertices, 4 to 7, input and output included.

    Args:
      output_degree: only cells in which so many of the vertices between lead straight to the output, so that (but for a
        remainder) all operations of a stage are of one width: the fixed channel configuration of "How to Train Your
        Super-Net" (arXiv 2003.04276), which trains a super-net for each.
    """
    num_vertices = whole("nasbench101: num_vertices", num_vertices, 4, 7)
    if output_degree is not None:
        output_degree = whole("nasbench101: output_degree", output_degree, 1, num_vertices - 2)
    edges = tuple(itertools.combinations(range(num_vertices), 2))
    name = "nasbench101" if num_vertices == 7 else f"nasbench101_v{num_vertices}"
    return SearchSpace(
        name if output_degree is None else f"{name}_out{output_degree}",
        (("no_edge", "edge"),) * len(edges) + (OP_NAMES,) * (num_vertices - 2),
        DagLayout(width=128, cells_per_stage=3, edges=edges, output_degree=output_degree),
        is_valid=functools.partial(is_valid, output_degree=output_degree),
        isomorphs=isomorphs,
    )


nasbench101 = nasbench101_space()
