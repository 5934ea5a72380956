"""experiments.supernet_factors on 16 chains of a space of the tests: its table from its folders, kills, refusals."""

import dataclasses
import itertools
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from experiment_runs import SMALL, killed, refusal, result_of, rows_of, start
from oracles import network_costs
from PIL import Image

from experiments import supernet_factors
from experiments.shared.config import settle
from experiments.shared.supernet import build
from jaxnas import runs, tables
from jaxnas.spaces import SPACES, get_space, nasbench101_space
from jaxnas.spaces._nasbench101 import enumerate_cells

ARGV = ["supernet_factors", "tiny", "--space", "small", "--factors", "learning_rate=0.2,1e30", "--no-progress"]
SETTINGS = ["base", "learning_rate=0.2", "learning_rate=1e30"]
SEEDS = ["seed0", "seed1"]


@pytest.fixture(scope="module")
def ran(tmp_path_factory, truth) -> Path:
    """The workdir of an uninterrupted run, in which one learning rate diverges."""
    workdir = tmp_path_factory.mktemp("factors")
    start(*ARGV, "--data-dir", truth, "--workdir", workdir)
    return workdir


def scores_of(workdir: Path, setting: str) -> list[dict[str, np.ndarray]]:
    paths = [workdir / setting / seed / "scores_000000.npz" for seed in SEEDS]
    return [tables.read_table(path, SMALL).columns for path in paths]


def test_table_follows_from_the_folders(ran, truth):
    rows = {row["setting"]: row for row in rows_of(ran / "factors.csv")}
    assert list(rows) == SETTINGS
    test = tables.read_table(truth / "small_digits.npz", SMALL).columns["test_accuracy"].astype(np.float64).mean(axis=1)
    taus = {}
    for setting in SETTINGS[:2]:
        scores, row = scores_of(ran, setting), rows[setting]
        taus[setting] = [scipy.stats.kendalltau(-each["loss"], test).statistic for each in scores]
        bins = np.floor(test / 1e-3)
        sparse = np.mean([scipy.stats.kendalltau(-each["loss"], bins).statistic for each in scores])
        accuracy = [each["accuracy"].mean() for each in scores]
        top = np.mean([test[np.argsort(each["loss"])[:5]].mean() for each in scores])
        expected = {
            "kendall_tau": np.mean(taus[setting]),
            "sparse_kendall_tau": sparse,
            "supernet_accuracy": np.mean(accuracy),
            "top_5_accuracy": top,
            "delta": np.mean(taus[setting]) - np.mean(taus["base"]),
        }
        assert {name: float(row[name]) for name in expected} == pytest.approx(expected, abs=1e-5)
        low, high = scipy.stats.t.interval(0.95, 1, np.mean(accuracy), scipy.stats.sem(accuracy))
        assert float(row["supernet_accuracy_low"]) == pytest.approx(low, abs=1e-5)
        assert float(row["supernet_accuracy_high"]) == pytest.approx(high, abs=1e-5)
        assert float(row["kendall_tau_low"]) <= float(row["kendall_tau"]) <= float(row["kendall_tau_high"])
        assert float(row["delta_low"]) <= float(row["delta"]) <= float(row["delta_high"])
        assert float(row["train_seconds"]) > 0 and (row["num_seeds"], row["num_diverged"]) == ("2", "0")
    result = result_of(ran)
    assert result["learning_rate=0.2: delta"] == pytest.approx(float(rows["learning_rate=0.2"]["delta"]), abs=1e-5)
    assert (result["num_settings"], result["num_seeds"], result["num_archs"], result["num_images"]) == (3, 2, 16, 100)


def test_settings_differ_in_what_they_say_and_start_alike(ran):
    """The same seed has the same weights and batches at first, so the first loss is the same; a learning rate away,
    the scores are not."""
    first = {setting: rows_of(ran / setting / "seed0" / "training.csv")[0] for setting in SETTINGS[:2]}
    assert first["base"]["step"] == first["learning_rate=0.2"]["step"] == "2"
    scores = {setting: scores_of(ran, setting) for setting in SETTINGS[:2]}
    for place in range(2):
        assert (scores["base"][place]["loss"] != scores["learning_rate=0.2"][place]["loss"]).any()
    assert (scores["base"][0]["loss"] != scores["base"][1]["loss"]).all()


