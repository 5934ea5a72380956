"""Fronts that searches found, and how much they dominate."""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter
from numpy.typing import ArrayLike

from jaxnas.plotting.figure import (
    BLUE,
    COLOURS,
    GREY,
    VERMILION,
    WIDTH,
    axes_of,
    new_figure,
    set_legend,
    wrapped,
)

DASHES = ("-", "--", "-.", ":", (0, (8, 3)))


def front_over_costs(
    evaluated: tuple[ArrayLike, Mapping[str, ArrayLike]],
    on_front: ArrayLike,
    *,
    title: str,
    score_label: str,
    limits: Mapping[str, float] | None = None,
) -> Figure:
    """A panel for each cost: a point for each evaluated architecture, those on the front apart.

    `evaluated` are scores [num_archs] and name -> costs [num_archs], `on_front` bool [num_archs]; `limits`, name ->
    largest cost allowed, are vertical lines. The steps join what no point of the panel dominates: with several costs
    others of the front lie below, for the sake of another cost.
    """
    scores, costs = np.asarray(evaluated[0], np.float64), evaluated[1]
    chosen = np.asarray(on_front, bool)
    figure = new_figure(0.4 + 0.7 * WIDTH)
    for axes, (name, of_name) in zip(figure.subplots(1, len(costs), sharey=True, squeeze=False)[0], costs.items()):
        values = np.asarray(of_name, np.float64)
        axes_of(axes, name, score_label if axes is figure.axes[0] else "")
        axes.xaxis.set_major_formatter(EngFormatter())
        axes.scatter(values[~chosen], scores[~chosen], s=8, color=GREY, linewidths=0, label="evaluated")
        axes.scatter(values[chosen], scores[chosen], s=22, color=BLUE, linewidths=0, label="on the front")
        x, y = steps(values[chosen], scores[chosen])
        axes.step(x, y, where="post", color=BLUE, linewidth=1)
        if limits and name in limits:
            axes.axvline(limits[name], color=VERMILION, linestyle="--", linewidth=1.2, label="limit")
        lowest = np.quantile(scores, 0.05)  # what is far below would squeeze the front
        axes.set_ylim(bottom=lowest - 0.05 * (scores.max() - lowest) if scores.max() > lowest else None)
    figure.suptitle("\n".join(wrapped(title)), x=0.01, ha="left", fontsize=10)
    set_legend(figure)
    return figure


def compared_fronts(
    points: Mapping[str, tuple[ArrayLike, ArrayLike]],
    volumes: Mapping[str, tuple[ArrayLike, ArrayLike, ArrayLike, ArrayLike]],
    *,
    title: str,
    score_label: str,
    cost_label: str,
    volume_label: str,
) -> Figure:
    """Fronts side by side, and how much they dominate over what was evaluated.

    `points` are name -> (scores, costs), each [num_points], the first of them what the others are measured by;
    `volumes` are name -> (number evaluated, mean, low, high), each [num_moments], whose bands are intervals over seeds.
    """
    figure = new_figure(0.72 * WIDTH)
    left, right = figure.subplots(1, 2)
    axes_of(left, cost_label, score_label)
    left.xaxis.set_major_formatter(EngFormatter())
    (reference, of_reference), *others = points.items()
    x, y = steps(of_reference[1], of_reference[0])
    left.step(x, y, where="post", color=GREY, linewidth=4, alpha=0.6, label=reference)
    names = [name for name, _ in others]
    for name, (scores, costs) in others:
        colour, dashes = COLOURS[names.index(name) % len(COLOURS)], DASHES[names.index(name) % len(DASHES)]
        left.step(*steps(costs, scores), where="post", color=colour, linestyle=dashes, linewidth=1.3, label=name)
    axes_of(right, "architectures evaluated", volume_label)
    for name, (number, mean, low, high) in volumes.items():
        colour, dashes = COLOURS[names.index(name) % len(COLOURS)], DASHES[names.index(name) % len(DASHES)]
        right.fill_between(np.asarray(number), np.asarray(low), np.asarray(high), color=colour, alpha=0.2, linewidth=0)
        right.plot(np.asarray(number), np.asarray(mean), color=colour, linestyle=dashes, linewidth=1.5, label=name)
    right.set_ylim(top=1.0)
    figure.suptitle("\n".join(wrapped(title)), x=0.01, ha="left", fontsize=10)
    set_legend(figure)
    return figure


def steps(costs: ArrayLike, scores: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """The corners at which the best score up to a cost rises, costs growing.

    >>> [column.tolist() for column in steps([3, 1, 2, 4], [0.5, 0.2, 0.1, 0.9])]
    [[1.0, 3.0, 4.0], [0.2, 0.5, 0.9]]
    """
    x, y = np.asarray(costs, np.float64), np.asarray(scores, np.float64)
    order = np.lexsort((-y, x))
    x, y = x[order], y[order]
    rises = y > np.maximum.accumulate(np.append(-np.inf, y))[:-1]
    return x[rises], y[rises]
