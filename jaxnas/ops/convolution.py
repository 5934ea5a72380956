"""Convolutions in the form that runs fast on every device, and the units built from them.

All take x [num_images, height, width, channels] and pad so that stride 1 keeps the size.
"""

import functools
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxnas.ops.derivative import derivative_by, vary_alike
from jaxnas.ops.normalisation import BatchNorm, Policy, Tape, relu, through_relu
from jaxnas.ops.operation import Algebra, Convolution, Cost, Kernel, conv_cost
from jaxnas.ops.platform import by_platform
from jaxnas.ops.reduction import is_large

_init = nn.initializers.variance_scaling(2.0, "fan_in", "normal")


class Conv(nn.Module):
    """Convolution without bias. 1x1 is a matrix product: up to twice as fast as a convolution on CPU."""

    channels: int
    kernel: int
    stride: int
    policy: Policy
    relu_first: bool = False

    @nn.compact
    def __call__(self, x: chex.Array) -> chex.Array:
        shape = (self.kernel, self.kernel, x.shape[-1], self.channels)
        weights = self.param("kernel", _init, shape, self.policy.params).astype(x.dtype)
        if self.kernel == 1:
            return project(x[:, :: self.stride, :: self.stride], weights[0, 0], self.relu_first)
        return convolve(x, weights, self.stride, self.relu_first)


def _project_backward(relu_first, kept, cotangent):
    x, weights = kept
    given = relu(x) if relu_first else x
    x_cotangent = cotangent @ weights.T
    if relu_first:
        x_cotangent = through_relu(x, x_cotangent)
    return x_cotangent, given.reshape(-1, x.shape[-1]).T @ cotangent.reshape(-1, cotangent.shape[-1])


@derivative_by(_project_backward, num_linear=2, static=(2,))
def project(x: chex.Array, weights: chex.Array, relu_first: bool) -> Any:
    """x [num_images, height, width, in_channels], after a ReLU if relu_first, by weights [in_channels, channels]."""
    return (relu(x) if relu_first else x) @ weights, (x, weights)  # not relu(x), which is soon made again


def _convolve_backward(stride, relu_first, kept, cotangent):
    def by_autodiff(x, weights, cotangent):
        return jax.vjp(lambda x, weights: _convolve(x, weights, stride, relu_first), x, weights)[1](cotangent)

    by_products = functools.partial(_convolve_backward_on_cpu, stride, relu_first)
    return by_platform(*kept, cotangent, cpu=by_products, others=by_autodiff)


