"""The site: its pages' Python runs, it is built without a warning, has every public name, and no broken link."""

import ast
import html.parser
import importlib
import io
import os
import re
import subprocess
import sys
import types
import zlib
from pathlib import Path
from urllib.parse import unquote

import jax
import numpy as np
import pytest

import jaxnas
from jaxnas import codes, samplers, training
from jaxnas.evaluation import make_evaluator
from jaxnas.ops import OPS
from jaxnas.supernets import run_operation

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
HOW_TO = sorted(path.stem for path in (DOCS / "howto").glob("*.md") if path.stem != "index")
PYTHON = re.compile(r"```python\n(.*?)```", re.DOTALL)


def blocks(page: Path) -> list[str]:
    return PYTHON.findall(page.read_text(encoding="utf-8"))


@pytest.fixture
def as_users_have_it():
    """What a reader tries runs with JAX's defaults, not with the suite's strict settings."""
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        yield


def test_every_room_has_a_page_and_so_has_each_how_to_a_place():
    assert {path.stem for path in (DOCS / "concepts").glob("*.md")} == {*jaxnas.ROOMS, "index"}
    for folder in ("concepts", "howto"):
        index = (DOCS / folder / "index.md").read_text()
        pages = {path.stem for path in (DOCS / folder).glob("*.md")} - {"index"}
        assert set(re.search(r":maxdepth: 1\n\n(.*?)```", index, re.DOTALL)[1].split()) == pages


def test_the_33_requests_are_numbered_and_answered():
    rows = re.findall(r"^\| (\d+) \| (.+) \| (.+) \|$", (DOCS / "asks.md").read_text(), re.MULTILINE)
    assert [int(number) for number, *_ in rows] == list(range(1, 34))
    assert all("https://github.com/" in asked and len(answer) > 40 for _, asked, answer in rows)


def test_the_gallery_shows_every_picture_and_how_it_was_made():
    text = (DOCS / "gallery.md").read_text()
    assert set(re.findall(r"\]\((\w+\.png)\)", text)) == {path.name for path in DOCS.glob("*.png")}
    before = re.split(r"!\[.*\]\(.*\)", text)[:-1]
    commands = [len(re.findall(r"`(?:jaxnas|python -m) ", part)) for part in before]
    assert commands[0] and sum(commands) >= len(before) - 1


def test_start_shows_what_the_readme_shows():
    assert blocks(DOCS / "start.md") == blocks(ROOT / "README.md")


@pytest.mark.parametrize("page", HOW_TO)
def test_code_of_a_how_to_is_python_and_names_what_exists(page):
    """Each module imported is there, and so is what is taken from it."""
    code = "\n".join(blocks(DOCS / "howto" / f"{page}.md"))
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom) and node.module.startswith("jaxnas"):
            module, names = importlib.import_module(node.module), [alias.name for alias in node.names]
            others = [name for name in names if not hasattr(module, name)]
            assert [name for name in others if importlib.util.find_spec(f"{node.module}.{name}") is None] == []


def test_names_of_operations_are_those_that_there_are():
    (shown,) = re.findall(r"ops\.OPS\)\)\n```\n\n```\n(.*?)```", (DOCS / "howto/own_space.md").read_text(), re.DOTALL)
    assert " ".join(shown.split()) == ", ".join(OPS)


@pytest.mark.slow("the code of the site's how-to pages is run")
@pytest.mark.parametrize("page", HOW_TO)
@pytest.mark.usefixtures("as_users_have_it")
def test_code_of_a_how_to_runs(page, tmp_path, monkeypatch):
    """From top to bottom, in an empty folder, with JAX's defaults; what needs an extra where it is installed."""
    extras = {"onnxruntime": "onnx", "optuna": "optuna", "pymoo": "pareto", "tensorboardX": "tensorboard"}
    left_out = [name for name in extras if importlib.util.find_spec(name) is None]
    code = [block for block in blocks(DOCS / "howto" / f"{page}.md") if not any(name in block for name in left_out)]
    monkeypatch.chdir(tmp_path)
    module = types.ModuleType(f"page_{page}")
    monkeypatch.setitem(sys.modules, module.__name__, module)  # dataclasses and tuples look there
    exec(compile("\n".join(code), page, "exec"), module.__dict__)


@pytest.mark.usefixtures("as_users_have_it")
def test_an_own_operation_trains_and_is_scored():
    scale, *_ = blocks(DOCS / "howto" / "own_operation.md")
    names: dict = {}
    exec(scale, names)
    space, supernet = names["space"], names["supernet"]
    assert space.size == 3 * 2
    sampler, tx = samplers.fair(space), training.sgd(0.1, num_steps=1)
    loss_fn = training.make_cross_entropy_loss(supernet)
    step = training.make_train_step(supernet, loss_fn, sampler, tx)
    before = training.init_train_state(supernet, sampler, tx, jax.random.key(0))
    rng = np.random.default_rng(0)
    images, labels = rng.normal(size=(4, 8, 8, 1)).astype(np.float32), np.arange(4)
    start = np.array(before.params["layer0"]["scale"]["scale"])
    after, _ = step(before, {"train": {"images": images, "labels": labels}})
    assert not np.array_equal(after.params["layer0"]["scale"]["scale"], start), "the own operation has not moved"
    scores = make_evaluator(supernet).evaluate(after.params, codes.enumerate_archs(space), images, labels)
    assert len(set(scores.loss)) == space.size


