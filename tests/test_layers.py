"""Who may import whom, who touches files, applies candidates and asks for layouts: read from the sources.

notebooks -> experiments -> jaxnas, benchmarks -> jaxnas; inside jaxnas, `MAY_IMPORT`. Sizes and names: `test_tree`.
"""

import ast
import graphlib
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# A room of the library is a file or folder of jaxnas; what it may import of the others.
CODES = {"checks", "codes", "space"}
NETWORKS = CODES | {"ops", "spaces", "supernets"}
COSTS = NETWORKS | {"costs", "ranking", "tables"}
MAY_IMPORT = {
    "checks": set(),
    "space": {"checks"},
    "codes": {"checks", "space"},
    "files": {"checks"},
    "interrupted": set(),
    "datasets": {"checks", "files"},
    "ops": {"checks"},
    "ranking": CODES,
    "spaces": CODES | {"ops"},
    "tables": CODES | {"files", "ranking"},
    "supernets": CODES | {"ops", "spaces"},
    "samplers": NETWORKS,
    "costs": COSTS | {"files"},
    "evaluation": COSTS,
    "training": COSTS | {"evaluation", "samplers"},
    "search": COSTS | {"evaluation", "samplers"},
    "policies": COSTS | {"evaluation", "samplers", "search", "training"},
    "runs": COSTS | {"datasets", "evaluation", "files", "samplers", "search", "training"},
    "export": COSTS | {"evaluation", "files", "training"},
    "plotting": {"checks", "files"},
    "transfer": COSTS | {"evaluation", "export", "training"},
}
# Files that stand higher than their rooms.
HIGHER = {
    "jaxnas/costs/measuring.py": {"training"},
    "jaxnas/ranking/proxies.py": {"evaluation", "ops", "supernets"},
}
MAY_TOUCH_FILES = {"files", "datasets", "tables", "costs", "export", "runs", "plotting"}
MAY_IMPORT_FLAX = {"ops", "supernets", "export", "policies", "transfer"}
MAY_APPLY_CANDIDATES = {"ops", "supernets"}
# Streaming tells Grain that there are none.
MAY_READ_FLAGS = {"jaxnas/interrupted.py", "jaxnas/runs/command.py", "jaxnas/datasets/streaming.py"}
# Where a space's table or its experiments' flags are chosen; all else calls a function that it was given.
MAY_ASK_FOR_LAYOUT = {
    "jaxnas/tables/nasbench101.py",
    "jaxnas/tables/nats_bench.py",
    "experiments/shared/config.py",
    "experiments/supernet_factors.py",
    "benchmarks/peer_torch.py",
}

# What the folders at the top level may import of each other.
TOP_MAY_IMPORT = {
    "jaxnas": {"jaxnas"},
    "experiments": {"jaxnas", "experiments"},
    "benchmarks": {"jaxnas", "benchmarks"},
    "notebooks": {"jaxnas", "experiments"},
}
TOP_LEVEL = {*TOP_MAY_IMPORT, "tests"}
FLAG_MODULES = {"argparse", "absl", "click", "getopt", "optparse", "tyro"}
FILE_MODULES = {
    "glob", "orbax", "pathlib", "PIL", "pooch", "shutil", "tarfile", "tempfile", "tensorflow_datasets", "zipfile",
}  # fmt: skip
FILE_CALLS = {"open", "load", "loadtxt", "genfromtxt", "memmap", "save", "savetxt", "savez", "savez_compressed"}


def imported(tree: ast.AST, package: str) -> Iterator[str]:
    """The dotted name of everything imported anywhere in the file, which lies in `package`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")
            base = ".".join(parts[: len(parts) - node.level + 1] if node.level else [])
            module = ".".join(part for part in (base, node.module) if part)
            yield from (f"{module}.{alias.name}" for alias in node.names)


def touches_files(tree: ast.AST) -> Iterator[str]:
    """Calls that read or write files: open(...), numpy.load(...), path.write_text(...) and the like."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            owner, _, name = called.rpartition(".")
            builtin = called == "open" or (owner in ("io", "os") and name == "open")
            array = owner in ("np", "numpy", "jnp", "jax.numpy") and name in FILE_CALLS
            if builtin or array or name in ("read_text", "write_text", "read_bytes", "write_bytes", "savefig"):
                yield f"{called}()"


