"""The experiments on backbones: what they leave, that a killed run goes on, and that what is wrong is said."""

import errno
import sys

import jax
import numpy as np
import pytest
from experiment_runs import SMALL, fail, killed, refusal, result_of, rows_of, start, struck, untimed

from jaxnas import export
from jaxnas.spaces import SPACES
from jaxnas.supernets import make_supernet

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


@pytest.mark.slow("both experiments on backbones, on a small space, one of them killed")
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
    killed("random/seed0/outcome.json", *arguments(name, found), tmp_path / "killed")
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
