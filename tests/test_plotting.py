import errno
import os

import numpy as np
import pytest
from matplotlib.figure import Figure

from jaxnas import plotting

pytestmark = pytest.mark.filterwarnings("error")


def scatter(num_archs=300, **options):
    scores = np.random.default_rng(0).normal(size=num_archs)
    options = {
        "scores": scores,
        "truth": scores + 90,
        "title": "digits_chain on digits",
        "score_label": "minus validation loss [nats]",
        "truth_label": "test accuracy [%]",
        "tau": (0.6123, 0.5871, 0.6402),
        **options,
    }
    return plotting.rank_scatter(**options)


def points(axes):
    return np.concatenate([np.asarray(collection.get_offsets()) for collection in axes.collections])


@pytest.mark.parametrize("num_archs", [2, 243, 6561])
def test_scatter_has_every_architecture_once(num_archs):
    scores = np.arange(num_archs, dtype=float)
    axes = scatter(num_archs, scores=scores, truth=scores**2).axes[0]
    x, y = points(axes).T
    np.testing.assert_array_equal(np.sort(x), scores)
    np.testing.assert_array_equal(y, x**2)


def test_scatter_says_what_it_shows():
    axes = scatter().axes[0]
    assert axes.get_xlabel() == "minus validation loss [nats]"
    assert axes.get_ylabel() == "test accuracy [%]"
    title = axes.get_title("left")
    assert "digits_chain on digits" in title and "300 architectures" in title and "edge" not in title
    assert "τ = 0.612, 95 % interval [0.587, 0.640]" in title
    assert "90 % interval" in scatter(level=0.9).axes[0].get_title("left")


def test_scatter_colours_each_point_by_its_macs():
    scores = np.arange(50.0)
    assert len(scatter(50).axes) == 1
    figure = scatter(50, scores=scores, truth=scores, macs=1e6 * (scores + 1))
    axes, bar = figure.axes
    (collection,) = (collection for collection in axes.collections if len(collection.get_offsets()))
    np.testing.assert_array_equal(collection.get_array(), 1e6 * (np.asarray(collection.get_offsets())[:, 0] + 1))
    assert bar.get_ylabel() == "MACs per image"
    figure.draw_without_rendering()
    assert "40 M" in [label.get_text() for label in bar.get_yticklabels()]


def test_scatter_moves_far_architectures_to_the_edge_and_counts_them():
    truth = np.r_[np.arange(101.0), -1000.0, -2000.0]  # quartiles 23.5 and 74.5, so the lower fence is at -129.5
    axes = scatter(103, scores=np.arange(103.0), truth=truth).axes[0]
    assert "× at the edge: 2 architectures" in axes.get_title("left")
    x, y = points(axes).T
    order = np.argsort(x)
    np.testing.assert_array_equal(y[order][:101], np.arange(101))
    np.testing.assert_allclose(y[order][101:], 23.5 - 3 * (74.5 - 23.5))
    assert axes.get_ylim()[0] < y.min() and axes.get_ylim()[1] > 100


def test_scatter_of_mostly_equal_scores_moves_nothing():
    scores = np.r_[np.full(99, 0.1), 0.9]  # no spread between the quartiles
    axes = scatter(100, scores=scores, truth=np.arange(100.0)).axes[0]
    assert points(axes)[:, 0].max() == 0.9 and "edge" not in axes.get_title("left")


@pytest.mark.parametrize("name", ["scores", "truth", "macs"])
def test_scatter_refuses_vectors_that_do_not_match(name):
    with pytest.raises(ValueError, match=r"shapes .*\(4,\).*, expected one shape, \[num_archs\]"):
        scatter(3, **{name: np.arange(4)})


