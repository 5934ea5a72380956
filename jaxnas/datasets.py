"""Named image-classification sets as host arrays: scikit-learn's digits, or any set of TensorFlow Datasets (TFDS).

Everything is read into memory: meant for sets of CIFAR's size, whose arrays then live on the device:

    data = datasets.load("cifar10", num_valid=10_000, image_size=16, data_dir="~/data")
    images, labels = jax.device_put((data.train_images, data.train_labels))
"""

import contextlib
import io
import logging
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

NUM_DIGITS_TEST = 897  # of 1,797, so that 900 stay for train and validation
_READ_BATCH = 1000  # records a read


class Dataset(NamedTuple):
    """Images uint8 [num_images, height, width, channels], labels int32 [num_images] in [0, num_classes).

    The first n images of each part are a sample of it stratified by class. `mean` and `std` are those of the train
    part, float32 [channels], in units where the pixel value 255 is 1.
    """

    name: str
    train_images: np.ndarray
    train_labels: np.ndarray
    valid_images: np.ndarray
    valid_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    num_classes: int
    mean: np.ndarray
    std: np.ndarray


class _Split(NamedTuple):
    labels: np.ndarray  # int [num_images]
    decode: Callable[[int], np.ndarray]  # index -> uint8 [height, width, channels]


class _Source(NamedTuple):
    train: _Split
    test: _Split
    num_classes: int
    image_size: int | None  # None: images differ in size


