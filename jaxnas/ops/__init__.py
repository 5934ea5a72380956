"""Candidate operations: functions of (parameters, x, tape) that return activations, most of them Flax modules.

`OPS` maps a candidate's name to how it is built: `(channels, stride, affine, policy) -> candidate`, which is whatever
`as_operation` takes. Those of a user's own are in a dict like it, `SearchSpace.operations`.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from jaxnas.ops.convolution import Classifier, ConvBN, Head, Stem
from jaxnas.ops.dynamic import DYNAMIC_OPS, Channels, DynamicConvBN, MaxPool, PlaceChannels, ScaleShift
from jaxnas.ops.elastic import ChannelMask, NormRelu, PooledProjection
from jaxnas.ops.mobile import DoubleDepthwise, Identity, InvertedResidual, NormalBottleneck, ResidualPair
from jaxnas.ops.nnx import NNXOperation
from jaxnas.ops.normalisation import Policy, Tape
from jaxnas.ops.operation import Algebra, Convolution, Cost, Kernel, Operation, as_operation, conv_cost
from jaxnas.ops.partial import PartialChannels
from jaxnas.ops.pooling import AveragePool, Reduction, Skip, Zero
from jaxnas.ops.recurrent import Bias, Gated, Product, Words
from jaxnas.ops.separable import DilatedConv, FactorisedReduction, SeparableConv

OpFactory = Callable[[int, int, bool, Policy], Any]


def _inverted(expansion: int, kernel: int) -> OpFactory:
    return lambda channels, stride, affine, policy: InvertedResidual(
        channels, stride, expansion, kernel, affine, policy
    )


def _bottleneck(reduction: int, kernel: int) -> OpFactory:
    return lambda channels, stride, affine, policy: NormalBottleneck(
        channels, stride, reduction, kernel, affine, policy
    )


def _of_size(block: Callable[..., Any], kernel: int) -> OpFactory:
    return lambda channels, stride, affine, policy: block(channels, stride, kernel, affine, policy)


def _relu_conv_bn(kernel: int) -> OpFactory:
    return lambda channels, stride, affine, policy: ConvBN(channels, kernel, stride, True, affine, policy)


def _skip(channels: int, stride: int, affine: bool, policy: Policy) -> Any:
    return Skip() if stride == 1 else FactorisedReduction(channels, affine, policy)


OPS: dict[str, OpFactory] = {
    "none": lambda channels, stride, affine, policy: Zero(stride=stride),
    "skip_connect": _skip,
    "nor_conv_1x1": _relu_conv_bn(1),
    "nor_conv_3x3": _relu_conv_bn(3),
    "avg_pool_3x3": lambda channels, stride, affine, policy: AveragePool(stride),
    "max_pool_3x3": lambda channels, stride, affine, policy: MaxPool(stride),
    **{f"sep_conv_{k}x{k}": _of_size(SeparableConv, k) for k in (3, 5)},
    **{f"dil_conv_{k}x{k}": _of_size(DilatedConv, k) for k in (3, 5)},
    "identity": Identity,
    **{f"mb{e}_k{k}": _inverted(e, k) for e in (1, 2, 3, 4, 6) for k in (3, 5, 7)},
    **{f"nconv{r}_k{k}": _bottleneck(r, k) for r in (2, 4) for k in (3, 5, 7)},
    **{f"rconv_k{k}": _of_size(ResidualPair, k) for k in (3, 5, 7)},
    **{f"dconv_k{k}": _of_size(DoubleDepthwise, k) for k in (3, 5, 7)},
}


def check_names(space: str, names: Iterable[str], operations: Mapping[str, Any]) -> None:
    """Raise a ValueError where a name is neither in `OPS` nor among the operations of the space itself."""
    known = {**OPS, **operations}
    if unknown := sorted(set(names) - set(known)):
        raise ValueError(
            f"{space}: no operation named {', '.join(unknown)}; enter it in the space's `operations`, or take one"
            f" of {', '.join(known)}."
        )


__all__ = [
    "DYNAMIC_OPS",
    "OPS",
    "Algebra",
    "Bias",
    "ChannelMask",
    "Channels",
    "Classifier",
    "ConvBN",
    "Convolution",
    "Cost",
    "DynamicConvBN",
    "FactorisedReduction",
    "Gated",
    "Head",
    "Kernel",
    "MaxPool",
    "NNXOperation",
    "NormRelu",
    "OpFactory",
    "Operation",
    "PartialChannels",
    "PlaceChannels",
    "Policy",
    "PooledProjection",
    "Product",
    "Reduction",
    "ScaleShift",
    "Skip",
    "Stem",
    "Tape",
    "Words",
    "Zero",
    "as_operation",
    "check_names",
    "conv_cost",
]
