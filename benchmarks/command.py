"""What the benchmarks have in common as commands: fields by tyro, records and a table, one line for what goes wrong."""

import contextlib
import json
import os
import platform
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax

from jaxnas import runs
from jaxnas.files import replace_file
from jaxnas.runs import workdir

Records = list[dict[str, Any]]
Note = Callable[[dict[str, Any]], None]  # told of what is measured, before it is a record


def main(
    name: str,
    config_class: type,
    quick: Any,
    description: str | None,
    run: Callable[[Any], Records],
    table: Callable[[Records], str],
    argv: Sequence[str] | None,
    *,
    draw: Callable[[Any, Records], None] = lambda config, records: None,
) -> None:
    """Run benchmark `name` by its command line: a table on stdout, or with --json its flat records, each with command
    and commit; --out keeps these.

    Args:
      config_class: a dataclass with the fields quick, json and out; `quick` is its instance behind --quick.
      draw: (config, records) writes pictures.

    Raises:
      SystemExit: 2 after one line on stderr for bad input, routes that disagree, and files that cannot be written.
    """
    from jaxnas.runs.command import one_line_errors, parse_fields  # here: tyro is not wherever `benchmarks.gpu` runs

    prog = f"python -m benchmarks.{name}"
    argv = sys.argv[1:] if argv is None else argv
    with one_line_errors(prog, RuntimeError):
        default = quick if "--quick" in argv else config_class()
        config = runs.check(parse_fields(default, argv, prog=prog, description=description))
        made = {"command": shlex.join([*prog.split(), *argv]), "commit": workdir.commit()}
        records = [record | made for record in run(config)]
        text = json.dumps(records, indent=1)
        if config.out:
            replace_file(config.out, f"{text}\n".encode())
        draw(config, records)
    print(text if config.json else table(records))


def device_name() -> str:
    """The accelerator's name, or the CPU's model and number of cores."""
    device = jax.devices()[0]
    if device.platform != "cpu":
        return device.device_kind
    model = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):  # Linux only
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), model)
    return f"{model}, {os.cpu_count()} cores"


def versions() -> str:
    return ", ".join(f"{name} {version}" for name, version in workdir.versions().items())
