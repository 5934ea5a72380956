"""Pictures of identities from several cameras: Market-1501's folders, and a proxy made of any classification set."""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from jaxnas.checks import array, whole
from jaxnas.datasets.images import check_picture
from jaxnas.files import one_line

PARTS = {"train": "bounding_box_train", "query": "query", "gallery": "bounding_box_test"}
NAME = re.compile(r"(-?\d+)_c(\d+).*\.(jpg|jpeg|png)$", re.IGNORECASE)
JUNK = -1  # identity in Market-1501's gallery that is left out; its 0, no person, is a wrong answer to every query
NUM_CAMERAS = 4  # of the proxy
QUERY_SHARE = 4  # one in so many of its test images of an identity is a query


class Identities(NamedTuple):
    """Pictures of one part.

    Attributes:
      images: uint8 [num_images, height, width, channels].
      identities: int32 [num_images]; cameras: int32 [num_images].
    """

    images: np.ndarray
    identities: np.ndarray
    cameras: np.ndarray


class Reid(NamedTuple):
    """A re-identification set: identities of `train` are numbered from 0, and none of them is in query or gallery."""

    name: str
    train: Identities
    query: Identities
    gallery: Identities


def read_market(folder: str | os.PathLike[str], *, height: int = 256, width: int = 128) -> Reid:
    """Read a folder as Market-1501 comes (Zheng et al., ICCV 2015): bounding_box_train, query and bounding_box_test
    with pictures called IDENTITY_cCAMERA...jpg, resampled to [height, width]. Identity -1 is left out, as the rule is.

    Raises:
      ValueError: a folder that is missing or empty, a picture that is called otherwise or cannot be read, fewer than
        two identities to train on, one of them with a single picture, or one that is in train and among the queries.
    """
    folder = Path(folder).expanduser()
    whole("height", height, 1, 2048)
    whole("width", width, 1, 2048)
    parts = {part: _read_part(folder / name, height, width) for part, name in PARTS.items()}
    known, numbered, counts = np.unique(parts["train"].identities, return_inverse=True, return_counts=True)
    if len(known) < 2 or counts.min() < 2:
        few = (
            f"identity {known[counts.argmin()]} has a single picture" if len(known) > 1 else f"{len(known)} identities"
        )
        raise ValueError(
            f"{folder / PARTS['train']}: {few}; expected two identities or more with two pictures or more each, since a"
            " triplet takes two of one; delete or add some."
        )
    both = set(known.tolist()) & set(parts["query"].identities.tolist())
    if both:
        raise ValueError(
            f"{folder}: identity {min(both)} is in {PARTS['train']} and in query; expected in one of them."
        )
    train = parts["train"]._replace(identities=numbered.astype(np.int32))
    return Reid(f"market:{folder.name}", train, parts["query"], parts["gallery"])


def _read_part(folder: Path, height: int, width: int) -> Identities:
    if not folder.is_dir():
        raise ValueError(f"{folder.parent}: there is no folder {folder.name}; expected {', '.join(PARTS.values())}.")
    images, identities, cameras = [], [], []
    for path in sorted(path for path in folder.iterdir() if path.suffix.lower() in (".jpg", ".jpeg", ".png")):
        found = NAME.fullmatch(path.name)
        if found is None:
            raise ValueError(
                f"{path}: expected a name such as 0002_c1s1_000451_03.jpg: identity, then c and the camera."
            )
        if int(found[1]) == JUNK:
            continue
        images.append(_picture(path, height, width))
        identities.append(int(found[1]))
        cameras.append(int(found[2]))
    if not images:
        raise ValueError(f"{folder}: no picture in it; expected such as 0002_c1s1_000451_03.jpg.")
    return Identities(np.stack(images), np.array(identities, np.int32), np.array(cameras, np.int32))


