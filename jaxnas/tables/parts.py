"""Long conversions in parts: each is written whole as soon as it is read, so that a killed one goes on from there."""

import contextlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from tqdm import tqdm

from jaxnas.files import open_arrays, read_file, replace_file, seal_arrays

Arrays = dict[str, np.ndarray]


def collect(
    folder: Path, source: str, read_from: Callable[[int], Iterator[tuple[int, Arrays]]], *, end: int, progress: bool
) -> Arrays:
    """All parts of a source, each array concatenated along its first axis.

    Args:
      folder: where the parts are kept; made if it isn't there, and left in place: see `remove_parts`.
      source: what identifies the source, such as its checksum. Parts of another one, say of a download that turned out
        to be damaged, are dropped.
      read_from: position -> (position after the part, arrays), until `end`; starts at 0 or where saved parts end.
      progress: show a bar.
    """
    label = folder / "source.txt"
    if label.is_file() and label.read_text(encoding="utf-8") != source:
        remove_parts(folder)
    folder.mkdir(parents=True, exist_ok=True)
    replace_file(label, source.encode())
    parts: list[Arrays] = []
    position = 0
    while (part := _load(folder, source, position)) is not None:
        position, arrays = part
        parts.append(arrays)
    with tqdm(total=end, initial=position, unit_scale=True, disable=not progress) as bar:
        for next_position, arrays in read_from(position) if position < end else ():
            meta = {"source": source, "position": position, "next_position": next_position}
            replace_file(_path(folder, position), seal_arrays(meta, arrays))
            bar.update(next_position - position)
            position = next_position
            parts.append(arrays)
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]} if parts else {}


def remove_parts(folder: Path) -> None:
    """To be called once what was made of them is safe."""
    shutil.rmtree(folder)


def _path(folder: Path, position: int) -> Path:
    return folder / f"{position:015d}.npz"


def _load(folder: Path, source: str, position: int) -> tuple[int, Arrays] | None:
    """The position after the part and its arrays; None where there is no such part, a damaged one or one of another
    place or source, which is then read again."""
    with contextlib.suppress(OSError, ValueError):
        meta, arrays = open_arrays(read_file(_path(folder, position)))
        next_position = meta.pop("next_position", None)
        if meta == {"source": source, "position": position} and isinstance(next_position, int):
            return next_position, arrays
    return None


def by_seed(
    rows: np.ndarray, epochs: np.ndarray, seeds: np.ndarray, values: dict[str, np.ndarray], num_archs: int
) -> tuple[Arrays, str]:
    """From one line per training run to columns [num_archs, num_seeds], NaN where a run is missing.

    Args:
      rows, epochs, seeds: int [num_runs], the architecture, length and seed of each run.
      values: name -> [num_runs].

    Returns:
      columns: the longest training under the names given, others with the prefix `ep{epochs}_`.
      seeds: in words, which seed is which column: "ep12: 777; ep200: 777, 888".

    Raises:
      ValueError: an architecture has the same run twice.
    """
    columns, words = {}, []
    for length in np.unique(epochs):
        own = epochs == length
        known, places = np.unique(seeds[own], return_inverse=True)
        cells = rows[own] * len(known) + places
        if len(np.unique(cells)) < len(cells):
            raise ValueError(f"an architecture has two runs of {length} epochs with one seed.")
        prefix = "" if length == epochs.max() else f"ep{length}_"
        for name, of_run in values.items():
            column = np.full((num_archs, len(known)), np.nan, np.float32)
            column[rows[own], places] = of_run[own]
            columns[prefix + name] = column
        words.append(f"ep{length}: {', '.join(map(str, known))}")
    return columns, "; ".join(words)
