"""Pictures of results: each function takes arrays and returns a matplotlib Figure, `save_figure` writes one.

Figures are built without pyplot, so no window system is needed and nothing global changes. Colours are Okabe and Ito's
and the viridis map, which colour-blind readers can tell apart. Titles longer than a line are wrapped.
"""

import io
import itertools
import os
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator
from numpy.typing import ArrayLike

from jaxnas.files import replace_file

BLUE = "#0072B2"
REFERENCE_LINES = (("#D55E00", "--"), ("#009E73", "-."), ("#CC79A7", ":"), ("#E69F00", (0, (8, 3))))  # colour, dashes
WIDTH, DPI = 6.4, 160  # inches, pixels per inch


def rank_scatter(
    scores: ArrayLike,
    truth: ArrayLike,
    *,
    title: str,
    score_label: str,
    truth_label: str,
    tau: float,
    low: float,
    high: float,
    level: float = 0.95,
    macs: ArrayLike | None = None,
) -> Figure:
    """A point for each architecture: `truth` [num_archs] over `scores` [num_archs]; higher is better in both.

    The labels should say the unit. `tau` and its interval [low, high] of confidence `level` stand under the title.
    `macs` [num_archs], multiply-accumulates per image, colours the points. A few very bad architectures would squeeze
    all others into a corner: those more than three interquartile ranges outside the quartiles (Tukey's "far out") are
    drawn as crosses at the edge, and the title says how many they are.
    """
    scores, truth = np.asarray(scores), np.asarray(truth)
    colours = None if macs is None else np.asarray(macs, np.float64)
    shapes = [array.shape for array in (scores, truth, colours) if array is not None]
    if len(set(shapes)) > 1 or scores.ndim != 1:
        raise ValueError(f"scores, truth, macs have shapes {shapes}, expected one shape, [num_archs].")
    num_archs = len(scores)
    figure = Figure(figsize=(WIDTH, 0.75 * WIDTH), dpi=DPI, layout="constrained")
    axes = _axes(figure.subplots(), score_label, truth_label)
    axes.margins(0.02)
    x, y = _within_fences(scores), _within_fences(truth)
    is_far = (x != scores) | (y != truth)
    # Rows are in the order of codes, which goes with size: drawn as they come, the last would hide the others.
    rows = np.random.default_rng(0).permutation(num_archs)
    norm = None if colours is None else Normalize(colours.min(), colours.max())
    size, alpha = np.clip(6000 / num_archs, 5, 24), np.clip(3000 / num_archs, 0.1, 0.9)
    for part, style in (
        (rows[~is_far[rows]], {"marker": "o", "linewidths": 0, "alpha": alpha}),
        (rows[is_far[rows]], {"marker": "x", "linewidths": 0.8}),
    ):
        colour = BLUE if colours is None else colours[part]
        axes.scatter(x[part], y[part], c=colour, norm=norm, s=size, rasterized=True, **style)
    if norm is not None:
        bar = figure.colorbar(ScalarMappable(norm), ax=axes, format=EngFormatter(), pad=0.02, aspect=30)
        bar.set_label("MACs per image")
        bar.outline.set_visible(False)
    interval = (
        f"Kendall's τ = {tau:.3f}, {100 * level:g} % interval [{low:.3f}, {high:.3f}]; {num_archs:,} architectures"
    )
    far = f"\n× at the edge: {is_far.sum():,} architectures that lie farther out" if is_far.any() else ""
    _set_title(axes, f"{title}\n{interval}{far}")
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
    figure = Figure(figsize=(WIDTH, 0.75 * WIDTH), dpi=DPI, layout="constrained")
    axes = _axes(figure.subplots(), "predicted latency (ms)", "measured latency (ms)")
    ends = [min(predicted.min(), measured.min()), max(predicted.max(), measured.max())]
    axes.plot(ends, ends, color=REFERENCE_LINES[0][0], linestyle="--", linewidth=1.2, label="prediction = measurement")
    if low is not None and high is not None:
        label = "quartiles over rounds"
        axes.vlines(predicted, low, high, color=BLUE, linewidth=1, alpha=0.5, label=label)
    axes.scatter(predicted, measured, color=BLUE, s=18, linewidths=0)
    axes.legend(frameon=False, fontsize=9, loc="upper left")
    agreement = f"Spearman {spearman:.3f}, median relative error {100 * error:.1f} %; {len(measured):,} networks"
    _set_title(axes, f"{title}\n{agreement}")
    return figure


