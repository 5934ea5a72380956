"""From a graph to programs that fit the memory: the order in which nodes run, and when their values are free."""

import collections
import math
from typing import NamedTuple

import numpy as np

from jaxnas.evaluation.graph.tracing import IMAGES, Graph, Node, make_graph
from jaxnas.evaluation.planning import Plan
from jaxnas.supernets import Supernet


class Program(NamedTuple):
    """A part of a graph in the order it runs."""

    steps: list[tuple[int, Node, tuple[int, ...]]]  # (number, node, numbers whose values are not needed any more)
    leaves: np.ndarray  # int [num_leaves], distinct: numbers that give logits
    peak_bytes: int  # for one image, by estimate: the most that is held at once


class _Sizes(NamedTuple):
    """Bytes for one image, by estimate."""

    value: dict[tuple[str, bool], int]  # (layer, whether it is a sum of the layer's inputs) -> what a node returns
    inside: dict[str, int]  # layer -> what an operation needs while it runs


def plan_programs(supernet: Supernet, archs: np.ndarray, plan: Plan) -> tuple[Graph, list[Program]]:
    """The distinct work of a population, in programs that fit the plan's memory; `leaves` in the order of archs."""
    order = np.lexsort(archs.T[::-1])  # architectures that begin alike side by side
    graph = make_graph(supernet, archs[order], given_stats=plan.bn_mode == "tracked")
    programs = make_programs(supernet, graph, leaves_per_program=plan.archs_per_call, most_bytes=plan.bytes_per_image)
    leaves = np.empty_like(graph.leaves)
    leaves[order] = graph.leaves
    return Graph(graph.nodes, leaves), programs


def make_programs(supernet: Supernet, graph: Graph, *, leaves_per_program: int, most_bytes: float) -> list[Program]:
    """Cut a graph's distinct leaves, in their order, into programs. What two programs need runs in both.

    Args:
      leaves_per_program: at most so many.
      most_bytes: what the values held at once may take for one image; programs that need more are halved, down to one
        leaf, for which `jaxnas.evaluation.planning` has seen to it that there is room.
    """
    leaves, sizes = list(dict.fromkeys(graph.leaves.tolist())), _sizes(supernet)

    def cut(some: list[int]) -> list[Program]:
        program = _make_program(sizes, graph.nodes, some)
        if program.peak_bytes <= most_bytes or len(some) == 1:
            return [program]
        return cut(some[: len(some) // 2]) + cut(some[len(some) // 2 :])

    starts = range(0, len(leaves), leaves_per_program)
    return [program for start in starts for program in cut(leaves[start : start + leaves_per_program])]


def _make_program(sizes: _Sizes, nodes: list[Node], leaves: list[int]) -> Program:
    """Order what `leaves` need depth first, each when it is first needed."""
    order: list[int] = []
    last_use: dict[int, int] = {}

    def visit(number: int) -> None:
        if number == IMAGES or number in last_use:
            return
        last_use[number] = -1
        for source in nodes[number].inputs:
            visit(source)
        for source in nodes[number].inputs:
            last_use[source] = len(order)
        order.append(number)

    for leaf in leaves:
        visit(leaf)
    free: dict[int, list[int]] = collections.defaultdict(list)
    for number, position in last_use.items():
        if number != IMAGES and position >= 0:
            free[position].append(number)
    steps, held, peak = [], 0, 0
    for position, number in enumerate(order):
        node = nodes[number]
        steps.append((number, node, tuple(free[position])))
        held += sizes.value[node.layer, node.op is None]
        peak = max(peak, held + sizes.inside[node.layer])
        held -= sum(sizes.value[nodes[number].layer, nodes[number].op is None] for number in free[position])
    return Program(steps, np.array(leaves), peak)


def _sizes(supernet: Supernet) -> _Sizes:
    layers = supernet.layers.items()
    value = {(name, False): 4 * math.prod(layer.out_shape) for name, layer in layers}
    value |= {(name, True): 4 * math.prod(layer.in_shape) for name, layer in layers}
    inside = {
        name: 4 * (math.prod(layer.in_shape) + layer.stats_size * math.prod(layer.in_shape[:2]))
        for name, layer in layers
    }
    return _Sizes(value, inside)
