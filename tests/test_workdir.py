"""The command line and the results folder, on a dummy experiment: each way to go wrong ends in one line."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Literal

import jax.numpy as jnp
import numpy as np
import pytest

from jaxnas.runs.command import main

ROOT = Path(__file__).parents[1]


@dataclasses.dataclass(frozen=True)
class Config:
    """A dummy."""

    steps: int = 3  # how many steps to train
    mode: Literal["sum", "mean"] = "sum"
    rate: float = 0.1
    widths: tuple[int, ...] = (1, 2)
    data_dir: Path | None = dataclasses.field(default=None, compare=False)


PRESETS = {"tiny": Config(steps=1), "quick": Config(), "paper": Config(steps=1000, rate=0.5)}


def run(config: Config, workdir: Path, identity: str) -> dict:
    with (workdir / "calls.txt").open("a") as file:
        file.write("called\n")
    return {
        "total": config.steps * 2,
        "tau": np.float32(0.5),
        "top": jnp.asarray(7),
        "space": "dummy",
        "nothing": np.nan,
    }


def start(*argv: str, run=run) -> None:
    main("experiments.dummy", __doc__, run, PRESETS, argv)


def refusal(capsys, *argv: str, run=run, code: int = 2) -> str:
    """The one line that the command ends in."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        start(*argv, run=run)
    assert stop.value.code == code
    line = capsys.readouterr().err.strip()
    assert line.startswith("python -m experiments.dummy: ") and "\n" not in line
    return line


def test_an_installed_experiment_is_called_as_its_user_calls_it(tmp_path, capsys):
    (tmp_path / "run.yaml").write_text("preset: tiny\nmode: mean\n")
    argv = ["--config", str(tmp_path / "run.yaml"), "--workdir", str(tmp_path / "run")]
    main("jaxnas.experiments.dummy", __doc__, run, PRESETS, argv)
    result = result_of(tmp_path / "run")
    assert (result["name"], result["command"]) == ("dummy", "jaxnas dummy tiny --mode mean")
    with pytest.raises(SystemExit):
        main("jaxnas.experiments.dummy", __doc__, run, PRESETS, [])
    assert capsys.readouterr().err.startswith("jaxnas dummy: no --workdir")


def result_of(workdir: Path) -> dict:
    return json.loads((workdir / "result.json").read_text())


def test_result_is_flat_and_says_what_made_it(tmp_path, capsys):
    start("tiny", "--rate", "0.25", "--workdir", str(tmp_path / "new" / "run"))
    result = result_of(tmp_path / "new" / "run")
    figures = {key: result[key] for key in ("name", "preset", "total", "tau", "top", "space", "nothing")}
    assert figures == {
        "name": "dummy", "preset": "tiny", "total": 2, "tau": 0.5, "top": 7, "space": "dummy", "nothing": None
    }  # fmt: skip
    assert result["config"] == {"steps": 1, "mode": "sum", "rate": 0.25, "widths": [1, 2], "data_dir": None}
    assert result["versions"]["numpy"] == np.__version__
    assert result["versions"]["python"] == sys.version.split()[0]
    assert result["num_devices"] >= 1 and result["device"] and result["seconds"] >= 0
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    if head.returncode == 0:
        assert result["commit"].removesuffix("-dirty") == head.stdout.strip()
    else:
        assert result["commit"] is None
    out = capsys.readouterr().out
    assert "total    2" in out and "tau      0.5" in out and "result.json" in out


def test_quick_is_the_default_preset_and_same_command_does_not_run_twice(tmp_path, capsys):
    start("--workdir", str(tmp_path))
    before = (tmp_path / "result.json").read_bytes()
    start("quick", "--workdir", str(tmp_path), "--data-dir", "elsewhere")
    assert result_of(tmp_path)["total"] == 6
    assert (tmp_path / "result.json").read_bytes() == before
    assert (tmp_path / "calls.txt").read_text() == "called\n"
    assert "finished before" in capsys.readouterr().out


