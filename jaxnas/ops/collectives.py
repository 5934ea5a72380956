"""What a step says to the devices that share it, inside `jax.shard_map`; on one device each of these changes nothing.

A training step over a mesh runs its loss on every device, on architectures and images of its own. Axes, by name:
architectures are shared along `ARCHS`, the images of a batch along `DATA` or `DATA_ALONE`. Along the first batch
normalisation takes the moments of all images, along the second each device those of its own.
"""

from typing import Any

import chex
import jax

from jaxnas.ops.derivative import axes_of

ARCHS, DATA, DATA_ALONE = "step_archs", "step_data", "step_data_alone"  # no names that a loop of one's own has


def mean_over_data(x: chex.Array) -> chex.Array:
    """The mean of x over the devices that have other images."""
    return jax.lax.pmean(x, axes) if (axes := _here(x, DATA, DATA_ALONE)) else x


def sum_over_archs(x: chex.Array) -> chex.Array:
    """The sum of x over the devices that have other architectures."""
    return jax.lax.psum(x, axes) if (axes := _here(x, ARCHS)) else x


def mean_over_archs(x: chex.Array) -> chex.Array:
    """The mean of x over the devices that have other architectures: x, where it is no matter of these."""
    return jax.lax.pmean(x, axes) if (axes := _here(x, ARCHS)) else x


def sum_over_all(x: chex.Array) -> chex.Array:
    """The sum of x over all devices."""
    return jax.lax.psum(x, axes) if (axes := _here(x, ARCHS, DATA, DATA_ALONE)) else x


def mean_over_all(x: chex.Array) -> chex.Array:
    """x, which all devices know."""
    return jax.lax.pmean(x, axes) if (axes := _here(x, ARCHS, DATA, DATA_ALONE)) else x


def pooled(stats: chex.Array, *axes: str) -> chex.Array:
    """Moments [..., 2, channels] over the images of all devices along these axes, of those of each: the variance within
    them plus that of their means."""
    if not (axes := _here(stats, *axes)):
        return stats
    mean, variance = stats[..., 0, :], stats[..., 1, :]
    of_all = jax.lax.pmean(mean, axes)
    apart = mean - of_all
    variance = jax.lax.pmean(variance + apart * apart, axes)
    return jax.numpy.stack([of_all, variance], axis=-2)


def share_of(drawn: chex.Array, x: chex.Array, *axes: str) -> chex.Array:
    """Of what was drawn for all, by its first axis, what this device's part x [size, ...] needs: [size, ...]."""
    if not (axes := _here(x, *axes)):
        return drawn
    return jax.lax.dynamic_slice_in_dim(drawn, jax.lax.axis_index(axes[0]) * len(x), len(x))


def own_key(key: chex.PRNGKey, x: chex.Array, *axes: str) -> chex.PRNGKey:
    """A key for what each device draws for its own part x."""
    return jax.random.fold_in(key, jax.lax.axis_index(axes[0])) if (axes := _here(x, *axes)) else key


def number_along(x: chex.Array, *axes: str) -> int:
    """Of how many devices along one of these axes x is a part."""
    return jax.lax.axis_size(axes[0]) if (axes := _here(x, *axes)) else 1


def _here(x: Any, *axes: str) -> tuple[str, ...]:
    varying = axes_of(x)
    return tuple(axis for axis in axes if axis in varying)
