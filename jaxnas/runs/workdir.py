"""A run's results folder: which run it holds, one process at a time, and what came out.

config.json says what runs there and is compared when the run is started again: the same configuration goes on (or shows
the result of a finished run), another one is refused. Fields that change no result, such as where the data lie, are
declared with `dataclasses.field(compare=False)` and may differ. What the run is, name and all fields that are compared,
is its identity, which its other files carry (`runs.sealed`). result.json is flat: name, figures, and what made them.
"""

import contextlib
import importlib.metadata
import json
import math
import platform
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import filelock
import jax

from jaxnas.evaluation.planning import num_cores
from jaxnas.files import checksum, decode_json, read_file, replace_file
from jaxnas.runs import sealed
from jaxnas.runs.config import fields, flat

PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "jaxnas")
PROVENANCE = (
    "name",
    "preset",
    "command",
    "changed",
    "seconds",
    "device",
    "num_devices",
    "num_cores",
    "versions",
    "commit",
    "config",
    "run",
    "checksum",
)


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


def identity(name: str, config: Any) -> str:
    """What tells a run from every other one, in 16 hexadecimal digits: SHA-256 of the experiment's name and of all
    fields that are compared."""
    compared = {field.name: _plain(value) for field, value in fields(config) if field.compare}
    return checksum({"name": name, "config": compared})[:16]


def claim(workdir: Path, name: str, preset: str, config: Any) -> str:
    """Write config.json, or check that the one which is there says the same, and return the run's identity.

    Where a run ended before it wrote a file, on bad arguments for instance, another one may begin. Where config.json is
    gone, the other files say whose they are: the same arguments go on, others are refused.
    """
    path, run = workdir / "config.json", identity(name, config)
    wanted = {"name": name, "preset": preset, "config": _plain(flat(config))}
    remedy = "choose another --workdir, or give the same arguments to go on with this one."
    others = [file for file in workdir.rglob("*") if file.is_file() and file != path and file.name[0] != "."]
    if not path.exists():
        told = {file: sealed.run_of(file) for file in others if file.suffix in (".json", ".npz")}
        for file, of_run in told.items():
            if of_run not in (None, run):
                raise ValueError(f"--workdir {workdir} has no config.json, and {file} is of another run; {remedy}")
        if told and not any(told.values()):
            raise ValueError(f"--workdir {workdir} has no config.json, and no file says of which run it is; {remedy}")
    if not path.exists() or not others:
        _write_json(path, wanted)
        return run
    try:
        stored = decode_json(read_file(path))
        held, stored_config = stored["name"], dict(stored["config"])
    except (ValueError, KeyError, TypeError):
        raise ValueError(
            f"{path}: not the configuration of an experiment; delete it, and the arguments that made the files beside"
            " it write it again."
        ) from None
    if held != name:
        raise ValueError(f"--workdir {workdir} holds the experiment {held}, not {name}; {remedy}")
    for field in [field.name for field, _ in fields(config) if field.compare]:
        there, here = stored_config.get(field, "absent"), wanted["config"][field]
        if there != here:
            raise ValueError(f"--workdir {workdir} holds a run with {field}={there!r}, this one has {here!r}; {remedy}")
    return run


def write_result(
    workdir: Path,
    name: str,
    preset: str,
    config: Any,
    figures: Mapping[str, Any],
    *,
    seconds: float,
    command: str,
    changed: Mapping[str, Any],
) -> None:
    """Write result.json: the figures, and beside them what made them; numbers that are not finite become null.
    `changed` are the preset's values where the config has others, `command` starts the run but for its workdir."""
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
        "command": command,
        "changed": _plain(changed),
        "seconds": round(seconds, 3),
        "device": devices[0].device_kind,
        "num_devices": len(devices),
        "num_cores": num_cores(),
        "versions": versions(),
        "commit": commit(),
        "config": _plain(flat(config)),
        "run": identity(name, config),
    }
    _write_json(workdir / "result.json", result | {"checksum": checksum(result)})


def versions() -> dict[str, str | None]:
    """Python's and the packages' versions that a figure may depend on."""
    return {"python": platform.python_version(), **{package: _version(package) for package in PACKAGES}}


def read_result(path: Path) -> dict[str, Any]:
    """What `write_result` wrote; a ValueError where it is damaged, edited or something else."""
    try:
        result: dict[str, Any] = decode_json(read_file(path))
        whole = result.pop("checksum") == checksum(result) and isinstance(result["name"], str)
    except (ValueError, AttributeError, KeyError, TypeError):
        whole = False
    if not whole:
        raise ValueError(f"{path}: damaged, edited or no result; delete it to finish the run again.")
    return result


def figures_of(path: Path) -> dict[str, Any]:
    """The figures of a result.json, without what made them."""
    return {name: value for name, value in read_result(path).items() if name not in PROVENANCE}


def show(workdir: Path, run: str) -> None:
    """Print the figures of result.json, which has to be of the run of that identity, and the files beside it."""
    path = workdir / "result.json"
    result = read_result(path)
    if result.get("run") != run:
        raise ValueError(f"{path}: of another run; delete it to finish the run again.")
    figures = figures_of(path)
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


def commit() -> str | None:
    """The clone's commit, with -dirty if tracked files were changed; None outside a clone."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
