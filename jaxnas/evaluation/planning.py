"""How a population is cut into compiled calls: as many architectures, images and threads as the memory allows."""

import math
import os
import warnings
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from jaxnas import checks
from jaxnas.supernets import Supernet
from jaxnas.supernets.choice import Groups

# On CPU, measured by `benchmarks.memory`: how much more is resident than a program of the graph holds, as the C library
# keeps what is given back; and what compiled programs take, of which calibration has as many again.
KEPT, COMPILED = 1.25, 2**27
BYTES_PER_IMAGE = 5  # of an architecture's loss, float32, and correctness, bool, where these are kept
# On accelerators: the share of the device's memory that is planned with, the rest being for images, parameters, what
# convolutions need beside their operands and what is lost between allocations; nodes of the graph side by side, a power
# of two; and architectures of a program that are worth more than images beside them.
SHARE, NODES_PER_CALL, FEWEST_ARCHS = 0.75, 16, 32


class Target(NamedTuple):
    """The device that programs are compiled for and run on."""

    platform: str  # as JAX names it: "cpu", "gpu", "tpu"
    memory: int | None  # bytes that its allocator may take at most; None: it doesn't say


class Plan(NamedTuple):
    """How an evaluator runs a population."""

    strategy: str  # "mask", "serial", "dispatch" or "graph"
    bn_mode: str
    groups: Groups  # how a call is dispatched: tile size or "balanced"; of no matter to the other strategies
    archs_per_call: int  # of the graph: architectures of one program at most
    images_per_call: int  # in "batch" mode normalised together
    batches_per_call: int  # batches of images_per_call side by side
    devices: int  # that share these
    nodes_per_call: int  # of the graph: most nodes of one layer and operation that a call runs, each on its own input
    workers: int  # host threads that call compiled programs
    turns: int  # of them, those of one row of devices that do so at a time; the others plan, or fetch what was found
    bytes_per_image: int  # that the values of one program of the graph may take at once, of all batches side by side


Planner = Callable[[int, int], Plan]  # (num_archs, num_images) -> Plan


