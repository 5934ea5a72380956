"""Chains, where one searched layer follows another: a search space of your own in a dozen lines."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from jaxnas.ops import check_names
from jaxnas.space import ChainLayout, CostsFn, OpFactory, SearchSpace

IDENTITY = "identity"


def chain_space(
    name: str,
    layout: ChainLayout,
    op_names: Sequence[Sequence[str]],
    *,
    operations: Mapping[str, OpFactory] | None = None,
    costs: CostsFn | None = None,
) -> SearchSpace:
    """A chain with the candidates `op_names[choice]` at each choice.

    The names are those of `jaxnas.ops.OPS` ("identity", "mb3_k3", ...) and of `operations`, which like `costs` is a
    field of `SearchSpace`:

        my_chain = chain_space(
            "my_chain",
            ChainLayout(stem_width=16, widths=(16, 32, 32), strides=(1, 2, 1), head_width=128),
            [("identity", "mb3_k3", "mb4_k7")] * 3,
        )

    Raises a ValueError where layout and op_names differ in length, or a choice has no, repeated or unknown candidates.
    """
    lengths = len(layout.widths), len(layout.strides), len(op_names)
    if len(set(lengths)) > 1 or not op_names:
        raise ValueError(
            f"{name}: the layout has {lengths[0]} widths and {lengths[1]} strides, op_names has {lengths[2]} choices;"
            " give as many of each, at least one."
        )
    for choice, names in enumerate(op_names):
        if isinstance(names, str) or not names or len(set(names)) < len(names):
            raise ValueError(f"{name}: op_names[{choice}] is {names!r}, expected a list of distinct operation names.")
        check_names(name, names, operations or {})
    names_of_choices = tuple(tuple(names) for names in op_names)
    return SearchSpace(
        name,
        names_of_choices,
        layout,
        isomorphs=chain_isomorphs(layout, names_of_choices),
        operations=operations or {},
        costs=costs,
    )


def chain_isomorphs(layout: ChainLayout, op_names: Sequence[Sequence[str]]) -> Callable[[np.ndarray], np.ndarray]:
    """Make the `isomorphs` of a chain: archs [num_archs, num_choices] -> representatives of the same shape.

    An identity that keeps stride and width is no layer at all, so its place among its like doesn't matter: within each
    run of such choices the representative has the identities last. A run ends where the candidates change, hence no two
    different networks are ever merged, yet equal ones may stay apart in a chain whose choices differ. `resized` layouts
    keep strides and equal widths, so what holds for the layout given here holds for them.
    """
    runs = _identity_runs(layout, op_names)

    def isomorphs(archs: np.ndarray) -> np.ndarray:
        archs = np.array(archs)
        for choices, identity in runs:
            codes = archs[:, choices]
            order = np.argsort(codes == identity, axis=1, kind="stable")
            archs[:, choices] = np.take_along_axis(codes, order, axis=1)
        return archs

    return isomorphs


def _identity_runs(layout: ChainLayout, op_names: Sequence[Sequence[str]]) -> list[tuple[list[int], int]]:
    """The runs of choices where identity is nothing and the candidates are equal, with the code of identity."""
    runs: list[list[int]] = []
    in_width = layout.stem_width
    for choice, (width, stride, names) in enumerate(zip(layout.widths, layout.strides, op_names, strict=True)):
        if stride == 1 and width == in_width and IDENTITY in names:
            if runs and runs[-1][-1] == choice - 1 and op_names[choice - 1] == names:
                runs[-1].append(choice)
            else:
                runs.append([choice])
        in_width = width
    return [(choices, list(op_names[choices[0]]).index(IDENTITY)) for choices in runs]
