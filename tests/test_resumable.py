"""The resumable loop as a user's script calls it, on a training of one weight that can be followed by hand."""

import csv

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnas import runs
from jaxnas.runs.checkpoint import CheckpointError
from jaxnas.training import TrainState

SPACE = "0123456789abcdef"


def fresh() -> TrainState:
    return TrainState(jnp.int32(0), {"weight": jnp.float32(0)}, (), (), {}, jax.random.key(0))


def step(state, batch):
    """weight <- weight + number of the step; the loss is the new weight: 0, 1, 3, 6, 10, 15."""
    weight = state.params["weight"] + batch["number"]
    return state._replace(step=state.step + 1, params={"weight": weight}), {"loss": weight}


def batch_at(number):
    return {"number": jnp.float32(number)}


def run(folder, num_steps=6, fingerprint=SPACE, **options):
    options = {"checkpoint_every": 2, "report_every": 3, "progress": False} | options
    return runs.resumable(step, fresh(), batch_at, num_steps, folder, fingerprint=fingerprint, **options)


def losses(trained):
    return [(int(row["step"]), row["loss"]) for row in trained.rows]


WHOLE = [(2, (0 + 1) / 2), (3, 3.0), (4, 6.0), (6, (10 + 15) / 2)]  # means since the row before


def test_rows_weights_and_files(tmp_path):
    trained = run(tmp_path / "new" / "folder")
    assert losses(trained) == WHOLE and float(trained.state.params["weight"]) == 15
    assert trained.seconds == trained.rows[-1]["seconds"] > 0
    with (tmp_path / "new" / "folder" / "training.csv").open(newline="") as file:
        assert [row["step"] for row in csv.DictReader(file)] == ["2", "3", "4", "6"]


@pytest.mark.parametrize("at", [3, 4])
def test_killed_at_a_report_and_called_again(at, tmp_path):
    """A report comes before the checkpoint of its step: killed at 3 or 4, it goes on from 2, and reports again."""

    def kill(steps, metrics, state):
        if steps == at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, callbacks=[kill])
    seen = []
    trained = run(tmp_path, callbacks=[lambda steps, metrics, state: seen.append((steps, float(state.step)))])
    assert seen == [(3, 3.0), (4, 4.0), (6, 6.0)]
    assert losses(trained) == WHOLE and float(trained.state.params["weight"]) == 15


def test_longer_shorter_and_finished(tmp_path):
    run(tmp_path, 4)
    before = (tmp_path / "training.csv").read_bytes()
    assert losses(run(tmp_path, 4)) == WHOLE[:3]
    assert (tmp_path / "training.csv").read_bytes() == before
    assert losses(run(tmp_path)) == WHOLE
    with pytest.raises(ValueError, match="checkpoint is of step 6, past the 4 asked for"):
        run(tmp_path, 4)


def test_begun_at_another_training(tmp_path):
    run(tmp_path / "first", 4)
    fork = run(tmp_path / "fork", start=tmp_path / "first")
    assert losses(fork) == WHOLE[3:] and float(fork.state.params["weight"]) == 15
    nothing_left = run(tmp_path / "nothing", 4, start=tmp_path / "first")
    assert (nothing_left.rows, nothing_left.seconds, float(nothing_left.state.params["weight"])) == ([], 0.0, 6.0)


def test_also_reported_at(tmp_path):
    assert [steps for steps, _ in losses(run(tmp_path, report_also_at=[5]))] == [2, 3, 4, 5, 6]


def test_the_given_state_is_kept_and_other_spaces_are_refused(tmp_path):
    state = fresh()
    eaten = jax.jit(step, donate_argnums=0)
    runs.resumable(eaten, state, batch_at, 2, tmp_path, fingerprint=SPACE, progress=False)
    assert np.asarray(state.params["weight"]) == 0
    with pytest.raises(CheckpointError, match="belongs to the search space"):
        run(tmp_path, fingerprint="f" * 16)
