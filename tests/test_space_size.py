"""The experiment `space_size`: its figures from what it writes, a kill in each phase, what it refuses."""

import numpy as np
import pytest
import scipy.stats
from experiment_runs import interrupt, refusal, result_of, rows_of, start, struck, untimed

from experiments.shared.config import ProblemConfig
from experiments.shared.problem import load_truth
from jaxnas.costs import arch_costs
from jaxnas.ranking import kendall_tau
from jaxnas.runs import checkpoint
from jaxnas.spaces import nasbench101
from jaxnas.tables import MissingTable, read_nasbench101_cells


def test_published_cells(data_dir):
    """FLOPs as the file has them rank its accuracies with 0.520, counted by us with hardly less."""
    table = read_nasbench101_cells(data_dir / "nb101_subset_naslib500.npz", nasbench101)
    accuracy = table.columns["valid_accuracy"]
    assert len(table.archs) == 500 and nasbench101.is_valid(table.archs).all() and 0.8 < accuracy.mean() < 0.95
    assert kendall_tau(arch_costs(nasbench101, table.archs).macs, accuracy) == pytest.approx(0.520, abs=0.01)


def test_where_the_whole_table_is_missing_published_cells_are_the_truth(data_dir):
    config = ProblemConfig(space="nasbench101", dataset="cifar10", data_dir=str(data_dir))
    raw = read_nasbench101_cells(data_dir / "nb101_subset_naslib500.npz", nasbench101)
    table, by_cell = load_truth(config, nasbench101, part=True), {}
    for cell, accuracy in zip(nasbench101.isomorphs(raw.archs).tolist(), raw.columns["valid_accuracy"], strict=True):
        by_cell.setdefault(tuple(cell), []).append(accuracy)
    assert len(table.archs) == len(by_cell) == 292
    for cell, accuracy in zip(table.archs.tolist(), table.columns["test_accuracy"], strict=True):
        assert accuracy == pytest.approx(np.mean(by_cell[tuple(cell)]), abs=1e-7)
    with pytest.raises(MissingTable):  # a search may end with any cell
        load_truth(config, nasbench101)


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--space", "digits_chain"], "space is digits_chain, expected nasbench101, which has sizes by vertices."),
        (["--sizes", "5", "4"], "sizes are (5, 4), expected two or more different ones, the smallest first."),
        (["--sizes", "4", "8"], "sizes is 8, expected 4 to 7."),
    ],
)
def test_refuses(capsys, tmp_path, argv, said):
    line = refusal(capsys, "space_size", "tiny", *argv, "--no-progress", "--workdir", tmp_path / "run")
    assert said in line


@pytest.mark.slow("compiles the steps of two spaces")
def test_figures_and_kills(tmp_path):
    """Struck while networks train alone, within a super-net's training, and while scores are saved."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    argv = ["space_size", "tiny", "--no-progress", "--workdir"]
    start(*argv, whole)
    save = checkpoint.save

    def save_or_die(folder, step, *args, **options):
        if folder.as_posix().endswith("v4/seed1/checkpoints") and step == 4:  # that of step 2 is there
            raise KeyboardInterrupt
        return save(folder, step, *args, **options)

    for place in ("v4/alone/scores_000000.npz", None, "v5/seed0/scores_000000.npz", "sizes.csv"):
        with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit):
            if place is None:
                patch.setattr(checkpoint, "save", save_or_die)
            with struck(place or "nothing", interrupt):
                start(*argv, broken)
    start(*argv, broken)
    result = result_of(whole)
    assert untimed(result_of(broken)) == untimed(result)
    rows = rows_of(whole / "v5" / "scores.csv")
    assert len(rows) == 4 and len({row["arch"] for row in rows}) == 4
    alone = np.array([[float(row[f"test_accuracy_{seed}"]) for seed in range(2)] for row in rows])
    taus = [
        scipy.stats.kendalltau([-float(row[f"loss_{seed}"]) for row in rows], alone.mean(axis=1)).statistic
        for seed in range(2)
    ]
    assert result["tau_5"] == pytest.approx(np.mean(taus), nan_ok=True)
    assert result["published_tau_4"] == 0.441 and result["num_cells_4"] == 91 and result["num_cells_5"] == 2532
    assert result["tau_falls"] == pytest.approx(result["tau_4"] - result["tau_5"], nan_ok=True)