@pytest.mark.usefixtures("as_users_have_it")
def test_other_forms_of_an_operation_compute_the_same():
    scale, others, *_ = blocks(DOCS / "howto" / "own_operation.md")
    names: dict = {}
    exec(scale + others, names)
    layer = names["others"].layers["layer0"]
    x = np.random.default_rng(0).normal(size=(2, *layer.in_shape)).astype(np.float32)
    for name in ("nnx", "pair"):
        y, _ = run_operation(layer.candidates[name], {"scale": np.full(8, 3, np.float32)}, x)
        np.testing.assert_allclose(y, 3 * x, rtol=1e-6)


def test_docstrings_are_read_as_text_code_and_lists(monkeypatch):
    """What reference.py makes of each is sound reStructuredText: far quicker to see than by building the site."""
    sphinx = pytest.importorskip(
        "sphinx.ext.napoleon", reason="docstrings are read by Sphinx: pip install -e '.[docs]'"
    )
    monkeypatch.syspath_prepend(str(DOCS))
    reference = importlib.import_module("reference")
    from docutils.core import publish_doctree
    from docutils.nodes import literal
    from docutils.parsers.rst import roles

    roles.register_local_role("py:obj", lambda name, raw, text, *rest: ([literal(raw, text)], []))
    config = sphinx.Config(napoleon_use_ivar=True, napoleon_use_rtype=False)
    found = []
    for path in sorted((ROOT / "jaxnas").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            documented = isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
            if documented and (text := ast.get_docstring(node)):
                said = io.StringIO()
                text = str(sphinx.GoogleDocstring(reference.as_rst(text.split("\n")), config))
                publish_doctree(text, settings_overrides={"warning_stream": said, "report_level": 2})
                problems = [line for line in said.getvalue().splitlines() if re.search("WARNING|ERROR", line)]
                name = getattr(node, "name", "module")
                found += [f"{path.name}, {name}: {line}" for line in problems if "interpreted text role" not in line]
    assert found == []


# The built site


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """Built as README says, with warnings as errors and every reference to jaxnas resolved."""
    pytest.importorskip("sphinx", reason="the site is built by Sphinx: pip install -e '.[docs]'")
    folder = tmp_path_factory.mktemp("site")
    env = {name: value for name, value in os.environ.items() if not name.startswith(("JAX_", "XLA_"))}
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", "-W", "-n", "--keep-going", "-q", "docs", str(folder)],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and "WARNING" not in done.stderr, done.stderr[-3000:]
    return folder


def inventory(site: Path) -> set[str]:
    """The names of Python objects in `objects.inv`: four lines, then compressed ones."""
    head, _, packed = (site / "objects.inv").read_bytes().partition(b"zlib.\n")
    assert head.startswith(b"# Sphinx inventory version 2")
    lines = zlib.decompress(packed).decode().splitlines()
    return {line.split(" py:")[0] for line in lines if " py:" in line}


def public_names() -> set[str]:
    """What each room gives: its `__all__`, or what the source of one without it defines."""
    names = {f"jaxnas.{name}" for name in (*jaxnas.__all__, *jaxnas.ROOMS)}
    for room in jaxnas.ROOMS:
        module = importlib.import_module(f"jaxnas.{room}")
        given = getattr(module, "__all__", None)
        if given is None:
            tree = ast.parse(Path(module.__file__).read_text(encoding="utf-8"))
            given = [node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
        names |= {f"jaxnas.{room}.{name}" for name in given if not name.startswith("_")}
    return names


class Page(html.parser.HTMLParser):
    """What a page links to, and what can be linked to in it."""

    def __init__(self, text: str):
        super().__init__()
        self.links: set[str] = set()
        self.anchors: set[str] = {""}
        self.names: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.anchors |= {given["id"] or ""} if "id" in given else set()
        self.names |= {given["name"] or ""} if "name" in given else set()
        self.links |= {given[name] or "" for name in ("href", "src") if name in given}


@pytest.mark.slow("the site is built with warnings as errors; its public names and links are counted")
def test_every_public_name_has_a_page(site):
    wanted = public_names()
    assert len(wanted) > 300 and wanted - inventory(site) == set()


@pytest.mark.slow("the site is built with warnings as errors; its public names and links are counted")
def test_no_link_within_the_site_is_broken(site):
    pages = {path: Page(path.read_text(encoding="utf-8")) for path in site.rglob("*.html")}
    broken, followed = [], 0
    for path, page in pages.items():
        for link in page.links:
            target, _, anchor = link.partition("#")
            if re.match(r"[a-z]+:|//", link):
                continue
            there = (path.parent / unquote(target.split("?")[0])).resolve() if target else path
            followed += 1
            if not there.exists() or (anchor and there in pages and unquote(anchor) not in pages[there].anchors):
                broken.append(f"{path.relative_to(site)} -> {link}")
    assert len(pages) > 100 and followed > 1000 and broken == []


@pytest.mark.slow("the site is built with warnings as errors; its public names and links are counted")
def test_it_can_be_searched_and_read_on_a_phone(site):
    assert "jaxnas.ranking" in (site / "searchindex.js").read_text(encoding="utf-8")
    for name in ("index.html", "start.html", "howto/own_space.html", "reference/jaxnas.ranking.html"):
        assert {"viewport", "q"} <= Page((site / name).read_text(encoding="utf-8")).names, name
