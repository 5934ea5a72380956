"""experiments.landmark_search on 16 chains and on 8 cells of spaces of the tests: its figures from its CSVs, what both
sides share, phases, kills, refusals."""

import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
import scipy.stats
from experiment_runs import SMALL, refusal, remove, result_of, rows_of, start, untimed, write_truth

from experiments.shared.policies import mixing_softly
from jaxnas import export, tables
from jaxnas.codes import enumerate_archs, to_text
from jaxnas.costs import arch_costs
from jaxnas.policies import pc_darts
from jaxnas.runs import checkpoint
from jaxnas.space import CellLayout, SearchSpace
from jaxnas.spaces import SPACES
from jaxnas.supernets import make_supernet
from jaxnas.tables import make_table, write_table

pytestmark = pytest.mark.usefixtures("no_data_dir")
ARGV = ["landmark_search", "tiny", "--space", "small", "--no-progress"]
EDGES = ((0, 1), (0, 2), (1, 2))
CELLS = SearchSpace(
    "cells",
    (("skip_connect", "nor_conv_1x1"),) * 3,
    CellLayout(width=4, cells_per_stage=1, edges=EDGES, num_stages=1, image_size=4, in_channels=1),
)
# In `tiny` 2 of 8 steps are gdas's first phase, and one more its third.
STEPS = {"alone": [1, 2], "baseline": [3, 4, 5, 6, 7, 8, 9], "landmark": [3, 4, 5, 6, 7, 8, 9]}


@pytest.fixture(scope="module")
def ran(tmp_path_factory, truth) -> Path:
    """The workdir of an uninterrupted run, of gdas alone."""
    workdir = tmp_path_factory.mktemp("landmark_search")
    start(*ARGV, "--data-dir", truth, "--workdir", workdir)
    return workdir


def curve(workdir: Path, side: str, seed: int = 0) -> list[dict[str, float]]:
    rows = rows_of(workdir / "gdas" / f"seed{seed}" / side / "training.csv")
    return [{name: float(value) for name, value in row.items()} for row in rows]


def tau(first, second) -> float:
    return scipy.stats.kendalltau(first, second).statistic


@pytest.mark.slow("trains a super-net under three policies, with landmarks and without")
def test_figures_follow_from_scores(ran, truth):
    result, rows = result_of(ran), rows_of(ran / "scores.csv")
    seeds = tables.read_table(truth / "small_digits.npz", SMALL).columns["test_accuracy"]
    place = {to_text(SMALL, code): row for row, code in enumerate(enumerate_archs(SMALL))}
    rows_of_table = [place[row["arch"]] for row in rows]
    valid, test = seeds[rows_of_table, 0], seeds[rows_of_table, 1:].mean(axis=1)  # the first seed orders
    is_landmark = np.array([row["is_landmark"] == "1" for row in rows])
    np.testing.assert_allclose([float(row["test_accuracy"]) for row in rows], test, atol=1e-6)
    networks = [
        row["arch"][:4] + "-".join(sorted(row["arch"][4:].split("-"))) for row in rows
    ]  # the last two layers are alike
    assert is_landmark.sum() == 6 == result["num_landmarks"] and is_landmark[:6].all()
    assert not set(networks[:6]) & set(networks[6:]) and result["num_eval_archs"] == len(rows) - 6
    taus = {}
    for side in ("baseline", "landmark"):
        losses = np.array([[float(row[f"gdas_{side}_{seed}"]) for row in rows] for seed in range(2)])
        taus[side] = np.array([tau(-row[~is_landmark], test[~is_landmark]) for row in losses])
        assert result[f"tau_{side}_gdas"] == pytest.approx(taus[side].mean(), abs=1e-6)
        expected = np.mean([tau(-row[is_landmark], valid[is_landmark]) for row in losses])
        assert result[f"tau_{side}_gdas_on_landmarks"] == pytest.approx(expected, abs=1e-6)
        assert result[f"{side}_gdas_seconds"] > 0
    assert result["delta_tau_gdas"] == pytest.approx((taus["landmark"] - taus["baseline"]).mean(), abs=1e-6)
    assert result["delta_tau_gdas_low"] <= result["delta_tau_gdas"] <= result["delta_tau_gdas_high"]
    macs = arch_costs(SMALL, enumerate_archs(SMALL)).macs[rows_of_table]
    assert result["macs_kendall_tau"] == pytest.approx(tau(macs[~is_landmark], test[~is_landmark]))
    assert result["best_landmark_accuracy"] == pytest.approx(test[:6][np.argmax(valid[:6])], abs=1e-6)


