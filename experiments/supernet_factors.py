"""What each choice in building and training a super-net does to its ranking, one at a time: the factors of "How to
Train Your Super-Net" (Yu, Ranftl and Salzmann, arXiv 2003.04276).

From one base setting, each of `factors` takes its other values, everything else as it is; each of these super-nets is
trained from the same seeds and scored on the same architectures. factors.csv has a row for the base and for each value,
forest.png what each does to Kendall's tau, with the base at zero. Every (value, seed) is a folder; what is finished is
not run again.

    jaxnas supernet_factors quick --workdir runs/factors
    jaxnas supernet_factors cpu --dataset cifar10 --data-dir DIR --workdir runs/factors-nb201
    jaxnas supernet_factors quick --factors learning_rate=0.05,0.2 sampler=uniform --workdir runs/two

Intervals are at 95 %: of tau, sparse tau and of differences to the base, paired by seed, over architectures and seeds
(`jaxnas.ranking.intervals`), else Student's over seeds. A super-net that diverges is counted in its row and left out of
its figures. Minutes and figures are on the page Experiments of the documentation.
"""

import contextlib
import dataclasses
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np

from jaxnas import costs, plotting, ranking, runs, tables
from jaxnas.checks import Count, Seeds, Text
from jaxnas.runs import sealed
from jaxnas.runs.command import main
from jaxnas.space import DagLayout
from jaxnas.spaces import get_space

from .shared.config import CIFAR, LANDMARKREG, RankedConfig, settle
from .shared.problem import Problem, evaluation_archs, load_problem, resize
from .shared.supernet import Score, TrainingSetup, build, make_score, make_setup, score_all, train
from .shared.telling import differences, hashes

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


class Factor:
    """A factor and the values that it takes beside the base's."""

    def __str__(self) -> str:
        return f"NAME=VALUE,VALUE with a name among {', '.join(FACTORS)}"

    def check(self, name: str, value: Any) -> str:
        factor, _, values = Text().check(name, value).partition("=")
        if factor not in FACTORS or not values:
            raise ValueError(f"factor {value!r} is not {self}; for instance learning_rate=0.05,0.1.")
        return value


@dataclasses.dataclass(frozen=True)
class Config(RankedConfig):
    """The base setting, and what is varied around it."""

    factors: tuple[Annotated[str, Factor()], ...] = (  # each NAME=VALUE,VALUE; the base's own value is there anyway
        "affine=false", "learning_rate=0.02,0.5", "weight_decay=0", "path_dropout=0.2", "sampler=uniform",
    )  # fmt: skip
    num_seeds: Seeds = 2  # super-nets of each setting, from seeds seed, seed + 1, ...
    top_k: Count = 5


