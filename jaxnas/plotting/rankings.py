"""How rankings agree with the truth: scatters, correlations over training, paired variants, forests."""

from collections.abc import Mapping

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import EngFormatter, MaxNLocator
from numpy.typing import ArrayLike

from jaxnas.plotting.figure import (
    BLUE,
    DARK_GREY,
    GREY,
    WIDTH,
    axes_of,
    counted,
    draw_references,
    new_figure,
    set_legend,
    set_title,
    wrapped,
)
from jaxnas.plotting.squeezed import squeeze


def rank_scatter(
    scores: ArrayLike,
    truth: ArrayLike,
    *,
    title: str,
    score_label: str,
    truth_label: str,
    tau: tuple[float, float, float],
    num_supernets: int = 1,
    level: float = 0.95,
    macs: ArrayLike | None = None,
) -> Figure:
    """A point for each architecture: `truth` [num_archs] over `scores` [num_archs]; higher is better in both.

    The labels should say the unit. `tau`, (value, low, high) with an interval of confidence `level` over architectures,
    stands under the title; of several super-nets, whose mean score is drawn, it is the mean of each one's tau, and the
    interval is over them too. `macs` [num_archs], multiply-accumulates per image, colours the points. A few
    very bad architectures would squeeze all others into a corner: where some lie more than three interquartile ranges
    outside the quartiles (Tukey's "far out"), the axis is squeezed there instead. That part is shaded, its ticks are
    those of the farthest, and the title says how many lie in it; every point stands at its own values.
    """
    scores, truth = np.asarray(scores, np.float64), np.asarray(truth, np.float64)
    colours = None if macs is None else np.asarray(macs, np.float64)
    given = [array for array in (scores, truth, colours) if array is not None]
    if len({array.shape for array in given}) > 1 or scores.ndim != 1:
        shapes = [array.shape for array in given]
        raise ValueError(f"scores, truth, macs have shapes {shapes}, expected one shape, [num_archs].")
    if not all(np.isfinite(array).all() for array in given):
        raise ValueError("scores, truth or macs hold nan or inf, which have no place; leave such architectures out.")
    num_archs = len(scores)
    figure = new_figure(0.75 * WIDTH)
    axes = axes_of(figure.subplots(), score_label, truth_label)
    axes.margins(0.02)
    # Rows are in the order of codes, which goes with size: drawn as they come, the last would hide the others.
    rows = np.random.default_rng(0).permutation(num_archs)
    norm = None if colours is None else Normalize(colours.min(), colours.max())
    axes.scatter(
        scores[rows],
        truth[rows],
        c=BLUE if colours is None else colours[rows],
        norm=norm,
        s=np.clip(6000 / num_archs, 5, 24),
        alpha=np.clip(3000 / num_archs, 0.1, 0.9),
        linewidths=0,
        rasterized=True,
    )
    is_far = squeeze(axes, "x", scores) | squeeze(axes, "y", truth)
    if norm is not None:
        bar = figure.colorbar(ScalarMappable(norm), ax=axes, format=EngFormatter(), pad=0.02, aspect=30)
        bar.set_label("MACs per image")
        bar.outline.set_visible(False)
    value, low, high = tau
    whose, over = ("mean of their ", "super-nets and ") if num_supernets > 1 else ("", "")
    interval = f"{whose}Kendall's τ = {value:.3f}, {100 * level:g} % interval over {over}architectures"
    interval += f" [{low:.3f}, {high:.3f}]"
    far = f", {is_far.sum():,} of them far out: shaded, on a squeezed scale" if is_far.any() else ""
    set_title(axes, f"{title}\n{interval}\n{counted(num_archs, 'architecture')}{far}")
    return figure


