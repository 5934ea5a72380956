"""experiments.landmark on 16 chains of a space of the tests: its figures from its CSV, forks, kills, refusals."""

import itertools
from pathlib import Path

import jax
import numpy as np
import pytest
import scipy.stats
from experiment_runs import SMALL, killed, refusal, remove, result_of, rows_of, start, untimed, write_truth
from PIL import Image

from experiments import landmark
from experiments.shared import regulariser, supernet
from experiments.shared.config import settle
from experiments.shared.problem import load_problem
from jaxnas import runs, tables
from jaxnas.codes import enumerate_archs, to_text
from jaxnas.costs import arch_costs
from jaxnas.spaces import SPACES

ARGV = ["landmark", "tiny", "--space", "small", "--no-progress"]
CODES = enumerate_archs(SMALL)
CONFIG = runs.replace(landmark.PRESETS["tiny"], space="small", progress=False)


@pytest.fixture(scope="module")
def ran(tmp_path_factory, truth) -> Path:
    """The workdir of an uninterrupted run."""
    workdir = tmp_path_factory.mktemp("landmark")
    start(*ARGV, "--data-dir", truth, "--workdir", workdir)
    return workdir


def columns_of(workdir: Path) -> dict[str, np.ndarray]:
    rows = rows_of(workdir / "scores.csv")
    return {name: np.array([float(row[name]) for row in rows]) for name in rows[0] if name != "arch"}


def tau(first, second) -> float:
    return scipy.stats.kendalltau(first, second).statistic


def test_figures_follow_from_scores(ran):
    result, columns = result_of(ran), columns_of(ran)
    codes = [row["arch"] for row in rows_of(ran / "scores.csv")]
    network = lambda code: "-".join([*code.split("-")[:2], *sorted(code.split("-")[2:])])  # noqa: E731 (of one size)
    outside = ["-".join(code) for code in itertools.product("01", repeat=4)]
    outside = [code for code in outside if network(code) not in map(network, codes[:6])]
    assert codes[6:] == outside and len(set(codes)) == len(codes)
    assert columns["is_landmark"].tolist() == [1] * 6 + [0] * len(outside)
    assert (result["num_landmarks"], result["num_seeds"], result["num_eval_archs"]) == (6, 2, len(outside))
    out, truth = columns["is_landmark"] == 0, columns["test_accuracy"]
    for name in ("baseline", "landmark", "flops_order"):
        losses = np.stack([columns[f"{name}_{seed}"] for seed in range(2)])
        expected = np.mean([tau(-row[out], truth[out]) for row in losses])
        assert result[f"kendall_tau_{name}"] == pytest.approx(expected, abs=1e-6)
        expected = np.mean([tau(-row[~out], truth[~out]) for row in losses])
        assert result[f"kendall_tau_{name}_on_landmarks"] == pytest.approx(expected, abs=1e-6)
        assert result[f"{name}_step_seconds"] > 0 and result[f"{name}_seconds"] > 0
    place = {to_text(SMALL, code): row for row, code in enumerate(CODES)}
    macs = arch_costs(SMALL, CODES).macs[[place[code] for code in codes]]
    assert result["macs_kendall_tau"] == pytest.approx(tau(macs[out], truth[out]), abs=1e-12)
    for label, name in (("delta", "landmark"), ("delta_flops_order", "flops_order")):
        expected = result[f"kendall_tau_{name}"] - result["kendall_tau_baseline"]
        assert result[label] == pytest.approx(expected, abs=1e-12)
        assert result[f"{label}_low"] <= result[label] <= result[f"{label}_high"]
    assert -1 <= result["kendall_tau_equal_budget"] <= 1


def test_landmarks_carry_the_tables_accuracy(ran, truth):
    table = tables.load_truth(SMALL, "digits", data_dir=truth)
    mean = {to_text(SMALL, code): row.mean() for code, row in zip(table.archs, table.columns["test_accuracy"])}
    for row in rows_of(ran / "scores.csv"):
        assert float(row["test_accuracy"]) == pytest.approx(mean[row["arch"]], abs=1e-6)


