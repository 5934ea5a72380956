"""The experiment `label_budget`: features of graphs and figures by hand, halves of a space, kills."""

import jax
import numpy as np
import pytest
import scipy.stats
from experiment_runs import SMALL, interrupt, refusal, result_of, rows_of, start, struck, untimed

from experiments.shared.components import components_of, known_of, loadings_of, tell_components
from experiments.shared.labelling import CODES, Population, far_apart, figures_of, judged, of_network, predicted
from experiments.shared.problem import evaluation_archs
from jaxnas import costs, make_supernet, ranking, tables
from jaxnas.codes import enumerate_archs, sample
from jaxnas.spaces import digits_chain, nasbench201, nasbench_macro
from jaxnas.spaces._nasbench101 import nasbench101_space

RNG = np.random.default_rng(0)


def population(archs, accuracy, network=None, **known):
    others = {"macs": RNG.random(len(archs)), "graph": np.zeros((len(archs), 1)), "seeds": None, "choose_by": None}
    same = np.atleast_2d(np.arange(len(archs)) if network is None else network)
    return Population(archs=archs, accuracy=accuracy, network=same, **others | known)


@pytest.mark.parametrize(
    ("space", "same"),
    [
        pytest.param(nasbench201, [[3, 3, 0, 2, 0, 0], [1, 3, 0, 2, 0, 0]], id="node 1 leads nowhere"),
        pytest.param(nasbench_macro, [[1, 1, 2, 1, 0, 1, 1, 1], [1, 1, 2, 0, 1, 1, 1, 1]], id="identity is moved"),
    ],
)
def test_what_the_output_does_not_depend_on_tells_nothing(space, same):
    known = of_network(space, np.concatenate([same, sample(jax.random.key(0), space, 5)]))
    for column in (known["archs"], known["macs"], known["features"][0]):
        np.testing.assert_array_equal(column[0], column[1])
    assert not np.array_equal(known["features"][0][0], known["features"][0][2])


def test_macs_are_those_of_what_the_output_depends_on():
    """A 1x1 convolution from the input to the output, alone, and beside 3x3 ones out of and into a dead end; and a cell
    of no edge, alone and with a 3x3 convolution of nothing."""
    archs = np.array([[0, 0, 0, 2, 0, 0], [3, 0, 0, 2, 0, 0], [0, 0, 0, 2, 3, 3], [0] * 6, [0, 0, 0, 0, 3, 3]])
    macs, counted = of_network(nasbench201, archs)["macs"], costs.arch_costs(nasbench201, archs).macs
    np.testing.assert_array_equal(macs, counted[[0, 0, 0, 3, 3]])
    assert len(np.unique(counted)) == 5


def test_the_same_network_as_a_labelled_one_is_not_judged():
    archs, accuracy = np.arange(24)[:, None], np.linspace(0, 1, 24)
    ranks = accuracy.copy()
    ranks[[0, 23]] = ranks[[23, 0]]  # wrong, and both the network that is known
    network = np.arange(24)
    network[[0, 23]] = 5
    found = judged(population(archs, accuracy, network=network), ranks, np.array([5]))
    assert found["tau"] == pytest.approx(1) and found["regret"] == 0 and np.isnan(found["top_decile_tau"])
    whole = judged(population(archs, accuracy), ranks, np.array([5]))
    assert whole["tau"] < 1 and whole["regret"] == pytest.approx(1 / 23)  # the best is ranked last
    seeds = np.stack([accuracy, accuracy], axis=1)
    assert judged(population(archs, accuracy, seeds=seeds), accuracy, np.array([5]))["top_decile_tau"] == 1
    assert np.isnan(judged(population(archs[:9], accuracy[:9]), ranks[:9], np.array([5]))["tau"])


def test_labels_that_are_all_tied_are_as_good_as_none():
    people = population(enumerate_archs(SMALL), np.full(16, 0.5))
    np.testing.assert_array_equal(predicted(people, {}, np.arange(5)).ranks, predicted(people, {}, np.arange(0)).ranks)


def test_far_apart():
    features = np.array([[0.1], [5.0], [-4.0], [5.1], [2.0]])
    assert far_apart(features, 4).tolist() == [0, 3, 2, 4]  # the middle; 5.0 away; 4.1 away; 2 is 1.9 from the first
    assert sorted(far_apart(features, 9).tolist()) == [0, 1, 2, 3, 4]


