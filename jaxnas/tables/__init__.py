"""Stand-alone ground truth and scores, by architecture code: our own files, and tables that others published."""

from jaxnas.tables.comma_separated import read_csv
from jaxnas.tables.format import Table, lookup, make_table, read_table, write_table
from jaxnas.tables.judging import Judge, make_judge
from jaxnas.tables.nasbench101 import convert_nasbench101
from jaxnas.tables.nats_bench import convert_nats_bench
from jaxnas.tables.published import (
    PUBLISHED,
    MissingTable,
    distinct_cells,
    load_truth,
    read_nasbench101_cells,
    read_nasbench201,
    read_nasbench_macro,
)

__all__ = [
    "PUBLISHED",
    "Judge",
    "MissingTable",
    "Table",
    "convert_nasbench101",
    "convert_nats_bench",
    "distinct_cells",
    "load_truth",
    "lookup",
    "make_judge",
    "make_table",
    "read_csv",
    "read_nasbench101_cells",
    "read_nasbench201",
    "read_nasbench_macro",
    "read_table",
    "write_table",
]
