"""Tables of one's own as CSV files, which any program writes: code,accuracy or code,accuracy,seed."""

import csv
import io
import os

import numpy as np

from jaxnas.codes import from_text, to_text
from jaxnas.files import read_file
from jaxnas.space import SearchSpace
from jaxnas.tables.format import Table, make_table

CODE_NAMES = ("code", "arch")  # the second as runs write it
EXPECTED = "code,accuracy or code,accuracy,seed"


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
    try:
        text = read_file(path).decode("utf-8-sig")  # spreadsheets put a mark in front
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: no text in UTF-8 at byte {error.start}; expected {EXPECTED}.") from None
    lines = csv.DictReader(io.StringIO(text))
    names = [name.strip() for name in lines.fieldnames or ()]
    lines.fieldnames = names
    code_name = next((name for name in CODE_NAMES if name in names), None)
    if code_name is None or "accuracy" not in names:
        raise ValueError(f"{path}: its first line names {', '.join(names) or 'nothing'}, expected {EXPECTED}.")
    found: dict[str, dict[str, float]] = {}  # text of a code -> seed -> accuracy
    for line in lines:
        where = f"{path}, line {lines.line_num}"
        code, seed = (line[code_name] or "").strip(), (line.get("seed") or "").strip()
        if "seed" in names and not seed:
            raise ValueError(f"{where}: no seed; give each line one, or leave out that column.")
        try:
            key = to_text(space, from_text(space, [code])[0])
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None
        of_code = found.setdefault(key, {})
        if seed in of_code:
            raise ValueError(f"{where}: {code} is there twice{f' with seed {seed}' if seed else ''}; expected it once.")
        of_code[seed] = _fraction(line["accuracy"], where)
    if not found:
        raise ValueError(f"{path}: no line with a code; expected {EXPECTED}.")
    seeds = list(dict.fromkeys(seed for of_code in found.values() for seed in of_code))
    accuracy = np.array([[of_code.get(seed, np.nan) for seed in seeds] for of_code in found.values()])
    return make_table(
        space,
        from_text(space, found),
        {"test_accuracy": accuracy if "seed" in names else accuracy[:, 0]},
        units={"test_accuracy": "fraction"},
        provenance={"source": f"{path}, of the user", "licence": "the user's"}
        | ({"seeds": ", ".join(seeds)} if "seed" in names else {}),
    )


def _fraction(text: str | None, where: str) -> float:
    try:
        value = float(text or "")
    except ValueError:
        raise ValueError(f"{where}: the accuracy is {text!r}, expected a number of 0 to 1.") from None
    if not 0 <= value <= 1:
        hint = ", a fraction: divide percents by 100" if 1 < value <= 100 else ""
        raise ValueError(f"{where}: the accuracy is {text}, expected 0 to 1{hint}.")
    return value
