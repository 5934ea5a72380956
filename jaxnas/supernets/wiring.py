"""From the code of a cell whose wiring is searched to what each of its edges and vertices does (NAS-Bench-101)."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import chex
import numpy as np

from jaxnas.space import DagLayout, SearchSpace
from jaxnas.spaces._nasbench101 import adjacency, live_edges
from jaxnas.supernets.supernet import decode_by_columns


class Part(NamedTuple):
    """A part of all cells of a stage, about which the code decides alike."""

    stage: int
    kind: str  # "edge", "vertex", or "inputs": of a vertex, which of those before it it has
    source: int  # of a vertex the same as target
    target: int


def output_degrees(layout: DagLayout) -> Sequence[int]:
    """How many vertices may lead straight to the output, the cell's input not counted."""
    return range(1, layout.num_vertices - 1) if layout.output_degree is None else (layout.output_degree,)


def output_slots(layout: DagLayout, channels: int) -> dict[tuple[int, int], tuple[int, int]]:
    """Of the output's channels, those of each vertex that leads to it: (how many do, how many of these stand before it)
    -> (first channel, number of channels). The first vertices take one more where channels don't divide."""
    slots = {}
    for degree in output_degrees(layout):
        share, rest = divmod(channels, degree)
        for rank in range(degree):
            slots[degree, rank] = (rank * share + min(rank, rest), share + (rank < rest))
    return slots


def vertex_widths(layout: DagLayout, channels: int) -> tuple[int, ...]:
    """The widths that vertices have, the largest first: a vertex that doesn't lead to the output has that of one that
    does."""
    return tuple(sorted({width for _, width in output_slots(layout, channels).values()}, reverse=True))


def make_decode(
    space: SearchSpace, layout: DagLayout, parts: Sequence[Part], most_candidates: int
) -> Callable[[Any], Any]:
    """`Supernet.decode`: codes int [..., num_choices] -> int32 [..., num_parts], the candidate that each part takes.

    Candidates are numbered as `dag_supernet` lists them; 0 is nothing at all. Of edges and vertices only those on a way
    from input to output count.
    """

    def columns(archs: Any) -> list[Any]:
        edges = live_edges(adjacency(archs)).astype(np.int32)
        ops = archs[..., len(layout.edges) :]
        by_part: dict[Part, Any] = {}
        for stage in range(layout.num_stages):
            by_part |= _decode_stage(space, layout, stage, edges, ops)
        return [by_part[part] for part in parts]

    return decode_by_columns(space, (len(parts), most_candidates), columns)


def _decode_stage(
    space: SearchSpace, layout: DagLayout, stage: int, edges: chex.Array, ops: chex.Array
) -> dict[Part, Any]:
    channels, last = layout.width * 2**stage, layout.num_vertices - 1
    leads = edges[..., 1:-1, -1]
    degree, rank = leads.sum(axis=-1, keepdims=True), leads.cumsum(axis=-1) - leads
    share = channels // (degree + (degree == 0).astype(np.int32))
    of_output = (share + (rank < channels - share * degree).astype(np.int32)) * leads
    widths = of_output
    for _ in range(last - 2):  # from the output backwards, as far as the longest way
        largest = (edges[..., 1:-1, 1:-1] * widths[..., None, :]).max(axis=-1)
        widths = of_output + (1 - leads) * largest
    known = vertex_widths(layout, channels)
    width_number = sum((widths < width).astype(np.int32) for width in known)
    slots = list(output_slots(layout, channels))

    columns: dict[Part, Any] = {}
    for source, target in layout.edges:
        there = edges[..., source, target]
        if source == 0 and target != last:  # a projection to the vertex's width
            there = there * (1 + width_number[..., target - 1])
        elif target == last and source != 0:
            is_slot = [(degree[..., 0] == d) & (rank[..., source - 1] == r) for d, r in slots]
            there = there * sum(number * here.astype(np.int32) for number, here in enumerate(is_slot, 1))
        columns[Part(stage, "edge", source, target)] = there
    for vertex in range(1, last):
        used = (widths[..., vertex - 1] > 0).astype(np.int32)
        first, candidate, is_conv = 1, 0, 0
        for number, name in enumerate(space.op_names[-1]):
            here, dynamic = (ops[..., vertex - 1] == number).astype(np.int32), int(name.startswith("conv"))
            candidate = candidate + here * (first + dynamic * width_number[..., vertex - 1])
            is_conv = is_conv + here * dynamic
            first += len(known) if dynamic else 1
        columns[Part(stage, "vertex", vertex, vertex)] = used * candidate
        configuration = sum(edges[..., source, vertex] * 2**source for source in range(vertex))
        columns[Part(stage, "inputs", vertex, vertex)] = is_conv * configuration
    return columns
