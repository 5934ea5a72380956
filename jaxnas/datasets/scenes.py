"""Pictures with boxes: COCO's folders, and VOC of TFDS."""

import io
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from PIL import Image

from jaxnas.checks import whole
from jaxnas.datasets.images import check_picture
from jaxnas.datasets.sources import how_to_prepare, quiet, tfds_folder
from jaxnas.files import decode_json, one_line

FILL = 114  # grey beside a picture that is not square
MOST_ANNOTATIONS = 2**31  # bytes of a file; COCO's train part has 470 MB
NUM_THREADS = 8


class Letterboxed:
    """Pictures uint8 [num_images, size, size, 3] that are decoded when rows are taken: scaled until the longer side is
    `size`, in the upper left corner."""

    dtype = np.dtype(np.uint8)
    ndim = 4

    def __init__(self, names: Sequence[str], read: Callable[[int], bytes], sides: np.ndarray, size: int) -> None:
        self.names, self.read, self.sides, self.size = names, read, sides, size
        self._pool = ThreadPoolExecutor(min(NUM_THREADS, os.cpu_count() or 1))

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return len(self.names), self.size, self.size, 3

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        found = list(self._pool.map(self._picture, np.arange(len(self))[rows].tolist()))
        return np.stack(found) if found else np.zeros((0, *self.shape[1:]), np.uint8)

    def _picture(self, row: int) -> np.ndarray:
        """One picture; its sides must be those that its boxes were told for."""
        try:
            encoded = self.read(row)
            picture = Image.open(io.BytesIO(encoded), formats=("PNG", "JPEG"))
            check_picture(picture, encoded, 3)
            if (picture.width, picture.height) != tuple(self.sides[row]):
                declared = " x ".join(map(str, self.sides[row]))
                raise ValueError(f"{picture.width} x {picture.height} pixels, its annotation says {declared}")
            scale = self.size / max(picture.size)
            width, height = (max(1, round(side * scale)) for side in picture.size)
            canvas = np.full((self.size, self.size, 3), FILL, np.uint8)
            scaled = picture.convert("RGB").resize((width, height), Image.Resampling.BILINEAR)
            canvas[:height, :width] = np.asarray(scaled)
            return canvas
        except Exception as error:  # a damaged picture raises anything
            raise ValueError(f"{self.names[row]}: cannot be read ({one_line(error)}); delete or replace it.") from None


class Scenes(NamedTuple):
    """Pictures of one part with their objects.

    Attributes:
      images: uint8 [num_images, size, size, channels], or `Letterboxed`.
      boxes: float32 [num_images, most objects, 4], left, top, right, bottom in pixels of `images`.
      labels: int32 [num_images, most objects] in [0, num_classes), -1 behind the last object.
      is_crowd: bool of the same shape: groups, which are not trained on and count neither way.
      scales: float32 [num_images], pixels of `images` over pixels of the picture as it came.
      class_names: of each label.
    """

    images: Any
    boxes: np.ndarray
    labels: np.ndarray
    is_crowd: np.ndarray
    scales: np.ndarray
    class_names: tuple[str, ...]


class _Told(NamedTuple):
    """What a set says of one picture."""

    name: str
    width: int
    height: int
    boxes: list[tuple[float, float, float, float]]  # left, top, right, bottom
    labels: list[int]
    is_crowd: list[bool]


