"""How large the tree may grow: entries at the top level, lines of a file and of a function; and names that mislead."""

import ast
import importlib
import re
import types
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAX_ROOMS = 21  # the rooms of CONTRIBUTING.md; `interrupted` is none, but must come before what any room imports
MAX_FILE = 320
MAX_FUNCTION = 90
FILES = sorted(
    path.relative_to(ROOT).as_posix()
    for folder in ("jaxnas", "experiments", "benchmarks")
    for path in (ROOT / folder).rglob("*.py")
)
# Called with arguments that only their user knows: a constructor's, arrays of any number, a program's.
ANY_ARGUMENTS = {
    "jaxnas/costs/measuring.py: TimedProgram",
    "jaxnas/ops/derivative.py: derivative_by",
    "jaxnas/ops/dynamic.py: DYNAMIC_OPS",
    "jaxnas/ops/nnx.py: NNXOperation",
    "jaxnas/ops/platform.py: by_platform",
    "jaxnas/ops/reduction.py: image_by_image",
    "jaxnas/ops/reduction.py: sum_over_images",
    "jaxnas/ranking/intervals.py: estimate",
    "jaxnas/ranking/intervals.py: estimate_difference",
    "jaxnas/supernets/choice.py: Branch",
}
PACKAGES = sorted(path.parent.relative_to(ROOT) for path in (ROOT / "jaxnas").rglob("__init__.py"))


def long_functions(source: str) -> list[str]:
    """The names of the functions of more than `MAX_FUNCTION` lines, docstring included."""
    return [
        node.name
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno - node.lineno + 1 > MAX_FUNCTION
    ]


def bare_callables(source: str) -> list[str]:
    """Public names of a module at whose border stands a `Callable[..., X]`, which says nothing of its arguments."""
    found = []
    for node in ast.parse(source).body:
        parts: list[ast.AST | None]
        match node:
            case ast.FunctionDef(name=name):
                parts = [node.args, node.returns]
            case ast.ClassDef(name=name, body=body):
                methods = [
                    part for part in body if isinstance(part, ast.FunctionDef) and not re.match("_[^_]", part.name)
                ]
                parts = [part.annotation for part in body if isinstance(part, ast.AnnAssign)]
                parts += [part for method in methods for part in (method.args, method.returns)]
            case ast.Assign(targets=[ast.Name(name)]) | ast.AnnAssign(target=ast.Name(name)):
                parts = [node]
            case _:
                continue
        spoken = " ".join(ast.unparse(part) for part in parts if part)
        if "Callable[..., " in spoken and not name.startswith("_"):
            found.append(name)
    return found


def test_the_library_has_few_rooms():
    entries = (ROOT / "jaxnas").iterdir()
    rooms = [path for path in entries if path.suffix == ".py" or any(path.glob("*.py"))]
    assert 10 < len(rooms) - 1 <= MAX_ROOMS  # less __init__.py


@pytest.mark.parametrize("path", FILES)
def test_files_and_functions_are_read_in_one_sitting(path):
    source = (ROOT / path).read_text()
    assert len(source.splitlines()) <= MAX_FILE, "split it"
    assert long_functions(source) == []


def test_long_functions_are_found():
    body = "    x = 1\n" * (MAX_FUNCTION - 1)
    assert long_functions(f"def fits():\n{body}") == []
    assert long_functions(f"class C:\n  def f(self):\n    def g():\n{body.replace('    ', '       ')}\n\n") == ["f"]
    assert long_functions(f"def f():\n{body}    x = 1\n") == ["f"]


def test_borders_say_what_their_functions_take():
    found = {
        f"{path}: {name}"
        for path in FILES
        if path.startswith("jaxnas")
        for name in bare_callables((ROOT / path).read_text())
    }
    assert found == ANY_ARGUMENTS


@pytest.mark.parametrize(
    "source, names",
    [
        ("def make(x: int) -> Callable[..., int]: ...", ["make"]),
        ("def use(*, function: Callable[..., int] = f): ...\nOPS: dict[str, Callable[..., int]] = {}", ["use", "OPS"]),
        ("Branch = Callable[..., int]", ["Branch"]),
        ("class C(NamedTuple):\n    f: Callable[..., int]", ["C"]),
        ("class C:\n    def f(self) -> Callable[..., int]: ...", ["C"]),
        ("def _make() -> Callable[..., int]: ...\ndef f(g: Callable[[int], int]): ...", []),
        ("def f():\n    def g() -> Callable[..., int]: ...", []),
    ],
)
def test_bare_callables_are_found(source, names):
    assert bare_callables(source) == names


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
