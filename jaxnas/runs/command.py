"""The command line: a configuration's fields as flags, named presets of it, and one line for whatever goes wrong.

`python -m MODULE [PRESET] [--config FILE] [--field value ...] --workdir DIR`

is what an experiment's module answers to once it ends in `main(...)` (`jaxnas NAME ...` for those of an installed
jaxnas): it is then only Config, PRESETS and run, and `jaxnas.runs.workdir` says what DIR holds. Whatever goes wrong
from outside ends in one line and exit code 2; with
JAXNAS_TRACEBACK=1 in the environment the traceback is shown as well.
"""

import contextlib
import copy
import dataclasses
import errno
import io
import os
import re
import shlex
import sys
import time
import traceback
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import jax
import tyro

from jaxnas.checks import OneOf, choice
from jaxnas.runs.compiling import keep_compilations
from jaxnas.runs.config import check, flat, kind_of, kinds, read_fields, replace, with_fields
from jaxnas.runs.devices import devices, failure
from jaxnas.runs.logs import lines_in_files
from jaxnas.runs.page import NAME, found_in, write_report
from jaxnas.runs.processes import Member, joined, left_at_once, own_folder, read_member
from jaxnas.runs.trackers import TRACKERS
from jaxnas.runs.tracking import open_tracker, tracked
from jaxnas.runs.workdir import claim, figures_of, identity, locked, show, write_result

OF_PROCESSES = ("--coordinator", "--num-processes", "--process")
PROCESSES_HELP = (
    "--coordinator HOST:PORT --num-processes N --process P: this is process P of N that run as one, with --mesh; the"
    " first, 0, listens at HOST:PORT."
)
CONFIG_HELP = "--config FILE: fields from a YAML or JSON file or from a workdir's config.json; flags beside it win."


class Arguments(NamedTuple):
    """What a command line says."""

    preset: str  # its name
    config: Any
    workdir: Path
    tracker: str | None
    member: Member | None  # of several processes


def main(
    module: str,
    description: str | None,
    run: Callable[[Any, Path, str], Mapping[str, Any]],
    presets: Mapping[str, Any],
    argv: Sequence[str] | None = None,
) -> None:
    """Run an experiment from the command line, and leave its results in the workdir.

    Args:
      module: what follows `python -m`, as in "experiments.quickstart"; the last part is the experiment's name.
      description: for --help, the module's docstring.
      run: (config, workdir, identity) -> figures, flat: numbers, texts and None by name. It keeps its checkpoints and
        CSVs in workdir, each with the identity as its origin's "run" (`runs.sealed`), and resumes from them when it is
        called again.
      presets: frozen dataclasses of one type by name, of values or of parts (`runs.config`); "quick" is taken when
        none is named.
      argv: the arguments; those of the process when None.

    Raises:
      SystemExit: 2 after one line on stderr for bad input, a full disk and the like; 130 when interrupted.
    """
    name = module.rpartition(".")[2]
    command = f"jaxnas {name}" if module.startswith("jaxnas.") else f"python -m {module}"
    with left_at_once():
        try:
            with lines_in_files(), one_line_errors(command):
                given = parse(command, description, presets, sys.argv[1:] if argv is None else argv)
                with joined(given.member):
                    devices()
                    keep_compilations()
                    if given.member is not None and given.member.process:  # the first one tells how far all are
                        given = given._replace(config=_quiet(given.config), tracker=None)
                    with own_folder(given.workdir, given.member, _claimed(given, name)) as folder:
                        _run(name, command, run, presets, given._replace(workdir=folder))
        except KeyboardInterrupt:
            print(f"\n{command}: interrupted; the same command goes on from the last checkpoint.", file=sys.stderr)
            raise SystemExit(130) from None


@contextlib.contextmanager
def _claimed(given: Arguments, name: str) -> Iterator[None]:
    """The workdir is this run's, and no other process's meanwhile; a finished one is shown, on any disk."""
    with contextlib.nullcontext() if (given.workdir / "result.json").exists() else locked(given.workdir):
        claim(given.workdir, name, given.preset, given.config)
        yield


