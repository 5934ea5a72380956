"""Candidate operations: Flax modules that take (x, tape) and return activations.

`OPS` maps a candidate's name to how it is built: `(channels, stride, affine, policy) -> module`. A user's own
operation is one more entry in a dict like it, passed to `make_supernet(..., ops=OPS | {"mine": ...})`.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import flax.linen as nn

from jaxnas.ops.convolution import Classifier, ConvBN, Head, Stem
from jaxnas.ops.dynamic import DYNAMIC_OPS, Channels, DynamicConvBN, MaxPool, Place, ScaleShift
from jaxnas.ops.mobile import (
    BLOCKS_WITH_SHORTCUT,
    DoubleDepthwise,
    Identity,
    InvertedResidual,
    NormalBottleneck,
    ResidualPair,
)
from jaxnas.ops.normalisation import Policy, Tape
from jaxnas.ops.pooling import AveragePool, Reduction, Skip, Zero

OpFactory = Callable[[int, int, bool, Policy], nn.Module]


def _inverted(expansion: int, kernel: int) -> OpFactory:
    return lambda channels, stride, affine, policy: InvertedResidual(
        channels, stride, expansion, kernel, affine, policy
    )


def _bottleneck(reduction: int, kernel: int) -> OpFactory:
    return lambda channels, stride, affine, policy: NormalBottleneck(
        channels, stride, reduction, kernel, affine, policy
    )


def _pair(block: type[ResidualPair] | type[DoubleDepthwise], kernel: int) -> OpFactory:
    return lambda channels, stride, affine, policy: block(channels, stride, kernel, affine, policy)


def _relu_conv_bn(kernel: int) -> OpFactory:
    return lambda channels, stride, affine, policy: ConvBN(channels, kernel, stride, True, affine, policy)


OPS: dict[str, OpFactory] = {
    "none": lambda channels, stride, affine, policy: Zero(),
    "skip_connect": lambda channels, stride, affine, policy: Skip(),
    "nor_conv_1x1": _relu_conv_bn(1),
    "nor_conv_3x3": _relu_conv_bn(3),
    "avg_pool_3x3": lambda channels, stride, affine, policy: AveragePool(),
    "identity": Identity,
    **{f"mb{e}_k{k}": _inverted(e, k) for e in (1, 2, 3, 4, 6) for k in (3, 5, 7)},
    **{f"nconv{r}_k{k}": _bottleneck(r, k) for r in (2, 4) for k in (3, 5, 7)},
    **{f"rconv_k{k}": _pair(ResidualPair, k) for k in (3, 5, 7)},
    **{f"dconv_k{k}": _pair(DoubleDepthwise, k) for k in (3, 5, 7)},
}

Algebra = Literal["zero", "same", "linear", "vanishing", "any"]


def algebra(module: nn.Module, in_channels: int) -> Algebra:
    """What holds of an operation exactly, whatever its input, so that work can be shared.

    "zero": returns zeros. "same": returns its input. "linear": linear and without parameters, so that equal modules
    are one function wherever they stand. "vanishing": zeros in, zeros out, where normalisation takes its statistics
    from the images. "any": nothing is known, as of every operation of a user's own.
    """
    if isinstance(module, Zero):
        return "zero"
    if isinstance(module, Skip) or (isinstance(module, Identity) and module.is_nothing(in_channels)):
        return "same"
    if isinstance(module, AveragePool):
        return "linear"
    if isinstance(module, ConvBN) and not module.affine:
        return "vanishing"
    return "any"


class Kernel(NamedTuple):
    """The convolution of an operation whose kernel can serve operations of other sizes."""

    kind: Literal["dense", "depthwise"]
    size: int  # pixels
    path: tuple[str, ...]  # of the leaf among the operation's parameters


def kernel_of(module: nn.Module) -> Kernel | None:
    """The kernel that `module` may share with its like; None: it has none, as every operation of a user's own."""
    if isinstance(module, ConvBN):
        return Kernel("dense", module.kernel, ("Conv_0", "kernel"))
    if isinstance(module, DynamicConvBN):
        return Kernel("dense", module.kernel, ("kernel",))
    if isinstance(module, InvertedResidual):
        return Kernel("depthwise", module.kernel, ("depthwise", "kernel"))
    return None


def has_shortcut(module: nn.Module, in_channels: int) -> bool:
    """Whether `module` adds its input to what it makes of it, so that path dropout can take the latter away."""
    return isinstance(module, BLOCKS_WITH_SHORTCUT) and module.stride == 1 and module.channels == in_channels


__all__ = [
    "DYNAMIC_OPS",
    "OPS",
    "Algebra",
    "Channels",
    "Classifier",
    "DynamicConvBN",
    "Head",
    "Kernel",
    "MaxPool",
    "OpFactory",
    "Place",
    "Policy",
    "Reduction",
    "ScaleShift",
    "Skip",
    "Stem",
    "Tape",
    "Zero",
    "algebra",
    "has_shortcut",
    "kernel_of",
]
