"""Images of one's own: arrays, and files of arrays."""

from pathlib import Path
from typing import Any

import numpy as np

from jaxnas.checks import array
from jaxnas.datasets.sources import Source, Split
from jaxnas.files import decode_arrays, read_file

NPZ = "npz:"
PARTS = ("train_images", "train_labels", "test_images", "test_labels")


def array_set(
    name: str, train_images: Any, train_labels: Any, test_images: Any, test_labels: Any, source: str
) -> Source:
    """Arguments as `from_arrays` takes them."""
    train, test = (
        _split(name, part, images, labels)
        for part, images, labels in (("train", train_images, train_labels), ("test", test_images, test_labels))
    )
    if train[1].shape[1:] != test[1].shape[1:]:
        raise ValueError(
            f"{name}: images of train are {list(train[1].shape[1:])}, those of test {list(test[1].shape[1:])}, expected"
            " one size and number of channels; resample them first."
        )
    num_classes = 1 + max(int(split.labels.max()) for split, _ in (train, test))
    return Source(train[0], test[0], num_classes, train[1].shape[1], source)


def npz_path(name: str) -> Path:
    """The file that npz:PATH names; a ValueError where there is none."""
    path = Path(name.removeprefix(NPZ)).expanduser()
    if not path.is_file():
        raise ValueError(f"{name}: there is no such file; numpy.savez({str(path)!r}, {', '.join(PARTS)}) makes it.")
    return path


def npz_set(name: str) -> Source:
    """The set called npz:PATH."""
    path = npz_path(name)
    try:
        arrays = decode_arrays(read_file(path))
    except ValueError as error:
        raise ValueError(f"{path}: no arrays can be read ({error}); expected {', '.join(PARTS)}.") from None
    if missing := [part for part in PARTS if part not in arrays]:
        raise ValueError(f"{path}: it has no {missing[0]}, expected {', '.join(PARTS)}; it has {', '.join(arrays)}.")
    given = {part: arrays[part] for part in PARTS}
    return array_set(name, **given, source=f"arrays in {path}")


def _split(name: str, part: str, images: Any, labels: Any) -> tuple[Split, np.ndarray]:
    images = np.asarray(images)
    if images.ndim == 3:  # grey
        images = images[..., None]
    if (
        images.dtype != np.uint8
        or images.ndim != 4
        or images.shape[1] != images.shape[2]
        or images.shape[3] not in (1, 3)
    ):
        raise ValueError(
            f"{name}: images of {part} are {images.dtype} {list(images.shape)}, expected uint8 [num_images, size, size,"
            " channels] with 1 or 3 channels; pixel values are 0 to 255."
        )
    labels = array(f"{name}: labels of {part}", labels, (len(images),), "integer", least=0)
    if not len(labels):
        raise ValueError(f"{name}: there are no images of {part}; give at least two classes of them.")
    return Split(labels.astype(np.int64), images.__getitem__), images