def test_latency_scatter():
    predicted, measured = np.array([1.0, 2.0, 4.0]), np.array([1.5, 2.5, 3.5])
    figure = plotting.latency_scatter(
        predicted, measured, title="toy, batch 2", spearman=0.987, error=0.0234, low=measured - 0.1, high=measured + 0.2
    )
    (axes,) = figure.axes
    line, bars = axes.lines[0].get_xydata(), axes.collections[0].get_segments()
    assert line.tolist() == [[1, 1], [4, 4]]
    np.testing.assert_allclose(bars, [[[x, y - 0.1], [x, y + 0.2]] for x, y in zip(predicted, measured)])
    assert np.asarray(axes.collections[1].get_offsets()).tolist() == [[1, 1.5], [2, 2.5], [4, 3.5]]
    assert axes.get_title("left").endswith("Spearman 0.987, median relative error 2.3 %; 3 networks")
    assert axes.get_xlabel() == "predicted latency (ms)" and axes.get_ylabel() == "measured latency (ms)"
    with pytest.raises(ValueError, match=r"shapes \(3,\) and \(2,\), expected one"):
        plotting.latency_scatter(predicted, measured[:2], title="", spearman=0, error=0)


def test_panels_over_size():
    panels = {
        "gap (nats)": plotting.Panel({"fixed": ([1, 2], [0, 1], [3, 4]), "other": ([5], [4], [6])}, {"alone": 0.5}),
        "tau": plotting.Panel({"fixed": ([3, 4], [2, 3], [4, 5])}, {}),
    }
    figure = plotting.panels_over_size({"fixed": [8, 64], "other": [64]}, panels, title="toy", size_label="sizes")
    first, second = figure.axes
    assert [line.get_xydata().tolist() for line in first.lines[:2]] == [[[8, 1], [64, 2]], [[64, 5]]]
    assert [line.get_ydata()[0] for line in first.lines[2:]] == [0.5]
    assert [segment.tolist() for segment in first.collections[0].get_segments()] == [
        [[8, 0], [8, 3]],
        [[64, 1], [64, 4]],
    ]
    assert [text.get_text() for text in first.get_legend().get_texts()] == ["fixed", "other", "alone"]
    assert (first.get_ylabel(), second.get_ylabel(), second.get_xlabel()) == ("gap (nats)", "tau", "sizes")
    assert [tick.get_text() for tick in second.get_xticklabels()] == ["8", "64"]
    assert second.get_xscale() == "log" and first.get_title("left") == "toy"


def test_training_curve_has_a_panel_for_each_column():
    accuracy = np.full(30, np.nan)
    accuracy[::10] = 20, 50, 60
    figure = plotting.training_curve(
        np.arange(30), {"loss [nats]": np.linspace(2, 1, 30), "accuracy [%]": accuracy}, title="super-net training"
    )
    top, bottom = figure.axes
    assert (top.get_ylabel(), bottom.get_ylabel()) == ("loss [nats]", "accuracy [%]")
    assert (top.get_xlabel(), bottom.get_xlabel()) == ("", "training step")
    assert top.get_title("left") == "super-net training"
    assert len(top.lines[0].get_xdata()) == 30
    np.testing.assert_array_equal(bottom.lines[0].get_xdata(), [0, 10, 20])  # what was not measured leaves no gap
    np.testing.assert_array_equal(bottom.lines[0].get_ydata(), [20, 50, 60])


def test_training_curve_smooths_many_values():
    steps = np.arange(1000)
    (axes,) = plotting.training_curve(steps, {"loss": (steps % 20).astype(float)}, title="saw").axes
    raw, mean = axes.lines
    assert len(raw.get_xdata()) == 1000
    assert mean.get_label() == "mean of 20 values"
    np.testing.assert_allclose(mean.get_ydata(), 9.5)  # one period of 0, ..., 19
    assert mean.get_xdata()[0] == 10 and mean.get_xdata()[-1] == 990  # centred