def classes_in(folder: Path) -> set[str]:
    """The classes that the files of a folder define."""
    trees = [ast.parse(path.read_text()) for path in folder.glob("*.py")]
    return {node.name for tree in trees for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}


LAYOUTS = {name for name in classes_in(ROOT / "jaxnas") if name.endswith("Layout")}
CANDIDATES = classes_in(ROOT / "jaxnas" / "ops")


def asked_for(tree: ast.AST) -> Iterator[str]:
    """The classes that the file asks for by isinstance, issubclass, a class pattern or a comparison with type(...)."""
    for node in ast.walk(tree):
        asked: list[ast.expr] = []
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("isinstance", "issubclass"):
            asked = node.args[1:]
        elif isinstance(node, ast.MatchClass):
            asked = [node.cls]
        elif isinstance(node, ast.Compare) and ast.unparse(node.left).startswith("type("):
            asked = node.comparators
        for name in (part for expression in asked for part in ast.walk(expression)):
            if isinstance(name, ast.Name | ast.Attribute):
                yield name.id if isinstance(name, ast.Name) else name.attr


def applies_candidates(tree: ast.AST) -> Iterator[str]:
    """Calls of a candidate: `module.apply({"params": ...}, ...)`, `operation.apply(...)`, `layer.ops[0].init(...)`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in ("apply", "init"):
            candidate = re.fullmatch(
                r"(.*\b)?(op|operation|candidate)|.*\b(ops|operations|candidates)\[.*\]", ast.unparse(node.func.value)
            )
            if candidate or (node.args and "'params':" in ast.unparse(node.args[0])):
                yield ast.unparse(node.func)


def offences(path: str, source: str) -> list[str]:
    """What the file at `path`, relative to the repository, does against the rules; empty when nothing."""
    tree = ast.parse(source)
    parts = Path(path).with_suffix("").parts
    top, names = parts[0], list(imported(tree, ".".join(parts[:-1])))
    found = []
    for name in names:
        first = name.split(".")[0]
        if first in TOP_LEVEL and first not in TOP_MAY_IMPORT[top]:
            found.append(f"{top} imports {name}")
        if first == "torch" and top != "benchmarks":
            found.append(f"{top} imports torch")
    if top == "jaxnas" and parts != ("jaxnas", "__init__"):
        found += _offences_of_room(path, parts[1], tree, names)
    layouts = [name for name in asked_for(tree) if name in LAYOUTS]
    if path not in MAY_ASK_FOR_LAYOUT:
        found += [f"{top} asks whether it is a {name}" for name in layouts]
    elif not layouts:
        found.append("asks for no layout: take it from MAY_ASK_FOR_LAYOUT")
    return [f"{path}: {offence}" for offence in found]


def _offences_of_room(path: str, room: str, tree: ast.AST, names: list[str]) -> Iterator[str]:
    if room not in MAY_IMPORT:
        yield f"room {room} is not in MAY_IMPORT; say there what it may import"
        return
    for name in names:
        first, _, rest = name.partition(".")
        other = rest.split(".")[0]
        if first == "jaxnas" and other != room and other not in MAY_IMPORT[room] | HIGHER.get(path, set()):
            yield f"{room} imports {name}"
        if first == "flax" and room not in MAY_IMPORT_FLAX:
            yield f"{room} imports flax"
        if first == "matplotlib" and room != "plotting":
            yield f"{room} imports matplotlib"
        if (first in FLAG_MODULES or name == "sys.argv") and path not in MAY_READ_FLAGS:
            yield f"{room} reads flags: {name}"
        if first in FILE_MODULES and room not in MAY_TOUCH_FILES:
            yield f"{room} touches files: {name}"
    attributes = {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    if "sys.argv" in attributes and path not in MAY_READ_FLAGS:
        yield f"{room} reads flags: sys.argv"
    if room not in MAY_APPLY_CANDIDATES:
        yield from (f"{room} applies a candidate: {call}" for call in applies_candidates(tree))
        yield from (f"{room} asks whether it is a {name}" for name in asked_for(tree) if name in CANDIDATES)
    if room not in MAY_TOUCH_FILES:
        yield from (f"{room} touches files: {call}" for call in touches_files(tree))


def source_of(path: Path) -> str:
    """The Python of a file; of a notebook, its code cells without shell lines and magics."""
    if path.suffix == ".py":
        return path.read_text()
    cells = json.loads(path.read_text())["cells"]
    code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    return re.sub(r"^(\s*)[!%].*$", r"\1pass", code, flags=re.MULTILINE)


def rooms() -> list[Path]:
    """The modules and packages at the top level of jaxnas."""
    entries = (ROOT / "jaxnas").iterdir()
    return [path for path in entries if path.name != "__init__.py" and (path.suffix == ".py" or any(path.glob("*.py")))]


def library() -> list[Path]:
    """Every module of jaxnas, relative to the repository."""
    return sorted(path.relative_to(ROOT) for path in (ROOT / "jaxnas").rglob("*.py"))


FILES = sorted(
    path.relative_to(ROOT).as_posix()
    for top in TOP_MAY_IMPORT
    for path in (ROOT / top).rglob("*")
    if path.suffix in (".py", ".ipynb") and ".ipynb_checkpoints" not in path.parts
)


@pytest.mark.parametrize("path", FILES)
def test_rules_hold(path):
    assert offences(path, source_of(ROOT / path)) == []


def test_files_are_found():
    assert {"jaxnas/codes.py", "jaxnas/runs/checkpoint.py", "experiments/quickstart.py"} <= set(FILES)
    assert {"ChainLayout", "CellLayout", "DagLayout"} <= LAYOUTS and {"ConvBN", "Zero", "Stem"} <= CANDIDATES


def test_arrows_only_fall():
    """The rooms can be put in an order in which each imports only rooms before it."""
    below = {room: others - {room} for room, others in MAY_IMPORT.items()}
    order = list(graphlib.TopologicalSorter(below).static_order())
    assert set(order) == set(MAY_IMPORT) == {path.stem for path in rooms()}


def test_no_module_imports_itself_by_way_of_others():
    modules = {path.with_suffix("").as_posix().replace("/", ".").removesuffix(".__init__"): path for path in library()}
    graph = {}
    for module, path in modules.items():
        names = imported(ast.parse((ROOT / path).read_text()), ".".join(path.parts[:-1]))
        nearest = {name if name in modules else name.rpartition(".")[0] for name in names}
        graph[module] = nearest & set(modules)
    assert len(graph) > 70 and graph["jaxnas.codes"] == {"jaxnas.checks", "jaxnas.space"}
    list(graphlib.TopologicalSorter(graph).static_order())  # raises CycleError, which says the circle


@pytest.mark.parametrize(
    "path, source, offence",
    [
        ("jaxnas/codes.py", "from jaxnas.spaces import SPACES", "codes imports jaxnas.spaces.SPACES"),
        ("jaxnas/codes.py", "import jaxnas", "codes imports jaxnas"),
        ("jaxnas/codes.py", "def f():\n    from . import ranking", "codes imports jaxnas.ranking"),
        ("jaxnas/spaces/chain.py", "from ..tables import Table", "spaces imports jaxnas.tables.Table"),
        ("jaxnas/tables/format.py", "from jaxnas import spaces", "tables imports jaxnas.spaces"),
        ("jaxnas/ops/mobile.py", "from jaxnas.supernets import choose", "ops imports jaxnas.supernets.choose"),
        (
            "jaxnas/evaluation/graph.py",
            "from jaxnas.runs import checkpoint",
            "evaluation imports jaxnas.runs.checkpoint",
        ),
        ("jaxnas/evaluation/graph.py", "import flax.linen as nn", "evaluation imports flax"),
        ("jaxnas/ranking/metrics.py", "import matplotlib.pyplot as plt", "ranking imports matplotlib"),
        ("jaxnas/training/step.py", "import tyro", "training reads flags: tyro"),
        ("jaxnas/tables/format.py", "import sys\nprint(sys.argv[1])", "tables reads flags: sys.argv"),
        ("jaxnas/tables/format.py", "from sys import argv", "tables reads flags: sys.argv"),
        ("jaxnas/training/losses.py", "open('weights')", "training touches files: open()"),
        ("jaxnas/training/losses.py", "np.load('weights.npz')", "training touches files: np.load()"),
        ("jaxnas/training/losses.py", "from pathlib import Path", "training touches files: pathlib.Path"),
        (
            "jaxnas/training/losses.py",
            "def f(path):\n    path.write_text('x')",
            "training touches files: path.write_text()",
        ),
        ("jaxnas/ops/fast.py", "import torch", "jaxnas imports torch"),
        ("jaxnas/codes.py", "from experiments.quickstart import main", "jaxnas imports experiments.quickstart.main"),
        ("experiments/quickstart.py", "import benchmarks.evaluator", "experiments imports benchmarks.evaluator"),
        ("experiments/quickstart.py", "import torch.nn", "experiments imports torch"),
        ("notebooks/01_quickstart.py", "from tests import conftest", "notebooks imports tests.conftest"),
        ("jaxnas/new_room.py", "", "room new_room is not in MAY_IMPORT; say there what it may import"),
        (
            "jaxnas/search/search.py",
            "y = supernet.layers[0].ops[i].apply(params, x, tape)",
            "search applies a candidate: supernet.layers[0].ops[i].apply",
        ),
        (
            "jaxnas/training/losses.py",
            'module.apply({"params": params}, x)',
            "training applies a candidate: module.apply",
        ),
        (
            "jaxnas/export/network.py",
            "isinstance(module, (str, ops.ConvBN))",
            "export asks whether it is a ConvBN",
        ),
        ("jaxnas/export/network.py", "type(module) is Zero", "export asks whether it is a Zero"),
        (
            "jaxnas/training/step.py",
            "match space.layout:\n    case CellLayout():\n        pass",
            "jaxnas asks whether it is a CellLayout",
        ),
        (
            "experiments/quickstart.py",
            "isinstance(space.layout, space.ChainLayout | int)",
            "experiments asks whether it is a ChainLayout",
        ),
    ],
)
def test_offences_are_found(path, source, offence):
    assert offences(path, source) == [f"{path}: {offence}"]


@pytest.mark.parametrize(
    "path, source",
    [
        ("jaxnas/__init__.py", "from jaxnas.training import make_train_step\nfrom jaxnas.tables import Table"),
        ("jaxnas/supernets/cell.py", "import flax\nfrom jaxnas.supernets.layer import Layer\nfrom ..ops import OPS"),
        ("jaxnas/tables/format.py", "from pathlib import Path\nnp.load(open('x'))"),
        ("jaxnas/samplers/fair.py", "from jaxnas.space import SearchSpace\nstate.load(x); urlopen(y)"),
        (
            "jaxnas/supernets/cell.py",
            'isinstance(op, Zero)\nop.apply({"params": p}, x)',
        ),
        ("jaxnas/training/losses.py", "supernet.apply(params, arch, images)\nisinstance(x, int)\nsupernet.init(key)"),
        ("jaxnas/runs/command.py", "import sys, tyro\nprint(sys.argv)"),
        ("benchmarks/peers.py", "import torch\nfrom jaxnas import codes"),
        ("experiments/quickstart.py", "import jaxnas, matplotlib, tyro\nfrom .shared.config import settle"),
        ("notebooks/01_quickstart.py", "from experiments import quickstart"),
    ],
)
def test_what_is_allowed_passes(path, source):
    assert offences(path, source) == []


def test_notebooks_are_read_without_shell_lines(tmp_path):
    cells = [
        {"cell_type": "markdown", "source": ["import torch"]},
        {"cell_type": "code", "source": ["if True:\n", "    !pip install x\n", "%matplotlib inline\n", "import torch"]},
    ]
    (tmp_path / "book.ipynb").write_text(json.dumps({"cells": cells}))
    assert offences("notebooks/book.ipynb", source_of(tmp_path / "book.ipynb")) == [
        "notebooks/book.ipynb: notebooks imports torch"
    ]
