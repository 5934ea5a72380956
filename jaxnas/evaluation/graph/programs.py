"""From a graph to programs that fit the memory: the order in which nodes run, and when their values are free."""

import itertools
import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from jaxnas.evaluation.graph.tracing import IMAGES, Graph, Node, make_graph
from jaxnas.evaluation.planning import Plan
from jaxnas.supernets import Supernet


class Program(NamedTuple):
    """A part of a graph in the order it runs."""

    order: list[int]  # numbers of nodes
    free: dict[int, list[int]]  # place in this order -> numbers whose values are not needed any more after it
    leaves: np.ndarray  # int [num_leaves], distinct: numbers that give logits
    peak_bytes: int  # for one image, by estimate: the most that is held at once

    def steps(self, graph: Graph) -> Iterator[tuple[int, Node, list[int]]]:
        """(number, node, numbers whose values are not needed any more) in the order they run."""
        return ((number, graph.node(number), self.free.get(place, [])) for place, number in enumerate(self.order))


def plan_programs(supernet: Supernet, archs: np.ndarray, plan: Plan) -> tuple[Graph, list[Program]]:
    """The distinct work of a population, in programs that fit the plan's memory; `leaves` in the order of archs."""
    order = np.lexsort(archs.T[::-1])  # architectures that begin alike side by side
    graph = make_graph(supernet, archs[order], given_stats=plan.bn_mode == "tracked")
    programs = make_programs(supernet, graph, leaves_per_program=plan.archs_per_call, most_bytes=plan.bytes_per_image)
    leaves = np.empty_like(graph.leaves)
    leaves[order] = graph.leaves
    return graph._replace(leaves=leaves), programs


def make_programs(supernet: Supernet, graph: Graph, *, leaves_per_program: int, most_bytes: float) -> list[Program]:
    """Cut a graph's distinct leaves, in their order, into programs. What two programs need runs in both.

    Args:
      leaves_per_program: at most so many.
      most_bytes: what the values held at once may take for one image. A program that needs more is halved, down to one
        leaf, for which `jaxnas.evaluation.planning` has seen to it that there is room; the next one is first tried
        twice as large.
    """
    leaves, schedule = list(dict.fromkeys(graph.leaves.tolist())), _Schedule(supernet, graph)
    programs: list[Program] = []
    begin, size = 0, leaves_per_program
    while begin < len(leaves):
        program = schedule.program(leaves[begin : begin + size])
        if program.peak_bytes > most_bytes and len(program.leaves) > 1:
            size = len(program.leaves) // 2
            continue
        programs.append(program)
        begin, size = begin + size, min(2 * size, leaves_per_program)
    return programs


class _Schedule:
    """Orders parts of one graph. Bytes are those of one image, by estimate."""

    def __init__(self, supernet: Supernet, graph: Graph):
        inputs, starts = graph.inputs.tolist(), graph.starts.tolist()
        self.sources = [inputs[begin:end] for begin, end in itertools.pairwise(starts)]
        layers = [supernet.layers[name] for name, _ in graph.kinds]
        shapes = [
            layer.in_shape if op is None else layer.out_shape
            for layer, (_, op) in zip(layers, graph.kinds, strict=True)
        ]
        value = np.array([4 * math.prod(shape) for shape in shapes])
        inside = np.array(
            [4 * (math.prod(layer.in_shape) + layer.stats_size * math.prod(layer.in_shape[:2])) for layer in layers]
        )
        self.value, self.inside = value[graph.kind], inside[graph.kind]  # what a node returns, and needs while it runs

    def program(self, leaves: list[int]) -> Program:
        """What `leaves` need, depth first, each node when it is first needed."""
        sources, order, last_use = self.sources, list[int](), dict[int, int]()

        def visit(number: int) -> None:
            last_use[number] = -1
            for source in sources[number]:
                if source != IMAGES and source not in last_use:
                    visit(source)
            place = len(order)
            for source in sources[number]:
                last_use[source] = place
            order.append(number)

        for leaf in leaves:
            if leaf not in last_use:
                visit(leaf)
        last_use.pop(IMAGES, None)
        free: dict[int, list[int]] = {}
        for number, place in last_use.items():
            if place >= 0:
                free.setdefault(place, []).append(number)
        numbers = np.array(order)
        ends = np.fromiter(map(last_use.__getitem__, order), np.int64, len(order))
        freed = np.zeros(len(order) + 1)
        np.add.at(freed, ends + 1, np.where(ends >= 0, self.value[numbers], 0))
        held = np.cumsum(self.value[numbers]) - np.cumsum(freed)[:-1]
        return Program(order, free, np.array(leaves), int((held + self.inside[numbers]).max()))
