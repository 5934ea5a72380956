"""The way of ImageNet in small: pictures of several sizes, in a folder or in array records, are streamed through a
search that is interrupted and goes on, and what it finds is retrained, exported and judged."""

import io
from pathlib import Path

import numpy as np
import pytest
from experiment_runs import interrupt, result_of, start, struck, untimed
from PIL import Image
from test_datasets import write_tfds

from jaxnas import datasets, export
from jaxnas.datasets.sources import folder_set
from jaxnas.spaces import SPACES, mobilenet_v2

SEARCH = ["pcnas", "imagenet-rehearsal", "--space", "small", "--limit", "macs:5696", "--image-size", "8"]
SEARCH += ["--width", "4", "--num-steps", "12", "--num-warm-up-steps", "4", "--checkpoint-every", "2"]
SEARCH += ["--report-every", "2", "--batch-size", "16", "--num-valid", "40", "--num-eval-images", "20"]
SEARCH += ["--num-completions", "2", "--pool-size", "2", "--no-progress"]
STREAMED = ["--most-resident", "1", "--augment", "crop"]


def searched(workdir, *argv):
    """What a search that is interrupted ends with."""
    with struck("narrowed/02/pool.json", interrupt), pytest.raises(SystemExit):
        start(*SEARCH, *argv, "--workdir", workdir)
    start(*SEARCH, *argv, "--workdir", workdir)
    return result_of(workdir)


@pytest.mark.slow("a search and a retraining on pictures in a folder")
def test_the_way_of_imagenet_in_small(tmp_path, monkeypatch, capsys):
    """Pictures are written, a search on what is streamed is interrupted and goes on, and what it finds is retrained."""
    monkeypatch.delenv("JAXNAS_DATA", raising=False)  # of digits
    start(*SEARCH, "--workdir", tmp_path / "whole")
    result, whole = searched(tmp_path / "run"), result_of(tmp_path / "whole")
    assert result["arch"] == whole["arch"] and result["found_potential"] == whole["found_potential"]
    assert "the potential (accuracy) of what it finds is" in result["verdict"]
    pictures = tmp_path / "run" / "pictures"
    assert len(list(pictures.glob("train/*/*.jpg"))) == 800 and len(list(pictures.glob("val/*/*.jpg"))) == 300
    sizes = {Image.open(io.BytesIO(path.read_bytes())).size for path in pictures.glob("val/000/*.jpg")}
    assert sizes == {(9, 9), (12, 9)}
    retrain = ["retrain", "tiny", "--arch", tmp_path / "run" / "found.json", "--dataset", f"folder:{pictures}"]
    start(*retrain, "--most-resident", "1", "--image-size", "8", "--no-progress", "--workdir", tmp_path / "retrained")
    retrained = result_of(tmp_path / "retrained")
    assert retrained["arch"] == result["arch"] and retrained["export_difference"] < 1e-4


@pytest.fixture(scope="module")
def enlarged(data_dir, tmp_path_factory):
    """CIFAR-10, some of it, enlarged: a folder, and in the data folder beside it the set `enlarged` of the very same
    JPEGs in the same order in array records, which declares no size."""
    root = tmp_path_factory.mktemp("enlarged")
    data = datasets.load("cifar10", num_train=200, num_valid=100, data_dir=data_dir)
    few = data._replace(test_images=data.test_images[:60], test_labels=data.test_labels[:60])
    folder = datasets.write_folder(root / "pictures", few, 32)
    source = folder_set(f"folder:{folder}")
    given = {
        part: ([Path(path).read_bytes() for path in split.records.paths], split.labels)
        for part, split in (("train", source.train), ("test", source.test))
    }
    write_tfds(root, "enlarged", height=None, width=None, num_classes=10, given=given, encode=lambda encoded: encoded)
    return ["--dataset", f"folder:{folder}"], ["--dataset", "enlarged", "--data-dir", root]


def figures_of(workdir: Path) -> dict:
    """What a run ends with, but for what says where its pictures were."""
    ignored = {"config", "changed", "command", "run", "dataset", "data_dir", "workdir"}
    return untimed({name: value for name, value in result_of(workdir).items() if name not in ignored})


@pytest.mark.slow("searches on CIFAR-10 enlarged, from JPEGs in a folder and from the same in array records")
def test_a_search_is_the_same_from_array_records(enlarged, tmp_path, capsys):
    folder, records = enlarged
    start(*SEARCH, *folder, "--workdir", tmp_path / "folder")
    searched(tmp_path / "records", *records)
    assert figures_of(tmp_path / "folder") == figures_of(tmp_path / "records")
    found = [(tmp_path / name / "found.json").read_text() for name in ("folder", "records")]
    assert found[0] == found[1]


@pytest.mark.slow("MobileNetV2 retrained twice on CIFAR-10 enlarged, in a folder and in array records")
def test_a_retraining_is_the_same_from_array_records(enlarged, tmp_path, capsys):
    """Of a mobile space: trained on drawn crops, interrupted, resumed, scored, exported and compared with its files."""
    folder, records = enlarged
    space = SPACES["mobile_small"]
    arch = tmp_path / "found.json"
    arch.write_text(export.to_json(space, mobilenet_v2(space)))
    retrain = ["retrain", "tiny", "--arch", arch, *STREAMED, "--image-size", "32", "--num-train", "100"]
    retrain += ["--num-epochs", "2", "--num-rounds", "1", "--no-progress", "--workdir"]
    start(*retrain, tmp_path / "folder", *folder)
    with struck("retrained.npz", interrupt), pytest.raises(SystemExit):
        start(*retrain, tmp_path / "records", *records)
    start(*retrain, tmp_path / "records", *records)
    ours, theirs = (figures_of(tmp_path / name) for name in ("folder", "records"))
    latency = "measured_latency_ms"
    assert ours.pop(latency) > 0 and theirs.pop(latency) > 0
    assert ours == theirs and ours["export_difference"] < 1e-4
    weights = [np.load(tmp_path / name / "retrained.npz") for name in ("folder", "records")]
    assert all(np.array_equal(weights[0][leaf], weights[1][leaf]) for leaf in weights[0].files)
