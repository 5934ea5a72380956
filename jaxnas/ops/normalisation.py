"""Batch normalisation whose statistics are plain arrays, passed in and out; dropout whose draws are passed in; and
ReLUs whose inputs can be looked at."""

from typing import Any, NamedTuple

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxnas.ops.collectives import DATA, pooled
from jaxnas.ops.derivative import axes_of, derivative_by
from jaxnas.ops.platform import by_platform
from jaxnas.ops.reduction import sum_over_images

EPSILON = 1e-5


class Policy(NamedTuple):
    """Number types: of the stored parameters, of activations and products, of normalisation statistics."""

    params: str = "float32"
    compute: str = "float32"
    stats: str = "float32"


class Unwritten(NamedTuple):
    """An activation as what it is made of: x times a scale plus a shift by channel, for whoever reads it to compute.

    Attributes:
      x: [..., num_images, height, width, channels].
      by: float [..., 2, channels], scale and shift, in the number type of statistics; None: it is x.
    """

    x: chex.Array
    by: chex.Array | None

    @property
    def value(self) -> chex.Array:
        """Written out, in shape and number type of x."""
        return self.x if self.by is None else _scaled(self.x, self.by[..., 0, :], self.by[..., 1, :])


class Tape:
    """The statistics along one operation, read or written in the order its normalisations run.

    Args:
      stats: float [2, at least size], rows mean and variance, of all normalisations of the operation one after the
        other, or None: normalise by the images at hand.
      mask: bool [num_images], False for padding images that must not count; None: all count.
      dtype: number type of the statistics.
      keep: float [num_images, ...], what dropout leaves: 0 where something is dropped, else one over the chance that it
        is not. None: nothing is dropped.
    """

    def __init__(
        self,
        stats: chex.Array | None,
        mask: chex.Array | None,
        dtype: str = "float32",
        keep: chex.Array | None = None,
    ):
        self.stats = None if stats is None else stats.astype(dtype)
        self.mask, self.dtype, self.keep = mask, dtype, keep
        self.size = 0  # normalised channels so far
        self.parts: list[chex.Array] = []
        self.rectified: list[chex.Array] = []  # inputs of the ReLUs so far, [num_images, ...]
        self._last: tuple[Any, ...] = (None,)  # what was normalised last, of what, by which statistics, scale, bias

    def normalise(self, x: chex.Array) -> chex.Array:
        """Normalise x [num_images, height, width, channels] over all but the channels, and note what was used. Where
        devices share the images (`ops.collectives`), each as many, by the moments of all of them."""
        channels = x.shape[-1]
        if self.stats is None and DATA in axes_of(x):
            stats = pooled(moments(x.astype(self.dtype), self.mask), DATA)
            y, _ = _standardise(x, stats)
        elif self.stats is None:
            y, stats = batch_normalise(x, self.mask, self.dtype)
        else:
            stats = self.stats[:, self.size : self.size + channels]
            y, _ = _standardise(x, stats)
        self.size += channels
        self.parts.append(stats)
        self._last = y, x, stats
        return y

    def scale_and_shift(self, x: chex.Array, scale: chex.Array, bias: chex.Array) -> chex.Array:
        """x [num_images, height, width, channels] by scale and plus bias, each [channels], of what was normalised."""
        y = scale_and_shift(x, scale, bias)
        self._last = (y, *self._last[1:], scale, bias) if self._last[0] is x else (None,)
        return y

    def unwritten(self, y: chex.Array) -> Unwritten:
        """y [num_images, height, width, channels], which an operation returns, by what was normalised where that was
        the last it did; else by itself, scaled by 1."""
        if self._last[0] is not y:
            ones = jnp.ones(y.shape[-1:], self.dtype)
            return Unwritten(y, jnp.stack([ones, jnp.zeros_like(ones)]))
        _, x, stats, *affine = self._last
        scale, shift = _scale_and_shift_of(stats)
        if affine:
            factor, bias = (part.astype(self.dtype) for part in affine)
            scale, shift = scale * factor, shift * factor + bias
        return Unwritten(x, jnp.stack([scale, shift]))

    def drop(self, x: chex.Array) -> chex.Array:
        """x [num_images, ...] by `keep`, which may have fewer of its axes; x itself where nothing is dropped."""
        if self.keep is None:
            return x
        return x * self.keep.reshape(self.keep.shape + (1,) * (x.ndim - self.keep.ndim)).astype(x.dtype)

    def relu(self, x: chex.Array) -> chex.Array:
        """max(x, 0) of x [num_images, ...], which is noted."""
        self.rectified.append(x)
        return relu(x)

    def used(self, size: int) -> chex.Array:
        """What was used, zero-padded to float [2, size] so that all candidates of a choice agree in shape."""
        stats = jnp.concatenate([jnp.zeros((2, 0), self.dtype), *self.parts], axis=1)
        return jnp.pad(stats, ((0, 0), (0, size - stats.shape[1])))