def test_labels_saved_are_read_off_the_curve_of_the_codes():
    """Codes need 30 labels for what fingerprints reach with 10 in one super-net, and never reach that of the other."""
    taus = {"code_process": (0.1, 0.4, 0.6), "code_graph": (0.2, 0.3, 0.5), "code_boosting": (0.0, 0.1, 0.2)}
    budgets, rows = [0, 10, 30], []
    for seed, at_ten in ((0, 0.6), (1, 0.7)):
        for method, curve in {**taus, "fingerprint": (0.3, at_ten, 0.9), "macs": (0.1,)}.items():
            rows += [
                {"seed": seed, "method": method, "labels": number, "draw": draw, "tau": tau + jitter, "regret": 0.1}
                for number, tau in zip(budgets, curve)
                for draw, jitter in enumerate((-0.01, 0.01))
            ]
    figures = figures_of(rows, budgets)
    assert figures["tau_code_0"] == pytest.approx(0.2) and figures["tau_code_10"] == pytest.approx(0.4)
    assert figures["tau_fingerprint_10"] == pytest.approx(0.65)
    reach = 12.706 * 0.05  # Student's 97.5 % quantile with one degree of freedom, times the standard error
    assert figures["tau_fingerprint_10_low"] == pytest.approx(0.65 - reach, abs=1e-3)
    assert figures["labels_saved_10"] == pytest.approx(3) and figures["labels_saved_10_is_least"] is True
    assert figures["fingerprint_over_code_10"] == pytest.approx(0.25)
    assert figures["no_labels_over_macs"] == pytest.approx(0.2) and figures["regret_code_30"] == pytest.approx(0.1)


def test_components_are_told_apart_by_where_they_go(tmp_path):
    """Quality, which is better on every image; and the size of logits, which is better where the label is likely and
    worse where it isn't, on as many images, of twice the variance: the first component is size."""
    rng = np.random.default_rng(3)
    quality, size = rng.normal(size=(2, 50))
    by_size = np.tile([1.4, -1.4], 40)
    logs = -quality[:, None] - size[:, None] * by_size + rng.normal(size=80) + 0.1 * rng.normal(size=(50, 80))
    known = dict.fromkeys(("test_accuracy", "macs", "params", "with_params"), quality)
    rows = components_of(np.exp(logs)[None], known, 7)
    first, second = rows[:2]
    assert (first["seed"], first["component"], len(rows)) == (7, 1, 4) and first["share"] > second["share"] > 0.2
    assert first["same_way"] < 0.6 and second["same_way"] == 1
    assert abs(first["tau_macs"]) < 0.3 and second["tau_macs"] > 0.8 and second["tau_mean_loss"] > 0.5
    losses = np.exp(logs)
    losses[:, 5] = 1 / losses[:, 5]  # a wrong label
    of_images = loadings_of(losses[None], np.arange(80) % 10, quality, 7)
    assert [row["label"] for row in of_images[:11]] == [*range(10), 0]
    assert min(of_images, key=lambda row: row["truth_loading"])["image"] == 5
    np.testing.assert_allclose([row["mean_loss"] for row in of_images], losses.mean(axis=0))
    figures = tell_components(rows, of_images, np.zeros((80, 8, 8, 1), np.uint8), tmp_path, "planted")
    assert len(rows_of(tmp_path / "images.csv")) == 80 and (tmp_path / "images.png").stat().st_size > 10_000
    assert figures["tau_component_2"] == pytest.approx(second["tau_test_accuracy"])
    assert len(rows_of(tmp_path / "components.csv")) == 4 and (tmp_path / "components.png").stat().st_size > 10_000


def test_operations_with_parameters_are_counted():
    archs = np.array([[0, 1, 2, 3, 4, 0], [2, 3, 2, 3, 2, 3], [0] * 6])  # none, skip, two convolutions, pooling
    people = population(archs, np.arange(3.0))
    known = known_of(nasbench201, make_supernet(nasbench201), people)
    assert known["with_params"].tolist() == [2, 6, 0] and known["params"].argmax() == 1


@pytest.mark.parametrize("space", [digits_chain, SMALL])
@pytest.mark.parametrize("number", [None, 6])
def test_halves_of_a_space_have_nothing_in_common(space, number):
    truth = tables.make_table(space, enumerate_archs(space), {}, units={}, provenance={})
    halves = [evaluation_archs(space, number, truth, half=half) for half in ("develop", "claim")]
    codes = {tuple(code) for half in halves for code in half.tolist()}
    assert len(codes) == sum(map(len, halves)) == (space.size if number is None else 12)


@pytest.mark.parametrize("number, wanted", [(None, 7), (3, 3), (50, 7)])
def test_of_a_table_of_a_part_of_a_space_nothing_else_is_asked_for(number, wanted):
    some = enumerate_archs(digits_chain)[[200, 3, 7, 11, 240, 100, 30]]
    truth = tables.make_table(digits_chain, some, {}, units={}, provenance={})
    archs = evaluation_archs(digits_chain, number, truth)
    assert len({tuple(code) for code in archs.tolist()} & {tuple(code) for code in some.tolist()}) == wanted
    halves = [evaluation_archs(digits_chain, number, truth, half=half) for half in ("develop", "claim")]
    assert len(np.unique(np.concatenate(halves), axis=0)) == sum(map(len, halves)) == (6 if number == 3 else 7)


