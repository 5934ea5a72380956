"""How the tests run experiments: on a space of 16 chains, in this process or in one that is killed half way."""

import contextlib
import csv
import itertools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from experiments import (
    build_table,
    darts_cells,
    detection,
    label_budget,
    landmark,
    landmark_search,
    pareto,
    pareto_compare,
    pcnas,
    quickstart,
    rank_correlation,
    reidentification,
    retrain,
    rnn_ranking,
    search_compare,
    search_phase,
    space_size,
    supernet_factors,
)
from jaxnas import tables
from jaxnas.codes import enumerate_archs
from jaxnas.runs import command
from jaxnas.space import ChainLayout
from jaxnas.spaces import SPACES, chain_space

ROOT = Path(__file__).parents[1]
EXPERIMENTS = {
    "quickstart": quickstart,
    "rank_correlation": rank_correlation,
    "landmark": landmark,
    "landmark_search": landmark_search,
    "supernet_factors": supernet_factors,
    "pcnas": pcnas,
    "retrain": retrain,
    "detection": detection,
    "reidentification": reidentification,
    "search_compare": search_compare,
    "search_phase": search_phase,
    "pareto": pareto,
    "pareto_compare": pareto_compare,
    "space_size": space_size,
    "rnn_ranking": rnn_ranking,
    "darts_cells": darts_cells,
    "label_budget": label_budget,
    "build_table": build_table,
}
SMALL = chain_space(
    "small",
    ChainLayout(stem_width=4, widths=(4, 8, 8, 8), strides=(1, 2, 1, 1), head_width=8, image_size=4, in_channels=1),
    [("identity", "nor_conv_3x3")] * 2 + [("identity", "nor_conv_1x1")] * 2,
)


def start(name: str, *argv: str | Path) -> None:
    """`python -m experiments.NAME ARGV` in this process, the small space being known to it."""
    experiment = EXPERIMENTS[name]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SPACES, "small", SMALL)
        arguments = [str(argument) for argument in argv]
        command.main(f"experiments.{name}", experiment.__doc__, experiment.run, experiment.PRESETS, arguments)


@contextlib.contextmanager
def struck(place: str, strike: Callable[[], None]):
    """Have `strike` called when the file whose path ends in `place` is written and about to get its name."""
    replace = os.replace

    def replace_or_strike(source, target):
        if str(target).endswith(place):
            strike()
        replace(source, target)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "replace", replace_or_strike)
        yield


def fail(code: int) -> Callable[[], None]:
    def strike():
        raise OSError(code, os.strerror(code))

    return strike


def interrupt() -> None:
    raise KeyboardInterrupt


def killed(place: str, *argv: str | Path) -> None:
    """The experiment in a process of its own, which dies by SIGKILL when the file at `place` is about to be whole."""
    command = [sys.executable, __file__, place, *map(str, argv)]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr


def result_of(workdir: Path) -> dict:
    return json.loads((workdir / "result.json").read_text())


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def untimed(row: dict) -> dict:
    """What does not measure time; a commit may be made between two starts."""
    return {key: row[key] for key in row if not f"_{key}".endswith(("_seconds", "_per_s", "_commit", "_checksum"))}


def refusal(capsys, name: str, *argv: str | Path) -> str | None:
    """The one line on stderr that a run ends in with exit code 2; None of a run that finishes."""
    capsys.readouterr()
    try:
        start(name, *argv)
    except SystemExit as stop:
        assert stop.code == 2
        line = capsys.readouterr().err.strip()
        assert line.startswith(f"python -m experiments.{name}: ") and "\n" not in line
        return line
    return None


def remove(workdir: Path, *patterns: str) -> None:
    for path in itertools.chain.from_iterable(workdir.glob(pattern) for pattern in patterns):
        path.unlink()


def write_truth(folder: Path, accuracy: np.ndarray, archs: np.ndarray | None = None) -> Path:
    """Give a data folder a table of the small space."""
    archs = enumerate_archs(SMALL) if archs is None else archs
    columns = {"test_accuracy": accuracy}
    table = tables.make_table(SMALL, archs, columns, units={"test_accuracy": "fraction"}, provenance={})
    tables.write_table(folder / "small_digits.npz", table)
    return folder


if __name__ == "__main__":  # the processes of `killed`
    with struck(sys.argv[1], lambda: os.kill(os.getpid(), signal.SIGKILL)):
        start(*sys.argv[2:])
