"""The evaluator against one architecture after the other by `Supernet.apply`, with losses by NumPy."""

import functools
import logging
import re

import jax
import numpy as np
import pytest
import scipy.special
from hypothesis import given, settings
from hypothesis import strategies as st
from tqdm import tqdm

from jaxnas import codes
from jaxnas.evaluation import cross_entropy, is_correct, make_evaluator
from jaxnas.samplers import uniform
from jaxnas.supernets import select_stats
from jaxnas.training import init_train_state, sgd

pytestmark = pytest.mark.codegen

RNG = np.random.default_rng(0)
IMAGES = RNG.normal(size=(10, 4, 4, 1)).astype(np.float32)
LABELS = RNG.integers(0, 10, 10)
CALIBRATION = RNG.normal(size=(7, 4, 4, 1)).astype(np.float32) + 0.5
ROUTES = ["mask", "serial", "dispatch", "graph"]


@pytest.fixture(scope="module")
def net(small_supernet):
    return small_supernet("tiny")


@pytest.fixture(scope="module")
def archs(net):
    """All 27 codes."""
    return codes.enumerate_archs(net[0].space)


@pytest.fixture(scope="module")
def apply(net):
    """(codes, images, stats per architecture or None) -> (logits, statistics used), one after the other."""
    supernet, params = net

    @jax.jit
    def all_of(archs, images, stats):
        one = lambda xs: supernet.apply(params, xs[0], images, stats=xs[1], groups=None)  # noqa: E731
        return jax.lax.map(one, (archs, stats))

    return lambda archs, images, stats=None: jax.device_get(all_of(archs, images, stats))


def losses_of(logits, labels):
    """Cross-entropy and correctness of each image: [num_archs, num_images]."""
    log_probs = scipy.special.log_softmax(np.asarray(logits, np.float64), axis=-1)
    return -log_probs[:, np.arange(len(labels)), labels], logits.argmax(-1) == labels


@pytest.fixture(scope="module")
def by_batch(apply, archs):
    """Losses and correctness of all codes, each batch of 4, 4 and 2 images normalised by itself."""
    parts = [losses_of(apply(archs, IMAGES[i : i + 4])[0], LABELS[i : i + 4]) for i in (0, 4, 8)]
    return tuple(np.concatenate(part, axis=1) for part in zip(*parts))


@pytest.fixture(scope="module")
def tracked(net):
    return {
        name: RNG.uniform(0.5, 2.0, (len(layer.candidates), 2, layer.stats_size)).astype(np.float32)
        for name, layer in net[0].layers.items()
    }


def assert_scored(scores, image_loss, image_correct, rows=slice(None)):
    """Per image, and summed up without their help."""
    image_loss, image_correct = image_loss[rows], image_correct[rows]
    np.testing.assert_allclose(scores.loss, image_loss.mean(axis=1), rtol=1e-4)
    np.testing.assert_allclose(scores.accuracy, image_correct.mean(axis=1))
    if scores.image_loss is not None:
        np.testing.assert_allclose(scores.image_loss, image_loss, rtol=1e-3, atol=1e-4)
        np.testing.assert_array_equal(scores.image_correct, image_correct)


@pytest.mark.parametrize("route", ROUTES)
def test_batch_statistics(net, archs, by_batch, route):
    """The last batch, padded and masked, is normalised by its two images."""
    supernet, params = net
    evaluate = make_evaluator(supernet, strategy=route, images_per_call=4, archs_per_call=8, per_image=True).evaluate
    scores = evaluate(params, archs, IMAGES, LABELS)
    assert_scored(scores, *by_batch)
    np.testing.assert_array_equal(scores.archs, archs)
    assert (scores.num_images, scores.images_per_call, scores.num_calibration_images) == (10, 4, 0)
    assert (scores.bn_mode, scores.strategy) == ("batch", route)
    assert scores.loss.dtype == scores.accuracy.dtype == np.float64
    assert scores.image_loss.shape == scores.image_correct.shape == (27, 10)
    assert np.std(scores.loss) > 0.01  # or nothing has been compared


