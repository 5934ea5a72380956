"""The experiment on latency, with times that the test makes up: networks take 1 ms more than twice their operations."""

import csv
import functools
import json
import os
from pathlib import Path

import jax
import numpy as np
import pytest
import scipy.stats
from PIL import Image

from experiments import measure_latency
from jaxnas.codes import from_text
from jaxnas.costs import arch_costs, latency, limits, table_costs
from jaxnas.costs.latency import Setting, operation_costs, operations_table, read_operations_table
from jaxnas.costs.latency_files import read_latencies
from jaxnas.costs.measuring import Measured
from jaxnas.runs import command
from jaxnas.spaces import get_space

SPACE = get_space("digits_chain").resized(width=2)


def made_up(
    space, archs, *, batch_size, dtype, num_rounds, known_ms, constant=1, scale=2.0, scatter=0.0, **_
) -> Measured:
    """Every program's times are those of a network, as far as they aren't known; `scatter` is the share of the odd
    rounds that they take longer."""
    rng = np.random.default_rng(0)
    rounds = np.linspace(-0.1, 0.1, num_rounds)  # what differs between rounds; the median is left alone
    per_op = rng.uniform(1, 9, (space.num_choices, max(space.num_ops), 1)) + rounds
    setting = Setting(jax.devices()[0].device_kind, batch_size, dtype)
    table = operations_table(space, per_op, 3 + rounds, setting, provenance={})
    times = (constant + scale * table_costs(operation_costs(space, table), archs))[:, None] + rounds
    times[5] *= 1 + scatter * (np.arange(num_rounds) % 2)
    times = times if known_ms is None else np.where(np.isnan(known_ms), times, known_ms)
    return Measured(table, times, times)


def start(monkeypatch, workdir: Path, measure=made_up, *argv: str) -> dict:
    monkeypatch.setattr(measure_latency, "measure", measure)
    arguments = ["tiny", "--num-archs", "20", "--num-rounds", "4", "--no-progress", "--workdir", str(workdir), *argv]
    command.main("experiments.measure_latency", None, measure_latency.run, measure_latency.PRESETS, arguments)
    return json.loads((workdir / "result.json").read_text())


def test_a_measurement_is_judged(monkeypatch, tmp_path):
    result = start(monkeypatch, tmp_path)
    assert (result["constant_ms"], result["scale"]) == (pytest.approx(1), pytest.approx(2))
    assert result["spearman"] == result["kendall_tau"] == result["between_rounds_spearman"] == 1
    assert result["median_relative_error"] == pytest.approx(0, abs=1e-12)
    rows = list(csv.DictReader((tmp_path / "networks.csv").read_text().splitlines()))
    assert [row["used_for"] for row in rows] == ["calibration"] * 3 + ["judgement"] * 20
    assert len({row["arch"] for row in rows}) == 23
    judged = rows[3:]
    macs = arch_costs(SPACE, from_text(SPACE, [row["arch"] for row in judged])).macs
    predicted = [float(row["predicted_ms"]) for row in judged]
    assert [float(row["macs"]) for row in judged] == macs.tolist()
    assert (
        result["macs_spearman"] == pytest.approx(scipy.stats.spearmanr(macs, predicted).statistic)
        and -1 < result["macs_spearman"] < 1
    )
    # A third of a round's 0.2 ms lies between one round and the next; the even rounds' median is one such step lower.
    assert result["between_rounds_median_relative_error"] == pytest.approx(
        np.median(0.2 / 3 / (np.array(predicted) + 0.1 / 3))
    )
    table = read_operations_table(tmp_path / "latency.npz", SPACE, batch_size=2, dtype="float32")
    calibrated = operation_costs(SPACE, table, latency.Calibration(result["constant_ms"], result["scale"]))
    np.testing.assert_allclose(table_costs(calibrated, from_text(SPACE, [row["arch"] for row in judged])), predicted)
    with Image.open(tmp_path / "latency.png") as picture:
        assert picture.width > 800


def own_space(num_choices: int) -> str:
    """The text of a module with a chain of two candidates at each choice."""
    layout = f"ChainLayout(4, (4,) * {num_choices}, (1,) * {num_choices}, 0, image_size=8, in_channels=1)"
    ops = f'[("nor_conv_1x1", "nor_conv_3x3")] * {num_choices}'
    return f'from jaxnas import ChainLayout, chain_space\n\nspace = chain_space("mine", {layout}, {ops})\n'


