"""Landmark regularisation as an experiment sets it up: the config's part, the landmarks, the loss, its batches."""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
import optax

from jaxnas import costs, ranking, tables
from jaxnas.checks import Count, NotNegative, Pair, Positive, Seed, Share
from jaxnas.codes import enumerate_archs
from jaxnas.datasets import Dataset
from jaxnas.space import SearchSpace
from jaxnas.supernets import Supernet
from jaxnas.training import LossFn, batches, landmarks
from jaxnas.training.schedules import SCHEDULES

from .config import ProblemConfig, RankedConfig, ScoringConfig, TrainingConfig
from .problem import Problem
from .supernet import TrainingSetup, make_setup, preprocess_of, sharing_of


@dataclasses.dataclass(frozen=True)
class LandmarkConfig:
    """Which landmarks, and how their order enters the loss."""

    num_landmarks: Pair = 30
    selection: Literal["random", "ranked", "distant"] = "random"  # ranked: equally spaced in accuracy, worst to best
    min_distance: Count = 2  # choices in which any two landmarks differ, for selection distant
    landmark_seed: Seed = 0  # of the selection; all super-nets have the same landmarks
    landmark_batch_size: Count = 32  # images of the regulariser in each step
    pairs: Literal["all", "adjacent", "biased"] = "all"  # of landmarks; biased: the authors' draw
    num_pairs: Count | None = None  # drawn in each step; None: every pair, of biased one
    num_landmarks_per_step: Pair | None = 8  # drawn in each step, pairs are among these; None: all landmarks run
    tile: Count | None = None  # see jaxnas.training.landmarks; 1: only landmarks of drawn pairs run, if these are fewer
    margin: NotNegative = 0.03  # nats by which the better landmark's loss has to be lower; no value serves all spaces
    beta: Positive | None = None  # of softplus; None: the hinge
    tolerance: NotNegative = 0.0  # accuracies that differ by no more are ties, which are dropped
    reduction: Literal["mean", "sum"] = "mean"  # over the pairs of a step
    coefficient: NotNegative = 30.0


@dataclasses.dataclass(frozen=True)
class RegulariserConfig(LandmarkConfig):
    """The same, and how its weight moves."""

    schedule: Literal[
        "constant", "cosine_increase", "published_increase", "cosine_decrease", "stepped", "stepped_decrease"
    ] = "cosine_increase"
    warmup_share: Share = 0.5  # of the steps, with a coefficient of zero


# As in the scripts of nas-landmarkreg: one pair a step, of which only the two landmarks run.
PUBLISHED = {
    "pairs": "biased", "tile": 1, "num_landmarks_per_step": None, "margin": 0.0, "reduction": "sum",
    "coefficient": 10.0,
}  # fmt: skip


class Landmarks(NamedTuple):
    """Architectures whose order is known."""

    archs: np.ndarray  # int32 [num_landmarks, num_choices]
    accuracy: np.ndarray  # trained alone, float64 [num_landmarks]
    macs: np.ndarray  # float64 [num_landmarks]


def check_regulariser(config: LandmarkConfig, scoring: ScoringConfig, problem: ProblemConfig) -> None:
    """Raise a ValueError for settings that contradict each other."""
    per_step = config.num_landmarks_per_step
    if per_step is not None and per_step > config.num_landmarks:
        raise ValueError(f"num_landmarks_per_step is {per_step}, expected 2 to num_landmarks = {config.num_landmarks}.")
    num_eval_images, num_valid = scoring.num_eval_images, problem.num_valid
    if num_eval_images is None or num_valid - num_eval_images < config.landmark_batch_size:
        raise ValueError(
            f"num_eval_images is {num_eval_images} of the {num_valid} images held out, which leaves fewer"
            f" than landmark_batch_size = {config.landmark_batch_size} for the regulariser; raise num_valid."
        )


def choose_landmarks(config: LandmarkConfig, problem: Problem) -> Landmarks:
    """Out of the whole space, by the config's selection."""
    pool = enumerate_archs(problem.space)
    key = jax.random.key(config.landmark_seed)
    if config.selection == "random":
        rows = landmarks.random_landmarks(key, len(pool), config.num_landmarks)
    elif config.selection == "distant":
        rows = landmarks.distant_landmarks(key, pool, config.num_landmarks, min_distance=config.min_distance)
    else:
        everything = ranking.mean_truth(tables.lookup(problem.truth, pool, "test_accuracy"))
        rows = landmarks.ranked_landmarks(everything, config.num_landmarks)
    accuracy = ranking.mean_truth(tables.lookup(problem.truth, pool[rows], "test_accuracy"))
    return Landmarks(pool[rows], accuracy, costs.arch_costs(problem.published, pool[rows]).macs)


