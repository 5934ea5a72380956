"""A super-net as the experiments build, train and score it."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from tqdm import tqdm

from jaxnas import plotting, runs, tables
from jaxnas.datasets import Dataset
from jaxnas.evaluation import Scores, make_evaluator, make_mesh, replicated
from jaxnas.runs import sealed
from jaxnas.samplers import SAMPLERS, Sampler
from jaxnas.space import SearchSpace
from jaxnas.supernets import Policy, Supernet, make_supernet
from jaxnas.training import (
    BatchAt,
    Callback,
    LossFn,
    Preprocess,
    Sharing,
    TrainState,
    TrainStep,
    add_losses,
    batches,
    init_train_state,
    make_cross_entropy_loss,
    make_preprocess,
    make_train_step,
    merge_batches,
    sgd,
    standardise,
)

from .config import NetworkConfig, RankedConfig, SamplingConfig, ScoringConfig, SupernetConfig, TrainingConfig
from .curve import Score, Tell, curve_steps, tell_curve


class TrainingSetup(NamedTuple):
    """A super-net and how it is trained: all seeds share one, so that its step is compiled once."""

    supernet: Supernet
    data: Dataset
    sampler: Sampler
    tx: optax.GradientTransformation
    step: TrainStep


def build(config: NetworkConfig, space: SearchSpace, *, partial_channels: int = 1) -> Supernet:
    """The super-net of a settled config over `space`, which carries the sizes."""
    return make_supernet(
        space,
        affine=bool(config.affine),
        policy=Policy(compute=config.compute_dtype),
        kernels=config.kernels,
        op_on=config.op_on,
        channels=config.channels,
        batch_norm=config.batch_norm,
        path_dropout=config.path_dropout,
        global_dropout=config.global_dropout,
        partial_channels=partial_channels,
    )


def make_score(
    config: ScoringConfig,
    supernet: Supernet,
    data: Dataset,
    *,
    mesh: str | None = None,
    progress: bool,
    per_image: bool = False,
) -> Score:
    """`score(state, archs, *, first=None, bar=None) -> Scores` on the validation images under the config's rule."""
    evaluator = make_evaluator(
        supernet,
        strategy=config.strategy,
        bn_mode=config.bn_mode,
        archs_per_call=config.archs_per_call,
        images_per_call=config.images_per_call,
        memory_budget=config.memory_budget,
        mesh=None if mesh is None else make_mesh(mesh),
        per_image=per_image,
    )
    held_out, num_train = len(data.valid_images), len(data.train_images)
    num_images = held_out if config.num_eval_images is None else config.num_eval_images
    plan = evaluator.plan(config.archs_per_save, num_images)  # or a budget too small
    if progress:
        together = plotting.counted(plan.images_per_call, "image")
        workers = plotting.counted(plan.workers, "thread")
        print(f"scoring by {plan.strategy}: {together} normalised together, {workers}")
    num_images = min(num_images, held_out)
    images = network_inputs(data, data.valid_images[:num_images])
    labels = jnp.asarray(data.valid_labels[:num_images])
    given: dict[str, Any] = {}
    if config.bn_mode == "calibrated":
        if config.num_calibration_images > num_train:
            raise ValueError(
                f"num_calibration_images is {config.num_calibration_images}, but there are {num_train} training images."
            )
        few = data.train_images[: config.num_calibration_images]
        given["calibration_images"] = network_inputs(data, few)

    def score(state: TrainState, archs: np.ndarray, *, first: int | None = None, bar: tqdm | None = None) -> Scores:
        extra: dict[str, Any] = given | ({"stats": state.stats} if config.bn_mode == "tracked" else {})
        return evaluator.evaluate(state.params, archs, images[:first], labels[:first], bar=bar, **extra)

    return score


def network_inputs(data: Dataset, images: np.ndarray) -> jax.Array:
    """Images as networks take them, standardised; words as they are."""
    return jnp.asarray(images) if data.is_text else standardise(jnp.asarray(images), data.mean, data.std)


def preprocess_of(config: TrainingConfig, data: Dataset) -> Preprocess:
    """What is done to the images of a training step; to words nothing."""
    if data.is_text:
        return lambda key, words: words
    return make_preprocess(data.mean, data.std, crop=config.crop, flip=config.flip)


def make_setup(
    config: TrainingConfig,
    supernet: Supernet,
    data: Dataset,
    sampling: SamplingConfig | Sampler,
    terms: Mapping[str, tuple[float | optax.Schedule, LossFn]] | None = None,
) -> TrainingSetup:
    """Sampler, optimiser and step of a settled config; `terms` as for `make_objective`."""
    sampler = sampling
    if isinstance(sampling, SamplingConfig):
        options = {} if sampling.num_archs is None else {"num_archs": sampling.num_archs}
        assert sampling.sampler is not None
        sampler = SAMPLERS[sampling.sampler](supernet.space, **options)
    assert isinstance(sampler, Sampler)
    tx, loss_fn, _ = make_objective(config, supernet, data, terms)
    given: dict[str, Any] = {"stats_momentum": config.stats_momentum, "sharing": sharing_of(config)}
    step = make_train_step(supernet, loss_fn, sampler, tx, idle=config.idle, **given)
    return TrainingSetup(supernet, data, sampler, tx, step)


def sharing_of(config: TrainingConfig) -> Sharing:
    """Who computes a step, and how much of it at once."""
    mesh = None if config.mesh is None else make_mesh(config.mesh)
    return Sharing(mesh, config.mesh_statistics, config.batch_parts, config.rematerialise)


