"""What all figures have in common: size, colours, axes, titles, files."""

import io
import os
import textwrap
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from jaxnas.files import replace_file

BLUE = "#0072B2"
REFERENCE_LINES = (("#D55E00", "--"), ("#009E73", "-."), ("#CC79A7", ":"), ("#E69F00", (0, (8, 3))))  # colour, dashes
WIDTH, DPI = 6.4, 160  # inches, pixels per inch


def save_figure(figure: Figure, path: str | os.PathLike) -> None:
    """Write `figure` to `path`, whole or not at all, in the format of its suffix: .png, .pdf or .svg.

    Raises an OSError where the file cannot be written, a ValueError for another suffix.
    """
    path, content = Path(path), io.BytesIO()
    figure.savefig(content, format=path.suffix[1:])
    replace_file(path, content.getvalue())


def axes_of(axes: Axes, x_label: str, y_label: str) -> Axes:
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#e5e5e5", linewidth=0.8)
    axes.set_axisbelow(True)
    return axes


def set_title(axes: Axes, text: str) -> None:
    lines = [textwrap.fill(line, width=78) for line in text.splitlines()]
    axes.set_title("\n".join(lines), loc="left", fontsize=10)
