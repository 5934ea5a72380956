"""Sums over all images and pixels, in the form that is fast on the device that runs them."""

import functools
from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp

from jaxnas.ops.derivative import vary_alike
from jaxnas.ops.platform import by_platform

LARGE = 2**17  # numbers; 64 images of 8x8 pixels and 24 channels are still small
CACHED = 2**19  # numbers; of two such arrays a core's cache keeps enough that they may be read 49 times


def is_large(x: chex.Array) -> bool:
    """Whether x is worth a loop over its images on CPU; never with a symbolic size, as `jax.export` has it."""
    return isinstance(x.size, int) and x.size >= LARGE


def stays_cached(x: chex.Array) -> bool:
    """Whether x may be read many times in a row on CPU; never with a symbolic size."""
    return isinstance(x.size, int) and x.size < CACHED


def sum_over_images(terms: Callable[..., chex.ArrayTree], *arrays: chex.Array) -> chex.ArrayTree:
    """Sum each of `terms(*arrays)`, [num_images, height, width, channels], over all axes but the channels.

    Large arrays on CPU are summed image by image into sums of one image's size: XLA's reduction of a product over all
    images at once is up to sixteen times slower there. Small ones gain nothing and compile longer that way; on an
    accelerator a loop over images would be the slow form.
    """

    def at_once(*arrays: chex.Array) -> chex.ArrayTree:
        return jax.tree.map(lambda term: jnp.sum(term, axis=(0, 1, 2)), terms(*arrays))

    if not is_large(arrays[0]):
        return at_once(*arrays)
    return by_platform(*arrays, cpu=functools.partial(image_by_image, terms), others=at_once)


def image_by_image(terms: Callable[..., chex.ArrayTree], *arrays: chex.Array) -> chex.ArrayTree:
    """The same by a loop over the images, into sums of one image's size."""

    @functools.partial(jax.checkpoint, prevent_cse=False)
    def of_one(images: chex.ArrayTree) -> chex.ArrayTree:
        return jax.tree.map(lambda term: term[0], terms(*(image[None] for image in images)))

    first = jax.eval_shape(of_one, tuple(jax.ShapeDtypeStruct(array.shape[1:], array.dtype) for array in arrays))
    zeros = jax.tree.map(lambda term: jnp.zeros(term.shape, term.dtype), first)
    start = vary_alike((zeros, arrays))[0]
    sums, _ = jax.lax.scan(lambda sums, images: (jax.tree.map(jnp.add, sums, of_one(images)), None), start, arrays)
    return jax.tree.map(lambda term: jnp.sum(term, axis=(0, 1)), sums)
