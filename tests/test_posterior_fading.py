"""The experiment on posterior fading: its parts of the space by hand, its figures from the files of its trainings."""

import csv
import itertools
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from PIL import Image

from experiments import posterior_fading
from experiments.posterior_fading import Config, all_trainings, growing_parts
from jaxnas import runs, tables
from jaxnas.runs import command
from jaxnas.space import ChainLayout
from jaxnas.spaces import SPACES, chain_space

SMALL = chain_space(
    "small",
    ChainLayout(stem_width=3, widths=(3, 3, 4), strides=(1, 1, 2), head_width=0, image_size=4, in_channels=1),
    [("identity", "nor_conv_1x1"), ("identity", "nor_conv_1x1"), ("nor_conv_1x1", "nor_conv_3x3")],
)


def start(workdir: Path, *argv: str) -> dict:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SPACES, "small", SMALL)
        arguments = ["tiny", "--space", "small", "--width", "3", "--no-progress", "--workdir", str(workdir), *argv]
        command.main("experiments.posterior_fading", None, posterior_fading.run, posterior_fading.PRESETS, arguments)
    return json.loads((workdir / "result.json").read_text())


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """The workdir of an uninterrupted run: four probes, spaces of 4 and 8, two super-nets each."""
    workdir = tmp_path_factory.mktemp("fading")
    start(workdir)
    return workdir


def test_parts_grow_from_the_probes_to_the_whole_space():
    parts = growing_parts(Config(num_open=4, num_sizes=4), SPACES["digits_chain"])
    assert parts[0].sum(axis=1).tolist() == [2, 2, 2, 2, 1]  # 16 probes
    assert parts[-1].all() and len(parts) == 4
    for smaller, larger in itertools.pairwise(parts):
        assert (larger >= smaller).all() and larger.sum() > smaller.sum()
    assert [int(part.sum()) for part in parts] == [9, 11, 13, 15]  # six operations are added, two a part
    other = growing_parts(runs.replace(Config(), seed=1), SPACES["digits_chain"])
    assert any((one != two).any() for one, two in zip(parts, other))


def test_the_trainings_that_there_are():
    parts = growing_parts(Config(num_open=2, num_sizes=2), SMALL)
    probes = np.array([[0, 0, 0], [0, 1, 0], [1, 0, 0], [1, 1, 0]], np.int32)
    config = Config(num_seeds=2, num_alone_seeds=2)
    by_name = {planned.name: planned for planned in all_trainings(config, parts, probes)}
    assert sorted(by_name) == sorted(
        [f"{arm}_{seed}" for arm in ("size_0", "size_1", "shrinking") for seed in (0, 1)]
        + [f"alone_{row}_{seed}" for row in range(4) for seed in (2, 3)]
    )
    assert [part.sum() for part in by_name["shrinking_0"].intervals] == [6, parts[0].sum()]
    (allowed,) = by_name["alone_1_2"].intervals
    assert np.argwhere(allowed).tolist() == [[0, 0], [1, 1], [2, 0]]  # just the probe's operations
    assert by_name["alone_1_2"].archs.tolist() == [[0, 1, 0]] and by_name["alone_1_2"].seed == 2


