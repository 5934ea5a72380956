"""Tracing a population with symbols: which distinct operations on distinct inputs it consists of.

In a chain, architectures that begin alike share their first operations (a prefix tree). In a cell the same holds for a
graph: an operation's output depends on the operation and its input alone, wherever that input came from. So the
super-net's own wiring is followed with symbols in place of activations, equal symbols become one node, and a node runs
once for all architectures that need it. Exact algebra makes more of them equal: zeros are left out of sums, what
returns its input is left out of the graph, pooling (linear, without parameters) is taken out of sums. Nothing is
approximated: a node's normalisation statistics depend on its input too, and are shared with it.

All 27 chains of three choices among identity and two convolutions; the second choice has no identity, since it changes
the width. After the stem there are two distinct outputs to compute, then 3 x 3, then 9 x 2:

    >>> import collections
    >>> from jaxnas import codes
    >>> from jaxnas.space import ChainLayout
    >>> from jaxnas.spaces import chain_space
    >>> from jaxnas.supernets import make_supernet
    >>> layout = ChainLayout(stem_width=2, widths=(2, 3, 3), strides=(1, 2, 1), head_width=0, image_size=4)
    >>> space = chain_space("tiny", layout, [("identity", "nor_conv_1x1", "nor_conv_3x3")] * 3)
    >>> graph = make_graph(make_supernet(space), codes.enumerate_archs(space), given_stats=False)
    >>> collections.Counter(node.layer for node in graph.nodes)
    Counter({'head': 27, 'layer2': 18, 'layer1': 9, 'layer0': 2, 'stem': 1})
    >>> graph.nodes[:3]  # the stem on the images; of architecture 0 layer0 is nothing, so layer1 reads the stem
    [Node(layer='stem', op='stem', inputs=(-1,)), Node(layer='layer1', op='identity', inputs=(0,)), \
Node(layer='head', op='head', inputs=(1,))]

Two cells that pool a sum, and sum what is pooled (edges 0-1, 0-2, 1-2, 0-3, 1-3, 2-3): in the first, node 2 is the
input plus a convolution of it, and is pooled on edge 2-3; in the second, the input is pooled on edge 0-3 and the
convolution on edge 1-3. Both are the sum of the same two terms, so the second reads the first one's leaf:

    >>> from jaxnas.spaces import nasbench201
    >>> none, skip, conv, pool = 0, 1, 3, 4
    >>> cells = np.array([[conv, skip, skip, none, none, pool], [conv, none, none, pool, pool, none]])
    >>> first, second = make_graph(make_supernet(nasbench201), cells, given_stats=False).leaves
    >>> bool(first == second)
    True
"""

import collections
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from jaxnas.ops import Algebra
from jaxnas.supernets import Supernet

IMAGES = -1  # in place of a node's number: the images
MOST_INPUTS = 3  # longer sums become nodes of their own: each number of inputs is a program to compile


class Node(NamedTuple):
    """One operation on the sum of its inputs."""

    layer: str
    op: str | None  # candidate of the layer; None: the sum itself
    inputs: tuple[int, ...]  # nodes; IMAGES: the images; none: zeros


class Graph(NamedTuple):
    """The distinct work of a population."""

    nodes: list[Node]
    leaves: np.ndarray  # int [num_archs], the node that gives each architecture's logits


Meaning = tuple[tuple[int, int], ...]  # a sum: (number of a term, how often), ascending


class Symbol(NamedTuple):
    """What flows through the wiring in place of activations: a sum of nodes, as it is added up; of none: zeros."""

    nodes: tuple[int, ...]

    def __add__(self, other: "Symbol") -> "Symbol":  # type: ignore[override]
        return Symbol(self.nodes + other.nodes)


class Candidate(NamedTuple):
    """What tracing has to know of one candidate of a layer."""

    op: str
    algebra: Algebra
    operation: int  # the same for equal operations


