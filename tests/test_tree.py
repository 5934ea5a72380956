"""How large the tree may grow: entries at the top level, lines of a file and of a function; and names that mislead."""

import ast
import importlib
import types
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAX_ROOMS = 20
MAX_FILE = 320
MAX_FUNCTION = 90
FILES = sorted(
    path.relative_to(ROOT).as_posix()
    for folder in ("jaxnas", "experiments", "benchmarks")
    for path in (ROOT / folder).rglob("*.py")
)
# What is still too long; to be empty.
LONG_FUNCTIONS = {
    "jaxnas/evaluation/evaluator.py: make_evaluator",
    "jaxnas/training/standalone.py: make_standalone",
}
PACKAGES = sorted(path.parent.relative_to(ROOT) for path in (ROOT / "jaxnas").rglob("__init__.py"))


def long_functions(source: str) -> list[str]:
    """The names of the functions of more than `MAX_FUNCTION` lines, docstring included."""
    return [
        node.name
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno - node.lineno + 1 > MAX_FUNCTION
    ]


def test_the_library_has_few_rooms():
    entries = (ROOT / "jaxnas").iterdir()
    rooms = [path for path in entries if path.suffix == ".py" or any(path.glob("*.py"))]
    assert 10 < len(rooms) - 1 <= MAX_ROOMS  # less __init__.py


@pytest.mark.parametrize("path", FILES)
def test_files_and_functions_are_read_in_one_sitting(path):
    source = (ROOT / path).read_text()
    assert len(source.splitlines()) <= MAX_FILE, "split it"
    assert [name for name in long_functions(source) if f"{path}: {name}" not in LONG_FUNCTIONS] == []


def test_long_functions_are_found():
    body = "    x = 1\n" * (MAX_FUNCTION - 1)
    assert long_functions(f"def fits():\n{body}") == []
    assert long_functions(f"class C:\n  def f(self):\n    def g():\n{body.replace('    ', '       ')}\n\n") == ["f"]
    assert long_functions(f"def f():\n{body}    x = 1\n") == ["f"]


@pytest.mark.parametrize("package", PACKAGES, ids=str)
def test_no_public_object_shadows_a_module(package):
    """`jaxnas.search.random` is the module, not a function of that name that the package imports."""
    name = ".".join(package.parts)
    for path in (ROOT / package).iterdir():
        if (path.suffix == ".py" and path.stem != "__init__") or any(path.glob("*.py")):
            module = importlib.import_module(f"{name}.{path.stem}")
            found = getattr(importlib.import_module(name), path.stem)
            assert isinstance(found, types.ModuleType) and found is module, f"{name}.{path.stem} is {found!r}"


def test_no_file_gathers_strays():
    assert [path for path in FILES if Path(path).stem in ("utils", "common", "helpers", "misc")] == []