@pytest.mark.parametrize("number", [None, 5, 1000])
def test_of_a_table_of_cells_each_network_is_asked_for_once(number):
    """NAS-Bench-101's, of which many codes are one cell."""
    space = nasbench101_space(4)
    codes = enumerate_archs(space)
    codes = codes[space.is_valid(codes)][::37]
    truth = tables.make_table(space, codes, {}, units={}, provenance={})
    archs = evaluation_archs(space, number, truth)
    cells = {tuple(code) for code in space.isomorphs(codes).tolist()}
    found = [tuple(code) for code in space.isomorphs(archs).tolist()]
    assert len(cells) < len(codes) and set(found) <= cells and len(set(found)) == len(found)
    assert len(found) == (5 if number == 5 else len(cells))
    assert {tuple(code) for code in archs.tolist()} <= {tuple(code) for code in codes.tolist()}


def test_refuses(capsys, tmp_path):
    line = refusal(capsys, "label_budget", "tiny", "--budgets", "-3", "--no-progress", "--workdir", tmp_path / "run")
    assert "budgets is -3, expected 0" in line
    line = refusal(
        capsys, "label_budget", "tiny", "--budgets", "5", "9", "--no-progress", "--workdir", tmp_path / "run"
    )
    assert "budgets are (5, 9), expected 0 and then" in line
    line = refusal(capsys, "label_budget", "tiny", "--num-seeds", "1", "--no-progress", "--workdir", tmp_path / "run")
    assert "num_seeds is 1, expected" in line


def test_codes_alone_train_nothing(tmp_path):
    start("label_budget", "tiny", "--num-seeds", "0", "--budgets", "0", "6", "--no-progress", "--workdir", tmp_path)
    result, rows = result_of(tmp_path), rows_of(tmp_path / "draws.csv")
    truth = tables.load_truth(digits_chain, "digits")
    archs = evaluation_archs(digits_chain, 40, truth)
    accuracy = tables.lookup(truth, archs, "test_accuracy").mean(axis=1)
    expected = scipy.stats.kendalltau(costs.arch_costs(digits_chain, archs).macs, accuracy).statistic
    assert result["tau_macs_0"] == pytest.approx(expected) and result["num_archs"] == 40
    taus = [np.mean([float(row["tau"]) for row in rows if (row["method"], row["labels"]) == (m, "6")]) for m in CODES]
    assert result["tau_code_6"] == pytest.approx(max(taus)) and not list(tmp_path.glob("seed*"))
    assert "labels_saved_6" not in result


@pytest.mark.slow("trains two super-nets twice, struck between them and within")
def test_figures_and_kills(tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    argv = ["label_budget", "tiny", "--no-progress", "--workdir"]
    start(*argv, whole)
    for place in ("seed0/step3/scores_000020.npz", "seed0/taus.json", "seed1/step0/scores_000000.npz", "draws.csv"):
        with pytest.raises(SystemExit), struck(place, interrupt):
            start(*argv, broken)
    start(*argv, broken)
    result, rows = result_of(whole), rows_of(whole / "draws.csv")
    assert untimed(result_of(broken)) == untimed(result) and rows_of(broken / "draws.csv") == rows
    of_seeds = [
        np.mean(
            [float(row["tau"]) for row in rows if (row["seed"], row["method"], row["labels"]) == (seed, method, "5")]
        )
        for seed in ("0", "1")
        for method in ("fingerprint",)
    ]
    assert result["tau_fingerprint_5"] == pytest.approx(np.mean(of_seeds), rel=1e-6)
    blocks = [sorted(whole.glob(f"seed{seed}/step{step}/scores_*.npz")) for seed in (0, 1) for step in (3, 6)]
    losses = [np.concatenate([np.load(path)["image_loss"] for path in paths]) for paths in blocks]
    truth = tables.load_truth(digits_chain, "digits")
    accuracy = tables.lookup(truth, evaluation_archs(digits_chain, 40, truth), "test_accuracy").mean(axis=1)
    expected = scipy.stats.kendalltau(-np.concatenate(losses, axis=1).mean(axis=1), accuracy).statistic
    assert result["tau_all_mean_loss_0"] == pytest.approx(expected, rel=1e-6)
    expected = scipy.stats.kendalltau(ranking.one_factor(losses).scores, accuracy).statistic
    assert result["tau_all_factor_0"] == pytest.approx(expected, rel=1e-6)
    bought = [row for row in rows if row["method"] == "all_everything_bought"]
    assert [(row["labels"], row["seed"], row["draw"]) for row in bought] == [("5", "", "0"), ("20", "", "0")]
    assert result["tau_all_everything_bought_20"] == pytest.approx(float(bought[1]["tau"]), rel=1e-6)
    components = rows_of(whole / "components.csv")
    assert components == rows_of(broken / "components.csv") and [row["seed"] for row in components] == list("00001111")
    size = np.mean([abs(float(row["tau_test_accuracy"])) for row in components if row["component"] == "1"])
    assert result["tau_component_1"] == pytest.approx(size, rel=1e-6)
    assert {row["labels"] for row in rows} == {"0", "5", "20"} and (whole / "labels.png").stat().st_size > 10_000