def test_a_setting_that_diverges_is_counted(ran):
    row = rows_of(ran / "factors.csv")[2]
    assert (row["setting"], row["num_seeds"], row["num_diverged"]) == ("learning_rate=1e30", "0", "2")
    assert math.isnan(float(row["kendall_tau"])) and math.isnan(float(row["delta"]))
    assert result_of(ran)["learning_rate=1e30: delta"] is None
    assert "training stopped: " in (ran / "learning_rate=1e30" / "seed1" / "diverged.json").read_text()


def test_a_divergence_is_taken_for_its_own_seed_only(ran, truth, tmp_path, capsys):
    shutil.copytree(ran, tmp_path / "run")
    (tmp_path / "run" / "result.json").unlink()
    path = tmp_path / "run" / "base" / "seed0" / "diverged.json"
    shutil.copy(ran / "learning_rate=1e30" / "seed0" / "diverged.json", path)
    argv = [*ARGV, "--data-dir", truth, "--workdir", tmp_path / "run"]
    assert f"{path}: says that its setting is learning_rate=1e30, expected base; delete it" in refusal(capsys, *argv)


def test_picture(ran):
    with Image.open(ran / "forest.png") as picture:
        pixels = np.asarray(picture.convert("L"))
    assert min(pixels.shape) >= 200 and len(np.unique(pixels)) > 20


@pytest.mark.slow("an experiment is killed, in a process of its own, and goes on")
def test_killed_in_the_middle(ran, truth, tmp_path):
    """What is finished is left alone, what was half done goes on, and the table is that of the uninterrupted run."""
    argv = [*ARGV, "--data-dir", truth, "--workdir", tmp_path]
    killed("learning_rate=0.2/seed1/scores_000000.npz", *argv)
    finished = [tmp_path / setting / seed for setting, seed in itertools.product(SETTINGS[:2], SEEDS)][:3]
    assert all((folder / "scores_000000.npz").exists() for folder in finished)
    assert not (tmp_path / "learning_rate=0.2" / "seed1" / "scores_000000.npz").exists()
    files = [path for folder in finished for path in folder.rglob("*") if path.is_file()]
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in files}
    start(*argv)
    assert {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in files} == before
    rows = [rows_of(folder / "factors.csv") for folder in (tmp_path, ran)]
    for row, expected in zip(*rows, strict=True):
        untimed = {key for key in row if "seconds" not in key}
        assert {key: row[key] for key in untimed} == {key: expected[key] for key in untimed}


@pytest.mark.parametrize(
    "arguments, words",
    [
        ("--factors learningrate=0.1", "factor 'learningrate=0.1' is not NAME=VALUE,VALUE with a name among kernels"),
        ("--factors learning_rate", "factor 'learning_rate' is not NAME=VALUE,VALUE"),
        ("--factors learning_rate=fast", "factor learning_rate: expected a value of type float, got 'fast'"),
        ("--factors affine=maybe", "factor affine: unknown value 'maybe'; choose among true, false"),
        ("--factors kernels=half", "factor kernels: unknown value 'half'; choose among separate, centre, transform"),
        ("--factors op_on=node", "op_on=node: small: op_on='node' is for cells"),
        ("--factors kernels=centre", "kernels=centre: small: no choice has kernels of two sizes"),
        ("--factors path_dropout=0.2", "path_dropout=0.2: small: path_dropout needs paths beside a shortcut"),
        ("--factors cells_per_stage=2", "factor 'cells_per_stage=2': small is no space of cells"),
        ("--factors sampler=greedy", "sampler=greedy: sampler is 'greedy', expected one of uniform"),
        ("--factors num_train=129", "num_train=129: num_train is 129, but the base has 128; vary it downwards"),
        ("--factors batch_size=129", "batch_size=129: batch_size is 129, but there are 128 training images"),
        ("--factors num_steps=0", "num_steps is 0, expected 1 to "),
        ("--num-seeds 0", "num_seeds is 0, expected 1 to "),
        ("--top-k 17", "k is 17, expected 1 to 16"),
    ],
)
def test_bad_arguments_end_before_the_training(arguments, words, truth, tmp_path, capsys):
    argv = [*ARGV[:4], *arguments.split(), "--data-dir", truth, "--workdir", tmp_path]
    assert words in refusal(capsys, *argv)
    assert not list(tmp_path.rglob("*.npz")) and not (tmp_path / "base").exists()


