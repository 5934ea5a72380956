"""report.html: what a run came to, on one page that needs nothing beside it, and several runs on one page.

It is made from the files of the workdir alone: result.json for the figures, every picture that lies there, and the
files found*.json of `jaxnas.export.to_json` for the architectures. A result names its main figure in `headline` and
says in `verdict` what it comes to; both are told by the experiment, so that console, files and page say the same.
"""

import base64
import math
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jaxnas.codes import joined
from jaxnas.files import decode_json, read_file, replace_file
from jaxnas.runs.workdir import PROVENANCE, read_result

NAME = "report.html"
ENDS = ("_low", "_high")
OF_ARCHS = ("found", "worst", "retrained")  # how pictures of single architectures are called
# Of the provenance, what the page says elsewhere, or not at all.
TOLD = ("name", "preset", "config", "changed", "command", "versions", "run", "checksum")


class Figure(NamedTuple):
    """One entry of a result: a number with its interval, if it has one, or a text."""

    value: Any
    low: float | None = None
    high: float | None = None

    def __str__(self) -> str:
        if self.value is None:
            return "–"
        if isinstance(self.value, bool) or not isinstance(self.value, int | float):
            return str(self.value)
        text = shown(self.value)
        if self.low is not None and self.high is not None:
            text += f" [{shown(self.low)}, {shown(self.high)}]"
        return text


class Found(NamedTuple):
    """An architecture that a run names."""

    name: str
    code: str
    words: list[str]

    def __str__(self) -> str:
        return "\n  ".join([f"found{f' by {self.name}' if self.name else ''}: {self.code}", *self.words])


class Report(NamedTuple):
    """What a finished run's folder says."""

    workdir: Path
    result: Mapping[str, Any]
    figures: dict[str, Figure]  # all but provenance, headline and verdict
    found: list[Found]
    pictures: dict[str, str]  # name without suffix -> PNG in base64; those of single architectures last

    @property
    def headline(self) -> tuple[str, Figure] | None:
        """Name and value of the main figure."""
        name = self.result.get("headline")
        return (name, self.figures[name]) if name in self.figures else None

    @property
    def verdict(self) -> str | None:
        """What it comes to, in a sentence."""
        return self.result.get("verdict")

    @property
    def command(self) -> str:
        """What makes this run again."""
        return f"{self.result.get('command', '?')} --workdir {shlex.quote(str(self.workdir))}"

    @property
    def seeds(self) -> str:
        config = self.result.get("config", {})
        first, number = config.get("seed"), config.get("num_seeds", 1)
        if not isinstance(first, int) or not isinstance(number, int):
            return "?"
        return str(first) if number == 1 else f"{first} to {first + number - 1}"

    @property
    def changed(self) -> dict[str, tuple[Any, Any]]:
        """Settings that differ from the preset: name -> (value, the preset's)."""
        config = self.result.get("config", {})
        return {name: (config.get(name), preset) for name, preset in self.result.get("changed", {}).items()}

    @property
    def made_by(self) -> dict[str, Any]:
        """Device, seconds, commit, versions."""
        kept = {name: self.result[name] for name in PROVENANCE if name in self.result and name not in TOLD}
        return kept | {f"{name} version": version for name, version in self.result.get("versions", {}).items()}


def read_report(workdir: Path) -> Report:
    """Read the folder of a finished run.

    Raises:
      ValueError: no run's folder, one that is not finished, or a result that is damaged.
    """
    path = workdir / "result.json"
    if not path.exists():
        if (workdir / "config.json").exists():
            raise ValueError(f"{workdir}: not finished yet; the command that began it goes on with it.")
        raise ValueError(f"{workdir}: no workdir of a run, expected a folder with result.json in it.")
    result = read_result(path)
    named = {name: value for name, value in result.items() if name not in (*PROVENANCE, "headline", "verdict")}
    figures = {
        name: Figure(value, *(named.get(name + end) for end in ENDS))
        for name, value in named.items()
        if not any(name.endswith(end) and name.removesuffix(end) in named for end in ENDS)
    }
    ordered = sorted(workdir.glob("*.png"), key=lambda path: (path.stem.startswith(OF_ARCHS), path.stem))
    pictures = {path.stem: base64.b64encode(read_file(path)).decode() for path in ordered}
    return Report(workdir, result, figures, found_in(workdir), pictures)


