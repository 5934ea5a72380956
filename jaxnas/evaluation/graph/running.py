"""The route "graph": programs of distinct work, each step one compiled call from the host."""

import functools
import operator
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

from jaxnas.evaluation.batches import ImageBatch, LoadedRow, pool_statistics, score_images
from jaxnas.evaluation.graph.programs import LARGE, Program, plan_programs
from jaxnas.evaluation.graph.tracing import IMAGES, Graph
from jaxnas.evaluation.planning import Plan
from jaxnas.evaluation.route import Route, Unit, UnitScores
from jaxnas.ops import Operation, Tape
from jaxnas.ops.normalisation import Unwritten
from jaxnas.ops.platform import by_platform
from jaxnas.supernets import Params, Supernet
from jaxnas.supernets.layer import apply_operation

Values = tuple[Unwritten, ...]
Inputs = tuple[Values, ...]  # of each node, to be summed
# (parameters, inputs, statistics or None, mask or None, keep_stats) -> (output of each node, statistics used or None)
RunOperation = Callable[[Any, Inputs, Any, chex.Array | None, bool], tuple[Values, chex.Array | None]]


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
    there are no statistics [2, size] of all nodes or [num_nodes, 2, size]. None: the sum of the inputs itself.

    What a node returns is large where it takes longer to write and to read than kernels take to start: if it ends in a
    normalisation it is left to whoever reads it, two of eight passes less, and nodes with large inputs run one by one
    within the call. Others run as one, which has to write what each returns apart in any case.
    """

    @functools.partial(jax.jit, static_argnames="keep_stats")
    def run(
        params: Any, inputs: Inputs, stats: chex.Array | None, mask: chex.Array | None, keep_stats: bool
    ) -> tuple[Values, chex.Array | None]:
        num_batches, num_nodes = len(inputs[0][0].x), len(inputs)

        def of_batch(given: Values, stats: chex.Array | None, mask: chex.Array | None) -> Any:
            tape = Tape(stats, mask, stats_dtype)
            y = _on_sum(operation, params, given, tape)
            is_large = y.ndim == 4 and num_batches * y.size * y.dtype.itemsize >= LARGE
            used = tape.used(tape.size) if keep_stats and operation is not None else None
            return tape.unwritten(y) if is_large else Unwritten(y, None), used

        of_node = jax.vmap(of_batch, in_axes=(0, None, 0))
        own = stats is not None and stats.ndim == 3
        if num_nodes > 1 and inputs[0][0].x.nbytes < LARGE and jax.tree.leaves(params):  # images of all as those of one
            given = (Unwritten(jnp.stack([_total(each) for each in inputs]), None),)
            y, used = jax.vmap(of_node, in_axes=(0, 0 if own else None, None))(given, stats, mask)
            return tuple(jax.tree.map(operator.itemgetter(index), y) for index in range(num_nodes)), used
        made = [of_node(given, stats[index] if own else stats, mask) for index, given in enumerate(inputs)]  # type: ignore[index]
        y, used = zip(*made, strict=True)
        return y, None if used[0] is None else jnp.stack(used)

    return run


def _total(given: Iterable[Unwritten]) -> chex.Array:
    return functools.reduce(operator.add, [each.value for each in given])


def _on_sum(operation: Operation | None, params: Any, given: Values, tape: Tape) -> chex.Array:
    """What an operation makes of a sum. Accelerators pool first and add then, in one pass: XLA writes out a sum that is
    read at several places. On CPU that would be several times the work."""

    def of_sum(*given: Unwritten) -> chex.Array:
        x = _total(given)
        return x if operation is None else apply_operation(operation, params, x, tape)

    if operation is None or operation.algebra(given[0].x.shape[-1]) != "linear":
        return of_sum(*given)

    def sum_of(*given: Unwritten) -> chex.Array:
        return functools.reduce(operator.add, map(of_sum, given))

    return by_platform(*given, cpu=of_sum, others=sum_of)


@functools.cache
def _scores(operation: Operation, stats_dtype: str) -> Callable[..., chex.Array]:
    """The same of leaves, compiled: what their logits score is written to `results`, from a row on."""
    run = _operation(operation, stats_dtype)

    @functools.partial(jax.jit, donate_argnames="results")
    def score(
        params: Any, inputs: Inputs, stats: chex.Array | None, batch: ImageBatch, results: chex.Array, row: int
    ) -> chex.Array:
        logits, _ = run(params, inputs, stats, batch.mask, False)
        scored = jax.vmap(score_images, in_axes=(1, 0), out_axes=1)(jnp.stack([each.value for each in logits]), batch)
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
    values, used, row = {IMAGES: Unwritten(batch.images, None)}, list[chex.Array | None](), 0
    for place, step in enumerate(program.steps):
        layer = supernet.layers[step.layer]
        inputs = [tuple([values[source] for source in sources]) for sources in step.inputs]
        if not inputs[0]:
            inputs = [(Unwritten(jnp.zeros((*batch.images.shape[:2], *layer.in_shape), step.dtype), None),)]
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
