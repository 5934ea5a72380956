"""Where images come from: scikit-learn's digits, or a set of TensorFlow Datasets (TFDS) that was prepared before."""

import contextlib
import io
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxnas.checks import whole
from jaxnas.datasets.downloading import get_command
from jaxnas.datasets.images import decode
from jaxnas.datasets.splits import stratified_order
from jaxnas.datasets.streaming import ArrayRecords, Files, Records
from jaxnas.files import one_line

DIGITS = "Optical Recognition of Handwritten Digits of the UCI repository, in scikit-learn; licence: CC BY 4.0"
PUBLISHED = ("cifar10", "cifar100")  # sets that are read from their published archives, too: see `cifar`
NUM_DIGITS_TEST = 897  # of 1,797, so that 900 stay for train and validation
FOLDER = "folder:"
TEST_FOLDERS = ("val", "validation", "test")
SUFFIXES = (".jpg", ".jpeg", ".png")
LAYOUT = f"PATH/train/CLASS/*{SUFFIXES[0]} and PATH/val/CLASS/*{SUFFIXES[0]}, val or {' or '.join(TEST_FOLDERS[1:])}"
_READ_BATCH = 1000  # records a read


class Split(NamedTuple):
    """Images with labels, int64 [num_images]: square ones of a size by `decode`, pictures of any by `records`."""

    labels: np.ndarray
    decode: Callable[[int], np.ndarray] | None = None  # index -> uint8 [height, width, channels], or a ValueError
    records: Records | None = None


class Source(NamedTuple):
    train: Split
    test: Split
    num_classes: int
    image_size: int | None  # None: images differ in size
    source: str  # where it is from, and its licence


def digits() -> Source:
    from sklearn.datasets import load_digits  # slow to import, and only needed here

    loaded = load_digits()
    images = np.rint(loaded.images[..., None] * (255 / 16)).astype(np.uint8)
    order = stratified_order(loaded.target, 0)
    test, train = (Split(loaded.target[part], images[part].__getitem__) for part in np.split(order, [NUM_DIGITS_TEST]))
    return Source(train, test, num_classes=10, image_size=8, source=DIGITS)


def folder_set(name: str) -> Source:
    """The set called folder:PATH: PATH/train/CLASS/*.jpg, and PATH/val, validation or test alike; classes by name."""
    root = Path(name.removeprefix(FOLDER)).expanduser()
    if not root.is_dir():
        raise ValueError(f"{name}: there is no such folder; expected {LAYOUT}.")
    test = next((root / part for part in TEST_FOLDERS if (root / part).is_dir()), None)
    if not (root / "train").is_dir() or test is None:
        raise ValueError(f"{name}: no folder {'val' if (root / 'train').is_dir() else 'train'}; expected {LAYOUT}.")
    classes = sorted(path.name for path in (root / "train").iterdir() if path.is_dir())
    if len(classes) < 2:
        raise ValueError(f"{root / 'train'}: {len(classes)} class folders, expected two or more; {LAYOUT}.")
    unknown = {path.name for path in test.iterdir() if path.is_dir()} - set(classes)
    if unknown:
        raise ValueError(f"{test}: a class {min(unknown)!r} that train doesn't have; expected those of train.")
    return Source(_files(root / "train", classes), _files(test, classes), len(classes), None, f"pictures in {root}")


def _files(part: Path, classes: Sequence[str]) -> Split:
    paths: list[str] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        folder = part / name
        found = sorted(entry.path for entry in os.scandir(folder) if entry.name.lower().endswith(SUFFIXES))
        if not found:
            raise ValueError(
                f"{folder}: no picture ({', '.join(SUFFIXES)}); put some there, or delete the class folder."
            )
        paths += found
        labels += [label] * len(found)
    return Split(np.array(labels, np.int64), records=Files(paths))


def tfds_set(name: str, data_dir: str | os.PathLike[str] | None) -> Source:
    folder = tfds_folder(data_dir)
    remedy = f"prepare it with: {how_to_prepare(name, folder)}"
    with quiet():
        import tensorflow_datasets as tfds  # slow to import, and only needed here

        try:
            builder = tfds.builder(name, data_dir=folder)
        except Exception as error:  # a ValueError, AssertionError, TypeError or ImportError, by what the name lacks
            raise ValueError(
                f"unknown data set {name!r}: expected digits, or a name of tensorflow.org/datasets/catalog or of a set"
                f" in {folder or 'the default folder of TFDS'} ({one_line(error)})"
            ) from None
        if not builder.is_prepared():
            hint = "" if folder else " (data_dir or JAXNAS_DATA name another folder)"
            raise ValueError(
                f"{name}: nothing prepared in {builder.data_dir}{hint}; get it with: {how_to_get(name, folder)}"
            )

        try:
            features, splits = builder.info.features, builder.info.splits
            image, label = _keys(features, builder.info.supervised_keys, tfds.features)
        except (ValueError, TypeError, AttributeError) as error:
            raise ValueError(f"{name}: not an image-classification set: {str(error).rstrip('.')}.") from None
        test = "test" if "test" in splits else "validation"
        if not {"train", test} <= set(splits):
            raise ValueError(f"{name}: expected splits train and test (or validation); it has {', '.join(splits)}.")
        records = {}
        for split in ("train", test):
            try:
                source = builder.as_data_source(split, decoders={image: tfds.decode.SkipDecoding()})
                _check_shards(splits[split].filepaths, splits[split].shard_lengths)
                records[split] = _split(source, split, image, label, features[image].shape)
            except Exception as error:  # TFRecord files: NotImplementedError; damage: RuntimeError and others
                raise ValueError(
                    f"{name}: cannot read {split} in {builder.data_dir} ({one_line(error)}); {remedy}"
                ) from None
    shape, num_classes = features[image].shape, int(features[label].num_classes)
    size = shape[0] if shape[0] == shape[1] else None
    source = f"TensorFlow Datasets, {builder.info.full_name}; licence: see {builder.info.homepage}"
    return Source(records["train"], records[test], num_classes=num_classes, image_size=size, source=source)


