"""Tracing a population with symbols: which distinct operations on distinct inputs it consists of.

In a chain, architectures that begin alike share their first operations (a prefix tree). In a cell the same holds for a
graph: an operation's output depends on the operation and its input alone, wherever that input came from. So the
super-net's own wiring is followed with symbols in place of activations, layer by layer for all architectures at once.
Equal symbols become one node, and a node runs once for all architectures that need it. Exact algebra makes more of them
equal: zeros are left out of sums, what returns its input is left out of the graph, pooling (linear, without parameters)
is taken out of sums. Nothing is approximated: a node's normalisation statistics depend on its input too, and are shared
with it.

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

from collections.abc import Callable, Iterable, Sequence
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
    """The distinct work of a population: nodes, each after those it reads; first what the first architecture needs,
    then what the second adds to it."""

    kinds: list[tuple[str, str | None]]  # layer, and candidate or None as in `Node`
    kind: np.ndarray  # int [num_nodes], index into kinds
    inputs: np.ndarray  # int, as in `Node`, of all nodes one after the other
    starts: np.ndarray  # int [num_nodes + 1], where those of each node begin
    leaves: np.ndarray  # int [num_archs], the node that gives each architecture's logits

    def node(self, number: int) -> Node:
        """One node."""
        begin, end = self.starts[number : number + 2]
        layer, op = self.kinds[self.kind[number]]
        return Node(layer, op, tuple(self.inputs[begin:end].tolist()))

    @property
    def nodes(self) -> list[Node]:
        """All nodes."""
        return [self.node(number) for number in range(len(self.kind))]


class Symbol(NamedTuple):
    """What flows through the wiring in place of activations: the layers whose outputs are added up, in order."""

    layers: tuple[int, ...]  # IMAGES: the images

    def __add__(self, other: "Symbol") -> "Symbol":  # type: ignore[override]
        return Symbol(self.layers + other.layers)


class Candidate(NamedTuple):
    """What tracing has to know of one candidate of a layer."""

    op: str
    algebra: Algebra
    operation: int  # the same for equal operations


Meaning = tuple[tuple[int, int], ...]  # a sum: (number of a term, how often), ascending


class Tracer:
    """Nodes as they are found, and what the value of each is as a sum of terms. A term is the value of a node, or what
    a linear operation makes of another term, which need not be the value of any node.

    What flows in an architecture is a sum of nodes. Sums are numbered; 0 is that of no nodes, 1 the images alone.
    """

    def __init__(self, given_stats: bool):
        self.given_stats = given_stats
        self.kinds: list[tuple[str, str | None]] = []
        self.kind: list[int] = []  # of each node, as in `Graph`
        self.inputs: list[tuple[int, ...]] = []
        self.meaning_of: list[Meaning] = []  # of its value
        self.ends: list[int] = []  # how many nodes there were now and then: of those between, none reads another
        self.sums: list[tuple[int, ...]] = [(), (IMAGES,)]
        self.number_of: dict[tuple[int, ...], int] = {(): 0, (IMAGES,): 1}
        self.meanings: list[Meaning] = [(), ((0, 1),)]  # of each sum; the images are a term
        self.num_terms = 1
        self.long: dict[Meaning, int] = {}  # sum -> that of the one node that adds it up
        self.linear: dict[int, dict[Meaning, int]] = {}  # linear operation -> sum -> what it makes of it
        self.pooled: dict[tuple[int, int], int] = {}  # (linear operation, term) -> term

    def add(self, columns: Sequence[np.ndarray]) -> np.ndarray:
        """Of sums [num_archs] in each of `columns`, the sums of these."""
        keys = columns[0]
        if len(columns) == 1:
            return keys
        for column in columns[1:]:
            _, keys = np.unique(keys * len(self.sums) + column, return_inverse=True)
        _, rows, inverse = np.unique(keys, return_index=True, return_inverse=True)
        sums = self.sums
        parts = zip(*(column[rows].tolist() for column in columns), strict=True)
        added = [self._number(tuple([node for part in row for node in sums[part]])) for row in parts]
        return np.array(added)[inverse]

    def _number(self, nodes: tuple[int, ...]) -> int:
        number = self.number_of.setdefault(nodes, len(self.sums))
        if number == len(self.sums):
            terms: dict[int, int] = {}
            for node in nodes:
                for term, times in ((0, 1),) if node == IMAGES else self.meaning_of[node]:
                    terms[term] = terms.get(term, 0) + times
            self.sums.append(nodes)
            self.meanings.append(tuple(sorted(terms.items())))
        return number

    def run(self, layer: str, candidates: Sequence[Candidate], taken: np.ndarray, x: np.ndarray) -> np.ndarray:
        """Of sums x int [num_archs], what a layer makes of each by the candidate `taken` [num_archs]: sums."""
        y = np.zeros_like(x)
        for index, candidate in enumerate(candidates):
            rows = np.flatnonzero(taken == index)
            if len(rows) and candidate.algebra != "zero":
                distinct, first, inverse = np.unique(x[rows], return_index=True, return_inverse=True)
                order = np.argsort(first)  # of equal ones that of the first architecture stays
                made = np.empty_like(distinct)
                made[order] = self._run(layer, candidate, distinct[order].tolist())
                y[rows] = made[inverse]
        return y

    def _run(self, layer: str, candidate: Candidate, given: list[int]) -> list[int]:
        is_long = [len(self.sums[number]) > MOST_INPUTS for number in given]
        if any(is_long):
            short = iter(self._make((layer, None), self.long, [n for n, long in zip(given, is_long) if long], list))
            given = [next(short) if long else number for number, long in zip(given, is_long)]
        kind, algebra = (layer, candidate.op), candidate.algebra
        if algebra == "same":
            return given
        if algebra == "linear":  # the same wherever it stands
            operation = candidate.operation
            known = self.linear.setdefault(operation, {(): 0})
            return self._make(kind, known, given, lambda sums: [self._pool(operation, each) for each in sums])
        known = {(): 0} if algebra == "vanishing" and not self.given_stats else {}
        return self._make(kind, known, given, self._own)

    def _make(
        self,
        kind: tuple[str, str | None],
        known: dict[Meaning, int],
        given: list[int],
        values: Callable[[list[Meaning]], Iterable[Meaning]],
    ) -> list[int]:
        """Sums of one node each: those that are `known` to be made of the given ones, or of new nodes, of which
        `values` says what they mean."""
        fresh: list[int] = []
        for number in given:
            if known.setdefault(self.meanings[number], len(self.sums) + len(fresh)) == len(self.sums) + len(fresh):
                fresh.append(number)
        meanings = list(values([self.meanings[number] for number in fresh]))
        nodes = [(node,) for node in range(len(self.kind), len(self.kind) + len(fresh))]
        self.kind += [len(self.kinds)] * len(fresh)
        self.kinds.append(kind)
        self.inputs += [self.sums[number] for number in fresh]
        self.meaning_of += meanings
        self.ends.append(len(self.kind))
        self.number_of.update(zip(nodes, range(len(self.sums), len(self.sums) + len(fresh)), strict=True))
        self.sums += nodes
        self.meanings += meanings
        return [known[self.meanings[number]] for number in given]

    def _own(self, sums: list[Meaning]) -> list[Meaning]:
        """New terms."""
        begin = self.num_terms
        self.num_terms += len(sums)
        return [((term, 1),) for term in range(begin, self.num_terms)]

    def _pool(self, operation: int, meaning: Meaning) -> Meaning:
        """What a linear operation makes of a sum: the sum of what it makes of the terms."""
        terms = []
        for term, times in meaning:
            terms.append((self.pooled.setdefault((operation, term), self.num_terms), times))
            self.num_terms += terms[-1][0] == self.num_terms
        return tuple(sorted(terms))


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
    return None if isinstance(logits, Symbol) and len(logits.layers) == 1 else "it returns no layer's output"


def make_graph(supernet: Supernet, archs: np.ndarray, *, given_stats: bool) -> Graph:
    """Trace a population.

    Args:
      archs: int [num_archs, num_choices], valid.
      given_stats: whether normalisation uses statistics that don't come from the images ("tracked"), so that zeros
        don't stay zeros.
    """
    tracer = Tracer(given_stats)
    operations: dict[Any, int] = {}  # operation -> its number
    taken, values = supernet.taken(archs), {IMAGES: np.ones(len(archs), np.int64)}

    def run(name: str, x: Symbol) -> Symbol:
        layer, number = supernet.layers[name], len(values)
        candidates = [
            Candidate(op, operation.algebra(layer.in_shape[-1]), operations.setdefault(operation, len(operations)))
            for op, operation in layer.candidates.items()
        ]
        given = tracer.add([values[source] for source in x.layers])
        values[number] = tracer.run(name, candidates, taken[name], given)
        return Symbol((number,))

    (logits,) = supernet.wire(run, Symbol((IMAGES,))).layers
    return _in_order(tracer, np.array([tracer.sums[number] for number in values[logits].tolist()])[:, 0])


def _in_order(tracer: Tracer, leaves: np.ndarray) -> Graph:
    """The graph of what the leaves need, in the order in which they need it."""
    num_nodes, num_archs = len(tracer.kind), len(leaves)
    counts = np.fromiter(map(len, tracer.inputs), np.int64, num_nodes)
    starts = np.concatenate([[0], np.cumsum(counts)])
    inputs = np.fromiter((source for sources in tracer.inputs for source in sources), np.int64, starts[-1])
    first = np.full(num_nodes + 1, num_archs)  # the first leaf that needs a node; the last place is the images'
    np.minimum.at(first, leaves, np.arange(num_archs))
    for begin, end in zip(reversed([0, *tracer.ends[:-1]]), reversed(tracer.ends), strict=True):
        np.minimum.at(first, inputs[starts[begin] : starts[end]], np.repeat(first[begin:end], counts[begin:end]))
    order = np.argsort(first[:-1], kind="stable")[: np.count_nonzero(first[:-1] < num_archs)]
    place = np.full(num_nodes + 1, IMAGES)
    place[order] = np.arange(len(order))
    ends = np.cumsum(counts[order])
    moved = np.repeat(starts[order] - (ends - counts[order]), counts[order]) + np.arange(ends[-1])
    return Graph(
        tracer.kinds, np.array(tracer.kind)[order], place[inputs[moved]], np.concatenate([[0], ends]), place[leaves]
    )
