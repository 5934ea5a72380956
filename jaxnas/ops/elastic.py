"""Elastic width: operations of full width whose surplus channels a mask sets to zero (NATS-Bench's size space).

A channel's normalisation knows nothing of the others, and channels that are zero add nothing to a convolution. So what
stands behind a mask is, channel by channel, what a network without the masked channels computes, as long as a mask
follows wherever normalisation or a bias may have put something else than zero there.
"""

import chex
import flax.linen as nn
import jax.numpy as jnp

from jaxnas.ops.convolution import Conv
from jaxnas.ops.normalisation import BatchNorm, Policy, Tape
from jaxnas.ops.operation import Algebra, Convolution, Cost, Free, conv_cost
from jaxnas.ops.pooling import halve


class ChannelMask(Free):
    """The first `width` channels, zeros in place of the others."""

    width: int

    @nn.compact
    def __call__(self, x: chex.Array, tape: Tape) -> chex.Array:
        return mask_channels(x, self.width)

    def algebra(self, in_channels: int) -> Algebra:
        return "linear"


def mask_channels(x: chex.Array, width: int | chex.Array) -> chex.Array:
    """x [num_images, height, width, channels] with zeros in place of all but the first `width` channels."""
    return jnp.where(jnp.arange(x.shape[-1]).reshape(1, 1, 1, -1) < width, x, jnp.zeros_like(x))


class PooledProjection(nn.Module):
    """2x2 average pooling and 1x1 convolution: what stands beside the convolutions of NAS-Bench-201's reduction."""

    channels: int
    policy: Policy = Policy()

    @nn.compact
    def __call__(self, x: chex.Array, tape: Tape) -> chex.Array:
        return Conv(self.channels, 1, 1, self.policy)(halve(x))

    def algebra(self, in_channels: int) -> Algebra:
        return "vanishing"

    def cost(self, in_shape: tuple[int, ...]) -> Cost:
        return conv_cost(in_shape, Convolution(self.channels, 1, 2, norm=False))


class NormRelu(nn.Module):
    """Batch normalisation and ReLU."""

    affine: bool = True
    policy: Policy = Policy()

    @nn.compact
    def __call__(self, x: chex.Array, tape: Tape) -> chex.Array:
        return tape.relu(BatchNorm(self.affine, self.policy)(x, tape))

    def cost(self, in_shape: tuple[int, ...]) -> Cost:
        return Cost(0.0, 2.0 * in_shape[-1])