def load(
    name: str,
    *,
    num_valid: int,
    num_train: int | None = None,
    image_size: int | None = None,
    split_seed: int = 0,
    data_dir: str | os.PathLike[str] | None = None,
) -> Dataset:
    """Read a data set and split its train part into train and validation, the same way at every call.

    The split depends on the labels and `split_seed` only, not on the version of NumPy. Both parts have the classes in
    the proportions of the whole, to within an image or so. The test part is never mixed in and not affected by the
    seed: TFDS's "test", else its "validation"; for digits 897 images fixed for good, which leaves 900 for the other
    two.

    Args:
      name: "digits", or a TFDS name such as "cifar10" or "imagenet_resized/32x32".
      num_valid: validation images, taken out of train.
      num_train: train images; None for all that are left.
      image_size: height and width to which images are resampled (antialiased, rounded to uint8); None keeps theirs.
      split_seed: at least 0; another seed gives another split.
      data_dir: TFDS sets lie in `data_dir/tfds`; None takes the environment variable JAXNAS_DATA in its place, and
        without it TFDS's own default folder.

    Raises:
      ValueError: no such data set, not prepared, damaged or not of square grey or colour images; fewer images than
        asked for; a part with fewer than two classes.
    """
    check_name(name, data_dir)
    source = _digits() if name == "digits" else _tfds(name, data_dir)
    size = image_size if image_size is not None else source.image_size
    if size is None or size < 1:
        raise ValueError(
            f"{name}: image_size is {image_size}; expected at least 1 pixel (the set's own: {source.image_size})."
        )
    num_images = len(source.train.labels)
    if num_train is None:
        num_train = num_images - num_valid
    if num_valid < 1 or num_train < 1 or num_valid + num_train > num_images:
        raise ValueError(
            f"{name}: asked for {num_train} train and {num_valid} validation images; expected at least one of each and"
            f" together at most {num_images}."
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
        if labels.min() < 0:
            raise ValueError(f"{name}: the {part} part has images without a label (TFDS gives them {labels.min()}).")
        arrays[f"{part}_labels"] = labels
        arrays[f"{part}_images"] = np.stack([resize(split.decode(index), size) for index in indices.tolist()])
    mean, std = channel_statistics(arrays["train_images"])
    return Dataset(name=name, **arrays, num_classes=source.num_classes, mean=mean, std=std)


def check_name(name: str, data_dir: str | os.PathLike[str] | None = None) -> None:
    """Raise a ValueError where `load` will find no set of that name, which lists those that are there; reads nothing.

    Without a folder, as `load` takes it, TFDS knows best where to look, and says so when the set is read.
    """
    folder = _tfds_folder(data_dir)
    if name == "digits" or folder is None:
        return
    there = sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    if re.split("[/:]", name)[0] not in there:
        raise ValueError(
            f"unknown data set {name!r}: expected {', '.join(['digits', *there])}; another of"
            f" tensorflow.org/datasets/catalog is prepared with: {_how_to_prepare(name, folder)}"
        )


def _tfds_folder(data_dir: str | os.PathLike[str] | None) -> Path | None:
    data_dir = data_dir or os.environ.get("JAXNAS_DATA")
    return Path(data_dir).expanduser() / "tfds" if data_dir else None


def _how_to_prepare(name: str, folder: Path | None) -> str:
    where = f" --data_dir={folder}" if folder else ""
    return f"pip install tensorflow && tfds build {name} --file_format=array_record{where}"


def stratified_order(labels: np.ndarray, seed: int) -> np.ndarray:
    """A seeded permutation of the images, each prefix of which has the classes in proportion: int64 [num_images].

    Image number r (from 0) of a class of c images, in random order, sorts at (r + 1/2) / c; so a prefix that holds the
    share t of all images holds round(t c) of every class. Ranks come from raw Philox bits, which NumPy keeps stable
    between versions, unlike its permutations.
    """
    bits = np.random.Philox(seed).random_raw(len(labels))
    position = np.empty(len(labels))
    for label in np.unique(labels):
        (members,) = np.nonzero(labels == label)
        members = members[np.argsort(bits[members], kind="stable")]
        position[members] = (np.arange(len(members)) + 0.5) / len(members)
    return np.lexsort((bits, position))


def resize(image: np.ndarray, size: int) -> np.ndarray:
    """Resample a square uint8 image [height, width, channels] to [size, size, channels]; 1 or 3 channels.

    Pillow's Hamming filter over the area of each new pixel: as sharp as a cubic one, without aliasing or ringing, and
    in integers, hence the same on every machine. Raises a ValueError for any other image.
    """
    height, width, channels = image.shape
    if height != width or channels not in (1, 3) or image.dtype != np.uint8:
        raise ValueError(f"an image is {image.dtype} {image.shape}; expected uint8, square, with 1 or 3 channels.")
    if height == size:
        return image
    picture = Image.fromarray(image[..., 0] if channels == 1 else image)
    return np.asarray(picture.resize((size, size), Image.Resampling.HAMMING)).reshape(size, size, channels)


def channel_statistics(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation over pixels of uint8 images [..., channels], in [0, 1]: two float32 [channels]."""
    counts = np.stack([np.bincount(channel.ravel(), minlength=256) for channel in np.moveaxis(images, -1, 0)])
    shares = counts / counts.sum(axis=1, keepdims=True)
    values = np.arange(256) / 255
    mean = shares @ values
    variance = (shares * (values - mean[:, None]) ** 2).sum(axis=1)
    return mean.astype(np.float32), np.sqrt(variance).astype(np.float32)


def _digits() -> _Source:
    from sklearn.datasets import load_digits  # slow to import, and only needed here

    digits = load_digits()
    images = np.rint(digits.images[..., None] * (255 / 16)).astype(np.uint8)
    order = stratified_order(digits.target, 0)
    test, train = (_Split(digits.target[part], images[part].__getitem__) for part in np.split(order, [NUM_DIGITS_TEST]))
    return _Source(train, test, num_classes=10, image_size=8)


def _tfds(name: str, data_dir: str | os.PathLike[str] | None) -> _Source:
    folder = _tfds_folder(data_dir)
    how_to_prepare = f"prepare it with: {_how_to_prepare(name, folder)}"
    with _quiet_absl():
        import tensorflow_datasets as tfds  # slow to import, and only needed here

        try:
            builder = tfds.builder(name, data_dir=folder)
        except Exception as error:  # a ValueError, AssertionError, TypeError or ImportError, by what the name lacks
            raise ValueError(
                f"unknown data set {name!r}: expected digits, or a name of tensorflow.org/datasets/catalog or of a set"
                f" in {folder or 'the default folder of TFDS'} ({_one_line(error)})"
            ) from None
        if not builder.is_prepared():
            hint = "" if folder else " (data_dir or JAXNAS_DATA name another folder)"
            raise ValueError(f"{name}: nothing prepared in {builder.data_dir}{hint}; {how_to_prepare}")

        features, splits = builder.info.features, builder.info.splits
        match builder.info.supervised_keys:
            case (str(image), str(label)) if isinstance(features[image], tfds.features.Image) and isinstance(
                features[label], tfds.features.ClassLabel
            ):
                pass
            case keys:
                raise ValueError(
                    f"{name}: not an image-classification set; its supervised keys are {keys}, expected those of an"
                    " Image and a ClassLabel."
                )
        test = "test" if "test" in splits else "validation"
        if not {"train", test} <= set(splits):
            raise ValueError(f"{name}: expected splits train and test (or validation); it has {', '.join(splits)}.")
        records = {}
        for split in ("train", test):
            try:
                source = builder.as_data_source(split, decoders={image: tfds.decode.SkipDecoding()})
                records[split] = _read(source)
            except Exception as error:  # TFRecord files: NotImplementedError; damage: RuntimeError and others
                raise ValueError(
                    f"{name}: cannot read {split} in {builder.data_dir} ({_one_line(error)}); {how_to_prepare}"
                ) from None
    height, width, channels = features[image].shape
    return _Source(
        _encoded_split(records["train"], image, label, channels),
        _encoded_split(records[test], image, label, channels),
        num_classes=features[label].num_classes,
        image_size=height if height == width else None,
    )


def _read(source: Any) -> list[dict[str, Any]]:
    """All records of a TFDS data source, in batches: twice as fast as one by one."""
    return [
        record
        for start in range(0, len(source), _READ_BATCH)
        for record in source.__getitems__(range(start, min(start + _READ_BATCH, len(source))))
    ]


def _encoded_split(records: list[dict[str, Any]], image: str, label: str, channels: int | None) -> _Split:
    """A split whose images are left encoded (PNG, JPEG): only those that are taken get decoded."""

    def decode(index: int) -> np.ndarray:
        # Pillow for every user: TFDS would take OpenCV where it is installed, whose JPEG pixels differ.
        picture = Image.open(io.BytesIO(records[index][image])).convert("L" if channels == 1 else "RGB")
        return np.asarray(picture).reshape(picture.height, picture.width, -1)

    return _Split(np.array([record[label] for record in records]), decode)


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"


@contextlib.contextmanager
def _quiet_absl() -> Iterator[None]:
    """Keep back the warnings that TFDS logs on the way to a plain answer."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
