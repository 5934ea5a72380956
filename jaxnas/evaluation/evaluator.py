"""Scoring many sub-networks of one super-net on the same images."""

import contextlib
import functools
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Literal, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from jaxnas.codes import check
from jaxnas.evaluation.graph import Graph, Node, Program, run_program
from jaxnas.evaluation.per_image import cross_entropy, is_correct
from jaxnas.evaluation.planning import Plan, make_planner, plan_trie
from jaxnas.supernets import Params, Stats, Supernet, select_stats

Strategy = Literal["auto", "mask", "serial", "dispatch", "trie"]
BNMode = Literal["batch", "calibrated", "tracked"]
STRATEGIES = ("auto", "mask", "serial", "dispatch", "trie")
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
    memory_budget: int | None = None,
    groups: int | Literal["auto", "balanced"] = "auto",
    workers: int | None = None,
    mesh: jax.sharding.Mesh | None = None,
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
      strategy: "trie" (every distinct operation on a distinct input once, for all architectures that have it in
        common: `evaluation.graph`), "serial" (`lax.map` over a switch, one architecture after the other), "dispatch"
        (`vmap`, architectures grouped by operation), "mask" (`vmap`, every operation of every choice times its
        one-hot weight: the reference to compare with), or "auto": trie on CPU and where images alone fill an
        accelerator, else dispatch.
      bn_mode: normalise by the images of each call ("batch": scores depend on images_per_call), by statistics that
        each architecture takes from `calibration_images` first ("calibrated"), or by the training's own running
        statistics, mixed over all paths ("tracked").
      archs_per_call: most architectures in one compiled call (trie: in one walk); None: as many as memory_budget
        allows, at most 256 (16 for serial, where they share nothing). The population is cut into calls of one size
        that repeats few.
      images_per_call: images in one compiled call.
      memory_budget: bytes that activations may take, by estimate; None: 1 GiB on CPU, 8 GiB elsewhere.
      groups: how the dispatch route runs a call, see `supernets.choose`. A tile size; "auto": the largest power of
        two that pads an expected sixteenth at most; "balanced": the population is one call, in which each operation
        of a choice occurs equally often.
      workers: host threads, each with calls of its own; None: one a core on CPU for serial and trie (XLA leaves cores
        idle in small convolutions), one a row of the mesh, else one.
      mesh: devices to share the work, with axes ("archs", "data"): each row of devices scores architectures of its
        own, and within a row each device takes whole batches of images, so that scores don't depend on the mesh.
        Numbers that don't divide are padded. None: the default device.
      per_image: keep `image_loss` and `image_correct`.
      progress: a bar with architectures done, image·arch per second and time left; a caller that scores in several
        calls passes a tqdm `bar` of its own to evaluate instead.

    Raises:
      ValueError: at once for unusable settings; from evaluate for codes, shapes or counts that don't fit.
    """
    for name, value, known in (("strategy", strategy, STRATEGIES), ("bn_mode", bn_mode, BN_MODES)):
        if value not in known:
            raise ValueError(f"unknown {name} {value!r}; choose one of {', '.join(known)}.")
    rows = _rows(mesh)
    plan = make_planner(
        supernet,
        strategy=strategy,
        bn_mode=bn_mode,
        groups=groups,
        archs_per_call=archs_per_call,
        images_per_call=images_per_call,
        memory_budget=memory_budget,
        workers=workers,
        rows=len(rows),
        devices=1 if mesh is None else mesh.devices.shape[1],
    )

    @functools.partial(jax.jit, static_argnames=("route", "groups"))
    def score(params, archs, stats, batch, *, route, groups):
        """Loss and correctness of each image: [num_archs, num_batches, num_images]."""

        def one(batch):
            logits, _ = _forward(supernet, route, groups, params, archs, stats, batch.images, batch.mask)
            return measure(logits, batch)

        return jax.vmap(one, out_axes=1)(batch)

    @functools.partial(jax.jit, static_argnames=("route", "groups"))
    def statistics(params, archs, batch, *, route, groups):
        """Statistics used, [num_archs, num_batches, 2, size] by layer."""
        of_one = lambda batch: _forward(supernet, route, groups, params, archs, None, batch.images, batch.mask)[1]  # noqa: E731
        return jax.vmap(of_one, out_axes=1)(batch)

    score_leaf = jax.jit(jax.vmap(measure))
    select = jax.jit(functools.partial(select_stats, supernet))

    def score_call(plan: Plan, row: _Row, archs: np.ndarray, start: int):
        """Score one compiled call's worth of architectures."""
        codes = archs[start : start + plan.archs_per_call]
        padded = np.concatenate([codes, np.repeat(codes[-1:], plan.archs_per_call - len(codes), 0)])
        padded = row.place(padded)
        options = {"route": plan.strategy, "groups": plan.groups}
        own = None
        if row.stats is not None:
            own = select(row.stats, padded)
        elif row.calibration:
            own = _pool([statistics(row.params, padded, batch, **options) for batch in row.calibration], row.counts)
        parts = jax.device_get([score(row.params, padded, own, batch, **options) for batch in row.batches])
        losses, correct = (np.concatenate(part, axis=1) for part in zip(*parts))
        return range(start, start + len(codes)), losses[: len(codes)], correct[: len(codes)]

    def score_program(plan: Plan, row: _Row, graph: Graph, program: Program):
        """Score the architectures of one program of the trie."""
        run = functools.partial(run_program, supernet, program, row.params)
        own = None
        if row.stats is not None:
            own = [row.stats[node.layer][_index(supernet, node)] for node in graph.nodes].__getitem__
        elif row.calibration:
            used = [run(batch.images, batch.mask, keep_stats=True)[1] for batch in row.calibration]
            own = _pool(used, row.counts).__getitem__
        parts = []
        for batch in row.batches:
            logits, _ = run(batch.images, batch.mask, stats=own)
            parts.append({leaf: score_leaf(value, batch) for leaf, value in logits.items()})
        parts = jax.device_get(parts)
        positions = np.flatnonzero(np.isin(graph.leaves, program.leaves))
        columns = []
        for column in (0, 1):
            by_leaf = {leaf: np.concatenate([part[leaf][column] for part in parts]) for leaf in parts[0]}
            columns.append(np.stack([by_leaf[leaf] for leaf in graph.leaves[positions].tolist()]))
        return positions, *columns

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
        archs = check(supernet.space, archs)
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
        if planned.strategy == "dispatch" and groups == "balanced":
            _check_balanced(supernet, archs)
        if calibration_images is not None:
            _check_images(supernet, "calibration_images", calibration_images)
        if planned.strategy == "trie":
            params = jax.jit(supernet.view)(params)
        loaded = [
            _load(row, planned, params, images, labels, stats, calibration_images, images_per_call) for row in rows
        ]
        if planned.strategy == "trie":
            graph, programs = plan_trie(supernet, archs, planned)
            units = [functools.partial(score_program, graph=graph, program=program) for program in programs]
        else:
            starts = range(0, len(archs), planned.archs_per_call)
            units = [functools.partial(score_call, archs=archs, start=start) for start in starts]

        loss, correct = np.zeros(len(archs)), np.zeros(len(archs))
        image_loss = np.zeros((len(archs), num_images if per_image else 0), np.float32)
        image_correct = np.zeros(image_loss.shape, bool)

        def run(numbered: tuple[int, Callable]) -> int:
            number, unit = numbered
            positions, *columns = unit(planned, loaded[number % len(loaded)])
            losses, hits = (column.reshape(len(column), -1)[:, :num_images] for column in columns)
            loss[positions] = losses.sum(axis=1, dtype=np.float64)
            correct[positions] = hits.sum(axis=1)
            if per_image:
                image_loss[positions], image_correct[positions] = losses, hits
            return len(positions)

        begin, done = time.perf_counter(), 0
        own_bar = (
            tqdm(total=len(archs), unit="arch", disable=not progress) if bar is None else contextlib.nullcontext(bar)
        )
        with own_bar as shown:
            for count in ordered_map(run, enumerate(units), planned.workers):
                done += count
                shown.update(count)
                shown.set_postfix_str(f"{done * num_images / (time.perf_counter() - begin):,.0f} image·arch/s")
        return Scores(
            archs=archs,
            loss=loss / num_images,
            accuracy=correct / num_images,
            num_images=num_images,
            bn_mode=bn_mode,
            images_per_call=planned.images_per_call,
            num_calibration_images=0 if calibration_images is None else len(calibration_images),
            strategy=planned.strategy,
            image_loss=image_loss if per_image else None,
            image_correct=image_correct if per_image else None,
        )

    evaluate.plan = plan  # type: ignore[attr-defined]
    return evaluate