@pytest.fixture(scope="module")
def pooled(net, apply, archs):
    """Statistics of batches of 4 and 3 images as one: variances within the batches, and between them."""
    used = [jax.tree.map(np.float64, apply(archs, CALIBRATION[i : i + 4])[1]) for i in (0, 4)]

    def pool(first, second):
        mean = (4 * first[:, 0] + 3 * second[:, 0]) / 7
        within = (4 * first[:, 1] + 3 * second[:, 1]) / 7
        between = (4 * (first[:, 0] - mean) ** 2 + 3 * (second[:, 0] - mean) ** 2) / 7
        return np.stack([mean, within + between], axis=1).astype(np.float32)

    return jax.tree.map(pool, *used)


def test_pooled_moments_of_the_stem_are_those_of_all_images(net, pooled):
    """Nothing before the stem is normalised, so that its moments are exact: by NumPy over all images at once."""
    kernel = np.asarray(net[1]["stem"]["stem"]["Unfold_0"]["kernel"]).reshape(3, 3, 1, 3)
    padded = np.pad(CALIBRATION, ((0, 0), (1, 1), (1, 1), (0, 0)))
    x = sum(padded[:, i : i + 4, j : j + 4] @ kernel[i, j] for i in range(3) for j in range(3))
    expected = np.stack([x.mean(axis=(0, 1, 2)), x.var(axis=(0, 1, 2))])
    np.testing.assert_allclose(pooled["stem"][0], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("route", ["serial", "dispatch", "graph"])
def test_calibrated_statistics(net, apply, archs, pooled, route):
    """The scored images, and in which batches they come, don't enter."""
    supernet, params = net
    expected = losses_of(apply(archs, IMAGES, pooled)[0], LABELS)
    options = {"strategy": route, "bn_mode": "calibrated", "images_per_call": 4, "archs_per_call": 27}
    evaluate = make_evaluator(supernet, **options, per_image=True).evaluate
    scores = evaluate(params, archs, IMAGES, LABELS, calibration_images=CALIBRATION)
    assert_scored(scores, *expected)
    assert scores.num_calibration_images == 7 and scores.bn_mode == "calibrated"


@pytest.mark.parametrize("route", ROUTES)
def test_tracked_statistics(net, apply, archs, tracked, route):
    """The same for every batch size: nothing of the images at hand enters."""
    supernet, params = net
    expected = losses_of(apply(archs, IMAGES, select_stats(supernet, tracked, archs))[0], LABELS)
    evaluate = make_evaluator(supernet, strategy=route, bn_mode="tracked", images_per_call=4, per_image=True).evaluate
    assert_scored(evaluate(params, archs, IMAGES, LABELS, stats=tracked), *expected)


def test_statistics_that_were_never_tracked(net):
    """Those of a fresh state; of what was trained all but one candidate, which only those that take it may not have."""
    supernet, params = net
    sampler = uniform(supernet.space, num_archs=1)
    fresh = init_train_state(supernet, sampler, sgd(0.1, num_steps=1), jax.random.key(0)).stats
    evaluate = make_evaluator(supernet, bn_mode="tracked").evaluate
    with pytest.raises(
        ValueError, match=r"^tiny: statistics of 'stem' in stem, .* were never tracked; .* 'calibrated'"
    ):
        evaluate(params, [[0, 1, 2]], IMAGES, LABELS, stats=fresh)
    tracked = {name: 0.9 * leaf + 0.1 for name, leaf in fresh.items()}  # mean 0.1, variance 1
    tracked["layer1"] = tracked["layer1"].at[1].set(fresh["layer1"][1])
    with pytest.raises(ValueError, match=r"statistics of 'nor_conv_1x1' in layer1, which architecture .* takes, were"):
        evaluate(params, [[0, 2, 2], [0, 1, 2]], IMAGES, LABELS, stats=tracked)
    assert np.isfinite(evaluate(params, [[0, 2, 2], [1, 0, 2]], IMAGES, LABELS, stats=tracked).loss).all()
    short = tracked | {"head": tracked["head"][:, :1]}
    with pytest.raises(ValueError, match=r"^stats of head: shape \(1, 1, 5\), expected \(1, 2, 5\)"):
        evaluate(params, [[0, 2, 2]], IMAGES, LABELS, stats=short)


def test_labels_of_a_loss_are_whole_numbers_of_its_classes():
    """Float labels gave a loss and an accuracy of 0; while tracing their range can't be seen."""
    logits = np.zeros((2, 3, 4), np.float32)
    for score in (cross_entropy, is_correct):
        with pytest.raises(ValueError, match=r"^labels: dtype float64, expected integer"):
            score(logits, np.array([0.0, 1.0, 2.0]))
        with pytest.raises(ValueError, match=r"^labels: 4 at index \(1,\), expected at least 0 and at most 3"):
            score(logits, np.array([0, 4, 1]))
        with pytest.raises(ValueError, match=r"^labels are float32 \(3,\), expected integers \(3,\)"):
            jax.jit(score)(logits, np.zeros(3, np.float32))
        with pytest.raises(ValueError, match=r"^labels are int32 \(2,\), expected integers \(3,\)"):
            jax.jit(score)(logits, np.zeros(2, np.int32))


def test_apply_takes_no_pixels_and_no_other_sizes(net):
    supernet, params = net
    with pytest.raises(ValueError, match=r"^tiny: images are uint8, expected floats that are standardised; `jaxnas"):
        supernet.apply(params, np.array([0, 1, 2]), np.zeros((2, 4, 4, 1), np.uint8))
    with pytest.raises(ValueError, match=r"^tiny: images have shape \(2, 8, 8, 1\), expected \[num_images, 4, 4, 1\]"):
        jax.eval_shape(supernet.apply, params, np.array([0, 1, 2]), np.zeros((2, 8, 8, 1), np.float32))


@pytest.mark.parametrize("route", ["serial", "dispatch", "graph"])
def test_any_population(net, archs, by_batch, route, caplog):
    """Nothing dropped, doubled or reordered: sizes 1, prime and above a call's; codes may repeat; threads or not."""
    supernet, params = net
    options = {"groups": 2} if route == "dispatch" else {"workers": 3}
    evaluate = make_evaluator(supernet, strategy=route, images_per_call=4, archs_per_call=3, **options).evaluate

    @settings(max_examples=25, deadline=None)
    @given(st.lists(st.integers(0, 26), min_size=1, max_size=23))
    def equals(indices):
        scores = evaluate(params, archs[indices], IMAGES, LABELS)
        np.testing.assert_array_equal(scores.archs, archs[indices])
        assert scores.image_loss is None and scores.image_correct is None
        assert_scored(scores, *by_batch, rows=indices)

    with caplog.at_level(logging.WARNING), jax.log_compiles():
        for indices in ([5], list(range(7)), [3] * 10, list(range(27))):
            assert_scored(evaluate(params, archs[indices], IMAGES, LABELS), *by_batch, rows=indices)
        equals()
    compiled = [
        record for record in caplog.records if re.search(r"Compiling .*(score|run|measure)", record.getMessage())
    ]
    if route == "graph":  # one program for each operation, however many architectures; compiled by other tests or here
        assert len(compiled) <= 1 + sum(len(layer.candidates) for layer in supernet.layers.values())
    else:  # one program for each size of call, of which there are three at most
        assert 2 <= len(compiled) <= 3


def test_balanced_population_in_one_call(net, archs, by_batch):
    supernet, params = net
    balanced = np.array([[0, 1, 2], [1, 2, 0], [2, 0, 1]])
    evaluate = make_evaluator(supernet, strategy="dispatch", groups="balanced", images_per_call=4).evaluate
    assert_scored(evaluate(params, balanced, IMAGES, LABELS), *by_batch, rows=codes.to_index(supernet.space, balanced))
    with pytest.raises(ValueError, match=r"candidates at index 1 \(2, 0, 1\) times, expected each equally often"):
        evaluate(params, [[0, 0, 2], [1, 0, 0], [2, 2, 1]], IMAGES, LABELS)


@pytest.mark.parametrize("route", ["serial", "graph"])
def test_population_prepared_once(net, archs, by_batch, route):
    """Scored again and again with one plan, by the evaluator and for the number of images that it was made for."""
    supernet, params = net
    make = functools.partial(make_evaluator, supernet, strategy=route, images_per_call=4)
    evaluator = make(archs_per_call=8)
    population = evaluator.prepare(archs, len(IMAGES))
    for _ in range(2):
        assert_scored(evaluator.evaluate(params, population, IMAGES, LABELS), *by_batch)
    with pytest.raises(ValueError, match=r"was prepared for 10 images, got 4; prepare it anew"):
        evaluator.evaluate(params, population, IMAGES[:4], LABELS[:4])
    with pytest.raises(ValueError, match=r"by an evaluator of other settings; prepare it with this one"):
        make(archs_per_call=9).evaluate(params, population, IMAGES, LABELS)


def test_fewer_images_than_a_batch_one_class_and_nan(net, apply, archs):
    supernet, params = net
    evaluate = make_evaluator(supernet, images_per_call=256, per_image=True).evaluate
    labels = np.full(4, 3)
    expected = losses_of(apply(archs, IMAGES[:4])[0], labels)
    scores = evaluate(params, archs, IMAGES[:4], labels)
    assert_scored(scores, *expected)
    assert scores.images_per_call == 4
    assert scores.strategy == "graph"  # auto
    broken = jax.tree.map(lambda leaf: np.full_like(leaf, np.nan), params)
    assert np.isnan(evaluate(broken, archs, IMAGES[:4], labels).loss).all()  # a diverged network doesn't look healthy


def test_progress(net, archs, capsys):
    """Architectures done of all, time left, image·arch per second; a bar of the caller's goes on from call to call."""
    supernet, params = net
    make = functools.partial(make_evaluator, supernet, archs_per_call=4, images_per_call=2)
    make(progress=True).evaluate(params, archs[:8], IMAGES[:2], LABELS[:2])
    text = capsys.readouterr().err
    assert re.search(r"100%\|.*\| 8/8 \[\d+:\d+<\d+:\d+, .*(arch/s|s/arch), [\d,]+ image·arch/s\]", text)
    assert "4/8" in text
    evaluate = make().evaluate
    with tqdm(total=16, unit="arch") as bar:
        evaluate(params, archs[:8], IMAGES[:2], LABELS[:2], bar=bar)
        assert bar.n == 8
        evaluate(params, archs[:8], IMAGES[:2], LABELS[:2], bar=bar)
        assert bar.n == 16
    assert "16/16" in capsys.readouterr().err
    evaluate(params, archs[:8], IMAGES[:2], LABELS[:2])
    assert capsys.readouterr().err == ""


def test_a_device_without_the_memory(net, monkeypatch):
    """What another process holds is not known before: JAX's own error, told in one line; other errors stay."""
    supernet, params = net
    errors = iter(["", "INTERNAL: something else"])

    def run_units(*args, **given):
        if said := next(errors):
            raise jax.errors.JaxRuntimeError(said)
        jax.block_until_ready(jax.numpy.zeros(2**52, np.int8))  # more than any machine has

    monkeypatch.setattr("jaxnas.evaluation.evaluator.run_units", run_units)
    with pytest.raises(
        ValueError,
        match=r"^tiny: the device ran out of memory while it scored \(RESOURCE_EXHAUSTED: .*4503599627370496",
    ) as told:
        make_evaluator(supernet).evaluate(params, [[0, 1, 2]], IMAGES, LABELS)
    assert "\n" not in str(told.value) and "another process may hold a part of it" in str(told.value)
    with pytest.raises(jax.errors.JaxRuntimeError, match="something else"):
        make_evaluator(supernet).evaluate(params, [[0, 1, 2]], IMAGES, LABELS)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"strategy": "tree"}, "strategy is 'tree', expected one of auto, mask, serial, dispatch, graph."),
        ({"bn_mode": "running"}, "bn_mode is 'running', expected one of batch, calibrated, tracked."),
        ({"archs_per_call": 0}, "archs_per_call is 0, expected 1 to 2147483647."),
        ({"images_per_call": 0}, "images_per_call is 0, expected 1 to 2147483647."),
        ({"images_per_call": None}, "images_per_call is None, expected a whole number, at least 1."),
        ({"workers": 1.5}, "workers is 1.5, expected a whole number, at least 1."),
        ({"memory_budget": "1 GiB"}, "memory_budget is '1 GiB', expected a number, at least 1."),
        ({"memory_budget": float("nan")}, "memory_budget is nan, expected a number, at least 1."),
        ({"groups": True}, "groups must be a tile size of at least 1, 'auto' or 'balanced', got True."),
        ({"groups": 0}, "groups must be a tile size of at least 1, 'auto' or 'balanced', got 0."),
    ],
)
def test_settings_are_refused_at_once(net, options, message):
    with pytest.raises(ValueError) as error:
        make_evaluator(net[0], **options)
    assert str(error.value) == message


