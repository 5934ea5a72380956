"""Files of latencies: as published, as `measure_latency` writes them, or a user's own figures as CSV."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from jaxnas.codes import from_text
from jaxnas.costs.latency import LATENCY_MS, measured_costs, operation_costs, operation_rows, read_operations_table
from jaxnas.costs.limits import CostFn, CostTable
from jaxnas.files import decode_arrays, open_arrays, read_file
from jaxnas.space import SearchSpace
from jaxnas.tables import Table, load_truth, make_table, read_table
from jaxnas.tables.comma_separated import code_keys, header, read_columns
from jaxnas.tables.format import is_table
from jaxnas.tables.published import read_as_published

NASBENCH201_FILE = "nasbench201_latency.npz"
NASBENCH201_SHA256 = "ef9c7e87eadc7b7964619fc97f7a7bf444f6a611f460360934493ec0ac46d97f"
EXPECTED = f"code,{LATENCY_MS} or operation,{LATENCY_MS}, and perhaps a column round"


def read_latencies(path: str | os.PathLike[str], space: SearchSpace) -> dict[str, CostTable | CostFn]:
    """The costs by name that a file of latencies states, for `limits.parse`.

    Of `nasbench201_latency.npz` as published, and of a table of whole networks of your own (`make_table` and
    `write_table`, under any name, or a CSV file, see `read_latency_csv`), each column in ms; of a table of operations
    their sum.

    Raises:
      ValueError: none of these, damaged, or of another space.
      OSError: the file cannot be read.
    """
    path = Path(path)
    if path.suffix.lower() == ".csv":
        table = read_latency_csv(path, space)
    elif path.name == NASBENCH201_FILE and not is_table(path):
        table = read_nasbench201_latency(path.parent, space)
    elif _space_of(path) == space.name:
        table = read_table(path, space)
    else:
        table = read_operations_table(path, space)
    columns = [name for name, unit in table.units.items() if unit == "ms"]
    if table.space == space.name:
        return {name: measured_costs(space, table, name) for name in columns}
    return {name: operation_costs(space, table, column=name) for name in columns}


def read_nasbench201_latency(folder: str | os.PathLike[str], space: SearchSpace) -> Table:
    """Latencies of all 15,625 cells of NAS-Bench-201 as others measured them, in ms of whole networks.

    Columns `latency_ms_titanxp_1`, `latency_ms_titanxp_32` (TITAN Xp, batch 1 and 32), `latency_ms_gold_6226` (Xeon)
    and `latency_ms_pixel3`, from github.com/HayeonLee/HELP and HW-NAS-Bench. The file has no codes: its rows are those
    of `nasbench201_cifar10.npz`, which must lie beside it. On pixel3 273 cells without any path took under 0.5 ms.

    Raises:
      ValueError: a file is not the known one, or the space has other operations.
      OSError: a file cannot be read.
    """
    path = Path(folder) / NASBENCH201_FILE
    source = "github.com/HayeonLee/HELP, HW-NAS-Bench"
    data = read_as_published(path, NASBENCH201_SHA256, source)
    archs = load_truth(space, "cifar10", data_dir=folder).archs
    arrays = decode_arrays(data)
    columns = {
        f"{LATENCY_MS}_{device}": column.astype(np.float64)
        for device, column in zip(arrays["devices"].tolist(), arrays["latency_ms"].T, strict=True)
    }
    about = {"source": source, "file": NASBENCH201_FILE, "sha256": NASBENCH201_SHA256}
    return make_table(space, archs, columns, units=dict.fromkeys(columns, "ms"), provenance=about)


def read_latency_csv(path: str | os.PathLike[str], space: SearchSpace) -> Table:
    """Latencies of your own from a CSV file in UTF-8, in ms: of whole networks, or of operations.

    The first line names the columns, in any order: `code` (or `arch`) for whole networks, or `operation` for single
    ones, "fixed" (stem, head and what else every network has) and choice/name for each, as in 3/mb6_k5; one column
    `latency_ms` or several `latency_ms_DEVICE`; and where each was measured several times `round`, any text. Other
    columns are left out. Operations stand for all places that a choice has in a network.

    Returns:
      As `make_table` of whole networks has them, or `operations_table` of operations, without a setting.

    Raises:
      ValueError: no such columns, a code or an operation that the space lacks, one that is there twice (in the same
        round), or a latency that is no positive number (an operation may take 0); the line is named.
      OSError: the file cannot be read.
    """
    there = header(path)
    columns = [name for name in there if name == LATENCY_MS or name.startswith(f"{LATENCY_MS}_")] or [LATENCY_MS]
    rows = operation_rows(space)
    (names,) = rows.op_names
    of_operations = "operation" in there

    def row(name: str) -> int:
        if name not in names:
            raise ValueError(f"{space.name} has no operation {name!r}; it has {', '.join(names[:4])}, ...")
        return names.index(name)

    def milliseconds(text: str | None, name: str, where: str) -> float:
        try:
            value = float(text or "")
        except ValueError:
            value = np.nan
        if not 0 <= value < np.inf or (value == 0 and not of_operations):
            raise ValueError(f"{where}: {name} is {text!r}, expected milliseconds, a number above 0.")
        return value

    keys: dict[str, Callable[[str], Any]] = {"operation": row} if of_operations else code_keys(space)
    found = read_columns(path, keys, columns, "round", figure=milliseconds, expected=EXPECTED)
    first = found[columns[0]].keys
    return make_table(
        rows if of_operations else space,
        np.array(first)[:, None] if of_operations else from_text(space, first),
        {name: column.values for name, column in found.items()},
        units=dict.fromkeys(found, "ms"),
        provenance={"source": f"{path}, of the user"},
    )


def _space_of(path: Path) -> Any:
    """What a table says that it is of; None where it says nothing."""
    try:
        return open_arrays(read_file(path))[0].get("space")
    except ValueError:
        return None
