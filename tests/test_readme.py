"""What README.md and its like say, tried: the Python runs, the commands parse, and whatever is named exists."""

import importlib
import re
import shlex
import tomllib
from pathlib import Path

import jax
import numpy as np
import pytest

import jaxnas
from jaxnas import codes, samplers, training
from jaxnas.evaluation import make_evaluator
from jaxnas.runs import command
from jaxnas.supernets import run_operation

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
LIBRARY_EXAMPLE, OWN_SPACE_EXAMPLE, OTHER_FORMS_EXAMPLE = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
DOCUMENTS = ["README.md", "CONTRIBUTING.md", "experiments/README.md"]
FOLDERS = "|".join(("benchmarks", "constraints", "docs", "experiments", "jaxnas", "notebooks", "results", "tests"))


@pytest.fixture(autouse=True)
def as_users_have_it():
    """What a reader tries runs with JAX's defaults, not with the suite's strict settings."""
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        yield


def test_library_example_ranks_a_population(capsys):
    assert len(LIBRARY_EXAMPLE.splitlines()) <= 15
    assert LIBRARY_EXAMPLE.count("space, 32)") == 1
    exec(LIBRARY_EXAMPLE.replace("space, 32)", "space, 12)"), {})
    printed = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert printed["num_archs"] == "12" and -1 <= float(printed["kendall_tau"].split()[0]) <= 1


def test_own_space_trains_and_is_scored():
    names: dict = {}
    exec(OWN_SPACE_EXAMPLE, names)
    space, supernet = names["space"], names["supernet"]
    assert space.size == 3 * 2 * 2
    sampler, tx = samplers.fair(space), training.sgd(0.1, num_steps=1)
    loss_fn = training.make_cross_entropy_loss(supernet)
    step = training.make_train_step(supernet, loss_fn, sampler, tx)
    before = training.init_train_state(supernet, sampler, tx, jax.random.key(0))
    rng = np.random.default_rng(0)
    images, labels = rng.normal(size=(4, 32, 32, 3)).astype(np.float32), np.arange(4)
    scale = np.array(before.params["layer0"]["scale"]["scale"])
    after, _ = step(before, {"train": {"images": images, "labels": labels}})
    assert not np.array_equal(after.params["layer0"]["scale"]["scale"], scale), "the own operation has not moved"
    scores = make_evaluator(supernet).evaluate(after.params, codes.enumerate_archs(space), images, labels)
    assert len(set(scores.loss)) == space.size


def test_other_forms_of_an_operation_compute_the_same():
    names: dict = {}
    exec(OWN_SPACE_EXAMPLE, names)
    exec(OTHER_FORMS_EXAMPLE, names)
    layer = names["supernet"].layers["layer0"]
    x = np.random.default_rng(0).normal(size=(2, *layer.in_shape)).astype(np.float32)
    for name in ("nnx", "pair"):
        y, _ = run_operation(layer.candidates[name], {"scale": np.full(16, 3, np.float32)}, x)
        np.testing.assert_allclose(y, 3 * x, rtol=1e-6)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_files_named_exist(document):
    """Links, and paths that begin at the repository's root; X stands for any name."""
    path = ROOT / document
    links = [link.split("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", path.read_text()) if "://" not in link]
    paths = re.findall(rf"(?<![\w./-])(?:\./)?((?:{FOLDERS})/[\w.-]*\w|check\.sh)", path.read_text())
    named = [path.parent / link for link in links] + [ROOT / name for name in paths if "X" not in name]
    assert [str(name.relative_to(ROOT)) for name in named if not name.exists()] == []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_python_names_exist(document):
    """`jaxnas.evaluation.make_evaluator` and so on, where the text says so in backquotes."""
    for name in re.findall(r"`(jaxnas(?:\.\w+)+)", (ROOT / document).read_text()):
        module, _, attribute = name.rpartition(".")
        found = hasattr(importlib.import_module(module), attribute)
        assert found or importlib.util.find_spec(name) is not None, name


def test_the_map_has_every_room_and_each_dependency_a_reason():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    names = re.search(r"```\n(jaxnas/checks.*?)```", text, re.DOTALL)[1]
    shown = set(re.findall(r"(\w+)(?:/|\.py)  ", names)) - {"experiments", "benchmarks"}
    assert shown == set(jaxnas.ROOMS)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (table,) = re.findall(r"^\| package \|.*\n\|-.*\n((?:\|.*\n)+)", text, re.MULTILINE)
    reasons = {name for row in re.findall(r"^\| (.*?) \|", table, re.MULTILINE) for name in row.split(", ")}
    assert reasons == {re.match(r"[\w-]+", requirement)[0] for requirement in project["dependencies"]}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_commands_are_understood(document):
    """Every command of an experiment, but those with a placeholder in capitals or a package of the reader's own."""
    for name, line in re.findall(r"python -m experiments\.([a-z_]+)([^`\n#]*)", (ROOT / document).read_text()):
        arguments = shlex.split(line)
        if arguments and not any(re.search("[A-Z]{3,}|\\$|mypackage", argument) for argument in arguments):
            presets = importlib.import_module(f"experiments.{name}").PRESETS
            command.parse(f"python -m experiments.{name}", None, presets, arguments)
