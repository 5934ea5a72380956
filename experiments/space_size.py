"""How well a super-net ranks as its space grows: NAS-Bench-101 with at most 4, 5, 6 and 7 vertices.

"Evaluating the Search Phase of NAS" (Yu et al., ICLR 2020, arXiv 1902.08142) found Kendall's tau to fall with the size
of the space: 0.441, 0.314, 0.214, 0.195 (there against the published accuracies, with tracked batch norm statistics).
Sizes are nested as there: "at most n vertices", so that nearly all cells of a size have n. Of each size `num_archs`
distinct cells are drawn uniformly; two kinds of truth stand beside each other:

- `tau_4` ... `tau_7`: these cells trained alone, `num_alone_seeds` times each, as by `build_table`; their accuracy on
  the second half of the held-out images. `seed_tau_N` is the tau of one training seed with another, which bounds tau
  roughly, `macs_tau_N` that of counting multiply-accumulates.
- `tau_published_cells`: published validation accuracies of 500 random wirings of 7 vertices (one of three trainings
  each, nb101_subset_naslib500.npz in DIR), by the super-nets of 7 vertices; only of CIFAR-10, and where the file is
  there. The 500 are 292 distinct cells, whose accuracies are averaged; so for `macs_tau_published_cells`, which on all
  500 is 0.515.

Super-nets train on one path a step, a cell drawn uniformly among the distinct ones, for as many steps in each size, and
rank by their loss on the first half of the held-out images, batch norm by the images at hand. Intervals are over
super-nets and cells; that of `tau_falls`, tau_4 less tau_7 (the smallest size less the largest), is over super-nets,
paired by seed, for these cells. Both kinds of network run as one program a size that takes the code as data
(`jaxnas.supernets.masked`), a network alone with weights of its own.

    jaxnas space_size quick --workdir runs/sizes-digits
    jaxnas space_size cpu --data-dir DIR --workdir runs/sizes
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import jax
import numpy as np
from tqdm import tqdm

from jaxnas import costs, plotting, ranking, runs, tables
from jaxnas.checks import Count, Pair, Positive, Whole
from jaxnas.datasets import Dataset
from jaxnas.evaluation import replicated
from jaxnas.runs import sealed
from jaxnas.runs.command import main
from jaxnas.samplers import replay, replayed
from jaxnas.spaces import enumerate_cells, nasbench101_space
from jaxnas.supernets import Supernet, masked
from jaxnas.training import Recipe, batches, init_train_state, make_standalone

from .shared.config import SupernetConfig, settle
from .shared.problem import arch_rows, load_images, published_cells, resize
from .shared.supernet import TrainingSetup, build, make_score, make_setup, score_all, sharing_of
from .shared.telling import difference, hashes

PUBLISHED_TAU = {4: 0.441, 5: 0.314, 6: 0.214, 7: 0.195}  # by number of vertices
UNITS = {"test_accuracy": "fraction", "test_loss": "nats"}


@dataclasses.dataclass(frozen=True)
class Config(SupernetConfig):
    """The sizes, their super-nets, and the networks trained alone."""

    sizes: tuple[Annotated[int, Whole(4, 7)], ...] = (4, 5, 6, 7)  # vertices at most, rising
    num_archs: Pair = 60  # cells of each size; all where there are fewer
    num_seeds: Pair = 5  # super-nets of each size, from seeds seed, seed + 1, ...
    num_alone_seeds: Pair = 2  # trainings of each cell alone
    num_alone_epochs: Count = 10
    alone_learning_rate: Positive = 0.1
    alone_batch_size: Count = 64


DIGITS = runs.replace(
    Config(), space="nasbench101", width=8, cells_per_stage=1, image_size=8, num_train=400, num_valid=500,
    batch_size=32, alone_batch_size=32, images_per_call=250, archs_per_save=600, strategy="serial",
)  # fmt: skip
PRESETS = {
    "tiny": runs.replace(
        DIGITS, sizes=(4, 5), width=4, image_size=4, num_archs=4, num_seeds=2, num_alone_epochs=1, num_steps=4,
        num_train=64, num_valid=40, checkpoint_every=2, report_every=2, images_per_call=20,
    ),
    "quick": runs.replace(
        DIGITS, sizes=(4, 5), num_archs=12, num_seeds=2, num_steps=600, num_alone_epochs=6, checkpoint_every=200
    ),
    "cpu": runs.replace(
        DIGITS, dataset="cifar10", num_train=6_400, num_valid=4_000, num_archs=24, num_seeds=3, num_steps=2_000,
        batch_size=64, alone_batch_size=64, num_alone_epochs=3, crop=1, flip=True, num_eval_images=500,
        checkpoint_every=400, report_every=50,
    ),
}  # fmt: skip


class Size(NamedTuple):
    """One size of the space, and what was found out."""

    num_cells: int
    archs: np.ndarray  # int32 [num_archs, num_choices]
    truth: np.ndarray  # fractions [num_archs, num_alone_seeds]
    losses: np.ndarray  # nats [num_seeds, num_archs], under shared weights
    published_losses: np.ndarray  # of the published cells, nats [num_seeds, num_cells]; or [num_seeds, 0]
    accuracy: float  # of the super-nets' sub-networks, a mean
    alone_seconds: float  # of all trainings alone


def run(config: Config, workdir: Path, identity: str) -> Mapping[str, Any]:
    """Train alone and together, size by size; see the module's docstring. Files: a folder a size with its scores.csv
    and its table, sizes.csv, sizes.png."""
    config = settle(config)
    check(config)
    whole = load_images(config.problem, nasbench101_space())
    half = len(whole.valid_images) // 2
    data = whole._replace(valid_images=whole.valid_images[:half], valid_labels=whole.valid_labels[:half])
    alone_data = whole._replace(test_images=whole.valid_images[half:], test_labels=whole.valid_labels[half:])
    published = published_cells(config.problem, nasbench101_space()) if 7 in config.sizes else None

    sizes: dict[int, Size] = {}
    for vertices in config.sizes:
        known = published if vertices == 7 else None
        sizes[vertices] = one_size(config, vertices, data, alone_data, known, workdir / f"v{vertices}", identity)

    figures: dict[str, Any] = {
        "dataset": config.problem.dataset,
        "num_archs": config.num_archs,
        "num_seeds": config.num_seeds,
        "num_alone_seeds": config.num_alone_seeds,
        "bn_mode": config.scoring.bn_mode,
    }
    rows = []
    for vertices, size in sizes.items():
        row = figures_of(vertices, size)
        figures |= {f"{name}_{vertices}{end}": value for (name, end), value in row.items()}
        rows.append({"vertices": vertices} | {f"{name}{end}": value for (name, end), value in row.items()})
    if published is not None:
        scores = ranking.as_scores(sizes[7].published_losses)
        macs = costs.arch_costs(nasbench101_space(), published.archs).macs
        for name, of_cells in (("tau_published_cells", scores), ("macs_tau_published_cells", macs)):
            figures |= ranking.estimate(ranking.kendall_tau, of_cells, published.columns["test_accuracy"]).named(name)
    figures |= ranking.estimate_mean(taus(sizes[config.sizes[0]]) - taus(sizes[config.sizes[-1]])).named("tau_falls")
    runs.write_rows(workdir / "sizes.csv", rows)
    sentence = f"super-nets rank {{}} at {config.sizes[0]} vertices than at {config.sizes[-1]}, Kendall's tau"
    told = difference(figures, "tau_falls", sentence, "better", "worse")
    draw(config, workdir, told["verdict"], rows)
    return told | figures | hashes(whole)


def check(config: Config) -> None:
    """Raise a ValueError for what can't be done, before anything is trained."""
    if config.problem.space != "nasbench101":
        raise ValueError(f"space is {config.problem.space}, expected nasbench101, which has sizes by vertices.")
    if len(config.sizes) < 2 or list(config.sizes) != sorted(set(config.sizes)):
        raise ValueError(f"sizes are {config.sizes}, expected two or more different ones, the smallest first.")


