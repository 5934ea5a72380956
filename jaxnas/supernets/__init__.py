"""From a search space to a super-net."""

from collections.abc import Mapping
from typing import Literal

from jaxnas.arch import ChainLayout, DagLayout, SearchSpace
from jaxnas.ops import OPS, Channels, OpFactory, Policy
from jaxnas.supernets.cell import cell_supernet
from jaxnas.supernets.chain import chain_supernet
from jaxnas.supernets.dag import CHANNELS, dag_supernet
from jaxnas.supernets.layer import Layer, Params, Stats, Supernet, select_stats


def make_supernet(
    space: SearchSpace,
    *,
    affine: bool = True,
    policy: Policy = Policy(),  # noqa: B008 (an immutable tuple)
    ops: Mapping[str, OpFactory] = OPS,
    channels: Channels = "fixed",
    batch_norm: Literal["shared", "per_input"] = "shared",
) -> Supernet:
    """Build the super-net of a space.

    Args:
      space: its layout says chain, cell or DAG, widths and sizes.
      affine: whether batch normalisation learns a scale and a shift.
      policy: number types of parameters, activations and statistics.
      ops: candidate name -> factory; your own operations are `OPS | {"mine": factory}`. Not for NAS-Bench-101.
      channels: NAS-Bench-101 only, where an operation has as many channels as the wiring leaves it. What its kernels
        and those of a vertex of full width have in common ("How to Train Your Super-Net", arXiv 2003.04276): "fixed":
        it takes the first of their channels; "shuffled": channels drawn for each width; "interpolated": averages of
        neighbouring channels; "expanded": nothing, each width has kernels of its own; "disabled": the space has one
        width only (`nasbench101_space(..., output_degree=...)`).
      batch_norm: NAS-Bench-101 only. "per_input": each operation has a scale and a shift for every combination of
        inputs of its vertex, 2^v - 1 with v vertices before it (ibid., weight-sharing batch norm); "shared": one.

    Raises:
      ValueError: a candidate that `ops` does not have, candidates of one choice that disagree in shape, or a setting
        that the space has no use for.
    """
    for name, value, known in (("channels", channels, CHANNELS), ("batch_norm", batch_norm, ("shared", "per_input"))):
        if value not in known:
            raise ValueError(f"unknown {name} {value!r}; choose one of {', '.join(known)}.")
    if isinstance(space.layout, DagLayout):
        if ops is not OPS:
            raise ValueError(f"{space.name}: its operations have several widths, those in `ops` one; leave it out.")
        return dag_supernet(space, affine=affine, policy=policy, channels=channels, batch_norm=batch_norm)
    for name, value, plain in (("channels", channels, "fixed"), ("batch_norm", batch_norm, "shared")):
        if value != plain:
            raise ValueError(
                f"{space.name}: {name}={value!r} is for cells whose wiring is searched; leave it {plain!r}."
            )
    unknown = sorted({name for names in space.op_names for name in names} - set(ops))
    if unknown:
        raise ValueError(f"{space.name}: no operation named {', '.join(unknown)}; known: {', '.join(ops)}.")
    build = chain_supernet if isinstance(space.layout, ChainLayout) else cell_supernet
    return build(space, affine=affine, policy=policy, ops=ops)


__all__ = ["Layer", "Params", "Policy", "Stats", "Supernet", "make_supernet", "select_stats"]
