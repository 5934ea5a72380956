"""Training: what a step does to each weight against NumPy, programs without a switch, and exact resumption."""

import functools
import re
from typing import NamedTuple
from unittest import mock

import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import control_flow

from jaxnas.ops import Policy
from jaxnas.samplers import Sampler, fair, uniform
from jaxnas.space import ChainLayout
from jaxnas.spaces import chain_space
from jaxnas.supernets import make_supernet
from jaxnas.training import (
    Aux,
    _fit,
    add_losses,
    batches,
    fit,
    init_train_state,
    make_cross_entropy_loss,
    make_preprocess,
    make_train_step,
    merge_batches,
    seeds,
    sgd,
    standardise,
    track,
)

SPACE = chain_space(
    "pair",
    ChainLayout(stem_width=3, widths=(3, 3), strides=(1, 1), head_width=0, image_size=4, in_channels=1),
    [("nor_conv_1x1", "nor_conv_3x3")] * 2,
)
SUPERNET = make_supernet(SPACE, affine=False)
# Two steps. In the second the first choice's 1x1 is idle, in the first its 3x3; the second choice uses both in both.
POPULATIONS = np.array([[[0, 0], [0, 1]], [[1, 1], [1, 0]]], np.int32)
LEARNING_RATE, MOMENTUM, WEIGHT_DECAY, STATS_MOMENTUM = 0.1, 0.9, 0.01, 0.75
BOTH = ("images", "labels")


def scripted() -> Sampler:
    """Draws POPULATIONS in turn: the state counts."""
    return Sampler(
        init=lambda key: jnp.zeros((), jnp.int32),
        sample=lambda key, state: jnp.asarray(POPULATIONS)[state % 2],
        update=lambda state, archs, losses: state + 1,
        groups=2,
    )


def batch(seed: int = 0, num_images: int = 8, space=SPACE):
    rng = np.random.default_rng(seed)
    layout = space.layout
    images = rng.normal(size=(num_images, layout.image_size, layout.image_size, layout.in_channels))
    return {"train": {"images": images.astype(np.float32), "labels": rng.integers(0, 10, num_images)}}


def make(tx, sampler, supernet=SUPERNET, **options):
    """(step, state)"""
    loss_fn = make_cross_entropy_loss(supernet)
    step = make_train_step(supernet, loss_fn, sampler, tx, **options)
    return step, init_train_state(supernet, sampler, tx, jax.random.key(0))


def traced(tx, sampler, supernet=SUPERNET, **options):
    """(step, outline of its state); nothing is compiled."""
    loss_fn = make_cross_entropy_loss(supernet)
    state = jax.eval_shape(lambda key: init_train_state(supernet, sampler, tx, key), jax.random.key(0))
    return make_train_step(supernet, loss_fn, sampler, tx, **options), state


def outline(tree):
    return jax.tree.map(lambda leaf: (leaf.shape, str(leaf.dtype)), tree)


def assert_same(got, expected, rtol=1e-4, atol=1e-5):
    jax.tree.map(lambda g, e: np.testing.assert_allclose(g, e, rtol=rtol, atol=atol), got, expected)


@pytest.fixture(scope="module")
def two_steps():
    """idle -> (state after each of the first two scripted steps, their metrics), on the host."""
    tx = sgd(
        LEARNING_RATE, num_steps=10**9, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY, clip_norm=None
    )  # a cosine so long that the rate stays

    def run(idle):
        step, state = make(tx, scripted(), idle=idle, stats_momentum=STATS_MOMENTUM)
        states, metrics = [jax.device_get(state._replace(key=None))], []
        for number in range(2):
            state, measured = step(state, batch(number))
            states.append(jax.device_get(state._replace(key=None)))
            metrics.append(jax.device_get(measured))
        return states, metrics

    return {idle: run(idle) for idle in ("move", "rest")}