def test_figures_are_those_of_the_trainings(finished):
    result = json.loads((finished / "result.json").read_text())
    names = sorted(path.stem for path in (finished / "trainings").iterdir())
    assert len(names) == 2 * 3 + 2 * 4
    read = {name: tables.read_table(finished / "trainings" / f"{name}.npz", SMALL).columns for name in names}
    own = np.array([[read[f"alone_{row}_{seed}"]["loss"][0] for row in range(4)] for seed in (2, 3)])
    classes = np.array([[read[f"alone_{row}_{seed}"]["predictions"][0] for row in range(4)] for seed in (2, 3)])
    assert classes.shape == (2, 4, 50) and result["num_probes"] == 4 and result["sizes"] == "4 8"
    for arm, name in (("size_0", "smallest"), ("size_1", "whole"), ("shrinking", "shrinking")):
        shared = [read[f"{arm}_{seed}"] for seed in (0, 1)]
        gap = np.mean([one["loss"] - own.mean(axis=0) for one in shared])
        assert result[f"{name}_gap"] == pytest.approx(gap)
        same = [one["predictions"][row] == classes[seed, row] for one in shared for seed in (0, 1) for row in range(4)]
        assert result[f"{name}_agreement"] == pytest.approx(np.mean(same))
        taus = [scipy.stats.kendalltau(one["loss"], own.mean(axis=0)).statistic for one in shared]
        assert result[f"{name}_tau"] == pytest.approx(np.mean(taus))
        assert result[f"{name}_gap_low"] <= gap <= result[f"{name}_gap_high"]
    assert result["whole_gaussian_kl"] == pytest.approx((8 - 1 - np.log(8)) / 2)
    assert result["agreement_alone"] == pytest.approx((classes[0] == classes[1]).mean())
    assert result["tau_alone"] == pytest.approx(scipy.stats.kendalltau(*own).statistic)
    rows = list(csv.DictReader((finished / "fading.csv").read_text().splitlines()))
    assert [(row["arm"], row["num_archs"]) for row in rows] == [("size_0", "4"), ("size_1", "8"), ("shrinking", "8")]
    assert float(rows[1]["gap"]) == pytest.approx(result["whole_gap"])
    probes = list(csv.DictReader((finished / "probes.csv").read_text().splitlines()))
    assert [float(row["alone_loss"]) for row in probes] == pytest.approx(own.mean(axis=0))
    with Image.open(finished / "fading.png") as picture:
        assert picture.width > 800


def test_a_killed_run_goes_on_and_ends_alike(finished, tmp_path):
    """Half of the trainings are there, in another process's files."""
    (tmp_path / "trainings").mkdir()
    (tmp_path / "config.json").write_bytes((finished / "config.json").read_bytes())
    kept = sorted((finished / "trainings").iterdir())[::2]
    for path in kept:
        (tmp_path / "trainings" / path.name).write_bytes(path.read_bytes())
    start(tmp_path)
    for path in (finished / "trainings").iterdir():
        assert (tmp_path / "trainings" / path.name).read_bytes() == path.read_bytes()
    first, second = (json.loads((folder / "result.json").read_text()) for folder in (finished, tmp_path))
    untimed = {"seconds": 0, "commit": "", "checksum": ""}
    assert first | untimed == second | untimed


def test_another_training_in_the_place_of_one(finished, tmp_path, capsys):
    shutil.copytree(finished, tmp_path / "run")
    (tmp_path / "run" / "result.json").unlink()
    path = tmp_path / "run" / "trainings" / "size_1_0.npz"
    shutil.copy(path.with_name("size_1_1.npz"), path)
    with pytest.raises(SystemExit):
        start(tmp_path / "run")
    line = capsys.readouterr().err.strip()
    assert f"{path}: says that its training is size_1_1, expected size_1_0; delete it" in line and "\n" not in line


@pytest.mark.parametrize(
    "argv, message",
    [
        (("--num-open", "4"), "small: 3 choices have two operations, num_open is 4."),
        (("--num-sizes", "4"), "small: 1 operations are no probe's, too few for num_sizes 4; lower it."),
        (("--num-seeds", "1"), "num_seeds is 1, expected 2 to 1000."),
    ],
)
def test_what_ends_in_one_line(tmp_path, capsys, argv, message):
    with pytest.raises(SystemExit) as stop:
        start(tmp_path, *argv)
    assert stop.value.code == 2
    assert capsys.readouterr().err.strip() == f"python -m experiments.posterior_fading: {message}"


def test_a_damaged_training_ends_in_one_line(finished, tmp_path, capsys):
    (tmp_path / "trainings").mkdir()
    (tmp_path / "config.json").write_bytes((finished / "config.json").read_bytes())
    for path in (finished / "trainings").iterdir():
        (tmp_path / "trainings" / path.name).write_bytes(path.read_bytes()[: -20 if path.stem == "alone_0_2" else None])
    with pytest.raises(SystemExit) as stop:
        start(tmp_path)
    line = capsys.readouterr().err.strip()
    assert stop.value.code == 2 and "alone_0_2.npz: truncated, damaged" in line and "\n" not in line
