"""The parts that the configs of several experiments are made of: their flags, and what `None` stands for."""

import dataclasses
from typing import Annotated, Any, Literal, TypeVar

from jaxnas import datasets, runs
from jaxnas.checks import (
    Bytes,
    Cells,
    Count,
    Crop,
    NotNegative,
    Number,
    OneOf,
    Pair,
    Pixels,
    Positive,
    Seed,
    Seeds,
    Share,
    Text,
    Whole,
    Width,
)
from jaxnas.evaluation import BNMode, Strategy
from jaxnas.ops import Channels
from jaxnas.samplers import SAMPLERS
from jaxnas.space import CellLayout, SearchSpace
from jaxnas.spaces import SpaceName, get_space
from jaxnas.spaces._darts import TwoCellLayout
from jaxnas.spaces._nats_size import SizeLayout
from jaxnas.supernets import BatchNorm, Kernels, OpOn
from jaxnas.training import RECIPES

Half = Literal["all", "develop", "claim"]
REHEARSAL = "rehearsal"  # pictures that a run makes itself


@dataclasses.dataclass(frozen=True)
class ProblemConfig:
    """Which networks, at which size, on which images."""

    space: Annotated[str, SpaceName()] = "digits_chain"
    dataset: Annotated[
        str, Text("digits, a name of TFDS, folder:PATH or npz:PATH; for networks on text pydoc or shakespeare")
    ] = "digits"
    # of tables, texts, and of image sets in its folder tfds; None: JAXNAS_DATA, else TFDS's own for images
    data_dir: Annotated[str, Text("a folder")] | None = dataclasses.field(default=None, compare=False)
    seed: Seed = 0  # of all that is drawn
    # channels of the stem, which all widths scale with (of nats_size the largest), or on text of the hidden state;
    # small: 8, of nats_size 16, on text 64; None: the space's own
    width: Width | Literal["small"] | None = None
    cells_per_stage: Cells | None = None  # for spaces of cells; chains have none
    image_size: Pixels | Literal["small"] | None = None  # small: 8 for cells, 16 for chains; None: the space's own
    num_train: Count | None = 600  # training images; None: all
    num_valid: Count = 300  # images held out of training; scores are taken on them. Of a text rows, at most
    vocabulary: Count | None = 1000  # words of a text that are told apart, the most frequent; None: all
    words_per_row: Count = 35  # of a text, through which a step is differentiated; scored rows are 4 times as long
    # Of pictures of any size, in folder:PATH/train/CLASS/*.jpg (and val) or a TFDS set that declares none:
    most_resident: Bytes = 2**32  # of decoded images; larger parts are decoded as they are needed
    augment: Literal["none", "crop", "jitter", "rand_augment"] = "none"  # of training pictures, before crop and flip
    damaged: Literal["stop", "skip"] = "stop"  # or skip training pictures that cannot be read, with a warning
    reading_workers: Annotated[int, Whole(0, 64)] = dataclasses.field(default=0, compare=False)  # processes; 0: threads
    progress: bool = dataclasses.field(default=True, compare=False)

    def check(self) -> None:
        """Raise a ValueError where there is no such data set."""
        if self.dataset == REHEARSAL:
            return
        check = datasets.check_text_name if get_space(self.space).is_text else datasets.check_name
        check(self.dataset, self.data_dir)


@dataclasses.dataclass(frozen=True)
class NetworkConfig:
    """How the candidates are put together; see `jaxnas.supernets.make_supernet`."""

    affine: bool | None = None  # batch normalisation learns scale and shift; None: in chains, but not in cells
    kernels: Kernels = "separate"  # or the large ones serve the small ones
    op_on: OpOn = "edge"  # of cells; node: the edges into a node share their operations
    channels: Channels = "fixed"  # of nasbench101: what an operation's widths have in common
    batch_norm: BatchNorm = "shared"  # per_input: with op_on node for each edge, of nasbench101 for each set of inputs
    path_dropout: Share = 0.0  # in the last cell or layer at the end of training, growing linearly with both
    global_dropout: Share = 0.0  # of the classifier's inputs
    compute_dtype: Literal["float32", "bfloat16"] = "float32"


