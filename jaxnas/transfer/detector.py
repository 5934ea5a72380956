"""A detector on a backbone: a feature pyramid and an anchor-free head that all its levels share.

The pyramid is that of Lin et al. (CVPR 2017, section 3), the head that of FCOS (Tian et al., ICCV 2019, section 3, with
the centre sampling of its later version, TPAMI 2021): at each location of each level a score for each class, the
distances to the four sides, and how central the location is in its object.
"""

import itertools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxnas.checks import whole
from jaxnas.supernets import Stats
from jaxnas.transfer.backbone import Backbone
from jaxnas.transfer.boxes import suppress
from jaxnas.transfer.finetuning import BACKBONE

PRIOR = 0.01  # score of every class before training (Lin et al., "Focal loss", ICCV 2017, section 3.3)
NUM_CANDIDATES = 200  # boxes of an image, by score, that suppression looks at
NUM_DETECTIONS = 100  # of an image; as many as COCO's metrics look at


class Outputs(NamedTuple):
    """Of all locations of all levels, the finest level first, row by row.

    Attributes:
      logits: float32 [num_images, num_locations, num_classes].
      distances: float32 [num_images, num_locations, 4], from the location to left, top, right and bottom, in pixels.
      centredness: float32 [num_images, num_locations], logits.
    """

    logits: chex.Array
    distances: chex.Array
    centredness: chex.Array


class Detections(NamedTuple):
    """The best boxes of each image, best first; behind the last one scores are 0 and labels -1.

    Attributes:
      boxes: float32 [num_images, NUM_DETECTIONS, 4], left, top, right, bottom in pixels, within the image.
      scores: float32 [num_images, NUM_DETECTIONS], in [0, 1]. labels: int32 of the same shape.
    """

    boxes: chex.Array
    scores: chex.Array
    labels: chex.Array


class Detector(NamedTuple):
    """A backbone with pyramid and head.

    Attributes:
      strides: of the levels, rising. num_classes: of the objects.
      init: (key, parameters of the backbone) -> {"backbone": ..., "head": ...}.
      apply: (params, images float [num_images, height, width, channels], stats or None) -> (`Outputs`, the backbone's
        statistics used).
      detect: (params, images, stats) -> `Detections`.
    """

    strides: tuple[int, ...]
    num_classes: int
    init: Callable[[chex.PRNGKey, Any], dict[str, Any]]
    apply: Callable[[Any, chex.Array, Stats | None], tuple[Outputs, Stats]]
    detect: Callable[[Any, chex.Array, Stats | None], Detections]


class Head(nn.Module):
    """features [num_images, height, width, channels] by stride -> `Outputs`."""

    num_classes: int
    width: int  # channels of pyramid and towers
    depth: int  # convolutions of a tower

    @nn.compact
    def __call__(self, features: Mapping[int, chex.Array]) -> Outputs:
        levels = self.pyramid(features)
        towers = {name: self.tower(name) for name in ("classes", "boxes")}
        bias = nn.initializers.constant(-np.log((1 - PRIOR) / PRIOR))
        near_zero = nn.initializers.normal(0.01)
        to_logits = nn.Conv(self.num_classes, (3, 3), kernel_init=near_zero, bias_init=bias, name="logits")
        to_distances = nn.Conv(4, (3, 3), kernel_init=near_zero, name="distances")
        to_centredness = nn.Conv(1, (3, 3), kernel_init=near_zero, name="centredness")
        parts = []
        for stride, x in levels.items():
            scale = self.param(f"scale{stride}", nn.initializers.ones, ())
            for_classes, for_boxes = self.through(towers["classes"], x), self.through(towers["boxes"], x)
            distances = jnp.exp(jnp.clip(scale * to_distances(for_boxes), -6.0, 6.0)) * (4.0 * stride)
            parts.append((to_logits(for_classes), distances, to_centredness(for_boxes)))
        flat = [
            jnp.concatenate([level.reshape(len(level), -1, level.shape[-1]) for level in column], axis=1)
            for column in zip(*parts, strict=True)
        ]
        return Outputs(flat[0], flat[1], flat[2][..., 0])

    def pyramid(self, features: Mapping[int, chex.Array]) -> dict[int, chex.Array]:
        """Each level with what the coarser ones know."""
        levels: dict[int, chex.Array] = {}
        above: chex.Array | None = None
        for stride in sorted(features, reverse=True):
            x = nn.Conv(self.width, (1, 1), name=f"lateral{stride}")(features[stride])
            if above is not None:
                by = x.shape[1] // above.shape[1]
                x = x + above.repeat(by, axis=1).repeat(by, axis=2)
            above = x
            levels[stride] = nn.Conv(self.width, (3, 3), name=f"smooth{stride}")(x)
        return {stride: levels[stride] for stride in sorted(levels)}

    def tower(self, name: str) -> list[tuple[nn.Conv, nn.GroupNorm]]:
        groups = next(groups for groups in (8, 4, 2, 1) if self.width % groups == 0)
        return [
            (
                nn.Conv(self.width, (3, 3), use_bias=False, name=f"{name}{number}"),
                nn.GroupNorm(groups, name=f"{name}{number}_norm"),
            )
            for number in range(self.depth)
        ]

    def through(self, tower: list[tuple[nn.Conv, nn.GroupNorm]], x: chex.Array) -> chex.Array:
        for convolve, normalise in tower:
            x = nn.relu(normalise(convolve(x)))
        return x


