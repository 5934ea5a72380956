"""Tables of one's own as CSV files, which any program writes: code,accuracy or code,accuracy,seed."""

import csv
import io
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxnas.codes import from_text, to_text
from jaxnas.files import read_file
from jaxnas.space import SearchSpace
from jaxnas.tables.format import Table, make_table

CODE_NAMES = ("code", "arch")  # the second as runs write it
EXPECTED = "code,accuracy or code,accuracy,seed"


class Column(NamedTuple):
    """A column of figures by key and repetition."""

    keys: list[Any]  # distinct, as they come
    repetitions: list[str]  # names of seeds or rounds, as they come; one empty name where the file has no such column
    figures: np.ndarray  # float64 [num_keys, num_repetitions], NaN where a key lacks one

    @property
    def values(self) -> np.ndarray:
        """[num_keys], or [num_keys, num_repetitions] where the file names repetitions."""
        return self.figures if self.repetitions != [""] else self.figures[:, 0]


def read_csv(path: str | os.PathLike[str], space: SearchSpace) -> Table:
    """A table from a CSV file in UTF-8 with the columns `code` (or `arch`), `accuracy` and, where a network was trained
    several times, `seed`, in any order; others are left out.

    A code is a text such as 0-2-1 (`jaxnas.codes.to_text`); an accuracy is a fraction of the test images, 0 to 1; a
    seed is any text. The table has `test_accuracy`, [num_archs], or [num_archs, num_seeds] with a column for each seed
    in the order in which the file names them, NaN where an architecture lacks one.

    Raises:
      ValueError: no such columns, a code that is none of the space, an accuracy that is no fraction, or an architecture
        that is there twice (with the same seed); the line is named.
      OSError: the file cannot be read.
    """
    (found,) = read_columns(path, code_keys(space), ["accuracy"], "seed", figure=_fraction, expected=EXPECTED).values()
    return make_table(
        space,
        from_text(space, found.keys),
        {"test_accuracy": found.values},
        units={"test_accuracy": "fraction"},
        provenance={"source": f"{path}, of the user", "licence": "the user's"}
        | ({"seeds": ", ".join(found.repetitions)} if found.repetitions != [""] else {}),
    )


def code_keys(space: SearchSpace) -> dict[str, Callable[[str], str]]:
    """The names of a column of codes, and what makes one spelling of them."""
    return dict.fromkeys(CODE_NAMES, lambda text: to_text(space, from_text(space, [text])[0]))


def header(path: str | os.PathLike[str]) -> list[str]:
    """The names in the first line of a CSV file."""
    return _lines(path, "a CSV file")[0]


def read_columns(
    path: str | os.PathLike[str],
    keys: Mapping[str, Callable[[str], Any]],
    names: Sequence[str],
    repetition: str,
    *,
    figure: Callable[[str | None, str, str], float],
    expected: str,
) -> dict[str, Column]:
    """Columns of figures by name.

    Args:
      keys: names that the column of keys may have, and what reads a key, with a ValueError where it is none.
      names: of the columns.
      repetition: name of a further column, of seeds or rounds, which the file may lack.
      figure: (text, name, where it stands) -> the number, with a ValueError where it is none.
      expected: what the first line should be, for messages.
    """
    there, lines = _lines(path, expected)
    key_name = next((name for name in keys if name in there), None)
    if key_name is None or not set(names) <= set(there):
        raise ValueError(f"{path}: its first line names {', '.join(there) or 'nothing'}, expected {expected}.")
    found: dict[Any, dict[str, list[float]]] = {}
    for line in lines:
        where = f"{path}, line {lines.line_num}"
        text, number = (line[key_name] or "").strip(), (line.get(repetition) or "").strip()
        if repetition in there and not number:
            raise ValueError(f"{where}: no {repetition}; give each line one, or leave out that column.")
        try:
            key = keys[key_name](text)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None
        of_key = found.setdefault(key, {})
        if number in of_key:
            with_it = f" with {repetition} {number}" if number else ""
            raise ValueError(f"{where}: {text} is there twice{with_it}; expected it once.")
        of_key[number] = [figure(line[name], name, where) for name in names]
    if not found:
        raise ValueError(f"{path}: no line with a {next(iter(keys))}; expected {expected}.")
    numbers = list(dict.fromkeys(number for of_key in found.values() for number in of_key))
    nothing = [np.nan] * len(names)
    figures = np.array([[of_key.get(number, nothing) for number in numbers] for of_key in found.values()])
    return {name: Column(list(found), numbers, figures[:, :, place]) for place, name in enumerate(names)}


def _lines(path: str | os.PathLike[str], expected: str) -> "tuple[list[str], csv.DictReader[str]]":
    try:
        text = read_file(path).decode("utf-8-sig")  # spreadsheets put a mark in front
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: no text in UTF-8 at byte {error.start}; expected {expected}.") from None
    lines = csv.DictReader(io.StringIO(text))
    lines.fieldnames = [name.strip() for name in lines.fieldnames or ()]
    return list(lines.fieldnames), lines


def _fraction(text: str | None, name: str, where: str) -> float:
    try:
        value = float(text or "")
    except ValueError:
        raise ValueError(f"{where}: the {name} is {text!r}, expected a number of 0 to 1.") from None
    if not 0 <= value <= 1:
        hint = ", a fraction: divide percents by 100" if 1 < value <= 100 else ""
        raise ValueError(f"{where}: the {name} is {text}, expected 0 to 1{hint}.")
    return value
