"""One run through a super-net's wiring; edges that are alike are compiled once, as a loop over them."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from jaxnas.ops.derivative import vary_alike
from jaxnas.supernets.choice import Groups, is_batched
from jaxnas.supernets.layer import Layer, Params, Stats

LAYER = "layer"  # what layers return is called, for `jax.checkpoint` to keep it


class Edge(NamedTuple):
    """A layer between two nodes of a cell, which are counted from its first input on."""

    layer: str
    source: int
    target: int


@dataclasses.dataclass(frozen=True)
class Running:
    """What `Supernet.apply` follows the wiring with: called with a layer's name and its input, it returns its output.

    Attributes:
      layers: of the super-net, by name.
      params, arch, stats, mask, groups: as `Layer.__call__` takes them.
      keep: what dropout leaves, by layer; empty where nothing is dropped.
      used: the statistics that layers used, by name, filled while it runs.
    """

    layers: Mapping[str, Layer]
    params: Params
    arch: Any
    stats: Stats | None
    mask: chex.Array | None
    groups: Groups | tuple[tuple[int, ...], ...]
    keep: Mapping[str, chex.Array]
    used: Stats

    def __call__(self, name: str, x: Any) -> Any:
        y, self.used[name] = self.layers[name](
            self.params, self.arch, x, self.stats, self.mask, self.groups, self.keep.get(name)
        )
        return checkpoint_name(y, LAYER)

    @property
    def compiles_all(self) -> bool:
        """Whether every candidate of every layer is compiled: for one architecture that is known only when it runs. A
        population is dispatched layer by layer, and of an architecture known beforehand only what it takes is
        compiled."""
        parts = jax.tree.leaves(self.arch)
        is_traced = all(isinstance(part, jax.core.Tracer) for part in parts)
        return is_traced and not isinstance(self.groups, tuple) and not any(map(is_batched, parts))

    def along(self, edges: Sequence[Edge], sources: chex.Array | None, sums: chex.Array) -> chex.Array:
        """`sums` [num_nodes, num_images, height, width, channels] with what edges add to their targets, one after the
        other in a loop that is compiled once. The edges' layers differ in name and place only.

        Args:
          sources: the nodes that edges start at; None: those of `sums` as they are by then.
        """
        layer = self.layers[edges[0].layer]._replace(choice=0)  # of an architecture of one place
        names = [edge.layer for edge in edges]
        places = jnp.array([self.layers[name].choice for name in names])
        arch = jax.tree.map(lambda part: part[places], self.arch)
        params = _stack([self.params.get(name, {}) for name in names])
        stats = None if self.stats is None else _stack([self.stats[name] for name in names])
        keep = _stack([self.keep[name] for name in names]) if names[0] in self.keep else None
        ends = jnp.array([edge.source for edge in edges]), jnp.array([edge.target for edge in edges])

        def add(sums: chex.Array, here: Any) -> tuple[chex.Array, chex.Array]:
            (source, target), arch, params, stats, keep = here
            x = (sums if sources is None else sources)[source]
            arch = jax.tree.map(lambda part: part[None], arch)
            stats = None if stats is None else {layer.name: stats}
            y, used = layer({layer.name: params}, arch, x, stats, self.mask, self.groups, keep)
            y = checkpoint_name(y, LAYER)
            return sums.at[target].add(y), used

        sums, sources, given = vary_alike((sums, sources, (ends, arch, params, stats, keep)))
        sums, used = jax.lax.scan(add, sums, given)
        self.used.update(zip(names, used, strict=True))
        return sums


def add_up(run: Any, edges: Sequence[Edge], inputs: Sequence[Any]) -> list[Any]:
    """The nodes of a cell after its inputs, each the sum of the edges that lead to it.

    Args:
      run: (layer name, input) -> output, with arrays or symbols.
      edges: by target. Their layers are alike, but for those of a cell that halves the image, which from the inputs
        on are different from those among its nodes.
      inputs: of the cell, of one shape.
    """
    first, num_nodes = len(inputs), edges[-1].target + 1
    if not (isinstance(run, Running) and run.compiles_all):
        nodes = [*inputs]
        for node in range(first, num_nodes):
            added = [run(edge.layer, nodes[edge.source]) for edge in edges if edge.target == node]
            nodes.append(sum(added[1:], added[0]))
        return nodes[first:]
    layer = run.layers[edges[0].layer]
    sums = jnp.zeros((num_nodes - first, len(inputs[0]), *layer.out_shape), inputs[0].dtype)
    if layer.in_shape == layer.out_shape:
        return [*run.along(edges, None, jnp.concatenate([jnp.stack(inputs), sums]))[first:]]
    edges = [edge._replace(target=edge.target - first) for edge in edges]
    within = [edge._replace(source=edge.source - first) for edge in edges if edge.source >= first]
    sums = run.along([edge for edge in edges if edge.source < first], jnp.stack(inputs), sums)
    return [*run.along(within, None, sums)] if within else [*sums]


def _stack(trees: Sequence[Any]) -> Any:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)
