"""Several super-nets of one experiment that train in one program, each with a folder for what it comes to."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxnas import runs
from jaxnas.runs import sealed
from jaxnas.training import Callback, seeds

from .config import RankedConfig
from .curve import Score, Tell, tell_curve
from .supernet import TrainingSetup, batches_of, fresh_state, resume, train


class Home(NamedTuple):
    """One super-net."""

    seed: int
    folder: Path  # of its curve and scores
    origin: sealed.Origin  # what they belong to


def together(homes: Sequence[Home]) -> Home:
    """Where super-nets that train together have what is common to them, checkpoints and training.csv; one alone has it
    in its own folder."""
    first, last = homes[0], homes[-1]
    if len(homes) == 1:
        return first
    span = f"{first.seed}-{last.seed}"
    return Home(first.seed, first.folder.parent / f"seeds{span}", {"run": first.origin["run"], "seeds": span})


def train_together(
    config: RankedConfig,
    setup: TrainingSetup,
    score: Score,
    homes: Sequence[Home],
    folder: Path,
    *,
    origin: sealed.Origin,
    archs: np.ndarray | None = None,
    until: int | None = None,
    tell: Tell | None = None,
) -> runs.Trained:
    """Train the super-nets of a settled config in one program; one alone as `train` does it.

    Args:
      folder, origin: of the training that they have in common: its checkpoints hold all of them, and its training.csv
        has loss_0, loss_1 and so on.
      archs: of which some are scored along the training, with each super-net; None: none.
      tell: what is done with these scores of the first one, each time.

    Returns:
      Of all, see `of_one`.
    """
    if len(homes) == 1:
        seed = homes[0].seed
        return train(config, setup, score, folder, seed=seed, origin=origin, archs=archs, until=until, tell=tell)
    data, space, callbacks = setup.data, setup.supernet.space, list[Callback]()
    for number, home in enumerate(homes):
        home.folder.mkdir(parents=True, exist_ok=True)
        if archs is not None:
            told = None if number else tell
            one = tell_curve(config, space, data, score, home.folder, home.origin, archs, told)
            callbacks.append(_with_one(one, number))
    images: Any = data.train_images if hasattr(data.train_images, "read") else jnp.asarray(data.train_images)
    return resume(
        config,
        setup,
        seeds.side_by_side(setup.step),
        seeds.stack([fresh_state(config, setup, home.seed) for home in homes]),
        seeds.stack_batches([batches_of(config, images, data.train_labels, home.seed) for home in homes]),
        folder,
        callbacks=callbacks,
        origin=origin,
        until=until,
    )


def of_one(trained: runs.Trained, number: int, homes: Sequence[Home]) -> runs.Trained:
    """What super-net `number` of those that trained together came to."""
    if len(homes) == 1:
        return trained
    return runs.Trained(seeds.state_of(trained.state, number), seeds.rows_of(trained.rows, number, len(homes)))


def _with_one(callback: Callback, number: int) -> Callback:
    return lambda steps, metrics, state: callback(steps, metrics, seeds.state_of(state, number))
