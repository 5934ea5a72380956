"""Losses over a batch of architectures, and the ranking loss of known ones."""

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxnas.checks import number, shown, whole
from jaxnas.evaluation import cross_entropy, is_correct
from jaxnas.ops.collectives import (
    ARCHS,
    DATA,
    DATA_ALONE,
    mean_over_archs,
    mean_over_data,
    number_along,
    own_key,
    share_of,
    sum_over_archs,
)
from jaxnas.supernets import Params, Stats, Supernet, check_kept
from jaxnas.supernets.choice import Groups
from jaxnas.training.preprocess import Preprocess

# split -> {"images": [num_images, h, w, c], "labels": int32 [num_images]}; of text words int [num_rows, length], each
# one's successor, and "first", a bool: nothing is remembered of the rows before. A training step adds its memory under
# MEMORY, {"rows": [num_archs, num_rows, ...]}.
Batch = dict[str, dict[str, chex.Array]]

MEMORY = "memory"

DROPOUT = 2**16  # folded into a loss's key: far from what `preprocess` and sums of losses make of it


class Aux(NamedTuple):
    """What a loss reports of the population; None where it looks at other architectures only."""

    arch_loss: chex.Array | None = None  # [num_archs]
    arch_accuracy: chex.Array | None = None  # [num_archs], fractions
    stats: Stats | None = None  # layer -> [num_archs, 2, size], the normalisation statistics used
    terms: dict[str, chex.Array] | None = None  # name -> scalar, what each term of a sum adds; see `add_losses`
    memory: chex.Array | None = None  # of text, [num_archs, num_rows, ...] after the batch


class LossFn(Protocol):
    """A loss of a population on one batch. `make_train_step` calls it by position, with its sampler's `groups`."""

    def __call__(
        self,
        params: Params,
        archs: chex.Array,
        batch: Batch,
        key: chex.PRNGKey,
        step: chex.Array,
        groups: Groups = 4,
    ) -> tuple[chex.Array, Aux]:
        """Return (scalar to minimise, what it reports); archs int32 [num_archs, num_choices], step int32, the steps
        done; `groups`, static, is what `supernets.choice.choose` may rely on."""
        ...


def check_outcome(name: str, outcome: Any) -> tuple[chex.Array, Aux]:
    """What a loss returned, or a ValueError: (scalar, Aux) is expected, while it is traced."""
    if not (isinstance(outcome, tuple) and len(outcome) == 2 and isinstance(outcome[1], Aux)):
        came = f"an array of shape {outcome.shape}" if isinstance(outcome, jax.Array) else type(outcome).__name__
        raise ValueError(
            f"{name} returned {came}, expected (scalar, jaxnas.training.Aux); for a loss that reports nothing of the"
            " population return (loss, Aux()) and add cross-entropy with add_losses."
        )
    loss, aux = outcome
    if jnp.shape(loss) != () or not jnp.issubdtype(jnp.result_type(loss), jnp.floating):
        raise ValueError(
            f"{name} returned {jnp.result_type(loss)} of shape {jnp.shape(loss)} to minimise, expected one float; sum"
            " over architectures."
        )
    return loss, aux


def check_batch(batch: Batch, split: str) -> tuple[chex.Array, chex.Array]:
    """(images, labels) of a part of the batch, or a ValueError where shapes or types don't fit; values are not seen."""
    if split not in batch or not {"images", "labels"} <= set(batch[split]):
        raise ValueError(
            f"the batch has {', '.join(batch) or 'nothing'}, expected {{{split!r}: {{'images': ..., 'labels': ...}}}}."
        )
    images, labels = batch[split]["images"], batch[split]["labels"]
    kind, expected = ("word", images.shape) if len(images.shape) == 2 else ("image", images.shape[:1])
    if labels.shape != expected:
        raise ValueError(f"labels have shape {labels.shape}, expected {expected}, one for each {kind}.")
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise ValueError(f"labels are {labels.dtype}, expected integers: the class of each image.")
    return images, labels


class Reduce(Protocol):
    """From many costs to one number, as `jnp.mean` and `jnp.sum` do it."""

    def __call__(self, costs: chex.Array, /, *, where: chex.Array) -> chex.Array: ...


