"""What searches found and spent, and how latencies are predicted."""

import itertools
import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, FuncFormatter, MaxNLocator, NullFormatter
from numpy.typing import ArrayLike

from jaxnas.plotting.figure import (
    BLUE,
    DARK_GREY,
    GREY,
    REFERENCE_LINES,
    VERMILION,
    WIDTH,
    axes_of,
    counted,
    new_figure,
    set_legend,
    set_title,
    wrapped,
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
    [num_steps] is the fraction of all feasible architectures that complete the pool after each step, above 0. The
    candidates of a step stand side by side from the highest to the lowest, so that equal ones are seen as well.
    """
    figure = new_figure(0.95 * WIDTH)
    upper, lower = figure.subplots(2, sharex=True, height_ratios=(3, 2))
    steps = np.arange(1, len(potentials) + 1)
    axes_of(upper, "", potential_label)
    most = max(map(len, map(np.atleast_1d, potentials)))
    kept_at, dropped_at = [], []
    for step, of_step, number in zip(steps, potentials, num_kept, strict=True):
        ordered = np.sort(np.asarray(of_step, np.float64))[::-1]
        places = step + 0.8 * (np.arange(len(ordered)) - (len(ordered) - 1) / 2) / most
        kept_at.append(np.stack([places, ordered], axis=1)[:number])
        dropped_at.append(np.stack([places, ordered], axis=1)[number:])
    kept, dropped = np.concatenate(kept_at), np.concatenate(dropped_at)
    size = np.clip(250 / most, 4, 18)
    upper.scatter(*kept.T, s=size, color=BLUE, label="kept in the pool")
    upper.scatter(*dropped.T, s=size, color=DARK_GREY, marker="x", linewidths=0.9, label="dropped")
    axes_of(
        lower, "step of the search: each decides one choice, the last ranks the pool again", "share of the space left"
    )
    lower.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    left = np.append(1.0, np.asarray(shares, np.float64))
    lower.plot(np.append(0, steps), left, color=BLUE, marker="o", markersize=4)
    lower.set_yscale("log")
    decades = np.ceil(-np.log10(min(left.min(), 0.99)))
    lower.set_ylim(10 ** (-1.08 * decades), 10 ** (0.08 * decades))
    lower.yaxis.set_major_formatter(FuncFormatter(_share_tick))
    lower.yaxis.set_minor_formatter(NullFormatter())
    set_title(upper, title)
    set_legend(figure)
    figure.align_ylabels()
    return figure


def _share_tick(share: float, _: int | None) -> str:
    return f"{100 * share:.10g} %" if share > 1e-6 else rf"$10^{{{round(np.log10(share)) + 2}}}$ %"


def percent(share: float) -> str:
    """A fraction in percent, two digits of it, never rounded to nothing or to all.

    >>> [percent(share) for share in (1.0, 0.9996, 0.472, 0.025, 0.001, 0.00042, 0.0)]
    ['100 %', '>99.9 %', '47 %', '2.5 %', '0.1 %', '<0.1 %', '0 %']
    """
    if 0 < share < 0.001:
        return "<0.1 %"
    if 0.999 < share < 1:
        return ">99.9 %"
    return f"{100 * share:.{3 if share > 0.99 else 2}g} %"


def regret_over_cost(
    curves: Mapping[str, tuple[ArrayLike, ArrayLike, ArrayLike, ArrayLike]],
    *,
    title: str,
    cost_label: str,
    references: Mapping[str, float] | None = None,
    level: float = 0.95,
) -> Figure:
    """What searches have found over what they have spent: name -> (costs, regrets, lows, highs), each [num_points].

    A panel for each search: its mean, the band of its interval of confidence `level` over seeds (left out where it is
    nan), and the other searches' means behind it. Its title says what it ended with. Regret is a fraction of accuracy.
    A band of few seeds may leave the picture; the title then says how far. `references`, name -> regret, are horizontal
    lines.
    """
    num_columns = min(2, len(curves))
    num_rows = -(-len(curves) // num_columns)
    figure = new_figure(1.7 + 1.9 * num_rows)
    grid = figure.subplots(num_rows, num_columns, sharex=True, sharey=True, squeeze=False)
    scaled = {
        name: (np.asarray(costs, np.float64), 100 * np.stack([np.asarray(of, np.float64) for of in regrets]))
        for name, (costs, *regrets) in curves.items()
    }
    levels = {name: 100 * regret for name, regret in (references or {}).items()}
    drawn = [middle.max() for _, (middle, *_) in scaled.values()]
    highest = max((high[np.isfinite(high)].max(initial=0.0) for _, (*_, high) in scaled.values()), default=0.0)
    top = 1.25 * max([*drawn, *levels.values()]) or 1.0
    for axes, (name, (costs, (middle, low, high))) in zip(grid.flat, scaled.items()):
        axes_of(axes, "", "regret (percentage\npoints of accuracy)" if axes in grid[:, 0] else "")
        axes.xaxis.set_major_formatter(EngFormatter())
        for other, (other_costs, (other_middle, *_)) in scaled.items():
            if other != name:
                axes.step(other_costs, other_middle, where="post", color=GREY, linewidth=0.7, label="other searches")
        has_band = bool(np.isfinite(low).any())
        if has_band:
            label = f"{100 * level:g} % interval over seeds"
            axes.fill_between(costs, low, high, step="post", color=BLUE, alpha=0.2, linewidth=0, label=label)
        axes.step(costs, middle, where="post", color=BLUE, linewidth=1.8, label="mean over seeds")
        for (reference, at), (colour, dashes) in zip(levels.items(), itertools.cycle(REFERENCE_LINES)):
            axes.axhline(at, color=colour, linestyle=dashes, linewidth=1.2, label=f"{reference}: {at:.2f}")
        interval = f" [{low[-1]:.2f}, {high[-1]:.2f}]" if has_band else ""
        axes.set_title(f"{name}: {middle[-1]:.2f}{interval}", loc="left", fontsize=9)
        axes.set_ylim(0, top)
    for axes in grid.flat[len(curves) :]:
        axes.set_visible(False)
    for axes in grid.flat[len(curves) - num_columns : len(curves)]:  # the lowest of each column
        axes.set_xlabel(textwrap.fill(cost_label, 76 // num_columns))
        axes.tick_params(labelbottom=True)
    beyond = f"; bands reach up to {highest:.0f} points, beyond the picture" if highest > top else ""
    figure.suptitle("\n".join(wrapped(f"{title}\npanels: regret at the end{beyond}")), x=0.01, ha="left", fontsize=10)
    set_legend(figure)
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
    axes.scatter(predicted, measured, color=BLUE, s=18, linewidths=0, label="a network, median over rounds")
    agreement = f"Spearman {spearman:.3f}, median relative error {100 * error:.1f} %"
    set_title(axes, f"{title}\n{agreement}; {counted(len(measured), 'network')}")
    set_legend(figure)
    return figure
