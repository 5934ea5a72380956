"""Tables keyed by architecture code: what stand-alone training or a super-net gave each network.

A file is one compressed `.npz` without pickles: `archs`, one array per column, and `meta`, a JSON text with the
format's version, space, fingerprint, units, provenance and a SHA-256 over all of it. NumPy alone reads it:

    with np.load(path) as file:
        archs, accuracy, meta = file["archs"], file["test_accuracy"], json.loads(str(file["meta"]))

The same table gives the same bytes (for one version of zlib).
"""

import os
import re
import zipfile
from collections.abc import Mapping
from typing import NamedTuple

import chex
import numpy as np

from jaxnas.checks import Number, shown
from jaxnas.codes import check
from jaxnas.files import open_arrays, read_file, replace_file, seal_arrays
from jaxnas.space import SearchSpace

FORMAT = 1
RANGES = {"fraction": Number(0, 1), "count": Number(0), "index": Number(0), "ms": Number(0), "s": Number(0)}  # by unit
_META = ("format", "space", "fingerprint", "units", "provenance")


class Table(NamedTuple):
    """Figures of architectures, aligned by row. `make_table` builds a checked one.

    Attributes:
      space: name of the search space.
      fingerprint: `SearchSpace.fingerprint` of that space.
      archs: int32 [num_archs, num_choices], every code at most once.
      columns: name -> numbers [num_archs] or [num_archs, num_seeds], NaN where a seed is missing.
      units: name -> unit of each column: "fraction", "count", "nats", "ms", "s" and so on; for `RANGES` see there.
      provenance: how the figures came about, in words: source or command, seeds, versions.
    """

    space: str
    fingerprint: str
    archs: np.ndarray
    columns: dict[str, np.ndarray]
    units: dict[str, str]
    provenance: dict[str, str]


def make_table(
    space: SearchSpace,
    archs: chex.ArrayNumpy,
    columns: Mapping[str, chex.ArrayNumpy],
    *,
    units: Mapping[str, str],
    provenance: Mapping[str, str],
) -> Table:
    """Build a table of `space`; shapes as in `Table`.

    Raises:
      ValueError: a code outside the space or there twice, a column of another length or not of numbers, a column
        without a unit or a unit without a column, a figure that its unit does not allow, such as a fraction of 93.1.
    """
    archs = check(space, archs)
    for name, texts in (("units", units), ("provenance", provenance)):
        if not isinstance(texts, Mapping) or not all(isinstance(text, str) for pair in texts.items() for text in pair):
            raise ValueError(f"{space.name}: {name} of a table are {shown(texts)}, expected an object of texts.")
    arrays = {name: np.asarray(column) for name, column in columns.items()}
    table = Table(space.name, space.fingerprint, archs, arrays, dict(units), dict(provenance))
    _check_structure(table)
    return table


def write_table(path: str | os.PathLike[str], table: Table) -> None:
    """Write `table` to `path`, whole or not at all: what was there stays if anything fails.

    Raises:
      ValueError: the table is not well formed, see `make_table`.
      OSError: the file cannot be written.
    """
    _check_structure(table)
    replace_file(path, _encode(table))


def read_table(path: str | os.PathLike[str], space: SearchSpace) -> Table:
    """Read what `write_table` wrote for the same space.

    Raises:
      ValueError: the file is truncated, damaged, no such table, of another version or of another space.
      OSError: the file cannot be read.
    """
    return decode_table(read_file(path), space, source=str(path))


def is_table(path: str | os.PathLike[str]) -> bool:
    """Whether a file is there that claims to be a table of ours; it may be damaged."""
    try:
        with zipfile.ZipFile(path) as archive:
            return "meta.npy" in archive.namelist()
    except (OSError, zipfile.BadZipFile):
        return False