def make_cross_entropy_loss(
    supernet: Supernet,
    *,
    preprocess: Preprocess = lambda key, images: images,
    label_smoothing: float = 0.0,
    split: str = "train",
    dropout_steps: int | None = None,
) -> LossFn:
    """Cross-entropy of a population on one batch, summed over architectures. Each draws its own dropout. Weights of
    candidates, float [num_archs, num_places, max(num_candidates)], are a population too (see `Supernet.apply`).

    Of text it is the mean over rows and words, and where a step remembers, each architecture goes on from what the one
    in its place left behind: truncated back-propagation.

    Args:
      preprocess: (key, images) -> float images; all architectures of a step see the same ones.
      dropout_steps: path dropout reaches its strength after so many steps, growing linearly (NAO, arXiv 1808.07233);
        None: at once.

    Raises:
      ValueError: a setting out of range; from the loss, images or labels of other shapes or types, or a population
        that is not as `groups` say, where it is known.
    """
    label_smoothing = number("label_smoothing", label_smoothing, 0, below=1)
    dropout_steps = None if dropout_steps is None else whole("dropout_steps", dropout_steps, 1)

    def loss_fn(params, archs, batch, key, step, groups=4):
        check_kept(supernet, archs, groups)
        stored, labels = check_batch(batch, split)
        images, num_archs = preprocess(key, stored), len(jax.tree.leaves(archs)[0])
        if supernet.dropout is None:
            keys, drops = None, {}
        else:
            keys = dropout_keys(jax.random.fold_in(key, DROPOUT), jax.tree.leaves(archs)[0], images)
            drops = {"ramp": 1.0 if dropout_steps is None else jnp.minimum(1.0, (step + 1) / dropout_steps)}

        recurrence, memory = supernet.recurrence, None
        if recurrence is not None and MEMORY in batch:
            memory = jnp.where(batch[split].get("first", False), 0, batch[MEMORY]["rows"])

        def apply(arch, key, memory, groups):
            if recurrence is not None and memory is not None:
                logits, memory = recurrence.unroll(params, arch, images, memory)
                return logits, None, memory
            drawn = {} if key is None else {"key": key, **drops}
            return *supernet.apply(params, arch, images, groups=groups, **drawn), None

        if num_archs == 1:  # without the axis, which costs a quarter more on CPU
            arch, key_of_one, before = jax.tree.map(lambda leaf: leaf[0], (archs, keys, memory))
            alone = apply(arch, key_of_one, before, None)
            logits, stats, memory = jax.tree.map(lambda leaf: leaf[None], alone)
        else:
            each = lambda arch, key, memory: apply(arch, key, memory, groups)  # noqa: E731
            logits, stats, memory = jax.vmap(each)(archs, keys, memory)
        losses = cross_entropy(logits, labels, label_smoothing=label_smoothing)
        arch_loss = mean_of_each(losses)
        accuracy = mean_of_each(is_correct(logits, labels))
        return sum_over_archs(arch_loss.sum()), Aux(arch_loss, accuracy, stats, memory=memory)

    return loss_fn


def mean_of_each(values: chex.Array) -> chex.Array:
    """values [num_archs, ...] -> [num_archs], over images or over rows and words, those of other devices included."""
    return mean_over_data(values.mean(axis=tuple(range(1, values.ndim))))


