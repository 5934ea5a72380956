"""Scoring many sub-networks of one super-net on the same images."""

import contextlib
import functools
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Literal, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from jaxnas import arch
from jaxnas.losses import cross_entropy, is_correct
from jaxnas.planning import make_planner
from jaxnas.supernets import Params, Stats, Supernet, select_stats

Strategy = Literal["auto", "mask", "serial", "dispatch"]
BNMode = Literal["batch", "calibrated", "tracked"]
STRATEGIES = ("auto", "mask", "serial", "dispatch")
BN_MODES = ("batch", "calibrated", "tracked")


class Scores(NamedTuple):
    """What a population scored, and under which rule."""

    archs: np.ndarray  # int32 [num_archs, num_choices]
    loss: np.ndarray  # float64 [num_archs], mean cross-entropy in nats
    accuracy: np.ndarray  # float64 [num_archs], fraction of images
    num_images: int
    bn_mode: str
    images_per_call: int  # in "batch" mode so many images are normalised together
    num_calibration_images: int  # 0 unless calibrated
    strategy: str  # the route taken
    image_loss: np.ndarray | None = None  # float32 [num_archs, num_images], on request
    image_correct: np.ndarray | None = None  # bool [num_archs, num_images], on request


def make_evaluator(
    supernet: Supernet,
    *,
    strategy: Strategy = "auto",
    bn_mode: BNMode = "batch",
    archs_per_call: int | None = None,
    images_per_call: int = 256,
    memory_budget: int = 2**30,
    groups: int | Literal["auto", "balanced"] = "auto",
    workers: int | None = None,
    per_image: bool = False,
    progress: bool = False,
) -> Callable[..., Scores]:
    """Build `evaluate(params, archs, images, labels, *, stats=None, calibration_images=None, bar=None) -> Scores`.

    `images` are float [num_images, height, width, channels] as the network takes them (standardised), `labels` int
    [num_images]; plain arrays, no files. Every architecture sees every image; the last batch is padded and masked,
    the last call repeats architectures and drops their repetitions. `stats` (tracked statistics, `TrainState.stats`)
    is for bn_mode "tracked", `calibration_images` for "calibrated". `evaluate.plan(num_archs, num_images)` tells how a
    population would run.

    Args:
      strategy: "serial" (`lax.map` over a switch, one architecture after the other), "dispatch" (`vmap`, architectures
        grouped by operation), "mask" (`vmap`, every operation of every choice times its one-hot weight: the reference
        to compare with), or "auto": serial on CPU, which one architecture keeps busy, dispatch elsewhere.
      bn_mode: normalise by the images of each call ("batch": scores depend on images_per_call), by statistics that
        each architecture takes from `calibration_images` first ("calibrated"), or by the training's own running
        statistics, mixed over all paths ("tracked").
      archs_per_call: most architectures in one compiled call; None: as many as memory_budget allows, at most 256 (16
        for serial, where they share nothing). The population is cut into calls of one size that repeats few.
      images_per_call: images in one compiled call.
      memory_budget: bytes that the activations of one call may take, by estimate; for archs_per_call None.
      groups: how the dispatch route runs a call, see `jaxnas.choice.choose`. A tile size; "auto": the largest power of
        two that pads an expected sixteenth at most; "balanced": the population is one call, in which each operation
        of a choice occurs equally often.
      workers: host threads, each with calls of its own; None: one a core on CPU for serial (XLA leaves cores idle in
        small convolutions), else one.
      per_image: keep `image_loss` and `image_correct`.
      progress: a bar with architectures done, image·arch per second and time left; a caller that scores in several
        calls passes a tqdm `bar` of its own to evaluate instead.

    Raises:
      ValueError: at once for unusable settings; from evaluate for codes, shapes or counts that don't fit.
    """
    for name, value, known in (("strategy", strategy, STRATEGIES), ("bn_mode", bn_mode, BN_MODES)):
        if value not in known:
            raise ValueError(f"unknown {name} {value!r}; choose one of {', '.join(known)}.")
    route = strategy if strategy != "auto" else ("serial" if jax.default_backend() == "cpu" else "dispatch")
    if workers is None:
        workers = (os.cpu_count() or 1) if route == "serial" and jax.default_backend() == "cpu" else 1

    plan = make_planner(
        supernet,
        strategy=route,
        bn_mode=bn_mode,
        groups=groups,
        archs_per_call=archs_per_call,
        images_per_call=images_per_call,
        memory_budget=memory_budget,
        workers=workers,
    )

    @functools.partial(jax.jit, static_argnames="groups")
    def score(params, archs, stats, images, labels, mask, *, groups):
        """Per-image loss and correctness [num_archs, num_images]; images outside the mask count 0."""
        logits, _ = _forward(supernet, route, groups, params, archs, stats, images, mask)
        losses, correct = cross_entropy(logits, labels), is_correct(logits, labels)
        return (losses, correct) if mask is None else (losses * mask, correct & mask)

    @functools.partial(jax.jit, static_argnames="groups")
    def statistics(params, archs, images, mask, *, groups):
        return _forward(supernet, route, groups, params, archs, None, images, mask)[1]

    select = jax.jit(functools.partial(select_stats, supernet))

    def evaluate(
        params: Params,
        archs: chex.ArrayNumpy,
        images: chex.Array,
        labels: chex.Array,
        *,
        stats: Stats | None = None,
        calibration_images: chex.Array | None = None,
        bar: tqdm | None = None,
    ) -> Scores:
        archs = arch.check(supernet.space, archs)
        _check_images(supernet, "images", images)
        _check_labels(supernet, labels, len(images))
        num_images = len(images)
        for wanted, name, given in (
            ("tracked", "stats", stats),
            ("calibrated", "calibration_images", calibration_images),
        ):
            if (bn_mode == wanted) != (given is not None):
                verb = "needs" if bn_mode == wanted else "does not take"
                raise ValueError(f"bn_mode {bn_mode!r} {verb} {name}.")
        planned = plan(len(archs), num_images)
        if route == "dispatch" and groups == "balanced":
            _check_balanced(supernet, archs)
        batches = list(_batches(images, labels, planned.images_per_call))
        calibration = []
        if calibration_images is not None:
            _check_images(supernet, "calibration_images", calibration_images)
            none = np.zeros(len(calibration_images), np.int32)
            calibration = list(_batches(calibration_images, none, min(images_per_call, len(none))))

        def run(start: int) -> tuple[np.ndarray, ...]:
            """Score one call's worth of architectures: sums of loss and correctness [archs of the call], and both
            [archs of the call, num_images], or no images where they are not asked for."""
            codes = archs[start : start + planned.archs_per_call]
            padded = jnp.asarray(np.concatenate([codes, np.repeat(codes[-1:], planned.archs_per_call - len(codes), 0)]))
            own = None
            if stats is not None:
                own = select(stats, padded)
            elif calibration:
                taken = [statistics(params, padded, x, mask, groups=planned.groups) for x, _, mask, _ in calibration]
                own = _pool(taken, np.array([count for *_, count in calibration], np.float32))
            parts = [score(params, padded, own, x, y, mask, groups=planned.groups) for x, y, mask, _ in batches]
            columns = (np.concatenate(jax.device_get(part), axis=1) for part in zip(*parts))
            losses, correct = (column[: len(codes), :num_images] for column in columns)
            kept = slice(None if per_image else 0)
            return (
                losses.sum(axis=1, dtype=np.float64),
                correct.sum(axis=1),
                losses[:, kept].copy(),
                correct[:, kept].copy(),
            )

        starts = range(0, len(archs), planned.archs_per_call)
        results = []
        begin, done = time.perf_counter(), 0
        own_bar = (
            tqdm(total=len(archs), unit="arch", disable=not progress) if bar is None else contextlib.nullcontext(bar)
        )
        with own_bar as shown:
            for result in ordered_map(run, starts, planned.workers):
                results.append(result)
                done += len(result[0])
                shown.update(len(result[0]))
                shown.set_postfix_str(f"{done * num_images / (time.perf_counter() - begin):,.0f} image·arch/s")
        loss, correct, image_loss, image_correct = (np.concatenate(column) for column in zip(*results))
        return Scores(
            archs=archs,
            loss=loss / num_images,
            accuracy=correct / num_images,
            num_images=num_images,
            bn_mode=bn_mode,
            images_per_call=planned.images_per_call,
            num_calibration_images=0 if calibration_images is None else len(calibration_images),
            strategy=route,
            image_loss=image_loss if per_image else None,
            image_correct=image_correct if per_image else None,
        )

    evaluate.plan = plan  # type: ignore[attr-defined]
    return evaluate


