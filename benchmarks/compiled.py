"""What an H100 would run of a training step: kernels, conditionals and bytes of the compiled programs, without a GPU.

    pip install "jax[cuda13]"                        # XLA's compiler for GPUs, 5 GB; in an environment of its own
    python -m benchmarks.compiled                    # a table, minutes on two cores
    python -m benchmarks.compiled --routes mixture darts --json --out FILE

The routes are those of `benchmarks.train_step`. Nothing is computed: the programs that a step calls are told apart and
compiled for the card. `fixed` is the mean over paths of one candidate everywhere, or over `num_paths` random ones where
no code takes the same candidate at every choice; of a conditional the mean over its branches counts, so that both are
of a random path; a loop's body counts as often as it runs. Bytes are those that the kernels read and write, operand by
operand, as if nothing stayed in a cache.

It says nothing of time, of the host, or of cuDNN's choice of algorithms (which is made on the card). Small operations
that the host calls one by one, such as the keys of a step, are left out.
"""

import collections
import contextlib
import dataclasses
import functools
import itertools
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies

from benchmarks import command
from benchmarks.steps import OwnRoute, Sizes, make_problem, make_steps
from benchmarks.train_step import sizes_of
from jaxnas.spaces import SpaceName

H100 = """gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128
  shared_memory_per_block: 49152 shared_memory_per_core: 233472 shared_memory_per_block_optin: 232448
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
  memory_bandwidth: 3352320000000 l2_cache_size: 52428800 clock_rate_ghz: 1.98 device_memory_size: 84929347584
  cuda_compute_capability { major: 9 }
}
platform_name: "CUDA" dnn_version_info { major: 9 minor: 12 } runtime_version { major: 13 minor: 0 patch: 0 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""
WITHOUT_A_GPU = {"JAX_SKIP_CUDA_CONSTRAINTS_CHECK": "1", "CUDA_VISIBLE_DEVICES": "", "JAX_PLATFORMS": "cpu"}
BYTES = {"f64": 8, "s64": 8, "u64": 8, "bf16": 2, "f16": 2, "s16": 2, "u16": 2, "s8": 1, "u8": 1, "pred": 1}  # else 4
NO_WORK = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "copy-done", "partition-id"}


@dataclasses.dataclass(frozen=True)
class Config(Sizes):
    """What to compile, at which size."""

    spaces: tuple[Annotated[str, SpaceName()], ...] = ("nasbench201",)
    routes: tuple[OwnRoute, ...] = ("fixed", "single", "codes", "controller", "mixture", "darts", "operations")
    quick: bool = False  # other defaults
    json: bool = False  # records instead of a table
    out: Path | None = None  # write the records to this file as well


QUICK = Config(width=8, image_size=8, batch_size=16, quick=True)


class Work(NamedTuple):
    """What a program runs."""

    kernels: float
    conditionals: float  # whose branch the host waits for
    copies: float  # of the kernels
    megabytes: float  # read and written by them


class Call(NamedTuple):
    """One call of a compiled program."""

    jitted: Any
    args: tuple[Any, ...]
    static: dict[str, Any]


@contextlib.contextmanager
def recorded() -> Iterator[list[Call]]:
    """The calls of all that is given to `jax.jit` inside; each returns zeros of its shapes, and nothing is computed."""
    calls, honest = list[Call](), jax.jit

    def stand_in(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
        jitted = honest(function, **options)

        @functools.wraps(function)
        def run(*args: Any, **static: Any) -> Any:
            if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(args)):
                return jitted(*args, **static)
            calls.append(Call(jitted, jax.tree.map(jnp.asarray, args), static))
            shapes = jax.eval_shape(functools.partial(jitted, **static), *args)
            return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)

        return run

    with mock.patch.object(jax, "jit", stand_in):
        yield calls


@functools.cache
def h100() -> jax.sharding.Sharding:
    """The card as something to compile for; a ValueError where this JAX has no compiler for it."""
    try:
        topology = topologies.get_topology_desc(platform="cuda", target_config=H100, topology="1x1x1")
    except Exception as error:
        raise ValueError(
            "XLA's compiler for CUDA is not in this installation of JAX; pip install 'jax[cuda13]' in an environment of"
            f" its own has it, without any GPU ({type(error).__name__}: {str(error).splitlines()[0]})."
        ) from error
    return jax.sharding.SingleDeviceSharding(topology.devices[0])


def compile_for_h100(call: Call) -> str:
    """The program of a call as XLA's text."""
    sharding = h100()
    args = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), call.args)
    lowered = call.jitted.trace(*args, **call.static).lower(lowering_platforms=("cuda",))
    return lowered.compile(compiler_options={"xla_gpu_autotune_level": "0"}).as_text()


