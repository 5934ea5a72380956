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
from jaxnas.evaluation.graph.programs import _Schedule, plan_programs
from jaxnas.evaluation.graph.running import _operation
from jaxnas.evaluation.graph.tracing import make_graph
from jaxnas.evaluation.planning import COMPILED, Target, _activation_bytes, make_planner, target_of
from jaxnas.evaluation.population import PlannedUnits
from jaxnas.ops import OPS, Policy
from jaxnas.ops.normalisation import Unwritten
from jaxnas.samplers import fair
from jaxnas.spaces import SPACES
from jaxnas.supernets import Supernet, make_supernet

CPU, H100 = Target("cpu", None), Target("gpu", 63_697_010_688)  # of 80 GB what JAX takes for itself: three quarters


def planner(supernet: Supernet, **settings) -> Callable:
    defaults: dict[str, Any] = {
        "strategy": "dispatch",
        "bn_mode": "batch",
        "groups": "auto",
        "archs_per_call": None,
        "images_per_call": 256,
        "memory_budget": 2**30,
        "workers": 1,
        "target": CPU,
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
        (CELL, {"strategy": "graph", "target": H100, "archs_per_call": 8}),
    ],
    ids=lambda value: value.name if hasattr(value, "name") else "-".join(map(str, value.values())),
)
def test_executed_work_is_what_counters_in_the_operations_say(space, options, monkeypatch):
    """Padding of tiles, of nodes side by side and repetitions of the last call included; 8 architectures in calls of
    5."""
    options = dict(options)
    if target := options.pop("target", None):
        monkeypatch.setattr("jaxnas.evaluation.evaluator.target_of", lambda mesh: target)
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
        _, _, planned = plan_programs(supernet, archs, population.settings)
        programs = list(planned)
        done: collections.Counter = collections.Counter()
        for step in itertools.chain.from_iterable(program.steps for program in programs):
            done[step.layer] += step.size
        repeated = sum(step.size - len(step.numbers) for program in programs for step in program.steps if step.is_leaf)
        assert done["stem"] == len(programs)
        assert done["head"] == sum(len(program.leaves) for program in programs) + repeated
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


@pytest.mark.parametrize("nodes_per_call, compute", [(1, "bfloat16"), (4, "float32")])
def test_memory_of_a_call_is_what_xla_allocates_at_most(nodes_per_call, compute):
    """Each call of a program of cells: what it returns and needs meanwhile, as compiled here, is what the plan counts
    at most, and of convolutions not far below. But for the stem's, which lays its windows side by side while nothing
    else is held."""
    supernet = make_supernet(CELL.resized(width=4, image_size=8), policy=Policy(compute=compute))
    params = jax.eval_shape(supernet.init, jax.random.key(0))
    archs = np.asarray(codes.sample(jax.random.key(0), supernet.space, 6))
    graph = make_graph(supernet, archs, given_stats=False)
    schedule = _Schedule(supernet, graph, nodes_per_call)
    calls = {}
    for step in schedule.program(list(dict.fromkeys(graph.leaves.tolist()))).steps:
        layer, kind = supernet.layers[step.layer], graph.kind[step.numbers[0]]
        if step.op is not None and step.inputs[0] and step.layer != "stem":
            number = step.size * (schedule.inside[kind] + schedule.value[kind])
            calls[layer.candidates[step.op], layer.in_shape, step.size, len(step.inputs[0])] = number, step
    ratios = {}
    for (operation, in_shape, size, num_inputs), (planned, step) in calls.items():
        images = Unwritten(
            jax.ShapeDtypeStruct((2, 32, *in_shape), step.dtype),
            jax.ShapeDtypeStruct((2, 2, in_shape[-1]), "float32"),
        )
        run = _operation(operation, supernet.layers[step.layer].stats_dtype)
        own = params[step.layer].get(step.op, {})
        lowered = run.lower(own, ((images,) * num_inputs,) * size, None, None, keep_stats=False)
        memory = lowered.compile().memory_analysis()
        allocated = memory.temp_size_in_bytes + memory.output_size_in_bytes
        ratios[step.op, size, num_inputs] = allocated / (64 * planned)
    assert len(ratios) > 8
    assert max(ratios.values()) < 1.15  # the edge that a pool of 8 x 8 pixels pads
    assert max(ratio for (op, *_), ratio in ratios.items() if op == "nor_conv_3x3") > 0.6


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


