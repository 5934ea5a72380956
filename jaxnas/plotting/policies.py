"""What search policies end with, over seeds, and what becomes of their mixtures on the way."""

import itertools
from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from numpy.typing import ArrayLike

from jaxnas.plotting.figure import (
    BLUE,
    DARK_GREY,
    GREEN,
    GREY,
    ORANGE,
    PALE_GREY,
    PURPLE,
    VERMILION,
    WIDTH,
    axes_of,
    new_figure,
    set_legend,
    wrapped,
)


def outcomes(
    panels: Mapping[str, Mapping[str, ArrayLike]], truth: ArrayLike, *, title: str, accuracy_label: str
) -> Figure:
    """What each policy found, a row each and a panel for each kind of feedback, over the quantiles of the space. What
    is far below all of these stands at the edge, as an arrow.

    Args:
      panels: name of the feedback -> policy -> accuracies [num_seeds], fractions.
      truth: accuracies of all architectures, fractions.
      title, accuracy_label: of the figure, and of its axis.
    """
    sizes = [max(1, len(rows)) for rows in panels.values()]
    figure = new_figure(1.4 + 0.5 * len(panels) + 0.26 * sum(sizes))
    found = np.concatenate([np.atleast_1d(row) for rows in panels.values() for row in rows.values()])
    quantiles = np.quantile(np.asarray(truth, np.float64), [0.25, 0.5, 0.75, 0.9, 0.99, 1.0])
    low = max(min(float(np.min(found)), quantiles[1]), quantiles[0] - 3 * (quantiles[-1] - quantiles[0]))
    room = 0.05 * max(quantiles[-1] - low, 1e-3)
    all_axes = np.atleast_1d(figure.subplots(len(panels), sharex=True, height_ratios=sizes))
    for axes, (feedback, rows) in zip(all_axes, panels.items(), strict=True):
        last = axes is all_axes[-1]
        axes_of(axes, accuracy_label if last else "", "")
        for quantile, name in zip(quantiles, ("25 %", "50 %", "75 %", "90 %", "99 %", "best"), strict=True):
            if quantile >= low - room:
                axes.axvline(quantile, color=DARK_GREY, linewidth=0.8, linestyle=":", zorder=1)
                if axes is all_axes[0]:
                    place = axes.get_xaxis_transform()
                    axes.text(quantile, 1.0, name, transform=place, fontsize=7, rotation=60, color=DARK_GREY)
        for place, values in enumerate(rows.values()):
            accuracies = np.atleast_1d(np.asarray(values, np.float64))
            spread = place + 0.25 * np.linspace(-1, 1, len(accuracies)) * (len(accuracies) > 1)
            for is_there, marker, label in (
                (accuracies >= low, "o", "a seed"),
                (accuracies < low, "<", "a seed, lower"),
            ):
                if is_there.any():
                    shown = np.maximum(accuracies[is_there], low)
                    axes.scatter(shown, spread[is_there], s=12, color=BLUE, marker=marker, label=label, zorder=3)
            axes.scatter(max(low, accuracies.mean()), place, s=60, marker="|", color=VERMILION, label="mean", zorder=4)
        axes.set_yticks(range(len(rows)), list(rows), fontsize=9)
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.grid(axis="y", color=PALE_GREY)
        axes.text(0.01, 0.02, feedback, transform=axes.transAxes, fontsize=9, color=DARK_GREY)
    all_axes[0].set_xlim(low - room, quantiles[-1] + room)
    all_axes[-1].xaxis.set_major_formatter(PercentFormatter(1.0))
    all_axes[0].set_title("\n".join(wrapped(title)), loc="left", fontsize=10, pad=24)  # above the quantiles' names
    set_legend(figure)
    return figure