def moments(x: chex.Array, mask: chex.Array | None) -> chex.Array:
    """Mean and (biased) variance per channel over the images under the mask: [2, channels].

    The mean of squares less the square of the mean would cancel: at a mean of 1,000 deviations nothing is left of the
    variance. On CPU the deviations from the mean are squared, which takes no longer, since there each sum is a pass of
    its own anyway. Accelerators take both sums in one pass over x, so there they are sums of deviations from one pixel
    of the first image, which may be any number near the others; a kernel that makes x itself, and has no pixel yet, has
    to merge the moments of its blocks instead. Against float64, means of 100, 1,000 and 10,000 deviations put
    normalised values off by 1e-5, 1e-4 and 1e-3 where XLA sums in several parts, by ten times as much where it sums
    one by one: as much as float32 loses of the mean.
    """
    height, width = x.shape[1:3]
    weight: Any = None if mask is None else mask.astype(x.dtype)[:, None, None, None]
    count = x.shape[0] * height * width if mask is None else jnp.sum(weight) * (height * width)

    def average(terms: chex.Array) -> chex.Array:
        return jnp.sum(terms if mask is None else terms * weight, axis=(0, 1, 2)) / count

    def two_passes(x: chex.Array) -> chex.Array:
        mean = average(x)
        deviations = x - along_channels(mean)
        return jnp.stack([mean, average(deviations * deviations)])

    def one_pass(x: chex.Array) -> chex.Array:
        pixel = x[0, height // 2, width // 2]
        deviations = x - along_channels(pixel)
        mean = average(deviations)
        return jnp.stack([pixel + mean, relu(average(deviations * deviations) - mean * mean)])

    return by_platform(x, cpu=two_passes, others=one_pass)


def along_channels(vector: chex.Array) -> chex.Array:
    """A number for each channel, [..., channels], as [..., 1, 1, 1, channels]."""
    return jnp.expand_dims(vector, (-4, -3, -2))


def scale_and_shift(x: chex.Array, scale: chex.Array, bias: chex.Array) -> chex.Array:
    """x [num_images, height, width, channels] by scale and plus bias, each [channels], in the number type of x."""
    return x * along_channels(scale.astype(x.dtype)) + along_channels(bias.astype(x.dtype))


def _scale_and_shift_of(stats):
    """One over the deviation, and minus the mean over it, each [channels]. NaN where the variance overflowed, as that
    of float32 images does from deviations of 1.8e19 on: all images would be the same zeros."""
    variance = jnp.where(jnp.isfinite(stats[1]), stats[1], jnp.nan)
    scale = jax.lax.rsqrt(variance + EPSILON)
    return scale, -stats[0] * scale


def _scaled(x, scale, shift):
    """x [..., num_images, height, width, channels] by scale and plus shift, each [..., channels], computed in their
    number type."""
    return (x.astype(scale.dtype) * along_channels(scale) + along_channels(shift)).astype(x.dtype)


def _standardise(x, stats):
    """x less its mean over its deviation, and one over the deviation, [channels]."""
    scale, shift = _scale_and_shift_of(stats)
    return _scaled(x, scale, shift), scale


def _normalise_backward(dtype, kept, cotangents):
    y, mask, scale = kept
    y_cotangent, (mean_cotangent, variance_cotangent) = cotangents

    def terms(y, cotangent):
        y, cotangent = y.astype(dtype), cotangent.astype(dtype)
        return cotangent, cotangent * y

    total, total_by_y = sum_over_images(terms, y, y_cotangent)
    pixels = y.shape[1] * y.shape[2]
    weight: float | chex.Array = 1.0 / (y.shape[0] * pixels)
    if mask is not None:
        mask = jnp.asarray(mask)  # JAX 0.7 may hand a constant on, which cannot sum
        weight = (mask.astype(dtype) / (mask.sum() * pixels).astype(dtype))[:, None, None, None]
    # x minus mean is y / scale: by way of the mean, and by way of the variance, each image under the mask moves all
    by_mean = mean_cotangent - scale * total
    by_variance = 2.0 * variance_cotangent / scale - scale * total_by_y
    by_y = along_channels(by_variance) * y.astype(dtype)
    x_cotangent = along_channels(scale) * y_cotangent.astype(dtype) + weight * (along_channels(by_mean) + by_y)
    return (x_cotangent.astype(y.dtype),)


@derivative_by(_normalise_backward, num_linear=1, static=(2,))
def batch_normalise(x: chex.Array, mask: chex.Array | None, dtype: str) -> Any:
    """x [num_images, height, width, channels] normalised by its own moments under the mask, and these: [2, channels].

    The gradient is written out because it needs sums of products only, which have a fast form (`sum_over_images`).
    """
    stats = moments(x.astype(dtype), mask)
    y, scale = _standardise(x, stats)
    return (y, stats), (y, mask, scale)


def through_relu(x: chex.Array, cotangent: chex.Array) -> chex.Array:
    """What of the cotangent of relu(x) reaches x."""
    return jnp.where(x <= 0, jnp.zeros_like(x), cotangent)


@derivative_by(lambda x, cotangent: (through_relu(x, cotangent),), num_linear=1)
def relu(x: chex.Array) -> Any:
    """max(x, 0) that keeps NaN: XLA's maximum on CPU turns NaN into 0 and so hides a diverged network. For the gradient
    x is kept, which is kept anyway, and no mask."""
    return jnp.where(x <= 0, jnp.zeros_like(x), x), x


class BatchNorm(nn.Module):
    """Normalise by the tape; with `affine`, then scale and shift per channel by learned parameters."""

    affine: bool
    policy: Policy

    @nn.compact
    def __call__(self, x: chex.Array, tape: Tape) -> chex.Array:
        x = tape.normalise(x)
        if self.affine:
            shape = (x.shape[-1],)
            scale = self.param("scale", nn.initializers.ones, shape, self.policy.params)
            bias = self.param("bias", nn.initializers.zeros, shape, self.policy.params)
            x = tape.scale_and_shift(x, scale, bias)
        return x