@dataclasses.dataclass(frozen=True)
class SamplingConfig:
    """Which architectures a training step draws."""

    # None: fair, or uniform where not every code exists and for text
    sampler: Annotated[str, OneOf(SAMPLERS)] | None = "fair"
    num_archs: Count | None = None  # architectures per step; None: the sampler's default


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """How the shared weights are trained."""

    batch_size: Count = 64
    num_steps: Count | None = 600  # None: 2,400 for cells, 900 for two cells, 600 on text, 2,500 for others
    learning_rate: Positive | None = 0.1  # None: 0.5 for cells, 0.025 for two cells, 2 on text, 0.1 for others
    final_learning_rate: NotNegative = 0.0
    momentum: Share = 0.9
    weight_decay: NotNegative = 5e-4
    clip_norm: Positive | None = None  # None: 0.25 on text, 5 for others
    label_smoothing: Share = 0.0
    crop: Crop = 1  # pixels of random shift
    flip: bool = False
    idle: Literal["move", "rest"] = "move"  # what the optimiser does with candidates that a step doesn't use
    stats_momentum: Share | None = None  # of tracked statistics; needed for bn_mode tracked
    checkpoint_every: Count = 200  # steps
    report_every: Count = 20  # steps
    mesh: Annotated[str, Text("archs=ROWS,data=COLUMNS")] | None = None  # devices that train and score; None: one
    # of a step on a mesh: normalised by all of its images, or by those of each device
    mesh_statistics: Literal["global", "local"] = "global"
    batch_parts: Count = 1  # of a step, one after the other, each normalised by itself: less memory
    rematerialise: bool = False  # compute within layers once more for the gradient: less memory, more time


@dataclasses.dataclass(frozen=True)
class ScoringConfig:
    """How sub-networks are scored, and which."""

    bn_mode: BNMode = "batch"
    num_calibration_images: Count = 256  # training images, for bn_mode calibrated
    num_eval_archs: Pair | None = None  # at most so many, drawn without repetition; None: the whole space
    half: Half = "all"  # of the space: settings are chosen on one, and what is claimed is measured on the other
    num_eval_images: Count | None = None  # of the validation images; None: all
    images_per_call: Count = 256
    archs_per_call: Count | None = None
    memory_budget: Bytes | None = None  # for activations; None: 1 GiB on CPU, elsewhere 3/4 of the device
    strategy: Strategy = "auto"
    archs_per_save: Count = 729  # scores are saved after so many architectures


@dataclasses.dataclass(frozen=True)
class CurveConfig:
    """Scores along the training, for tau over training."""

    num_curve_points: Annotated[int, Whole(0, 10_000)] = 4
    num_curve_archs: Pair = 243


@dataclasses.dataclass(frozen=True)
class SupernetConfig:
    """What every experiment on a super-net says of it."""

    problem: ProblemConfig = ProblemConfig()
    network: NetworkConfig = NetworkConfig()
    training: TrainingConfig = TrainingConfig()
    scoring: ScoringConfig = ScoringConfig()

    def check(self) -> None:
        """Raise a ValueError for settings that contradict each other, whatever the space and the images."""
        scoring, training, num_valid = self.scoring, self.training, self.problem.num_valid
        if scoring.bn_mode == "tracked" and training.stats_momentum is None:
            raise ValueError(
                "bn_mode tracked needs stats_momentum, the old value's share in the tracked one; take 0.9."
            )
        if scoring.num_eval_images is not None and scoring.num_eval_images > num_valid:
            raise ValueError(
                f"num_eval_images is {scoring.num_eval_images}, expected 1 to the {num_valid} images that are held out."
            )
        wanted = {"batch_size": training.batch_size}
        if scoring.bn_mode == "calibrated":
            wanted["num_calibration_images"] = scoring.num_calibration_images
        for name, number in wanted.items():
            if self.problem.num_train is not None and number > self.problem.num_train:
                raise ValueError(f"{name} is {number}, but there are {self.problem.num_train} training images.")


@dataclasses.dataclass(frozen=True)
class RankedConfig(SupernetConfig):
    """A super-net that is asked how it ranks its space: drawn by a sampler, looked at on the way."""

    sampling: SamplingConfig = SamplingConfig()
    curve: CurveConfig = CurveConfig()


@dataclasses.dataclass(frozen=True)
class SearchConfig(SupernetConfig):
    """A super-net that is narrowed while it is trained: `num_steps` are those of the whole training."""

    num_archs: Count = 1  # architectures per training step; one in the paper
    # QUANTITY:VALUE as in macs:50e6, of the network at its published size; None: no limit
    limit: Annotated[str, Text("a limit such as macs:50e6")] | None = None
    # file of operations for latency_ms; or of whole networks for its columns, as nasbench201_latency.npz; or a CSV file
    # of one's own with operation,latency_ms or code,latency_ms
    latency_table: Annotated[str, Text("a file")] | None = None
    pool_size: Count = 5  # prefixes kept, P in the paper
    num_completions: Count = 20  # scored for each candidate, S in the paper
    num_warm_up_steps: Count = 500  # before the first choice is decided; the others go to the intervals in equal shares
    order: Literal["front_to_back", "back_to_front"] = "front_to_back"  # in which choices are decided
    # what is averaged, of validation images; factor: what differs most between architectures, image by image
    potential: Literal["accuracy", "loss", "factor"] = "accuracy"
    num_retrained: Count = 5  # complete models of which the most accurate, trained alone, is the outcome
    num_seeds: Seeds = 1  # whole searches, from seeds seed, seed + 1, ...


