"""Batches for what stands on a backbone: rows as a pure function of the step, and one batch read ahead."""

import functools
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import chex
import jax
import numpy as np

from jaxnas.checks import whole


def shuffled_rows(key: chex.PRNGKey, num_images: int, batch_size: int) -> Callable[[int], np.ndarray]:
    """Make step -> int64 [batch_size]: each epoch is a permutation of the images, whose last few fill no batch and are
    left out of it.

    Raises:
      ValueError: fewer images than a batch.
    """
    if not 1 <= whole("batch_size", batch_size, 1) <= num_images:
        raise ValueError(f"batch_size is {batch_size}, but there are {num_images} training images.")
    seed = [int(word) for word in np.ravel(jax.random.key_data(key))]
    per_epoch = num_images // batch_size

    @functools.lru_cache(maxsize=2)
    def order(epoch: int) -> np.ndarray:
        generator = np.random.Generator(np.random.Philox(np.random.SeedSequence([*seed, epoch])))
        return generator.permutation(num_images)

    def rows_at(step: int) -> np.ndarray:
        epoch, place = divmod(step, per_epoch)
        return order(epoch)[place * batch_size : (place + 1) * batch_size]

    return rows_at


def read_ahead(make: Callable[[int], Any]) -> Callable[[int], Any]:
    """Step -> what `make`, a pure function of the step, makes; that of the next step is made in a thread meanwhile."""
    pool = ThreadPoolExecutor(1, thread_name_prefix="ahead")
    ahead: dict[int, Future[Any]] = {}

    def batch_at(step: int) -> Any:
        found = ahead.pop(step, None) or pool.submit(make, step)
        ahead.clear()
        ahead[step + 1] = pool.submit(make, step + 1)
        return found.result()

    return batch_at
