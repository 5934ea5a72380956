"""Training and scoring one super-net inside a workdir: what the experiments on ranking share. Both resume exactly."""

import csv
import dataclasses
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
from tqdm import tqdm

from jaxnas import arch, checkpoint, costs, datasets, tables
from jaxnas.arch import CellLayout, ChainLayout, DagLayout, SearchSpace
from jaxnas.datasets import Dataset
from jaxnas.evaluation import Scores, make_evaluator
from jaxnas.ops import Channels
from jaxnas.samplers import SAMPLERS, Sampler
from jaxnas.spaces import get_space
from jaxnas.spaces.nasbench101 import network_costs
from jaxnas.supernets import BatchNorm, Kernels, OpOn, Policy, Supernet, make_supernet
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


@dataclasses.dataclass(frozen=True)
class SupernetConfig:
    """What is trained, how, and how its sub-networks are scored."""

    space: str = "digits_chain"
    dataset: str = "digits"
    data_dir: str | None = dataclasses.field(default=None, compare=False)  # else JAXNAS_DATA, else TFDS's own folder
    seed: int = 0  # of weights, batches and sampled architectures

    width: int | None = None  # channels of the stem; all widths scale with it; None: the space's own
    cells_per_stage: int | None = None  # for spaces of cells; chains have none
    image_size: int | None = None  # pixels; images are resized to it
    affine: bool | None = None  # batch normalisation learns scale and shift; None: in chains, but not in cells
    kernels: Kernels = "separate"  # or the large ones serve the small ones, see jaxnas.supernets.make_supernet
    op_on: OpOn = "edge"  # of cells; node: the edges into a node share their operations
    channels: Channels = "fixed"  # of nasbench101: what an operation's widths have in common
    batch_norm: BatchNorm = "shared"  # per_input: with op_on node for each edge, of nasbench101 for each set of inputs
    path_dropout: float = 0.0  # in the last cell or layer at the end of training, growing linearly with both
    global_dropout: float = 0.0  # of the classifier's inputs
    compute_dtype: Literal["float32", "bfloat16"] = "float32"

    num_train: int | None = 600  # training images; None: all
    num_valid: int = 300  # images held out of training; scores are taken on them
    sampler: str = "fair"
    num_archs: int | None = None  # architectures per step; None: the sampler's default
    batch_size: int = 64
    num_steps: int | None = 600  # None: what experiments/README.md says was enough: 12,000 for cells, 2,500 for chains
    learning_rate: float | None = 0.1  # None: 0.05 for cells, 0.1 for chains
    final_learning_rate: float = 0.0
    momentum: float = 0.9
    weight_decay: float = 5e-4
    clip_norm: float = 5.0
    label_smoothing: float = 0.0
    crop: int = 1  # pixels of random shift
    flip: bool = False
    idle: Literal["move", "rest"] = "move"  # what the optimiser does with candidates that a step doesn't use
    stats_momentum: float | None = None  # of tracked statistics; needed for bn_mode tracked
    checkpoint_every: int = 200  # steps
    report_every: int = 20  # steps

    bn_mode: Literal["batch", "calibrated", "tracked"] = "batch"
    num_calibration_images: int = 256  # training images, for bn_mode calibrated
    num_eval_archs: int | None = None  # at most so many, drawn without repetition; None: the whole space
    num_eval_images: int | None = None  # of the validation images; None: all
    images_per_call: int = 256
    archs_per_call: int | None = None
    memory_budget: int | None = None  # bytes for activations; None: 1 GiB on CPU, 8 GiB elsewhere
    strategy: Literal["auto", "mask", "serial", "dispatch", "trie"] = "auto"
    archs_per_save: int = 729  # scores are saved after so many architectures
    num_curve_points: int = 4  # evaluations along the training, for tau over training
    num_curve_archs: int = 243
    progress: bool = dataclasses.field(default=True, compare=False)


MOST_TRIED = 2**20  # codes of a space in which not all exist
ConfigType = TypeVar("ConfigType", bound=SupernetConfig)


class Problem(NamedTuple):
    """What a config asks for: networks, images, and what is known about them."""

    published: SearchSpace  # with the sizes of its own, which costs are counted for
    space: SearchSpace  # with those of the config
    data: Dataset
    truth: tables.Table


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


def settle(config: ConfigType) -> ConfigType:
    """The config with what is None because it depends on the kind of space."""
    is_cells = isinstance(get_space(config.space).layout, CellLayout)
    return dataclasses.replace(
        config,
        affine=not is_cells if config.affine is None else config.affine,
        num_steps=(12_000 if is_cells else 2_500) if config.num_steps is None else config.num_steps,
        learning_rate=(0.05 if is_cells else 0.1) if config.learning_rate is None else config.learning_rate,
    )


def check(config: SupernetConfig) -> None:
    """Raise a ValueError for settings of no use whatever the space and the images; the others are checked in use."""
    counts = ("batch_size", "num_steps", "checkpoint_every", "report_every", "archs_per_save", "num_curve_archs")
    for name in (*counts, "num_calibration_images"):
        if getattr(config, name) < 1:
            raise ValueError(f"{name} must be at least 1, got {getattr(config, name)}.")
    if config.bn_mode == "tracked" and config.stats_momentum is None:
        raise ValueError("bn_mode tracked needs stats_momentum, the old value's share in the tracked one; take 0.9.")