@pytest.fixture(scope="module")
def loss_and_gradient():
    """(params, step) -> losses and accuracies of the step's population, summed gradient, statistics; one path after the
    other, its code as Python ints."""

    def loss(params, code, images, labels):
        logits, stats = SUPERNET.apply(params, code, images)
        log_probs = jax.nn.log_softmax(logits)
        return -jnp.mean(log_probs[jnp.arange(len(labels)), labels]), (logits, stats)

    compiled = {
        code: jax.jit(
            lambda params, images, labels, code=code: jax.value_and_grad(loss, has_aux=True)(
                params, code, images, labels
            )
        )
        for code in {tuple(code) for codes in POPULATIONS.tolist() for code in codes}
    }

    def run(params, number):
        data = batch(number)["train"]
        results = [compiled[tuple(code)](params, **data) for code in POPULATIONS[number].tolist()]
        losses = [value for (value, _), _ in results]
        accuracies = [np.mean(np.argmax(logits, -1) == data["labels"]) for (_, (logits, _)), _ in results]
        gradient = jax.tree.map(lambda *leaves: np.sum(leaves, axis=0), *[gradient for _, gradient in results])
        return losses, accuracies, gradient, [stats for (_, (_, stats)), _ in results]

    return run


@pytest.mark.parametrize("idle", ["move", "rest"])
def test_steps_by_hand(two_steps, loss_and_gradient, idle):
    """Gradients summed over the population; SGD with coupled weight decay and momentum; and idle weights.

    With "move" an idle candidate goes on by its momentum and its decay; with "rest" it and its momentum stay.
    """
    states, metrics = two_steps[idle]
    momentum = jax.tree.map(np.zeros_like, states[0].params)
    expected = states[0].params
    for number in range(2):
        losses, accuracies, gradient, _ = loss_and_gradient(expected, number)
        new_momentum = jax.tree.map(lambda m, g, w: MOMENTUM * m + g + WEIGHT_DECAY * w, momentum, gradient, expected)
        new = jax.tree.map(lambda w, m: w - LEARNING_RATE * m, expected, new_momentum)
        idle_op = ("nor_conv_3x3", "nor_conv_1x1")[number]
        assert not any(np.any(leaf) for leaf in jax.tree.leaves(gradient["layer0"][idle_op]))
        if idle == "rest":
            new["layer0"][idle_op] = expected["layer0"][idle_op]
            new_momentum["layer0"][idle_op] = momentum["layer0"][idle_op]
        momentum, expected = new_momentum, new
        assert_same(states[number + 1].params, expected)
        assert_same(optax.tree.get(states[number + 1].opt_state, "trace"), momentum, atol=1e-4)
        np.testing.assert_allclose(metrics[number]["loss"], np.mean(losses), rtol=1e-5)
        np.testing.assert_allclose(metrics[number]["accuracy"], np.mean(accuracies), rtol=1e-6)
        norm = np.sqrt(sum(np.sum(leaf**2) for leaf in jax.tree.leaves(gradient)))
        np.testing.assert_allclose(metrics[number]["grad_norm"], norm, rtol=1e-4)


def test_move_and_rest_differ_where_they_should(two_steps):
    moved, rested = (two_steps[idle][0] for idle in ("move", "rest"))
    kernel = lambda state, op: state.params["layer0"][op]["Conv_0"]["kernel"]  # noqa: E731
    decayed = (1 - LEARNING_RATE * WEIGHT_DECAY) * kernel(moved[0], "nor_conv_3x3")
    np.testing.assert_allclose(kernel(moved[1], "nor_conv_3x3"), decayed, rtol=1e-5)  # decay alone
    np.testing.assert_array_equal(kernel(rested[1], "nor_conv_3x3"), kernel(rested[0], "nor_conv_3x3"))
    np.testing.assert_array_equal(kernel(rested[2], "nor_conv_1x1"), kernel(rested[1], "nor_conv_1x1"))
    assert np.abs(kernel(moved[2], "nor_conv_1x1") - kernel(moved[1], "nor_conv_1x1")).max() > 1e-3  # momentum
    assert moved[2].step == 2 and moved[2].sampler_state == 2