def training_curve(steps: ArrayLike, columns: Mapping[str, ArrayLike], *, title: str) -> Figure:
    """A panel for each of `columns`, label (with unit) -> values [num_steps], over `steps` [num_steps].

    nan stands for "not measured at this step". Beyond 200 values a running mean over a 50th of them is drawn on top.
    """
    steps = np.asarray(steps)
    figure = Figure(figsize=(WIDTH, 0.8 + 1.8 * len(columns)), dpi=DPI, layout="constrained")
    panels = figure.subplots(len(columns), sharex=True, squeeze=False)[:, 0]
    for axes, (label, values) in zip(panels, columns.items()):
        _axes(axes, "training step" if axes is panels[-1] else "", label)
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
    _set_title(panels[0], title)
    figure.align_ylabels()
    return figure


def tau_over_training(
    steps: ArrayLike,
    taus: ArrayLike,
    lows: ArrayLike,
    highs: ArrayLike,
    *,
    title: str,
    level: float = 0.95,
    references: Mapping[str, float] | None = None,
) -> Figure:
    """Kendall's tau of the super-net over training; the four arrays are [num_evaluations].

    The band from `lows` to `highs` is the interval of confidence `level`. `references`, name -> tau, are
    horizontal lines: FLOPs only, a published super-net, the agreement of training seeds.
    """
    figure = Figure(figsize=(WIDTH, 0.65 * WIDTH), dpi=DPI, layout="constrained")
    axes = _axes(figure.subplots(), "training step", "Kendall's τ")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.fill_between(steps, lows, highs, color=BLUE, alpha=0.2, linewidth=0)
    axes.vlines(steps, lows, highs, color=BLUE, linewidth=1)  # a band over one evaluation has no width
    axes.plot(steps, taus, color=BLUE, marker="o", markersize=4, label=f"super-net, {100 * level:g} % interval")
    for (name, tau), (colour, dashes) in zip((references or {}).items(), itertools.cycle(REFERENCE_LINES)):
        axes.axhline(tau, color=colour, linestyle=dashes, linewidth=1.6, label=f"{name}: {tau:.3f}")
    _set_title(axes, title)
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    return figure


