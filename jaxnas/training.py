"""Super-net training: losses over a batch of architectures, the step, and the loop around it."""

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxnas.choice import Groups
from jaxnas.losses import cross_entropy, is_correct
from jaxnas.samplers import Sampler
from jaxnas.supernets import Params, Stats, Supernet

Batch = dict[str, dict[str, chex.Array]]  # split -> {"images": [num_images, h, w, c], "labels": int32 [num_images]}
Preprocess = Callable[[chex.PRNGKey, chex.Array], chex.Array]


DROPOUT = 2**16  # folded into a loss's key: far from what `preprocess` and sums of losses make of it


class Aux(NamedTuple):
    """What a loss reports of the population; None where it looks at other architectures only."""

    arch_loss: chex.Array | None = None  # [num_archs]
    arch_accuracy: chex.Array | None = None  # [num_archs], fractions
    stats: Stats | None = None  # layer -> [num_archs, 2, size], the normalisation statistics used
    terms: dict[str, chex.Array] | None = None  # name -> scalar, what each term of a sum adds; see `add_losses`


LossFn = Callable[[Params, chex.Array, Batch, chex.PRNGKey, chex.Array], tuple[chex.Array, Aux]]


class TrainState(NamedTuple):
    """Everything that a run needs to go on."""

    step: chex.Array  # int32, number of steps done
    params: Params
    opt_state: optax.OptState
    sampler_state: Any
    stats: Stats  # tracked statistics, layer -> [num_candidates, 2, size]; see `make_train_step`
    key: chex.PRNGKey  # never changes: step keys are fold_in(key, step)


def make_preprocess(mean: chex.Array, std: chex.Array, *, crop: int = 0, flip: bool = False) -> Preprocess:
    """From stored to network images: uint8 to standardised float32, after random crop and flip, on device.

    Args:
      mean, std: float [channels] in units of 0..1, as in `Dataset`.
      crop: pixels of zero padding around the image before a random crop of the original size; 0 for none.
      flip: mirror each image left-right with probability one half.
    """

    def preprocess(key: chex.PRNGKey, images: chex.Array) -> chex.Array:
        images = standardise(images, mean, std)
        crop_key, flip_key = jax.random.split(key)
        num_images, height, width, channels = images.shape
        if crop:
            padded = jnp.pad(images, ((0, 0), (crop, crop), (crop, crop), (0, 0)))
            corners = jax.random.randint(crop_key, (num_images, 2), 0, 2 * crop + 1)
            images = jax.vmap(
                lambda image, corner: jax.lax.dynamic_slice(image, (*corner, 0), (height, width, channels))
            )(padded, corners)
        if flip:
            mirror = jax.random.bernoulli(flip_key, 0.5, (num_images, 1, 1, 1))
            images = jnp.where(mirror, images[:, :, ::-1], images)
        return images

    return preprocess


def standardise(images: chex.Array, mean: chex.Array, std: chex.Array) -> chex.Array:
    """uint8 images to float32 with the given channel mean and std in units of 0..1."""
    return ((images.astype(jnp.float32) / 255.0) - jnp.asarray(mean)) / jnp.asarray(std)


def make_cross_entropy_loss(
    supernet: Supernet,
    *,
    groups: Groups,
    preprocess: Preprocess = lambda key, images: images,
    label_smoothing: float = 0.0,
    split: str = "train",
    dropout_steps: int | None = None,
) -> LossFn:
    """Cross-entropy of a population on one batch, summed over architectures. Each draws its own dropout.

    Args:
      groups: how the population is dispatched; pass `sampler.groups`.
      preprocess: (key, images) -> float images; all architectures of a step see the same ones.
      dropout_steps: path dropout reaches its strength after so many steps, growing linearly (NAO, arXiv 1808.07233);
        None: at once.
    """

    def loss_fn(params, archs, batch, key, step):
        images = preprocess(key, batch[split]["images"])
        if supernet.dropout is None:
            keys, drops = None, {}
        else:
            keys = jax.random.split(jax.random.fold_in(key, DROPOUT), len(archs))
            drops = {"ramp": 1.0 if dropout_steps is None else jnp.minimum(1.0, (step + 1) / dropout_steps)}

        def apply(arch, key, groups):
            drawn = {} if key is None else {"key": key, **drops}
            return supernet.apply(params, arch, images, groups=groups, **drawn)

        if len(archs) == 1:  # without the axis, which costs a quarter more on CPU
            alone = apply(archs[0], None if keys is None else keys[0], None)
            logits, stats = jax.tree.map(lambda leaf: leaf[None], alone)
        else:
            logits, stats = jax.vmap(lambda arch, key: apply(arch, key, groups))(archs, keys)
        losses = cross_entropy(logits, batch[split]["labels"], label_smoothing=label_smoothing)
        arch_loss = losses.mean(axis=-1)
        accuracy = is_correct(logits, batch[split]["labels"]).mean(axis=-1)
        return arch_loss.sum(), Aux(arch_loss, accuracy, stats)

    return loss_fn


