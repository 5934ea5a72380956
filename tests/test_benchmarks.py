"""The benchmark of the evaluator's routes: its records, its refusals, and how little work dispatch wastes."""

import dataclasses
import json
import os
import subprocess
import sys
import types
from pathlib import Path
from unittest import mock

import jax
import numpy as np
import pytest

from benchmarks import (
    compare,
    compiled,
    evaluator,
    gpu,
    imagenet,
    memory,
    populations,
    roofline,
    scaling,
    standalone,
    steps,
    streaming,
    train_step,
)
from experiments import pcnas, retrain
from jaxnas import codes, runs
from jaxnas.ops import OPS, Policy, as_operation
from jaxnas.ops.mobile import InvertedResidual
from jaxnas.space import ChainLayout
from jaxnas.spaces import SPACES, chain_space
from jaxnas.supernets import make_supernet
from jaxnas.training import RECIPES

KEYS = {
    *("space", "population", "bn_mode", "route", "num_archs", "num_images", "ms", "image_archs_per_s"),
    *("needed_gflop", "executed_gflop", "device"),  # these eleven are promised to whoever reads the records
    *(
        "width",
        "image_size",
        "cells",
        "strategy",
        "work_ratio",
        "speedup_over_serial",
        "compile_s",
        "loss_difference",
        "archs_per_call",
    ),
    *("images_per_call", "num_calibration_images", "groups", "workers", "memory_budget", "repetitions", "versions"),
}
TOY = ["--spaces", "toy", "--width", "2", "--image-size", "4", "--num-balanced", "4", "--num-archs", "4"]
TOY += ["--num-images", "6", "--images-per-call", "4", "--groups", "2", "--repetitions", "1"]


@pytest.fixture(autouse=True)
def toy_space(monkeypatch):
    layout = ChainLayout(stem_width=2, widths=(2, 4), strides=(1, 2), head_width=0)
    monkeypatch.setitem(SPACES, "toy", chain_space("toy", layout, [("identity", "mb1_k3")] * 2))


def refusal(capsys, *argv: str) -> str:
    """The one line on stderr that the command ends in, nothing being reported."""
    with pytest.raises(SystemExit) as stop:
        evaluator.main(argv)
    captured = capsys.readouterr()
    assert stop.value.code == 2 and captured.out == ""
    line = captured.err.splitlines()[-1]
    assert line.startswith("python -m benchmarks.evaluator: ")
    return line


@pytest.mark.slow("the benchmark of evaluation is run")
def test_records(capsys, tmp_path):
    modes = ["batch", "tracked"]
    evaluator.main([*TOY, "--modes", *modes, "--json", "--out", str(tmp_path / "records.json")])
    text = capsys.readouterr().out
    records = json.loads(text)
    assert json.loads((tmp_path / "records.json").read_text()) == records
    assert [(record["population"], record["bn_mode"], record["route"]) for record in records] == [
        (kind, mode, route) for kind in ("balanced", "random") for mode in modes for route in evaluator.Config.routes
    ]
    for record in records:
        assert set(record) == KEYS | {"command", "commit"}
        assert record["ms"] > 0 and record["loss_difference"] <= evaluator.TOLERANCE
        rate = record["num_archs"] * record["num_images"] / record["ms"] * 1000
        assert record["image_archs_per_s"] == pytest.approx(rate)
        assert record["work_ratio"] == pytest.approx(record["executed_gflop"] / record["needed_gflop"])
    table = evaluator.table(records)
    assert all(f"{record['image_archs_per_s']:,.0f}" in table for record in records)
    assert table.count("the best of the others") == 4
    times = records[5]["ms"] / records[0]["ms"]
    assert f"mask takes {times:.2f} times as long as with batch statistics" in table

    # By hand, in MACs for one image of 4x4: the stem 9*3*2*16 = 864 and the classifier 4*10. mb1_k3 at the first choice
    # 2*2*16 + 9*2*16 + 2*2*16 = 416, at the second 2*2*16 + 9*2*4 + 2*4*4 = 168; identity there 2*4*4 = 32.
    mask, serial = records[:2]
    needed = 4 * (864 + 40) + 2 * 416 + 2 * 168 + 2 * 32
    assert serial["needed_gflop"] == pytest.approx(2e-9 * needed * 6)
    assert serial["executed_gflop"] == pytest.approx(2e-9 * needed * 8)  # images padded to two calls of 4
    everything = 864 + 4 * 40 + 416 + 4 * (168 + 32)  # stem and first choice once, all candidates of the second
    assert mask["executed_gflop"] == pytest.approx(2e-9 * everything * 8)


