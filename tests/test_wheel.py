"""The wheel alone in an empty environment outside the clone: it imports, its command runs, some of the tests pass."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import test_notebooks

import jaxnas

ROOT = Path(__file__).parents[1]
CONSTRAINTS = ROOT / "constraints" / f"py{sys.version_info.major}{sys.version_info.minor}.txt"

pytestmark = pytest.mark.slow(
    "a wheel is built, installed into an environment of its own, and tried there, also by notebooks"
)


def run(*command: str | Path, cwd: Path) -> str:
    """What the command prints; it knows neither the clone nor the environment of the tests."""
    hidden = ("PYTHONPATH", "VIRTUAL_ENV", "XLA_FLAGS")
    env = {name: value for name, value in os.environ.items() if name not in hidden and not name.startswith("JAX_")}
    done = subprocess.run(list(map(str, command)), cwd=cwd, env=env, capture_output=True, text=True)
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built from a copy of the sources, so that no build folder is left or used."""
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("jaxnas", "experiments"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    run(
        sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", source / "made", source, cwd=source
    )
    (made,) = (source / "made").iterdir()
    return made


@pytest.fixture(scope="module")
def python(wheel, tmp_path_factory) -> Path:
    """The Python of an environment that holds the wheel and its dependencies, nothing else."""
    folder = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", folder, cwd=folder)
    run(folder / "bin" / "python", "-m", "pip", "install", "--quiet", wheel, "-c", CONSTRAINTS, cwd=folder)
    return folder / "bin" / "python"


def test_it_holds_the_library_and_the_experiments(wheel):
    held = set(zipfile.ZipFile(wheel).namelist())
    sources = {
        path.relative_to(ROOT).as_posix() for top in ("jaxnas", "experiments") for path in (ROOT / top).rglob("*.py")
    }
    assert {f"jaxnas/{name}" if name.startswith("experiments") else name for name in sources} <= held
    assert {"jaxnas/py.typed", "jaxnas/tables/digits_chain.npz", "jaxnas/runs/pages/report.html"} <= held
    assert {name.split("/")[0] for name in held} == {"jaxnas", f"jaxnas-{jaxnas.__version__}.dist-info"}


def test_it_imports_and_runs(python, tmp_path):
    assert run(
        python, "-c", "import jaxnas; print(jaxnas.__version__, jaxnas.ranking.report)", cwd=tmp_path
    ).startswith(f"{jaxnas.__version__} <")
    listed = run(python.parent / "jaxnas", cwd=tmp_path)
    assert "\nquickstart " in listed and "\nlandmark " in listed
    finished = run(python.parent / "jaxnas", "quickstart", "tiny", "--workdir", tmp_path / "a", cwd=tmp_path)
    assert "kendall_tau" in finished and (tmp_path / "a" / "result.json").exists()
    assert "<h1>quickstart" in (tmp_path / "a" / "report.html").read_text() and "stand-alone accuracy" in finished
    run(python, "-m", "jaxnas.experiments.quickstart", "tiny", "--workdir", tmp_path / "b", cwd=tmp_path)
    assert (tmp_path / "b" / "scatter.png").exists()


@pytest.fixture(scope="module")
def colab(tmp_path_factory) -> Iterator[str]:
    """A kernel as Colab has it before the first cell: Python, pip and IPython, no jaxnas. Its name."""
    folder = tmp_path_factory.mktemp("colab")
    run(sys.executable, "-m", "venv", folder / "environment", cwd=folder)
    there = folder / "environment" / "bin" / "python"
    run(there, "-m", "pip", "install", "--quiet", "ipykernel", "-c", CONSTRAINTS, cwd=folder)
    known = folder / "kernels" / "colab"
    known.mkdir(parents=True)
    command = [str(there), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    (known / "kernel.json").write_text(
        json.dumps({"argv": command, "display_name": "colab", "language": "python"}), encoding="utf-8"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JUPYTER_PATH", str(folder))
        patch.setenv("PIP_CONSTRAINT", str(CONSTRAINTS))
        patch.delenv("PYTHONPATH", raising=False)
        for name in ("JAX_NUMPY_RANK_PROMOTION", "JAX_NUMPY_DTYPE_PROMOTION"):  # JAX's defaults, as readers have
            patch.delenv(name, raising=False)
        yield "colab"


@pytest.mark.parametrize("name", test_notebooks.NOTEBOOKS)
def test_a_notebook_runs_from_the_wheel_that_its_first_cell_installs(name, wheel, colab, tmp_path):
    test_notebooks.run(name, tmp_path, colab, wheel)


def test_a_part_of_the_tests_passes_there(python, tmp_path):
    shutil.copytree(ROOT / "tests", tmp_path / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    run(python, "-m", "pip", "install", "--quiet", "pytest", "hypothesis", "-c", CONSTRAINTS, cwd=tmp_path)
    files = [f"tests/test_{name}.py" for name in ("codes", "spaces", "losses", "metrics", "files")]
    assert " passed" in run(python, "-m", "pytest", "-q", *files, cwd=tmp_path)
