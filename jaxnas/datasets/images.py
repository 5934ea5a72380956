"""Pictures: decoding what a set holds, resampling, statistics of channels."""

import io

import numpy as np
from PIL import Image

from jaxnas.checks import whole

MOST_SIZE = 4096  # pixels of a side that images are resampled to
MOST_PIXELS = 2**26  # of an encoded image: more is no photograph, and would take hundreds of megabytes


def decode(encoded: bytes, declared: tuple[int | None, ...]) -> np.ndarray:
    """Pixels uint8 [height, width, channels] as `declared`, None for what is free; nothing is converted but what shows
    the same, a grey picture as a colour one."""
    # Pillow for every user: TFDS would take OpenCV where it is installed, whose JPEG pixels differ.
    picture = Image.open(io.BytesIO(encoded), formats=("PNG", "JPEG"))  # reads the header only
    height, width, channels = declared
    if (height or picture.height, width or picture.width) != (picture.height, picture.width):
        raise ValueError(f"{picture.height} x {picture.width} pixels, the set declares {height} x {width}")
    check_picture(picture, encoded, channels)
    pixels = np.asarray(picture.convert("L" if channels == 1 else "RGB"))
    return pixels.reshape(picture.height, picture.width, -1)


def check_picture(picture: Image.Image, encoded: bytes, channels: int | None) -> None:
    """Raise a ValueError where the header says that it is too large, or no picture of 8 bits and so many channels."""
    if picture.width * picture.height > MOST_PIXELS:
        raise ValueError(f"{picture.width} x {picture.height} pixels, expected at most {MOST_PIXELS:,}")
    known = ("1", "L") if channels == 1 else ("1", "L", "P", "RGB", "CMYK")
    bits = encoded[24] if picture.format == "PNG" else 8  # Pillow drops the lower half of 16-bit colours
    if picture.mode not in known or bits > 8:
        raise ValueError(f"a picture of mode {picture.mode} with {bits} bits, expected 8 bits and {' or '.join(known)}")


def resize(image: np.ndarray, size: int) -> np.ndarray:
    """Resample a square uint8 image [height, width, channels] to [size, size, channels]; 1 or 3 channels.

    Pillow's Hamming filter over the area of each new pixel: as sharp as a cubic one, without aliasing or ringing, and
    in integers, hence the same on every machine. Raises a ValueError for any other image.
    """
    image = np.asarray(image)
    if image.ndim != 3 or image.dtype != np.uint8 or image.shape[0] != image.shape[1] or image.shape[2] not in (1, 3):
        raise ValueError(f"an image is {image.dtype} {image.shape}; expected uint8, square, with 1 or 3 channels.")
    height, _, channels = image.shape
    whole("size", size, 1, MOST_SIZE)
    if height == size:
        return image
    picture = Image.fromarray(image[..., 0] if channels == 1 else image)
    return np.asarray(picture.resize((size, size), Image.Resampling.HAMMING)).reshape(size, size, channels)


def channel_statistics(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation over pixels of uint8 images [..., channels], in [0, 1]: two float32 [channels]."""
    images = np.asarray(images)
    if images.dtype != np.uint8 or images.ndim < 2 or not images.size:
        raise ValueError(f"images are {images.dtype} {images.shape}; expected uint8 [..., channels], at least one.")
    counts = np.stack([np.bincount(channel.ravel(), minlength=256) for channel in np.moveaxis(images, -1, 0)])
    shares = counts / counts.sum(axis=1, keepdims=True)
    values = np.arange(256) / 255
    mean = shares @ values
    variance = (shares * (values - mean[:, None]) ** 2).sum(axis=1)
    return mean.astype(np.float32), np.sqrt(variance).astype(np.float32)