def decode_table(data: bytes, space: SearchSpace, *, source: str) -> Table:
    """`read_table` on the bytes of a file; `source` names it in errors."""
    try:
        meta, arrays = open_arrays(data)
        if missing := [name for name in ("archs", *_META) if name not in {**meta, **arrays}]:
            raise ValueError(f"it lacks {missing[0]}")
    except ValueError as error:
        raise ValueError(
            f"{source}: truncated, damaged or no table of jaxnas ({error}); delete it and make it again."
        ) from None
    version, name, fingerprint, units, provenance = (meta[entry] for entry in _META)
    archs = arrays.pop("archs")
    if version != FORMAT:
        raise ValueError(f"{source}: table format {shown(version)}, but this version of jaxnas reads format {FORMAT}.")
    if name != space.name:
        raise ValueError(f"{source}: a table of space {shown(name)}, expected {space.name!r}.")
    if fingerprint != space.fingerprint:
        raise ValueError(
            f"{source}: made for other operations of {name} (fingerprint {shown(fingerprint)}, expected"
            f" {space.fingerprint}); make it again."
        )
    try:
        return make_table(space, archs, arrays, units=units, provenance=provenance)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from None


def lookup(table: Table, archs: chex.ArrayNumpy, column: str) -> np.ndarray:
    """The figures of `archs` [num_archs, num_choices] in that order: [num_archs] or [num_archs, num_seeds].

    Raises:
      ValueError: the table has no such column, or not every architecture; the first missing one is named.
    """
    if column not in table.columns:
        raise ValueError(f"the table of {table.space} has no column {column!r}; it has {', '.join(table.columns)}.")
    codes = np.asarray(archs)
    if codes.ndim != 2 or codes.shape[1] != table.archs.shape[1] or not np.issubdtype(codes.dtype, np.integer):
        raise ValueError(
            f"{table.space}: archs are {codes.dtype} {codes.shape}, expected integers"
            f" [num_archs, {table.archs.shape[1]}]."
        )
    rows = {tuple(code): row for row, code in enumerate(table.archs.tolist())}
    found = [rows.get(tuple(code), -1) for code in codes.tolist()]
    if -1 in found:
        missing = found.index(-1)
        raise ValueError(
            f"the table of {table.space} ({len(rows)} architectures) lacks architecture {missing},"
            f" {codes[missing].tolist()}; `table.archs` are those that it has."
        )
    return table.columns[column][np.asarray(found, np.int64)]


def _check_structure(table: Table) -> None:
    archs, columns = table.archs, table.columns
    if archs.ndim != 2 or archs.dtype != np.int32:
        raise ValueError(
            f"{table.space}: archs are {archs.dtype} {archs.shape}, expected int32 [num_archs, num_choices]."
        )
    distinct, first_row, counts = np.unique(archs, axis=0, return_index=True, return_counts=True)
    if len(distinct) < len(archs):
        row = int(first_row[counts > 1].min())
        raise ValueError(f"{table.space}: architecture {row}, {archs[row].tolist()}, is in the table more than once.")
    for name, column in columns.items():
        if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or name in ("archs", "meta"):
            raise ValueError(f"column {name!r}: expected lower-case letters, digits and _, but not 'archs' or 'meta'.")
        if column.dtype.kind not in "biuf":
            raise ValueError(f"column {name!r} has dtype {column.dtype}, expected real numbers.")
        if column.ndim not in (1, 2) or len(column) != len(archs):
            raise ValueError(
                f"column {name!r} has shape {column.shape}, expected [{len(archs)}] or [{len(archs)}, num_seeds]."
            )
    if set(table.units) != set(columns):
        raise ValueError(f"units are for columns {sorted(table.units)}, but the columns are {sorted(columns)}.")
    for name, unit in table.units.items():
        if unit not in RANGES:
            continue
        column, (least, most, *_) = columns[name], RANGES[unit]
        if (wrong := (column < least) | (column > most) | np.isinf(column)).any():
            where = tuple(np.argwhere(wrong)[0].tolist())
            raise ValueError(
                f"column {name!r} in the unit {unit} has {column[where]} for architecture {archs[where[0]].tolist()},"
                f" expected {RANGES[unit]}, or NaN where nothing is known."
            )


def _encode(table: Table) -> bytes:
    about = (FORMAT, table.space, table.fingerprint, table.units, table.provenance)
    return seal_arrays(dict(zip(_META, about, strict=True)), {"archs": table.archs, **table.columns})
