"""Redirected logs hold lines, not bars."""

import io
import os
import subprocess
import sys
from pathlib import Path

from tqdm import tqdm

from jaxnas.runs.logs import Lines, lines_in_files

ROOT = Path(__file__).parents[1]


class Clock:
    """Time that goes by a second at each look."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1
        return self.now


def test_a_bar_is_a_line_now_and_then_and_at_the_end():
    file = io.StringIO()
    lines = Lines(file, every=25, clock=Clock())
    bar = tqdm(range(100), file=lines, desc="train", mininterval=0, miniters=1)
    for _ in bar:
        pass
    told = file.getvalue().splitlines()
    assert 2 <= len(told) <= 12 and "\r" not in file.getvalue()
    assert all(line.startswith("train: ") and "|" not in line and "/100 [" in line for line in told)
    assert told[-1].startswith("train: 100% ") and "100/100" in told[-1]


def test_bars_below_each_other_leave_no_moves_of_the_cursor():
    file = io.StringIO()
    lines = Lines(file, every=0)
    with tqdm(total=2, file=lines, desc="outer") as outer, tqdm(total=2, file=lines, desc="inner", position=1) as inner:
        inner.update(2)
        outer.update(2)
    lines.finish()
    assert "\x1b" not in file.getvalue() and "\r" not in file.getvalue()
    assert {line.split(":")[0] for line in file.getvalue().splitlines()} == {"outer", "inner"}


def test_other_lines_pass_as_they_are():
    file = io.StringIO()
    lines = Lines(file, every=1e9)
    print("one | two | 3", file=lines)
    print(file=lines)
    lines.write("\rbar  5%|#    | 1/20 [00:01]")
    lines.write("\r" + 20 * " " + "\r")  # as tqdm clears it for a text of its own
    print("between", file=lines)
    lines.write("never ended")
    assert file.getvalue() == "one | two | 3\n\nbetween\n"
    lines.finish()
    assert file.getvalue().endswith("between\nnever ended\n")


def test_a_terminal_keeps_its_bars(monkeypatch):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", terminal)
    with lines_in_files():
        assert sys.stderr is terminal
    terminal.isatty = lambda: False
    with lines_in_files():
        assert isinstance(sys.stderr, Lines)
    assert sys.stderr is terminal


def test_a_command_s_log_has_no_bars(tmp_path):
    code = """
import dataclasses, sys
from tqdm import tqdm
from jaxnas.runs.command import main
@dataclasses.dataclass(frozen=True)
class Config:
    steps: int = 3
def run(config, workdir, identity):
    for _ in tqdm(range(1000), mininterval=0): pass
    return {"a": 1}
main("experiments.dummy", "", run, {"quick": Config()}, ["--workdir", sys.argv[1]])
"""
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "run")], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("\n") <= 3 and "\r" not in done.stderr and "1000/1000" in done.stderr
