"""Training architectures from scratch, alone: the truth that a super-net's ranking is compared with."""

import functools
import time
from collections.abc import Callable, Generator, Sequence
from typing import Any, Literal, NamedTuple, Protocol

import chex
import jax
import jax.numpy as jnp
import numpy as np

from jaxnas import codes
from jaxnas.evaluation import ordered_map
from jaxnas.supernets import Supernet
from jaxnas.training._alone import Task, make_programs, train_each, train_once, train_rows, train_seeds
from jaxnas.training.preprocess import make_preprocess
from jaxnas.training.recipe import Recipe, Weights, separate


class Standalone(NamedTuple):
    """What the trained networks reach on the test images; of text on each test row by itself, means over words."""

    accuracy: np.ndarray  # float64 [num_archs, num_seeds], fractions
    loss: np.ndarray  # float64 [num_archs, num_seeds], nats
    seconds: np.ndarray  # float64 [num_archs], of all seeds, compiling included, beside what trained at the same time
    weights: list[list[Weights]] | None = None  # of each architecture and seed, where they were asked for


class EachAlone(Protocol):
    """Trains archs int [num_archs, num_choices], each from every key [num_seeds], and gives what is found call by call,
    in order, while the next ones train. Images are uint8 [num_images, height, width, channels], labels int
    [num_images]; of text words int [num_rows, length], each row going on where the one before ends, and the words that
    follow."""

    def __call__(
        self,
        archs: chex.ArrayNumpy,
        keys: chex.PRNGKey,
        images: chex.ArrayNumpy,
        labels: chex.ArrayNumpy,
        test_images: chex.ArrayNumpy,
        test_labels: chex.ArrayNumpy,
    ) -> Generator[Standalone, None, None]: ...


class TrainAlone(NamedTuple):
    """Called as `each`: what all architectures reach, together."""

    each: EachAlone

    def __call__(self, archs: chex.ArrayNumpy, keys: chex.PRNGKey, *data: chex.ArrayNumpy) -> Standalone:
        parts = list(self.each(archs, keys, *data))
        accuracy, loss, seconds = (np.concatenate(column) for column in zip(*(part[:3] for part in parts)))
        if parts[0].weights is None:
            return Standalone(accuracy, loss, seconds)
        return Standalone(accuracy, loss, seconds, [network for part in parts for network in part.weights or ()])


