"""Batches of images: cut, padded under a mask, placed on a row of devices; and what is pooled over them."""

import contextlib
import functools
import threading
from collections.abc import Sequence
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from jaxnas.evaluation.meshes import DeviceRow, ToDevices
from jaxnas.evaluation.per_image import cross_entropy, is_correct
from jaxnas.evaluation.planning import Plan
from jaxnas.supernets import Params


class ImageBatch(NamedTuple):
    """Batches side by side, on the devices of one row."""

    images: chex.Array  # float [num_batches, num_images, height, width, channels]; int [num_batches, num_rows, length]
    labels: chex.Array  # int [num_batches, num_images]; [num_batches, num_rows, length]
    mask: chex.Array | None  # bool [num_batches, num_images]: False for padding; None: nothing is padded anywhere


class LoadedRow(NamedTuple):
    """What a row of devices needs to score any architecture."""

    place: ToDevices
    params: Params
    stats: Any  # tracked, or None: [num_candidates, 2, size] by layer; of the graph [2, size] by layer and candidate
    batches: list[ImageBatch]
    calibration: list[ImageBatch]
    calibration_counts: np.ndarray  # int [number of calibration batches]: images that are no padding
    turns: contextlib.AbstractContextManager[Any]  # of the threads that call compiled programs of the graph


def score_images(logits: chex.Array, batch: ImageBatch) -> tuple[chex.Array, chex.Array]:
    """Loss and correctness [..., num_images] of logits [..., num_images, classes] on one batch; 0 outside its mask. Of
    text the mean over a row's words: the share of those that are right."""
    losses, correct = cross_entropy(logits, batch.labels), is_correct(logits, batch.labels)
    if batch.labels.ndim == 2:
        losses, correct = losses.mean(axis=-1), correct.mean(axis=-1)
    if batch.mask is None:
        return losses, correct
    mask = jnp.expand_dims(batch.mask, tuple(range(losses.ndim - 1)))
    return losses * mask.astype(losses.dtype), correct * mask.astype(correct.dtype)


def load_row(
    row: DeviceRow,
    plan: Plan,
    params: Params,
    images: chex.Array,
    labels: chex.Array,
    stats: Any,
    calibration_images: chex.Array | None,
    images_per_call: int,
) -> LoadedRow:
    """Put what a row needs on its devices."""
    batches, _ = cut_batches(images, labels, plan.images_per_call, plan.batches_per_call)
    calibration: list[ImageBatch] = []
    counts = np.zeros(0, int)
    if calibration_images is not None:
        size = min(images_per_call, len(calibration_images))
        no_labels = np.zeros(len(calibration_images), np.int32)
        in_all = plan.devices * -(-len(calibration_images) // (size * plan.devices))
        wide = min(plan.batches_per_call, in_all)
        calibration, counts = cut_batches(calibration_images, no_labels, size, wide)
    split = functools.partial(jax.tree.map, row.place_split)
    return LoadedRow(
        row.place_whole,
        jax.tree.map(row.place_whole, params),
        None if stats is None else jax.tree.map(row.place_whole, stats),
        [split(batch) for batch in batches],
        [split(batch) for batch in calibration],
        counts,
        threading.Semaphore(plan.turns),
    )


def cut_batches(images: chex.Array, labels: chex.Array, size: int, wide: int) -> tuple[list[ImageBatch], np.ndarray]:
    """Cut images into batches of one size, `wide` of them side by side, and count the real images of each. The last
    batch is padded with zeros under the mask; whole batches that are missing repeat it and count 0."""
    images, labels = jnp.asarray(images), jnp.asarray(labels)
    num_batches = -(-len(images) // size)
    missing = num_batches * size - len(images)

    def cut(array: chex.Array) -> chex.Array:
        padded = jnp.pad(array, ((0, missing), *[(0, 0)] * (array.ndim - 1)))
        return padded.reshape(num_batches, size, *array.shape[1:])

    images, labels = cut(images), cut(labels)
    counts = np.full(num_batches, size) - missing * (np.arange(num_batches) == num_batches - 1)
    mask = np.arange(size) < counts[:, None]
    rows = np.minimum(np.arange(-(-num_batches // wide) * wide), num_batches - 1).reshape(-1, wide)
    batches = [ImageBatch(images[row], labels[row], jnp.asarray(mask[row]) if missing else None) for row in rows]
    real = np.where(np.arange(rows.size) < num_batches, counts[rows.ravel()], 0)
    return batches, real


def pool_statistics(parts: Sequence[chex.ArrayTree], counts: np.ndarray) -> Any:
    """Mean and variance over all calibration images, from those of each batch and its number of images: the variance
    within the batches plus that of their means. parts: trees of [..., num_batches, 2, size] -> [..., 2, size], on the
    device where they are."""
    return _pool(tuple(parts), (counts / counts.sum()).astype(np.float32))


@jax.jit
def _pool(parts: tuple[chex.ArrayTree, ...], weights: chex.Array) -> Any:
    def pool(*leaves: chex.Array) -> chex.Array:
        means, variances = jnp.moveaxis(jnp.concatenate(leaves, axis=-3), -2, 0)
        mean = weighted(means)
        return jnp.stack([mean, jnp.maximum(weighted(variances + means**2) - mean**2, 0.0)], axis=-2)

    def weighted(terms: chex.Array) -> chex.Array:
        return jnp.einsum("b,...bc->...c", weights.astype(terms.dtype), terms, precision="highest")

    return jax.tree.map(pool, *parts)
