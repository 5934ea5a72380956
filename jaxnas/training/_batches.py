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

    Rows of a text, of which each goes on where the one before ends, are read in order instead: a batch has one row from
    each of `batch_size` places that lie equally far apart, and the next batch the rows behind them. "first" says that
    an epoch begins.

    Args:
      images: [num_images, height, width, channels]; labels: int [num_images]. Of text words int [num_rows, length], and
        the words that follow them.
      split: "train", or "valid" for a loss on held-out images.

    Raises:
      ValueError: fewer images than a batch, labels that are none.
    """
    choice("split", split, ("train", "valid"))
    batch_size = whole("batch_size", batch_size, 1)
    is_text = getattr(images, "ndim", 0) == 2
    if not is_text and getattr(images, "ndim", 0) != 4:
        raise ValueError(f"images are {shown(images)}, expected an array [num_images, height, width, channels].")
    array("labels", labels, images.shape[: 2 if is_text else 1], "integer", least=0)
    if len(images) < batch_size:
        kind = {"train": "training", "valid": "validation"}[split]
        what = "rows of text" if is_text else "images"
        raise ValueError(f"batch_size is {batch_size}, but there are {len(images)} {kind} {what}.")
    per_epoch = len(images) // batch_size
    on_device = jnp.asarray(images), jnp.asarray(labels)
    if is_text:
        places = per_epoch * jnp.arange(batch_size)
        read = jax.jit(lambda words, labels, number: (words[places + number], labels[places + number]))

        def rows_at(step: int) -> Batch:
            x, y = read(*on_device, step % per_epoch)
            return {split: {"images": x, "labels": y, "first": jnp.asarray(step % per_epoch == 0)}}

        return rows_at
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