def test_tau_over_training_has_line_band_and_references():
    references = {"FLOPs only": 0.556, "training seeds": 0.88, "a": 0.1, "b": 0.2, "c": 0.3}
    figure = plotting.tau_over_training(
        [0, 100, 200], [0.0, 0.4, 0.5], [-0.1, 0.3, 0.45], [0.1, 0.5, 0.55], title="tau", references=references
    )
    (axes,) = figure.axes
    tau, *lines = axes.lines
    np.testing.assert_array_equal(tau.get_ydata(), [0, 0.4, 0.5])
    assert [line.get_ydata()[0] for line in lines] == list(references.values())
    band, whiskers = axes.collections
    corners = {tuple(corner) for corner in band.get_paths()[0].vertices}
    assert {(0, -0.1), (100, 0.3), (200, 0.45), (0, 0.1), (100, 0.5), (200, 0.55)} <= corners
    assert [tuple(line[:, 1]) for line in whiskers.get_segments()] == [(-0.1, 0.1), (0.3, 0.5), (0.45, 0.55)]
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels[:3] == ["super-net, 95 % interval", "FLOPs only: 0.556", "training seeds: 0.880"]
    assert len(plotting.tau_over_training([0], [0.1], [0.0], [0.2], title="one evaluation").axes[0].lines) == 1


def variants():
    taus = {"baseline": [0.1, 0.3, 0.2], "landmark": [0.3, 0.4, 0.5]}
    intervals = {"landmark": (0.25, 0.6), "baseline": (0.05, 0.35)}
    return plotting.paired_taus(taus, intervals, title="30 landmarks", references={"FLOPs only": 0.25})


def test_paired_taus_join_the_points_of_a_seed():
    figure = variants()
    (axes,) = figure.axes
    *seeds, means, flops = axes.lines
    assert [line.get_ydata().tolist() for line in seeds] == [[0.1, 0.3], [0.3, 0.4], [0.2, 0.5]]
    np.testing.assert_allclose(means.get_ydata(), [0.2, 0.4])
    assert flops.get_ydata()[0] == 0.25
    (whiskers,) = axes.collections
    assert [tuple(line[:, 1]) for line in whiskers.get_segments()] == [(0.05, 0.35), (0.25, 0.6)]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["baseline", "landmark"]
    assert [text.get_text() for text in axes.texts] == ["0.200", "0.400"]


def forest():
    effects = {
        "affine=true": (-0.1, -0.2, -0.05),
        "a long name of a factor=0.125": (0.02, -0.04, 0.08),
        "one": (0.3, 0.1, 0.4),
    }
    return plotting.forest(effects, title="space", label="difference", points={"affine=true": [-0.12, -0.08]})


def test_forest_has_a_row_for_each_effect_from_top_to_bottom():
    (axes,) = forest().axes
    assert [text.get_text() for text in axes.get_yticklabels()][:2] == ["affine=true", "a long name of a factor=0.125"]
    assert axes.yaxis_inverted() and axes.get_xlabel() == "difference"
    zero, *lines = axes.lines
    assert list(zero.get_xdata()) == [0, 0]
    seeds, marks = lines[::2], lines[1::2]
    assert [line.get_xdata().tolist() for line in seeds] == [[-0.12, -0.08], [], []]
    assert [(line.get_xdata()[0], line.get_ydata()[0]) for line in marks] == [(-0.1, 0), (0.02, 1), (0.3, 2)]
    assert [line.get_markerfacecolor() != "white" for line in marks] == [True, False, True]  # zero in the interval
    whiskers = [tuple(segment[:, 0]) for lines in axes.collections for segment in lines.get_segments()]
    assert whiskers == [(-0.2, -0.05), (-0.04, 0.08), (0.1, 0.4)]


