"""From a search space to a super-net."""

from collections.abc import Callable
from typing import Any

from jaxnas.ops import Channels, Policy
from jaxnas.space import CellLayout, ChainLayout, DagLayout, SearchSpace
from jaxnas.spaces._darts import TwoCellLayout
from jaxnas.spaces._nats_size import SizeLayout
from jaxnas.spaces._rnn import RecurrentLayout
from jaxnas.supernets._masked import masked
from jaxnas.supernets.cell import cell_supernet
from jaxnas.supernets.chain import chain_supernet
from jaxnas.supernets.choice import Drawn
from jaxnas.supernets.dag import dag_supernet
from jaxnas.supernets.factors import BatchNorm, Factors, Kernels, OpOn
from jaxnas.supernets.layer import Costs, Layer, Params, Stats, check_layer, run_operation
from jaxnas.supernets.recurrent import recurrent_supernet
from jaxnas.supernets.relus import ActivationKernel, activation_kernel
from jaxnas.supernets.size import size_supernet
from jaxnas.supernets.soft import soft_weights, softened
from jaxnas.supernets.supernet import Recurrence, Supernet, check_images, check_kept, only, select_stats
from jaxnas.supernets.two_cell import two_cell_supernet

# Type of layout -> (space, its layout, settings) -> super-net.
BUILDERS: dict[type, Callable[[SearchSpace, Any, Factors], Supernet]] = {
    ChainLayout: chain_supernet,
    CellLayout: cell_supernet,
    DagLayout: dag_supernet,
    SizeLayout: size_supernet,
    TwoCellLayout: two_cell_supernet,
    RecurrentLayout: recurrent_supernet,
}


def make_supernet(
    space: SearchSpace,
    *,
    affine: bool = True,
    policy: Policy = Policy(),  # noqa: B008 (an immutable tuple)
    kernels: Kernels = "separate",
    op_on: OpOn = "edge",
    channels: Channels = "fixed",
    batch_norm: BatchNorm = "shared",
    path_dropout: float = 0.0,
    global_dropout: float = 0.0,
    partial_channels: int = 1,
) -> Supernet:
    """Build the super-net of a space. The settings from `kernels` on are factors of "How to Train Your Super-Net" (Yu,
    Ranftl and Salzmann, arXiv 2003.04276); whatever they are, a code stands for the same network of the same shape.

    Args:
      space: its layout says chain, cell or DAG, widths and sizes; its candidates are those of `jaxnas.ops.OPS` and its
        own `operations`.
      affine: whether batch normalisation learns a scale and a shift.
      policy: number types of parameters, activations and statistics.
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
      partial_channels: for cells. One in so many channels goes through the candidate, the others pass by and are
        interleaved with what comes out (PC-DARTS, arXiv 1907.05737, which takes 4); 1: all. A code then stands for
        another network than that of the tables.

    Raises:
      ValueError: a candidate that neither has, candidates of one choice that disagree in shape, or a setting
        that the space has no place for.
    """
    factors = Factors(
        affine, policy, kernels, op_on, channels, batch_norm, path_dropout, global_dropout, partial_channels
    )
    supernet = build_supernet(space, factors)
    for layer in supernet.layers.values():
        check_layer(layer)
    return supernet


def build_supernet(space: SearchSpace, factors: Factors) -> Supernet:
    """`make_supernet` without a look at each candidate's shape: quick, for what asks for structure and costs alone."""
    factors.check()
    build = BUILDERS.get(type(space.layout))
    if build is None:
        raise ValueError(
            f"{space.name}: no super-net is known for a {type(space.layout).__name__}; enter one in"
            " jaxnas.supernets.BUILDERS."
        )
    return build(space, space.layout, factors)


__all__ = [
    "BUILDERS",
    "ActivationKernel",
    "BatchNorm",
    "Costs",
    "Drawn",
    "Factors",
    "Kernels",
    "Layer",
    "OpOn",
    "Params",
    "Policy",
    "Recurrence",
    "Stats",
    "Supernet",
    "activation_kernel",
    "build_supernet",
    "check_images",
    "check_kept",
    "make_supernet",
    "masked",
    "only",
    "run_operation",
    "select_stats",
    "soft_weights",
    "softened",
]