def add_losses(terms: Mapping[str, tuple[float | optax.Schedule, LossFn]]) -> LossFn:
    """The weighted sum of losses, itself a loss: `add_losses({"cross_entropy": (1.0, ce), "ranking": (weight, rank)})`.

    What is reported of the population comes from the first term that reports it. `Aux.terms` has each term's weighted
    value by name, a sum within the sum as "outer/inner" besides; the metrics of a step show them as `term_NAME`. A term
    is computed also while its weight is zero: for a long warm-up, build a second step without it. Each term draws from
    its own key, which depends on its place only, so the terms before it draw the same without it.

    Args:
      terms: name -> (weight, loss). A weight is a number, or step -> number as the schedules of optax.

    Raises:
      ValueError: there is no term.
    """
    if not terms:
        raise ValueError("add_losses: there is no term; give at least one {name: (weight, loss_fn)}.")

    def loss_fn(params, archs, batch, key, step):
        values, reports = {}, []
        for place, (name, (weight, term)) in enumerate(terms.items()):
            loss, aux = term(params, archs, batch, jax.random.fold_in(key, place), step)
            scale = weight(step) if callable(weight) else weight
            values[name] = scale * loss
            values |= {f"{name}/{inner}": scale * value for inner, value in (aux.terms or {}).items()}
            reports.append(aux)
        reported = next((aux for aux in reports if aux.arch_loss is not None), Aux())
        return sum(values[name] for name in terms), reported._replace(terms=values)

    return loss_fn


def sgd(
    learning_rate: float,
    *,
    num_steps: int,
    momentum: float = 0.9,
    weight_decay: float = 0.0,
    clip_norm: float | None = 5.0,
    final_learning_rate: float = 0.0,
    nesterov: bool = False,
) -> optax.GradientTransformation:
    """Global-norm clip, coupled weight decay, SGD with momentum, cosine decay: the setting of all papers reimplemented
    here. Any other optax transformation does as well."""
    if not learning_rate > 0:
        raise ValueError(f"learning_rate must be above 0, got {learning_rate}.")
    schedule = optax.cosine_decay_schedule(learning_rate, num_steps, alpha=final_learning_rate / learning_rate)
    return optax.chain(
        optax.clip_by_global_norm(clip_norm) if clip_norm else optax.identity(),
        optax.add_decayed_weights(weight_decay) if weight_decay else optax.identity(),
        optax.sgd(schedule, momentum, nesterov=nesterov),
    )


def init_train_state(
    supernet: Supernet, sampler: Sampler, tx: optax.GradientTransformation, key: chex.PRNGKey
) -> TrainState:
    """A fresh state from one key; tracked statistics start at mean 0 and variance 1."""
    params_key, sampler_key, run_key = jax.random.split(key, 3)
    params = supernet.init(params_key)
    stats = {
        name: jnp.broadcast_to(jnp.array([[0.0], [1.0]], layer.stats_dtype), (len(layer.modules), 2, layer.stats_size))
        for name, layer in supernet.all_layers.items()
    }
    return TrainState(jnp.zeros((), jnp.int32), params, tx.init(params), sampler.init(sampler_key), stats, run_key)