def paired_taus(
    taus: Mapping[str, ArrayLike],
    intervals: Mapping[str, tuple[float, float]],
    *,
    title: str,
    level: float = 0.95,
    references: Mapping[str, float] | None = None,
) -> Figure:
    """Kendall's tau of the same seeds under several variants: a column each, a thin line through each seed's points.

    Args:
      taus: variant -> [num_seeds], seeds in one order.
      intervals: variant -> (low, high) around its mean, of confidence `level`.
      references: name -> tau, horizontal lines.
    """
    values = np.stack([np.asarray(row, np.float64) for row in taus.values()])  # [num_variants, num_seeds]
    means, columns = values.mean(axis=1), np.arange(len(values))
    low, high = np.transpose([intervals[name] for name in taus])
    figure = Figure(figsize=(WIDTH, 0.65 * WIDTH), dpi=DPI, layout="constrained")
    axes = _axes(figure.subplots(), "", "Kendall's τ")
    axes.plot(columns, values, color="#999999", linewidth=0.8, marker="o", markersize=3, zorder=2)
    axes.vlines(columns, low, high, color=BLUE, linewidth=2, zorder=3)
    label = f"mean, {100 * level:g} % interval over seeds and architectures"
    axes.plot(columns, means, color=BLUE, linestyle="none", marker="D", markersize=7, zorder=4, label=label)
    for column, mean in zip(columns, means):
        axes.annotate(f"{mean:.3f}", (column, mean), xytext=(8, 0), textcoords="offset points", va="center", fontsize=9)
    for (name, tau), (colour, dashes) in zip((references or {}).items(), itertools.cycle(REFERENCE_LINES)):
        axes.axhline(tau, color=colour, linestyle=dashes, linewidth=1.6, label=f"{name}: {tau:.3f}")
    axes.set_xticks(columns, list(taus))
    axes.set_xlim(-0.4, len(values) - 0.4)
    _set_title(axes, title)
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    return figure


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
    figure = Figure(figsize=(WIDTH, 0.9 * WIDTH), dpi=DPI, layout="constrained")
    upper, lower = figure.subplots(2, sharex=True, height_ratios=(3, 2))
    steps = np.arange(1, len(potentials) + 1)
    _axes(upper, "", potential_label)
    for step, of_step, kept in zip(steps, potentials, num_kept, strict=True):
        ordered = np.sort(np.asarray(of_step, np.float64))[::-1]
        first = step == 1
        upper.scatter(np.full(len(ordered) - kept, step), ordered[kept:], s=18, color="#999999", marker="x",
                      linewidths=0.9, label="candidate dropped" if first else None)  # fmt: skip
        upper.scatter(
            np.full(kept, step), ordered[:kept], s=18, color=BLUE, label="kept in the pool" if first else None
        )
    upper.legend(frameon=False, fontsize=9)
    _axes(lower, "step of the search", "share of the space left")
    lower.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    lower.plot(np.append(0, steps), np.append(1.0, np.asarray(shares)), color=BLUE, marker="o", markersize=4)
    lower.set_yscale("log")
    _set_title(upper, title)
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
    figure = Figure(figsize=(WIDTH, 0.75 * WIDTH), dpi=DPI, layout="constrained")
    axes = _axes(figure.subplots(), cost_label, "regret (percentage points of accuracy)")
    axes.xaxis.set_major_formatter(EngFormatter())
    styles = itertools.cycle(((BLUE, "-"), *REFERENCE_LINES))
    for (name, (costs, *regrets)), (colour, dashes) in zip(curves.items(), styles):
        middle, lows, highs = (100 * np.asarray(values, np.float64) for values in regrets)
        axes.fill_between(costs, lows, highs, step="post", color=colour, alpha=0.12, linewidth=0)
        axes.step(costs, middle, where="post", color=colour, linestyle=dashes, linewidth=1.8, label=name)
    for (name, regret), dashes in zip((references or {}).items(), itertools.cycle((":", "--"))):
        axes.axhline(100 * regret, color="#666666", linestyle=dashes, linewidth=1.2, label=name)
    lines = [*(regrets for _, regrets, *_ in curves.values()), *([regret] for regret in (references or {}).values())]
    axes.set_ylim(0, 200 * max(float(np.max(line)) for line in lines) or None)  # bands of few seeds go beyond
    _set_title(axes, f"{title}\nbands: {100 * level:g} % intervals over seeds")
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    return figure


def cost_growth(
    curves: Mapping[str, tuple[ArrayLike, ArrayLike]], *, title: str, count_label: str, cost_label: str = "seconds"
) -> Figure:
    """Cost over count on logarithmic axes, a line for each of `curves`: name -> (counts, costs), all positive.

    The legend says the slope of each: 1 where cost grows in proportion, less where something is shared.
    """
    figure = Figure(figsize=(WIDTH, 0.75 * WIDTH), dpi=DPI, layout="constrained")
    axes = _axes(figure.subplots(), count_label, cost_label)
    styles = itertools.cycle(((BLUE, "-"), *REFERENCE_LINES))
    for (name, (counts, costs)), (colour, dashes) in zip(curves.items(), styles):
        label = f"{name}, slope {growth(counts, costs):.2f}"
        axes.plot(counts, costs, marker="o", markersize=4, color=colour, linestyle=dashes, label=label)
    axes.set(xscale="log", yscale="log")
    axes.set_title(textwrap.fill(title, 60))
    axes.legend(frameon=False)
    return figure


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
    figure = Figure(figsize=(WIDTH, 0.9 + 1.7 * len(panels)), dpi=DPI, layout="constrained")
    all_axes = figure.subplots(len(panels), sharex=True, squeeze=False)[:, 0]
    ticks = np.unique(np.concatenate([np.asarray(of_series) for of_series in sizes.values()]))
    for axes, (label, panel) in zip(all_axes, panels.items()):
        _axes(axes, size_label if axes is all_axes[-1] else "", label)
        axes.set_xscale("log")
        axes.set_xticks(ticks, [f"{size:,.0f}" if size < 1e5 else f"{size:.1g}" for size in ticks])
        axes.minorticks_off()
        styles = zip(((BLUE, "o"), ("#D55E00", "D")), panel.series.items())
        for (colour, marker), (name, (values, lows, highs)) in styles:
            axes.vlines(sizes[name], lows, highs, color=colour, linewidth=1.4)
            axes.plot(sizes[name], values, color=colour, marker=marker, markersize=5, linewidth=1.4, label=name)
        for name, value in panel.references.items():
            axes.axhline(value, color="#009E73", linestyle="-.", linewidth=1.4, label=name)
        axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    _set_title(all_axes[0], title)
    figure.align_ylabels()
    return figure


