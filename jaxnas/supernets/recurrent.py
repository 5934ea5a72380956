"""Super-nets of recurrent cells on text: words as vectors, a cell, and the same vectors for the next word.

Every possible edge of a cell is a place, of which a code takes an activation or "none" where the node has no such
source; weights mix them all, as in DARTS (arXiv 1806.09055), without its batch normalisation. A node's matrix is shared
by all that it may do. Words and batch make one product before the loop over words, and one after it.

A code runs one product a node and word, whichever way it is scored: `groups` are of no matter. Weights run one for each
edge.
"""

from collections.abc import Sequence
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

from jaxnas.ops import Bias, Gated, Policy, Product, Tape, Words
from jaxnas.space import SearchSpace
from jaxnas.spaces._rnn import OP_NAMES, RecurrentLayout, nodes_of
from jaxnas.supernets.choice import Drawn, draw, mix
from jaxnas.supernets.factors import Factors
from jaxnas.supernets.layer import Layer, Stats, make_layer
from jaxnas.supernets.supernet import Recurrence, Supernet, check_images, decode_by_columns, make_init

CANDIDATES = ("none", *OP_NAMES)


def recurrent_supernet(space: SearchSpace, layout: RecurrentLayout, factors: Factors) -> Supernet:
    """A super-net over `layout`; see `make_supernet`. Without batch normalisation `affine` says nothing."""
    factors.refuse(space, "is for convolutions", "kernels", "op_on", "channels", "batch_norm", "partial_channels")
    factors.refuse(space, "is not for recurrent cells", "path_dropout", "global_dropout")
    policy, width = factors.policy, layout.width
    nodes, edges = _nodes_and_edges(layout)
    layers = _make_layers(layout, policy)

    def run(params: Any, name: str, x: chex.Array) -> chex.Array:
        ((op, operation),) = layers[name].candidates.items()
        return operation.apply(params[name].get(op, {}), x, Tape(None, None))

    def node_state(params: Any, arch: Any, node: int, states: Sequence[chex.Array]) -> chex.Array:
        if isinstance(arch, tuple) and not isinstance(arch, Drawn):
            sources, ops = arch
            state = jnp.stack(states)[sources[node - 1]]
            x = jnp.concatenate([state, run(params, f"node{node}", state)], axis=-1)
            gated = [layers[f"edge0{node}"].candidates[name] for name in OP_NAMES]
            return jax.lax.switch(ops[node - 1], [_alone(operation) for operation in gated], x)
        inputs = []
        moved = run(params, f"node{node}", jnp.stack(states))
        for source, state in enumerate(states):
            layer = layers[f"edge{source}{node}"]
            branches = [_branch(operation) for operation in layer.candidates.values()]
            x = jnp.concatenate([state, moved[source]], axis=-1)
            if isinstance(arch, Drawn):
                inputs.append(draw(branches, arch.at(edges.index((source, node))), None, x))
            else:
                inputs.append(mix(branches, arch[edges.index((source, node))], None, x))
        return sum(inputs[1:], inputs[0])

    def unroll(params: Any, arch: Any, words: chex.Array, memory: chex.Array) -> tuple[chex.Array, chex.Array]:
        check_images(space, words)
        arch = _read(space, arch, len(edges))
        vectors = run(params, "words", words[..., None])
        matrix = params["input"]["input"]["matrix"].astype(policy.compute)
        of_words, of_memory = matrix[:width], matrix[width:]

        def step(memory: chex.Array, of_word: chex.Array) -> tuple[chex.Array, chex.Array]:
            x = jnp.concatenate([memory, of_word + memory @ of_memory], axis=-1)
            states = [run(params, "first", x)]
            for node in nodes:
                states.append(node_state(params, arch, node, states))
            mean = sum(states[2:], states[1]) / jnp.asarray(layout.num_nodes, x.dtype)
            memory = _shortened(mean, layout.most_norm)
            return memory, memory

        memory, states = jax.lax.scan(step, memory.astype(policy.compute), (vectors @ of_words).swapaxes(0, 1))
        table = params["words"]["words"]["table"].astype(policy.compute)
        return run(params, "head", states.swapaxes(0, 1) @ table.T), memory

    def start(num_rows: int) -> chex.Array:
        return jnp.zeros((num_rows, width), policy.compute)

    def apply(params, arch, images, *, stats=None, mask=None, key=None, ramp=1.0, groups=4):
        logits, _ = unroll(params, arch, images, start(len(images)))
        nothing: Stats = {name: jnp.zeros((2, layer.stats_size), layer.stats_dtype) for name, layer in layers.items()}
        return logits, nothing if stats is None else stats

    def wire(run: Any, images: Any) -> Any:
        raise ValueError(f"{space.name}: a recurrent network is no wiring of layers; call Supernet.apply.")

    def columns(archs: Any) -> list[Any]:
        """Of each possible edge the candidate, 0 ("none") where the node takes another state."""
        sources, ops = nodes_of(archs)
        return [(sources[node - 1] == source).astype(np.int32) * (1 + ops[node - 1]) for source, node in edges]

    def encode(weights: np.ndarray) -> np.ndarray:
        """The rule of DARTS: of each node the source and activation with the largest weight, "none" left out."""
        code = list[int]()
        for node in nodes:
            places = [place for place, edge in enumerate(edges) if edge[1] == node]
            code += divmod(int(weights[places][:, 1:].argmax()), len(OP_NAMES))
        return np.array(code[1:], np.int32)

    return Supernet(
        space,
        make_init(layers),
        apply,
        layers,
        wire,
        decode=decode_by_columns(space, (len(edges), len(CANDIDATES)), columns),
        encode=encode,
        joins=tuple(node - 1 for _, node in edges),
        recurrence=Recurrence(start, unroll),
    )


