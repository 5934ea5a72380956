"""The commands: what each field admits is shown by --help and checked before all else."""

import importlib
from pathlib import Path

import jax
import pytest

from experiments import rank_correlation
from jaxnas import runs
from jaxnas.runs.command import main

ROOT = Path(__file__).parents[1]
EVERY_COMMAND = [
    *(f"experiments.{path.stem}" for path in sorted((ROOT / "experiments").glob("*.py")) if path.stem[0] != "_"),
    *(f"benchmarks.{name}" for name in ("compare", "evaluator", "scaling", "standalone", "train_step")),
]


@pytest.mark.parametrize("name", EVERY_COMMAND)
def test_every_field_of_every_command_has_its_range_or_list(name, monkeypatch):
    monkeypatch.delenv("JAXNAS_DATA", raising=False)  # so that no preset is asked whether its images are there
    module = importlib.import_module(name)
    presets = module.PRESETS if hasattr(module, "PRESETS") else {"default": module.Config(), "quick": module.QUICK}
    for preset in presets.values():
        runs.check(preset)
    of_any = {str(kind) for kind in runs.config.PLAIN.values()}
    kinds = {field: str(kind) for field, kind in runs.config.kinds(presets["quick"]).items()}
    assert not [field for field, kind in kinds.items() if kind in of_any]


def test_help_shows_what_a_field_admits(capsys):
    with pytest.raises(SystemExit):
        main("experiments.rank_correlation", "", print, rank_correlation.PRESETS, ["--help"])
    text = " ".join(capsys.readouterr().out.replace("│", "").split())
    assert "--momentum {at least 0 and below 1} (default: 0.9)" in text
    assert "--sampler {uniform, fair, distinct, sandwich or None} None: fair, or uniform where" in text
    assert "--width {1 to 4096 or small or None} channels of the stem, which" in text


@pytest.mark.parametrize(
    "said, words",
    [
        ("INTERNAL: an uncorrectable\nECC error", "the device failed (INTERNAL: an uncorrectable ECC error); where it"),
        (
            "RESOURCE_EXHAUSTED: Out of memory",
            "ran out of memory, or another process holds it (RESOURCE_EXHAUSTED: Out",
        ),
    ],
)
def test_a_device_that_fails_ends_in_one_line_and_the_same_command_goes_on(tmp_path, capsys, said, words):
    def lost(config, workdir, identity):
        if not (workdir / "half").exists():
            (workdir / "half").touch()
            raise jax.errors.JaxRuntimeError(said)
        return {"verdict": "went on", "headline": "half", "half": 1.0}

    argv = ["tiny", "--workdir", str(tmp_path)]
    with pytest.raises(SystemExit) as stop:
        main("experiments.rank_correlation", "", lost, rank_correlation.PRESETS, argv)
    error = capsys.readouterr().err
    assert stop.value.code == 2 and words in error and error.count("\n") == 1
    main("experiments.rank_correlation", "", lost, rank_correlation.PRESETS, argv)
    assert "went on" in capsys.readouterr().out


@pytest.mark.parametrize(
    "argument, words",
    [
        ("--num-valid x", "num_valid is 'x', expected at least 1; --help lists all fields"),
        ("--width huge", "width is 'huge', expected 1 to 4096 or small or None; --help"),
        ("--learning-rate=nan", "learning_rate is nan, expected a number, above 0, or None."),
        ("--sampler fare", "sampler is 'fare', expected one of uniform, fair, distinct, sandwich, or None."),
        ("--strategy trie", "Expected one of ('auto', 'mask', 'serial', 'dispatch', 'graph')"),
        ("--space digits", "unknown search space 'digits'; choose one of darts, "),
        ("--dataset digit --data-dir /", "unknown data set 'digit': expected digits; another of"),
    ],
)
def test_values_are_checked_before_the_workdir_is_made(tmp_path, capsys, argument, words):
    argv = [*argument.split(), "--workdir", str(tmp_path / "run")]
    with pytest.raises(SystemExit) as stop:
        main("experiments.rank_correlation", "", print, rank_correlation.PRESETS, argv)
    assert stop.value.code == 2 and words in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