class Tracer:
    """Nodes as they are found, and what each of their values is as a sum of terms. A term is the value of a node, or
    what a linear operation makes of another term, which need not be the value of any node."""

    def __init__(self, given_stats: bool):
        self.given_stats = given_stats
        self.nodes: list[Node] = []
        self.number_of: dict[tuple[Any, ...], int] = {}  # what a node computes -> its number
        # ("node", number) or (linear operation, term) -> number of the term
        self.term_of: dict[tuple[Any, ...], int] = {}
        self.meaning_of: dict[int, Meaning] = {IMAGES: self._own_term(IMAGES)}  # of a node's value
        self.meaning = functools.cache(self._meaning)

    def run(self, layer: str, candidate: Candidate, x: Symbol) -> Symbol:
        """The symbol of what a candidate of a layer makes of x."""
        algebra, inputs = candidate.algebra, x.nodes
        if algebra == "zero":
            return Symbol(())
        if not inputs and (algebra == "linear" or (algebra == "vanishing" and not self.given_stats)):
            return Symbol(())
        meaning = self.meaning(inputs)
        if len(inputs) > MOST_INPUTS:
            inputs = (self._node(("sum", meaning), layer, None, inputs, lambda number: meaning),)
        if algebra == "same":
            return Symbol(inputs)
        if algebra == "linear":  # the same wherever it stands; of a sum it is the sum of what it makes of the terms
            operation = candidate.operation
            pooled = lambda number: self._pooled(operation, meaning)  # noqa: E731
            return Symbol((self._node((operation, meaning), layer, candidate.op, inputs, pooled),))
        return Symbol((self._node((layer, candidate.op, meaning), layer, candidate.op, inputs, self._own_term),))

    def _node(
        self,
        computed: tuple[Any, ...],
        layer: str,
        op: str | None,
        inputs: tuple[int, ...],
        meaning: Callable[[int], Meaning],
    ) -> int:
        """The number of the node that computes this; where there is none, a new one of the given inputs and meaning."""
        number = self.number_of.setdefault(computed, len(self.nodes))
        if number == len(self.nodes):
            self.nodes.append(Node(layer, op, inputs))
            self.meaning_of[number] = meaning(number)
        return number

    def _own_term(self, number: int) -> Meaning:
        return ((self._term(("node", number)), 1),)

    def _pooled(self, operation: int, meaning: Meaning) -> Meaning:
        return tuple(sorted((self._term((operation, term)), times) for term, times in meaning))

    def _term(self, what: tuple[Any, ...]) -> int:
        return self.term_of.setdefault(what, len(self.term_of))

    def _meaning(self, inputs: tuple[int, ...]) -> Meaning:
        terms: collections.Counter[int] = collections.Counter()
        for number in inputs:
            terms.update(dict(self.meaning_of[number]))
        return tuple(sorted(terms.items()))


def why_untraceable(supernet: Supernet) -> str | None:
    """Why the wiring cannot be followed with symbols, which can be added and nothing else; None: it can."""

    def run(layer: str, x: Any) -> Symbol:
        if not isinstance(x, Symbol):
            raise TypeError(f"layer {layer} is given a {type(x).__name__}")
        return Symbol((0,))

    try:
        logits = supernet.wire(run, Symbol((IMAGES,)))
    except Exception as error:  # whatever a user's own wiring does with a symbol
        return " ".join(f"{type(error).__name__}: {error}".split())[:200]
    return None if isinstance(logits, Symbol) and len(logits.nodes) == 1 else "it returns no layer's output"


def make_graph(supernet: Supernet, archs: np.ndarray, *, given_stats: bool) -> Graph:
    """Trace a population.

    Args:
      archs: int [num_archs, num_choices], valid.
      given_stats: whether normalisation uses statistics that don't come from the images ("tracked"), so that zeros
        don't stay zeros.
    """
    tracer = Tracer(given_stats)
    operations: dict[Any, int] = {}  # operation -> its number
    candidates = {
        name: [
            Candidate(op, operation.algebra(layer.in_shape[-1]), operations.setdefault(operation, len(operations)))
            for op, operation in layer.candidates.items()
        ]
        for name, layer in supernet.layers.items()
    }
    taken = {name: indices.tolist() for name, indices in supernet.taken(archs).items()}
    leaves = np.empty(len(archs), np.int64)
    for row in range(len(archs)):
        symbol = supernet.wire(
            lambda name, x: tracer.run(name, candidates[name][taken[name][row]], x),  # noqa: B023 (called at once)
            Symbol((IMAGES,)),
        )
        (leaves[row],) = symbol.nodes
    return Graph(tracer.nodes, leaves)