def test_a_space_of_few_networks_of_its_own_size_is_measured_whole(monkeypatch, tmp_path):
    """Eight of 4 channels, where ten are wanted to calibrate by and twenty to judge by; a limit takes the table as it
    is, on calibrated sums."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(own_space(3))
    argv = ["--space", "mine.py:space", "--width", "None", "--num-calibration", "10"]
    result = start(monkeypatch, tmp_path / "run", made_up, *argv)
    assert (result["num_calibration"], result["num_archs"]) == (4, 4)
    space = get_space("mine.py:space")
    limit = limits.parse("latency_ms:1", space, read_latencies(tmp_path / "run" / "latency.npz", space))
    rows = list(csv.DictReader((tmp_path / "run" / "networks.csv").read_text().splitlines()))
    assert len({row["arch"] for row in rows}) == 8
    archs = from_text(space, [row["arch"] for row in rows])
    np.testing.assert_allclose(limit.costs(archs), [float(row["predicted_ms"]) for row in rows])
    whole = [np.median([float(value) for name, value in row.items() if name.startswith("round")]) for row in rows]
    np.testing.assert_allclose(limit.costs(archs), whole)  # 1 ms more than twice the sums of operations


def test_what_was_measured_is_not_measured_again(monkeypatch, tmp_path):
    first = start(monkeypatch, tmp_path)
    os.remove(tmp_path / "result.json")
    second = start(monkeypatch, tmp_path, functools.partial(made_up, scale=-0.01))  # nothing of it is taken
    untimed = {"seconds": 0, "commit": "", "checksum": ""}
    assert first | untimed == second | untimed


def test_on_a_busy_machine_what_scattered_is_measured_again(monkeypatch, tmp_path, capsys):
    """The first run ends in one line; the second, with the same arguments, takes the sixth program alone."""
    falling = functools.partial(made_up, constant=10, scale=-0.01, scatter=0.5)
    line = ends(monkeypatch, tmp_path, capsys, falling)
    assert "falls with the predicted one (scale -0.01); 1 of 23 programs scatter by more than 10%" in line
    assert line.endswith("once it is idle, the same command measures those again and keeps the rest.")
    kept = np.array(json.loads((tmp_path / "times.json").read_text())["content"], np.float64)
    assert np.isnan(kept).any(axis=1).tolist() == [row == 5 for row in range(23)]
    line = ends(monkeypatch, tmp_path, capsys, functools.partial(made_up, constant=10, scale=-0.02))
    assert "no program scatters, so these networks differ too little: choose another --workdir" in line
    found = np.array(json.loads((tmp_path / "times.json").read_text())["content"], np.float64)
    np.testing.assert_array_equal(np.delete(found, 5, axis=0), np.delete(kept, 5, axis=0))
    assert not np.isnan(found).any()


def test_times_of_another_device_are_refused(monkeypatch, tmp_path, capsys):
    start(monkeypatch, tmp_path)
    os.remove(tmp_path / "result.json")
    monkeypatch.setattr(measure_latency, "origin", lambda run: {"run": run, "device": "TPU v9"})
    line = ends(monkeypatch, tmp_path, capsys, made_up)
    assert "times.json: says that its device is cpu, expected TPU v9; delete it, and the same command" in line


def ends(monkeypatch, tmp_path, capsys, measure, *argv) -> str:
    """The line in which it ends."""
    with pytest.raises(SystemExit) as stop:
        start(monkeypatch, tmp_path, measure, *argv)
    line = capsys.readouterr().err.strip()
    assert stop.value.code == 2 and "\n" not in line
    return line


@pytest.mark.parametrize(
    "measure, argv, message",
    [
        (functools.partial(made_up, scale=-0.01), (), "measured latency falls with the predicted one"),
        (made_up, ("--num-archs", "2"), "num_archs is 2, expected 3 to "),
        (made_up, ("--space", "mine.py:space"), "mine has 4 networks, expected at least 6: 3 to calibrate"),
        (made_up, ("--space", "nasbench101"), "what an operation costs depends on the whole cell"),
    ],
)
def test_what_ends_in_one_line(monkeypatch, tmp_path, capsys, measure, argv, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(own_space(2))
    if "nasbench101" in argv:
        measure = measure_latency.measure
    assert message in ends(monkeypatch, tmp_path, capsys, measure, *argv)
