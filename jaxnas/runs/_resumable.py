"""The loop around a training, in a folder: checkpoints, a CSV of the metrics, a bar, and exact resume."""

import os
import time
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import NamedTuple

import jax
from tqdm import tqdm

from jaxnas.runs import checkpoint
from jaxnas.runs.rows import csv_metrics, read_rows
from jaxnas.training import BatchAt, Callback, TrainState, TrainStep, fit


class Trained(NamedTuple):
    """What a training came to."""

    state: TrainState
    # Those of training.csv: step, metrics averaged since the row before, seconds; none where nothing was to be done.
    rows: list[dict[str, float]]

    @property
    def seconds(self) -> float:
        """Of the training, those of killed processes included, callbacks left out."""
        return self.rows[-1]["seconds"] if self.rows else 0.0


def resumable(
    step: TrainStep,
    state: TrainState,
    batch_at: BatchAt,
    num_steps: int,
    folder: str | os.PathLike[str],
    *,
    fingerprint: str,
    checkpoint_every: int = 200,
    report_every: int = 20,
    report_also_at: Collection[int] = (),
    callbacks: Iterable[Callback] = (),
    start: str | os.PathLike[str] | None = None,
    keep: int = 2,
    label: str = "train",
    progress: bool = True,
) -> Trained:
    """`training.fit` from `state.step` to `num_steps`, or from the newest checkpoint in the folder.

    A run that is killed and called again with the same arguments ends with the same weights and, but for the seconds,
    the same rows, bit for bit on the same device, versions and number of threads. The folder holds `checkpoints` and
    `training.csv`.

    Args:
      step: as `make_train_step` gives it.
      state: where the training begins; it is not consumed.
      batch_at: step number -> batch, a pure function.
      folder: of this training alone; made if it isn't there.
      fingerprint: `SearchSpace.fingerprint` of what is trained; checkpoints of other spaces are refused.
      checkpoint_every: steps between checkpoints; the last step has one anyway.
      report_every: steps between rows of training.csv; checkpoints and `report_also_at` have theirs too.
      callbacks: called as (steps done, metrics, state) at each report, before the checkpoint of that step is written:
        after a kill in between they are called again. The next step consumes the state.
      start: another training's folder, at whose last checkpoint this one begins.
      keep: how many checkpoints stay.
      label: what the bar is called.

    Raises:
      FloatingPointError: a loss or a gradient is not finite.
      ValueError: a checkpoint that is damaged, of another space or another tree, or past `num_steps`.
    """
    folder, first, callbacks = Path(folder), int(state.step), list(callbacks)
    path = folder / "training.csv"
    found = checkpoint.restore_latest(folder / "checkpoints", state, fingerprint=fingerprint)
    before = _read_metrics(path)[-1]["seconds"] if found is not None else 0.0
    if found is None and start is not None:
        found = checkpoint.restore_latest(Path(start) / "checkpoints", state, fingerprint=fingerprint)
    done, state = found if found is not None else (first, jax.tree.map(lambda leaf: leaf.copy(), state))
    if done > num_steps:
        raise ValueError(
            f"{folder}: its newest checkpoint is of step {done}, past the {num_steps} asked for; use another folder, or"
            " delete this one to train again."
        )
    if done == num_steps:
        return Trained(state, _read_metrics(path) if path.exists() else [])
    folder.mkdir(parents=True, exist_ok=True)
    write = csv_metrics(path, resume_step=done + 1)
    begin, elsewhere = time.perf_counter(), 0.0
    with tqdm(total=num_steps - first, initial=done - first, unit="step", desc=label, disable=not progress) as bar:
        bar.set_postfix_str("the first step compiles")

        def report(steps: int, metrics: dict[str, float], state: TrainState) -> None:
            nonlocal elsewhere
            arrived = time.perf_counter()
            write({"step": steps, **metrics, "seconds": before + arrived - begin - elsewhere})
            bar.update(steps - first - bar.n)
            shown = [f"{name} {metrics[name]:.3f}" for name in ("loss", "accuracy") if name in metrics]
            bar.set_postfix_str(", ".join(shown))
            for callback in callbacks:
                callback(steps, metrics, state)
            if callbacks:
                elsewhere += time.perf_counter() - arrived
            if steps % checkpoint_every == 0 or steps == num_steps:
                checkpoint.save(folder / "checkpoints", steps, state, fingerprint=fingerprint, keep=keep)

        state = fit(
            step,
            state,
            batch_at,
            num_steps,
            report_at=lambda n: n % report_every == 0 or n % checkpoint_every == 0 or n in report_also_at,
            callbacks=[report],
        )
    return Trained(state, _read_metrics(path))


def _read_metrics(path: Path) -> list[dict[str, float]]:
    return [{name: float(value) for name, value in row.items()} for row in read_rows(path)]
