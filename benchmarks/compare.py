"""Our evaluator against one network at a time: our own serial switch, and PyTorch as it is run and at its best.

    python -m benchmarks.compare                        # a table
    python -m benchmarks.compare --quick                # the same with fewer architectures and smaller networks
    python -m benchmarks.compare --json --out FILE      # flat records
    python -m benchmarks.compare --rows cells_1000 --image-size 32

Four pieces of work, each scored by `auto` from beginning to end, planning on the host included: every chain of
NAS-Bench-Macro, every cell of NAS-Bench-201, 1,000 random cells, and the candidates of one PC-NAS step. Everybody else
takes one network after the other, at a cost that does not depend on how many there are, so that `num_baseline` of them,
evenly spaced in the order of their work, say what all would take, in proportion to the work; they are measured before,
between and after our runs. Routes:

    serial_1     our serial switch (`lax.map`), one host thread
    serial       the same with a host thread for each core
    torch_eager, torch_best    see benchmarks/peer_torch.py

All score with the same weights, images, batches, batch statistics, number types and number of cores; losses must agree,
or nothing is reported. `work_ratio` is what is executed over what one network after the other needs, counted from the
plan; its inverse is what the work alone allows. Compiling is left out everywhere.
"""

import dataclasses
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np

from benchmarks import command
from benchmarks.evaluator import TOLERANCE
from jaxnas.checks import Cells, Count, Pair, Pixels, Width
from jaxnas.codes import enumerate_archs, sample
from jaxnas.evaluation import make_evaluator, work
from jaxnas.space import ChainLayout, SearchSpace
from jaxnas.spaces import chain_space, get_space
from jaxnas.supernets import Policy, Supernet, make_supernet

Row = Literal["macro_all", "cells_all", "cells_1000", "pcnas_step"]
ROWS: tuple[Row, ...] = ("macro_all", "cells_all", "cells_1000", "pcnas_step")
Baseline = Literal["serial_1", "serial", "torch_eager", "torch_best"]
BASELINES: tuple[Baseline, ...] = ("serial_1", "serial", "torch_eager", "torch_best")
BFLOAT16_TOLERANCE = 0.2  # nats
# What is aimed at: speed against serial_1, torch_best and torch_eager.
TARGETS = {"macro_all": (3.4, 5, 9), "cells_all": (3, 2.5, 6), "cells_1000": (1.3, 1, 4), "pcnas_step": (1.5, 2, 4)}


@dataclasses.dataclass(frozen=True)
class Config:
    """What to compare, at which size."""

    rows: tuple[Row, ...] = ROWS
    baselines: tuple[Baseline, ...] = BASELINES
    width: Width = 16  # channels of the stem; all others, the head's too, in proportion
    image_size: Pixels = 16  # pixels
    cells: Cells = 1  # cells per stage
    affine: bool = False  # batch normalisation with scale and shift
    compute_dtype: Literal["float32", "bfloat16"] = "float32"  # of everybody's activations
    num_images: Count = 256
    images_per_call: Count = 256
    most_archs: Pair | None = None  # take evenly spaced architectures of larger populations
    num_baseline: Count = 32  # networks that a baseline is measured on, each time
    repetitions: Count = 1  # of our whole run; baselines are measured once more
    quick: bool = False  # other defaults
    json: bool = False  # records instead of a table
    out: Path | None = None  # write the records to this file as well


QUICK = Config(width=8, image_size=8, num_images=64, most_archs=200, num_baseline=8, quick=True)


def run(config: Config, note: command.Note = lambda record: None) -> command.Records:
    """A flat record for every row and route, `ours` first; `note` is told of each run as it ends.

    Raises:
      ValueError: unusable settings.
      RuntimeError: routes that disagree in their scores.
    """
    records = []
    for row in config.rows:
        space, archs = population(config, row)
        print(f"{row}: {len(archs)} architectures ...", file=sys.stderr, flush=True)
        records += compare(config, row, space, archs, note)
    return records


