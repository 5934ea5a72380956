"""Operations of cells whose wiring is searched (NAS-Bench-101), where a vertex's width depends on the whole cell.

Activations have the full width, so that shapes are fixed; an operation reads and writes the first `width` channels.
What stands beyond them is never read.
"""

import functools
from collections.abc import Callable
from typing import Literal

import chex
import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from jaxnas.ops.convolution import convolve, project
from jaxnas.ops.normalisation import Policy, Tape, scale_and_shift
from jaxnas.ops.operation import Algebra, Convolution, Cost, Free, Kernel, conv_cost

Channels = Literal["fixed", "shuffled", "interpolated", "expanded", "disabled"]


class DynamicConvBN(nn.Module):
    """Convolution, batch normalisation and ReLU at one of several widths, after which zeros fill up to `channels`.

    Of kernels [kernel, kernel, in_channels, channels] that all widths share, `rule` makes those of `in_width` and
    `width`: see `narrow`. Scale and shift are the first `width` of `channels`. "expanded": there is nothing to share,
    the parameters have the true shapes.

    Attributes:
      norm_only: leave scale, shift and ReLU to what follows (`ScaleShift`).
      seed: of the shuffled channels.
    """

    channels: int
    width: int
    in_width: int
    kernel: int
    rule: Channels = "fixed"
    norm_only: bool = False
    affine: bool = True
    policy: Policy = Policy()
    seed: int = 0

    @nn.compact
    def __call__(self, x: chex.Array, tape: Tape) -> chex.Array:
        full = self.rule != "expanded"
        channels, in_channels = (self.channels, x.shape[-1]) if full else (self.width, self.in_width)
        shape = (self.kernel, self.kernel, in_channels, channels)
        kernels = self.param("kernel", nn.initializers.he_normal(), shape, self.policy.params).astype(x.dtype)
        if full:
            kernels = narrow(kernels, 2, self.in_width, rule=self.rule, seed=self.seed)
            kernels = narrow(kernels, 3, self.width, rule=self.rule, seed=self.seed)
        x = x[..., : self.in_width]
        x = project(x, kernels[0, 0], False) if self.kernel == 1 else convolve(x, kernels, 1, False)
        x = tape.normalise(x)
        if not self.norm_only:
            if self.affine:
                scale = self.param("scale", nn.initializers.ones, (channels,), self.policy.params)
                bias = self.param("bias", nn.initializers.zeros, (channels,), self.policy.params)
                x = scale_and_shift(x, scale[: self.width], bias[: self.width])
            x = tape.relu(x)
        return place(x, 0, self.channels)

    def cost(self, in_shape: tuple[int, ...]) -> Cost:
        return conv_cost((*in_shape[:2], self.in_width), Convolution(self.width, self.kernel))

    def shared_kernel(self) -> Kernel:
        return Kernel("dense", self.kernel, ("kernel",))


def narrow(kernels: chex.Array, axis: int, width: int, *, rule: Channels, seed: int = 0) -> chex.Array:
    """Kernels for `width` of the channels along `axis`; all channels are taken as they are.

    The variants of "How to Train Your Super-Net" (arXiv 2003.04276). "fixed": the first channels. "shuffled": channels
    drawn by `seed`, for each width and axis anew, so that a channel is another one wherever it is used; drawn once, so
    that scores are reproducible, where the authors draw at each forward pass. "interpolated": averages of neighbours,
    channel i from those between i / width and (i + 1) / width of the axis (adaptive average pooling).
    """
    channels = kernels.shape[axis]
    if width == channels:
        return kernels
    if rule == "shuffled":
        drawn = np.random.default_rng((seed, width, axis)).permutation(channels)[:width]
        return jnp.take(kernels, drawn, axis=axis)
    if rule == "interpolated":
        number = np.arange(width)
        first, end = number * channels // width, -(-(number + 1) * channels // width)
        inside = (np.arange(channels)[:, None] >= first) & (np.arange(channels)[:, None] < end)
        return jnp.moveaxis(jnp.moveaxis(kernels, axis, -1) @ (inside / (end - first)).astype(kernels.dtype), -1, axis)
    return kernels[(slice(None),) * axis + (slice(width),)]


class ScaleShift(Free):
    """Scale and shift of a normalised input, and ReLU: one such set for each input configuration of a vertex. It counts
    nothing: `DynamicConvBN` counts them, wherever they are."""

    policy: Policy = Policy()

    @nn.compact
    def __call__(self, x: chex.Array, tape: Tape) -> chex.Array:
        scale = self.param("scale", nn.initializers.ones, x.shape[-1:], self.policy.params)
        bias = self.param("bias", nn.initializers.zeros, x.shape[-1:], self.policy.params)
        return tape.relu(scale_and_shift(x, scale, bias))


class PlaceChannels(Free):
    """The first `width` channels moved to `offset`, zeros around them: one part of a concatenation."""

    offset: int
    width: int
    channels: int | None = None  # in all; None: as many as the input

    @nn.compact
    def __call__(self, x: chex.Array, tape: Tape) -> chex.Array:
        return place(x[..., : self.width], self.offset, self.channels or x.shape[-1])

    def algebra(self, in_channels: int) -> Algebra:
        return "linear"


def place(x: chex.Array, offset: int, channels: int) -> chex.Array:
    return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (offset, channels - offset - x.shape[-1])))


class MaxPool(Free):
    """Maximum over a window of the pixels that exist; as maxima of slices, which like other pooling are faster on CPU
    than `reduce_window`."""

    stride: int = 1
    kernel: int = 3  # pixels; of an even one the window begins at the pixel itself

    @nn.compact
    def __call__(self, x: chex.Array, tape: Tape) -> chex.Array:
        for axis in (1, 2):
            x = _windows(x, axis, self.kernel, self.stride)
        return x

    def algebra(self, in_channels: int) -> Algebra:
        return "vanishing"


def _windows(x: chex.Array, axis: int, kernel: int, stride: int) -> chex.Array:
    size = x.shape[axis]
    if pad := (kernel - 1) // 2:
        pads = [(0, 0)] * x.ndim
        pads[axis] = (pad, pad)
        x = jnp.pad(x, pads, constant_values=-jnp.inf)

    def of(start: int) -> chex.Array:
        return x[(slice(None),) * axis + (slice(start, start + size, stride),)]

    return functools.reduce(_larger, map(of, range(kernel)))


def _larger(x: chex.Array, y: chex.Array) -> chex.Array:
    """The maximum that keeps NaN (see `relu`); the gradient goes to the first of equals."""
    return jnp.where((x >= y) | (x != x), x, y)


# NAS-Bench-101's candidates: DynamicConvBN's arguments but the kernel -> module.
DYNAMIC_OPS: dict[str, Callable[..., nn.Module]] = {
    "conv3x3-bn-relu": functools.partial(DynamicConvBN, kernel=3),
    "conv1x1-bn-relu": functools.partial(DynamicConvBN, kernel=1),
    "maxpool3x3": lambda **_: MaxPool(),
}
