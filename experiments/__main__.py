"""`jaxnas` lists the experiments; `jaxnas NAME [PRESET] [--field value ...] --workdir DIR` runs one;
`jaxnas report DIR [DIR ...]` makes a page of what one came to, or of several side by side.

In a clone that is not installed: `python -m experiments`.
"""

import ast
import os
import re
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path


def experiments() -> dict[str, str]:
    """Name -> how its docstring begins, up to the first full stop or colon."""
    files = sorted(path for path in Path(__file__).parent.glob("*.py") if not path.stem.startswith("_"))
    told = {path.stem: ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "" for path in files}
    return {name: re.split(r"(?<=\?)\s|[.:](?:\s|$)", " ".join(text.split()))[0] for name, text in told.items()}


def report(arguments: Sequence[str]) -> None:
    """Write DIR/report.html, or of several workdirs one page, `--output` (report.html here)."""
    from jaxnas.runs.command import one_line_errors
    from jaxnas.runs.page import NAME, write_comparison, write_report

    with one_line_errors("jaxnas report"):
        workdirs, output = list(arguments), None
        if "--output" in workdirs[:-1]:
            place = workdirs.index("--output")
            output = Path(workdirs[place + 1])
            del workdirs[place : place + 2]
        if unknown := [argument for argument in workdirs if argument.startswith("-")]:
            raise ValueError(f"unknown option {unknown[0]}; expected workdirs, and --output FILE for several.")
        if not workdirs:
            raise ValueError("which workdir? jaxnas report DIR makes DIR/report.html, several DIRs are compared.")
        if len(workdirs) == 1 and output is None:
            print(f"written: {write_report(Path(workdirs[0]))}")
            return
        output = output or Path(NAME)
        for line in write_comparison([Path(workdir) for workdir in workdirs], output):
            print(f"jaxnas report: left out: {line}", file=sys.stderr)
        print(f"written: {output}")


def doctor(arguments: Sequence[str]) -> None:
    """Say what is there and what is wrong; exit code 1 where something is."""
    from jaxnas.runs.doctor import examine
    from jaxnas.runs.doctor import report as tell

    if arguments:
        print(f"jaxnas doctor: takes no arguments, got {arguments[0]!r}.", file=sys.stderr)
        raise SystemExit(2)
    raise SystemExit(1 if tell(examine()) else 0)


def data(arguments: Sequence[str]) -> None:
    """List what others publish, or bring it."""
    from jaxnas.runs.data import main as tell

    tell(arguments)


COMMANDS = {
    "data": (data, "list: what data sets and tables can be had; get NAME: bring one, into --data-dir or JAXNAS_DATA"),
    "doctor": (doctor, "what device, memory, versions, caches and data are there, and what is wrong"),
    "report": (report, "DIR [DIR ...]: a page of what a run came to, or of several side by side"),
}


def main(argv: Sequence[str] | None = None) -> None:
    """Run the experiment that the first argument names with the others, as `python -m` on its module would."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    known = experiments()
    if not arguments or arguments[0] in ("-h", "--help"):
        print(
            "jaxnas NAME [PRESET] [--field value ...] --workdir DIR    (jaxnas NAME --help lists presets and fields)\n"
        )
        print("\n".join(f"{name:18} {sentence}" for name, sentence in known.items()))
        print("\nand:\n" + "\n".join(f"{name:18} {sentence}" for name, (_, sentence) in COMMANDS.items()))
        return
    name = arguments.pop(0)
    if name in COMMANDS:
        return COMMANDS[name][0](arguments)
    if name not in known:
        print(
            f"jaxnas: unknown experiment {name!r}; expected one of {', '.join([*known, *COMMANDS])}.", file=sys.stderr
        )
        raise SystemExit(2)
    sys.argv[1:] = arguments
    sys.path.insert(0, os.getcwd())  # as `python -m` has it: --space finds a module in the folder at hand
    runpy.run_module(f"{__package__}.{name}", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
