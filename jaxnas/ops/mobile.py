"""Candidates of mobile-style chain spaces: inverted residuals, and three families of ordinary and depthwise blocks.

Each has a shortcut where stride is 1 and widths agree, and nothing after the sum; path dropout takes away what stands
beside it.
"""

import chex
import flax.linen as nn

from jaxnas.ops.convolution import Conv, ConvBN
from jaxnas.ops.depthwise import Depthwise
from jaxnas.ops.normalisation import BatchNorm, Policy, Tape
from jaxnas.ops.operation import Algebra, Convolution, Cost, Kernel, conv_cost


class Block(nn.Module):
    """Something with a shortcut beside it where stride is 1 and widths agree."""

    channels: int
    stride: int

    def beside_shortcut(self, x: chex.Array, y: chex.Array, tape: Tape) -> chex.Array:
        """The sum of the block's input x and what it makes of it, y; y alone where there is no shortcut."""
        return x + tape.drop(y) if self.has_shortcut(x.shape[-1]) else y

    def has_shortcut(self, in_channels: int) -> bool:
        return self.stride == 1 and in_channels == self.channels


class InvertedResidual(Block):
    """1x1 expansion, depthwise, 1x1 projection, each with batch normalisation, ReLU after the first two; a shortcut
    where stride is 1 and widths agree (NAS-Bench-Macro, its authors' train/model.py)."""

    expansion: int
    kernel: int
    affine: bool = True
    policy: Policy = Policy()

    @nn.compact
    def __call__(self, x: chex.Array, tape: Tape) -> chex.Array:
        hidden = x.shape[-1] * self.expansion
        y = Conv(hidden, 1, 1, self.policy, name="expand")(x)
        y = tape.relu(BatchNorm(self.affine, self.policy, name="expand_bn")(y, tape))
        y = Depthwise(self.kernel, self.stride, self.policy, name="depthwise")(y)
        y = tape.relu(BatchNorm(self.affine, self.policy, name="depthwise_bn")(y, tape))
        y = Conv(self.channels, 1, 1, self.policy, name="project")(y)
        y = BatchNorm(self.affine, self.policy, name="project_bn")(y, tape)
        return self.beside_shortcut(x, y, tape)

    def cost(self, in_shape: tuple[int, ...]) -> Cost:
        expand = Convolution(in_shape[-1] * self.expansion, 1)
        return conv_cost(in_shape, expand, Convolution(None, self.kernel, self.stride), Convolution(self.channels, 1))

    def shared_kernel(self) -> Kernel:
        return Kernel("depthwise", self.kernel, ("depthwise", "kernel"))


class NormalBottleneck(Block):
    """1x1 to a `reduction`-th of the output's channels, ordinary convolution, 1x1, each with batch normalisation, ReLU
    after the first two: the bottleneck of ResNet (He et al., CVPR 2016, section 4.1) without the ReLU after the sum."""

    reduction: int
    kernel: int
    affine: bool = True
    policy: Policy = Policy()

    @nn.compact
    def __call__(self, x: chex.Array, tape: Tape) -> chex.Array:
        hidden = max(1, self.channels // self.reduction)
        y = tape.relu(ConvBN(hidden, 1, affine=self.affine, policy=self.policy, name="reduce")(x, tape))
        y = ConvBN(hidden, self.kernel, self.stride, affine=self.affine, policy=self.policy, name="convolve")(y, tape)
        y = ConvBN(self.channels, 1, affine=self.affine, policy=self.policy, name="expand")(tape.relu(y), tape)
        return self.beside_shortcut(x, y, tape)

    def cost(self, in_shape: tuple[int, ...]) -> Cost:
        hidden = max(1, self.channels // self.reduction)
        convolve = Convolution(hidden, self.kernel, self.stride)
        return conv_cost(in_shape, Convolution(hidden, 1), convolve, Convolution(self.channels, 1))


class ResidualPair(Block):
    """Two ordinary convolutions with batch normalisation, ReLU between: the basic block of ResNet (the same section)
    without the ReLU after the sum."""

    kernel: int
    affine: bool = True
    policy: Policy = Policy()

    @nn.compact
    def __call__(self, x: chex.Array, tape: Tape) -> chex.Array:
        y = ConvBN(self.channels, self.kernel, self.stride, affine=self.affine, policy=self.policy, name="first")(
            x, tape
        )
        y = tape.relu(y)
        y = ConvBN(self.channels, self.kernel, affine=self.affine, policy=self.policy, name="second")(y, tape)
        return self.beside_shortcut(x, y, tape)

    def cost(self, in_shape: tuple[int, ...]) -> Cost:
        first = Convolution(self.channels, self.kernel, self.stride)
        return conv_cost(in_shape, first, Convolution(self.channels, self.kernel))


class DoubleDepthwise(Block):
    """Depthwise and 1x1, twice, with batch normalisation after each of the four and ReLU after the first three."""

    kernel: int
    affine: bool = True
    policy: Policy = Policy()

    @nn.compact
    def __call__(self, x: chex.Array, tape: Tape) -> chex.Array:
        y = x
        for half, stride in (("first", self.stride), ("second", 1)):
            y = Depthwise(self.kernel, stride, self.policy, name=f"{half}_depthwise")(y)
            y = tape.relu(BatchNorm(self.affine, self.policy, name=f"{half}_depthwise_bn")(y, tape))
            y = ConvBN(self.channels, 1, affine=self.affine, policy=self.policy, name=f"{half}_project")(y, tape)
            y = tape.relu(y) if half == "first" else y
        return self.beside_shortcut(x, y, tape)

    def cost(self, in_shape: tuple[int, ...]) -> Cost:
        first, second = Convolution(None, self.kernel, self.stride), Convolution(None, self.kernel)
        project = Convolution(self.channels, 1)
        return conv_cost(in_shape, first, project, second, project)


class Identity(nn.Module):
    """Nothing where shapes agree, else a strided 1x1 convolution with batch normalisation (NAS-Bench-Macro)."""

    channels: int
    stride: int
    affine: bool = True
    policy: Policy = Policy()

    @nn.compact
    def __call__(self, x: chex.Array, tape: Tape) -> chex.Array:
        if self.algebra(x.shape[-1]) == "same":
            return x
        return ConvBN(self.channels, 1, self.stride, affine=self.affine, policy=self.policy)(x, tape)

    def algebra(self, in_channels: int) -> Algebra:
        return "same" if self.stride == 1 and in_channels == self.channels else "any"

    def cost(self, in_shape: tuple[int, ...]) -> Cost:
        convolutions = [] if self.algebra(in_shape[-1]) == "same" else [Convolution(self.channels, 1, self.stride)]
        return conv_cost(in_shape, *convolutions)
