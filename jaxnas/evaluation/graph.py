"""Every distinct piece of work of a population once: what sub-networks have in common, planned on the host and run.

In a chain, architectures that begin alike share their first operations (a prefix tree, or trie). In a cell the same
holds for a graph: an operation's output depends on the operation and its input alone, wherever that input came from.
The population is traced with symbols through the super-net's own wiring, equal symbols become one node, and a node
runs once for all architectures that need it. Exact algebra makes more of them equal: zeros are left out of sums, what
returns its input is left out of the graph, pooling (linear, without parameters) is taken out of sums. Nothing is
approximated: a node's normalisation statistics depend on its input too, and are shared with it.
"""

import collections
import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from jaxnas.ops import Operation
from jaxnas.supernets import Params, Supernet, run_operation


class Node(NamedTuple):
    """One operation on the sum of its inputs."""

    layer: str
    op: str | None  # candidate of the layer; None: the sum itself
    inputs: tuple[int, ...]  # nodes; IMAGES: the images; none: zeros


class Graph(NamedTuple):
    """The distinct work of a population."""

    nodes: list[Node]
    leaves: np.ndarray  # int [num_archs], the node that gives each architecture's logits


class Program(NamedTuple):
    """A part of a graph in the order it runs."""

    steps: list[tuple[int, Node, tuple[int, ...]]]  # (number, node, numbers whose values are not needed any more)
    leaves: np.ndarray  # int [num_leaves], distinct: numbers that give logits
    peak_bytes: int  # for one image, by estimate: the most that is held at once


IMAGES = -1
MOST_INPUTS = 3  # longer sums become nodes of their own: each number of inputs is a program to compile

Terms = tuple[tuple[int, int], ...]  # a sum: (node, how often), ascending


def make_graph(supernet: Supernet, archs: np.ndarray, *, given_stats: bool) -> Graph:
    """Trace a population.

    Args:
      archs: int [num_archs, num_choices], valid.
      given_stats: whether normalisation uses statistics that don't come from the images ("tracked"), so that zeros
        don't stay zeros.
    """
    layers = supernet.layers
    kinds = {
        (name, op): operation.algebra(layer.in_shape[-1])
        for name, layer in layers.items()
        for op, operation in layer.candidates.items()
    }
    candidates = {name: list(layer.candidates) for name, layer in layers.items()}
    nodes: list[Node] = []
    numbers: dict[tuple, int] = {}  # what a node computes -> its number
    meaning: dict[int, Terms] = {IMAGES: ((IMAGES, 1),)}  # of a node's value, as a sum
    pooled: dict[tuple, int] = {}  # (linear operation, term) -> the term that this makes; below IMAGES, so no node

    def node(what, name: str, op: str | None, inputs: tuple[int, ...], value: Callable[[int], Terms]) -> int:
        number = numbers.setdefault(what, len(nodes))
        if number == len(nodes):
            nodes.append(Node(name, op, inputs))
            meaning[number] = value(number)
        return number

    @functools.cache
    def total(inputs: tuple[int, ...]) -> Terms:
        terms: collections.Counter = collections.Counter()
        for number in inputs:
            terms.update(dict(meaning[number]))
        return tuple(sorted(terms.items()))

    def trace(taken: dict[str, int]) -> int:
        def run(name: str, x: _Sum) -> _Sum:
            op = candidates[name][taken[name]]
            kind, inputs = kinds[name, op], x.numbers
            if kind == "zero" or (not inputs and (kind == "linear" or (kind == "vanishing" and not given_stats))):
                return _Sum(())
            terms = total(inputs)
            if len(inputs) > MOST_INPUTS:
                inputs = (node(("sum", terms), name, None, inputs, lambda _: terms),)
            if kind == "same":
                return _Sum(inputs)
            if kind == "linear":
                place = layers[name].candidates[op]
                meant = tuple(sorted((pooled.setdefault((place, term), -2 - len(pooled)), n) for term, n in terms))
                return _Sum((node((place, terms), name, op, inputs, lambda _: meant),))
            return _Sum((node((name, op, terms), name, op, inputs, lambda number: ((number, 1),)),))

        (leaf,) = supernet.wire(run, _Sum((IMAGES,))).numbers
        return leaf

    columns = {name: indices.tolist() for name, indices in supernet.taken(archs).items()}
    return Graph(nodes, np.array([trace(dict(zip(columns, row))) for row in zip(*columns.values())]))