def make_planner(
    supernet: Supernet,
    *,
    strategy: str,
    bn_mode: str,
    groups: int | Literal["auto", "balanced"],
    archs_per_call: int | None,
    images_per_call: int,
    memory_budget: int | None,
    workers: int | None,
    target: Target,
    per_image: bool = False,
    devices: int = 1,
    rows: int = 1,
) -> Planner:
    """Build the planner; the arguments are those of `jaxnas.evaluation.make_evaluator`.

    Args:
      target: one of the devices, which are alike.
      per_image: whether losses and correctness of each image are kept, on the host: on CPU part of the budget.
      devices: that share the batches of a call.
      rows: groups of so many devices, each with calls of its own.

    Raises:
      ValueError: a count below 1, a budget that is no number, other groups; from plan for a budget that the activations
        of one architecture exceed, or what is kept of each image, or a population that groups="balanced" cannot run in
        one call.
    """
    _check_settings(archs_per_call, images_per_call, workers, groups)
    on_cpu = target.platform == "cpu"
    whole_budget = 2**30 if on_cpu else int(SHARE * target.memory) if target.memory else 2**33
    if memory_budget is not None:
        whole_budget = int(checks.number("memory_budget", memory_budget, 1))
    beside = (2 if bn_mode == "calibrated" else 1) * COMPILED if on_cpu else 0  # the activations

    def tile(num_archs: int) -> Groups:
        return _tile_size(supernet, num_archs) if groups == "auto" else groups

    def most_archs(route: str, num_images: int, budget: int) -> int:
        if archs_per_call is not None:
            return archs_per_call
        one_by_one = {"serial": 16, "graph": 256}  # their memory hardly depends on it
        for size in (1,) if route in one_by_one else (256, 128, 64, 32, 16, 8, 4, 2, 1):
            needed = num_images * _activation_bytes(supernet, route, size, tile(size))
            if needed <= budget:
                return one_by_one.get(route, size)
        raise ValueError(
            f"memory_budget of {budget} bytes is too small for one architecture on {num_images} images, which"
            f" takes about {needed}; raise it or lower images_per_call."
        )

    def plan(num_archs: int, num_images: int) -> Plan:
        num_archs, num_images = checks.whole("num_archs", num_archs, 1), checks.whole("num_images", num_images, 1)
        route = "graph" if strategy == "auto" else strategy
        per_call = min(images_per_call, num_images)
        at_once = images_per_call if bn_mode == "calibrated" else per_call
        budget = _beside_results(whole_budget, num_archs, num_images) if per_image and on_cpu else whole_budget
        wide, threads, side_by_side = devices, workers or rows, 1
        if route == "graph" and not on_cpu:  # what fits is known when the population is: `graph.programs`
            most, side_by_side = archs_per_call or 256, NODES_PER_CALL
            wide = devices * math.ceil(num_images / (per_call * devices))
            threads = workers or 2 * rows
        else:
            most = most_archs(route, at_once, budget)
        if route in ("serial", "graph") and on_cpu and devices * rows == 1 and workers is None:
            alone = at_once * _activation_bytes(supernet, route, 1, None)
            threads = max(1, min(num_cores(), (budget - beside) // alone))
            _tell_floor(route, budget, beside + alone, at_once)
        least = most if side_by_side > 1 or archs_per_call is not None else math.ceil(num_archs / (4 * threads))
        size = _call_size(route, num_archs, most, least, groups)
        turns = threads if on_cpu else 1
        kept = KEPT * turns * wide if on_cpu else 1.0  # on accelerators as if one batch were at once, until it is known
        bytes_per_image = max(0, int((budget - beside) / (kept * at_once)))
        return Plan(
            route, bn_mode, tile(size), size, per_call, wide, devices, side_by_side, threads, turns, bytes_per_image
        )

    return plan


def _call_size(route: str, num_archs: int, most: int, least: int, groups: Any) -> int:
    """Architectures of one call, `most` where it comes to that; of the graph as few as give all threads something."""
    if route == "graph":
        return min(most, max(8, least))
    if route == "serial":  # nothing is gained by full calls: the size that repeats the fewest architectures
        sizes = range(min(most, num_archs), min(most, num_archs) // 2, -1)
        return min(sizes, key=lambda each: -num_archs % each)
    if groups == "balanced":
        if num_archs > most:
            raise ValueError(
                f"groups='balanced' runs the population in one call, but {num_archs} architectures are more than the"
                f" {most} that archs_per_call or memory_budget allow; pass a tile size."
            )
        return num_archs
    # few sizes, so that few programs are compiled, and an eighth repeated at most
    size = math.ceil(num_archs / math.ceil(num_archs / most))
    step = 2 ** max(0, size.bit_length() - 4)
    return min(most, math.ceil(size / step) * step)


def target_of(mesh: jax.sharding.Mesh | None) -> Target:
    """A mesh's devices, of which this process's own say what they have, or the one where new arrays are put."""
    devices = jnp.zeros(()).devices() if mesh is None else mesh.local_devices
    device = next(iter(devices))
    return Target(device.platform, (device.memory_stats() or {}).get("bytes_limit"))


def num_cores() -> int:
    """Cores that this process may use, which XLA's threads on a CPU are as many as: the order of sums depends on it."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS and Windows
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _check_settings(archs_per_call: Any, images_per_call: Any, workers: Any, groups: Any) -> None:
    checks.whole("images_per_call", images_per_call, 1)
    for name, count in (("archs_per_call", archs_per_call), ("workers", workers)):
        if count is not None:
            checks.whole(name, count, 1)
    if groups not in ("auto", "balanced"):
        is_count = isinstance(groups, int) and not isinstance(groups, bool) and 1 <= groups <= checks.MOST
        if not is_count:
            raise ValueError(f"groups must be a tile size of at least 1, 'auto' or 'balanced', got {groups!r}.")


def _beside_results(budget: int, num_archs: int, num_images: int) -> int:
    """What is left of the budget beside losses and correctness of each image."""
    results = BYTES_PER_IMAGE * num_archs * num_images
    if results > budget / 2:
        raise ValueError(
            f"memory_budget of {budget / 2**20:.0f} MiB: what {num_archs} architectures do on each of {num_images}"
            f" images takes {results / 2**20:.0f} MiB, more than half of it; raise it or score them some at a time."
        )
    return budget - results


def _tell_floor(route: str, budget: int, floor: int, num_images: int) -> None:
    """Warn of a budget that cannot be kept."""
    if budget < floor:
        warnings.warn(
            f"memory_budget of {budget / 2**20:.0f} MiB is below the {floor / 2**20:.0f} MiB that {route} takes for"
            f" compiled programs and one architecture on {num_images} images, and will be exceeded; raise it or lower"
            " images_per_call.",
            stacklevel=2,
        )


def _tile_size(supernet: Supernet, num_archs: int) -> int:
    """The largest power of two that pads a sixteenth of a call at most, each branch of a choice losing half a tile."""
    return 2 ** int(math.log2(1 + num_archs / (8 * max(supernet.num_candidates))))


def _activation_bytes(supernet: Supernet, strategy: str, num_archs: int, groups: Groups) -> int:
    """Estimated bytes for one image at the widest layer: what the architectures of a call hold between operations, and
    what the operations need inside for those that run at once. A test compares it with what XLA allocates."""
    held = at_once = num_archs
    if strategy == "serial":
        held = at_once = 1
    elif strategy == "graph":  # one after the other; num_archs: of which something is held at once
        at_once = 1
    elif strategy == "dispatch" and groups == "balanced":
        at_once = math.ceil(num_archs / min(supernet.num_candidates))
    elif strategy == "dispatch":
        assert isinstance(groups, int)
        at_once = min(groups, num_archs)
        held += max(supernet.num_candidates) * (at_once - 1)  # padded tiles
    is_chain = not any(layer.is_edge for layer in supernet.layers.values())
    copies = 3 if is_chain else 6  # of inputs and outputs, sorted and not; in a cell those of several edges
    most = 0
    for layer in supernet.layers.values():
        height, width, _ = layer.in_shape
        inside = layer.stats_size * height * width
        ends = math.prod(layer.in_shape) + math.prod(layer.out_shape)
        most = max(most, 4 * (copies * held * ends + at_once * inside))
    return most
