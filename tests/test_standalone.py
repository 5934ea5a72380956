"""Stand-alone training: all ways to compile it agree with each other and with a plain loop, seed by seed."""

import contextlib
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.special

from jaxnas import datasets, export
from jaxnas.evaluation import ordered_map
from jaxnas.space import ChainLayout
from jaxnas.spaces import chain_space
from jaxnas.supernets import make_supernet, only
from jaxnas.training import Recipe, make_preprocess, make_retraining, make_standalone, standardise
from jaxnas.training.recipe import averaging, make_optimiser

RECIPE = Recipe(
    num_epochs=2, batch_size=15, learning_rate=0.2, weight_decay=0.01, clip_norm=1.0, crop=1, flip=True
)  # 40 images: two steps an epoch, and ten images of each left out
SPACE = chain_space(
    "two",
    ChainLayout(stem_width=3, widths=(3, 4), strides=(1, 2), head_width=5, image_size=4, in_channels=1),
    [("identity", "nor_conv_3x3")] * 2,
)
ARCHS = np.array([[1, 0], [0, 1]])
KEYS = jax.random.split(jax.random.key(7), 3)


@pytest.fixture(scope="module")
def data():
    return datasets.load("digits", num_train=40, num_valid=10, image_size=4)


@pytest.fixture(scope="module")
def arrays(data):
    return data.train_images, data.train_labels, data.test_images, data.test_labels


@pytest.fixture(scope="module")
def supernet():
    return make_supernet(SPACE)


@pytest.fixture(scope="module")
def trainers(supernet, data):
    """By how they are compiled."""

    def build(compiled):
        return make_standalone(supernet, RECIPE, mean=data.mean, std=data.std, compiled=compiled)

    return {compiled: build(compiled) for compiled in ("once", "each", "step")}


@pytest.fixture(scope="module")
def once(trainers, arrays):
    """Every architecture from the first two keys, in one program."""
    return trainers["once"](ARCHS, KEYS[:2], *arrays)


def test_networks_come_one_by_one_in_order(once, trainers, arrays):
    """The same numbers, each as soon as it is known, and what each took."""
    with contextlib.closing(trainers["once"].each(ARCHS, KEYS[:2], *arrays)) as stream:
        parts = list(stream)
    np.testing.assert_array_equal(np.concatenate([part.loss for part in parts]), once.loss)
    assert [part.seconds.shape for part in parts] == [(1,), (1,)]
    assert once.seconds.shape == (2,) and (once.seconds > 0).all()


def test_what_has_not_begun_is_given_up():
    """An iterator that is closed ends what runs, and begins nothing more."""
    begun = []

    def item(number: int) -> int:
        begun.append(number)
        time.sleep(0.01)
        return number

    some = ordered_map(item, range(1000), 2)
    assert [next(some), next(some)] == [0, 1]
    some.close()
    assert len(begun) < 100


def plain_loop(supernet, data, arch: tuple[int, ...], key) -> tuple[float, float, list[float]]:
    """(accuracy, loss, norm of each gradient) of one network: SGD written out, no batching, no super-net code but
    `init` and `apply`."""
    mean, std = np.asarray(data.mean), np.asarray(data.std)
    params, preprocess = jax.jit(supernet.init)(key), make_preprocess(mean, std, crop=RECIPE.crop, flip=RECIPE.flip)
    apply = jax.jit(lambda params, images, stats: supernet.apply(params, arch, images, stats=stats))

    @jax.jit
    @jax.grad
    def gradient(params, images, labels):
        logits, _ = apply(params, images, None)
        return -jax.nn.log_softmax(logits)[jnp.arange(len(labels)), labels].mean()

    num_images, velocity, norms = len(data.train_images), jax.tree.map(np.zeros_like, params), []
    steps_per_epoch = num_images // RECIPE.batch_size
    num_steps = RECIPE.num_epochs * steps_per_epoch
    for step in range(num_steps):
        epoch, number = divmod(step, steps_per_epoch)
        order = jax.random.permutation(jax.random.fold_in(key, epoch), num_images)
        rows = np.asarray(order)[number * RECIPE.batch_size : (number + 1) * RECIPE.batch_size]
        images = preprocess(jax.random.fold_in(key, step), data.train_images[rows])
        grads = gradient(params, images, data.train_labels[rows])
        norms.append(float(np.sqrt(sum((np.asarray(leaf) ** 2).sum() for leaf in jax.tree.leaves(grads)))))
        shrink = min(1.0, RECIPE.clip_norm / norms[-1])
        rate = RECIPE.learning_rate * (1 + np.cos(np.pi * step / num_steps)) / 2
        pull = jax.tree.map(lambda g, w, s=shrink: s * g + RECIPE.weight_decay * w, grads, params)
        velocity = jax.tree.map(lambda v, g: RECIPE.momentum * v + g, velocity, pull)
        params = jax.tree.map(lambda w, v, r=rate: w - r * v, params, velocity)
    standard = [(images / 255.0 - mean) / std for images in (data.train_images, data.test_images)]
    _, stats = apply(params, np.float32(standard[0]), None)
    logits = np.float64(apply(params, np.float32(standard[1]), stats)[0])
    chosen = logits[np.arange(len(logits)), data.test_labels]
    loss = (scipy.special.logsumexp(logits, axis=1) - chosen).mean()
    return float((logits.argmax(axis=1) == data.test_labels).mean()), float(loss), norms


