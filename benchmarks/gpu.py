"""What wants an accelerator, in three parts of a few minutes each; `benchmarks/gpu.sh` calls it in its environment.

    python -m benchmarks.gpu a OUT        # smoke: the routes' tests, and what the device itself does
    python -m benchmarks.gpu b OUT        # evaluation against PyTorch
    python -m benchmarks.gpu c OUT        # training against PyTorch
    python -m benchmarks.gpu a OUT --seconds 300 --small

Each part is a list of jobs, the most important first. A job begins only while there is time for it, and one that fails
leaves the others. OUT/PART.jsonl gets a line for every record as soon as it is measured, so that a part that is cut off
has lost no more than what it was measuring; called again on the same OUT, it goes on with the jobs that are missing,
and finds what it has compiled. Nothing is needed but jax for the device, jaxnas's own dependencies (no tyro, no data
sets), pytest, and for the peers torch.
"""

import argparse
import dataclasses
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from benchmarks import command, compare, device, evaluator, standalone, train_step
from benchmarks.steps import Sizes
from jaxnas.samplers import uniform
from jaxnas.spaces import get_space
from jaxnas.supernets import Policy, make_supernet
from jaxnas.training import (
    batches,
    fit,
    init_train_state,
    make_cross_entropy_loss,
    make_preprocess,
    make_train_step,
    sgd,
)