def load_problem(config: SupernetConfig) -> Problem:
    """Space, images and table of a config; a ValueError or OSError where one of them isn't there."""
    published = get_space(config.space)
    truth = tables.load_truth(published, config.dataset, data_dir=config.data_dir)
    data = datasets.load(
        config.dataset,
        num_train=config.num_train,
        num_valid=config.num_valid,
        image_size=published.layout.image_size if config.image_size is None else config.image_size,
        data_dir=config.data_dir,
    )
    return Problem(published, resize(config, published, data), data, truth)


def resize(config: SupernetConfig, published: SearchSpace, data: Dataset) -> SearchSpace:
    """The space with the sizes of the config and of the images."""
    is_cells = not isinstance(published.layout, ChainLayout)
    return published.resized(
        width=config.width,
        image_size=data.train_images.shape[1],
        in_channels=data.train_images.shape[-1],
        num_classes=data.num_classes,
        **({"cells_per_stage": config.cells_per_stage} if is_cells else {}),
    )


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


def evaluation_archs(config: SupernetConfig, space: SearchSpace) -> np.ndarray:
    """The codes to score: the whole space, or a sample that depends on the space and its number alone. Where not every
    code exists, each distinct network once."""
    if not space.has_all_codes:
        return _existing_archs(config, space)
    if config.num_eval_archs is None or config.num_eval_archs >= space.size:
        return arch.enumerate_archs(space)
    if config.num_eval_archs < 2:
        raise ValueError(f"num_eval_archs must be at least 2, got {config.num_eval_archs}.")
    order = np.random.Generator(np.random.Philox(0)).permutation(space.size)
    return arch.from_index(space, np.sort(order[: config.num_eval_archs]))


def _existing_archs(config: SupernetConfig, space: SearchSpace) -> np.ndarray:
    """Of codes tried in a fixed order, the first networks that are new."""
    wanted = space.size if config.num_eval_archs is None else config.num_eval_archs
    most = min(space.size, 20 * wanted)
    if most > MOST_TRIED:
        raise ValueError(
            f"{space.name}: num_eval_archs must be at most {MOST_TRIED // 20}, got {config.num_eval_archs}."
        )
    tried = np.random.Generator(np.random.Philox(0)).choice(space.size, most, replace=False, shuffle=True)
    archs = arch.from_index(space, tried)
    archs = space.isomorphs(archs[np.asarray(space.is_valid(archs))])
    _, first = np.unique(archs, axis=0, return_index=True)
    return archs[np.sort(first)[:wanted]]


def macs_of(space: SearchSpace, archs: np.ndarray) -> np.ndarray:
    """MACs for one image of each network, float64 [num_archs]."""
    if isinstance(space.layout, DagLayout):
        return np.asarray(network_costs(space, archs)[0], np.float64)
    return costs.arch_costs(space, archs).macs


def evaluator(config: SupernetConfig, supernet: Supernet, data: Dataset) -> Callable[..., Scores]:
    """`score(state, archs, *, first=None, bar=None) -> Scores` on the validation images under the config's rule."""
    evaluate = make_evaluator(
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
    plan = evaluate.plan(config.archs_per_save, num_images)  # type: ignore[attr-defined]  # or a budget too small
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
        return evaluate(state.params, archs, images[:first], labels[:first], bar=bar, **extra)

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
) -> Recipe:
    """Sampler, optimiser and step of a settled config. `terms`, as `add_losses` takes them, are added to the
    cross-entropy; an empty mapping draws as any other does, None as a cross-entropy alone."""
    assert config.num_steps is not None and config.learning_rate is not None
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
        groups=sampler.groups,
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
    assert config.num_steps is not None
    until = config.num_steps if until is None else until
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
    before = float(_rows(folder / "training.csv")[-1]["seconds"]) if is_resumed else 0.0

    num_points = min(config.num_curve_points, config.num_steps)
    curve_at = {round(config.num_steps * (i + 1) / num_points) for i in range(num_points)}
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
            if steps in curve_at and steps < until:
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
    paths = {steps: folder / f"curve_{steps}.npz" for steps in sorted(curve_at - {until})}
    # One that was damaged and had to be deleted is missed in a picture only.
    scored = [(steps, load_scores(path, space)) for steps, path in paths.items() if path.exists()]
    rows = [{name: float(value) for name, value in row.items()} for row in _rows(folder / "training.csv")]
    return Trained(state, rows, scored)


def score_all(config: SupernetConfig, state: TrainState, archs: np.ndarray, score: Callable, space, folder: Path):
    """Score `archs`, saving every `archs_per_save`; what an earlier process saved is read. -> (columns, seconds)."""
    parts, seconds = [], 0.0
    with tqdm(total=len(archs), unit="arch", desc="score", disable=not config.progress) as bar:
        for start in range(0, len(archs), config.archs_per_save):
            path = folder / f"scores_{start:06d}.npz"
            codes = archs[start : start + config.archs_per_save]
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


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))
