"""COCO's box metrics, by pycocotools: an extra, `pip install 'jaxnas[detection]'`."""

import contextlib
import io
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import chex
import numpy as np

from jaxnas.checks import array

INSTALL = "pip install 'jaxnas[detection]'"
FIGURES = (
    *("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large"),
    *("ar1", "ar10", "ar100", "ar_small", "ar_medium", "ar_large"),
)


class Objects(NamedTuple):
    """The objects of one image, or what a detector takes for some.

    Attributes:
      boxes: float [num_objects, 4], left, top, right, bottom in pixels.
      labels: int [num_objects], from 0.
      scores: float [num_objects] of detections; None of objects that are there.
      is_crowd: bool [num_objects], groups that count neither way; None: none of them is.
    """

    boxes: chex.ArrayNumpy
    labels: chex.ArrayNumpy
    scores: chex.ArrayNumpy | None = None
    is_crowd: chex.ArrayNumpy | None = None


def evaluate_detections(
    truth: Sequence[Objects], found: Sequence[Objects], num_classes: int
) -> tuple[dict[str, float], np.ndarray]:
    """COCO's twelve figures by `FIGURES`, fractions, nan where there is nothing to judge; and the average precision of
    each class [num_classes].

    `ap` is the mean over classes and over overlaps from 0.50 to 0.95; small, medium and large objects are those of less
    than 32 x 32, less than 96 x 96 and more pixels (cocodataset.org/#detection-eval).

    Raises:
      ValueError: pycocotools isn't installed; no image; lengths or shapes that don't fit, detections without scores, a
        box of no area among the objects.
    """
    if not truth or len(truth) != len(found):
        raise ValueError(
            f"{len(truth)} images with objects and {len(found)} with detections, expected as many of each."
        )
    annotations: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for image, (there, seen) in enumerate(zip(truth, found), 1):
        crowd = np.zeros(len(there.labels), bool) if there.is_crowd is None else np.asarray(there.is_crowd)
        for box, label, together in zip(*_checked("objects", there, num_classes), crowd, strict=True):
            entry = _entry(image, box, label)
            if entry["area"] <= 0:
                raise ValueError(f"objects of image {image - 1}: box {box.tolist()} has no area, expected some.")
            annotations.append({**entry, "id": len(annotations) + 1, "iscrowd": int(together)})
        if seen.scores is None:
            raise ValueError(f"detections of image {image - 1} have no scores.")
        scores = array("scores", seen.scores, (len(seen.labels),), "floating")
        for box, label, score in zip(*_checked("detections", seen, num_classes), scores, strict=True):
            results.append({**_entry(image, box, label), "score": float(score)})
    annotated = {
        "images": [{"id": image} for image in range(1, len(truth) + 1)],
        "annotations": annotations,
        "categories": [{"id": label + 1} for label in range(num_classes)],
    }
    return evaluate_coco(annotated, results)


def evaluate_coco(
    annotated: Mapping[str, Any], results: Sequence[Mapping[str, Any]]
) -> tuple[dict[str, float], np.ndarray]:
    """The same of COCO's own forms: what an annotation file holds, and {image_id, category_id, bbox, score} of each
    detection."""
    coco, cocoeval = need_pycocotools()
    with contextlib.redirect_stdout(io.StringIO()):  # it tells what it does
        truth = coco.COCO()
        truth.dataset = {**annotated}
        truth.createIndex()
        found = truth.loadRes([*results]) if results else _nothing(coco, annotated)
        judge = cocoeval.COCOeval(truth, found, "bbox")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    figures = [float(figure) if figure >= 0 else float("nan") for figure in judge.stats]
    precision = judge.eval["precision"][:, :, :, 0, -1]  # overlap, recall, class; of all sizes, 100 an image
    counts = precision > -1
    sums, numbers = np.where(counts, precision, 0).sum(axis=(0, 1)), counts.sum(axis=(0, 1))
    by_class = np.where(numbers > 0, sums / np.maximum(numbers, 1), np.nan)
    return dict(zip(FIGURES, figures, strict=True)), by_class


def need_pycocotools() -> tuple[Any, Any]:
    """The modules pycocotools.coco and pycocotools.cocoeval, or a ValueError that says how to get them."""
    try:
        from pycocotools import coco, cocoeval  # an extra
    except ImportError as error:
        raise ValueError(f"COCO's metrics are pycocotools', which isn't there ({error}); {INSTALL}") from None
    return coco, cocoeval


def _checked(what: str, objects: Objects, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    labels = array(f"labels of {what}", objects.labels, (None,), "integer", least=0, most=num_classes - 1)
    return array(f"boxes of {what}", objects.boxes, (len(labels), 4)), labels


def _entry(image: int, box: np.ndarray, label: int) -> dict[str, Any]:
    left, top, right, bottom = (float(end) for end in box)
    width, height = max(right - left, 0.0), max(bottom - top, 0.0)
    return {
        "image_id": image, "category_id": int(label) + 1, "bbox": [left, top, width, height], "area": width * height
    }  # fmt: skip


def _nothing(coco: Any, annotated: Mapping[str, Any]) -> Any:
    """Results without a detection, which pycocotools cannot load."""
    empty = coco.COCO()
    empty.dataset = {**annotated, "annotations": []}
    empty.createIndex()
    return empty