def one_size(
    config: Config,
    vertices: int,
    data: Dataset,
    alone_data: Dataset,
    published: tables.Table | None,
    folder: Path,
    identity: str,
) -> Size:
    """Everything of one size, from its files or now."""
    cells = enumerate_cells(nasbench101_space(vertices))
    chosen = np.random.Generator(np.random.Philox((0, vertices))).permutation(len(cells))[: config.num_archs]
    archs = cells[np.sort(chosen)]
    space = resize(config.problem, nasbench101_space(vertices), data)
    supernet = masked(build(config.network, space))
    origin = {"run": identity, "vertices": vertices}
    truth, alone_seconds = trained_alone(config, supernet, archs, alone_data, folder, origin)

    extra = np.zeros((0, space.num_choices), np.int32) if published is None else published.archs
    scored = np.concatenate([archs, extra[[code.tolist() not in archs.tolist() for code in extra]]])
    row_of = {tuple(code): row for row, code in enumerate(scored.tolist())}
    sampler = replayed(space, num_archs=1, num_steps=int(config.training.num_steps or 0))
    setup = make_setup(config.training, supernet, data, sampler)
    score = make_score(config.scoring, supernet, data, mesh=config.training.mesh, progress=config.problem.progress)
    columns = []
    for seed in range(config.problem.seed, config.problem.seed + config.num_seeds):
        of_seed, place = {**origin, "seed": seed}, folder / f"seed{seed}"
        state = trained_together(config, setup, cells, seed, place, of_seed)
        columns.append(score_all(config, state, scored, score, space, place, of_seed)[0])
    losses, accuracies = (np.stack([one[name] for one in columns]) for name in ("loss", "accuracy"))
    rows = {f"loss_{number}": row[: len(archs)] for number, row in enumerate(losses)}
    rows |= {f"test_accuracy_{number}": row for number, row in enumerate(truth.T)}
    rows["macs"] = costs.arch_costs(nasbench101_space(vertices), archs).macs
    runs.write_rows(folder / "scores.csv", arch_rows(space, archs, rows))
    of_published = losses[:, [row_of[tuple(code)] for code in extra.tolist()]]
    accuracy = float(accuracies[:, : len(archs)].mean())
    return Size(len(cells), archs, truth, losses[:, : len(archs)], of_published, accuracy, alone_seconds)