def make_standalone(
    supernet: Supernet,
    recipe: Recipe,
    *,
    mean: chex.Array,
    std: chex.Array,
    compiled: Literal["once", "each", "step"] = "once",
    archs_per_call: int = 1,
    num_calibration_images: int = 1024,
    workers: int = 1,
    devices: Sequence[jax.Device] | None = None,
    return_weights: bool = False,
) -> TrainAlone:
    """Build `train(archs, keys, images, labels, test_images, test_labels) -> Standalone`, and `train.each`.

    A key decides initial weights and the order of images; seeds train side by side in one program, their parameters
    batched. After training, batch normalisation takes its statistics from the first `num_calibration_images` training
    images under the final weights, and the test images are scored with them.

    Text is read in order, a row from each of `batch_size` places in a step, and what is remembered goes on from step to
    step within an epoch.

    Args:
      supernet: read as a family of networks; of the others' operations nothing enters a network's result.
      mean, std: of the images, float [channels] in units of 0..1.
      compiled: "once": one program for every architecture, a switch at each choice and the whole training a loop on
        the device: for many small networks without convolutions wider than 1x1, whose gradients are slow in loops on
        CPU. "each": one program per architecture and one call per step, without the operations that it lacks: for
        few, larger networks. "step": one program of a step for every architecture, called for each step and seed: for
        many networks whose convolutions a loop would slow down.
      archs_per_call: architectures that train side by side in one program, with compiled="once": the parameters being
        batched, each choice computes all its operations and keeps one. For accelerators that small networks leave idle;
        on CPU it costs what it computes (benchmarks/README.md), and 1 is fastest.
      workers: host threads of a device, each with calls of its own, so that some compile while others train, and small
        networks leave no core idle; as many networks take memory at once.
      devices: that networks are spread over, each trained on one of them; None: the default one.
      return_weights: what each network learnt comes back too; with compiled="each" no more than the network's own,
        else the whole super-net's parameters for each architecture and seed.

    Raises:
      ValueError: fewer images than a batch; unknown `compiled`; several archs_per_call, or text, with another than
        compiled="once"; text with label smoothing; codes not of the space; a super-net whose candidates share
        parameters, but for `masked` ones.
      FloatingPointError: from train, a network whose loss is not finite: it diverged.
    """
    _check_settings(supernet, recipe, compiled, archs_per_call)
    is_text = supernet.recurrence is not None
    preprocess = (
        (lambda key, words: words) if is_text else make_preprocess(mean, std, crop=recipe.crop, flip=recipe.flip)
    )
    task = Task(supernet, recipe, mean, std, num_calibration_images, preprocess, return_weights)
    once = functools.partial(train_rows if is_text else train_once, task)
    train_one: Callable[..., Any] = jax.jit(once)
    train_several = jax.jit(jax.vmap(once, in_axes=(0, *[None] * 5)))
    if compiled == "each":
        train_one = functools.partial(train_each, task)
    elif compiled == "step":
        train_one = functools.partial(train_seeds, task, make_programs(task))

    def each(archs, keys, images, labels, test_images, test_labels) -> Generator[Standalone, None, None]:
        archs = codes.check(supernet.space, archs)
        if not 1 <= recipe.batch_size <= len(images):
            raise ValueError(f"batch_size is {recipe.batch_size}, expected 1 to the {len(images)} training images.")
        data = [jnp.asarray(array) for array in (images, labels, test_images, test_labels)]
        homes = [jax.device_put((keys, *data), device) for device in devices or (None,)]

        def call(start: int) -> Standalone:
            begin = time.perf_counter()
            called, home = archs[start : start + archs_per_call], homes[start // archs_per_call % len(homes)]
            if archs_per_call == 1:
                one = jax.device_get(train_one(jnp.asarray(called[0]), *home))
                found = jax.tree.map(lambda row: row[None], one)
            else:
                padded = np.concatenate([called, np.repeat(called[-1:], archs_per_call - len(called), axis=0)])
                several = jax.device_get(train_several(jnp.asarray(padded), *home))
                found = jax.tree.map(lambda rows: rows[: len(called)], several)
            seconds = np.full(len(called), (time.perf_counter() - begin) / len(called))
            loss, correct = (column.astype(np.float64) for column in found[:2])
            _check_finite(supernet, called, loss)
            weights = separate(found[2]) if return_weights else None
            return Standalone(correct / np.size(test_labels), loss, seconds, weights)

        yield from ordered_map(call, range(0, len(archs), archs_per_call), workers * len(homes))

    return TrainAlone(each)


def _check_finite(supernet: Supernet, archs: np.ndarray, loss: np.ndarray) -> None:
    if not np.isfinite(loss).all():
        row, seed = np.argwhere(~np.isfinite(loss))[0]
        name = f"{supernet.space.name}: architecture {codes.to_text(supernet.space, archs[row])}"
        raise FloatingPointError(
            f"{name} trained from key {seed} has a test loss of {loss[row, seed]}; lower the learning rate."
        )


def _check_settings(supernet: Supernet, recipe: Recipe, compiled: str, archs_per_call: int) -> None:
    if compiled not in ("once", "each", "step"):
        raise ValueError(f"compiled must be 'once', 'each' or 'step', got {compiled!r}.")
    if archs_per_call < 1 or (compiled != "once" and archs_per_call > 1):
        wanted = f"1 with compiled {compiled!r}" if compiled != "once" else "at least 1"
        raise ValueError(f"archs_per_call must be {wanted}, got {archs_per_call}.")
    if supernet.has_shared_params and (supernet.alone is None or compiled == "each"):
        raise ValueError(
            f"{supernet.space.name}: candidates of this super-net share parameters, but a network trained alone has its"
            " own; build it with kernels='separate', op_on='edge' and, for NAS-Bench-101, channels='expanded', or"
            " take jaxnas.supernets.masked of it."
        )
    is_text = supernet.recurrence is not None
    if is_text and compiled != "once":
        raise ValueError(f"{supernet.space.name}: networks on text are trained with compiled 'once', got {compiled!r}.")
    if is_text and recipe.label_smoothing:
        raise ValueError(f"{supernet.space.name}: label_smoothing is {recipe.label_smoothing}, expected 0 for text.")
