"""Runs that are killed and go on: checkpoints, the loop that keeps them, scores in saved blocks, CSV files, the results
folder. `runs.sealed`: files that say what they are, so that none is taken for another. `runs.command` is the command
line over all of it, and the only module of jaxnas that reads flags."""

from jaxnas.evaluation.planning import num_cores
from jaxnas.runs._resumable import Progress, Trained, progress, resumable
from jaxnas.runs.blocks import block_paths, in_blocks, scores_table
from jaxnas.runs.compiling import compile_clock, keep_compilations
from jaxnas.runs.config import check, fields, flat, read_value, replace
from jaxnas.runs.rows import csv_metrics, read_rows, write_rows
from jaxnas.runs.tracking import Tracker, open_tracker

__all__ = [
    "Progress",
    "Tracker",
    "Trained",
    "block_paths",
    "check",
    "compile_clock",
    "csv_metrics",
    "fields",
    "flat",
    "in_blocks",
    "keep_compilations",
    "num_cores",
    "open_tracker",
    "progress",
    "read_rows",
    "read_value",
    "replace",
    "resumable",
    "scores_table",
    "write_rows",
]
