"""Scoring many sub-networks of one super-net on the same images."""

import math
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
from jaxnas.choice import Groups, branch_runs
from jaxnas.costs import Place, op_cost, op_costs
from jaxnas.losses import cross_entropy, is_correct
from jaxnas.supernets import Layer, Params, Stats, Supernet, select_stats

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


class Plan(NamedTuple):
    """How an evaluator will run a population."""

    strategy: str
    archs_per_call: int
    images_per_call: int
    workers: int  # host threads that call the compiled program; more than one on CPU only


def make_evaluator(
    supernet: Supernet,
    *,
    strategy: Strategy = "auto",
    bn_mode: BNMode = "batch",
    archs_per_call: int | None = None,
    images_per_call: int = 256,
    memory_budget: int = 2**30,
    groups: Groups = 8,
    workers: int | None = None,
    per_image: bool = False,
    progress: bool = False,
) -> Callable[..., Scores]:
    """Build `evaluate(params, archs, images, labels, *, stats=None, calibration_images=None) -> Scores`.

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
      archs_per_call: architectures in one compiled call; None: as many as memory_budget allows. Populations are cut
        into calls of this size, or the next power of two where the population is smaller.
      images_per_call: images in one compiled call.
      memory_budget: bytes that the activations of one call may take, by estimate; for archs_per_call None.
      groups: tile size of the dispatch route, or "balanced", see `jaxnas.choice.choose`.
      workers: host threads, each with calls of its own; None: one a core on CPU for serial (XLA leaves cores idle in
        small convolutions), else one.
      per_image: keep `image_loss` and `image_correct`.
      progress: a bar with architectures done, image·arch per second and time left.

    Raises:
      ValueError: at once for unusable settings; from evaluate for codes, shapes or counts that don't fit.
    """
    for name, value, known in (("strategy", strategy, STRATEGIES), ("bn_mode", bn_mode, BN_MODES)):
        if value not in known:
            raise ValueError(f"unknown {name} {value!r}; choose one of {', '.join(known)}.")
    for name, count in (("archs_per_call", archs_per_call), ("images_per_call", images_per_call), ("workers", workers)):
        if count is not None and count < 1:
            raise ValueError(f"{name} must be at least 1, got {count}.")
    route = strategy if strategy != "auto" else ("serial" if jax.default_backend() == "cpu" else "dispatch")
    if workers is None:
        workers = (os.cpu_count() or 1) if route == "serial" and jax.default_backend() == "cpu" else 1
    bytes_each, bytes_tile = _activation_bytes(supernet, route, groups)

    def plan(num_archs: int, num_images: int) -> Plan:
        per_call = min(images_per_call, num_images)
        size = archs_per_call
        if size is None:
            fitting = (memory_budget // per_call - bytes_tile) // bytes_each
            if fitting < 1:
                least = (bytes_each + bytes_tile) * per_call
                raise ValueError(
                    f"memory_budget of {memory_budget} bytes is too small for one architecture on {per_call} images,"
                    f" which takes about {least}; raise it or lower images_per_call."
                )
            size = 16 if route == "serial" else min(256, 2 ** int(math.log2(fitting)))
        if route == "serial":  # nothing is gained by full calls: take the size that repeats the fewest architectures
            sizes = range(min(size, num_archs), min(size, num_archs) // 2, -1)
            return Plan(route, min(sizes, key=lambda each: -num_archs % each), per_call, workers)
        return Plan(route, min(size, 2 ** math.ceil(math.log2(num_archs))), per_call, workers)

    @jax.jit
    def score(params, archs, stats, images, labels, mask):
        """Per-image loss and correctness [num_archs, num_images]; images outside the mask count 0."""
        logits, _ = _forward(supernet, route, groups, params, archs, stats, images, mask)
        losses, correct = cross_entropy(logits, labels), is_correct(logits, labels)
        return (losses, correct) if mask is None else (losses * mask, correct & mask)

    @jax.jit
    def statistics(params, archs, images, mask):
        return _forward(supernet, route, groups, params, archs, None, images, mask)[1]

    def evaluate(
        params: Params,
        archs: chex.ArrayNumpy,
        images: chex.Array,
        labels: chex.Array,
        *,
        stats: Stats | None = None,
        calibration_images: chex.Array | None = None,
    ) -> Scores:
        archs = arch.check(supernet.space, archs)
        num_images = len(images)
        if num_images == 0 or len(labels) != num_images:
            raise ValueError(f"got {num_images} images and {len(labels)} labels; give as many of each, at least one.")
        for wanted, name, given in (
            ("tracked", "stats", stats),
            ("calibrated", "calibration_images", calibration_images),
        ):
            if (bn_mode == wanted) != (given is not None):
                verb = "needs" if bn_mode == wanted else "does not take"
                raise ValueError(f"bn_mode {bn_mode!r} {verb} {name}.")
        planned = plan(len(archs), num_images)
        batches = list(_batches(images, labels, planned.images_per_call))
        calibration = []
        if calibration_images is not None:
            none = np.zeros(len(calibration_images), np.int32)
            calibration = list(_batches(calibration_images, none, min(planned.images_per_call, len(none))))

        def run(start: int) -> tuple[np.ndarray, np.ndarray]:
            """Score one call's worth of architectures: losses and correctness [archs of the call, num_images]."""
            codes = archs[start : start + planned.archs_per_call]
            padded = jnp.asarray(np.concatenate([codes, np.repeat(codes[-1:], planned.archs_per_call - len(codes), 0)]))
            own = None
            if stats is not None:
                own = select_stats(supernet, stats, padded)
            elif calibration:
                own = _pool([statistics(params, padded, x, mask) for x, _, mask, _ in calibration], calibration)
            parts = [score(params, padded, own, x, y, mask) for x, y, mask, _ in batches]
            bar_queue.append(len(codes))
            losses, correct = (np.concatenate(jax.device_get(part), axis=1) for part in zip(*parts))
            return losses[: len(codes), :num_images], correct[: len(codes), :num_images]

        bar_queue: list[int] = []
        starts = range(0, len(archs), planned.archs_per_call)
        results = []
        begin = time.perf_counter()
        with tqdm(total=len(archs), unit="arch", disable=not progress) as bar:
            for result in _ordered_map(run, starts, planned.workers):
                results.append(result)
                bar.update(len(result[0]))
                rate = bar.n * num_images / (time.perf_counter() - begin)
                bar.set_postfix_str(f"{rate:,.0f} image·arch/s", refresh=False)
        losses = np.concatenate([loss for loss, _ in results])
        correct = np.concatenate([hit for _, hit in results])
        return Scores(
            archs=archs,
            loss=losses.sum(axis=1, dtype=np.float64) / num_images,
            accuracy=correct.sum(axis=1) / num_images,
            num_images=num_images,
            bn_mode=bn_mode,
            images_per_call=planned.images_per_call,
            num_calibration_images=0 if calibration_images is None else len(calibration_images),
            strategy=route,
            image_loss=losses if per_image else None,
            image_correct=correct if per_image else None,
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


def _pool(per_batch: list[Stats], batches) -> Stats:
    """Mean and variance over all calibration images, from those of each batch: the variance within the batches plus
    that of their means."""
    counts = jnp.array([count for *_, count in batches], jnp.float32)
    weights = counts / counts.sum()

    def pool(*leaves):
        stacked = jnp.stack(leaves)  # [num_batches, num_archs, 2, size]
        weight = weights[:, None, None]
        mean = (weight * stacked[:, :, 0]).sum(axis=0)
        square = (weight * (stacked[:, :, 1] + stacked[:, :, 0] ** 2)).sum(axis=0)
        return jnp.stack([mean, jnp.maximum(square - mean**2, 0.0)], axis=1)

    return jax.tree.map(pool, *per_batch)


def _ordered_map(function, items, workers: int):
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


def _activation_bytes(supernet: Supernet, route: str, groups: Groups) -> tuple[int, int]:
    """Estimated bytes at the widest layer: held by one architecture for one image, and by one tile's inside for it."""
    each = tile = 0
    for layer in supernet.all_layers.values():
        height, width, _ = layer.in_shape
        inside = 2 * layer.stats_size * height * width
        ends = 4 * (math.prod(layer.in_shape) + math.prod(layer.out_shape))  # nodes of a cell, or sorted copies
        each = max(each, 4 * (ends + (len(layer.modules) * inside if route == "mask" else 0)))
        tile = max(tile, 4 * inside * (groups if isinstance(groups, int) and route == "dispatch" else 1))
    return each, tile


def work(supernet: Supernet, archs: chex.ArrayNumpy, plan: Plan, *, groups: Groups = 8) -> tuple[float, float]:
    """MACs per image that a population needs and that a plan executes, padding and repetitions included.

    Needed: each architecture runs its own operations, one after the other, stem and head included. Counted from the
    codes; a test checks the counts with counters inside the branches.
    """
    archs = arch.check(supernet.space, archs)
    _, fixed = op_costs(supernet.space)
    stem = supernet.all_layers["stem"]
    height, width, channels = stem.out_shape
    stem_macs = 9 * stem.in_shape[-1] * channels * height * width
    needed = len(archs) * float(fixed.macs)
    executed = 0.0
    for start in range(0, len(archs), plan.archs_per_call):
        call = archs[start : start + plan.archs_per_call]
        call = np.concatenate([call, np.repeat(call[-1:], plan.archs_per_call - len(call), axis=0)])
        stems = len(call) if plan.strategy == "serial" else 1
        executed += stems * stem_macs + len(call) * (float(fixed.macs) - stem_macs)
        for layer in supernet.all_layers.values():
            if layer.choice is not None:
                executed += (_candidate_macs(layer) * _runs(layer, call[:, layer.choice], plan.strategy, groups)).sum()
    for layer in supernet.all_layers.values():
        if layer.choice is not None:
            needed += _candidate_macs(layer)[archs[:, layer.choice]].sum()
    return needed, executed


def _candidate_macs(layer: Layer) -> np.ndarray:
    """MACs for one image of each candidate of a layer: float64 [num_candidates]."""
    size, stride = layer.in_shape[0], layer.in_shape[0] // layer.out_shape[0]
    place = Place(layer.in_shape[-1], layer.out_shape[-1], size, stride)
    return np.array([op_cost(op, place)[0] for op in layer.modules])


def _runs(layer: Layer, choices: np.ndarray, strategy: str, groups: Groups) -> np.ndarray:
    """How many times each candidate of a layer runs in one call."""
    num_branches = len(layer.modules)
    if strategy == "serial":
        return np.bincount(choices, minlength=num_branches)
    if layer.shared_input:
        return np.ones(num_branches)
    if strategy == "mask":
        return np.full(num_branches, len(choices))
    return branch_runs(choices, num_branches, groups)