def _split(source: Any, split: str, image: str, label: str, shape: tuple[int | None, ...]) -> Split:
    """A split of one size is held encoded, since only what is taken gets decoded; of pictures of any size the labels
    alone, for which every record is read once."""
    if shape[2] != 1 and (shape[0] is None or shape[1] is None):
        labels = [int(label) for _, label in _read(source, image, label)]
        return Split(np.array(labels, np.int64), records=ArrayRecords(source, image, split))
    return _encoded_split(list(_read(source, image, label)), shape)


def _keys(features: Any, keys: Any, kinds: Any) -> tuple[str, str]:
    """The names of image and label, if the set declares images of 8 bits and two classes or more."""
    match keys:
        case (str(image), str(label)) if {image, label} <= set(features):
            pass
        case _:
            raise ValueError(f"its supervised keys are {keys}, expected those of an Image and a ClassLabel")
    if not isinstance(features[image], kinds.Image) or not isinstance(features[label], kinds.ClassLabel):
        raise ValueError(f"its supervised keys are {keys}, expected those of an Image and a ClassLabel")
    if features[image].np_dtype != np.uint8 or features[image].shape[-1] not in (1, 3, None):
        raise ValueError(
            f"its images are {features[image].np_dtype} {features[image].shape}, expected uint8, 1 or 3 channels"
        )
    whole("num_classes", features[label].num_classes, 2)
    return image, label


def _check_shards(paths: Sequence[Any], declared: Sequence[int]) -> None:
    """A file of another split, or of another version of the set, has another number of records than the set declares;
    the data source reads as many as are declared, without a word."""
    from array_record.python.array_record_module import ArrayRecordReader

    for path, number in zip(paths, declared, strict=True):
        found = ArrayRecordReader(str(path)).num_records()  # 0 of one that is cut; closing that one raises
        if found != number:
            raise ValueError(
                f"{Path(path).name} has {found} records, the set declares {number}: cut short, damaged or another file"
            )


def _read(source: Any, image: str, label: str) -> Iterator[tuple[bytes, int]]:
    """Encoded image and label of all records of a TFDS data source, read in batches: twice as fast as one by one."""
    expected = len(source)
    for start in range(0, expected, _READ_BATCH):
        for place, record in enumerate(source.__getitems__(range(start, min(start + _READ_BATCH, expected))), start):
            if not isinstance(record[image], bytes):  # None, where a file ends before its index does
                raise ValueError(f"cut short: record {place} of {expected} is missing")
            yield record[image], int(record[label])


def _encoded_split(records: list[tuple[bytes, int]], shape: tuple[int | None, ...]) -> Split:
    """A split whose images are left encoded (PNG, JPEG): only those that are taken get decoded."""
    return Split(np.array([label for _, label in records], np.int64), lambda place: decode(records[place][0], shape))


def data_folder(data_dir: str | os.PathLike[str] | None) -> Path | None:
    """The folder that a user names, else that of the variable JAXNAS_DATA."""
    data_dir = data_dir or os.environ.get("JAXNAS_DATA")
    return Path(data_dir).expanduser() if data_dir else None


def tfds_folder(data_dir: str | os.PathLike[str] | None) -> Path | None:
    folder = data_folder(data_dir)
    return folder / "tfds" if folder else None


def how_to_get(name: str, folder: Path | None) -> str:
    """The command that brings a set that isn't there; `folder` is that of TFDS sets."""
    return get_command(name, folder and folder.parent) if name in PUBLISHED else how_to_prepare(name, folder)


def how_to_prepare(name: str, folder: Path | None) -> str:
    where = f" --data_dir={folder}" if folder else ""
    return f"pip install tensorflow && tfds build {name} --file_format=array_record{where}"


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep back what TFDS logs, and prints about TensorFlow, on the way to a plain answer."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)