def _run(
    name: str,
    command: str,
    run: Callable[[Any, Path, str], Mapping[str, Any]],
    presets: Mapping[str, Any],
    given: Arguments,
) -> None:
    """Run what isn't finished, and show what came out."""
    preset, config, workdir, tracker, _ = given
    result = workdir / "result.json"
    run_of = identity(name, config)
    if result.exists():
        print(f"{name}: finished before; delete {result} to have it finished again.")
    else:
        sent_to = None if tracker is None else open_tracker(tracker, workdir, name, config=flat(config))
        if sent_to is not None:
            print(f"tracker {tracker}: {sent_to.backend.look}")
        start = time.perf_counter()
        with tracked(sent_to, workdir):
            figures = run(config, workdir, run_of)
        seconds = time.perf_counter() - start
        values, base = flat(config), flat(presets[preset])
        changed = {field: value for field, value in base.items() if value != values[field]}
        again = " ".join([command, preset, *(_flag(field, values[field]) for field in changed)])
        write_result(workdir, name, preset, config, figures, seconds=seconds, command=again, changed=changed)
        print(f"{name}: finished in {seconds:.1f} s.")
        write_report(workdir)
        if sent_to is not None:
            sent_to.finish(figures_of(result))
    show(workdir, run_of)
    if not (workdir / NAME).exists():  # of a run that was killed before, or that deleted it
        with contextlib.suppress(OSError):  # a disk that can be read only
            write_report(workdir)
    print("\n".join(map(str, found_in(workdir))))


def _quiet(config: Any) -> Any:
    return replace(config, progress=False) if "progress" in flat(config) else config


def parse(command: str, description: str | None, presets: Mapping[str, Any], argv: Sequence[str]) -> Arguments:
    """What the arguments say, or a ValueError that says what is wrong with them."""
    argv, given, name = list(argv), dict[str, Any](), re.split("[. ]", command)[-1]
    member = read_member(*(take_option(option, argv) for option in OF_PROCESSES))
    preset = argv.pop(0) if argv and not argv[0].startswith("-") else None
    if (path := take_option("--config", argv)) is not None:
        of_file, given = read_fields(Path(path), name)
        preset = preset or of_file
    preset = preset or "quick"
    if preset not in presets:
        raise ValueError(f"unknown preset {preset!r}; expected one of {', '.join(presets)}.")
    if not any(re.match("--workdir(=|$)|--help$|-h$", argument) for argument in argv):
        raise ValueError(f"no --workdir, the folder for the results; add for instance --workdir runs/{name}.")
    folder = Annotated[str, tyro.conf.arg(help="folder for the results; on the same one a run resumes")]
    sent_to = tyro.conf.arg(help="figures go there too while it runs; a run that is killed goes on in the same one")
    tracker = Annotated[Annotated[str, OneOf(TRACKERS)] | None, sent_to]
    arguments_type = dataclasses.make_dataclass(
        "Arguments", [("config", type(presets[preset])), ("workdir", folder), ("tracker", tracker)], frozen=True
    )
    base = with_fields(presets[preset], given, f"--config {path}")
    arguments = parse_fields(
        arguments_type(base, tyro.MISSING, None),
        argv,
        prog=f"{command} [PRESET]",
        description="\n".join([(description or "").strip(), "", *_describe(presets), "", CONFIG_HELP, PROCESSES_HELP]),
    )
    if not arguments.workdir.strip():
        raise ValueError("--workdir is empty, expected a folder for the results; --workdir . is the current one.")
    if arguments.tracker is not None:
        choice("tracker", arguments.tracker, TRACKERS)
    if member is not None and flat(arguments.config).get("mesh") is None:
        raise ValueError("--coordinator joins the devices of a mesh; add --mesh, where the experiment has it, of all.")
    return Arguments(preset, check(arguments.config), Path(arguments.workdir), arguments.tracker, member)


def take_option(name: str, argv: list[str]) -> str | None:
    """Remove `name VALUE` or `name=VALUE` from the arguments and return the value; None where it isn't there."""
    for place, argument in enumerate(argv):
        if argument == name and argv[place + 1 : place + 2]:
            del argv[place]
            return argv.pop(place)
        if argument.startswith(f"{name}="):
            return argv.pop(place).partition("=")[2]
        if argument == name:
            raise ValueError(f"{name} has no value; {name} VALUE gives one.")
    return None