def test_routes_that_disagree_are_not_reported(capsys, monkeypatch):
    honest = evaluator.make_evaluator

    def make(supernet, *, strategy, **settings):
        made = honest(supernet, strategy="serial", **settings)

        def shifted(*args, **given):
            scores = made.evaluate(*args, **given)
            return scores._replace(loss=scores.loss + (np.nan if strategy == "dispatch" else 0.0))

        return made._replace(evaluate=shifted)

    monkeypatch.setattr(evaluator, "make_evaluator", make)
    assert "losses of dispatch and serial differ" in refusal(capsys, *TOY, "--routes", "serial", "dispatch")


@pytest.mark.parametrize(
    "argv, message",
    [
        (["--nope", "3"], "Unrecognized options: --nope"),
        (["--routes", "fast"], "invalid choice 'fast'"),
        (["--spaces", "nowhere"], "unknown search space 'nowhere'"),
        (["--num-archs", "0"], "num_archs is 0, expected 1 to"),
        (["--num-images", "0"], "num_images is 0, expected 1 to"),
        (["--num-balanced", "7"], "must be a multiple of 3"),
        (["--routes"], "routes is (), expected one or more"),
        (["--memory-budget", "1"], "memory_budget of 1 bytes is too small"),
    ],
)
def test_bad_input_ends_in_one_line(capsys, argv, message):
    assert message in refusal(capsys, *argv)


@pytest.mark.parametrize("name", evaluator.Config.spaces)
@pytest.mark.parametrize("kind, most", [("balanced", 1.1), ("random", 1.3)])
def test_dispatch_executes_little_more_than_needed(name, kind, most):
    config = dataclasses.replace(evaluator.Config(), spaces=(name,))
    space = evaluator.make_space(config, name)
    supernet = make_supernet(space)
    archs = evaluator.population(config, space, kind)
    population = evaluator.make_route(config, supernet, "dispatch").prepare(archs, config.num_images)
    needed, executed = evaluator.count_gflop(supernet, population)
    assert executed / needed <= most


@pytest.mark.slow("the benchmarks of training are run")
def test_training_steps_are_timed_side_by_side(capsys):
    argv = ["--spaces", "toy", "--width", "2", "--image-size", "4", "--batch-size", "4", "--num-paths", "1"]
    train_step.main([*argv, "--repetitions", "2", "--json"])
    records = json.loads(capsys.readouterr().out)
    assert [record["route"] for record in records] == list(steps.OWN_ROUTES)
    fixed = records[0]["ms"]
    assert all(record["ms"] > 0 and record["ratio_to_fixed"] == record["ms"] / fixed for record in records)
    of = {record["route"]: record for record in records}
    for route, num_pairs in (("landmarks", 435), ("serial_pair", 1)):
        assert of[route]["ms_per_pair"] == pytest.approx((of[route]["ms"] - of["single"]["ms"]) / num_pairs)
    assert of["single"]["ms_per_pair"] is None
    for route in ("mixture", "darts"):
        assert of[route]["ratio_to_operations"] == of[route]["ms"] / of["operations"]["ms"]
    assert "fixed_scan" in train_step.table(records)


