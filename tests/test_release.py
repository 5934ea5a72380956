"""release.sh: on a copy of the sources in a repository of its own, and each reason for which it stops."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
OURS = ("release.sh", "pyproject.toml", "setup.py", "README.md", "LICENSE", "CHANGELOG.md", "CITATION.cff")
NEWEST = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)[1]


def run(*command: str, cwd: Path, **options) -> subprocess.CompletedProcess:
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, **options)


@pytest.fixture
def clone(tmp_path) -> Path:
    for name in OURS:
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "jaxnas").mkdir()
    shutil.copy(ROOT / "jaxnas" / "__init__.py", tmp_path / "jaxnas")
    (tmp_path / ".gitignore").write_text("dist/\nbuild/\n*.egg-info/\n")
    for command in (
        "init -q", "config user.name Me", "config user.email me@example.org", "add .", "commit -q -m sources"
    ):  # fmt: skip
        assert run("git", *command.split(), cwd=tmp_path).returncode == 0
    return tmp_path


def mess_up(clone: Path, how: str) -> None:
    if how == "a change":
        (clone / "README.md").write_text("changed")
    elif how == "a tag":
        run("git", "tag", f"v{NEWEST}", cwd=clone)


@pytest.mark.parametrize(
    ("version", "how", "words"),
    [
        ("", "", "which version? ./release.sh 0.2.0"),
        ("1.0", "", "which version?"),
        ("99.0.0", "", f"CHANGELOG.md begins with '{NEWEST} (not yet released)', expected '99.0.0 (not yet"),
        (NEWEST, "a change", "the checkout has changes"),
        (NEWEST, "a tag", f"there is a tag v{NEWEST} already"),
    ],
)
def test_it_stops_in_one_line(clone, version, how, words):
    mess_up(clone, how)
    before = run("git", "status", "--porcelain", cwd=clone).stdout
    done = run("./release.sh", version, cwd=clone)
    assert done.returncode == 2 and words in done.stderr and done.stderr.count("\n") == 1
    assert run("git", "status", "--porcelain", cwd=clone).stdout == before


@pytest.mark.slow("a wheel is built")
def test_a_release_is_dated_built_and_tagged(clone, monkeypatch):
    monkeypatch.setenv("RELEASE_WITHOUT_TRIAL", "1")  # the trial is test_wheel.py
    done = run("./release.sh", NEWEST, cwd=clone)
    assert done.returncode == 0, done.stderr
    assert (clone / "dist" / f"jaxnas-{NEWEST}-py3-none-any.whl").exists()
    assert re.search(rf"^## {NEWEST} \(\d{{4}}-\d\d-\d\d\)$", (clone / "CHANGELOG.md").read_text(), re.MULTILINE)
    citation = (clone / "CITATION.cff").read_text()
    assert f"\nversion: {NEWEST}\n" in citation and citation.count("date-released: ") == 1
    assert run("git", "tag", cwd=clone).stdout.split() == [f"v{NEWEST}"]
    assert run("git", "status", "--porcelain", cwd=clone).stdout == ""


def test_the_citation_is_of_this_version():
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    version = re.search(r'^__version__ = "(.+)"', (ROOT / "jaxnas" / "__init__.py").read_text(), re.MULTILINE)[1]
    assert re.search(r"^version: (.+)$", citation, re.MULTILINE)[1] == version
    for field in ("cff-version", "message", "title", "authors", "license", "repository-code"):
        assert re.search(rf"^{field}: ?", citation, re.MULTILINE)


def test_the_workflow_runs_every_lane():
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "tests.yml").read_text())["jobs"]
    lanes = {entry["lane"]: entry["python"] for entry in jobs["lanes"]["strategy"]["matrix"]["include"]}
    files = {path.stem: path.read_text() for path in (ROOT / "constraints").glob("*.txt")}
    assert lanes == {name: re.match(r"# Python ([\d.]+):", text)[1] for name, text in files.items()}
    assert any("./lanes.sh" in step.get("run", "") for step in jobs["lanes"]["steps"])
    assert "windows-latest" in json.dumps(jobs["systems"]) and "macos-latest" in json.dumps(jobs["systems"])
