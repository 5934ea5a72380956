"""What pyproject.toml says of the packages, against the sources and the constraints files."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LANES = sorted(path.stem for path in (ROOT / "constraints").glob("*.txt"))
IMPORT_NAMES = {
    "absl-py": "absl",
    "orbax-checkpoint": "orbax",
    "pillow": "PIL",
    "pyyaml": "yaml",
    "scikit-learn": "sklearn",
    "tensorboardx": "tensorboardX",
}


def package(requirement: str) -> str:
    """The normalised name in a requirement: 'array_record>=0.5; ...' is 'array-record'."""
    return re.match(r"[\w.-]+", requirement)[0].lower().replace("_", "-")


def pins(path: Path) -> dict[str, str]:
    lines = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
    return {package(line): line.partition("==")[2] for line in lines}


def imports_of(folder: str) -> set[str]:
    names = set()
    for path in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names.add(node.module.split(".")[0])
    return names


def test_everything_imported_is_a_declared_dependency():
    extras = PROJECT["optional-dependencies"]  # asked for where they are used, in one line
    used = [line for name in extras if name not in ("notebooks", "tests", "benchmarks") for line in extras[name]]
    declared = {package(requirement) for requirement in PROJECT["dependencies"] + used}
    declared = {IMPORT_NAMES.get(name, name.replace("-", "_")) for name in declared}
    own = {"jaxnas", "experiments"}
    assert (imports_of("jaxnas") | imports_of("experiments")) - set(sys.stdlib_module_names) - own <= declared


@pytest.mark.parametrize("lane", LANES)
def test_constraints_pin_every_dependency(lane):
    path = ROOT / "constraints" / f"{lane}.txt"
    assert re.match(r"# Python 3\.1[123]: ", path.read_text())
    pinned = pins(path)
    extras = PROJECT["optional-dependencies"]
    wanted = {package(line) for line in PROJECT["dependencies"] + extras["tests"] + extras["notebooks"]} - {"jaxnas"}
    assert wanted <= set(pinned)
    assert all(re.fullmatch(r"[\w.]+", version) for version in pinned.values())
    for requirement in extras["tests"]:
        if "==" in requirement:
            assert pinned[package(requirement)] == requirement.partition("==")[2]


def test_lower_bounds_are_those_tried():
    """What `./lanes.sh lower` installs of each dependency with a bound is that bound."""
    tried = pins(ROOT / "constraints" / "lower.txt")
    extras = PROJECT["optional-dependencies"]
    wanted = [line.partition(">=") for line in PROJECT["dependencies"] + extras["notebooks"] + extras["tests"]]
    bounds = {package(name): bound.split(",")[0].split(";")[0] for name, _, bound in wanted if bound}
    assert len(bounds) >= 15 and "jax" in bounds
    assert {name: re.sub(r"(\.0)*$", "", tried[name]) for name in bounds} == {
        name: re.sub(r"(\.0)*$", "", bound) for name, bound in bounds.items()
    }


def test_the_colab_lane_is_that_of_colab():
    tried = pins(ROOT / "constraints" / "colab.txt")
    assert (tried["jax"], tried["flax"]) == ("0.7.2", "0.11.2")


def test_the_quickstart_needs_no_tensorflow_datasets():
    """Importing all of jaxnas and the quickstart brings in neither it nor TensorFlow."""
    code = "import sys, experiments.quickstart, jaxnas.tables, jaxnas.plotting; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert {"jax", "jaxnas.datasets"} <= set(loaded.split())
    assert not {"tensorflow", "tensorflow_datasets", "array_record"} & set(loaded.split())


def test_scripts_are_sound_bash():
    for script in ("check.sh", "lanes.sh", "release.sh", ".ci/run"):
        path = ROOT / script
        assert path.stat().st_mode & 0o111, f"{script} is not executable"
        subprocess.run(["bash", "-n", str(path)], check=True)


ONE_SYSTEM = {"fcntl", "grp", "msvcrt", "posix", "pty", "pwd", "resource", "termios", "winreg"}


def unportable(source: str) -> list[str]:
    """What of a module works on some systems only: modules that others lack, texts in the system's own encoding."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            found += [f"imports {name}" for name in names if name.split(".")[0] in ONE_SYSTEM]
        if not isinstance(node, ast.Call) or any(keyword.arg == "encoding" for keyword in node.keywords):
            continue
        called = ast.unparse(node.func).rpartition(".")[2]
        modes = [ast.literal_eval(arg) for arg in node.args if isinstance(arg, ast.Constant) and arg.value is not None]
        if called in ("read_text", "write_text") and len(node.args) == (called == "write_text"):
            found.append(ast.unparse(node))
        if (
            called == "open"
            and ast.unparse(node.func) not in ("Image.open", "tarfile.open")
            and not any(isinstance(mode, str) and "b" in mode for mode in modes)
        ):
            found.append(ast.unparse(node))
    return found


def test_nothing_of_one_system_stands_in_the_way_of_others():
    files = [path for folder in ("jaxnas", "experiments") for path in (ROOT / folder).rglob("*.py")]
    offences = {path.relative_to(ROOT): unportable(path.read_text(encoding="utf-8")) for path in files}
    assert {path: found for path, found in offences.items() if found} == {}


def test_what_is_unportable_is_found():
    assert unportable("import fcntl\nfrom resource import getrusage") == ["imports fcntl", "imports resource"]
    assert unportable("path.read_text(); path.write_text('a'); open(p); p.open('r')") != []
    assert len(unportable("path.read_text(); path.write_text('a'); open(p); p.open('r')")) == 4
    assert unportable("p.read_text('ascii'); open(p, 'rb'); p.open('a', encoding='utf-8'); p.write_bytes(b'')") == []
