"""Batches of images, which stay on the device or are read ahead, as a pure function of the step."""

from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Literal, Protocol

import chex
import jax
import jax.numpy as jnp
import numpy as np

from jaxnas.checks import array, choice, shown, whole
from jaxnas.training._fit import BatchAt
from jaxnas.training.losses import Batch

AUGMENTING = 2**31  # folded into the key of the batches: far from the number of any epoch
NUM_AHEAD = 2  # batches on the device before they are asked for
MOST_READ, MOST_EPOCHS = 2**20, 32  # images whose order is handed over at once, and epochs


class Streamed(Protocol):
    """Images that are read ahead of the training: `jaxnas.datasets.Streamed`."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __len__(self) -> int: ...

    def read(self, rows: np.ndarray, positions: np.ndarray, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]: ...


def batches(
    key: chex.PRNGKey,
    images: chex.ArrayNumpy | Streamed,
    labels: chex.ArrayNumpy,
    batch_size: int,
    *,
    split: Literal["train", "valid"] = "train",
    share: tuple[int, int] = (0, 1),
) -> BatchAt:
    """Make step -> {split: batch}, a pure function: each epoch is a permutation that `fold_in(key, epoch)` draws; the
    last few images of an epoch that fill no batch are left out of it.

    Rows of a text, of which each goes on where the one before ends, are read in order instead: a batch has one row from
    each of `batch_size` places that lie equally far apart, and the next batch the rows behind them. "first" says that
    an epoch begins.

    Streamed images come in the same order, read and put on the device ahead of the step that asks; one that asks for
    another than the next batch waits for it.

    Args:
      images: [num_images, height, width, channels]; labels: int [num_images]. Of text words int [num_rows, length], and
        the words that follow them.
      split: "train", or "valid" for a loss on held-out images.
      share: (process, number of processes), each of which has its part of every batch: of images, the images at
        process, process + number and so on.

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
    process, num_processes = share
    whole("process", process, 0, num_processes - 1)
    if batch_size % num_processes or (is_text and num_processes > 1):
        what = "text is not shared" if is_text else f"a batch of {batch_size} cannot be shared evenly"
        raise ValueError(f"{num_processes} processes: {what}; choose another batch_size or fewer processes.")
    permute = jax.jit(lambda epoch: jax.random.permutation(jax.random.fold_in(key, epoch), len(images)))
    if hasattr(images, "read"):
        seed = int(jax.random.bits(jax.random.fold_in(key, AUGMENTING), dtype=jnp.uint32))
        return _read_ahead(images, np.asarray(labels), batch_size, permute, seed, split, share)
    on_device = jnp.asarray(images), jnp.asarray(labels)
    if is_text:
        places = per_epoch * jnp.arange(batch_size)
        read = jax.jit(lambda words, labels, number: (words[places + number], labels[places + number]))

        def rows_at(step: int) -> Batch:
            x, y = read(*on_device, step % per_epoch)
            return {split: {"images": x, "labels": y, "first": jnp.asarray(step % per_epoch == 0)}}

        return rows_at
    take = jax.jit(
        lambda images, labels, order, start: tuple(
            array[jax.lax.dynamic_slice(order, (start,), (batch_size,))[process::num_processes]]
            for array in (images, labels)
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


def _read_ahead(
    images: Streamed,
    labels: np.ndarray,
    batch_size: int,
    permute: Callable[[int], chex.Array],
    seed: int,
    split: str,
    share: tuple[int, int],
) -> BatchAt:
    """Step -> batch of streamed images: a thread reads on, and has the next two batches put on the device."""
    process, num_processes = share
    num_images = images.shape[0]
    per_epoch = num_images // batch_size

    def reads(step: int) -> Generator[Batch, None, None]:
        """The batches from a step on, for ever."""
        while True:
            first, number = divmod(step, per_epoch)
            epochs = range(first, first + min(MOST_EPOCHS, max(1, MOST_READ // num_images)))
            orders = [np.asarray(permute(epoch))[: per_epoch * batch_size] for epoch in epochs]
            rows = np.concatenate(orders).reshape(-1, batch_size)[number:]
            positions = (np.arange(len(rows))[:, None] + step) * batch_size + np.arange(batch_size)
            ours = slice(process, None, num_processes)
            for found, taken in images.read(rows[:, ours], positions[:, ours], seed):
                yield {split: {"images": jnp.asarray(found), "labels": jnp.asarray(labels[taken])}}
            step += len(rows)

    pool = ThreadPoolExecutor(1, thread_name_prefix="batches")
    ahead: deque[Future[Batch]] = deque()
    source, next_step = reads(0), -1

    def batch_at(step: int) -> Batch:
        nonlocal source, next_step
        if step != next_step:
            wait(ahead)
            ahead.clear()
            source.close()
            source, next_step = reads(step), step
        while len(ahead) < 1 + NUM_AHEAD:
            ahead.append(pool.submit(next, source))
        next_step += 1
        return ahead.popleft().result()

    return batch_at
