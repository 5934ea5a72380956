"""What searches found and spent, and how latencies are predicted."""

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator
from numpy.typing import ArrayLike

from jaxnas.plotting.figure import (
    BLUE,
    DARK_GREY,
    GREY,
    REFERENCE_LINES,
    VERMILION,
    WIDTH,
    axes_of,
    new_figure,
    set_title,
)


def narrowing(
    potentials: Sequence[ArrayLike],
    num_kept: Sequence[int],
    shares: ArrayLike,
    *,
    title: str,
    potential_label: str,
) -> Figure:
    """How a pool of partial architectures narrows the space: a panel of potentials, and one of the share that is left.

    `potentials` holds those of the candidates of each step, of which the `num_kept` highest stay; `shares`
    [num_steps] is the fraction of all feasible architectures that complete the pool after each step, above 0.
    """
    figure = new_figure(0.9 * WIDTH)
    upper, lower = figure.subplots(2, sharex=True, height_ratios=(3, 2))
    steps = np.arange(1, len(potentials) + 1)
    axes_of(upper, "", potential_label)
    for step, of_step, kept in zip(steps, potentials, num_kept, strict=True):
        ordered = np.sort(np.asarray(of_step, np.float64))[::-1]
        first = step == 1
        upper.scatter(np.full(len(ordered) - kept, step), ordered[kept:], s=18, color=GREY, marker="x",
                      linewidths=0.9, label="candidate dropped" if first else None)  # fmt: skip
        upper.scatter(
            np.full(kept, step), ordered[:kept], s=18, color=BLUE, label="kept in the pool" if first else None
        )
    upper.legend(frameon=False, fontsize=9)
    axes_of(lower, "step of the search", "share of the space left")
    lower.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    lower.plot(np.append(0, steps), np.append(1.0, np.asarray(shares)), color=BLUE, marker="o", markersize=4)
    lower.set_yscale("log")
    set_title(upper, title)
    figure.align_ylabels()
    return figure


def regret_over_cost(
    curves: Mapping[str, tuple[ArrayLike, ArrayLike, ArrayLike, ArrayLike]],
    *,
    title: str,
    cost_label: str,
    references: Mapping[str, float] | None = None,
    level: float = 0.95,
) -> Figure:
    """What searches have found over what they have spent: name -> (costs, regrets, lows, highs), each [num_points].

    Regret is a fraction of accuracy. The bands, intervals of confidence `level`, are left out where they are nan.
    `references`, name -> regret, are horizontal lines.
    """
    figure = new_figure(0.75 * WIDTH)
    axes = axes_of(figure.subplots(), cost_label, "regret (percentage points of accuracy)")
    axes.xaxis.set_major_formatter(EngFormatter())
    styles = itertools.cycle(((BLUE, "-"), *REFERENCE_LINES))
    for (name, (costs, *regrets)), (colour, dashes) in zip(curves.items(), styles):
        middle, lows, highs = (100 * np.asarray(values, np.float64) for values in regrets)
        axes.fill_between(costs, lows, highs, step="post", color=colour, alpha=0.12, linewidth=0)
        axes.step(costs, middle, where="post", color=colour, linestyle=dashes, linewidth=1.8, label=name)
    for (name, regret), dashes in zip((references or {}).items(), itertools.cycle((":", "--"))):
        axes.axhline(100 * regret, color=DARK_GREY, linestyle=dashes, linewidth=1.2, label=name)
    lines = [*(regrets for _, regrets, *_ in curves.values()), *([regret] for regret in (references or {}).values())]
    axes.set_ylim(0, 200 * max(float(np.max(line)) for line in lines) or None)  # bands of few seeds go beyond
    set_title(axes, f"{title}\nbands: {100 * level:g} % intervals over seeds")
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    return figure


def latency_scatter(
    predicted: ArrayLike,
    measured: ArrayLike,
    *,
    title: str,
    spearman: float,
    error: float,
    low: ArrayLike | None = None,
    high: ArrayLike | None = None,
) -> Figure:
    """A point for each network: `measured` over `predicted` latency, both [num_archs] in ms, and the line where they
    agree. `spearman` and the median relative `error` stand under the title; bars go from `low` to `high` [num_archs],
    the spread of the measurements.
    """
    predicted, measured = np.asarray(predicted, np.float64), np.asarray(measured, np.float64)
    if predicted.shape != measured.shape or predicted.ndim != 1:
        raise ValueError(f"latencies have shapes {predicted.shape} and {measured.shape}, expected one, [num_archs].")
    figure = new_figure(0.75 * WIDTH)
    axes = axes_of(figure.subplots(), "predicted latency (ms)", "measured latency (ms)")
    ends = [min(predicted.min(), measured.min()), max(predicted.max(), measured.max())]
    axes.plot(ends, ends, color=VERMILION, linestyle="--", linewidth=1.2, label="prediction = measurement")
    if low is not None and high is not None:
        label = "quartiles over rounds"
        axes.vlines(predicted, low, high, color=BLUE, linewidth=1, alpha=0.5, label=label)
    axes.scatter(predicted, measured, color=BLUE, s=18, linewidths=0)
    axes.legend(frameon=False, fontsize=9, loc="upper left")
    agreement = f"Spearman {spearman:.3f}, median relative error {100 * error:.1f} %; {len(measured):,} networks"
    set_title(axes, f"{title}\n{agreement}")
    return figure