def test_variants_share_the_warm_up_and_no_more(ran):
    steps = {name: [int(row["step"]) for row in rows_of(ran / "seed0" / name / "training.csv")] for name in FOLDERS}
    assert steps == {"warmup": [1, 2, 3], **{name: [4, 5, 6] for name in landmark.TRAINED}}
    rows = rows_of(ran / "seed0" / "landmark" / "training.csv")
    assert (
        float(rows[-1]["term_ranking"]) >= 0 and "term_ranking" not in rows_of(ran / "seed0/baseline/training.csv")[0]
    )
    columns = columns_of(ran)
    losses = [columns[f"{name}_{seed}"] for name in landmark.TRAINED for seed in range(2)]
    assert all(np.any(a != b) for a, b in itertools.combinations(losses, 2))
    with Image.open(ran / "variants.png") as picture:
        assert picture.format == "PNG" and min(picture.size) >= 300


FOLDERS = ("warmup", *landmark.TRAINED)


@pytest.mark.parametrize("name", ["baseline", "landmark"])
def test_a_fork_is_what_an_uninterrupted_run_would_be(ran, truth, tmp_path, name, monkeypatch):
    """The recipe of each variant from step 0: the same program gives the same bits, one without the term the same."""
    monkeypatch.setitem(SPACES, "small", SMALL)
    config = settle(runs.replace(CONFIG, data_dir=str(truth)))
    problem = load_problem(config.problem)
    network, data = supernet.build(config.network, problem.space), problem.data
    chosen = regulariser.choose_landmarks(config.regulariser, problem)
    setup = regulariser.make_setups(config, config.regulariser, network, data, chosen)[name]
    options = {"seed": 0, "origin": landmark.origin_of(result_of(ran)["run"], 0, name)}
    if name == "landmark":
        options["more_at"] = regulariser.ranking_batches(config.regulariser, config, data, 0)
    score = supernet.make_score(config.scoring, network, data, progress=False)
    trained = supernet.train(config, setup, score, tmp_path, **options)
    forked = supernet.train(config, setup, score, ran / "seed0" / name, **options)
    assert int(trained.state.step) == int(forked.state.step) == 6
    tolerance = {"rtol": 0, "atol": 0} if name == "baseline" else {"rtol": 1e-4, "atol": 1e-6}
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **tolerance), trained.state.params, forked.state.params)
    ranking = [row.get("term_ranking", 0.0) for row in trained.rows]
    assert ranking[:3] == [0, 0, 0]  # the coefficient's warm-up


@pytest.mark.slow("an experiment is killed, in a process of its own, and goes on")
def test_killed_in_a_fork_and_in_scoring(ran, truth, tmp_path):
    argv = [*ARGV, "--data-dir", truth, "--workdir", tmp_path]
    killed("landmark/checkpoints/.new_step_00000006/manifest.json", *argv)
    assert (tmp_path / "seed0/landmark/checkpoints/step_00000004").is_dir()
    start(*argv)
    assert untimed(result_of(tmp_path)) == untimed(result_of(ran))
    assert (tmp_path / "scores.csv").read_bytes() == (ran / "scores.csv").read_bytes()
    remove(tmp_path, "result.json", "seed1/flops_order/scores_*")
    start(*argv)
    assert untimed(result_of(tmp_path)) == untimed(result_of(ran))