@dataclasses.dataclass(frozen=True)
class BackbonesConfig:
    """Which networks are compared, and how they learn to classify."""

    # JSON files of export.to_json, or .npz and .safetensors of export.save, whose weights are taken; None: num_best
    arch: tuple[Annotated[str, Text("files")], ...] | None = None
    num_best: Annotated[int, Whole(0)] = 1  # without arch, the most accurate of the space's table within the limit
    num_random: Annotated[int, Whole(0)] = 1  # drawn within the limit
    limit: Annotated[str, Text("a limit such as macs:50e3")] | None = (
        None  # None: MACs of arch's costliest, or the table's median
    )
    mobilenet_v2: bool = True  # and MobileNetV2's block at every choice
    untrained: bool = True  # and the first backbone without having learnt to classify
    recipe: Annotated[str, OneOf(RECIPES)] = "small"  # of classification
    num_epochs: Count | None = None  # None: as the recipe has it
    num_calibration_images: Count = 256  # of which the statistics of batch normalisation are, for scoring


@dataclasses.dataclass(frozen=True)
class FinetuningConfig:
    """How what stands on a backbone is trained, and the backbone with it: AdamW, cosine decay."""

    num_steps: Count = 300
    batch_size: Count = 16
    learning_rate: Positive = 2e-3
    backbone_rate: Annotated[float, Number(0, 1)] = 0.1  # the backbone's share of it; 0: it stays as it is
    weight_decay: NotNegative = 1e-4
    num_warm_up_steps: Annotated[int, Whole(0)] = 20
    num_seeds: Seeds = 1  # of classification and what follows; seed, seed + 1, ...
    images_per_call: Count = 64  # that are scored at once
    checkpoint_every: Count = 200  # steps
    report_every: Count = 20  # steps


@dataclasses.dataclass(frozen=True)
class TransferConfig:
    """What both experiments on backbones say."""

    problem: ProblemConfig = ProblemConfig()
    backbones: BackbonesConfig = BackbonesConfig()
    finetuning: FinetuningConfig = FinetuningConfig()

    def check(self) -> None:
        """Raise a ValueError for settings that contradict each other."""
        finetuning = self.finetuning
        if finetuning.num_warm_up_steps >= finetuning.num_steps:
            raise ValueError(
                f"num_warm_up_steps is {finetuning.num_warm_up_steps}, expected fewer than the {finetuning.num_steps}"
                " of num_steps."
            )


@dataclasses.dataclass(frozen=True)
class SceneConfig:
    """In which pictures objects are looked for."""

    coco: Annotated[str, Text("a folder")] | None = None  # as COCO comes, with train and val; None: voc, or the proxy
    voc: Annotated[str, Text("a name of TFDS")] | None = None  # such as voc/2007, whose train and test parts are taken
    scene_size: Count | None = None  # pixels of a side; None: twice those of the images that are classified
    num_scenes: Count = 600  # of the proxy, for training
    num_test_scenes: Count = 200
    least_side: Count | None = None  # pixels of a pasted object, None: 5/8 of what is classified
    most_side: Count | None = None  # None: 5/4
    most_objects: Count = 3


@dataclasses.dataclass(frozen=True)
class DetectionConfig(TransferConfig):
    """What the experiment on detectors says beside its own fields."""

    scenes: SceneConfig = SceneConfig()


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
    """The config with what is None because it depends on the kind of space, and checked: see `runs.check`."""
    space, given = get_space(runs.check(config).problem.space), runs.flat(config)
    by_space: dict[str, Any] = {
        "affine": by_kind(space, cells=False, others=True),
        "num_steps": by_kind(space, cells=2_400, two_cells=900, others=600 if space.is_text else 2_500),
        "learning_rate": by_kind(space, cells=0.5, two_cells=0.025, others=2.0 if space.is_text else 0.1),  # as DARTS's
        "clip_norm": 0.25 if space.is_text else 5.0,
    }
    if "sampler" in given:
        by_space["sampler"] = "fair" if space.has_all_codes and not space.is_text else "uniform"
    return runs.replace(config, **{name: value for name, value in by_space.items() if given[name] is None})


def by_kind(space: SearchSpace, *, cells: Value, others: Value, two_cells: Value | None = None) -> Value:
    """`cells` for a space of cells, `two_cells` for one of two cells if that is another value, else `others`."""
    if isinstance(space.layout, TwoCellLayout) and two_cells is not None:
        return two_cells
    return cells if isinstance(space.layout, CellLayout | TwoCellLayout) else others


def small_width(space: SearchSpace) -> int:
    """What the width "small" is: 8, or 16 where a choice is one of eight widths up to it; of a hidden state 64."""
    if space.is_text:
        return 64
    return 16 if isinstance(space.layout, SizeLayout) else 8
