"""Training and scoring one super-net inside a workdir: what the experiments on ranking share. Both resume exactly."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
from tqdm import tqdm

from experiments.problem import SupernetConfig, evaluation_archs
from experiments.workdir import read_rows
from jaxnas import tables
from jaxnas.datasets import Dataset
from jaxnas.evaluation import Scores, make_evaluator
from jaxnas.runs import checkpoint
from jaxnas.samplers import SAMPLERS, Sampler
from jaxnas.space import SearchSpace
from jaxnas.supernets import Policy, Supernet, make_supernet
from jaxnas.training import (
    LossFn,
    TrainState,
    add_losses,
    fit,
    init_train_state,
    make_cross_entropy_loss,
    make_preprocess,
    make_train_step,
    sgd,
    standardise,
)


class Recipe(NamedTuple):
    """How a super-net is trained: all seeds share one, so that its step is compiled once."""

    sampler: Sampler
    tx: optax.GradientTransformation
    step: Callable


class Trained(NamedTuple):
    """A trained super-net and what became of it on the way."""

    state: TrainState
    curve: list[dict[str, float]]  # rows of training.csv
    scored: list[tuple[int, tables.Table]]  # (step, scores of the curve's architectures)


def build(config: SupernetConfig, space: SearchSpace) -> Supernet:
    """The super-net of the config over `space`, which carries the sizes."""
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
    )


def make_score(config: SupernetConfig, supernet: Supernet, data: Dataset) -> Callable[..., Scores]:
    """`score(state, archs, *, first=None, bar=None) -> Scores` on the validation images under the config's rule."""
    evaluator = make_evaluator(
        supernet,
        strategy=config.strategy,
        bn_mode=config.bn_mode,
        archs_per_call=config.archs_per_call,
        images_per_call=config.images_per_call,
        memory_budget=config.memory_budget,
    )
    held_out, num_train = len(data.valid_images), len(data.train_images)
    num_images = held_out if config.num_eval_images is None else config.num_eval_images
    if not 1 <= num_images <= held_out:
        raise ValueError(f"num_eval_images is {num_images}, expected 1 to the {held_out} images that are held out.")
    plan = evaluator.plan(config.archs_per_save, num_images)  # or a budget too small
    if config.progress:
        print(f"scoring by {plan.strategy}: {plan.images_per_call} images normalised together, {plan.workers} threads")
    images = standardise(jnp.asarray(data.valid_images[:num_images]), data.mean, data.std)
    labels = jnp.asarray(data.valid_labels[:num_images])
    given = {}
    if config.bn_mode == "calibrated":
        if config.num_calibration_images > num_train:
            raise ValueError(
                f"num_calibration_images is {config.num_calibration_images}, but there are {num_train} training images."
            )
        few = data.train_images[: config.num_calibration_images]
        given["calibration_images"] = standardise(jnp.asarray(few), data.mean, data.std)

    def score(state: TrainState, archs: np.ndarray, *, first: int | None = None, bar: tqdm | None = None) -> Scores:
        extra = given | ({"stats": state.stats} if config.bn_mode == "tracked" else {})
        return evaluator.evaluate(state.params, archs, images[:first], labels[:first], bar=bar, **extra)

    return score


def batches(
    key: chex.PRNGKey, images: np.ndarray, labels: np.ndarray, batch_size: int, *, split: str = "train"
) -> Callable[[int], dict]:
    """step -> {split: batch}: each epoch is a permutation that `fold_in(key, epoch)` draws; the last few images of
    an epoch that fill no batch are left out of it."""
    if len(images) < batch_size:
        kind = {"train": "training", "valid": "validation"}[split]
        raise ValueError(f"batch_size is {batch_size}, but there are {len(images)} {kind} images.")
    per_epoch = len(images) // batch_size
    on_device = jnp.asarray(images), jnp.asarray(labels)
    permute = jax.jit(lambda epoch: jax.random.permutation(jax.random.fold_in(key, epoch), len(images)))
    take = jax.jit(
        lambda images, labels, order, start: tuple(
            array[jax.lax.dynamic_slice(order, (start,), (batch_size,))] for array in (images, labels)
        )
    )
    current: tuple[int, chex.Array] | None = None

    def batch_at(step: int) -> dict:
        nonlocal current
        epoch, number = divmod(step, per_epoch)
        if current is None or current[0] != epoch:
            current = (epoch, permute(epoch))
        x, y = take(*on_device, current[1], number * batch_size)
        return {split: {"images": x, "labels": y}}

    return batch_at


