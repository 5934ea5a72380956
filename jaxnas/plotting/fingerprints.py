"""What fingerprints carry: tables of correlations, and the pictures that tell architectures apart."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from jaxnas.plotting.figure import BLUE, VERMILION, WIDTH, draw_picture, new_figure, wrapped


def correlations(panels: Mapping[str, ArrayLike], rows: Sequence[str], columns: Sequence[str], *, title: str) -> Figure:
    """Tables side by side, a cell for each correlation with its number, from vermilion at -1 over white to blue at 1.

    Args:
      panels: name -> [num_rows, num_columns], in [-1, 1]; nan: an empty cell.
      rows, columns: their names, the same in all panels.
    """
    lines = wrapped(title)
    figure = new_figure(0.9 + 0.27 * len(rows) + 0.2 * len(lines))
    figure.suptitle("\n".join(lines), fontsize=10, x=0.01, ha="left")
    colours = LinearSegmentedColormap.from_list("signed", (VERMILION, "white", BLUE))
    all_axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    size = min(8.0, 2.1 * 72 * (WIDTH - 1.6) / len(panels) / len(columns) / 5)  # of a number of five letters
    for axes, (name, panel) in zip(all_axes, panels.items(), strict=True):
        values = np.asarray(panel, np.float64)
        if values.shape != (len(rows), len(columns)):
            raise ValueError(f"{name}: shape {values.shape}, expected ({len(rows)}, {len(columns)}), rows and columns.")
        axes.imshow(values, cmap=colours, vmin=-1, vmax=1, aspect="auto")
        for (row, column), value in np.ndenumerate(values):
            if np.isfinite(value):
                colour = "white" if abs(value) > 0.6 else "black"
                text = f"{value:z.2f}"
                axes.text(column, row, text, ha="center", va="center", fontsize=size, color=colour)
        axes.set_xticks(range(len(columns)), columns, fontsize=8)
        axes.set_yticks(range(len(rows)), rows, fontsize=8)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        axes.set_title(name, fontsize=9)
    return figure


def pictures(
    groups: Mapping[str, Sequence[np.ndarray]], captions: Mapping[str, Sequence[str]], *, title: str, columns: int = 8
) -> Figure:
    """Pictures with a caption above each, so many in a row; a name before each group.

    Args:
      groups: name -> pictures uint8 [height, width, channels] of 1 or 3 channels.
      captions: the same names -> a short text for each picture; all of as many lines.
    """
    rows = [-(-len(images) // columns) for images in groups.values()]
    num_lines = max((text.count("\n") + 1 for texts in captions.values() for text in texts), default=0)
    heights = [0.25 + number * (0.85 * WIDTH / columns + 0.12 * num_lines) for number in rows]  # inches
    lines = wrapped(title)
    figure = new_figure(sum(heights) + 0.2 * len(lines) + 0.05)
    figure.suptitle("\n".join(lines), fontsize=10, x=0.01, ha="left")
    parts = figure.subfigures(len(groups), 1, squeeze=False, height_ratios=heights)[:, 0]
    for part, number, (name, images) in zip(parts, rows, groups.items()):
        part.suptitle(name, fontsize=9, x=0.01, ha="left")
        for place, (image, caption) in enumerate(zip(images, captions[name], strict=True), 1):
            axes = draw_picture(part.add_subplot(number, columns, place), image)
            axes.set_title(caption, fontsize=7 if columns <= 8 else 6, pad=2)
    return figure
