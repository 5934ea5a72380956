"""What README.md and its like say, tried: the Python runs, the commands parse, and whatever is named exists."""

import importlib
import re
import shlex
import tomllib
from pathlib import Path

import jax
import pytest

import jaxnas
from jaxnas.runs import command

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
(LIBRARY_EXAMPLE,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
DOCUMENTS = ["README.md", "CONTRIBUTING.md", "experiments/README.md"]
PAGES = sorted(
    path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md") if "_build" not in path.parts
)
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


@pytest.mark.parametrize("document", DOCUMENTS)
def test_files_named_exist(document):
    """Links, and paths that begin at the repository's root, but for what is built; X stands for any name."""
    path = ROOT / document
    links = [link.split("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", path.read_text()) if "://" not in link]
    paths = re.findall(rf"(?<![\w./-])(?:\./)?((?:{FOLDERS})/[\w.-]*\w|check\.sh)", path.read_text())
    paths = [name for name in paths if "X" not in name and "_build" not in name]
    named = [path.parent / link for link in links] + [ROOT / name for name in paths]
    assert [str(name.relative_to(ROOT)) for name in named if not name.exists()] == []


@pytest.mark.parametrize("document", DOCUMENTS + PAGES)
def test_python_names_exist(document):
    """`jaxnas.evaluation.make_evaluator` and so on, where the text says so in backquotes."""
    for name in re.findall(r"`(jaxnas(?:\.\w+)+)", (ROOT / document).read_text()):
        module, _, attribute = name.rpartition(".")
        found = hasattr(importlib.import_module(module), attribute)
        assert found or importlib.util.find_spec(name) is not None, name


def test_the_map_has_every_room_and_each_dependency_a_reason():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    names = re.search(r"```\n(jaxnas/checks.*?)```", text, re.DOTALL)[1]
    shown = set(re.findall(r"(\w+)(?:/|\.py)  ", names)) - {"experiments", "benchmarks", "results"}
    assert shown == set(jaxnas.ROOMS)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (table,) = re.findall(r"^\| package \|.*\n\|-.*\n((?:\|.*\n)+)", text, re.MULTILINE)
    reasons = {name for row in re.findall(r"^\| (.*?) \|", table, re.MULTILINE) for name in row.split(", ")}
    assert reasons == {re.match(r"[\w-]+", requirement)[0] for requirement in project["dependencies"]}


@pytest.fixture
def as_a_reader_has_it(tmp_path, monkeypatch):
    """In a folder with the files that the how-to pages write: a space and a few pictures."""
    (page,) = [page for page in PAGES if page.endswith("own_space.md")]
    (tmp_path / "mine.py").write_text(re.search(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)[1])
    for name in ("train/cat", "train/dog", "val/cat", "val/dog"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        (tmp_path / "photos" / name / "1.jpg").touch()
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("as_a_reader_has_it")
@pytest.mark.parametrize("document", DOCUMENTS + PAGES)
def test_commands_are_understood(document):
    """Every command of an experiment, but those with a placeholder in capitals or a package of the reader's own."""
    text = (ROOT / document).read_text()
    found = re.findall(r"python -m experiments\.([a-z_]+)([^`\n#]*)", text)
    found += re.findall(r"jaxnas ([a-z_]+)([^`\n#]* --workdir [^`\n#]*)", text)
    for name, line in found:
        arguments = shlex.split(line)
        if arguments and not any(re.search("[A-Z]{3,}|\\$|mypackage", argument) for argument in arguments):
            presets = importlib.import_module(f"experiments.{name}").PRESETS
            command.parse(f"python -m experiments.{name}", None, presets, arguments)
