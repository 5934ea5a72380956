"""Checkpoints come back bit for bit or not at all; a resumed CSV equals an uninterrupted one."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import namedtuple
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxnas.runs import checkpoint, csv_metrics, read_rows
from jaxnas.runs.checkpoint import CheckpointError, restore_latest, save

ROOT = Path(__file__).parents[1]
SPACE = "0123456789abcdef"


class State(NamedTuple):
    params: dict
    opt_state: optax.OptState
    key: jax.Array
    typed_key: jax.Array
    visits: np.ndarray
    extra: tuple = ()
    nothing: None = None


def make_state(seed: int = 0) -> State:
    params = {
        "stem": {"kernel": jax.random.normal(jax.random.key(seed), (3, 3, 4))},
        "scale": jnp.full((4,), seed, jnp.bfloat16),
        "temperature": jnp.float32(seed),
    }
    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.1, momentum=0.9))
    typed_keys = jax.random.split(jax.random.key(seed), 3)
    return State(params, tx.init(params), jax.random.PRNGKey(seed), typed_keys, np.arange(5) * 2**40 + seed)


def bits(leaf) -> np.ndarray:
    typed = jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return np.asarray(jax.random.key_data(leaf) if typed else leaf)


def assert_same(first, second):
    assert jax.tree.structure(first) == jax.tree.structure(second)
    for one, other in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        assert one.dtype == other.dtype and isinstance(one, jax.Array) == isinstance(other, jax.Array)
        np.testing.assert_array_equal(bits(one), bits(other))


def refusal(directory: Path, template=None, fingerprint: str = SPACE) -> str:
    with pytest.raises(CheckpointError) as refused:
        restore_latest(directory, make_state() if template is None else template, fingerprint=fingerprint)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_any_tree_comes_back_bit_for_bit_and_silently(tmp_path, capfd):
    state = make_state(3)
    save(tmp_path / "new", 7, state, fingerprint=SPACE)
    step, restored = restore_latest(tmp_path / "new", make_state(0), fingerprint=SPACE)
    assert step == 7
    assert_same(restored, state)
    assert capfd.readouterr() == ("", "")


def test_nothing_there_is_none(tmp_path):
    assert restore_latest(tmp_path / "new", make_state(), fingerprint=SPACE) is None


def test_newest_two_stay_and_the_newest_is_restored(tmp_path):
    for step in (0, 5, 10, 15):
        save(tmp_path, step, {"x": jnp.full(3, step)}, fingerprint=SPACE)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step_00000010", "step_00000015"]
    save(tmp_path, 15, {"x": jnp.full(3, 16)}, fingerprint=SPACE)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step_00000010", "step_00000015"]
    step, restored = restore_latest(tmp_path, {"x": jnp.zeros(3, jnp.int32)}, fingerprint=SPACE)
    assert step == 15
    np.testing.assert_array_equal(restored["x"], [16, 16, 16])


def test_resumed_training_equals_uninterrupted(tmp_path):
    tx = optax.sgd(optax.cosine_decay_schedule(0.1, 6), momentum=0.9)

    @jax.jit
    def step_fn(state, step):
        params, opt_state, key = state
        noise = jax.random.normal(jax.random.fold_in(key, step), (8,))
        gradient = jax.grad(lambda x: jnp.sum((x - noise) ** 4))(params)
        with jax.numpy_dtype_promotion("standard"):  # of optax
            updates, opt_state = tx.update(gradient, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, key

    initial = (jnp.ones(8), tx.init(jnp.ones(8)), jax.random.key(0))
    state = initial
    for step in range(6):
        if step == 3:
            save(tmp_path, step, state, fingerprint=SPACE)
        state = step_fn(state, step)
    first, resumed = restore_latest(tmp_path, initial, fingerprint=SPACE)
    for step in range(first, 6):
        resumed = step_fn(resumed, step)
    assert_same(resumed, state)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder with one checkpoint of make_state()."""
    directory = tmp_path_factory.mktemp("saved")
    save(directory, 1, make_state(), fingerprint=SPACE)
    return directory


