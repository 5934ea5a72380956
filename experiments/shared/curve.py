"""Scores along a training: at which steps, of which architectures, and how they are read again."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from jaxnas import runs, tables
from jaxnas.datasets import Dataset
from jaxnas.evaluation import Scores
from jaxnas.runs import sealed
from jaxnas.space import SearchSpace
from jaxnas.training import Callback, TrainState

from .config import RankedConfig

Score = Callable[..., Scores]
Tell = Callable[[int, np.ndarray, Scores], None]  # steps done, archs [num_archs, num_choices], their scores


def curve_steps(config: RankedConfig) -> list[int]:
    """The steps after which the curve's architectures are scored; the end of the training has scores of its own."""
    num_steps = config.training.num_steps
    assert num_steps is not None
    number = min(config.curve.num_curve_points, num_steps)
    steps = {round(num_steps * (point + 1) / number) for point in range(number)}
    return sorted(steps - {num_steps})


def curve_images(config: RankedConfig, held_out: int) -> int:
    """How many images the curve's architectures are scored on: those of one call, and as many more as fill the last
    call of the final scores, so that what is compiled for the curve serves these too."""
    scoring = config.scoring
    num_images = held_out if scoring.num_eval_images is None else min(scoring.num_eval_images, held_out)
    return min(num_images, scoring.images_per_call + num_images % scoring.images_per_call)


def curve_archs(config: RankedConfig, archs: np.ndarray) -> np.ndarray:
    """Those of `archs` that are scored along the training."""
    return archs[:: -(-len(archs) // config.curve.num_curve_archs)]


def tell_curve(
    config: RankedConfig,
    space: SearchSpace,
    data: Dataset,
    score: Score,
    folder: Path,
    origin: sealed.Origin,
    archs: np.ndarray,
    tell: Tell | None,
) -> Callback:
    """What scores the curve's architectures at its steps, keeps that in the folder and tells it."""
    points, few, first = curve_steps(config), curve_archs(config, archs), curve_images(config, len(data.valid_images))

    def score_point(steps: int, metrics: dict[str, float], state: TrainState) -> None:
        if steps in points:
            scores = score(state, few, first=first)
            of_point = {**origin, "step": steps}
            sealed.write_table(curve_file(folder, steps), "curve", runs.scores_table(space, scores), of_point)
            if tell is not None:
                tell(steps, few, scores)

    return score_point


def read_curve(
    config: RankedConfig, folder: Path, space: SearchSpace, archs: np.ndarray, origin: sealed.Origin
) -> list[tuple[int, tables.Table]]:
    """(step, scores) along the training; one that was damaged and had to be deleted is missed in a picture only."""
    few, found = curve_archs(config, archs), []
    for steps in curve_steps(config):
        path = curve_file(folder, steps)
        if path.exists():
            remedy = "delete it, and the picture of tau over training goes without this point; all else stays"
            table = sealed.read_table(path, "curve", space, few, {**origin, "step": steps}, remedy=remedy)
            found.append((steps, table))
        else:
            print(f"the picture of tau over training goes without step {steps}: {path} is gone")
    return found


def curve_file(folder: Path, steps: int) -> Path:
    """Where the scores of that step are kept."""
    return folder / f"curve_{steps}.npz"
