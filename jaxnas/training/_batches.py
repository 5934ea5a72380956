"""Batches of images, which stay on the device or are read ahead, as a pure function of the step."""

import dataclasses
import functools
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, Literal, Protocol

import chex
import jax
import jax.numpy as jnp
import numpy as np

from jaxnas.checks import array, choice, shown, whole
from jaxnas.evaluation import replicated
from jaxnas.training.losses import Batch

BatchAt = Callable[[int], Batch]  # step number -> batch
AUGMENTING = 2**31  # folded into the key of the batches: far from the number of any epoch
NUM_AHEAD = 2  # batches on the device before they are asked for
MOST_READ, MOST_EPOCHS = 2**20, 32  # images whose order is handed over at once, and epochs


class Streamed(Protocol):
    """Images that are read ahead of the training: `jaxnas.datasets.Streamed`."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __len__(self) -> int: ...

    def read(self, rows: np.ndarray, positions: np.ndarray, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]: ...


@dataclasses.dataclass(frozen=True)
class Shuffled:
    """Images of one split, of which each epoch is a permutation."""

    split: str
    arrays: tuple[chex.Array, chex.Array]  # images and labels, on the device
    batch_size: int
    share: tuple[int, int]  # of each batch the images at process, process + number of processes and so on
    order: Callable[[int], chex.Array]  # epoch -> int32 [num_images]

    def rows(self, first: int, number: int) -> chex.Array:
        """Which images the batches of so many steps have: int32 [number, size of the share]."""
        per_epoch, parts, end = len(self.arrays[1]) // self.batch_size, [], first + number
        while first < end:
            epoch, begin = divmod(first, per_epoch)
            count = min(per_epoch - begin, end - first)
            parts.append(_cut(self.order(epoch), begin, count, self.batch_size, self.share))
            first += count
        return parts[0] if len(parts) == 1 else jnp.concatenate(parts)


@dataclasses.dataclass(frozen=True)
class Stacked:
    """The same images, shuffled for each of several super-nets that train side by side."""

    of_each: tuple[Shuffled, ...]

    @property
    def split(self) -> str:
        return self.of_each[0].split

    @property
    def arrays(self) -> tuple[chex.Array, chex.Array]:
        return self.of_each[0].arrays

    def rows(self, first: int, number: int) -> chex.Array:
        """As those of one, int32 [number, number of super-nets, size of the share]."""
        return jnp.stack([one.rows(first, number) for one in self.of_each], axis=1)


@dataclasses.dataclass(frozen=True)
class Batches:
    """Step -> {split: batch}, of images that lie on the device, so that a compiled loop can take them as well."""

    parts: tuple[Shuffled | Stacked, ...]

    def __call__(self, step: int) -> Batch:
        rows = [part.rows(step, 1) for part in self.parts]
        return _first(self.splits, self.arrays, rows)

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(part.split for part in self.parts)

    @property
    def arrays(self) -> list[tuple[chex.Array, chex.Array]]:
        """Images and labels of each split."""
        return [part.arrays for part in self.parts]

    def rows(self, first: int, number: int) -> list[chex.Array]:
        """What `take` makes the batches of so many steps of: of each split int32 [number, batch_size]."""
        return [part.rows(first, number) for part in self.parts]


def merge_batches(first: BatchAt, second: BatchAt) -> BatchAt:
    """Step -> the splits of both, {split: batch}; of two that `batches` made one that is like them."""
    if isinstance(first, Batches) and isinstance(second, Batches):
        return Batches(first.parts + second.parts)
    return lambda step: {**first(step), **second(step)}


def take(splits: Sequence[str], arrays: Sequence[Any], rows: Sequence[chex.Array]) -> Batch:
    """A batch of the images and labels in these rows, [..., batch_size] of each split."""
    parts = zip(splits, arrays, rows, strict=True)
    return {split: {"images": images[row], "labels": labels[row]} for split, (images, labels), row in parts}


@functools.partial(jax.jit, static_argnums=0)
def _first(splits: Sequence[str], arrays: Sequence[Any], rows: Sequence[chex.Array]) -> Batch:
    return take(splits, arrays, [row[0] for row in rows])


@functools.partial(jax.jit, static_argnums=(2, 3, 4))
def _cut(order: chex.Array, begin: int, count: int, batch_size: int, share: tuple[int, int]) -> chex.Array:
    rows = jax.lax.dynamic_slice(order, (begin * batch_size,), (count * batch_size,)).reshape(count, batch_size)
    return rows[:, share[0] :: share[1]]


@functools.partial(jax.jit, static_argnames="num_images")
def _order(key: chex.PRNGKey, epoch: int, num_images: int) -> chex.Array:
    """Of an epoch: int32 [num_images]. Compiled once for all keys."""
    return jax.random.permutation(jax.random.fold_in(key, epoch), num_images)


def batches(
    key: chex.PRNGKey,
    images: chex.ArrayNumpy | Streamed,
    labels: chex.ArrayNumpy,
    batch_size: int,
    *,
    split: Literal["train", "valid"] = "train",
    share: tuple[int, int] = (0, 1),
    mesh: jax.sharding.Mesh | None = None,
) -> BatchAt:
    """Make step -> {split: batch}, a pure function, `Batches` where it is of images that stay on the device: each epoch
    is a permutation that `fold_in(key, epoch)` draws; the last few images of an epoch that fill no batch are left out
    of it.

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
      mesh: devices that share a step (`Sharing`): each holds all images, so that they are cut where they are needed.

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
    permuted = functools.partial(_order, key, num_images=len(images))
    permute = lambda epoch: replicated(mesh, permuted(epoch))  # noqa: E731
    if hasattr(images, "read"):
        seed = int(jax.random.bits(jax.random.fold_in(key, AUGMENTING), dtype=jnp.uint32))
        read_at = _read_ahead(images, np.asarray(labels), batch_size, permuted, seed, split, share)
        return read_at if mesh is None else lambda step: replicated(mesh, read_at(step))
    on_device = replicated(mesh, (jnp.asarray(images), jnp.asarray(labels)))
    if is_text:
        places = per_epoch * jnp.arange(batch_size)
        read = jax.jit(lambda words, labels, number: (words[places + number], labels[places + number]))

        def rows_at(step: int) -> Batch:
            x, y = read(*on_device, step % per_epoch)
            return {split: {"images": x, "labels": y, "first": jnp.asarray(step % per_epoch == 0)}}

        return rows_at
    return Batches((Shuffled(split, on_device, batch_size, share, functools.lru_cache(maxsize=2)(permute)),))


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
