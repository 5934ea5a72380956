"""Losses: arrays in, arrays or scalars out."""

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp
import numpy as np


def cross_entropy(logits: chex.Array, labels: chex.Array, *, label_smoothing: float = 0.0) -> chex.Array:
    """Cross-entropy of each image in nats.

    Args:
      logits: float [..., num_images, num_classes].
      labels: int [num_images], in [0, num_classes).
      label_smoothing: share of the target spread evenly over all classes, in [0, 1).

    Returns:
      float [..., num_images].
    """
    log_probs = jax.nn.log_softmax(logits)
    hit = labels[:, None] == jnp.arange(logits.shape[-1])
    target = hit * (1.0 - label_smoothing) + label_smoothing / logits.shape[-1]
    return -jnp.sum(target.astype(log_probs.dtype) * log_probs, axis=-1)


def is_correct(logits: chex.Array, labels: chex.Array) -> chex.Array:
    """Whether the largest logit is the label's: bool [..., num_images]."""
    return jnp.argmax(logits, axis=-1) == labels


def ranking_loss(
    losses: chex.Array,
    order: chex.Array,
    *,
    pairs: chex.Array | None = None,
    margin: float = 0.0,
    beta: float | None = None,
    tolerance: float = 0.0,
    where: chex.Array | None = None,
    reduce_fn: Callable[..., chex.Array] = jnp.mean,
) -> chex.Array:
    """How far losses are from falling as a reference order rises (Landmark Regularization, arXiv 2104.05309).

    A pair costs max(0, margin + loss of the better - loss of the worse): with the published margin of zero, nothing
    unless the better architecture has the larger loss. Gradients flow into both losses.

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
    lead = order[second] - order[first]
    kept = jnp.abs(lead) > tolerance
    if where is not None:
        kept &= where[first] & where[second]
    excess = jnp.where(lead > 0, 1, -1).astype(losses.dtype) * (losses[second] - losses[first])
    excess = jnp.where(kept, margin + excess, 0)  # masked before the penalty: a NaN must not reach its derivative
    costs = jax.nn.relu(excess) if beta is None else jax.nn.softplus(beta * excess) / beta
    return reduce_fn(jnp.where(kept, costs, 0), where=kept | ~kept.any())
