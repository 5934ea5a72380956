"""Plans: what is executed, counted inside the operations; what is repeated, padded and allocated."""

import collections
import dataclasses
import functools
import itertools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import SMALL_SPACES, random_params
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxnas import codes
from jaxnas.costs import op_costs
from jaxnas.evaluation import make_evaluator, work
from jaxnas.evaluation.graph.programs import plan_programs
from jaxnas.evaluation.planning import COMPILED, _activation_bytes, make_planner
from jaxnas.ops import OPS
from jaxnas.samplers import fair
from jaxnas.spaces import SPACES
from jaxnas.supernets import Supernet, make_supernet


def planner(supernet: Supernet, **settings) -> Callable:
    defaults: dict[str, Any] = {
        "strategy": "dispatch",
        "bn_mode": "batch",
        "groups": "auto",
        "archs_per_call": None,
        "images_per_call": 256,
        "memory_budget": 2**30,
        "workers": 1,
    }
    return make_planner(supernet, **defaults | settings)


class Counted(nn.Module):
    """An operation that reports each architecture it runs for."""

    inner: nn.Module
    report: Callable

    @nn.compact
    def __call__(self, x, tape):
        jax.debug.callback(self.report, x[0, 0, 0, 0])
        return self.inner(x, tape)

    def cost(self, in_shape):
        return self.inner.cost(in_shape)


def counted_supernet(space) -> tuple[Supernet, collections.Counter]:
    """A super-net and the runs of its candidates, numbered as they are made: layer by layer, in the order of codes."""
    runs: collections.Counter = collections.Counter()
    numbers = itertools.count()

    def counted(factory):
        def build(*args):
            number = next(numbers)
            return Counted(factory(*args), lambda _: runs.update([number]))

        return build

    operations = {name: counted(OPS[name]) for name in set(itertools.chain(*space.op_names))}
    return make_supernet(dataclasses.replace(space, operations=operations)), runs


def macs_of(supernet: Supernet) -> list[float]:
    """MACs for one image of each candidate, numbered alike."""
    layers = (layer for layer in supernet.layers.values() if layer.choice is not None)
    return [float(macs) for layer in layers for macs in layer.costs.macs]


TINY = SMALL_SPACES["tiny"]
CELL = SPACES["nasbench201"].resized(width=2, image_size=4, cells_per_stage=1)
CELL = dataclasses.replace(CELL, layout=CELL.layout._replace(num_stages=2))


