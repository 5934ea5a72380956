"""What happens to a workdir between two starts: files swapped, copied, edited, cut, deleted. Each is named in one line
with a remedy that loses nothing else, and nothing is taken for what it is not."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from experiment_runs import SMALL, refusal, remove, result_of, rows_of, start, untimed

from jaxnas import tables
from jaxnas.runs import sealed

pytestmark = pytest.mark.usefixtures("no_data_dir")
ARGV = ["tiny", "--space", "small", "--archs-per-save", "8", "--checkpoint-every", "2", "--no-progress"]
ARGV += ["--num-seeds", "2", "--num-snapshots", "2", "--num-curve-points", "3"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory, truth) -> Path:
    """An undisturbed run of two super-nets, scored after three and six steps."""
    workdir = tmp_path_factory.mktemp("whole")
    start("rank_correlation", *ARGV, "--data-dir", truth, "--workdir", workdir)
    return workdir


@pytest.fixture
def run(whole, tmp_path) -> Path:
    """A copy that is to be finished again."""
    shutil.copytree(whole, tmp_path / "run")
    remove(tmp_path / "run", "result.json", "scores.csv")
    return tmp_path / "run"


@pytest.fixture
def again(run, truth, capsys) -> Callable[..., str | None]:
    """Start the same run once more, with further arguments: its line of refusal, None if it finishes."""
    return lambda *argv: refusal(capsys, "rank_correlation", *ARGV, *argv, "--data-dir", truth, "--workdir", run)


def swap(first: Path, second: Path) -> None:
    aside = first.with_name("aside")
    first.rename(aside)
    second.rename(first)
    aside.rename(second)


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def assert_same(workdir: Path, expected: Path) -> None:
    assert untimed(result_of(workdir)) == untimed(result_of(expected))
    assert (workdir / "scores.csv").read_bytes() == (expected / "scores.csv").read_bytes()
    with np.load(workdir / "found.npz") as ours, np.load(expected / "found.npz") as theirs:
        assert ours.files == theirs.files
        for name in ours.files:
            np.testing.assert_array_equal(ours[name], theirs[name])
    for path in expected.rglob("seed*/**/*.npz"):
        ours, theirs = (tables.read_table(folder / path.relative_to(expected), SMALL) for folder in (workdir, expected))
        np.testing.assert_array_equal(ours.columns["loss"], theirs.columns["loss"])
    for path in expected.rglob("training.csv"):
        ours, theirs = rows_of(workdir / path.relative_to(expected)), rows_of(path)
        assert [untimed(row) for row in ours] == [untimed(row) for row in theirs]


def last_row(path: Path) -> str:
    return path.read_text().splitlines()[-1]


MISPLACED = {
    "two blocks": ("seed0/step3/scores_000000.npz", "seed0/step3/scores_000008.npz", "holds other architectures"),
    "two seeds": ("seed0/step3/scores_000000.npz", "seed1/step3/scores_000000.npz", "its seed is 1, expected 0"),
    "two steps": ("seed1/step3/scores_000008.npz", "seed1/step6/scores_000008.npz", "its step is 6, expected 3"),
    "two curves": ("seed1/curve_2.npz", "seed1/curve_4.npz", "its step is 4, expected 2"),
    "a curve and a block": ("seed1/curve_2.npz", "seed1/step6/scores_000000.npz", "its kind is"),
    "two trainings": ("seed0/checkpoints", "seed1/checkpoints", "its seed is 1, expected 0"),
    "two rows": ("seed0/training.csv", "seed1/training.csv", "line 2 is"),
}


@pytest.mark.parametrize("what", MISPLACED)
def test_swapped(what, run, again):
    first, second, words = MISPLACED[what]
    swap(run / first, run / second)
    line = again()
    assert words in line and "delete" in line and str(run) in line


def test_a_curve_copied_over_another(run, again, whole):
    """Deleted as the line says, a point of the picture is missing and nothing else."""
    path = run / "seed0/curve_4.npz"
    shutil.copy(run / "seed1/curve_4.npz", path)
    assert f"{path}: says that its seed is 1, expected 0; delete it, and the picture of tau over" in again()
    path.unlink()
    assert again() is None
    assert untimed(result_of(run)) == untimed(result_of(whole)) and not path.exists()


def test_a_block_of_another_run(run, again):
    """The same space, seed, step and codes: only the configuration was another one."""
    path = run / "seed0/step3/scores_000000.npz"
    table = tables.read_table(path, SMALL)
    sealed.write_table(path, "block of scores", table, {"run": "0" * 16, "seed": 0, "step": 3})
    assert f"{path}: says that its run is 0000000000000000, expected " in again()


@pytest.mark.parametrize("what", ["a digit", "no last row"])  # the others in test_checkpoint, without a run
def test_training_csv(what, run, again):
    path = run / "seed1/training.csv"
    row, whole = last_row(path), path.read_text()
    if what == "a digit":
        edit(path, row, row.replace("6,", "6,1", 1))
    else:
        edit(path, row + "\n", "")
    line = again()
    assert f"{path}: line " in line and "delete this file, and the same command writes it again" in line
    if what == "a digit":
        path.unlink()
        assert again() is None and path.read_text() == whole


@pytest.mark.slow("figures again after each remedy")
def test_remedies_lose_nothing_else(run, again, whole):
    """Scores of a moment that the training has left behind, scores at its end, rows: deleted, they come again."""
    remove(run, "seed0/step3/scores_000000.npz", "seed1/step6/scores_000008.npz", "seed1/training.csv")
    assert again() is None
    assert_same(run, whole)


def test_weights_of_an_earlier_step_are_trained_again(run, again, whole):
    """The scores of step 3 were damaged, all checkpoints are of steps 4 and 6: later weights must not be taken."""
    path = run / "seed1/step3/scores_000008.npz"
    path.write_bytes(path.read_bytes()[:-9])
    assert f"{path}: truncated, damaged or no table" in (line := again()) and line.endswith(
        "delete it, and the same command makes it again."
    )
    path.unlink()
    assert again() is None
    assert_same(run, whole)


def test_without_config_json_the_files_say_whose_they_are(run, again, whole, truth, capsys):
    kept = (run / "config.json").read_bytes()
    (run / "config.json").unlink()
    line = again("--learning-rate", "0.2")
    assert "has no config.json, and " in line and "is of another run" in line
    assert not (run / "config.json").exists()
    (run / "config.json").write_bytes(kept[:-20])
    assert "config.json: not the configuration of an experiment; delete it" in again()
    (run / "config.json").unlink()
    assert again() is None
    assert (run / "config.json").read_bytes() == kept
    (run / "config.json").unlink()  # of a finished run
    assert "is of another run" in again("--learning-rate", "0.2")
    assert again() is None
    assert_same(run, whole)


def test_a_folder_of_other_files_is_no_workdir(truth, tmp_path, capsys):
    (tmp_path / "mine.json").write_text("{}")
    line = refusal(capsys, "rank_correlation", *ARGV, "--data-dir", truth, "--workdir", tmp_path)
    assert "has no config.json, and no file says of which run it is" in line
    assert [path.name for path in tmp_path.iterdir() if path.name != ".lock"] == ["mine.json"]


def test_an_edited_config_json_adopts_nothing(run, again):
    """Whoever makes config.json say what he asks for still finds the files to be of the other run."""
    edit(run / "config.json", '"learning_rate": 0.1,', '"learning_rate": 0.2,')
    line = again("--learning-rate", "0.2")
    assert "says that its run is " in line and "seed0" in line


def test_an_edited_result(whole, tmp_path, truth, capsys):
    shutil.copytree(whole, tmp_path / "run")
    path = tmp_path / "run" / "result.json"
    tau = json.loads(path.read_text())["kendall_tau"]
    edit(path, f'"kendall_tau": {tau}', '"kendall_tau": 0.9')
    argv = ["rank_correlation", *ARGV, "--data-dir", truth, "--workdir", tmp_path / "run"]
    assert refusal(capsys, *argv) == (
        f"python -m experiments.rank_correlation: {path}: damaged, edited or no result; delete it to finish the run"
        " again."
    )