TESTS = ("tests/test_evaluation.py", "tests/test_choice.py")
PROTOCOL = {
    "num_images": 25_000,
    "batch_size": 256,
    "num_steps": 400 * (25_000 // 256),
}  # of NAS-Bench-201's super-nets
Records = Iterator[dict[str, Any]]


class Job(NamedTuple):
    """A part of a part."""

    name: str
    least: float  # seconds that have to be left for it to begin
    run: Callable[["Clock", command.Note], Records]  # (clock, told of what isn't a record yet)


class Clock:
    """What is left of a part's time."""

    def __init__(self, seconds: float):
        self.end = time.monotonic() + seconds

    @property
    def left(self) -> float:
        return self.end - time.monotonic()


def run_tests(clock: Clock, paths: Sequence[str] = TESTS, *, share: float = 0.5) -> Records:
    """The tests in a process of their own, at full float32 precision, a record each; stopped after a share of the time.
    Warnings are no errors here: those of other versions than ours are not what is asked for."""
    argv = [sys.executable, "-m", "pytest", "-v", "-m", "not slow", "-W", "default", "-p", "no:cacheprovider", *paths]
    environment = os.environ | {"JAX_DEFAULT_MATMUL_PRECISION": "highest"}
    end, counts = time.monotonic() + share * clock.left, dict[str, int]()
    with subprocess.Popen(
        argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        last = ""
        for line in process.stdout:
            last = line.strip() or last
            found = re.match(r"(tests/\S+::.+?) (PASSED|FAILED|ERROR|SKIPPED)", line)
            if found:
                counts[found[2]] = counts.get(found[2], 0) + 1
                if found[2] != "PASSED":
                    yield {"test": found[1], "outcome": found[2].lower()}
            if time.monotonic() > end:
                process.kill()
                break
    yield {"tests": " ".join(paths), **{name.lower(): number for name, number in counts.items()}, "last_line": last}


def run_fit(sizes: Sizes, clock: Clock, *, share: float = 0.3) -> Records:
    """Steps of the published super-net training, as `fit` runs them: images of bytes that stay on the device, cropped
    and flipped there, one architecture a step, in chunks; timed for a share of the time, and put beside the whole
    protocol's number of steps."""
    space = get_space("nasbench201").resized(
        width=sizes.width, image_size=sizes.image_size, cells_per_stage=sizes.cells
    )
    supernet = make_supernet(space, affine=sizes.affine, policy=Policy(compute=sizes.compute_dtype))
    mean = std = np.full(3, 0.25, np.float32)
    loss_fn = make_cross_entropy_loss(
        supernet, preprocess=make_preprocess(mean, std, crop=min(4, sizes.image_size // 2), flip=True)
    )
    sampler = uniform(space, num_archs=1)
    tx = sgd(0.025, num_steps=PROTOCOL["num_steps"], weight_decay=5e-4)
    step = make_train_step(supernet, loss_fn, sampler, tx, idle="rest")
    images = np.random.default_rng(0).integers(
        0, 256, (PROTOCOL["num_images"], sizes.image_size, sizes.image_size, 3), np.uint8
    )
    labels = np.arange(len(images), dtype=np.int32) % 10
    batch_at = batches(jax.random.key(1), images, labels, sizes.batch_size)
    state, ends = init_train_state(supernet, sampler, tx, jax.random.key(0)), list[float]()
    end = time.monotonic() + share * clock.left

    chunk = 100 if jax.default_backend() != "cpu" else 2
    while len(ends) < 3 or (time.monotonic() < end and len(ends) < 30):  # the first one compiles
        start = time.monotonic()
        number = int(state.step) + chunk
        state = fit(step, state, batch_at, number, report_at=lambda steps: steps % chunk == 0)
        ends.append(time.monotonic() - start)
        ms = 1000 * float(np.median(ends[1:] or ends)) / chunk
        yield {
            "what": "fit of the published protocol",
            "steps_per_call": chunk,
            "ms_per_step": ms,
            "first_s": ends[0],
            "timed": len(ends) - 1,
            "protocol_steps": PROTOCOL["num_steps"],
            "protocol_minutes_at_this_rate": ms * PROTOCOL["num_steps"] / 60_000,
            **dataclasses.asdict(sizes),
        }


def smoke(small: bool, path: Path) -> list[Job]:
    """Part a."""
    images, calls = (64, 20) if small else (10_240, 2000)
    sizes = (
        Sizes(width=4, image_size=8, batch_size=8)
        if small
        else Sizes(width=16, image_size=32, batch_size=256, compute_dtype="bfloat16")
    )
    tests = ("tests/test_evaluation.py::test_batch_statistics",) if small else TESTS
    return [
        Job("device", 5, lambda clock, note: iter([about()])),
        Job("host_calls", 5, lambda clock, note: device.host_calls(calls)),
        Job("copies", 5, lambda clock, note: device.copies(2**20 if small else 2**31)),
        Job("reductions", 5, lambda clock, note: device.reductions(images)),
        Job("convolutions", 20, lambda clock, note: device.convolutions(images)),
        Job("tests", 60, lambda clock, note: run_tests(clock, tests, share=0.7)),
        Job("autotuning", 60, lambda clock, note: device.autotuning(sizes)),
    ]


def evaluation(small: bool, path: Path) -> list[Job]:
    """Part b."""
    full = compare.Config(
        rows=("cells_1000",), baselines=("torch_eager", "torch_best"), width=16, image_size=32, cells=5, num_images=256,
        num_baseline=16, compute_dtype="bfloat16",
    )  # fmt: skip
    change: dict[str, Any] = {}
    if small:
        change = {"width": 4, "image_size": 8, "cells": 1, "num_images": 32, "images_per_call": 16, "most_archs": 20}
        change |= {"num_baseline": 2}
    full = dataclasses.replace(full, **change)
    few_images = evaluator.Config(
        spaces=("nasbench201",), populations=("random",), routes=("dispatch", "graph"), width=full.width,
        image_size=full.image_size, num_archs=20 if small else 1000, num_images=full.num_images,
        memory_budget=2**30 if small else 2**35,
    )  # fmt: skip

    def row(name: compare.Row, num_images: int, **more: Any) -> Callable[..., Records]:
        more = more if small else {**more, "num_images": num_images}
        config = dataclasses.replace(full, rows=(name,), **more)
        return lambda clock, note: iter(compare.run(config, note))

    def all_cells(clock: Clock, note: command.Note) -> Records:
        """The whole space twice, of which the first time compiles, on as many batches as a third of the time allows."""
        measured = [record for record in read(path) if record.get("route") == "ours" and "image_archs_per_s" in record]
        rate = measured[-1]["image_archs_per_s"] if measured else 100_000
        num_batches = min(10, max(1, int(clock.left / 3 * rate / (15_625 * 256))))
        return row("cells_all", 256 * num_batches)(clock, note)

    return [
        Job("device", 5, lambda clock, note: iter([about()])),
        Job("cells_1000", 60, row("cells_1000", 256)),
        Job("cells_all", 120, all_cells),
        Job("macro_all", 60, row("macro_all", 512, cells=1)),
        Job("routes", 60, lambda clock, note: iter(evaluator.run(few_images))),
        Job("cells_all_10000", 330, row("cells_all", 10_000, baselines=())),
    ]


def training(small: bool, path: Path) -> list[Job]:
    """Part c."""
    full = train_step.Config(
        spaces=("nasbench201",), routes=("fixed", "single", "torch_eager", "torch_best"), width=16, image_size=32,
        cells=5, batch_size=256, num_paths=1, compute_dtype="bfloat16",
    )  # fmt: skip
    if small:
        full = dataclasses.replace(full, width=2, image_size=4, cells=1, batch_size=8, repetitions=2)
    one_cell = dataclasses.replace(
        full, cells=1, routes=("fixed", "fixed_scan", "single", "fair", "single_seeds", "fair_seeds", "landmarks")
    )
    alone = standalone.QUICK if small else standalone.Config(num_archs=16)
    sizes = Sizes(**{field.name: getattr(full, field.name) for field in dataclasses.fields(Sizes)})
    return [
        Job("device", 5, lambda clock, note: iter([about()])),
        Job("fit", 60, lambda clock, note: run_fit(sizes, clock)),
        Job("steps", 60, lambda clock, note: iter(train_step.run(full, note))),
        Job("steps_of_one_cell", 60, lambda clock, note: iter(train_step.run(one_cell, note))),
        Job("standalone", 60, lambda clock, note: iter(standalone.run(alone))),
    ]


PARTS: dict[str, Callable[[bool, Path], list[Job]]] = {"a": smoke, "b": evaluation, "c": training}


def about() -> dict[str, Any]:
    """The device, its memory as JAX may use it, and the versions."""
    memory = (jax.devices()[0].memory_stats() or {}).get("bytes_limit")
    return {
        "device": command.device_name(),
        "platform": jax.default_backend(),
        "memory": memory,
        "versions": command.versions(),
    }


def run_part(jobs: Sequence[Job], path: Path, seconds: float) -> None:
    """Run the jobs that the file doesn't have whole, within the time, and append what they measure."""
    done = {record["job"] for record in read(path) if record.get("finished")}
    clock = Clock(seconds)

    def append(**record: Any) -> None:
        with path.open("a+") as file:
            if file.tell() and not path.read_text().endswith("\n"):  # the line before was cut off
                file.write("\n")
            file.write(json.dumps(record) + "\n")
            file.flush()
            os.fsync(file.fileno())

    for job in jobs:
        if job.name in done:
            continue
        if clock.left < job.least:
            append(job=job.name, left_out=f"{clock.left:.0f} s are left, {job.least:.0f} wanted")
            continue
        print(f"== {job.name}, {clock.left:.0f} s left", file=sys.stderr, flush=True)
        begin = time.monotonic()
        try:
            for record in job.run(clock, lambda record, job=job: append(job=job.name, note=record)):  # type: ignore[misc]
                append(job=job.name, **record)
        except Exception as error:  # the others may still be had
            append(job=job.name, error=" ".join(f"{type(error).__name__}: {error}".split())[:1000])
            continue
        append(job=job.name, finished=True, seconds=time.monotonic() - begin)


def read(path: Path) -> list[dict[str, Any]]:
    """The records of a file, if it is there; a last line that was cut off is none."""
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("}")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seconds", type=float, default=440.0, help="after which no job begins, and most end")
    parser.add_argument("--small", action="store_true", help="the same jobs on networks and images of no size")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    path = given.out / f"{given.part}.jsonl"
    jobs = PARTS[given.part](given.small, path)
    run_part(jobs, path, given.seconds)
    whole = {record["job"] for record in read(path) if record.get("finished")}
    missing = [job.name for job in jobs if job.name not in whole]
    print(f"{path}: {len(whole)} jobs whole, {len(missing)} to do{': ' if missing else ''}{', '.join(missing)}")


if __name__ == "__main__":
    main()
