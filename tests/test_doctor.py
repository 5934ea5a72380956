"""`jaxnas doctor`: each thing that can be wrong is one line that says what to do; nothing wrong is said as such."""

import os
import shutil
import types
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments.__main__ import main
from jaxnas import tables
from jaxnas.runs import doctor
from jaxnas.spaces import get_space


def told(findings) -> str:
    return "\n".join(f"{finding.what} {finding.found} {finding.problem}" for finding in findings)


def test_a_sound_machine_has_no_problem(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(doctor, "compile_folder", lambda: tmp_path)
    monkeypatch.setattr(doctor, "device", lambda: doctor.Finding("device", "a card"))
    monkeypatch.setattr(doctor, "memory", lambda: doctor.Finding("memory", "enough"))
    monkeypatch.setattr(doctor, "MIN_DISK", 0)
    monkeypatch.delenv("JAXNAS_DATA", raising=False)
    with pytest.raises(SystemExit) as stop:
        main(["doctor"])
    lines = capsys.readouterr().out.splitlines()
    assert stop.value.code == 0 and lines[-1] == "no problems"
    assert any(line.startswith("versions") and f"jax {jax.__version__}" in line for line in lines)


def test_problems_come_last_and_make_the_exit_code(capsys, monkeypatch):
    findings = [doctor.Finding("a", "x", "a is wrong; do this."), doctor.Finding("b", "y")]
    monkeypatch.setattr(doctor, "examine", lambda: iter(findings))
    with pytest.raises(SystemExit) as stop:
        main(["doctor"])
    assert stop.value.code == 1
    assert capsys.readouterr().out.splitlines()[2:] == ["PROBLEM      a is wrong; do this.", "1 problem"]


def test_an_idle_card_is_a_problem(monkeypatch):
    cpu = types.SimpleNamespace(platform="cpu", device_kind="cpu")
    monkeypatch.setattr(jax, "devices", lambda: [cpu])
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    assert "pip install -U 'jax[cuda12]'" in doctor.device().problem
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    assert doctor.device().problem.endswith("unset it.")
    card = types.SimpleNamespace(platform="gpu", device_kind="H")
    monkeypatch.setattr(jax, "devices", lambda: [card, card])
    assert doctor.device().problem is None and doctor.device().found.startswith("2 x H (gpu)")


def test_no_device_is_a_problem(monkeypatch):
    def none():
        raise AssertionError  # as of JAX 0.10 where JAX_PLATFORMS=cuda and no plug-in is installed

    monkeypatch.setattr(jax, "devices", none)
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    found = doctor.device()
    assert found.found == "none" and "JAX_PLATFORMS being 'cuda'" in found.problem and "\n" not in found.problem
    assert "jax[cuda12]" in found.problem and doctor.memory().what == "memory"


def test_little_memory_is_a_problem(monkeypatch):
    monkeypatch.setattr(doctor, "MIN_MEMORY", 2**60)
    assert "close other programs" in doctor.memory().problem
    monkeypatch.setattr(doctor, "MIN_MEMORY", 0)
    assert doctor.memory().problem is None


def test_missing_and_old_packages_are_named_with_the_command():
    asked = ["nothing-like-it>=1", "jax>=999.0", "numpy>=1.0; extra == 'x'", "numpy>=2.0", "chex"]
    missing, old = doctor.dependencies(asked)
    assert missing.problem == "nothing-like-it is not installed; run: pip install 'nothing-like-it>=1'"
    assert old.problem.endswith("is older than 999.0; run: pip install -U 'jax>=999.0'")


@pytest.mark.parametrize(
    ("one", "other"), [("1.9", "1.10"), ("2.0.0rc1", "2.0.1"), ("1.2", "1.2.0.1"), ("0.7", "0.11")]
)
def test_versions_are_compared_by_number(one, other):
    assert doctor._numbers(one) < doctor._numbers(other) and doctor._numbers("2.0") == doctor._numbers("2.0.0")


def test_a_cache_that_cannot_be_is_a_problem(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(doctor, "compile_folder", lambda: tmp_path / "file" / "compiled")
    assert doctor.cache().problem.endswith("set JAX_COMPILATION_CACHE_DIR to a folder of yours.")
    monkeypatch.setattr(doctor, "compile_folder", lambda: tmp_path)
    monkeypatch.setattr(doctor, "MIN_DISK", 2**60)
    assert "make room" in doctor.cache().problem
    monkeypatch.setattr(doctor, "MIN_DISK", 0)
    monkeypatch.setattr(os, "access", lambda *given: False)
    assert "cannot be written" in doctor.cache().problem


def test_data_that_is_there_and_that_is_not(tmp_path):
    assert "not set" in told(doctor.data(None))
    assert "which is no folder; make it" in told(doctor.data(str(tmp_path / "absent")))
    space = get_space("digits_chain")
    column = {"test_accuracy": np.array([0.5])}
    table = tables.make_table(space, [[0] * 5], column, units={"test_accuracy": "fraction"}, provenance={})
    tables.write_table(tmp_path / "mine.npz", table)
    (tmp_path / "nas-bench-macro_cifar10.json").write_text("cut off")
    (tmp_path / "tfds" / "cifar10" / "3.0.2").mkdir(parents=True)
    (tmp_path / "tfds" / "cifar10" / "3.0.2" / "dataset_info.json").write_text("{}")
    said = told(doctor.data(str(tmp_path)))
    assert "mine.npz, of our own format" in said and "image sets cifar10" in said
    assert "not the published file or not all of it" in said and "take it again from github.com/xiusu" in said


def test_doctor_takes_no_arguments(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["doctor", "--all"])
    assert stop.value.code == 2 and capsys.readouterr().err == "jaxnas doctor: takes no arguments, got '--all'.\n"


def test_where_programs_are_kept_is_where_runs_look(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    kept = jax.config.jax_compilation_cache_dir
    assert doctor.compile_folder() == (Path(kept) if kept else tmp_path / "jaxnas" / "compiled")
