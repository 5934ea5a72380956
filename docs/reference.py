"""The reference: a page for every module of jaxnas with what is public in it, written anew at each build.

Public is what a room lists in `__all__`, and in a module without one what it defines under a name without an
underscore. A name that several rooms give is told at the one that defines it; the others say where.
"""

import ast
import functools
import importlib
import inspect
import itertools
import pkgutil
import re
from pathlib import Path
from types import ModuleType
from typing import Any

from sphinx.domains.python import PyObject
from sphinx.util.nodes import make_refnode

import jaxnas
from jaxnas.ops import OPS, Policy

FOLDER = Path(__file__).parent / "reference"


@functools.cache
def modules() -> list[str]:
    """The names of jaxnas and of its modules that have no underscore, rooms in the order of the alphabet."""
    found = [module.name for module in pkgutil.walk_packages(jaxnas.__path__, "jaxnas.")]
    return ["jaxnas", *sorted(name for name in found if "._" not in name and ".experiments" not in name)]


def public(module: ModuleType) -> list[str]:
    """The public names of a module, sorted."""
    return sorted(module.__all__ if hasattr(module, "__all__") else defined(module))


@functools.cache
def defined(module: ModuleType) -> dict[str, str]:
    """What a module's source defines under a name without an underscore, each with the comment above or beside it."""
    source = inspect.getsource(module)
    lines, found = source.splitlines(), {}
    for node in ast.parse(source).body:
        match node:
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                names = [name]
            case ast.Assign(targets=targets):
                names = [target.id for target in targets if isinstance(target, ast.Name)]
            case ast.AnnAssign(target=ast.Name(name)):
                names = [name]
            case _:
                continue
        comment = comment_at(lines, node)
        found |= {name: comment for name in names if not name.startswith("_")}
    return found


def comment_at(lines: list[str], node: ast.stmt) -> str:
    """The comment at the end of a statement's first or last line, or those above it."""
    for number in (node.lineno, node.end_lineno):
        if beside := re.search(r"(?<=\s)# (?!fmt|noqa|type:)(.*)$", lines[number - 1]):
            return beside[1]
    above = []
    for line in reversed(lines[: node.lineno - 1]):
        if not re.match(r"\s*# (?!ruff|fmt)", line):
            break
        above.append(line.strip()[2:])
    return " ".join(reversed(above))


def home(name: str) -> tuple[str, str]:
    """Where the object that `module.attribute` names is told, as (module, attribute): the shortest of the room and the
    modules that it was defined in and that give it."""
    module, _, attribute = name.rpartition(".")
    found = getattr(importlib.import_module(module), attribute)
    origin = getattr(found, "__module__", None) if inspect.isclass(found) or inspect.isroutine(found) else None
    if not isinstance(origin, str) or not origin.startswith("jaxnas."):
        origin = next(
            (at for at in SOURCES.get(attribute, []) if getattr(importlib.import_module(at), attribute) is found),
            module,
        )
    parts = origin.split(".")
    for length in range(2, len(parts) + 1):
        place = importlib.import_module(".".join(parts[:length]))
        if attribute in public(place) and getattr(place, attribute) is found:
            return place.__name__, attribute
    return module, attribute


SOURCES: dict[str, list[str]] = {}  # name -> the modules whose source defines it, underscored ones too


def read_sources() -> None:
    for name in ["jaxnas", *(module.name for module in pkgutil.walk_packages(jaxnas.__path__, "jaxnas."))]:
        if ".experiments" not in name:
            for attribute in defined(importlib.import_module(name)):
                SOURCES.setdefault(attribute, []).append(name)


# Pages


def entry(module: str, attribute: str) -> str:
    """The directive that tells of one public name."""
    name = f"{module}.{attribute}"
    found = getattr(importlib.import_module(module), attribute)
    place, _ = home(name)
    if inspect.ismodule(found):
        return ""
    if place != module:
        kind = "class" if inspect.isclass(found) else "function" if inspect.isroutine(found) else "data"
        return f".. py:{kind}:: {attribute}\n\n   The same as :py:obj:`{place}.{attribute}`.\n"
    if inspect.isclass(found):
        return f".. autoclass:: {name}\n   :members:\n"
    if inspect.isroutine(found) and hasattr(found, "__name__"):
        return f".. autofunction:: {name}\n"
    comment = next(
        (comment for at in SOURCES.get(attribute, []) if (comment := defined(importlib.import_module(at))[attribute])),
        "",
    )
    if found is OPS:
        return f".. py:data:: {attribute}\n\n{operations()}"
    return f".. py:data:: {attribute}\n\n   {as_rst([comment])[0] if comment else shown(found)}\n"


