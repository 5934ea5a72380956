"""Several processes that train, score and search as one, on one machine or several that share a file system.

Each is the same command with `--coordinator HOST:PORT --num-processes N --process P`: P is its number, and the first,
number 0, listens at HOST:PORT. The devices of all make one mesh (`--mesh`), and each runs the same program on the same
files. Those in the workdir are the first one's; every other process works on a copy of its own, made when the run
begins and thrown away when it ends. So all find the same, and a process that is killed at whatever moment leaves behind
what a single one would: started again, all of them go on from there.
"""

import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax

PATIENCE = 60  # seconds until a process that is not heard of counts as gone
# What JAX, XLA and Gloo say where another process is gone, and what is said instead.
LOST = re.compile("gloo|coordination|unavailable|deadline|connection (closed|reset|refused)|heartbeat", re.IGNORECASE)
GONE = (
    "another process is gone or cannot be reached: where it says why, mend that, then start all of them again with the"
    " same arguments, and the run goes on."
)
FILTER = """
import os, sys
while said := os.read(0, 65536):
    if b"coordination service" in said or b"distributed service" in said:
        print(sys.argv[1], file=sys.stderr, flush=True)
        break
    os.write(2, said)
while os.read(0, 65536):
    pass
"""


class Member(NamedTuple):
    """Which of the processes this one is."""

    coordinator: str
    num_processes: int
    process: int


def read_member(coordinator: str | None, num_processes: str | None, process: str | None) -> Member | None:
    """What the three options say; None where there are none.

    Raises:
      ValueError: not all of them, or values that are none.
    """
    given = (coordinator, num_processes, process)
    if given == (None, None, None):
        return None
    if coordinator is None or num_processes is None or process is None:
        raise ValueError("--coordinator, --num-processes and --process belong together; give all three or none.")
    if not re.fullmatch(r"[\w.\-]+:\d{1,5}", coordinator):
        raise ValueError(f"coordinator is {coordinator!r}, expected HOST:PORT of the first process.")
    if not num_processes.isdecimal() or int(num_processes) < 2:
        raise ValueError(f"num_processes is {num_processes!r}, expected a whole number from 2 on.")
    if not process.isdecimal() or int(process) >= int(num_processes):
        raise ValueError(f"process is {process!r}, expected 0 to {int(num_processes) - 1}.")
    return Member(coordinator, int(num_processes), int(process))


@contextlib.contextmanager
def joined(member: Member | None) -> Iterator[None]:
    """Join the others, and stay until all are done; only the first one prints. None: alone, nothing happens.

    Raises:
      ValueError: another process has gone, or the first one is not reached.
    """
    if member is None:
        yield
        return
    try:
        _one_line_of_xla()
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.config.update("jax_enable_preemption_service", False)  # which would keep SIGTERM from ending a process
        jax.distributed.initialize(*member, initialization_timeout=PATIENCE, heartbeat_timeout_seconds=PATIENCE)
        with (
            open(os.devnull, "w", encoding="utf-8") as nowhere,
            contextlib.redirect_stdout(nowhere if member.process else sys.stdout),
        ):
            yield
            wait("the end")
    except (ValueError, RuntimeError) as error:
        if not LOST.search(str(error)):
            raise
        raise ValueError(GONE) from error


def _one_line_of_xla() -> None:
    """Where the first process is gone, a thread of XLA ends this one, with many lines that Python cannot keep back: let
    stderr pass through a process of its own, which makes one of them."""
    through = subprocess.Popen([sys.executable, "-c", FILTER, GONE], stdin=subprocess.PIPE, start_new_session=True)
    assert through.stdin is not None
    os.dup2(through.stdin.fileno(), 2)


@contextlib.contextmanager
def left_at_once() -> Iterator[None]:
    """End this process where its part ends, if it has joined others: a usual end waits minutes for those that are
    gone."""
    code: Any = 0
    try:
        yield
    except BaseException as error:
        if not jax.distributed.is_initialized():
            raise
        code = error.code if isinstance(error, SystemExit) else 1
        if not isinstance(error, SystemExit):
            traceback.print_exc()
    if jax.distributed.is_initialized():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 1)


@contextlib.contextmanager
def own_folder(
    workdir: Path, member: Member | None, claimed: contextlib.AbstractContextManager[None]
) -> Iterator[Path]:
    """Where this process reads and writes: the workdir, which the first one claims, or a copy of it.

    Raises:
      ValueError: a process that doesn't see the workdir of the first.
    """
    if member is None or member.process == 0:
        with claimed:
            if member is not None:
                wait("the workdir is claimed")
                wait("the workdir is copied")
            yield workdir
        return
    wait("the workdir is claimed")
    if not (workdir / "config.json").exists():
        raise ValueError(f"--workdir {workdir} is not seen by all processes; choose a folder that they share.")
    with tempfile.TemporaryDirectory(prefix="jaxnas-") as folder:
        copied = Path(folder) / "run"
        shutil.copytree(workdir, copied, ignore=shutil.ignore_patterns(".lock"))
        wait("the workdir is copied")
        yield copied


def wait(what: str) -> None:
    """Until all processes are here."""
    from jax.experimental import multihost_utils

    multihost_utils.sync_global_devices(what)
