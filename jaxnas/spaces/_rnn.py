"""Recurrent cells of language models: the space of DARTS (arXiv 1806.09055), and the 32 cells of two nodes that
"Evaluating the Search Phase of NAS" (arXiv 1902.08142) trained one by one.

From the word and the hidden state a cell makes its first state, by tanh. Each node then takes one of the states before
it and moves it, as a gate says, towards an activation of it; the hidden state is the mean of all nodes. A node's
matrix is its own, whichever state it takes and whatever the activation is. (From the authors' code.)

A code has the activation of node 1, which can only take the first state, and for each further node its source, 0 for
the first state, 1 for node 1 and so on, and its activation. So the lexicographic number of a code of two nodes is the
number that the authors give it, 8 (4 source_1 + op_1) + 4 source_2 + op_2.
"""

import functools
from typing import Any, NamedTuple

import numpy as np

from jaxnas.checks import whole
from jaxnas.codes import check
from jaxnas.space import SearchSpace, known_sizes

OP_NAMES = ("tanh", "relu", "sigmoid", "identity")  # in the order of the authors' code
SIZES = ("width", "num_classes", "num_words")


class RecurrentLayout(NamedTuple):
    """The fixed part of a recurrent language model: a vector for each word, the cell, and the same vectors to read off
    the next word."""

    width: int  # of the vectors and of the hidden state
    num_nodes: int  # of the cell
    num_classes: int  # words that are told apart
    num_words: int = 280  # that a row of text has at most
    most_norm: float = 25.0  # of the hidden state of a row, which is shortened to it

    @property
    def image_size(self) -> int:
        """None: it reads text."""
        return 0

    @property
    def in_channels(self) -> int:
        return 0

    @property
    def sizes(self) -> tuple[str, ...]:
        """The names of what `resized` sets."""
        return SIZES

    def resized(self, **sizes: int | None) -> "RecurrentLayout":
        """Set any of `sizes`."""
        return self._replace(**known_sizes(self, sizes))


def nodes_of(archs: Any) -> tuple[list[Any], list[Any]]:
    """Sources and activations of codes int [..., num_choices], one int [...] for each node; NumPy's arrays and JAX's
    alike."""
    num_nodes = (archs.shape[-1] + 1) // 2
    sources = [archs[..., 0] * 0, *(archs[..., 2 * node - 1] for node in range(1, num_nodes))]
    return sources, [archs[..., 2 * node] for node in range(num_nodes)]


def isomorphs(archs: np.ndarray) -> np.ndarray:
    """One code of the same network: int32 [num_archs, num_choices].

    States and their sources are a tree, of which the hidden state takes the mean: nodes may be counted in any order in
    which each comes after its source. Here a node is followed by what takes it, subtrees in their order as texts.
    """
    codes = check(rnn_space((np.shape(archs)[-1] + 1) // 2), archs)
    if not codes.size:
        return codes
    sources, ops = (np.stack(columns, axis=-1) for columns in nodes_of(codes))
    return np.array([_ordered(*row) for row in zip(sources.tolist(), ops.tolist(), strict=True)], np.int32)


def _ordered(sources: list[int], ops: list[int]) -> list[int]:
    texts, takers = [""] * (len(ops) + 1), list[list[int]]()
    takers = [[node for node, source in enumerate(sources, 1) if source == state] for state in range(len(ops) + 1)]
    for state in reversed(range(len(ops) + 1)):  # takers come after what they take
        takers[state].sort(key=texts.__getitem__)
        texts[state] = f"{ops[state - 1] if state else ''}({''.join(texts[node] for node in takers[state])})"
    code, number, left = list[int](), 0, [(node, 0) for node in reversed(takers[0])]
    while left:
        node, source = left.pop()
        number += 1
        code += [source, ops[node - 1]]
        left += [(taker, number) for taker in reversed(takers[node])]
    return code[1:]


@functools.cache
def rnn_space(num_nodes: int) -> SearchSpace:
    """The cells of so many nodes, 2 to 8."""
    num_nodes = whole("rnn: num_nodes", num_nodes, 2, 8)
    choices: list[tuple[str, ...]] = [OP_NAMES]
    for node in range(1, num_nodes):
        choices += [tuple(f"from{source}" for source in range(node + 1)), OP_NAMES]
    names = {2: "rnn32", 8: "darts_rnn"}
    return SearchSpace(
        names.get(num_nodes, f"rnn_n{num_nodes}"),
        tuple(choices),
        RecurrentLayout(width=850, num_nodes=num_nodes, num_classes=10_000),
        isomorphs=isomorphs,
    )


rnn32, darts_rnn = rnn_space(2), rnn_space(8)