@pytest.mark.parametrize("route", ["codes", "mixture"])
def test_policies_train_on_what_they_are_timed_on(route):
    """The controller of ENAS draws the code that the limit leaves; DARTS mixes with nearly equal weights."""
    supernet, (code, *_), _ = steps.make_problem(steps.Sizes(width=2, image_size=4, batch_size=4), "toy")
    policy = steps.make_policy(supernet, route, code)
    population = policy.propose(jax.random.key(0), policy.init(jax.random.key(0)))
    expected = code[None] if route == "codes" else np.full((1, 2, 2), 0.5)
    np.testing.assert_allclose(population, expected, atol=2e-3)


def test_sum_of_operations_wants_the_same_candidates_everywhere(monkeypatch):
    layout = ChainLayout(stem_width=2, widths=(2, 4), strides=(1, 2), head_width=0, image_size=4)
    monkeypatch.setitem(SPACES, "uneven", chain_space("uneven", layout, [("identity", "mb1_k3"), ("mb1_k3",)]))
    supernet, (code, *_), batch = steps.make_problem(steps.Sizes(width=2, image_size=4, batch_size=4), "uneven")
    with pytest.raises(ValueError, match=r"^operations: no code of uneven takes the same candidate everywhere"):
        steps.make_steps(supernet, "operations", code, batch, "float32")


# A loop of three trips around a kernel, a conditional of two branches, and a copy, as XLA writes them.
PROGRAM = """HloModule jit_f, is_scheduled=true

%body (arg: f32[8]) -> f32[8] {
  %arg = f32[8]{0} parameter(0)
  ROOT %sum = f32[8]{0} fusion(%arg), kind=kLoop, calls=%fused
}

%first (arg.1: f32[8]) -> f32[8] {
  %arg.1 = f32[8]{0} parameter(0)
  %one = f32[8]{0} fusion(%arg.1), kind=kLoop, calls=%fused
  ROOT %two = f32[8]{0} fusion(%one, %arg.1), kind=kLoop, calls=%fused
}

%second (arg.2: f32[8]) -> f32[8] {
  %arg.2 = f32[8]{0} parameter(0)
  ROOT %same = f32[8]{0} copy(%arg.2)
}

ENTRY %main (x: f32[8], which: s32[]) -> (f32[8], f32[8]) {
  %x = f32[8]{0} parameter(0)
  %which = s32[] parameter(1)
  %loop = f32[8]{0} while(%x), condition=%cond, body=%body, backend_config={"known_trip_count":{"n":"3"}}
  %chosen = f32[8]{0} conditional(%which, %loop, %loop), branch_computations={%first, %second}
  ROOT %both = (f32[8]{0}, /*index=1*/f32[8]{0}) tuple(%chosen, %loop)
}
"""


def test_kernels_conditionals_and_bytes_by_hand():
    """The loop's kernel moves 2 x 32 bytes, three times; the branches 64 + 96 and 64, of which the mean counts."""
    work = compiled.work_of(PROGRAM)
    assert work == (3 + 1.5, 1, 0.5, pytest.approx((3 * 64 + (160 + 64) / 2) / 1e6))


# A fusion that reads one pixel of its first operand and all of the second.
SLICED = """HloModule jit_g, is_scheduled=true

%fused_slice (param_0: bf16[64,4], param_1: f32[1,4]) -> f32[1,4] {
  %param_1 = f32[1,4]{1,0} parameter(1)
  %param_0 = bf16[64,4]{1,0} parameter(0)
  %converted = f32[64,4]{1,0} convert(%param_0)
  %pixel = f32[1,4]{1,0} slice(%converted), slice={[3:4], [0:4]}
  ROOT %sum = f32[1,4]{1,0} add(%pixel, %param_1)
}

ENTRY %main (x: bf16[64,4], y: f32[1,4]) -> f32[1,4] {
  %x = bf16[64,4]{1,0} parameter(0)
  %y = f32[1,4]{1,0} parameter(1)
  ROOT %made = f32[1,4]{1,0} fusion(%x, %y), kind=kLoop, calls=%fused_slice
}
"""


