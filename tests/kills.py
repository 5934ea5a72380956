"""Kill every experiment again and again, at fixed and random moments, and compare what it ends with.

    python tests/kills.py --num-kills 150 --num-interrupts 40 --output results/kills.json

No test that pytest runs: it takes an hour of one core. Each experiment's `tiny` preset runs once undisturbed. Then, in
turn, each is started in a new workdir, struck, started again, up to `PER_RUN` times, and at last left to finish:
figures (but seconds), scores, curves, pools and rows must be the same bit for bit. Fixed moments are those at which a
file appears that the undisturbed run left, drawn from all of them; random ones are drawn from its seconds. Of an
interrupt the process must end with one line on stderr and exit code 130; before a fifth of a second, Python itself
still starts. measure_latency measures anew, so of it only what is no measurement is compared.
"""

import argparse
import collections
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

ROOT = Path(__file__).parents[1]
EXPERIMENTS = {
    "quickstart": [],
    "rank_correlation": ["--num-seeds", "2", "--num-snapshots", "2"],
    "landmark": [],
    "landmark_search": [],
    "supernet_factors": [],
    "pcnas": ["--num-seeds", "2"],
    "search_compare": [],
    "search_phase": [],
    "pareto": [],
    "pareto_compare": [],
    "darts_cells": [],
    "space_size": [],
    "posterior_fading": [],
    "label_budget": [],
    "build_table": [],
    "measure_latency": [],
    "retrain": [],
    "detection": [],
    "reidentification": [],
}
PER_RUN = 6
NAMELESS = r"/\.[^/]*$|/d/[0-9a-f]+$"  # hidden, or called otherwise in each run
TIMED = re.compile(r"seconds|_per_s$|^measured_latency_ms$|^commit$|^checksum$|^versions$")
MEASURED = re.compile(r"_ms$|spearman|kendall|error|spread|scattered|^scale$")
PHASES = {
    "checkpoint": r"checkpoints/",
    "training": r"training\.csv$|trainings/",
    "scoring": r"scores_|curve_|midway|final\.npz|blocks/",
    "search": r"pool\.json$|search/|searches/",
    "outcome": r"",
}


class Undisturbed(NamedTuple):
    """A run that nothing happened to."""

    workdir: Path
    seconds: float
    files: list[str]  # in the order in which they appeared


class Strike(NamedTuple):
    """One signal that hit a living process."""

    experiment: str
    signal: str
    phase: str
    at: str  # the file that had just appeared, or the second
    code: int
    stderr: str


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-kills", type=int, default=150)
    parser.add_argument("--num-interrupts", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=EXPERIMENTS, nargs="*", default=list(EXPERIMENTS))
    parser.add_argument("--output", type=Path)
    parser.add_argument("--compiled", type=Path, help="folder of programs that an earlier run compiled")
    given = parser.parse_args()
    rng = np.random.default_rng(given.seed)
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        if given.compiled:
            (here / "compiled").symlink_to(given.compiled.absolute())
        runs = {name: undisturbed(name, here) for name in given.only}
        strikes: list[Strike] = []
        failures: list[str] = []
        round_number, total = 0, given.num_kills + given.num_interrupts
        while len(strikes) < total:
            name = given.only[round_number % len(given.only)]
            killed = len(strikes) < given.num_kills
            number = signal.SIGKILL if killed else signal.SIGINT
            most = min(PER_RUN, (given.num_kills if killed else total) - len(strikes))
            workdir = here / f"{name}_{round_number}"
            new, failed = one_run(name, runs[name], workdir, most, number, rng, here)
            strikes += new
            failures += failed
            for strike in new:
                print(f"{name:18} {strike.phase:10} {strike.at:50} {strike.code}", flush=True)
            print(f"{len(strikes)} of {total}, {len(failures)} failures", flush=True)
            for failure in failed:
                print(f"FAILED {failure}", flush=True)
            shutil.rmtree(workdir)
            round_number += 1
            summary = summarise(given, strikes, failures)
            if given.output:  # after each run: what stops this script loses nothing
                given.output.parent.mkdir(parents=True, exist_ok=True)
                given.output.write_text(json.dumps(summary, indent=1) + "\n")
    print(json.dumps(summary, indent=1))
    raise SystemExit(bool(failures))


