"""NAS-Bench-201 (Dong and Yang, ICLR 2020, arXiv 2001.00326): 5^6 = 15,625 cells of four nodes and six edges.

Node 0 is the cell's input, node 3 its output; a node is the sum of its incoming edges. The network is a 3x3 stem, three
stages of five cells with 16, 32 and 64 channels, and a residual block of stride 2 between stages.
"""

import functools
from collections.abc import Sequence

import numpy as np

from jaxnas.codes import enumerate_archs, from_index, to_index
from jaxnas.space import CellLayout, SearchSpace

# In the order of the published table, which also lists every edge into a node before the edges out of it.
EDGES = ((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3))
OP_NAMES = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
NONE = OP_NAMES.index("none")
NUM_NODES = 4


def isomorphs(archs: np.ndarray) -> np.ndarray:
    """The smallest code of each code's published isomorphism class (6,466 classes); archs int32 [num_archs, 6].

    The classes are those of the benchmark's authors, so that ours agree with everybody's. They are neither quite sound
    nor complete. An operation on a zero node 1 counts as zero, though the bias of a convolution's affine batch
    normalisation comes out of it. And zero terms stay in a sum and sums are compared as text, so that some equal
    networks stay apart: without zero terms, and with the sum of a sum as one sum, 4,930 classes would be left.
    """
    return from_index(nasbench201, _representatives()[to_index(nasbench201, archs)])


@functools.cache
def _representatives() -> np.ndarray:
    """For each of the 15,625 lexicographic indices, the first index of its class."""
    first: dict[str, int] = {}
    codes = enumerate_archs(nasbench201).tolist()
    return np.array([first.setdefault(_expression(code), index) for index, code in enumerate(codes)])


def _expression(code: Sequence[int]) -> str:
    """The output node as text, by the authors' rule: two cells are isomorphic where the texts are equal."""
    nodes = ["0"]
    for node in range(1, NUM_NODES):
        terms = []
        for (source, target), op in zip(EDGES, code, strict=True):
            if target == node and (op == NONE or nodes[source] == "#"):
                terms.append("#")
            elif target == node:
                term = nodes[source]
                terms.append(term if OP_NAMES[op] == "skip_connect" else f"({term})@{OP_NAMES[op]}")
        nodes.append("+".join(sorted(terms)))
    return nodes[-1]


nasbench201 = SearchSpace(
    "nasbench201",
    (OP_NAMES,) * len(EDGES),
    CellLayout(width=16, cells_per_stage=5, edges=EDGES),
    isomorphs=isomorphs,
)