def operations() -> str:
    """What the names of `OPS` build: each class with what it says of itself, up to the first full stop or colon."""
    by_class: dict[type, list[str]] = {}
    for name, factory in OPS.items():
        by_class.setdefault(type(factory(8, 1, True, Policy())), []).append(name)
    lines = ["   What each name builds, with stride 1.", ""]
    for kind, names in by_class.items():
        said = re.split(r"[.:](?=\s|$)", " ".join((inspect.getdoc(kind) or "").split()))[0]
        lines += [f"   - {', '.join(f'``{name}``' for name in names)}: {in_line(said)}"]
    return "\n".join(lines) + "\n"


def shown(value: Any) -> str:
    """A few words of a value that nothing is said about."""
    if isinstance(value, dict):
        return "By name: " + ", ".join(f"``{key}``" for key in value) + "."
    text = re.sub(r"\bjaxnas\.[\w.]+\.(?=\w)", "", str(value)).replace("typing.", "")
    return f"``{text}``" if len(text) < 200 else f"A {type(value).__name__}."


def summary(module: str, attribute: str) -> str:
    """The first sentence of what is said about a name."""
    found = getattr(importlib.import_module(module), attribute)
    said = (
        inspect.getdoc(found) if inspect.ismodule(found) or inspect.isclass(found) or inspect.isroutine(found) else ""
    )
    text = " ".join((said or "").split("\n\n")[0].split())
    ends = [found.start() for found in re.finditer(r"[.:;](?=\s|$)", text)]
    end = next((end for end in ends if text[:end].count("`") % 2 == 0), 0)
    return as_rst([text[:end]])[0]


def page(name: str) -> str:
    """The page of a module, in reStructuredText."""
    module = importlib.import_module(name)
    beneath = [other for other in modules() if other.rpartition(".")[0] == name]
    names = [attribute for attribute in public(module)]
    told = [attribute for attribute in names if not inspect.ismodule(getattr(module, attribute))]
    if not hasattr(module, "__all__"):
        told = [attribute for attribute in told if home(f"{name}.{attribute}")[0] == name]
    parts = [name, "=" * len(name), "", f".. automodule:: {name}", "   :no-members:", ""]
    if told:
        parts += [".. list-table::", "   :class: names", "   :widths: auto", ""]
        for attribute in told:
            parts += [f"   * - :py:obj:`~{name}.{attribute}`", f"     - {summary(name, attribute)}"]
        parts += [""]
    if beneath:
        parts += ["" if name == "jaxnas" else "Modules of this room:", "", ".. toctree::", "   :maxdepth: 1", ""]
        parts += [f"   {other}" for other in beneath] + [""]
    parts += [entry(name, attribute) for attribute in told]
    return "\n".join(parts) + "\n"


def write_pages(app: Any = None) -> None:
    """All pages; those that say what they said are left alone."""
    FOLDER.mkdir(exist_ok=True)
    read_sources()
    pages = {FOLDER / f"{name}.rst": page(name) for name in modules()}
    for path in set(FOLDER.glob("*.rst")) - set(pages):
        path.unlink()
    for path, text in pages.items():
        if not path.exists() or path.read_text() != text:
            path.write_text(text)


# Docstrings, which are written to be read in an editor

SECTION = re.compile(r"\s*(Args|Attributes|Returns|Raises):")


def as_rst(lines: list[str]) -> list[str]:
    """Backquotes as references or code, indented examples as blocks of code, everything else as text."""
    if lines and SECTION.fullmatch(lines[0]):  # and so lost the indentation of the others
        lines = [lines[0], *(f"  {line}" for line in lines[1:])]
    out: list[str] = []
    block = doctest = False
    for line in listed(lines):
        indent = len(line) - len(line.lstrip())
        before = next((other for other in reversed(out) if other.strip()), "").removeprefix(TEXT)
        after_blank = not out or not out[-1].strip()
        if line.strip().startswith(">>>"):
            doctest = True
        elif not line.strip():
            doctest = False
        if block and line.strip() and indent < block:
            block = False
        if not block and line.strip() and after_blank and before and not doctest:
            outer = len(before) - len(before.lstrip())
            if indent > outer and not SECTION.fullmatch(before):
                out += [" " * outer + "::", ""]
                block = indent
        out.append(line if block or doctest or not line.strip() else f"{TEXT}{line}")
    return in_lines(out)


def listed(lines: list[str]) -> list[str]:
    """What is said of an argument in several parts, of which some are indented further, as a list of these."""
    out: list[str] = []
    said: list[str] = []  # of the argument that is being read

    def flush() -> None:
        depth = len(said[0]) - len(said[0].lstrip()) + 2 if said else 0
        if any(len(line) - len(line.lstrip()) > depth for line in said[1:]):
            parts = False
            for line in said[1:]:
                at_depth = len(line) - len(line.lstrip()) == depth
                begins = at_depth and re.match(r"\s*[\w ]+(\([\w, ]+\))?: |\s*\"\w+\": ", line)
                if begins:
                    out.extend([] if parts else [""])
                    parts = True
                out.append(f"{' ' * depth}- {line.strip()}" if begins else f"  {line}" if parts and at_depth else line)
        else:
            out.extend(said[1:])
        said.clear()

    section = None
    for line in lines:
        indent = len(line) - len(line.lstrip())
        if section is not None and (not line.strip() or indent <= section):
            flush()
            section = None
        if section is not None and indent == section + 2:
            flush()
        if section is not None and (said or indent == section + 2):
            out.extend([] if said else [line])
            said.append(line)
            continue
        if SECTION.fullmatch(line):
            section = indent
        out.append(line)
    flush()
    return out


