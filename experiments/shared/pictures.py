"""Pictures of how super-nets rank: on the way, in the end, and over the training."""

from pathlib import Path

import numpy as np
from tqdm import tqdm

from jaxnas import costs, plotting, ranking, tables
from jaxnas.evaluation import Scores
from jaxnas.space import SearchSpace


def draw_scatter(
    workdir: Path,
    name: str,
    scores: np.ndarray,
    test: np.ndarray,
    macs: np.ndarray,
    report: ranking.Report,
    moments: int,
) -> None:
    """scatter.png: the mean score over super-nets and moments of the training, against stand-alone accuracy."""
    mean = "mean " if len(scores) > 1 or moments > 1 else ""
    which = plotting.counted(len(scores), "super-net")
    if moments > 1:
        which += f" at {moments} moments of {'its' if len(scores) == 1 else 'their'} training"
    figure = plotting.rank_scatter(
        scores.mean(axis=0),
        test,
        title=f"{name}, {mean and 'mean score of '}{which}",
        score_label=f"{mean}super-net score (minus validation loss, nats)",
        truth_label="stand-alone test accuracy",
        macs=macs,
        tau=report.kendall_tau,
        num_supernets=len(scores),
    )
    plotting.save_figure(figure, workdir / "scatter.png")


def draw_so_far(
    workdir: Path,
    num_steps: int | None,
    name: str,
    published: SearchSpace,
    truth: tables.Table,
    steps: int,
    archs: np.ndarray,
    scores: Scores,
) -> None:
    """scatter.png on the way, which the final one replaces: how the first super-net ranks by then."""
    minus_loss, test = ranking.as_scores(scores.loss), ranking.mean_truth(tables.lookup(truth, archs, "test_accuracy"))
    figure = plotting.rank_scatter(
        minus_loss,
        test,
        title=f"{name}, half-trained: {steps} of {num_steps} steps",
        score_label="super-net score (minus validation loss, nats)",
        truth_label="stand-alone test accuracy",
        macs=costs.arch_costs(published, archs).macs,
        tau=ranking.estimate(ranking.kendall_tau, minus_loss, test),
    )
    plotting.save_figure(figure, workdir / "scatter.png")
    tqdm.write(f"after {steps} steps: {workdir / 'scatter.png'} shows how the first super-net ranks so far")


def draw_training(workdir: Path, name: str, rows: list[list[dict[str, float]]]) -> None:
    """training.png: what the training.csv of each super-net says."""
    steps = sorted({row["step"] for of_one in rows for row in of_one})
    columns = {
        label: [[{row["step"]: row[column] for row in of_one}.get(step, np.nan) for step in steps] for of_one in rows]
        for label, column in (("training loss (nats)", "loss"), ("training accuracy\n(fraction)", "accuracy"))
    }
    title = f"Training of {plotting.counted(len(rows), 'super-net')}, {name}"
    plotting.save_figure(plotting.training_curve(steps, columns, title=title), workdir / "training.png")


def draw_curve(
    workdir: Path,
    num_steps: int | None,
    name: str,
    curves: list[dict[int, tables.Table]],
    last: np.ndarray,
    test: np.ndarray,
    report: ranking.Report,
    truth: tables.Table,
) -> None:
    """tau_over_training.png: of all super-nets, from each one's {step: scores} up to the `last` scores, which are
    [num_seeds, num_archs]."""
    assert report.macs_kendall_tau is not None and num_steps is not None
    scored: dict[int, tuple[np.ndarray, np.ndarray]] = {}  # step -> scores [num_seeds, num_archs], truth [num_archs]
    for step, first in curves[0].items():
        if all(step in curve for curve in curves):
            alone = ranking.mean_truth(tables.lookup(truth, first.archs, "test_accuracy"))
            scored[step] = (ranking.as_scores(np.stack([curve[step].columns["loss"] for curve in curves])), alone)
    few = f"\nbefore the last point {len(alone):,} of them" if scored and len(alone) < len(test) else ""
    scored[num_steps] = (last, test)
    points = [(step, *ranking.estimate(ranking.kendall_tau, scores, alone)) for step, (scores, alone) in scored.items()]
    references = {"MACs only": report.macs_kendall_tau.value}
    if report.kendall_tau_between_truth_seeds is not None:
        references["between training seeds of the truth"] = report.kendall_tau_between_truth_seeds
    figure = plotting.tau_over_training(
        *zip(*points),
        each=np.transpose([[ranking.kendall_tau(row, alone) for row in rows] for rows, alone in scored.values()]),
        title=f"Ranking over training, {name}, {plotting.counted(len(test), 'architecture')}{few}",
        references=references,
    )
    plotting.save_figure(figure, workdir / "tau_over_training.png")