def trained_alone(
    config: Config, supernet: Supernet, archs: np.ndarray, data: Dataset, folder: Path, origin: sealed.Origin
) -> tuple[np.ndarray, float]:
    """Accuracies [num_archs, num_alone_seeds] of networks with weights of their own, and the seconds that they took."""
    space, training = supernet.space, config.training
    recipe = Recipe(
        num_epochs=config.num_alone_epochs,
        batch_size=config.alone_batch_size,
        learning_rate=config.alone_learning_rate,
        weight_decay=training.weight_decay,
        crop=training.crop,
        flip=training.flip,
    )
    train = make_standalone(supernet, recipe, mean=data.mean, std=data.std, compiled="step")
    keys = jax.random.split(jax.random.fold_in(jax.random.key(config.problem.seed), 1), config.num_alone_seeds)

    def compute(block: np.ndarray, bar: tqdm) -> tables.Table:
        found = train(block, keys, data.train_images, data.train_labels, data.test_images, data.test_labels)
        bar.update(len(block))
        columns = {"test_accuracy": found.accuracy, "test_loss": found.loss}
        return tables.make_table(space, block, columns, units=UNITS, provenance={})

    columns, seconds = runs.in_blocks(
        compute, archs, folder / "alone", space, size=4, origin=origin, label=f"{space.name}, alone",
        progress=config.problem.progress,
    )  # fmt: skip
    about = {"source": f"python -m {__package__}.space_size", "epochs": str(config.num_alone_epochs)}
    table = tables.make_table(space, archs, columns, units=UNITS, provenance=about)
    tables.write_table(folder / f"{space.name}_{config.problem.dataset.replace('/', '-')}.npz", table)
    return columns["test_accuracy"], seconds