def test_tracked_statistics_by_hand(two_steps, loss_and_gradient):
    """From mean 0 and variance 1, a quarter of the way to the mean of the paths that use the candidate."""
    states, _ = two_steps["move"]
    for number in range(2):
        *_, used = loss_and_gradient(states[number].params, number)
        for name, layer in SUPERNET.layers.items():
            for op in range(len(layer.candidates)):
                codes = POPULATIONS[number]
                takes = [n for n in range(2) if layer.choice is None or codes[n, layer.choice] == op]
                before = states[number].stats[name][op]
                expected = before
                if takes:
                    mean = np.mean([used[n][name] for n in takes], axis=0)
                    expected = STATS_MOMENTUM * before + (1 - STATS_MOMENTUM) * mean
                np.testing.assert_allclose(states[number + 1].stats[name][op], expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(states[0].stats["layer0"], np.array([[[0.0] * 3, [1.0] * 3]] * 2))


def test_track_leaves_what_none_takes():
    layers = SUPERNET.layers.items()
    tracked = {name: np.full((len(layer.candidates), 2, layer.stats_size), 5.0, np.float32) for name, layer in layers}
    used = {name: np.full((3, 2, layer.stats_size), 1.0, np.float32) for name, layer in layers}
    got = track(SUPERNET, tracked, jnp.array([[0, 1], [0, 1], [0, 0]]), used, 0.5)
    assert got["layer0"][:, 0, 0].tolist() == [3.0, 5.0] and got["layer1"][:, 0, 0].tolist() == [3.0, 3.0]
    assert got["head"][:, 0, 0].tolist() == [3.0]


def test_rest_with_another_optimiser(loss_and_gradient):
    """Adam with decoupled decay: those in use as optax moves them, the idle one and both its moments untouched."""
    tx = optax.adamw(0.01, weight_decay=0.1)
    step, state = make(tx, scripted(), idle="rest")
    params = jax.device_get(state.params)
    state, _ = step(state, batch(0))
    _, _, gradient, _ = loss_and_gradient(params, 0)
    with jax.numpy_dtype_promotion("standard"):  # of optax
        updates, opt_state = tx.update(gradient, tx.init(params), params)
    expected = optax.apply_updates(params, updates)
    expected["layer0"]["nor_conv_3x3"] = params["layer0"]["nor_conv_3x3"]
    assert_same(state.params, expected, atol=1e-4)  # Adam divides small gradients by themselves
    for name in ("mu", "nu"):
        moments = optax.tree.get(opt_state, name)
        moments["layer0"]["nor_conv_3x3"] = jax.tree.map(np.zeros_like, moments["layer0"]["nor_conv_3x3"])
        assert_same(optax.tree.get(state.opt_state, name), moments)


@pytest.mark.parametrize("idle", ["move", "rest"])
@pytest.mark.parametrize(
    "tx",
    [optax.adamw(1e-3), optax.lion(1e-3), optax.rmsprop(1e-3, momentum=0.9), optax.MultiSteps(optax.sgd(0.1), 2)],
    ids=["adamw", "lion", "rmsprop", "multisteps"],
)
def test_any_optimiser_keeps_the_form_of_the_state(tx, idle):
    """Traced only: a step returns a state of the shapes and types that it was given, or it would compile anew."""
    if isinstance(tx, optax.MultiSteps):
        tx = tx.gradient_transformation()
    step, state = traced(tx, scripted(), idle=idle, stats_momentum=0.9)
    after, _ = jax.eval_shape(step, state, batch())
    assert outline(after) == outline(state)


@pytest.mark.parametrize("policy", [Policy(compute="bfloat16"), Policy("bfloat16", "bfloat16", "bfloat16")])
def test_number_types_stay(policy):
    supernet = make_supernet(SPACE, policy=policy)
    step, state = traced(sgd(0.1, num_steps=10), scripted(), supernet, stats_momentum=0.9)
    after, metrics = jax.eval_shape(step, state, batch())
    assert outline(after) == outline(state)
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(state.params)} == {policy.params}
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(state.stats)} == {policy.stats}
    assert metrics["loss"].dtype == "float32"