def test_of_an_operand_what_is_read_counts():
    """Four numbers of bfloat16, four read and four written of float32."""
    assert compiled.work_of(SLICED).megabytes == pytest.approx((8 + 16 + 16) / 1e6)


def test_calls_are_recorded_and_compute_nothing():
    with compiled.recorded() as calls:
        inner = jax.jit(lambda x: x + 1)
        outer = jax.jit(lambda x, *, factor: factor * inner(x), static_argnames="factor")
        result = outer(np.ones(3, np.float32), factor=2.0)
    np.testing.assert_array_equal(result, np.zeros(3))
    (call,) = calls
    assert call.static == {"factor": 2.0} and call.args[0].shape == (3,)
    np.testing.assert_array_equal(outer(np.ones(3, np.float32), factor=2.0), np.zeros(3))  # made inside


def test_without_a_compiler_for_the_card_a_line_says_what_is_missing(capsys, monkeypatch):
    def missing(**options):
        raise NotImplementedError("topology not implemented for cuda")

    compiled.h100.cache_clear()
    monkeypatch.setattr(compiled.topologies, "get_topology_desc", missing)
    for name in ("JAX_SKIP_CUDA_CONSTRAINTS_CHECK", "CUDA_VISIBLE_DEVICES", "JAX_PLATFORMS"):
        monkeypatch.setenv(name, "")  # put back afterwards
    with pytest.raises(SystemExit) as stop:
        compiled.main(["--quick"])
    (line,) = capsys.readouterr().err.splitlines()
    assert stop.value.code == 2 and "pip install 'jax[cuda13]'" in line and line.startswith("python -m benchmarks.comp")


def test_calls_of_a_population_are_counted():
    """Alone each distinct node is a call; side by side those of one layer, operation and number of inputs are."""
    supernet = make_supernet(SPACES["toy"].resized(width=2, image_size=4))
    archs = codes.enumerate_archs(supernet.space)
    plan, alone, num_nodes = roofline.count_calls(supernet, archs, 512, "alone")
    assert sum(alone.values()) == num_nodes and {called.size for called in alone} == {1}
    plan, together, _ = roofline.count_calls(supernet, archs, 512, "side_by_side")
    assert plan.batches_per_call == 2
    runs = sum(called.size * times for called, times in together.items())
    assert sum(together.values()) < num_nodes <= runs <= 4 / 3 * num_nodes
    (leaves,) = [called for called in together if called.is_leaf]
    call = roofline.call_of(leaves, plan)
    shape = jax.eval_shape(call.jitted, *call.args)
    assert shape.shape == (2, plan.archs_per_call + 16, 2, 256)


@pytest.mark.slow("the benchmarks of training are run")
def test_networks_trained_alone_are_timed_side_by_side(capsys):
    """One seed after the other, seeds at once, architectures at once: the same losses, or nothing would be reported."""
    argv = ["--space", "toy", "--width", "2", "--image-size", "4", "--num-archs", "2", "--num-seeds", "2", "--json"]
    argv += ["--num-images", "8", "--batch-size", "4", "--num-epochs", "1", "--repetitions", "1"]
    standalone.main([*argv, "--routes", "one", "seeds", "archs"])
    one, seeds, archs = records = json.loads(capsys.readouterr().out)
    assert [record["route"] for record in records] == ["one", "seeds", "archs"]
    assert seeds["speedup_over_one"] == pytest.approx(one["ms_per_network"] / seeds["ms_per_network"])
    assert archs["first_run_s"] > 0 and "archs" in standalone.table(records)


