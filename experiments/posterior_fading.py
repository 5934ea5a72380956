"""Posterior fading (PC-NAS, arXiv 1910.02543): the more architectures share weights, the farther are the shared weights
from those that each of them would have alone.

    jaxnas posterior_fading --workdir runs/fading

The probes are a few architectures: two operations at the first `num_open` choices, one at the others, drawn by `seed`.
Super-nets are trained over `num_sizes` parts of the space that all contain them, from the probes alone (0.0) to the
whole space (1.0), each part the one before and some operations more; and once with the pool `shrinking`: the same parts
from the whole space to the probes, equally long each, which is what PC-NAS does. The super-net, its initial weights and
its batches stay the same, only which operations are sampled differs, one path a step. Each probe is trained alone, too,
by the same steps at a single architecture. Figures are means over super-nets and probes, on validation images
normalised together, with 95 % intervals over both:

- `gap`: validation loss of the probe under shared weights, less that of its own, in nats;
- `agreement`: the share of images for which both predict the same class; `agreement_alone` is that of two trainings of
  a probe alone, which bounds it;
- `tau`: Kendall's tau between the losses of the probes under shared weights and their own; `tau_alone` is that of one
  training alone and the mean of the others.

Every training has the same number of steps, so in a larger space a probe and its operations are trained less often: the
figures hold interference and thinner training together, as the budget of a search does. `gaussian_kl` is what the
paper's argument gives for as many equal Gaussian posteriors of one parameter (`jaxnas.search.posterior`). Each training
leaves a file in WORKDIR/trainings, and a killed run goes on after the last one.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from jaxnas import plotting, ranking, runs, tables
from jaxnas.checks import Count, Crop, NotNegative, Positive, Whole
from jaxnas.datasets import Dataset
from jaxnas.evaluation import cross_entropy
from jaxnas.runs import sealed
from jaxnas.runs.command import main
from jaxnas.samplers import restricted
from jaxnas.space import SearchSpace
from jaxnas.spaces import get_space
from jaxnas.supernets import Supernet, make_supernet
from jaxnas.tables import Table
from jaxnas.training import (
    batches,
    fit,
    init_train_state,
    make_cross_entropy_loss,
    make_preprocess,
    make_train_step,
    sgd,
    standardise,
)

from .shared.config import ProblemConfig
from .shared.problem import arch_rows, load_images, resize
from .shared.telling import hashes, level

COLUMNS = {
    "gap": "loss gap to\nown weights (nats)",
    "agreement": "agreement with own\nweights (fraction)",
    "tau": "Kendall's τ\namong probes",
}
UNITS = {"loss": "nats", "accuracy": "fraction", "predictions": "class"}


@dataclasses.dataclass(frozen=True)
class Config:
    """The parts of the space, and how all are trained; `seed` draws the probes and the order of growth."""

    problem: ProblemConfig = dataclasses.field(default_factory=ProblemConfig)
    num_open: Annotated[int, Whole(2, 10)] = 4  # choices at which probes differ: 2^num_open probes
    num_sizes: Annotated[int, Whole(2, 1000)] = 4
    num_seeds: Annotated[int, Whole(2, 1000)] = 3  # super-nets of each size
    num_alone_seeds: Annotated[int, Whole(2, 1000)] = 2  # trainings of each probe alone
    num_steps: Count = 500
    batch_size: Count = 50
    learning_rate: Positive = 0.1
    weight_decay: NotNegative = 5e-4
    crop: Crop = 1
    flip: bool = False


PRESETS = {
    "tiny": runs.replace(
        Config(), num_open=2, num_sizes=2, num_seeds=2, width=2, num_train=64, num_valid=50, num_steps=4, batch_size=16,

    ),
    "quick": Config(),
    # Hours on two cores: 16 probes alone and 5 super-nets, each with 3 seeds.
    "cpu": runs.replace(
        Config(), space="nasbench_macro", dataset="cifar10", num_alone_seeds=3, width=8, image_size=16, num_train=None,
        num_valid=1000, num_steps=2000, batch_size=64, crop=2, flip=True,
    ),
}  # fmt: skip


class Planned(NamedTuple):
    """One training that there is to do: the operations allowed in each of its intervals, and the architectures that are
    scored after it."""

    name: str
    seed: int
    intervals: tuple[np.ndarray, ...]  # of bool [num_choices, max(num_ops)]
    archs: np.ndarray  # int32 [num_archs, num_choices]


def run(config: Config, workdir: Path, identity: str) -> Mapping[str, Any]:
    """Train all, compare; see the module's docstring. Files: trainings/, fading.csv, fading.png."""
    problem = runs.check(config).problem
    published = get_space(problem.space)
    data = load_images(problem, published)
    space = resize(problem, published, data)
    parts = growing_parts(config, space)
    probes = np.array(list(itertools.product(*(np.flatnonzero(row) for row in parts[0]))), np.int32)
    plan = list(all_trainings(config, parts, probes))
    train = trainer(config, make_supernet(space), data)
    (workdir / "trainings").mkdir(exist_ok=True)
    results: dict[str, Table] = {}
    with tqdm(total=len(plan), unit="training", disable=not problem.progress) as bar:
        for planned in plan:
            path, origin = workdir / "trainings" / f"{planned.name}.npz", {"run": identity, "training": planned.name}
            if not path.exists():
                sealed.write_table(path, "training", train(planned), origin)
            results[planned.name] = sealed.read_table(path, "training", space, planned.archs, origin)
            bar.update()

    alone = stacked(results, [[f"alone_{row}_{seed}" for row in range(len(probes))] for seed in alone_seeds(config)])
    arms = [*(f"size_{number}" for number in range(len(parts))), "shrinking"]
    rows = []
    for arm in arms:
        shared = stacked(results, [[f"{arm}_{seed}"] for seed in range(config.num_seeds)])
        size = int(parts[-1 if arm == "shrinking" else arms.index(arm)].sum(axis=1).prod())
        kl = 0.5 * (size - 1 - math.log(size))
        rows.append({"arm": arm, "num_archs": size, **compare(shared, alone), "gaussian_kl": kl})
    references = between_alone(alone)
    runs.write_rows(workdir / "fading.csv", rows)
    columns = {"alone_loss": alone.loss.mean(axis=0)}
    for arm in arms:
        columns[f"{arm}_loss"] = np.mean(
            [results[f"{arm}_{seed}"].columns["loss"] for seed in range(config.num_seeds)], 0
        )
    runs.write_rows(workdir / "probes.csv", arch_rows(space, probes, columns))
    draw(config, workdir, f"{space.name} on {problem.dataset}", rows, references)
    named = {"smallest": rows[0], "whole": rows[-2], "shrinking": rows[-1]}
    figures = {
        "space": space.name,
        "dataset": problem.dataset,
        "num_probes": len(probes),
        "num_valid": problem.num_valid,
        "num_seeds": config.num_seeds,
        "sizes": " ".join(str(row["num_archs"]) for row in rows[:-1]),
        **{f"{name}_{key}": row[key] for name, row in named.items() for key in row if key not in ("arm", "num_archs")},
        **references,
        "alone_loss": float(alone.loss.mean()),
        "alone_accuracy": float(alone.accuracy.mean()),
    } | hashes(data)
    return level(figures, "whole_gap", "weights shared by the whole space lose {} to own ones", unit=" nats") | figures


