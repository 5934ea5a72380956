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


def legend(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


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
    assert title.splitlines() == [
        "digits_chain on digits",
        "Kendall's τ = 0.612, 95 % interval over architectures [0.587, 0.640]",
        "300 architectures",
    ]
    assert scatter(1).axes[0].get_title("left").endswith("\n1 architecture")
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


def test_scatter_draws_far_architectures_at_their_own_values_and_counts_them():
    """Three in one corner, of which two are the same point on an axis: all of them stay apart and true."""
    truth = np.r_[np.arange(101.0), -1000.0, -2000.0, -2000.0]  # quartiles near 22 and 74: far out from about -130
    scores = np.r_[np.arange(101.0), -500.0, -600.0, -700.0]
    axes = scatter(104, scores=scores, truth=truth).axes[0]
    assert axes.get_title("left").endswith("104 architectures, 3 of them far out: shaded, on a squeezed scale")
    np.testing.assert_array_equal(np.sort(points(axes), axis=0), np.sort(np.stack([scores, truth], axis=1), axis=0))
    places = axes.transData.transform(points(axes))
    assert len(np.unique(places.round(), axis=0)) == 103 + 1  # pixels
    box = axes.get_window_extent()
    assert (places > [box.x0, box.y0]).all() and (places < [box.x1, box.y1]).all()
    below, left = axes.transData.transform([-2, -2])[1], axes.transData.transform([-2, -2])[0]
    assert (places[:, 0] < left).sum() == (places[:, 1] < below).sum() == 3
    left_part, lower_part = (patch.get_bbox() for patch in axes.patches)
    assert left_part.xmax == lower_part.ymax == -2 and left_part.xmin < -700 and lower_part.ymin < -2000
    assert [text.get_text() for text in axes.get_yticklabels()][-1] == "\N{MINUS SIGN}2e+03"


def test_scatter_is_linear_where_most_lie():
    scores = np.r_[np.arange(101.0), 1e5]
    axes = scatter(102, scores=scores, truth=scores).axes[0]
    at = axes.transData.transform([[0, 0], [25, 25], [100, 100], [1e5, 1e5]])
    assert at[1] - at[0] == pytest.approx((at[2] - at[0]) / 4)
    assert (at[3] - at[2]) / (at[2] - at[0]) == pytest.approx(0.02 + 0.12 * (1 + 2 * 0.02))  # the gap, the strip
    assert [label.get_text() for label in axes.get_xticklabels()][-1] == "1e+05"
    inverse = axes.transScale.inverted().transform(axes.transScale.transform(np.stack([scores, scores], axis=1)))
    np.testing.assert_allclose(inverse[:, 0], scores, rtol=1e-9)


def test_scatter_of_mostly_equal_scores_squeezes_nothing():
    scores = np.r_[np.full(99, 0.1), 0.9]  # no spread between the quartiles
    axes = scatter(100, scores=scores, truth=np.arange(100.0)).axes[0]
    assert points(axes)[:, 0].max() == 0.9 and "far" not in axes.get_title("left") and axes.get_xscale() == "linear"


def test_scatter_refuses_what_has_no_place():
    with pytest.raises(ValueError, match="nan or inf, which have no place; leave such architectures out"):
        scatter(3, scores=np.array([1.0, np.nan, 2.0]), truth=np.arange(3.0))


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
    assert legend(figure) == ["prediction = measurement", "quartiles over rounds", "a network, median over rounds"]
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
    fixed, other = (line.get_xydata() for line in first.lines[:2])
    assert fixed.tolist() == [[8, 1], [64, 2]]
    assert other[0, 1] == 5 and 64 < other[0, 0] < 70  # beside what stands at 64 already
    assert [line.get_ydata()[0] for line in first.lines[2:]] == [0.5]
    bars = [segment.tolist() for bars in first.collections for segment in bars.get_segments()]
    assert bars == [[[8, 0], [8, 3]], [[64, 1], [64, 4]], [[other[0, 0], 4], [other[0, 0], 6]]]
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
    assert len(top.lines[0].get_xdata()) == 30 and legend(figure) == ["one super-net"]
    np.testing.assert_array_equal(bottom.lines[0].get_xdata(), [0, 10, 20])  # what was not measured leaves no gap
    np.testing.assert_array_equal(bottom.lines[0].get_ydata(), [20, 50, 60])


def test_training_curve_smooths_many_values():
    steps = np.arange(1000)
    figure = plotting.training_curve(steps, {"loss": (steps % 20).astype(float)}, title="saw")
    (axes,) = figure.axes
    raw, mean = axes.lines
    assert len(raw.get_xdata()) == 1000
    assert legend(figure) == ["each value", "one super-net, mean of 20 values"]
    np.testing.assert_allclose(mean.get_ydata(), 9.5)  # one period of 0, ..., 19
    assert mean.get_xdata()[0] == 10 and mean.get_xdata()[-1] == 990  # centred


def test_training_curve_shows_every_supernet_and_their_mean():
    losses = [[3.0, 2.0, 1.0], [5.0, np.nan, 2.0]]
    figure = plotting.training_curve([10, 20, 30], {"loss": losses}, title="two")
    first, second, mean = figure.axes[0].lines
    assert first.get_xydata().tolist() == [[10, 3], [20, 2], [30, 1]]
    assert second.get_xydata().tolist() == [[10, 5], [30, 2]]
    assert mean.get_xydata().tolist() == [[10, 4], [30, 1.5]]
    assert legend(figure) == ["each super-net", "mean of 2 super-nets"]


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
    assert legend(figure) == [
        "one super-net, 95 % interval over architectures",
        *(f"{name}: {value:.3f}" for name, value in references.items()),
    ]
    assert len(plotting.tau_over_training([0], [0.1], [0.0], [0.2], title="one evaluation").axes[0].lines) == 1


def test_tau_over_training_shows_every_supernet():
    each = [[0.1, 0.3], [0.3, 0.7]]
    figure = plotting.tau_over_training([5, 10], [0.2, 0.5], [0.1, 0.4], [0.3, 0.6], title="tau", each=each)
    first, second, mean = figure.axes[0].lines
    assert [line.get_ydata().tolist() for line in (first, second, mean)] == [*each, [0.2, 0.5]]
    band = "95 % interval over them and architectures"
    assert legend(figure) == ["each super-net", f"mean of 2 super-nets, {band}"]


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
    mean = "mean of 3 seeds, 95 % interval over seeds and architectures"
    assert legend(figure) == ["one seed", mean, "FLOPs only: 0.250"]  # every kind of line, once


def test_paired_sides_join_the_points_of_a_seed():
    taus = {"gdas": [[0.1, 0.3], [0.2, 0.7]], "nao": [[0.4, 0.4], [0.5, 0.3]]}
    panels = {"tau": (taus, {"FLOPs only": 0.6}), "accuracy": ({"gdas": [[0.9, 0.8], [0.7, 0.8]]}, {})}
    figure = plotting.paired_sides(panels, sides=("without", "with"), title="2 seeds")
    left, right = figure.axes
    *seeds, flops = left.lines
    assert [line.get_ydata().tolist() for line in seeds] == [[0.1, 0.2], [0.3, 0.7], [0.4, 0.5], [0.4, 0.3]]
    assert flops.get_ydata()[0] == 0.6 and left.get_title(loc="left") == "dotted: FLOPs only: 0.600"
    assert [label.get_text() for label in left.get_xticklabels()] == ["gdas", "nao"]
    without, mean, *_ = right.collections
    assert without.get_offsets()[:, 1].tolist() == [0.9, 0.8] and mean.get_offsets()[0, 1] == pytest.approx(0.85)
    assert [axes.get_ylabel() for axes in figure.axes] == ["tau", "accuracy"]
    assert legend(figure) == ["without", "mean without", "with", "mean with"]


def forest():
    effects = {
        "affine=true": (-0.1, -0.2, -0.05),
        "a long name of a factor=0.125": (0.02, -0.04, 0.08),
        "one": (0.3, 0.1, 0.4),
    }
    return plotting.forest(effects, title="space", label="difference", points={"affine=true": [-0.12, -0.08]})


def test_forest_has_a_row_for_each_effect_from_top_to_bottom():
    figure = forest()
    (axes,) = figure.axes
    assert [text.get_text() for text in axes.get_yticklabels()][:2] == ["affine=true", "a long name of a factor=0.125"]
    assert axes.yaxis_inverted() and axes.get_xlabel() == "difference"
    zero, *lines = [line for line in axes.lines if line.get_label().startswith("_")]  # without the legend's own
    assert list(zero.get_xdata()) == [0, 0]
    seeds, marks = lines[::2], lines[1::2]
    assert all(0 < line.get_ydata()[0] - row < 0.5 for row, line in enumerate(seeds[:1]))  # below the bar, not on it
    assert legend(figure) == ["95 % interval without zero", "interval that holds zero", "single seeds"]
    assert [line.get_xdata().tolist() for line in seeds] == [[-0.12, -0.08], [], []]
    assert [(line.get_xdata()[0], line.get_ydata()[0]) for line in marks] == [(-0.1, 0), (0.02, 1), (0.3, 2)]
    assert [line.get_markerfacecolor() != "white" for line in marks] == [True, False, True]  # zero in the interval
    whiskers = [tuple(segment[:, 0]) for lines in axes.collections for segment in lines.get_segments()]
    assert whiskers == [(-0.2, -0.05), (-0.04, 0.08), (0.1, 0.4)]


def narrowing():
    return plotting.narrowing(
        [[0.2, 0.5, 0.3], [0.6, 0.6]], [2, 2], [0.5, 0.1], title="pool", potential_label="accuracy"
    )


def test_narrowing_shows_every_candidate_and_what_is_left():
    figure = narrowing()
    upper, lower = figure.axes
    kept, dropped = (np.asarray(collection.get_offsets()) for collection in upper.collections)
    assert (kept[:, 0].round().tolist(), kept[:, 1].tolist()) == ([1, 1, 2, 2], [0.5, 0.3, 0.6, 0.6])
    assert (dropped[:, 0].round().tolist(), dropped[:, 1].tolist()) == ([1], [0.2])
    assert len(np.unique(points(upper), axis=0)) == 5  # the two of 0.6 side by side
    assert legend(figure) == ["kept in the pool", "dropped"]
    (line,) = lower.lines
    assert line.get_xydata().tolist() == [[0, 1], [1, 0.5], [2, 0.1]] and lower.get_yscale() == "log"
    figure.draw_without_rendering()
    low, high = lower.get_ylim()
    ticks = {tick.get_text() for at, tick in zip(lower.get_yticks(), lower.get_yticklabels()) if low < at < high}
    assert ticks == {"100 %", "10 %"}


def test_narrowing_where_nothing_is_dropped_has_both_in_its_legend():
    figure = plotting.narrowing([[0.2]], [1], [1.0], title="pool", potential_label="accuracy")
    assert legend(figure) == ["kept in the pool", "dropped"] and len(points(figure.axes[0])) == 1


def regret():
    curves = {
        "pcnas": ([10, 20], [0.04, 0.01], [0.0, -0.02], [0.9, 0.1]),
        "random": ([15, 20], [0.02, 0.02], [0.01, 0.01], [0.03, 0.03]),
        "spos": ([15, 20], [0.02, 0.02], *np.full((2, 2), np.nan)),
    }
    return plotting.regret_over_cost(curves, title="searches", cost_label="cost", references={"lot": 0.03})


def test_regret_has_a_panel_for_each_search_in_percentage_points_from_zero():
    figure = regret()
    panels = [axes for axes in figure.axes if axes.get_visible()]
    titles = [axes.get_title("left") for axes in panels]
    assert titles == ["pcnas: 1.00 [-2.00, 10.00]", "random: 2.00 [1.00, 3.00]", "spos: 2.00"]
    for axes, (name, low, costs, values) in zip(
        panels, [("pcnas", 0, [10, 20], [4, 1]), ("random", 1, [15, 20], [2, 2]), ("spos", None, [15, 20], [2, 2])]
    ):
        (own,) = [line for line in axes.lines if line.get_label() == "mean over seeds"]
        assert own.get_xdata().tolist() == costs and own.get_ydata().tolist() == values, name
        assert own.get_drawstyle() == "steps-post" and axes.get_ylim() == (0, 5)  # a quarter above the highest line
        assert len(axes.lines) == 1 + 2 + 1  # the other searches, the reference
        assert len(axes.collections) == (low is not None)  # its own band and no other's
    assert (
        figure.get_suptitle() == "searches\npanels: regret at the end; bands reach up to 90 points, beyond the picture"
    )
    expected = ["other searches", "95 % interval over seeds", "mean over seeds", "lot: 3.00"]
    assert legend(figure) == expected
    assert [axes.get_xlabel() for axes in panels] == ["", "cost", "cost"]  # the lowest of each column


def test_regret_of_one_seed_has_no_band():
    curves = {"pcnas": ([10, 20], [0.04, 0.01], *np.full((2, 2), np.nan))}
    figure = plotting.regret_over_cost(curves, title="searches", cost_label="cost")
    assert legend(figure) == ["mean over seeds"] and "beyond" not in figure.get_suptitle()


def over_training():
    references = {"FLOPs only": 0.2, "between training seeds of the truth": 0.6}
    each = [[0.1, 0.3], [0.3, 0.7]]
    return plotting.tau_over_training(
        [5, 10], [0.2, 0.5], [0, 0.4], [1, 1], title="tau", each=each, references=references
    )


@pytest.mark.parametrize(
    "make",
    [
        scatter,
        variants,
        forest,
        narrowing,
        regret,
        over_training,
        lambda: scatter(macs=np.arange(300) * 1e7, title="a word or two " * 12),
    ],
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
    assert legend(figure) == ["ours, slope 1.50", "serial, slope 1.00"]
    figure.draw_without_rendering()
    assert {"10", "100", "1,000"} <= {label.get_text() for label in axes.get_xticklabels()}
    assert axes.get_xscale() == axes.get_yscale() == "log"
    np.testing.assert_allclose(axes.lines[1].get_ydata(), 3 * counts)


def test_a_network_has_each_node_and_each_edge_once():
    cell = [("input", ""), ("node 1", ""), ("output", "")], [(0, 1, "conv"), (0, 2, "skip"), (1, 2, "")]
    figure = plotting.networks({"normal": cell, "reduction": cell}, title="two cells")
    assert figure.get_suptitle() == "two cells" and len(figure.axes) == 2
    for axes, name in zip(figure.axes, ("normal", "reduction")):
        texts = [text.get_text() for text in axes.texts]
        assert sorted(texts) == sorted(["input", "node 1", "output", "conv", "skip"])
        assert len(axes.patches) == 3 and axes.get_title("left") == name


@pytest.mark.parametrize("num_layers", [1, 5, 22])
def test_a_chain_is_read_like_text(num_layers):
    nodes = [("input", ""), *((f"layer {n}", f"op{n}") for n in range(num_layers)), ("output", "")]
    edges = [(n, n + 1, "") for n in range(num_layers + 1)]
    figure = plotting.networks({"network": (nodes, edges)}, title="a chain")
    (axes,) = figure.axes
    assert [text.get_text() for text in axes.texts] == ["input", *(f"op{n}" for n in range(num_layers)), "output"]
    at = np.array([text.xy for text in axes.texts])
    np.testing.assert_array_equal(np.lexsort((at[:, 0], -at[:, 1])), np.arange(len(nodes)))
    assert len(axes.patches) == num_layers + 1


def test_no_two_labels_of_a_dense_cell_overlap():
    """All ten edges among five nodes with the longest name that NAS-Bench-201 has."""
    edges = [(source, target, "nor_conv_3x3") for target in range(5) for source in range(target)]
    nodes = [("input", ""), *((f"node {n}", "") for n in (1, 2, 3)), ("output", "")]
    figure = plotting.networks({"cell": (nodes, edges)}, title="dense")
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in figure.axes[0].texts]
    assert not [(one, other) for i, one in enumerate(boxes) for other in boxes[:i] if one.overlaps(other)]
    frame = figure.bbox
    assert all(frame.x0 <= box.x0 and box.x1 <= frame.x1 for box in boxes)


def test_correlations_are_numbers_in_cells():
    taus = {"one": [[0.5, -0.75], [np.nan, -0.001]], "other": np.eye(2)}
    figure = plotting.correlations(taus, ["accuracy", "MACs"], ["1", "2"], title="what components are")
    one, other = figure.axes
    assert [text.get_text() for text in one.texts] == ["0.50", "-0.75", "0.00"] and len(other.texts) == 4
    assert one.get_title() == "one" and [label.get_text() for label in one.get_yticklabels()] == ["accuracy", "MACs"]
    with pytest.raises(ValueError, match=r"one: shape \(1, 2\), expected \(2, 2\), rows and columns"):
        plotting.correlations({"one": [[0.5, 0.5]]}, ["accuracy", "MACs"], ["1", "2"], title="")


def test_pictures_stand_in_rows_under_their_captions():
    grey, coloured = np.full((8, 8, 1), 7, np.uint8), np.zeros((4, 4, 3), np.uint8)
    groups = {"high": [grey, coloured], "low": [coloured]}
    figure = plotting.pictures(groups, {"high": ["a 3", "a 5"], "low": ["a 1"]}, title="images")
    high, low = figure.subfigs
    assert [axes.get_title() for axes in high.axes + low.axes] == ["a 3", "a 5", "a 1"]
    assert [part.get_suptitle() for part in figure.subfigs] == ["high", "low"]
    assert (high.axes[0].images[0].get_array() == 7).all() and high.axes[1].images[0].get_array().shape == (4, 4, 3)
