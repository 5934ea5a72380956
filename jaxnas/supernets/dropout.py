"""Path dropout and global dropout: the chances by layer, and their draws for one architecture."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from jaxnas.checks import number


class Dropout(NamedTuple):
    """What a super-net drops while it is trained."""

    path: Mapping[str, float]  # layer -> chance, at full strength, that an image loses that layer's path
    features: float  # chance of each input of the classifier
    num_features: int


def make_dropout(groups: Sequence[Sequence[str]], path: float, features: float, num_features: int) -> Dropout | None:
    """The chances of a super-net; None where nothing is dropped.

    That of a path grows linearly with depth, to `path` in the last group (NAO, arXiv 1808.07233, its authors' code;
    "How to Train Your Super-Net", arXiv 2003.04276).

    Args:
      groups: the layers that lie side by side, from input to output: the edges of each cell, or a chain's layers.
      path, features: in [0, 1).

    Raises:
      ValueError: a chance outside [0, 1).
    """
    path, features = number("path_dropout", path, 0, below=1), number("global_dropout", features, 0, below=1)
    if not path and not features:
        return None
    chances = {name: path * depth / len(groups) for depth, names in enumerate(groups, 1) for name in names}
    return Dropout(chances if path else {}, features, num_features)


def draw_keep(dropout: Dropout, key: chex.PRNGKey, ramp: float | chex.Array, num_images: int) -> dict[str, chex.Array]:
    """What is left by layer, as `jaxnas.ops.Tape` takes it: float [num_images], of the head [num_images, num_features].

    Args:
      ramp: in [0, 1], the strength of path dropout now.
    """
    path_key, feature_key = jax.random.split(key)
    keep: dict[str, chex.Array] = {}
    if dropout.path:
        left = 1.0 - ramp * jnp.array([*dropout.path.values()])
        kept = jax.random.bernoulli(path_key, left[:, None], (len(dropout.path), num_images))
        keep |= dict(zip(dropout.path, kept.astype(left.dtype) / left[:, None]))
    if dropout.features:
        kept = jax.random.bernoulli(feature_key, 1.0 - dropout.features, (num_images, dropout.num_features))
        keep["head"] = kept.astype(jnp.float32) / (1.0 - dropout.features)
    return keep
