"""How a population is cut into compiled calls, and the work that this makes."""

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import chex
import numpy as np

from jaxnas import arch
from jaxnas.choice import Groups, branch_runs
from jaxnas.costs import Place, op_cost, op_costs
from jaxnas.supernets import Layer, Supernet


class Plan(NamedTuple):
    """How an evaluator runs a population."""

    strategy: str  # "mask", "serial" or "dispatch"
    bn_mode: str
    groups: Groups  # how a call is dispatched: tile size or "balanced"; of no matter to the other strategies
    archs_per_call: int
    images_per_call: int
    workers: int  # host threads that call the compiled program; more than one on CPU only


def make_planner(
    supernet: Supernet,
    *,
    strategy: str,
    bn_mode: str,
    groups: int | Literal["auto", "balanced"],
    archs_per_call: int | None,
    images_per_call: int,
    memory_budget: int,
    workers: int,
) -> Callable[[int, int], Plan]:
    """Build `plan(num_archs, num_images) -> Plan`; the arguments are those of `jaxnas.evaluation.make_evaluator`, auto
    decided.

    Raises:
      ValueError: a count below 1, other groups; from plan for a budget that one architecture exceeds, or a population
        that groups="balanced" cannot run in one call.
    """
    counts = {"archs_per_call": archs_per_call, "images_per_call": images_per_call, "workers": workers}
    for name, count in counts.items():
        if count is not None and count < 1:
            raise ValueError(f"{name} must be at least 1, got {count}.")
    if groups not in ("auto", "balanced") and not (isinstance(groups, int) and groups >= 1):
        raise ValueError(f"groups must be a tile size of at least 1, 'auto' or 'balanced', got {groups!r}.")

    def tile(num_archs: int) -> Groups:
        return _tile_size(supernet, num_archs) if groups == "auto" else groups

    def most_archs(num_images: int) -> int:
        if archs_per_call is not None:
            return archs_per_call
        for size in (256, 128, 64, 32, 16, 8, 4, 2, 1):
            needed = num_images * _activation_bytes(supernet, strategy, size, tile(size))
            if needed <= memory_budget:
                return 16 if strategy == "serial" else size
        raise ValueError(
            f"memory_budget of {memory_budget} bytes is too small for one architecture on {num_images} images, which"
            f" takes about {needed}; raise it or lower images_per_call."
        )

    def plan(num_archs: int, num_images: int) -> Plan:
        per_call = min(images_per_call, num_images)
        most = most_archs(images_per_call if bn_mode == "calibrated" else per_call)
        if strategy == "serial":  # nothing is gained by full calls: the size that repeats the fewest architectures
            sizes = range(min(most, num_archs), min(most, num_archs) // 2, -1)
            size = min(sizes, key=lambda each: -num_archs % each)
        elif groups == "balanced":
            size = num_archs
            if size > most:
                raise ValueError(
                    f"groups='balanced' runs the population in one call, but {size} architectures are more than the"
                    f" {most} that archs_per_call or memory_budget allow; pass a tile size."
                )
        else:  # few sizes, so that few programs are compiled, and an eighth repeated at most
            size = math.ceil(num_archs / math.ceil(num_archs / most))
            step = 2 ** max(0, size.bit_length() - 4)
            size = min(most, math.ceil(size / step) * step)
        return Plan(strategy, bn_mode, tile(size), size, per_call, workers)

    return plan


def _tile_size(supernet: Supernet, num_archs: int) -> int:
    """The largest power of two that pads a sixteenth of a call at most, each branch of a choice losing half a tile."""
    return 2 ** int(math.log2(1 + num_archs / (8 * max(supernet.space.num_ops))))


def _activation_bytes(supernet: Supernet, strategy: str, num_archs: int, groups: Groups) -> int:
    """Estimated bytes for one image at the widest layer: what the architectures of a call hold between operations, and
    what the operations need inside for those that run at once. A test compares it with what XLA allocates."""
    held = at_once = num_archs
    if strategy == "serial":
        held = at_once = 1
    elif strategy == "dispatch" and groups == "balanced":
        at_once = math.ceil(num_archs / min(supernet.space.num_ops))
    elif strategy == "dispatch":
        assert isinstance(groups, int)
        at_once = min(groups, num_archs)
        held += max(supernet.space.num_ops) * (at_once - 1)  # padded tiles
    copies = 3 if supernet.layers else 6  # of inputs and outputs, sorted and not; in a cell those of several edges
    most = 0
    for layer in supernet.all_layers.values():
        height, width, _ = layer.in_shape
        inside = layer.stats_size * height * width
        ends = math.prod(layer.in_shape) + math.prod(layer.out_shape)
        most = max(most, 4 * (copies * held * ends + at_once * inside))
    return most


def work(supernet: Supernet, archs: chex.ArrayNumpy, plan: Plan) -> tuple[float, float]:
    """MACs per image that a population needs and that a plan executes, padding and repetitions included.

    Needed: each architecture runs its own operations, one after the other, stem and head included. Counted from the
    codes; a test checks the counts with counters inside the branches. Calibration, of the same work per image, is not
    counted.
    """
    archs = arch.check(supernet.space, archs)
    _, fixed = op_costs(supernet.space)
    stem = supernet.all_layers["stem"]
    height, width, channels = stem.out_shape
    stem_macs = 9 * stem.in_shape[-1] * channels * height * width
    needed = len(archs) * float(fixed.macs)
    executed = 0.0
    for start in range(0, len(archs), plan.archs_per_call):
        call = archs[start : start + plan.archs_per_call]
        call = np.concatenate([call, np.repeat(call[-1:], plan.archs_per_call - len(call), axis=0)])
        stems = len(call) if plan.strategy == "serial" else 1
        executed += stems * stem_macs + len(call) * (float(fixed.macs) - stem_macs)
        for layer in supernet.all_layers.values():
            if layer.choice is not None:
                executed += (_candidate_macs(layer) * _runs(layer, call[:, layer.choice], plan)).sum()
    for layer in supernet.all_layers.values():
        if layer.choice is not None:
            needed += _candidate_macs(layer)[archs[:, layer.choice]].sum()
    return needed, executed


def _candidate_macs(layer: Layer) -> np.ndarray:
    """MACs for one image of each candidate of a layer: float64 [num_candidates]."""
    stride = math.ceil(layer.in_shape[0] / layer.out_shape[0])
    place = Place(layer.in_shape[-1], layer.out_shape[-1], layer.in_shape[0], stride)
    return np.array([op_cost(op, place)[0] for op in layer.modules])


def _runs(layer: Layer, choices: np.ndarray, plan: Plan) -> np.ndarray:
    """How many times each candidate of a layer runs in one call."""
    num_branches = len(layer.modules)
    if plan.strategy == "serial":
        return np.bincount(choices, minlength=num_branches)
    if layer.shared_input and plan.bn_mode == "batch":  # statistics given per architecture end the sharing
        return np.ones(num_branches)
    if plan.strategy == "mask":
        return np.full(num_branches, len(choices))
    return branch_runs(choices, num_branches, plan.groups)