def _forward(supernet, route, groups, params, archs, stats, images, mask):
    """Logits [num_archs, num_images, classes] and statistics [num_archs, ...] by one of the routes."""

    def one(arch, own, groups):
        return supernet.apply(params, arch, images, stats=own, mask=mask, groups=groups)

    if route == "serial":
        return jax.lax.map(lambda xs: one(*xs, None), (archs, stats))
    if route == "mask":
        archs = jax.nn.one_hot(archs, max(supernet.space.num_ops))
    return jax.vmap(lambda arch, own: one(arch, own, groups))(archs, stats)


def _check_images(supernet: Supernet, name: str, images) -> None:
    """Raise a ValueError where images are none that the network takes, or none at all."""
    layout = supernet.space.layout
    expected = (layout.image_size, layout.image_size, layout.in_channels)
    if images.shape[1:] != expected or len(images) == 0:
        raise ValueError(
            f"{name} have shape {images.shape}, expected [num_images, {str(expected)[1:-1]}], at least one image."
        )


def _check_labels(supernet: Supernet, labels, num_images: int) -> None:
    """Raise a ValueError where labels are none of the images' classes."""
    labels, num_classes = np.asarray(labels), supernet.space.layout.num_classes
    if labels.shape != (num_images,):
        raise ValueError(f"labels have shape {labels.shape}, expected ({num_images},), one for each image.")
    if labels.min() < 0 or labels.max() >= num_classes:
        raise ValueError(f"labels are {labels.min()}..{labels.max()}, expected within [0, {num_classes}).")