def tau_over_training(
    steps: ArrayLike,
    taus: ArrayLike,
    lows: ArrayLike,
    highs: ArrayLike,
    *,
    title: str,
    level: float = 0.95,
    each: ArrayLike = (),
    references: Mapping[str, float] | None = None,
) -> Figure:
    """Kendall's tau of a super-net over training, or the mean of several; the four arrays are [num_evaluations].

    The band from `lows` to `highs` is the interval of confidence `level`, over architectures, and over super-nets where
    there are several. `each` [num_supernets, num_evaluations] are the taus behind a mean, thin lines. `references`,
    name -> tau, are horizontal lines: MACs only, a published super-net, the agreement of training seeds.
    """
    each, band = np.asarray(each, np.float64), f"{100 * level:g} % interval over"
    several = len(each) > 1
    figure = new_figure(0.65 * WIDTH)
    axes = axes_of(figure.subplots(), "training step", "Kendall's τ")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.fill_between(steps, lows, highs, color=BLUE, alpha=0.2, linewidth=0)
    axes.vlines(steps, lows, highs, color=BLUE, linewidth=1)  # a band over one evaluation has no width
    for row in each if several else ():
        axes.plot(steps, row, color=GREY, linewidth=0.8, label="each super-net")
    who = (
        f"mean of {len(each)} super-nets, {band} them and architectures"
        if several
        else f"one super-net, {band} architectures"
    )
    axes.plot(steps, taus, color=BLUE, marker="o", markersize=4, label=who)
    draw_references(axes, references)
    set_title(axes, title)
    set_legend(figure)
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
      taus: variant -> [num_seeds], seeds in one order. A name of several lines says what the variant is.
      intervals: variant -> (low, high) around its mean, of confidence `level`.
      references: name -> tau, horizontal lines.
    """
    values = np.stack([np.asarray(row, np.float64) for row in taus.values()])  # [num_variants, num_seeds]
    means, columns = values.mean(axis=1), np.arange(len(values))
    low, high = np.transpose([intervals[name] for name in taus])
    figure = new_figure(0.65 * WIDTH)
    axes = axes_of(figure.subplots(), "", "Kendall's τ")
    for seed in values.T:
        axes.plot(columns, seed, color=GREY, linewidth=0.8, marker="o", markersize=3, zorder=2, label="one seed")
    axes.vlines(columns, low, high, color=BLUE, linewidth=2, zorder=3)
    label = f"mean of {counted(values.shape[1], 'seed')}, {100 * level:g} % interval over seeds and architectures"
    axes.plot(columns, means, color=BLUE, linestyle="none", marker="D", markersize=7, zorder=4, label=label)
    for column, mean in zip(columns, means):
        text = axes.annotate(f"{mean:.3f}", (column, mean), xytext=(8, 0), textcoords="offset points", va="center")
        text.set(fontsize=9, zorder=5, path_effects=[withStroke(linewidth=2.5, foreground="white")])
    draw_references(axes, references)
    axes.set_xticks(columns, list(taus))
    axes.set_xlim(-0.4, len(values) - 0.4)
    set_title(axes, title)
    set_legend(figure)
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
    name -> [num_seeds], are single measurements behind it, below the bar. `label` says what the effect is, with its
    unit.
    """
    figure = new_figure(1.6 + 0.36 * max(1, len(effects)))
    axes = axes_of(figure.subplots(), label, "")
    axes.axvline(0, color="black", linewidth=1)
    for row, (name, (effect, low, high)) in enumerate(effects.items()):
        single = np.asarray((points or {}).get(name, ()), np.float64)
        axes.plot(
            single, np.full(single.shape, row + 0.27), color=DARK_GREY, linestyle="none", marker="|", markersize=6
        )
        axes.hlines(row, low, high, color=BLUE, linewidth=2)
        is_clear = low > 0 or high < 0
        axes.plot(effect, row, color=BLUE, marker="D", markersize=6, markerfacecolor=BLUE if is_clear else "white")
    axes.set_yticks(range(len(effects)), list(effects))
    axes.set_ylim(max(1, len(effects)) - 0.5, -0.5)
    axes.plot([], [], color=BLUE, marker="D", label=f"{100 * level:g} % interval without zero")
    axes.plot([], [], color=BLUE, marker="D", markerfacecolor="white", label="interval that holds zero")
    if points:
        axes.plot([], [], color=DARK_GREY, linestyle="none", marker="|", label="single seeds")
    figure.suptitle(
        "\n".join(wrapped(title)), x=0.01, horizontalalignment="left", fontsize=10
    )  # over the rows' names too, which may be long
    set_legend(figure)
    return figure
