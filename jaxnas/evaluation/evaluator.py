"""Scoring many sub-networks of one super-net on the same images."""

import contextlib
import functools
import warnings
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Protocol, get_args

import chex
import jax
import numpy as np
from tqdm import tqdm

from jaxnas import checks, codes
from jaxnas.evaluation.batches import load_row
from jaxnas.evaluation.border import check_given, check_images, check_labels, check_stats, out_of_memory_told
from jaxnas.evaluation.calls import make_calls
from jaxnas.evaluation.graph import make_graph_route, why_untraceable
from jaxnas.evaluation.meshes import DeviceRow, on_one, rows_of, rows_of_devices
from jaxnas.evaluation.planning import Planner, make_planner, target_of
from jaxnas.evaluation.population import PlannedUnits, Population
from jaxnas.evaluation.route import Route
from jaxnas.evaluation.scores import Scores, run_units
from jaxnas.supernets import Params, Stats, Supernet, check_kept

Strategy = Literal["auto", "mask", "serial", "dispatch", "graph"]
BNMode = Literal["batch", "calibrated", "tracked"]
STRATEGIES, BN_MODES = get_args(Strategy), get_args(BNMode)


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
            Of text words int [num_rows, length], each row from the memory before the first word.
          labels: int [num_images], in [0, num_classes); of text each word's successor, [num_rows, length].
          stats: tracked statistics (`TrainState.stats`), for bn_mode "tracked"; of all that archs take.
          calibration_images: for bn_mode "calibrated".
          bar: of a caller that scores in several calls.

        Raises:
          ValueError: codes, shapes, number types or counts that don't fit; raw pixels; statistics never tracked; a
            device that runs out of memory.
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
      plan: (num_archs, num_images) -> Plan, how a population would be cut; of graph on accelerators the most, as
        what fits depends on the population (`Population.plan`).
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
        one-hot weight: the reference to compare with), or "auto": graph; of text serial, and with a warning where a
        wiring of one's own does more than add.
      bn_mode: normalise by the images of each call ("batch": scores depend on images_per_call), by statistics that
        each architecture takes from `calibration_images` first ("calibrated"), or by the training's own running
        statistics, mixed over all paths ("tracked").
      archs_per_call: most architectures in one compiled call (graph: in one program); None: as many as memory_budget
        allows, at most 256 (16 for serial, where they share nothing). The population is cut into calls of one size
        that repeats few.
      images_per_call: images in one compiled call.
      memory_budget: bytes that scoring may take beside images and parameters, by estimate, calibration included, and on
        CPU what per_image keeps, which may be half of it. None: 1 GiB on CPU, elsewhere three quarters of what the
        device's allocator may take, 8 GiB where it doesn't say. On CPU 128 MiB of it, calibrated 256, are for compiled
        programs; a warning says where it is below the sum of these and one architecture's activations, the floor from
        which on it is kept. Elsewhere graph fills it with batches side by side, or with architectures where there are
        few images, and their nodes of one layer and operation share calls.
      groups: how the dispatch route runs a call, see `jaxnas.supernets.choice.choose`. A tile size; "auto": the largest
        power of two that pads an expected sixteenth at most; "balanced": the population is one call, in which each
        operation of a choice occurs equally often.
      workers: host threads, each with calls of its own; None: one a core that the process may use on CPU for serial
        and graph (XLA leaves cores idle in small convolutions); on accelerators two a row of the mesh for graph, which
        take turns at calling, so that one calls while the other plans or fetches; else one a row.
      mesh: devices to share the work, with axes ("archs", "data"): each row of devices scores architectures of its
        own, and within a row each device takes whole batches of images, so that scores don't depend on the mesh.
        Numbers that don't divide are padded. Of several processes (`jax.distributed`) each scores its share, and all
        learn everything. None: the default device.
      per_image: keep `image_loss` and `image_correct`, 5 bytes for each architecture and image (156 MB for all of
        NAS-Bench-201 on 2,000); not of text.
      progress: a bar with architectures done, image·arch per second and time left; a caller that scores in several
        calls passes a tqdm `bar` of its own to evaluate instead.

    Raises:
      ValueError: at once for unusable settings; from evaluate for codes, shapes or counts that don't fit.
    """
    checks.choice("strategy", strategy, STRATEGIES)
    checks.choice("bn_mode", bn_mode, BN_MODES)
    strategy = _followed(supernet, strategy)
    if per_image and supernet.recurrence is not None:
        raise ValueError(f"{supernet.space.name}: per_image is for images, of which each is right or not.")
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
        per_image=per_image,
        target=target_of(mesh),
        rows=len(rows),
        devices=1 if mesh is None else rows_of_devices(mesh).shape[1],
    )
    engine = _Engine(
        supernet=supernet,
        plan=plan,
        bn_mode=bn_mode,
        groups=groups,
        images_per_call=images_per_call,
        rows=rows,
        mesh=mesh,
        calls=make_calls(supernet),
        graph=make_graph_route(supernet),
        by_candidate=jax.jit(functools.partial(_by_candidate, supernet)),
        per_image=per_image,
        progress=progress,
    )
    return Evaluator(functools.partial(_evaluate, engine), plan, functools.partial(_prepare, engine))


def _followed(supernet: Supernet, strategy: Strategy) -> Strategy:
    """The strategy, or "serial" in place of "auto" of text, and where a wiring of the user's own does more than add."""
    if supernet.recurrence is not None and strategy in ("auto", "graph"):
        if strategy == "auto":
            return "serial"
        raise ValueError(
            f"{supernet.space.name}: strategy 'graph' follows wirings, and a recurrent network is a loop over words;"
            " take 'serial', 'dispatch' or 'mask'."
        )
    why = why_untraceable(supernet) if strategy in ("auto", "graph") else None
    if why is None:
        return strategy
    said = f"{supernet.space.name}: strategy 'graph' follows wirings that only add what layers return ({why})"
    if strategy == "graph":
        raise ValueError(f"{said}; take 'serial' or 'auto', or place channels by a layer, as PlaceChannels does.")
    warnings.warn(f"{said}; 'auto' takes 'serial'.", stacklevel=3)
    return "serial"