def population(config: Config, row: Row) -> tuple[SearchSpace, np.ndarray]:
    """The space of a row at the configured size, and the codes it scores."""
    sizes = {"width": config.width, "image_size": config.image_size}
    key = jax.random.key(2)
    if row == "pcnas_step":
        space = pcnas_space().resized(**sizes)
        prefixes = sample(key, space, 5)[:, :4]
        archs = np.array(sample(jax.random.fold_in(key, 1), space, 5 * 5 * 100))
        archs[:, :4] = np.repeat(prefixes, 5 * 100, axis=0)
        archs[:, 4] = np.tile(np.repeat(np.arange(5), 100), 5)
    else:
        name = "nasbench_macro" if row == "macro_all" else "nasbench201"
        cells = {} if row == "macro_all" else {"cells_per_stage": config.cells}
        space = get_space(name).resized(**sizes, **cells)
        archs = np.asarray(sample(key, space, 1000)) if row == "cells_1000" else enumerate_archs(space)
    if config.most_archs is not None and len(archs) > config.most_archs:
        archs = archs[np.linspace(0, len(archs) - 1, config.most_archs).astype(int)]
    return space, archs


def pcnas_space() -> SearchSpace:
    """A chain of 12 choices among 5 operations, three stages, laid out like NAS-Bench-Macro's."""
    layout = ChainLayout(
        stem_width=32, widths=(32,) * 2 + (64,) * 4 + (128,) * 6, strides=(1,) * 2 + (2, 1, 1, 1) + (2, 1, 1, 1, 1, 1),
        head_width=640, image_size=32,
    )  # fmt: skip
    return chain_space("pcnas_chain", layout, [("identity", "mb3_k3", "mb3_k5", "mb6_k3", "mb6_k5")] * 12)