def test_narrowing_keeps_the_highest_and_shows_what_is_left():
    figure = plotting.narrowing([[0.2, 0.5, 0.3], [0.6]], [2, 1], [0.5, 0.1], title="pool", potential_label="accuracy")
    upper, lower = figure.axes
    by_label = {collection.get_label(): collection.get_offsets().tolist() for collection in upper.collections}
    assert by_label["kept in the pool"] == [[1, 0.5], [1, 0.3]]
    assert by_label["candidate dropped"] == [[1, 0.2]]
    assert [2, 0.6] in points(upper).tolist() and len(points(upper)) == 4
    (line,) = lower.lines
    assert line.get_xydata().tolist() == [[0, 1], [1, 0.5], [2, 0.1]] and lower.get_yscale() == "log"


def test_regret_is_drawn_in_percentage_points_from_zero():
    nothing = np.full(2, np.nan)
    lot = ([15, 20], [0.02, 0.02], nothing, nothing)
    curves = {"pcnas": ([10, 20], [0.04, 0.01], [0.0, 0.0], [0.9, 0.1]), "random": lot}
    figure = plotting.regret_over_cost(curves, title="searches", cost_label="cost", references={"lot": 0.03})
    (axes,) = figure.axes
    assert [line.get_label() for line in axes.lines] == ["pcnas", "random", "lot"]
    assert axes.lines[0].get_xydata().tolist() == [[10, 4], [20, 1]] and axes.lines[0].get_drawstyle() == "steps-post"
    assert axes.lines[2].get_ydata()[0] == 3
    assert axes.get_ylim() == (0, 8)  # twice the highest line: bands of few seeds go beyond


@pytest.mark.parametrize(
    "make", [scatter, variants, forest, lambda: scatter(macs=np.arange(300) * 1e7, title="a word or two " * 12)]
)
def test_every_text_is_inside_the_picture(make):
    figure = make()
    figure.draw_without_rendering()
    box = figure.get_tightbbox()  # inches
    assert box.x0 >= 0 and box.y0 >= 0
    assert box.x1 <= figure.get_figwidth() and box.y1 <= figure.get_figheight()


@pytest.mark.parametrize(("suffix", "magic"), [("png", b"\x89PNG"), ("pdf", b"%PDF"), ("svg", b"<?xml")])
def test_figures_are_saved_by_suffix(tmp_path, suffix, magic):
    path = tmp_path / f"scatter.{suffix}"
    plotting.save_figure(scatter(20), path)
    assert path.read_bytes().startswith(magic)
    assert os.listdir(tmp_path) == [path.name]


def test_an_unknown_suffix_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match="xyz"):
        plotting.save_figure(Figure(), tmp_path / "scatter.xyz")
    assert os.listdir(tmp_path) == []


def test_a_read_only_folder_is_an_os_error_and_stays_empty(tmp_path):
    folder = tmp_path / "read_only"
    folder.mkdir()
    folder.chmod(0o555)
    is_root = os.geteuid() == 0
    if is_root:  # root may write everywhere
        os.seteuid(65534)
    try:
        with pytest.raises(OSError):
            plotting.save_figure(Figure(), folder / "figure.png")
    finally:
        if is_root:
            os.seteuid(0)
    assert os.listdir(folder) == []


def test_a_full_disk_leaves_the_old_picture(tmp_path, monkeypatch):
    path = tmp_path / "figure.png"
    path.write_bytes(b"old")

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        plotting.save_figure(Figure(), path)
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["figure.png"]


def test_growth_is_the_exponent_of_a_power_law():
    """Costs of 2 * count^1.5, and costs in proportion; both in the legend."""
    counts = np.array([10, 100, 1000])
    assert plotting.growth(counts, 2 * counts**1.5) == pytest.approx(1.5)
    curves = {"ours": (counts, 2 * counts**1.5), "serial": (counts, 3 * counts)}
    figure = plotting.cost_growth(curves, title="growth", count_label="architectures")
    (axes,) = figure.axes
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["ours, slope 1.50", "serial, slope 1.00"]
    assert axes.get_xscale() == axes.get_yscale() == "log"
    np.testing.assert_allclose(axes.lines[1].get_ydata(), 3 * counts)
