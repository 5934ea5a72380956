"""From a search space to a super-net."""

from collections.abc import Mapping
from typing import Any, Literal, get_args

from jaxnas.ops import OPS, Channels, OpFactory, Policy
from jaxnas.space import ChainLayout, DagLayout, SearchSpace
from jaxnas.supernets.cell import cell_supernet
from jaxnas.supernets.chain import chain_supernet
from jaxnas.supernets.dag import dag_supernet
from jaxnas.supernets.layer import Layer, Params, Stats, Supernet, own_params, select_stats

Kernels = Literal["separate", "centre", "transform"]
OpOn = Literal["edge", "node"]
BatchNorm = Literal["shared", "per_input"]


def make_supernet(
    space: SearchSpace,
    *,
    affine: bool = True,
    policy: Policy = Policy(),  # noqa: B008 (an immutable tuple)
    ops: Mapping[str, OpFactory] = OPS,
    kernels: Kernels = "separate",
    op_on: OpOn = "edge",
    channels: Channels = "fixed",
    batch_norm: BatchNorm = "shared",
    path_dropout: float = 0.0,
    global_dropout: float = 0.0,
) -> Supernet:
    """Build the super-net of a space. The settings from `kernels` on are factors of "How to Train Your Super-Net" (Yu,
    Ranftl and Salzmann, arXiv 2003.04276); whatever they are, a code stands for the same network of the same shape.

    Args:
      space: its layout says chain, cell or DAG, widths and sizes.
      affine: whether batch normalisation learns a scale and a shift.
      policy: number types of parameters, activations and statistics.
      ops: candidate name -> factory; your own operations are `OPS | {"mine": factory}`. Not for NAS-Bench-101.
      kernels: "separate", or one for all candidates of a choice that differ in kernel size (Once-for-All, arXiv
        1908.09791): the smaller ones take its "centre", or a learned linear "transform" of the centre. Dense kernels
        in cells (3x3 and 1x1; not with channels="expanded"), depthwise ones in inverted residuals, where fewer channels
        are the first ones.
      op_on: for cells. "edge": each edge has operations of its own. "node": the edges into a node share one instance of
        each operation. What is shared is the parameters: each edge still applies its own operation to its own input,
        since summing the inputs first would merge two convolutions into one, and codes would stand for other networks
        than those of the table.
      channels: NAS-Bench-101 only, where an operation has as many channels as the wiring leaves it. What its kernels
        and those of a vertex of full width have in common: "fixed": it takes the first of their channels; "shuffled":
        channels drawn for each width; "interpolated": averages of neighbouring channels; "expanded": nothing, each
        width has kernels of its own; "disabled": the space has one width only
        (`nasbench101_space(..., output_degree=...)`).
      batch_norm: "per_input" (weight-sharing batch norm): for cells with op_on="node" each input of a node has scale
        and shift of its own; on NAS-Bench-101 each operation has one for every combination of inputs of its vertex,
        2^v - 1 with v vertices before it. "shared": one set for all inputs.
      path_dropout: chance, in [0, 1), that an image loses an operation on an edge (not a skip connection) or a vertex,
        or in a chain what stands beside a shortcut; so large in the last cell or layer, growing linearly from the
        first.
      global_dropout: chance, in [0, 1), of each input of the classifier to be dropped. Both kinds are for training:
        `apply` drops where it gets a key.

    Raises:
      ValueError: a candidate that `ops` does not have, candidates of one choice that disagree in shape, or a setting
        that the space has no place for.
    """
    for name, value, known in (
        ("kernels", kernels, Kernels),
        ("op_on", op_on, OpOn),
        ("channels", channels, Channels),
        ("batch_norm", batch_norm, BatchNorm),
    ):
        if value not in get_args(known):
            raise ValueError(f"unknown {name} {value!r}; choose one of {', '.join(get_args(known))}.")
    settings: dict[str, Any] = {
        "affine": affine,
        "policy": policy,
        "kernels": kernels,
        "batch_norm": batch_norm,
        "path_dropout": path_dropout,
        "global_dropout": global_dropout,
    }
    if isinstance(space.layout, DagLayout):
        if ops is not OPS:
            raise ValueError(f"{space.name}: its operations have several widths, those in `ops` one; leave it out.")
        if op_on != "edge":
            raise ValueError(f"{space.name}: its operations are on its vertices anyway; leave op_on 'edge'.")
        return dag_supernet(space, channels=channels, **settings)
    if channels != "fixed":
        raise ValueError(
            f"{space.name}: channels={channels!r} is for cells whose wiring is searched; leave it 'fixed'."
        )
    unknown = sorted({name for names in space.op_names for name in names} - set(ops))
    if unknown:
        raise ValueError(f"{space.name}: no operation named {', '.join(unknown)}; known: {', '.join(ops)}.")
    build = chain_supernet if isinstance(space.layout, ChainLayout) else cell_supernet
    return build(space, ops=ops, op_on=op_on, **settings)


__all__ = [
    "BatchNorm",
    "Kernels",
    "Layer",
    "OpOn",
    "Params",
    "Policy",
    "Stats",
    "Supernet",
    "make_supernet",
    "own_params",
    "select_stats",
]
