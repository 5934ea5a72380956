"""A command that is interrupted while it imports, at the worst moment: inside code that catches everything."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# In the place of jax, the first large package that is imported.
STUB = """
import os, signal
try:
    os.kill(os.getpid(), signal.SIGINT)
    [None for _ in range(1000)]
except BaseException as error:
    caught = type(error).__name__
else:
    caught = "nothing"
raise SystemExit(f"went on, caught {caught}")
"""
SCRIPT = "from experiments.__main__ import main\nmain()\n"


def run(tmp_path: Path, command: str, handler: signal.Handlers) -> tuple[int, str]:
    """Exit code and stderr of `python COMMAND` with the stub, where interrupts are handled so at the start."""
    (tmp_path / "jax.py").write_text(STUB)
    for name in ("jaxnas", "tool.py"):
        (tmp_path / name).write_text(SCRIPT)
    arguments = [str(tmp_path / word) if (tmp_path / word).exists() else word for word in command.split()]
    launch = f"import os, signal, sys; signal.signal(signal.SIGINT, signal.{handler.name}); os.execv(sys.executable,"
    done = subprocess.run(  # not by preexec_fn: JAX warns of forks
        [sys.executable, "-c", f"{launch} [sys.executable, *sys.argv[1:]])", *arguments, "tiny", "--workdir", "run"],
        env=os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stderr.strip()


@pytest.mark.parametrize(
    "command, called",
    [
        ("-m experiments.quickstart", "python -m experiments.quickstart"),
        ("-m experiments quickstart", "python -m experiments"),
        ("jaxnas quickstart", "jaxnas quickstart"),
    ],
)
def test_a_command_ends_in_one_line(command, called, tmp_path):
    code, line = run(tmp_path, command, signal.SIG_DFL)
    assert (code, line) == (130, f"{called}: interrupted; the same command goes on from the last checkpoint.")


def test_another_program_is_left_alone(tmp_path):
    assert run(tmp_path, "tool.py quickstart", signal.SIG_DFL) == (1, "went on, caught KeyboardInterrupt")


def test_where_interrupts_are_ignored_they_stay_so(tmp_path):
    assert run(tmp_path, "-m experiments.quickstart", signal.SIG_IGN) == (1, "went on, caught nothing")
