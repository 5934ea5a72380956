"""What every experiment's command line and results folder do, so that an experiment is only Config, PRESETS and run.

`python -m experiments.NAME [PRESET] [--field value ...] --workdir DIR`

DIR/config.json says what runs there and is compared when the command is started again: the same configuration resumes
(or shows the result of a finished run), another one is refused. Fields that change no result, such as where the data
lie, are declared with `dataclasses.field(compare=False)` and may differ. DIR/result.json is flat: name, figures, and
what made them. Whatever goes wrong from outside ends in one line and exit code 2; with JAXNAS_TRACEBACK=1 in the
environment the traceback is shown as well.
"""

import contextlib
import csv
import dataclasses
import errno
import fcntl
import importlib.metadata
import io
import json
import math
import os
import platform
import re
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import jax
import tyro

from jaxnas.files import replace_file

PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "jaxnas")
PROVENANCE = ("name", "preset", "seconds", "device", "num_devices", "num_cores", "versions", "commit", "config")


def main(
    name: str,
    run: Callable[[Any, Path], Mapping[str, Any]],
    presets: Mapping[str, Any],
    argv: Sequence[str] | None = None,
) -> None:
    """Run an experiment from the command line, and leave its results in the workdir.

    Args:
      name: the module's, as in `python -m experiments.NAME`.
      run: (config, workdir) -> figures, flat: numbers, texts and None by name. It keeps its checkpoints and CSVs in
        workdir, and resumes from them when it is called again.
      presets: frozen dataclasses of one type by name; "quick" is taken when none is named.
      argv: the arguments; those of the process when None.

    Raises:
      SystemExit: 2 after one line on stderr for bad input, a full disk and the like; 130 when interrupted.
    """
    command = f"python -m experiments.{name}"
    try:
        preset, config, workdir = parse(command, presets, sys.argv[1:] if argv is None else argv)
        keep_compilations()
        with locked(workdir):
            claim(workdir, name, preset, config)
            if (workdir / "result.json").exists():
                print(f"{name}: finished before; delete {workdir / 'result.json'} to have it finished again.")
            else:
                start = time.perf_counter()
                figures = run(config, workdir)
                seconds = time.perf_counter() - start
                write_result(workdir, name, preset, config, figures, seconds=seconds)
                print(f"{name}: finished in {seconds:.1f} s.")
            show(workdir)
    except KeyboardInterrupt:
        print(f"\n{command}: interrupted; the same command goes on from the last checkpoint.", file=sys.stderr)
        raise SystemExit(130) from None
    except (ValueError, OSError, FloatingPointError) as error:
        if os.environ.get("JAXNAS_TRACEBACK"):
            traceback.print_exc()
        print(f"{command}: {_one_line(error)}", file=sys.stderr)
        raise SystemExit(2) from None


def parse(command: str, presets: Mapping[str, Any], argv: Sequence[str]) -> tuple[str, Any, Path]:
    """Return (preset's name, config, workdir); a ValueError that says what is wrong with the arguments."""
    argv = list(argv)
    preset = argv.pop(0) if argv and not argv[0].startswith("-") else "quick"
    if preset not in presets:
        raise ValueError(f"unknown preset {preset!r}; expected one of {', '.join(presets)}.")
    if not any(re.match("--workdir(=|$)|--help$|-h$", argument) for argument in argv):
        name = command.rpartition(".")[2]
        raise ValueError(f"no --workdir, the folder for the results; add for instance --workdir runs/{name}.")
    folder = Annotated[Path, tyro.conf.arg(help="folder for the results; on the same one a run resumes")]
    arguments_type = dataclasses.make_dataclass("Arguments", [("config", type(presets[preset])), ("workdir", folder)])
    settings: dict[str, Any] = {
        "args": argv,
        "default": arguments_type(presets[preset], tyro.MISSING),
        "prog": f"{command} [PRESET]",
        "description": _describe(presets),
        "config": (tyro.conf.OmitArgPrefixes,),
    }
    box = io.StringIO()
    try:
        with contextlib.redirect_stderr(box):
            arguments = tyro.cli(arguments_type, **settings)
    except SystemExit as stop:
        if not stop.code:  # --help
            raise
        raise ValueError(_unboxed(box.getvalue())) from None
    return preset, arguments.config, arguments.workdir