def archs_beside(space: SearchSpace, archs: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Of the architectures to score, those that are, trained alone, another network than each landmark."""
    known = {tuple(code) for code in space.isomorphs(chosen).tolist()}
    archs = archs[[tuple(code) not in known for code in space.isomorphs(archs).tolist()]]
    if len(archs) < 2:
        raise ValueError(
            f"outside the landmarks there are {len(archs)} architectures, expected 2; raise num_eval_archs."
        )
    return archs


def make_setups(
    ranked: RankedConfig, config: RegulariserConfig, supernet: Supernet, data: Dataset, chosen: Landmarks
) -> dict[str, TrainingSetup]:
    """The baseline's setup, and one with the regulariser for each order of the landmarks."""
    training = ranked.training
    schedule = make_schedule(config, training, max(1, len(data.train_images) // training.batch_size))
    setups = {"baseline": make_setup(training, supernet, data, ranked.sampling, {})}
    for name, order in (("landmark", chosen.accuracy), ("flops_order", chosen.macs)):
        tolerance = config.tolerance if name == "landmark" else 0.0  # it is one of accuracies
        regulariser = make_regulariser(config, training, supernet, data, chosen.archs, order, tolerance=tolerance)
        terms = {"ranking": (schedule, regulariser)}
        setups[name] = make_setup(training, supernet, data, ranked.sampling, terms)
    return setups


def make_regulariser(
    config: LandmarkConfig,
    training: TrainingConfig,
    supernet: Supernet,
    data: Dataset,
    archs: np.ndarray,
    order: np.ndarray,
    *,
    tolerance: float,
) -> LossFn:
    """The ranking loss of landmarks [num_landmarks, num_choices], without its coefficient."""
    return landmarks.make_ranking_loss_fn(
        supernet,
        archs,
        order,
        draw=landmarks.PAIR_DRAWS[config.pairs](config.num_landmarks_per_step or len(order), config.num_pairs),
        num_per_step=config.num_landmarks_per_step,
        margin=config.margin,
        beta=config.beta,
        tolerance=tolerance,
        reduce_fn={"mean": jax.numpy.mean, "sum": jax.numpy.sum}[config.reduction],
        tile=config.tile,
        preprocess=preprocess_of(training, data),
    )


def make_schedule(config: RegulariserConfig, training: TrainingConfig, steps_per_epoch: int) -> optax.Schedule:
    """The coefficient over steps: zero through the warm-up, whatever the form."""
    num_steps, warmup_steps = training.num_steps, num_warmup_steps(config, training)
    assert num_steps is not None
    form: Any = SCHEDULES[config.schedule]
    if config.schedule == "constant":
        return form(config.coefficient, warmup_steps=warmup_steps)
    if config.schedule == "cosine_increase":
        return form(config.coefficient, num_steps=num_steps, warmup_steps=warmup_steps)
    num_epochs, warmup_epochs = -(-num_steps // steps_per_epoch), -(-warmup_steps // steps_per_epoch)
    if warmup_epochs == num_epochs:
        raise ValueError(
            f"schedule {config.schedule} moves once an epoch, and the warm-up takes all {num_epochs} epochs of"
            f" {steps_per_epoch} steps; choose cosine_increase, or raise num_steps."
        )
    epochs = {"num_epochs": num_epochs, "steps_per_epoch": steps_per_epoch, "warmup_epochs": warmup_epochs}
    return form(config.coefficient, **epochs)


def num_warmup_steps(config: RegulariserConfig, training: TrainingConfig) -> int:
    assert training.num_steps is not None
    return round(config.warmup_share * training.num_steps)


def ranking_batches(config: RegulariserConfig, ranked: RankedConfig, data: Dataset, seed: int) -> Callable[[int], dict]:
    """step -> the batch of the regulariser, of the held-out images on which nothing is scored."""
    key = jax.random.split(jax.random.key(seed), 3)[2]  # `train` splits the same key in two
    images, labels = (part[ranked.scoring.num_eval_images :] for part in (data.valid_images, data.valid_labels))
    mesh = sharing_of(ranked.training).mesh
    return batches(key, images, labels, config.landmark_batch_size, split="valid", mesh=mesh)
