"""Operations of DARTS's space (arXiv 1806.09055, section 3.1.1): separable and dilated convolutions, and the projection
that halves an image."""

import chex
import flax.linen as nn
import jax.numpy as jnp

from jaxnas.ops.convolution import Conv, ConvBN
from jaxnas.ops.depthwise import Depthwise
from jaxnas.ops.normalisation import BatchNorm, Policy, Tape
from jaxnas.ops.operation import Algebra, Convolution, Cost, conv_cost


class SeparableConv(nn.Module):
    """ReLU, depthwise, 1x1 and batch normalisation, twice; the first depthwise convolution has the stride."""

    channels: int
    stride: int
    kernel: int
    affine: bool = True
    policy: Policy = Policy()

    @nn.compact
    def __call__(self, x: chex.Array, tape: Tape) -> chex.Array:
        for half, stride, channels in (("first", self.stride, x.shape[-1]), ("second", 1, self.channels)):
            x = Depthwise(self.kernel, stride, self.policy, name=f"{half}_depthwise")(tape.relu(x))
            x = ConvBN(channels, 1, affine=self.affine, policy=self.policy, name=f"{half}_project")(x, tape)
        return x

    def algebra(self, in_channels: int) -> Algebra:
        return "any" if self.affine else "vanishing"

    def cost(self, in_shape: tuple[int, ...]) -> Cost:
        first = Convolution(None, self.kernel, self.stride, norm=False), Convolution(in_shape[-1], 1)
        second = Convolution(None, self.kernel, norm=False), Convolution(self.channels, 1)
        return conv_cost(in_shape, *first, *second)


class DilatedConv(nn.Module):
    """ReLU, depthwise with every other pixel left out, 1x1 and batch normalisation."""

    channels: int
    stride: int
    kernel: int
    affine: bool = True
    policy: Policy = Policy()

    @nn.compact
    def __call__(self, x: chex.Array, tape: Tape) -> chex.Array:
        x = Depthwise(self.kernel, self.stride, self.policy, dilation=2, name="depthwise")(tape.relu(x))
        return ConvBN(self.channels, 1, affine=self.affine, policy=self.policy, name="project")(x, tape)

    def algebra(self, in_channels: int) -> Algebra:
        return "any" if self.affine else "vanishing"

    def cost(self, in_shape: tuple[int, ...]) -> Cost:
        depthwise = Convolution(None, self.kernel, self.stride, norm=False)
        return conv_cost(in_shape, depthwise, Convolution(self.channels, 1))


class FactorisedReduction(nn.Module):
    """ReLU, two 1x1 convolutions of stride 2, the second one pixel on, their halves of the channels side by side, and
    batch normalisation; of images with even sides."""

    channels: int
    affine: bool = True
    policy: Policy = Policy()

    @nn.compact
    def __call__(self, x: chex.Array, tape: Tape) -> chex.Array:
        x, half = tape.relu(x), self.channels // 2
        first = Conv(half, 1, 2, self.policy, name="first")(x)
        second = Conv(self.channels - half, 1, 2, self.policy, name="second")(x[:, 1:, 1:])
        return BatchNorm(self.affine, self.policy)(jnp.concatenate([first, second], axis=-1), tape)

    def algebra(self, in_channels: int) -> Algebra:
        return "any" if self.affine else "vanishing"

    def cost(self, in_shape: tuple[int, ...]) -> Cost:
        return conv_cost(in_shape, Convolution(self.channels, 1, stride=2))