@pytest.mark.parametrize(
    "arguments, words",
    [
        ("--num-landmarks 1", "num_landmarks is 1, expected 2 to "),
        ("--num-landmarks 17", "num_landmarks, of the pool, is 17, expected 2 to 16"),
        ("--num-landmarks 16", "outside the landmarks there are 0 architectures, expected 2"),
        ("--selection distant --min-distance 4", "are at Hamming distance 4 of each other, 6 landmarks are wanted"),
        ("--num-seeds 1", "num_seeds is 1, expected 2 to "),
        ("--warmup-share 1", "warmup_share is 1.0, expected a number, at least 0 and below 1"),
        ("--landmark-batch-size 0", "landmark_batch_size is 0, expected 1 to "),
        ("--landmark-batch-size 21", "num_eval_images is 80 of the 100 images held out, which leaves fewer"),
        ("--num-landmarks-per-step 7", "num_landmarks_per_step is 7, expected 2 to num_landmarks = 6"),
        ("--num-pairs 0", "num_pairs is 0, expected 1 to "),
        ("--tolerance 1", "all 6 landmarks are tied"),
    ],
)
def test_bad_arguments_end_before_the_training(arguments, words, truth, tmp_path, capsys):
    argv = [*ARGV[1:], *arguments.split(), "--data-dir", truth, "--workdir", tmp_path]
    assert words in refusal(capsys, "landmark", *argv)
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} <= {".lock", "config.json"}


def test_tables_of_no_use(tmp_path, capsys):
    def line(accuracy, archs=CODES) -> str:
        folder = write_truth(tmp_path, accuracy, archs)
        return refusal(capsys, *ARGV, "--data-dir", folder, "--workdir", tmp_path / "run")

    assert "all 6 landmarks are tied, order 0.5 to 0.5 at tolerance 0" in line(np.full(16, 0.5))
    assert "the table of small (8 architectures) lacks architecture" in line(np.linspace(0, 1, 8), CODES[:8])


def test_a_coefficient_that_overflows_names_the_term(truth, tmp_path, capsys):
    argv = [*ARGV, "--coefficient", "1e38", "--margin", "9", "--schedule", "constant", "--data-dir", truth]
    line = refusal(capsys, *argv, "--workdir", tmp_path)
    assert "training stopped: " in line and "term_ranking is " in line and "lower the weight of a term" in line
    assert not (tmp_path / "result.json").exists()


@pytest.mark.parametrize(
    "schedule, last",
    [
        ("constant", 10.0),
        ("cosine_increase", 10.0),
        ("published_increase", 5.0),
        ("cosine_decrease", 0.0),
        ("stepped", 10.0),
        ("stepped_decrease", 0.01),
    ],
)
def test_the_coefficient_is_zero_through_the_warm_up(schedule, last):
    config = runs.replace(CONFIG, coefficient=10.0, schedule=schedule, num_steps=40, warmup_share=0.5)
    of_step = regulariser.make_schedule(config.regulariser, config.training, 1)
    assert [float(of_step(step)) for step in range(20)] == [0.0] * 20
    assert float(of_step(39)) == pytest.approx(last)  # the published one divides by all epochs: half of its cosine


def test_a_warm_up_of_all_epochs_is_refused():
    config = runs.replace(CONFIG, schedule="stepped", num_steps=40, warmup_share=0.5)
    with pytest.raises(ValueError, match="the warm-up takes all 1 epochs of 50 steps; choose cosine_increase"):
        regulariser.make_schedule(config.regulariser, config.training, 50)


@pytest.mark.parametrize("selection", ["random", "ranked", "distant"])
def test_selections(selection, truth, monkeypatch):
    monkeypatch.setitem(SPACES, "small", SMALL)
    config = runs.replace(CONFIG, data_dir=str(truth), selection=selection, min_distance=2, num_landmarks=4)
    problem = load_problem(config.problem)
    codes, accuracy, _ = regulariser.choose_landmarks(config.regulariser, problem)
    everything = problem.truth.columns["test_accuracy"].mean(axis=1)
    assert len(np.unique(codes, axis=0)) == 4 and set(accuracy) <= set(everything)
    if selection == "ranked":
        assert [accuracy.min(), accuracy.max()] == [everything.min(), everything.max()]
    if selection == "distant":
        assert min((a != b).sum() for a, b in itertools.combinations(codes, 2)) == 2