def read_coco(
    folder: str | os.PathLike[str],
    part: Literal["train", "val"],
    *,
    size: int,
    damaged: Literal["stop", "skip"] = "skip",
) -> Scenes:
    """Read a part of a folder as COCO comes: annotations/instances_PART*.json and the pictures of PART*, which are
    decoded when they are asked for. Boxes are cut at the picture's sides; classes are numbered by COCO's ids.

    Args:
      size: pixels of the longer side.
      damaged: what is done about a box of no area, as COCO itself has some: "skip" leaves it out and warns.

    Raises:
      ValueError: what isn't there or isn't COCO's form; a box of no area, with "stop".
    """
    folder = Path(folder).expanduser()
    whole("size", size, 1, 4096)
    files = sorted((folder / "annotations").glob(f"instances_{part}*.json"))
    if len(files) != 1:
        raise ValueError(
            f"{folder}: {len(files)} files annotations/instances_{part}*.json, expected one, and a folder of pictures"
            f" called as the rest of its name, such as {part}2017."
        )
    pictures = folder / files[0].stem.removeprefix("instances_")
    if not pictures.is_dir():
        raise ValueError(f"{folder}: there is no folder {pictures.name} with the pictures of {files[0].name}.")
    if files[0].stat().st_size > MOST_ANNOTATIONS:
        raise ValueError(f"{files[0]}: more than {MOST_ANNOTATIONS:,} bytes; no annotations of COCO.")
    try:
        told, names = _coco(decode_json(files[0].read_bytes()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{files[0]}: not annotations as COCO has them ({one_line(error)}).") from None
    paths = [str(pictures / each.name) for each in told]
    return _scenes(files[0].name, told, paths, lambda row: Path(paths[row]).read_bytes(), names, size, damaged)


def _coco(content: Mapping[str, Any]) -> tuple[list[_Told], tuple[str, ...]]:
    """Pictures in the order of the file, and the names of the classes."""
    categories = sorted(content["categories"], key=lambda category: category["id"])
    number = {category["id"]: place for place, category in enumerate(categories)}
    told: dict[Any, _Told] = {}
    for image in content["images"]:
        told[image["id"]] = _Told(str(image["file_name"]), int(image["width"]), int(image["height"]), [], [], [])
    for annotation in content["annotations"]:
        left, top, width, height = map(float, annotation["bbox"])
        if annotation["image_id"] not in told or annotation["category_id"] not in number:
            raise ValueError(f"annotation {annotation.get('id')} is of no picture or no category of the file")
        image = told[annotation["image_id"]]
        image.boxes.append((left, top, left + width, top + height))
        image.labels.append(number[annotation["category_id"]])
        image.is_crowd.append(bool(annotation.get("iscrowd", 0)))
    if not told or not categories:
        raise ValueError(f"{len(told)} pictures and {len(categories)} categories")
    return list(told.values()), tuple(str(category["name"]) for category in categories)


def read_voc(source: Sequence[Mapping[str, Any]], class_names: Sequence[str], *, size: int) -> Scenes:
    """A part of VOC as TFDS has it: `tfds.data_source("voc/2007", split="train", decoders={"image":
    tfds.decode.SkipDecoding()})`, records of {image, image/filename, objects: {bbox, label, is_difficult}}. What is
    difficult counts neither way, as in VOC's own figures.

    Args:
      class_names: of the set, `builder.info.features["labels"].names`. size: pixels of the longer side.
    """
    whole("size", size, 1, 4096)
    told = []
    for place, record in enumerate(_each(source)):
        name, objects = str(record.get("image/filename", f"record {place}")), record["objects"]
        picture = Image.open(io.BytesIO(record["image"]), formats=("PNG", "JPEG"))  # reads the header only
        sides = np.array([picture.height, picture.width] * 2)
        ends = np.asarray(objects["bbox"], np.float64).reshape(-1, 4) * sides  # top, left, bottom, right, as shares
        boxes = [(left, top, right, bottom) for top, left, bottom, right in ends.tolist()]
        labels = [int(label) for label in objects["label"]]
        told.append(
            _Told(name, picture.width, picture.height, boxes, labels, [bool(d) for d in objects["is_difficult"]])
        )
    names = [each.name for each in told]
    return _scenes("voc", told, names, lambda row: source[row]["image"], tuple(class_names), size, "skip")


def load_voc(name: str, *, size: int, data_dir: str | os.PathLike[str] | None = None) -> tuple[Scenes, Scenes]:
    """Train and test part of a set such as "voc/2007" that was prepared for TFDS, in `data_dir/tfds`; of one without a
    test part its validation part. Arguments as for `read_voc` and `load`.

    Raises:
      ValueError: it isn't there, and how it is prepared.
    """
    folder = tfds_folder(data_dir)
    remedy = f"prepare it with: {how_to_prepare(name, folder)}"
    with quiet():
        import tensorflow_datasets as tfds  # slow to import, and only needed here

        try:
            builder = tfds.builder(name, data_dir=folder)
            decoders = {"image": tfds.decode.SkipDecoding()}
            names = builder.info.features["labels"].names
            test = "test" if "test" in builder.info.splits else "validation"
            train, test_part = (builder.as_data_source(split, decoders=decoders) for split in ("train", test))
        except Exception as error:  # by what the name or the folder lacks, anything
            raise ValueError(f"{name}: nothing with boxes is prepared ({one_line(error)}); {remedy}") from None
    return read_voc(train, names, size=size), read_voc(test_part, names, size=size)


def _each(source: Sequence[Mapping[str, Any]]) -> Any:
    return (source[place] for place in range(len(source)))


def _scenes(
    name: str,
    told: Sequence[_Told],
    names: Sequence[str],
    read: Callable[[int], bytes],
    class_names: tuple[str, ...],
    size: int,
    damaged: str,
) -> Scenes:
    most = max(1, *(len(each.labels) for each in told))
    boxes, labels = np.zeros((len(told), most, 4), np.float32), np.full((len(told), most), -1, np.int32)
    is_crowd, scales, empty = np.zeros((len(told), most), bool), np.zeros(len(told), np.float32), []
    for row, each in enumerate(told):
        scales[row] = scale = size / max(each.width, each.height)
        limits, place = np.array([each.width, each.height] * 2), 0
        for box, label, crowd in zip(each.boxes, each.labels, each.is_crowd, strict=True):
            cut = np.clip(np.nan_to_num(np.array(box)), 0, limits)
            if cut[2] <= cut[0] or cut[3] <= cut[1]:
                empty.append(f"{each.name}, box {tuple(round(end, 1) for end in box)} of class {class_names[label]}")
                continue
            boxes[row, place], labels[row, place], is_crowd[row, place] = cut * scale, label, crowd
            place += 1
    if empty:
        line = f"{name}: {len(empty)} boxes have no area within their picture, the first {empty[0]}"
        if damaged == "stop":
            raise ValueError(f"{line}; correct them, or set damaged to skip.")
        warnings.warn(f"{line}; left out.", stacklevel=3)
    sides = np.array([[each.width, each.height] for each in told])
    return Scenes(Letterboxed(names, read, sides, size), boxes, labels, is_crowd, scales, class_names)
