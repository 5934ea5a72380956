"""Checkpoints of any pytree of arrays, from which a run goes on exactly.

A checkpoint is a folder `step_00000100` with the arrays as Orbax writes them (`tree/`) and a sealed manifest
(`runs.sealed`): what it belongs to, step, fingerprint of the search space, shape and dtype of each leaf, notes, and
SHA-256 of each file, since Orbax alone restores a flipped byte without a word. A folder appears under its name only
when it is whole. One process writes; of several that run as one, each in a folder of its own (`runs.processes`).
"""

import contextlib
import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from jaxnas.runs import sealed

_STEP = "step_"
_KIND = "checkpoint"
OTHERS = "leaves"


class CheckpointError(ValueError):
    """A checkpoint that cannot be written, or is damaged, of another space, or of another tree."""


class Latest(NamedTuple):
    """What the newest checkpoint says of itself."""

    step: int
    notes: str  # as `save` was given them


def save(
    directory: str | os.PathLike[str],
    step: int,
    tree: chex.ArrayTree,
    *,
    fingerprint: str,
    origin: sealed.Origin = sealed.NOWHERE,
    notes: str = "",
    keep: int = 2,
) -> Path:
    """Write `tree` as the checkpoint of `step`, then delete all but the newest `keep`; return its folder.

    Args:
      directory: where the steps' folders lie; made if it isn't there.
      step: at least 0. A checkpoint of the same step is replaced.
      tree: any pytree of jax or NumPy arrays and numbers; keys old (uint32) and typed (`jax.random.key`).
        Orbax stores no array of size 0.
      fingerprint: `SearchSpace.fingerprint` of what was trained.
      origin: what it belongs to (`runs.sealed`), such as the run's identity and the seed.
      notes: any text to be kept beside the arrays.
      keep: how many checkpoints stay, at least 1.

    Raises:
      CheckpointError: it cannot be written, a full disk for instance. What was there before stays.
    """
    directory = Path(directory).absolute()
    final = directory / f"{_STEP}{step:08d}"
    # Hidden names: never mistaken for a checkpoint, and swept up by the next save if this process is killed.
    temp, replaced = directory / f".new_{final.name}", directory / f".old_{final.name}"
    tree = jax.tree.map(_storable, tree)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        _bring_back(directory)
        for leftover in directory.glob(f".*_{_STEP}*"):
            shutil.rmtree(leftover)
        _check_space(directory, sum(leaf.nbytes for leaf in jax.tree.leaves(tree)))
        temp.mkdir()
        with _reachable(temp) as folder:
            _write(folder / "tree", tree)
        content = {
            "step": step,
            "fingerprint": fingerprint,
            "leaves": _describe(tree),
            "files": _hash_files(temp),
            "notes": notes,
        }
        sealed.write_json(temp / "manifest.json", _KIND, content, origin)
        if final.exists():
            final.rename(replaced)
        temp.rename(final)
    except Exception as error:  # TensorStore has its own types for what goes wrong with files
        shutil.rmtree(temp, ignore_errors=True)
        with contextlib.suppress(OSError):
            _bring_back(directory)
        raise CheckpointError(f"{final}: cannot write the checkpoint: {_one_line(error)}") from error
    for old in [replaced, *_step_folders(directory)[:-keep]]:
        shutil.rmtree(old, ignore_errors=True)
    return final


def latest(
    directory: str | os.PathLike[str], *, fingerprint: str, origin: sealed.Origin = sealed.NOWHERE
) -> Latest | None:
    """What the newest checkpoint says of itself, or None where there is none; arguments and errors as for
    `restore_latest`, but the arrays are neither read nor checked."""
    folder = _newest(Path(directory).absolute())
    if folder is None:
        return None
    manifest = _read_manifest(folder, fingerprint, origin)
    return Latest(manifest["step"], manifest["notes"])