@pytest.mark.parametrize(("name", "loops"), [("digits_chain", {"scan"}), ("nasbench201", set())])
def test_a_fair_population_runs_without_any_switch(small_space, name, loops):
    """No conditional in the whole step, forward and backward; and no loop but, on CPU, that over the places of a
    depthwise kernel in its gradient."""
    space = small_space(name)
    step, state = traced(sgd(0.1, num_steps=10), fair(space), make_supernet(space))
    assert control_flow(step, state, batch(space=space)) == loops


def test_another_population_has_switches_in_loops():
    step, state = traced(sgd(0.1, num_steps=10), uniform(SPACE, num_archs=2))
    assert control_flow(step, state, batch(space=SPACE)) == {"cond", "scan"}


@jax.numpy_dtype_promotion("standard")  # of optax
def test_clip_weight_decay_and_cosine():
    """One weight of two numbers, by hand."""
    params, gradient = {"w": jnp.array([1.0, -2.0])}, {"w": jnp.array([30.0, 40.0])}  # norm 50
    tx = sgd(0.1, num_steps=4, momentum=0.0, weight_decay=0.5, clip_norm=5.0, final_learning_rate=0.02)
    state = tx.init(params)
    rates = [0.02 + 0.08 * (1 + np.cos(np.pi * t / 4)) / 2 for t in range(5)]
    assert rates[0] == pytest.approx(0.1) and rates[4] == pytest.approx(0.02)
    for rate in [*rates, 0.02]:
        updates, state = tx.update(gradient, state, params)
        clipped_and_decayed = np.array([3.0, 4.0]) + 0.5 * np.array([1.0, -2.0])
        np.testing.assert_allclose(updates["w"], -rate * clipped_and_decayed, rtol=1e-5)
    small = {"w": jnp.array([0.3, 0.4])}
    updates, _ = tx.update(small, tx.init(params), params)  # below the norm: as it is
    np.testing.assert_allclose(updates["w"], [-0.1 * 0.8, 0.1 * 0.6], rtol=1e-5)
    plain = sgd(0.1, num_steps=4, momentum=0.9, clip_norm=None)
    state = plain.init(params)
    _, state = plain.update(gradient, state, params)
    second, _ = plain.update(gradient, state, params)
    rate = 0.05 * (1 + np.cos(np.pi / 4))
    np.testing.assert_allclose(second["w"], -rate * 1.9 * gradient["w"], rtol=1e-5)


@pytest.mark.codegen
def test_resumed_training_equals_uninterrupted(tmp_path):
    """Bit for bit: weights, momentum, tracked statistics, the sampler's state; through Flax's bytes in between."""
    step, fresh = make(sgd(0.1, num_steps=6), uniform(SPACE, num_archs=2), stats_momentum=0.9)

    kept, template = flax.serialization.to_bytes(fresh), jax.tree.map(np.zeros_like, fresh)

    def restored(saved):
        return jax.tree.map(jnp.asarray, flax.serialization.from_bytes(template, saved))

    seen = []
    whole = fit(step, fresh, batch, 6, callbacks=[lambda n, metrics, state: seen.append((n, metrics))])
    half = flax.serialization.to_bytes(fit(step, restored(kept), batch, 3))
    assert restored(half).step == 3
    resumed = fit(step, restored(half), batch, 6)
    jax.tree.map(np.testing.assert_array_equal, resumed, whole)
    assert [n for n, _ in seen] == [6] and set(seen[0][1]) == {"loss", "accuracy", "grad_norm"}
    assert int(fit(step, resumed, batch, 6).step) == 6  # nothing is left to do

    bad = batch(0)
    bad["train"]["images"] = np.full_like(bad["train"]["images"], np.nan)
    with pytest.raises(
        FloatingPointError, match=r"^training stopped: grad_norm is nan, loss is nan at step 2; lower .*$"
    ):
        fit(step, restored(kept), lambda number: bad if number == 2 else batch(number), 6)


