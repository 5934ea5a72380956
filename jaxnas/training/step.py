"""The training step: draw a population, sum its gradients, update once."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxnas.checks import choice, number, whole
from jaxnas.samplers import Sampler
from jaxnas.supernets import Params, Stats, Supernet, check_kept
from jaxnas.training._sharing import ALONE, Sharing, make_gradient
from jaxnas.training.losses import MEMORY, Batch, LossFn


class TrainState(NamedTuple):
    """Everything that a run needs to go on."""

    step: chex.Array  # int32, number of steps done
    params: Params
    opt_state: optax.OptState
    sampler_state: Any
    stats: Stats  # tracked statistics, layer -> [num_candidates, 2, size]; see `make_train_step`
    # Never changes: step keys are fold_in(key, step). Plain uint32, which every library can store, where the key is of
    # JAX's default kind; else as it was given.
    key: chex.Array
    # Of text, [num_archs, num_rows, ...]: what each place of the population remembers of the rows before. Whichever
    # architecture comes next takes it over, as in the code of "Evaluating the Search Phase of NAS".
    memory: chex.Array | tuple[()] = ()


TrainStep = Callable[[TrainState, Batch], tuple[TrainState, dict[str, chex.Array]]]  # -> state, metrics


def descend(tx: optax.GradientTransformation, grads: Any, opt_state: Any, params: Any) -> tuple[Any, Any]:
    """One step of an optimiser: (params, its state) after it."""
    with jax.numpy_dtype_promotion("standard"):  # optax's schedules divide whole numbers
        updates, opt_state = tx.update(grads, opt_state, params)
    return optax.apply_updates(params, updates), opt_state


def sgd(
    learning_rate: float,
    *,
    num_steps: int,
    momentum: float = 0.9,
    weight_decay: float = 0.0,
    clip_norm: float | None = 5.0,
    final_learning_rate: float = 0.0,
    nesterov: bool = False,
    num_warm_up_steps: int = 0,
) -> optax.GradientTransformation:
    """Global-norm clip, coupled weight decay, SGD with momentum, cosine decay: the setting of all papers reimplemented
    here; before it the learning rate may grow linearly from zero. Any other optax transformation does as well."""
    learning_rate = number("learning_rate", learning_rate, above=0)
    num_steps, momentum = whole("num_steps", num_steps, 1), number("momentum", momentum, 0, below=1)
    weight_decay, final_learning_rate = (
        number(name, value, 0)
        for name, value in (("weight_decay", weight_decay), ("final_learning_rate", final_learning_rate))
    )
    clip_norm = None if clip_norm is None else number("clip_norm", clip_norm, above=0)
    warm_up = whole("num_warm_up_steps", num_warm_up_steps, 0, num_steps - 1)
    schedule = optax.cosine_decay_schedule(
        learning_rate, num_steps - warm_up, alpha=final_learning_rate / learning_rate
    )
    if warm_up:
        rising = optax.linear_schedule(0.0, learning_rate, warm_up)
        schedule = optax.join_schedules([rising, schedule], [warm_up])
    return optax.chain(
        optax.clip_by_global_norm(clip_norm) if clip_norm else optax.identity(),
        optax.add_decayed_weights(weight_decay) if weight_decay else optax.identity(),
        optax.sgd(schedule, momentum, nesterov=nesterov),
    )


def init_train_state(
    supernet: Supernet,
    sampler: Sampler,
    tx: optax.GradientTransformation,
    key: chex.PRNGKey,
    *,
    num_rows: int | None = None,
) -> TrainState:
    """A fresh state from one key; tracked statistics start at mean 0 and variance 1.

    Args:
      num_rows: of a batch of text, which the memory goes with; None: nothing is remembered from one batch to the next.
        Of images it says nothing.
    """
    params_key, sampler_key, run_key = jax.random.split(key, 3)
    params = supernet.init(params_key)
    stats = {
        name: jnp.asarray(
            np.broadcast_to([[0.0], [1.0]], (len(layer.candidates), 2, layer.stats_size)), layer.stats_dtype
        )
        for name, layer in supernet.layers.items()
    }
    sampler_state = sampler.init(sampler_key)
    memory: chex.Array | tuple[()] = ()
    if supernet.recurrence is not None and num_rows is not None:
        archs = jax.eval_shape(sampler.sample, sampler_key, sampler_state)
        start = supernet.recurrence.start(whole("num_rows", num_rows, 1))
        memory = jnp.repeat(start[None], jax.tree.leaves(archs)[0].shape[0], axis=0)
    return TrainState(
        jnp.zeros((), jnp.int32), params, jax.jit(tx.init)(params), sampler_state, stats, plain_key(run_key), memory
    )


def plain_key(key: chex.PRNGKey) -> chex.Array:
    """A key as `TrainState` holds it."""
    if typed_key(key) is key and jax.random.key_impl(key) == jax.config.jax_default_prng_impl:  # type: ignore[attr-defined]
        return jax.random.key_data(key)
    return key


def typed_key(key: chex.PRNGKey) -> chex.PRNGKey:
    """What `TrainState` holds, as a key."""
    return key if jnp.issubdtype(key.dtype, jax.dtypes.prng_key) else jax.random.wrap_key_data(key)


def make_train_step(
    supernet: Supernet,
    loss_fn: LossFn,
    sampler: Sampler,
    tx: optax.GradientTransformation,
    *,
    idle: Literal["move", "rest"] = "move",
    stats_momentum: float | None = None,
    sharing: Sharing = ALONE,
) -> TrainStep:
    """Build the jitted step: draw a population, sum its gradients, update once.

    It is one call per step, not a scan over steps: XLA's convolution gradients are slow inside loops on CPU.

    Args:
      idle: what becomes of a candidate that no architecture of the step uses. Its gradient is zero, and "move" lets
        the optimiser do with that what it does (momentum and weight decay still move it: optax's own behaviour);
        "rest" freezes its weights and its optimiser state for the step (as PyTorch, which skips it).
      stats_momentum: share of the old value in the tracked batch-norm statistics of the candidates used, in [0, 1);
        None: don't track.
      sharing: the devices that share a step, and in how many parts each takes it; see `Sharing`.

    Raises:
      ValueError: a setting out of range, or a sampler that does not keep what its `groups` promise; and from the step,
        a population or a batch that the mesh does not divide, or a loss that reports too little.

    Returns:
      step(state, batch) -> (state, metrics); the given state is consumed (its buffers are donated). metrics: scalars
      `loss` and, where it is reported, `accuracy` (means over the population), `grad_norm`, and for a sum of losses
      `term_NAME` of each term.
    """
    choice("idle", idle, ("move", "rest"))
    if stats_momentum is not None:
        number("stats_momentum", stats_momentum, 0, below=1)
    _check_promise(supernet, sampler)
    gradient = make_gradient(supernet, loss_fn, sampler, sharing)

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, chex.Array]]:
        sample_key, loss_key = jax.random.split(jax.random.fold_in(typed_key(state.key), state.step))
        archs = sampler.sample(sample_key, state.sampler_state)
        if not isinstance(state.memory, tuple):
            batch = {**batch, MEMORY: {"rows": state.memory}}

        (_, aux), grads = gradient(state.params, archs, batch, loss_key, state.step)
        assert aux.arch_loss is not None
        with jax.numpy_dtype_promotion("standard"):  # optax's schedules divide whole numbers
            updates, opt_state = tx.update(grads, state.opt_state, state.params)
        if idle == "rest":
            moves = _moving(supernet, state.params, archs, grads)
            updates = jax.tree.map(lambda move, update: jnp.where(move, update, 0), moves, updates)
            moves_state = optax.tree.map_params(
                tx, lambda _, move: move, opt_state, moves, transform_non_params=lambda _: True
            )
            opt_state = jax.tree.map(jnp.where, moves_state, opt_state, state.opt_state)
        stats = state.stats
        if stats_momentum is not None:
            if aux.stats is None:
                raise ValueError("stats_momentum tracks statistics, but the loss reports none; give Aux its stats.")
            stats = track(supernet, stats, archs, aux.stats, stats_momentum)
        state = TrainState(
            step=state.step + 1,
            params=optax.apply_updates(state.params, updates),
            opt_state=opt_state,
            sampler_state=sampler.update(state.sampler_state, archs, aux.arch_loss),
            stats=stats,
            key=state.key,
            memory=state.memory if aux.memory is None else aux.memory,
        )
        metrics = {"loss": aux.arch_loss.mean()}
        if aux.arch_accuracy is not None:
            metrics["accuracy"] = aux.arch_accuracy.mean()
        metrics["grad_norm"] = optax.tree.norm(grads)
        metrics |= {f"term_{name}": value for name, value in (aux.terms or {}).items()}
        return state, metrics

    return jax.jit(step, donate_argnums=0)


def _check_promise(supernet: Supernet, sampler: Sampler) -> None:
    """Draw a few populations and raise a ValueError where they are not as the sampler's `groups` say: NaN in the middle
    of the training would not tell why."""
    if sampler.groups is None or isinstance(sampler.groups, int):
        return
    state = sampler.init(jax.random.key(0))
    for seed in range(4):
        archs = sampler.sample(jax.random.key(seed), state)
        check_kept(supernet, archs, sampler.groups, "the populations of this sampler")


def _moving(supernet: Supernet, params: Params, archs: chex.Array, grads: Params) -> Params:
    """The tree of parameters, with whether each moves: all of a candidate do, or none. A shared one moves with
    whoever uses it. A gradient counts as use, since landmarks and the like train candidates outside the
    population."""

    def mark(indices, index, candidate):
        used = jnp.any(indices == index)
        return jax.tree.map(lambda leaf: jnp.full(leaf.shape, used, leaf.dtype), candidate)

    def one(reached, grads):
        touched: Any = False
        for leaf in jax.tree.leaves(grads):
            touched |= jnp.any(leaf != 0)
        return jax.tree.map(lambda leaf: touched | jnp.any(leaf != 0), reached)

    of_candidates, back = jax.vjp(supernet.view, params)  # which stored parameters the used ones are made of
    taken, marked = supernet.taken(archs), {}
    for name, candidates in of_candidates.items():
        index = {op: number for number, op in enumerate(supernet.layers[name].candidates)}
        marked[name] = {op: mark(taken[name], index[op], tree) for op, tree in candidates.items()}
    (reached,) = back(marked)
    return {
        group: {name: one(reached[group][name], grads[group][name]) for name in members}
        for group, members in grads.items()
    }


def track(supernet: Supernet, tracked: Stats, archs: chex.Array, used: Stats, momentum: float) -> Stats:
    """Exponential averages per candidate: tracked [num_candidates, 2, size] by used [num_archs, 2, size]; a candidate
    taken by several architectures moves towards their mean, one that none takes stays."""

    def one(name, indices):
        num_candidates = len(supernet.layers[name].candidates)
        takes = jax.nn.one_hot(indices, num_candidates, axis=0, dtype=jnp.float32)
        count = takes.sum(axis=1)[:, None, None]
        mean = jnp.einsum("oa,ars->ors", takes, used[name].astype(jnp.float32)) / jnp.maximum(count, 1)
        new = (momentum * tracked[name]).astype(jnp.float32) + (1 - momentum) * mean
        return jnp.where(count > 0, new.astype(tracked[name].dtype), tracked[name])

    return {name: one(name, indices) for name, indices in supernet.taken(archs).items()}