def test_agrees_with_a_plain_loop(once, supernet, data):
    accuracy, loss, norms = plain_loop(supernet, data, tuple(ARCHS[0].tolist()), KEYS[1])
    assert max(norms) > RECIPE.clip_norm  # so that clipping is part of the test
    assert once.loss[0, 1] == pytest.approx(loss, rel=1e-4)
    assert once.accuracy[0, 1] == pytest.approx(accuracy, abs=3 / len(data.test_labels))


@pytest.mark.parametrize(
    "compiled", ["each", pytest.param("step", marks=pytest.mark.slow("one more way to compile a training"))]
)
def test_all_ways_to_compile_agree(once, trainers, data, arrays, compiled):
    other = trainers[compiled](ARCHS[:1], KEYS[:2], *arrays)
    np.testing.assert_allclose(other.loss, once.loss[:1], rtol=1e-4)
    np.testing.assert_allclose(other.accuracy, once.accuracy[:1], atol=3 / len(data.test_labels))
    assert once.loss.shape == once.accuracy.shape == (2, 2)
    assert len(np.unique(once.loss)) == 4


def test_a_network_is_alone(once, trainers, arrays):
    """What trains beside it, and in which order, makes no difference."""
    other = trainers["once"](ARCHS[::-1], KEYS[jnp.array([2, 1])], *arrays)
    np.testing.assert_array_equal(other.loss[::-1, 1], once.loss[:, 1])
    np.testing.assert_array_equal(other.accuracy[::-1, 1], once.accuracy[:, 1])
    assert (other.loss[::-1, 0] != once.loss[:, 0]).all()


def test_side_by_side_is_one_by_one(once, supernet, data):
    """Three architectures in calls of two: the last call is filled up, and nothing of that is returned."""
    train = make_standalone(supernet, RECIPE, mean=data.mean, std=data.std, archs_per_call=2)
    archs = np.concatenate([ARCHS, [[0, 0]]])
    several = train(archs, KEYS[:2], data.train_images, data.train_labels, data.test_images, data.test_labels)
    assert several.loss.shape == (3, 2)
    np.testing.assert_allclose(several.loss[:2], once.loss, rtol=1e-4)
    np.testing.assert_allclose(several.accuracy[:2], once.accuracy, atol=3 / len(data.test_labels))


def test_only_keeps_what_the_architecture_uses(supernet):
    params = jax.eval_shape(supernet.init, KEYS[0])
    kept = only(supernet, params, [1, 0])
    taken = {name: list(layer) for name, layer in kept.items()}
    assert taken == {"stem": ["stem"], "layer0": ["nor_conv_3x3"], "layer1": ["identity"], "head": ["head"]}
    assert kept["layer0"]["nor_conv_3x3"] == params["layer0"]["nor_conv_3x3"]


def bright_and_dark(num_images: int):
    labels = np.arange(num_images) % 2
    noise = np.random.default_rng(0).integers(0, 100, (num_images, 4, 4, 1))
    return (noise + 150 * labels[:, None, None, None]).astype(np.uint8), labels.astype(np.int32)


