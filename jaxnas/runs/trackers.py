"""The trackers that runs can be sent to, by name, each behind the same three functions. Each is an extra of that name.

What a tracker is told by its own variables of the environment holds: WANDB_MODE, WANDB_PROJECT, TRACKIO_PROJECT,
MLFLOW_TRACKING_URI and so on.
"""

import importlib
import json
import os
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

PROJECT = "jaxnas"


class About(NamedTuple):
    """What is begun."""

    run: str  # what is run, such as an experiment's name
    workdir: Path
    id: str | None  # as `Backend.id` of the run to go on with; None: a new one
    config: dict[str, Any]


class Backend(NamedTuple):
    """A tracker's run.

    Attributes:
      id: finds it again.
      look: how to look at it.
      log: (series, step, name -> value).
      figures: name -> what came out: numbers, texts, None.
      close: ends it.
    """

    id: str
    look: str
    log: Callable[[str, int, Mapping[str, float]], None]
    figures: Callable[[Mapping[str, Any]], None]
    close: Callable[[], None]


def tensorboard(about: About) -> Backend:
    """Event files in WORKDIR/tensorboard, a folder for each series, so that seeds lie in one chart. A row that was
    logged is on disk."""
    from tensorboardX import summary
    from tensorboardX.event_file_writer import EventsWriter
    from tensorboardX.proto.event_pb2 import Event

    folder, writers = about.workdir / "tensorboard", dict[str, Any]()

    def write(series: str, step: int, *summaries: Any) -> None:
        if series not in writers:
            (folder / series).mkdir(parents=True, exist_ok=True)
            writers[series] = EventsWriter(str(folder / series / "events"), f".{os.getpid()}.{uuid.uuid4().hex[:8]}")
        for each in summaries:
            writers[series].write_event(Event(wall_time=time.time(), step=step, summary=each))
        writers[series].flush()

    def log(series: str, step: int, values: Mapping[str, float]) -> None:
        write(series, step, *(summary.scalar(name, value) for name, value in values.items()))

    def figures(given: Mapping[str, Any]) -> None:
        texts = {name: str(value) for name, value in given.items() if not _is_number(value) and value is not None}
        texts["config"] = json.dumps(about.config, indent=1, default=str)
        log("result", 0, _numbers(given))
        write("result", 0, *(summary.text(name, text) for name, text in texts.items()))

    def close() -> None:
        for writer in writers.values():
            writer.close()

    return Backend(about.id or uuid.uuid4().hex, f"tensorboard --logdir {folder}", log, figures, close)


def wandb(about: About) -> Backend:
    """A run of Weights & Biases; with WANDB_MODE=offline its files stay in WORKDIR/wandb until `wandb sync`."""
    return _of_wandb_kind("wandb", about, dir=str(about.workdir))


def trackio(about: About) -> Backend:
    """A run of Trackio, in its own folder on this machine."""
    return _of_wandb_kind("trackio", about, embed=False)


def _of_wandb_kind(package: str, about: About, **more: Any) -> Backend:
    """Both have one interface; but W&B finds a run by its id and wants one axis of steps for all series of a run unless
    each has its own, Trackio finds a run by its name and keeps steps as they are."""
    module = importlib.import_module(package)
    identity = about.id or uuid.uuid4().hex[:8]
    project = os.environ.get(f"{package.upper()}_PROJECT", PROJECT)
    name = f"{about.run}-{about.workdir.resolve().name}-{identity}"
    if package == "wandb":
        more |= {"id": identity, "group": about.run}
    run = module.init(project=project, name=name, config=about.config, resume="allow", **more)
    known = set[str]()

    def log(series: str, step: int, values: Mapping[str, float]) -> None:
        row = {f"{series}/{name}": value for name, value in values.items()}
        if package == "trackio":
            run.log(row, step=step)
            return
        if series not in known:
            known.add(series)
            run.define_metric(f"{series}/*", step_metric=f"{series}/step")
        run.log({**row, f"{series}/step": step})

    def figures(given: Mapping[str, Any]) -> None:
        if package == "trackio":
            run.log(_numbers(given))
        else:
            run.summary.update(dict(given))

    look = f"trackio show --project {project}" if package == "trackio" else run.url or f"wandb sync {run.dir}"
    return Backend(identity, look, log, figures, lambda: run.finish())


def mlflow(about: About) -> Backend:
    """A run of MLflow, at MLFLOW_TRACKING_URI, or without it in WORKDIR/mlflow.db."""
    for name, value in (("MAX_RETRIES", "2"), ("TIMEOUT", "20")):  # its own would hold a run up for minutes
        os.environ.setdefault(f"MLFLOW_HTTP_REQUEST_{name}", value)
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param

    uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{(about.workdir / 'mlflow.db').resolve()}"
    client, identity = MlflowClient(uri), about.id
    if identity is None:
        found = client.get_experiment_by_name(project := f"{PROJECT}-{about.run}")
        experiment = client.create_experiment(project) if found is None else found.experiment_id
        identity = client.create_run(experiment, run_name=about.workdir.resolve().name).info.run_id
        client.log_batch(identity, params=[Param(name, str(value)) for name, value in about.config.items()])
    else:
        client.update_run(identity, status="RUNNING")

    def log(series: str, step: int, values: Mapping[str, float]) -> None:
        now = int(1000 * time.time())
        client.log_batch(identity, [Metric(f"{series}/{name}", value, now, step) for name, value in values.items()])

    def figures(given: Mapping[str, Any]) -> None:
        now = int(1000 * time.time())
        client.log_batch(identity, [Metric(name, value, now, 0) for name, value in _numbers(given).items()])
        for name, value in given.items():
            if isinstance(value, str):
                client.set_tag(identity, name, value)

    look = f"mlflow ui --backend-store-uri {uri}" if uri.startswith("sqlite:") else uri
    return Backend(identity, look, log, figures, lambda: client.set_terminated(identity))


TRACKERS: dict[str, Callable[[About], Backend]] = {
    "tensorboard": tensorboard,
    "wandb": wandb,
    "trackio": trackio,
    "mlflow": mlflow,
}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _numbers(figures: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in figures.items() if _is_number(value)}
