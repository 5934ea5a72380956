"""The evaluator's routes side by side: the same scores, what each costs, and whether `auto` takes the best.

    python -m benchmarks.evaluator                      # a table, minutes on two cores
    python -m benchmarks.evaluator --json --out FILE    # flat records on stdout and in FILE
    python -m benchmarks.evaluator --quick              # the same with fewer architectures
    python -m benchmarks.evaluator --spaces nasbench201 --width 16 --image-size 32 --cells 5 --memory-budget 34359738368
    python -m benchmarks.evaluator --spaces nasbench201 --populations all --routes auto --modes batch tracked

One untrained super-net a space, random images; tracked statistics are drawn by lot. Every route scores the same
architectures on the same images, in turns, so that other work on the machine disturbs all alike. Compiling is told
apart. The losses of all routes of a mode must agree, or nothing is reported. GFLOP count two per multiply-accumulate
and are counted from the plan, padding included (`jaxnas.evaluation.work`); dispatch can execute less than is needed, as
the operations of the first choice run once for all architectures.
"""

import dataclasses
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import jax
import numpy as np

from benchmarks import command
from jaxnas import codes
from jaxnas.checks import Bytes, Cells, Count, Pixels, Width
from jaxnas.evaluation import BNMode, Evaluator, Population, make_evaluator, work
from jaxnas.samplers import fair
from jaxnas.space import SearchSpace
from jaxnas.spaces import SpaceName, get_space
from jaxnas.supernets import Supernet, make_supernet

TOLERANCE = 1e-3  # nats; float32 sums in another order, through many normalisations


@dataclasses.dataclass(frozen=True)
class Config:
    """What to compare. --width, --image-size and --cells give the published networks their size: 32, 32 (chain) or
    16, 32, 5 (cells)."""

    spaces: tuple[Annotated[str, SpaceName()], ...] = ("nasbench_macro", "nasbench201")
    populations: tuple[Literal["balanced", "random", "all"], ...] = ("balanced", "random")
    routes: tuple[Literal["mask", "serial", "dispatch", "graph", "auto"], ...] = (
        "mask", "serial", "dispatch", "graph", "auto",
    )  # fmt: skip
    width: Width = 8  # channels of the stem; all others in proportion
    image_size: Pixels = 16  # pixels
    cells: Cells = 1  # cells per stage, for spaces of cells
    num_balanced: Count = 240  # architectures of the balanced population, a multiple of the operations per choice
    num_archs: Count = 1000  # architectures of the random population
    num_images: Count = 32
    images_per_call: Count = 256
    modes: tuple[BNMode, ...] = ("batch",)  # whose statistics normalise
    # that each architecture takes its statistics from first, where calibrated
    num_calibration_images: Count = 256
    archs_per_call: Count | None = None  # None: as the evaluator plans
    memory_budget: Bytes = 2**30  # bytes that activations may take
    groups: Count | None = None  # tile of the dispatch route; None: as the evaluator plans
    repetitions: Count = 3  # of every route, in turns; the median counts
    quick: bool = False  # other defaults: fewer architectures
    json: bool = False  # records instead of a table
    out: Path | None = None  # write the records to this file as well


QUICK = Config(num_balanced=60, num_archs=100, repetitions=2, quick=True)


class Run(NamedTuple):
    """What is timed."""

    mode: str
    route: str


