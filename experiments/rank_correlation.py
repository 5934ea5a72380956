"""How well a super-net ranks its sub-networks: train it, score them in vectorised calls, compare with the truth.

Any space, any image set, any table: the validation images are held out of training, the truth is the table's
`test_accuracy`. The headline `kendall_tau` is that of the validation loss (lower is better), with a 95 % bootstrap
interval over architectures, and over super-nets too where num_seeds is at least 2; `ensemble_kendall_tau` is that of
the mean loss over super-nets. With num_snapshots an architecture's loss is its mean over so many moments of the
training, a measure of how fast it gets better (Ru et al., "Speedy Performance Estimation", arXiv 2006.04492), and
`last_snapshot_kendall_tau` is that of the last one. Accuracy's stands beside it, and beside all what they must beat:
counting FLOPs, and the agreement of the truth's own training seeds.

    D="--dataset cifar10 --data-dir DIR"
    python -m experiments.rank_correlation cpu --space nasbench_macro $D --workdir runs/macro
    python -m experiments.rank_correlation cpu --space nasbench201 $D --workdir runs/nb201

DIR holds the published tables, and the image sets in DIR/tfds. Minutes and figures are in experiments/README.md.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments import workdir as cli
from experiments.problem import (
    SupernetConfig,
    arch_rows,
    by_kind,
    check,
    evaluation_archs,
    load_problem,
    settle,
)
from experiments.supernet_run import build, make_recipe, make_score, score_all, score_blocks, train
from jaxnas import costs, plotting, ranking, tables
from jaxnas.spaces import get_space


@dataclasses.dataclass(frozen=True)
class Config(SupernetConfig):
    """A super-net run, how often it is repeated, and how its ranking is judged."""

    num_seeds: int = 1  # super-nets trained, from seeds seed, seed + 1, ...
    num_snapshots: int | None = 1  # equally spaced over the training; scores are their mean; None: 8 for cells, else 1
    num_resamples: int = 1000  # of the bootstrap
    top_k: int = 10


DIGITS = Config()
CIFAR = Config(
    space="nasbench_macro",
    dataset="cifar10",
    num_train=None,
    num_valid=5000,
    crop=2,
    flip=True,
    batch_size=64,
    weight_decay=5e-4,
    checkpoint_every=500,
    report_every=50,
    images_per_call=250,
    num_curve_archs=198,
)
PRESETS = {
    "tiny": dataclasses.replace(
        DIGITS, width=4, num_train=128, num_valid=100, num_steps=6, batch_size=16, report_every=2, checkpoint_every=3,
        num_eval_archs=27, archs_per_save=9, num_curve_points=2, num_curve_archs=9, num_resamples=50,
    ),
    "quick": dataclasses.replace(DIGITS, num_seeds=4),
    "cpu": dataclasses.replace(
        CIFAR, width=8, cells_per_stage=1, image_size="small", num_steps=None, learning_rate=None, num_eval_archs=6561,
        num_eval_images=500, num_snapshots=None, num_curve_points=8,
    ),
    # NAS-Bench-201 as in the scripts of nas-landmarkreg: 400 epochs on half of the training images, batch 256.
    "paper": dataclasses.replace(
        CIFAR, space="nasbench201", width=16, cells_per_stage=5, image_size=32, num_valid=25_000, batch_size=256,
        num_steps=400 * (25_000 // 256), learning_rate=0.025, final_learning_rate=0.001, crop=4, sampler="uniform",
        num_archs=1, idle="rest", num_eval_images=10_000, images_per_call=256, checkpoint_every=2000,
    ),
}  # fmt: skip


def run(config: Config, workdir: Path) -> Mapping[str, Any]:
    """Train, score, compare; see the module's docstring. Files: one folder a seed, scores.csv, pictures."""
    config = settle(config)
    if config.num_snapshots is None:
        num_snapshots = by_kind(get_space(config.space), cells=8, others=1)
        config = dataclasses.replace(config, num_snapshots=num_snapshots)
    check(config)
    for name in ("num_seeds", "num_snapshots"):
        if getattr(config, name) < 1:
            raise ValueError(f"{name} must be at least 1, got {getattr(config, name)}.")
    published, space, data, truth = load_problem(config)
    archs = evaluation_archs(config, space)
    mean_test = ranking.mean_truth(tables.lookup(truth, archs, "test_accuracy"))
    macs = costs.arch_costs(published, archs).macs
    # FLOPs in place of scores: figures that cannot be had of this table or config end the run before the training.
    once = dataclasses.replace(config, num_resamples=min(config.num_resamples, 1))
    ranking_report(once, macs, macs, truth, archs, macs)

    compile_seconds = compile_clock()
    supernet = build(config, space)
    score = make_score(config, supernet, data)
    recipe = make_recipe(config, supernet, data)
    losses, accuracies, last, curves = [], [], [], []
    seconds = {"train_seconds": 0.0, "evaluate_seconds": 0.0}
    for number in range(config.num_seeds):
        folder = workdir / f"seed{config.seed + number}"
        own = dataclasses.replace(config, seed=config.seed + number)
        loss, accuracy = [], []
        for step in snapshot_steps(config):
            place = folder / f"step{step}" if config.num_snapshots != 1 else folder
            place.mkdir(parents=True, exist_ok=True)
            state = None  # of a snapshot with all its scores, the weights may be gone
            if step == config.num_steps or not all(path.exists() for path in score_blocks(own, archs, place)):
                trained = train(own, supernet, data, score, folder, recipe=recipe, until=step)
                state = trained.state
            snapshot, evaluate_seconds = score_all(own, state, archs, score, space, place)
            loss.append(snapshot["loss"])
            accuracy.append(snapshot["accuracy"])
            seconds["evaluate_seconds"] += evaluate_seconds
        losses.append(np.mean(loss, axis=0))
        accuracies.append(np.mean(accuracy, axis=0))
        last.append(loss[-1])
        curves.append(trained)
        seconds["train_seconds"] += trained.curve[-1]["seconds"]

    report = ranking_report(config, -np.stack(losses), np.stack(accuracies), truth, archs, macs)
    num_images = config.num_eval_images or len(data.valid_images)
    num_scored = config.num_seeds * len(snapshot_steps(config)) * len(archs)
    given = {"loss": losses, "accuracy": accuracies}
    columns = {f"{name}_{seed}": row for name, rows in given.items() for seed, row in enumerate(rows)}
    columns |= {"test_accuracy": mean_test, "macs": macs}
    cli.write_rows(workdir / "scores.csv", arch_rows(space, archs, columns))
    draw(config, workdir, -np.stack(losses), mean_test, macs, report, curves, -last[0], truth)
    return {
        "space": space.name,
        "dataset": config.dataset,
        "truth": f"stand-alone test accuracy, {truth.provenance.get('source', 'see the table')}",
        "num_images": num_images,
        "bn_mode": config.bn_mode + (f" ({config.num_calibration_images})" if config.bn_mode == "calibrated" else ""),
        "num_snapshots": config.num_snapshots,
        **report.figures(),
        "kendall_tau_loss": report.kendall_tau.value,
        "last_snapshot_kendall_tau": float(np.mean([ranking.kendall_tau(-row, mean_test) for row in last])),
        "supernet_accuracy": float(np.mean(accuracies)),
        "final_train_loss": curves[0].curve[-1]["loss"],
        "evaluate_image_archs_per_s": num_scored * num_images / seconds["evaluate_seconds"],
        **seconds,
        "compile_seconds": compile_seconds(),
    }


