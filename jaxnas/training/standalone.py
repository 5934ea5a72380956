"""Training architectures from scratch, alone: the truth that a super-net's ranking is compared with."""

import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Protocol

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxnas import codes
from jaxnas.evaluation import cross_entropy, is_correct, ordered_map
from jaxnas.supernets import Supernet, only
from jaxnas.training.preprocess import Preprocess, make_preprocess, standardise
from jaxnas.training.recipe import Recipe, Weights, final_params, make_optimiser, separate
from jaxnas.training.step import descend


class Standalone(NamedTuple):
    """What the trained networks reach on the test images; of text on each test row by itself, means over words."""

    accuracy: np.ndarray  # float64 [num_archs, num_seeds], fractions
    loss: np.ndarray  # float64 [num_archs, num_seeds], nats
    weights: list[list[Weights]] | None = None  # of each architecture and seed, where they were asked for


class TrainAlone(Protocol):
    """Trains archs int [num_archs, num_choices], each from every key [num_seeds]. Images are uint8 [num_images, height,
    width, channels], labels int [num_images]; of text words int [num_rows, length], each row going on where the one
    before ends, and the words that follow."""

    def __call__(
        self,
        archs: chex.ArrayNumpy,
        keys: chex.PRNGKey,
        images: chex.ArrayNumpy,
        labels: chex.ArrayNumpy,
        test_images: chex.ArrayNumpy,
        test_labels: chex.ArrayNumpy,
    ) -> Standalone: ...


def make_standalone(
    supernet: Supernet,
    recipe: Recipe,
    *,
    mean: chex.Array,
    std: chex.Array,
    compiled: Literal["once", "each", "step"] = "once",
    archs_per_call: int = 1,
    num_calibration_images: int = 1024,
    workers: int = 1,
    return_weights: bool = False,
) -> TrainAlone:
    """Build `train(archs, keys, images, labels, test_images, test_labels) -> Standalone`.

    A key decides initial weights and the order of images; seeds train side by side in one program, their parameters
    batched. After training, batch normalisation takes its statistics from the first `num_calibration_images` training
    images under the final weights, and the test images are scored with them.

    Text is read in order, a row from each of `batch_size` places in a step, and what is remembered goes on from step to
    step within an epoch.

    Args:
      supernet: read as a family of networks; of the others' operations nothing enters a network's result.
      mean, std: of the images, float [channels] in units of 0..1.
      compiled: "once": one program for every architecture, a switch at each choice and the whole training a loop on
        the device: for many small networks without convolutions wider than 1x1, whose gradients are slow in loops on
        CPU. "each": one program per architecture and one call per step, without the operations that it lacks: for
        few, larger networks. "step": one program of a step for every architecture, called for each step and seed: for
        many networks whose convolutions a loop would slow down.
      archs_per_call: architectures that train side by side in one program, with compiled="once": the parameters being
        batched, each choice computes all its operations and keeps one. For accelerators that small networks leave idle;
        on CPU it costs what it computes (benchmarks/README.md), and 1 is fastest.
      workers: host threads, each with calls of its own; small networks leave cores idle.
      return_weights: what each network learnt comes back too; with compiled="each" no more than the network's own,
        else the whole super-net's parameters for each architecture and seed.

    Raises:
      ValueError: fewer images than a batch; unknown `compiled`; several archs_per_call, or text, with another than
        compiled="once"; text with label smoothing; codes not of the space; a super-net whose candidates share
        parameters, but for `masked` ones.
      FloatingPointError: from train, a network whose loss is not finite: it diverged.
    """
    _check_settings(supernet, recipe, compiled, archs_per_call)
    is_text = supernet.recurrence is not None
    preprocess = (
        (lambda key, words: words) if is_text else make_preprocess(mean, std, crop=recipe.crop, flip=recipe.flip)
    )
    task = _Task(supernet, recipe, mean, std, num_calibration_images, preprocess, return_weights)
    train_once = functools.partial(_train_rows if is_text else _train_once, task)
    train_one: Callable[..., Any] = jax.jit(train_once)
    train_several = jax.jit(jax.vmap(train_once, in_axes=(0, *[None] * 5)))
    if compiled == "each":
        train_one = functools.partial(_train_each, task)
    elif compiled == "step":
        train_one = functools.partial(_train_seeds, task, _programs(task))

    def train(archs, keys, images, labels, test_images, test_labels) -> Standalone:
        archs = codes.check(supernet.space, archs)
        if not 1 <= recipe.batch_size <= len(images):
            raise ValueError(f"batch_size is {recipe.batch_size}, expected 1 to the {len(images)} training images.")
        data = [jnp.asarray(array) for array in (images, labels, test_images, test_labels)]

        def call(start: int):
            """Of one call's architectures: loss and correct answers [num_archs, num_seeds], and their weights."""
            called = archs[start : start + archs_per_call]
            if archs_per_call == 1:
                return jax.tree.map(
                    lambda row: row[None], jax.device_get(train_one(jnp.asarray(called[0]), keys, *data))
                )
            padded = np.concatenate([called, np.repeat(called[-1:], archs_per_call - len(called), axis=0)])
            found = jax.device_get(train_several(jnp.asarray(padded), keys, *data))
            return jax.tree.map(lambda rows: rows[: len(called)], found)

        parts = list(ordered_map(call, range(0, len(archs), archs_per_call), workers))
        loss, correct = (np.concatenate(column).astype(np.float64) for column in zip(*(part[:2] for part in parts)))
        if not np.isfinite(loss).all():
            row, seed = np.argwhere(~np.isfinite(loss))[0]
            name = f"{supernet.space.name}: architecture {codes.to_text(supernet.space, archs[row])}"
            raise FloatingPointError(
                f"{name} trained from key {seed} has a test loss of {loss[row, seed]}; lower the learning rate."
            )
        weights = [network for part in parts for network in separate(part[2])] if return_weights else None
        return Standalone(correct / np.size(test_labels), loss, weights)

    return train