def make_train_step(
    supernet: Supernet,
    loss_fn: LossFn,
    sampler: Sampler,
    tx: optax.GradientTransformation,
    *,
    idle: Literal["move", "rest"] = "move",
    stats_momentum: float | None = None,
) -> Callable[[TrainState, Batch], tuple[TrainState, dict[str, chex.Array]]]:
    """Build the jitted step: draw a population, sum its gradients, update once.

    It is one call per step, not a scan over steps: XLA's convolution gradients are slow inside loops on CPU.

    Args:
      idle: what becomes of a candidate that no architecture of the step uses. Its gradient is zero, and "move" lets
        the optimiser do with that what it does (momentum and weight decay still move it: optax's own behaviour);
        "rest" freezes its weights and its optimiser state for the step (as PyTorch, which skips it).
      stats_momentum: share of the old value in the tracked batch-norm statistics of the candidates used, in [0, 1);
        None: don't track.

    Returns:
      step(state, batch) -> (state, metrics); the given state is consumed (its buffers are donated). metrics: scalars
      `loss` and `accuracy` (means over the population), `grad_norm`, and for a sum of losses `term_NAME` of each term.
    """
    if idle not in ("move", "rest"):
        raise ValueError(f"idle must be 'move' or 'rest', got {idle!r}.")

    def moving(params, archs, grads):
        """The tree of parameters, with whether each moves: all of a candidate do, or none. A shared one moves with
        whoever uses it. A gradient counts as use, since landmarks and the like train candidates outside the
        population."""

        def mark(layer, place, own):
            used = True if layer.choice is None else jnp.any(taken[:, layer.choice] == place)
            return jax.tree.map(lambda leaf: jnp.full(leaf.shape, used, leaf.dtype), own)

        def one(reached, grads):
            touched = functools.reduce(jnp.logical_or, (jnp.any(leaf != 0) for leaf in jax.tree.leaves(grads)), False)
            return jax.tree.map(lambda leaf: touched | jnp.any(leaf != 0), reached)

        taken = supernet.decode(archs)
        own, back = jax.vjp(supernet.view, params)  # which stored parameters the used ones are made of
        marked = {
            name: {op: mark(layer, place, own[name][op]) for place, op in enumerate(layer.modules)}
            for name, layer in supernet.all_layers.items()
        }
        (reached,) = back(marked)
        return {
            group: {name: one(reached[group][name], grads[group][name]) for name in members}
            for group, members in grads.items()
        }

    def step(state: TrainState, batch: Batch):
        sample_key, loss_key = jax.random.split(jax.random.fold_in(state.key, state.step))
        archs = sampler.sample(sample_key, state.sampler_state)
        grad_fn = jax.value_and_grad(loss_fn, has_aux=True)
        (_, aux), grads = grad_fn(state.params, archs, batch, loss_key, state.step)
        if aux.arch_loss is None:
            raise ValueError("the loss reports nothing of the population; add one that does, with add_losses.")
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        if idle == "rest":
            moves = moving(state.params, archs, grads)
            updates = jax.tree.map(lambda move, update: jnp.where(move, update, 0), moves, updates)
            moves_state = optax.tree.map_params(
                tx, lambda _, move: move, opt_state, moves, transform_non_params=lambda _: True
            )
            opt_state = jax.tree.map(jnp.where, moves_state, opt_state, state.opt_state)
        stats = state.stats
        if stats_momentum is not None:
            stats = track(supernet, stats, archs, aux.stats, stats_momentum)
        state = TrainState(
            step=state.step + 1,
            params=optax.apply_updates(state.params, updates),
            opt_state=opt_state,
            sampler_state=sampler.update(state.sampler_state, archs, aux.arch_loss),
            stats=stats,
            key=state.key,
        )
        metrics = {
            "loss": aux.arch_loss.mean(),
            "accuracy": aux.arch_accuracy.mean(),
            "grad_norm": optax.tree.norm(grads),
        }
        metrics |= {f"term_{name}": value for name, value in (aux.terms or {}).items()}
        return state, metrics

    return jax.jit(step, donate_argnums=0)


def track(supernet: Supernet, tracked: Stats, archs: chex.Array, used: Stats, momentum: float) -> Stats:
    """Exponential averages per candidate: tracked [num_candidates, 2, size] by used [num_archs, 2, size]; a candidate
    taken by several architectures moves towards their mean, one that none takes stays."""
    archs = supernet.decode(archs)

    def one(name, layer):
        if layer.choice is None:
            taken = jnp.ones((1, archs.shape[0]))
        else:
            taken = (archs[:, layer.choice] == jnp.arange(len(layer.modules))[:, None]).astype(jnp.float32)
        count = taken.sum(axis=1)[:, None, None]
        mean = jnp.einsum("oa,ars->ors", taken, used[name].astype(jnp.float32)) / jnp.maximum(count, 1)
        new = momentum * tracked[name] + (1 - momentum) * mean
        return jnp.where(count > 0, new.astype(tracked[name].dtype), tracked[name])

    return {name: one(name, layer) for name, layer in supernet.all_layers.items()}


def fit(
    step: Callable,
    state: TrainState,
    batch_at: Callable[[int], Batch],
    num_steps: int,
    *,
    report_at: Callable[[int], bool] = lambda steps: steps % 50 == 0,
    callbacks: Iterable[Callable[[int, dict[str, float], TrainState], None]] = (),
) -> TrainState:
    """Run from `state.step` to `num_steps`.

    Args:
      batch_at: step number -> batch; a pure function, so that a resumed run sees what an uninterrupted one saw.
      report_at: number of steps done -> whether to report; a report fetches the metrics since the last one. The end of
        the training always reports.
      callbacks: called as (steps done, metrics averaged over the reported steps, state), at each report. The next
        step consumes the state: a callback that keeps it keeps a copy.

    Raises:
      FloatingPointError: the loss or the gradient of a step is not finite; says which step, counted from 0.
    """
    first = int(state.step)
    pending: list[dict[str, chex.Array]] = []
    for number in range(first, num_steps):
        state, metrics = step(state, batch_at(number))
        pending.append(metrics)
        if report_at(number + 1) or number + 1 == num_steps:
            fetched = jax.device_get(pending)
            for at, row in enumerate(fetched, number + 1 - len(fetched)):
                bad = ", ".join(f"{name} is {value}" for name, value in row.items() if not np.isfinite(value))
                if bad:
                    terms = {name: value for name, value in row.items() if name.startswith("term_")}
                    finite = ", ".join(f"{name} is {value:.3g}" for name, value in terms.items() if np.isfinite(value))
                    raise FloatingPointError(
                        f"training stopped: {bad} at step {at}{f', where {finite}' if finite else ''}; lower"
                        f" {'the weight of a term, ' if terms else ''}the learning rate or clip_norm."
                    )
            means = {name: float(np.mean([row[name] for row in fetched], dtype=np.float64)) for name in fetched[0]}
            for callback in callbacks:
                callback(number + 1, means, state)
            pending = []
    return state