def _check_balanced(supernet: Supernet, archs: np.ndarray) -> None:
    """Raise a ValueError where an operation of a choice occurs more often than another."""
    for choice, num_ops in enumerate(supernet.space.num_ops):
        counts = np.bincount(archs[:, choice], minlength=num_ops)
        if len(set(counts)) > 1:
            raise ValueError(
                f"groups='balanced' needs each operation of a choice equally often, got {counts} at index {choice};"
                " pass a tile size."
            )


def _batches(images, labels, size: int) -> Iterator[tuple[chex.Array, chex.Array, chex.Array | None, int]]:
    """Device batches of one size: (images, labels, mask, number of real images). The last is padded with zeros;
    masks are None where nothing is padded anywhere."""
    images, labels = jnp.asarray(images), jnp.asarray(labels)
    ragged = len(images) % size != 0
    for start in range(0, len(images), size):
        x, y = images[start : start + size], labels[start : start + size]
        missing = size - len(x)
        mask = jnp.arange(size) < len(x) if ragged else None
        yield jnp.pad(x, ((0, missing), (0, 0), (0, 0), (0, 0))), jnp.pad(y, (0, missing)), mask, size - missing


@jax.jit
def _pool(per_batch: list[Stats], counts: chex.Array) -> Stats:
    """Mean and variance over all calibration images, from those of each batch and its number of images: the variance
    within the batches plus that of their means."""
    weight = (counts / counts.sum())[:, None, None]

    def pool(*leaves):
        stacked = jnp.stack(leaves)  # [num_batches, num_archs, 2, size]
        mean = (weight * stacked[:, :, 0]).sum(axis=0)
        square = (weight * (stacked[:, :, 1] + stacked[:, :, 0] ** 2)).sum(axis=0)
        return jnp.stack([mean, jnp.maximum(square - mean**2, 0.0)], axis=1)

    return jax.tree.map(pool, *per_batch)


def ordered_map(function, items, workers: int):
    """map with threads, in order; the first item alone, so that the program compiles once."""
    items = iter(items)
    for item in items:
        yield function(item)
        break
    if workers == 1:
        yield from map(function, items)
        return
    with ThreadPoolExecutor(workers) as pool:
        yield from pool.map(function, items)