class Batch(NamedTuple):
    """Batches side by side, on the devices of one row."""

    images: chex.Array  # float [num_batches, num_images, height, width, channels]
    labels: chex.Array  # int [num_batches, num_images]
    mask: chex.Array | None  # bool [num_batches, num_images]: False for padding; None: nothing is padded anywhere


def measure(logits: chex.Array, batch: Batch) -> tuple[chex.Array, chex.Array]:
    """Loss and correctness [..., num_images] of logits [..., num_images, classes] on one batch; 0 outside its mask."""
    losses, correct = cross_entropy(logits, batch.labels), is_correct(logits, batch.labels)
    return (losses, correct) if batch.mask is None else (losses * batch.mask, correct & batch.mask)


class _Row(NamedTuple):
    """What one row of devices needs to score any architecture."""

    place: Callable  # host array -> the same on each device of the row
    params: Params
    stats: Stats | None
    batches: list[Batch]
    calibration: list[Batch]
    counts: np.ndarray  # int [number of calibration batches]: images that are no padding


def _rows(mesh: jax.sharding.Mesh | None) -> list[tuple[Callable, Callable]]:
    """For each row of devices: how arrays come to be whole on each of them, and how split by their first axis."""
    if mesh is None:
        return [(jnp.asarray, jnp.asarray)]
    if mesh.axis_names != ("archs", "data"):
        raise ValueError(f"the mesh has axes {mesh.axis_names}, expected ('archs', 'data').")
    rows: list[tuple[Callable, Callable]] = []
    for devices in mesh.devices:
        row = jax.sharding.Mesh(devices, ("data",))
        specs = jax.sharding.PartitionSpec(), jax.sharding.PartitionSpec("data")
        whole, split = (functools.partial(jax.device_put, device=jax.sharding.NamedSharding(row, s)) for s in specs)
        rows.append((whole, split))
    return rows


