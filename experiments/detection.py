"""What is a found network worth as the backbone of an object detector?

Each backbone learns to classify, then to detect with a feature pyramid and an anchor-free head (FCOS) on it, by one
recipe. Judged is COCO's average precision, by pycocotools (`pip install 'jaxnas[detection]'`). Compared are networks
that were found (or, without `--arch`, the best of the space's table), networks drawn at random within the same limit,
MobileNetV2's block everywhere, and the first of them without having learnt to classify.

    jaxnas detection quick --workdir runs/detection
    jaxnas detection cpu --data-dir DIR --arch found.json random.json --workdir runs/detection-cifar
    jaxnas detection paper --coco COCO --arch retrained.npz --workdir runs/detection-coco

Without `--coco` or `--voc` it is a proxy: images of the set that is classified, pasted on canvases, with exact boxes;
those of test scenes are no images that anything was trained on. Its figures say which backbone is better, and stand
beside no published one. `chance_ap` is what exact boxes have whose classes are drawn. WORKDIR/backbones.csv has a row
for each backbone and seed, detections.png scenes with what was found. Minutes and figures are on the page Experiments
of the documentation.
"""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnas import plotting, runs
from jaxnas.checks import Count, Whole
from jaxnas.runs import sealed
from jaxnas.runs.command import main
from jaxnas.training import standardise
from jaxnas.transfer import (
    Detector,
    Objects,
    evaluate_detections,
    make_detection_loss,
    make_detector,
    shuffled_rows,
)
from jaxnas.transfer.coco import FIGURES, need_pycocotools
from jaxnas.transfer.detector import check_sides

from .shared.backbones import UNTRAINED, Figures, by_backbone, draw_transfer, find_candidates, summarise
from .shared.classifying import FOLDER, Classifier, Pretrained, compare, make_tuning, tune
from .shared.config import DetectionConfig
from .shared.scenes import Task, chance_of, load_task, truth_of
from .shared.telling import hashes, level

NUM_SHOWN = 8  # scenes of the picture
SHOWN_SCORE = 0.3  # at least, of boxes in it


@dataclasses.dataclass(frozen=True)
class Config(DetectionConfig):
    """Backbones, and the scenes in which they find objects."""

    strides: tuple[Annotated[int, Whole(1)], ...] | None = None  # of the pyramid; None: the coarsest 3 without 1
    head_width: Count = 32  # channels of pyramid and head
    head_depth: Annotated[int, Whole(0)] = 1  # convolutions of a tower
    mirror: bool = False  # training scenes, with probability one half


QUICK = runs.replace(
    Config(), width=8, image_size=16, num_seeds=3,
)  # fmt: skip
PRESETS = {
    "tiny": runs.replace(
        QUICK, width=4, num_train=100, num_valid=50, num_seeds=1, num_epochs=1, num_steps=4, num_warm_up_steps=1,
        batch_size=4, image_size=8, scene_size=16, least_side=6, most_side=8, num_scenes=16, num_test_scenes=8,
        head_width=4, mobilenet_v2=False, num_calibration_images=8, images_per_call=8, checkpoint_every=2,
        report_every=2,
    ),
    "quick": QUICK,
    # For files: what is compiled, minutes of a core for each further network, is most of the time. The learning rates
    # are for networks of 17 layers that have learnt little, chosen on other seeds.
    "cpu": runs.replace(
        QUICK, space="nasbench_macro", dataset="cifar10", width=8, image_size=32, num_train=5000, num_random=0,
        mobilenet_v2=False, num_valid=5000, num_epochs=5, num_scenes=1000, num_test_scenes=300, num_steps=400,
        learning_rate=4e-3, backbone_rate=1.0, mirror=True,
    ),
    # On an accelerator, not run: sizes of FCOS's own training of 12 epochs, the recipe is this experiment's.
    "paper": runs.replace(
        QUICK, space="mobile_small", dataset="imagenet2012", num_best=0, num_train=None, num_valid=10_000,
        image_size=None, augment="crop", reading_workers=16, recipe="imagenet", num_epochs=None, scene_size=800,
        strides=(8, 16, 32), head_width=256, head_depth=4, mirror=True, num_steps=90_000, num_warm_up_steps=500,
        learning_rate=1e-4, backbone_rate=1.0, checkpoint_every=2000, report_every=200,
    ),
}  # fmt: skip