class _Sum(NamedTuple):
    """A sum of nodes, as the wiring adds them; of none: zeros."""

    numbers: tuple[int, ...]

    def __add__(self, other):
        return _Sum(self.numbers + other.numbers)


def make_programs(supernet: Supernet, graph: Graph, *, leaves_per_program: int, most_bytes: float) -> list[Program]:
    """Cut a graph's distinct leaves, in their order, into programs. What two programs need runs in both.

    Args:
      leaves_per_program: at most so many.
      most_bytes: what the values held at once may take for one image; programs that need more are halved, down to one
        leaf, for which `jaxnas.evaluation.planning` has seen to it that there is room.
    """
    leaves = list(dict.fromkeys(graph.leaves.tolist()))

    def cut(some: list[int]) -> list[Program]:
        program = _make_program(supernet, graph.nodes, some)
        if program.peak_bytes <= most_bytes or len(some) == 1:
            return [program]
        return cut(some[: len(some) // 2]) + cut(some[len(some) // 2 :])

    starts = range(0, len(leaves), leaves_per_program)
    return [program for start in starts for program in cut(leaves[start : start + leaves_per_program])]


def _make_program(supernet: Supernet, nodes: list[Node], leaves: list[int]) -> Program:
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
    held_by = {(name, False): 4 * math.prod(layer.out_shape) for name, layer in supernet.layers.items()}
    held_by |= {(name, True): 4 * math.prod(layer.in_shape) for name, layer in supernet.layers.items()}  # a sum
    inside = {
        name: 4 * (math.prod(layer.in_shape) + layer.stats_size * math.prod(layer.in_shape[:2]))
        for name, layer in supernet.layers.items()
    }
    steps, held, peak = [], 0, 0
    for position, number in enumerate(order):
        node = nodes[number]
        steps.append((number, node, tuple(free[position])))
        held += held_by[node.layer, node.op is None]
        peak = max(peak, held + inside[node.layer])
        held -= sum(held_by[nodes[each].layer, nodes[each].op is None] for each in free[position])
    return Program(steps, np.array(leaves), peak)


@functools.cache
def _operation(operation: Operation, stats_dtype: str) -> Callable:
    """(parameters, inputs, statistics or None, mask, keep_stats) -> (output, statistics used or None), over batches:
    inputs and mask have a leading axis of batches, each normalised by itself where statistics are None."""

    def of_batch(params, inputs, stats, mask, keep_stats):
        x = sum(inputs[1:], inputs[0])
        y, used = run_operation(operation, params, x, stats, mask, stats_dtype=stats_dtype)
        return y, used if keep_stats else None

    @functools.partial(jax.jit, static_argnames="keep_stats")
    def run(params, inputs, stats, mask, *, keep_stats):
        batched = jax.vmap(lambda inputs, mask: of_batch(params, inputs, stats, mask, keep_stats))
        return batched(inputs, mask)

    return run


@jax.jit
def _add(inputs):
    return sum(inputs[1:], inputs[0])


def run_program(
    supernet: Supernet,
    program: Program,
    params: Params,
    images: chex.Array,
    mask: chex.Array | None,
    *,
    stats: Callable[[int], chex.Array] | None = None,
    keep_stats: bool = False,
) -> tuple[dict[int, chex.Array], dict[int, chex.Array]]:
    """Run it on batches of images.

    Args:
      params: of each candidate, as `Supernet.view` gives them.
      images: float [num_batches, num_images, height, width, channels].
      mask: bool [num_batches, num_images] or None.
      stats: number of a node -> float [2, size], the statistics it normalises by; None: those of each batch.
      keep_stats: return statistics.

    Returns:
      logits float32 [num_batches, num_images, classes] of each leaf, and with keep_stats the statistics that each
      node used, float [num_batches, 2, size].
    """
    values, used, logits = {IMAGES: images}, {}, {}
    layers, leaves = supernet.layers, set(program.leaves.tolist())
    for number, (name, op, inputs), free in program.steps:
        arrays = tuple(values[each] for each in inputs)
        if op is None:
            values[number] = _add(arrays)
        else:
            layer = layers[name]
            arrays = arrays or (jnp.zeros((*images.shape[:2], *layer.in_shape), images.dtype),)
            own = None if stats is None else stats(number)
            run = _operation(layer.candidates[op], layer.stats_dtype)
            values[number], used[number] = run(params[name][op], arrays, own, mask, keep_stats=keep_stats)
        if number in leaves:
            logits[number] = values.pop(number)
        for each in free:
            del values[each]
    return logits, used