class _Engine(NamedTuple):
    """What `make_evaluator` decided once."""

    supernet: Supernet
    plan: Planner
    bn_mode: BNMode
    groups: int | Literal["auto", "balanced"]
    images_per_call: int
    rows: list[DeviceRow | None]
    mesh: jax.sharding.Mesh | None
    calls: Route
    graph: Route
    by_candidate: Callable[[Params, Stats | None], tuple[Params, Any]]
    per_image: bool
    progress: bool


def _by_candidate(supernet: Supernet, params: Params, stats: Stats | None) -> tuple[Params, Any]:
    """Parameters and tracked statistics [2, size] of each candidate of each layer: what a node of the graph takes, cut
    out once for all of them."""
    if stats is None:
        return supernet.view(params), None
    layers = supernet.layers.items()
    return supernet.view(params), {name: dict(zip(layer.candidates, stats[name])) for name, layer in layers}


def _prepare(engine: _Engine, archs: chex.ArrayNumpy, num_images: int) -> Population:
    checked = codes.check(engine.supernet.space, archs)
    plan = engine.plan(len(checked), num_images)
    if plan.strategy == "dispatch" and engine.groups == "balanced":
        check_kept(engine.supernet, checked, "balanced")
    route = engine.graph if plan.strategy == "graph" else engine.calls
    planned, units = route(checked, plan)
    return Population(checked, num_images, planned, plan, PlannedUnits(units))


def _evaluate(
    engine: _Engine,
    params: Params,
    archs: chex.ArrayNumpy | Population,
    images: chex.Array,
    labels: chex.Array,
    *,
    stats: Stats | None = None,
    calibration_images: chex.Array | None = None,
    bar: tqdm | None = None,
) -> Scores:
    check_images(engine.supernet, "images", images)
    labels = check_labels(engine.supernet, labels, images)
    check_given(engine.bn_mode, stats, calibration_images)
    if calibration_images is not None:
        check_images(engine.supernet, "calibration_images", calibration_images)
    population = archs if isinstance(archs, Population) else _prepare(engine, archs, len(images))
    plan = population.plan
    if population.num_images != len(images):
        raise ValueError(
            f"the population was prepared for {population.num_images} images, got {len(images)}; prepare it anew."
        )
    if population.settings != engine.plan(len(population.archs), len(images)):
        raise ValueError("the population was prepared by an evaluator of other settings; prepare it with this one.")
    if stats is not None:
        check_stats(engine.supernet, stats, population.archs)
    params, stats = on_one((params, stats))
    if plan.strategy == "graph":
        params, stats = engine.by_candidate(params, stats)
    given = params, images, labels, stats, calibration_images, engine.images_per_call
    shown = tqdm(total=len(population.archs), unit="arch", disable=not engine.progress) if bar is None else bar
    with out_of_memory_told(engine.supernet), shown if bar is None else contextlib.nullcontext():
        loaded = [row and load_row(row, plan, *given) for row in engine.rows]
        loss, accuracy, image_loss, image_correct = run_units(
            population, loaded, shown, mesh=engine.mesh, per_image=engine.per_image
        )
    return Scores(
        archs=population.archs,
        loss=loss,
        accuracy=np.where(np.isfinite(loss), accuracy, np.nan),
        num_images=len(images),
        bn_mode=engine.bn_mode,
        images_per_call=plan.images_per_call,
        num_calibration_images=0 if calibration_images is None else len(calibration_images),
        strategy=plan.strategy,
        image_loss=image_loss if engine.per_image else None,
        image_correct=image_correct if engine.per_image else None,
    )