def run(config: Config, workdir: Path, identity: str) -> Mapping[str, Any]:
    """Compare the backbones; see the module's docstring."""
    need_pycocotools()
    candidates = find_candidates(runs.check(config))
    compile_seconds = runs.compile_clock()
    task = load_task(config, config.scenes, candidates)
    rows = compare(
        config, candidates, task.data, config.strides, workdir, identity, lambda made: learner(config, task, made)
    )
    chance = chance_of(task, config.problem.seed)
    figures: Figures = {
        "space": candidates[0].published.name,
        "dataset": task.name,
        **summarise(rows, "ap"),
        **{f"{name}_ap50": float(values.mean()) for name, values in by_backbone(rows, "ap50").items()},
        "chance_ap": chance,
        "num_test_scenes": len(task.test.images),
        "num_test_objects": int((task.test.labels >= 0).sum()),
        "num_seeds": config.finetuning.num_seeds,
        "trained_steps": config.finetuning.num_steps,
        "compile_seconds": compile_seconds(),
        **hashes(task.data),
    }
    sentence = f"AP of detection on {figures['backbone']} is {{}}; of exact boxes with classes by chance {chance:.3f}"
    told = level(figures, "ap", sentence, digits=3)
    draw(config, task, workdir, identity, rows, told["verdict"], chance)
    return told | figures


def learner(
    config: Config, task: Task, classifier: Classifier
) -> Callable[[Pretrained, int, Path, sealed.Origin], Figures]:
    """What one backbone's detector learns and comes to, by seed; what is compiled serves all seeds."""
    train, given = task.train, config.finetuning
    detector = make_detector(
        classifier.backbone, len(train.class_names), width=config.head_width, depth=config.head_depth
    )
    loss_of = make_detection_loss(detector)

    def loss_fn(params: Any, batch: Any, key: jax.Array) -> tuple[jax.Array, Mapping[str, jax.Array]]:
        images, boxes = standardise(batch["images"], task.data.mean, task.data.std), batch["boxes"]
        if config.mirror:
            turned = jax.random.bernoulli(key, 0.5, (len(images), 1, 1))
            images = jnp.where(turned[..., None], images[:, :, ::-1], images)
            boxes = jnp.where(turned, mirrored(boxes, images.shape[2]), boxes)
        return loss_of(params, images, boxes, batch["labels"])

    made = make_tuning(given, loss_fn)
    detect = make_detect(config, task, detector)
    labels = np.where(train.is_crowd, -1, train.labels)
    check_sides(train.images.shape[1:3], detector.strides)  # this and the next before anything is trained
    shuffled_rows(jax.random.key(0), len(train.images), given.batch_size)

    def learn(ready: Pretrained, seed: int, folder: Path, origin: sealed.Origin) -> Figures:
        head_key, batch_key, run_key = jax.random.split(jax.random.fold_in(jax.random.key(seed), 1), 3)
        rows_at = shuffled_rows(batch_key, len(train.images), given.batch_size)

        def batch(step: int) -> Any:
            rows = rows_at(step)
            parts = {"images": train.images[rows], "boxes": train.boxes[rows], "labels": labels[rows]}
            return {name: jnp.asarray(part) for name, part in parts.items()}

        state = made.init(run_key, detector.init(head_key, ready.params))
        params = tune(
            config, classifier, state, made.step, batch, folder, origin, doing="detecting", num_images=given.batch_size
        )
        found = detect(params)
        figures, _ = evaluate_detections(truth_of(task.test), found, len(train.class_names))
        if seed == config.problem.seed:
            shown = [{name: np.asarray(part).tolist() for name, part in each._asdict().items() if part is not None}
                     for each in found[:NUM_SHOWN]]  # fmt: skip
            sealed.write_json(folder / "shown.json", "detections", shown, origin)
        return {name: figures[name] for name in FIGURES}

    return learn