def restore_latest(
    directory: str | os.PathLike[str],
    template: chex.ArrayTree,
    *,
    fingerprint: str,
    origin: sealed.Origin = sealed.NOWHERE,
) -> tuple[int, chex.ArrayTree] | None:
    """Read the newest checkpoint: (step, tree), or None where there is none.

    Args:
      directory: as given to `save`.
      template: a tree of the same structure, shapes and dtypes, say the freshly initialised state. jax arrays come
        back with the template's sharding, or bound to no device as it is, everything else as NumPy arrays.
      fingerprint: that of the space which the tree belongs to.
      origin: as given to `save`.

    Raises:
      CheckpointError: damaged or truncated files, another space or origin, other leaves, shapes or dtypes. An older
        checkpoint is not taken silently instead: delete the folder that the message names to go on from the one before.
    """
    folder = _newest(Path(directory).absolute())
    if folder is None:
        return None
    remedy = _remedy(folder)
    manifest = _read_manifest(folder, fingerprint, origin)
    expected = jax.tree.map(_storable, template)
    _check_leaves(folder, manifest["leaves"], _describe(expected))
    _check_files(folder, manifest["files"], remedy)
    try:
        with _reachable(folder) as reachable:
            tree = _read(reachable / "tree", expected)
    except Exception as error:
        raise CheckpointError(f"{folder}: Orbax cannot read it ({_one_line(error)}); {remedy}.") from error
    return manifest["step"], jax.tree.map(_as_template, template, tree)


def _write(folder: Path, tree: chex.ArrayTree) -> None:
    if jax.process_index():  # Orbax writes NumPy arrays in the first process alone; others keep them for themselves
        folder.mkdir()
        (folder / OTHERS).write_bytes(b"".join(leaf.tobytes() for leaf in jax.tree.leaves(tree)))
        return
    with _checkpointer() as checkpointer:
        checkpointer.save(folder, args=ocp.args.StandardSave(tree))


def _read(folder: Path, expected: chex.ArrayTree) -> chex.ArrayTree:
    """The arrays, of shapes and dtypes as expected."""
    if (folder / OTHERS).exists():
        with (folder / OTHERS).open("rb") as file:
            one = lambda leaf: np.frombuffer(file.read(leaf.nbytes), leaf.dtype).reshape(leaf.shape).copy()  # noqa: E731
            return jax.tree.map(one, expected)
    with _checkpointer() as checkpointer:
        return checkpointer.restore(folder, args=ocp.args.StandardRestore(expected))


def _checkpointer() -> ocp.Checkpointer:
    here = jax.process_index()  # of several processes none waits for the others
    options = ocp.options.MultiprocessingOptions(
        primary_host=here, active_processes={here}, barrier_sync_key_prefix=f"process{here}"
    )
    return ocp.Checkpointer(
        ocp.StandardCheckpointHandler(multiprocessing_options=options), multiprocessing_options=options
    )


@contextlib.contextmanager
def _reachable(folder: Path) -> Iterator[Path]:
    """The folder under a name that Orbax takes literally: it reads [x] as a pattern, TensorStore a backslash as a slash
    (both would write what cannot be read again)."""
    if not set(folder.as_posix()) & set("[]*?\\"):
        yield folder
        return
    with tempfile.TemporaryDirectory() as plain:
        link = Path(plain) / "checkpoint"
        link.symlink_to(folder, target_is_directory=True)
        yield link


def _newest(directory: Path) -> Path | None:
    _bring_back(directory)
    return max(_step_folders(directory), default=None, key=_order)


def _bring_back(directory: Path) -> None:
    """Give a checkpoint its name again that was put aside for one which then did not take its place."""
    for replaced in directory.glob(f".old_{_STEP}*"):
        final = directory / replaced.name.removeprefix(".old_")
        if not final.exists():
            replaced.rename(final)


def _step_folders(directory: Path) -> list[Path]:
    return sorted(directory.glob(f"{_STEP}*"), key=_order)


def _order(folder: Path) -> tuple[int, str]:
    return len(folder.name), folder.name


