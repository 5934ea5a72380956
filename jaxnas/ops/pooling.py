"""Candidates without parameters, and the reduction block between stages of cells."""

import chex
import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from jaxnas.ops.convolution import Conv, ConvBN, shifted
from jaxnas.ops.normalisation import Policy, Tape
from jaxnas.ops.operation import Algebra, Convolution, Cost, Free, conv_cost


class Zero(Free):
    """No edge: zeros, of as many channels as the input or of so many."""

    channels: int | None = None
    stride: int = 1

    @nn.compact
    def __call__(self, x: chex.Array, tape: Tape) -> chex.Array:
        num_images, height, width, channels = x[:, :: self.stride, :: self.stride].shape
        return jnp.zeros((num_images, height, width, self.channels or channels), x.dtype)

    def algebra(self, in_channels: int) -> Algebra:
        return "zero"


class Skip(Free):
    """The input itself."""

    @nn.compact
    def __call__(self, x: chex.Array, tape: Tape) -> chex.Array:
        return x

    def algebra(self, in_channels: int) -> Algebra:
        return "same"


class AveragePool(Free):
    """3x3 average over the pixels that exist (padding does not count), as a sum of shifted slices: `reduce_window` is
    three to five times slower on CPU."""

    stride: int = 1

    @nn.compact
    def __call__(self, x: chex.Array, tape: Tape) -> chex.Array:
        def in_window(size: int) -> np.ndarray:
            centre = np.arange(0, size, self.stride)
            return np.minimum(centre + 1, size - 1) - np.maximum(centre - 1, 0) + 1

        count = np.outer(in_window(x.shape[1]), in_window(x.shape[2]))[None, :, :, None]
        return sum(shifted(x, 3, self.stride).values()) * jnp.asarray(1.0 / count, x.dtype)

    def algebra(self, in_channels: int) -> Algebra:
        return "linear"


def halve(x: chex.Array) -> chex.Array:
    """2x2 average at stride 2 of x [num_images, height, width, channels] with even sides."""
    num_images, height, width, channels = x.shape
    return x.reshape(num_images, height // 2, 2, width // 2, 2, channels).mean(axis=(2, 4))


class Reduction(nn.Module):
    """Halve the size, change the width: two 3x3 ReLU-convolution-normalisation units, the first strided, beside a
    2x2 average pool and 1x1 convolution (NAS-Bench-201's residual block between stages)."""

    channels: int
    affine: bool = True
    policy: Policy = Policy()

    @nn.compact
    def __call__(self, x: chex.Array, tape: Tape) -> chex.Array:
        y = ConvBN(self.channels, 3, 2, True, self.affine, self.policy, name="first")(x, tape)
        y = ConvBN(self.channels, 3, 1, True, self.affine, self.policy, name="second")(y, tape)
        return y + Conv(self.channels, 1, 1, self.policy, name="shortcut")(halve(x))

    def cost(self, in_shape: tuple[int, ...]) -> Cost:
        beside = conv_cost(in_shape, Convolution(self.channels, 1, 2, norm=False))
        units = conv_cost(in_shape, Convolution(self.channels, 3, 2), Convolution(self.channels, 3))
        return Cost(units.macs + beside.macs, units.params + beside.params)
