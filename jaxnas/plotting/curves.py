"""Curves over training steps and over sizes."""

import itertools
import textwrap
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from jaxnas.plotting.figure import BLUE, GREEN, REFERENCE_LINES, VERMILION, WIDTH, axes_of, new_figure, set_title


def training_curve(steps: ArrayLike, columns: Mapping[str, ArrayLike], *, title: str) -> Figure:
    """A panel for each of `columns`, label (with unit) -> values [num_steps], over `steps` [num_steps].

    nan stands for "not measured at this step". Beyond 200 values a running mean over a 50th of them is drawn on top.
    """
    steps = np.asarray(steps)
    figure = new_figure(0.8 + 1.8 * len(columns))
    panels = figure.subplots(len(columns), sharex=True, squeeze=False)[:, 0]
    for axes, (label, values) in zip(panels, columns.items()):
        axes_of(axes, "training step" if axes is panels[-1] else "", label)
        values = np.asarray(values, np.float64)
        is_measured = np.isfinite(values)
        x, y = steps[is_measured], values[is_measured]
        if len(y) <= 200:
            axes.plot(x, y, color=BLUE, marker="o", markersize=3)
            continue
        window = len(y) // 50
        mean = np.convolve(y, np.full(window, 1 / window), mode="valid")
        axes.plot(x, y, color=BLUE, alpha=0.25, linewidth=0.7)
        axes.plot(x[window // 2 :][: len(mean)], mean, color=BLUE, linewidth=1.8, label=f"mean of {window} values")
        axes.legend(frameon=False, fontsize=8)
    set_title(panels[0], title)
    figure.align_ylabels()
    return figure


def cost_growth(
    curves: Mapping[str, tuple[ArrayLike, ArrayLike]], *, title: str, count_label: str, cost_label: str = "seconds"
) -> Figure:
    """Cost over count on logarithmic axes, a line for each of `curves`: name -> (counts, costs), all positive.

    The legend says the slope of each: 1 where cost grows in proportion, less where something is shared.
    """
    figure = new_figure(0.75 * WIDTH)
    axes = axes_of(figure.subplots(), count_label, cost_label)
    styles = itertools.cycle(((BLUE, "-"), *REFERENCE_LINES))
    for (name, (counts, costs)), (colour, dashes) in zip(curves.items(), styles):
        label = f"{name}, slope {growth(counts, costs):.2f}"
        axes.plot(counts, costs, marker="o", markersize=4, color=colour, linestyle=dashes, label=label)
    axes.set(xscale="log", yscale="log")
    axes.set_title(textwrap.fill(title, 60))
    axes.legend(frameon=False)
    return figure


def growth(counts: ArrayLike, costs: ArrayLike) -> float:
    """The exponent of a power law through costs over counts: the slope of the line through their logarithms."""
    return float(np.polyfit(np.log(np.asarray(counts, float)), np.log(np.asarray(costs, float)), 1)[0])


class Panel(NamedTuple):
    """One panel of `panels_over_size`."""

    series: Mapping[str, tuple[ArrayLike, ArrayLike, ArrayLike]]  # name -> values, lows, highs, each [num_sizes]
    references: Mapping[str, float]  # name -> value of a horizontal line


def panels_over_size(
    sizes: Mapping[str, ArrayLike], panels: Mapping[str, Panel], *, title: str, size_label: str
) -> Figure:
    """A panel for each of `panels`, label (with unit) -> what it holds, over a logarithmic axis of sizes.

    `sizes`, series name -> [num_sizes], are the same in every panel. Bars are intervals.
    """
    figure = new_figure(0.9 + 1.7 * len(panels))
    all_axes = figure.subplots(len(panels), sharex=True, squeeze=False)[:, 0]
    ticks = np.unique(np.concatenate([np.asarray(of_series) for of_series in sizes.values()]))
    for axes, (label, panel) in zip(all_axes, panels.items()):
        axes_of(axes, size_label if axes is all_axes[-1] else "", label)
        axes.set_xscale("log")
        axes.set_xticks(ticks, [f"{size:,.0f}" if size < 1e5 else f"{size:.1g}" for size in ticks])
        axes.minorticks_off()
        styles = zip(((BLUE, "o"), (VERMILION, "D")), panel.series.items())
        for (colour, marker), (name, (values, lows, highs)) in styles:
            axes.vlines(sizes[name], lows, highs, color=colour, linewidth=1.4)
            axes.plot(sizes[name], values, color=colour, marker=marker, markersize=5, linewidth=1.4, label=name)
        for name, value in panel.references.items():
            axes.axhline(value, color=GREEN, linestyle="-.", linewidth=1.4, label=name)
        axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    set_title(all_axes[0], title)
    figure.align_ylabels()
    return figure