def test_parts_for_an_accelerator_keep_what_they_measured(tmp_path):
    """What fails or has no time leaves the others, and is all that a second call does; a line that was cut off is
    none."""
    path, calls = tmp_path / "a.jsonl", []

    def job(name, least=0.0, records=(), error=None):
        def run(clock, note):
            calls.append(name)
            note({"seconds": 1})
            yield from records
            if error:
                raise error

        return gpu.Job(name, least, run)

    jobs = [
        job("whole", records=[{"ms": 1}, {"ms": 2}]),
        job("breaks", records=[{"ms": 3}], error=RuntimeError("a\nb")),
    ]
    gpu.run_part([*jobs, job("long", least=1e6), job("last")], path, 60)
    first = gpu.read(path)
    assert [record["job"] for record in first if record.get("finished")] == ["whole", "last"]
    assert [record["ms"] for record in first if "ms" in record] == [1, 2, 3]
    assert {"job": "breaks", "error": "RuntimeError: a b"} in first
    assert any(record["job"] == "long" and "1000000 wanted" in record["left_out"] for record in first)
    path.write_text(path.read_text() + '{"job": "last", "ms')
    calls.clear()
    gpu.run_part([*jobs, job("last")], path, 60)
    assert calls == ["breaks"] and gpu.read(path)[: len(first)] == first
    assert all(part(small, path) for part in gpu.PARTS.values() for small in (True, False))


def test_baselines_are_spread_over_the_work():
    """Of codes that take 1 to 4 costly operations, as many of each half; their share is that of their work, by hand."""
    supernet = make_supernet(SPACES["toy"])
    archs = codes.enumerate_archs(supernet.space)
    macs = sum(supernet.layers[name].costs.macs[taken] for name, taken in supernet.taken(archs).items())
    few, share = compare.evenly_spaced(supernet, archs, 2)
    order = np.argsort(macs, kind="stable")
    assert [*few] == [order[1], order[3]] and share == macs[few].sum() / macs.sum()


def test_reading_is_timed_against_decoding(capsys):
    streaming.main(["--quick", "--num-images", "8", "--image-size", "16", "--batch-size", "4", "--json"])
    decode, stream, step = records = json.loads(capsys.readouterr().out)
    assert decode["images_per_s"] > 0 and stream["images_per_s"] > 0 and stream["over_decode"] > 0
    assert 0 <= step["waiting_share"] < 1
    assert f"{stream['over_decode']:.2f} times the time of decoding" in streaming.table(records)


def test_growth_with_architectures_and_images(capsys, tmp_path):
    """Slopes by hand from the times, and a picture."""
    argv = ["--space", "toy", "--width", "2", "--image-size", "4", "--num-archs", "2", "4", "--num-images", "4", "8"]
    argv += ["--images-per-call", "4", "--repetitions", "1", "--most-serial", "2", "--json"]
    scaling.main([*argv, "--picture", str(tmp_path / "growth.png")])
    records = json.loads(capsys.readouterr().out)
    lines = [(record["what"], record["route"], record["num_archs"], record["num_images"]) for record in records]
    assert lines == [
        ("architectures", "auto", 2, 4),
        ("architectures", "serial", 2, 4),
        ("architectures", "auto", 4, 4),
        ("images", "auto", 100, 4),
        ("images", "auto", 100, 8),
    ]
    first, serial, second, *images = records
    assert first["exponent"] == pytest.approx(np.log2(second["ms"] / first["ms"])) and serial["exponent"] is None
    assert images[0]["exponent"] == pytest.approx(np.log2(images[1]["ms"] / images[0]["ms"]))
    assert (tmp_path / "growth.png").stat().st_size > 5000


def test_comparison_with_pytorch(capsys, monkeypatch):
    """Two small rows; losses of all routes agree, or nothing would be reported."""
    pytest.importorskip("torch", reason="PyTorch is not installed: pip install -e '.[benchmarks]'")
    argv = ["--rows", "cells_1000", "--width", "2", "--image-size", "4", "--num-images", "4", "--most-archs", "6"]
    compare.main([*argv, "--num-baseline", "3", "--baselines", "serial_1", "torch_eager", "--json"])
    ours, serial, eager = json.loads(capsys.readouterr().out)
    assert [record["route"] for record in (ours, serial, eager)] == ["ours", "serial_1", "torch_eager"]
    assert ours["strategy"] == "graph" and 0 < ours["work_ratio"] <= 1 and serial["work_ratio"] == 1
    assert serial["ours_speedup"] == pytest.approx(serial["ms"] / ours["ms"])
    assert ours["speedup_over_serial"] == pytest.approx(serial["ms"] / ours["ms"])
    assert "cells_1000" in compare.table([ours, serial, eager])


