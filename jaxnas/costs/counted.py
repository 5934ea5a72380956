"""Multiply-accumulates and parameters of every operation and architecture, from formulae.

Both are counted as the published tables of NAS-Bench-Macro and NAS-Bench-201 count them, which `arch_costs` reproduces
exactly. MACs (what those tables call FLOPs) are those of convolutions and of the classifier for one image; batch
normalisation, biases, activations, pooling and sums count nothing. Parameters are the weights of convolutions and
classifier, the classifier's bias, and scale and shift of every batch normalisation: with affine parameters, that is; a
super-net without them has fewer. An operation counts where the code names it, also on an edge that is dead.
"""

import math
import re
from collections.abc import Callable
from typing import NamedTuple

import chex
import numpy as np

from jaxnas.codes import check
from jaxnas.space import CellLayout, ChainLayout, DagLayout, SearchSpace


class Costs(NamedTuple):
    """Two arrays of one shape, which the function that returns them states."""

    macs: np.ndarray  # float64, multiply-accumulates for one image
    params: np.ndarray  # float64, number of scalars


class Place(NamedTuple):
    """Where an operation stands."""

    in_width: int  # channels
    out_width: int
    in_size: int  # pixels, height and width
    stride: int

    @property
    def out_size(self) -> int:
        return math.ceil(self.in_size / self.stride)


def _conv(
    kernel: int, in_width: int, out_width: int, out_size: int, *, groups: int = 1, norm: bool = True
) -> np.ndarray:
    """[MACs, parameters] of a convolution without bias, and of the affine batch normalisation after it."""
    weights = kernel**2 * in_width * out_width // groups
    return np.array([weights * out_size**2, weights + 2 * out_width * norm], np.float64)


def _identity(place: Place) -> np.ndarray:
    if place.stride == 1 and place.in_width == place.out_width:
        return np.zeros(2)
    return _conv(1, place.in_width, place.out_width, place.out_size)


def _mobile(place: Place, expansion: int, kernel: int) -> np.ndarray:
    inner = expansion * place.in_width
    return (
        _conv(1, place.in_width, inner, place.in_size)
        + _conv(kernel, inner, inner, place.out_size, groups=inner)
        + _conv(1, inner, place.out_width, place.out_size)
    )