def test_steps_in_a_loop_are_steps_one_by_one():
    """Two sets of batches, the end of an epoch within a call, reports within one; and a killed run goes on bit for bit,
    since it cuts the steps as the whole run did."""
    step, fresh = make(sgd(0.1, num_steps=9), uniform(SPACE, num_archs=2))
    images, labels = (
        np.concatenate([batch(number)["train"][name] for number in range(3)]) for name in ("images", "labels")
    )
    size = len(labels) // 5
    train, valid = (
        batches(jax.random.key(seed), images, labels, size, split=split) for seed, split in ((1, "train"), (2, "valid"))
    )
    both = merge_batches(train, valid)
    seen: dict[int, list] = {1: [], 3: []}

    def trained(state, until, at_once):
        note = lambda steps, metrics, state: seen[at_once].append((steps, metrics))  # noqa: E731
        return fit(step, state, both, until, report_at=lambda n: n in (3, 5), callbacks=[note], steps_per_call=at_once)

    calls = []
    counted = lambda *given, made=_fit._loop: calls.append(given) or made(*given)  # noqa: E731
    with mock.patch.object(_fit, "_loop", counted):
        at_once = trained(fresh, 9, 3)
    assert len(calls) == 2  # steps 0 to 2 and 6 to 8; the report after step 5 is within those between
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), at_once, trained(fresh, 9, 1))
    assert [steps for steps, _ in seen[3]] == [steps for steps, _ in seen[1]] == [3, 5, 9]
    for (_, ours), (_, plain) in zip(seen[3], seen[1], strict=True):
        assert ours == pytest.approx(plain, rel=1e-4)
    jax.tree.map(np.testing.assert_array_equal, trained(trained(fresh, 5, 3), 9, 3), at_once)
    bad = batches(jax.random.key(1), np.full(images.shape, np.nan, np.float32), labels, size)
    with pytest.raises(FloatingPointError, match=r"^training stopped: grad_norm is nan, loss is nan at step 0; "):
        fit(step, fresh, bad, 3, steps_per_call=3)
    with pytest.raises(ValueError, match="steps_per_call is 0, expected"):
        fit(step, fresh, both, 3, steps_per_call=0)


class Counting(NamedTuple):
    """Stands for a training state in tests of the loop alone."""

    step: int


def losses_step(losses):
    """A step whose metrics come from a list."""

    def step(state, number):
        return Counting(state.step + 1), {"loss": np.float32(losses[number]), "grad_norm": np.float32(1.0)}

    return step


def test_reports():
    """Means over the steps since the last report; the end always reports."""
    seen = []
    fit(
        losses_step([1.0, 3.0, 5.0, 6.0, 8.0]),
        Counting(0),
        lambda number: number,
        5,
        report_at=lambda steps: steps == 2,
        callbacks=[lambda steps, metrics, state: seen.append((steps, metrics["loss"], state.step))],
    )
    assert seen == [(2, 2.0, 2), (5, pytest.approx(19 / 3), 5)]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_the_first_step_that_is_not_finite_is_named(value):
    with pytest.raises(FloatingPointError) as error:
        fit(losses_step([1.0, 1.0, value, np.nan]), Counting(0), lambda number: number, 4)
    assert str(error.value) == f"training stopped: loss is {value} at step 2; lower the learning rate or clip_norm."


def test_kinds_of_keys():
    """The default kind is kept as numbers, typed or not; another one as it was given, and the step takes all."""
    tx, loss_fn = optax.sgd(0.1), make_cross_entropy_loss(SUPERNET)
    step = make_train_step(SUPERNET, loss_fn, scripted(), tx)
    keys = jax.random.key(3), jax.random.PRNGKey(3), jax.random.key(3, impl="rbg")
    states = [jax.eval_shape(lambda key: init_train_state(SUPERNET, scripted(), tx, key), key) for key in keys]
    assert [str(state.key.dtype) for state in states] == ["uint32", "uint32", "key<rbg>"]
    for state in states:
        after, _ = jax.eval_shape(step, state, batch())
        assert (after.key.shape, after.key.dtype) == (state.key.shape, state.key.dtype)


def test_unknown_idle():
    with pytest.raises(ValueError, match="idle is 'sleep', expected one of move, rest"):
        make(sgd(0.1, num_steps=1), scripted(), idle="sleep")


MEAN, STD = np.array([0.5, 0.25, 0.125], np.float32), np.array([0.25, 0.5, 0.125], np.float32)