@pytest.mark.slow("the populations of the benchmark are counted again")
def test_random_populations_equal_the_reference():
    """A small sample of what is run by hand; on four codes, so that most come more than once."""
    total, *records = populations.run(populations.Config(spaces=("toy",), count=12))
    assert total["populations"] == total["equal"] == 12 == sum(record["populations"] for record in records)
    assert total["dropped"] == total["different"] == 0 < total["largest_difference"] < populations.TOLERANCE
    assert total["repeated"] > 0 < total["affine"] < 12 and {record["space"] for record in records} == {"toy"}


def test_random_populations_notice_what_is_wrong(monkeypatch):
    setting = populations.Setting("toy", True, "batch", "graph", (("archs_per_call", 2),))
    reference = populations.make_reference("toy", True)
    rows = np.array([int(np.unique(reference.archs, axis=0, return_index=True)[1][place]) for place in (0, 1, 2)])
    assert populations.judge(setting, rows)[0] == "equal"
    honest = reference.score
    for change, verdict in (
        (lambda scores: scores._replace(image_loss=scores.image_loss[[1, 0, 2]]), "different"),
        (lambda scores: scores._replace(image_loss=scores.image_loss * np.array([[0.0], [1], [1]])), "different"),
        (lambda scores: scores._replace(loss=scores.loss[[1, 0, 2]]), "different"),
        (lambda scores: scores._replace(archs=scores.archs[[1, 0, 2]]), "dropped"),
    ):
        monkeypatch.setattr(reference, "score", lambda *given, change=change: change(honest(*given)))
        assert populations.judge(setting, rows)[0] == verdict
    monkeypatch.setattr(reference, "score", lambda setting, rows, bar: honest(setting, rows[:2], bar))
    assert populations.judge(setting, rows)[0] == "dropped"


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_beside_the_budget():
    """Of a network that takes next to nothing: more than nothing is resident, and the floor is told."""
    config = memory.Config(width=2, image_size=4, num_archs=2, num_images=4, num_calibration_images=4)
    high, low = (memory.measure(config, "toy", "calibrated", budget) for budget in (300, 100))
    assert high["above_floor"] and not low["above_floor"] and 0 <= high["peak_mib"] < 300
    assert high["ratio"] == pytest.approx(high["peak_mib"] / 300, abs=0.01)
    assert memory.table([high, low]).splitlines()[-1].endswith("below, with a warning")


@pytest.mark.parametrize("op, passes", [("nor_conv_3x3", 4), ("nor_conv_1x1", 4), ("avg_pool_3x3", 1)])
@pytest.mark.parametrize("num_inputs", [1, 2, 3])
def test_passes_over_a_node_of_an_h100(op, passes, num_inputs):
    """A large node reads its inputs, writes what is convolved and reads it, writes what comes out and reads it for the
    moments. Pooling reads and writes."""
    with mock.patch.dict(os.environ, compiled.WITHOUT_A_GPU):
        try:
            compiled.h100()
        except ValueError as error:
            pytest.skip(str(error))
    operation = as_operation(OPS[op](16, 1, False, Policy(compute="bfloat16")))
    plan = types.SimpleNamespace(batches_per_call=20, images_per_call=256)
    called = roofline.Called(operation, (32, 32, 16), num_inputs, 4, "bfloat16", is_leaf=False, is_first=False)
    work = compiled.work_of(compiled.compile_for_h100(roofline.call_of(called, plan)))
    activation = 20 * 256 * 32 * 32 * 16 * 2 / 1e6
    assert work.megabytes / (4 * activation) < num_inputs + passes + 0.1
    assert work.conditionals == 0