@pytest.mark.parametrize(
    "given, message",
    [
        ({"archs": []}, "tiny: the population is empty; give at least one architecture."),
        ({"archs": [[0, 1, 3]]}, "tiny: code 3 at index 2 of architecture 0 is outside [0, 3)."),
        ({"archs": [[0, -1, 0]]}, "tiny: code -1 at index 1 of architecture 0 is outside [0, 3)."),
        (
            {"archs": [[0, 1]]},
            "tiny: archs have shape (1, 2), expected [num_archs, 3] (one architecture is archs[None]).",
        ),
        ({"images": IMAGES[:0], "labels": []}, "tiny: there are no images, expected at least one."),
        ({"images": IMAGES[:, :3]}, "tiny: images have shape (10, 3, 4, 1), expected [num_images, 4, 4, 1];"),
        ({"images": (IMAGES * 50).astype(np.uint8)}, "tiny: images are uint8, expected floats that are standardised;"),
        ({"images": abs(IMAGES * 50).round()}, "images are whole numbers from 0 to "),
        ({"images": IMAGES * 1e20}, "images hold values from -"),
        ({"images": np.where(IMAGES > 2, np.nan, IMAGES)}, "images hold values from nan to nan, expected standardised"),
        ({"labels": LABELS[:9]}, "labels: shape (9,), expected (10)."),
        ({"labels": np.arange(10) + 3}, "labels: 10 at index (7,), expected at least 0 and at most 9."),
        ({"labels": LABELS.astype(np.float32)}, "labels: dtype float32, expected integer."),
        ({"stats": {}}, "bn_mode 'batch' does not take stats."),
        ({"calibration_images": IMAGES}, "bn_mode 'batch' does not take calibration_images."),
        ({"bn_mode": "tracked"}, "bn_mode 'tracked' needs stats."),
        ({"bn_mode": "calibrated"}, "bn_mode 'calibrated' needs calibration_images."),
        (
            {"bn_mode": "calibrated", "calibration_images": IMAGES[:0]},
            "tiny: there are no calibration_images, expected at least one.",
        ),
        (
            {"bn_mode": "calibrated", "calibration_images": IMAGES[..., :0]},
            "tiny: calibration_images have shape (10, 4, 4, 0), expected [num_images, 4, 4, 1];",
        ),
        ({"bn_mode": "tracked", "stats": {"stem": IMAGES}}, "tiny: stats don't have the super-net's layers"),
        (
            {"memory_budget": 1000},
            "memory_budget of 1000 bytes is too small for one architecture on 10 images, which takes about",
        ),
    ],
)
def test_input_is_refused_in_one_line(net, given, message):
    supernet, params = net
    options = {name: given[name] for name in ("bn_mode", "memory_budget") if name in given}
    arrays = {name: given[name] for name in ("stats", "calibration_images") if name in given}
    archs, images, labels = (
        given.get(name, default) for name, default in (("archs", [[0, 1, 2]]), ("images", IMAGES), ("labels", LABELS))
    )
    with pytest.raises(ValueError) as error:
        make_evaluator(supernet, **options).evaluate(params, archs, images, labels, **arrays)
    assert str(error.value).startswith(message) and "\n" not in str(error.value)