def test_a_base_that_diverges(truth, tmp_path, capsys):
    argv = [*ARGV[:4], "--factors", "learning_rate=0.1", "--learning-rate", "1e30", "--num-seeds", "1", "--no-progress"]
    line = refusal(capsys, *argv, "--data-dir", truth, "--workdir", tmp_path)
    assert "the base setting diverged with every seed" in line


def test_variants():
    """The base first, then its other values, with what a value has no meaning without."""
    config = runs.replace(
        settle(supernet_factors.PRESETS["cpu"]),
        affine=True,
        factors=("weight_decay=5e-4,0", "batch_norm=per_input,shared", "bn_mode=tracked"),
    )
    variants = {variant.name: variant.config for variant in supernet_factors.make_variants(config)}
    assert list(variants) == ["base", "weight_decay=0", "batch_norm=per_input", "bn_mode=tracked"]
    assert variants["base"] == config
    assert variants["weight_decay=0"] == runs.replace(config, weight_decay=0.0)
    assert variants["batch_norm=per_input"] == runs.replace(config, batch_norm="per_input", op_on="node")
    assert variants["bn_mode=tracked"] == runs.replace(config, bn_mode="tracked", stats_momentum=0.9)
    digits = runs.replace(settle(supernet_factors.PRESETS["quick"]), factors=("width=4,16",))
    assert [variant.name for variant in supernet_factors.make_variants(digits)] == ["base", "width=16"]  # 4: its own


@pytest.mark.parametrize("preset", ["quick", "cpu", "paper"])
def test_presets_have_only_what_their_space_has(preset):
    """Every super-net of a preset can be built, on a small network: kernel sizes and wiring are the same there."""
    config = settle(supernet_factors.PRESETS[preset])
    variants = supernet_factors.make_variants(config)
    assert len(variants) >= 6
    for variant in variants:
        space = get_space(variant.config.problem.space).resized(width=4, image_size=8)
        build(variant.config.network, space)


def test_seconds_leave_out_the_first_report():
    """Ten steps in 30 s with compilation, thirty more in 6 s: 0.2 s a step, 8 s in all; one report is all there is."""
    rows = [{"step": step, "seconds": seconds} for step, seconds in ((10, 30.0), (20, 32.0), (40, 36.0))]
    assert supernet_factors.train_seconds(rows) == pytest.approx(8)
    assert supernet_factors.train_seconds(rows[:1]) == 30


@pytest.mark.slow("factors of a space whose wiring is searched")
def test_cells_whose_wiring_is_searched(tmp_path, monkeypatch):
    """NAS-Bench-101 of four vertices, one cell: distinct cells are scored once each, and MACs are those of cells."""
    space = nasbench101_space(4).resized(width=8, image_size=8, cells_per_stage=1)
    space = dataclasses.replace(space, layout=space.layout._replace(num_stages=1))
    monkeypatch.setitem(SPACES, "nasbench101_v4", space)
    cells = enumerate_cells(space)
    accuracy = np.random.default_rng(0).uniform(0.5, 0.9, (len(cells), 2)).astype(np.float32)
    units = {"test_accuracy": "fraction"}
    table = tables.make_table(space, cells, {"test_accuracy": accuracy}, units=units, provenance={})
    tables.write_table(tmp_path / "nasbench101_v4_digits.npz", table)
    argv = ["supernet_factors", "tiny", "--space", "nasbench101_v4", "--sampler", "uniform", "--num-archs", "1"]
    argv += ["--num-seeds", "1", "--factors", "channels=fixed", "--num-eval-archs", "12", "--width", "8"]
    run = tmp_path / "run"
    start(*argv, "--image-size", "8", "--no-progress", "--data-dir", tmp_path, "--workdir", run)
    scores = tables.read_table(run / "base" / "seed0" / "scores_000000.npz", space)
    assert len(scores.archs) == len({code.tobytes() for code in space.isomorphs(scores.archs)}) == 12
    macs, _ = network_costs(space, scores.archs)
    mean = tables.lookup(table, scores.archs, "test_accuracy").mean(axis=1)
    assert result_of(run)["macs_kendall_tau"] == pytest.approx(scipy.stats.kendalltau(macs, mean).statistic)
