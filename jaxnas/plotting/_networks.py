"""Architectures as graphs."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch

from jaxnas.plotting.figure import BLUE, DARK_GREY, GREY, PALE_GREY, WIDTH, new_figure, wrapped

PER_ROW = 7  # nodes of a chain side by side, at most
INCHES = 0.55  # between the rows
Nodes = Sequence[tuple[str, str]]
Edges = Sequence[tuple[int, int, str]]


class Arrow(NamedTuple):
    """An edge as it is drawn: how far it bends to the right, in rows, and its colour."""

    source: int
    target: int
    label: str
    bend: float
    colour: str


def networks(graphs: Mapping[str, tuple[Nodes, Edges]], *, title: str) -> Figure:
    """A panel for each of `graphs`: name -> (nodes, edges), as `jaxnas.spaces.Outline` has them.

    Nodes, (name, operation or ""), are in an order in which each comes after what leads into it; edges are (from, to,
    operation or ""). Where each node leads to the next one only, they stand in rows to be read like text; elsewhere one
    below the other, with an arc for each edge, the longer the farther to the side.
    """
    placed = [_chain(nodes) if _is_chain(nodes, edges) else _column(nodes, edges) for nodes, edges in graphs.values()]
    heights = [1.2 + float(np.ptp(at[:, 1])) for at, _ in placed]
    lines = wrapped(title)
    figure = new_figure(0.1 + 0.2 * len(lines) + INCHES * sum(heights) + 0.3 * (len(graphs) > 1) * len(graphs))
    panels = figure.subplots(len(graphs), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axes, (name, (nodes, edges)), (at, arrows) in zip(panels, graphs.items(), placed):
        _draw(axes, nodes, at, arrows, is_chain=_is_chain(nodes, edges))
        if len(graphs) > 1:
            axes.set_title(name, loc="left", fontsize=9)
    figure.suptitle("\n".join(lines), x=0.01, horizontalalignment="left", fontsize=10)
    return figure


def _is_chain(nodes: Nodes, edges: Edges) -> bool:
    return list(edges) == [(node, node + 1, "") for node in range(len(nodes) - 1)]


def _chain(nodes: Nodes) -> tuple[np.ndarray, list[Arrow]]:
    number = np.arange(len(nodes))
    per_row = -(-len(nodes) // -(-len(nodes) // PER_ROW))  # rows of equal length
    at = np.stack([1.6 * (number % per_row - (per_row - 1) / 2), -(number // per_row)], axis=1)
    rows = [at[node, 1] == at[node + 1, 1] for node in range(len(nodes) - 1)]
    return at, [Arrow(node, node + 1, "", 0.0, BLUE if same else GREY) for node, same in enumerate(rows)]


def _column(nodes: Nodes, edges: Edges) -> tuple[np.ndarray, list[Arrow]]:
    """Odd spans bend to the right, even ones to the left; the second of two edges between the same nodes as well."""
    arrows, seen = [], set[tuple[int, int]]()
    for source, target, label in edges:
        span = target - source
        bend = (0.7 + 0.8 * (span - 1)) * (1 if span % 2 else -1)
        if (source, target) in seen:
            bend = -bend
        elif span == 1:
            bend = 0.0
        seen.add((source, target))
        arrows.append(Arrow(source, target, label, bend, BLUE))
    return np.stack([np.zeros(len(nodes)), -np.arange(len(nodes))], axis=1), arrows


def _draw(axes: Axes, nodes: Nodes, at: np.ndarray, arrows: list[Arrow], *, is_chain: bool) -> None:
    axes.set_axis_off()
    axes.set_aspect("equal")  # so that an arc reaches as far as it should
    boxes = []
    for (name, op), place in zip(nodes, at):
        text = op or name if is_chain else "  ".join(part for part in (name, op) if part)
        style = {"boxstyle": "round,pad=0.3", "facecolor": "white" if op else PALE_GREY, "edgecolor": DARK_GREY}
        size = 6.5 if is_chain and len(text) > 8 else 8
        drawn = axes.annotate(text, place, ha="center", va="center", fontsize=size, bbox=style, zorder=4)
        boxes.append(drawn.get_bbox_patch())
    for source, target, label, bend, colour in arrows:
        ends = at[[source, target]]
        length = float(np.linalg.norm(ends[1] - ends[0]))
        axes.add_patch(
            FancyArrowPatch(
                *ends, patchA=boxes[source], patchB=boxes[target], shrinkA=0, shrinkB=1, arrowstyle="-|>", color=colour,
                connectionstyle=f"arc3,rad={-2 * bend / length}", mutation_scale=8, linewidth=1, zorder=2,
            )
        )  # fmt: skip
        if label:
            box = {"boxstyle": "square,pad=0.1", "facecolor": "white", "edgecolor": "none"}
            middle = ends.mean(axis=0) + np.array([bend, 0])
            axes.annotate(label, middle, ha="center", va="center", fontsize=7, zorder=3, bbox=box)
    reach = WIDTH / INCHES / 2 - 0.2
    axes.set_xlim(-reach, reach)
    axes.set_ylim(at[:, 1].min() - 0.5, at[:, 1].max() + 0.5)