@pytest.mark.slow("trains a super-net under three policies, with landmarks and without")
def test_what_is_found_is_judged_by_the_table(ran, truth):
    result, rows = result_of(ran), rows_of(ran / "found.csv")
    seeds = tables.read_table(truth / "small_digits.npz", SMALL).columns["test_accuracy"]
    judged = {to_text(SMALL, code): row[1:].mean() for code, row in zip(enumerate_archs(SMALL), seeds)}
    ends = {side: [judged[row["arch"]] for row in rows if row["side"] == side] for side in ("baseline", "landmark")}
    np.testing.assert_allclose([float(row["accuracy"]) for row in rows], [judged[row["arch"]] for row in rows])
    differences = np.subtract(ends["landmark"], ends["baseline"])
    found = export.load(ran / "found_gdas.npz", make_supernet(SMALL))
    (code,) = [row["arch"] for row in rows if (row["side"], row["seed"]) == ("landmark", "0")]
    assert to_text(SMALL, found.arch) == code
    assert len(rows) == 4 and result["accuracy_landmark_gdas"] == pytest.approx(np.mean(ends["landmark"]))
    assert result["delta_accuracy_gdas"] == pytest.approx(differences.mean())
    if np.ptp(differences):
        low, high = scipy.stats.t.interval(0.95, 1, differences.mean(), scipy.stats.sem(differences))
        assert [result[f"delta_accuracy_gdas_{end}"] for end in ("low", "high")] == pytest.approx([low, high])


@pytest.mark.slow("trains a super-net under three policies, with landmarks and without")
def test_sides_share_the_first_phase_batches_and_draws(ran):
    baseline, landmark = curve(ran, "baseline"), curve(ran, "landmark")
    assert {name: [int(row["step"]) for row in curve(ran, name)] for name in STEPS} == STEPS
    assert "term_ranking" in landmark[0] and "term_ranking" not in baseline[0]
    # One state, one batch, one path: the loss before the first step that differs is the same.
    assert landmark[0]["term_cross_entropy"] == pytest.approx(baseline[0]["term_cross_entropy"], rel=1e-5)
    assert all(row["term_ranking"] >= 0 for row in landmark) and any(row["term_ranking"] > 0 for row in landmark)
    assert landmark[-1]["loss"] != baseline[-1]["loss"]


@pytest.mark.slow("trains a super-net under three policies, with landmarks and without")
def test_architecture_parameters_learn_in_the_third_phase(ran):
    for side in ("baseline", "landmark"):
        rows = curve(ran, side)
        assert [row["policy_loss"] for row in rows[:6]] == [0.0] * 6 and rows[6]["policy_loss"] > 0


@pytest.mark.slow("trains a super-net under three policies, with landmarks and without")
def test_killed_before_the_outcome(ran, truth, tmp_path):
    """Trained and scored, but not written: nothing is trained again."""
    shutil.copytree(ran, tmp_path / "run")
    remove(tmp_path / "run", "result.json", "gdas.json", "*.csv")
    start(*ARGV, "--data-dir", truth, "--workdir", tmp_path / "run")
    assert untimed(result_of(tmp_path / "run")) == untimed(result_of(ran))
    for name in ("scores.csv", "found.csv", "gdas/seed1/landmark/training.csv"):
        assert (tmp_path / "run" / name).read_bytes() == (ran / name).read_bytes()


@pytest.mark.slow("two searches are killed in each of three phases, and while they score, and go on")
def test_killed_in_each_phase(ran, truth, tmp_path, monkeypatch):
    argv = [*ARGV, "--data-dir", truth, "--workdir", tmp_path]
    save, score = checkpoint.save, tables.write_table
    for place, at in (("seed0/alone", 2), ("seed0/landmark", 4), ("seed0/landmark", 9), ("seed1/baseline", 8)):

        def save_or_die(folder, step, *args, place=place, at=at, **options):
            if folder.as_posix().endswith(f"{place}/checkpoints") and step == at:
                raise KeyboardInterrupt
            return save(folder, step, *args, **options)

        with monkeypatch.context() as patch, pytest.raises(SystemExit):
            patch.setattr(checkpoint, "save", save_or_die)
            start(*argv)
        assert not (tmp_path / "gdas.json").exists()

    def score_or_die(path, *args):
        if "seed1/landmark/scores" in path.as_posix():
            raise KeyboardInterrupt
        return score(path, *args)

    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(tables, "write_table", score_or_die)
        start(*argv)
    start(*argv)
    assert untimed(result_of(tmp_path)) == untimed(result_of(ran))
    assert (tmp_path / "scores.csv").read_bytes() == (ran / "scores.csv").read_bytes()


def test_softoneshot_mixtures_of_random_codes():
    """What trains PC-DARTS before its own mixture does: of two candidates one leads, either now and then."""
    policy = pc_darts(make_supernet(CELLS, affine=False))
    propose, state = mixing_softly(policy, 0.1).propose, policy.init(jax.random.key(0))
    weights = np.concatenate([propose(jax.random.key(seed), state) for seed in range(40)])
    assert weights.shape == (40, 3, 2)
    np.testing.assert_allclose(np.sort(weights, axis=-1), np.broadcast_to([0.4, 0.6], weights.shape), rtol=1e-6)
    assert len(np.unique(weights[:, :, 0] > 0.5, axis=0)) == 8


