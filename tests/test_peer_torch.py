"""The PyTorch super-nets that speed is compared with give the logits and scores of ours."""

import contextlib
import shutil

import jax
import numpy as np
import pytest
from conftest import random_params

from jaxnas.evaluation import make_evaluator
from jaxnas.space import ChainLayout
from jaxnas.spaces import SPACES, chain_space
from jaxnas.supernets import make_supernet

torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install -e '.[benchmarks]'")

from benchmarks import peer_torch  # noqa: E402 (it needs PyTorch)


@pytest.fixture(autouse=True)
def one_thread():
    """On a busy machine the threads of one tiny operation wait for each other a thousand times longer than it takes."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def some_images(space, num_images):
    layout = space.layout
    shape = (num_images, layout.image_size, layout.image_size, layout.in_channels)
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def some_archs(space, num_random):
    """Each operation at all choices ("none" among them), and random codes."""
    uniform = [np.minimum(op, np.array(space.num_ops) - 1) for op in range(max(space.num_ops))]
    random = np.random.default_rng(1).integers(0, space.num_ops, (num_random, space.num_choices))
    return np.concatenate([uniform, random]).astype(np.int32)


@pytest.mark.parametrize(
    "name, affine, sizes",
    [
        ("nasbench201", True, {"width": 4, "image_size": 8, "cells_per_stage": 1}),
        ("nasbench201", False, {"width": 4, "image_size": 8, "cells_per_stage": 1}),
        ("nasbench_macro", True, {"width": 4, "image_size": 8}),
        ("digits_chain", True, {}),
    ],
)
def test_logits(name, affine, sizes):
    space = SPACES[name].resized(**sizes)
    supernet = make_supernet(space, affine=affine)
    params = random_params(supernet)
    images, archs = some_images(space, 6), some_archs(space, 6)

    @jax.jit
    def serial(params, archs):
        return jax.lax.map(lambda code: supernet.apply(params, code, images, groups=None)[0], archs)

    expected = np.asarray(serial(params, archs))
    assert expected.std(axis=0).mean() > 0.1  # architectures differ by far more than the tolerance
    for channels_last in (False, True):
        peer = peer_torch.make_peer(supernet, params, channels_last=channels_last)
        x = peer_torch.to_torch(images, channels_last=channels_last)
        with torch.no_grad():
            got = np.stack([peer(code, x) for code in archs.tolist()])
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("route", peer_torch.ROUTES)
def test_scores(small_supernet, monkeypatch, route):
    """Images that don't fill the last batch, and weights that change between calls."""
    monkeypatch.setattr(torch, "compile", lambda module, **settings: module)  # it takes seconds; see test_compiled
    supernet, params = small_supernet("tiny")
    images, archs = some_images(supernet.space, 6), some_archs(supernet.space, 2)
    labels = np.arange(6) % 10
    ours = make_evaluator(supernet, strategy="serial", images_per_call=4).evaluate
    peer = peer_torch.make_peer_evaluator(supernet, route=route, images_per_call=4)
    losses = []
    for weights in (params, jax.tree.map(lambda leaf: leaf + 0.5, params)):
        expected, got = (evaluate(weights, archs, images, labels) for evaluate in (ours, peer))
        np.testing.assert_allclose(got.loss, expected.loss, rtol=0, atol=1e-4)
        np.testing.assert_array_equal(got.accuracy, expected.accuracy)
        losses.append(got.loss)
    assert np.abs(losses[0] - losses[1]).min() > 1e-3


@pytest.mark.skipif(not any(map(shutil.which, ("c++", "g++", "clang++"))), reason="torch.compile needs a C++ compiler")
def test_compiled():
    """Compiled layers change nothing, and candidates of one shape share a program."""
    from torch._dynamo.utils import counters

    layout = ChainLayout(stem_width=4, widths=(4, 4), strides=(1, 1), head_width=0, image_size=4, in_channels=1)
    supernet = make_supernet(chain_space("toy", layout, [("identity", "mb1_k3")] * 2))
    params = random_params(supernet)
    x = peer_torch.to_torch(some_images(supernet.space, 6))
    plain, compiled = (peer_torch.make_peer(supernet, params, compiled=each) for each in (False, True))
    counters.clear()
    with torch.no_grad():
        for code in ([0, 1], [1, 1]):
            np.testing.assert_allclose(compiled(code, x), plain(code, x), rtol=0, atol=1e-5)
    assert counters["stats"]["unique_graphs"] == 3  # stem, mb1_k3, head


def test_replayed_graphs(monkeypatch):
    """Two calls as they are, the third captures and replays, the fourth replays: what is captured doesn't run before
    that. A stand-in for CUDA's graphs notes what is captured; the real ones need a GPU."""
    events = []

    class Stand:
        def capture_begin(self):
            events.append("begin")

        def capture_end(self):
            events.append("end")

        def replay(self):
            events.append("replay")

    class Stream:
        def wait_stream(self, other):
            pass

    for name, value in (("CUDAGraph", Stand), ("Stream", Stream), ("current_stream", Stream)):
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
    replayed = peer_torch.Replayed(lambda: events.append("run"), num_warm_up=2)
    for _ in range(4):
        replayed()
    assert events == ["run", "run", "begin", "run", "end", "replay", "replay"]


def test_training_steps_have_the_losses_of_ours(small_supernet, monkeypatch):
    """Five steps in float32, in either memory layout."""
    from benchmarks import steps, train_step
    from benchmarks.peer_training import make_peer_step

    monkeypatch.setattr(torch, "compile", lambda module, **settings: module)
    supernet, _ = small_supernet("tiny")
    batch = {"train": {"images": some_images(supernet.space, 8), "labels": np.arange(8) % 10}}
    code = np.array([1, 2, 0])
    ours, _ = steps.make_step(supernet, "fixed", code, batch)
    losses = {"fixed": [ours() or float(ours.loss) for _ in range(5)]}
    for route in peer_torch.ROUTES:
        peer = make_peer_step(supernet, route, code, batch["train"], "float32")
        losses[route] = [peer() or peer.loss for _ in range(5)]
    assert losses["fixed"][0] - losses["fixed"][-1] > 1e-3
    train_step.check_losses(losses, 1e-4)
    with pytest.raises(RuntimeError, match=r"^the losses of torch_best and fixed differ by up to 1 nats in 5 steps"):
        train_step.check_losses({**losses, "torch_best": [loss + 1 for loss in losses["fixed"]]}, 1e-4)


def test_refusals(small_supernet):
    with pytest.raises(ValueError, match="unknown route 'torch_fast'; choose one of torch_eager, torch_best"):
        peer_torch.make_peer_evaluator(small_supernet("tiny")[0], route="torch_fast")
    with pytest.raises(ValueError, match="object: no such operation in PyTorch"):
        peer_torch.convert(object(), {})
