"""Trackers: what is in their real files after a run that was interrupted, and what a run does when one fails."""

import dataclasses
import importlib.util
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
import urllib.request

import jax
import numpy as np
import pytest
from test_runs import WHOLE, train

from jaxnas import runs
from jaxnas.runs import command, tracking
from jaxnas.runs.trackers import TRACKERS, Backend
from jaxnas.search import random_search
from jaxnas.spaces import SPACES
from jaxnas.tables.tfrecord import read_batches

PACKAGES = {"tensorboard": "tensorboardX"}


def there(name, *, slow=True):
    package = PACKAGES.get(name, name)
    reason = f"{package} isn't installed: pip install 'jaxnas[{name}]'"
    marks = [pytest.mark.skipif(importlib.util.find_spec(package) is None, reason=reason)]
    return pytest.param(name, marks=marks + [pytest.mark.slow(f"the real files of {name}")] * slow)


# What lies in a tracker's own files: ((series, name, step, value) of each row as it was sent, name -> figure)


def read_tensorboard(workdir):
    from tensorboardX.proto.event_pb2 import Event

    rows, figures = [], {}
    for path in sorted(workdir.glob("tensorboard/**/events*")):
        series = path.parent.relative_to(workdir / "tensorboard").as_posix()
        for _, records in read_batches(path, 0, 100):
            for event in map(Event.FromString, records):
                for value in event.summary.value:
                    if series == "result":
                        figures[value.tag] = value.simple_value
                    else:
                        rows.append((series, value.tag, event.step, value.simple_value))
    return rows, figures


def read_mlflow(workdir):
    from mlflow import MlflowClient

    client = MlflowClient(os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{workdir / 'mlflow.db'}")
    (experiment,) = [each for each in client.search_experiments() if each.name == "jaxnas-mine"]
    (run,) = client.search_runs([experiment.experiment_id])
    rows = []
    for name in run.data.metrics:
        series, _, column = name.rpartition("/")
        rows += [
            (series, column, point.step, point.value) for point in client.get_metric_history(run.info.run_id, name)
        ]
    assert run.data.params == {"rate": "0.1"}
    rows = [row for row in rows if row[0]]
    return rows, run.data.metrics | run.data.tags


def records_of_wandb(data):
    """W&B's log is LevelDB's: blocks of 32 KiB of parts, each with checksum, length and whether it is all of a record,
    the first, a middle or the last part; seven bytes stand before."""
    assert data[:4] == b":W&B"
    place, record = 7, b""
    while place < len(data):
        if (left := 32768 - place % 32768) < 7:
            place += left
            continue
        length, kind = struct.unpack("<HB", data[place + 4 : place + 7])
        record += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):
            yield record
            record = b""


def read_wandb(workdir):
    """Runs of W&B without a network: a log of protocol buffers for each start, of one id."""
    from wandb.proto.wandb_internal_pb2 import Record

    rows, figures, identities = [], {}, set()
    for path in sorted(workdir.glob("wandb/offline-run-*/*.wandb")):
        for record in map(Record.FromString, records_of_wandb(path.read_bytes())):
            identities |= {record.run.run_id} - {""}
            row = {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item}
            for name, value in row.items():
                series, _, column = name.rpartition("/")
                if series and column != "step":
                    rows.append((series, column, row[f"{series}/step"], value))
            figures |= {item.key: json.loads(item.value_json) for item in record.summary.update}
    assert len(identities) == 1
    return rows, figures


def read_trackio(workdir):
    from trackio.sqlite_storage import SQLiteStorage

    (run,) = SQLiteStorage.get_runs("jaxnas")
    rows, figures = [], {}
    for log in SQLiteStorage.get_logs("jaxnas", run):
        for name, value in log.items():
            series, _, column = name.rpartition("/")
            if series:
                rows.append((series, column, log["step"], value))
            figures[name] = value
    return rows, figures


READ = {"tensorboard": read_tensorboard, "wandb": read_wandb, "trackio": read_trackio, "mlflow": read_mlflow}


