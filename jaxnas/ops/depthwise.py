"""Depthwise convolutions in the form that runs fast on every device: each channel has a kernel of its own.

All take x [num_images, height, width, channels] and pad so that stride 1 keeps the size.
"""

import functools
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxnas.ops.convolution import shifted, spread
from jaxnas.ops.derivative import derivative_by
from jaxnas.ops.normalisation import Policy, along_channels
from jaxnas.ops.platform import by_platform
from jaxnas.ops.reduction import image_by_image, is_large, stays_cached, sum_over_images

_init = nn.initializers.variance_scaling(2.0, "fan_in", "normal", in_axis=(0, 1), out_axis=2)


class Depthwise(nn.Module):
    """Depthwise convolution as a sum of shifted products: XLA's grouped convolution is tens of times slower on CPU."""

    kernel: int
    stride: int
    policy: Policy
    dilation: int = 1  # pixels from one place of the kernel to the next

    @nn.compact
    def __call__(self, x: chex.Array) -> chex.Array:
        shape = (self.kernel, self.kernel, x.shape[-1])
        weights = self.param("kernel", _init, shape, self.policy.params).astype(x.dtype)
        return depthwise(x, weights, self.stride, self.dilation)


def _depthwise_backward(stride, dilation, kept, cotangent):
    x, weights = kept

    def products(x, cotangent):
        return {place: part * cotangent for place, part in shifted(x, len(weights), stride, dilation).items()}

    def by_sums(x, cotangent):
        if stays_cached(x):
            return _by_places(x, cotangent, len(weights), stride, dilation)
        by_place = sum_over_images(products, x, cotangent)
        nothing = jnp.zeros(x.shape[-1], x.dtype)
        kernel = range(len(weights))
        return jnp.stack([jnp.stack([by_place.get((i, j), nothing) for j in kernel]) for i in kernel])

    def by_library(x, cotangent):  # cuDNN's in two kernels; sums take one or two for each place, and XLA merges none
        pad = dilation * (len(weights) // 2)
        grouped = functools.partial(
            jax.lax.conv_general_dilated,
            x,
            window_strides=(stride, stride),
            padding=[(pad, pad)] * 2,
            rhs_dilation=(dilation, dilation),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=x.shape[-1],
        )
        return jax.linear_transpose(grouped, weights[:, :, None])(cotangent)[0][:, :, 0]

    weights_gradient = by_platform(x, cotangent, cpu=by_sums, others=by_library)
    return _depthwise(spread(cotangent, x.shape, stride), weights[::-1, ::-1], 1, dilation), weights_gradient


def _by_places(x, cotangent, kernel, stride, dilation):
    """The gradient [kernel, kernel, channels] of the weights, a place of the kernel after the other: one small program.
    A sum for each place is compiled by itself, which takes seconds of a large kernel, and beside a forward pass that
    has the same views XLA writes all of these out."""
    sides, pad = x.shape[1:3], dilation * (kernel // 2)
    met = [[at for at in range(0, kernel * dilation, dilation) if abs(at - pad) < side] for side in sides]
    padded = jnp.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))

    def at(place):
        def product(padded, cotangent):
            view = jax.lax.dynamic_slice(padded, (0, *place, 0), (1, *sides, x.shape[-1]))
            return view[:, ::stride, ::stride] * cotangent

        return image_by_image(product, padded, cotangent)

    sums = jax.lax.map(at, tuple(part.ravel() for part in np.meshgrid(*met, indexing="ij")))
    margins = [((kernel - len(part)) // 2,) * 2 for part in met]  # places that meet nothing but padding
    return jnp.pad(sums.reshape(*map(len, met), -1), (*margins, (0, 0)))


@derivative_by(_depthwise_backward, num_linear=2, static=(2, 3))
def depthwise(x: chex.Array, weights: chex.Array, stride: int, dilation: int = 1) -> Any:
    """x [num_images, height, width, channels] by weights [kernel, kernel, channels], zero-padded.

    On CPU image by image: one image stays in the cache, and the loop keeps XLA from computing what x is made of anew
    for each place of the kernel. Gradients, of smaller batches, gain nothing from it. Autodiff would remember every
    shifted view.
    """

    def by_image(x, weights):
        return jax.lax.map(lambda image: _depthwise(image[None], weights, stride, dilation)[0], x)

    def at_once(x, weights):
        return _depthwise(x, weights, stride, dilation)

    y = by_platform(x, weights, cpu=by_image, others=at_once) if is_large(x) else at_once(x, weights)
    return y, (x, weights)


def _depthwise(x, weights, stride, dilation):
    views = shifted(x, len(weights), stride, dilation)
    return sum(part * along_channels(weights[place]) for place, part in views.items())
