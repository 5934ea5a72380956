"""Scoring many sub-networks of one super-net on the same images."""

import contextlib
import functools
import time
from collections.abc import Callable
from typing import Literal, NamedTuple, Protocol, get_args

import chex
import jax
import numpy as np
from tqdm import tqdm

from jaxnas import codes
from jaxnas.evaluation.batches import DeviceRow, LoadedRow, load_row, rows_of
from jaxnas.evaluation.calls import make_calls
from jaxnas.evaluation.graph import make_graph_route
from jaxnas.evaluation.planning import Plan, Planner, make_planner
from jaxnas.evaluation.route import Route, Unit, ordered_map
from jaxnas.supernets import Params, Stats, Supernet

Strategy = Literal["auto", "mask", "serial", "dispatch", "graph"]
BNMode = Literal["batch", "calibrated", "tracked"]
STRATEGIES, BN_MODES = get_args(Strategy), get_args(BNMode)


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


class Population(NamedTuple):
    """Architectures whose work is planned, for so many images."""

    archs: np.ndarray  # int32 [num_archs, num_choices], checked
    num_images: int
    plan: Plan
    units: list[Unit]


class EvaluateFn(Protocol):
    """`Evaluator.evaluate`."""

    def __call__(
        self,
        params: Params,
        archs: chex.ArrayNumpy | Population,
        images: chex.Array,
        labels: chex.Array,
        *,
        stats: Stats | None = None,
        calibration_images: chex.Array | None = None,
        bar: tqdm | None = None,
    ) -> Scores:
        """Score archs int [num_archs, num_choices] on all images.

        Args:
          archs: or what `Evaluator.prepare` made of them.
          images: float [num_images, height, width, channels] as the network takes them (standardised); plain arrays.
          labels: int [num_images].
          stats: tracked statistics (`TrainState.stats`), for bn_mode "tracked".
          calibration_images: for bn_mode "calibrated".
          bar: of a caller that scores in several calls.

        Raises:
          ValueError: codes, shapes or counts that don't fit.
        """
        ...


class PrepareFn(Protocol):
    """`Evaluator.prepare`."""

    def __call__(self, archs: chex.ArrayNumpy, num_images: int) -> Population:
        """Plan the work of archs int [num_archs, num_choices], so that it is planned once where it is done often."""
        ...