def dropout_keys(key: chex.PRNGKey, archs: chex.Array, images: chex.Array) -> chex.PRNGKey:
    """One for each architecture; where devices share the images, each draws for its own."""
    key = own_key(key, images, DATA, DATA_ALONE)
    keys = jax.random.split(key, len(archs) * number_along(archs, ARCHS))
    return share_of(keys, archs, ARCHS)


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
    if not isinstance(terms, Mapping) or not terms:
        raise ValueError("add_losses: there is no term; give at least one {name: (weight, loss_fn)}.")
    for name, term in terms.items():
        if not (isinstance(term, tuple) and len(term) == 2 and callable(term[1])):
            raise ValueError(f"add_losses: the term {name!r} is {shown(term)}, expected (weight, loss_fn).")
        if not callable(term[0]):
            number(f"add_losses: the weight of {name!r}", term[0])

    def loss_fn(params, archs, batch, key, step, groups=4):
        values, reports = {}, []
        for place, (name, (weight, term)) in enumerate(terms.items()):
            outcome = term(params, archs, batch, jax.random.fold_in(key, place), step, groups)
            loss, aux = check_outcome(f"the term {name!r}", outcome)
            if aux.arch_loss is None:  # of other architectures, the same for whichever share of the population
                loss = mean_over_archs(loss)
            scale = weight(step) if callable(weight) else weight
            values[name] = scale * loss
            values |= {f"{name}/{inner}": scale * value for inner, value in (aux.terms or {}).items()}
            reports.append(aux)
        reported = next((aux for aux in reports if aux.arch_loss is not None), Aux())
        return sum(values[name] for name in terms), reported._replace(terms=values)

    return loss_fn


def ranking_loss(
    losses: chex.Array,
    order: chex.Array,
    *,
    pairs: chex.Array | None = None,
    margin: float = 0.0,
    beta: float | None = None,
    tolerance: float = 0.0,
    where: chex.Array | None = None,
    reduce_fn: Reduce = jnp.mean,
) -> chex.Array:
    """How far losses are from falling as a reference order rises (Landmark Regularization, arXiv 2104.05309).

    A pair costs max(0, margin + loss of the better - loss of the worse): with the published margin of zero, nothing
    unless the better architecture has the larger loss. Gradients flow into both losses.

    >>> float(ranking_loss([1.0, 0.75, 0.5], [1, 2, 3])), float(ranking_loss([0.5, 0.75, 1.0], [1, 2, 3]))
    (0.0, 0.3333333432674408)

    Args:
      losses: float [num_items].
      order: [num_items], higher is better: accuracy, FLOPs, any vector in any unit. A pair with NaN in it is dropped.
      pairs: int [num_pairs, 2], indices into the items, in either direction; None: all num_items (num_items - 1) / 2.
      margin: by how much the better loss has to be lower, in the unit of the losses.
      beta: None for the hinge; else softplus, log(1 + exp(beta x)) / beta of the same x, which never quite rests.
      tolerance: pairs whose order differs by this or less are ties and dropped, in the unit of `order`.
      where: bool [num_items], items that count; losses of others may be NaN. None: all.
      reduce_fn: as `jnp.mean` and `jnp.sum`, called as (costs [num_pairs], where=[num_pairs]). Where nothing is kept,
        its argument is all zeros and kept, so that either gives 0.

    Raises:
      ValueError: fewer than two items, or arrays that do not fit each other.
    """
    margin, tolerance = number("margin", margin, 0), number("tolerance", tolerance, 0)
    beta = None if beta is None else number("beta", beta, above=0)
    losses, order = jnp.asarray(losses), jnp.asarray(order)
    if losses.ndim != 1 or losses.shape != order.shape or losses.size < 2:
        raise ValueError(
            f"ranking_loss: losses have shape {losses.shape} and order {order.shape}; expected two vectors of one"
            " length, at least 2."
        )
    if pairs is None:
        pairs = np.stack(np.triu_indices(losses.size, k=1), axis=1)
    if pairs.ndim != 2 or pairs.shape[1] != 2:
        raise ValueError(f"ranking_loss: pairs have shape {pairs.shape}, expected [num_pairs, 2].")
    first, second = pairs[:, 0], pairs[:, 1]
    lead = (order[second] - order[first]).astype(jnp.float32)
    kept = jnp.abs(lead) > tolerance
    if where is not None:
        kept &= where[first] & where[second]
    excess = jnp.where(lead > 0, 1, -1).astype(losses.dtype) * (losses[second] - losses[first])
    excess = jnp.where(kept, margin + excess, 0)  # masked before the penalty: a NaN must not reach its derivative
    costs = jax.nn.relu(excess) if beta is None else jax.nn.softplus(beta * excess) / beta
    return reduce_fn(jnp.where(kept, costs, 0), where=kept | ~kept.any())