def paired_sides(
    panels: Mapping[str, tuple[Mapping[str, ArrayLike], Mapping[str, float]]],
    *,
    sides: tuple[str, str],
    title: str,
) -> Figure:
    """The same seeds without and with something, by policy: a panel for each measure, in it two columns for each policy
    and a line that joins the two points of a seed.

    Args:
      panels: measure -> (policy -> values [2, num_seeds], reference -> value, a dotted line, named above).
      sides: names of the two.
    """
    figure = new_figure(0.55 * WIDTH)
    all_axes = np.atleast_1d(figure.subplots(1, len(panels)))
    for axes, (measure, (policies, references)) in zip(all_axes, panels.items(), strict=True):
        axes_of(axes, "", measure)
        for place, values in enumerate(policies.values()):
            pair, columns = np.asarray(values, np.float64), (place - 0.2, place + 0.2)
            axes.plot(columns, pair, color=GREY, linewidth=0.8, zorder=2)
            for column, points, colour, side in zip(columns, pair, (BLUE, VERMILION), sides, strict=True):
                axes.scatter(np.full(len(points), column), points, s=14, color=colour, label=side, zorder=3)
                axes.scatter(column, points.mean(), s=160, marker="_", color=colour, label=f"mean {side}", zorder=4)
        for value in references.values():
            axes.axhline(value, color=DARK_GREY, linewidth=0.8, linestyle=":", zorder=1)
        named = ", ".join(f"{name}: {value:.3f}" for name, value in references.items())
        axes.set_title(f"dotted: {named}" if named else "", fontsize=8, loc="left", color=DARK_GREY)
        axes.set_xticks(range(len(policies)), list(policies))
        axes.set_xlim(-0.5, len(policies) - 0.5)
    figure.suptitle("\n".join(wrapped(title)), x=0.01, horizontalalignment="left", fontsize=10)
    set_legend(figure)
    return figure


def collapse(
    weights: Mapping[str, tuple[ArrayLike, ArrayLike]],
    found: Mapping[str, ArrayLike],
    shares: ArrayLike,
    accuracies: ArrayLike,
    *,
    title: str,
) -> Figure:
    """Whether searches run out of parameters: above, the weight of candidates without any in mixtures over the
    training, each seed and their mean; below, their share in what was found, beside that of a table's architectures.

    Args:
      weights: mixture -> steps [num_steps], weights [num_seeds, num_steps]; none: the lower panel alone.
      found: policy -> shares [num_seeds].
      shares, accuracies: of the table's architectures, fractions [num_archs].
      title: of the figure.
    """
    colours = dict(zip(found, itertools.cycle((DARK_GREY, ORANGE, BLUE, VERMILION, GREEN, PURPLE))))
    figure = new_figure(2.4 + 2.4 * bool(weights) + 0.16 * len(found))
    ratios = [1.0, 1.2] if weights else [1.0]
    *above, below = np.atleast_1d(figure.subplots(len(ratios), height_ratios=ratios))
    for axes in above:
        axes_of(axes, "training step", "weight without parameters")
        for name, (steps, values) in weights.items():
            each = np.atleast_2d(np.asarray(values, np.float64))
            for row in each:
                axes.plot(steps, row, color=colours[name], linewidth=0.6, alpha=0.5)
            axes.plot(steps, each.mean(axis=0), color=colours[name], linewidth=1.8, label=name)
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes_of(below, "share of edges without parameters", "stand-alone test accuracy")
    below.scatter(shares, accuracies, s=10, color=GREY, alpha=0.6, label="the table's")
    low, high = np.min(accuracies), np.max(accuracies)
    for row, (name, values) in enumerate(found.items(), start=1):
        place = np.full(np.size(values), low - row * 0.06 * (high - low))
        below.scatter(values, place, s=34, marker="|", color=colours[name], label=name)
    below.axhline(low - 0.03 * (high - low), color=DARK_GREY, linewidth=0.8, linestyle=":")
    below.text(1.0, low, "found, accuracy unknown", fontsize=7, color=DARK_GREY, ha="right", va="bottom")
    below.set_xlim(-0.03, 1.03)
    for axis in (below.xaxis, below.yaxis):
        axis.set_major_formatter(PercentFormatter(1.0))
    (*above, below)[0].set_title("\n".join(wrapped(title)), loc="left", fontsize=10)
    set_legend(figure)
    return figure