@pytest.mark.slow("trains the super-nets of three algorithms on cells")
def test_three_algorithms(tmp_path, monkeypatch):
    monkeypatch.setitem(SPACES, "cells", CELLS)
    archs = enumerate_archs(CELLS)
    columns = {"valid_accuracy": np.linspace(0.1, 0.8, 8), "test_accuracy": np.linspace(0.9, 0.2, 8)}
    table = make_table(CELLS, archs, columns, units=dict.fromkeys(columns, "fraction"), provenance={})
    write_table(tmp_path / "cells_digits.npz", table)
    argv = [*ARGV[:2], "--space", "cells", "--no-progress", "--policies", "nao", "gdas", "pc_darts"]
    argv += ["--num-landmarks", "3", "--num-eval-archs", "8", "--data-dir", tmp_path, "--workdir"]
    start(*argv, tmp_path / "run")
    result = result_of(tmp_path / "run")
    for name in ("nao", "gdas", "pc_darts"):
        for figure in ("tau_baseline", "tau_landmark", "delta_tau", "accuracy_landmark", "delta_accuracy"):
            assert {f"{figure}_{name}", f"{figure}_{name}_low", f"{figure}_{name}_high"} <= set(result)
    landmarks = [row for row in rows_of(tmp_path / "run" / "scores.csv") if row["is_landmark"] == "1"]
    assert result["best_landmark_accuracy"] == pytest.approx(min(float(row["test_accuracy"]) for row in landmarks))
    rows = rows_of(tmp_path / "run" / "nao/seed0/landmark/training.csv")
    assert any(float(row["predictor_error"]) > 0 for row in rows)  # its pool was scored and learned on the way
    # Killed in PC-DARTS's own phases, with the other two done.
    save, again = checkpoint.save, tmp_path / "again"

    def save_or_die(folder, step, *args, **options):
        if folder.as_posix().endswith("pc_darts/seed0/landmark/checkpoints") and step == 8:
            raise KeyboardInterrupt
        return save(folder, step, *args, **options)

    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(checkpoint, "save", save_or_die)
        start(*argv, again)
    assert (again / "gdas.json").exists() and not (again / "pc_darts.json").exists()
    start(*argv, again)
    assert untimed(result_of(again)) == untimed(result)


@pytest.mark.parametrize(
    "arguments, words",
    [
        ("--policies gdas pc_darts", "small: partial_channels"),
        ("--policies gdas gdas", "expected each once, of nao, gdas, pc_darts"),
        ("--policies enas", "policies is 'enas', expected one of nao, gdas, pc_darts"),
        ("--num-landmarks 1", "num_landmarks is 1, expected 2 to "),
        ("--num-landmarks 16", "outside the landmarks there are 0 architectures, expected 2"),
        ("--num-seeds 1", "num_seeds is 1, expected 2 to "),
        ("--landmark-batch-size 41", "num_eval_images is 60 of the 100 images held out, which leaves fewer"),
        ("--tilt 1", "tilt is 1.0, expected a number, at least 0 and below 1"),
        ("--tolerance 1", "all 6 landmarks are tied"),
    ],
)
def test_bad_arguments_end_before_the_training(arguments, words, truth, tmp_path, capsys):
    argv = [*ARGV[1:], *arguments.split(), "--data-dir", truth, "--workdir", tmp_path]
    assert words in refusal(capsys, "landmark_search", *argv)
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} <= {".lock", "config.json"}


def test_tables_of_no_use(tmp_path, capsys):
    def line(accuracy, archs=None) -> str:
        folder = write_truth(tmp_path, accuracy, archs)
        return refusal(capsys, *ARGV, "--data-dir", folder, "--workdir", tmp_path / "run")

    assert line(np.random.default_rng(0).random((16, 1))).endswith("landmarks would be ordered by their judge.")
    few = enumerate_archs(SMALL)[:8]
    assert "has 8 of 16 architectures, and a policy may end with any" in line(np.ones((8, 2)), few)


@pytest.mark.slow("compiles the weight step of either side")
@pytest.mark.parametrize(
    "arguments, term",
    [("--coefficient 1e38 --margin 9", "term_ranking is "), ("--learning-rate 1e38", "term_cross_entropy is nan")],
)
def test_a_term_that_is_not_finite_is_named(arguments, term, truth, tmp_path, capsys):
    line = refusal(capsys, *ARGV, *arguments.split(), "--data-dir", truth, "--workdir", tmp_path)
    assert "training stopped: " in line and term in line and " at step " in line
    assert not (tmp_path / "gdas.json").exists()
