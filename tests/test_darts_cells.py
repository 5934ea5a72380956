"""The experiment `darts_cells`: its figures by hand from what it leaves, on a space of 16 chains and on small cells."""

import csv
import json

import numpy as np
import pytest
import scipy.stats
from experiment_runs import SMALL, result_of, rows_of, start

from experiments import darts_cells
from jaxnas import plotting, tables
from jaxnas.codes import enumerate_archs, to_text
from jaxnas.spaces import darts_space
from jaxnas.supernets import make_supernet

NONE, MAX_POOL, AVG_POOL, SKIP, SEP3 = range(5)


def test_share_without_parameters_by_hand():
    """Two cells of one node, each with two edges: skip and pooling in the normal one, in the reduction cell a skip,
    which is strided and has parameters there. An edge without operation is none."""
    supernet = make_supernet(darts_space(1).resized(width=2, image_size=4, cells_per_stage=1), affine=False)
    cells = [
        [SKIP, 0, AVG_POOL, 1, SKIP, 0, SEP3, 1],  # two of four
        [SEP3, 0, SEP3, 1, MAX_POOL, 0, AVG_POOL, 1],  # two of four
        [NONE, 0, SKIP, 1, SEP3, 0, SEP3, 1],  # one of three
        [NONE, 0, NONE, 1, NONE, 0, NONE, 1],  # nothing of nothing
    ]
    shares = darts_cells.parameter_free(supernet, np.array(cells))
    np.testing.assert_allclose(shares, [0.5, 0.5, 1 / 3, 0.0])


def test_figures_of_a_policy_by_hand():
    """Losses of two seeds, one in the order of the truth and one in the other; preferences in its order."""
    accuracy = np.array([0.1, 0.2, 0.3, 0.4])
    found = {"losses": [[4.0, 3, 2, 1], [1.0, 2, 3, 4]], "preferences": [[1.0, 2, 3, 4], [1.0, 2, 4, 3]]}
    curve = {"steps": [1, 2], "parameter_free": [[0.5, 0.7], [0.5, 0.9]]}
    figures = darts_cells.figures_of("darts", found | curve, accuracy)
    assert figures["darts_tau_weights"] == pytest.approx(0)
    assert figures["darts_tau_policy"] == pytest.approx((1 + 2 / 3) / 2)  # one pair of six the other way
    assert figures["darts_weight_first"] == 0.5 and figures["darts_weight_last"] == pytest.approx(0.8)
    figures = darts_cells.figures_of("random", found | {"preferences": [None, None]}, accuracy)
    assert not any("tau_policy" in name or "weight_" in name for name in figures)


def test_picture_of_collapse(tmp_path):
    shares, accuracies = np.array([0.0, 0.5, 0.5]), np.array([0.96, 0.97, 0.965])
    weights = {"darts": ([1, 2], [[0.5, 0.6], [0.5, 0.7]])}
    figure = plotting.collapse(weights, {"enas": [0.2], "darts": [0.4, 0.6]}, shares, accuracies, title="cells")
    above, below = figure.axes
    np.testing.assert_allclose(above.lines[-1].get_ydata(), [0.5, 0.65])  # the mean of both seeds
    assert below.collections[0].get_offsets().shape == (3, 2)
    assert all(offsets[1] < 0.96 for offsets in below.collections[2].get_offsets())  # found: below all accuracies
    assert len(plotting.collapse({}, {"enas": [0.2]}, shares, accuracies, title="cells").axes) == 1
    plotting.save_figure(figure, tmp_path / "collapse.png")


@pytest.mark.slow("trains four super-nets")
def test_from_what_it_leaves(truth, tmp_path):
    start("darts_cells", "tiny", "--space", "small", "--no-progress", "--data-dir", truth, "--workdir", tmp_path)
    result = result_of(tmp_path)
    judged = tables.read_table(truth / "small_digits.npz", SMALL).columns["test_accuracy"].mean(axis=1)
    scores = rows_of(tmp_path / "scores.csv")
    assert [row["arch"] for row in scores] == [to_text(SMALL, code) for code in enumerate_archs(SMALL)]
    taus = [
        scipy.stats.kendalltau([-float(row[f"darts_loss_{seed}"]) for row in scores], judged).statistic
        for seed in (0, 1)
    ]
    assert result["darts_tau_weights"] == pytest.approx(np.mean(taus))
    # Identity has no parameters where it isn't strided: at all choices but the second.
    for name in ("enas", "darts"):
        ends = json.loads((tmp_path / f"{name}.json").read_text())["content"]["archs"]
        shares = [sum(code[place] == 0 for place in (0, 2, 3)) / 4 for code in ends]
        assert result[f"{name}_parameter_free"] == pytest.approx(np.mean(shares))
    with (tmp_path / "darts" / "seed0" / "training.csv").open(newline="") as file:
        curve = [float(row["policy_parameter_free"]) for row in csv.DictReader(file)]
    assert len(curve) == 4 and result["darts_weight_first"] == pytest.approx(curve[0], abs=1e-3)
    assert (tmp_path / "collapse.png").stat().st_size > 5000
