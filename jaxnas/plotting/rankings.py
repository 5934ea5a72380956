"""How rankings agree with the truth: scatters, correlations over training, paired variants, forests."""

import textwrap
from collections.abc import Mapping

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator
from numpy.typing import ArrayLike

from jaxnas.plotting.figure import BLUE, DARK_GREY, GREY, WIDTH, axes_of, draw_references, new_figure, set_title


def rank_scatter(
    scores: ArrayLike,
    truth: ArrayLike,
    *,
    title: str,
    score_label: str,
    truth_label: str,
    tau: tuple[float, float, float],
    level: float = 0.95,
    macs: ArrayLike | None = None,
) -> Figure:
    """A point for each architecture: `truth` [num_archs] over `scores` [num_archs]; higher is better in both.

    The labels should say the unit. `tau`, (value, low, high) with an interval of confidence `level`, stands under the
    title.
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
    figure = new_figure(0.75 * WIDTH)
    axes = axes_of(figure.subplots(), score_label, truth_label)
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
    value, low, high = tau
    interval = (
        f"Kendall's τ = {value:.3f}, {100 * level:g} % interval [{low:.3f}, {high:.3f}]; {num_archs:,} architectures"
    )
    far = f"\n× at the edge: {is_far.sum():,} architectures that lie farther out" if is_far.any() else ""
    set_title(axes, f"{title}\n{interval}{far}")
    return figure


def _within_fences(values: np.ndarray) -> np.ndarray:
    """Values farther than three interquartile ranges outside the quartiles, moved to that distance; same shape."""
    lower, upper = np.quantile(values, [0.25, 0.75])
    reach = 3 * (upper - lower)
    return np.clip(values, lower - reach, upper + reach) if reach else values


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
    figure = new_figure(0.65 * WIDTH)
    axes = axes_of(figure.subplots(), "training step", "Kendall's τ")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.fill_between(steps, lows, highs, color=BLUE, alpha=0.2, linewidth=0)
    axes.vlines(steps, lows, highs, color=BLUE, linewidth=1)  # a band over one evaluation has no width
    axes.plot(steps, taus, color=BLUE, marker="o", markersize=4, label=f"super-net, {100 * level:g} % interval")
    draw_references(axes, references)
    set_title(axes, title)
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
    figure = new_figure(0.65 * WIDTH)
    axes = axes_of(figure.subplots(), "", "Kendall's τ")
    axes.plot(columns, values, color=GREY, linewidth=0.8, marker="o", markersize=3, zorder=2)
    axes.vlines(columns, low, high, color=BLUE, linewidth=2, zorder=3)
    label = f"mean, {100 * level:g} % interval over seeds and architectures"
    axes.plot(columns, means, color=BLUE, linestyle="none", marker="D", markersize=7, zorder=4, label=label)
    for column, mean in zip(columns, means):
        axes.annotate(f"{mean:.3f}", (column, mean), xytext=(8, 0), textcoords="offset points", va="center", fontsize=9)
    draw_references(axes, references)
    axes.set_xticks(columns, list(taus))
    axes.set_xlim(-0.4, len(values) - 0.4)
    set_title(axes, title)
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    return figure


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
    figure = new_figure(1.3 + 0.32 * len(effects))
    axes = axes_of(figure.subplots(), label, "")
    axes.axvline(0, color="black", linewidth=1)
    for row, (name, (effect, low, high)) in enumerate(effects.items()):
        single = np.asarray((points or {}).get(name, ()), np.float64)
        axes.plot(single, np.full(single.shape, row), color=DARK_GREY, linestyle="none", marker="|", markersize=8)
        axes.hlines(row, low, high, color=BLUE, linewidth=2)
        is_clear = low > 0 or high < 0
        axes.plot(effect, row, color=BLUE, marker="D", markersize=6, markerfacecolor=BLUE if is_clear else "white")
    axes.set_yticks(range(len(effects)), list(effects))
    axes.set_ylim(max(1, len(effects)) - 0.5, -0.5)
    note = f"{100 * level:g} % intervals, filled where without zero" + ("; | single seeds" if points else "")
    lines = [textwrap.fill(line, width=78) for line in (title, note)]  # over the rows' names too, which may be long
    figure.suptitle("\n".join(lines), x=0.01, horizontalalignment="left", fontsize=10)
    return figure