def _check_settings(supernet: Supernet, recipe: Recipe, compiled: str, archs_per_call: int) -> None:
    if compiled not in ("once", "each", "step"):
        raise ValueError(f"compiled must be 'once', 'each' or 'step', got {compiled!r}.")
    if archs_per_call < 1 or (compiled != "once" and archs_per_call > 1):
        wanted = f"1 with compiled {compiled!r}" if compiled != "once" else "at least 1"
        raise ValueError(f"archs_per_call must be {wanted}, got {archs_per_call}.")
    if supernet.has_shared_params and (supernet.alone is None or compiled == "each"):
        raise ValueError(
            f"{supernet.space.name}: candidates of this super-net share parameters, but a network trained alone has its"
            " own; build it with kernels='separate', op_on='edge' and, for NAS-Bench-101, channels='expanded', or"
            " take jaxnas.supernets.masked of it."
        )
    is_text = supernet.recurrence is not None
    if is_text and compiled != "once":
        raise ValueError(f"{supernet.space.name}: networks on text are trained with compiled 'once', got {compiled!r}.")
    if is_text and recipe.label_smoothing:
        raise ValueError(f"{supernet.space.name}: label_smoothing is {recipe.label_smoothing}, expected 0 for text.")


class _Task(NamedTuple):
    """What all networks are trained by."""

    supernet: Supernet
    recipe: Recipe
    mean: chex.Array
    std: chex.Array
    num_calibration_images: int
    preprocess: Preprocess
    return_weights: bool

    def optimiser(self, num_steps: int) -> optax.GradientTransformation:
        return make_optimiser(self.recipe, num_steps, steps_per_epoch=num_steps // self.recipe.num_epochs)


def _start(task: _Task, arch, keys, num_steps: int):
    """Parameters and optimiser state of each seed."""
    params = jax.vmap(task.supernet.init)(keys)
    if not isinstance(arch, jax.Array):
        params = only(task.supernet, params, arch)
    elif task.supernet.alone is not None:
        params = jax.vmap(task.supernet.alone, in_axes=(0, None))(params, arch)
    return params, jax.vmap(task.optimiser(num_steps).init)(params)


def _order(task: _Task, keys, epoch, num_images: int):
    """The images of each step of an epoch: int [num_steps, num_seeds, batch_size]; the last few are left out."""
    num_batches = num_images // task.recipe.batch_size
    shuffle = jax.vmap(lambda key: jax.random.permutation(jax.random.fold_in(key, epoch), num_images))
    kept = shuffle(keys)[:, : num_batches * task.recipe.batch_size]
    return kept.reshape(len(keys), num_batches, task.recipe.batch_size).swapaxes(0, 1)


def _step(task: _Task, arch, keys, state, number, rows, images, labels, num_steps: int):
    tx = task.optimiser(num_steps)

    def one(key, state, rows):
        params, opt_state = state

        def loss_fn(params):
            x = task.preprocess(jax.random.fold_in(key, number), images[rows])
            logits, _ = task.supernet.apply(params, arch, x, groups=None)
            return cross_entropy(logits, labels[rows], label_smoothing=task.recipe.label_smoothing).mean()

        return descend(tx, jax.grad(loss_fn)(params), opt_state, params)

    return _over_seeds(one, keys, state, rows)


def _test(task: _Task, arch, state, images, test_images, test_labels):
    def one(state):
        params = final_params(task.recipe, *state)
        few = standardise(images[: task.num_calibration_images], task.mean, task.std)
        _, stats = task.supernet.apply(params, arch, few, groups=None)
        logits, _ = task.supernet.apply(
            params, arch, standardise(test_images, task.mean, task.std), stats=stats, groups=None
        )
        found = cross_entropy(logits, test_labels).mean(), is_correct(logits, test_labels).sum()
        return (*found, Weights(params, stats)) if task.return_weights else found

    return _over_seeds(one, state)


def _over_seeds(function: Callable[..., Any], *of_seeds: Any) -> Any:
    """The function on a leading axis of seeds; of one seed without that axis, which XLA's products and sums are slower
    with."""
    if len(jax.tree.leaves(of_seeds)[0]) > 1:
        return jax.vmap(function)(*of_seeds)
    return jax.tree.map(lambda leaf: leaf[None], function(*jax.tree.map(lambda leaf: leaf[0], of_seeds)))


def _train_once(task: _Task, arch, keys, images, labels, test_images, test_labels):
    per_epoch = len(images) // task.recipe.batch_size
    num_steps = task.recipe.num_epochs * per_epoch

    def epoch(state, number):
        numbers = number * per_epoch + jnp.arange(per_epoch)

        def body(state, xs):
            return _step(task, arch, keys, state, xs[0], xs[1], images, labels, num_steps), None

        return jax.lax.scan(body, state, (numbers, _order(task, keys, number, len(images))))

    state, _ = jax.lax.scan(epoch, _start(task, arch, keys, num_steps), jnp.arange(task.recipe.num_epochs))
    return _test(task, arch, state, images, test_images, test_labels)


ROWS_PER_CALL = 32  # test rows that are scored at once: logits of a text are large


def _train_rows(task: _Task, arch, keys, rows, labels, test_rows, test_labels):
    recurrence, batch_size = task.supernet.recurrence, task.recipe.batch_size
    assert recurrence is not None
    unroll, per_epoch = recurrence.unroll, len(rows) // batch_size
    num_steps = task.recipe.num_epochs * per_epoch
    tx, places = task.optimiser(num_steps), per_epoch * jnp.arange(batch_size)
    start = jnp.repeat(recurrence.start(batch_size)[None], len(keys), axis=0)

    def step(carry, number):
        params, opt_state, memory = carry
        within = number % per_epoch
        memory, here = jnp.where(within == 0, 0, memory), places + within

        def loss_fn(params, memory):
            logits, memory = unroll(params, arch, rows[here], memory)
            return cross_entropy(logits, labels[here]).mean(), memory

        grads, memory = jax.vmap(jax.grad(loss_fn, has_aux=True))(params, memory)
        params, opt_state = jax.vmap(functools.partial(descend, tx))(grads, opt_state, params)
        return (params, opt_state, memory), None

    def test_row(params, row):
        logits, _ = unroll(params, arch, row[0][None], recurrence.start(1))
        labels = row[1][None]
        return cross_entropy(logits, labels).sum(), is_correct(logits, labels).sum()

    def test(params):
        row = functools.partial(test_row, params)
        loss, correct = jax.lax.map(row, (test_rows, test_labels), batch_size=min(ROWS_PER_CALL, len(test_rows)))
        return loss.sum() / test_labels.size, correct.sum()

    (*state, _), _ = jax.lax.scan(step, (*_start(task, arch, keys, num_steps), start), jnp.arange(num_steps))
    params = final_params(task.recipe, *state)
    found = jax.lax.map(test, params)
    return (*found, Weights(params, None)) if task.return_weights else found


class _Programs(NamedTuple):
    """The parts of a training that are called one by one; images are arguments, since arrays that a jitted function
    closes over are written into its program."""

    start: Callable[..., Any]
    step: Callable[..., Any]
    order: Callable[..., Any]
    test: Callable[..., Any]


def _programs(task: _Task, *, fixed: bool = False) -> _Programs:
    """fixed: the architecture, a tuple, is known while tracing."""
    arch = (0,) if fixed else ()
    return _Programs(
        jax.jit(functools.partial(_start, task), static_argnums=(*arch, 2)),
        jax.jit(functools.partial(_step, task), static_argnums=(*arch, 7), donate_argnums=2),
        jax.jit(functools.partial(_order, task), static_argnums=2),
        jax.jit(functools.partial(_test, task), static_argnums=arch),
    )


def _train_each(task: _Task, arch, keys, *data):
    fixed = tuple(int(op) for op in arch)
    return _train_by_steps(task, _programs(task, fixed=True), fixed, keys, *data)


def _train_seeds(task: _Task, programs: _Programs, arch, keys, *data):
    """Seed by seed: kernels that are batched become grouped convolutions, which are slow on CPU."""
    seeds = [_train_by_steps(task, programs, arch, keys[seed : seed + 1], *data) for seed in range(len(keys))]
    return jax.tree.map(lambda *rows: jnp.concatenate(rows), *seeds)


def _train_by_steps(task: _Task, programs: _Programs, arch, keys, images, labels, test_images, test_labels):
    per_epoch = len(images) // task.recipe.batch_size
    num_steps = task.recipe.num_epochs * per_epoch
    state = programs.start(arch, keys, num_steps)
    for epoch in range(task.recipe.num_epochs):
        for number, rows in enumerate(programs.order(keys, epoch, len(images)), start=epoch * per_epoch):
            state = programs.step(arch, keys, state, number, rows, images, labels, num_steps)
    return programs.test(arch, state, images, test_images, test_labels)