def train_bright_and_dark(supernet, compiled="each", archs=((0, 0),), archs_per_call=1, **changes):
    recipe = Recipe(num_epochs=10, batch_size=10, learning_rate=0.1)._replace(**changes)
    how = {"compiled": compiled, "archs_per_call": archs_per_call}
    train = make_standalone(supernet, recipe, mean=np.float32([0.5]), std=np.float32([0.25]), **how)
    return train(np.array(archs), KEYS[:1], *bright_and_dark(20), *bright_and_dark(30))


def test_learns_what_can_be_learnt_and_takes_images_as_arguments(supernet, monkeypatch):
    """A training set that is written into the program as a constant would be copied and compiled with it."""
    programs, jit = {}, jax.jit

    def listening(function, **options):
        jitted = jit(function, **options)

        def call(*args):
            if function not in programs:
                programs[function] = jitted.lower(*args).as_text().splitlines()
            return jitted(*args)

        return call

    monkeypatch.setattr(jax, "jit", listening)
    assert train_bright_and_dark(supernet).accuracy.tolist() == [[1.0]]
    lines = [line for program in programs.values() for line in program if "tensor<20x4x4x1xui8>" in line]
    assert sum("@main" in line for line in lines) == 2  # an argument of the step, and of the test
    assert not any("constant" in line for line in lines)


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"batch_size": 21}, "batch_size is 21, expected 1 to the 20 training images"),
        ({"batch_size": 0}, "batch_size is 0, expected 1 to the 20 training images"),
        ({"compiled": "twice"}, "compiled must be 'once', 'each' or 'step', got 'twice'"),
        ({"archs_per_call": 2}, "archs_per_call must be 1 with compiled 'each', got 2"),
        ({"compiled": "once", "archs_per_call": 0}, "archs_per_call must be at least 1, got 0"),
        ({"archs": [[0, 2]]}, "two: "),
        ({"archs": [[0, 0, 0]]}, "two: "),
    ],
)
def test_refusals(changes, words, supernet):
    with pytest.raises(ValueError) as error:
        train_bright_and_dark(supernet, **changes)
    assert words in str(error.value) and "\n" not in str(error.value)


def test_a_network_that_diverges_is_no_truth(supernet):
    with pytest.raises(FloatingPointError, match="two: architecture 0_0 trained from key 0 has a test loss of nan"):
        train_bright_and_dark(supernet, num_epochs=1, learning_rate=1e30)


class TestWeights:
    @pytest.mark.parametrize("compiled", ["each", "once"])
    def test_a_network_that_is_saved_and_loaded_scores_what_it_scored(self, supernet, data, once, tmp_path, compiled):
        train = make_standalone(supernet, RECIPE, mean=data.mean, std=data.std, compiled=compiled, return_weights=True)
        given = data.train_images, data.train_labels, data.test_images, data.test_labels
        found = train(ARCHS[:1], KEYS[:2], *given)
        np.testing.assert_allclose(found.loss, once.loss[:1], rtol=1e-4)
        for seed, weights in enumerate(found.weights[0]):
            path = tmp_path / f"{seed}.safetensors"
            export.save(path, export.export(supernet, weights.params, ARCHS[0], weights.stats), supernet.space)
            module, variables = export.flax_module(supernet, export.load(path, supernet))
            standard = np.float32((data.test_images / 255.0 - data.mean) / data.std)
            logits = np.float64(jax.jit(module.apply)(variables, standard))
            chosen = logits[np.arange(len(logits)), data.test_labels]
            loss = (scipy.special.logsumexp(logits, axis=1) - chosen).mean()
            assert loss == pytest.approx(found.loss[0, seed], rel=1e-5)
            assert (logits.argmax(axis=1) == data.test_labels).mean() == found.accuracy[0, seed]
        assert once.weights is None

    @pytest.mark.slow("several networks are trained side by side, with their weights")
    def test_several_side_by_side_are_told_apart(self, supernet, data):
        train = make_standalone(supernet, RECIPE, mean=data.mean, std=data.std, archs_per_call=2, return_weights=True)
        archs = np.concatenate([ARCHS, [[0, 0]]])
        given = data.train_images, data.train_labels, data.test_images, data.test_labels
        weights = train(archs, KEYS[:2], *given).weights
        assert [len(row) for row in weights] == [2, 2, 2]
        kernels = [np.asarray(one.params["head"]["head"]["Conv_0"]["kernel"]) for row in weights for one in row]
        assert len({kernel.tobytes() for kernel in kernels}) == 6


