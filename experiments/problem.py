"""What an experiment on super-nets is about: the config that all share, and the networks, images and truth it names."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np

from jaxnas import codes, datasets, tables
from jaxnas.datasets import Dataset
from jaxnas.ops import Channels
from jaxnas.space import CellLayout, SearchSpace
from jaxnas.spaces import get_space
from jaxnas.supernets import BatchNorm, Kernels, OpOn


@dataclasses.dataclass(frozen=True)
class ProblemConfig:
    """Which networks, at which size, on which images."""

    space: str = "digits_chain"
    dataset: str = "digits"
    data_dir: str | None = dataclasses.field(default=None, compare=False)  # else JAXNAS_DATA, else TFDS's own folder
    seed: int = 0  # of all that is drawn
    width: int | None = None  # channels of the stem; all widths scale with it; None: the space's own
    cells_per_stage: int | None = None  # for spaces of cells; chains have none
    image_size: int | Literal["small"] | None = None  # pixels; small: 8 for cells, 16 for chains; None: the space's own
    num_train: int | None = 600  # training images; None: all
    num_valid: int = 300  # images held out of training; scores are taken on them
    progress: bool = dataclasses.field(default=True, compare=False)


@dataclasses.dataclass(frozen=True)
class SupernetConfig(ProblemConfig):
    """What is trained, how, and how its sub-networks are scored."""

    affine: bool | None = None  # batch normalisation learns scale and shift; None: in chains, but not in cells
    kernels: Kernels = "separate"  # or the large ones serve the small ones, see jaxnas.supernets.make_supernet
    op_on: OpOn = "edge"  # of cells; node: the edges into a node share their operations
    channels: Channels = "fixed"  # of nasbench101: what an operation's widths have in common
    batch_norm: BatchNorm = "shared"  # per_input: with op_on node for each edge, of nasbench101 for each set of inputs
    path_dropout: float = 0.0  # in the last cell or layer at the end of training, growing linearly with both
    global_dropout: float = 0.0  # of the classifier's inputs
    compute_dtype: Literal["float32", "bfloat16"] = "float32"

    sampler: str = "fair"
    num_archs: int | None = None  # architectures per step; None: the sampler's default
    batch_size: int = 64
    num_steps: int | None = 600  # None: what experiments/README.md says was enough: 2,400 for cells, 2,500 for chains
    learning_rate: float | None = 0.1  # None: 0.5 for cells, 0.1 for chains
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
    strategy: Literal["auto", "mask", "serial", "dispatch", "graph"] = "auto"
    archs_per_save: int = 729  # scores are saved after so many architectures
    num_curve_points: int = 4  # evaluations along the training, for tau over training
    num_curve_archs: int = 243


MOST_TRIED = 2**20  # codes of a space in which not all exist
ConfigType = TypeVar("ConfigType", bound=SupernetConfig)
Value = TypeVar("Value")


class Problem(NamedTuple):
    """What a config asks for: networks, images, and what is known about them."""

    published: SearchSpace  # with the sizes of its own, which costs are counted for
    space: SearchSpace  # with those of the config
    data: Dataset
    truth: tables.Table


def settle(config: ConfigType) -> ConfigType:
    """The config with what is None because it depends on the kind of space."""
    space = get_space(config.space)
    return dataclasses.replace(
        config,
        affine=by_kind(space, cells=False, others=True) if config.affine is None else config.affine,
        num_steps=by_kind(space, cells=2_400, others=2_500) if config.num_steps is None else config.num_steps,
        learning_rate=by_kind(space, cells=0.5, others=0.1) if config.learning_rate is None else config.learning_rate,
    )


def by_kind(space: SearchSpace, *, cells: Value, others: Value) -> Value:
    """`cells` for a space of cells, else `others`."""
    return cells if isinstance(space.layout, CellLayout) else others


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
    data = load_images(config, published)
    return Problem(published, resize(config, published, data), data, truth)


def load_images(config: ProblemConfig, published: SearchSpace) -> Dataset:
    """The images of a config, at its size or else at the space's own."""
    image_size = by_kind(published, cells=8, others=16) if config.image_size == "small" else config.image_size
    return datasets.load(
        config.dataset,
        num_train=config.num_train,
        num_valid=config.num_valid,
        image_size=published.layout.image_size if image_size is None else image_size,
        data_dir=config.data_dir,
    )


def resize(config: ProblemConfig, published: SearchSpace, data: Dataset) -> SearchSpace:
    """The space with the sizes of the config and of the images."""
    is_cells = "cells_per_stage" in published.sizes
    return published.resized(
        width=config.width,
        image_size=data.train_images.shape[1],
        in_channels=data.train_images.shape[-1],
        num_classes=data.num_classes,
        **({"cells_per_stage": config.cells_per_stage} if is_cells else {}),
    )


def evaluation_archs(config: SupernetConfig, space: SearchSpace) -> np.ndarray:
    """The codes to score: the whole space, or a sample that depends on the space and its number alone. Where not every
    code exists, each distinct network once."""
    if not space.has_all_codes:
        return _existing_archs(config, space)
    if config.num_eval_archs is None or config.num_eval_archs >= space.size:
        return codes.enumerate_archs(space)
    if config.num_eval_archs < 2:
        raise ValueError(f"num_eval_archs must be at least 2, got {config.num_eval_archs}.")
    order = np.random.Generator(np.random.Philox(0)).permutation(space.size)
    return codes.from_index(space, np.sort(order[: config.num_eval_archs]))


def _existing_archs(config: SupernetConfig, space: SearchSpace) -> np.ndarray:
    """Of codes tried in a fixed order, the first networks that are new."""
    wanted = space.size if config.num_eval_archs is None else config.num_eval_archs
    most = min(space.size, 20 * wanted)
    if most > MOST_TRIED:
        raise ValueError(
            f"{space.name}: num_eval_archs must be at most {MOST_TRIED // 20}, got {config.num_eval_archs}."
        )
    tried = np.random.Generator(np.random.Philox(0)).choice(space.size, most, replace=False, shuffle=True)
    archs = codes.from_index(space, tried)
    archs = space.isomorphs(archs[np.asarray(space.is_valid(archs))])
    _, first = np.unique(archs, axis=0, return_index=True)
    return archs[np.sort(first)[:wanted]]


def arch_rows(space: SearchSpace, archs: np.ndarray, columns: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
    """Rows of a CSV file: the code of each architecture, and its entry of each column [num_archs]."""
    return [
        {"arch": codes.to_text(space, code)} | dict(zip(columns, row, strict=True))
        for code, row in zip(archs, zip(*columns.values(), strict=True), strict=True)
    ]
