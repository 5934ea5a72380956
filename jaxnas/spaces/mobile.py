"""Mobile chain spaces, after those of PC-NAS (Li et al., CVPR 2020, arXiv 1910.02543): mix-ops in the stages of
MobileNetV2.

The paper's: a chain of mix-ops in a MobileNetV2-like layout; a small space of inverted residuals (MBConv) that differ
in kernel and expansion, and a large one that adds normal bottlenecks (NConv), residual pairs of ordinary convolutions
(RConv) and blocks of two depthwise convolutions (DConv). Chosen here, since its exact layouts and settings are not to
be had: the stages, which are those of MobileNetV2 (Sandler et al., CVPR 2018, table 2) with its first block fixed;
kernels 3, 5, 7 and expansions 3, 6; reduction 2 in NConv; the order of the candidates; skips, "identity", wherever
shapes agree; ReLU throughout; and the networks for CIFAR, which keep the resolution in the stem and the 24s.

A layout of your own is a list of stages:

    mine = mobile_space(
        "mine",
        [
            Stage(16, 1, stride=1, ops=("mb1_k3",)),  # one candidate: fixed
            Stage(24, 3, stride=2),
            Stage(48, 3, stride=2),
            Stage(96, 2, stride=1, ops=("mb6_k7", "dconv_k5", "nconv2_k3")),
        ],
        SMALL_OPS,
        stem_width=16,
        head_width=320,
        image_size=32,
    )
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxnas.space import ChainLayout, SearchSpace
from jaxnas.spaces.chain import IDENTITY, chain_space

SMALL_OPS = tuple(f"mb{expansion}_k{kernel}" for expansion in (3, 6) for kernel in (3, 5, 7))
LARGE_OPS = (
    *SMALL_OPS,
    *(f"nconv2_k{kernel}" for kernel in (3, 5, 7)),
    "rconv_k3",
    *(f"dconv_k{kernel}" for kernel in (3, 5, 7)),
)


class Stage(NamedTuple):
    """A run of layers of one width; the first one brings width and stride about."""

    width: int  # channels
    num_layers: int
    stride: int  # of the first layer
    ops: tuple[str, ...] | None = None  # its own candidates; None: the space's


MOBILENET_V2 = (
    Stage(16, 1, 1, ("mb1_k3",)),
    Stage(24, 2, 2),
    Stage(32, 3, 2),
    Stage(64, 4, 2),
    Stage(96, 3, 1),
    Stage(160, 3, 2),
    Stage(320, 1, 1),
)
# 1.4 times as wide, to multiples of 8 as its authors' code has it; so are stem, 48, and head, 1,792.
MOBILENET_V2_140 = tuple(stage._replace(width=8 * round(1.4 * stage.width / 8)) for stage in MOBILENET_V2)
MOBILENET_V2_CIFAR = tuple(stage._replace(stride=1) if stage.width == 24 else stage for stage in MOBILENET_V2)


def mobile_space(
    name: str,
    stages: Sequence[Stage],
    ops: Sequence[str],
    *,
    stem_width: int = 32,
    stem_stride: int = 1,
    head_width: int = 1280,
    image_size: int = 32,
    num_classes: int = 10,
) -> SearchSpace:
    """A chain with one choice for each layer of `stages`.

    The candidates of a layer are the stage's, or else `ops`; and "identity" behind them where stride and width stay and
    there is more than one candidate. Names are those of `jaxnas.ops.OPS`.

    Raises:
      ValueError: there is no stage, or one with fewer than one layer, channel or pixel of stride; as `chain_space`.
    """
    widths: list[int] = []
    strides: list[int] = []
    op_names: list[tuple[str, ...]] = []
    for number, stage in enumerate(stages):
        if min(stage.width, stage.num_layers, stage.stride) < 1:
            raise ValueError(f"{name}: stage {number} is {stage}, expected width, num_layers and stride of at least 1.")
        for layer in range(stage.num_layers):
            in_width, stride = (widths[-1] if widths else stem_width), (1 if layer else stage.stride)
            candidates = tuple(ops if stage.ops is None else stage.ops)
            can_skip = stride == 1 and in_width == stage.width and len(candidates) > 1 and IDENTITY not in candidates
            widths.append(stage.width)
            strides.append(stride)
            op_names.append((*candidates, IDENTITY) if can_skip else candidates)
    layout = ChainLayout(
        stem_width,
        tuple(widths),
        tuple(strides),
        head_width,
        image_size=image_size,
        num_classes=num_classes,
        stem_stride=stem_stride,
    )
    return chain_space(name, layout, op_names)


mobile_small = mobile_space("mobile_small", MOBILENET_V2, SMALL_OPS, stem_stride=2, image_size=224, num_classes=1000)
mobile_large = mobile_space("mobile_large", MOBILENET_V2, LARGE_OPS, stem_stride=2, image_size=224, num_classes=1000)
mobile_small_cifar = mobile_space("mobile_small_cifar", MOBILENET_V2_CIFAR, SMALL_OPS)
mobile_large_cifar = mobile_space("mobile_large_cifar", MOBILENET_V2_CIFAR, LARGE_OPS)
mobile_small_140 = mobile_space(
    "mobile_small_140",
    MOBILENET_V2_140,
    SMALL_OPS,
    stem_width=48,
    stem_stride=2,
    head_width=1792,
    image_size=224,
    num_classes=1000,
)


def mobilenet_v2(space: SearchSpace) -> np.ndarray:
    """MobileNetV2 as a code int32 [num_choices] of a chain: its block, kernel 3 and expansion 6, wherever there is a
    choice, but ReLU in the place of its ReLU6, and a 1x1 convolution more in its first block. Of `mobile_small` the
    network called 1.0, of `mobile_small_140` 1.4.

    Raises:
      ValueError: a choice without that block.
    """
    block = "mb6_k3"
    code = [names.index(block) if block in names else 0 for names in space.op_names]
    lacks = [place for place, names in enumerate(space.op_names) if block not in names and len(names) > 1]
    if lacks:
        raise ValueError(
            f"{space.name}: choice {lacks[0]} has no {block} ({', '.join(space.op_names[lacks[0]])}); MobileNetV2 is a"
            " network of chains that have it at every choice."
        )
    return np.array(code, np.int32)
