"""CSV files: tables of results, and a training's metrics, whose truth a checkpoint holds."""

import csv
import io
import os
from collections.abc import Callable, Mapping, Sequence
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any

from jaxnas.files import replace_file
from jaxnas.runs.tracking import follow


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """A CSV file of rows that have the first one's keys; floats to eight digits."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({key: f"{value:.8g}" if isinstance(value, float) else value for key, value in row.items()})
    replace_file(path, text.getvalue().encode())


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file, all values as text.

    Raises:
      ValueError: it is no CSV in UTF-8 of rows that are as long as the first.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            columns, *rows = list(csv.reader(file, strict=True)) or [[]]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path}: no CSV file of rows ({error}); delete it and make it again.") from None
    for number, row in enumerate(rows, start=2):
        if len(row) != len(columns):
            raise ValueError(
                f"{path}: row {number} has {len(row)} values, expected {len(columns)} ({', '.join(columns)}); delete it"
                " and make it again."
            )
    return [dict(zip(columns, row, strict=True)) for row in rows]


def csv_metrics(path: str | os.PathLike[str], *, known: str = "") -> Callable[[Mapping[str, Any]], str]:
    """Return `write(row)`, which appends one row of numbers, `{"step": 10, "loss": 2.3}`, to the CSV at `path`, and
    returns all of its text.

    The first row fixes the columns, and each row is in the file when `write` returns. Keep the text beside the weights
    (`checkpoint.save(..., notes=text)`) and give it back as `known`: the file is then cut after it, so that a resumed
    one equals an uninterrupted one. A file that is gone is written again.

    Raises:
      ValueError: the file does not begin with `known`: it was edited or cut, and says something that was not measured.
        Or a row lacks `step` or has other columns than the first.
    """
    path, text = Path(path), known
    columns = next(csv.reader(known.splitlines()), None)
    _cut(path, known)
    tell = follow(path)  # a tracker, if there is one
    for told in metrics_of(known):
        tell(told)

    def write(row: Mapping[str, Any]) -> str:
        nonlocal columns, text
        if "step" not in row:
            raise ValueError(f"{path}: a row of metrics has {list(row)}, expected a 'step' among them.")
        header = [] if columns else [list(row)]
        columns = columns or list(row)
        if set(row) != set(columns):
            raise ValueError(f"{path}: a row of metrics has {list(row)}, expected the columns of the first, {columns}.")
        values = [int(row[name]) if name == "step" else float(row[name]) for name in columns]
        added = io.StringIO()
        csv.writer(added, lineterminator="\n").writerows([*header, values])
        with path.open("a", newline="", encoding="utf-8") as file:
            file.write(added.getvalue())
        text += added.getvalue()
        tell(row)
        return text

    return write


def metrics_of(text: str) -> list[dict[str, float]]:
    """The rows of a text that `csv_metrics` wrote."""
    return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(text.splitlines())]


def _cut(path: Path, known: str) -> None:
    """See to it that the file holds what is known, and nothing else; what a killed process wrote later is dropped."""
    expected = known.encode()
    found = path.read_bytes() if path.exists() else b""
    lines = zip_longest(found.split(b"\n"), expected.split(b"\n")[:-1], fillvalue=b"")
    for number, (there, here) in enumerate(islice(lines, expected.count(b"\n")), start=1):
        if found and there != here:
            raise ValueError(
                f"{path}: line {number} is {there.decode(errors='replace')!r:.200}, but was {here.decode()!r:.200} when"
                " the checkpoint was made; delete this file, and the same command writes it again."
            )
    if known and found != expected:
        replace_file(path, expected)
    elif found and not known:
        if b"step" not in found.split(b"\n")[0].split(b","):
            raise ValueError(f"{path}: not a CSV of metrics with a step column; move it away, or use another folder.")
        path.unlink()