def some_bytes(num_images=6, size=5):
    return np.random.default_rng(0).integers(0, 256, (num_images, size, size, 3)).astype(np.uint8)


def test_no_augmentation_is_standardisation():
    images = some_bytes()
    expected = (images / 255.0 - MEAN) / STD
    np.testing.assert_allclose(standardise(images, MEAN, STD), expected, rtol=1e-5, atol=1e-6)
    plain = make_preprocess(MEAN, STD)(jax.random.key(0), images)
    assert plain.dtype == jnp.float32
    np.testing.assert_array_equal(plain, standardise(images, MEAN, STD))


def test_crop_and_flip_by_hand():
    """Each image is one of its 5x5 shifts by at most 2 pixels into zeros, mirrored or not; all of them occur."""
    images, crop = some_bytes(num_images=1), 2
    standard = np.asarray(standardise(images, MEAN, STD))[0]
    padded = np.pad(standard, ((crop, crop), (crop, crop), (0, 0)))
    shifts = [padded[i : i + 5, j : j + 5] for i in range(2 * crop + 1) for j in range(2 * crop + 1)]
    known = np.stack([*shifts, *(shift[:, ::-1] for shift in shifts)])
    preprocess = jax.jit(make_preprocess(MEAN, STD, crop=crop, flip=True))
    augmented = np.asarray(preprocess(jax.random.key(0), np.repeat(images, 2000, axis=0)))
    distance = np.abs(augmented[:, None] - known[None]).max(axis=(2, 3, 4))
    assert distance.min(axis=1).max() < 1e-5  # zeros around the standardised image: what is missing is the mean
    counts = np.bincount(distance.argmin(axis=1), minlength=50)
    assert counts.min() > 10 and counts.max() < 90  # 40 expected of each
    np.testing.assert_array_equal(preprocess(jax.random.key(0), np.repeat(images, 2000, axis=0)), augmented)
    assert np.any(preprocess(jax.random.key(1), np.repeat(images, 2000, axis=0)) != augmented)


def test_flip_alone():
    images = some_bytes(num_images=200)
    standard = np.asarray(standardise(images, MEAN, STD))
    flipped = np.asarray(make_preprocess(MEAN, STD, flip=True)(jax.random.key(0), images))
    mirrored = np.array([np.array_equal(f, s[:, ::-1]) for f, s in zip(flipped, standard)])
    as_is = np.array([np.array_equal(f, s) for f, s in zip(flipped, standard)])
    assert (mirrored ^ as_is).all() and 60 < mirrored.sum() < 140


def test_batches_are_a_function_of_the_step():
    """Seven images in batches of three: two an epoch, without repetition, and one image is left out of it."""
    images, labels = np.arange(7.0)[:, None, None, None] * np.ones((1, 2, 2, 1)), np.arange(7)
    batch_at = batches(jax.random.key(3), images, labels, 3, split="valid")
    seen = [jax.device_get(batch_at(step))["valid"] for step in (0, 1, 2, 3, 1)]
    for part in seen:
        assert part["images"].shape == (3, 2, 2, 1)
        np.testing.assert_array_equal(part["images"][:, 0, 0, 0], part["labels"])
    for epoch, (first, second) in enumerate([seen[:2], seen[2:4]]):
        order = jax.random.permutation(jax.random.fold_in(jax.random.key(3), epoch), 7)
        np.testing.assert_array_equal(np.concatenate([first["labels"], second["labels"]]), order[:6])
    np.testing.assert_array_equal(seen[4]["labels"], seen[1]["labels"])  # back from another epoch
    with pytest.raises(ValueError, match=r"batch_size is 8, but there are 7 validation images\."):
        batches(jax.random.key(3), images, labels, 8, split="valid")


