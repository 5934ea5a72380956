"""The loop around a training, in a folder: checkpoints, a CSV of the metrics, a bar, and exact resume."""

import os
import time
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from jaxnas.runs import checkpoint, sealed
from jaxnas.runs.rows import csv_metrics, metrics_of
from jaxnas.training import BatchAt, Callback, TrainState, TrainStep, fit


class Trained(NamedTuple):
    """What a training came to."""

    state: TrainState
    # As in training.csv: step, metrics averaged since the row before, seconds; none where nothing was to be done.
    rows: list[dict[str, float]]

    @property
    def seconds(self) -> float:
        """Of the training, those of killed processes included, callbacks left out."""
        return self.rows[-1]["seconds"] if self.rows else 0.0


class Progress(NamedTuple):
    """How far a training has come, by its newest checkpoint."""

    step: int
    rows: list[dict[str, float]]  # as in training.csv, up to that step


def resumable(
    step: TrainStep,
    state: TrainState,
    batch_at: BatchAt,
    num_steps: int,
    folder: str | os.PathLike[str],
    *,
    fingerprint: str,
    origin: sealed.Origin = sealed.NOWHERE,
    checkpoint_every: int = 200,
    report_every: int = 20,
    report_also_at: Collection[int] = (),
    callbacks: Iterable[Callback] = (),
    start: str | os.PathLike[str] | None = None,
    start_origin: sealed.Origin = sealed.NOWHERE,
    keep: int = 2,
    label: str = "train",
    num_images: int | None = None,
    progress: bool = True,
) -> Trained:
    """`training.fit` from `state.step` to `num_steps`, or from the newest checkpoint in the folder.

    A run that is killed and called again with the same arguments ends with the same weights and, but for the seconds,
    the same rows, bit for bit on the same device, versions and number of threads. The folder holds `checkpoints` and
    `training.csv`, whose rows the checkpoints keep as well: deleted, it is written again.

    Args:
      step: as `make_train_step` gives it.
      state: where the training begins; it is not consumed.
      batch_at: step number -> batch, a pure function.
      folder: of this training alone; made if it isn't there.
      fingerprint: `SearchSpace.fingerprint` of what is trained; checkpoints of other spaces are refused.
      origin: what the training belongs to (`runs.sealed`), such as the run's identity and the seed; checkpoints of
        another one are refused.
      checkpoint_every: steps between checkpoints; the last step has one anyway.
      report_every: steps between rows of training.csv; checkpoints and `report_also_at` have theirs too.
      callbacks: called as (steps done, metrics, state) at each report, before the checkpoint of that step is written:
        after a kill in between they are called again. The next step consumes the state.
      start: another training's folder, at whose last checkpoint this one begins.
      start_origin: what that training belongs to.
      keep: how many checkpoints stay.
      label: what the bar is called.
      num_images: of a step; the bar then counts images, and shows how many come a second. None: steps.

    Raises:
      FloatingPointError: a loss or a gradient is not finite.
      ValueError: a checkpoint that is damaged, of another space, origin or tree, or past `num_steps`; a training.csv
        that was edited.
    """
    folder, first, callbacks = Path(folder), int(state.step), list(callbacks)
    named: dict[str, Any] = {"fingerprint": fingerprint, "origin": origin}
    told = checkpoint.latest(folder / "checkpoints", **named)
    known = "" if told is None else told.notes
    rows = metrics_of(known)
    found = checkpoint.restore_latest(folder / "checkpoints", state, **named)
    if found is None and start is not None:
        found = checkpoint.restore_latest(Path(start) / "checkpoints", state, **named | {"origin": start_origin})
    done, state = found if found is not None else (first, state)
    _check_not_past(folder if told else start, done, num_steps)
    if told is None and done == num_steps:
        return Trained(state, [])
    folder.mkdir(parents=True, exist_ok=True)
    write = csv_metrics(folder / "training.csv", known=known)
    if done == num_steps:
        return Trained(state, rows)
    before = rows[-1]["seconds"] if rows else 0.0
    begin, elsewhere = time.perf_counter(), 0.0
    unit: dict[str, Any] = {"unit": "step"} if num_images is None else {"unit": " images", "unit_scale": num_images}
    with tqdm(total=num_steps - first, initial=done - first, **unit, desc=label, disable=not progress) as bar:
        bar.set_postfix_str("the first step compiles")

        def report(steps: int, metrics: dict[str, float], state: TrainState) -> None:
            nonlocal elsewhere, known
            arrived = time.perf_counter()
            known = write({"step": steps, **metrics, "seconds": before + arrived - begin - elsewhere})
            bar.update(steps - first - bar.n)
            shown = [f"{name} {metrics[name]:.3f}" for name in ("loss", "accuracy") if name in metrics]
            bar.set_postfix_str(", ".join(shown))
            for callback in callbacks:
                callback(steps, metrics, state)
            if callbacks:
                elsewhere += time.perf_counter() - arrived
            if steps % checkpoint_every == 0 or steps == num_steps:
                checkpoint.save(folder / "checkpoints", steps, state, **named, notes=known, keep=keep)

        def report_at(steps: int) -> bool:
            return steps % report_every == 0 or steps % checkpoint_every == 0 or steps in report_also_at

        state = fit(step, state, batch_at, num_steps, report_at=report_at, callbacks=[report])
    return Trained(state, metrics_of(known))


def _check_not_past(folder: str | os.PathLike[str] | None, done: int, num_steps: int) -> None:
    if done > num_steps:
        raise ValueError(
            f"{folder}: its newest checkpoint is of step {done}, past the {num_steps} asked for, and earlier weights"
            " are gone; use another folder, or delete this one to train again."
        )


def progress(
    folder: str | os.PathLike[str], *, fingerprint: str, origin: sealed.Origin = sealed.NOWHERE
) -> Progress | None:
    """How far the training in `folder` has come, or None where there is no checkpoint; arguments and errors as for
    `resumable`, but no weights are read."""
    folder = Path(folder)
    told = checkpoint.latest(folder / "checkpoints", fingerprint=fingerprint, origin=origin)
    if told is None:
        return None
    csv_metrics(folder / "training.csv", known=told.notes)
    return Progress(told.step, metrics_of(told.notes))
