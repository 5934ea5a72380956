"""A command that is interrupted ends in one line, also while it still imports."""

import atexit
import contextlib
import os
import signal
import sys
from types import FrameType


def command() -> str | None:
    """The experiment's command that this process is: "python -m experiments.quickstart", "jaxnas quickstart"; None of
    a program of a user's own, of a test or a notebook."""
    given = sys.orig_argv
    if sys.argv[:1] == ["-m"] or getattr(sys.modules["__main__"], "__spec__", None):
        module = given[given.index("-m") + 1] if "-m" in given[:-1] else ""
        return f"python -m {module}" if module.removeprefix("jaxnas.").split(".")[0] == "experiments" else None
    name = os.path.basename(sys.argv[0]) if sys.argv else ""
    return " ".join(["jaxnas", *sys.argv[1:2]]) if name.removesuffix(".exe") == "jaxnas" else None


def end_in_one_line() -> None:
    """Of an experiment's command, have a keyboard interrupt end the process at once: one line on stderr, exit code 130.

    An exception would be caught, printed or forgotten by whatever runs at that moment: imports, destructors, callbacks
    of compiled code. Files are whole at any moment, as for a process that is killed. Where interrupts are ignored, as
    in the background jobs of a shell, they stay so.
    """
    called = command()
    if called is None or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        return
    line = f"\n{called}: interrupted; the same command goes on from the last checkpoint.\n".encode()

    def end(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        with contextlib.suppress(Exception):
            sys.stdout.flush()
        os.write(2, line)
        os._exit(130)

    signal.signal(signal.SIGINT, end)
    # Python's own shutdown would bring back the system's default: death without a word, after all has been written.
    atexit.register(signal.signal, signal.SIGINT, signal.SIG_IGN)