def make_recipe(
    config: SupernetConfig,
    supernet: Supernet,
    data: Dataset,
    terms: Mapping[str, tuple[float | optax.Schedule, LossFn]] | None = None,
    sampler: Sampler | None = None,
) -> Recipe:
    """Sampler (None: the config's), optimiser and step of a settled config. `terms`, as `add_losses` takes them, are
    added to the cross-entropy; an empty mapping draws as any other does, None as a cross-entropy alone."""
    assert config.num_steps is not None and config.learning_rate is not None
    if sampler is None:
        if config.sampler not in SAMPLERS:
            raise ValueError(f"unknown sampler {config.sampler!r}; choose one of {', '.join(SAMPLERS)}.")
        options = {} if config.num_archs is None else {"num_archs": config.num_archs}
        sampler = SAMPLERS[config.sampler](supernet.space, **options)
    tx = sgd(
        config.learning_rate,
        num_steps=config.num_steps,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        clip_norm=config.clip_norm,
        final_learning_rate=config.final_learning_rate,
    )
    preprocess = make_preprocess(data.mean, data.std, crop=config.crop, flip=config.flip)
    loss_fn = make_cross_entropy_loss(
        supernet,
        preprocess=preprocess,
        label_smoothing=config.label_smoothing,
        dropout_steps=config.num_steps,
    )
    if terms is not None:
        loss_fn = add_losses({"cross_entropy": (1.0, loss_fn), **terms})
    step = make_train_step(supernet, loss_fn, sampler, tx, idle=config.idle, stats_momentum=config.stats_momentum)
    return Recipe(sampler, tx, step)


