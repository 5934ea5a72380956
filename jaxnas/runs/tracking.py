"""Trackers: what a run measures, sent to TensorBoard, Weights & Biases, Trackio or MLflow while it runs.

    jaxnas quickstart --tracker tensorboard --workdir runs/quickstart

or in a program of one's own:

    tracker = open_tracker("tensorboard", "runs/mine", "mine", config={"learning_rate": 0.1})
    fit(step, state, batch_at, 1000, callbacks=[tracker.training("train")])
    tracker.log("search", {"step": len(state.archs), "best_score": search.best(state)[1]})
    tracker.finish({"regret": 0.01})

A row of figures is a mapping with a "step"; rows of one series come with growing steps. Every CSV of metrics that a run
writes (`csv_metrics`) is a series, and the figures of result.json come last; names are the same everywhere. A file in
the workdir keeps which step of which series was sent: a run that is killed goes on in the same tracker's run, and what
it measures a second time, the same figures, is not sent again. A kill in the very moment of sending may lose a row in
the tracker, never doubles one. A tracker that fails once the run has begun is told once and left alone.
"""

import contextlib
import contextvars
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from jaxnas.checks import choice
from jaxnas.files import decode_json, one_line, read_file, replace_file
from jaxnas.runs.trackers import TRACKERS, About, Backend
from jaxnas.search import SearchState
from jaxnas.training import Callback, TrainState

Row = Mapping[str, Any]


class Tracker:
    """A tracker's run, and what it was sent. `open_tracker` makes one."""

    def __init__(self, name: str, path: Path, backend: Backend, sent: dict[str, int], is_finished: bool) -> None:
        self.name, self.path, self.backend, self.sent, self.is_finished = name, path, backend, sent, is_finished
        self.is_down = False
        self._keep()

    def log(self, series: str, row: Row) -> None:
        """Send the figures of a row, unless its step or a later one of the series was sent before."""
        step = int(row["step"])
        before = self.sent.get(series, -1)
        if step > before and not self.is_down:
            values = {name: float(value) for name, value in row.items() if name != "step"}
            self.sent[series] = step
            self._keep()
            if not self._send(lambda: self.backend.log(series, step, values)):
                self.sent[series] = before
                self._keep()

    def training(self, series: str) -> Callback:
        """A callback of `fit` and `resumable` that sends the metrics of each report."""

        def callback(steps: int, metrics: dict[str, float], state: TrainState) -> None:
            self.log(series, {"step": steps, **metrics})

        return callback

    def searching(self, series: str) -> Callable[[SearchState], None]:
        """A function to be called after each `tell` of a search: sends how many architectures were evaluated, as the
        step, the best score, and the mean of the newest."""
        seen = 0

        def callback(state: SearchState) -> None:
            nonlocal seen
            newest, seen = state.scores[seen:], len(state.scores)
            if len(newest):
                self.log(series, {"step": seen, "best_score": state.scores.max(), "mean_score": newest.mean()})

        return callback

    def finish(self, figures: Row) -> None:
        """Send what a run came to, once, and end the tracker's run."""
        if not self.is_finished and self._send(lambda: self.backend.figures(figures)):
            self.is_finished = True
            self._keep()
        self._send(self.backend.close)

    def _send(self, call: Callable[[], None]) -> bool:
        if self.is_down:
            return False
        try:
            call()
        except Exception as error:  # each tracker has its own
            self.is_down = True
            print(
                f"tracker {self.name} failed ({one_line(error)}); the run goes on without it, its figures are in"
                f" {self.path.parent}.",
                file=sys.stderr,
            )
        return not self.is_down

    def _keep(self) -> None:
        kept = {"id": self.backend.id, "sent": self.sent, "is_finished": self.is_finished}
        replace_file(self.path, (json.dumps(kept) + "\n").encode())


def open_tracker(
    name: str, workdir: str | os.PathLike[str], run: str, *, config: Mapping[str, Any] | None = None
) -> Tracker:
    """Begin a run of a tracker, or go on with the one that was begun in this workdir.

    Args:
      name: tensorboard, wandb, trackio or mlflow.
      workdir: where it is kept what was sent; for TensorBoard, MLflow without a server and W&B the files too.
      run: what is run, such as an experiment's name; trackers put runs of one name together.
      config: settings to show beside the figures: numbers, texts and None.

    Raises:
      ValueError: no such tracker, its package isn't installed, it cannot be begun, or what was kept is damaged.
    """
    workdir = Path(workdir)
    path = workdir / f".tracker_{choice('tracker', name, TRACKERS)}.json"
    kept: dict[str, Any] = {"id": None, "sent": {}, "is_finished": False}
    if path.exists():
        try:
            kept = {entry: decode_json(read_file(path))[entry] for entry in kept}
        except (ValueError, KeyError, TypeError):
            raise ValueError(f"{path}: damaged; delete it, and the tracker begins a new run.") from None
    workdir.mkdir(parents=True, exist_ok=True)
    try:
        backend = TRACKERS[name](About(run, workdir, kept["id"], dict(config or {})))
    except ImportError as error:
        raise ValueError(f"tracker {name}: it isn't there ({error}); pip install 'jaxnas[{name}]'") from None
    except Exception as error:  # no server, no account: each tracker has its own
        raise ValueError(f"tracker {name} cannot be begun: {one_line(error)}") from None
    return Tracker(name, path, backend, kept["sent"], kept["is_finished"])


_CURRENT: contextvars.ContextVar[tuple[Tracker, Path] | None] = contextvars.ContextVar("tracker", default=None)


@contextlib.contextmanager
def tracked(tracker: Tracker | None, workdir: Path) -> Iterator[None]:
    """Meanwhile what is written to CSVs of metrics in the workdir is sent to the tracker; None: to none."""
    token = _CURRENT.set(None if tracker is None else (tracker, workdir.resolve()))
    try:
        yield
    finally:
        _CURRENT.reset(token)


def follow(path: Path) -> Callable[[Row], None]:
    """What is to be told of each row of the CSV of metrics at `path`: seed0/training.csv is the series seed0, and
    seed0/search.csv seed0/search."""
    current = _CURRENT.get()
    if current is None or not path.resolve().is_relative_to(current[1]):
        return lambda row: None
    tracker, workdir = current
    place = path.resolve().relative_to(workdir).with_suffix("")
    series = place.parent if place.name == "training" and place.parent.name else place
    return lambda row: tracker.log(series.as_posix(), row)