def test_what_imagenet_comes_to_is_counted():
    """1x1 to 6 channels, 3x3 depthwise, 1x1 to 4 at 2x2 pixels: 12 + 24 + 24 numbers read, 24 + 24 + 16 moved 6 times;
    and a search that keeps 2 prefixes, of choices of 1, 3 and 2 candidates: 1 + 3 + 2 x 2 times its completions."""
    block = InvertedResidual(4, 1, 2, 3)
    assert imagenet.moved(block, (2, 2, 3)) == 12 + 24 + 24 + 6 * (24 + 24 + 16)
    names = ("mb1_k3", "mb3_k3", "mb6_k3")
    layout = ChainLayout(stem_width=2, widths=(2, 2, 2), strides=(1, 1, 1), head_width=0)
    space = chain_space("counted", layout, [names[:1], names, names[:2]])
    config = dataclasses.replace(imagenet.Config(), pool_size=2, num_completions=10)
    assert imagenet.num_scored(space, config) == 10 * (1 + 3 + 2 * 2)


def test_what_imagenet_comes_to_is_of_the_presets():
    search, retraining = (runs.flat(pcnas.PRESETS["paper"]), runs.flat(retrain.PRESETS["paper"]))
    config = imagenet.Config()
    assert (config.search_steps, config.pool_size, config.num_completions, config.num_scored_images) == tuple(
        search[name] for name in ("num_steps", "pool_size", "num_completions", "num_eval_images")
    )
    assert config.batch_size == search["batch_size"] == RECIPES[retraining["recipe"]].batch_size
    assert config.num_valid == retraining["num_valid"]


def test_published_settings_go_on_where_a_part_ended(tmp_path):
    """`gpu.sh paper` with a stand-in for Python under which each experiment takes too long the first time."""
    fake = tmp_path / "bin" / "python"
    fake.parent.mkdir()
    fake.write_text(
        """#!/bin/bash
        [[ "$1" == - ]] && exit 0
        echo "$@" >>"$0.log"
        folder="${!#}"
        [[ -e "$folder" ]] || { mkdir -p "$folder" && exec sleep 60; }
        touch "$folder/result.json"
        """
    )
    fake.chmod(0o755)
    environment = os.environ | {"PATH": f"{fake.parent}:{os.environ['PATH']}", "SECONDS_OF_PART": "1"}
    argv = [Path(__file__).parents[1] / "benchmarks" / "gpu.sh", "paper", tmp_path / "out", "DATA"]
    codes = []
    while len(codes) < 9 and 0 not in codes:
        codes.append(subprocess.run(argv, env=environment, check=False).returncode)
    assert codes[-1] == 0 and set(codes[:-1]) == {3}
    names = ("rank_correlation", "landmark", "label_budget")
    assert [(tmp_path / "out" / name / "result.json").exists() for name in names] == [True] * 3
    told = (tmp_path / "bin" / "python.log").read_text().splitlines()
    assert (
        told[:2]
        == [f"-m experiments.{names[0]} paper --data-dir DATA --no-progress --workdir {argv[2] / names[0]}"] * 2
    )


def test_one_published_experiment_that_fails_leaves_the_others(tmp_path):
    fake = tmp_path / "bin" / "python"
    fake.parent.mkdir()
    fake.write_text('#!/bin/bash\n[[ "$1" == - ]] && exit 0\necho "$2" >>"$0.log"\n[[ "$2" != *landmark ]]\n')
    fake.chmod(0o755)
    environment = os.environ | {"PATH": f"{fake.parent}:{os.environ['PATH']}"}
    argv = [Path(__file__).parents[1] / "benchmarks" / "gpu.sh", "paper", tmp_path / "out"]
    assert subprocess.run(argv, env=environment, check=False).returncode == 1
    tried = (tmp_path / "bin" / "python.log").read_text().split()
    assert tried == ["experiments.rank_correlation", "experiments.landmark", "experiments.label_budget"]