def make_objective(
    config: TrainingConfig,
    supernet: Supernet,
    data: Dataset,
    terms: Mapping[str, tuple[float | optax.Schedule, LossFn]] | None = None,
) -> tuple[optax.GradientTransformation, LossFn, Preprocess]:
    """Optimiser, loss and what is done to images, of a settled config. `terms`, as `add_losses` takes them, are added
    to the cross-entropy; an empty mapping draws as any other does, None as a cross-entropy alone."""
    assert config.num_steps is not None and config.learning_rate is not None
    tx = sgd(
        config.learning_rate,
        num_steps=config.num_steps,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        clip_norm=config.clip_norm,
        final_learning_rate=config.final_learning_rate,
    )
    preprocess = preprocess_of(config, data)
    loss_fn = make_cross_entropy_loss(
        supernet,
        preprocess=preprocess,
        label_smoothing=config.label_smoothing,
        dropout_steps=config.num_steps,
    )
    if terms is not None:
        loss_fn = add_losses({"cross_entropy": (1.0, loss_fn), **terms})
    return tx, loss_fn, preprocess


def train(
    config: RankedConfig,
    setup: TrainingSetup,
    score: Score,
    folder: Path,
    *,
    seed: int,
    origin: sealed.Origin,
    more_at: BatchAt | None = None,
    start: Path | None = None,
    start_origin: sealed.Origin = sealed.NOWHERE,
    archs: np.ndarray | None = None,
    until: int | None = None,
    tell: Tell | None = None,
) -> runs.Trained:
    """Train the super-net of a settled config, and score the curve's architectures on the way.

    Args:
      seed: of weights and batches.
      origin: of what is written in the folder.
      more_at: step -> further splits of its batch; None: none.
      start: another run's folder, at whose last checkpoint this one begins; None: at fresh weights.
      archs: of which some are scored along the training; None: none.
      until: the step to stop at, on the way to `num_steps`, which the schedules span; None: the end.
      tell: what is done with the scores of the curve's architectures, each time.
    """
    mesh, space = sharing_of(config.training).mesh, setup.supernet.space
    train_at = batches_of(config, setup.data.train_images, setup.data.train_labels, seed)
    return resume(
        config,
        setup,
        setup.step,
        replicated(mesh, fresh_state(config, setup, seed)),
        train_at if more_at is None else merge_batches(train_at, more_at),
        folder,
        callbacks=[] if archs is None else [tell_curve(config, space, setup.data, score, folder, origin, archs, tell)],
        origin=origin,
        until=until,
        start=start,
        start_origin=start_origin,
    )


def batches_of(config: RankedConfig, images: Any, labels: Any, seed: int) -> BatchAt:
    """What the training from that seed sees."""
    _, key = jax.random.split(jax.random.key(seed))
    return batches(key, images, labels, config.training.batch_size, mesh=sharing_of(config.training).mesh)


def resume(
    config: RankedConfig,
    setup: TrainingSetup,
    step: TrainStep,
    state: TrainState,
    batch_at: BatchAt,
    folder: Path,
    *,
    callbacks: Sequence[Callback],
    origin: sealed.Origin,
    until: int | None,
    **start: Any,
) -> runs.Trained:
    """`runs.resumable` as the config has it; with callbacks it reports at the curve's steps too."""
    num_steps = config.training.num_steps
    assert num_steps is not None
    return runs.resumable(
        step,
        state,
        batch_at,
        num_steps if until is None else until,
        folder,
        fingerprint=setup.supernet.space.fingerprint,
        checkpoint_every=config.training.checkpoint_every,
        report_every=config.training.report_every,
        report_also_at=curve_steps(config) if callbacks else [],
        callbacks=callbacks,
        origin=origin,
        progress=config.problem.progress,
        **start,
    )


def fresh_state(config: RankedConfig, setup: TrainingSetup, seed: int) -> TrainState:
    """Where the training from that seed begins."""
    key, _ = jax.random.split(jax.random.key(seed))
    return init_train_state(setup.supernet, setup.sampler, setup.tx, key, num_rows=config.training.batch_size)


def train_up_to(
    train: Callable[..., runs.Trained],
    space: SearchSpace,
    step: int,
    folder: Path,
    place: Path,
    *,
    origin: sealed.Origin,
    **curve: Any,
) -> runs.Trained:
    """The training in `folder` up to a step; where it has gone on since, once more, in the folder `place` of that step.

    Args:
      train: (folder, *, origin, until, archs, tell) -> what is trained, as the function of that name does it.
      curve: `archs` and `tell`, as it takes them.
    """
    newest = runs.progress(folder, fingerprint=space.fingerprint, origin=origin)
    if newest is not None and newest.step > step:
        print(f"{place}: the weights of step {step} are gone, training up to there once more")
        return train(place, origin={**origin, "step": step}, until=step)
    return train(folder, origin=origin, until=step, **curve)


def score_all(
    config: SupernetConfig,
    state: TrainState | None,
    archs: np.ndarray,
    score: Score | None,
    space: SearchSpace,
    folder: Path,
    origin: sealed.Origin,
) -> tuple[dict[str, np.ndarray], float]:
    """(columns of the scores of `archs`, seconds), in blocks saved in `folder`; if all are there, without state and
    `score`."""

    def compute(block: np.ndarray, bar: tqdm) -> tables.Table:
        assert state is not None and score is not None
        return runs.scores_table(space, score(state, block, bar=bar))

    size, progress = config.scoring.archs_per_save, config.problem.progress
    return runs.in_blocks(compute, archs, folder, space, size=size, origin=origin, progress=progress)
