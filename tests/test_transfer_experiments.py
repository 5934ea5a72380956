"""The experiments on backbones: what they leave, that a killed run goes on, and that what is wrong is said."""

import errno
import math
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from experiment_runs import SMALL, fail, killed, refusal, result_of, rows_of, start, struck, untimed

from experiments import detection, reidentification
from experiments.shared.backbones import Candidate, over, summarise
from experiments.shared.scenes import Task, chance_of, truth_of
from jaxnas import datasets, export, runs
from jaxnas.runs import sealed
from jaxnas.spaces import SPACES
from jaxnas.supernets import make_supernet
from jaxnas.transfer import Detections, Detector, Embedder

pytestmark = pytest.mark.usefixtures("no_data_dir")
FIGURE = {"detection": "ap", "reidentification": "map"}


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    path = tmp_path_factory.mktemp("found") / "found.json"
    path.write_text(export.to_json(SMALL, [1, 0, 1, 0]))
    return path


def arguments(name, found):
    more = ["--stride", "2"] if name == "reidentification" else []
    return [name, "tiny", "--arch", found, "--limit", "macs:1e6", *more, "--no-progress", "--workdir"]


@pytest.mark.slow("both experiments on backbones, on a small space, killed in each phase")
@pytest.mark.parametrize("name", FIGURE)
def test_backbones_are_compared(name, found, tmp_path, capsys):
    if name == "detection":
        pytest.importorskip("pycocotools", reason="pip install 'jaxnas[detection]'")
    start(*arguments(name, found), tmp_path / "whole")
    result, rows = result_of(tmp_path / "whole"), rows_of(tmp_path / "whole" / "backbones.csv")
    assert [row["backbone"] for row in rows] == ["found", "untrained", "random"]
    figure = FIGURE[name]
    values = {row["backbone"]: float(row[figure]) for row in rows}
    assert result[figure] == pytest.approx(values["found"]) and 0 <= result[figure] <= 1
    assert result[f"found_over_random_{figure}"] == pytest.approx(values["found"] - values["random"], abs=1e-7)
    assert result[f"{figure}_over_untrained"] == pytest.approx(values["found"] - values["untrained"], abs=1e-7)
    assert rows[0]["arch"] == rows[1]["arch"] == "1-0-1-0" and rows[1]["accuracy"] == "nan"
    assert result["headline"] == figure and f"{result[figure]:.3f}" in result["verdict"]
    picture = "detections.png" if name == "detection" else "retrieved.png"
    assert all((tmp_path / "whole" / each).stat().st_size > 5000 for each in (picture, "transfer.png", "report.html"))
    doing = "detecting" if name == "detection" else "embedding"
    (last,) = (tmp_path / "whole/backbones/found/seed0/classifying/checkpoints").iterdir()
    for place in (
        f"classifying/checkpoints/.new_{last.name}/manifest.json",
        f"{doing}/checkpoints/.new_step_00000002/manifest.json",
        "random/seed0/outcome.json",
    ):
        killed(place, *arguments(name, found), tmp_path / "killed")
    start(*arguments(name, found), tmp_path / "killed")
    ignored = {"config", "changed", "command", "run"}
    results = [
        untimed({key: value for key, value in result_of(tmp_path / each).items() if key not in ignored})
        for each in ("whole", "killed")
    ]
    assert results[0] == results[1]
    (tmp_path / "whole" / "result.json").unlink()
    with struck("transfer.png", fail(errno.ENOSPC)):
        line = refusal(capsys, *arguments(name, found), tmp_path / "whole")
    assert "No space left on device; make room" in line
    start(*arguments(name, found), tmp_path / "whole")
    assert result_of(tmp_path / "whole")[figure] == result[figure]


