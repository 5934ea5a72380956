"""From a graph to programs that fit the memory: the order in which nodes run, and when their values are free.

One node after the other a program goes depth first: few values are held at once, which stay in a CPU's cache. Where
several run side by side (`Plan.nodes_per_call`, on accelerators) it goes layer by layer: nodes of one layer, operation
and number of inputs are run by one call in groups of a few sizes, for each of which there is a compiled program.
"""

import itertools
import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from jaxnas.evaluation.graph.tracing import IMAGES, Graph, make_graph
from jaxnas.evaluation.planning import FEWEST_ARCHS, Plan
from jaxnas.supernets import Supernet
from jaxnas.supernets.layer import returned_dtype

LARGE = 2**24  # bytes of an activation of all batches: an H100 takes 7 us to read them, as long as a kernel to start


class Step(NamedTuple):
    """Nodes that one call runs: of one layer and operation, each on the sum of as many inputs."""

    layer: str
    op: str | None  # candidate of the layer; None: the sum itself
    numbers: list[int]  # of the nodes
    inputs: list[list[int]]  # of each: nodes; IMAGES: the images; none: zeros
    size: int  # that the call has: the last node is repeated up to it
    is_leaf: bool  # whether they give logits
    dtype: str  # of what they read
    free: list[int]  # numbers whose values are not needed any more afterwards


class Program(NamedTuple):
    """A part of a graph in the order it runs."""

    steps: list[Step]
    leaves: np.ndarray  # int [num_leaves], distinct: numbers that give logits
    peak_bytes: int  # for one image, by estimate: the most that is held at once


def plan_programs(supernet: Supernet, archs: np.ndarray, plan: Plan) -> tuple[Plan, Graph, Iterator[Program]]:
    """The distinct work of a population, in programs that fit the plan's memory, each planned when it is asked for;
    `leaves` in the order of archs. Of several nodes side by side the plan says how many architectures and batches the
    memory has room for, by what the first ones hold.

    Raises:
      ValueError: a budget that one architecture exceeds, where nodes run side by side.
    """
    order = np.lexsort(archs.T[::-1])  # architectures that begin alike side by side
    graph = make_graph(supernet, archs[order], given_stats=plan.bn_mode == "tracked")
    schedule = _Schedule(supernet, graph, plan.nodes_per_call)
    if plan.nodes_per_call > 1:
        schedule.images_per_call = plan.images_per_call
        plan = _widened(schedule, list(dict.fromkeys(graph.leaves.tolist())), plan)
        schedule.images_per_call *= plan.batches_per_call
    programs = _cut(schedule, leaves_per_program=plan.archs_per_call, most_bytes=plan.bytes_per_image)
    leaves = np.empty_like(graph.leaves)
    leaves[order] = graph.leaves
    return plan, graph._replace(leaves=leaves), programs


