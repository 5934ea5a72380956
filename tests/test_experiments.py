"""The experiments, on tiny presets: what they leave in the workdir, and that each way to go wrong ends well.

The generic part of the command line has its tests in test_workdir.py. Most runs here are of `rank_correlation` on a
space of the test's own, with a table of its own: 16 chains that are traced in a second.
"""

import errno
import itertools
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest
import scipy.stats
from experiment_runs import (
    EXPERIMENTS,
    ROOT,
    SMALL,
    fail,
    killed,
    refusal,
    remove,
    result_of,
    rows_of,
    start,
    struck,
    untimed,
)
from PIL import Image

from experiments import build_table
from experiments.shared.config import settle
from jaxnas import export, runs, tables
from jaxnas.codes import to_text
from jaxnas.costs import arch_costs
from jaxnas.files import open_arrays
from jaxnas.runs import command, read_rows
from jaxnas.samplers import SAMPLERS
from jaxnas.spaces import SPACES, get_space
from jaxnas.supernets import make_supernet

pytestmark = pytest.mark.usefixtures("no_data_dir")
RANKED = ["tiny", "--space", "small", "--archs-per-save", "3", "--checkpoint-every", "2", "--no-progress"]
TABLED = ["tiny", "--space", "small", "--no-progress"]


def assert_same_outcome(workdir: Path, expected: Path) -> None:
    """Everything that doesn't measure time is equal, and nothing half-written lies about."""
    assert untimed(result_of(workdir)) == untimed(result_of(expected))
    names = [{path.relative_to(folder) for path in folder.rglob("*.*")} for folder in (workdir, expected)]
    assert names[0] == names[1]
    for name in ("scores.csv", "seed0/curve_3.npz", "found.json", "found.npz"):
        assert (workdir / name).read_bytes() == (expected / name).read_bytes()
    rows = [[untimed(row) for row in rows_of(folder / "seed0/training.csv")] for folder in (workdir, expected)]
    assert rows[0] == rows[1]


@pytest.fixture(scope="module")
def ranked(tmp_path_factory, truth) -> Path:
    """The workdir of an uninterrupted run on the small space."""
    workdir = tmp_path_factory.mktemp("ranked")
    start("rank_correlation", *RANKED, "--data-dir", truth, "--workdir", workdir)
    return workdir


@pytest.fixture(scope="module")
def quick(tmp_path_factory) -> Path:
    workdir = tmp_path_factory.mktemp("quickstart")
    start("quickstart", "tiny", "--workdir", workdir)
    return workdir


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    workdir = tmp_path_factory.mktemp("built")
    start("build_table", *TABLED, "--workdir", workdir)
    return workdir


@pytest.fixture
def rerun(ranked, truth, tmp_path, capsys) -> Callable[[], str | None]:
    """Start the same run in tmp_path/run, at first a copy of `ranked`: its one line of refusal, None if it finishes."""
    shutil.copytree(ranked, tmp_path / "run")

    def again() -> str | None:
        return refusal(capsys, "rank_correlation", *RANKED, "--data-dir", truth, "--workdir", tmp_path / "run")

    return again


@pytest.mark.parametrize(
    "name, preset", [(name, preset) for name, module in EXPERIMENTS.items() for preset in module.PRESETS]
)
def test_presets_are_sound(name, preset):
    presets = EXPERIMENTS[name].PRESETS
    parsed = command.parse(f"python -m experiments.{name}", None, presets, [preset, "--workdir", "runs"])
    assert parsed == (preset, presets[preset], Path("runs"), None, None)
    assert {"tiny", "quick"} <= set(presets)
    values = runs.flat(presets[preset])
    space = get_space(values["space"])
    if "sampler" in values:
        options = {} if values["num_archs"] is None else {"num_archs": values["num_archs"]}
        SAMPLERS[runs.flat(settle(presets[preset]))["sampler"]](space, **options)
    if "num_eval_images" in values:
        assert (values["num_eval_images"] or values["num_valid"]) <= values["num_valid"]
        num_steps = settle(presets[preset]).training.num_steps
        assert values["checkpoint_every"] < num_steps  # else a killed run has nothing to go on from


