"""Backbones inside a workdir: each learns to classify, then what stands on it is trained with it and judged.

Every backbone is treated alike: one recipe of classification (or weights that it comes with), one of what follows, the
same seeds. A killed run walks through what is finished and goes on.
"""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxnas import codes, export, runs
from jaxnas.costs import arch_costs
from jaxnas.datasets import Dataset
from jaxnas.evaluation import is_correct
from jaxnas.runs import sealed
from jaxnas.space import SearchSpace
from jaxnas.spaces import SPACES
from jaxnas.supernets import Params, Supernet, make_supernet
from jaxnas.training import (
    RECIPES,
    Recipe,
    Retraining,
    TrainState,
    TrainStep,
    batches,
    make_preprocess,
    make_retraining,
    standardise,
)
from jaxnas.transfer import Backbone, Finetuning, TaskLoss, make_backbone, make_finetuning, read_ahead

from .backbones import UNTRAINED, Candidate, Figures
from .config import FinetuningConfig, TransferConfig
from .problem import resize

FOLDER = "backbones"  # of a workdir, with a folder for each


class Pretrained(NamedTuple):
    """A backbone that is ready, of one seed."""

    backbone: Backbone
    params: Params
    accuracy: float | None  # of classification; None of the untrained one


Task = Callable[[Pretrained, int, Path, sealed.Origin], Figures]  # of a seed, in a folder -> figures of the task