def growth(counts: ArrayLike, costs: ArrayLike) -> float:
    """The exponent of a power law through costs over counts: the slope of the line through their logarithms."""
    return float(np.polyfit(np.log(np.asarray(counts, float)), np.log(np.asarray(costs, float)), 1)[0])


def forest(
    effects: Mapping[str, tuple[float, float, float]],
    *,
    title: str,
    label: str,
    points: Mapping[str, ArrayLike] | None = None,
    level: float = 0.95,
) -> Figure:
    """A row for each of `effects`, name -> (effect, low, high), from top to bottom around a line at zero, the base.

    [low, high] is an interval of confidence `level`; where it leaves out zero the row is filled, else hollow. `points`,
    name -> [num_seeds], are single measurements behind it. `label` says what the effect is, with its unit.
    """
    figure = Figure(figsize=(WIDTH, 1.3 + 0.32 * len(effects)), dpi=DPI, layout="constrained")
    axes = _axes(figure.subplots(), label, "")
    axes.axvline(0, color="black", linewidth=1)
    for row, (name, (effect, low, high)) in enumerate(effects.items()):
        single = np.asarray((points or {}).get(name, ()), np.float64)
        axes.plot(single, np.full(single.shape, row), color="#666666", linestyle="none", marker="|", markersize=8)
        axes.hlines(row, low, high, color=BLUE, linewidth=2)
        is_clear = low > 0 or high < 0
        axes.plot(effect, row, color=BLUE, marker="D", markersize=6, markerfacecolor=BLUE if is_clear else "white")
    axes.set_yticks(range(len(effects)), list(effects))
    axes.set_ylim(max(1, len(effects)) - 0.5, -0.5)
    note = f"{100 * level:g} % intervals, filled where without zero" + ("; | single seeds" if points else "")
    lines = [textwrap.fill(line, width=78) for line in (title, note)]  # over the rows' names too, which may be long
    figure.suptitle("\n".join(lines), x=0.01, horizontalalignment="left", fontsize=10)
    return figure


def save_figure(figure: Figure, path: str | os.PathLike) -> None:
    """Write `figure` to `path`, whole or not at all, in the format of its suffix: .png, .pdf or .svg.

    Raises an OSError where the file cannot be written, a ValueError for another suffix.
    """
    path, content = Path(path), io.BytesIO()
    figure.savefig(content, format=path.suffix[1:])
    replace_file(path, content.getvalue())


def _axes(axes: Axes, x_label: str, y_label: str) -> Axes:
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#e5e5e5", linewidth=0.8)
    axes.set_axisbelow(True)
    return axes


def _set_title(axes: Axes, text: str) -> None:
    lines = [textwrap.fill(line, width=78) for line in text.splitlines()]
    axes.set_title("\n".join(lines), loc="left", fontsize=10)


def _within_fences(values: np.ndarray) -> np.ndarray:
    """Values farther than three interquartile ranges outside the quartiles, moved to that distance; same shape."""
    lower, upper = np.quantile(values, [0.25, 0.75])
    reach = 3 * (upper - lower)
    return np.clip(values, lower - reach, upper + reach) if reach else values