def run(config: Config) -> list[dict[str, Any]]:
    """Compare the routes: a flat record for every space, population, mode and route, in this order.

    Raises:
      ValueError: unusable settings.
      RuntimeError: routes that disagree in their scores.
    """
    records = []
    for space in [make_space(config, name) for name in config.spaces]:
        supernet = make_supernet(space)
        routes: dict[Run, Evaluator] = {
            Run(mode, route): make_route(config, supernet, route, mode)
            for mode in config.modes
            for route in config.routes
        }
        populations = {kind: population(config, space, kind) for kind in config.populations}
        planned: dict[tuple[str, Run], Population] = {  # now, so that unusable settings end before anything is compiled
            (kind, run): evaluator.prepare(archs, config.num_images)
            for kind, archs in populations.items()
            for run, evaluator in routes.items()
        }
        params = supernet.init(jax.random.key(0))
        given = what_modes_take(config, supernet)
        images = np.asarray(
            jax.random.normal(jax.random.key(1), (config.num_images, *supernet.layers["stem"].in_shape))
        )
        labels = np.arange(config.num_images) % space.layout.num_classes
        for kind, archs in populations.items():
            print(f"{space.name}, {kind} population: {', '.join(config.routes)} ...", file=sys.stderr, flush=True)
            compared = compare(routes, config.repetitions, params, archs, images, labels, given)
            for run, figures in compared.items():
                serial = compared.get(run._replace(route="serial"))
                plan = planned[kind, run].plan
                needed, executed = count_gflop(supernet, planned[kind, run])
                records.append(
                    {
                        "space": space.name,
                        "width": config.width,
                        "image_size": config.image_size,
                        "cells": config.cells if "cells_per_stage" in space.sizes else None,
                        "population": kind,
                        "route": run.route,
                        "bn_mode": run.mode,
                        "strategy": plan.strategy,  # what auto chose
                        "num_archs": len(archs),
                        "num_images": len(images),
                        "ms": figures["ms"],
                        "image_archs_per_s": len(archs) * len(images) / figures["ms"] * 1000,
                        "needed_gflop": needed,
                        "executed_gflop": executed,
                        "work_ratio": executed / needed,
                        "speedup_over_serial": serial["ms"] / figures["ms"] if serial else None,
                        "compile_s": figures["compile_s"],
                        "loss_difference": figures["loss_difference"],
                        "archs_per_call": plan.archs_per_call,
                        "images_per_call": plan.images_per_call,
                        "num_calibration_images": config.num_calibration_images if run.mode == "calibrated" else 0,
                        "groups": plan.groups if plan.strategy == "dispatch" else None,
                        "workers": plan.workers,
                        "memory_budget": config.memory_budget,
                        "repetitions": config.repetitions,
                        "device": command.device_name(),
                        "versions": command.versions(),
                    }
                )
    return records


def make_space(config: Config, name: str) -> SearchSpace:
    """The space at the configured size."""
    space = get_space(name)
    cells = {"cells_per_stage": config.cells} if "cells_per_stage" in space.sizes else {}
    return space.resized(width=config.width, image_size=config.image_size, **cells)


def what_modes_take(config: Config, supernet: Supernet) -> dict[str, dict[str, Any]]:
    """What `evaluate` is given beside images, by mode."""
    rng = np.random.default_rng(3)
    tracked = {
        name: rng.uniform([[-0.5], [0.5]], 1.0, (len(layer.candidates), 2, layer.stats_size)).astype(np.float32)
        for name, layer in supernet.layers.items()
    }
    shape = config.num_calibration_images, *supernet.layers["stem"].in_shape
    return {
        "batch": {},
        "tracked": {"stats": tracked},
        "calibrated": {"calibration_images": rng.normal(size=shape).astype(np.float32)},
    }


def make_route(config: Config, supernet: Supernet, route: str, mode: str = "batch") -> Evaluator:
    """An evaluator that takes this route in this mode, else with the configured settings."""
    return make_evaluator(
        supernet,
        bn_mode=mode,  # type: ignore[arg-type]
        strategy=route,  # type: ignore[arg-type]
        archs_per_call=config.archs_per_call,
        images_per_call=config.images_per_call,
        memory_budget=config.memory_budget,
        groups="auto" if config.groups is None else config.groups,
    )


def population(config: Config, space: SearchSpace, kind: str) -> np.ndarray:
    """Codes int32 [num_archs, num_choices]: strictly fair ones, uniformly random ones, or the whole space."""
    key = jax.random.key(2)
    if kind == "balanced":
        return np.asarray(fair(space, num_archs=config.num_balanced).sample(key, ()))
    return np.asarray(codes.sample(key, space, config.num_archs)) if kind == "random" else codes.enumerate_archs(space)