def growing_parts(config: Config, space: SearchSpace) -> list[np.ndarray]:
    """Operations allowed, bool [num_choices, max(num_ops)], in each part of the space, from the probes to all."""
    rng = np.random.default_rng(config.problem.seed)
    free = [choice for choice, num_ops in enumerate(space.num_ops) if num_ops > 1]
    if len(free) < config.num_open:
        raise ValueError(f"{space.name}: {len(free)} choices have two operations, num_open is {config.num_open}.")
    everything = np.arange(max(space.num_ops)) < np.array(space.num_ops)[:, None]
    part = np.zeros_like(everything)
    for choice, num_ops in enumerate(space.num_ops):
        part[choice, rng.choice(num_ops, 2 if choice in free[: config.num_open] else 1, replace=False)] = True
    left = rng.permutation(np.argwhere(everything & ~part))
    parts = []
    for number in range(config.num_sizes):
        added = left[: round(len(left) * number / (config.num_sizes - 1))]
        grown = part.copy()
        grown[added[:, 0], added[:, 1]] = True
        parts.append(grown)
    if len({part.tobytes() for part in parts}) < len(parts):
        raise ValueError(
            f"{space.name}: {len(left)} operations are no probe's, too few for num_sizes {config.num_sizes}; lower it."
        )
    return parts


def alone_seeds(config: Config) -> range:
    """Other seeds than the super-nets', which would begin at the same weights."""
    return range(config.num_seeds, config.num_seeds + config.num_alone_seeds)


def all_trainings(config: Config, parts: list[np.ndarray], probes: np.ndarray) -> Iterator[Planned]:
    """Every training there is to do."""
    for seed in range(config.num_seeds):
        for number, part in enumerate(parts):
            yield Planned(f"size_{number}_{seed}", seed, (part,), probes)
        yield Planned(f"shrinking_{seed}", seed, tuple(reversed(parts)), probes)
    for seed in alone_seeds(config):
        for row, probe in enumerate(probes):
            only = np.arange(parts[0].shape[1]) == probe[:, None]
            yield Planned(f"alone_{row}_{seed}", seed, (only,), probe[None])