def _widened(schedule: "_Schedule", leaves: list[int], plan: Plan) -> Plan:
    """The plan with as many batches side by side as there is room for beside `FEWEST_ARCHS` architectures; or all
    batches, and more architectures. `bytes_per_image` is that of one batch a device before, of all of them after."""
    few, room = min(FEWEST_ARCHS, plan.archs_per_call, len(leaves)), plan.bytes_per_image
    least = schedule.program(leaves[:1]).peak_bytes
    if least > room:
        raise ValueError(
            f"memory_budget leaves room for {room} bytes an image, but one architecture takes {least}; raise it or"
            " lower images_per_call."
        )
    begins = {part * (len(leaves) - few) // 4 for part in range(5)}
    needed = max(schedule.program(leaves[begin : begin + few]).peak_bytes for begin in begins)
    num_batches = plan.batches_per_call // plan.devices
    fit = max(1, min(num_batches, room // needed))
    wide = min(range(fit, fit // 2, -1), key=lambda each: -num_batches % each)  # that repeats the fewest
    more = room // (wide * needed) if wide == num_batches else 1
    return plan._replace(
        batches_per_call=wide * plan.devices,
        archs_per_call=min(few * 2 ** int(math.log2(max(1, more))), plan.archs_per_call),
        bytes_per_image=room // wide,
    )


def make_programs(
    supernet: Supernet, graph: Graph, *, leaves_per_program: int, most_bytes: float, nodes_per_call: int = 1
) -> list[Program]:
    """Cut a graph's distinct leaves, in their order, into programs. What two programs need runs in both.

    Args:
      leaves_per_program: at most so many.
      most_bytes: what the values held at once may take for one image. A program that needs more is halved, down to one
        leaf, for which `jaxnas.evaluation.planning` has seen to it that there is room; the next one is first tried
        twice as large.
      nodes_per_call: at most so many side by side.
    """
    schedule = _Schedule(supernet, graph, nodes_per_call)
    return list(_cut(schedule, leaves_per_program=leaves_per_program, most_bytes=most_bytes))


def _cut(schedule: "_Schedule", *, leaves_per_program: int, most_bytes: float) -> Iterator[Program]:
    leaves = list(dict.fromkeys(schedule.graph.leaves.tolist()))
    begin, size = 0, leaves_per_program
    while begin < len(leaves):
        program = schedule.program(leaves[begin : begin + size])
        if program.peak_bytes > most_bytes and len(program.leaves) > 1:
            size = len(program.leaves) // 2
            continue
        yield program
        begin, size = begin + size, min(2 * size, leaves_per_program)


class _Schedule:
    """Orders parts of one graph. Bytes are those of one image, by estimate.

    Attributes:
      images_per_call: of how many a node is run at once. No node is repeated to fill a group where what it reads is
        `LARGE`, for it runs as long as the others.
    """

    def __init__(self, supernet: Supernet, graph: Graph, nodes_per_call: int):
        inputs, starts = graph.inputs.tolist(), graph.starts.tolist()
        self.graph, self.nodes_per_call, self.images_per_call = graph, nodes_per_call, 1
        self.sources = [inputs[begin:end] for begin, end in itertools.pairwise(starts)]
        self.counts = np.diff(graph.starts)
        self.is_leaf = np.zeros(len(graph.kind), bool)
        self.is_leaf[graph.leaves] = True
        self.dtypes, returned = _dtypes(supernet, graph)
        layers = [supernet.layers[name] for name, _ in graph.kinds]
        shapes = [
            layer.in_shape if op is None else layer.out_shape
            for layer, (_, op) in zip(layers, graph.kinds, strict=True)
        ]
        self.read = np.multiply([math.prod(layer.in_shape) for layer in layers], _bytes(self.dtypes))
        inside = [math.prod(layer.in_shape) + layer.stats_size * math.prod(layer.in_shape[:2]) for layer in layers]
        least = 4 if nodes_per_call == 1 else 1  # CPUs compute bfloat16 in float32
        self.value = np.multiply([math.prod(shape) for shape in shapes], _bytes(returned))  # of each kind: what a node
        self.inside = np.multiply(inside, np.maximum(_bytes(self.dtypes), least))  # returns, and needs while it runs

    def program(self, leaves: list[int]) -> Program:
        """What `leaves` need."""
        groups = self._depth_first(leaves) if self.nodes_per_call == 1 else self._side_by_side(leaves)
        graph = self.graph
        lengths = np.fromiter(map(len, groups), np.int64, len(groups))
        numbers = np.fromiter(itertools.chain.from_iterable(groups), np.int64, lengths.sum())
        places = np.repeat(np.arange(len(groups)), lengths)
        sources, counts = self._inputs(numbers)
        last_use = np.full(len(graph.kind) + 1, -1)  # the last one is the images'
        np.maximum.at(last_use, sources, np.repeat(places, counts))
        ends, values = last_use[numbers], self.value[graph.kind[numbers]]
        used = ends >= 0
        made, freed = np.bincount(places, values), np.bincount(ends[used], values[used], len(groups))
        first = numbers[np.cumsum(lengths) - lengths]
        kinds = graph.kind[first]
        sizes = np.array([self.size(*each) for each in zip(kinds.tolist(), lengths.tolist(), strict=True)])
        held = np.cumsum(made) - np.cumsum(freed) + freed
        peak = held + sizes * self.inside[kinds] + (sizes - lengths) * self.value[kinds]
        free = numbers[used][np.argsort(ends[used], kind="stable")].tolist()
        until = np.concatenate([[0], np.cumsum(np.bincount(ends[used], minlength=len(groups)))]).tolist()
        steps = []
        for place, (group, kind) in enumerate(zip(groups, kinds.tolist(), strict=True)):
            (layer, op), inputs = graph.kinds[kind], [self.sources[number] for number in group]
            is_leaf, dies = bool(self.is_leaf[group[0]]), free[until[place] : until[place + 1]]
            steps.append(Step(layer, op, group, inputs, int(sizes[place]), is_leaf, self.dtypes[kind], dies))
        return Program(steps, np.array(leaves), int(peak.max()))

    def size(self, kind: int, number: int) -> int:
        """Of the next call where `number` nodes of a kind are left."""
        return call_size(number, self.nodes_per_call, repeat=self.read[kind] * self.images_per_call < LARGE)

    def _inputs(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What nodes read, one after the other, and how many each."""
        counts = self.counts[numbers]
        begins = self.graph.starts[numbers] - (np.cumsum(counts) - counts)
        return self.graph.inputs[np.repeat(begins, counts) + np.arange(counts.sum())], counts

    def _depth_first(self, leaves: list[int]) -> list[list[int]]:
        """Each node alone, when it is first needed."""
        sources, order, seen = self.sources, list[list[int]](), {IMAGES}

        def visit(number: int) -> None:
            seen.add(number)
            for source in sources[number]:
                if source not in seen:
                    visit(source)
            order.append([number])

        for leaf in leaves:
            if leaf not in seen:
                visit(leaf)
        return order

    def _side_by_side(self, leaves: list[int]) -> list[list[int]]:
        """Layer by layer: nodes of later kinds read those of earlier ones only."""
        needed = np.zeros(len(self.graph.kind) + 1, bool)
        needed[IMAGES] = True
        fresh = np.unique(leaves)
        while fresh.size:
            needed[fresh] = True
            sources = np.unique(self._inputs(fresh)[0])
            fresh = sources[~needed[sources]]
        numbers = np.flatnonzero(needed[:-1])
        keys = self.graph.kind[numbers], self.counts[numbers], self.is_leaf[numbers]
        order = np.lexsort(keys[::-1])
        differs = np.any([np.diff(key[order]) != 0 for key in keys], axis=0)
        return [
            group
            for alike in np.split(numbers[order], np.flatnonzero(differs) + 1)
            for group in self._groups(alike.tolist())
        ]

    def _groups(self, numbers: list[int]) -> Iterator[list[int]]:
        begin, kind = 0, self.graph.kind[numbers[0]]
        while begin < len(numbers):
            left = len(numbers) - begin
            size = min(self.size(kind, left), left)
            yield numbers[begin : begin + size]
            begin += size


def call_size(number: int, most: int, *, repeat: bool) -> int:
    """The size of the next call where `number` nodes are left: a power of two, `most` (one too) where there are as
    many; with `repeat` a larger one than is left where a quarter of it at most is repeated.

    >>> [call_size(number, 16, repeat=True) for number in (1, 2, 3, 5, 6, 7, 11, 12, 40)]
    [1, 2, 4, 4, 8, 8, 8, 16, 16]
    >>> [call_size(number, 16, repeat=False) for number in (1, 2, 3, 5, 6, 7, 11, 12, 40)]
    [1, 2, 2, 4, 4, 4, 8, 8, 16]
    """
    above = 2 ** (number - 1).bit_length()
    fits = above == number or (repeat and 4 * number >= 3 * above)
    return min(most, above if fits else above // 2)


def _bytes(dtypes: list[str]) -> list[int]:
    return [np.dtype(dtype).itemsize for dtype in dtypes]


def _dtypes(supernet: Supernet, graph: Graph) -> tuple[list[str], list[str]]:
    """Number types of what nodes of each kind read and return, float32 images given. Zeros are read as what the first
    layer returns."""
    read, returned = list[str](), list[str]()
    first = np.full(len(graph.kinds), -1)
    first[graph.kind[::-1]] = np.arange(len(graph.kind))[::-1]
    for (name, op), number in zip(graph.kinds, first.tolist(), strict=True):
        source = next(iter(graph.node(number).inputs if number >= 0 else ()), None)
        if source is None:
            given = returned[0] if returned else "float32"
        else:
            given = "float32" if source == IMAGES else returned[graph.kind[source]]
        layer = supernet.layers[name]
        read.append(given)
        returned.append(given if op is None else returned_dtype(layer.candidates[op], layer.in_shape, given))
    return read, returned
