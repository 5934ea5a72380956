"""How well a super-net ranks its sub-networks: train it, score them in vectorised calls, compare with the truth.

Any space, any image set, any table: the validation images are held out of training, the truth is the table's
`test_accuracy`. The headline `kendall_tau` is that of the validation loss (lower is better), with a 95 %
interval over architectures, and over super-nets too where num_seeds is at least 2; `ensemble_kendall_tau` is that of
the mean loss over super-nets. With num_snapshots an architecture's loss is its mean over so many moments of the
training, a measure of how fast it gets better (Ru et al., "Speedy Performance Estimation", arXiv 2006.04492), and
`last_snapshot_kendall_tau` is that of the last one. Accuracy's stands beside it, and beside all what they must beat:
counting MACs, and the agreement of the truth's own training seeds. `rankers` stand in one table with it, which is
printed and kept in rankers.csv: costs, zero-cost proxies on the first super-net's fresh weights (NAME_trained: on the
last ones), and the mean of their ranks.

    D="--dataset cifar10 --data-dir DIR"
    jaxnas rank_correlation cpu --space nasbench_macro $D --workdir runs/macro
    jaxnas rank_correlation cpu --space nasbench201 $D --workdir runs/nb201

DIR holds the published tables, and the image sets in DIR/tfds. Minutes and figures are on the page Experiments of the
documentation.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np

from jaxnas import costs, ranking, runs, tables
from jaxnas.checks import Count, OneOf, Seeds, Whole, whole
from jaxnas.runs.command import main
from jaxnas.spaces import get_space
from jaxnas.supernets import Params, Supernet

from .shared.config import CIFAR, LANDMARKREG, RankedConfig, by_kind, settle
from .shared.curve import Tell, read_curve
from .shared.pictures import draw_curve, draw_scatter, draw_so_far, draw_training
from .shared.problem import Problem, arch_rows, evaluation_archs, load_problem
from .shared.rankers import COSTS, RANKERS, beside, print_table
from .shared.side_by_side import Home, of_one, together, train_together
from .shared.supernet import (
    Score,
    TrainingSetup,
    build,
    make_score,
    make_setup,
    score_all,
    train_up_to,
)
from .shared.telling import Known, draw_network, hashes, write_found


@dataclasses.dataclass(frozen=True)
class Config(RankedConfig):
    """A super-net run, how often it is repeated, and how its ranking is judged."""

    num_seeds: Seeds = 1  # super-nets trained, from seeds seed, seed + 1, ...
    # of them train side by side in one program, to the same weights but for rounding: for an accelerator that one
    # leaves idle; on CPU it only takes longer
    seeds_per_call: Seeds = 1
    # equally spaced over the training; scores are their mean; None: 8 for cells, else 1
    num_snapshots: Annotated[int, Whole(1, 1000)] | None = 1
    top_k: Count = 10  # of precision and regret; at most as many as are ranked
    rankers: tuple[Annotated[str, OneOf(RANKERS)], ...] = COSTS  # beside the super-net in rankers.csv

    def check(self) -> None:
        """Raise a ValueError for settings that contradict each other."""
        super().check()
        if self.seeds_per_call > 1 and self.training.mesh is not None:
            raise ValueError(
                f"seeds_per_call is {self.seeds_per_call}, expected 1 on a mesh, whose devices share each super-net."
            )


DIGITS = Config()
PRESETS = {
    "tiny": runs.replace(
        DIGITS, width=4, num_train=128, num_valid=100, num_steps=6, batch_size=16, report_every=2, checkpoint_every=3,
        num_eval_archs=27, archs_per_save=9, num_curve_points=2, num_curve_archs=9,
    ),
    "quick": runs.replace(DIGITS, num_seeds=4),
    "cpu": runs.replace(
        runs.replace(DIGITS, **CIFAR), width="small", cells_per_stage=1, image_size="small",
        num_steps=None, learning_rate=None, num_eval_archs=6561, num_eval_images=500, num_snapshots=None,
        num_curve_points=8,
    ),
    "paper": runs.replace(DIGITS, **LANDMARKREG, num_archs=1),
}  # fmt: skip


class Scored(NamedTuple):
    """One super-net: the rows of its training.csv, and the scores of all architectures at each snapshot."""

    rows: list[dict[str, float]]
    losses: np.ndarray  # nats, [num_snapshots, num_archs]
    accuracies: np.ndarray  # fractions, [num_snapshots, num_archs]
    evaluate_seconds: float
    params: Params  # at the end


def run(config: Config, workdir: Path, identity: str) -> Mapping[str, Any]:
    """Train, score, compare; see the module's docstring. Files: one folder a seed, scores.csv, what the
    first super-net ranks highest (found.json and its like), pictures."""
    config = settle(config)
    if config.num_snapshots is None:
        num_snapshots = by_kind(get_space(config.problem.space), cells=8, others=1)
        config = runs.replace(config, num_snapshots=num_snapshots)
    problem = load_problem(config.problem, part=True)
    published, space, data, truth = problem
    archs = evaluation_archs(space, config.scoring.num_eval_archs, truth, half=config.scoring.half)
    mean_test = ranking.mean_truth(tables.lookup(truth, archs, "test_accuracy"))
    macs = costs.arch_costs(published, archs).macs
    # MACs in place of scores: figures that cannot be had of this table or config end the run before the training.
    ranking_report(config, macs, macs, truth, archs, macs)

    compile_seconds = runs.compile_clock()
    supernet = build(config.network, space)
    score = make_score(config.scoring, supernet, data, mesh=config.training.mesh, progress=config.problem.progress)
    setup = make_setup(config.training, supernet, data, config.sampling)
    seeds = range(config.problem.seed, config.problem.seed + config.num_seeds)
    origins = {seed: {"run": identity, "seed": seed} for seed in seeds}
    name = f"{space.name} on {config.problem.dataset}"
    so_far = functools.partial(draw_so_far, workdir, config.training.num_steps, name, published, truth)
    homes = [Home(seed, workdir / f"seed{seed}", origins[seed]) for seed in seeds]
    scored = [
        one
        for first in range(0, len(homes), config.seeds_per_call)
        for one in train_and_score(
            config, setup, score, archs, homes[first : first + config.seeds_per_call], None if first else so_far
        )
    ]

    losses = np.stack([one.losses.mean(axis=0) for one in scored])
    accuracies = ranking.as_scores(losses, np.stack([one.accuracies.mean(axis=0) for one in scored]))
    scores, last = ranking.as_scores(losses), ranking.as_scores(np.stack([one.losses[-1] for one in scored]))
    report = ranking_report(config, scores, accuracies, truth, archs, macs)
    columns = {f"loss_{number}": row for number, row in enumerate(losses)}
    columns |= {f"accuracy_{number}": row for number, row in enumerate(accuracies)}
    columns |= {"test_accuracy": mean_test, "macs": macs}
    runs.write_rows(workdir / "scores.csv", arch_rows(space, archs, columns))
    draw_scatter(workdir, name, scores, mean_test, macs, report, len(snapshot_steps(config)))
    curves = [dict(read_curve(config, workdir / f"seed{seed}", space, archs, origins[seed])) for seed in seeds]
    draw_training(workdir, name, [one.rows for one in scored])
    draw_curve(workdir, config.training.num_steps, name, curves, last, mean_test, report, truth)
    scoring = config.scoring
    num_images = scoring.num_eval_images or len(data.valid_images)
    steps = config.num_seeds * (config.training.num_steps or 0)
    passes = config.num_seeds * len(snapshot_steps(config)) * num_images
    seed, place = config.problem.seed, workdir / f"seed{config.problem.seed}"
    rankers = [
        *beside(config, config.rankers, published, setup, scored[0].params, archs, place, seed, origins[seed]),
        ranking.scored("supernet", archs, scores.mean(axis=0), steps=steps, passes=passes),
    ]
    num_calibration = f" ({scoring.num_calibration_images})" if scoring.bn_mode == "calibrated" else ""
    evaluate_seconds = sum(one.evaluate_seconds for one in scored)
    num_scored = config.num_seeds * len(snapshot_steps(config)) * len(archs)
    over_macs = report.kendall_tau_minus_macs
    assert over_macs is not None
    return {
        "verdict": f"ranks with a Kendall's tau of {report.kendall_tau.text(digits=3)},"
        f" {over_macs.verdict('{} than counting MACs', 'better', 'worse', digits=3)}",
        "headline": "kendall_tau",
        "space": space.name,
        "dataset": config.problem.dataset,
        "truth": f"stand-alone test accuracy, {truth.provenance.get('source', 'see the table')}",
        "num_images": num_images,
        "bn_mode": scoring.bn_mode + num_calibration,
        "num_snapshots": config.num_snapshots,
        **report.figures(),
        **print_table(rankers, archs, mean_test, workdir / "rankers.csv"),
        **name_best(workdir, problem, supernet, scored[0].params, archs, scores[0], mean_test),
        "last_snapshot_kendall_tau": float(np.mean([ranking.kendall_tau(row, mean_test) for row in last])),
        "supernet_accuracy": float(np.mean(accuracies)),
        "final_train_loss": scored[0].rows[-1]["loss"],
        "evaluate_image_archs_per_s": num_scored * num_images / evaluate_seconds,
        "train_seconds": sum(one.rows[-1]["seconds"] for one in scored),
        "evaluate_seconds": evaluate_seconds,
        "compile_seconds": compile_seconds(),
        **hashes(data, truth),
    }


def name_best(
    workdir: Path,
    problem: Problem,
    supernet: Supernet,
    params: Params,
    archs: np.ndarray,
    scores: np.ndarray,
    test: np.ndarray,
) -> dict[str, Any]:
    """The architecture that a super-net scores highest, with files and a picture, the next two in words; a picture of
    the one that it scores lowest, worst.png."""
    order = np.argsort(-scores, kind="stable")

    def known(row: int) -> Known:
        return Known(float(test[row]), 1 + int((test > test[row]).sum()), len(archs))

    best, *next_best = order[:3]
    others = [(archs[row], known(row)) for row in next_best]
    worst = archs[order[-1]]
    draw_network(workdir / "worst.png", problem.published, worst, "scored lowest", known(order[-1]))
    weights = (supernet, params)
    return write_found(workdir, problem.published, archs[best], known(best), weights=weights, others=others)


def train_and_score(
    config: Config, setup: TrainingSetup, score: Score, archs: np.ndarray, homes: Sequence[Home], tell: Tell | None
) -> list[Scored]:
    """Super-nets that train together, one alone in its own folder; their snapshots are scored as the training comes by.
    Where scores of one were deleted and the training has gone on, it is trained once more up to there, in the
    snapshot's own folder. `tell` is for the first one's curve."""
    space, common, size = setup.supernet.space, together(homes), config.scoring.archs_per_save
    train = functools.partial(train_together, config, setup, score, homes)
    parts: list[list[Mapping[str, np.ndarray]]] = [[] for _ in homes]
    seconds = np.zeros(len(homes))
    for step in snapshot_steps(config):
        within = f"step{step}" if config.num_snapshots != 1 else "."
        trained = None  # of a snapshot with all its scores, the weights may be gone
        blocks = [path for home in homes for path in runs.block_paths(home.folder / within, len(archs), size=size)]
        if step == config.training.num_steps or not all(path.exists() for path in blocks):
            place = common.folder / within
            trained = train_up_to(
                train, space, step, common.folder, place, origin=common.origin, archs=archs, tell=tell
            )
        for number, (_, folder, origin) in enumerate(homes):
            state = None if trained is None else of_one(trained, number, homes).state
            columns, spent = score_all(config, state, archs, score, space, folder / within, {**origin, "step": step})
            parts[number].append(columns)
            seconds[number] += spent
    assert trained is not None  # the last snapshot is the end
    found = []
    for number, (of_steps, spent) in enumerate(zip(parts, seconds, strict=True)):
        losses, accuracies = (np.stack([part[name] for part in of_steps]) for name in ("loss", "accuracy"))
        state, rows = of_one(trained, number, homes)
        found.append(Scored(rows, losses, accuracies, float(spent), state.params))
    return found


def snapshot_steps(config: Config) -> list[int]:
    """The steps after which a super-net is scored, the last one at the end of training."""
    num_steps = config.training.num_steps
    assert num_steps is not None and config.num_snapshots is not None
    number = min(config.num_snapshots, num_steps)
    return [round(num_steps * (n + 1) / number) for n in range(number)]


def ranking_report(config: Config, scores, accuracies, truth, archs: np.ndarray, macs: np.ndarray) -> ranking.Report:
    """Super-net scores and accuracies [num_seeds, num_archs] against the table's test accuracy."""
    test = tables.lookup(truth, archs, "test_accuracy")
    seeds = choose_by = None
    if test.ndim == 1 and "valid_accuracy_seeds" in truth.columns:
        seeds = tables.lookup(truth, archs, "valid_accuracy_seeds")[:, :2]
        choose_by = tables.lookup(truth, archs, "valid_accuracy")
    return ranking.report(
        scores,
        test,
        accuracies=accuracies,
        macs=macs,
        truth_seeds=seeds,
        choose_by=choose_by,
        top_k=whole("top_k", config.top_k, 1, len(archs)),
    )


if __name__ == "__main__":
    main(f"{__package__}.rank_correlation", __doc__, run, PRESETS)
