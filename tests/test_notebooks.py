"""Every notebook: its two files agree, it opens in Colab, and it runs from top to bottom with small settings."""

import ast
import contextlib
import io
import json
import re
from pathlib import Path

import jupytext
import nbclient
import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))
BADGE = "https://colab.research.google.com/assets/colab-badge.svg"
COLAB = "https://colab.research.google.com/github/jaxnas/jaxnas/blob/main"
REPOSITORY = "git+https://github.com/jaxnas/jaxnas"
MAX_BYTES = 200_000

# In place of what the cell tagged "parameters" sets.
SMALL = {
    "01_quickstart": {"NUM_STEPS": 2, "BATCH_SIZE": 8, "NUM_VALID": 100},
    "02_landmarks": {"NUM_STEPS": 2, "WARMUP_STEPS": 1, "BATCH_SIZE": 8, "NUM_LANDMARKS": 8},
    "03_pcnas": {"NUM_WARM_UP_STEPS": 2, "NUM_INTERVAL_STEPS": 1, "BATCH_SIZE": 8, "NUM_VALID": 100},
    "04_policies": {"NUM_STEPS": 2, "BATCH_SIZE": 8, "NUM_VALID": 100},
    "05_transfer": {"NUM_EPOCHS": 1, "NUM_STEPS": 2, "NUM_SCENES": 120, "BATCH_SIZE": 4},
    "06_fingerprints": {"NUM_STEPS": 2, "BATCH_SIZE": 8, "NUM_VALID": 100, "NUM_DRAWS": 2},
}


def read(name: str, suffix: str):
    return jupytext.read(ROOT / "notebooks" / f"{name}{suffix}")


def is_parameters(cell) -> bool:
    return "parameters" in cell.metadata.get("tags", [])


def texts(cell) -> str:
    """What a cell printed."""
    return "".join(output.text for output in cell.outputs if output.get("name") == "stdout")


def outputs(notebook) -> list:
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]


def check_outputs(notebook) -> None:
    """At least one picture; no error, and nothing on stderr, where warnings go."""
    assert any("image/png" in output.get("data", {}) for output in outputs(notebook))
    assert [output for output in outputs(notebook) if output.output_type == "error"] == []
    assert [output.text for output in outputs(notebook) if output.get("name") == "stderr"] == []


def test_every_notebook_has_two_files_and_small_settings():
    assert NOTEBOOKS == sorted(path.stem for path in (ROOT / "notebooks").glob("*.py")) == sorted(SMALL)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_both_files_hold_the_same_cells(name):
    text, stored = (
        [(cell.cell_type, cell.source, cell.metadata.get("tags", [])) for cell in read(name, suffix).cells]
        for suffix in (".py", ".ipynb")
    )
    assert text == stored, f"run: jupytext --sync notebooks/{name}.py"


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_the_first_cell_opens_it_in_colab(name):
    first = read(name, ".ipynb").cells[0]
    assert first.cell_type == "markdown"
    assert first.source.startswith(f"[![Open In Colab]({BADGE})]({COLAB}/notebooks/{name}.ipynb)")


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_the_stored_notebook_is_small_and_whole(name):
    path = ROOT / "notebooks" / f"{name}.ipynb"
    assert path.stat().st_size <= MAX_BYTES
    notebook = read(name, ".ipynb")
    ran = [cell.execution_count for cell in notebook.cells if cell.cell_type == "code"]
    assert ran == list(range(1, len(ran) + 1)), f"run: jupyter execute --inplace notebooks/{name}.ipynb"
    check_outputs(notebook)
    without_pictures = re.sub(r'"image/png": "[^"]*"', "", path.read_text())
    assert re.findall(r"(?<![\w.:/])/(?:home|root|tmp|work|Users|usr|opt|content)/\S*", without_pictures) == []


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_stored_outputs_say_on_how_many_cores_they_were_made(name):
    stated = [cell for cell in read(name, ".ipynb").cells if cell.cell_type == "code" and "num_cores()" in cell.source]
    assert len(stated) == 1 and re.fullmatch(r"jax [\d.]+ on cpu, 2 cores\n", texts(stated[0]))


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_stored_outputs_that_no_thread_changes_are_those_of_this_code(name):
    """Cells tagged `exact`, which train nothing, print the same on every number of threads: they are run here in a row,
    with the settings that the readers see."""
    namespace: dict = {}
    compared = 0
    for cell in read(name, ".ipynb").cells:
        if is_parameters(cell) or "exact" in cell.metadata.get("tags", []):
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed):
                exec(compile(cell.source, name, "exec"), namespace)
            assert printed.getvalue() == texts(cell), cell.source
            compared += printed.getvalue() != ""
    assert compared >= 1


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_links_into_the_repository_lead_somewhere(name):
    source = (ROOT / "notebooks" / f"{name}.py").read_text()
    linked = re.findall(r"github(?:\.com)?/jaxnas/jaxnas/blob/main/([\w./-]+)", source)
    assert linked and [path for path in linked if not (ROOT / path).is_file()] == []


def first_code(notebook):
    """The cell that installs jaxnas."""
    return next(cell for cell in notebook.cells if cell.cell_type == "code")


def test_the_first_cell_installs_and_does_nothing_else():
    cells = {first_code(read(name, ".ipynb")).source for name in NOTEBOOKS}
    (source,) = cells  # of all notebooks alike
    lines = [line for line in source.splitlines() if not line.startswith("#")]
    assert "on PyPI" in source and f'source = "{REPOSITORY}"' in source
    assert sum("pip" in line for line in lines) == 1 and len(lines) <= 8


def run(name: str, folder: Path, kernel: str | None = None, wheel: Path | None = None) -> None:
    """Run a notebook with small settings from top to bottom.

    Args:
      kernel: what runs it; None: this environment.
      wheel: what its first cell installs in place of the repository.
    """
    notebook = read(name, ".ipynb")
    (parameters,) = [cell for cell in notebook.cells if is_parameters(cell)]
    assigned = [target.id for line in ast.parse(parameters.source).body for target in line.targets]
    assert assigned == list(SMALL[name])
    parameters.source = "\n".join(f"{key} = {json.dumps(value)}" for key, value in SMALL[name].items())
    if wheel is not None:
        first_code(notebook).source = first_code(notebook).source.replace(REPOSITORY, str(wheel))
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = []
    options = {} if kernel is None else {"kernel_name": kernel}
    client = nbclient.NotebookClient(notebook, timeout=900, resources={"metadata": {"path": str(folder)}}, **options)
    client.execute()  # raises the error of a cell that fails
    check_outputs(notebook)