def _is_typed_key(leaf: Any) -> bool:
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _storable(leaf: Any) -> np.ndarray:
    """A leaf on the host, where Orbax asks nothing of meshes and of other processes; a typed key as its bits."""
    return np.asarray(jax.random.key_data(leaf) if _is_typed_key(leaf) else leaf)


def _as_template(leaf: Any, restored: np.ndarray) -> Any:
    if not isinstance(leaf, jax.Array):
        return restored
    of_key = _is_typed_key(leaf)
    if leaf.committed:
        placed = jax.device_put(restored, (jax.random.key_data(leaf) if of_key else leaf).sharding)
    else:
        placed = jnp.asarray(restored)  # what is bound to a device has JAX compile a step again
    return jax.random.wrap_key_data(placed, impl=jax.random.key_impl(leaf)) if of_key else placed


def _check_space(directory: Path, num_bytes: int) -> None:
    """Refuse before Orbax begins: on a full disk its threads print hundreds of lines."""
    free = shutil.disk_usage(directory).free
    needed = num_bytes + 2**20  # compressed, but with an index and metadata
    if free < needed:
        raise OSError(
            errno.ENOSPC, f"{needed / 2**20:.1f} MiB needed, {free / 2**20:.1f} MiB free; make room and start again"
        )


def _describe(tree: chex.ArrayTree) -> dict[str, str]:
    """Each leaf's path and what it is: {"['params']['stem']": "float32[3, 3]"}."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path): f"{leaf.dtype}{list(leaf.shape)}" for path, leaf in leaves}


def _hash_files(folder: Path) -> dict[str, str]:
    """SHA-256 of every file in the folder's `tree`, each forced to disk on the way."""
    hashes = {}
    for path in sorted(path for path in (folder / "tree").rglob("*") if path.is_file()):
        with path.open("rb") as file:
            hashes[path.relative_to(folder).as_posix()] = hashlib.file_digest(file, "sha256").hexdigest()
            os.fsync(file.fileno())
    return hashes


def _remedy(folder: Path) -> str:
    return f"delete {folder} to go on from the checkpoint before it, or from the start"


def _read_manifest(folder: Path, fingerprint: str, origin: sealed.Origin) -> dict[str, Any]:
    """The content of a manifest that was checked in itself, and is of this space, origin and folder."""
    path, remedy = folder / "manifest.json", _remedy(folder)
    try:
        manifest = sealed.read_json(path, _KIND, origin, remedy=remedy)
        types = [type(manifest[name]) for name in ("step", "fingerprint", "leaves", "files", "notes")]
        whole = types == [int, str, dict, dict, str] and folder.name == f"{_STEP}{manifest['step']:08d}"
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror}); {remedy}.") from None
    except ValueError as error:
        raise CheckpointError(str(error)) from None
    except (KeyError, TypeError):
        whole = False
    if not whole:
        raise CheckpointError(f"{path}: not the manifest of this checkpoint; {remedy}.")
    if manifest["fingerprint"] != fingerprint:
        raise CheckpointError(
            f"{folder}: belongs to the search space {manifest['fingerprint']}, expected {fingerprint};"
            " use the space that it was trained with, or another folder."
        )
    return manifest


def _check_leaves(folder: Path, stored: dict[str, str], expected: dict[str, str]) -> None:
    for name in [*expected, *stored]:
        if stored.get(name) != expected.get(name):
            raise CheckpointError(
                f"{folder}: leaf {name} is {stored.get(name, 'absent')}, expected {expected.get(name, 'none')};"
                " restore with the configuration that it was saved with, or use another folder."
            )


def _check_files(folder: Path, expected: dict[str, str], remedy: str) -> None:
    found = _hash_files(folder)
    for name in [*expected, *found]:
        if name not in found or name not in expected or found[name] != expected[name]:
            what = "is missing" if name not in found else "is not part of it" if name not in expected else "is damaged"
            raise CheckpointError(f"{folder / name}: this file of a checkpoint {what}; {remedy}.")


def _one_line(error: Exception) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror else f"{type(error).__name__}: {error}"
    return " ".join(text.split())[:600]
