"""Boxes float [..., 4], each (left, top, right, bottom) in pixels: overlaps, a loss, and suppression on the device."""

import functools
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

TINY = 1e-7  # in the place of areas that are zero


def areas(boxes: chex.Array) -> chex.Array:
    """Float [...] of boxes [..., 4]; 0 of those whose ends are in the wrong order."""
    sides = jnp.maximum(boxes[..., 2:] - boxes[..., :2], 0.0)
    return sides[..., 0] * sides[..., 1]


def pairwise_iou(boxes: chex.Array, others: chex.Array) -> chex.Array:
    """Intersection over union of each pair: [num_boxes, 4] and [num_others, 4] -> [num_boxes, num_others]."""
    corner = jnp.maximum(boxes[:, None, :2], others[None, :, :2])
    end = jnp.minimum(boxes[:, None, 2:], others[None, :, 2:])
    shared = areas(jnp.concatenate([corner, end], axis=-1))
    return shared / jnp.maximum(areas(boxes)[:, None] + areas(others)[None] - shared, TINY)


def giou_loss(boxes: chex.Array, targets: chex.Array) -> chex.Array:
    """1 less the generalised intersection over union (Rezatofighi et al., CVPR 2019, algorithm 1) of boxes [..., 4]
    with their targets, of the same shape: float [...], in [0, 2]."""
    shared = areas(
        jnp.concatenate(
            [jnp.maximum(boxes[..., :2], targets[..., :2]), jnp.minimum(boxes[..., 2:], targets[..., 2:])], axis=-1
        )
    )
    union = areas(boxes) + areas(targets) - shared
    around = areas(
        jnp.concatenate(
            [jnp.minimum(boxes[..., :2], targets[..., :2]), jnp.maximum(boxes[..., 2:], targets[..., 2:])], axis=-1
        )
    )
    return 1.0 - (shared / jnp.maximum(union, TINY) - (around - union) / jnp.maximum(around, TINY))


class Kept(NamedTuple):
    """What suppression leaves, best first.

    Attributes:
      rows: int32 [num_kept], of the boxes given; 0 where `is_kept` is False.
      is_kept: bool [num_kept], False behind the last one.
    """

    rows: chex.Array
    is_kept: chex.Array


@functools.partial(jax.jit, static_argnames="num_kept")
def suppress(
    boxes: chex.Array, scores: chex.Array, labels: chex.Array, *, num_kept: int, threshold: float = 0.6
) -> Kept:
    """Greedy non-maximum suppression within each class, with shapes that are known beforehand: `vmap` it over images.

    From the best score down, a box is kept unless it overlaps one kept before, of its own class, by more than
    `threshold`. Boxes of score 0 or less are none. Of equal scores the first one comes first.

    Args:
      boxes: float [num_boxes, 4]. scores: float [num_boxes]. labels: int [num_boxes].
      num_kept: at most so many are kept, of all classes together.
    """
    order = jnp.argsort(-scores, stable=True)
    sorted_boxes, sorted_labels, exists = boxes[order], labels[order], scores[order] > 0
    overlaps = pairwise_iou(sorted_boxes, sorted_boxes) > threshold
    rivals = overlaps & (sorted_labels[:, None] == sorted_labels[None])

    def decide(place: chex.Array, kept: chex.Array) -> chex.Array:
        beaten = (rivals[place] & kept).any()  # what comes later isn't kept yet
        return kept.at[place].set(exists[place] & ~beaten)

    kept = jax.lax.fori_loop(0, len(scores), decide, jnp.zeros(len(scores), bool))
    (first,) = jnp.nonzero(kept, size=num_kept, fill_value=0)
    is_kept = jnp.arange(num_kept) < kept.sum()
    return Kept(jnp.where(is_kept, order[first], 0).astype(jnp.int32), is_kept)