def begin(name: str, workdir: Path, here: Path) -> subprocess.Popen[str]:
    """`python -m experiments.NAME tiny` as a shell would start it."""
    arguments = ["tiny", *EXPERIMENTS[name], "--no-progress", "--workdir", str(workdir)]
    return subprocess.Popen(
        [sys.executable, "-m", f"experiments.{name}", *arguments],
        cwd=ROOT,
        env=os.environ
        | {"JAX_COMPILATION_CACHE_DIR": str(here / "compiled"), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def undisturbed(name: str, here: Path) -> Undisturbed:
    """Once to compile, once to take the time."""
    for part in ("compiles", "whole"):
        workdir, start = here / f"{name}_{part}", time.monotonic()
        process = begin(name, workdir, here)
        _, error = process.communicate()
        if process.returncode:
            raise SystemExit(f"{name}: {error}")
    seconds = time.monotonic() - start
    files = [path for path in workdir.rglob("*") if path.is_file() and not re.search(NAMELESS, path.as_posix())]
    files.sort(key=lambda path: path.stat().st_mtime_ns)
    print(f"{name}: {seconds:.1f} s, {len(files)} files", flush=True)
    return Undisturbed(workdir, seconds, [str(path.relative_to(workdir)) for path in files])


def one_run(
    name: str,
    whole: Undisturbed,
    workdir: Path,
    most: int,
    number: signal.Signals,
    rng: np.random.Generator,
    here: Path,
) -> tuple[list[Strike], list[str]]:
    """Strike a run up to `most` times, let it finish, and say what went wrong."""
    strikes, failures = [], []
    places = sorted(rng.choice(len(whole.files), size=min(most, len(whole.files)), replace=False))
    for place in places:
        at_random, wait = rng.random() < 0.3, rng.exponential(0.03)
        second = rng.uniform(0.2, whole.seconds)
        process, start = begin(name, workdir, here), time.monotonic()
        target = workdir / whole.files[place]
        while process.poll() is None and not (
            time.monotonic() - start > second if at_random else target.exists() and time.monotonic() - start > 0.2
        ):
            time.sleep(0.0005)
        if not at_random:
            time.sleep(wait)
        if process.poll() is None:
            process.send_signal(number)
        _, error = process.communicate()
        if process.returncode == 0:  # it had finished
            break
        newest = newest_file(workdir)
        phase = (
            "imports and tracing"
            if newest is None
            else next(key for key, form in PHASES.items() if re.search(form, newest))
        )
        at = f"{second:.2f} s" if at_random else whole.files[place]
        strike = Strike(name, number.name, phase, at, process.returncode, error)
        strikes.append(strike)
        if number == signal.SIGINT and not (strike.code == 130 and error.strip().count("\n") == 0 and error.strip()):
            failures.append(f"{name}: at {strike.at}: exit code {strike.code}, {error.strip()[-300:]!r}")
        if number == signal.SIGKILL and strike.code != -signal.SIGKILL:
            failures.append(f"{name}: at {strike.at}: exit code {strike.code}, {error.strip()[-300:]!r}")
    process = begin(name, workdir, here)
    _, error = process.communicate()
    if process.returncode:
        failures.append(f"{name}: cannot go on: {error.strip()[-500:]}")
    else:
        at = ", ".join(strike.at for strike in strikes)
        failures += [f"{name}: struck at {at}: {line}" for line in differences(name, workdir, whole.workdir)]
    return strikes, failures


def newest_file(workdir: Path) -> str | None:
    paths = [path for path in workdir.rglob("*") if path.is_file() and path.name not in (".lock", "config.json")]
    if not paths:
        return None
    return max(paths, key=lambda path: path.stat().st_mtime_ns).relative_to(workdir).as_posix()


def differences(name: str, workdir: Path, expected: Path) -> list[str]:
    """What of a finished run is not as in the undisturbed one."""
    found: list[str] = []
    names = [
        {
            path.relative_to(folder).as_posix()
            for path in folder.rglob("*")
            if path.is_file() and not re.search(r"(^|/)\.|checkpoints/", path.relative_to(folder).as_posix())
        }
        for folder in (workdir, expected)
    ]
    if names[0] != names[1]:
        found.append(f"other files: {sorted(names[0] ^ names[1])}")
    for path in sorted(names[0] & names[1]):
        if contents(name, workdir / path) != contents(name, expected / path):
            found.append(f"{path} differs")
    return found


def contents(name: str, path: Path) -> Any:
    """What of a file must be equal."""
    if (name, path.name) in (("measure_latency", "times.json"), ("retrain", "latency.json")):
        return None  # times alone
    if path.suffix == ".json":
        return untimed(name, json.loads(path.read_text()))
    if path.suffix == ".npz":
        with np.load(path) as file:
            meta = json.loads(str(file["meta"]))
            arrays = {key: file[key] for key in file.files if key != "meta" and not of_time(name, key)}
        about = meta.get("architecture") or (meta["space"], meta["units"])  # weights of a network, or a table
        return about, {key: (array.dtype.str, array.tobytes()) for key, array in arrays.items()}
    if path.suffix == ".csv":
        header, *rows = (line.split(",") for line in path.read_text().splitlines())
        keep = [place for place, column in enumerate(header) if not of_time(name, column)]
        return [[row[place] for place in keep] for row in (header, *rows)]
    return None  # a picture of figures that are compared


def of_time(name: str, key: str) -> bool:
    return bool(TIMED.search(key) or (name == "measure_latency" and MEASURED.search(key)))


def untimed(name: str, value: Any) -> Any:
    if isinstance(value, dict):
        return {key: untimed(name, entry) for key, entry in value.items() if not of_time(name, key)}
    return [untimed(name, entry) for entry in value] if isinstance(value, list) else value


def summarise(given: argparse.Namespace, strikes: list[Strike], failures: list[str]) -> dict[str, Any]:
    versions = "import json; from jaxnas.runs.workdir import versions; print(json.dumps(versions()))"
    commit = subprocess.run(["git", "describe", "--always", "--dirty", "--abbrev=40"], cwd=ROOT, capture_output=True)
    return {
        "command": " ".join(["python", *sys.argv]),
        "commit": commit.stdout.decode().strip(),
        "versions": json.loads(subprocess.check_output([sys.executable, "-c", versions], cwd=ROOT)),
        "num_cores": len(os.sched_getaffinity(0)),
        **{
            name: {
                "strikes": sum(strike.signal == name for strike in strikes),
                "by_experiment": dict(collections.Counter(s.experiment for s in strikes if s.signal == name)),
                "by_phase": dict(collections.Counter(s.phase for s in strikes if s.signal == name)),
                "in_a_second_seed": sum("seed1" in s.at for s in strikes if s.signal == name),
            }
            for name in ("SIGKILL", "SIGINT")
        },
        "failures": failures,
    }


if __name__ == "__main__":
    main()
