"""Tables of the READMEs are what `python -m results` makes of the files of runs, and say what has changed since."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from results import changes

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "experiments" / "README.md", ROOT / "benchmarks" / "README.md"]
HAS_HISTORY = subprocess.run(["git", "cat-file", "-e", "e51f804"], cwd=ROOT, capture_output=True).returncode == 0


@pytest.fixture(scope="module")
def rows():
    """`results.rows`, which is imported while cog runs."""
    pytest.MonkeyPatch().setitem(sys.modules, "cog", type(sys)("cog"))
    from results import rows

    return rows


@pytest.mark.slow("tables of the READMEs beside the files that they are made of, and the history of the code")
@pytest.mark.skipif(not HAS_HISTORY, reason="no history of the repository here, as in a shallow clone")
def test_tables_are_those_of_the_files():
    done = subprocess.run([sys.executable, "-m", "results", "--check"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, f"run `python -m results` and look at what it changes:\n{done.stdout}{done.stderr}"


def test_other_arguments_are_refused():
    done = subprocess.run([sys.executable, "-m", "results", "--all"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr == "python -m results: got --all, expected --check or nothing.\n"


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.parent.name)
def test_each_table_with_figures_says_where_they_are_from(path, rows):
    text = re.sub(r"<!-- \[\[\[cog.*?\[\[\[end\]\]\] -->", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    tables = re.findall(r"(?:^\|.*\n)+\n*(?:.*)", text, re.MULTILINE)
    for table in tables:
        if re.search(r"\d[.,]\d", table):
            assert table.endswith(rows.EARLIER), f"made of no file, and not said to be so: {table[:200]}"


def test_a_figure_stands_in_its_cell_with_its_interval(rows, monkeypatch, tmp_path):
    figures = {"tau": 0.51239, "tau_low": 0.4, "tau_high": 0.61, "tau_5": 0.25, "tau_30": None, "macs": 12345678}
    monkeypatch.setattr(rows, "HERE", tmp_path)
    monkeypatch.setattr(rows, "changed_since", lambda commit, module: ["ops"])
    record = {"name": "landmark", "commit": "0123456789", "learning_rate=0.5: delta": 0.75, **figures}
    (tmp_path / "mine.json").write_text(json.dumps(record))
    made = rows.rendered(
        """
        | a | **{mine.tau}** | {mine.tau:2f} | {mine.tau:1%} |
        | b | {mine.tau_(5 30)} | {mine.macs:,} |
        | c | {mine.learning_rate_0_5_delta} |
        """
    )
    assert made.splitlines() == [
        "| a | **0.512 [0.400, 0.610]** | 0.51 | 51.2 [40.0, 61.0] |",
        "| b | 0.250 |  | 12,345,678 |",
        "| c | 0.750 |",
        "",
        "*[mine.json](../results/mine.json), as of 0123456; code changed since: ops.*",
    ]


def test_what_no_file_has_is_refused(rows, monkeypatch, tmp_path):
    monkeypatch.setattr(rows, "HERE", tmp_path)
    (tmp_path / "mine.json").write_text(json.dumps({"name": "landmark", "commit": "0123456", "tau": 0.5}))
    with pytest.raises(ValueError, match=r"no file has any figure of the row '\| a \| \{mine.tua\} \|'"):
        rows.rendered("| a | {mine.tua} |")
    with pytest.raises(ValueError, match=r"no yours.json in results: mine."):
        rows.rendered("| a | {yours.tau} |")


def test_records_of_a_benchmark_are_told_apart_by_their_texts(rows, monkeypatch, tmp_path):
    monkeypatch.setattr(rows, "HERE", tmp_path)
    asked = []
    monkeypatch.setattr(rows, "changed_since", lambda commit, module: asked.append((commit, module)) or [])
    made = {"command": "python -m benchmarks.train_step --repetitions 3", "commit": "0123456789-dirty", "device": "cpu"}
    records = [{"space": "a", "route": route, "ms": ms} | made for route, ms in (("fixed", 2.5), ("single", 3.25))]
    (tmp_path / "steps.json").write_text(json.dumps(records))
    made_rows = rows.rendered("| a | {steps.fixed_ms:2f} | {steps.single_ms:2f} |")
    assert made_rows.splitlines()[0] == "| a | 2.50 | 3.25 |" and asked == [("0123456789", "benchmarks.train_step")]
    assert rows.by_texts([records[0]])["ms"] == 2.5
    with pytest.raises(ValueError, match=r"texts of python -m benchmarks\.mine do not tell its records apart: none"):
        rows.by_texts([{"ms": 1.0, "command": "python -m benchmarks.mine", "commit": "0"}] * 2)


SOURCES = {
    "jaxnas/__init__.py": "",
    "jaxnas/ops/__init__.py": "from jaxnas.ops.pooling import pool as pool\n",
    "jaxnas/ops/pooling.py": "SIZE = 3\n\ndef pool(x):\n    return x * SIZE\n\ndef other(x):\n    return x\n",
    "jaxnas/plotting/__init__.py": "def draw(x):\n    return x\n",
    "experiments/__init__.py": "",
    "experiments/mine.py": "from jaxnas import ops, plotting\n\ndef run(x):\n    return plotting.draw(ops.pool(x))\n",
}


@pytest.fixture
def clone(tmp_path, monkeypatch):
    """A repository of one commit, and that commit."""

    def git(*arguments):
        who = ["-c", "user.name=a", "-c", "user.email=a@b"]
        return subprocess.run(["git", *who, *arguments], cwd=tmp_path, check=True, capture_output=True, text=True)

    for path, text in SOURCES.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    git("init", "-q")
    git("add", ".")
    git("commit", "-q", "-m", "one")
    monkeypatch.setattr(changes, "ROOT", tmp_path)
    forget()
    yield tmp_path, git("rev-parse", "HEAD").stdout.strip()
    forget()


def forget():
    for name in ("reached", "_module", "_path", "_resolved", "_nodes_of", "_definitions", "_dump"):
        getattr(changes, name).cache_clear()


@pytest.mark.parametrize(
    "path, old, new, expected",
    [
        ("jaxnas/ops/pooling.py", "* SIZE", "+ SIZE", ["ops"]),  # what is called, through a package
        ("jaxnas/ops/pooling.py", "SIZE = 3", "SIZE = 5", ["ops"]),  # and what that names
        ("jaxnas/ops/pooling.py", "def other(x):\n    return x", "def other(x):\n    return 2 * x", []),
        ("jaxnas/ops/pooling.py", "return x *", '"""Pooled."""\n    return x *', []),
        ("jaxnas/ops/pooling.py", "return x *", "# times\n    return x *", []),
        ("jaxnas/plotting/__init__.py", "return x", "return 2 * x", []),
        ("experiments/mine.py", "ops.pool(x)", "ops.pool(2 * x)", ["experiments"]),
    ],
)
def test_what_changed_since(clone, path, old, new, expected):
    root, commit = clone
    (root / path).write_text(SOURCES[path].replace(old, new))
    assert changes.changed_since(commit, "experiments.mine") == expected


def test_what_moved_is_the_same_code(clone):
    root, commit = clone
    (root / "jaxnas/ops/pooling.py").rename(root / "jaxnas/ops/pools.py")
    (root / "jaxnas/ops/__init__.py").write_text("from jaxnas.ops.pools import pool as pool\n")
    assert changes.changed_since(commit, "experiments.mine") == []


def test_a_commit_that_is_not_there(clone):
    with pytest.raises(ValueError, match="a clone with its history is needed"):
        changes.changed_since("0" * 40, "experiments.mine")