def _convolve_backward_on_cpu(stride, relu_first, x, weights, cotangent):
    turned = weights[::-1, ::-1].swapaxes(2, 3)
    kernel, (height, width) = len(weights), x.shape[1:3]

    if is_large(x):

        @functools.partial(jax.checkpoint, prevent_cse=False)
        def of_image(x, cotangent):
            """[kernel, channels, kernel * in_channels]: a product for each row of the kernel, of what its columns meet,
            which stays in the cache and is laid out once for all rows."""
            padded = jnp.pad(relu(x) if relu_first else x, ((kernel // 2,) * 2,) * 2 + ((0, 0),))
            columns = jnp.concatenate([padded[:, j : j + width : stride] for j in range(kernel)], axis=-1)
            pixels = cotangent.reshape(-1, cotangent.shape[-1])
            rows = (columns[i : i + height : stride].reshape(len(pixels), -1) for i in range(kernel))
            return jnp.stack([pixels.T @ row for row in rows])

        def add_image(total, image):
            return total + of_image(*image), None

        zeros = jnp.zeros((kernel, weights.shape[3], kernel * weights.shape[2]), x.dtype)
        total, _ = jax.lax.scan(add_image, vary_alike((zeros, x, cotangent))[0], (x, cotangent))
        total = total.reshape(kernel, weights.shape[3], kernel, weights.shape[2]).transpose(0, 2, 3, 1)
    else:
        patches = shifted(relu(x) if relu_first else x, kernel, stride)
        nothing = jnp.zeros((*cotangent.shape[:-1], x.shape[-1]), x.dtype)
        columns = jnp.concatenate([patches.get((i, j), nothing) for i in range(kernel) for j in range(kernel)], axis=-1)
        total = columns.reshape(-1, columns.shape[-1]).T @ cotangent.reshape(-1, cotangent.shape[-1])
        total = total.reshape(weights.shape)
    x_cotangent = _convolve(spread(cotangent, x.shape, stride), turned, 1, False)
    if relu_first:
        x_cotangent = through_relu(x, x_cotangent)
    return x_cotangent, total


@derivative_by(_convolve_backward, num_linear=2, static=(2, 3))
def convolve(x: chex.Array, weights: chex.Array, stride: int, relu_first: bool) -> Any:
    """x [num_images, height, width, in_channels], after a ReLU if relu_first, by weights [kernel, kernel, in_channels,
    channels], zero-padded.

    The gradient on CPU is written out: inside loops and conditionals XLA leaves the transposed convolutions that
    autodiff makes in a form that is twenty to sixty times slower there. Like `project` it remembers x, not relu(x).
    """
    return _convolve(x, weights, stride, relu_first), (x, weights)


def _convolve(x, weights, stride, relu_first):
    pad = len(weights) // 2
    numbers = ("NHWC", "HWIO", "NHWC")
    x = relu(x) if relu_first else x
    return jax.lax.conv_general_dilated(x, weights, (stride,) * 2, [(pad, pad)] * 2, dimension_numbers=numbers)


def spread(cotangent: chex.Array, shape: tuple[int, ...], stride: int) -> chex.Array:
    """Cotangent of a strided output at the places of x, of this shape, that it comes from, zeros between."""
    margins = [(0, 0, 0), *((0, (size - 1) % stride, stride - 1) for size in shape[1:3]), (0, 0, 0)]
    return jax.lax.pad(cotangent, jnp.zeros((), cotangent.dtype), margins)


class Unfold(nn.Module):
    """Convolution without bias as one matrix product over gathered patches: for stems, whose inputs have few
    channels. Several super-nets under `vmap` stay a batched product instead of a grouped convolution."""

    channels: int
    kernel: int
    stride: int
    policy: Policy

    @nn.compact
    def __call__(self, x: chex.Array) -> chex.Array:
        shape = (self.kernel * self.kernel * x.shape[-1], self.channels)
        weights = self.param("kernel", _init, shape, self.policy.params).astype(x.dtype)
        views = shifted(x, self.kernel, self.stride)
        if len(views) < self.kernel**2:  # of an image of one pixel the window's middle alone
            met = np.array([row * self.kernel + column for row, column in views])
            weights = weights.reshape(self.kernel**2, -1)[met].reshape(-1, self.channels)
        return jnp.concatenate(list(views.values()), axis=-1) @ weights


def shifted(x: chex.Array, kernel: int, stride: int, dilation: int = 1) -> dict[tuple[int, int], chex.Array]:
    """The views of zero-padded x that a window meets, by (row, column) in the kernel; those of padding alone, which
    small images under large kernels have, are left out."""
    height, width = x.shape[1:3]
    pad = dilation * (kernel // 2)
    x = jnp.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    return {
        (i, j): x[:, row : row + height : stride, column : column + width : stride]
        for i, row in enumerate(range(0, kernel * dilation, dilation))
        for j, column in enumerate(range(0, kernel * dilation, dilation))
        if abs(row - pad) < height and abs(column - pad) < width
    }


class ConvBN(nn.Module):
    """Optional ReLU, convolution, batch normalisation."""

    channels: int
    kernel: int
    stride: int = 1
    relu_first: bool = False
    affine: bool = True
    policy: Policy = Policy()

    @nn.compact
    def __call__(self, x: chex.Array, tape: Tape) -> chex.Array:
        if self.relu_first:
            tape.rectified.append(x)  # by the convolution itself
        x = Conv(self.channels, self.kernel, self.stride, self.policy, self.relu_first)(x)
        return BatchNorm(self.affine, self.policy)(x, tape)

    def algebra(self, in_channels: int) -> Algebra:
        return "any" if self.affine else "vanishing"

    def cost(self, in_shape: tuple[int, ...]) -> Cost:
        return conv_cost(in_shape, Convolution(self.channels, self.kernel, self.stride))

    def shared_kernel(self) -> Kernel:
        return Kernel("dense", self.kernel, ("Conv_0", "kernel"))


class Stem(nn.Module):
    """3x3 convolution and batch normalisation from image channels; ReLU where the published network has one."""

    channels: int
    stride: int = 1
    relu: bool = False
    affine: bool = True
    policy: Policy = Policy()

    @nn.compact
    def __call__(self, x: chex.Array, tape: Tape) -> chex.Array:
        x = Unfold(self.channels, 3, self.stride, self.policy)(x.astype(self.policy.compute))
        x = BatchNorm(self.affine, self.policy)(x, tape)
        return tape.relu(x) if self.relu else x

    def cost(self, in_shape: tuple[int, ...]) -> Cost:
        return conv_cost(in_shape, Convolution(self.channels, 3, self.stride))


class Classifier(nn.Module):
    """Global average pooling, global dropout and a linear layer; logits are float32 whatever the compute type."""

    num_classes: int
    policy: Policy = Policy()

    @nn.compact
    def __call__(self, x: chex.Array, tape: Tape) -> chex.Array:
        x = tape.drop(jnp.mean(x.astype(jnp.float32), axis=(1, 2)))
        return nn.Dense(self.num_classes, param_dtype=self.policy.params, dtype=jnp.float32)(x)

    def cost(self, in_shape: tuple[int, ...]) -> Cost:
        channels = in_shape[-1]
        return Cost(float(channels * self.num_classes), float((channels + 1) * self.num_classes))


class Head(nn.Module):
    """Optional 1x1 convolution to `head_width`, batch normalisation, ReLU, pooling, classifier: returns logits."""

    head_width: int
    num_classes: int
    affine: bool = True
    policy: Policy = Policy()

    @nn.compact
    def __call__(self, x: chex.Array, tape: Tape) -> chex.Array:
        if self.head_width:
            x = Conv(self.head_width, 1, 1, self.policy)(x)
        x = tape.relu(BatchNorm(self.affine, self.policy)(x, tape))
        return Classifier(self.num_classes, self.policy)(x, tape)

    def cost(self, in_shape: tuple[int, ...]) -> Cost:
        convolutions = [Convolution(self.head_width, 1, norm=False)] if self.head_width else []
        channels = self.head_width or in_shape[-1]
        macs, params = conv_cost(in_shape, *convolutions)
        classifier = Classifier(self.num_classes, parent=None).cost((1, 1, channels))
        return Cost(macs + classifier.macs, params + 2 * channels + classifier.params)
