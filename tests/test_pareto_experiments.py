"""The experiments `pareto` and `pareto_compare`: what they leave, against a plain computation, and that a run which is
killed ends as one that was not."""

import csv
import importlib.util
import json
import shutil

import numpy as np
import pytest
from experiment_runs import SMALL, interrupt, refusal, remove, result_of, rows_of, start, struck, untimed

from jaxnas import export, ranking, tables
from jaxnas.codes import enumerate_archs, from_text
from jaxnas.costs import arch_costs
from jaxnas.spaces import SPACES
from jaxnas.supernets import make_supernet

pytestmark = [
    pytest.mark.usefixtures("no_data_dir"),
    pytest.mark.skipif(
        importlib.util.find_spec("pymoo") is None, reason="pymoo isn't installed: pip install 'jaxnas[pareto]'"
    ),
]
ARGV = ["tiny", "--no-progress", "--budget", "30"]
MACS = arch_costs(SMALL, enumerate_archs(SMALL)).macs
SEARCHED = ["tiny", "--space", "small", "--no-progress", "--limit", f"macs:{int(np.sort(MACS)[11])}"]


def undominated(points):
    """Of points (accuracy, cost), the ones that no other is better than."""
    return {
        (accuracy, cost)
        for accuracy, cost in points
        if not any(a >= accuracy and c <= cost and (a, c) != (accuracy, cost) for a, c in points)
    }


def area(points, accuracy, cost):
    """What points dominate of the box below `cost` and above `accuracy`, strip by strip."""
    total, inside = 0.0, sorted((c, a) for a, c in points if a > accuracy and c < cost)
    for place, (start_of, _) in enumerate(inside):
        end = inside[place + 1][0] if place + 1 < len(inside) else cost
        total += (end - start_of) * (max(a for _, a in inside[: place + 1]) - accuracy)
    return total


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("compared")
    start("pareto_compare", *ARGV, "--workdir", workdir)
    return workdir


@pytest.fixture(scope="module")
def searched(tmp_path_factory, truth):
    workdir = tmp_path_factory.mktemp("searched")
    start("pareto", *SEARCHED, "--data-dir", truth, "--workdir", workdir)
    return workdir


class TestCompare:
    def test_volumes_are_those_of_the_fronts(self, compared):
        space = SPACES["digits_chain"]
        archs = enumerate_archs(space)
        seeds = tables.lookup(tables.load_truth(space, "digits"), archs, "test_accuracy").astype(float)
        macs = arch_costs(space, archs).macs.astype(float)
        written, result = rows_of(compared / "fronts.csv"), result_of(compared)
        for column, accuracy in (("volume", seeds[:, 0]), ("test_volume", seeds[:, 1:].mean(axis=1))):
            points = list(zip(accuracy.tolist(), macs.tolist()))
            true = undominated(points)
            worst = float(np.median(accuracy)), max(cost for _, cost in true)
            for row in rows_of(compared / "volumes.csv"):
                if row["seed"] == "0":
                    codes = from_text(space, [each["arch"] for each in written if each["search"] == row["search"]])
                    places = [int(np.flatnonzero((archs == code).all(axis=1))[0]) for code in codes]
                    share = area([points[place] for place in places], *worst) / area(true, *worst)
                    assert float(row[column]) == pytest.approx(share, rel=1e-6) and share <= 1
            if column == "volume":
                found = [
                    (float(row["accuracy"]), float(row["macs"])) for row in written if row["search"] == "true front"
                ]
                assert {(round(a, 6), c) for a, c in found} == {(round(a, 6), c) for a, c in true}
                assert result["true_front_size"] == len(true)

    def test_differences_are_paired_by_seed(self, compared):
        rows, result = rows_of(compared / "volumes.csv"), result_of(compared)
        of = {name: [float(row["volume"]) for row in rows if row["search"] == name] for name in ("nsga2", "random")}
        wanted = ranking.estimate_mean(np.subtract(of["nsga2"], of["random"])).named("nsga2_minus_random")
        assert {name: result[name] for name in wanted} == pytest.approx(wanted, abs=1e-6)
        assert result["nsga2_distinct"] == 30 >= result["plain_nsga2_distinct"]
        assert result["verdict"].startswith("of the hypervolume of the true front nsga2 finds")

    def test_a_killed_comparison_ends_alike(self, compared, tmp_path):
        shutil.copytree(compared, tmp_path / "run")
        remove(tmp_path / "run", "result.json", "searches/plain_nsga2.json", "fronts.csv")
        start("pareto_compare", *ARGV, "--workdir", tmp_path / "run")
        assert untimed(result_of(tmp_path / "run")) == untimed(result_of(compared))
        assert (tmp_path / "run" / "fronts.csv").read_bytes() == (compared / "fronts.csv").read_bytes()

    def test_what_cannot_be_compared_is_said(self, tmp_path, capsys):
        for argv, words in (
            (["--searches", "nsga2"], "searches are nsga2, expected two or more, each once."),
            (["--costs", "watts"], "cost is 'watts', expected one of macs, params."),
            (["--limit", "macs:1"], "the table of digits_chain has no architecture that meets macs <= 1"),
        ):
            line = refusal(capsys, "pareto_compare", *ARGV, *argv, "--workdir", tmp_path / "run")
            assert words in line


@pytest.mark.slow("the front of a super-net, killed and resumed")
class TestPareto:
    def test_the_front_is_of_what_was_scored_and_comes_with_networks(self, searched, truth):
        rows, result = rows_of(searched / "front.csv"), result_of(searched)
        scored = [(float(row["score"]), float(row["macs"])) for row in rows_of(searched / "evaluated.csv")]
        assert len(scored) == result["evaluated_archs"] == 12 and max(cost for _, cost in scored) <= np.sort(MACS)[11]
        assert {(float(row["score"]), float(row["macs"])) for row in rows} == undominated(scored)
        supernet, table = make_supernet(SMALL), json.loads((searched / "front.json").read_text())
        for row, entry in zip(rows, table["front"], strict=True):
            found = export.load(searched / "front" / f"{row['arch']}.npz", supernet)
            (code,) = from_text(SMALL, [row["arch"]])
            np.testing.assert_array_equal(found.arch, code)
            np.testing.assert_array_equal(export.from_json(json.dumps(entry), SMALL), code)
        with (searched / "seed0" / "search.csv").open() as file:
            steps = [int(row["step"]) for row in csv.DictReader(file)]
        assert steps == [4, 8, 12]

    def test_a_killed_search_ends_alike(self, searched, truth, tmp_path):
        argv = (*SEARCHED, "--data-dir", truth, "--workdir", tmp_path / "run")
        for place in ("search/000004.npz", "front.csv", "front.json"):
            with struck(place, interrupt), pytest.raises(SystemExit):
                start("pareto", *argv)
        start("pareto", *argv)
        assert untimed(result_of(tmp_path / "run")) == untimed(result_of(searched))
        for file in ("front.csv", "front.json", "evaluated.csv", "seed0/search.csv"):
            assert (tmp_path / "run" / file).read_bytes() == (searched / file).read_bytes()