class Classifier:
    """A candidate that learns to classify; what is compiled serves all seeds.

    Args:
      strides: of the features that are asked of it, as `make_backbone` takes them.
    """

    def __init__(
        self, config: TransferConfig, candidate: Candidate, data: Dataset, strides: Sequence[int] | None
    ) -> None:
        self.config, self.candidate, self.data = config, candidate, data
        if candidate.weights is None:
            self.space = resize(config.problem, candidate.published, data)
        else:
            self.space = export.space_in(candidate.weights, SPACES)
            _check_fits(candidate.weights, self.space, data)
        self.supernet: Supernet = make_supernet(self.space)
        self.backbone = make_backbone(self.supernet, candidate.arch, strides=strides)
        self.code = tuple(int(op) for op in candidate.arch)
        recipe = RECIPES[config.backbones.recipe]
        recipe = recipe._replace(num_epochs=config.backbones.num_epochs or recipe.num_epochs)
        batch_size = min(recipe.batch_size, len(data.train_labels))
        warm_up = min(recipe.num_warm_up_epochs, recipe.num_epochs // 2)
        self.recipe: Recipe = recipe._replace(batch_size=batch_size, num_warm_up_epochs=warm_up)
        self.per_epoch = len(data.train_labels) // batch_size
        self.made: Retraining = make_retraining(
            self.supernet,
            candidate.arch,
            self.recipe,
            num_steps=self.recipe.num_epochs * self.per_epoch,
            steps_per_epoch=self.per_epoch,
            preprocess=make_preprocess(data.mean, data.std, crop=self.recipe.crop, flip=self.recipe.flip),
        )
        self._calibrate = jax.jit(lambda params, x: self.supernet.apply(params, self.code, x, groups=None)[1])
        self._score = jax.jit(self._correct)

    def _correct(self, params: Params, stats: Any, images: jax.Array, labels: jax.Array) -> jax.Array:
        x = standardise(images, self.data.mean, self.data.std)
        logits, _ = self.supernet.apply(params, self.code, x, stats=stats, groups=None)
        return is_correct(logits, labels).sum()

    def pretrained(self, seed: int, folder: Path, origin: sealed.Origin, *, untrained: bool = False) -> Pretrained:
        """Trained to classify, from the last checkpoint if there is one; with given weights, or none, no training."""
        key = jax.random.key(seed)
        if untrained:
            return Pretrained(self.backbone, jax.jit(self.backbone.init)(key), None)
        if self.candidate.weights is not None:
            exported = export.load(self.candidate.weights, self.supernet)
            return Pretrained(self.backbone, self.backbone.adopt(exported)[0], self.accuracy(exported.params))
        init_key, batch_key = jax.random.split(key)
        trained = runs.resumable(
            self.made.step,
            self.made.init(init_key),
            batches(batch_key, self.data.train_images, self.data.train_labels, self.recipe.batch_size),
            self.recipe.num_epochs * self.per_epoch,
            folder / "classifying",
            fingerprint=self.space.fingerprint,
            origin={**origin, "training": "classifying"},
            checkpoint_every=10 * self.config.finetuning.checkpoint_every,
            report_every=self.per_epoch,
            label=f"{origin['backbone']} classifies",
            num_images=self.recipe.batch_size,
            keep=1,
            progress=self.config.problem.progress,
        )
        params = self.made.params(trained.state)
        exported = export.export(self.supernet, params, self.candidate.arch)
        return Pretrained(self.backbone, self.backbone.adopt(exported)[0], self.accuracy(params))

    def accuracy(self, params: Params) -> float:
        """On the test images, whole calls of them."""
        data, size = self.data, min(self.config.finetuning.images_per_call, len(self.data.test_labels))
        few = standardise(
            jnp.asarray(data.train_images[: self.config.backbones.num_calibration_images]), data.mean, data.std
        )
        stats, right, number = self._calibrate(params, few), 0, len(data.test_labels) // size * size
        for start in range(0, number, size):
            rows = slice(start, start + size)
            images, labels = jnp.asarray(data.test_images[rows]), jnp.asarray(data.test_labels[rows])
            right += int(self._score(params, stats, images, labels))
        return right / number


def _check_fits(path: str, space: SearchSpace, data: Dataset) -> None:
    layout, images = space.layout, data.train_images.shape
    there = (layout.image_size, layout.in_channels, layout.num_classes)
    given = (images[1], images[3], data.num_classes)
    if there != given:
        raise ValueError(
            f"{path}: a network for images of {there[0]} px, {there[1]} channels and {there[2]} classes, but the data"
            f" have {given[0]} px, {given[1]} channels, {given[2]} classes; give its dataset and image_size."
        )


def compare(
    config: TransferConfig,
    candidates: Sequence[Candidate],
    data: Dataset,
    strides: Sequence[int] | None,
    workdir: Path,
    identity: str,
    make_task: Callable[[Classifier], Task],
) -> list[Figures]:
    """A row for each backbone and seed: name, group, code, costs, `accuracy` of classification and the task's figures.

    Args:
      make_task: a backbone -> (what of it is ready, seed, folder, origin) -> figures of what stands on it.
    """
    rows = []
    known: dict[tuple[Any, ...], tuple[Classifier, Task]] = {}  # what is compiled serves equal networks as well
    for candidate in candidates:
        costs = arch_costs(candidate.published, candidate.arch[None])
        network = candidate.published.name, candidate.arch.tobytes(), candidate.weights
        if network not in known:
            classifier = Classifier(config, candidate, data, strides)
            known = {**dict(list(known.items())[:1]), network: (classifier, make_task(classifier))}
        classifier, task = known[network]
        for seed in range(config.problem.seed, config.problem.seed + config.finetuning.num_seeds):
            folder = workdir / FOLDER / candidate.name / f"seed{seed}"
            origin = {"run": identity, "backbone": candidate.name, "seed": seed}
            path = folder / "outcome.json"
            if not path.exists():
                is_untrained = candidate.group == UNTRAINED
                ready = classifier.pretrained(seed, folder, origin, untrained=is_untrained)
                figures = task(ready, seed, folder, origin)
                figures = {name: None if math.isnan(value) else value for name, value in figures.items()}
                sealed.write_json(path, "outcome", {"accuracy": ready.accuracy, **figures}, origin)
            outcome = sealed.read_json(path, "outcome", origin)
            about = {
                "backbone": candidate.name,
                "group": candidate.group,
                "arch": codes.to_text(candidate.published, candidate.arch),
                "seed": seed,
                "macs": float(costs.macs[0]),
                "params": float(costs.params[0]),
            }
            rows.append({**about, **{name: math.nan if value is None else value for name, value in outcome.items()}})
    runs.write_rows(workdir / "backbones.csv", rows)
    return rows


def make_tuning(given: FinetuningConfig, loss_fn: TaskLoss) -> Finetuning:
    """How what stands on a backbone is trained with it."""
    return make_finetuning(
        loss_fn,
        num_steps=given.num_steps,
        learning_rate=given.learning_rate,
        backbone_rate=given.backbone_rate,
        weight_decay=given.weight_decay,
        num_warm_up_steps=given.num_warm_up_steps,
    )


def tune(
    config: TransferConfig,
    classifier: Classifier,
    state: TrainState,
    step: TrainStep,
    batch_at: Callable[[int], Any],
    folder: Path,
    origin: sealed.Origin,
    *,
    doing: str,
    num_images: int,
) -> Any:
    """The parameters that a training with `make_tuning` ends with, resumed where it was killed; `doing` names it."""
    given = config.finetuning
    trained = runs.resumable(
        step,
        state,
        read_ahead(batch_at),
        given.num_steps,
        folder / doing,
        fingerprint=classifier.space.fingerprint,
        origin={**origin, "training": doing},
        checkpoint_every=given.checkpoint_every,
        report_every=given.report_every,
        label=f"{origin['backbone']}: {doing}",
        num_images=num_images,
        keep=1,
        progress=config.problem.progress,
    )
    return trained.state.params