@pytest.mark.parametrize(
    "name, argv, words",
    [
        ("detection", ["--arch", "nowhere.json"], "nowhere.json"),
        ("detection", ["--num-warm-up-steps", "4"], "num_warm_up_steps is 4, expected fewer than the 4 of num_steps"),
        ("detection", ["--num-best", "0"], "no backbone: give arch, or at least 1 as num_best"),
        ("detection", ["--space", "mobile_small_cifar"], "mobile_small_cifar"),  # there is no table of it
        ("detection", ["--limit", "macs:5"], "macs <= 5"),
        ("detection", ["--coco", "/nowhere", "--num-random", "0"], "0 files annotations/instances_train"),
        ("detection", ["--strides", "2", "3", "--num-random", "0"], "no features at stride 3; it has strides 1, 2, 4"),
        ("reidentification", ["--held-out", "3", "--num-random", "0"], "classes held out are [3] of [0, 1, 2, 3,"),
        (
            "reidentification",
            ["--market", "/nowhere", "--num-random", "0"],
            "/nowhere: there is no folder bounding_box",
        ),
        ("reidentification", ["--num-identities", "9", "--num-random", "0"], "a batch of 9 identities, but the"),
        ("reidentification", ["--backbone-rate", "2"], "backbone_rate is 2.0, expected"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(name, argv, words, tmp_path, capsys):
    if name == "detection":
        pytest.importorskip("pycocotools", reason="pip install 'jaxnas[detection]'")
    line = refusal(capsys, name, "tiny", *argv, "--no-progress", "--workdir", tmp_path)
    assert line is not None and words in line


def test_without_pycocotools_the_extra_is_named(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    line = refusal(capsys, "detection", "tiny", "--workdir", tmp_path)
    assert "pip install 'jaxnas[detection]'" in line


def test_weights_of_another_network_are_refused(tmp_path, capsys):
    """A file says of which size its network is, and what it was trained for."""
    space = SMALL.resized(width=4, image_size=8)
    supernet = make_supernet(space)
    path = tmp_path / "found.npz"
    export.save(path, export.export(supernet, supernet.init(jax.random.key(0)), [1, 0, 1, 0]), space)
    known = {"small": SMALL, "digits_chain": SPACES["digits_chain"]}
    again = export.space_in(path, known)
    assert again.layout == space.layout and again.fingerprint == SMALL.fingerprint
    assert np.array_equal(export.load(path, make_supernet(again)).arch, [1, 0, 1, 0])
    with pytest.raises(ValueError, match=r"found.npz: no exported network of digits_chain"):
        export.space_in(path, {"digits_chain": SPACES["digits_chain"]})
    argv = ["reidentification", "tiny", "--arch", path, "--stride", "2", "--limit", "macs:1e6"]
    line = refusal(capsys, *argv, "--image-size", "4", "--workdir", tmp_path / "run")
    assert "a network for images of 8 px, 1 channels and 10 classes, but the data have 4 px, 1 channels, 7" in line


def test_what_a_detector_finds_is_judged_and_drawn(tmp_path):
    """The parts around a detector, with one that always says the same: nothing is trained or compiled for long."""
    pytest.importorskip("pycocotools", reason="pip install 'jaxnas[detection]'")
    data = datasets.load("digits", num_train=40, num_valid=20, image_size=8)
    made = [
        datasets.paste(images, labels, 10, number, size=16, sides=(6, 8), most_objects=2, seed=number)
        for images, labels, number in (
            (data.train_images, data.train_labels, 6),
            (data.test_images, data.test_labels, 9),
        )
    ]
    task, config = Task("digits pasted", *made, data), detection.PRESETS["tiny"]

    def detect(params, images, stats):
        boxes = jnp.tile(jnp.array([[[1.0, 2, 7, 9], [0, 0, 0, 0]]]), (len(images), 1, 1)) + params
        assert set(stats) == {"layer"}
        return Detections(
            boxes, jnp.tile(jnp.array([[0.9, 0]]), (len(images), 1)), jnp.tile(jnp.array([[3, -1]]), (len(images), 1))
        )

    stub = Detector((2, 4), 10, None, lambda params, images, stats: (None, {"layer": images.sum()}), detect)
    found = detection.make_detect(config, task, stub)(jnp.zeros(()))
    assert len(found) == 9 and all(each.labels.tolist() == [3] for each in found)
    np.testing.assert_allclose(found[8].boxes, [[1, 2, 7, 9]])
    assert 0 <= chance_of(task, 0) < 0.5
    truth = truth_of(task.test)
    assert sum(len(each.labels) for each in truth) == (task.test.labels >= 0).sum()
    boxes = detection.mirrored(jnp.array([[1.0, 2, 7, 9]]), 16)
    np.testing.assert_allclose(boxes, [[9, 2, 15, 9]])
    origin = {"run": "identity", "backbone": "found", "seed": 0}
    shown = [
        {"boxes": each.boxes.tolist(), "labels": each.labels.tolist(), "scores": each.scores.tolist()} for each in found
    ]
    (tmp_path / "backbones/found/seed0").mkdir(parents=True)
    sealed.write_json(tmp_path / "backbones/found/seed0/shown.json", "detections", shown[:8], origin)
    detection.draw(config, task, tmp_path, "identity", rows_of_three("ap"), "as if", 0.02)
    assert all((tmp_path / name).stat().st_size > 5000 for name in ("detections.png", "transfer.png"))


def test_what_queries_find_is_judged_and_drawn(tmp_path):
    data = datasets.load("digits", num_train=100, num_valid=50, image_size=8)
    config = runs.replace(reidentification.PRESETS["tiny"], num_valid=50, num_train=100)
    task = reidentification.load_task(
        config, [Candidate("found", "found", SPACES["digits_chain"], np.zeros(5, np.int32))]
    )
    assert task.data.num_classes == 7 and set(task.data.train_labels.tolist()) == set(range(7))
    assert len(task.data.train_images) == (~np.isin(data.train_labels, [3, 6, 8])).sum()

    def apply(params, images, stats):
        flat = images.reshape(len(images), -1)
        return flat, flat * params, None, {"layer": flat.sum()}

    pooled, embedded = reidentification.make_embed(config, task, Embedder(None, apply))(jnp.full((), 2.0))
    np.testing.assert_allclose(pooled, embedded, atol=1e-5)  # an angle knows no length
    assert pooled.shape == (len(task.reid.query.images), len(task.reid.gallery.images))
    judged = reidentification.judge(task, pooled)
    assert 0 < judged.mean_average_precision < 1 and 0 < reidentification.by_pixels(task) < 1
    origin = {"run": "identity", "backbone": "found", "seed": 0}
    rows = judged.queries[np.linspace(0, len(judged.queries) - 1, reidentification.NUM_SHOWN).astype(int)]
    (tmp_path / "backbones/found/seed0").mkdir(parents=True)
    sealed.write_json(tmp_path / "backbones/found/seed0/shown.json", "distances", pooled[rows].tolist(), origin)
    references = {"pixels_map": 0.3, "random_weights_map": 0.2}
    reidentification.draw(config, task, tmp_path, "identity", rows_of_three("map"), "as if", references)
    assert all((tmp_path / name).stat().st_size > 5000 for name in ("retrieved.png", "transfer.png"))


def rows_of_three(figure):
    """As `compare` gives them: two seeds of four backbones."""
    values = {"found": (0.5, 0.7), "untrained": (0.2, 0.3), "random_1": (0.4, 0.5), "random_2": (0.3, 0.3)}
    return [
        {
            "backbone": name,
            "group": name.partition("_")[0],
            "seed": seed,
            "accuracy": math.nan if name == "untrained" else 0.1 * number + 0.01 * seed,
            figure: value,
        }
        for number, (name, pair) in enumerate(values.items())
        for seed, value in enumerate(pair)
    ]


def test_the_summary_by_hand():
    found = summarise(rows_of_three("ap"), "ap")
    assert found["ap"] == pytest.approx(0.6) and found["backbone"] == "found"
    assert found["ap_over_untrained"] == pytest.approx(0.35)
    assert found["found_over_random_ap"] == pytest.approx(0.6 - 0.375)
    # paired by seed, one against the mean of two: 0.15 and 0.3, whose t interval has a reach of 12.706 x 0.075
    assert found["found_over_random_ap_low"] == pytest.approx(0.225 - 12.7062 * 0.075, abs=1e-4)
    assert found["num_backbones"] == 3 and found["accuracy_kendall_tau"] == pytest.approx(-1.0)
    two = over([np.array([0.5]), np.array([0.7])], [np.array([0.2]), np.array([0.4])])
    expected = scipy.stats.ttest_ind([0.5, 0.7], [0.2, 0.4], equal_var=False).confidence_interval(0.95)
    np.testing.assert_allclose(two, [0.3, expected.low, expected.high])
