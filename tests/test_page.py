"""report.html and the page that compares runs: from the files of workdirs that are written here by hand."""

import html.parser
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from experiments.__main__ import main
from jaxnas import export
from jaxnas.files import checksum
from jaxnas.runs.page import Figure, read_report, write_comparison, write_report
from jaxnas.spaces import get_space

ROOT = Path(__file__).parents[1]
SPACE = get_space("digits_chain")
FIGURES = {
    "verdict": "ranks better than <guessing> by 0.06 [0.00, 0.11]",
    "headline": "kendall_tau",
    "kendall_tau": 0.534,
    "kendall_tau_low": 0.45,
    "kendall_tau_high": 0.61,
    "num_archs": 12345,
    "missing": None,
}


class Page(html.parser.HTMLParser):
    """What a browser without JavaScript shows: texts, and the addresses of all that it would load."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.texts, self.addresses, self.tags, self.open = list[str](), list[str](), list[str](), list[str]()
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.addresses += [value for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "br", "wbr", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag  # each is closed, in order
        self.texts.append(" " if tag in ("td", "th") else "")

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)

    def handle_data(self, data):
        self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self.texts).split())


def page_of(path: Path) -> Page:
    return Page(path.read_text(encoding="utf-8"))


def finished(workdir: Path, *, name: str = "dummy", figures=FIGURES, changed=None, **config) -> Path:
    """A workdir as a finished run leaves it."""
    workdir.mkdir()
    config = {"seed": 3, "num_seeds": 2, "rate": 0.1, **config}
    result = {
        "name": name, "preset": "quick", **figures, "command": f"python -m experiments.{name} quick",
        "changed": {} if changed is None else changed, "seconds": 1.5, "device": "cpu",
        "versions": {"jax": "9.9.9"}, "config": config, "run": "0" * 16,
    }  # fmt: skip
    (workdir / "result.json").write_text(json.dumps(result | {"checksum": checksum(result)}))
    (workdir / "config.json").write_text(json.dumps({"name": name, "preset": "quick", "config": config}))
    Image.fromarray(np.zeros((2, 3, 3), np.uint8)).save(workdir / "scatter.png")
    return workdir


def half_finished(workdir: Path) -> Path:
    finished(workdir)
    (workdir / "result.json").unlink()
    return workdir


def refusal(capsys, *argv: object) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main(["report", *map(str, argv)])
    assert stop.value.code == 2
    line = capsys.readouterr().err.strip()
    assert line.startswith("jaxnas report: ") and "\n" not in line
    return line


def test_a_page_needs_nothing_beside_it(tmp_path):
    page = page_of(write_report(finished(tmp_path / "run")))
    assert page.open == [] and "script" not in page.tags and "link" not in page.tags
    assert len(page.addresses) == 1 and page.addresses[0].startswith("data:image/png;base64,")
    assert "viewport" in (tmp_path / "run" / "report.html").read_text()  # or a phone shows it tiny


def test_a_page_tells_the_verdict_the_figures_and_what_made_them(tmp_path):
    workdir = finished(tmp_path / "my run", changed={"rate": 0.5})
    text = page_of(write_report(workdir)).text
    assert "ranks better than <guessing> by 0.06 [0.00, 0.11]" in text
    assert "0.534 [0.45, 0.61] kendall_tau, 95 % interval in brackets" in text
    assert "num_archs 12,345" in text and "missing –" in text and "kendall_tau_low" not in text
    assert "rate 0.1 0.5" in text  # here, and in the preset
    assert f"python -m experiments.dummy quick --workdir '{workdir}'" in text
    assert "seeds 3 to 4" in text and "jax version 9.9.9" in text and "device cpu" in text


def test_a_page_names_what_was_found(tmp_path):
    workdir = finished(tmp_path / "run")
    arch = np.array([1, 1, 0, 2, 1])
    words = export.in_words(SPACE, arch, accuracy=0.9)
    (workdir / "found_spos.json").write_text(export.to_json(SPACE, arch, {"words": words}))
    (workdir / "found_notes.json").write_text("[1, 2]")  # a user's own
    text = page_of(write_report(workdir)).text
    assert "spos: 1-1-0-2-1" in text and "layers 1-2 mb2_k3, layer 3 identity" in text and "notes" not in text


def test_a_figure_without_an_interval_stands_alone():
    assert str(Figure(0.5)) == "0.5" and str(Figure(7, None, None)) == "7" and str(Figure("x")) == "x"
    assert str(Figure(0.5, 0.25, 0.75)) == "0.5 [0.25, 0.75]" and str(Figure(True)) == "True"


def test_a_damaged_result_is_named(tmp_path, capsys):
    workdir = finished(tmp_path / "run")
    (workdir / "result.json").write_text((workdir / "result.json").read_text().replace("0.534", "0.634"))
    assert "damaged, edited or no result; delete it" in refusal(capsys, workdir)
    assert not (workdir / "report.html").exists()


@pytest.mark.parametrize(("make", "words"), [(half_finished, "not finished yet"), (Path.mkdir, "no workdir of a run")])
def test_no_page_of_what_is_not_finished(tmp_path, capsys, make, words):
    make(tmp_path / "run")
    assert words in refusal(capsys, tmp_path / "run")


def test_runs_of_one_experiment_are_compared(tmp_path, capsys):
    first = finished(tmp_path / "first", rate=0.1)
    second = finished(tmp_path / "second", rate=0.2, figures={**FIGURES, "kendall_tau": 0.6, "only_here": 1})
    page = tmp_path / "both.html"
    main(["report", str(first), str(second), "--output", str(page)])
    assert capsys.readouterr().out.split()[-1] == str(page)
    shown = page_of(page)
    assert shown.open == [] and "script" not in shown.tags
    assert all(address.startswith("data:image/png;base64,") for address in shown.addresses)
    assert len(shown.addresses) == 2 and shown.tags.count("circle") == 2
    assert "rate 0.1 0.2" in shown.text and "num_seeds 2 2" not in shown.text  # only settings that differ
    assert "only_here – 1" in shown.text and "kendall_tau 0.534 [0.45, 0.61] 0.6 [0.45, 0.61]" in shown.text


def test_a_half_finished_run_is_left_out_and_named(tmp_path, capsys):
    runs = [finished(tmp_path / "a"), finished(tmp_path / "b"), half_finished(tmp_path / "c")]
    main(["report", *map(str, runs), "--output", str(tmp_path / "page.html")])
    said = capsys.readouterr().err.strip()
    assert said.startswith(f"jaxnas report: left out: {tmp_path / 'c'}: not finished yet") and "\n" not in said
    assert "Left out:" in page_of(tmp_path / "page.html").text


def test_what_cannot_be_compared_is_one_line(tmp_path, capsys):
    first, other = finished(tmp_path / "a"), finished(tmp_path / "b", name="pcnas")
    line = refusal(capsys, first, other, "--output", tmp_path / "page.html")
    assert f"{first} is of dummy, {other} is of pcnas" in line and "different experiments" in line
    line = refusal(capsys, first, half_finished(tmp_path / "c"), "--output", tmp_path / "page.html")
    assert "fewer than two finished runs" in line and "not finished yet" in line
    assert "which workdir" in refusal(capsys)
    assert "--outptu" in refusal(capsys, first, "--outptu", "x")
    assert not (tmp_path / "page.html").exists()


def test_equal_figures_have_bars_in_the_middle_of_nothing(tmp_path):
    plain = {"headline": "tau", "tau": 0.5}
    runs = [finished(tmp_path / name, figures=plain) for name in "ab"]
    write_comparison(runs, tmp_path / "page.html")  # no interval, and no spread to divide by
    places = re.findall(r'cx="([\d.]+)%"', (tmp_path / "page.html").read_text())
    assert len(places) == 2 and all(0 <= float(place) <= 100 for place in places)


def test_reading_costs_no_template_engine():
    code = "import sys, jaxnas.runs.command; print('jinja2' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_a_report_is_read_as_it_was_written(tmp_path):
    report = read_report(finished(tmp_path / "run"))
    assert report.headline == ("kendall_tau", Figure(0.534, 0.45, 0.61))
    assert "verdict" not in report.figures and "device" not in report.figures