@pytest.fixture
def offline(tmp_path, monkeypatch):
    """No tracker asks for anything outside of the test's folder."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def interrupt_at(at):
    def interrupt(steps, metrics, state):
        if steps == at:
            raise KeyboardInterrupt

    return interrupt


def begin(name, workdir):
    return runs.open_tracker(name, workdir, "mine", config={"rate": 0.1})


def assert_complete(name, workdir):
    """Each step of each series once, under the names of training.csv; and the figures."""
    rows, figures = READ[name](workdir)
    found = [(series, step, value) for series, column, step, value in rows if column == "loss"]
    assert sorted(found) == [(series, *row) for series in ("seed0", "seed1") for row in WHOLE]
    assert {column for _, column, *_ in rows} == {"loss", "seconds"}
    assert figures["regret"] == 0.25


@pytest.mark.parametrize("name", [there("tensorboard", slow=False), there("wandb"), there("trackio"), there("mlflow")])
@pytest.mark.filterwarnings("default")  # of the trackers' own packages
def test_a_run_that_goes_on_is_one_run_without_doubled_steps(name, tmp_path, offline):
    """Interrupted after step 5 was sent, before its checkpoint: 5 is done again, and 6 for the first time."""
    workdir = tmp_path / "run"
    with tracking.tracked(tracker := begin(name, workdir), workdir):
        train(workdir / "seed0")
        with pytest.raises(KeyboardInterrupt):
            train(workdir / "seed1", callbacks=[interrupt_at(5)])
    tracker.backend.close()  # what the end of the process does
    with tracking.tracked(tracker := begin(name, workdir), workdir):
        train(workdir / "seed0")
        train(workdir / "seed1")
        tracker.finish({"regret": 0.25, "verdict": "well", "nothing": None})
    tracker.finish({"regret": 0.5})  # once is enough
    assert_complete(name, workdir)


def recorded(sent, fails_at=None):
    """A tracker that writes into a list, and fails at the row of that number and later."""

    def log(series, step, values):
        if fails_at is not None and len(sent) >= fails_at:
            raise ConnectionError("no answer\nfrom the server")
        sent.append((series, step, values["loss"]))

    return Backend("1", "nowhere", log, lambda figures: sent.append(dict(figures)), lambda: None)


def test_the_run_goes_on_when_a_tracker_fails_and_says_it_once(tmp_path, monkeypatch, capsys):
    sent: list = []
    monkeypatch.setitem(TRACKERS, "tensorboard", lambda about: recorded(sent, fails_at=2))
    with tracking.tracked(tracker := begin("tensorboard", tmp_path), tmp_path):
        trained = train(tmp_path)
        tracker.finish({"regret": 0.25})
    assert [(row["step"], row["loss"]) for row in trained.rows] == WHOLE
    assert sent == [("training", *row) for row in WHOLE[:2]]
    said = capsys.readouterr().err
    assert said == (
        "tracker tensorboard failed (ConnectionError: no answer from the server); the run goes on without it, its"
        f" figures are in {tmp_path}.\n"
    )
    monkeypatch.setitem(TRACKERS, "tensorboard", lambda about: recorded(sent))
    with tracking.tracked(tracker := begin("tensorboard", tmp_path), tmp_path):  # back again: the rest is made up for
        train(tmp_path)
        tracker.finish({"regret": 0.25})
    assert sent == [("training", *row) for row in WHOLE] + [{"regret": 0.25}] and not capsys.readouterr().err


def test_callbacks_of_trainings_and_searches(tmp_path, monkeypatch):
    sent: list = []
    backend = Backend("1", "", lambda *row: sent.append(row), lambda figures: None, lambda: None)
    monkeypatch.setitem(TRACKERS, "tensorboard", lambda about: backend)
    tracker = begin("tensorboard", tmp_path / "own")
    train(tmp_path / "elsewhere", report_every=3, checkpoint_every=3, callbacks=[tracker.training("train")])
    search, told = random_search(SPACES["digits_chain"], num_archs=2), tracker.searching("search")
    state = search.init(jax.random.key(0))
    for scores in ([0.1, 0.3], [0.2, 0.0]):
        told(state := search.tell(state, search.ask(state), np.array(scores)))
    assert sent[:2] == [("train", 3, {"loss": 10 / 3}), ("train", 6, {"loss": (10 + 15 + 21) / 3})]
    assert sent[2:] == [
        ("search", 2, {"best_score": 0.3, "mean_score": pytest.approx(0.2)}),
        ("search", 4, {"best_score": 0.3, "mean_score": pytest.approx(0.1)}),
    ]


@dataclasses.dataclass(frozen=True)
class Config:
    rate: float = 0.1


@pytest.mark.parametrize("name", [there("tensorboard", slow=False)])
def test_every_experiment_takes_a_tracker(name, tmp_path, capsys):
    """`runs.command.main` is what every experiment ends in."""

    def run(config, workdir, identity):
        trained = train(workdir / "seed0")
        train(workdir / "seed1")
        return {"regret": 0.25, "last": trained.rows[-1]["loss"]}

    argv = ["--tracker", name, "--workdir", str(tmp_path / "run")]
    command.main("experiments.mine", None, run, {"quick": Config()}, argv)
    assert f"tracker {name}: tensorboard --logdir {tmp_path / 'run' / 'tensorboard'}" in capsys.readouterr().out
    assert_complete(name, tmp_path / "run")
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert "tracker" not in result["command"]
    _, figures = READ[name](tmp_path / "run")
    assert figures["last"] == result["last"] == 21


@pytest.mark.parametrize("name", TRACKERS)
def test_a_tracker_that_is_not_there_is_one_line_with_the_command(name, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, PACKAGES.get(name, name), None)
    with pytest.raises(ValueError, match=rf"^tracker {name}: .*; pip install 'jaxnas\[{name}\]'$") as error:
        begin(name, tmp_path)
    assert "\n" not in str(error.value)


def test_what_cannot_be_begun_is_one_line(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"^tracker is 'tensorbord', expected one of tensorboard"):
        begin("tensorbord", tmp_path)

    def refuse(about):
        raise RuntimeError("no account:\nlog in first")

    monkeypatch.setitem(TRACKERS, "wandb", refuse)
    with pytest.raises(ValueError, match=r"^tracker wandb cannot be begun: RuntimeError: no account: log in first$"):
        begin("wandb", tmp_path)
    (tmp_path / ".tracker_wandb.json").write_text("{}")
    with pytest.raises(ValueError, match=r"\.tracker_wandb\.json: damaged; delete it, and the tracker begins"):
        begin("wandb", tmp_path)


@pytest.mark.slow("a server of MLflow that dies in the middle of a run")
@pytest.mark.skipif(
    not (importlib.util.find_spec("mlflow") and importlib.util.find_spec("flask")),
    reason="MLflow with its server isn't installed: pip install 'jaxnas[mlflow]'",
)
@pytest.mark.filterwarnings("default")
def test_a_server_that_dies_in_the_middle(tmp_path, monkeypatch, capsys):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    workdir, store = tmp_path / "run", f"sqlite:///{tmp_path / 'server.db'}"

    def serve():
        words = ["-m", "mlflow", "server", "--port", str(port), "--workers", "1", "--backend-store-uri", store]
        process = subprocess.Popen([sys.executable, *words], cwd=tmp_path, start_new_session=True)
        for _ in range(600):
            try:
                urllib.request.urlopen(f"{address}/health", timeout=1).read()
                return process
            except OSError:
                time.sleep(0.5)
        os.killpg(process.pid, signal.SIGKILL)
        raise TimeoutError(address)

    server = serve()

    def strike(steps, metrics, state):
        if steps == 3:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()

    try:
        with tracking.tracked(begin("mlflow", workdir), workdir):
            train(workdir / "seed0", callbacks=[strike])
            trained = train(workdir / "seed1")
        assert [(row["step"], row["loss"]) for row in trained.rows] == WHOLE
        assert capsys.readouterr().err.count("tracker mlflow failed") == 1
        server = serve()
        with tracking.tracked(tracker := begin("mlflow", workdir), workdir):
            train(workdir / "seed0")
            train(workdir / "seed1")
            tracker.finish({"regret": 0.25})
        assert_complete("mlflow", workdir)
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()