def test_a_page_that_is_gone_is_made_again(tmp_path):
    start("--workdir", str(tmp_path))
    page = tmp_path / "report.html"
    before = page.read_bytes()
    page.unlink()
    start("--workdir", str(tmp_path))
    assert page.read_bytes() == before and b"<td>0.5</td>" in before


def test_same_configuration_resumes_after_a_failure(tmp_path, capsys):
    def stops(config, workdir, identity):
        raise FloatingPointError("loss is nan at step 2;\nlower the rate")

    assert refusal(capsys, "--workdir", str(tmp_path), run=stops).endswith("loss is nan at step 2; lower the rate")
    assert not (tmp_path / "result.json").exists()
    start("--workdir", str(tmp_path))
    assert result_of(tmp_path)["total"] == 6


@pytest.mark.parametrize(
    "argv, words",
    [
        (["huge"], ["unknown preset 'huge'", "tiny, quick, paper"]),
        (["--stepz", "4"], ["--stepz", "--steps"]),
        (["tiny", "other"], ["other"]),
        (["--steps", "many"], ["steps is 'many', expected whole"]),
        (["--steps"], ["--steps", "Missing value"]),
        (["--mode", "max"], ["--mode", "'max'", "'sum', 'mean'"]),
    ],
)
def test_bad_arguments_end_in_one_line(argv, words, tmp_path, capsys):
    line = refusal(capsys, *argv, "--workdir", str(tmp_path / "run"))
    assert all(word in line for word in words), line
    assert not (tmp_path / "run").exists()


def test_workdir_is_required(capsys):
    assert "no --workdir" in refusal(capsys, "tiny")
    assert "--workdir" in refusal(capsys, "tiny", "--workdir")


def test_help_lists_presets_and_fields(capsys):
    with pytest.raises(SystemExit) as stop:
        start("--help")
    assert stop.value.code == 0
    text = capsys.readouterr().out
    for word in ("paper: steps=1000 rate=0.5", "--workdir", "--data-dir", "how many steps to train", __doc__.strip()):
        assert word in text


def test_another_configuration_or_experiment_in_the_workdir_is_refused(tmp_path, capsys):
    start("--workdir", str(tmp_path))
    files = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    line = refusal(capsys, "--rate", "0.5", "--widths", "3", "--workdir", str(tmp_path))
    assert "rate=0.1" in line and "0.5" in line and "widths" not in line
    with pytest.raises(SystemExit):
        main("experiments.other", __doc__, run, PRESETS, ["--workdir", str(tmp_path)])
    assert "the experiment dummy, not other" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == files


@pytest.mark.parametrize("name", ["config.json", "result.json"])
@pytest.mark.parametrize("content", ["", "[1]", '{"name": "dum'])
def test_truncated_files_are_refused(name, content, tmp_path, capsys):
    start("--workdir", str(tmp_path))
    (tmp_path / name).write_text(content)
    assert name in refusal(capsys, "--workdir", str(tmp_path))
    assert (tmp_path / name).read_text() == content


