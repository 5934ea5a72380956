"""What an architecture computes, as a graph to be drawn and in words to be read: which operation stands where."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import chex
import numpy as np

from jaxnas.codes import check
from jaxnas.space import CellLayout, DagLayout, SearchSpace
from jaxnas.spaces import _darts, _nasbench101, _nasbench201, _rnn


class Outline(NamedTuple):
    """A network, or one cell of it: nodes in an order in which each comes after what leads into it."""

    nodes: tuple[tuple[str, str], ...]  # (what it is called, its operation or "")
    edges: tuple[tuple[int, int, str], ...]  # (from node, to node, the operation on the way or "")

    @property
    def is_chain(self) -> bool:
        """Each node leads to the next, and nowhere else."""
        return self.edges == tuple((node, node + 1, "") for node in range(len(self.nodes) - 1))

    def __str__(self) -> str:
        """In words: the layers of a chain, equal neighbours together, or of each node what it sums."""
        if self.is_chain:
            return ", ".join(_runs([(name, op) for name, op in self.nodes if op]))
        parts = []
        for node, (name, op) in enumerate(self.nodes):
            sums = [
                f"{on_edge}({self.nodes[source][0]})" if on_edge else self.nodes[source][0]
                for source, target, on_edge in self.edges
                if target == node
            ]
            inner = " + ".join(sums) or "nothing"
            if sums or (node and any(source == node for source, _, _ in self.edges) and not name.startswith("input")):
                parts.append(f"{name} = {f'{op}({inner})' if op else inner}")
        return ", ".join(parts)


def outline(space: SearchSpace, arch: chex.ArrayNumpy) -> dict[str, Outline]:
    """The outline of an architecture, int [num_choices]; of a network with two kinds of cell, one for each. Its names
    are "cell", "normal cell" and the like. "none" is no edge. Layouts that are not known here are chains of their
    choices.

    >>> from jaxnas.spaces import get_space
    >>> print(outline(get_space("digits_chain"), [1, 1, 0, 2, 1])["network"])
    layers 1-2 mb2_k3, layer 3 identity, layer 4 mb6_k3, layer 5 mb2_k3
    >>> print(outline(get_space("nasbench201"), [3, 0, 1, 0, 0, 2])["cell"])
    node 1 = nor_conv_3x3(input), node 2 = skip_connect(node 1), output = nor_conv_1x1(node 2)
    """
    (arch,) = check(space, np.asarray(arch)[None])
    return OUTLINES.get(type(space.layout), _chain)(space, arch)


def _chain(space: SearchSpace, arch: np.ndarray) -> dict[str, Outline]:
    layers = [(f"layer {number}", names[op]) for number, (names, op) in enumerate(zip(space.op_names, arch), 1)]
    nodes = (("input", ""), *layers, ("output", ""))
    return {"network": Outline(nodes, tuple((node, node + 1, "") for node in range(len(nodes) - 1)))}


def _cell(space: SearchSpace, arch: np.ndarray) -> dict[str, Outline]:
    wiring = space.layout._asdict()["edges"]
    wires = zip(wiring, (names[op] for names, op in zip(space.op_names, arch)))
    num_nodes = 1 + max(target for _, target in wiring)
    nodes = (("input", ""), *((f"node {node}", "") for node in range(1, num_nodes - 1)), ("output", ""))
    none = _nasbench201.OP_NAMES[_nasbench201.NONE]
    return {"cell": Outline(nodes, tuple((*edge, op) for edge, op in wires if op != none))}


def _dag(space: SearchSpace, arch: np.ndarray) -> dict[str, Outline]:
    edges = _nasbench101.live_edges(_nasbench101.adjacency(arch))
    ops = arch[len(edges) * (len(edges) - 1) // 2 :]
    used = [0, *(np.flatnonzero(edges[1:-1].any(axis=1)) + 1).tolist(), len(edges) - 1]
    inner = ((f"vertex {vertex}", space.op_names[-1][ops[vertex - 1]]) for vertex in used[1:-1])
    place = {vertex: number for number, vertex in enumerate(used)}
    lines = tuple((place[source], place[target], "") for source, target in np.argwhere(edges).tolist())
    return {"cell": Outline((("input", ""), *inner, ("output", "")), lines)}


def _two_cells(space: SearchSpace, arch: np.ndarray) -> dict[str, Outline]:
    found = {}
    for kind, ops, sources in zip(_darts.CELLS, *_darts.edges_of(arch), strict=True):
        number = len(ops)
        nodes = [("input 1", ""), ("input 2", ""), *((f"node {node}", "") for node in range(1, number + 1))]
        edges = [
            (source, node + 2, _darts.OP_NAMES[op])
            for node, pairs in enumerate(zip(sources.tolist(), ops.tolist()))
            for source, op in zip(*pairs)
            if op != _darts.NONE
        ]
        edges += [(node + 2, number + 2, "") for node in range(number)]
        found[f"{kind} cell"] = Outline((*nodes, ("output", "")), tuple(edges))
    return found


def _recurrent(space: SearchSpace, arch: np.ndarray) -> dict[str, Outline]:
    sources, ops = _rnn.nodes_of(arch)
    nodes = [("input", ""), *((f"node {number}", _rnn.OP_NAMES[op]) for number, op in enumerate(ops, 1))]
    edges = [(int(source), number, "") for number, source in enumerate(sources, 1)]
    edges += [(number, len(nodes), "") for number in range(1, len(nodes))]
    return {"cell": Outline((*nodes, ("mean of all nodes", "")), tuple(edges))}


# Type of layout -> (space, arch) -> outlines; those that are not here are chains.
OUTLINES: Mapping[type, Callable[[SearchSpace, Any], dict[str, Outline]]] = {
    CellLayout: _cell,
    DagLayout: _dag,
    _darts.TwoCellLayout: _two_cells,
    _rnn.RecurrentLayout: _recurrent,
}


def _runs(layers: list[tuple[str, str]]) -> list[str]:
    """Layers with their operations, neighbours of the same one together."""
    runs: list[list[str]] = []
    for name, op in layers:
        if runs and runs[-1][0] == op and name.startswith("layer "):
            runs[-1].append(name)
        else:
            runs.append([op, name])
    return [
        f"{names[0]} {op}" if len(names) == 1 else f"{names[0].replace('layer', 'layers')}-{names[-1].split()[-1]} {op}"
        for op, *names in runs
    ]