def _picture(path: Path, height: int, width: int) -> np.ndarray:
    try:
        with Image.open(path, formats=("PNG", "JPEG")) as picture:
            check_picture(picture, path.read_bytes()[:32], 3)
            return np.asarray(picture.convert("RGB").resize((width, height), Image.Resampling.BILINEAR))
    except Exception as error:  # a damaged picture raises anything
        raise ValueError(f"{path}: cannot be read ({one_line(error)}); delete it.") from None


def classes_as_identities(
    name: str,
    train: tuple[np.ndarray, np.ndarray],
    test: tuple[np.ndarray, np.ndarray],
    held_out: Sequence[int],
    *,
    size: int,
    seed: int = 0,
) -> Reid:
    """A proxy of re-identification: classes are identities, and those `held_out` are never trained on. Each picture is
    seen by one of `NUM_CAMERAS` cameras, each a fixed change of its own: contrast, brightness, turn and shift.

    Args:
      train, test: images uint8 [num_images, height, width, channels] and labels int [num_images]. Of the test images of
        the classes held out, a quarter of each
        class are queries.
      size: pixels of a side, to which all are resampled.

    Raises:
      ValueError: fewer than two classes on one side, or shapes that don't fit.
    """
    whole("size", size, 4, 2048)
    parts = []
    for images, labels in (train, test):
        images = array("images", images, (None, None, None, None), "uint8")
        parts.append((images, array("labels", labels, (len(images),), "integer", least=0)))
    (images, labels), (test_images, test_labels) = parts
    held, kept = sorted(set(held_out)), sorted(set(labels.tolist()) - set(held_out))
    missing = set(held) - set(test_labels.tolist())
    if min(len(held), len(kept)) < 2 or missing:
        raise ValueError(
            f"classes held out are {held} of {sorted(set(labels.tolist()))}; expected two or more, and to leave two."
        )
    rng = np.random.Generator(np.random.Philox(whole("seed", seed, 0)))

    def seen(images: np.ndarray, identities: np.ndarray) -> Identities:
        cameras = rng.integers(NUM_CAMERAS, size=len(images)).astype(np.int32)
        found = np.stack([by_camera(image, int(camera), size) for image, camera in zip(images, cameras)])
        return Identities(found, identities.astype(np.int32), cameras)

    is_kept = np.isin(labels, kept)
    rows = np.nonzero(np.isin(test_labels, held))[0]
    of_train = seen(images[is_kept], np.searchsorted(kept, labels[is_kept]))
    of_test = seen(test_images[rows], test_labels[rows])
    is_query = np.zeros(len(rows), bool)
    for identity in held:
        members = rng.permutation(np.nonzero(of_test.identities == identity)[0])
        is_query[members[: max(1, len(members) // QUERY_SHARE)]] = True
    query, gallery = (Identities(*(part[chosen] for part in of_test)) for chosen in (is_query, ~is_query))
    return Reid(f"{name}, classes {', '.join(map(str, held))} held out", of_train, query, gallery)


def by_camera(image: np.ndarray, camera: int, size: int) -> np.ndarray:
    """What a camera of the proxy makes of an image uint8 [height, width, channels]: uint8 [size, size, channels]."""
    contrast, brightness = ((1.0, 0), (0.6, 70), (0.85, -25), (0.7, 25))[camera % 4]
    turn, across, down = ((0, 0, 0), (15, 0.08, 0), (-15, 0, 0.08), (8, -0.08, -0.08))[camera % 4]
    channels = image.shape[-1]
    picture = Image.fromarray(image[..., 0] if channels == 1 else image)
    picture = picture.resize((size, size), Image.Resampling.BICUBIC)
    shift = (round(across * size), round(down * size))
    picture = picture.rotate(turn, Image.Resampling.BILINEAR, translate=shift)
    pixels = np.asarray(picture, np.float32).reshape(size, size, channels)
    return np.clip(np.rint(pixels * contrast + brightness), 0, 255).astype(np.uint8)
