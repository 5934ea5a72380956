"""The parts that the configs of several experiments are made of: their flags, and what `None` stands for."""

import dataclasses
from typing import Any, Literal, TypeVar

from jaxnas import runs
from jaxnas.evaluation import BNMode, Strategy
from jaxnas.ops import Channels
from jaxnas.samplers import SAMPLERS
from jaxnas.space import CellLayout, SearchSpace
from jaxnas.spaces import get_space
from jaxnas.spaces._darts import TwoCellLayout
from jaxnas.spaces._nats_size import SizeLayout
from jaxnas.supernets import BatchNorm, Kernels, OpOn


@dataclasses.dataclass(frozen=True)
class ProblemConfig:
    """Which networks, at which size, on which images."""

    space: str = "digits_chain"  # or of your own: package.module:object, file.py:object
    dataset: str = "digits"
    data_dir: str | None = dataclasses.field(default=None, compare=False)  # else JAXNAS_DATA, else TFDS's own folder
    seed: int = 0  # of all that is drawn
    width: int | Literal["small"] | None = None  # channels of the stem, which all widths scale with (of nats_size the
    # largest); small: 8, of nats_size 16; None: the space's own
    cells_per_stage: int | None = None  # for spaces of cells; chains have none
    image_size: int | Literal["small"] | None = None  # pixels; small: 8 for cells, 16 for chains; None: the space's own
    num_train: int | None = 600  # training images; None: all
    num_valid: int = 300  # images held out of training; scores are taken on them
    progress: bool = dataclasses.field(default=True, compare=False)


@dataclasses.dataclass(frozen=True)
class NetworkConfig:
    """How the candidates are put together; see `jaxnas.supernets.make_supernet`."""

    affine: bool | None = None  # batch normalisation learns scale and shift; None: in chains, but not in cells
    kernels: Kernels = "separate"  # or the large ones serve the small ones
    op_on: OpOn = "edge"  # of cells; node: the edges into a node share their operations
    channels: Channels = "fixed"  # of nasbench101: what an operation's widths have in common
    batch_norm: BatchNorm = "shared"  # per_input: with op_on node for each edge, of nasbench101 for each set of inputs
    path_dropout: float = 0.0  # in the last cell or layer at the end of training, growing linearly with both
    global_dropout: float = 0.0  # of the classifier's inputs
    compute_dtype: Literal["float32", "bfloat16"] = "float32"


@dataclasses.dataclass(frozen=True)
class SamplingConfig:
    """Which architectures a training step draws."""

    sampler: str | None = "fair"  # None: fair, or uniform where not every code exists
    num_archs: int | None = None  # architectures per step; None: the sampler's default


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """How the shared weights are trained."""

    batch_size: int = 64
    num_steps: int | None = 600  # None: what experiments/README.md says was enough
    learning_rate: float | None = 0.1  # None: 0.5 for cells, 0.025 for two cells, 0.1 for others
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


@dataclasses.dataclass(frozen=True)
class ScoringConfig:
    """How sub-networks are scored, and which."""

    bn_mode: BNMode = "batch"
    num_calibration_images: int = 256  # training images, for bn_mode calibrated
    num_eval_archs: int | None = None  # at most so many, drawn without repetition; None: the whole space
    num_eval_images: int | None = None  # of the validation images; None: all
    images_per_call: int = 256
    archs_per_call: int | None = None
    memory_budget: int | None = None  # bytes for activations; None: 1 GiB on CPU, 8 GiB elsewhere
    strategy: Strategy = "auto"
    archs_per_save: int = 729  # scores are saved after so many architectures


@dataclasses.dataclass(frozen=True)
class CurveConfig:
    """Scores along the training, for tau over training."""

    num_curve_points: int = 4
    num_curve_archs: int = 243


@dataclasses.dataclass(frozen=True)
class SupernetConfig:
    """What every experiment on a super-net says of it."""

    problem: ProblemConfig = ProblemConfig()
    network: NetworkConfig = NetworkConfig()
    training: TrainingConfig = TrainingConfig()
    scoring: ScoringConfig = ScoringConfig()


@dataclasses.dataclass(frozen=True)
class RankedConfig(SupernetConfig):
    """A super-net that is asked how it ranks its space: drawn by a sampler, looked at on the way."""

    sampling: SamplingConfig = SamplingConfig()
    curve: CurveConfig = CurveConfig()


# Fields of CIFAR-10, and of NAS-Bench-201 as in the scripts of nas-landmarkreg: 400 epochs on half of the training
# images, batch 256.
CIFAR = {
    "space": "nasbench_macro", "dataset": "cifar10", "num_train": None, "num_valid": 5000, "crop": 2, "flip": True,
    "sampler": None, "batch_size": 64, "weight_decay": 5e-4, "checkpoint_every": 500, "report_every": 50,
    "images_per_call": 250, "num_curve_archs": 198,
}  # fmt: skip
LANDMARKREG = CIFAR | {
    "space": "nasbench201", "width": 16, "cells_per_stage": 5, "image_size": 32, "num_valid": 25_000, "batch_size": 256,
    "num_steps": 400 * (25_000 // 256), "learning_rate": 0.025, "final_learning_rate": 0.001, "crop": 4,
    "sampler": "uniform", "idle": "rest", "num_eval_images": 10_000, "images_per_call": 256, "checkpoint_every": 2000,
}  # fmt: skip
Value = TypeVar("Value")
ConfigType = TypeVar("ConfigType", bound=SupernetConfig)


def settle(config: ConfigType) -> ConfigType:
    """The config with what is None because it depends on the kind of space; a ValueError for settings of no use
    whatever the space and the images. The others are checked in use."""
    space, given = get_space(config.problem.space), runs.flat(config)
    by_space: dict[str, Any] = {
        "affine": by_kind(space, cells=False, others=True),
        "num_steps": by_kind(space, cells=2_400, two_cells=900, others=2_500),
        "learning_rate": by_kind(space, cells=0.5, two_cells=0.025, others=0.1),  # of two cells DARTS's own
    }
    if "sampler" in given:
        by_space["sampler"] = "fair" if space.has_all_codes else "uniform"
    settled = runs.replace(config, **{name: value for name, value in by_space.items() if given[name] is None})
    counts = ("batch_size", "num_steps", "checkpoint_every", "report_every", "archs_per_save", "num_calibration_images")
    runs.check_least(settled, **dict.fromkeys((*counts, "num_curve_archs"), 1))
    if config.scoring.bn_mode == "tracked" and config.training.stats_momentum is None:
        raise ValueError("bn_mode tracked needs stats_momentum, the old value's share in the tracked one; take 0.9.")
    if given.get("sampler") not in (None, *SAMPLERS):
        raise ValueError(f"unknown sampler {given['sampler']!r}; choose one of {', '.join(SAMPLERS)}.")
    return settled


def by_kind(space: SearchSpace, *, cells: Value, others: Value, two_cells: Value | None = None) -> Value:
    """`cells` for a space of cells, `two_cells` for one of two cells if that is another value, else `others`."""
    if isinstance(space.layout, TwoCellLayout) and two_cells is not None:
        return two_cells
    return cells if isinstance(space.layout, CellLayout | TwoCellLayout) else others


def small_width(space: SearchSpace) -> int:
    """What the width "small" is: 8, or 16 where a choice is one of eight widths up to it."""
    return 16 if isinstance(space.layout, SizeLayout) else 8
