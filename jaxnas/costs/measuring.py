"""Measuring latencies on the device at hand: operations at their shapes, and whole networks.

What is timed is inference: normalisation by given statistics, images and parameters on the device. Every program is
compiled ahead and run once to warm up. Then come rounds: each goes through all programs in an order of its own, so that
whatever slows the machine for a while slows all of them, and notes the fastest of a few consecutive runs, since other
work can only add to a run. Programs whose rounds scatter all the same are timed again, in as many rounds, a few times
at most; the fastest of their rounds are kept, and all else as it was. What an empty program takes, the call itself, is
taken off each operation, since a network is one call: a table predicts what a network adds to that.

On an accelerator a single call would time the host. There a run is a long queue of calls less a short one, over the
calls that they differ by, which is what the device takes as long as it is slower than the host that feeds it; and a
program of an operation holds it `REPEATS` times, one after the other, so that it is (compiled for an H100, each takes
the kernels of one and a small one that ties it to the next). Where it isn't even so, the time is about that of an empty
program: `host_bound` counts those.
"""

import contextlib
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from jaxnas.checks import array, choice, whole
from jaxnas.codes import check
from jaxnas.costs.counted import is_additive
from jaxnas.costs.latency import DTYPES, Setting, operations_table
from jaxnas.space import SearchSpace
from jaxnas.supernets import Params, Policy, Stats, Supernet, make_supernet, only, run_operation
from jaxnas.tables import Table

MOST_SPREAD = 0.1  # interquartile range over median of a program's rounds; what scatters more is timed again
TIMES_AGAIN = 3
QUEUE = (4, 20)  # calls in the short and the long queue of a run on an accelerator
REPEATS = 16  # of an operation in its program, on an accelerator


class TimedProgram(NamedTuple):
    """What is timed."""

    function: Callable[..., Any]
    args: tuple[Any, ...]  # on the device


class Measured(NamedTuple):
    """What `measure` found; the shapes say how many rounds."""

    table: Table  # of operations, see `jaxnas.costs.latency.operations_table`
    networks_ms: np.ndarray  # float64 [num_archs, num_rounds]
    times_ms: np.ndarray  # float64 [num_programs, num_rounds]: of an empty program, the operations, the networks


def measure(
    space: SearchSpace,
    archs: chex.ArrayNumpy,
    *,
    batch_size: int,
    dtype: str = "float32",
    num_rounds: int = 5,
    num_runs: int = 5,
    known_ms: chex.ArrayNumpy | None = None,
    provenance: Mapping[str, str] | None = None,
    on_program: Callable[[], None] = lambda: None,
    on_round: Callable[[], None] = lambda: None,
) -> Measured:
    """Time every operation of `space` at its shape, and the whole networks `archs` among them.

    An operation that stands in several places of one shape is timed once; one that returns its input takes nothing. In
    a space of cells the places of a choice are summed.

    Args:
      archs: int [num_archs, num_choices]; may be empty, [0, num_choices].
      batch_size: images.
      dtype: of activations, as `Policy.compute`.
      num_rounds, num_runs: rounds, and runs of each program in a round.
      known_ms: `times_ms` of an earlier call with the same arguments, kept as they are; rows that are NaN are timed.
      provenance: versions and what else is to be said in the table.
      on_program, on_round: called when one of `num_programs` is compiled, or a round is over.

    Raises:
      ValueError: a count below 1, a type that is none, codes not of the space, a space whose wiring is searched, or
        known times of another shape.
    """
    _check_counts(batch_size, dtype, num_rounds, num_runs)
    if not is_additive(space):
        raise ValueError(f"{space.name}: what an operation costs depends on the whole code; measure whole networks.")
    archs = check(space, archs) if len(archs) else np.zeros((0, space.num_choices), np.int32)
    supernet, params, stats = _prepare(space, dtype)
    layers = distinct_operations(supernet)
    repeats = REPEATS if _is_queued() else 1
    programs = [_operation(supernet, params, stats, *places[0], batch_size, dtype, repeats) for places in layers]
    programs += [_network(supernet, params, stats, arch, batch_size) for arch in archs]
    empty = TimedProgram(lambda x: x + 1, (jnp.zeros(()),))
    times_ms = time_programs(
        [empty, *programs], num_rounds, num_runs, known_ms=known_ms, on_program=on_program, on_round=on_round
    )
    ops_ms = times_ms[1 : len(layers) + 1]
    ops_ms = ops_ms / repeats if repeats > 1 else np.maximum(ops_ms - times_ms[0], 0)
    per_op, fixed = np.full((space.num_choices, max(space.num_ops), num_rounds), np.nan), np.zeros(num_rounds)
    for place, num_ops in enumerate(space.num_ops):
        per_op[place, :num_ops] = 0
    for places, taken_ms in zip(layers, ops_ms):
        for name, op in places:
            layer = supernet.layers[name]
            if layer.choice is None:
                fixed += taken_ms
            else:
                per_op[layer.choice, list(layer.candidates).index(op)] += taken_ms
    setting = Setting(jax.devices()[0].device_kind, batch_size, dtype)
    how = f"queues of {QUEUE[0]} and {QUEUE[1]} calls" if _is_queued() else "less that of an empty program"
    about = {
        "timed": f"fastest of {num_runs} runs in each round, {how}; inference",
        "empty_program_ms": repr(float(np.median(times_ms[0]))),
        "driver": driver(),
    }
    table = operations_table(space, per_op, fixed, setting, provenance={**about, **(provenance or {})})
    return Measured(table, times_ms[len(layers) + 1 :], times_ms)