def test_a_loss_may_report_only_the_loss_of_each_architecture():
    """Then there is no accuracy among the metrics, and all else goes on; groups are the sampler's."""
    seen = []

    def loss_fn(params, archs, batch, key, step, groups=None):
        seen.append(groups)
        arch_loss = jnp.arange(1.0, 3.0) * sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(params))
        return arch_loss.sum(), Aux(arch_loss)

    tx = optax.sgd(0.0)
    step, state = (
        make_train_step(SUPERNET, loss_fn, scripted(), tx),
        init_train_state(SUPERNET, scripted(), tx, jax.random.key(0)),
    )
    total = sum(float(np.sum(np.square(leaf))) for leaf in jax.tree.leaves(jax.device_get(state.params)))
    _, metrics = step(state, batch())
    assert set(metrics) == {"loss", "grad_norm"} and seen == [2]
    np.testing.assert_allclose(metrics["loss"], 1.5 * total, rtol=1e-5)


@pytest.mark.parametrize(
    "outcome, options, words",
    [
        (lambda loss: loss, {}, "loss_fn returned an array of shape (), expected (scalar, jaxnas.training.Aux)"),
        (lambda loss: (loss, {}), {}, "loss_fn returned tuple, expected (scalar, jaxnas.training.Aux)"),
        (lambda loss: (loss, Aux()), {}, "loss_fn reports nothing of the population, expected Aux(arch_loss=...)"),
        (lambda loss: (loss, Aux(loss)), {}, "reports arch_loss of shape () of the population, expected"),
        (lambda loss: (loss * jnp.ones(2), Aux(jnp.ones(2))), {}, "returned float32 of shape (2,) to minimise"),
        (lambda loss: (loss, Aux(jnp.ones(2))), {"stats_momentum": 0.9}, "the loss reports none; give Aux its stats."),
    ],
)
def test_losses_that_do_not_fit_are_told_in_one_line(outcome, options, words):
    def loss_fn(params, archs, batch, key, step, groups=None):
        return outcome(jnp.sum(params["layer0"]["nor_conv_1x1"]["Conv_0"]["kernel"] ** 2))

    tx = optax.sgd(0.1)
    step = make_train_step(SUPERNET, loss_fn, scripted(), tx, **options)
    with pytest.raises(ValueError, match=re.escape(words)):
        step(init_train_state(SUPERNET, scripted(), tx, jax.random.key(0)), batch())


def test_a_term_of_a_sum_that_does_not_fit_is_named():
    total = add_losses({"odd": (1.0, lambda params, archs, batch, key, step, groups: jnp.float32(1.0))})
    with pytest.raises(ValueError, match=r"^the term 'odd' returned an array of shape \(\), expected \(scalar, "):
        total(None, None, None, jax.random.key(0), 0)


def test_a_sampler_that_breaks_its_promise_is_refused_at_once():
    """Instead of NaN in the middle of the training, and of the advice to lower the learning rate."""
    sampler = uniform(SPACE, num_archs=4)._replace(groups="balanced")
    loss_fn = make_cross_entropy_loss(SUPERNET)
    words = r"^groups='balanced', but the populations of this sampler take the candidates at index \d \(\d, \d\) times"
    with pytest.raises(ValueError, match=words):
        make_train_step(SUPERNET, loss_fn, sampler, optax.sgd(0.1))
    make_train_step(SUPERNET, loss_fn, fair(SPACE), optax.sgd(0.1))
    params = SUPERNET.init(jax.random.key(0))
    with pytest.raises(ValueError, match=r"^groups='balanced', but archs take .* give a tile size such as 4\.$"):
        loss_fn(params, np.array([[0, 0], [0, 1]]), batch(), jax.random.key(0), 0, "balanced")


@pytest.mark.parametrize(
    "change, words",
    [
        ({"labels": np.zeros(8, np.float32)}, r"^labels are float32, expected integers"),
        ({"labels": np.zeros((8, 1), np.int32)}, r"^labels have shape \(8, 1\), expected \(8,\)"),
        ({"labels": np.zeros(7, np.int32)}, r"^labels have shape \(7,\), expected \(8,\)"),
        ({"images": np.zeros((8, 4, 4, 1), np.uint8)}, r"^pair: images are uint8, expected floats"),
        (
            {"images": np.zeros((8, 5, 5, 1), np.float32)},
            r"^pair: images have shape \(8, 5, 5, 1\), expected",
        ),
    ],
)
def test_a_batch_that_does_not_fit_is_told_in_one_line(change, words):
    given = {"train": batch()["train"] | change}
    step, state = traced(optax.sgd(0.1), scripted())
    with pytest.raises(ValueError, match=words):
        jax.eval_shape(step, state, given)
    with pytest.raises(ValueError, match=r"^the batch has valid, expected \{'train'"):
        jax.eval_shape(step, state, {"valid": given["train"]})