DIGITS = runs.replace(Config(), num_steps=200, num_archs=3, num_curve_points=0, checkpoint_every=100)
PRESETS = {
    "tiny": runs.replace(
        DIGITS, width=4, num_archs=None, num_train=128, num_valid=100, num_steps=4, batch_size=16, report_every=2,
        checkpoint_every=2, num_eval_archs=27, archs_per_save=27,
        factors=("learning_rate=0.2", "weight_decay=0"),
    ),
    "quick": DIGITS,
    "cpu": runs.replace(
        runs.replace(Config(), **CIFAR), space="nasbench201", width=8, cells_per_stage=1, image_size=8, num_steps=1000,
        learning_rate=0.2, num_archs=5, num_eval_archs=1000, num_eval_images=250, num_curve_points=0, num_seeds=3,
        top_k=10, checkpoint_every=300, archs_per_save=1000,
        factors=(
            "affine=true", "learning_rate=0.05,0.5", "weight_decay=0,5e-3", "op_on=node", "sampler=uniform,distinct",
        ),
    ),
    # The grids around the settings of nas-landmarkreg are not known: values around the base, halved and doubled.
    "paper": runs.replace(
        runs.replace(Config(), **LANDMARKREG), affine=True, num_curve_points=0, num_seeds=3, top_k=10,
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


class Outcome(NamedTuple):
    """What one trained super-net came to."""

    loss: np.ndarray  # [num_archs], on the validation images
    accuracy: np.ndarray  # [num_archs]
    seconds: float  # of the training, compilation left out


Outcomes = Mapping[str, list[Outcome | None]]  # by setting, for each seed; None of one that diverged


def run(config: Config, workdir: Path, identity: str) -> Mapping[str, Any]:
    """Train, score, compare; see the module's docstring. Files: a folder for each setting and seed, factors.csv,
    forest.png."""
    config = settle(config)
    variants = make_variants(config)
    problem = load_problem(config.problem, part=True)
    archs = evaluation_archs(problem.space, config.scoring.num_eval_archs, problem.truth, half=config.scoring.half)
    test = ranking.mean_truth(tables.lookup(problem.truth, archs, "test_accuracy"))
    macs = costs.arch_costs(problem.published, archs).macs
    ranking.top_k_mean(macs, test, k=config.top_k)  # a k of no use ends the run before the training, and so do settings
    for variant in variants:
        prepare(variant, problem)

    outcomes: dict[str, list[Outcome | None]] = {}
    for variant in variants:
        outcomes[variant.name] = run_seeds(variant, problem, archs, workdir, identity)
        if all(outcome is None for outcome in outcomes["base"]):
            raise ValueError(f"the base setting diverged with every seed, see {workdir / 'base'}; lower learning_rate.")
    rows = [compare(config, name, outcomes, test) for name in outcomes]
    runs.write_rows(workdir / "factors.csv", rows)
    space_name, dataset = problem.space.name, config.problem.dataset
    number = f"{plotting.counted(config.num_seeds, 'seed')}, {plotting.counted(len(test), 'architecture')}"
    title = f"{space_name} on {dataset}, {number}"
    draw(workdir, title, rows, outcomes, test)
    figures: dict[str, Any] = {
        "space": space_name,
        "dataset": dataset,
        "num_archs": len(archs),
        "num_images": config.scoring.num_eval_images or len(problem.data.valid_images),
        "num_seeds": config.num_seeds,
        "num_settings": len(variants),
        "macs_kendall_tau": ranking.kendall_tau(macs, test),
    }
    kept = ("kendall_tau", "sparse_kendall_tau", "supernet_accuracy", f"top_{config.top_k}_accuracy", "train_seconds")
    figures |= hashes(problem.data, problem.truth)
    for row in rows:
        columns = kept if row["setting"] == "base" else (*kept, "delta", "delta_low", "delta_high")
        figures |= {f"{row['setting']}: {column}": row[column] for column in columns}
    settings = {row["setting"]: f"{row['setting']}: delta" for row in rows[1:]}
    return (differences(figures, settings, "the base setting") if settings else {}) | figures


def make_variants(config: Config) -> list[Variant]:
    """The base and one variant for each other value; a ValueError for a factor or value that makes no sense."""
    space, base = get_space(config.problem.space), runs.flat(config)
    variants = {"base": Variant("base", config)}
    for text in config.factors:
        name, _, values = text.partition("=")
        if name == "cells_per_stage" and name not in space.sizes:
            raise ValueError(f"factor {text!r}: {space.name} is no space of cells; its layers are all searched.")
        for word in values.split(","):
            try:
                value = runs.read_value(config, name, word)
            except ValueError as error:
                raise ValueError(f"factor {error}") from None
            changes = {name: value} | IMPLIED.get((name, value), {})
            if isinstance(space.layout, DagLayout):
                changes.pop("op_on", None)  # its operations are on nodes anyway
            with naming(f"{name}={word}") as variant:
                is_size = base[name] is None and name in space.sizes and isinstance(value, int)
                if value != base[name] and not (is_size and space.resized(**{name: value}) == space):
                    variants[variant] = Variant(variant, settle(runs.replace(config, **changes)))
    return list(variants.values())


def prepare(variant: Variant, problem: Problem) -> tuple[TrainingSetup, Score]:
    """The variant's super-net and scoring; a ValueError for what cannot be built."""
    config, data = variant.config, problem.data
    available, num_train, batch_size = len(data.train_images), config.problem.num_train, config.training.batch_size
    num_train = available if num_train is None else num_train
    with naming(variant.name):
        if num_train > available:
            raise ValueError(f"num_train is {num_train}, but the base has {available}; vary it downwards.")
        data = data._replace(train_images=data.train_images[:num_train], train_labels=data.train_labels[:num_train])
        if batch_size > num_train:
            raise ValueError(f"batch_size is {batch_size}, but there are {num_train} training images.")
        supernet = build(config.network, resize(config.problem, problem.published, data))
        setup = make_setup(config.training, supernet, data, config.sampling)
        return setup, make_score(config.scoring, supernet, data, mesh=config.training.mesh, progress=False)


@contextlib.contextmanager
def naming(variant: str) -> Iterator[str]:
    """Have a ValueError say of which variant it is."""
    try:
        yield variant
    except ValueError as error:
        raise ValueError(f"{variant}: {error}") from None


def run_seeds(
    variant: Variant, problem: Problem, archs: np.ndarray, workdir: Path, identity: str
) -> list[Outcome | None]:
    """Train and score each seed that isn't finished; None for one that diverged."""
    config, space, setup, score = variant.config, problem.space, None, None
    outcomes: list[Outcome | None] = []
    for seed in range(config.problem.seed, config.problem.seed + config.num_seeds):
        folder = workdir / variant.name / f"seed{seed}"
        origin = {"run": identity, "setting": variant.name, "seed": seed}
        diverged, state = folder / "diverged.json", None
        if diverged.exists():
            sealed.read_json(diverged, "divergence", origin)
            outcomes.append(None)
            continue
        blocks = runs.block_paths(folder, len(archs), size=config.scoring.archs_per_save)
        told = runs.progress(folder, fingerprint=space.fingerprint, origin=origin)
        try:
            if told is None or told.step != config.training.num_steps or not all(block.exists() for block in blocks):
                if config.problem.progress:
                    print(f"{variant.name}, seed {seed}")
                setup, score = (setup, score) if setup and score else prepare(variant, problem)
                trained = train(config, setup, score, folder, seed=seed, origin=origin)
                state, rows = trained.state, trained.rows
            else:
                rows = told.rows
            columns, _ = score_all(config, state, archs, score, space, folder, origin)
        except FloatingPointError as error:
            sealed.write_json(diverged, "divergence", str(error), origin)
            outcomes.append(None)
            continue
        outcome = Outcome(columns["loss"], columns["accuracy"], train_seconds(rows))
        outcomes.append(outcome if np.isfinite(outcome.loss).all() else None)
    return outcomes


def train_seconds(rows: list[dict[str, float]]) -> float:
    """Seconds of the training that the rows of a training.csv tell of. The first report's are left out, in which the
    step is compiled, and made up for by the mean of the others."""
    first, last = rows[0], rows[-1]
    begin, end = first["seconds"], last["seconds"]
    return (end - begin) * last["step"] / (last["step"] - first["step"]) if len(rows) > 1 else end


def compare(config: Config, name: str, outcomes: Outcomes, test: np.ndarray) -> dict[str, Any]:
    """One row of factors.csv."""
    pairs = [(outcome, base) for outcome, base in zip(outcomes[name], outcomes["base"], strict=True) if outcome]
    row: dict[str, Any] = {"setting": name, "num_seeds": len(pairs), "num_diverged": len(outcomes[name]) - len(pairs)}
    scores = -np.array([outcome.loss for outcome, _ in pairs])
    for column, statistic in (("kendall_tau", ranking.kendall_tau), ("sparse_kendall_tau", ranking.sparse_kendall_tau)):
        row |= (ranking.estimate(statistic, scores, test) if pairs else UNKNOWN).named(column)
    for column, values in (
        ("supernet_accuracy", [outcome.accuracy.mean() for outcome, _ in pairs]),
        (f"top_{config.top_k}_accuracy", [ranking.top_k_mean(each, test, k=config.top_k) for each in scores]),
        ("train_seconds", [outcome.seconds for outcome, _ in pairs]),
    ):
        row |= ranking.estimate_mean(values).named(column)
    both = [(-outcome.loss, -base.loss) for outcome, base in pairs if base]
    delta = ranking.Estimate(0.0, 0.0, 0.0)
    if name != "base":
        sides = np.swapaxes(both, 0, 1) if both else ()  # of the setting and of the base, [num_seeds, num_archs] each
        delta = ranking.estimate_difference(ranking.kendall_tau, *sides, test) if both else UNKNOWN
    return row | delta.named("delta")


def draw(
    workdir: Path,
    title: str,
    rows: list[dict[str, Any]],
    outcomes: Outcomes,
    test: np.ndarray,
) -> None:
    """forest.png: a row for each setting, the seeds' own differences behind it."""
    effects, points = {}, {}
    for row in rows[1:]:
        if math.isfinite(row["delta"]):
            pairs = zip(outcomes[row["setting"]], outcomes["base"], strict=True)
            both = [(-outcome.loss, -base.loss) for outcome, base in pairs if outcome is not None and base is not None]
            short = f"\n({len(both)} of {len(outcomes['base'])} seeds)" if len(both) < len(outcomes["base"]) else ""
            setting = row["setting"] + short
            effects[setting] = (row["delta"], row["delta_low"], row["delta_high"])
            taus = np.array([[ranking.kendall_tau(scores, test) for scores in pair] for pair in both])
            points[setting] = taus[:, 0] - taus[:, 1]
    left_out = [row["setting"] for row in rows[1:] if not math.isfinite(row["delta"])]
    diverged = f"\nnot drawn, as no pair of seeds was finite: {', '.join(left_out)}" if left_out else ""
    base = "τ of the base {kendall_tau:.3f} [{kendall_tau_low:.3f}, {kendall_tau_high:.3f}]".format(**rows[0])
    figure = plotting.forest(
        effects, title=f"{title}\n{base}{diverged}", label="difference in Kendall's τ to the base", points=points
    )
    plotting.save_figure(figure, workdir / "forest.png")


if __name__ == "__main__":
    main(f"{__package__}.supernet_factors", __doc__, run, PRESETS)
