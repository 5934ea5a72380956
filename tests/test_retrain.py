"""Retraining of a found architecture: files hold what was scored, a killed run ends alike, what is wrong is said."""

import errno
import math
import re
import sys

import jax
import numpy as np
import pytest
from experiment_runs import SMALL, fail, refusal, result_of, start, struck, untimed
from PIL import Image

from experiments import detection, retrain
from experiments.shared.backbones import find_candidates
from jaxnas import datasets, export, runs
from jaxnas.runs import checkpoint
from jaxnas.space import ChainLayout
from jaxnas.spaces import SPACES, chain_space, digits_chain
from jaxnas.supernets import make_supernet

pytestmark = pytest.mark.usefixtures("no_data_dir")
ARCH = [1, 0, 1, 0]
own = chain_space("mine", ChainLayout(4, (4, 4), (1, 1), 0), [("nor_conv_1x1", "nor_conv_3x3")] * 2)
FILES = ("retrained.npz", "retrained.safetensors", "retrained.stablehlo", "retrained.json", "latency.json")


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    path = tmp_path_factory.mktemp("found") / "found.json"
    path.write_text(export.to_json(SMALL, ARCH))
    return path


@pytest.fixture(scope="module")
def arguments(found):
    return ["retrain", "tiny", "--arch", found, "--no-progress", "--workdir"]


@pytest.fixture(scope="module")
def whole(arguments, tmp_path_factory, no_data_dir):
    """An undisturbed run."""
    workdir = tmp_path_factory.mktemp("whole")
    start(*arguments, workdir)
    return workdir


def test_files_hold_what_was_scored(whole):
    result, data = result_of(whole), datasets.load("digits", num_train=64, num_valid=50, image_size=4)
    supernet = make_supernet(SMALL.resized(width=4))
    images = np.float32((data.test_images / 255.0 - data.mean) / data.std)
    program = jax.export.deserialize(bytearray((whole / "retrained.stablehlo").read_bytes()))
    scored = [np.asarray(program.call(data.test_images))]
    for name in FILES[:2]:
        module, variables = export.flax_module(supernet, export.load(whole / name, supernet))
        scored.append(np.asarray(jax.jit(module.apply)(variables, images)))
    for logits in scored:
        right = int((logits.argmax(axis=1) == data.test_labels).sum())
        assert right == round(result["accuracy"] * 897) and result["test_accuracy"] == result["accuracy"]
    np.testing.assert_allclose(scored[0], scored[1], atol=1e-4)
    assert result["export_difference"] < 1e-4 and result["measured_latency_ms"] > 0
    assert export.from_json((whole / "retrained.json").read_text(), SMALL).tolist() == ARCH
    assert (result["space"], result["arch"], result["trained_steps"]) == ("small", "1-0-1-0", 16)
    assert result["verdict"] == "the retrained network's test accuracy is {:.4f} [{:.4f}, {:.4f}]".format(
        *(result[f"test_accuracy{end}"] for end in ("", "_low", "_high"))
    )
    # Wilson's interval as textbooks have it.
    share, z, n = result["accuracy"], 1.959964, 897
    middle, reach = share + z**2 / (2 * n), z * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    ends = [(middle + sign * reach) / (1 + z**2 / n) for sign in (-1, 1)]
    np.testing.assert_allclose([result["test_accuracy_low"], result["test_accuracy_high"]], ends, rtol=1e-5)


def same_outcome(workdir, whole):
    for name in ("retrained.npz", "retrained.safetensors", "retrained.json"):  # a program has its own marks
        assert (workdir / name).read_bytes() == (whole / name).read_bytes(), name
    ignored = {"measured_latency_ms", "config", "changed", "command", "run", "data_sha256"}
    results = [untimed({k: v for k, v in result_of(folder).items() if k not in ignored}) for folder in (workdir, whole)]
    assert results[0] == results[1]


def test_an_interrupted_run_goes_on_from_its_checkpoint(arguments, whole, tmp_path, monkeypatch, capsys):
    save = checkpoint.save

    def save_and_stop(directory, step, *args, **kwargs):
        save(directory, step, *args, **kwargs)
        if step == 8:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", save_and_stop)
        with pytest.raises(SystemExit) as stop:
            start(*arguments, tmp_path)
    assert stop.value.code == 130 and not (tmp_path / "retrained.npz").exists()
    start(*arguments, tmp_path)
    same_outcome(tmp_path, whole)


def test_a_full_disk_while_weights_are_written_leaves_the_old_file_whole(arguments, whole, tmp_path, capsys):
    start(*arguments, tmp_path)
    (tmp_path / "result.json").unlink()
    before = {name: (tmp_path / name).read_bytes() for name in FILES}
    for name in FILES[:3]:
        with struck(name, fail(errno.ENOSPC)):
            line = refusal(capsys, *arguments, tmp_path)
        assert "No space left on device; make room, then start the same command again." in line
        after = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.name in FILES}
        assert after[name] == before[name] and set(after) == set(before)
        assert not list(tmp_path.glob("*.tmp"))
    start(*arguments, tmp_path)
    same_outcome(tmp_path, whole)


