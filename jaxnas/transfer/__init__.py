"""A found network as the backbone of something else: person re-identification and object detection.

    supernet = make_supernet(space)                                  # of the size that the weights are of
    backbone = make_backbone(supernet, arch, strides=(8, 16, 32))
    params, stats = backbone.adopt(export.load("retrained.npz", supernet))
    features, _ = backbone.apply(params, images, stats=stats)        # stride -> map, for images of any size

What stands on it is trained by `make_finetuning`: `make_embedder` with `make_identity_loss` on batches of
`balanced_rows`, judged by `evaluate_retrieval`; `make_detector` with `make_detection_loss`, judged by
`evaluate_detections`.
"""

from jaxnas.transfer.assignment import assign, make_detection_loss
from jaxnas.transfer.backbone import STRIDES, Backbone, calibrate, make_backbone
from jaxnas.transfer.boxes import giou_loss, pairwise_iou, suppress
from jaxnas.transfer.coco import Objects, evaluate_coco, evaluate_detections
from jaxnas.transfer.detector import Detections, Detector, make_detector
from jaxnas.transfer.embedding import Embedder, balanced_rows, batch_hard_triplet, make_embedder, make_identity_loss
from jaxnas.transfer.feeding import read_ahead, shuffled_rows
from jaxnas.transfer.finetuning import Finetuning, TaskLoss, make_finetuning
from jaxnas.transfer.retrieval import Retrieval, cosine_distances, evaluate_retrieval

__all__ = [
    "STRIDES",
    "Backbone",
    "Detections",
    "Detector",
    "Embedder",
    "Finetuning",
    "Objects",
    "Retrieval",
    "TaskLoss",
    "assign",
    "balanced_rows",
    "batch_hard_triplet",
    "calibrate",
    "cosine_distances",
    "evaluate_coco",
    "evaluate_detections",
    "evaluate_retrieval",
    "giou_loss",
    "make_backbone",
    "make_detection_loss",
    "make_detector",
    "make_embedder",
    "make_finetuning",
    "make_identity_loss",
    "pairwise_iou",
    "read_ahead",
    "shuffled_rows",
    "suppress",
]