@pytest.fixture
def copy(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "copy")


def test_one_flipped_bit_in_any_file_is_noticed(copy):
    files = [path for path in copy.rglob("*") if path.is_file() and path.stat().st_size]
    assert len(files) > 5
    for path in files:
        content = path.read_bytes()
        place = len(content) // 2
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        line = refusal(copy)
        assert path.name == "manifest.json" or (str(path) in line and "damaged" in line and "delete" in line)
        path.write_bytes(content)
    assert restore_latest(copy, make_state(), fingerprint=SPACE)[0] == 1


def test_truncated_missing_and_foreign_files_are_noticed(copy):
    largest = max((path for path in copy.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    content = largest.read_bytes()
    largest.write_bytes(content[:-1])
    assert f"{largest}: this file of a checkpoint is damaged" in refusal(copy)
    largest.unlink()
    assert f"{largest}: this file of a checkpoint is missing" in refusal(copy)
    largest.write_bytes(content)
    (largest.parent / "foreign").write_text("")
    assert "foreign: this file of a checkpoint is not part of it" in refusal(copy)


@pytest.mark.parametrize("content", [None, b"", b"[]", b"{}", b'{"step": 1', b'{"step": 1, "fingerprint": 1}', b"\xff"])
def test_bad_manifest(content, copy):
    path = copy / "step_00000001" / "manifest.json"
    path.unlink() if content is None else path.write_bytes(content)
    assert str(path) in refusal(copy)


def test_renamed_folder(copy):
    (copy / "step_00000001").rename(copy / "step_00000002")
    assert "step_00000002/manifest.json" in refusal(copy)


def test_other_space(saved):
    line = refusal(saved, fingerprint="fedcba9876543210")
    assert SPACE in line and "fedcba9876543210" in line


@pytest.mark.parametrize(
    "change, words",
    [
        ({"kernel": jnp.zeros((3, 3, 5))}, ["float32[3, 3, 4]", "float32[3, 3, 5]"]),
        ({"kernel": jnp.zeros((3, 3, 4), jnp.bfloat16)}, ["float32[3, 3, 4]", "bfloat16[3, 3, 4]"]),
        ({}, ["kernel", "expected none"]),
        ({"kernel": jnp.zeros((3, 3, 4)), "bias": jnp.zeros(4)}, ["bias", "absent"]),
    ],
)
def test_other_leaves_than_the_template(change, words, saved):
    state = make_state()
    line = refusal(saved, state._replace(params=state.params | {"stem": change}))
    assert all(word in line for word in words), line


def test_older_checkpoint_only_after_the_damaged_one_is_deleted(copy):
    save(copy, 2, make_state(2), fingerprint=SPACE)
    next((copy / "step_00000002" / "tree").rglob("_METADATA")).write_text("")
    assert f"delete {copy / 'step_00000002'}" in refusal(copy)
    shutil.rmtree(copy / "step_00000002")
    step, restored = restore_latest(copy, make_state(9), fingerprint=SPACE)
    assert step == 1
    assert_same(restored, make_state())


def test_full_disk_leaves_the_old_checkpoint(copy, monkeypatch, capfd):
    usage = namedtuple("usage", "total used free")(2**30, 2**30, 2**16)
    monkeypatch.setattr(checkpoint.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(CheckpointError, match=r"step_00000002: cannot write .* 0\.1 MiB free; make room"):
        save(copy, 2, make_state(), fingerprint=SPACE)
    assert [path.name for path in copy.iterdir()] == ["step_00000001"]
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("restarted", [False, True])
def test_a_rename_that_fails_leaves_the_old_checkpoint(restarted, copy, monkeypatch):
    """The old one was put aside; also where the process died right then, which no handler sees."""
    rename = Path.rename

    def fail(source, target):
        if restarted and source.name.startswith(".old"):
            raise KeyboardInterrupt
        if source.name.startswith(".new"):
            raise OSError(errno.EIO, "Input/output error")
        return rename(source, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(KeyboardInterrupt if restarted else CheckpointError):
        save(copy, 1, make_state(5), fingerprint=SPACE)
    monkeypatch.undo()
    assert (copy / "step_00000001").exists() != restarted
    step, restored = restore_latest(copy, make_state(9), fingerprint=SPACE)
    assert step == 1
    assert_same(restored, make_state())
    save(copy, 2, make_state(2), fingerprint=SPACE)
    assert sorted(path.name for path in copy.iterdir()) == ["step_00000001", "step_00000002"]


@pytest.mark.parametrize("name", ["[x]", "back\\slash", "a*b?"])
def test_any_name_of_a_folder(name, tmp_path):
    save(tmp_path / name, 3, make_state(3), fingerprint=SPACE)
    step, restored = restore_latest(tmp_path / name, make_state(0), fingerprint=SPACE)
    assert step == 3
    assert_same(restored, make_state(3))


def test_origin_and_notes(tmp_path):
    origin = {"run": "0f" * 8, "seed": 1}
    assert checkpoint.latest(tmp_path, fingerprint=SPACE, origin=origin) is None
    save(tmp_path, 3, make_state(), fingerprint=SPACE, origin=origin, notes="step,loss\n1,0.5\n")
    assert checkpoint.latest(tmp_path, fingerprint=SPACE, origin=origin) == (3, "step,loss\n1,0.5\n")
    assert restore_latest(tmp_path, make_state(), fingerprint=SPACE, origin=origin)[0] == 3
    for other, words in (
        ({"run": "0f" * 8, "seed": 2}, "its seed is 1, expected 2"),
        ({"run": "00" * 8, "seed": 1}, "its run is 0f0f0f0f0f0f0f0f, expected 0000000000000000"),
        ({}, "its run is 0f0f0f0f0f0f0f0f, expected nothing"),
    ):
        for read in (checkpoint.latest, lambda *args, **kwargs: restore_latest(args[0], make_state(), **kwargs)):
            with pytest.raises(CheckpointError, match=f"manifest.json: says that {words}; delete"):
                read(tmp_path, fingerprint=SPACE, origin=other)


def test_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="Not a directory"):
        save(tmp_path / "file" / "below", 1, make_state(), fingerprint=SPACE)


def test_arrays_are_bound_to_a_device_as_in_the_template(tmp_path):
    """A step is compiled once more for arrays that are bound, so a fresh state's stay loose."""
    loose = jnp.arange(3)
    tree = {"loose": loose, "bound": jax.device_put(loose, jax.devices()[0]), "key": jax.random.key(1)}
    save(tmp_path, 1, tree, fingerprint=SPACE)
    _, restored = restore_latest(tmp_path, tree, fingerprint=SPACE)
    assert {name: leaf.committed for name, leaf in restored.items()} == {"loose": False, "bound": True, "key": False}


SAVER = """
import itertools, sys
import jax.numpy as jnp
from jaxnas.runs.checkpoint import save
for step in itertools.count():
    save(sys.argv[1], step, {"x": jnp.full((200, 1000), step)}, fingerprint="0123456789abcdef")
"""


def test_killed_while_saving(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", SAVER, str(tmp_path)], cwd=ROOT)
    while not (tmp_path / "step_00000001").exists() and process.poll() is None:
        time.sleep(0.01)
    while not list(tmp_path.glob(".new_*/tree*")) and process.poll() is None:
        time.sleep(0.001)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    step, restored = restore_latest(tmp_path, {"x": jnp.zeros((200, 1000), jnp.int32)}, fingerprint=SPACE)
    assert step >= 1
    np.testing.assert_array_equal(restored["x"], np.full((200, 1000), step))
    save(tmp_path, step + 1, restored, fingerprint=SPACE)
    assert not list(tmp_path.glob(".*")), "leftovers of the killed process are swept up"


ROWS = [{"step": step, "loss": 1 / (step + 1), "accuracy": np.float32(step / 10)} for step in range(6)]


def written(path: Path, rows, **options) -> str:
    write = csv_metrics(path, **options)
    for row in rows:
        write(row)
    return path.read_text()


def test_resumed_csv_equals_uninterrupted(tmp_path):
    whole = written(tmp_path / "whole.csv", ROWS)
    assert whole.startswith("step,loss,accuracy\n0,1.0,0.0\n1,0.5,0.10000000149011612\n")
    for stopped in range(1, 6):
        for resumed in range(stopped + 1):
            path = tmp_path / f"{stopped}_{resumed}.csv"
            write = csv_metrics(path)
            texts = ["", *(write(row) for row in ROWS[:stopped])]
            assert path.read_text() == texts[-1]
            with path.open("a") as file:
                file.write("9,0.12")  # the process was killed in this row
            assert written(path, ROWS[resumed:], known=texts[resumed]) == whole
            path.unlink()
            assert written(path, ROWS[resumed:], known=texts[resumed]) == whole, "the file may be gone"
    assert written(tmp_path / "whole.csv", ROWS) == whole, "nothing known starts afresh"


WHOLE = "step,loss\n1,0.5\n2,0.25\n"


@pytest.mark.parametrize(
    "content, words",
    [
        ("step,loss\n1,0.6\n2,0.25\n", "line 2 is '1,0.6', but was '1,0.5'"),
        ("step,loss\n1,0.5\n", "line 3 is '', but was '2,0.25'"),
        ("step,loss\n1,0.5", "line 3 is '', but was '2,0.25'"),
        ("step,loss\n1,0.5\n\n2,0.25\n", "line 3 is '', but was '2,0.25'"),
        ("step,loss\n1\n2,0.25\n", "line 2 is '1', but was '1,0.5'"),
        ("step,loss\r\n1,0.5\r\n2,0.25\r\n", r"line 1 is 'step,loss\\r'"),
        ("Dear diary", "line 1 is 'Dear diary', but was 'step,loss'"),
    ],
)
def test_an_edited_csv_is_refused_and_written_again(content, words, tmp_path):
    path = tmp_path / "m.csv"
    path.write_bytes(content.encode())
    with pytest.raises(ValueError, match=rf"m\.csv: {words}.*; delete this file") as refused:
        csv_metrics(path, known=WHOLE)
    assert "\n" not in str(refused.value) and path.read_bytes() == content.encode()
    path.unlink()
    csv_metrics(path, known=WHOLE)
    assert path.read_text() == WHOLE


@pytest.mark.parametrize(
    "content", [b"a,b\n1\n", b"a,b\n1,2\n\n3,4\n", b"a,b\n1,2,3\n", b'a,b\n"1,2\n', b"a,\xff\n1,2\n"]
)
def test_rows_that_are_no_rows(content, tmp_path):
    (tmp_path / "rows.csv").write_bytes(content)
    with pytest.raises(ValueError, match=r"rows\.csv: (row \d has|no CSV file)"):
        read_rows(tmp_path / "rows.csv")
    (tmp_path / "rows.csv").write_bytes(b"a,b\n1,2\n")
    assert read_rows(tmp_path / "rows.csv") == [{"a": "1", "b": "2"}]


def test_every_row_is_in_the_file_at_once(tmp_path):
    write = csv_metrics(tmp_path / "m.csv")
    assert not (tmp_path / "m.csv").exists()
    write({"step": 3, "loss": jnp.float32(float("nan"))})
    assert (tmp_path / "m.csv").read_text() == "step,loss\n3,nan\n"
    write({"loss": 2, "step": 4})
    assert (tmp_path / "m.csv").read_text() == "step,loss\n3,nan\n4,2.0\n"


def test_bad_rows_and_foreign_files(tmp_path):
    path = tmp_path / "m.csv"
    write = csv_metrics(path)
    with pytest.raises(ValueError, match="expected a 'step'"):
        write({"loss": 1.0})
    write(ROWS[0])
    with pytest.raises(ValueError, match="expected the columns of the first"):
        write({"step": 1, "loss": 1.0})
    path.write_text("Dear diary,\nnothing happened\n")
    with pytest.raises(ValueError, match="not a CSV of metrics"):
        csv_metrics(path)
    assert path.read_text() == "Dear diary,\nnothing happened\n"
