"""Batches of images that stay on the device, as a pure function of the step."""

from typing import Literal

import chex
import jax
import jax.numpy as jnp

from jaxnas.checks import array, choice, shown, whole
from jaxnas.training._fit import BatchAt
from jaxnas.training.losses import Batch


def batches(
    key: chex.PRNGKey,
    images: chex.ArrayNumpy,
    labels: chex.ArrayNumpy,
    batch_size: int,
    *,
    split: Literal["train", "valid"] = "train",
) -> BatchAt:
    """Make step -> {split: batch}, a pure function: each epoch is a permutation that `fold_in(key, epoch)` draws; the
    last few images of an epoch that fill no batch are left out of it.

    Args:
      images: [num_images, height, width, channels]; labels: int [num_images].
      split: "train", or "valid" for a loss on held-out images.

    Raises:
      ValueError: fewer images than a batch, labels that are none.
    """
    choice("split", split, ("train", "valid"))
    batch_size = whole("batch_size", batch_size, 1)
    if getattr(images, "ndim", 0) != 4:
        raise ValueError(f"images are {shown(images)}, expected an array [num_images, height, width, channels].")
    array("labels", labels, (len(images),), "integer", least=0)
    if len(images) < batch_size:
        kind = {"train": "training", "valid": "validation"}[split]
        raise ValueError(f"batch_size is {batch_size}, but there are {len(images)} {kind} images.")
    per_epoch = len(images) // batch_size
    on_device = jnp.asarray(images), jnp.asarray(labels)
    permute = jax.jit(lambda epoch: jax.random.permutation(jax.random.fold_in(key, epoch), len(images)))
    take = jax.jit(
        lambda images, labels, order, start: tuple(
            array[jax.lax.dynamic_slice(order, (start,), (batch_size,))] for array in (images, labels)
        )
    )
    current: tuple[int, chex.Array] | None = None

    def batch_at(step: int) -> Batch:
        nonlocal current
        epoch, number = divmod(step, per_epoch)
        if current is None or current[0] != epoch:
            current = (epoch, permute(epoch))
        x, y = take(*on_device, current[1], number * batch_size)
        return {split: {"images": x, "labels": y}}

    return batch_at
