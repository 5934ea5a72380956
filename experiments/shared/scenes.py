"""The scenes that a detector is trained and judged on: COCO's, VOC's, or the proxy."""

from typing import NamedTuple

import numpy as np

from jaxnas import datasets
from jaxnas.datasets import Dataset, Scenes
from jaxnas.transfer import Objects, evaluate_detections

from .backbones import Candidate
from .config import SceneConfig, TransferConfig
from .problem import load_images


class Task(NamedTuple):
    """What is looked for, with what the pictures are standardised by."""

    name: str
    train: Scenes
    test: Scenes
    data: Dataset  # of classification


def load_task(config: TransferConfig, scenes: SceneConfig, candidates: list[Candidate]) -> Task:
    """The scenes, and the set that the backbones learn to classify."""
    data = load_images(config.problem, candidates[0].published)
    image_size = data.train_images.shape[1]
    size = scenes.scene_size or 2 * image_size
    if scenes.coco is not None:
        train, test = (datasets.read_coco(scenes.coco, part, size=size) for part in ("train", "val"))
        return Task(f"COCO in {scenes.coco}", train, test, data)
    if scenes.voc is not None:
        train, test = datasets.load_voc(scenes.voc, size=size, data_dir=config.problem.data_dir)
        return Task(scenes.voc, train, test, data)

    def pasted(images: np.ndarray, labels: np.ndarray, number: int, seed: int) -> Scenes:
        sides = scenes.least_side or 5 * image_size // 8, scenes.most_side or 5 * image_size // 4
        return datasets.paste(
            images,
            labels,
            data.num_classes,
            number,
            size=size,
            sides=sides,
            most_objects=scenes.most_objects,
            seed=seed,
        )

    seed = 2 * config.problem.seed
    train = pasted(data.train_images, data.train_labels, scenes.num_scenes, seed)
    test = pasted(data.test_images, data.test_labels, scenes.num_test_scenes, seed + 1)
    return Task(f"{config.problem.dataset} pasted on canvases", train, test, data)


def truth_of(scenes: Scenes) -> list[Objects]:
    """The objects of each scene, in pixels of the picture as it came."""
    return [
        Objects(boxes[labels >= 0] / scale, labels[labels >= 0], None, crowd[labels >= 0])
        for boxes, labels, crowd, scale in zip(scenes.boxes, scenes.labels, scenes.is_crowd, scenes.scales)
    ]


def chance_of(task: Task, seed: int) -> float:
    """AP of exact boxes, all equally sure, whose classes are drawn."""
    rng, num_classes = np.random.default_rng(seed), len(task.test.class_names)
    truth = truth_of(task.test)
    found = [
        Objects(each.boxes, rng.integers(num_classes, size=len(each.labels)), np.ones(len(each.labels)))
        for each in truth
    ]
    return evaluate_detections(truth, found, num_classes)[0]["ap"]
