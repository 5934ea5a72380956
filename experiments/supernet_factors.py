"""What each choice in building and training a super-net does to its ranking, one at a time: the factors of "How to
Train Your Super-Net" (Yu, Ranftl and Salzmann, arXiv 2003.04276).

From one base setting, each of `factors` takes its other values, everything else as it is; each of these super-nets is
trained from the same seeds and scored on the same architectures. factors.csv has a row for the base and for each value,
forest.png what each does to Kendall's tau, with the base at zero. Every (value, seed) is a folder; what is finished is
not run again.

    python -m experiments.supernet_factors quick --workdir runs/factors
    python -m experiments.supernet_factors cpu --dataset cifar10 --data-dir DIR --workdir runs/factors-nb201
    python -m experiments.supernet_factors quick --factors learning_rate=0.05,0.2 sampler=uniform --workdir runs/two

Intervals are at 95 %: of tau, sparse tau and of their differences to the base by bootstrap over architectures, and over
seeds where there are several, paired by seed; of the other figures Student's t over seeds. Both are about the mean of
few seeds. A super-net that diverges is counted in its row and left out of its figures. Minutes and figures are in
experiments/README.md.
"""

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments import rank_correlation
from experiments import workdir as cli
from experiments.problem import Problem, SupernetConfig, check, evaluation_archs, load_problem, resize, settle
from experiments.supernet_run import build, make_recipe, make_score, score_all, score_blocks, train
from jaxnas import costs, plotting, ranking, tables
from jaxnas.files import replace_file
from jaxnas.space import DagLayout
from jaxnas.spaces import get_space

# Field of Config -> the factor's name. Those of the mapping to shared weights, of low fidelity, of the protocol.
FACTORS = {
    "kernels": "shared (OFA) kernel",
    "channels": "dynamic channels",
    "batch_norm": "weight-sharing batch norm",
    "path_dropout": "path dropout",
    "global_dropout": "global dropout",
    "op_on": "operation on node or edge",
    "cells_per_stage": "layers",
    "num_train": "train portion",
    "batch_size": "batch size",
    "width": "channels",
    "affine": "batch norm affine",
    "bn_mode": "batch norm statistics",
    "learning_rate": "learning rate",
    "weight_decay": "weight decay",
    "num_steps": "epochs",
    "sampler": "path sampling",  # uniform is Random-NAS, distinct Random-A, fair FairNAS
}
# What a value needs beside it; it has no meaning without.
IMPLIED: dict[tuple[str, Any], dict[str, Any]] = {
    ("batch_norm", "per_input"): {"op_on": "node"},
    ("bn_mode", "tracked"): {"stats_momentum": 0.9},
}


@dataclasses.dataclass(frozen=True)
class Config(SupernetConfig):
    """The base setting, and what is varied around it."""

    factors: tuple[str, ...] = (  # each NAME=VALUE,VALUE; the base's own value is there anyway
        "affine=false", "learning_rate=0.02,0.5", "weight_decay=0", "path_dropout=0.2", "sampler=uniform",
    )  # fmt: skip
    num_seeds: int = 2  # super-nets of each setting, from seeds seed, seed + 1, ...
    num_resamples: int = 1000  # of the bootstrap
    top_k: int = 5


