"""Resident memory over the stated budget: what scoring takes beside images, parameters and JAX itself. Linux only.

    python -m benchmarks.memory             # a table, ten minutes on two cores
    python -m benchmarks.memory --quick
    python -m benchmarks.memory --json --out FILE

Every point is a fresh process: images and parameters are made, then a population is scored, compiling included, and the
most that was resident meanwhile, less what was before, stands against `memory_budget`. Below the floor, compiled
programs and one architecture, the evaluator warns or refuses; such points are told apart.
"""

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np

from benchmarks import command
from jaxnas import codes
from jaxnas.evaluation import make_evaluator
from jaxnas.spaces import get_space
from jaxnas.supernets import make_supernet

MIB = 2**20


@dataclasses.dataclass(frozen=True)
class Config:
    """What is scored, within which budgets."""

    spaces: tuple[str, ...] = ("nasbench201", "nasbench_macro")
    modes: tuple[Literal["batch", "calibrated"], ...] = ("batch", "calibrated")
    budgets: tuple[int, ...] = (64, 128, 256, 384, 512)  # MiB
    width: int = 8  # channels of the stem
    image_size: int = 32  # pixels
    num_archs: int = 40
    num_images: int = 256  # scored, in one call
    num_calibration_images: int = 256
    inside: bool = False  # measure in this process: one space, mode and budget
    quick: bool = False  # other defaults
    json: bool = False  # records instead of a table
    out: Path | None = None  # write the records to this file as well


QUICK = Config(spaces=("nasbench201",), modes=("batch",), budgets=(256,), image_size=8, num_archs=4, quick=True)


def run(config: Config) -> list[dict[str, Any]]:
    """A flat record for every point.

    Raises:
      ValueError: unusable settings; RuntimeError: a process that fails.
    """
    if not (config.spaces and config.modes and config.budgets) or min(config.budgets) < 1:
        raise ValueError("--spaces, --modes and --budgets must name at least one, budgets of at least 1 MiB.")
    points = [(space, mode, budget) for space in config.spaces for mode in config.modes for budget in config.budgets]
    if config.inside:
        return [measure(config, *point) for point in points[:1]]
    records = []
    for space, mode, budget in points:
        argv = [f"--spaces={space}", f"--modes={mode}", f"--budgets={budget}", "--inside", "--json"]
        sizes = ("width", "image_size", "num_archs", "num_images", "num_calibration_images")
        argv += [f"--{name.replace('_', '-')}={getattr(config, name)}" for name in sizes]
        done = subprocess.run([sys.executable, "-m", "benchmarks.memory", *argv], capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{space}, {mode}, {budget} MiB: {done.stderr.strip().splitlines()[-1]}")
        records += json.loads(done.stdout)
        print(f"{space}, {mode}, {budget} MiB: {records[-1]['peak_mib']}", file=sys.stderr, flush=True)
    return records


def measure(config: Config, name: str, mode: Literal["batch", "calibrated"], budget: int) -> dict[str, Any]:
    """One point; `peak_mib` is None where the budget is refused."""
    space = get_space(name)
    cells = {"cells_per_stage": 1} if "cells_per_stage" in space.sizes else {}
    space = space.resized(width=config.width, image_size=config.image_size, **cells)
    supernet = make_supernet(space)
    params = supernet.init(jax.random.key(0))
    rng = np.random.default_rng(0)
    shape = supernet.layers["stem"].in_shape
    images, calibration = (
        jax.numpy.asarray(rng.normal(size=(number, *shape)).astype(np.float32))
        for number in (config.num_images, config.num_calibration_images)
    )
    labels = rng.integers(space.layout.num_classes, size=config.num_images)
    archs = np.asarray(codes.sample(jax.random.key(1), space, config.num_archs))
    given: dict[str, Any] = {"calibration_images": calibration} if mode == "calibrated" else {}
    jax.block_until_ready((params, images, calibration))
    record: dict[str, Any] = {
        "space": name,
        "bn_mode": mode,
        "budget_mib": budget,
        "peak_mib": None,
        "ratio": None,
        "above_floor": False,
        "seconds": None,
        "width": config.width,
        "image_size": config.image_size,
        "num_archs": config.num_archs,
        "device": command.device_name(),
        "versions": command.versions(),
    }
    evaluator = make_evaluator(supernet, bn_mode=mode, memory_budget=budget * MIB)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        try:
            evaluator.plan(len(archs), len(images))
        except ValueError:
            return record
        before, begin = resident_mib(), time.perf_counter()
        with most_resident() as most:
            evaluator.evaluate(params, archs, images, labels, **given)
    peak = most[0] - before
    found = {"peak_mib": round(peak), "ratio": peak / budget, "above_floor": not told}
    return record | found | {"seconds": time.perf_counter() - begin}


def resident_mib() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / MIB


@contextlib.contextmanager
def most_resident() -> Iterator[list[float]]:
    """A list of one number, the most MiB that were resident inside, looked at every millisecond."""
    most, is_over = [resident_mib()], threading.Event()

    def look() -> None:
        while not is_over.wait(0.001):
            most[0] = max(most[0], resident_mib())

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield most
    finally:
        is_over.set()
        thread.join()


def table(records: Sequence[dict[str, Any]]) -> str:
    first = records[0]
    lines = [
        f"{first['device']}; {first['versions']}",
        f"width {first['width']}, {first['image_size']} px, {first['num_archs']} architectures",
        f"{'space':16}{'mode':12}{'budget MiB':>11}{'peak MiB':>10}{'ratio':>7}  floor",
    ]
    for record in records:
        place = f"{record['space']:16}{record['bn_mode']:12}{record['budget_mib']:11}"
        if record["peak_mib"] is None:
            lines.append(f"{place}{'-':>10}{'-':>7}  refused")
        else:
            floor = "above" if record["above_floor"] else "below, with a warning"
            lines.append(f"{place}{record['peak_mib']:10}{record['ratio']:7.2f}  {floor}")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    command.main("memory", Config, QUICK, __doc__, run, table, argv)


if __name__ == "__main__":
    main()
