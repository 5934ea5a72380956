"""The route "graph": programs of distinct work, each node one compiled call from the host."""

import functools
from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp
import numpy as np

from jaxnas.evaluation.batches import LoadedRow, pool_statistics, score_images
from jaxnas.evaluation.graph.programs import Program, plan_programs
from jaxnas.evaluation.graph.tracing import IMAGES, Graph, Node
from jaxnas.evaluation.planning import Plan
from jaxnas.evaluation.route import Route, Unit, UnitScores
from jaxnas.ops import Operation
from jaxnas.supernets import Params, Supernet, run_operation

StatsOf = Callable[[int, Node], chex.Array]  # (number of a node, node) -> float [2, size]
Inputs = tuple[chex.Array, ...]  # of a node, to be summed
# (parameters, inputs, statistics or None, mask or None, keep_stats) -> (output, statistics used or None)
RunOperation = Callable[
    [Params, Inputs, chex.Array | None, chex.Array | None, bool], tuple[chex.Array, chex.Array | None]
]


def make_graph_route(supernet: Supernet) -> Route:
    """The route: a program is a unit of work."""
    score_leaf = jax.jit(jax.vmap(score_images))
    index_of: dict[tuple[str, str | None], int] = {
        (name, op): index for name, layer in supernet.layers.items() for index, op in enumerate(layer.candidates)
    }

    def run(graph: Graph, program: Program, row: LoadedRow) -> UnitScores:
        evaluate = functools.partial(run_program, supernet, graph, program, row.params)
        stats: StatsOf | None = None
        if row.stats is not None:
            tracked = row.stats  # of a candidate all nodes have the same
            stats = lambda number, node: tracked[node.layer][node.op]  # noqa: E731
        elif row.calibration:
            used = [evaluate(batch.images, batch.mask, keep_stats=True)[1] for batch in row.calibration]
            counts = row.calibration_counts
            pooled = {number: pool_statistics([part[number] for part in used], counts) for number in used[0]}
            stats = lambda number, node: pooled[number]  # noqa: E731
        parts = []
        for batch in row.batches:
            logits, _ = evaluate(batch.images, batch.mask, stats=stats)
            parts.append({leaf: score_leaf(value, batch) for leaf, value in logits.items()})
        parts = jax.device_get(parts)
        positions = np.flatnonzero(np.isin(graph.leaves, program.leaves))
        leaves = graph.leaves[positions].tolist()

        def column(number: int) -> np.ndarray:
            by_leaf = {leaf: np.concatenate([part[leaf][number] for part in parts]) for leaf in parts[0]}
            return np.stack([by_leaf[leaf] for leaf in leaves])

        return UnitScores(positions, column(0), column(1))

    def executed_macs(graph: Graph, program: Program) -> float:
        macs = [0.0 if op is None else supernet.layers[name].costs.macs[index_of[name, op]] for name, op in graph.kinds]
        return float(np.array(macs)[graph.kind[program.order]].sum())

    def route(archs: np.ndarray, plan: Plan) -> list[Unit]:
        graph, programs = plan_programs(supernet, archs, plan)
        return [
            Unit(functools.partial(run, graph, program), functools.partial(executed_macs, graph, program))
            for program in programs
        ]

    return route


@functools.cache
def _operation(operation: Operation, stats_dtype: str) -> RunOperation:
    """Compiled, over batches: inputs and mask have a leading axis of batches, each normalised by itself where there are
    no statistics."""

    @functools.partial(jax.jit, static_argnames="keep_stats")
    def run(
        params: Params, inputs: Inputs, stats: chex.Array | None, mask: chex.Array | None, keep_stats: bool
    ) -> tuple[chex.Array, chex.Array | None]:
        def of_batch(inputs: Inputs, mask: chex.Array | None) -> tuple[chex.Array, chex.Array | None]:
            x = sum(inputs[1:], inputs[0])
            y, used = run_operation(operation, params, x, stats, mask, stats_dtype=stats_dtype)
            return y, used if keep_stats else None

        return jax.vmap(of_batch)(inputs, mask)

    return run


@jax.jit
def _add(inputs: Inputs) -> chex.Array:
    return sum(inputs[1:], inputs[0])


def run_program(
    supernet: Supernet,
    graph: Graph,
    program: Program,
    params: Params,
    images: chex.Array,
    mask: chex.Array | None,
    *,
    stats: StatsOf | None = None,
    keep_stats: bool = False,
) -> tuple[dict[int, chex.Array], dict[int, chex.Array]]:
    """Run it on batches of images.

    Args:
      params: of each candidate, as `Supernet.view` gives them.
      images: float [num_batches, num_images, height, width, channels].
      mask: bool [num_batches, num_images] or None.
      stats: (number of a node, node) -> float [2, size], the statistics it normalises by; None: those of each batch.
      keep_stats: return statistics.

    Returns:
      logits float32 [num_batches, num_images, classes] of each leaf, and with keep_stats the statistics that each
      node used, float [num_batches, 2, size].
    """
    values, used, logits = {IMAGES: images}, {}, {}
    layers, leaves = supernet.layers, set(program.leaves.tolist())
    for number, node, free in program.steps(graph):
        inputs = tuple(values[source] for source in node.inputs)
        if node.op is None:
            values[number] = _add(inputs)
        else:
            layer = layers[node.layer]
            inputs = inputs or (jnp.zeros((*images.shape[:2], *layer.in_shape), images.dtype),)
            given = None if stats is None else stats(number, node)
            run = _operation(layer.candidates[node.op], layer.stats_dtype)
            own = layer.params_of(params.get(node.layer, {}), node.op)
            values[number], used[number] = run(own, inputs, given, mask, keep_stats)
        if number in leaves:
            logits[number] = values.pop(number)
        for source in free:
            del values[source]
    return logits, used