def _nodes_and_edges(layout: RecurrentLayout) -> tuple[range, list[tuple[int, int]]]:
    """The nodes, from 1; and (source, node) of each place."""
    nodes = range(1, layout.num_nodes + 1)
    return nodes, [(source, node) for node in nodes for source in range(node)]


def _make_layers(layout: RecurrentLayout, policy: Policy) -> dict[str, Layer]:
    width, (nodes, edges) = layout.width, _nodes_and_edges(layout)
    operations: dict[str, tuple[int | None, dict[str, Any], int]] = {
        "words": (None, {"words": Words(layout.num_classes, width, policy)}, 1),
        "input": (None, {"input": Product(2 * width, policy)}, 2 * width),
        "first": (None, {"tanh": Gated("tanh")}, 3 * width),
    }
    for node in nodes:
        operations[f"node{node}"] = (None, {"node": Product(2 * width, policy)}, width)
    for place, (source, node) in enumerate(edges):
        operations[f"edge{source}{node}"] = (place, {name: Gated(name) for name in CANDIDATES}, 3 * width)
    operations["head"] = (None, {"head": Bias(policy)}, layout.num_classes)
    return {
        name: Edge(*make_layer(name, choice, candidates, (layout.num_words, 1, features), stats_dtype=policy.stats))
        for name, (choice, candidates, features) in operations.items()
    }


class Edge(Layer):
    """A part of a cell. Which edges there are follows from several choices, so that balanced populations promise
    nothing here."""

    keeps_balance = False


def _alone(operation: Any) -> Any:
    return lambda x: operation.apply({}, x, Tape(None, None))


def _branch(operation: Any) -> Any:
    return lambda shared, x: operation.apply({}, x, Tape(None, None))


def _read(space: SearchSpace, arch: Any, num_edges: int) -> Any:
    """A code as (sources, activations) of its nodes; weights as they are."""
    if isinstance(arch, Drawn):
        return arch
    arch = jnp.asarray(arch)
    if not jnp.issubdtype(arch.dtype, jnp.floating):
        return nodes_of(arch)
    if arch.shape != (num_edges, len(CANDIDATES)):
        raise ValueError(f"{space.name}: weights of shape {arch.shape}, expected {(num_edges, len(CANDIDATES))}.")
    return arch


def _shortened(state: chex.Array, most_norm: float) -> chex.Array:
    """state [num_rows, width], each row no longer than so much."""
    square = jnp.sum(jnp.square(state.astype(jnp.float32)), axis=-1, keepdims=True)
    return state * (most_norm * jax.lax.rsqrt(jnp.maximum(square, most_norm**2))).astype(state.dtype)