DIGITS = Config(num_steps=200, num_archs=3, num_curve_points=0, checkpoint_every=100)
CIFAR = Config(
    **{field.name: getattr(rank_correlation.CIFAR, field.name) for field in dataclasses.fields(SupernetConfig)}
)
NASBENCH201 = dataclasses.replace(CIFAR, space="nasbench201", num_curve_points=0, num_seeds=3, top_k=10)
PRESETS = {
    "tiny": dataclasses.replace(
        DIGITS, width=4, num_archs=None, num_train=128, num_valid=100, num_steps=4, batch_size=16, report_every=2,
        checkpoint_every=2, num_eval_archs=27, archs_per_save=27, num_resamples=50,
        factors=("learning_rate=0.2", "weight_decay=0"),
    ),
    "quick": DIGITS,
    "cpu": dataclasses.replace(
        NASBENCH201, width=8, cells_per_stage=1, image_size=8, num_steps=1000, learning_rate=0.2, num_archs=5,
        num_eval_archs=1000, num_eval_images=250, checkpoint_every=300, archs_per_save=1000,
        factors=(
            "affine=true", "learning_rate=0.05,0.5", "weight_decay=0,5e-3", "op_on=node", "sampler=uniform,distinct",
        ),
    ),
    # The settings of nas-landmarkreg on NAS-Bench-201: 400 epochs on half of the training images, batch 256. Its grids
    # are not known: values around the base, halved and doubled.
    "paper": dataclasses.replace(
        NASBENCH201, width=16, cells_per_stage=5, image_size=32, num_valid=25_000, batch_size=256,
        num_steps=400 * (25_000 // 256), learning_rate=0.025, final_learning_rate=0.001, crop=4, affine=True,
        sampler="uniform", idle="rest", num_eval_images=10_000, images_per_call=256, checkpoint_every=2000,
        factors=(
            "kernels=transform", "batch_norm=per_input", "path_dropout=0.2", "global_dropout=0.2", "op_on=node",
            "cells_per_stage=1,3", "num_train=6250,12500", "batch_size=64,128,512", "width=4,8,32", "affine=false",
            "bn_mode=tracked", "learning_rate=0.00625,0.0125,0.05,0.1", "weight_decay=0,1.25e-4,2.5e-4,1e-3,2e-3",
            "num_steps=9700,116400,194000", "sampler=distinct,fair",
        ),
    ),
}  # fmt: skip

UNKNOWN = ranking.Estimate(math.nan, math.nan, math.nan)  # where every seed diverged


class Variant(NamedTuple):
    """The base setting, or the base with another value of one factor."""

    name: str  # "base" or "factor=value": its folder
    config: Config


class Cell(NamedTuple):
    """What one trained super-net came to."""

    loss: np.ndarray  # [num_archs], on the validation images
    accuracy: np.ndarray  # [num_archs]
    seconds: float  # of the training, compilation left out


def run(config: Config, workdir: Path) -> Mapping[str, Any]:
    """Train, score, compare; see the module's docstring. Files: a folder for each setting and seed, factors.csv,
    forest.png."""
    config = settle(config)
    for name in ("num_seeds", "num_resamples", "top_k"):
        if getattr(config, name) < 1:
            raise ValueError(f"{name} must be at least 1, got {getattr(config, name)}.")
    variants = make_variants(config)
    for variant in variants:
        check(variant.config)
    problem = load_problem(config)
    archs = evaluation_archs(config, problem.space)
    test = ranking.mean_truth(tables.lookup(problem.truth, archs, "test_accuracy"))
    macs = costs.arch_costs(problem.published, archs).macs
    ranking.top_k_mean(macs, test, k=config.top_k)  # a k of no use ends the run before the training, and so do settings
    for variant in variants:
        prepare(variant, problem)

    cells = {}
    for variant in variants:
        cells[variant.name] = run_seeds(variant, problem, archs, workdir)
        if all(cell is None for cell in cells["base"]):
            raise ValueError(f"the base setting diverged with every seed, see {workdir / 'base'}; lower learning_rate.")
    rows = [compare(config, name, cells, test) for name in cells]
    cli.write_rows(workdir / "factors.csv", rows)
    draw(config, workdir, rows, cells, test)
    figures: dict[str, Any] = {
        "space": config.space,
        "dataset": config.dataset,
        "num_archs": len(archs),
        "num_images": config.num_eval_images or len(problem.data.valid_images),
        "num_seeds": config.num_seeds,
        "num_settings": len(variants),
        "flops_kendall_tau": ranking.kendall_tau(macs, test),
    }
    kept = ("kendall_tau", "sparse_kendall_tau", "supernet_accuracy", "top_k_accuracy", "train_seconds")
    for row in rows:
        columns = kept if row["setting"] == "base" else (*kept, "delta", "delta_low", "delta_high")
        figures |= {f"{row['setting']}: {column}": row[column] for column in columns}
    return figures


def make_variants(config: Config) -> list[Variant]:
    """The base and one variant for each other value; a ValueError for a factor or value that makes no sense."""
    layout = get_space(config.space).layout
    variants = {"base": Variant("base", config)}
    for text in config.factors:
        name, _, values = text.partition("=")
        if name not in FACTORS or not values:
            raise ValueError(
                f"factor {text!r} is not NAME=VALUE,VALUE with a name among {', '.join(FACTORS)}; for instance"
                " learning_rate=0.05,0.1."
            )
        if name == "cells_per_stage" and name not in layout.sizes:
            raise ValueError(f"factor {text!r}: {config.space} is no space of cells; its layers are all searched.")
        for word in values.split(","):
            value = read_value(name, word)
            changes = {name: value} | IMPLIED.get((name, value), {})
            if isinstance(layout, DagLayout):
                changes.pop("op_on", None)  # its operations are on nodes anyway
            if value != getattr(config, name):
                variants[f"{name}={word}"] = Variant(f"{name}={word}", dataclasses.replace(config, **changes))
    return list(variants.values())


def read_value(name: str, word: str) -> Any:
    """The value of a field of Config from text, by the field's type."""
    kind = typing.get_type_hints(Config)[name]
    kinds = typing.get_args(kind) if typing.get_origin(kind) in (types.UnionType, typing.Union) else (kind,)
    if bool in kinds:
        known: Mapping[str, Any] = {"true": True, "false": False}
    elif typing.get_origin(kind) is typing.Literal:
        known = {value: value for value in typing.get_args(kind)}
    else:
        (convert,) = (each for each in kinds if each is not types.NoneType)
        try:
            return convert(word)
        except ValueError:
            raise ValueError(f"factor {name}: expected a value of type {convert.__name__}, got {word!r}.") from None
    if word not in known:
        raise ValueError(f"factor {name}: unknown value {word!r}; choose among {', '.join(known)}.")
    return known[word]


def prepare(variant: Variant, problem: Problem):
    """The variant's (data, super-net, recipe, scoring); a ValueError, which names it, for what cannot be built."""
    config, data = variant.config, problem.data
    num_train = len(data.train_images) if config.num_train is None else config.num_train
    try:
        if num_train > len(data.train_images):
            raise ValueError(f"num_train is {num_train}, but the base has {len(data.train_images)}; vary it downwards.")
        data = data._replace(train_images=data.train_images[:num_train], train_labels=data.train_labels[:num_train])
        if config.batch_size > num_train:
            raise ValueError(f"batch_size is {config.batch_size}, but there are {num_train} training images.")
        supernet = build(config, resize(config, problem.published, data))
        recipe = make_recipe(config, supernet, data)
        quiet = dataclasses.replace(config, progress=False)
        return data, supernet, recipe, make_score(quiet, supernet, data)
    except ValueError as error:
        raise ValueError(f"{variant.name}: {error}") from None


def run_seeds(variant: Variant, problem: Problem, archs: np.ndarray, workdir: Path) -> list[Cell | None]:
    """Train and score each seed that isn't finished; None for one that diverged."""
    cells: list[Cell | None] = []
    parts = None
    for number in range(variant.config.num_seeds):
        config = dataclasses.replace(variant.config, seed=variant.config.seed + number)
        folder = workdir / variant.name / f"seed{config.seed}"
        diverged = folder / "diverged.txt"
        blocks = score_blocks(config, archs, folder)
        if not (diverged.exists() or all(block.exists() for block in blocks)):
            if config.progress:
                print(f"{variant.name}, seed {config.seed}")
            folder.mkdir(parents=True, exist_ok=True)
            parts = prepare(variant, problem) if parts is None else parts
            data, supernet, recipe, score = parts
            try:
                state = train(config, supernet, data, score, folder, recipe=recipe).state
                score_all(config, state, archs, score, supernet.space, folder)
            except FloatingPointError as error:
                replace_file(diverged, f"{error}\n".encode())
        if diverged.exists():
            cells.append(None)
            continue
        columns = [tables.read_table(block, problem.space).columns for block in blocks]
        loss, accuracy = (np.concatenate([each[name] for each in columns]) for name in ("loss", "accuracy"))
        cell = Cell(loss, accuracy, train_seconds(folder / "training.csv"))
        cells.append(cell if np.isfinite(loss).all() else None)
    return cells


def train_seconds(path: Path) -> float:
    """Seconds of the training that a training.csv tells of. The first report's are left out, in which the step is
    compiled, and made up for by the mean of the others."""
    rows = [(float(row["step"]), float(row["seconds"])) for row in cli.read_rows(path)]
    (first, begin), (last, end) = rows[0], rows[-1]
    return (end - begin) * last / (last - first) if last > first else end


def compare(config: Config, name: str, cells: Mapping[str, list[Cell | None]], test: np.ndarray) -> dict[str, Any]:
    """One row of factors.csv."""
    pairs = [(cell, base) for cell, base in zip(cells[name], cells["base"], strict=True) if cell is not None]
    row: dict[str, Any] = {"setting": name, "num_seeds": len(pairs), "num_diverged": len(cells[name]) - len(pairs)}
    options = {"num_resamples": config.num_resamples}
    scores = -np.array([cell.loss for cell, _ in pairs])
    for column, statistic in (("kendall_tau", ranking.kendall_tau), ("sparse_kendall_tau", ranking.sparse_kendall_tau)):
        row |= (ranking.estimate(statistic, scores, test, **options) if pairs else UNKNOWN).named(column)
    for column, values in (
        ("supernet_accuracy", [cell.accuracy.mean() for cell, _ in pairs]),
        ("top_k_accuracy", [ranking.top_k_mean(each, test, k=config.top_k) for each in scores]),
        ("train_seconds", [cell.seconds for cell, _ in pairs]),
    ):
        row |= ranking.estimate_mean(values).named(column)
    both = [(-cell.loss, -base.loss) for cell, base in pairs if base is not None]
    delta = ranking.Estimate(0.0, 0.0, 0.0)
    if name != "base":
        sides = np.swapaxes(both, 0, 1) if both else ()  # of the setting and of the base, [num_seeds, num_archs] each
        delta = ranking.estimate_difference(ranking.kendall_tau, *sides, test, **options) if both else UNKNOWN
    return row | delta.named("delta")


def draw(config: Config, workdir: Path, rows, cells: Mapping[str, list[Cell | None]], test: np.ndarray) -> None:
    """forest.png: a row for each setting, the seeds' own differences behind it."""
    effects, points = {}, {}
    for row in rows[1:]:
        if math.isfinite(row["delta"]):
            pairs = zip(cells[row["setting"]], cells["base"], strict=True)
            both = [(-cell.loss, -base.loss) for cell, base in pairs if cell is not None and base is not None]
            effects[row["setting"]] = (row["delta"], row["delta_low"], row["delta_high"])
            taus = np.array([[ranking.kendall_tau(scores, test) for scores in pair] for pair in both])
            points[row["setting"]] = taus[:, 0] - taus[:, 1]
    base = f"base {rows[0]['kendall_tau']:.3f} [{rows[0]['kendall_tau_low']:.3f}, {rows[0]['kendall_tau_high']:.3f}]"
    title = f"{config.space} on {config.dataset}, {config.num_seeds} seeds, {len(test):,} architectures: {base}"
    figure = plotting.forest(effects, title=title, label="difference in Kendall's τ to the base", points=points)
    plotting.save_figure(figure, workdir / "forest.png")


if __name__ == "__main__":
    cli.main("supernet_factors", run, PRESETS)
