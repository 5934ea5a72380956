"""The public names: what `import jaxnas` gives and what it doesn't read, and no object that hides a module."""

import importlib
import pkgutil
import re
import subprocess
import sys
import types
from pathlib import Path

import pytest

import jaxnas

ROOT = Path(__file__).parents[1]
PACKAGES = sorted(module.name for module in pkgutil.walk_packages(jaxnas.__path__, prefix="jaxnas.") if module.ispkg)
SHOWN = "\n".join(
    path.read_text()
    for path in [ROOT / "README.md", *(ROOT / "docs" / "howto").glob("*.md"), *(ROOT / "notebooks").glob("*.py")]
)


def test_rooms_are_attributes_and_are_all_there_are():
    rooms = [path for path in (ROOT / "jaxnas").iterdir() if path.suffix == ".py" or any(path.glob("*.py"))]
    assert {path.stem for path in rooms} == {*jaxnas.ROOMS, "__init__", "interrupted"}
    for name in jaxnas.ROOMS:
        assert getattr(jaxnas, name).__name__ == f"jaxnas.{name}"
    with pytest.raises(AttributeError, match="no attribute 'arch'"):
        jaxnas.arch  # noqa: B018


@pytest.mark.parametrize(
    "heavy",
    ["IPython", "flax.nnx", "matplotlib", "orbax", "pooch", "tensorflow", "tensorflow_datasets", "torch", "tyro"],
)
def test_import_does_not_read(heavy):
    if not hasattr(test_import_does_not_read, "modules"):
        code = "import jaxnas, sys; jaxnas.ranking.report, jaxnas.tables.load_truth; print(*sys.modules)"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
        test_import_does_not_read.modules = done.stdout.split()
    assert "jaxnas.tables.format" in test_import_does_not_read.modules
    assert heavy not in test_import_does_not_read.modules


@pytest.mark.parametrize("name", [name for name in jaxnas.__all__ if name.islower()])
def test_functions_at_the_top_are_shown_to_newcomers(name):
    assert re.search(rf"\b{name}\b", SHOWN), (
        f"{name} is in neither README.md nor a how-to nor a notebook; leave it to its room"
    )


@pytest.mark.parametrize("package", ["jaxnas", *PACKAGES])
def test_no_public_object_has_the_name_of_a_module_beside_it(package):
    room = importlib.import_module(package)
    for module in pkgutil.iter_modules(room.__path__):
        found = getattr(room, module.name, None)
        assert found is None or isinstance(found, types.ModuleType), (
            f"{package}.{module.name}: file it as _{module.name}.py"
        )


@pytest.mark.parametrize("package", ["jaxnas", *PACKAGES])
def test_public_names_are_sorted_and_exist(package):
    room = importlib.import_module(package)
    names = getattr(room, "__all__", [])
    assert names == sorted(names, key=lambda name: (not name.isupper(), not name[0].isupper(), name))
    assert [name for name in names if not hasattr(room, name)] == []