def test_a_plan_is_the_targets(macro):
    """Not the machine's: of a card three quarters of what its allocator may take, and two threads that take turns."""
    plan = planner(macro, strategy="auto", memory_budget=None, workers=None, target=H100)(1000, 10_000)
    assert (plan.strategy, plan.nodes_per_call, plan.workers, plan.turns) == ("graph", 16, 2, 1)
    assert plan.bytes_per_image == int(0.75 * H100.memory) // 256 and plan.batches_per_call == 40  # at most
    unsaid = planner(macro, strategy="graph", memory_budget=None, target=Target("tpu", None))(1000, 10_000)
    assert unsaid.bytes_per_image == 2**33 // 256
    here = planner(macro, strategy="auto", memory_budget=None, workers=None)(1000, 10_000)
    assert (here.strategy, here.nodes_per_call, here.batches_per_call) == ("graph", 1, 1)
    assert here.turns == here.workers


def test_no_more_threads_than_cores_of_this_process(macro, monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda process: {3}, raising=False)
    monkeypatch.setattr("os.cpu_count", lambda: 64)
    assert planner(macro, strategy="graph", memory_budget=2**36, workers=None)(1000, 256).workers == 1


def test_target_of_a_device():
    device = next(iter(jnp.zeros(()).devices()))
    mesh = jax.sharding.Mesh(np.array([[device]]), ("archs", "data"))
    assert target_of(None) == target_of(mesh)
    assert target_of(None).platform == device.platform


def test_width_is_what_memory_allows():
    """Cells at width 16 and 32 px; in bfloat16 of 80 GB: few images make place for architectures, many for batches of
    few architectures; and the calls that the host makes are the steps of the programs."""
    space = SPACES["nasbench201"].resized(width=16, image_size=32, cells_per_stage=1)
    archs = np.asarray(codes.sample(jax.random.key(0), space, 400))
    made = {}
    for compute in ("float32", "bfloat16"):
        supernet = make_supernet(space, affine=False, policy=Policy(compute=compute))
        for num_images in (256, 2560, 10_000):
            settings = planner(supernet, strategy="graph", memory_budget=None, workers=None, target=H100)
            plan, _, programs = plan_programs(supernet, archs, settings(len(archs), num_images))
            made[compute, num_images] = plan
            for program in programs:
                assert 256 * plan.batches_per_call * program.peak_bytes <= 0.75 * H100.memory
                assert len(program.leaves) <= plan.archs_per_call
    widths = {key: (plan.batches_per_call, plan.archs_per_call) for key, plan in made.items()}
    assert widths["bfloat16", 256] == (1, 256)
    assert widths["bfloat16", 2560][0] == 10 and widths["bfloat16", 2560][1] >= 32
    assert widths["bfloat16", 10_000][0] > widths["float32", 10_000][0] >= 10
    assert widths["bfloat16", 10_000][1] == 32


def test_units_are_planned_when_they_are_asked_for_and_once():
    planned = []

    def units():
        for number in range(3):
            planned.append(number)
            yield number

    made = PlannedUnits(units())
    assert next(iter(made)) == 0 and planned == [0]
    assert list(made) == list(made) == planned == [0, 1, 2]


def test_a_budget_below_one_architecture_on_a_card(macro):
    make = functools.partial(planner, macro, strategy="graph", target=H100)
    archs = np.zeros((3, 8), np.int32)
    with pytest.raises(ValueError, match=r"^memory_budget leaves room for 390 bytes an image, but one architecture"):
        plan_programs(macro, archs, make(memory_budget=100_000)(3, 256))
    plan, _, programs = plan_programs(macro, archs, make(memory_budget=2**26)(3, 5000))
    assert (plan.batches_per_call, len(list(programs))) == (1, 1)


@pytest.mark.slow("all cells of the published size are planned for a card, half a minute")
def test_host_calls_of_all_cells_of_the_published_size():
    """15,625 cells (16 channels, 5 cells a stage, 32 px, bfloat16) on 10,000 images, within 80 GB: 9.5 million calls
    where each node was one for every two batches."""
    space = SPACES["nasbench201"]
    supernet = make_supernet(space, affine=False, policy=Policy(compute="bfloat16"))
    settings = planner(supernet, strategy="graph", memory_budget=None, workers=None, target=H100)(15_625, 10_000)
    plan, graph, programs = plan_programs(supernet, codes.enumerate_archs(space), settings)
    num_steps = num_run = 0
    for program in programs:
        assert 256 * plan.batches_per_call * program.peak_bytes <= 0.75 * H100.memory
        num_steps += len(program.steps)
        num_run += sum(step.size for step in program.steps)
    chunks = -(-40 // plan.batches_per_call)
    print(f"{num_steps * chunks:,} host calls, {num_run / len(graph.kind):.3f} of the nodes run, {plan}")
    assert num_steps * chunks < 300_000
    assert num_run < 1.15 * len(graph.kind)