@contextlib.contextmanager
def locked(workdir: Path) -> Iterator[None]:
    """Make the workdir, and keep every other process out of it meanwhile."""
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        file = (workdir / ".lock").open("w")
    except OSError as error:
        raise ValueError(f"cannot write to --workdir {workdir} ({error.strerror}); choose another folder.") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(
                f"another process is running in --workdir {workdir}; wait for it, or choose another folder."
            ) from None
        except OSError:
            pass  # some network drives have no locks; there the user takes care
        yield


def keep_compilations() -> None:
    """Let later runs find what this one compiles: in the user's cache folder, or where JAX_COMPILATION_CACHE_DIR is."""
    if jax.config.jax_compilation_cache_dir is not None:  # type: ignore[attr-defined]
        return
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "jaxnas" / "compiled"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return  # a home that cannot be written: compile each time
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


def claim(workdir: Path, name: str, preset: str, config: Any) -> None:
    """Write config.json, or check that the one which is there says the same; where a run ended before it wrote a file,
    on bad arguments for instance, another one may begin."""
    path = workdir / "config.json"
    wanted = {"name": name, "preset": preset, "config": _plain(dataclasses.asdict(config))}
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
    compared = [field.name for field in dataclasses.fields(config) if field.compare]
    for field in compared:
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
    flat = {key: _plain(value) for key, value in figures.items()}
    nested = [key for key, value in flat.items() if isinstance(value, dict | list)]
    if nested:
        raise TypeError(f"{name}: result.json is flat, but {nested} are not numbers, texts or None.")
    devices = jax.devices()
    result = {
        "name": name,
        "preset": preset,
        **flat,
        "seconds": round(seconds, 3),
        "device": devices[0].device_kind,
        "num_devices": len(devices),
        "num_cores": os.cpu_count(),
        "versions": versions(),
        "commit": _commit(),
        "config": _plain(dataclasses.asdict(config)),
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


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """A CSV file of rows that have the first one's keys; floats to eight digits."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({key: f"{value:.8g}" if isinstance(value, float) else value for key, value in row.items()})
    replace_file(path, text.getvalue().encode())


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file, all values as text."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def _describe(presets: Mapping[str, Any]) -> str:
    """The experiment's docstring, and each preset with the fields in which it differs from the default one."""
    quick = presets["quick"]
    lines = [(sys.modules[type(quick).__module__].__doc__ or "").strip(), "", "presets:"]
    for name, config in presets.items():
        changes = [
            f"{field.name}={getattr(config, field.name)}"
            for field in dataclasses.fields(config)
            if getattr(config, field.name) != getattr(quick, field.name)
        ]
        lines.append(f"  {name}: {' '.join(changes) or 'the default'}")
    return "\n".join(lines)


def _unboxed(text: str) -> str:
    """tyro's box of many lines as one: its first paragraph, and what it thinks was meant."""
    lines = [line.strip("│╰╯─ ") for line in text.splitlines() if not line.startswith("╭")]
    paragraphs = re.split(r"\n\n+", "\n".join(lines).strip())
    meant = [paragraph for paragraph in paragraphs[1:] if paragraph.startswith("Perhaps you meant")]
    parts = [*paragraphs[:1], *meant, "--help lists all fields"]
    return " ".join("; ".join(part.rstrip(".") for part in parts).split())


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        text += "; make room, then start the same command again."
    return text if len(text) <= 1000 else f"{text[:1000]} ... (JAXNAS_TRACEBACK=1 shows all)"


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