def test_averaging_is_the_recursion_written_out():
    """Updates of one: parameters 1, 2, 3, 4; shares 1/10, 2/11, 3/12, then the decay of one fifth."""
    tx = optax.chain(optax.identity(), averaging(0.2))
    params = {"w": jnp.zeros(2)}
    state, expected = tx.init(params), 0.0
    for step, share in enumerate([1 / 10, 2 / 11, 0.2, 0.2], start=1):
        updates, state = tx.update({"w": jnp.ones(2)}, state, params)
        params = optax.apply_updates(params, updates)
        expected = share * expected + (1 - share) * step
        np.testing.assert_allclose(state[-1].average["w"], expected, rtol=1e-6)
    np.testing.assert_array_equal(params["w"], 4.0)


def test_the_learning_rate_rises_and_falls():
    """The steps of plain SGD on a gradient of one: up by fifths of 0.5, then half a cosine down to zero."""
    recipe = Recipe(3, 8, 0.5, momentum=0.0, clip_norm=None, num_warm_up_epochs=1)
    tx = make_optimiser(recipe, 15, steps_per_epoch=5)
    params = jnp.zeros(())
    state, steps = tx.init(params), []
    for _ in range(15):
        with jax.numpy_dtype_promotion("standard"):
            update, state = tx.update(jnp.ones(()), state, params)
        steps.append(-float(update))
    rising = [0.1 * step for step in range(5)]
    falling = [0.25 * (1 + np.cos(np.pi * step / 10)) for step in range(10)]
    np.testing.assert_allclose(steps, rising + falling, atol=1e-6)
    with pytest.raises(ValueError, match="num_warm_up_epochs is 3, expected fewer than the 3 of the recipe"):
        make_optimiser(recipe._replace(num_warm_up_epochs=3), 15, steps_per_epoch=5)


def test_step_by_step_is_the_whole_training(supernet, data, once):
    """The step that long trainings are made of, on the same images in the same order, against the training in one."""
    per_epoch, num_steps = 2, 4
    preprocess = make_preprocess(data.mean, data.std, crop=RECIPE.crop, flip=RECIPE.flip)
    made = make_retraining(
        supernet, ARCHS[0], RECIPE, num_steps=num_steps, steps_per_epoch=per_epoch, preprocess=preprocess
    )
    key = KEYS[1]
    params = only(supernet, supernet.init(key), ARCHS[0])
    state = made.init(key)._replace(params=params, key=jax.random.key_data(key).copy())
    for step in range(num_steps):
        epoch, number = divmod(step, per_epoch)
        order = jax.random.permutation(jax.random.fold_in(key, epoch), len(data.train_images))
        rows = np.asarray(order)[number * RECIPE.batch_size : (number + 1) * RECIPE.batch_size]
        batch = {"images": jnp.asarray(data.train_images[rows]), "labels": jnp.asarray(data.train_labels[rows])}
        state, metrics = made.step(state, {"train": batch})
    assert set(metrics) == {"loss", "accuracy", "grad_norm"} and int(state.step) == num_steps
    code, params = tuple(ARCHS[0].tolist()), made.params(state)
    train, test = (standardise(images, data.mean, data.std) for images in (data.train_images, data.test_images))
    _, stats = jax.jit(lambda params, images: supernet.apply(params, code, images))(params, train)
    module, variables = export.flax_module(supernet, export.export(supernet, params, code, stats))
    logits = jax.jit(module.apply)(variables, test)
    chosen = np.float64(logits)[np.arange(len(logits)), data.test_labels]
    loss = (scipy.special.logsumexp(np.float64(logits), axis=1) - chosen).mean()
    assert loss == pytest.approx(once.loss[0, 1], rel=1e-4)