def parse_fields(default: Any, argv: Sequence[str], *, prog: str, description: str | None) -> Any:
    """A dataclass like `default` with the fields that `argv` names; a ValueError of one line for what is wrong."""
    box = io.StringIO()
    try:
        with contextlib.redirect_stderr(box):
            described = _with_ranges(default)
            found = tyro.cli(
                type(described),
                args=argv,
                default=described,
                prog=prog,
                description=description,
                config=(tyro.conf.OmitArgPrefixes,),
            )
            return replace(default, **flat(found))
    except SystemExit as stop:
        if not stop.code:  # --help
            raise
        said = _unboxed(box.getvalue())
        if (wrong := re.match("Error parsing --([a-z-]+): .*'(.*)'", said)) is not None:
            name = wrong[1].replace("-", "_")
            said = f"{name} is {wrong[2]!r}, expected {kinds(default)[name]}; --help lists all fields"
        raise ValueError(said) from None


def _flag(field: str, value: Any) -> str:
    """A field's value as the command line takes it."""
    name = field.replace("_", "-")
    if isinstance(value, bool):
        return f"--{'' if value else 'no-'}{name}"
    values = value if isinstance(value, tuple) else (value,)
    return " ".join([f"--{name}", *(shlex.quote(str(each)) for each in values)])


def _with_ranges(default: Any) -> Any:
    """`default` as a dataclass whose types show in --help what a field admits, where tyro knows of the type alone."""
    kind, described, values = type(default), [], {}
    hints = typing.get_type_hints(kind, include_extras=True)
    for field in dataclasses.fields(kind):
        value, hint = getattr(default, field.name), hints[field.name]
        if dataclasses.is_dataclass(value):
            value = _with_ranges(value)
            hint = type(value)
        elif hint is not bool:
            hint = Annotated[hint, tyro.conf.arg(metavar=f"{{{kind_of(hint)}}}")]
        described.append((field.name, hint, copy.copy(field)))
        values[field.name] = value
    made = dataclasses.make_dataclass(kind.__name__, described, bases=(kind,), frozen=True)
    made.__module__, made.__qualname__, made.__doc__ = (
        kind.__module__,
        kind.__qualname__,
        kind.__doc__,
    )  # of the comments
    return made(**values)


@contextlib.contextmanager
def one_line_errors(command: str, *more: type[Exception]) -> Iterator[None]:
    """End the process with one line on stderr and exit code 2 for what comes from outside, and for `more` kinds."""
    kinds: tuple[type[Exception], ...] = (ValueError, OSError, FloatingPointError, *more)
    try:
        yield
    except (*kinds, jax.errors.JaxRuntimeError) as error:
        if os.environ.get("JAXNAS_TRACEBACK"):
            traceback.print_exc()
        said = failure(error) if isinstance(error, jax.errors.JaxRuntimeError) else _one_line(error)
        print(f"{command}: {said}", file=sys.stderr)
        raise SystemExit(2) from None


def _describe(presets: Mapping[str, Any]) -> Iterator[str]:
    """Each preset with the fields in which it differs from the default one, line by line."""
    yield "presets:"
    quick = flat(presets["quick"])
    for name, config in presets.items():
        changes = [f"{field}={value}" for field, value in flat(config).items() if value != quick[field]]
        yield f"  {name}: {' '.join(changes) or 'the default'}"


def _unboxed(text: str) -> str:
    """tyro's box of many lines as one: its first paragraph, and what it thinks was meant."""
    lines = [re.sub("^-+$", "", line.strip("│╰╯─ ")) for line in text.splitlines()]
    lines = lines[1 if text.startswith("╭") else 2 :]  # without its title, which is underlined where there are no boxes
    paragraphs = re.split(r"\n\n+", "\n".join(lines).strip())
    meant = [paragraph for paragraph in paragraphs[1:] if paragraph.startswith("Perhaps you meant")]
    parts = [*paragraphs[:1], *meant, "--help lists all fields"]
    return " ".join("; ".join(part.rstrip(".") for part in parts).split())


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        text += "; make room, then start the same command again."
    return text if len(text) <= 1000 else f"{text[:1000]} ... (JAXNAS_TRACEBACK=1 shows all)"