class Instruction(NamedTuple):
    """A line of XLA's text."""

    name: str
    shape: str
    kind: str
    operands: tuple[str, ...]
    line: str


def work_of(text: str) -> Work:
    """Of a compiled program."""
    entry, instructions = "", dict[str, list[Instruction]]()  # of each computation
    here = ""
    for line in re.sub(r"/\*index=\d+\*/", "", text).splitlines():
        begin = re.match(r"(ENTRY )?%?([\w.\-]+) .*\{$", line)
        if begin and not line.startswith("HloModule"):
            here = begin.group(2)
            instructions[here] = []
            entry = here if begin.group(1) else entry
        found = re.match(r"\s+(?:ROOT )?%?([\w.\-]+) = (\([^=]*?\)|\S+) ([\w\-]+)\(([^)]*)\)", line)
        if found:
            name, shape, kind, given = found.groups()
            operands = tuple(each.strip().split(" ")[-1].lstrip("%") for each in given.split(","))
            instructions[here].append(Instruction(name, shape, kind, operands, line))

    @functools.cache
    def read_by(computation: str) -> list[int]:
        """Bytes that a fusion reads of each of its operands: slices of it, or all."""
        lines = {each.name: each for each in instructions[computation]}
        sizes = {name: size_of(each.shape) for name, each in lines.items()}
        counts = {name: elements_of(each.shape) for name, each in lines.items()}
        readers = collections.defaultdict[str, set[str]](set)
        for each in lines.values():
            for operand in each.operands:
                readers[operand].add(each.name)

        @functools.cache
        def needed(name: str) -> int:
            if not readers[name]:  # it is what is returned
                return counts[name]
            total = 0
            for reader in readers[name]:
                is_slice = lines[reader].kind in ("slice", "dynamic-slice") and lines[reader].operands[0] == name
                alike = counts[reader] == counts[name]
                total += counts[reader] if is_slice else needed(reader) if alike else counts[name]
            return min(total, counts[name])

        given = [each for each in lines.values() if each.kind == "parameter"]
        given.sort(key=lambda each: int(each.operands[0]))
        return [needed(each.name) * sizes[each.name] // max(1, counts[each.name]) for each in given]

    def size_in(computation: str, each: Instruction) -> int:
        """Bytes that an instruction reads and writes."""
        inside = re.findall(r"calls=%?([\w.\-]+)", each.line)
        if each.kind == "fusion" and inside[0] in instructions:
            return size_of(each.shape) + sum(read_by(*inside))
        return size_of(each.shape) + sum(shapes[computation].get(operand, 0) for operand in each.operands)

    shapes = {here: {each.name: size_of(each.shape) for each in lines} for here, lines in instructions.items()}

    @functools.cache
    def run(computation: str) -> np.ndarray:
        total = np.zeros(len(Work._fields))
        for each in instructions.get(computation, ()):
            kind, line = each.kind, each.line
            if kind in NO_WORK:
                continue
            called = functools.partial(re.findall, string=line)
            if kind in ("call", "while"):
                trips = called(r'known_trip_count":\{"n":"(\d+)"')
                (inner,) = called(r"(?:to_apply|body)=%?([\w.\-]+)")
                total += float(trips[0] if trips else 1) * run(inner)
            elif kind == "conditional":
                (branches,) = called(r"branch_computations=\{([^}]*)\}") or (
                    ",".join(called(r"(?:true|false)_computation=%?([\w.\-]+)")),
                )
                total += np.mean([run(branch.strip().lstrip("%")) for branch in branches.split(",")], axis=0)
                total += Work(kernels=0, conditionals=1, copies=0, megabytes=0)
            else:
                total += Work(1, 0, kind.startswith("copy"), size_in(computation, each) / 1e6)
        return total

    return Work(*run(entry).tolist())


def size_of(shape: str) -> int:
    """Bytes of a shape, or a tuple of shapes, as XLA writes it.

    >>> size_of("(f32[2,3]{1,0}, bf16[4]{0}, pred[])")
    33
    """
    arrays = re.findall(r"(\w+)\[([\d,]*)\]", shape)
    return sum(
        BYTES.get(dtype, 4) * int(np.prod([int(size) for size in sizes.split(",") if size])) for dtype, sizes in arrays
    )


def elements_of(shape: str) -> int:
    """Of a shape, or a tuple of shapes, as XLA writes it."""
    arrays = re.findall(r"\w+\[([\d,]*)\]", shape)
    return sum(int(np.prod([int(size) for size in sizes.split(",") if size])) for sizes in arrays)


def run(config: Config) -> list[dict[str, Any]]:
    """A flat record for every space and route."""
    h100()
    records = []
    for name in config.spaces:
        with recorded() as calls:
            supernet, random, batch = make_problem(config, name)
            zeros = np.zeros((1, supernet.space.num_choices), np.int32)  # as whatever is drawn
            alike = len(set(supernet.space.num_ops)) == 1 and not supernet.is_decoded
            made: dict[OwnRoute, tuple[np.ndarray, int]] = {}  # work of each part, and the programs called
            for route in config.routes:
                print(f"{name}: {route} ...", file=sys.stderr, flush=True)
                start, kind = time.perf_counter(), ("operations" if route == "fixed" and alike else route)
                if kind not in made:
                    of_parts, num_programs = list[np.ndarray](), 0
                    paths = random if kind == "fixed" else zeros
                    steps = [make_steps(supernet, kind, code, batch, config.compute_dtype) for code in paths]
                    for step, num_steps in itertools.chain(*steps):
                        calls.clear()
                        step()
                        programs = list(calls)
                        works = [work_of(compile_for_h100(program)) for program in programs]
                        of_parts.append(np.sum(works, axis=0) / num_steps)
                        num_programs = len(programs)
                    made[kind] = np.array(of_parts), num_programs
                parts, num_programs = made[kind]
                total = parts.mean(axis=0) if route == "fixed" else parts.sum(axis=0)
                if route == "operations":
                    total -= (len(parts) - 1) * parts.min(axis=0)
                records.append(
                    {
                        "space": name,
                        "route": route,
                        **Work(*total.tolist())._asdict(),
                        "programs": num_programs,
                        "compile_s": time.perf_counter() - start,
                        **sizes_of(config),
                        "device": "H100, compiled for",
                        "versions": command.versions(),
                    }
                )
    return records


def table(records: Sequence[dict[str, Any]]) -> str:
    first = records[0]
    lines = [
        f"compiled for an H100; {first['versions']}",
        f"width {first['width']}, {first['image_size']} px, batch {first['batch_size']}; one step of one architecture",
        f"{'space':16}{'route':12}{'kernels':>9}{'conditionals':>14}{'copies':>8}{'MB':>9}{'programs':>10}",
    ]
    for record in records:
        lines.append(
            f"{record['space']:16}{record['route']:12}{record['kernels']:9,.0f}{record['conditionals']:14.0f}"
            f"{record['copies']:8.0f}{record['megabytes']:9,.0f}{record['programs']:10}"
        )
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    os.environ.update(WITHOUT_A_GPU)
    command.main("compiled", Config, QUICK, __doc__, run, table, argv)


if __name__ == "__main__":
    main()
