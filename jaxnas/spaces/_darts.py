"""The space of DARTS (Liu, Simonyan and Yang, ICLR 2019, arXiv 1806.09055): a normal and a reduction cell for CIFAR-10.

A cell has two inputs, the outputs of the two cells before it, and four nodes. A node is the sum of two edges, each an
operation on an input of the cell or an earlier node; the cell's output is the four nodes side by side. The network is a
3x3 stem and twenty cells, of which the seventh and the fourteenth are reduction cells: they halve the image, by stride
2 on what comes from the cell's inputs, and double the width. (From the authors' code, without its auxiliary head.)

A code has, for each edge of the normal cell and then of the reduction cell, its operation and its source: 0 and 1 are
the cell's inputs, 2 and on the nodes. A code exists where the two edges of each node have different sources, which one
in 25 random codes has. "none" is a candidate and its codes exist, although the authors' search never ends with it.
"""

import functools
import itertools
from typing import Any, NamedTuple

import chex
import jax
import numpy as np

from jaxnas.checks import whole
from jaxnas.codes import check
from jaxnas.space import CELL_SIZES, SearchSpace, known_sizes

# In the order of the authors' code.
OP_NAMES = (
    "none",
    "max_pool_3x3",
    "avg_pool_3x3",
    "skip_connect",
    "sep_conv_3x3",
    "sep_conv_5x5",
    "dil_conv_3x3",
    "dil_conv_5x5",
)
NONE = OP_NAMES.index("none")
CELLS = ("normal", "reduction")


class TwoCellLayout(NamedTuple):
    """The fixed part of a DARTS-like network: three stages of normal cells, a reduction cell between two of them."""

    width: int  # channels of a node of the first stage; the stem has three times as many
    cells_per_stage: int  # normal ones
    num_nodes: int = 4  # of a cell
    image_size: int = 32
    in_channels: int = 3
    num_classes: int = 10

    @property
    def sizes(self) -> tuple[str, ...]:
        """The names of what `resized` sets."""
        return CELL_SIZES

    def resized(self, **sizes: int | None) -> "TwoCellLayout":
        """Set any of `sizes`."""
        return self._replace(**known_sizes(self, sizes))


def edges_of(archs: Any) -> tuple[Any, Any]:
    """Operations and sources of codes [..., num_choices]: int [..., 2 cells, num_nodes, 2 edges] each; NumPy's arrays
    and JAX's alike."""
    edges = archs.reshape(*archs.shape[:-1], len(CELLS), -1, 2, 2)
    return edges[..., 0], edges[..., 1]


def is_valid(archs: chex.Array) -> Any:
    """Whether the edges of each node have different sources: bool [...] of codes [..., num_choices]."""
    _, sources = edges_of(archs if isinstance(archs, jax.Array) else np.asarray(archs))
    return (sources[..., 0] != sources[..., 1]).all(axis=(-2, -1))


def isomorphs(archs: np.ndarray) -> np.ndarray:
    """The smallest code of the same network: int32 [num_archs, num_choices].

    The order of a node's edges doesn't matter, nor the source of "none", nor the order in which the nodes are counted:
    it permutes channels, which the next cell projects anyway. Equal networks stay apart only where a node is zero
    because both its edges are "none".
    """
    codes = check(darts_space(np.shape(archs)[-1] // 8), archs)
    ops, sources = (each.reshape(-1, *each.shape[2:]) for each in edges_of(codes))  # [2 num_archs, num_nodes, 2]
    num_nodes = ops.shape[1]
    other = (sources[..., ::-1] == 0).astype(np.int32)  # of the cell's inputs, one that the other edge doesn't have
    sources = np.where(ops == NONE, other, sources)
    sources[(ops == NONE).all(axis=-1)] = [0, 1]
    smallest = np.full(len(ops), np.iinfo(np.int64).max)
    digits = 8 ** np.arange(4 * num_nodes, dtype=np.int64)[::-1]
    for order in itertools.permutations(range(num_nodes)):
        renamed = np.array([0, 1, *(2 + order.index(node) for node in range(num_nodes))])
        pair = np.stack([ops[:, order], renamed[sources[:, order]]], axis=-1)
        pair = np.take_along_axis(pair, np.argsort(pair[..., 1], axis=-1)[..., None], axis=2)
        exists = (pair[..., 1] < np.arange(2, num_nodes + 2)[:, None]).all(axis=(1, 2))
        number = pair.reshape(len(pair), -1) @ digits
        smallest = np.where(exists, np.minimum(smallest, number), smallest)
    return (smallest[:, None] // digits % 8).reshape(codes.shape).astype(np.int32)


@functools.cache
def darts_space(num_nodes: int = 4) -> SearchSpace:
    """The cells of so many nodes, 1 to 4; those of fewer than four are for tests and first steps."""
    num_nodes = whole("darts: num_nodes", num_nodes, 1, 4)
    choices = []
    for node in range(num_nodes):
        choices += [OP_NAMES, tuple(f"from{source}" for source in range(2 + node))] * 2
    return SearchSpace(
        "darts" if num_nodes == 4 else f"darts_n{num_nodes}",
        tuple(choices) * len(CELLS),
        TwoCellLayout(width=36, cells_per_stage=6, num_nodes=num_nodes),
        is_valid=is_valid,
        isomorphs=isomorphs,
    )


darts = darts_space()
