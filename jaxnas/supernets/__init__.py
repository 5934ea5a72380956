"""From a search space to a super-net."""

from collections.abc import Mapping

from jaxnas.arch import ChainLayout, DagLayout, SearchSpace
from jaxnas.ops import OPS, OpFactory, Policy
from jaxnas.supernets.cell import cell_supernet
from jaxnas.supernets.chain import chain_supernet
from jaxnas.supernets.layer import Layer, Params, Stats, Supernet, select_stats


def make_supernet(
    space: SearchSpace,
    *,
    affine: bool = True,
    policy: Policy = Policy(),  # noqa: B008 (an immutable tuple)
    ops: Mapping[str, OpFactory] = OPS,
) -> Supernet:
    """Build the super-net of a space.

    Args:
      space: its layout says chain or cell, widths and sizes.
      affine: whether batch normalisation learns a scale and a shift.
      policy: number types of parameters, activations and statistics.
      ops: candidate name -> factory; your own operations are `OPS | {"mine": factory}`.

    Raises:
      ValueError: a candidate that `ops` does not have, candidates of one choice that disagree in shape, or a space
        whose wiring is searched.
    """
    if isinstance(space.layout, DagLayout):
        raise ValueError(f"{space.name}: there is no super-net for cells whose wiring is searched; take another space.")
    unknown = sorted({name for names in space.op_names for name in names} - set(ops))
    if unknown:
        raise ValueError(f"{space.name}: no operation named {', '.join(unknown)}; known: {', '.join(ops)}.")
    build = chain_supernet if isinstance(space.layout, ChainLayout) else cell_supernet
    return build(space, affine=affine, policy=policy, ops=ops)


__all__ = ["Layer", "Params", "Policy", "Stats", "Supernet", "make_supernet", "select_stats"]