def snapshot_steps(config: Config) -> list[int]:
    """The steps after which a super-net is scored, the last one at the end of training."""
    assert config.num_steps is not None and config.num_snapshots is not None
    number = min(config.num_snapshots, config.num_steps)
    return [round(config.num_steps * (n + 1) / number) for n in range(number)]


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
        top_k=config.top_k,
        num_resamples=config.num_resamples,
    )


def draw(config: Config, workdir: Path, scores, test, macs, report, curves, last, truth) -> None:
    """scatter.png (the mean score over super-nets and snapshots), training.png, tau_over_training.png (of the first
    super-net, up to its `last` scores)."""
    name, several = f"{config.space} on {config.dataset}", len(scores) > 1
    is_mean = several or config.num_snapshots != 1
    figure = plotting.rank_scatter(
        scores.mean(axis=0),
        test,
        title=f"{name}, {len(scores)} super-nets together" if several else name,
        score_label=f"{'mean ' if is_mean else ''}super-net score (minus validation loss, nats)",
        truth_label="stand-alone test accuracy",
        macs=macs,
        tau=report.ensemble_kendall_tau,
    )
    plotting.save_figure(figure, workdir / "scatter.png")
    rows = curves[0].curve
    columns = {"loss (nats)": [row["loss"] for row in rows], "accuracy (fraction)": [row["accuracy"] for row in rows]}
    figure = plotting.training_curve([row["step"] for row in rows], columns, title=f"Super-net training, {name}")
    plotting.save_figure(figure, workdir / "training.png")

    def tau(scores, truth) -> ranking.Estimate:
        return ranking.estimate(ranking.kendall_tau, scores, truth, num_resamples=config.num_resamples)

    points = []
    for steps, table in curves[0].scored:
        alone = ranking.mean_truth(tables.lookup(truth, table.archs, "test_accuracy"))
        points.append((steps, *tau(-table.columns["loss"], alone)))
    points.append((config.num_steps, *tau(last, test)))
    references = {"FLOPs only": report.flops_kendall_tau.value}
    if report.seed_kendall_tau is not None:
        references["between training seeds of the truth"] = report.seed_kendall_tau
    figure = plotting.tau_over_training(*zip(*points), title=f"Ranking over training, {name}", references=references)
    plotting.save_figure(figure, workdir / "tau_over_training.png")


def compile_clock():
    """Start counting the seconds that JAX spends tracing and compiling; the returned function tells them."""
    total = [0.0]

    def add(event: str, duration: float, **_) -> None:
        if event.startswith("/jax/core/compile/"):
            total[0] += duration

    jax.monitoring.register_event_duration_secs_listener(add)
    return lambda: total[0]


if __name__ == "__main__":
    cli.main("rank_correlation", run, PRESETS)
