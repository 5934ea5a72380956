"""CSV files: tables of results, and a training's metrics, which resume exactly."""

import csv
import io
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxnas.files import replace_file


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """A CSV file of rows that have the first one's keys; floats to eight digits."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({key: f"{value:.8g}" if isinstance(value, float) else value for key, value in row.items()})
    replace_file(path, text.getvalue().encode())


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file, all values as text."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def csv_metrics(path: str | os.PathLike[str], *, resume_step: int = 0) -> Callable[[Mapping[str, Any]], None]:
    """Return `write(row)`, which appends one row of numbers, `{"step": 10, "loss": 2.3}`, to the CSV at `path`.

    The first row fixes the columns, and each row is in the file when `write` returns. Rows of `resume_step` and later,
    and a last row that a killed process left half-written, are dropped first, so a resumed file equals an uninterrupted
    one: pass the step that `restore_latest` gave; 0 starts afresh.

    Raises:
      ValueError: `path` holds something else; a row lacks `step` or has other columns than the first.
    """
    path = Path(path)
    columns = _rewind(path, resume_step)

    def write(row: Mapping[str, Any]) -> None:
        nonlocal columns
        if "step" not in row:
            raise ValueError(f"{path}: a row of metrics has {list(row)}, expected a 'step' among them.")
        header = [] if columns else [list(row)]
        columns = columns or list(row)
        if set(row) != set(columns):
            raise ValueError(f"{path}: a row of metrics has {list(row)}, expected the columns of the first, {columns}.")
        values = [int(row[name]) if name == "step" else float(row[name]) for name in columns]
        with path.open("a", newline="") as file:
            file.write(_csv_text([*header, values]))

    return write


def _rewind(path: Path, resume_step: int) -> list[str] | None:
    """Drop rows of `resume_step` and later, and a half-written last one; return the columns, None if no row is left."""
    if not path.exists():
        return None
    whole, _, _ = path.read_text().rpartition("\n")
    columns, *rows = list(csv.reader(whole.splitlines())) or [["step"]]
    try:
        where = columns.index("step")
        rows = [row for row in rows if int(row[where]) < resume_step]
    except (ValueError, IndexError):
        raise ValueError(
            f"{path}: not a CSV of metrics with a step column; move it away, or use another folder."
        ) from None
    replace_file(path, _csv_text([columns, *rows] if rows else []).encode())
    return columns if rows else None


def _csv_text(rows: list[list[Any]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()
