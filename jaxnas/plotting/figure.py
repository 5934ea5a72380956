"""What all figures have in common: size, colours, axes, reference lines, titles, files."""

import io
import itertools
import os
import textwrap
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from jaxnas.files import replace_file

BLUE, VERMILION, GREEN, PURPLE, ORANGE = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00"
GREY, DARK_GREY, PALE_GREY = "#999999", "#666666", "#e5e5e5"
COLOURS = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, DARK_GREY)  # of things told apart, in this order
REFERENCE_LINES = ((VERMILION, "--"), (GREEN, "-."), (PURPLE, ":"), (ORANGE, (0, (8, 3))))  # colour, dashes
WIDTH = 6.4  # inches


def save_figure(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Write `figure` to `path`, whole or not at all, in the format of its suffix: .png, .pdf or .svg.

    Raises an OSError where the file cannot be written, a ValueError for another suffix.
    """
    path, content = Path(path), io.BytesIO()
    figure.savefig(content, format=path.suffix[1:])
    replace_file(path, content.getvalue())


def new_figure(height: float) -> Figure:
    """An empty figure of the width that all have, and `height` inches."""
    return Figure(figsize=(WIDTH, height), dpi=160, layout="constrained")


def grid_figure(rows: int, columns: int, title: str) -> Figure:
    """An empty figure for square pictures in rows and columns, under a title."""
    lines = wrapped(title)
    figure = new_figure(WIDTH * rows / columns + 0.2 * len(lines) + 0.2)
    figure.suptitle("\n".join(lines), fontsize=10, x=0.01, ha="left")
    return figure


def draw_picture(axes: Axes, image: np.ndarray) -> Axes:
    """Draw uint8 [height, width, channels] of 1 or 3 channels."""
    grey = image.shape[-1] == 1
    axes.imshow(image[..., 0] if grey else image, cmap="gray" if grey else None, vmin=0, vmax=255)
    axes.set_axis_off()
    return axes


def axes_of(axes: Axes, x_label: str, y_label: str) -> Axes:
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color=PALE_GREY, linewidth=0.8)
    axes.set_axisbelow(True)
    return axes


def set_title(axes: Axes, text: str) -> None:
    axes.set_title("\n".join(wrapped(text)), loc="left", fontsize=10)


def wrapped(text: str) -> list[str]:
    """The lines of a title, none too long for the picture."""
    return [part for line in text.splitlines() for part in textwrap.wrap(line, width=74)]


def set_legend(figure: Figure) -> None:
    """What is labelled in the axes, each name once, below them, where it hides nothing."""
    entries: dict[str, Artist] = {}
    for axes in figure.axes:
        handles, labels = axes.get_legend_handles_labels()
        entries.update(zip(labels, handles))
    names, half = list(entries), -(-len(entries) // 2)
    fits = sum(max(map(len, column), default=0) for column in (names[:half], names[half:])) <= 80  # letters
    figure.legend(list(entries.values()), names, loc="outside lower center", ncols=1 + fits, frameon=False, fontsize=9)


def counted(number: int, noun: str) -> str:
    """A number of things in words: `noun` is the singular, which takes an s.

    >>> counted(1, "architecture"), counted(6561, "architecture")
    ('1 architecture', '6,561 architectures')
    """
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def draw_references(axes: Axes, references: Mapping[str, float] | None) -> None:
    """A horizontal line for each of `references`, name -> value, which the legend states."""
    for (name, value), (colour, dashes) in zip((references or {}).items(), itertools.cycle(REFERENCE_LINES)):
        axes.axhline(value, color=colour, linestyle=dashes, linewidth=1.6, label=f"{name}: {value:.3f}")
