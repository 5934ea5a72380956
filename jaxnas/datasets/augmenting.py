"""From an encoded picture to the pixels of a training step or of an evaluation: crops and colours, on the host.

A JPEG is decoded at an eighth, a quarter or half of its size where what is cut out stays at least as large as asked for
(libjpeg's scaled decoding), which takes a fraction of the time; the choice depends on sizes alone.
"""

import io
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageEnhance, ImageOps, UnidentifiedImageError

from jaxnas.datasets.images import check_picture

CENTRE = 0.875  # share of the shorter side that an evaluation sees, 224 of 256 pixels
GREY = (128, 128, 128)
MOST_MAGNITUDE = 30
Box = tuple[float, float, float, float]  # left, upper, right, lower, in pixels


class Augment(NamedTuple):
    """What happens to a picture of a training step, in this order.

    A random-resized crop (Szegedy et al., "Going Deeper with Convolutions", section 6): of `scale` of the area and a
    ratio of width to height between `ratio`, both uniform, the ratio on a logarithmic scale. Then a flip, `jitter` of
    brightness, contrast and saturation, each by a factor within 1 - jitter and 1 + jitter, and RandAugment (Cubuk et
    al., arXiv 1909.13719): `rand_ops` of `RAND_OPS` with `magnitude`, 0 to 30.
    """

    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: bool = True
    jitter: float = 0.0
    rand_ops: int = 0
    magnitude: float = 9.0


AUGMENTS: Mapping[str, Augment | None] = MappingProxyType(
    {
        "none": None,  # the evaluation's crop; what is done on the device stays
        "crop": Augment(),
        "jitter": Augment(jitter=0.4),
        "rand_augment": Augment(rand_ops=2),
    }
)


def central(encoded: bytes, size: int) -> np.ndarray:
    """What an evaluation sees: the middle square of `CENTRE` of the shorter side, as uint8 [size, size, 3]; one that is
    smaller is enlarged."""
    picture = _open(encoded)
    side = CENTRE * min(picture.size)
    left, upper = ((length - side) / 2 for length in picture.size)
    return np.asarray(_cut(picture, encoded, (left, upper, left + side, upper + side), size))


def augmented(encoded: bytes, size: int, augment: Augment, rng: np.random.Generator) -> np.ndarray:
    """What a training step sees: uint8 [size, size, 3]."""
    picture = _open(encoded)
    image = _cut(picture, encoded, draw_box(picture.size, augment, rng), size)
    if augment.flip and rng.random() < 0.5:
        image = ImageOps.mirror(image)
    if augment.jitter:
        for enhance in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
            image = enhance(image).enhance(rng.uniform(max(0.0, 1 - augment.jitter), 1 + augment.jitter))
    for name in rng.choice(list(RAND_OPS), augment.rand_ops):
        sign = rng.choice((-1.0, 1.0))
        image = RAND_OPS[str(name)](image, sign, augment.magnitude / MOST_MAGNITUDE)
    return np.asarray(image)


def draw_box(size: tuple[int, int], augment: Augment, rng: np.random.Generator) -> Box:
    """A crop of a picture of (width, height); after ten that don't fit the largest one in its middle."""
    width, height = size
    low, high = np.log(augment.ratio)
    for _ in range(10):
        area = width * height * rng.uniform(*augment.scale)
        ratio = np.exp(rng.uniform(low, high))
        across, down = np.sqrt(area * ratio), np.sqrt(area / ratio)
        left, upper = rng.random(2)
        if across <= width and down <= height:
            left, upper = left * (width - across), upper * (height - down)
            return left, upper, left + across, upper + down
    across = min(width, height * augment.ratio[1])
    down = min(height, width / augment.ratio[0])
    left, upper = (width - across) / 2, (height - down) / 2
    return left, upper, left + across, upper + down


def _open(encoded: bytes) -> Image.Image:
    """The picture, of which only the header is read."""
    try:
        return Image.open(io.BytesIO(encoded), formats=("PNG", "JPEG"))
    except UnidentifiedImageError:
        raise ValueError("neither JPEG nor PNG") from None


def _cut(picture: Image.Image, encoded: bytes, box: Box, size: int) -> Image.Image:
    """The box of a picture as a colour picture of size x size."""
    check_picture(picture, encoded, 3)
    width, height = picture.size
    smaller = min(box[2] - box[0], box[3] - box[1]) / size
    if smaller >= 2:
        shrink = 2 ** min(3, int(np.log2(smaller)))
        picture.draft(None, (-(-width // shrink), -(-height // shrink)))  # of a PNG nothing comes of it
    scales = picture.width / width, picture.height / height
    left, upper, right, lower = (end * scales[side % 2] for side, end in enumerate(box))
    within = (max(0.0, left), max(0.0, upper), min(picture.width, right), min(picture.height, lower))
    return picture.convert("RGB").resize((size, size), Image.Resampling.BILINEAR, box=within)


def _enhanced(kind: Callable[[Image.Image], ImageEnhance._Enhance]) -> "RandOp":
    return lambda image, sign, strength: kind(image).enhance(1 + sign * 0.9 * strength)


def _moved(coefficients: Callable[[float, int], tuple[float, ...]]) -> "RandOp":
    """An affine map of places: those of the new picture into the old one's."""

    def move(image: Image.Image, sign: float, strength: float) -> Image.Image:
        data = coefficients(sign * strength, image.width)
        return image.transform(image.size, Image.Transform.AFFINE, data, Image.Resampling.BILINEAR, fillcolor=GREY)

    return move


RandOp = Callable[[Image.Image, float, float], Image.Image]  # (picture, sign -1 or 1, strength 0 to 1)
RAND_OPS: Mapping[str, RandOp] = MappingProxyType(
    {
        "identity": lambda image, sign, strength: image,
        "auto_contrast": lambda image, sign, strength: ImageOps.autocontrast(image),
        "equalize": lambda image, sign, strength: ImageOps.equalize(image),
        "posterize": lambda image, sign, strength: ImageOps.posterize(image, 8 - round(4 * strength)),
        "solarize": lambda image, sign, strength: ImageOps.solarize(image, round(256 * (1 - strength))),
        "brightness": _enhanced(ImageEnhance.Brightness),
        "contrast": _enhanced(ImageEnhance.Contrast),
        "colour": _enhanced(ImageEnhance.Color),
        "sharpness": _enhanced(ImageEnhance.Sharpness),
        "rotate": lambda image, sign, strength: image.rotate(
            sign * 30 * strength, Image.Resampling.BILINEAR, fillcolor=GREY
        ),
        "shear_x": _moved(lambda by, size: (1, 0.3 * by, -0.15 * by * size, 0, 1, 0)),
        "shear_y": _moved(lambda by, size: (1, 0, 0, 0.3 * by, 1, -0.15 * by * size)),
        "translate_x": _moved(lambda by, size: (1, 0, 0.45 * by * size, 0, 1, 0)),
        "translate_y": _moved(lambda by, size: (1, 0, 0, 0, 1, 0.45 * by * size)),
    }
)
