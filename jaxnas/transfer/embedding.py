"""Re-identification: an embedding with a batch-norm neck, its two losses, and batches that have several images of each
identity.

The model is that of Luo et al., "Bag of tricks and a strong baseline for deep person re-identification" (CVPR workshops
2019, section 3.5): the pooled features are what the triplet loss sees; batch normalisation without a shift makes of
them the embedding, which a linear layer without bias classifies in training, and which is compared afterwards.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxnas.checks import array, number, whole
from jaxnas.evaluation import cross_entropy
from jaxnas.ops import Tape
from jaxnas.supernets import Stats
from jaxnas.transfer.backbone import Backbone

NECK = "neck"  # its parameters and statistics, beside those of the backbone


class Neck(nn.Module):
    """features float [num_images, height, width, channels] -> (pooled [num_images, channels], embedding of the same
    shape, logits float32 [num_images, num_identities])."""

    num_identities: int

    @nn.compact
    def __call__(self, features: chex.Array, tape: Tape) -> tuple[chex.Array, chex.Array, chex.Array]:
        pooled = features.mean(axis=(1, 2)).astype(jnp.float32)
        scale = self.param("scale", nn.initializers.ones, (pooled.shape[-1],))
        embedding = tape.normalise(pooled[:, None, None])[:, 0, 0] * scale[None]
        kernel = self.param("kernel", nn.initializers.normal(0.01), (pooled.shape[-1], self.num_identities))
        return pooled, embedding, embedding @ kernel


class Embedder(NamedTuple):
    """A backbone with a neck.

    Attributes:
      init: (key, parameters of the backbone) -> {"backbone": ..., "neck": ...}.
      apply: (params, images float [num_images, height, width, channels], stats or None) -> (pooled, embedding, logits,
        statistics used); see `Neck`. The statistics are the backbone's, by layer, and the neck's.
    """

    init: Callable[[chex.PRNGKey, Any], dict[str, Any]]
    apply: Callable[[Any, chex.Array, Stats | None], tuple[chex.Array, chex.Array, chex.Array, Stats]]


def make_embedder(backbone: Backbone, num_identities: int) -> Embedder:
    """Embed the features of the backbone's largest stride.

    Raises:
      ValueError: fewer than two identities.
    """
    neck = Neck(whole("num_identities", num_identities, 2))
    stride = max(backbone.channels)
    width = backbone.channels[stride]

    def init(key: chex.PRNGKey, params: Any) -> dict[str, Any]:
        made = neck.init(key, jnp.zeros((2, 1, 1, width)), Tape(None, None))
        return {"backbone": params, NECK: made["params"]}

    def apply(params: Any, images: chex.Array, stats: Stats | None) -> tuple[Any, Any, Any, Stats]:
        of_backbone = None if stats is None else {name: stats[name] for name in stats if name != NECK}
        features, used = backbone.apply(params["backbone"], images, stats=of_backbone)
        tape = Tape(None if stats is None else stats[NECK], None)
        variables = {"params": params[NECK]}
        pooled, embedding, logits = neck.apply(variables, features[stride], tape)  # type: ignore[misc]
        return pooled, embedding, logits, {**used, NECK: tape.used(width)}

    return Embedder(init, apply)


def batch_hard_triplet(embeddings: chex.Array, identities: chex.Array, margin: float = 0.3) -> chex.Array:
    """max(0, margin + distance to the farthest of the same identity - that to the nearest of another), mean over the
    batch (Hermans, Beyer and Leibe, "In defense of the triplet loss", arXiv 1703.07737, equation 5): a scalar.

    Distances are Euclidean. Every image is an anchor. One whose identity has no second image, or is the only one of the
    batch, has no triplet and does not count.

    Args:
      embeddings: float [num_images, size]. identities: int [num_images]. margin: above 0.
    """
    number("margin", margin, above=0)
    x = embeddings.astype(jnp.float32)
    squares = jnp.sum((x[:, None] - x[None]) ** 2, axis=-1)
    distances = jnp.sqrt(jnp.maximum(squares, 1e-12))  # the root of zero has no gradient
    same = identities[:, None] == identities[None]
    other = same & ~jnp.eye(len(identities), dtype=bool)
    farthest = jnp.max(jnp.where(other, distances, -jnp.inf), axis=1)
    nearest = jnp.min(jnp.where(same, jnp.inf, distances), axis=1)
    counts = other.any(axis=1) & (~same).any(axis=1)
    terms = jnp.where(counts, nn.relu(margin + jnp.where(counts, farthest - nearest, 0.0)), 0.0)
    return terms.sum() / jnp.maximum(counts.sum(), 1).astype(jnp.float32)


def make_identity_loss(
    embedder: Embedder, *, label_smoothing: float = 0.1, margin: float = 0.3
) -> Callable[[Any, chex.Array, chex.Array], tuple[chex.Array, dict[str, chex.Array]]]:
    """(params, images, identities int [num_images]) -> (identity cross-entropy plus triplet loss, both by name)."""
    number("label_smoothing", label_smoothing, 0, below=1)

    def loss_fn(params: Any, images: chex.Array, identities: chex.Array) -> tuple[chex.Array, dict[str, chex.Array]]:
        pooled, _, logits, _ = embedder.apply(params, images, None)
        identity = cross_entropy(logits, identities, label_smoothing=label_smoothing).mean()
        triplet = batch_hard_triplet(pooled, identities, margin)
        return identity + triplet, {"term_identity": identity, "term_triplet": triplet}

    return loss_fn


def balanced_rows(
    key: chex.PRNGKey, identities: chex.ArrayNumpy, num_identities: int, num_each: int
) -> Callable[[int], np.ndarray]:
    """Make step -> int64 [num_identities * num_each], which images a batch has: so many of each of so many identities.

    Identities come in a new order each time all had their turn, those left over at its end waiting for the next; images
    without repetition where an identity has enough, and else each as often as needed. A pure function of the step.

    Args:
      identities: int [num_images], of the training images.

    Raises:
      ValueError: fewer identities than a batch has, or fewer than two images of each asked for.
    """
    identities = array("identities", identities, (None,), "integer")
    whole("num_each", num_each, 2)
    known = np.unique(identities)
    whole("num_identities", num_identities, 2)
    if num_identities > len(known):
        raise ValueError(f"a batch of {num_identities} identities, but the training images show {len(known)}.")
    members = [np.nonzero(identities == identity)[0] for identity in known]
    seed = [int(word) for word in np.ravel(jax.random.key_data(key))]
    per_round = len(known) // num_identities

    def rows_at(step: int) -> np.ndarray:
        turn, place = divmod(step, per_round)
        order = np.random.Generator(np.random.Philox(np.random.SeedSequence([*seed, turn]))).permutation(len(known))
        rng = np.random.Generator(np.random.Philox(np.random.SeedSequence([*seed, turn, place, 1])))
        chosen = order[place * num_identities : (place + 1) * num_identities]
        return np.concatenate([_some(rng, members[identity], num_each) for identity in chosen])

    return rows_at


def _some(rng: np.random.Generator, images: np.ndarray, number: int) -> np.ndarray:
    repeats = -(-number // len(images))
    return np.concatenate([rng.permutation(images) for _ in range(repeats)])[:number]
