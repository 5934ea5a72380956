"""The routes "mask", "serial" and "dispatch": a population is cut into compiled calls of one size."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import chex
import jax
import numpy as np

from jaxnas.evaluation.batches import ImageBatch, LoadedRow, pool_statistics, score_images
from jaxnas.evaluation.planning import Plan
from jaxnas.evaluation.route import Route, Unit, UnitScores
from jaxnas.supernets import Layer, Params, Stats, Supernet, select_stats
from jaxnas.supernets.choice import Groups, branch_runs


def make_calls(supernet: Supernet) -> Route:
    """The route of `Plan.strategy`, one of the three; programs are compiled once for all populations."""

    @functools.partial(jax.jit, static_argnames=("strategy", "groups"))
    def score(
        params: Params, archs: chex.Array, stats: Stats | None, batch: ImageBatch, *, strategy: str, groups: Groups
    ) -> tuple[chex.Array, chex.Array]:
        """Loss and correctness of each image: [num_archs, num_batches, num_images]."""

        def of_batch(batch: ImageBatch) -> tuple[chex.Array, chex.Array]:
            finish = functools.partial(score_images, batch=batch)  # one by one: logits of a text are large
            return forward(supernet, strategy, groups, params, archs, stats, batch.images, batch.mask, finish)[0]

        return jax.vmap(of_batch, out_axes=1)(batch)

    @functools.partial(jax.jit, static_argnames=("strategy", "groups"))
    def statistics(
        params: Params, archs: chex.Array, batch: ImageBatch, *, strategy: str, groups: Groups
    ) -> chex.ArrayTree:
        """Statistics used, [num_archs, num_batches, 2, size] by layer."""

        def of_batch(batch: ImageBatch) -> chex.ArrayTree:
            nothing = lambda logits: ()  # noqa: E731
            return forward(supernet, strategy, groups, params, archs, None, batch.images, batch.mask, nothing)[1]

        return jax.vmap(of_batch, out_axes=1)(batch)

    select = jax.jit(functools.partial(select_stats, supernet))

    def run(archs: np.ndarray, plan: Plan, start: int, row: LoadedRow) -> UnitScores:
        codes = archs[start : start + plan.archs_per_call]
        padded = row.place(np.concatenate([codes, np.repeat(codes[-1:], plan.archs_per_call - len(codes), 0)]))
        how = {"strategy": plan.strategy, "groups": plan.groups}
        stats = None
        if row.stats is not None:
            stats = select(row.stats, padded)
        elif row.calibration:
            used = [statistics(row.params, padded, batch, **how) for batch in row.calibration]
            stats = pool_statistics(used, row.calibration_counts)
        parts = jax.device_get([score(row.params, padded, stats, batch, **how) for batch in row.batches])
        losses, correct = (np.concatenate(part, axis=1) for part in zip(*parts))
        return UnitScores(np.arange(start, start + len(codes)), losses[: len(codes)], correct[: len(codes)])

    def route(archs: np.ndarray, plan: Plan) -> tuple[Plan, Iterator[Unit]]:
        starts = range(0, len(archs), plan.archs_per_call)
        taken = functools.cache(lambda: supernet.taken(archs))
        units = (
            Unit(
                functools.partial(run, archs, plan, start),
                lambda start=start: executed_macs(supernet, taken(), plan, start),  # type: ignore[misc]
                lambda: 1,
            )
            for start in starts
        )
        return plan, units

    return route


def forward(
    supernet: Supernet,
    strategy: str,
    groups: Groups,
    params: Params,
    archs: chex.Array,
    stats: Stats | None,
    images: chex.Array,
    mask: chex.Array | None,
    finish: Callable[[chex.Array], Any],
) -> tuple[Any, chex.ArrayTree]:
    """What `finish` makes of each architecture's logits [num_images, classes], [num_archs, ...]; and statistics
    [num_archs, ...], by one of the routes."""

    def apply(arch: chex.Array, stats: Stats | None, groups: Groups) -> tuple[Any, chex.ArrayTree]:
        logits, used = supernet.apply(params, arch, images, stats=stats, mask=mask, groups=groups)
        return finish(logits), used

    if strategy == "serial":
        return jax.lax.map(lambda xs: apply(xs[0], xs[1], None), (archs, stats))
    if strategy == "mask":
        archs = supernet.weights(archs)
    return jax.vmap(lambda arch, stats: apply(arch, stats, groups))(archs, stats)


def executed_macs(supernet: Supernet, taken: dict[str, np.ndarray], plan: Plan, start: int) -> float:
    """MACs for one image of the call that begins at `start`; taken as `Supernet.taken` has it, int [num_archs]."""
    executed = 0.0
    for name, layer in supernet.layers.items():
        rows = np.minimum(start + np.arange(plan.archs_per_call), len(taken[name]) - 1)
        macs = layer.costs.macs
        if layer.choice is None:
            once = name == "stem" and plan.strategy != "serial"
            executed += macs[0] * (1 if once else len(rows))
        else:
            executed += (macs * _runs(layer, taken[name][rows], plan)).sum()
    return float(executed)


def _runs(layer: Layer, choices: np.ndarray, plan: Plan) -> np.ndarray:
    """How many times each candidate of a layer runs in one call."""
    num_branches = len(layer.candidates)
    if plan.strategy == "serial":
        return np.bincount(choices, minlength=num_branches)
    shared = layer.shared_input and plan.bn_mode == "batch"  # statistics given per architecture end the sharing
    if shared and (plan.strategy == "mask" or len(choices) >= num_branches):
        return np.ones(num_branches)
    if plan.strategy == "mask":
        return np.full(num_branches, len(choices))
    return branch_runs(choices, num_branches, plan.groups)