def test_another_architecture_does_not_go_on(arguments, whole, found, capsys):
    before = found.read_text()
    (whole / "result.json").rename(whole / "kept")
    found.write_text(export.to_json(SMALL, [0, 0, 1, 0]))
    assert "says that its arch is 1-0-1-0, expected 0-0-1-0" in refusal(capsys, *arguments, whole)
    found.write_text(before)
    (whole / "kept").rename(whole / "result.json")


def test_it_is_trained_at_the_size_that_its_file_says(found, tmp_path):
    """Width 2 by the file, where the space has 4; a width that is given wins."""
    path = tmp_path / "found.json"
    path.write_text(export.to_json(SMALL.resized(width=2, image_size=8), ARCH))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SPACES, "small", SMALL)
        published, arch = retrain.find_arch(retrain.Config(arch=str(found)))
        space, again = retrain.find_arch(retrain.Config(arch=str(path)))
    assert (published.layout, space.layout) == (SMALL.layout, SMALL.resized(width=2, image_size=8).layout)
    assert arch.tolist() == again.tolist() == ARCH
    assert retrain.PRESETS["quick"].width is retrain.PRESETS["quick"].image_size is None


@pytest.mark.parametrize(
    "text, words",
    [
        ("no JSON", "no architecture in JSON"),
        ("[1]", "no architecture in JSON"),
        (export.to_json(digits_chain, [0] * 5).replace("identity", "mb2_k3"), "whose ops, .* contradict its arch"),
        (export.to_json(own, [0, 1]), "an architecture of mine, a space of your own; where is it. --space"),
        (export.to_json(SPACES["rnn32"], [0] * SPACES["rnn32"].num_choices), "networks on text are not retrained"),
    ],
)
def test_architectures_that_are_none(text, words, tmp_path, capsys):
    path = tmp_path / "found.json"
    path.write_text(text)
    line = refusal(capsys, "retrain", "tiny", "--arch", path, "--workdir", tmp_path / "run")
    assert str(path) in line
    assert re.search(words, line)


def test_the_file_names_the_space_whatever_that_of_the_preset_is(tmp_path):
    path = tmp_path / "found.json"
    path.write_text(export.to_json(digits_chain, [0] * 5))
    assert retrain.PRESETS["cpu"].space == "nasbench_macro"
    space, arch = retrain.find_arch(runs.replace(retrain.PRESETS["cpu"], arch=str(path)))
    assert space.name == "digits_chain" and arch.tolist() == [0] * 5
    config = runs.replace(detection.PRESETS["cpu"], arch=(str(path),), num_random=0, mobilenet_v2=False)
    assert {each.published.name for each in find_candidates(config)} == {"digits_chain"}


def test_what_is_missing_is_said_in_one_line(tmp_path, capsys, monkeypatch):
    line = refusal(capsys, "retrain", "tiny", "--arch", tmp_path / "gone.json", "--workdir", tmp_path / "run")
    assert "gone.json" in line and "No such file" in line
    monkeypatch.setitem(sys.modules, "jax2onnx", None)
    line = refusal(capsys, "retrain", "tiny", "--onnx", "--workdir", tmp_path / "run")
    assert "pip install 'jaxnas[onnx]', in an environment of its own" in line


@pytest.mark.slow("two trainings on a folder of pictures")
def test_pictures_that_are_streamed_train_as_those_that_are_held(tmp_path, found, monkeypatch, capsys):
    """The streamed run is interrupted on the way, and ends with the held one's weights."""
    rng = np.random.default_rng(0)
    for part, count in (("train", 50), ("val", 10)):
        for label, name in enumerate(("dark", "bright")):
            (tmp_path / part / name).mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(100 * label, 100 * label + 155, (9, 7 + number % 5, 3), np.uint8)
                Image.fromarray(pixels).save(tmp_path / part / name / f"{number}.png")
    arguments = ["retrain", "tiny", "--arch", found, "--dataset", f"folder:{tmp_path}", "--num-valid", "20"]
    arguments += ["--image-size", "4", "--no-progress"]
    start(*arguments, "--workdir", tmp_path / "held")
    save = checkpoint.save

    def save_and_stop(directory, step, *args, **kwargs):
        save(directory, step, *args, **kwargs)
        if step == 8:
            raise KeyboardInterrupt

    streamed = [*arguments, "--most-resident", "1", "--workdir", tmp_path / "streamed"]
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", save_and_stop)
        with pytest.raises(SystemExit):
            start(*streamed)
    start(*streamed)
    same_outcome(tmp_path / "streamed", tmp_path / "held")