@pytest.mark.parametrize("name", ["rank_correlation", "landmark", "supernet_factors", "build_table"])
def test_modules_run_as_commands(name, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    monkeypatch.delitem(sys.modules, f"experiments.{name}")
    with pytest.raises(SystemExit) as stop:
        runpy.run_module(f"experiments.{name}", run_name="__main__")
    assert stop.value.code == 0
    out = capsys.readouterr().out
    assert f"usage: python -m experiments.{name} [PRESET]" in out and "  paper: " in out


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_no_field_is_told_by_the_comment_of_another(name, capsys):
    """tyro takes a comment above a field for those of the next lines as well that have none of their own."""
    with pytest.raises(SystemExit):
        command.parse(f"jaxnas {name}", None, EXPERIMENTS[name].PRESETS, ["--help"])
    comments: list[tuple[str, list[str]]] = []
    for line in capsys.readouterr().out.replace("│", " ").splitlines():
        if flag := re.match(r"  (--[a-z0-9-]+)", line):
            comments.append((flag[1], []))
        elif comments and line.startswith("        "):
            comments[-1][1].append(line.strip())
    told: dict[str, str] = {}
    assert len(comments) > 10
    for flag, lines in comments:
        comment = re.sub(r"\((default|required).*", "", " ".join(lines)).strip()
        assert comment not in told or len(comment.split()) < 2, f"{flag} is told as {told[comment]} is"  # but "steps"
        told[comment] = flag


class TestQuickstart:
    def test_result_has_every_figure(self, quick):
        result = result_of(quick)
        promised = [
            *("space", "dataset", "num_archs", "num_images", "bn_mode", "kendall_tau", "kendall_tau_low"),
            *("kendall_tau_high", "kendall_tau_minus_macs", "kendall_tau_between_truth_seeds", "macs_kendall_tau"),
            *("verdict", "headline", "found_arch", "found_rank", "data_sha256", "truth_sha256"),
            *("top_decile_kendall_tau", "evaluate_image_archs_per_s", "train_seconds", "evaluate_seconds"),
            *("versions", "config"),
        ]
        assert [key for key in promised if key not in result] == []
        assert (result["space"], result["dataset"], result["bn_mode"]) == ("digits_chain", "digits", "batch")
        assert (result["num_archs"], result["num_images"]) == (27, 100)
        assert result["kendall_tau_low"] <= result["kendall_tau"] <= result["kendall_tau_high"]
        speed = 27 * 100 / result["evaluate_seconds"]
        assert result["evaluate_image_archs_per_s"] == pytest.approx(speed)
        assert min(result["train_seconds"], result["compile_seconds"]) > 0
        assert result["versions"]["jax"] == jax.__version__
        assert result["config"]["num_eval_archs"] == 27

    def test_figures_follow_from_scores_and_table(self, quick):
        rows, result = rows_of(quick / "scores.csv"), result_of(quick)
        space = SPACES["digits_chain"]
        table = tables.load_truth(space, "digits")
        place = {to_text(space, code): row for row, code in enumerate(table.archs)}
        chosen = [place[row["arch"]] for row in rows]
        assert len(set(chosen)) == 27
        seeds = table.columns["test_accuracy"][chosen].astype(np.float64)
        column = {name: np.array([float(row[name]) for row in rows]) for name in rows[0] if name != "arch"}
        np.testing.assert_allclose(column["test_accuracy"], seeds.mean(axis=1), rtol=1e-7)
        np.testing.assert_array_equal(column["macs"], arch_costs(space, table.archs[chosen]).macs)

        def tau(x, y):
            return pytest.approx(scipy.stats.kendalltau(x, y).statistic, abs=1e-12)

        assert result["kendall_tau"] == tau(-column["loss_0"], seeds.mean(axis=1))
        assert result["kendall_tau_accuracy"] == tau(column["accuracy_0"], seeds.mean(axis=1))
        assert result["macs_kendall_tau"] == tau(column["macs"], seeds.mean(axis=1))
        pairs = itertools.combinations(seeds.T, 2)
        mean = np.mean([scipy.stats.kendalltau(*pair).statistic for pair in pairs])
        assert result["kendall_tau_between_truth_seeds"] == pytest.approx(mean, abs=1e-12)

    def test_what_was_found_is_the_best_by_score_and_its_words_are_the_table_s(self, quick, capsys):
        rows, result = rows_of(quick / "scores.csv"), result_of(quick)
        best = min(rows, key=lambda row: float(row["loss_0"]))
        space = SPACES["digits_chain"]
        arch = export.from_json((quick / "found.json").read_text(), space)
        assert to_text(space, arch) == best["arch"] == result["found_arch"]
        place = 1 + sum(float(row["test_accuracy"]) > float(best["test_accuracy"]) for row in rows)
        assert (result["found_rank"], result["found_num_ranked"]) == (place, 27) and place == result["best_found_rank"]
        start("quickstart", "tiny", "--workdir", quick)  # once more: the console, the page and the file say the same
        words = f"stand-alone accuracy {float(best['test_accuracy']):.3f}, rank {place} of 27"
        said = " ".join(re.sub("<[^>]*>", " ", (quick / "report.html").read_text()).split())
        for text in (capsys.readouterr().out, said, (quick / "found.txt").read_text()):
            assert words in text and text.count("mb2_k3") + text.count("mb6_k3") + text.count("identity")
        assert f"{result['kendall_tau']:.4g} [{result['kendall_tau_low']:.4g}" in said
        supernet = make_supernet(space.resized(width=4))
        assert export.load(quick / "found.npz", supernet).arch.tolist() == arch.tolist()

    @pytest.mark.parametrize("name", ["scatter.png", "training.png", "tau_over_training.png", "found.png", "worst.png"])
    def test_pictures_are_pictures(self, quick, name):
        with Image.open(quick / name) as picture:
            assert picture.format == "PNG"
            pixels = np.asarray(picture.convert("L"))
        assert min(pixels.shape) >= (150 if name in ("found.png", "worst.png") else 300) and len(np.unique(pixels)) > 50

    def test_checkpoints_and_training_curve(self, quick):
        folder = quick / "seed0"
        manifests = [json.loads(path.read_text()) for path in sorted(folder.glob("checkpoints/*/manifest.json"))]
        assert [manifest["content"]["step"] for manifest in manifests] == [3, 6]
        assert manifests[0]["file"] == {"kind": "checkpoint", "run": result_of(quick)["run"], "seed": 0}
        assert manifests[1]["content"]["notes"] == (folder / "training.csv").read_text()
        rows = rows_of(folder / "training.csv")
        assert [int(row["step"]) for row in rows] == [2, 3, 4, 6]
        assert float(rows[-1]["loss"]) == result_of(quick)["final_train_loss"] > 0

    @pytest.mark.slow("the quickstart as a command, where TFDS is missing")
    def test_command_goes_on_without_tfds(self, quick, tmp_path):
        shutil.copytree(quick, tmp_path / "run")
        remove(tmp_path / "run", "result.json", "scores.csv", "*.png", "seed0/scores_000009.npz")
        (tmp_path / "tensorflow_datasets.py").write_text("raise SystemExit('TFDS was imported')")
        command = [sys.executable, "-m", "experiments.quickstart", "tiny", "--workdir", str(tmp_path / "run")]
        environment = os.environ | {"PYTHONPATH": str(tmp_path)}
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert "quickstart: finished in" in done.stdout and "kendall_tau_low" in done.stdout
        assert "Traceback" not in done.stderr
        assert_same_outcome(tmp_path / "run", quick)


class TestRankCorrelation:
    def test_whole_space_is_scored(self, ranked):
        rows = rows_of(ranked / "scores.csv")
        assert [row["arch"] for row in rows] == ["-".join(code) for code in itertools.product("01", repeat=4)]
        assert all(0 <= float(row["accuracy_0"]) <= 1 and float(row["loss_0"]) > 0 for row in rows)

    def test_half_of_the_space_is_scored(self, ranked, truth, tmp_path):
        """The same super-net: what is scored has the losses that it has among all."""
        start(
            "rank_correlation", *RANKED, "--half", "claim", "--top-k", "4", "--data-dir", truth, "--workdir", tmp_path
        )
        half, of_all = rows_of(tmp_path / "scores.csv"), {row["arch"]: row for row in rows_of(ranked / "scores.csv")}
        assert len(half) == len({row["arch"] for row in half}) == 8
        losses = [[float(row["loss_0"]) for row in rows] for rows in (half, [of_all[row["arch"]] for row in half])]
        np.testing.assert_allclose(*losses, rtol=1e-5)

    def test_two_supernets(self, ranked, truth, tmp_path):
        start("rank_correlation", *RANKED, "--num-seeds", "2", "--data-dir", truth, "--workdir", tmp_path)
        rows, alone, result = rows_of(tmp_path / "scores.csv"), rows_of(ranked / "scores.csv"), result_of(tmp_path)
        assert [row["loss_0"] for row in rows] == [row["loss_0"] for row in alone]
        losses = np.array([[float(row[f"loss_{seed}"]) for row in rows] for seed in range(2)])
        assert (losses[0] != losses[1]).all()
        between = scipy.stats.kendalltau(*losses).statistic
        assert result["kendall_tau_between_supernets"] == pytest.approx(between, abs=1e-12)
        accuracy = [float(row["test_accuracy"]) for row in rows]
        taus = [scipy.stats.kendalltau(-row, accuracy).statistic for row in losses]
        assert result["kendall_tau"] == pytest.approx(np.mean(taus), abs=1e-12)

    @pytest.mark.slow("rank_correlation trains two super-nets side by side, alone and killed")
    def test_two_side_by_side(self, ranked, truth, tmp_path, capsys):
        """The same super-nets as one after the other, and the same bit for bit after a kill."""
        argv = ["rank_correlation", *RANKED, "--num-seeds", "2", "--data-dir", truth, "--workdir"]
        together = [*argv[:-1], "--seeds-per-call", "2", "--workdir"]
        whole, stopped = tmp_path / "whole", tmp_path / "stopped"
        start(*argv, tmp_path / "alone")
        start(*together, whole)
        for column in ("loss_0", "loss_1"):
            found = [rows_of(folder / "scores.csv") for folder in (whole, tmp_path / "alone")]
            ours, alone = ([float(row[column]) for row in rows] for rows in found)
            assert ours == pytest.approx(alone, rel=1e-4)
        rows = rows_of(whole / "seeds0-1/training.csv")
        for seed in range(2):
            of_one = rows_of(tmp_path / "alone" / f"seed{seed}" / "training.csv")
            losses = [float(row[f"loss_{seed}"]) for row in rows]
            assert losses == pytest.approx([float(row["loss"]) for row in of_one], rel=1e-4)
        killed("checkpoints/.new_step_00000004/manifest.json", *together, stopped)
        killed("seed1/scores_000006.npz", *together, stopped)
        start(*together, stopped)
        for name in ("scores.csv", "seed0/curve_3.npz", "seed1/curve_3.npz", "found.json", "found.npz"):
            assert (stopped / name).read_bytes() == (whole / name).read_bytes()
        assert untimed(result_of(stopped)) == untimed(result_of(whole))
        line = refusal(capsys, *together, tmp_path / "mesh", "--mesh", "archs=1,data=1")
        assert "seeds_per_call is 2, expected 1 on a mesh" in line

    def test_snapshots(self, ranked, truth, tmp_path, capsys):
        """Two are the mean of the loss half way, which the curve has too, and at the end; a full disk in between."""
        argv = ["rank_correlation", *RANKED, "--num-snapshots", "2", "--data-dir", truth, "--workdir", tmp_path]
        with struck("step6/scores_000003.npz", fail(errno.ENOSPC)):
            assert os.strerror(errno.ENOSPC) in refusal(capsys, *argv)
        start(*argv)
        seed, alone = tmp_path / "seed0", [float(row["loss_0"]) for row in rows_of(ranked / "scores.csv")]
        first = np.concatenate(
            [tables.read_table(path, SMALL).columns["loss"] for path in sorted((seed / "step3").glob("scores_*"))]
        )
        curve = tables.read_table(ranked / "seed0" / "curve_3.npz", SMALL)
        np.testing.assert_allclose(first[:: len(first) // len(curve.archs)], curve.columns["loss"], rtol=1e-6)
        losses = [float(row["loss_0"]) for row in rows_of(tmp_path / "scores.csv")]
        np.testing.assert_allclose(losses, (first + alone) / 2, rtol=1e-6)
        result, expected = result_of(tmp_path), result_of(ranked)
        assert result["last_snapshot_kendall_tau"] == pytest.approx(expected["kendall_tau"], abs=1e-12)
        rows = [[untimed(row) for row in rows_of(folder / "seed0/training.csv")] for folder in (tmp_path, ranked)]
        assert rows[0] == rows[1]

    @pytest.mark.slow("rank_correlation is killed while it trains and while it scores")
    def test_killed_in_training_and_in_evaluation(self, ranked, truth, tmp_path):
        argv = ["rank_correlation", *RANKED, "--data-dir", truth, "--workdir", tmp_path]
        killed("checkpoints/.new_step_00000004/manifest.json", *argv)
        checkpoints = tmp_path / "seed0" / "checkpoints"
        assert {path.name for path in checkpoints.iterdir()} == {"step_00000002", ".new_step_00000004"}
        killed("seed0/scores_000006.npz", *argv)
        blocks = {"scores_000000.npz", "scores_000003.npz"}
        assert {path.name for path in (tmp_path / "seed0").glob("scores*")} == blocks
        start(*argv)
        assert_same_outcome(tmp_path, ranked)

    def test_disk_that_fails(self, ranked, truth, tmp_path, capsys):
        argv = ["rank_correlation", *RANKED, "--data-dir", truth, "--workdir", tmp_path]
        for place, code in (
            ("checkpoints/.new_step_00000004/manifest.json", errno.ENOSPC),
            ("seed0/scores_000006.npz", errno.EROFS),
            ("scores.csv", errno.ENOSPC),
            ("scatter.png", errno.EROFS),
            ("result.json", errno.ENOSPC),
        ):
            with struck(place, fail(code)):
                assert os.strerror(code) in refusal(capsys, *argv)
            assert not (tmp_path / "result.json").exists()
            assert list(tmp_path.rglob(".*.tmp")) == list(tmp_path.rglob(".new_*")) == []
            for path in tmp_path.rglob("*.npz"):
                open_arrays(path.read_bytes()) if path.name == "found.npz" else tables.read_table(path, SMALL)
        start(*argv)
        assert_same_outcome(tmp_path, ranked)

    def test_truncated_checkpoint(self, rerun, ranked, tmp_path):
        run = tmp_path / "run"
        remove(run, "result.json", "scores.csv", "*.png", "seed0/scores_*")
        checkpoints = [run / "seed0" / "checkpoints" / f"step_0000000{step}" for step in (4, 6)]
        largest = max(
            (path for path in checkpoints[1].rglob("*") if path.is_file()), key=lambda path: path.stat().st_size
        )
        largest.write_bytes(largest.read_bytes()[:-1])
        line = rerun()
        assert f"{largest}: this file of a checkpoint is damaged; delete {checkpoints[1]} to go on from the" in line
        shutil.rmtree(checkpoints[1])
        assert rerun() is None
        assert_same_outcome(run, ranked)

    def test_truncated_scores(self, rerun, ranked, tmp_path):
        run = tmp_path / "run"
        remove(run, "result.json")
        block = run / "seed0" / "scores_000009.npz"
        block.write_bytes(block.read_bytes()[:-1])
        line = rerun()
        assert f"{block}: truncated" in line and "delete it" in line
        block.unlink()
        assert rerun() is None
        assert_same_outcome(run, ranked)

    def test_another_configuration_is_refused_once_files_are_written(self, ranked, truth, tmp_path, capsys):
        argv = ["rank_correlation", *RANKED, "--data-dir", truth, "--workdir"]
        before = {path: path.read_bytes() for path in ranked.rglob("*") if path.is_file()}
        line = refusal(capsys, *argv, ranked, "--num-steps", "8")
        assert f"--workdir {ranked} holds a run with num_steps=6, this one has 8" in line
        assert {path: path.read_bytes() for path in ranked.rglob("*") if path.is_file()} == before
        assert "num_archs" in refusal(capsys, *argv, tmp_path, "--num-archs", "3")
        assert "sampler" in refusal(capsys, *argv, tmp_path, "--sampler", "greedy")

    def test_loss_that_is_not_finite(self, truth, tmp_path, capsys):
        argv = ["rank_correlation", *RANKED, "--learning-rate", "1e30", "--data-dir", truth, "--workdir", tmp_path]
        line = refusal(capsys, *argv)
        assert "training stopped: " in line and "lower the learning rate" in line
        assert not (tmp_path / "result.json").exists() and not list(tmp_path.rglob("*.npz"))

    @pytest.mark.parametrize(
        "arguments, words",
        [
            ("--space large", "unknown search space 'large'; choose one of darts, "),
            ("--dataset sketches", "unknown data set 'sketches': expected digits"),
            ("--sampler greedy", "sampler is 'greedy', expected one of uniform, fair"),
            ("--num-archs 3", "num_archs must be a multiple of 2"),
            ("--num-seeds 0", "num_seeds is 0, expected 1 to "),
            ("--num-eval-archs 1", "num_eval_archs is 1, expected 2 to "),
            ("--num-eval-archs 9", "top_k is 10, expected 1 to 9"),
            ("--top-k 17", "top_k is 17, expected 1 to 16"),
            ("--num-eval-images 0", "num_eval_images is 0, expected 1 to "),
            ("--num-eval-images 101", "num_eval_images is 101, expected 1 to the 100"),
            ("--images-per-call 0", "images_per_call is 0, expected 1 to "),
            ("--archs-per-call 0", "archs_per_call is 0, expected 1 to "),
            ("--archs-per-save 0", "archs_per_save is 0, expected 1 to "),
            ("--memory-budget 1", "memory_budget of 1 bytes is too small"),
            ("--bn-mode tracked", "bn_mode tracked needs stats_momentum"),
            ("--bn-mode calibrated", "num_calibration_images is 256, but there are 128 training images"),
            ("--batch-size 129", "batch_size is 129, but there are 128 training images"),
            ("--batch-size 0", "batch_size is 0, expected 1 to "),
            ("--num-steps 0", "num_steps is 0, expected 1 to "),
            ("--report-every 0", "report_every is 0, expected 1 to "),
            ("--checkpoint-every 0", "checkpoint_every is 0, expected 1 to "),
            ("--learning-rate 0", "learning_rate is 0.0, expected a number, above 0"),
            ("--num-valid 800", "together at most 900"),
            ("--num-train 1 --batch-size 1", "fewer than two classes"),
            ("--image-size 0", "image_size is 0"),
            ("--width 0", "width"),
        ],
    )
    def test_bad_arguments_end_before_the_training(self, arguments, words, truth, tmp_path, capsys):
        argv = [*RANKED, *arguments.split(), "--data-dir", truth, "--workdir", tmp_path]
        assert words in refusal(capsys, "rank_correlation", *argv)
        assert {path.name for path in tmp_path.rglob("*") if path.is_file()} <= {".lock", "config.json"}


class TestBuildTable:
    def test_table_is_readable_and_says_what_made_it(self, built):
        table = tables.read_table(built / "small_digits.npz", SMALL)
        assert [to_text(SMALL, code) for code in table.archs] == ["0-0-0-0", "0-0-0-1", "0-0-1-0", "0-0-1-1"]
        assert table.units == {"test_accuracy": "fraction", "test_loss": "nats"}
        accuracy, loss = table.columns["test_accuracy"], table.columns["test_loss"]
        assert accuracy.shape == loss.shape == (4, 2)
        assert (loss[:, 0] != loss[:, 1]).all()
        assert ((accuracy >= 0) & (accuracy <= 1) & (loss > 0)).all()
        scored = 9 * 897  # test images, at nine shifts
        np.testing.assert_allclose(accuracy * scored, np.rint(accuracy * scored), atol=2e-3)
        assert "num_epochs=2" in table.provenance["config"]
        result = result_of(built)
        tau = scipy.stats.kendalltau(*accuracy.T).statistic
        assert result["kendall_tau_between_truth_seeds"] == pytest.approx(tau, nan_ok=True)
        assert result["table_bytes"] == (built / "small_digits.npz").stat().st_size
        assert result["seconds_per_network"] > 0
        rows = read_rows(built / "networks.csv")
        assert [row["arch"] for row in rows] == ["0-0-0-0", "0-0-0-1", "0-0-1-0", "0-0-1-1"]
        assert int(rows[1]["macs"]) - int(rows[0]["macs"]) == 8 * 8 * 2 * 2  # a 1x1 convolution of 8 channels on 2x2
        took = [float(row["train_seconds"]) for row in rows]
        assert min(took) > 0 and max(took) == pytest.approx(result["highest_train_seconds"])

    def test_interrupted_run_gives_the_same_bytes(self, built, tmp_path, capsys):
        argv = ["build_table", *TABLED, "--workdir", tmp_path, "--data-dir"]
        with struck("blocks/000002.npz", fail(errno.ENOSPC)):
            assert "No space left on device; make room" in refusal(capsys, *argv, "here")
        (first,) = (tmp_path / "blocks").iterdir()
        before = first.stat().st_mtime_ns
        start(*argv, "there")
        assert first.stat().st_mtime_ns == before
        assert (tmp_path / "small_digits.npz").read_bytes() == (built / "small_digits.npz").read_bytes()

    @pytest.mark.parametrize(
        "arguments, words",
        [
            ("--space large", "unknown search space 'large'"),
            ("--dataset sketches", "unknown data set 'sketches': expected digits"),
            ("--num-archs 1", "num_archs is 1, expected 2 to "),
            ("--num-seeds 0", "num_seeds is 0, expected 1 to "),
            ("--num-epochs 0", "num_epochs is 0, expected 1 to "),
            ("--archs-per-save 0", "archs_per_save is 0, expected 1 to "),
            ("--learning-rate 0", "learning_rate is 0.0, expected a number, above 0"),
            ("--batch-size 61", "batch_size is 61, expected 1 to the 60 training images"),
            ("--batch-size 0", "batch_size is 0, expected 1 to "),
            ("--num-valid 900", "together at most 900"),
        ],
    )
    def test_bad_arguments(self, arguments, words, tmp_path, capsys):
        assert words in refusal(capsys, "build_table", *TABLED, *arguments.split(), "--workdir", tmp_path)
        assert not list(tmp_path.rglob("*.npz"))


def test_all_shifts_of_an_image():
    """By one pixel of a 2x2 image: the image itself in the middle, its corners at the others, the mean around."""
    image = np.array([[10, 20], [30, 40]], np.uint8).reshape(1, 2, 2, 1)
    images, labels = build_table.all_shifts(image, np.array([7]), np.array([0.02]), 1)
    assert images.shape == (9, 2, 2, 1) and labels.tolist() == [7] * 9
    assert images[4, ..., 0].tolist() == [[10, 20], [30, 40]]
    assert images[0, ..., 0].tolist() == [[5, 5], [5, 10]] and images[5, ..., 0].tolist() == [[20, 5], [40, 5]]


def test_embedded_table():
    """All of the space, seeds that agree, and where it comes from."""
    space = SPACES["digits_chain"]
    table = tables.load_truth(space, "digits")
    np.testing.assert_array_equal(table.archs, np.array(list(itertools.product(range(3), repeat=5))))
    accuracy = table.columns["test_accuracy"].astype(np.float64)
    assert len(accuracy) == 243 and accuracy.shape[1] >= 5
    assert ((accuracy > 0.1) & (accuracy <= 1)).all() and np.isfinite(table.columns["test_loss"]).all()
    assert len(np.unique(accuracy, axis=1).T) == accuracy.shape[1]
    taus = [scipy.stats.kendalltau(*pair).statistic for pair in itertools.combinations(accuracy.T, 2)]
    assert np.mean(taus) >= 0.5  # between single seeds
    correlations = np.corrcoef(accuracy.T)[np.triu_indices(accuracy.shape[1], 1)]
    num_seeds, mean = accuracy.shape[1], correlations.mean()
    assert num_seeds * mean / (1 + (num_seeds - 1) * mean) >= 0.9  # reliability of the mean over seeds
    assert table.provenance["source"] == "python -m experiments.build_table"
    assert f"num_seeds={num_seeds}," in table.provenance["config"] and "num_train=" in table.provenance["config"]
    assert all(f"{package} " in table.provenance["versions"] for package in ("python", "jax", "flax", "jaxnas"))
    assert (Path(tables.__file__).parent / "digits_chain.npz").stat().st_size < 50_000