def trained_together(
    config: Config, setup: TrainingSetup, cells: np.ndarray, seed: int, folder: Path, origin: sealed.Origin
) -> Any:
    """The state of a super-net after its training on cells drawn uniformly, one a step."""
    training, data, space = config.training, setup.data, setup.supernet.space
    assert training.num_steps is not None
    init_key, batch_key = jax.random.split(jax.random.key(seed))
    drawn = np.random.Generator(np.random.Philox((seed, 1))).integers(0, len(cells), training.num_steps)
    state = init_train_state(setup.supernet, setup.sampler, setup.tx, init_key)
    mesh = sharing_of(training).mesh
    return runs.resumable(
        setup.step,
        replicated(mesh, state._replace(sampler_state=replay(cells[drawn], num_archs=1))),
        batches(batch_key, data.train_images, data.train_labels, training.batch_size, mesh=mesh),
        training.num_steps,
        folder,
        fingerprint=space.fingerprint,
        origin=origin,
        checkpoint_every=training.checkpoint_every,
        report_every=training.report_every,
        keep=1,
        label=f"{space.name}, seed {seed}",
        progress=config.problem.progress,
    ).state


def taus(size: Size) -> np.ndarray:
    """Kendall's tau of each super-net, [num_seeds]."""
    mean = size.truth.mean(axis=1)
    return np.array([ranking.kendall_tau(row, mean) for row in ranking.as_scores(size.losses)])


def figures_of(vertices: int, size: Size) -> dict[tuple[str, str], float]:
    """The figures of a size by (name, end of the name)."""
    mean = size.truth.mean(axis=1)
    macs = costs.arch_costs(nasbench101_space(vertices), size.archs).macs
    figures: dict[tuple[str, str], float] = {}
    for name, scores in (("tau", ranking.as_scores(size.losses)), ("macs_tau", macs)):
        value, low, high = ranking.estimate(ranking.kendall_tau, scores, mean)
        figures |= {(name, ""): value, (name, "_low"): low, (name, "_high"): high}
    return figures | {
        ("num_cells", ""): size.num_cells,
        ("seed_tau", ""): ranking.seed_kendall_tau(size.truth),
        ("published_tau", ""): PUBLISHED_TAU[vertices],
        ("alone_accuracy", ""): float(mean.mean()),
        ("supernet_accuracy", ""): size.accuracy,
        ("network", "_seconds"): size.alone_seconds / size.truth.size,
    }


def draw(config: Config, workdir: Path, verdict: str, rows: list[dict[str, Any]]) -> None:
    """sizes.png: tau over the number of cells."""

    def column(name: str, low: str = "", high: str = "") -> tuple[list[float], list[float], list[float]]:
        return tuple([row[name + end] for row in rows] for end in ("", low, high))  # type: ignore[return-value]

    series = {
        "super-nets": column("tau", "_low", "_high"),
        "published": column("published_tau"),
        "own seeds": column("seed_tau"),
        "MACs only": column("macs_tau", "_low", "_high"),
    }
    numbers = [row["num_cells"] for row in rows]
    title = f"Ranking as NAS-Bench-101 grows, cells of at most {', '.join(map(str, config.sizes))} vertices,"
    title += f" {config.problem.dataset}\n{plotting.counted(config.num_seeds, 'super-net')} of each size,"
    title += f" {plotting.counted(config.num_archs, 'cell')}; bars: 95 % intervals over both\n{verdict}"
    panel = plotting.Panel(series, {})
    figure = plotting.panels_over_size(
        dict.fromkeys(series, numbers), {"Kendall's τ": panel}, title=title, size_label="distinct cells of the space"
    )
    plotting.save_figure(figure, workdir / "sizes.png")


if __name__ == "__main__":
    main(f"{__package__}.space_size", __doc__, run, PRESETS)