def _load(row, plan: Plan, params, images, labels, stats, calibration_images, images_per_call: int) -> _Row:
    """Put what a row needs on its devices."""
    whole, split = row
    batches, _ = _batches(images, labels, plan.images_per_call, plan.batches_per_call)
    calibration: list[Batch] = []
    counts = np.zeros(0, int)
    if calibration_images is not None:
        size = min(images_per_call, len(calibration_images))
        none = np.zeros(len(calibration_images), np.int32)
        calibration, counts = _batches(calibration_images, none, size, plan.batches_per_call)
    place = functools.partial(jax.tree.map, split)
    return _Row(
        whole,
        jax.tree.map(whole, params),
        None if stats is None else jax.tree.map(whole, stats),
        [place(batch) for batch in batches],
        [place(batch) for batch in calibration],
        counts,
    )


def _batches(images, labels, size: int, wide: int) -> tuple[list[Batch], np.ndarray]:
    """Cut images into batches of one size, `wide` of them side by side, and count the real images of each. The last
    batch is padded with zeros under the mask; whole batches that are missing repeat it and count 0."""
    images, labels = jnp.asarray(images), jnp.asarray(labels)
    num_batches = -(-len(images) // size)
    missing = num_batches * size - len(images)
    images = jnp.pad(images, ((0, missing), (0, 0), (0, 0), (0, 0))).reshape(num_batches, size, *images.shape[1:])
    labels = jnp.pad(labels, (0, missing)).reshape(num_batches, size)
    counts = np.full(num_batches, size) - missing * (np.arange(num_batches) == num_batches - 1)
    mask = np.arange(size) < counts[:, None]
    rows = np.minimum(np.arange(-(-num_batches // wide) * wide), num_batches - 1).reshape(-1, wide)
    batches = [Batch(images[row], labels[row], jnp.asarray(mask[row]) if missing else None) for row in rows]
    real = np.where(np.arange(rows.size) < num_batches, counts[rows.ravel()], 0)
    return batches, real


def _index(supernet: Supernet, node: Node) -> int:
    """Which candidate of its layer a node runs; the first for a sum, which is not normalised."""
    return 0 if node.op is None else list(supernet.layers[node.layer].candidates).index(node.op)


def _forward(supernet, route, groups, params, archs, stats, images, mask):
    """Logits [num_archs, num_images, classes] and statistics [num_archs, ...] by one of the routes."""

    def one(arch, own, groups):
        return supernet.apply(params, arch, images, stats=own, mask=mask, groups=groups)

    if route == "serial":
        return jax.lax.map(lambda xs: one(*xs, None), (archs, stats))
    if route == "mask":
        archs = supernet.weights(archs)
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
    for place, counts in enumerate(supernet.counts(archs)):
        if len(set(counts)) > 1:
            raise ValueError(
                f"groups='balanced' needs each operation of a choice equally often, got {counts} at index {place};"
                " pass a tile size."
            )


def _pool(parts: list, counts: np.ndarray):
    """Mean and variance over all calibration images, from those of each batch and its number of images: the variance
    within the batches plus that of their means. parts: trees of [..., num_batches, 2, size] -> [..., 2, size]."""
    weight = (counts / counts.sum()).astype(np.float32)[:, None]

    def pool(*leaves):
        stacked = np.concatenate(leaves, axis=-3)
        means, variances = stacked[..., 0, :], stacked[..., 1, :]
        mean = (weight * means).sum(axis=-2)
        square = (weight * (variances + means**2)).sum(axis=-2)
        return np.stack([mean, np.maximum(square - mean**2, 0.0)], axis=-2)

    return jax.tree.map(pool, *jax.device_get(parts))


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