def train(
    config: SupernetConfig,
    supernet: Supernet,
    data: Dataset,
    score: Callable,
    folder: Path,
    *,
    recipe: Recipe | None = None,
    more_at: Callable[[int], dict] = lambda step: {},
    start: Path | None = None,
    until: int | None = None,
) -> Trained:
    """Train the super-net of a settled config, from the newest checkpoint in `folder` if there is one.

    Args:
      recipe: that of `make_recipe`; None: the config's own.
      more_at: step -> further splits of its batch.
      start: another run's folder, at whose last checkpoint this one begins; None: at fresh weights.
      until: the step to stop at, on the way to `config.num_steps`, which the schedules span; None: the end.
    """
    num_steps = config.num_steps
    assert num_steps is not None
    until = num_steps if until is None else until
    space = supernet.space
    sampler, tx, step = make_recipe(config, supernet, data) if recipe is None else recipe
    init_key, batch_key = jax.random.split(jax.random.key(config.seed))
    state = init_train_state(supernet, sampler, tx, init_key)
    restored = checkpoint.restore_latest(folder / "checkpoints", state, fingerprint=space.fingerprint)
    is_resumed = restored is not None
    if restored is None and start is not None:
        restored = checkpoint.restore_latest(start / "checkpoints", state, fingerprint=space.fingerprint)
    done, state = restored if restored is not None else (0, state)
    write = checkpoint.csv_metrics(folder / "training.csv", resume_step=done + 1)
    before = float(read_rows(folder / "training.csv")[-1]["seconds"]) if is_resumed else 0.0

    num_points = min(config.num_curve_points, num_steps)
    curve_at = {round(num_steps * (i + 1) / num_points) for i in range(num_points)}
    curve_archs = evaluation_archs(config, space)
    curve_archs = curve_archs[:: -(-len(curve_archs) // config.num_curve_archs)]
    begin, scoring = time.perf_counter(), 0.0
    with tqdm(total=until, initial=done, unit="step", desc="train", disable=not config.progress) as bar:

        def report(steps: int, metrics: dict[str, float], state: TrainState) -> None:
            nonlocal scoring
            seconds = before + time.perf_counter() - begin - scoring
            write({"step": steps, **metrics, "seconds": seconds})
            bar.update(steps - bar.n)
            bar.set_postfix_str(f"loss {metrics['loss']:.3f}, accuracy {metrics['accuracy']:.3f}")
            if steps in curve_at and steps < num_steps:
                start_scoring = time.perf_counter()
                scores = score(state, curve_archs, first=config.images_per_call)
                save_scores(folder / f"curve_{steps}.npz", space, scores)
                scoring += time.perf_counter() - start_scoring
            if steps % config.checkpoint_every == 0 or steps == until:
                checkpoint.save(folder / "checkpoints", steps, state, fingerprint=space.fingerprint)

        marks = curve_at | {n for n in range(1, until + 1) if n % config.checkpoint_every == 0}
        train_at = batches(batch_key, data.train_images, data.train_labels, config.batch_size)
        bar.set_postfix_str("the first step compiles")
        state = fit(
            step,
            state,
            lambda number: train_at(number) | more_at(number),
            until,
            report_at=lambda n: n in marks or n % config.report_every == 0,
            callbacks=[report],
        )
    paths = {steps: folder / f"curve_{steps}.npz" for steps in sorted(curve_at - {num_steps})}
    # One that was damaged and had to be deleted is missed in a picture only.
    scored = [(steps, load_scores(path, space)) for steps, path in paths.items() if path.exists()]
    rows = [{name: float(value) for name, value in row.items()} for row in read_rows(folder / "training.csv")]
    return Trained(state, rows, scored)


def score_blocks(config: SupernetConfig, archs: np.ndarray, folder: Path) -> list[Path]:
    """The files in which `score_all` saves the scores of `archs`."""
    return [folder / f"scores_{start:06d}.npz" for start in range(0, len(archs), config.archs_per_save)]


def score_all(
    config: SupernetConfig, state: TrainState | None, archs: np.ndarray, score: Callable, space, folder: Path
):
    """Score `archs`, saving every `archs_per_save`; what an earlier process saved is read. -> (columns, seconds)."""
    parts, seconds = [], 0.0
    with tqdm(total=len(archs), unit="arch", desc="score", disable=not config.progress) as bar:
        for number, path in enumerate(score_blocks(config, archs, folder)):
            codes = archs[number * config.archs_per_save :][: config.archs_per_save]
            if path.exists():
                bar.update(len(codes))
            else:
                begin = time.perf_counter()
                save_scores(path, space, score(state, codes, bar=bar), seconds=time.perf_counter() - begin)
            table = load_scores(path, space)
            parts.append(table.columns)
            seconds += float(table.provenance["seconds"])
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}, seconds


def save_scores(path: Path, space: SearchSpace, scores: Scores, *, seconds: float = 0.0) -> None:
    """Scores as a table keyed by codes; the rule they were taken under is in its provenance."""
    columns = {"loss": scores.loss, "accuracy": scores.accuracy}
    rule = ("num_images", "bn_mode", "num_calibration_images", "images_per_call", "strategy")
    provenance = {name: str(getattr(scores, name)) for name in rule} | {"seconds": repr(seconds)}
    units = {"loss": "nats", "accuracy": "fraction"}
    tables.write_table(path, tables.make_table(space, scores.archs, columns, units=units, provenance=provenance))


def load_scores(path: Path, space: SearchSpace) -> tables.Table:
    return tables.read_table(path, space)
