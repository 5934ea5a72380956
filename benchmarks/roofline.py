"""What scoring a population on an H100 comes to, counted without one: host calls, kernels, bytes, and what they bound.

    pip install "jax[cuda13]"                        # XLA's compiler for GPUs, 5 GB; in an environment of its own
    python -m benchmarks.roofline                    # all cells of NAS-Bench-201 at the published size, minutes
    python -m benchmarks.roofline --quick
    python -m benchmarks.roofline --json --out FILE  # flat records

The population is planned for the card's memory, and each program that its steps call, one for each operation, shape,
number of inputs and of nodes, is compiled for the card and counted as often as it is called. `side_by_side` is the plan
of `auto`; `alone` is one node a call, two batches wide, for comparison. Bytes are those that kernels read and write,
operand by operand, as if nothing stayed in a cache; `bound` is what the card's bandwidth, and nothing else, allows. It
is no measurement: of time, of cuDNN's choice of algorithms and of the host's speed it says nothing.
"""

import collections
import dataclasses
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from benchmarks import command, compiled
from jaxnas.checks import Cells, Count, Pair, Pixels, Width
from jaxnas.codes import enumerate_archs
from jaxnas.evaluation.batches import ImageBatch
from jaxnas.evaluation.graph import running
from jaxnas.evaluation.graph.programs import Program, plan_programs
from jaxnas.evaluation.graph.tracing import IMAGES
from jaxnas.evaluation.planning import SHARE, Plan, Target, make_planner
from jaxnas.ops.normalisation import Unwritten
from jaxnas.spaces import get_space
from jaxnas.supernets import Policy, Supernet, make_supernet
from jaxnas.supernets.layer import outline

MEMORY, BANDWIDTH = 63_697_010_688, 3.35e12  # bytes: of an H100's 80 GB what JAX takes, three quarters; and a second
FORMS = ("alone", "side_by_side")


@dataclasses.dataclass(frozen=True)
class Config:
    """What is scored, at which size."""

    space: Literal["nasbench201", "nasbench_macro"] = "nasbench201"
    width: Width = 16  # channels of the stem
    image_size: Pixels = 32  # pixels
    cells: Cells = 5  # cells per stage, for spaces of cells
    compute_dtype: Literal["float32", "bfloat16"] = "bfloat16"
    num_images: Count = 10_000
    most_archs: Pair | None = None  # take evenly spaced architectures of the whole space
    quick: bool = False  # other defaults
    json: bool = False  # records instead of a table
    out: Path | None = None  # write the records to this file as well


QUICK = Config(width=4, image_size=8, cells=1, num_images=512, most_archs=8, quick=True)


class Called(NamedTuple):
    """What tells one compiled program from another."""

    operation: Any  # None: a sum
    in_shape: tuple[int, ...]
    num_inputs: int
    size: int  # nodes
    dtype: str
    is_leaf: bool
    is_first: bool  # reads the images


