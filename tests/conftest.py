"""Fixtures of all tests."""

import atexit
import collections
import dataclasses
import functools
import importlib.metadata
import math
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

# The tests compile hundreds of small programs and run each for milliseconds: LLVM's optimisation would double the time,
# XLA's emitters of fusions make it half as long again. jaxlib 0.11.1 has no flag against these, and ends on one that it
# does not know; 0.7.0 has it. Tests marked codegen are run once more with both, where a level is given.
if "--xla_backend_optimization_level" not in (flags := os.environ.get("XLA_FLAGS", "")):
    flags += " --xla_backend_optimization_level=0"
    if tuple(map(int, importlib.metadata.version("jaxlib").split(".")[:2])) < (0, 11):
        flags += " --xla_cpu_use_fusion_emitters=false"
    os.environ["XLA_FLAGS"] = flags.strip()

# What one test compiled is there for all: for those in processes of their own, for the other worker, and where the
# caller has set the folder for the next call.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"

# Nothing is broadcast or promoted unsaid, neither here nor in processes of their own.
os.environ["JAX_NUMPY_RANK_PROMOTION"] = "raise"
os.environ["JAX_NUMPY_DTYPE_PROMOTION"] = "strict"

import jax
import numpy as np
import pytest

from jaxnas.ops import OPS
from jaxnas.space import ChainLayout, SearchSpace
from jaxnas.spaces import SPACES, chain_space
from jaxnas.supernets import Params, Supernet, make_supernet

# Every space, with its own choices and operations, on a network that compiles fast; and one that compiles in no time.
SMALL_SPACES = {
    "digits_chain": SPACES["digits_chain"],
    "nasbench_macro": SPACES["nasbench_macro"].resized(width=4, image_size=8),
    "nasbench201": SPACES["nasbench201"].resized(width=4, image_size=8, cells_per_stage=1),
    "tiny": chain_space(
        "tiny",
        ChainLayout(stem_width=3, widths=(3, 4, 4), strides=(1, 2, 1), head_width=5, image_size=4, in_channels=1),
        [("identity", "nor_conv_1x1", "nor_conv_3x3")] * 3,
    ),
}


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of the published tables and of TFDS sets: JAXNAS_DATA, else `../shared/data` from the repository."""
    repository = Path(__file__).resolve().parent.parent
    folder = Path(os.environ.get("JAXNAS_DATA") or repository.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"there is no folder {folder}: set JAXNAS_DATA to the published tables and TFDS sets")
    return folder


@pytest.fixture(scope="module")
def no_data_dir():
    """For tests that name their data."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("JAXNAS_DATA", raising=False)
        yield


@pytest.fixture(scope="session")
def truth(tmp_path_factory) -> Path:
    """A data folder with a table of the small space of `experiment_runs`, drawn by lot."""
    from experiment_runs import write_truth

    return write_truth(tmp_path_factory.mktemp("data"), np.random.default_rng(0).random((16, 3)))


@pytest.fixture(scope="session")
def small_space() -> Callable[[str], SearchSpace]:
    """name -> the space on a small network."""
    return SMALL_SPACES.__getitem__


@pytest.fixture(scope="session")
def small_supernet() -> Callable[..., tuple[Supernet, Params]]:
    """(name, affine=True) -> super-net and parameters, random in every leaf: fresh ones would hide a missing shift."""

    @functools.cache
    def build(name: str, affine: bool = True) -> tuple[Supernet, Params]:
        space = SMALL_SPACES[name]
        if name == "nasbench_macro":  # of eight choices: less to compile
            space = dataclasses.replace(space, operations={"mb6_k5": OPS["mb3_k3"]})
        supernet = make_supernet(space, affine=affine)
        return supernet, random_params(supernet)

    return build


def random_params(supernet: Supernet) -> Params:
    """He-normal kernels, scales around one, biases around zero; by NumPy, since `init` takes seconds to compile."""
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        noise = rng.normal(size=leaf.shape)
        name = path[-1].key
        value = (
            math.sqrt(2 / math.prod(leaf.shape[:-1])) * noise if name == "kernel" else (name == "scale") + 0.1 * noise
        )
        return jax.numpy.asarray(value, leaf.dtype)

    return jax.tree_util.tree_map_with_path(draw, jax.eval_shape(supernet.init, jax.random.key(0)))


def pytest_terminal_summary(terminalreporter):
    """With JAXNAS_FUZZ_COUNT: what became of the mutated inputs of each kind."""
    fuzzing = sys.modules.get("fuzzing")
    if fuzzing is not None and os.environ.get("JAXNAS_FUZZ_COUNT"):
        for category, counts in sorted(fuzzing.COUNTS.items()):
            terminalreporter.write_line(f"fuzz: {category}: {dict(counts)}")
        total = sum(fuzzing.COUNTS.values(), collections.Counter())
        terminalreporter.write_line(f"fuzz: all: {dict(total)} of {sum(total.values())}")


def control_flow(function, *args) -> set[str]:
    """The conditionals and loops of a function's program, by name; a choice by the platform that it is compiled for,
    which lowering makes, is none."""
    found, left = set(), [jax.make_jaxpr(function)(*args).jaxpr]
    while left:
        for equation in left.pop().eqns:
            by_platform = equation.params.get("branches_platforms") is not None
            if equation.primitive.name in ("cond", "while", "scan") and not by_platform:
                found.add(equation.primitive.name)
            inside = jax.tree.leaves(list(equation.params.values()), is_leaf=lambda part: hasattr(part, "eqns"))
            left += [getattr(part, "jaxpr", part) for part in inside if hasattr(part, "eqns")]
    return found
