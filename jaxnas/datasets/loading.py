"""A named set, split the same way at every call."""

import math
import os
import re
import warnings
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from jaxnas.checks import shown, whole
from jaxnas.datasets.augmenting import Augment
from jaxnas.datasets.cifar import ARCHIVES, cifar_set, find_archive
from jaxnas.datasets.images import MOST_SIZE, channel_statistics, resize
from jaxnas.datasets.own import NPZ, array_set, npz_path, npz_set
from jaxnas.datasets.sources import FOLDER, Source, Split, digits, folder_set, how_to_get, tfds_folder, tfds_set
from jaxnas.datasets.splits import stratified_order
from jaxnas.datasets.streaming import Damaged, Records, Streamed
from jaxnas.files import one_line

STATISTICS_OF = 2**14  # pictures of the train part, of which mean and deviation are


class Reading(NamedTuple):
    """How pictures of any size, of a folder or of a TFDS set that declares none, are read."""

    most_resident: int = 2**32  # bytes of decoded images; a larger part is decoded as it is needed, see `Streamed`
    augment: Augment | None = None  # of training steps, on the host; with one the train part is always streamed
    damaged: Damaged = "stop"  # or "skip", which warns and takes the next picture of the train part
    num_workers: int = 0  # processes that decode; 0: threads


class Dataset(NamedTuple):
    """Images uint8 [num_images, height, width, channels], labels int32 [num_images] in [0, num_classes).

    The first n images of each part are a sample of it stratified by class. `mean` and `std` are those of the train
    part, float32 [channels], in units where the pixel value 255 is 1. Texts, for which they are empty, have words
    in place of images: see `load_text`. Pictures that are too many to be held are a `Streamed` instead of an array.
    """

    name: str
    train_images: Any
    train_labels: np.ndarray
    valid_images: Any
    valid_labels: np.ndarray
    test_images: Any
    test_labels: np.ndarray
    num_classes: int
    mean: np.ndarray
    std: np.ndarray
    source: str = ""  # where it is from, its licence, of a file that was published its checksum

    @property
    def is_text(self) -> bool:
        return self.train_images.ndim == 2


def load(
    name: str,
    *,
    num_valid: int,
    num_train: int | None = None,
    image_size: int | None = None,
    split_seed: int = 0,
    data_dir: str | os.PathLike[str] | None = None,
    reading: Reading | None = None,
) -> Dataset:
    """Read a data set and split its train part into train and validation, the same way at every call.

    The split depends on the labels and `split_seed` only, not on the version of NumPy. Both parts have the classes in
    the proportions of the whole, to within an image or so. The test part is never mixed in and not affected by the
    seed: TFDS's "test", else its "validation"; for digits 897 images fixed for good, which leaves 900 for the other
    two.

    Args:
      name: "digits"; "cifar10" or "cifar100", from the archives that `jaxnas data get` brings; a TFDS name such as
        "imagenet_resized/32x32"; "folder:PATH" with pictures in PATH/train/CLASS/*.jpg and PATH/val/CLASS/*.jpg,
        classes being numbered by name; "npz:PATH" with the arrays that `from_arrays` takes.
      num_valid: validation images, taken out of train.
      num_train: train images; None for all that are left.
      image_size: height and width to which images are resampled (antialiased, rounded to uint8), at most `MOST_SIZE`;
        None keeps theirs. Of pictures that differ in size the middle square of 7/8 of the shorter side is taken, of
        training steps what `reading.augment` says.
      split_seed: at least 0; another seed gives another split.
      data_dir: archives lie in it, TFDS sets in `data_dir/tfds`, which are taken where there are both; None takes the
        environment variable JAXNAS_DATA in its place, and without it TFDS's own default folder.
      reading: of pictures that differ in size; None: `Reading()`.

    Raises:
      ValueError: no such data set, not prepared, damaged or not of square grey or colour images with 8 bits; an image
        that is not as the set declares it, or has more than `MOST_PIXELS`; a label that is none of its classes; fewer
        images than asked for; a part with fewer than two classes.
    """
    check_name(name, data_dir)
    _check_numbers(num_valid, num_train, image_size, split_seed)
    if name.startswith(FOLDER):
        source = folder_set(name)
    elif name.startswith(NPZ):
        source = npz_set(name)
    elif name == "digits":
        source = digits()
    else:
        archive = find_archive(name, data_dir)
        source = tfds_set(name, data_dir) if archive is None else cifar_set(name, archive)
    return _parts(name, source, num_valid, num_train, image_size, split_seed, reading)


def from_arrays(
    name: str,
    train_images: np.ndarray,
    train_labels: np.ndarray,
    test_images: np.ndarray,
    test_labels: np.ndarray,
    *,
    num_valid: int,
    num_train: int | None = None,
    image_size: int | None = None,
    split_seed: int = 0,
    source: str = "",
) -> Dataset:
    """A data set of images that are there already, split as `load` does.

    Args:
      name: what it is called.
      train_images, test_images: uint8 [num_images, size, size, channels], 1 or 3 channels, or without that axis; of
        one size.
      train_labels, test_labels: integers [num_images]; classes are 0 to the largest of them.
      num_valid, num_train, image_size, split_seed: as `load` takes them.
      source: where they are from, and their licence.

    Raises:
      ValueError: other shapes or number types, parts that differ in size, labels below 0, fewer images than asked for.
    """
    _check_numbers(num_valid, num_train, image_size, split_seed)
    found = array_set(name, train_images, train_labels, test_images, test_labels, source)
    return _parts(name, found, num_valid, num_train, image_size, split_seed, None)


