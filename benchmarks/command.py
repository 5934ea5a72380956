"""What the benchmarks have in common as commands: fields by tyro, records and a table, one line for what goes wrong."""

import contextlib
import importlib.metadata
import io
import json
import os
import platform
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import tyro

from jaxnas.files import replace_file

Records = list[dict[str, Any]]


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
    """Run benchmark `name` by its command line: a table on stdout, or with --json its flat records; --out keeps these.

    Args:
      config_class: a dataclass with the fields quick, json and out; `quick` is its instance behind --quick.
      draw: (config, records) writes pictures.

    Raises:
      SystemExit: 2 after one line on stderr for bad input, routes that disagree, and files that cannot be written.
    """
    prog = f"python -m benchmarks.{name}"
    try:
        config = _parse(config_class, quick, prog, description, sys.argv[1:] if argv is None else argv)
        records = run(config)
        text = json.dumps(records, indent=1)
        if config.out:
            replace_file(config.out, f"{text}\n".encode())
        draw(config, records)
    except (ValueError, OSError, RuntimeError) as error:
        print(f"{prog}: {' '.join(str(error).split())}", file=sys.stderr)
        raise SystemExit(2) from None
    print(text if config.json else table(records))


def _parse(config_class: type, quick: Any, prog: str, description: str | None, argv: Sequence[str]) -> Any:
    """The command line as a config; a ValueError of one line for what tyro would put in a box."""
    default = quick if "--quick" in argv else config_class()
    box = io.StringIO()
    try:
        with contextlib.redirect_stderr(box):
            return tyro.cli(config_class, args=argv, default=default, prog=prog, description=description)
    except SystemExit as stop:
        if not stop.code:  # --help
            raise
        lines = [line.strip("│╰╯─ ") for line in box.getvalue().splitlines() if not line.startswith("╭")]
        said = "\n".join(lines).strip().split("\n\n")[0]  # tyro's box, up to the first blank line
        raise ValueError(f"{said.rstrip('.')}; --help lists all fields.") from None


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
    packages = ("jax", "jaxlib", "flax", "numpy")
    found = ", ".join(f"{package} {importlib.metadata.version(package)}" for package in packages)
    return f"python {platform.python_version()}, {found}"
