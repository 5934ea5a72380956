"""From stored images to those that a network takes, on the device."""

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp

from jaxnas.checks import array, whole
from jaxnas.ops.collectives import DATA, DATA_ALONE, number_along, share_of

Preprocess = Callable[[chex.PRNGKey, chex.Array], chex.Array]


def make_preprocess(mean: chex.Array, std: chex.Array, *, crop: int = 0, flip: bool = False) -> Preprocess:
    """From stored to network images: uint8 to standardised float32, after random crop and flip, on device.

    Args:
      mean, std: float [channels] in units of 0..1, as in `Dataset`.
      crop: pixels of zero padding around the image before a random crop of the original size; 0 for none.
      flip: mirror each image left-right with probability one half.

    Raises:
      ValueError: means or deviations that are none, or crop below 0.
    """
    crop = whole("crop", crop)
    mean = array("mean", mean, (None,))
    std = array("std", std, mean.shape)
    if not (std > 0).all():
        raise ValueError(f"std is {std.tolist()}, expected numbers above 0.")

    def preprocess(key: chex.PRNGKey, images: chex.Array) -> chex.Array:
        images = standardise(images, mean, std)
        crop_key, flip_key = jax.random.split(key)
        num_images, height, width, channels = images.shape
        in_all = num_images * number_along(images, DATA, DATA_ALONE)  # of a batch that devices share
        if crop:
            padded = jnp.pad(images, ((0, 0), (crop, crop), (crop, crop), (0, 0)))
            drawn = jax.random.randint(crop_key, (in_all, 2), 0, 2 * crop + 1)
            corners = share_of(drawn, images, DATA, DATA_ALONE)
            images = jax.vmap(
                lambda image, corner: jax.lax.dynamic_slice(image, (*corner, 0), (height, width, channels))
            )(padded, corners)
        if flip:
            drawn = jax.random.bernoulli(flip_key, 0.5, (in_all, 1, 1, 1))
            mirror = share_of(drawn, images, DATA, DATA_ALONE)
            images = jnp.where(mirror, images[:, :, ::-1], images)
        return images

    return preprocess


def standardise(images: chex.Array, mean: chex.Array, std: chex.Array) -> chex.Array:
    """uint8 images to float32 with the given channel mean and std in units of 0..1.

    >>> standardise(jnp.full((1, 1, 1, 2), 255, "uint8"), [0.5, 0.0], [0.25, 0.5]).ravel().tolist()
    [2.0, 2.0]
    """
    axes = tuple(range(images.ndim - 1))
    mean, std = (jnp.expand_dims(jnp.asarray(moment, jnp.float32), axes) for moment in (mean, std))
    return (images.astype(jnp.float32) / 255.0 - mean) / std
