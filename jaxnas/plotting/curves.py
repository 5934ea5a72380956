"""Curves over training steps and over sizes."""

import itertools
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter
from numpy.typing import ArrayLike

from jaxnas.plotting.figure import (
    BLUE,
    GREEN,
    GREY,
    PURPLE,
    REFERENCE_LINES,
    VERMILION,
    WIDTH,
    axes_of,
    new_figure,
    set_legend,
    set_title,
)


def training_curve(steps: ArrayLike, columns: Mapping[str, ArrayLike], *, title: str) -> Figure:
    """A panel for each of `columns`, label (with unit) -> values, over `steps` [num_steps].

    Values are [num_steps] or [num_supernets, num_steps]. Of several super-nets each is a thin line and their mean a
    thick one. nan stands for "not measured at this step". Beyond 200 values a running mean over a 50th of them is drawn
    on top.
    """
    steps = np.asarray(steps)
    figure = new_figure(1.1 + 1.8 * len(columns))
    panels = figure.subplots(len(columns), sharex=True, squeeze=False)[:, 0]
    for axes, (label, values) in zip(panels, columns.items()):
        axes_of(axes, "training step" if axes is panels[-1] else "", label)
        each = np.atleast_2d(np.asarray(values, np.float64))
        mean = each.mean(axis=0)
        is_measured = np.isfinite(mean)
        x, y = steps[is_measured], mean[is_measured]
        several, smooth = len(each) > 1, len(y) > 200
        if several:
            for row in each:
                is_known = np.isfinite(row)
                axes.plot(
                    steps[is_known],
                    row[is_known],
                    color=GREY,
                    linewidth=0.7,
                    alpha=0.4 if smooth else 1,
                    label="each super-net",
                )
        elif smooth:
            axes.plot(x, y, color=BLUE, alpha=0.25, linewidth=0.7, label="each value")
        name = f"mean of {len(each)} super-nets" if several else "one super-net"
        if not smooth:
            axes.plot(x, y, color=BLUE, marker="o", markersize=3, label=name)
            continue
        window = len(y) // 50
        running = np.convolve(y, np.full(window, 1 / window), mode="valid")
        label = f"{name}, mean of {window} values"
        axes.plot(x[window // 2 :][: len(running)], running, color=BLUE, linewidth=1.8, label=label)
    set_title(panels[0], title)
    set_legend(figure)
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
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
        axis.set_minor_formatter(NullFormatter())
    set_title(axes, f"{title}\nslope 1: in proportion to the number; less: something is shared")
    set_legend(figure)
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

    `sizes`, series name -> [num_sizes], are the same in every panel. Bars are intervals; `title` says of what. Where
    two series have a size in common, they stand side by side at its tick.
    """
    figure = new_figure(1.1 + 1.7 * len(panels))
    all_axes = figure.subplots(len(panels), sharex=True, squeeze=False)[:, 0]
    ticks = np.unique(np.concatenate([np.asarray(of_series) for of_series in sizes.values()]))
    beside = 1.0 + 0.015 * np.log(ticks[-1] / ticks[0])  # some widths of a line
    for axes, (label, panel) in zip(all_axes, panels.items()):
        axes_of(axes, size_label if axes is all_axes[-1] else "", label)
        axes.set_xscale("log")
        axes.set_xticks(ticks, [f"{size:,.0f}" for size in ticks])
        axes.minorticks_off()
        taken: list[float] = []
        for (colour, marker), (name, (values, lows, highs)) in zip(
            ((BLUE, "o"), (VERMILION, "D"), (GREEN, "^"), (PURPLE, "s")), panel.series.items()
        ):
            own = np.asarray(sizes[name], np.float64).tolist()
            at = [size * beside ** taken.count(size) for size in own]
            taken += own
            axes.vlines(at, lows, highs, color=colour, linewidth=1.4)
            axes.plot(at, values, color=colour, marker=marker, markersize=5, linewidth=1.4, label=name)
        for name, value in panel.references.items():
            axes.axhline(value, color=GREEN, linestyle="-.", linewidth=1.4, label=name)
        axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    set_title(all_axes[0], title)
    figure.align_ylabels()
    return figure