def trainer(config: Config, supernet: Supernet, data: Dataset) -> Callable[[Planned], Table]:
    """training -> loss, accuracy [num_archs] and predicted classes [num_archs, num_valid] after it. One step is
    compiled for all: which operations are allowed is data."""
    space = supernet.space
    sampler = restricted(space, np.arange(max(space.num_ops)) < np.array(space.num_ops)[:, None])
    tx = sgd(config.learning_rate, num_steps=config.num_steps, weight_decay=config.weight_decay)
    preprocess = make_preprocess(data.mean, data.std, crop=config.crop, flip=config.flip)
    loss_fn = make_cross_entropy_loss(supernet, preprocess=preprocess)
    step = make_train_step(supernet, loss_fn, sampler, tx, idle="rest")
    images = standardise(jnp.asarray(data.valid_images), data.mean, data.std)
    labels = jnp.asarray(data.valid_labels)

    @jax.jit
    def score(params, arch, images, labels):
        logits, _ = supernet.apply(params, arch, images, groups=None)
        return cross_entropy(logits, labels).mean(), logits.argmax(axis=-1)

    @functools.cache  # the trainings of a seed see the same batches, and `batches` compiles
    def batches_of(seed: int) -> Callable[[int], dict]:
        _, key = jax.random.split(jax.random.key(seed))
        return batches(key, data.train_images, data.train_labels, config.batch_size)

    def train(planned: Planned) -> Table:
        init_key, _ = jax.random.split(jax.random.key(planned.seed))
        state = init_train_state(supernet, sampler, tx, init_key)
        batch_at = batches_of(planned.seed)
        for number, allowed in enumerate(planned.intervals, start=1):
            state = state._replace(sampler_state=jnp.asarray(allowed))
            end = round(config.num_steps * number / len(planned.intervals))
            state = fit(step, state, batch_at, end, report_at=lambda steps: steps % 100 == 0)
        scored = [jax.device_get(score(state.params, jnp.asarray(arch), images, labels)) for arch in planned.archs]
        predictions = np.stack([classes for _, classes in scored])
        columns = {
            "loss": np.array([loss for loss, _ in scored], np.float64),
            "accuracy": (predictions == data.valid_labels).mean(axis=1),
            "predictions": predictions.astype(np.int32),
        }
        return tables.make_table(space, planned.archs, columns, units=UNITS, provenance={"training": planned.name})

    return train


class Scored(NamedTuple):
    """Of each training (super-nets, or all probes alone from one seed) and probe."""

    loss: np.ndarray  # float64 [num_seeds, num_probes]
    accuracy: np.ndarray  # float64 [num_seeds, num_probes]
    predictions: np.ndarray  # int32 [num_seeds, num_probes, num_images]


def stacked(results: Mapping[str, Table], names: list[list[str]]) -> Scored:
    """The tables called `names[seed]`, one after the other."""

    def column(name: str) -> np.ndarray:
        return np.stack([np.concatenate([results[key].columns[name] for key in of_seed]) for of_seed in names])

    return Scored(column("loss"), column("accuracy"), column("predictions"))


def compare(shared: Scored, alone: Scored) -> dict[str, float]:
    """Each figure with its interval."""
    alone_loss = alone.loss.mean(axis=0)
    agreement = (shared.predictions[:, None] == alone.predictions[None]).mean(axis=(1, 3))
    statistics: dict[str, tuple[Callable[..., float], np.ndarray]] = {
        "gap": (lambda loss, alone_loss: float((loss - alone_loss).mean()), shared.loss),
        "agreement": (lambda agreement, _: float(agreement.mean()), agreement),
        "tau": (ranking.kendall_tau, shared.loss),
    }
    figures: dict[str, float] = {}
    for name, (statistic, values) in statistics.items():
        figures |= ranking.estimate(statistic, values, alone_loss).named(name)
    return figures


def between_alone(alone: Scored) -> dict[str, float]:
    """What trainings of a probe alone have in common: the best that shared weights could be expected to reach."""
    pairs = list(itertools.combinations(range(len(alone.loss)), 2))
    agreement = np.mean([(alone.predictions[first] == alone.predictions[second]).mean() for first, second in pairs])
    taus = [
        ranking.kendall_tau(loss, np.delete(alone.loss, seed, axis=0).mean(axis=0))
        for seed, loss in enumerate(alone.loss)
    ]
    return {"agreement_alone": float(agreement), "tau_alone": float(np.mean(taus))}


def draw(config: Config, workdir: Path, task: str, rows: list[dict[str, Any]], references: Mapping[str, float]) -> None:
    """fading.png: a panel a figure, over the number of architectures that share weights."""

    def column(chosen: list[dict[str, Any]], name: str) -> list[float]:
        return [row[name] for row in chosen]

    panels = {
        of_panel: plotting.Panel(
            {
                label: (column(chosen, name), column(chosen, f"{name}_low"), column(chosen, f"{name}_high"))
                for label, chosen in (("fixed space", rows[:-1]), ("shrinking to the probes", rows[-1:]))
            },
            {"own, two seeds": references[f"{name}_alone"]} if f"{name}_alone" in references else {"own": 0.0},
        )
        for name, of_panel in COLUMNS.items()
    }
    sizes = {"fixed space": [row["num_archs"] for row in rows[:-1]], "shrinking to the probes": [rows[-1]["num_archs"]]}
    title = f"Posterior fading, {task}: {2**config.num_open} probes, {config.num_seeds} super-nets of each size\n"
    title += "bars: 95 % intervals over super-nets and probes"
    figure = plotting.panels_over_size(
        sizes, panels, title=title, size_label="architectures that share weights at first"
    )
    plotting.save_figure(figure, workdir / "fading.png")


if __name__ == "__main__":
    main(f"{__package__}.posterior_fading", __doc__, run, PRESETS)
