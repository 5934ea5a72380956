"""What each location of a detector should say, and how far it is from saying so."""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from jaxnas.transfer.boxes import areas, giou_loss
from jaxnas.transfer.detector import Detector, Outputs, locations, to_boxes

RADIUS = 1.5  # strides from an object's centre within which locations answer for it
REACH = 8.0  # strides: a level has the objects whose farthest side is at most so far, but for the coarsest one
FAR = 1e8


class Targets(NamedTuple):
    """Of the locations of one image.

    Attributes:
      labels: int32 [num_locations], -1 where there is no object.
      boxes: float32 [num_locations, 4], of the object that the location answers for.
      centredness: float32 [num_locations], in [0, 1].
    """

    labels: chex.Array
    boxes: chex.Array
    centredness: chex.Array


def assign(boxes: chex.Array, labels: chex.Array, points: chex.Array, strides: chex.Array) -> Targets:
    """Which object each location answers for (FCOS, sections 3.1 and 3.2): it lies within the object and near its
    centre, and the level suits the object's size; of several the smallest.

    Args:
      boxes: float [num_objects, 4]. labels: int [num_objects], -1 for what only fills the array up.
      points: float [num_locations, 2]. strides: float [num_locations], of the location's level.
    """
    corners = points[:, None] - boxes[None, :, :2], boxes[None, :, 2:] - points[:, None]
    distances = jnp.concatenate(corners, axis=-1)  # [num_locations, num_objects, 4]
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    near = jnp.abs(points[:, None] - centres[None]).max(axis=-1) < RADIUS * strides[:, None]
    farthest = distances.max(axis=-1)
    finest, coarsest = strides.min(), strides.max()
    least = jnp.where(strides == finest, 0.0, REACH * _finer(strides))
    most = jnp.where(strides == coarsest, FAR, REACH * strides)
    fits = (farthest > least[:, None]) & (farthest <= most[:, None])
    answers = (distances.min(axis=-1) > 0) & near & fits & (labels >= 0)[None]
    size = jnp.where(answers, areas(boxes)[None], FAR)
    which = size.argmin(axis=1)
    has_object = answers.any(axis=1)
    sides = jnp.take_along_axis(distances, which[:, None, None], axis=1)[:, 0]
    across, down = sides[:, 0::2], sides[:, 1::2]

    def balance(pair: chex.Array) -> chex.Array:
        return jnp.maximum(pair.min(axis=1), 0.0) / jnp.maximum(pair.max(axis=1), 1e-6)

    centredness = jnp.sqrt(balance(across) * balance(down))
    return Targets(
        jnp.where(has_object, labels[which], -1).astype(jnp.int32),
        boxes[which],
        jnp.where(has_object, centredness, 0.0),
    )


def _finer(strides: chex.Array) -> chex.Array:
    """The stride of the next finer level, of each location; of the finest level itself anything."""
    return jnp.where(strides[None] < strides[:, None], strides[None], 0.0).max(axis=1)


def detection_losses(outputs: Outputs, targets: Targets, points: chex.Array) -> dict[str, chex.Array]:
    """The three terms of a batch, scalars: `term_classes`, focal loss (alpha 0.25, gamma 2); `term_boxes`, generalised
    IoU weighted by centredness; `term_centredness`, binary cross-entropy; each over the locations with an object.

    Args:
      outputs, targets: with a leading axis of images. points: float [num_locations, 2].
    """
    num_classes = outputs.logits.shape[-1]
    is_object = targets.labels >= 0
    count = jnp.maximum(is_object.sum(), 1).astype(jnp.float32)
    wanted = jax.nn.one_hot(targets.labels, num_classes)  # zeros for -1
    focal = optax.sigmoid_focal_loss(outputs.logits, wanted, alpha=0.25, gamma=2.0).sum() / count
    weight = jnp.where(is_object, targets.centredness, 0.0)
    overlap = giou_loss(to_boxes(points, outputs.distances), targets.boxes)
    boxes = (weight * overlap).sum() / jnp.maximum(weight.sum(), 1e-6)
    apart = optax.sigmoid_binary_cross_entropy(outputs.centredness, targets.centredness)
    centredness = jnp.where(is_object, apart, 0.0).sum() / count
    return {"term_classes": focal, "term_boxes": boxes, "term_centredness": centredness}


def make_detection_loss(
    detector: Detector,
) -> Callable[[Any, chex.Array, chex.Array, chex.Array], tuple[chex.Array, dict[str, chex.Array]]]:
    """(params, images float [num_images, height, width, channels], boxes float [num_images, num_objects, 4], labels int
    [num_images, num_objects], -1 for none) -> (sum of `detection_losses`, these); normalised by the images at hand."""

    def loss_fn(
        params: Any, images: chex.Array, boxes: chex.Array, labels: chex.Array
    ) -> tuple[chex.Array, dict[str, chex.Array]]:
        points, strides = map(jnp.asarray, locations(images.shape[1:3], detector.strides))
        targets = jax.vmap(lambda boxes, labels: assign(boxes, labels, points, strides))(boxes, labels)
        outputs, _ = detector.apply(params, images, None)
        terms = detection_losses(outputs, targets, points)
        return sum(terms.values(), jnp.zeros(())), terms

    return loss_fn
