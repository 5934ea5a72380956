"""A folder of pictures as ImageNet lies in one, made of a set that is at hand: to try a long way in small."""

import os
import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from jaxnas.datasets.loading import Dataset

QUALITY = 90  # of the JPEGs
MARGIN = 8 / 7  # sides over what an evaluation sees of them


def write_folder(folder: str | os.PathLike[str], data: Dataset, size: int) -> Path:
    """Write train and test part as FOLDER/train/CLASS/*.jpg and FOLDER/val/CLASS/*.jpg, enlarged so that an evaluation
    at `size` pixels sees most of each; one picture in three is wider than high. Whole or not at all: a folder that is
    there is left as it is.

    Raises:
      OSError: it cannot be written.
    """
    folder = Path(folder)
    if folder.exists():
        return folder
    temp = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temp, ignore_errors=True)
    height = round(size * MARGIN)
    for part, images, labels in (
        ("train", data.train_images, data.train_labels),
        ("val", data.test_images, data.test_labels),
    ):
        for number, (image, label) in enumerate(zip(images, labels.tolist(), strict=True)):
            target = temp / part / f"{label:03d}" / f"{number:05d}.jpg"
            target.parent.mkdir(parents=True, exist_ok=True)
            colours = np.broadcast_to(image, (*image.shape[:2], 3))
            width = height if number % 3 else height * 4 // 3
            picture = Image.fromarray(np.ascontiguousarray(colours)).resize((width, height), Image.Resampling.BICUBIC)
            picture.save(target, quality=QUALITY)
    os.replace(temp, folder)
    return folder
