"""A proxy of detection for machines without COCO: images of a classification set on canvases, with exact boxes."""

import numpy as np
from PIL import Image

from jaxnas.checks import array, whole
from jaxnas.datasets.scenes import Scenes

VISIBLE = 48  # a grey image's box goes round what is at least so bright
NUM_TRIES = 50  # places for an object until it is left out


def paste(
    images: np.ndarray,
    labels: np.ndarray,
    num_classes: int,
    num_scenes: int,
    *,
    size: int,
    sides: tuple[int, int],
    most_objects: int = 4,
    seed: int = 0,
) -> Scenes:
    """A proxy of detection: one to `most_objects` images on each canvas of smooth noise, apart from each other.

    Grey images are laid over the canvas by the brighter of both, and their box goes round what is at least `VISIBLE`
    bright; colour images cover it, and their box is their frame. Nothing of an object lies outside.

    Args:
      images: uint8 [num_images, side, side, channels]. labels: int [num_images] in [0, num_classes).
      size: pixels of a canvas's side. sides: least and greatest of an object's, at most `size`.

    Raises:
      ValueError: shapes, labels or sizes that don't fit.
    """
    images = array("images", images, (None, None, None, None), "uint8")
    labels = array("labels", labels, (len(images),), "integer", least=0, most=num_classes - 1)
    whole("size", size, 8, 4096)
    least, most = whole("sides", sides[0], 4, size), whole("sides", sides[1], sides[0], size)
    whole("most_objects", most_objects, 1, 100)
    rng = np.random.Generator(np.random.Philox(whole("seed", seed, 0)))
    shape = (whole("num_scenes", num_scenes, 1), most_objects)
    boxes, found = np.zeros((*shape, 4), np.float32), np.full(shape, -1, np.int32)
    canvases = np.stack([_noise(rng, size, images.shape[-1]) for _ in range(num_scenes)])
    for scene, canvas in enumerate(canvases):
        wanted = int(rng.integers(1, most_objects + 1))
        place = 0
        for _ in range(NUM_TRIES):
            which, side = int(rng.integers(len(images))), int(rng.integers(least, most + 1))
            left, top = (int(corner) for corner in rng.integers(0, size - side + 1, size=2))
            frame = (left, top, left + side, top + side)
            if place == wanted or any(_touch(frame, other) for other in boxes[scene, :place]):
                continue
            boxes[scene, place] = _put(canvas, _scaled(images[which], side), left, top)
            found[scene, place] = labels[which]
            place += 1
    ones = np.ones(num_scenes, np.float32)
    return Scenes(canvases, boxes, found, np.zeros(shape, bool), ones, tuple(map(str, range(num_classes))))


def _noise(rng: np.random.Generator, size: int, channels: int) -> np.ndarray:
    """Clouds, at most 96 bright."""
    coarse = rng.integers(0, 97, size=(4, 4, 3), dtype=np.uint8)
    clouds = np.asarray(Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC))
    return np.minimum(clouds[..., :channels], 96).copy()


def _scaled(image: np.ndarray, side: int) -> np.ndarray:
    channels = image.shape[-1]
    picture = Image.fromarray(image[..., 0] if channels == 1 else image)
    return np.asarray(picture.resize((side, side), Image.Resampling.BICUBIC)).reshape(side, side, channels)


def _put(canvas: np.ndarray, image: np.ndarray, left: int, top: int) -> tuple[int, int, int, int]:
    """Lay an image on the canvas, and return its box."""
    side, channels = len(image), image.shape[-1]
    part = canvas[top : top + side, left : left + side]
    if channels == 3:
        part[...] = image
        return left, top, left + side, top + side
    np.maximum(part, image, out=part)
    rows, columns, _ = np.nonzero(image >= min(VISIBLE, image.max()))
    return left + columns.min(), top + rows.min(), left + columns.max() + 1, top + rows.max() + 1


def _touch(frame: tuple[int, int, int, int], box: np.ndarray) -> bool:
    return bool(min(frame[2], box[2]) > max(frame[0], box[0]) and min(frame[3], box[3]) > max(frame[1], box[1]))
