"""Files that say what they are, checked when they are read: what was moved, copied, edited or cut is refused by name.

A sealed file carries its kind ("pool", "scores"), its origin and a checksum over both and its content. An origin is
what the file belongs to, flat: `{"run": identity, "seed": 0, "step": 600}`, where `runs.workdir.claim` gives the
identity of a run. JSON files are sealed as a whole; tables have checksum, space and codes anyway, and keep kind and
origin in their provenance.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import chex
import numpy as np

from jaxnas import tables
from jaxnas.files import checksum, decode_json, open_arrays, read_file, replace_file
from jaxnas.space import SearchSpace

Origin = Mapping[str, object]  # texts and whole numbers
NOWHERE: Origin = MappingProxyType({})
REMEDY = "delete it, and the same command makes it again"
_ENTRY = "file"  # of a table's provenance


def write_json(path: Path, kind: str, content: Any, origin: Origin) -> None:
    """Write `content`, which JSON can hold, with what it is; whole or not at all."""
    sealed = {"file": {"kind": kind, **origin}, "content": content}
    replace_file(path, (json.dumps(sealed | {"checksum": checksum(sealed)}, indent=1) + "\n").encode())


def read_json(path: Path, kind: str, origin: Origin, *, remedy: str = REMEDY) -> Any:
    """The content that `write_json` wrote to `path` for the same kind and origin.

    Raises:
      ValueError: damaged, edited, another kind or of another origin; says `remedy`.
    """
    try:
        sealed = decode_json(read_file(path))
        whole = sealed.pop("checksum") == checksum(sealed) and isinstance(sealed["file"], dict)
    except (ValueError, KeyError, TypeError, AttributeError):
        whole = False
    if not whole:
        raise ValueError(f"{path}: damaged, edited or no {kind} of a run; {remedy}.")
    check_origin(path, sealed["file"], kind, origin, remedy=remedy)
    return sealed["content"]


def write_table(path: Path, kind: str, table: tables.Table, origin: Origin) -> None:
    """`tables.write_table` with what it is."""
    about = json.dumps({"kind": kind, **origin}, sort_keys=True)
    tables.write_table(path, table._replace(provenance={**table.provenance, _ENTRY: about}))


def read_table(
    path: Path, kind: str, space: SearchSpace, archs: chex.ArrayNumpy | None, origin: Origin, *, remedy: str = REMEDY
) -> tables.Table:
    """What `write_table` wrote to `path` for the same kind, space, origin and codes `archs` [num_archs, num_choices] in
    this order; None: whichever.

    Raises:
      ValueError: damaged, edited, of other codes, of another space, kind or origin; says `remedy`.
    """
    try:
        table = tables.read_table(path, space)
    except ValueError as error:
        raise ValueError(f"{str(error).split('; delete it')[0].rstrip('.')}; {remedy}.") from None
    check_origin(path, about(table), kind, origin, remedy=remedy)
    if archs is not None and not np.array_equal(table.archs, archs):
        raise ValueError(f"{path}: holds other architectures than those asked for; {remedy}.")
    return table


def about(table: tables.Table) -> Origin:
    """Kind and origin of a table, empty of one that was not sealed."""
    try:
        found = decode_json(table.provenance.get(_ENTRY, "{}"))
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def run_of(path: Path) -> str | None:
    """The identity of the run that a file of JSON or a table says it belongs to; None of one that says nothing."""
    try:
        if path.suffix == ".npz":
            meta, _ = open_arrays(read_file(path))
            found = decode_json(meta["provenance"][_ENTRY])
        else:
            found = decode_json(read_file(path))
            found = found.get("file", found)
        return str(found["run"])
    except Exception:  # whatever it is, it says nothing
        return None


def check_origin(path: Path, found: Origin, kind: str, origin: Origin, *, remedy: str = REMEDY) -> None:
    """Raise a ValueError that names the first entry in which a file is not what was expected."""
    expected = {"kind": kind, **origin}
    for name in [*expected, *found]:
        if found.get(name) != expected.get(name):
            there, here = (entries.get(name, "nothing") for entries in (found, expected))
            raise ValueError(f"{path}: says that its {name} is {there}, expected {here}; {remedy}.")