TEXT = "\0"  # before a line that is no code


def in_lines(lines: list[str]) -> list[str]:
    """Runs of text, which a pair of backquotes may span, as `in_line` has them."""
    out: list[str] = []
    for is_text, run in itertools.groupby(lines, lambda line: line.startswith(TEXT)):
        text = "\n".join(run).replace(TEXT, "")
        out += (in_line(text) if is_text else text).split("\n")
    return out


def in_line(text: str) -> str:
    """Text: what stands in backquotes as it is, what reStructuredText would read otherwise escaped."""
    parts = re.split(r"(`[^`]+`)", text)
    for index, part in enumerate(parts):
        if not index % 2:
            parts[index] = re.sub(r"(?<=\w)_(?!\w)|[*|]", lambda found: "\\" + found[0], part)
            if index and re.match(r"\w", part):
                parts[index] = f"\\ {parts[index]}"
        elif re.fullmatch(r"`[\w.]+`", part):
            parts[index] = f":py:obj:{part}"
        else:
            parts[index] = f"`{part}`"
    return "".join(parts)


def process_docstring(app: Any, what: str, name: str, found: Any, options: Any, lines: list[str]) -> None:
    """As reStructuredText; with the comments beside the fields of a tuple that says nothing else of them."""
    lines[:] = as_rst(lines)
    if what == "class" and inspect.isclass(found) and not any(line.strip() == "Attributes:" for line in lines):
        fields = [(field, said) for field, said in comments_of_fields(found).items() if said]
        if fields:
            lines += ["", "Attributes:", *(f"  {field}: {in_line(said)}" for field, said in fields), ""]


def comments_of_fields(found: type) -> dict[str, str]:
    """The fields of a class as its source has them, each with its comment."""
    try:
        source = inspect.cleandoc("\n" + inspect.getsource(found))
    except (OSError, TypeError):
        return {}
    (tree,) = ast.parse(source).body
    lines = source.splitlines()
    fields = [node for node in getattr(tree, "body", []) if isinstance(node, ast.AnnAssign)]
    return {node.target.id: comment_at(lines, node) for node in fields if not node.target.id.startswith("_")}


def skip_member(app: Any, what: str, name: str, found: Any, skip: bool, options: Any) -> bool | None:
    """Fields are told by the class; what a tuple, a Flax module or a dataclass brings along is not ours."""
    if type(found).__name__ in ("_tuplegetter", "member_descriptor") or name in ("parent", "name"):
        return True
    return None


def process_bases(app: Any, name: str, found: Any, options: Any, bases: list[Any]) -> None:
    bases[:] = [base for base in bases if getattr(base, "__module__", "").startswith("jaxnas")]


def resolve(app: Any, env: Any, node: Any, contnode: Any) -> Any:
    """A name by where the object is defined, or a class by its name alone, leads to where it is told."""
    target = node.get("reftarget", "")
    if node.get("refdomain") != "py":
        return None
    objects = env.get_domain("py").objects
    place = None
    if target.startswith("jaxnas."):
        parts = target.split(".")
        for cut in range(len(parts) - 1, 0, -1):  # a class, or a method of one
            module, rest = ".".join(parts[:cut]), parts[cut:]
            try:
                importlib.import_module(module)
                at, attribute = home(f"{module}.{rest[0]}")
            except (ImportError, AttributeError):
                continue
            place = ".".join([at, attribute, *rest[1:]])
            break
    elif re.fullmatch("[A-Z]\\w+", target):
        found = {name for name in objects if name.endswith(f".{target}") and name.count(".") == 2}
        homes = {".".join(home(name)) for name in found}
        place = homes.pop() if len(homes) == 1 else None
    if place in objects:
        entry_of = objects[place]
        return make_refnode(app.builder, node["refdoc"], entry_of.docname, entry_of.node_id, contnode, place)
    return None


def setup(app: Any) -> None:
    for field in PyObject.doc_field_types:
        if field.name == "variable":
            field.label = "Attributes"  # as the docstrings call them
    app.connect("builder-inited", write_pages)
    app.connect("autodoc-process-docstring", process_docstring, priority=400)
    app.connect("autodoc-skip-member", skip_member)
    app.connect("autodoc-process-bases", process_bases)
    app.connect("missing-reference", resolve)
