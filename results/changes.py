"""What has changed in the code of a figure since it was measured.

An experiment runs its module's `run`, and whatever that names, in any module of the repository: functions, classes and
constants, each compared with those of its name at the time, wherever these stood.
"""

import ast
import functools
import subprocess
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
PACKAGES = ("jaxnas", "experiments", "benchmarks")
# Rooms that check, read, write, tell and draw what others compute, and the flags, whose values a file has itself.
TELLING = {f"jaxnas.{room}" for room in ("checks", "export", "files", "interrupted", "plotting", "runs")} | {
    f"experiments.shared.{name}" for name in ("config", "pictures", "telling")
}
Definition = tuple[str, str]  # module, name


class Module(NamedTuple):
    """What a file of the repository defines, and what the names that it imports mean."""

    nodes: Mapping[str, ast.AST]
    imported: Mapping[str, Definition | str]  # a definition, or the module of that name


def changed_since(commit: str, module: str) -> list[str]:
    """The rooms of the library, and "experiments", with code that `module` ("experiments.landmark") runs and that is
    another than at that commit. Comments, docstrings and rooms that change no figure do not count.

    Raises:
      ValueError: the history has no such commit, as in a clone without history.
    """
    before = _nodes_of(commit)
    changed = set()
    for module_of, name in reached(module):
        room = ".".join(module_of.split(".")[:2]) if module_of.startswith("jaxnas.") else module_of
        then = {_dump(node) for node in before.get(name, ())}
        if room not in TELLING and _dump(_node((module_of, name))) not in then:
            changed.add(room.removeprefix("jaxnas.") if room.startswith("jaxnas.") else room.split(".")[0])
    return sorted(changed)


@functools.cache
def reached(module: str) -> frozenset[Definition]:
    """All that a module's `run` needs, itself included, wherever it is defined."""
    begin = _resolved(module, "run")
    if not isinstance(begin, tuple):
        raise ValueError(f"{module} has no function run.")
    found, waiting = set[Definition](), [begin]
    while waiting:
        one = waiting.pop()
        if one not in found:
            found.add(one)
            waiting += _used(one[0], _node(one))
    return frozenset(found)


def _node(name: Definition) -> ast.AST:
    return _module(name[0]).nodes[name[1]]


def _used(module: str, node: ast.AST) -> Iterator[Definition]:
    """Definitions that a node names, as NAME or as ROOM.NAME."""
    for part in ast.walk(node):
        if isinstance(part, ast.Name | ast.Attribute):
            meant = _meant(module, part)
            if isinstance(meant, tuple):
                yield meant


def _meant(module: str, part: ast.expr) -> Definition | str | None:
    """The definition, or the module of the repository, that an expression names; None: neither."""
    if isinstance(part, ast.Name):
        return _resolved(module, part.id)
    if isinstance(part, ast.Attribute) and isinstance(base := _meant(module, part.value), str):
        return _resolved(base, part.attr)
    return None


@functools.cache
def _resolved(module: str, name: str) -> Definition | str | None:
    """What a name means in a module: followed to where it is defined."""
    if name in _module(module).nodes:
        return module, name
    meant = _module(module).imported.get(name)
    if isinstance(meant, tuple):
        return f"{meant[0]}.{name}" if _path(f"{meant[0]}.{meant[1]}") else _resolved(*meant)
    return meant or (f"{module}.{name}" if _path(f"{module}.{name}") else None)


@functools.cache
def _module(name: str) -> Module:
    path = _path(name)
    if path is None:
        return Module({}, {})
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    nodes: dict[str, ast.AST] = {}
    imported: dict[str, Definition | str] = {}
    for node in _plain(path.read_text(encoding="utf-8")).body:
        nodes |= dict.fromkeys(_names(node), node)
        if isinstance(node, ast.Import):
            imported |= {alias.asname or alias.name: alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) + 1 - node.level] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            imported |= {alias.asname or alias.name: (base, alias.name) for alias in node.names}
    return Module(nodes, imported)


def _names(node: ast.AST) -> list[str]:
    """What a statement defines."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return [part.id for target in targets for part in ast.walk(target) if isinstance(part, ast.Name)]


@functools.cache
def _path(module: str) -> Path | None:
    """The file of a module of the repository."""
    base = ROOT.joinpath(*module.split("."))
    candidates = (base.with_suffix(".py"), base / "__init__.py") if module.split(".")[0] in PACKAGES else ()
    return next((path for path in candidates if path.is_file()), None)


def _plain(text: str) -> ast.Module:
    """The syntax tree without docstrings."""
    tree = ast.parse(text)
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        first = node.body[0] if node.body else None  # type: ignore[attr-defined]
        if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
            del node.body[0]  # type: ignore[attr-defined]
        waiting += [part for part in node.body if hasattr(part, "body")]  # type: ignore[attr-defined]
    return tree


@functools.cache
def _dump(node: ast.AST) -> str:
    return ast.dump(node)


@functools.cache
def _nodes_of(commit: str) -> Mapping[str, list[ast.AST]]:
    """Name -> the definitions of that name, as of a commit."""
    listed = _git("ls-tree", "-r", commit, "--", *PACKAGES).decode().splitlines()
    blobs = [entry.split("\t")[0].split()[2] for entry in listed if entry.endswith(".py")]
    answer = _git("cat-file", "--batch", given="\n".join(blobs).encode())
    found: dict[str, list[ast.AST]] = defaultdict(list)
    for blob in blobs:
        head, _, answer = answer.partition(b"\n")
        size = int(head.split()[2])
        for name, node in _definitions(blob, answer[:size].decode()):
            found[name].append(node)
        answer = answer[size + 1 :]
    return found


@functools.cache
def _definitions(blob: str, text: str) -> list[tuple[str, ast.AST]]:
    return [(name, node) for node in _plain(text).body for name in _names(node)]


def _git(*arguments: str, given: bytes | None = None) -> bytes:
    done = subprocess.run(["git", *arguments], cwd=ROOT, input=given, capture_output=True)
    if done.returncode:
        raise ValueError(f"git {arguments[0]}: {done.stderr.decode().strip()}; a clone with its history is needed.")
    return done.stdout
