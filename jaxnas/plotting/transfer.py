"""Backbones and what stands on them: pictures of detections and of what a query finds, and accuracy beside transfer."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import ArrayLike

from jaxnas.plotting.figure import (
    COLOURS,
    DARK_GREY,
    GREEN,
    VERMILION,
    WIDTH,
    axes_of,
    draw_picture,
    grid_figure,
    new_figure,
    set_legend,
    set_title,
)


class Boxes(NamedTuple):
    """Boxes of one picture.

    Attributes:
      boxes: float [num_boxes, 4], left, top, right, bottom in pixels.
      labels: a word for each.
      scores: float [num_boxes]; None of what is really there.
    """

    boxes: np.ndarray
    labels: Sequence[str]
    scores: np.ndarray | None = None


def detections(
    images: Sequence[np.ndarray], truth: Sequence[Boxes], found: Sequence[Boxes], *, title: str, columns: int = 4
) -> Figure:
    """Pictures uint8 [height, width, channels] of 1 or 3 channels with what is there, dashed and white, and what was
    found: green with its score where a box of the same word overlaps it by half, else vermilion. Of boxes found at one
    place, which overlap by half, the surest is drawn."""
    rows = -(-len(images) // columns)
    figure = grid_figure(rows, columns, title)
    for number, (image, there, seen) in enumerate(zip(images, truth, found, strict=True), 1):
        axes = draw_picture(figure.add_subplot(rows, columns, number), image)
        for box in there.boxes:
            _frame(axes, box, "white", dashes=True)
        assert seen.scores is not None
        drawn: list[np.ndarray] = []
        for place in np.argsort(-np.asarray(seen.scores), kind="stable"):
            box, label, score = seen.boxes[place], seen.labels[place], seen.scores[place]
            if any(_iou(box, other) >= 0.5 for other in drawn):
                continue
            drawn.append(box)
            right = any(label == other and _iou(box, real) >= 0.5 for real, other in zip(there.boxes, there.labels))
            colour = GREEN if right else VERMILION
            _frame(axes, box, colour)
            text = f"{label} {score:.2f}"
            axes.text(
                box[0], box[1], text, color="white", fontsize=6, va="bottom",
                bbox={"facecolor": colour, "edgecolor": "none", "pad": 0.6}, clip_on=True,
            )  # fmt: skip
    return figure


def retrieved(
    queries: Sequence[np.ndarray],
    results: Sequence[Sequence[np.ndarray]],
    is_right: Sequence[Sequence[bool]],
    *,
    title: str,
) -> Figure:
    """A row for each query: the query, and the gallery's pictures that it gives, nearest first, framed green where they
    are right and vermilion where not. Pictures are uint8 [height, width, channels] of 1 or 3 channels."""
    columns = 1 + max(map(len, results))
    figure = grid_figure(len(queries), columns, title)
    for row, (query, given, right) in enumerate(zip(queries, results, is_right, strict=True)):
        axes = draw_picture(figure.add_subplot(len(queries), columns, row * columns + 1), query)
        axes.set_title("query" if row == 0 else "", fontsize=7)
        for place, (image, good) in enumerate(zip(given, right, strict=True), 1):
            axes = draw_picture(figure.add_subplot(len(queries), columns, row * columns + place + 1), image)
            axes.set_title(str(place) if row == 0 else "", fontsize=7)
            height, width = image.shape[:2]
            _frame(axes, np.array([0, 0, width, height]), GREEN if good else VERMILION, linewidth=3.5)
    return figure


def transfer_scatter(
    accuracies: Sequence[ArrayLike],
    figures: Sequence[ArrayLike],
    groups: Sequence[str],
    *,
    title: str,
    y_label: str,
    references: Sequence[tuple[str, float]] = (),
) -> Figure:
    """A point for each backbone: the task's figure over the accuracy of classification, means over seeds with bars from
    the lowest to the highest seed; a colour for each group.

    Args:
      accuracies, figures: of each backbone, float [num_seeds]. groups: a name of each. references: horizontal lines.
    """
    figure = new_figure(0.7 * WIDTH)
    axes = axes_of(figure.subplots(), "test accuracy of classification", y_label)
    for name, value in references:
        axes.axhline(value, color=DARK_GREY, linestyle=":", linewidth=1.2)
        axes.annotate(
            f"{name} {value:.3f}", (1, value), xycoords=("axes fraction", "data"), ha="right", va="bottom", fontsize=8,
            color=DARK_GREY,
        )  # fmt: skip
    for number, group in enumerate(dict.fromkeys(groups)):
        mine = [place for place, other in enumerate(groups) if other == group]
        pairs = [(np.asarray(accuracies[place], float), np.asarray(figures[place], float)) for place in mine]
        x, y = (np.array([pair[side].mean() for pair in pairs]) for side in (0, 1))
        reach = [
            np.array([[mean - pair[side].min(), pair[side].max() - mean] for mean, pair in zip(means, pairs)]).T
            for side, means in ((0, x), (1, y))
        ]
        colour = COLOURS[number % len(COLOURS)]
        axes.errorbar(
            x, y, xerr=np.maximum(reach[0], 0), yerr=np.maximum(reach[1], 0), fmt="o", color=colour, label=group,
            markersize=6, linewidth=1.2,
        )  # fmt: skip
    axes.margins(0.12)
    set_title(axes, title)
    set_legend(figure)
    return figure


def _frame(axes: Axes, box: np.ndarray, colour: str, *, dashes: bool = False, linewidth: float = 1.4) -> None:
    corner, width, height = (box[0] - 0.5, box[1] - 0.5), box[2] - box[0], box[3] - box[1]
    style = "--" if dashes else "-"
    axes.add_patch(Rectangle(corner, width, height, fill=False, edgecolor=colour, linestyle=style, linewidth=linewidth))


def _iou(box: np.ndarray, other: np.ndarray) -> float:
    across = max(min(box[2], other[2]) - max(box[0], other[0]), 0)
    down = max(min(box[3], other[3]) - max(box[1], other[1]), 0)
    sizes = (box[2] - box[0]) * (box[3] - box[1]) + (other[2] - other[0]) * (other[3] - other[1])
    return float(across * down / max(sizes - across * down, 1e-9))
