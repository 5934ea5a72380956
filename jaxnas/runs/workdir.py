"""A run's results folder: which run it holds, one process at a time, and what came out.

config.json says what runs there and is compared when the run is started again: the same configuration goes on (or shows
the result of a finished run), another one is refused. Fields that change no result, such as where the data lie, are
declared with `dataclasses.field(compare=False)` and may differ. result.json is flat: name, figures, and what made them.
"""

import contextlib
import importlib.metadata
import json
import math
import os
import platform
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import filelock
import jax

from jaxnas.files import replace_file
from jaxnas.runs.config import fields, flat

PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "jaxnas")
PROVENANCE = ("name", "preset", "seconds", "device", "num_devices", "num_cores", "versions", "commit", "config")


@contextlib.contextmanager
def locked(workdir: Path) -> Iterator[None]:
    """Make the workdir, and keep every other process out of it meanwhile."""
    lock = filelock.FileLock(workdir / ".lock", timeout=0)
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except filelock.Timeout:
        raise ValueError(
            f"another process is running in --workdir {workdir}; wait for it, or choose another folder."
        ) from None
    except OSError as error:
        raise ValueError(f"cannot write to --workdir {workdir} ({error.strerror}); choose another folder.") from None
    except NotImplementedError:
        pass  # some network drives have no locks; there the user takes care
    try:
        yield
    finally:
        lock.release()


def claim(workdir: Path, name: str, preset: str, config: Any) -> None:
    """Write config.json, or check that the one which is there says the same; where a run ended before it wrote a file,
    on bad arguments for instance, another one may begin."""
    path = workdir / "config.json"
    wanted = {"name": name, "preset": preset, "config": _plain(flat(config))}
    others = (file for file in workdir.rglob("*") if file.is_file() and file != path and file.name[0] != ".")
    if not path.exists() or not any(others):
        return _write_json(path, wanted)
    remedy = "choose another --workdir, or give the same arguments to go on with this one."
    try:
        stored = json.loads(path.read_text())
        held, stored_config = stored["name"], dict(stored["config"])
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{path}: not the configuration of an experiment; choose another --workdir.") from None
    if held != name:
        raise ValueError(f"--workdir {workdir} holds the experiment {held}, not {name}; {remedy}")
    for field in [field.name for field, _ in fields(config) if field.compare]:
        there, here = stored_config.get(field, "absent"), wanted["config"][field]
        if there != here:
            raise ValueError(f"--workdir {workdir} holds a run with {field}={there!r}, this one has {here!r}; {remedy}")


def write_result(
    workdir: Path, name: str, preset: str, config: Any, figures: Mapping[str, Any], *, seconds: float
) -> None:
    """Write result.json: the figures, and beside them what made them; numbers that are not finite become null."""
    clashes = sorted(set(figures) & set(PROVENANCE))
    if clashes:
        raise KeyError(f"{name}: figures named {clashes} would hide what result.json says of the run itself.")
    plain = {key: _plain(value) for key, value in figures.items()}
    nested = [key for key, value in plain.items() if isinstance(value, dict | list)]
    if nested:
        raise TypeError(f"{name}: result.json is flat, but {nested} are not numbers, texts or None.")
    devices = jax.devices()
    result = {
        "name": name,
        "preset": preset,
        **plain,
        "seconds": round(seconds, 3),
        "device": devices[0].device_kind,
        "num_devices": len(devices),
        "num_cores": os.cpu_count(),
        "versions": versions(),
        "commit": _commit(),
        "config": _plain(flat(config)),
    }
    _write_json(workdir / "result.json", result)


def versions() -> dict[str, str | None]:
    """Python's and the packages' versions that a figure may depend on."""
    return {"python": platform.python_version(), **{package: _version(package) for package in PACKAGES}}


def show(workdir: Path) -> None:
    """Print the figures of result.json, one a line, and the files beside it."""
    path = workdir / "result.json"
    try:
        result = json.loads(path.read_text())
        figures = {key: value for key, value in result.items() if key not in PROVENANCE}
    except (ValueError, AttributeError):
        raise ValueError(f"{path}: not a result; delete it to finish the run again.") from None
    width = max(map(len, figures), default=0)
    for key, value in figures.items():
        print(f"  {key:{width}}  {value:.4g}" if isinstance(value, float) else f"  {key:{width}}  {value}")
    files = sorted(path.name for path in workdir.iterdir() if path.is_file() and not path.name.startswith("."))
    print(f"in {workdir}: {', '.join(files)}")


def _plain(value: Any) -> Any:
    """`value` as JSON has it: NumPy and jax numbers as Python's, paths as text, tuples as lists, NaN as None."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"cannot write {value!r} of type {type(value).__name__} to JSON.")


def _write_json(path: Path, content: Any) -> None:
    replace_file(path, (json.dumps(content, indent=2, allow_nan=False) + "\n").encode())


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The clone's commit, with -dirty if tracked files were changed; None outside a clone."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
