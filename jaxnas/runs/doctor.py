"""`jaxnas doctor`: what device, memory, versions, caches and data there are, and what is wrong with them."""

import contextlib
import importlib.metadata
import os
import platform
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from jaxnas.datasets import ARCHIVES, find_archive
from jaxnas.evaluation.planning import num_cores
from jaxnas.runs.compiling import compile_folder
from jaxnas.runs.devices import devices
from jaxnas.runs.workdir import versions
from jaxnas.tables.format import is_table
from jaxnas.tables.published import NASBENCH101_CELLS, PUBLISHED, read_as_published

MIN_MEMORY = 2 * 2**30  # bytes that the small experiments need
MIN_DISK = 2**30


class Finding(NamedTuple):
    """One thing that was looked at; `problem` says what is wrong and what to do, None where nothing is."""

    what: str
    found: str
    problem: str | None = None


def examine(environment: Mapping[str, str] | None = None) -> Iterator[Finding]:
    """Look at the machine, as the variables in `environment` (those of the process) name its folders."""
    environment = os.environ if environment is None else environment
    yield Finding("system", f"{platform.system()} {platform.release()}, {platform.machine()}")
    yield device()
    yield memory()
    yield Finding("versions", ", ".join(f"{name} {version or 'missing'}" for name, version in versions().items()))
    yield from dependencies(importlib.metadata.requires("jaxnas") or [])
    yield cache()
    yield from data(environment.get("JAXNAS_DATA"))


def device() -> Finding:
    """What JAX computes on; a problem where it has nothing, or where a card lies idle."""
    try:
        known = devices()
    except ValueError as error:
        return Finding("device", "none", str(error))
    kinds = ", ".join(sorted({device.device_kind for device in known}))
    found = f"{len(known)} x {kinds} ({known[0].platform}), {num_cores()} cores"
    idle = known[0].platform == "cpu" and bool(shutil.which("nvidia-smi") or Path("/dev/nvidia0").exists())
    chosen = os.environ.get("JAX_PLATFORMS", "")
    if idle and "cpu" in chosen:
        return Finding("device", found, f"an NVIDIA card is not used since JAX_PLATFORMS is {chosen}; unset it.")
    install = "an NVIDIA card is there, but this JAX knows the CPU only; run: pip install -U 'jax[cuda12]'"
    return Finding("device", found, install if idle else None)


def memory() -> Finding:
    """Of the host, what is free and what there is, and of a card what JAX may use."""
    statistics: dict[str, int] = {}
    with contextlib.suppress(ValueError):  # no device, as `device` says
        statistics = devices()[0].memory_stats() or {}
    card = f", {gib(statistics['bytes_limit'])} on the device" if "bytes_limit" in statistics else ""
    try:
        told = dict(
            re.findall(r"^(MemTotal|MemAvailable):\s+(\d+) kB", Path("/proc/meminfo").read_text("ascii"), re.MULTILINE)
        )
        free, total = (1024 * int(told[name]) for name in ("MemAvailable", "MemTotal"))
    except (OSError, KeyError):
        return Finding("memory", f"unknown on this system{card}")
    few = f"less than {gib(MIN_MEMORY)} are free; close other programs, or lower --memory-budget and --images-per-call."
    return Finding("memory", f"{gib(free)} of {gib(total)} free{card}", few if free < MIN_MEMORY else None)


def dependencies(requirements: list[str]) -> Iterator[Finding]:
    """A finding for each requirement, as pyproject.toml writes them, that is missing or older than its lower bound."""
    for requirement in requirements:
        condition = requirement.partition(";")[2]
        parts = re.match(r"([\w.-]+)[^>;]*(?:>=\s*([\w.]+))?", requirement)
        if parts is None or "extra" in condition or "platform" in condition:
            continue
        name, bound = parts.groups()
        try:
            there = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            yield Finding(name, "missing", f"{name} is not installed; run: pip install '{requirement.strip()}'")
            continue
        if bound and _numbers(there) < _numbers(bound):
            yield Finding(name, there, f"{name} {there} is older than {bound}; run: pip install -U '{name}>={bound}'")


def cache() -> Finding:
    """Where compiled programs are kept, and how large they have grown."""
    folder = compile_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        writable = os.access(folder, os.W_OK)
        files = [path.stat().st_size for path in folder.iterdir() if path.is_file()]
        free = shutil.disk_usage(folder).free
    except OSError as error:
        said = f"cannot be written ({error.strerror}), so that every run compiles anew"
        return Finding("cache", str(folder), f"{folder} {said}; set JAX_COMPILATION_CACHE_DIR to a folder of yours.")
    found = f"{folder}: {len(files)} compiled programs, {gib(sum(files))}"
    if not writable:
        return Finding(
            "cache", found, f"{folder} cannot be written; set JAX_COMPILATION_CACHE_DIR to a folder of yours."
        )
    full = f"{gib(free)} are left on its disk; delete {folder} or make room."
    return Finding("cache", found, full if free < MIN_DISK else None)


def data(folder: str | None) -> Iterator[Finding]:
    """Tables and image sets in the folder that JAXNAS_DATA names; digits with its table comes with the package."""
    yield Finding("data", "digits and its table of 243 networks, in the package")
    if not folder:
        yield Finding(
            "JAXNAS_DATA", "not set: --data-dir names a folder of data; jaxnas data list says what can be had"
        )
        return
    place = Path(folder)
    if not place.is_dir():
        remedy = f"JAXNAS_DATA is {folder}, which is no folder; make it, or unset the variable."
        yield Finding("JAXNAS_DATA", folder, remedy)
        return
    yield Finding("JAXNAS_DATA", folder)
    known = {published.file_name: published for published in (*PUBLISHED.values(), NASBENCH101_CELLS)}
    for path in sorted(place.iterdir()):
        if path.name in known:
            published = known[path.name]
            try:
                read_as_published(path, published.sha256, published.source)
                yield Finding("table", f"{path.name}, as published ({published.source})")
            except (ValueError, OSError) as error:
                yield Finding("table", path.name, str(error))
        elif path.suffix == ".npz" and is_table(path):
            yield Finding("table", f"{path.name}, of our own format")
    sets = sorted({path.parent.parent.name for path in place.glob("tfds/*/*/dataset_info.json")})
    sets += [name for name in ARCHIVES if find_archive(name, place)]
    yield Finding("image sets", ", ".join(sets) or f"none in {place / 'tfds'}")


def gib(size: float) -> str:
    return f"{size / 2**30:.1f} GiB"


def report(findings: Iterator[Finding]) -> int:
    """Print them, problems last, and return how many there are."""
    problems = []
    for what, found, problem in findings:
        print(f"{what:12} {found}", flush=True)
        problems += [] if problem is None else [problem]
    for problem in problems:
        print(f"PROBLEM      {problem}")
    print("no problems" if not problems else f"{len(problems)} problem{'s' if len(problems) > 1 else ''}")
    return len(problems)


def _numbers(version: str) -> tuple[int, ...]:
    """The release of a version, to be compared: "1.2.0rc1" is (1, 2)."""
    found = [int(number) for number in re.findall(r"\d+", re.split(r"[a-z+]", version)[0])]
    while found and not found[-1]:
        found.pop()
    return tuple(found)