def test_workdir_that_cannot_be_made(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    for workdir in (tmp_path / "file", tmp_path / "file" / "below"):
        assert f"cannot write to --workdir {workdir}" in refusal(capsys, "--workdir", str(workdir))


@pytest.fixture
def read_only_folder():
    """A folder that this process may list but not write to; root becomes nobody meanwhile, since root may."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o555)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    yield folder
    os.seteuid(user)
    folder.rmdir()


def test_a_finished_run_on_a_read_only_disk_is_shown(tmp_path, capsys):
    start("--workdir", str(tmp_path))
    (tmp_path / ".lock").unlink(missing_ok=True)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    user = os.geteuid()
    closed = [parent for parent in tmp_path.parents if parent.stat().st_mode & 0o005 != 0o005]
    parents = [tmp_path, *(closed if user == 0 else [])]  # whom root stands in for has to reach the folder
    modes = [parent.stat().st_mode for parent in parents]
    for parent in parents:
        parent.chmod(0o755)
    tmp_path.chmod(0o555)
    if user == 0:
        os.seteuid(65534)
    try:
        with pytest.raises(OSError):
            (tmp_path / "new").touch()
        start("--workdir", str(tmp_path))
        assert "finished before" in (out := capsys.readouterr().out) and "total    6" in out
        assert "rate=0.1" in refusal(capsys, "--rate", "0.5", "--workdir", str(tmp_path))
    finally:
        os.seteuid(user)
        for parent, mode in zip(parents, modes):
            parent.chmod(mode)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("argv", [["--workdir", ""], ["--workdir="], ["--workdir", " "]])
def test_an_empty_workdir_is_none(argv, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "--workdir is empty, expected a folder" in refusal(capsys, *argv)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["[x]", "back\\slash", "a b*"])
def test_any_name_of_a_workdir(name, tmp_path, capsys):
    start("--workdir", str(tmp_path / name))
    start("--workdir", str(tmp_path / name))
    assert "finished before" in capsys.readouterr().out
    assert result_of(tmp_path / name)["total"] == 6


def test_read_only_workdir(read_only_folder, capsys):
    for workdir in (read_only_folder, read_only_folder / "new"):
        assert f"{workdir} (Permission denied)" in refusal(capsys, "--workdir", str(workdir))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, the disk that is always full (Linux)")
@pytest.mark.parametrize("name", ["config.json", "result.json"])
def test_full_disk(name, tmp_path, capsys):
    (tmp_path / f".{name}.tmp").symlink_to("/dev/full")
    line = refusal(capsys, "--workdir", str(tmp_path))
    assert "No space left on device" in line and "make room" in line
    assert not (tmp_path / name).exists()
    start("--workdir", str(tmp_path))
    assert result_of(tmp_path)["total"] == 6


def test_traceback_on_request(tmp_path, capsys, monkeypatch):
    def stops(config, workdir, identity):
        raise ValueError("wrong")

    monkeypatch.setenv("JAXNAS_TRACEBACK", "1")
    with pytest.raises(SystemExit):
        start("--workdir", str(tmp_path), run=stops)
    assert "in stops" in capsys.readouterr().err


@pytest.mark.parametrize("figures", [{"config": 1}, {"curve": [1, 2]}, {"parts": {"a": 1}}])
def test_figures_that_do_not_fit_are_a_bug(figures, tmp_path):
    with pytest.raises((KeyError, TypeError)):
        start("--workdir", str(tmp_path), run=lambda config, workdir, identity: figures)


SLEEPER = """
import dataclasses, signal, time
from jaxnas.runs.command import main

@dataclasses.dataclass(frozen=True)
class Config:
    seconds: float = 60.0

def run(config, workdir, identity):
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which the background jobs of a shell ignore
    (workdir / "started").touch()
    time.sleep(config.seconds)
    return {"slept": config.seconds}

main("experiments.sleeper", None, run, {"quick": Config()})
"""


@pytest.fixture
def sleeper(tmp_path):
    """A process that runs in tmp_path/run, once it has begun."""
    command = [sys.executable, "-c", SLEEPER, "--workdir", str(tmp_path / "run")]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    for _ in range(600):
        if (tmp_path / "run" / "started").exists() or process.poll() is not None:
            break
        time.sleep(0.1)
    yield process
    process.kill()
    process.communicate()


def test_two_processes_and_an_interrupted_one(sleeper, tmp_path, capsys):
    assert "another process is running" in refusal(capsys, "--workdir", str(tmp_path / "run"))
    sleeper.send_signal(signal.SIGINT)
    _, error = sleeper.communicate(timeout=60)
    assert sleeper.returncode == 130
    assert (
        error.strip()
        == "python -m experiments.sleeper: interrupted; the same command goes on from the last checkpoint."
    )


def test_a_killed_process_leaves_no_lock(sleeper, tmp_path, capsys):
    sleeper.kill()
    sleeper.wait()
    assert "holds the experiment sleeper, not dummy" in refusal(capsys, "--workdir", str(tmp_path / "run"))


class TestConfigFile:
    """`--config FILE` beside flags, and a workdir's config.json given back."""

    @staticmethod
    def write(tmp_path: Path, text: str) -> str:
        (tmp_path / "run.yaml").write_text(text)
        return str(tmp_path / "run.yaml")

    def test_fields_of_a_file_and_flags_that_win(self, tmp_path, capsys):
        file = self.write(tmp_path, "preset: tiny\nrate: 5e-1\nmode: mean\nwidths: [3, 4]\ndata_dir: here\n")
        start("--config", file, "--mode", "sum", "--workdir", str(tmp_path / "run"))
        result = result_of(tmp_path / "run")
        assert result["preset"] == "tiny"
        expected = {"steps": 1, "mode": "sum", "rate": 0.5, "widths": [3, 4], "data_dir": "here"}
        assert result["config"] == expected
        assert result["changed"] == {"rate": 0.1, "widths": [1, 2], "data_dir": None}
        command = "python -m experiments.dummy tiny --rate 0.5 --widths 3 4 --data-dir here"
        assert result["command"] == command
        start(*command.split()[3:], "--workdir", str(tmp_path / "run"))  # the same run
        assert "finished before" in capsys.readouterr().out

    def test_a_whole_number_is_the_same_run_as_the_flag(self, tmp_path, capsys):
        start("--config", self.write(tmp_path, "rate: 1\n"), "--workdir", str(tmp_path / "run"))
        start("--rate", "1", "--workdir", str(tmp_path / "run"))
        assert "finished before" in capsys.readouterr().out

    def test_a_workdir_gives_its_configuration_back(self, tmp_path):
        start("paper", "--mode", "mean", "--workdir", str(tmp_path / "a"))
        start(f"--config={tmp_path / 'a' / 'config.json'}", "--workdir", str(tmp_path / "b"))
        first, second = (json.loads((tmp_path / name / "config.json").read_text()) for name in "ab")
        assert first == second and first["preset"] == "paper"
        assert result_of(tmp_path / "a")["run"] == result_of(tmp_path / "b")["run"]

    def test_a_preset_on_the_command_line_wins(self, tmp_path):
        start("paper", "--config", self.write(tmp_path, "preset: tiny"), "--workdir", str(tmp_path / "run"))
        assert result_of(tmp_path / "run")["config"]["steps"] == 1000

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("stepz: 4", ["there is no field 'stepz'", "did you mean steps?"]),
            ("mode: maen", ["mode", "did you mean mean?"]),
            ("steps: many", ["steps", "'many'"]),
            ("steps: [1, 2]", ["steps is (1, 2), expected"]),
            ("preset: payper", ["unknown preset 'payper'", "tiny, quick, paper"]),
            ("steps: {a: 1}", ["steps has a dict in it", "`num_seeds: 3`"]),
            ("- 1", ["no fields with values"]),
            ("", ["no fields with values"]),
            ("a: [", ["neither YAML nor JSON"]),
            ("[" * 5000, ["neither YAML nor JSON"]),
            ('{"name": "other", "preset": "quick", "config": {"steps": 3}}', ["of the experiment 'other', not dummy"]),
            ("when: 2020-01-01", ["when has a date in it"]),
        ],
    )
    def test_what_is_wrong_in_a_file_is_one_line(self, tmp_path, capsys, text, words):
        line = refusal(capsys, "--config", self.write(tmp_path, text), "--workdir", str(tmp_path / "run"))
        assert all(word in line for word in words), line
        assert not (tmp_path / "run").exists()

    def test_no_file_and_no_value(self, tmp_path, capsys):
        line = refusal(capsys, "--workdir", str(tmp_path / "run"), "--config", str(tmp_path / "absent.yaml"))
        assert line.endswith("absent.yaml: no such file.")
        assert "--config has no value" in refusal(capsys, "--workdir", str(tmp_path / "run"), "--config")