def make_detector(backbone: Backbone, num_classes: int, *, width: int = 64, depth: int = 2) -> Detector:
    """A detector on the backbone's strides; published ones are 256 wide and 4 deep.

    Raises:
      ValueError: sizes below 1, or strides of which one is no multiple of the finer one.
    """
    strides = tuple(sorted(backbone.channels))
    if any(coarse % fine for fine, coarse in itertools.pairwise(strides)):
        raise ValueError(f"strides are {strides}, expected each a multiple of the one before, such as 8, 16, 32.")
    head = Head(whole("num_classes", num_classes, 1), whole("width", width, 1), whole("depth", depth, 0))

    def init(key: chex.PRNGKey, params: Any) -> dict[str, Any]:
        size = 2 * strides[-1]
        maps = {at: jnp.zeros((1, size // at, size // at, channels)) for at, channels in backbone.channels.items()}
        return {BACKBONE: params, "head": head.init(key, maps)["params"]}

    def apply(params: Any, images: chex.Array, stats: Stats | None) -> tuple[Outputs, Stats]:
        check_sides(images.shape[1:3], strides)
        features, used = backbone.apply(params[BACKBONE], images, stats=stats)
        variables = {"params": params["head"]}
        outputs: Any = head.apply(variables, features)
        return Outputs(*(part.astype(jnp.float32) for part in outputs)), used

    def detect(params: Any, images: chex.Array, stats: Stats | None) -> Detections:
        outputs, _ = apply(params, images, stats)
        return jax.vmap(lambda *parts: _best(Outputs(*parts), images.shape[1:3], strides))(*outputs)

    return Detector(strides, num_classes, init, apply, detect)


def check_sides(sides: tuple[int, ...], strides: tuple[int, ...]) -> None:
    """Raise a ValueError where images of such sides have no whole feature maps."""
    wrong = [stride for stride in strides if any(side % stride for side in sides)]
    if wrong:
        raise ValueError(
            f"images are {sides[0]} x {sides[1]}, expected sides of whole multiples of the strides"
            f" {', '.join(map(str, strides))}; pad them, or take another image_size."
        )


def locations(sides: tuple[int, ...], strides: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """The centres float32 [num_locations, 2], x and y in pixels, of all levels, and their strides [num_locations]."""
    points, of_level = [], []
    for stride in strides:
        y, x = np.mgrid[0 : sides[0] // stride, 0 : sides[1] // stride]
        points.append((np.stack([x.ravel(), y.ravel()], axis=1) + 0.5) * stride)
        of_level.append(np.full(x.size, stride))
    return np.concatenate(points).astype(np.float32), np.concatenate(of_level).astype(np.float32)


def to_boxes(points: chex.Array, distances: chex.Array) -> chex.Array:
    """Boxes [..., num_locations, 4] of locations [num_locations, 2] and distances [..., num_locations, 4]."""
    twice = jnp.concatenate([points, points], axis=-1).reshape((1,) * (distances.ndim - 2) + (-1, 4))
    return twice + distances * jnp.array([-1.0, -1.0, 1.0, 1.0]).reshape((1,) * (distances.ndim - 1) + (4,))


def _best(outputs: Outputs, sides: tuple[int, ...], strides: tuple[int, ...]) -> Detections:
    """Of one image: the score is the root of the class's by the centredness, as in FCOS's later version."""
    points, _ = locations(sides, strides)
    boxes = to_boxes(jnp.asarray(points), outputs.distances)
    height, width = sides
    limits = jnp.array([width, height, width, height], jnp.float32)[None]
    boxes = jnp.minimum(jnp.maximum(boxes, 0.0), limits)
    scores = jnp.sqrt(nn.sigmoid(outputs.logits) * nn.sigmoid(outputs.centredness)[:, None])
    top, places = jax.lax.top_k(scores.ravel(), min(NUM_CANDIDATES, scores.size))
    rows, labels = places // scores.shape[1], places % scores.shape[1]
    kept = suppress(boxes[rows], top, labels, num_kept=NUM_DETECTIONS)
    found = boxes[rows[kept.rows]], top[kept.rows], labels[kept.rows].astype(jnp.int32)
    return Detections(
        jnp.where(kept.is_kept[:, None], found[0], 0.0),
        jnp.where(kept.is_kept, found[1], 0.0),
        jnp.where(kept.is_kept, found[2], -1),
    )
