"""The route "graph": programs of distinct work, each step one compiled call from the host."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

from jaxnas.evaluation.batches import ImageBatch, LoadedRow, pool_statistics, score_images
from jaxnas.evaluation.graph.programs import Program, plan_programs
from jaxnas.evaluation.graph.tracing import IMAGES, Graph
from jaxnas.evaluation.planning import Plan
from jaxnas.evaluation.route import Route, Unit, UnitScores
from jaxnas.ops import Operation
from jaxnas.supernets import Params, Supernet, run_operation

Inputs = tuple[tuple[chex.Array, ...], ...]  # of each node, to be summed
# (parameters, inputs, statistics or None, mask or None, keep_stats) -> (output of each node, statistics used or None)
RunOperation = Callable[[Any, Inputs, Any, chex.Array | None, bool], tuple[tuple[chex.Array, ...], chex.Array | None]]


def make_graph_route(supernet: Supernet) -> Route:
    """The route: a program is a unit of work."""
    index_of: dict[tuple[str, str | None], int] = {
        (name, op): index for name, layer in supernet.layers.items() for index, op in enumerate(layer.candidates)
    }

    def run(plan: Plan, graph: Graph, program: Program, row: LoadedRow) -> UnitScores:
        call = functools.partial(run_program, supernet, program, row.params)
        stats = row.stats  # tracked, of a candidate all nodes have the same; or each node its own
        with row.turns:
            if row.calibration:
                used = [call(batch, keep_stats=True)[1] for batch in row.calibration]
                by_step = zip(*used, strict=True)  # sums have none
                counts = row.calibration_counts
                stats = [None if parts[0] is None else pool_statistics(parts, counts) for parts in by_step]
            results = []
            for batch in row.batches:
                results.append(call(batch, stats=stats, results=_no_results(plan, batch))[0])
        loss, correct = np.concatenate(jax.device_get(results), axis=2)
        leaves = [leaf for step in program.steps if step.is_leaf for leaf in step.numbers]
        place = dict(zip(leaves, range(len(leaves)), strict=True))
        positions = np.flatnonzero(np.isin(graph.leaves, program.leaves))
        rows = [place[leaf] for leaf in graph.leaves[positions].tolist()]
        return UnitScores(positions, loss[rows], correct[rows])

    def executed_macs(program: Program) -> float:
        macs = 0.0
        for step in program.steps:
            if step.op is not None:
                macs += step.size * supernet.layers[step.layer].costs.macs[index_of[step.layer, step.op]]
        return float(macs)

    def route(archs: np.ndarray, plan: Plan) -> tuple[Plan, Iterator[Unit]]:
        plan, graph, programs = plan_programs(supernet, archs, plan)
        units = (
            Unit(
                functools.partial(run, plan, graph, program),
                functools.partial(executed_macs, program),
                functools.partial(len, program.steps),
            )
            for program in programs
        )
        return plan, units

    return route


def _no_results(plan: Plan, batch: ImageBatch) -> chex.Array:
    """Room for loss and correctness of each leaf: zeros [2, num_leaves, num_batches, num_images] where the labels are.
    Of one node at a time, whose programs serve populations of all sizes, at least as many as most of them need."""
    rows = max(plan.archs_per_call, 256 if plan.nodes_per_call == 1 else 1) + plan.nodes_per_call
    sharding = batch.labels.sharding
    if isinstance(sharding, jax.sharding.NamedSharding):
        spec = jax.sharding.PartitionSpec(None, None, *sharding.spec)
        sharding = jax.sharding.NamedSharding(sharding.mesh, spec)
    return jnp.zeros((2, rows, *batch.labels.shape), device=sharding)


@functools.cache
def _operation(operation: Operation | None, stats_dtype: str) -> RunOperation:
    """Compiled, over nodes and batches: inputs and mask have a leading axis of batches, each normalised by itself where
    there are no statistics [2, size] of all nodes or [num_nodes, 2, size]. None: the sum of the inputs itself."""

    @functools.partial(jax.jit, static_argnames="keep_stats")
    def run(
        params: Any, inputs: Inputs, stats: chex.Array | None, mask: chex.Array | None, keep_stats: bool
    ) -> tuple[tuple[chex.Array, ...], chex.Array | None]:
        def of_batch(x: chex.Array, stats: chex.Array | None, mask: chex.Array | None) -> Any:
            assert operation is not None
            y, used = run_operation(operation, params, x, stats, mask, stats_dtype=stats_dtype)
            return y, used if keep_stats else None

        of_node = jax.vmap(of_batch, in_axes=(0, None, 0))
        sums = [sum(each[1:], each[0]) for each in inputs]
        if operation is None:
            return tuple(sums), None
        own = stats is not None and stats.ndim == 3
        if len(sums) > 1 and jax.tree.leaves(params):  # the images of all nodes as those of one
            y, used = jax.vmap(of_node, in_axes=(0, 0 if own else None, None))(jnp.stack(sums), stats, mask)
            return tuple(y), used
        made = [of_node(x, stats[index] if own else stats, mask) for index, x in enumerate(sums)]  # type: ignore[index]
        y, used = zip(*made, strict=True)
        return y, jnp.stack(used) if keep_stats else None

    return run


@functools.cache
def _scores(operation: Operation, stats_dtype: str) -> Callable[..., chex.Array]:
    """The same of leaves, compiled: what their logits score is written to `results`, from a row on."""
    run = _operation(operation, stats_dtype)

    @functools.partial(jax.jit, donate_argnames="results")
    def score(
        params: Any, inputs: Inputs, stats: chex.Array | None, batch: ImageBatch, results: chex.Array, row: int
    ) -> chex.Array:
        logits, _ = run(params, inputs, stats, batch.mask, False)
        scored = jax.vmap(score_images, in_axes=(1, 0), out_axes=1)(jnp.stack(logits), batch)
        rows = jnp.stack([part.astype(results.dtype) for part in scored])
        return jax.lax.dynamic_update_slice_in_dim(results, rows, row, axis=1)

    return score


def run_program(
    supernet: Supernet,
    program: Program,
    params: Params,
    batch: ImageBatch,
    *,
    stats: Any = None,
    results: chex.Array | None = None,
    keep_stats: bool = False,
) -> tuple[chex.Array | None, list[chex.Array | None]]:
    """Run it on batches of images.

    Args:
      params: of each candidate, as `Supernet.view` gives them.
      stats: that nodes normalise by: float [2, size] by layer and candidate, or [step.size, 2, size] for each step;
        None: those of each batch.
      results: where leaves write what they score, see `_no_results`, which is used up; None: leaves score nothing.
      keep_stats: return statistics.

    Returns:
      results, leaves in the order they run, and with keep_stats the statistics that each step used, float [step.size,
      num_batches, 2, size].
    """
    values, used, row = {IMAGES: batch.images}, list[chex.Array | None](), 0
    for place, step in enumerate(program.steps):
        layer = supernet.layers[step.layer]
        inputs = [tuple([values[source] for source in sources]) for sources in step.inputs]
        if not inputs[0]:
            inputs = [(jnp.zeros((*batch.images.shape[:2], *layer.in_shape), step.dtype),)]
        given = tuple(inputs + inputs[-1:] * (step.size - len(inputs)))
        operation, own, here = None, {}, None
        if step.op is not None:
            operation, own = layer.candidates[step.op], layer.params_of(params.get(step.layer, {}), step.op)
            if stats is not None:
                here = stats[place] if isinstance(stats, list) else stats[step.layer][step.op]
        if step.is_leaf and results is not None:
            assert operation is not None
            results = _scores(operation, layer.stats_dtype)(own, given, here, batch, results, row)
            row += len(step.numbers)
        else:
            made, statistics = _operation(operation, layer.stats_dtype)(own, given, here, batch.mask, keep_stats)
            used.append(statistics)
            if not step.is_leaf:
                values.update(zip(step.numbers, made, strict=False))  # not of what is repeated
        for source in step.free:
            del values[source]
    return results, used
