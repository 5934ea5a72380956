"""Several processes as one run: what their options say, and that they end as one process does, killed or not."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from kills import untimed

from experiments import pcnas
from jaxnas.runs import command, processes
from jaxnas.runs.processes import Member, read_member

ROOT = Path(__file__).parents[1]
SPACE = """
from jaxnas.space import ChainLayout
from jaxnas.spaces import chain_space

layout = ChainLayout(stem_width=2, widths=(2, 3, 4), strides=(1, 2, 1), head_width=4, image_size=8, in_channels=1)
space = chain_space("little", layout, [("identity", "nor_conv_1x1"), ("identity", "nor_conv_3x3")] + [("mb2_k3",)])
"""


@pytest.mark.parametrize(
    "given, message",
    [
        (("here:1", None, "0"), "belong together"),
        (("here", "2", "0"), "coordinator is 'here', expected HOST:PORT"),
        (("here:1", "1", "0"), "num_processes is '1', expected a whole number from 2 on"),
        (("here:1", "2", "2"), "process is '2', expected 0 to 1"),
    ],
)
def test_options_are_refused_in_one_line(given, message):
    with pytest.raises(ValueError, match=message):
        read_member(*given)
    assert read_member(None, None, None) is None
    assert read_member("here:1", "2", "1") == Member("here:1", 2, 1)


def test_processes_without_a_mesh_are_refused():
    argv = ["tiny", "--workdir", "runs", "--coordinator", "here:1", "--num-processes", "2", "--process", "0"]
    with pytest.raises(ValueError, match="add --mesh"):
        command.parse("python -m experiments.pcnas", None, pcnas.PRESETS, argv)
    given = command.parse("python -m experiments.pcnas", None, pcnas.PRESETS, [*argv, "--mesh", "archs=1,data=2"])
    assert given.member == Member("here:1", 2, 0) and given.config.training.mesh == "archs=1,data=2"


def begin(workdir: Path, *arguments: str, num_devices: int = 1) -> subprocess.Popen[str]:
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={num_devices}"
    task = ["--space", f"{workdir.parent / 'space.py'}:space", "--limit", "macs:1e5", "--retrain", "none"]
    command = [sys.executable, "-m", "experiments.pcnas", "tiny", "--workdir", str(workdir), *task, *arguments]
    env = os.environ | {"XLA_FLAGS": flags}
    command += ["--mesh", "archs=1,data=2"]
    return subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def both(workdir: Path) -> list[subprocess.Popen[str]]:
    """Two processes that join each other."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    joined = ["--coordinator", f"127.0.0.1:{port}", "--num-processes", "2", "--process"]
    return [begin(workdir, *joined, str(process)) for process in range(2)]


def close(got, expected) -> bool:
    """Figures and names, numbers to what another order of sums costs."""
    if isinstance(expected, dict):
        return got.keys() == expected.keys() and all(close(got[key], expected[key]) for key in expected)
    if isinstance(expected, list):
        return len(got) == len(expected) and all(map(close, got, expected))
    return got == (pytest.approx(expected, rel=1e-4, abs=1e-5) if isinstance(expected, float) else expected)


@pytest.mark.slow("two processes train, score and search as one, and are killed three times")
def test_two_processes_are_one(tmp_path):
    """PC-NAS whose second process is killed in the training, whose first while it writes a checkpoint, whose second
    again while it scores: the survivor ends in one line, and all end as one process with two devices does."""
    (tmp_path / "space.py").write_text(SPACE)
    workdir = tmp_path / "two"
    for target, killed in (
        ("seed0/warm_up/checkpoints/step_*", 1),
        ("seed0/narrowed/02/checkpoints", 0),
        ("seed0/narrowed/02/midway.npz", 1),
    ):
        members = both(workdir)
        while not any(workdir.glob(target)):
            assert [member.poll() for member in members] == [None, None], [member.communicate() for member in members]
            time.sleep(0.002)
        members[killed].kill()
        _, said = members[1 - killed].communicate(timeout=90)
        lines = [line for line in said.splitlines() if processes.GONE in line]
        assert len(lines) == 1 and said.splitlines()[-1] == lines[0], said
        assert not (workdir / "result.json").exists()
        members[killed].communicate()
    members = both(workdir)
    ended = [member.communicate(timeout=300) for member in members]
    assert [member.returncode for member in members] == [0, 0], ended
    assert "found" in ended[0][0] and "found" not in ended[1][0]  # the first one tells
    alone = begin(tmp_path / "one", num_devices=2)
    assert alone.communicate(timeout=300)[1] is not None and alone.returncode == 0
    for name in ("result.json", "seed0/narrowed/04/pool.json", "found.json"):
        got, expected = (json.loads((tmp_path / run / name).read_text()) for run in ("two", "one"))
        assert close(untimed("pcnas", got), untimed("pcnas", expected)), name
