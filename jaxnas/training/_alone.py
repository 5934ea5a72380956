"""How one network is trained alone: in one program with all others, in one of its own, or step by step."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from jaxnas.evaluation import cross_entropy, is_correct
from jaxnas.supernets import Supernet, only
from jaxnas.training.preprocess import Preprocess, standardise
from jaxnas.training.recipe import Recipe, Weights, final_params, make_optimiser
from jaxnas.training.step import descend


class Task(NamedTuple):
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


def _start(task: Task, arch, keys, num_steps: int):
    """Parameters and optimiser state of each seed."""
    params = jax.vmap(task.supernet.init)(keys)
    if not isinstance(arch, jax.Array):
        params = only(task.supernet, params, arch)
    elif task.supernet.alone is not None:
        params = jax.vmap(task.supernet.alone, in_axes=(0, None))(params, arch)
    return params, jax.vmap(task.optimiser(num_steps).init)(params)


def _order(task: Task, keys, epoch, num_images: int):
    """The images of each step of an epoch: int [num_steps, num_seeds, batch_size]; the last few are left out."""
    num_batches = num_images // task.recipe.batch_size
    shuffle = jax.vmap(lambda key: jax.random.permutation(jax.random.fold_in(key, epoch), num_images))
    kept = shuffle(keys)[:, : num_batches * task.recipe.batch_size]
    return kept.reshape(len(keys), num_batches, task.recipe.batch_size).swapaxes(0, 1)


def _step(task: Task, arch, keys, state, number, rows, images, labels, num_steps: int):
    tx = task.optimiser(num_steps)

    def one(key, state, rows):
        params, opt_state = state

        def loss_fn(params):
            x = task.preprocess(jax.random.fold_in(key, number), images[rows])
            logits, _ = task.supernet.apply(params, arch, x, groups=None)
            return cross_entropy(logits, labels[rows], label_smoothing=task.recipe.label_smoothing).mean()

        return descend(tx, jax.grad(loss_fn)(params), opt_state, params)

    return _over_seeds(one, keys, state, rows)


def _test(task: Task, arch, state, images, test_images, test_labels):
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


def train_once(task: Task, arch, keys, images, labels, test_images, test_labels):
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


def train_rows(task: Task, arch, keys, rows, labels, test_rows, test_labels):
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


def make_programs(task: Task, *, fixed: bool = False) -> _Programs:
    """fixed: the architecture, a tuple, is known while tracing."""
    arch = (0,) if fixed else ()
    return _Programs(
        jax.jit(functools.partial(_start, task), static_argnums=(*arch, 2)),
        jax.jit(functools.partial(_step, task), static_argnums=(*arch, 7), donate_argnums=2),
        jax.jit(functools.partial(_order, task), static_argnums=2),
        jax.jit(functools.partial(_test, task), static_argnums=arch),
    )


def train_each(task: Task, arch, keys, *data):
    fixed = tuple(int(op) for op in arch)
    return _train_by_steps(task, make_programs(task, fixed=True), fixed, keys, *data)


def train_seeds(task: Task, programs: _Programs, arch, keys, *data):
    """Seed by seed: kernels that are batched become grouped convolutions, which are slow on CPU."""
    seeds = [_train_by_steps(task, programs, arch, keys[seed : seed + 1], *data) for seed in range(len(keys))]
    return jax.tree.map(lambda *rows: jnp.concatenate(rows), *seeds)


def _train_by_steps(task: Task, programs: _Programs, arch, keys, images, labels, test_images, test_labels):
    per_epoch = len(images) // task.recipe.batch_size
    num_steps = task.recipe.num_epochs * per_epoch
    state = programs.start(arch, keys, num_steps)
    for epoch in range(task.recipe.num_epochs):
        for number, rows in enumerate(programs.order(keys, epoch, len(images)), start=epoch * per_epoch):
            state = programs.step(arch, keys, state, number, rows, images, labels, num_steps)
    return programs.test(arch, state, images, test_images, test_labels)