def run(config: Config) -> list[dict[str, Any]]:
    """A flat record for every form."""
    compiled.h100()
    space = get_space(config.space)
    cells = {"cells_per_stage": config.cells} if "cells_per_stage" in space.sizes else {}
    space = space.resized(width=config.width, image_size=config.image_size, **cells)
    supernet = make_supernet(space, affine=False, policy=Policy(compute=config.compute_dtype))
    archs = enumerate_archs(space)
    if config.most_archs is not None and len(archs) > config.most_archs:
        archs = archs[np.linspace(0, len(archs) - 1, config.most_archs).astype(int)]
    records = []
    for form in FORMS:
        plan, calls, num_nodes = count_calls(supernet, archs, config.num_images, form)
        print(f"{form}: {len(calls)} programs to compile ...", file=sys.stderr, flush=True)
        chunks = -(-config.num_images // (plan.images_per_call * plan.batches_per_call))
        total = np.zeros(len(compiled.Work._fields))
        for called, times in calls.items():
            total += times * chunks * np.array(compiled.work_of(compiled.compile_for_h100(call_of(called, plan))))
        work = compiled.Work(*total.tolist())
        seconds = work.megabytes * 1e6 / BANDWIDTH
        records.append(
            {
                "space": space.name,
                "form": form,
                "num_archs": len(archs),
                "num_images": config.num_images,
                "nodes": num_nodes,  # distinct, of one batch
                "nodes_run": sum(called.size * times for called, times in calls.items()),  # with what is repeated
                "host_calls": sum(calls.values()) * chunks,
                "programs": len(calls),
                **work._asdict(),
                "kernels_per_node": work.kernels / (num_nodes * chunks),
                "bound_s": seconds,
                "bound_image_archs_per_s": len(archs) * config.num_images / seconds,
                "archs_per_call": plan.archs_per_call,
                "batches_per_call": plan.batches_per_call,
                **{name: getattr(config, name) for name in ("width", "image_size", "cells", "compute_dtype")},
                "device": "H100, compiled for",
                "versions": command.versions(),
            }
        )
    return records


def count_calls(
    supernet: Supernet, archs: np.ndarray, num_images: int, form: str
) -> tuple[Plan, collections.Counter[Called], int]:
    """The plan for the card, how often each program is called for one of its parts of the images, and the number of
    distinct nodes."""
    planner = make_planner(
        supernet,
        strategy="graph",
        bn_mode="batch",
        groups="auto",
        archs_per_call=None,
        images_per_call=256,
        memory_budget=None,
        workers=None,
        target=Target("gpu", MEMORY),
    )
    plan = planner(len(archs), num_images)
    if form == "alone":
        plan = plan._replace(nodes_per_call=1, batches_per_call=min(2, plan.batches_per_call))
    plan, graph, programs = plan_programs(supernet, archs, plan)
    return plan, collections.Counter(called_by(supernet, programs)), len(graph.kind)


def called_by(supernet: Supernet, programs: Iterator[Program]) -> Iterator[Called]:
    """What each step of programs calls."""
    for program in programs:
        for step in program.steps:
            layer = supernet.layers[step.layer]
            operation = None if step.op is None else layer.candidates[step.op]
            inputs = max(1, len(step.inputs[0]))
            is_first = IMAGES in step.inputs[0]
            yield Called(operation, layer.in_shape, inputs, step.size, step.dtype, step.is_leaf, is_first)


def call_of(called: Called, plan: Plan) -> compiled.Call:
    """One call, on arrays that have shapes alone."""
    batches = plan.batches_per_call, plan.images_per_call
    images = jax.ShapeDtypeStruct((*batches, *called.in_shape), called.dtype)
    by = None if called.is_first else jax.ShapeDtypeStruct((batches[0], 2, called.in_shape[-1]), "float32")
    given = ((Unwritten(images, by),) * called.num_inputs,) * called.size
    own: Any = {}
    if called.operation is not None:
        _, own, _ = outline(called.operation, called.in_shape)
    if not called.is_leaf:
        static = {"keep_stats": False}
        return compiled.Call(running._operation(called.operation, "float32"), (own, given, None, None), static)
    batch = ImageBatch(images, jax.ShapeDtypeStruct(batches, "int32"), None)
    results = jax.ShapeDtypeStruct((2, plan.archs_per_call + plan.nodes_per_call, *batches), "float32")
    row = jax.ShapeDtypeStruct((), "int32")
    return compiled.Call(running._scores(called.operation, "float32"), (own, given, None, batch, results, row), {})


def table(records: Sequence[dict[str, Any]]) -> str:
    first = records[0]
    lines = [
        f"compiled for an H100; {first['versions']}; {SHARE * MEMORY / 2**30:.1f} GiB planned with,"
        f" {BANDWIDTH / 1e12:.2f} TB/s",
        f"{first['space']}, width {first['width']}, {first['image_size']} px, {first['compute_dtype']}:"
        f" {first['num_archs']} architectures x {first['num_images']} images",
        f"{'form':14}{'host calls':>12}{'kernels':>13}{'a node':>8}{'TB':>9}{'bound s':>9}{'image·arch/s':>14}"
        f"{'batches':>9}{'archs':>7}{'programs':>10}",
    ]
    for record in records:
        lines.append(
            f"{record['form']:14}{record['host_calls']:12,}{record['kernels']:13,.0f}"
            f"{record['kernels_per_node']:8.2f}{record['megabytes'] / 1e6:9.1f}{record['bound_s']:9,.0f}"
            f"{record['bound_image_archs_per_s']:14,.0f}{record['batches_per_call']:9}{record['archs_per_call']:7}"
            f"{record['programs']:10}"
        )
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    os.environ.update(compiled.WITHOUT_A_GPU)
    command.main("roofline", Config, QUICK, __doc__, run, table, argv)


if __name__ == "__main__":
    main()