def measure_ops(space: SearchSpace, *, batch_size: int, **settings: Any) -> Table:
    """The table of operations alone; settings as in `measure`."""
    return measure(space, np.zeros((0, space.num_choices), np.int32), batch_size=batch_size, **settings).table


def measure_networks(
    space: SearchSpace,
    archs: chex.ArrayNumpy,
    *,
    batch_size: int,
    dtype: str = "float32",
    num_rounds: int = 5,
    num_runs: int = 5,
) -> np.ndarray:
    """Whole networks alone, int [num_archs, num_choices]: ms, float64 [num_archs, num_rounds]; else as `measure`."""
    _check_counts(batch_size, dtype, num_rounds, num_runs)
    archs = check(space, archs)
    supernet, params, stats = _prepare(space, dtype)
    return time_programs([_network(supernet, params, stats, arch, batch_size) for arch in archs], num_rounds, num_runs)


def time_programs(
    programs: Sequence[TimedProgram],
    num_rounds: int,
    num_runs: int,
    *,
    known_ms: chex.ArrayNumpy | None = None,
    on_program: Callable[[], None] = lambda: None,
    on_round: Callable[[], None] = lambda: None,
    queue: tuple[int, int] | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> np.ndarray:
    """Compile all, then time them in rounds as the module's docstring says: ms, float64 [num_programs, num_rounds].

    Rows of `known_ms`, of that shape, are kept; only those with a NaN are compiled and timed. `queue`: calls in the
    short and the long queue; None: `QUEUE` on an accelerator, single calls elsewhere.
    """
    queue = queue or (QUEUE if _is_queued() else None)
    times = np.full((len(programs), num_rounds), np.nan)
    if known_ms is not None:
        times = array("known_ms", known_ms, times.shape, "floating", finite=False).astype(np.float64)
    wanted = np.flatnonzero(np.isnan(times).any(axis=1))

    def compiled(program: TimedProgram) -> Callable[..., Any]:
        executable = jax.jit(program.function).lower(*program.args).compile()
        jax.block_until_ready(executable(*program.args))
        on_program()
        return executable

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        made = pool.map(compiled, [programs[row] for row in wanted.tolist()])
        executables = dict(zip(wanted.tolist(), made, strict=True))

    def seconds(calls: int, executable: Callable[..., Any], args: tuple[Any, ...]) -> float:
        start = clock()
        for _ in range(calls):
            last = executable(*args)
        jax.block_until_ready(last)
        return clock() - start

    def once(executable: Callable[..., Any], args: tuple[Any, ...]) -> float:
        if queue is None:
            return seconds(1, executable, args)
        short, long = (seconds(calls, executable, args) for calls in queue)
        return max(long - short, 0) / (queue[1] - queue[0])

    def rounds(rows: np.ndarray) -> np.ndarray:
        """ms, [num_rows, num_rounds]."""
        found = np.empty((len(rows), num_rounds))
        for number in range(num_rounds):
            for place in np.random.default_rng(number).permutation(len(rows)):
                executable, args = executables[int(rows[place])], programs[int(rows[place])].args
                jax.block_until_ready(executable(*args))  # the caches are the last program's
                found[place, number] = 1000 * min(once(executable, args) for _ in range(num_runs))
            on_round()
        return found

    if wanted.size:
        times[wanted] = rounds(wanted)
    for _ in range(TIMES_AGAIN):
        if (rows := wanted[scattered(times[wanted])]).size:
            both = np.concatenate([times[rows], rounds(rows)], axis=1)
            fastest = np.sort(np.argsort(both, axis=1, kind="stable")[:, :num_rounds], axis=1)  # as they came
            times[rows] = np.take_along_axis(both, fastest, axis=1)
    return times


def scattered(times_ms: chex.ArrayNumpy) -> np.ndarray:
    """The rows of times [num_programs, num_rounds] whose rounds differ by more than `MOST_SPREAD`: int64."""
    low, middle, high = np.quantile(np.asarray(times_ms, np.float64), [0.25, 0.5, 0.75], axis=1)
    return np.flatnonzero(high - low > MOST_SPREAD * middle)


def host_bound(times_ms: chex.ArrayNumpy) -> np.ndarray:
    """The rows but the first of times [num_programs, num_rounds] whose medians are within half of the first's, an empty
    program: what they take may be the host's, not the device's. int64."""
    medians = np.median(np.asarray(times_ms, np.float64), axis=1)
    return np.flatnonzero(medians[1:] <= 1.5 * medians[0]) + 1


def driver() -> str:
    """What runs the device: the platform's version as XLA has it, and NVIDIA's kernel module where there is one."""
    versions = [jax.devices()[0].client.platform_version]
    with contextlib.suppress(OSError):
        versions += Path("/proc/driver/nvidia/version").read_text("utf-8").splitlines()[:1]
    return "; ".join(" ".join(version.split()) for version in versions)


def num_programs(space: SearchSpace, num_archs: int) -> int:
    """How many programs `measure` compiles."""
    return 1 + len(distinct_operations(make_supernet(space))) + num_archs


def spread(times_ms: chex.ArrayNumpy) -> float:
    """How much rounds differ, as a fraction: interquartile range over median of each row [num_rows, num_rounds], and of
    these the median. Rows that take nothing don't count."""
    times_ms = np.asarray(times_ms, np.float64)
    low, middle, high = np.nanquantile(times_ms, [0.25, 0.5, 0.75], axis=1)
    takes = middle > 0
    return float(np.median((high - low)[takes] / middle[takes])) if takes.any() else 0.0


def distinct_operations(supernet: Supernet) -> list[list[tuple[str, str]]]:
    """The (layer, candidate) pairs of a super-net that do something; equal ones with inputs of one shape together."""
    places: dict[Any, list[tuple[str, str]]] = {}
    for name, layer in supernet.layers.items():
        for op, operation in layer.candidates.items():
            if operation.algebra(layer.in_shape[-1]) not in ("same", "zero"):
                places.setdefault((operation, layer.in_shape), []).append((name, op))
    return list(places.values())


def random_params(supernet: Supernet, rng: np.random.Generator) -> Params:
    """Parameters under which activations stay near 1 at any depth, since denormal numbers are slow: He-normal kernels,
    vectors of one half. Drawn by NumPy, which needs no compiling."""

    def draw(leaf: jax.ShapeDtypeStruct) -> chex.Array:
        if len(leaf.shape) < 2:
            return jnp.full(leaf.shape, 0.5, leaf.dtype)
        return jnp.asarray(math.sqrt(2 / math.prod(leaf.shape[:-1])) * rng.standard_normal(leaf.shape), leaf.dtype)

    return jax.tree.map(draw, jax.eval_shape(supernet.init, jax.random.key(0)))


def _check_counts(batch_size: int, dtype: str, num_rounds: int, num_runs: int) -> None:
    for name, count in (("batch_size", batch_size), ("num_rounds", num_rounds), ("num_runs", num_runs)):
        whole(name, count, 1)
    choice("dtype", dtype, DTYPES)


def _is_queued() -> bool:
    """Whether calls return before the device has done them."""
    return jax.default_backend() != "cpu"


def _prepare(space: SearchSpace, dtype: str) -> tuple[Supernet, Params, Stats]:
    """The super-net, parameters, and statistics to normalise by, mean 0 and variance 1."""
    supernet = make_supernet(space, policy=Policy(compute=dtype))
    stats = {
        name: jnp.broadcast_to(jnp.array([[0.0], [1.0]]), (2, layer.stats_size))
        for name, layer in supernet.layers.items()
    }
    return supernet, random_params(supernet, np.random.default_rng(0)), stats


def _operation(
    supernet: Supernet, params: Params, stats: Stats, name: str, op: str, batch_size: int, dtype: str, repeats: int = 1
) -> TimedProgram:
    layer = supernet.layers[name]

    def function(params: Any, inputs: list[chex.Array], stats: chex.Array) -> list[chex.Array]:
        outputs = list[chex.Array]()
        for x in inputs:
            out = run_operation(layer.candidates[op], params, x, stats, stats_dtype=layer.stats_dtype)[0]
            outputs.append(out)
            # The next one waits for it: the compiler would else run the small parts of all of them as one.
            params = jax.tree.map(lambda leaf, out=out: leaf + 1e-30 * out.ravel()[0].astype(leaf.dtype), params)
        return outputs

    rng = np.random.default_rng(1)
    inputs = [jnp.asarray(rng.standard_normal((batch_size, *layer.in_shape)), dtype) for _ in range(repeats)]
    return TimedProgram(function, (params[name][op], inputs, stats[name]))


def _network(supernet: Supernet, params: Params, stats: Stats, arch: np.ndarray, batch_size: int) -> TimedProgram:
    code = tuple(int(op) for op in arch)

    def function(params: Params, images: chex.Array, stats: Stats) -> chex.Array:
        return supernet.apply(params, code, images, stats=stats, groups=None)[0]

    layout = supernet.space.layout
    shape = (batch_size, layout.image_size, layout.image_size, layout.in_channels)
    images = jnp.asarray(np.random.default_rng(1).standard_normal(shape), "float32")
    return TimedProgram(function, (only(supernet, params, code), images, stats))
