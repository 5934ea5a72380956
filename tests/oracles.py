"""What the library is compared with: rules of the published spaces, written down without its operations."""

import numpy as np

from jaxnas.codes import check
from jaxnas.spaces import nasbench201
from jaxnas.spaces._nasbench101 import OP_NAMES, adjacency, prune
from jaxnas.spaces._nasbench201 import EDGES, NONE, NUM_NODES
from jaxnas.spaces._nasbench201 import OP_NAMES as CELL_OPS


def prune_cells(archs: np.ndarray, *, affine: bool, bn_mode: str) -> np.ndarray:
    """Set the edges to "none" that cannot change the super-net's output; archs int32 [num_archs, 6], as returned.

    An edge is dead where its target doesn't reach the output, or where its source is always zero and its operation maps
    zero to zero: none, skip and pooling always, a convolution only while its batch normalisation has no affine part
    (else its bias comes out). 9,445 codes are left without affine parameters and 10,405 with them.

    With bn_mode "batch" or "calibrated" the statistics are those of the network itself, and a zero input is normalised
    to zero. With "tracked" they are those of a mixture of networks, a zero input gives -mean / std, and the codes come
    back unchanged.
    """
    archs = check(nasbench201, archs)
    if bn_mode == "tracked":
        return archs
    keeps_zero = np.array([not (affine and name.startswith("nor_conv")) for name in CELL_OPS])
    is_zero = np.ones((len(archs), NUM_NODES), bool)
    is_zero[:, 0] = False
    for edge, (source, target) in enumerate(EDGES):
        archs[is_zero[:, source] & keeps_zero[archs[:, edge]], edge] = NONE
        is_zero[:, target] &= archs[:, edge] == NONE
    is_used = np.zeros((len(archs), NUM_NODES), bool)
    is_used[:, -1] = True
    for edge, (source, target) in reversed(list(enumerate(EDGES))):
        archs[~is_used[:, target], edge] = NONE
        is_used[:, source] |= archs[:, edge] != NONE
    return archs


def vertex_channels(edges: np.ndarray, in_channels: int, out_channels: int) -> list[int]:
    """The width of every vertex of one pruned cell, [num_vertices, num_vertices]; 0 for a vertex that isn't used.

    The output concatenates what flows into it, so its channels are divided among these vertices and the remainder is
    handed out, one each, to the first of them; any other takes the largest width that it feeds. The cell's input is
    projected to whatever it feeds, and counts as none of the vertices.
    """
    edges = np.asarray(edges, bool)
    last = len(edges) - 1
    feeding = np.flatnonzero(edges[1:last, last]) + 1
    channels = [in_channels, *[0] * (last - 1), out_channels]
    for place, vertex in enumerate(feeding.tolist()):
        share, rest = divmod(out_channels, len(feeding))
        channels[vertex] = share + (place < rest)
    for vertex in range(last - 1, 0, -1):
        if not edges[vertex, last]:
            channels[vertex] = max(
                (channels[target] for target in range(vertex + 1, last) if edges[vertex, target]), default=0
            )
    return channels


def network_costs(space, archs) -> tuple[np.ndarray, np.ndarray]:
    """MACs and parameters of whole networks, float64 [num_archs] each, counted as in `jaxnas.costs`.

    By the published rule, cell by cell; no operation of the library is asked.
    """
    layout = space.layout
    codes = prune(archs)
    costs = np.zeros((len(codes), 2))
    num_ops = layout.num_vertices - 2
    for row, (edges, code) in enumerate(zip(adjacency(codes), codes, strict=True)):
        size, width = layout.image_size, layout.width
        costs[row] += _conv(3, layout.in_channels, width, size)
        for stage in range(layout.num_stages):
            out_width = layout.width * 2**stage
            size = -(-layout.image_size // 2**stage)
            for _ in range(layout.cells_per_stage):
                costs[row] += _cell_cost(edges, code[-num_ops:], width, out_width, size)
                width = out_width
        costs[row] += [width * layout.num_classes, (width + 1) * layout.num_classes]
    return costs[:, 0], costs[:, 1]


def _cell_cost(edges: np.ndarray, ops: np.ndarray, in_width: int, out_width: int, size: int) -> np.ndarray:
    channels = vertex_channels(edges, in_width, out_width)
    cost = np.zeros(2)
    for vertex in range(1, len(edges)):
        if edges[0, vertex]:
            cost += _conv(1, in_width, channels[vertex], size)
    for vertex, op in enumerate(ops, 1):
        if channels[vertex] and OP_NAMES[op].startswith("conv"):
            cost += _conv(int(OP_NAMES[op][4]), channels[vertex], channels[vertex], size)
    return cost


def _conv(kernel: int, in_width: int, out_width: int, size: int) -> np.ndarray:
    """[MACs, parameters] of a convolution without bias and its batch normalisation."""
    weights = kernel**2 * in_width * out_width
    return np.array([weights * size**2, weights + 2 * out_width], np.float64)