def _bottleneck(place: Place, reduction: int, kernel: int) -> np.ndarray:
    inner = max(1, place.out_width // reduction)
    return (
        _conv(1, place.in_width, inner, place.in_size)
        + _conv(kernel, inner, inner, place.out_size)
        + _conv(1, inner, place.out_width, place.out_size)
    )


def _residual_pair(place: Place, kernel: int) -> np.ndarray:
    return _conv(kernel, place.in_width, place.out_width, place.out_size) + _conv(
        kernel, place.out_width, place.out_width, place.out_size
    )


def _double_depthwise(place: Place, kernel: int) -> np.ndarray:
    first, second = (
        _conv(kernel, width, width, place.out_size, groups=width) + _conv(1, width, place.out_width, place.out_size)
        for width in (place.in_width, place.out_width)
    )
    return first + second


# Name pattern -> function of the place and of the numbers in the name that gives [MACs, parameters]. Add your own here.
OP_COSTS: dict[str, Callable[..., np.ndarray]] = {
    r"none|skip_connect|avg_pool_3x3": lambda place: np.zeros(2),
    r"nor_conv_(\d+)x\1": lambda place, kernel: _conv(kernel, place.in_width, place.out_width, place.out_size),
    r"identity": _identity,
    r"mb(\d+)_k(\d+)": _mobile,
    r"nconv(\d+)_k(\d+)": _bottleneck,
    r"rconv_k(\d+)": _residual_pair,
    r"dconv_k(\d+)": _double_depthwise,
    r"stem": lambda place: _conv(3, place.in_width, place.out_width, place.out_size),
    r"reduction": lambda place: _reduction(place.in_width, place.out_size),
}


def op_cost(name: str, place: Place) -> np.ndarray:
    """[MACs, parameters] of one operation at one place; a ValueError for a name that no pattern of OP_COSTS matches."""
    for pattern, cost in OP_COSTS.items():
        if match := re.fullmatch(pattern, name):
            return cost(place, *map(int, match.groups()))
    raise ValueError(
        f"no cost is known for operation {name!r}; add it to jaxnas.costs.OP_COSTS, which has {list(OP_COSTS)}."
    )


def op_costs(space: SearchSpace) -> tuple[Costs, Costs]:
    """The costs of each operation at each choice, and of the fixed rest of the network.

    Returns:
      per_op: [num_choices, max(num_ops)], summed over all cells for a space of cells; 0 where a choice has fewer ops.
      fixed: scalars: stem, reduction blocks, head, classifier.
    """
    layout = space.layout
    if isinstance(layout, DagLayout):
        raise ValueError(
            f"{space.name}: what an operation costs depends on the whole cell; use spaces.nasbench101.network_costs."
        )
    per_op, fixed = _cell_costs(space, layout) if isinstance(layout, CellLayout) else _chain_costs(space, layout)
    return Costs(*per_op), Costs(*fixed)


def arch_costs(space: SearchSpace, archs: chex.ArrayNumpy) -> Costs:
    """The costs [num_archs] of whole networks; archs int [num_archs, num_choices], checked."""
    codes = check(space, archs)
    per_op, fixed = op_costs(space)
    choices = np.arange(space.num_choices)
    return Costs(*(rest + table[choices, codes].sum(axis=1) for table, rest in zip(per_op, fixed, strict=True)))


def _chain_costs(space: SearchSpace, layout: ChainLayout) -> tuple[np.ndarray, np.ndarray]:
    per_op = np.zeros((2, space.num_choices, max(space.num_ops)))
    size = math.ceil(layout.image_size / layout.stem_stride)
    width = layout.stem_width
    fixed = _conv(3, layout.in_channels, width, size)
    for choice, (out_width, stride) in enumerate(zip(layout.widths, layout.strides, strict=True)):
        place = Place(width, out_width, size, stride)
        per_op[:, choice] += _costs_at(space, choice, place)
        width, size = out_width, place.out_size
    if layout.head_width:
        fixed += _conv(1, width, layout.head_width, size, norm=False)
    return per_op, fixed + _classifier(layout.head_width or width, layout.num_classes)


def _cell_costs(space: SearchSpace, layout: CellLayout) -> tuple[np.ndarray, np.ndarray]:
    per_op = np.zeros((2, space.num_choices, max(space.num_ops)))
    width, size = layout.width, layout.image_size
    fixed = _conv(3, layout.in_channels, width, size)
    for stage in range(layout.num_stages):
        if stage > 0:
            size = math.ceil(size / 2)
            fixed += _reduction(width, size)
            width *= 2
        for choice in range(space.num_choices):
            per_op[:, choice] += layout.cells_per_stage * _costs_at(space, choice, Place(width, width, size, stride=1))
    return per_op, fixed + _classifier(width, layout.num_classes)


def _costs_at(space: SearchSpace, choice: int, place: Place) -> np.ndarray:
    """[2, max(num_ops)]: every candidate of one choice, padded with zeros."""
    costs = np.zeros((2, max(space.num_ops)))
    for op, name in enumerate(space.op_names[choice]):
        costs[:, op] = op_cost(name, place)
    return costs


def _reduction(width: int, out_size: int) -> np.ndarray:
    """A residual block that halves the image and doubles the width; its shortcut is pooling and a 1x1 without norm."""
    return (
        _conv(3, width, 2 * width, out_size)
        + _conv(3, 2 * width, 2 * width, out_size)
        + _conv(1, width, 2 * width, out_size, norm=False)
    )


def _classifier(width: int, num_classes: int) -> np.ndarray:
    """Batch normalisation, pooling and a linear layer with bias."""
    return np.array([width * num_classes, 2 * width + (width + 1) * num_classes], np.float64)