class Evaluator(NamedTuple):
    """Scores sub-networks of one super-net. Every architecture sees every image; the last batch is padded and masked,
    the last call repeats architectures and drops their repetitions.

    Attributes:
      evaluate: see `EvaluateFn`.
      plan: (num_archs, num_images) -> Plan, how a population would be cut.
      prepare: see `PrepareFn`; `work` tells what it costs.
    """

    evaluate: EvaluateFn
    plan: Planner
    prepare: PrepareFn


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
) -> Evaluator:
    """Build an evaluator.

    Args:
      strategy: "graph" (every distinct operation on a distinct input once, for all architectures that have it in
        common: `evaluation.graph`), "serial" (`lax.map` over a switch, one architecture after the other), "dispatch"
        (`vmap`, architectures grouped by operation), "mask" (`vmap`, every operation of every choice times its
        one-hot weight: the reference to compare with), or "auto": graph on CPU and where images alone fill an
        accelerator, else dispatch.
      bn_mode: normalise by the images of each call ("batch": scores depend on images_per_call), by statistics that
        each architecture takes from `calibration_images` first ("calibrated"), or by the training's own running
        statistics, mixed over all paths ("tracked").
      archs_per_call: most architectures in one compiled call (graph: in one program); None: as many as memory_budget
        allows, at most 256 (16 for serial, where they share nothing). The population is cut into calls of one size
        that repeats few.
      images_per_call: images in one compiled call.
      memory_budget: bytes that activations may take, by estimate; None: 1 GiB on CPU, 8 GiB elsewhere.
      groups: how the dispatch route runs a call, see `supernets.choose`. A tile size; "auto": the largest power of
        two that pads an expected sixteenth at most; "balanced": the population is one call, in which each operation
        of a choice occurs equally often.
      workers: host threads, each with calls of its own; None: one a core on CPU for serial and graph (XLA leaves cores
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
    rows = rows_of(mesh)
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
    engine = _Engine(
        supernet,
        plan,
        bn_mode,
        groups,
        images_per_call,
        rows,
        make_calls(supernet),
        make_graph_route(supernet),
        jax.jit(supernet.view),
        per_image,
        progress,
    )
    return Evaluator(functools.partial(_evaluate, engine), plan, functools.partial(_prepare, engine))


def work(supernet: Supernet, population: Population) -> tuple[float, float]:
    """MACs per image that a population needs and that its plan executes, padding and repetitions included.

    Needed: each architecture runs its own operations, one after the other, stem and head included. Counted from the
    codes; a test checks the counts with counters inside the branches. Calibration, of the same work per image, is not
    counted.
    """
    taken = supernet.taken(population.archs).items()
    needed = sum(supernet.layers[name].costs.macs[indices].sum() for name, indices in taken)
    return float(needed), sum(unit.macs() for unit in population.units)


class _Engine(NamedTuple):
    """What `make_evaluator` decided once."""

    supernet: Supernet
    plan: Planner
    bn_mode: BNMode
    groups: int | str
    images_per_call: int
    rows: list[DeviceRow]
    calls: Route
    graph: Route
    view: Callable[[Params], Params]
    per_image: bool
    progress: bool


def _prepare(engine: _Engine, archs: chex.ArrayNumpy, num_images: int) -> Population:
    checked = codes.check(engine.supernet.space, archs)
    made = engine.plan(len(checked), num_images)
    if made.strategy == "dispatch" and engine.groups == "balanced":
        _check_balanced(engine.supernet, checked)
    route = engine.graph if made.strategy == "graph" else engine.calls
    return Population(checked, num_images, made, route(checked, made))


def _evaluate(
    engine: _Engine, params, archs, images, labels, *, stats=None, calibration_images=None, bar=None
) -> Scores:
    _check_images(engine.supernet, "images", images)
    _check_labels(engine.supernet, labels, len(images))
    _check_given(engine.bn_mode, stats, calibration_images)
    population = archs if isinstance(archs, Population) else _prepare(engine, archs, len(images))
    if population.num_images != len(images):
        raise ValueError(
            f"the population was prepared for {population.num_images} images, got {len(images)}; prepare it anew."
        )
    if calibration_images is not None:
        _check_images(engine.supernet, "calibration_images", calibration_images)
    made = population.plan
    if made.strategy == "graph":
        params = engine.view(params)
    given = params, images, labels, stats, calibration_images, engine.images_per_call
    loaded = [load_row(row, made, *given) for row in engine.rows]
    shown = tqdm(total=len(population.archs), unit="arch", disable=not engine.progress) if bar is None else bar
    with shown if bar is None else contextlib.nullcontext():
        loss, accuracy, image_loss, image_correct = _run(population, loaded, shown, engine.per_image)
    return Scores(
        archs=population.archs,
        loss=loss,
        accuracy=accuracy,
        num_images=len(images),
        bn_mode=engine.bn_mode,
        images_per_call=made.images_per_call,
        num_calibration_images=0 if calibration_images is None else len(calibration_images),
        strategy=made.strategy,
        image_loss=image_loss if engine.per_image else None,
        image_correct=image_correct if engine.per_image else None,
    )


def _run(population: Population, loaded: list[LoadedRow], bar: tqdm, per_image: bool) -> tuple[np.ndarray, ...]:
    """Loss and accuracy [num_archs]; loss and correctness [num_archs, num_images], of no images unless per_image."""
    num_archs, num_images = len(population.archs), population.num_images
    loss, correct = np.zeros(num_archs), np.zeros(num_archs)
    image_loss = np.zeros((num_archs, num_images if per_image else 0), np.float32)
    image_correct = np.zeros(image_loss.shape, bool)

    def run(numbered: tuple[int, Unit]) -> int:
        number, unit = numbered
        positions, *columns = unit.run(loaded[number % len(loaded)])
        losses, hits = (column.reshape(len(column), -1)[:, :num_images] for column in columns)
        loss[positions] = losses.sum(axis=1, dtype=np.float64)
        correct[positions] = hits.sum(axis=1)
        if per_image:
            image_loss[positions], image_correct[positions] = losses, hits
        return len(positions)

    begin, done = time.perf_counter(), 0
    for count in ordered_map(run, enumerate(population.units), population.plan.workers):
        done += count
        bar.update(count)
        bar.set_postfix_str(f"{done * num_images / (time.perf_counter() - begin):,.0f} image·arch/s")
    return loss / num_images, correct / num_images, image_loss, image_correct


def _check_given(bn_mode: str, stats: Stats | None, calibration_images: chex.Array | None) -> None:
    """Raise a ValueError where what the mode normalises by is missing, or something else is given."""
    for wanted, name, given in (("tracked", "stats", stats), ("calibrated", "calibration_images", calibration_images)):
        if (bn_mode == wanted) != (given is not None):
            verb = "needs" if bn_mode == wanted else "does not take"
            raise ValueError(f"bn_mode {bn_mode!r} {verb} {name}.")


def _check_images(supernet: Supernet, name: str, images: chex.Array) -> None:
    """Raise a ValueError where images are none that the network takes, or none at all."""
    layout = supernet.space.layout
    expected = (layout.image_size, layout.image_size, layout.in_channels)
    if images.shape[1:] != expected or len(images) == 0:
        raise ValueError(
            f"{name} have shape {images.shape}, expected [num_images, {str(expected)[1:-1]}], at least one image."
        )


def _check_labels(supernet: Supernet, labels: chex.Array, num_images: int) -> None:
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