def _check_numbers(num_valid: int, num_train: int | None, image_size: int | None, split_seed: int) -> None:
    whole("num_valid", num_valid, 1)
    whole("num_train", num_train, 1) if num_train is not None else None
    whole("image_size", image_size, 1, MOST_SIZE) if image_size is not None else None
    whole("split_seed", split_seed, 0, 2**128 - 1)


def _parts(
    name: str,
    source: Source,
    num_valid: int,
    num_train: int | None,
    image_size: int | None,
    split_seed: int,
    reading: Reading | None,
) -> Dataset:
    size = image_size if image_size is not None else source.image_size
    if size is None:
        raise ValueError(f"{name}: its images differ in size; give the image_size to which they are resampled.")
    for part, split in (("train", source.train), ("test", source.test)):
        wrong = (split.labels < 0) | (split.labels >= source.num_classes)
        if wrong.any():
            place = int(np.argmax(wrong))
            label = split.labels[place]
            reason = "has no label (TFDS gives it -1)" if label == -1 else f"has the label {label}"
            raise ValueError(
                f"{name}: image {place} of {part} {reason}, expected 0 to {source.num_classes - 1}; prepare it again."
            )
    num_images = len(source.train.labels)
    if num_train is None:
        num_train = num_images - num_valid
    if num_valid < 1 or num_train < 1 or num_valid + num_train > num_images:
        raise ValueError(
            f"{name}: asked for {num_train} train and {num_valid} validation images; expected at least one of each and"
            f" together at most {num_images}; lower num_train or num_valid."
        )
    order = stratified_order(source.train.labels, split_seed)
    parts = {
        "train": (source.train, order[num_valid : num_valid + num_train]),
        "valid": (source.train, order[:num_valid]),
        "test": (source.test, stratified_order(source.test.labels, 0)),
    }
    arrays = {}
    for part, (split, indices) in parts.items():
        labels = split.labels[indices].astype(np.int32)
        if len(set(labels.tolist())) < 2:
            raise ValueError(
                f"{name}: the {part} part has {len(labels)} images of fewer than two classes; take more images."
            )
        arrays[f"{part}_labels"] = labels
        if split.records is None:
            arrays[f"{part}_images"] = _decoded(name, part, split, indices, size)
        else:
            arrays |= _pictures(part, split.records, indices, labels, size, reading or Reading())
    few = arrays["train_images"] if source.train.records is None else arrays["train_images"][:STATISTICS_OF]
    mean, std = channel_statistics(few)
    return Dataset(name=name, **arrays, num_classes=source.num_classes, mean=mean, std=std, source=source.source)


def _pictures(
    part: str, records: Records, indices: np.ndarray, labels: np.ndarray, size: int, reading: Reading
) -> dict[str, Any]:
    """A part of a set of pictures, and where one was skipped the label of that which came for it."""
    is_train = part == "train"
    images = Streamed(
        records,
        indices,
        size,
        augment=reading.augment if is_train else None,
        damaged=reading.damaged if is_train else "stop",
        num_workers=reading.num_workers,
    )
    if images.augment is not None or math.prod(images.shape) > reading.most_resident:
        return {f"{part}_images": images}
    held, rows = images.taken(np.arange(len(images)))
    return {f"{part}_images": held, f"{part}_labels": labels[rows]}


def check_name(name: str, data_dir: str | os.PathLike[str] | None = None) -> None:
    """Raise a ValueError where `load` will find no set of that name, which lists those that are there; reads nothing.

    Without a folder, as `load` takes it, TFDS knows best where to look, and says so when the set is read.
    """
    if not isinstance(name, str):
        raise ValueError(f"unknown data set {shown(name)}: expected a name, such as digits.")
    folder = tfds_folder(data_dir)
    if name.startswith(FOLDER):
        folder_set(name)
    if name.startswith(NPZ):
        npz_path(name)
    if name == "digits" or name.startswith((FOLDER, NPZ)) or folder is None or find_archive(name, data_dir):
        return
    there = sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    archives = [known for known in ARCHIVES if find_archive(known, data_dir)]
    if re.split("[/:]", name)[0] not in there:
        other = "" if name in ARCHIVES else "; another of tensorflow.org/datasets/catalog is prepared with"
        raise ValueError(
            f"unknown data set {name!r}: expected {', '.join(['digits', *archives, *there])}"
            f"{other or '; it comes with'}: {how_to_get(name, folder)}"
        )


def _decoded(name: str, part: str, split: Split, indices: np.ndarray, size: int) -> np.ndarray:
    """The images of a part, resampled: uint8 [num_images, size, size, channels]."""
    images = []
    with warnings.catch_warnings(category=Image.DecompressionBombWarning, action="error"):
        for place in indices.tolist():
            try:
                assert split.decode is not None
                images.append(resize(split.decode(place), size))
            except Exception as error:  # a damaged image raises anything
                raise ValueError(
                    f"{name}: image {place}, of the {part} part, cannot be read ({one_line(error)})."
                ) from None
    return np.stack(images)