def compare(
    config: Config, row: Row, space: SearchSpace, archs: np.ndarray, note: command.Note
) -> list[dict[str, Any]]:
    """Our whole run between runs of the baselines on a few networks."""
    supernet = make_supernet(space, affine=config.affine, policy=Policy(compute=config.compute_dtype))
    params = supernet.init(jax.random.key(0))
    images = np.asarray(jax.random.normal(jax.random.key(1), (config.num_images, *supernet.layers["stem"].in_shape)))
    labels = np.arange(config.num_images) % space.layout.num_classes
    ours = make_evaluator(supernet, images_per_call=config.images_per_call)
    tolerance = TOLERANCE if config.compute_dtype == "float32" else BFLOAT16_TOLERANCE
    baselines = make_baselines(config, supernet)
    few, share = evenly_spaced(supernet, archs, config.num_baseline)

    def seconds(name: str, evaluate: Callable, codes: np.ndarray, *, warm_up: bool = False) -> tuple[float, np.ndarray]:
        start = time.perf_counter()
        scores = evaluate(params, codes, images, labels)
        took = time.perf_counter() - start
        note({"population": row, "route": name, "seconds": took, "num_archs": len(codes), "is_warm_up": warm_up})
        return took, scores.loss

    took: dict[str, list[float]] = {name: [] for name in ("ours", *baselines)}
    loss = {name: seconds(name, each, archs[few], warm_up=True)[1] for name, each in baselines.items()}
    # On an accelerator its groups of nodes depend on the population, and so do the programs that are to be compiled.
    seconds("ours", ours.evaluate, archs[few] if jax.default_backend() == "cpu" else archs, warm_up=True)
    for repetition in range(config.repetitions + 1):
        for name, evaluate in baselines.items():
            took[name].append(seconds(name, evaluate, archs[few])[0] / share)
        if repetition < config.repetitions:
            time_of_all, losses = seconds("ours", ours.evaluate, archs)
            took["ours"].append(time_of_all)
    for name, of_few in loss.items():
        difference = float(np.max(np.abs(of_few - losses[few])))
        if not difference <= tolerance:  # NaN too
            raise RuntimeError(
                f"{row}: the losses of {name} and ours differ by up to {difference:.3g} nats, expected at most"
                f" {tolerance}; nothing is reported."
            )
    population = ours.prepare(archs, config.num_images)
    plan, (needed, executed) = population.plan, work(supernet, population)
    median = {name: float(np.median(times)) for name, times in took.items()}
    padded = -(-config.num_images // plan.images_per_call) * plan.images_per_call
    return [
        {
            "space": space.name,
            "population": row,
            "route": name,
            "strategy": plan.strategy if name == "ours" else name,
            "num_archs": len(archs),
            "num_images": config.num_images,
            "ms": 1000 * median[name],
            "image_archs_per_s": len(archs) * config.num_images / median[name],
            "needed_gflop": 2e-9 * needed * config.num_images,
            "executed_gflop": 2e-9 * (executed if name == "ours" else needed) * padded,
            "work_ratio": executed / needed if name == "ours" else 1.0,
            "speedup_over_serial": median["serial_1"] / median[name] if "serial_1" in median else None,
            "ours_speedup": median[name] / median["ours"],
            "width": config.width,
            "image_size": config.image_size,
            "cells": config.cells if "cells_per_stage" in space.sizes else None,
            "affine": config.affine,
            "compute_dtype": config.compute_dtype,
            "num_measured": len(archs) if name == "ours" else len(few),
            "device": command.device_name(),
            "versions": command.versions(),
        }
        for name in took
    ]


def make_baselines(config: Config, supernet: Supernet) -> dict[str, Callable]:
    """What scores one network after the other, by name."""
    device, made = "cpu" if jax.default_backend() == "cpu" else "cuda", dict[str, Callable]()
    given: dict[str, Any] = {"images_per_call": config.images_per_call}
    for name in config.baselines:
        if name == "torch_eager" or name == "torch_best":
            from benchmarks.peer_torch import make_peer_evaluator  # here: ours need no PyTorch

            made[name] = make_peer_evaluator(supernet, route=name, device=device, dtype=config.compute_dtype, **given)
        else:
            workers = 1 if name == "serial_1" else None
            made[name] = make_evaluator(supernet, strategy="serial", workers=workers, **given).evaluate
    return made


def evenly_spaced(supernet: Supernet, archs: np.ndarray, number: int) -> tuple[np.ndarray, float]:
    """So many positions of archs, evenly spaced in the order of their multiply-accumulates, and their share of the work
    of all."""
    macs = np.zeros(len(archs))
    for name, taken in supernet.taken(archs).items():
        macs += supernet.layers[name].costs.macs[taken]
    number = min(number, len(archs))
    few = np.argsort(macs, kind="stable")[((np.arange(number) + 0.5) * len(archs) / number).astype(int)]
    return few, float(macs[few].sum() / macs.sum())


def table(records: Sequence[dict[str, Any]]) -> str:
    """One line a row: how many times as fast ours is, beside what was aimed at and what the work allows."""
    lines = [
        f"{records[0]['device']}; {records[0]['versions']}",
        f"width {records[0]['width']}, {records[0]['image_size']} px, {records[0]['num_images']} images; (aimed at)",
        f"{'work':12}{'archs':>7}{'ours s':>9}{'image·arch/s':>14}{'work allows':>13}"
        + "".join(f"{name:>18}" for name in BASELINES),
    ]
    for row in dict.fromkeys(record["population"] for record in records):
        by_route = {record["route"]: record for record in records if record["population"] == row}
        ours = by_route["ours"]
        aims = dict(zip(("serial_1", "torch_best", "torch_eager"), TARGETS[row]))
        cells = [
            f"{by_route[name]['ours_speedup']:.2f}x" + (f" ({aims[name]}x)" if name in aims else "")
            if name in by_route
            else "-"
            for name in map(str, BASELINES)
        ]
        lines.append(
            f"{row:12}{ours['num_archs']:7}{ours['ms'] / 1000:9.1f}{ours['image_archs_per_s']:14,.0f}"
            f"{1 / ours['work_ratio']:12.2f}x" + "".join(f"{cell:>18}" for cell in cells)
        )
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    command.main("compare", Config, QUICK, __doc__, run, table, argv)


if __name__ == "__main__":
    main()