def mirrored(boxes: jax.Array, width: int) -> jax.Array:
    """Boxes [..., 4] in pictures of that width that are turned left to right."""
    return jnp.stack([width - boxes[..., 2], boxes[..., 1], width - boxes[..., 0], boxes[..., 3]], axis=-1)


def make_detect(config: Config, task: Task, detector: Detector) -> Callable[[Any], list[Objects]]:
    """Parameters -> what is found in each test scene, in pixels of the picture as it came; the backbone normalises by
    the statistics of training scenes."""
    test, size = task.test, min(config.finetuning.images_per_call, len(task.test.images))
    few = task.train.images[np.arange(min(config.backbones.num_calibration_images, len(task.train.images)))]

    @jax.jit
    def calibrate(params: Any, images: jax.Array) -> Any:
        return detector.apply(params, standardise(images, task.data.mean, task.data.std), None)[1]

    @jax.jit
    def call(params: Any, stats: Any, images: jax.Array) -> Any:
        return detector.detect(params, standardise(images, task.data.mean, task.data.std), stats)

    def detect(params: Any) -> list[Objects]:
        stats, found = calibrate(params, jnp.asarray(few)), []
        for start in range(0, len(test.images), size):
            rows = np.minimum(np.arange(start, start + size), len(test.images) - 1)  # the last call is filled up
            parts = jax.device_get(call(params, stats, jnp.asarray(test.images[rows])))
            for row, boxes, scores, labels in zip(rows, *parts):
                there = labels >= 0
                found.append(Objects(boxes[there] / test.scales[row], labels[there], scores[there]))
        return found[: len(test.images)]

    return detect


def draw(
    config: Config,
    task: Task,
    workdir: Path,
    identity: str,
    rows: list[Figures],
    verdict: str,
    chance: float,
) -> None:
    """transfer.png, a point for each backbone; detections.png, scenes with what the first one finds."""
    seed, name = config.problem.seed, rows[0]["backbone"]
    folder, origin = workdir / FOLDER / name / f"seed{seed}", {"run": identity, "backbone": name, "seed": seed}
    shown = sealed.read_json(folder / "shown.json", "detections", origin)
    names = task.test.class_names
    truth = [
        plotting.Boxes(each.boxes * scale, [names[label] for label in each.labels])
        for each, scale in zip(truth_of(task.test), task.test.scales)
    ]
    found = []
    for each, scale in zip(shown, task.test.scales):
        scores = np.array(each["scores"])
        boxes, labels = np.array(each["boxes"]).reshape(-1, 4) * scale, np.array(each["labels"], int)
        sure = scores >= SHOWN_SCORE
        found.append(plotting.Boxes(boxes[sure], [names[label] for label in labels[sure]], scores[sure]))
    images = list(task.test.images[: len(found)])
    title = f"what {name} detects: {task.name}\n{verdict}"
    figure = plotting.detections(images, truth[: len(found)], found, title=title)
    plotting.save_figure(figure, workdir / "detections.png")
    of_untrained = [row["ap"] for row in rows if row["group"] == UNTRAINED]
    references = [("exact boxes, classes by chance", chance)]
    references += [("untrained backbone", float(np.mean(of_untrained)))] if of_untrained else []
    title = f"backbones of a detector, {task.name}"
    draw_transfer(rows, "ap", workdir, title=title, y_label="AP of detection", references=references)


if __name__ == "__main__":
    main(f"{__package__}.detection", __doc__, run, PRESETS)