def found_in(workdir: Path) -> list[Found]:
    """The architectures that a run names, by the names of its files."""
    return [entry for file in sorted(workdir.glob("found*.json")) for entry in _read_found(file)]


def write_report(workdir: Path) -> Path:
    """Write report.html into the folder of a finished run; errors as of `read_report`."""
    path = workdir / NAME
    replace_file(path, _render("report", run=read_report(workdir)))
    return path


def write_comparison(workdirs: Sequence[Path], path: Path) -> list[str]:
    """Write a page that sets several runs of one experiment side by side, and return what it leaves out, in words.

    Raises:
      ValueError: runs of different experiments, or fewer than two that are finished.
    """
    reports, left_out = [], []
    for workdir in dict.fromkeys(workdirs):
        try:
            reports.append(read_report(workdir))
        except ValueError as error:
            left_out.append(str(error))
    if len(reports) < 2:
        raise ValueError("; ".join(["fewer than two finished runs to compare", *left_out]).rstrip(".") + ".")
    of_names = {report.result["name"]: report.workdir for report in reports}
    if len(of_names) > 1:
        told = ", ".join(f"{workdir} is of {name}" for name, workdir in of_names.items())
        raise ValueError(f"{told}: figures of different experiments don't compare; give runs of one.")
    settings = [report.result.get("config", {}) for report in reports]
    differing = [name for name in settings[0] if len({repr(each.get(name)) for each in settings}) > 1]
    replace_file(
        path,
        _render(
            "comparison",
            runs=reports,
            left_out=left_out,
            settings={name: [each.get(name, "–") for each in settings] for name in differing},
            names=list(dict.fromkeys(name for report in reports for name in report.figures)),
            pictures=list(dict.fromkeys(name for report in reports for name in report.pictures)),
            bars=_bars([report.headline[1] if report.headline else None for report in reports]),
        ),
    )
    return left_out


def shown(value: float) -> str:
    """A number as the console and the pages have it: four digits, whole ones in full.

    >>> [shown(value) for value in (12345, 0.123456, 1.2e-7, 3.0)]
    ['12,345', '0.1235', '1.2e-07', '3']
    """
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def _read_found(path: Path) -> list[Found]:
    try:
        content = decode_json(read_file(path))
        code, words = joined(content["arch"]), content["figures"]["words"]
        return [Found(path.stem.removeprefix("found").strip("_").replace("_", " "), code, words.splitlines())]
    except (ValueError, KeyError, TypeError, AttributeError):
        return []  # a user's own file


def _bars(figures: Sequence[Figure | None]) -> list[dict[str, float] | None]:
    """Of the runs' main figures, where value and interval lie between the least and the greatest end, in per cent."""
    known = [end for figure in figures if figure for end in figure if isinstance(end, int | float)]
    low, high = min(known, default=0.0), max(known, default=1.0)
    span = (high - low) or 1.0

    def place(value: Any, otherwise: Any) -> float:
        value = value if isinstance(value, int | float) and math.isfinite(value) else otherwise
        return 4 + 92 * (value - low) / span

    return [
        None
        if figure is None or not isinstance(figure.value, int | float)
        else {name: place(getattr(figure, name), figure.value) for name in Figure._fields}
        for figure in figures
    ]


def _render(template: str, **values: Any) -> bytes:
    import jinja2  # not by whoever imports jaxnas.runs

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("jaxnas.runs", "pages"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["shown"] = lambda value: str(Figure(value))
    return environment.get_template(f"{template}.html").render(**values).encode()
