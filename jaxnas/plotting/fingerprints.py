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
                axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=size, color=colour)
        axes.set_xticks(range(len(columns)), columns, fontsize=8)
        axes.set_yticks(range(len(rows)), rows, fontsize=8)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        axes.set_title(name, fontsize=9)
    return figure


def pictures(
    groups: Mapping[str, Sequence[np.ndarray]], captions: Mapping[str, Sequence[str]], *, title: str
) -> Figure:
    """Rows of pictures with a caption above each; a name before the row.

    Args:
      groups: name -> pictures uint8 [height, width, channels] of 1 or 3 channels.
      captions: the same names -> a short text for each picture.
    """
    columns, lines = max(map(len, groups.values())), wrapped(title)
    figure = new_figure(len(groups) * (WIDTH / columns + 0.45) + 0.2 * len(lines) + 0.1)
    figure.suptitle("\n".join(lines), fontsize=10, x=0.01, ha="left")
    parts = figure.subfigures(len(groups), 1, squeeze=False)[:, 0]
    for part, (name, images) in zip(parts, groups.items()):
        part.suptitle(name, fontsize=9, x=0.01, ha="left")
        for place, (image, caption) in enumerate(zip(images, captions[name], strict=True), 1):
            axes = draw_picture(part.add_subplot(1, columns, place), image)
            axes.set_title(caption, fontsize=7, pad=2)
    return figure