def compare(routes, repetitions: int, params, archs, images, labels, given) -> dict[Run, dict[str, float]]:
    """Time all in turns; a RuntimeError if losses of one mode differ. `given`: by mode, what else `evaluate` takes.

    Returns:
      `ms`, the median time of the whole population; `compile_s`, what the first call took longer than the second,
      about 0 where the population before had the same program compiled; `loss_difference` in nats, the largest of any
      architecture from the mode's first route.
    """
    compile_s = {}
    for run, evaluator in routes.items():
        one_call = archs[: evaluator.plan(len(archs), len(images)).archs_per_call]
        (first, _), (second, _) = (
            timed(evaluator.evaluate, params, one_call, images, labels, **given[run.mode]) for _ in range(2)
        )
        compile_s[run] = max(0.0, first - second)
    seconds: dict[Run, list[float]] = {run: [] for run in routes}
    loss = {}
    for _ in range(repetitions):
        for run, evaluator in routes.items():
            took, scores = timed(evaluator.evaluate, params, archs, images, labels, **given[run.mode])
            seconds[run].append(took)
            loss[run] = scores.loss
    reference = {run.mode: run for run in reversed(routes)}
    difference = {run: float(np.max(np.abs(loss[run] - loss[reference[run.mode]]))) for run in routes}
    for run, nats in difference.items():
        if not nats <= TOLERANCE:  # NaN too
            raise RuntimeError(
                f"the losses of {run.route} and {reference[run.mode].route} differ by up to {nats:.3g} nats, expected"
                f" at most {TOLERANCE}; nothing is reported."
            )
    return {
        run: {
            "ms": float(np.median(seconds[run])) * 1000,
            "compile_s": compile_s[run],
            "loss_difference": difference[run],
        }
        for run in routes
    }


def timed(evaluate, *args, **given) -> tuple[float, Any]:
    """Seconds, and what came out; the scores are NumPy arrays, hence finished."""
    start = time.perf_counter()
    scores = evaluate(*args, **given)
    return time.perf_counter() - start, scores


def count_gflop(supernet: Supernet, population: Population) -> tuple[float, float]:
    """GFLOP that the population needs on all images, and that its plan executes, padding included."""
    needed, executed = work(supernet, population)
    num_images, per_call = population.num_images, population.plan.images_per_call
    padded = -(-num_images // per_call) * per_call
    return 2e-9 * needed * num_images, 2e-9 * executed * padded


def table(records: Sequence[dict[str, Any]]) -> str:
    """The records for people: a block for each space and population, and under it how good `auto` is."""
    first = records[0]
    lines = [
        f"{first['device']}; {first['versions']}",
        f"memory budget {first['memory_budget'] / 2**30:g} GiB, median of {first['repetitions']}",
    ]
    blocks: dict[tuple, list[dict[str, Any]]] = {}
    for record in records:
        blocks.setdefault((record["space"], record["population"], record["bn_mode"]), []).append(record)
    for (space, kind, mode), block in blocks.items():
        cells = f", {block[0]['cells']} cells per stage" if block[0]["cells"] else ""
        lines += [
            "",
            f"{space} (width {first['width']}, {first['image_size']} px{cells}), {kind} population, {mode} statistics:"
            f" {block[0]['num_archs']} architectures x {block[0]['num_images']} images,"
            f" needs {block[0]['needed_gflop']:.1f} GFLOP",
            f"  {'route':19}{'ms':>9}  {'image·arch/s':>12}  {'executed/needed':>15}  {'compile s':>9}"
            f"  {'archs/call':>10}  {'tile':>4}  {'loss differs':>12}",
        ]
        for record in block:
            name = record["route"] + (f" ({record['strategy']})" if record["route"] != record["strategy"] else "")
            lines.append(
                f"  {name:19}{record['ms']:9,.0f}  {record['image_archs_per_s']:12,.0f}  {record['work_ratio']:15.3f}"
                f"  {record['compile_s']:9.1f}  {record['archs_per_call']:10}  {record['groups'] or '':>4}"
                f"  {record['loss_difference']:12.1e}"
            )
        if ratio := auto_to_best(block):
            lines.append(f"  auto is {ratio[0]:.2f}x as fast as {ratio[1]}, the best of the others")
        first_mode = blocks[space, kind, first["bn_mode"]]
        for record, other in zip(block, first_mode, strict=True):
            if record is not other:
                times = record["ms"] / other["ms"]
                lines.append(
                    f"  {record['route']} takes {times:.2f} times as long as with {other['bn_mode']} statistics"
                )
    return "\n".join(lines)


def auto_to_best(block: Sequence[dict[str, Any]]) -> tuple[float, str] | None:
    """How fast auto is against the best other route of one comparison, and which that is; None if either is absent."""
    auto = [record for record in block if record["route"] == "auto"]
    others = [record for record in block if record["route"] != "auto"]
    if not auto or not others:
        return None
    best = min(others, key=lambda record: record["ms"])
    return best["ms"] / auto[0]["ms"], best["route"]


def main(argv: Sequence[str] | None = None) -> None:
    command.main("evaluator", Config, QUICK, __doc__, run, table, argv)


if __name__ == "__main__":
    main()
