"""What the pictures and the console of experiments say: counts, labels, ends of curves. No training."""

from types import SimpleNamespace

import numpy as np
import pytest

from experiments import landmark, pcnas, search_compare, supernet_factors
from experiments.shared import pictures, searching
from jaxnas import plotting, ranking, runs, tables
from jaxnas.codes import enumerate_archs
from jaxnas.costs import limits
from jaxnas.search import regions
from jaxnas.spaces import digits_chain

ARCHS = enumerate_archs(digits_chain)[:40]
TRUTH = tables.load_truth(digits_chain, "digits")
TEST = ranking.mean_truth(tables.lookup(TRUTH, ARCHS, "test_accuracy"))
SCORES = TEST + np.random.default_rng(0).normal(size=(3, 40)) / 20  # [num_seeds, num_archs]


@pytest.fixture
def saved(monkeypatch):
    """Pictures by name, in place of files."""
    figures = {}
    monkeypatch.setattr(plotting, "save_figure", lambda figure, path: figures.update({path.name: figure}))
    return figures


def title(figure) -> str:
    return figure.axes[0].get_title("left") or figure.get_suptitle()


def legend(figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def report_of(scores):
    return ranking.report(scores, TEST, macs=np.arange(40))


@pytest.mark.parametrize(
    ("num_seeds", "num_snapshots", "which"),
    [
        (1, 1, "1 super-net"),
        (3, 1, "mean score of 3 super-nets"),
        (1, 8, "mean score of 1 super-net at 8 moments of its training"),
        (3, 2, "mean score of 3 super-nets at 2 moments of their training"),
    ],
)
def test_scatter_says_of_how_many_supernets(saved, tmp_path, num_seeds, num_snapshots, which):
    scores = SCORES[:num_seeds]
    pictures.draw_scatter(tmp_path, "name", scores, TEST, np.arange(40), report_of(scores), num_snapshots)
    (axes, _) = saved["scatter.png"].axes
    assert axes.get_title("left").startswith(f"name, {which}\n")
    tau = report_of(scores).kendall_tau  # the headline of the console, of result.json and of the page
    told = " ".join(axes.get_title("left").split())
    assert f"Kendall's τ = {tau.value:.3f}" in told and f"[{tau.low:.3f}, {tau.high:.3f}]" in told
    assert ("interval over super-nets and" in told) == (num_seeds > 1)
    assert axes.get_xlabel().startswith("mean ") == (which != "1 super-net")
    assert len(axes.collections[0].get_offsets()) == 40


def test_the_first_picture_says_how_far_the_training_is(saved, tmp_path, capsys):
    scores = SimpleNamespace(loss=-SCORES[0])
    pictures.draw_so_far(tmp_path, 600, "name", digits_chain, TRUTH, 150, ARCHS, scores)
    (axes, _) = saved["scatter.png"].axes
    told = " ".join(axes.get_title("left").split())
    assert told.startswith("name, half-trained: 150 of 600 steps")
    assert f"Kendall's τ = {ranking.kendall_tau(SCORES[0], TEST):.3f}" in told
    np.testing.assert_allclose(sorted(axes.collections[0].get_offsets()[:, 1]), sorted(TEST))
    assert f"after 150 steps: {tmp_path / 'scatter.png'} shows" in capsys.readouterr().out


def test_training_picture_has_every_supernet(saved, tmp_path):
    """The second super-net lacks a row, as after a report that was lost."""
    rows = [[{"step": 10 * n, "loss": n + seed, "accuracy": 0.1 * n} for n in range(1, 4)] for seed in range(2)]
    pictures.draw_training(tmp_path, "name", [rows[0], rows[1][::2]])
    figure = saved["training.png"]
    assert title(figure) == "Training of 2 super-nets, name"
    first, second, mean = (line.get_xydata().tolist() for line in figure.axes[0].lines)
    assert (first, second) == ([[10, 1], [20, 2], [30, 3]], [[10, 2], [30, 4]])
    np.testing.assert_allclose(mean, [[10, 1.5], [30, 3.5]])


def test_tau_over_training_is_of_all_supernets_and_ends_at_the_headline(saved, tmp_path):
    few = slice(0, 40, 4)
    curves = [
        {
            step: tables.make_table(
                digits_chain, ARCHS[few], {"loss": -step * row[few]}, units={"loss": "nats"}, provenance={}
            )
            for step in (150, 300)
        }
        for row in SCORES
    ]
    del curves[1][300]  # damaged, and deleted as the error said
    report = report_of(SCORES)
    pictures.draw_curve(tmp_path, 600, "name", curves, SCORES, TEST, report, TRUTH)
    figure = saved["tau_over_training.png"]
    assert title(figure) == "Ranking over training, name, 40 architectures\nbefore the last point 10 of them"
    *each, mean = figure.axes[0].lines[:4]
    assert mean.get_xdata().tolist() == [150, 600]
    np.testing.assert_allclose(mean.get_ydata(), np.mean([line.get_ydata() for line in each], axis=0))
    assert mean.get_ydata()[-1] == pytest.approx(report.kendall_tau.value)
    (whiskers,) = figure.axes[0].collections[1:]
    assert whiskers.get_segments()[-1][:, 1] == pytest.approx([report.kendall_tau.low, report.kendall_tau.high])
    assert legend(figure)[:2] == ["each super-net", "mean of 3 super-nets, 95 % interval over them and architectures"]
    pictures.draw_curve(tmp_path, 600, "name", [{}], SCORES[:1], TEST, report_of(SCORES[:1]), TRUTH)
    assert title(saved["tau_over_training.png"]) == "Ranking over training, name, 40 architectures"
    assert legend(saved["tau_over_training.png"])[0] == "one super-net, 95 % interval over architectures"


def test_variants_say_what_each_is(saved, tmp_path):
    scores = dict.fromkeys(landmark.VARIANTS, SCORES)
    figures = landmark.compare(scores, TEST, np.arange(40))
    landmark.draw(tmp_path, "name, 1 landmark", scores, TEST, figures)
    figure = saved["variants.png"]
    assert (
        title(figure)
        == "name, 1 landmark, τ over 40 other architectures\nlandmark less baseline +0.000 [+0.000, +0.000]"
    )
    labels = [" ".join(text.get_text().split()) for text in figure.axes[0].get_xticklabels()]
    assert labels[3] == "equal budget: baseline + predictor on the landmarks"
    assert legend(figure)[0] == "one seed" and legend(figure)[2].startswith("MACs only")


def task_of(limit: str):
    region = regions.Region(digits_chain, limits.parse(limit, digits_chain))
    return SimpleNamespace(search=SimpleNamespace(region=region), space=digits_chain)


def step_of(share_left: float) -> searching.Step:
    candidates = [[2, -1, -1, -1, -1], [1, -1, -1, -1, -1]]
    return searching.Step(
        candidates=candidates, potentials=[0.9, 0.8], pool=candidates[:1], pool_potentials=[0.9], num_scored=4,
        best=[[2, 1, 1, 1, 1]], share_left=share_left, seconds=1.0,
    )  # fmt: skip


@pytest.mark.parametrize(("share", "text"), [(1.0, "100 %"), (0.472, "47 %"), (4e-7, "<0.1 %"), (0.99999, ">99.9 %")])
def test_pcnas_prints_the_share_that_is_left(capsys, share, text):
    step = step_of(share)
    state = SimpleNamespace(pool=np.array(step.pool), potentials=np.array(step.pool_potentials))
    searching.report(task_of("macs:50e3"), state, step)
    assert capsys.readouterr().out == f"1 of 2 candidates kept: 2-?-?-?-? 0.900; {text} of the space left\n"


@pytest.mark.parametrize(("num_seeds", "which"), [(1, "seed 7"), (3, "seed 7, one of 3 searches")])
def test_pool_says_of_which_search(saved, tmp_path, num_seeds, which):
    config = runs.replace(pcnas.PRESETS["tiny"], seed=7, num_seeds=num_seeds)
    pcnas.draw(config, task_of("macs:5696"), tmp_path, [step_of(0.5)], "it finds little")
    expected = f"PC-NAS on digits_chain, digits, {which}\n1 feasible architecture, macs <= 5696\nit finds little"
    assert title(saved["pool.png"]) == expected


def test_regret_picture_takes_intervals_as_they_are(saved, tmp_path):
    """Of two seeds with regrets 1 and 3 points: Student's interval is 2 +- 12.7 points."""
    curves = [{"pcnas": [(10, 0.05), (20, regret)], "random": [(15, regret)]} for regret in (0.01, 0.03)]
    config = search_compare.PRESETS["tiny"]
    search_compare.draw(config, task_of("macs:50e3"), tmp_path, curves, {"by lot": 0.02}, "ends alike")
    figure = saved["regret.png"]
    assert figure.axes[0].get_title("left") == "pcnas: 2.00 [-10.71, 14.71]"
    assert figure.get_suptitle().splitlines()[0] == "Searches on digits_chain, digits, macs <= 50000, 2 seeds"
    assert figure.get_suptitle().splitlines()[1] == "ends alike"
    assert figure.get_suptitle().endswith("bands reach up to 15 points, beyond the picture")


def test_forest_counts_the_seeds_and_names_what_is_missing(saved, tmp_path):
    def outcome(scores):
        return supernet_factors.Outcome(-scores, np.ones(40), 1.0)

    base = [outcome(scores) for scores in SCORES]
    outcomes = {"base": base, "one=1": base[::-1], "some=1": [None, *base[1:]], "none=1": [None] * 3}
    config = supernet_factors.PRESETS["tiny"]
    rows = [supernet_factors.compare(config, name, outcomes, TEST) for name in outcomes]
    supernet_factors.draw(tmp_path, "name", rows, outcomes, TEST)
    figure = saved["forest.png"]
    (axes,) = figure.axes
    assert [text.get_text() for text in axes.get_yticklabels()] == ["one=1", "some=1\n(2 of 3 seeds)"]
    drawn = [len(line.get_xdata()) for line in axes.lines if line.get_marker() == "|" and len(line.get_xdata())]
    assert drawn == [3, 2]
    assert figure.get_suptitle().splitlines()[-1] == "not drawn, as no pair of seeds was finite: none=1"