@pytest.mark.parametrize(
    "space, options",
    [
        (TINY, {"strategy": "mask"}),
        (TINY, {"strategy": "serial"}),
        (TINY, {"strategy": "serial", "bn_mode": "tracked"}),
        (TINY, {"strategy": "dispatch", "groups": 2}),
        (TINY, {"strategy": "dispatch", "groups": 3, "bn_mode": "tracked"}),
        (TINY, {"strategy": "dispatch", "groups": "balanced", "archs_per_call": 100}),
        (CELL, {"strategy": "dispatch", "groups": 2}),
        (TINY, {"strategy": "graph"}),
        (TINY, {"strategy": "graph", "bn_mode": "tracked", "archs_per_call": 2}),
        (CELL, {"strategy": "graph"}),
    ],
    ids=lambda value: value.name if hasattr(value, "name") else "-".join(map(str, value.values())),
)
def test_executed_work_is_what_counters_in_the_operations_say(space, options):
    """Padding of tiles and repetitions of the last call included; 8 architectures in calls of 5."""
    supernet, runs = counted_supernet(space)
    evaluator = make_evaluator(supernet, **{"archs_per_call": 5, "workers": 1} | options)
    archs = np.asarray(codes.sample(jax.random.key(0), space, 8))
    if options.get("groups") == "balanced":
        archs = np.asarray(fair(space, num_archs=6).sample(jax.random.key(0), ()))
    size, channels = space.layout.image_size, space.layout.in_channels
    images = np.random.default_rng(0).normal(size=(3, size, size, channels)).astype(np.float32)
    given = {}
    if options.get("bn_mode") == "tracked":
        given["stats"] = {
            name: jnp.ones((len(layer.candidates), 2, layer.stats_size)) for name, layer in supernet.layers.items()
        }
    population = evaluator.prepare(archs, len(images))
    evaluator.evaluate(random_params(supernet), population, images, np.zeros(3, int), **given)
    jax.effects_barrier()

    plan = population.plan
    needed, executed = work(supernet, population)
    per_op, fixed = op_costs(space)
    assert needed == pytest.approx(len(archs) * fixed.macs + per_op.macs[np.arange(space.num_choices), archs].sum())
    chosen = sum(macs * runs[number] for number, macs in enumerate(macs_of(supernet)))
    assert sum(runs.values()) > 0
    if plan.strategy == "graph":  # what is fixed runs where its input is new: the stem once a program
        graph, programs = plan_programs(supernet, archs, plan)
        done = collections.Counter(node.layer for program in programs for _, node, _ in program.steps(graph))
        assert done["stem"] == len(programs) and done["head"] == sum(len(program.leaves) for program in programs)
        width, size = space.layout.width if space is CELL else 0, space.layout.image_size
        reduction = size**2 // 4 * (9 * width * 2 * width + 9 * 4 * width**2 + 2 * width**2)
        stem = 9 * channels * np.prod(supernet.layers["stem"].out_shape)
        others = done["stem"] * stem + done["reduction1"] * reduction + done["head"] * (fixed.macs - stem - reduction)
        assert executed == pytest.approx(others + chosen)
        return
    calls = -(-len(archs) // plan.archs_per_call)
    full = calls * plan.archs_per_call
    stem = 9 * channels * np.prod(supernet.layers["stem"].out_shape)
    times = full if plan.strategy == "serial" else calls
    assert executed == pytest.approx(full * (fixed.macs - stem) + times * stem + chosen)


@pytest.mark.parametrize("name, largest_tile", [("nasbench_macro", 8), ("nasbench201", 4)])
def test_little_is_executed_that_is_not_needed(name, largest_tile):
    """Published networks, 256 images a call, what the default plan of dispatch executes: within 1 GiB by calls of 4
    architectures in tiles of 1, within 16 GiB by calls of 64 in tiles of 2, within 64 GiB by calls of 256."""
    space = SPACES[name]
    supernet = make_supernet(space)
    random = np.asarray(codes.sample(jax.random.key(0), space, 1000))
    for memory_budget, size, tile in ((2**30, 4, 1), (2**34, 64, 2), (2**36, 256, largest_tile)):
        options = {"strategy": "dispatch", "memory_budget": memory_budget}
        prepare = make_evaluator(supernet, **options).prepare
        population = prepare(random, 10_000)
        assert (population.plan.archs_per_call, population.plan.groups) == (size, tile)
        needed, executed = work(supernet, population)
        assert executed / needed < 1.3
        for num_archs in (15, 60, 240, 990):
            balanced = np.asarray(fair(space, num_archs=num_archs).sample(jax.random.key(1), ()))
            needed, executed = work(supernet, prepare(balanced, 10_000))
            assert executed / needed < 1.1
            promised = make_evaluator(supernet, **options, groups="balanced", archs_per_call=1000)
            needed, executed = work(supernet, promised.prepare(balanced, 10_000))
            assert executed / needed <= 1.0  # less than needed: the stem runs once for all


@pytest.fixture(scope="module")
def macro():
    return make_supernet(SPACES["nasbench_macro"].resized(width=8, image_size=16))


def test_few_sizes_and_few_repetitions(macro):
    """Over all populations up to 3,000: programs to compile, and architectures run twice."""
    for strategy, most in (("dispatch", 256), ("mask", 256), ("serial", 16)):
        plan = planner(macro, strategy=strategy, memory_budget=2**40)
        sizes = collections.Counter()
        for num_archs in range(1, 3001):
            size = plan(num_archs, 64).archs_per_call
            repeated = -num_archs % size
            assert 1 <= size <= most and repeated <= max(1, num_archs / 8)
            sizes[size] += 1
        assert len(sizes) <= (16 if strategy == "serial" else 8 * 6)  # up to 16 each, above eight to a doubling
    assert planner(macro, archs_per_call=100)(250, 64).archs_per_call == 88  # three calls of 84, rounded up to eighths


@settings(max_examples=50, deadline=None)
@given(num_archs=st.integers(1, 5000), exponent=st.integers(22, 36), images=st.integers(1, 600))
def test_calls_fit_the_budget(macro, num_archs, exponent, images):
    budget = 2**exponent
    for strategy in ("dispatch", "mask", "serial"):
        plan = planner(macro, strategy=strategy, memory_budget=budget)
        try:
            made = plan(num_archs, images)
        except ValueError as error:
            assert "is too small for one architecture" in str(error) and str(budget) in str(error)
            least = planner(macro, strategy=strategy)(1, images)
            assert min(images, 256) * _activation_bytes(macro, strategy, 1, least.groups) > budget
            continue
        assert made.images_per_call == min(images, 256)
        needed = made.images_per_call * _activation_bytes(macro, strategy, made.archs_per_call, made.groups)
        assert needed <= budget


def test_calibration_is_counted(macro):
    """32 images are scored, 256 in a call of calibration: no more has room than with 256 of both."""
    if jax.default_backend() != "cpu":
        pytest.skip("elsewhere the device's allocator keeps the budget")
    options = {"strategy": "graph", "memory_budget": 2**29, "workers": 2}
    calibrated = planner(macro, bn_mode="calibrated", **options)
    assert calibrated(10, 32).images_per_call == 32
    assert calibrated(10, 32).bytes_per_image == calibrated(10, 256).bytes_per_image
    assert calibrated(10, 32).bytes_per_image * 256 * 2 <= 2**29 - 2 * COMPILED
    assert planner(macro, **options)(10, 32).bytes_per_image * 32 * 2 <= 2**29 - COMPILED


def test_a_budget_below_the_floor_is_told(macro):
    one = 256 * _activation_bytes(macro, "graph", 1, None)
    make = functools.partial(planner, macro, strategy="graph", workers=None)
    with pytest.warns(
        UserWarning, match=r"^memory_budget of 127 MiB is below the \d+ MiB that graph takes for compiled"
    ):
        assert make(memory_budget=127 * 2**20)(10, 5000).workers == 1
    assert make(memory_budget=COMPILED + one)(10, 5000).workers == 1  # warnings are errors
    with pytest.raises(ValueError, match="too small for one architecture on 256 images"):
        make(memory_budget=one - 1)(10, 5000)


@pytest.mark.parametrize("name", ["digits_chain", "nasbench201"])
def test_memory_is_what_xla_allocates_at_most(small_supernet, name):
    """The estimate is above what the compiled program says that it takes, and not far above."""
    supernet, params = small_supernet(name)
    layout = supernet.space.layout
    images = jax.ShapeDtypeStruct((64, layout.image_size, layout.image_size, layout.in_channels), "float32")
    archs = jax.ShapeDtypeStruct((32, supernet.space.num_choices), "int32")
    run = jax.jit(
        lambda params, archs, images: jax.vmap(lambda code: supernet.apply(params, code, images, groups=2)[0])(archs)
    )
    allocated = run.lower(params, archs, images).compile().memory_analysis().temp_size_in_bytes
    estimated = 64 * _activation_bytes(supernet, "dispatch", 32, 2)
    assert allocated < estimated < 4 * allocated


def test_refusals(macro):
    for name in ("archs_per_call", "images_per_call", "workers"):
        with pytest.raises(ValueError, match=f"^{name} is 0, expected 1 to"):
            planner(macro, **{name: 0})
    for groups in (0, "fair", None):
        with pytest.raises(ValueError, match=r"^groups must be a tile size of at least 1, 'auto' or 'balanced', got"):
            planner(macro, groups=groups)
    with pytest.raises(ValueError, match="memory_budget of 1000 bytes is too small for one architecture on 256 images"):
        planner(macro, memory_budget=1000)(10, 5000)
    with pytest.raises(
        ValueError, match="in one call, but 300 architectures are more than the 256 that archs_per_call"
    ):
        planner(macro, groups="balanced", memory_budget=2**40)(300, 64)


def test_what_is_kept_of_each_image_is_part_of_the_budget():
    """On CPU: 5 bytes for each architecture and image leave less for activations; beyond half of the budget it ends."""
    supernet = make_supernet(TINY)
    settings = {"strategy": "graph", "images_per_call": 64}
    plain, kept = (planner(supernet, per_image=each, **settings)(1000, 64) for each in (False, True))
    assert plain.bytes_per_image - kept.bytes_per_image == pytest.approx(5 * 1000 / 1.25, abs=1)
    assert planner(supernet, per_image=True, **settings)(8192, 2**13).strategy == "graph"  # 320 MiB of 1 GiB
    with pytest.raises(ValueError, match=r"16384 architectures .* 8192 images takes 640 MiB, more than half of it"):
        planner(supernet, per_image=True, **settings)(2**14, 2**13)
