"""An axis that is squeezed where few values lie, far from all others."""

from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, ScalarFormatter

from jaxnas.plotting.figure import PALE_GREY

STRIP = 0.12  # of a squeezed part's length over that of the part in the middle


def squeeze(axes: Axes, which: Literal["x", "y"], values: np.ndarray) -> np.ndarray:
    """Squeeze the axis beyond the far out of the finite `values` [num_values], which are drawn already, and shade it.

    Far out are those more than three interquartile ranges outside the quartiles (Tukey). Between the others the axis
    is linear, beyond them logarithmic in the distance. Returns which are far out, bool [num_values].
    """
    quartiles = np.quantile(values, [0.25, 0.75])
    reach = 3 * (quartiles[1] - quartiles[0])
    is_far = (values < quartiles[0] - reach) | (values > quartiles[1] + reach)
    if not reach or not is_far.any():
        return np.zeros(len(values), bool)
    near = values[~is_far]
    gap = 0.02 * (near.max() - near.min())
    ends = near.min() - gap, near.max() + gap
    span = ends[1] - ends[0]
    strips = []  # (end of the linear part, direction, length of the longest distance's logarithm)
    for end, sign, farthest in ((ends[0], -1, values.min()), (ends[1], 1, values.max())):
        strips.append((end, sign, np.log1p(max(sign * (farthest - end), span) / span)))

    def forward(at: np.ndarray) -> np.ndarray:
        at, result = np.asarray(at, np.float64), np.array(at, np.float64)
        for end, sign, length in strips:
            beyond = np.maximum(sign * (at - end), 0) / span
            result = np.where(beyond > 0, end + sign * STRIP * span * np.log1p(beyond) / length, result)
        return result

    def inverse(at: np.ndarray) -> np.ndarray:
        at, result = np.asarray(at, np.float64), np.array(at, np.float64)
        for end, sign, length in strips:
            beyond = np.maximum(sign * (at - end), 0) / (STRIP * span)
            result = np.where(beyond > 0, end + sign * span * np.expm1(np.minimum(beyond * length, 700)), result)
        return result

    axis = getattr(axes, f"{which}axis")
    ticks = MaxNLocator(8).tick_values(*ends)
    ticks = ticks[(ticks >= ends[0]) & (ticks <= ends[1])]
    formatter = ScalarFormatter(useOffset=False)
    formatter.set_scientific(False)
    formatter.axis = axis
    labels = dict(zip(ticks.tolist(), formatter.format_ticks(ticks)))
    getattr(axes, f"set_{which}scale")("function", functions=(forward, inverse))
    least, most = forward(values.min()), forward(values.max())
    low, high = inverse(np.stack([least, most]) + 0.02 * (most - least) * np.array([-1, 1]))
    for (end, sign, _), farthest, limit in zip(strips, (values.min(), values.max()), (low, high)):
        if sign * (farthest - end) > 0 and is_far[values == farthest].any():
            getattr(axes, f"ax{'v' if which == 'x' else 'h'}span")(end, limit, color=PALE_GREY, linewidth=0, zorder=0)
            labels[float(farthest)] = f"{farthest:.3g}".replace("-", "\N{MINUS SIGN}")
    axis.set_ticks(list(labels), list(labels.values()))
    getattr(axes, f"set_{which}lim")(low, high)
    return is_far