def test_fit_leaves_the_state_that_it_is_given():
    """As a notebook's cell that is run twice needs it: the same result again."""
    step, state = make(optax.sgd(0.1), fair(SPACE))
    first, second = (fit(step, state, batch, 2) for _ in range(2))
    assert int(state.step) == 0 and int(first.step) == 2
    jax.tree.map(np.testing.assert_array_equal, first.params, second.params)


@pytest.mark.parametrize(
    "setting, words",
    [
        ({"learning_rate": 0}, "learning_rate is 0, expected"),
        ({"num_steps": 0}, "num_steps is 0, expected"),
        ({"momentum": 1.0}, "momentum is 1.0, expected"),
        ({"weight_decay": -1}, "weight_decay is -1, expected"),
        ({"clip_norm": float("nan")}, "clip_norm is nan, expected"),
    ],
)
def test_settings_of_sgd(setting, words):
    with pytest.raises(ValueError, match=f"^{words}"):
        sgd(**{"learning_rate": 0.1, "num_steps": 4} | setting)


class TestSideBySide:
    @pytest.mark.parametrize(
        "population",
        [
            "fair",
            pytest.param("one path", marks=pytest.mark.slow("three super-nets in one program, a path each")),
            pytest.param("three", marks=pytest.mark.slow("three super-nets in one program, three paths each")),
        ],
    )
    def test_each_ends_as_alone(self, population):
        """Weights, optimiser, tracked statistics and metrics of three seeds, by steps and by a compiled loop."""
        sampler = {"fair": fair(SPACE), "one path": uniform(SPACE), "three": uniform(SPACE, num_archs=3)}[population]
        step, _ = make(sgd(0.1, num_steps=4), sampler, stats_momentum=0.5, idle="rest")
        images, labels = (jnp.concatenate([jnp.asarray(batch(n)["train"][key]) for n in range(3)]) for key in BOTH)
        keys = jax.random.split(jax.random.key(0), 3)
        states = [init_train_state(SUPERNET, sampler, sgd(0.1, num_steps=4), key) for key in keys]
        of_each = [batches(key, images, labels, 8) for key in keys]
        told: list[dict[str, float]] = []

        def note(steps, metrics, state):
            told.append({"step": steps, "seconds": 6.0, **metrics})

        alone = [fit(step, *pair, 4, callbacks=[note]) for pair in zip(states, of_each, strict=True)]
        rows, told = told, []
        together = functools.partial(fit, seeds.side_by_side(step), seeds.stack(states), callbacks=[note])
        state = together(seeds.stack_batches(of_each), 4)
        for number, expected in enumerate(alone):
            own = seeds.state_of(state, number)
            assert outline(own) == outline(expected)
            jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), own, expected)
            (row,) = seeds.rows_of(told, number, 3)
            assert row == pytest.approx({**rows[number], "seconds": 2.0}, rel=1e-4)
        looped = together(seeds.stack_batches(of_each), 4, steps_per_call=4)
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), looped, state)

    def test_batches_of_other_images(self):
        """Images of its own for each super-net, or read as they come: the same batches, if not for a loop."""
        first, second = (batch(number)["train"] for number in range(2))
        of_each = [batches(jax.random.key(5), part["images"], part["labels"], 4) for part in (first, second)]
        got = seeds.stack_batches(of_each)(3)
        jax.tree.map(
            np.testing.assert_array_equal, got, jax.tree.map(lambda *own: np.stack(own), *(b(3) for b in of_each))
        )

    def test_states_at_several_steps_are_refused(self):
        _, state = make(sgd(0.1, num_steps=4), scripted())
        with pytest.raises(ValueError, match=r"^states are at the steps \[0, 1\], expected one step; "):
            seeds.stack([state, state._replace(step=state.step + 1)])
