"""Exported networks against the super-net's own path, round trips, and files that are not the right ones."""

import dataclasses
import json
import os
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import network_costs

from jaxnas import export
from jaxnas.costs import arch_costs, limits
from jaxnas.files import seal_arrays
from jaxnas.spaces import digits_chain, nasbench101_space, nasbench201
from jaxnas.supernets import make_supernet

TINY_ARCH = np.array([0, 1, 2])
CELL_ARCH = np.array([3, 1, 2, 4, 0, 1])  # every kind of operation, a dead edge among them


def some_images(space, num_images, seed):
    layout = space.layout
    shape = (num_images, layout.image_size, layout.image_size, layout.in_channels)
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape).astype(np.float32))


@pytest.mark.parametrize(
    "name, arch, affine", [("tiny", TINY_ARCH, True), ("tiny", TINY_ARCH, False), ("nasbench201", CELL_ARCH, False)]
)
def test_logits_are_those_of_the_super_nets_path(small_supernet, tmp_path, name, arch, affine):
    """Normalised by the batch, by the batch under a mask, and by statistics of other images."""
    supernet, params = small_supernet(name, affine)
    images, others = some_images(supernet.space, 6, 0), some_images(supernet.space, 9, 1)
    mask = np.arange(6) < 4
    # The chain by a switch at each choice; the cells with the code known at compilation, which compiles in a tenth.
    code = jnp.asarray(arch) if name == "tiny" else tuple(int(op) for op in arch)

    @jax.jit
    def path(params, images, others):
        _, stats = supernet.apply(params, code, others, groups=None)
        batch, masked, calibrated = (
            supernet.apply(params, code, images, groups=None, **how)[0]
            for how in ({}, {"mask": mask}, {"stats": stats})
        )
        return batch, masked, calibrated, stats

    *expected, stats = path(params, images, others)
    exported = [export.export(supernet, params, arch), export.export(supernet, params, arch, stats)]
    for number, one in enumerate(exported):  # through files, whose round trip must be exact
        export.save(tmp_path / f"{number}.npz", one, supernet.space)
        loaded = export.load(tmp_path / f"{number}.npz", supernet)
        jax.tree.map(np.testing.assert_array_equal, loaded, one)
        exported[number] = loaded
    (module, variables), (_, calibrated) = (export.flax_module(supernet, one) for one in exported)
    found = jax.jit(
        lambda variables, calibrated, images: (
            module.apply(variables, images),
            module.apply(variables, images, mask),
            module.apply(calibrated, images),
        )
    )(variables, calibrated, images)
    for ours, theirs in zip(found, expected):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
    assert np.abs(found[0] - found[2]).max() > 1e-3  # the rules do differ


def test_the_module_holds_nothing_else(small_supernet):
    supernet, params = small_supernet("tiny")
    module, variables = export.flax_module(supernet, export.export(supernet, params, TINY_ARCH))
    assert set(variables) == {"params"}
    assert set(variables["params"]) == {"stem", "layer1", "layer2", "head"}  # layer0 is nothing
    assert variables["params"]["layer2"]["Conv_0"]["kernel"].shape == (3, 3, 4, 4)
    shapes = jax.eval_shape(module.init, jax.random.key(0), some_images(supernet.space, 2, 0))
    assert jax.tree.map(lambda leaf: leaf.shape, shapes["params"]) == jax.tree.map(
        lambda leaf: leaf.shape, variables["params"]
    )
    sizes = sum(leaf.size for leaf in jax.tree.leaves(variables))
    assert sizes == arch_costs(supernet.space, TINY_ARCH[None]).params[0]


def test_json_says_what_it_is_and_comes_back():
    arch = np.array([0, 1, 2, 1, 0])
    text = export.to_json(digits_chain, arch)
    content = json.loads(text)
    assert content["space"] == "digits_chain" and content["arch"] == [0, 1, 2, 1, 0]
    assert content["ops"] == ["identity", "mb2_k3", "mb6_k3", "mb2_k3", "identity"]
    assert content["layout"]["kind"] == "ChainLayout" and content["layout"]["widths"] == [4, 8, 8, 16, 16]
    back = export.from_json(text, digits_chain.resized(width=8))
    assert back.dtype == np.int32
    np.testing.assert_array_equal(back, arch)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda content: "found", r"^no architecture in JSON \(Expecting value.*\), expected what export.to_json"),
        (lambda content: "[1, 2]", r"^no architecture in JSON \(a list\)"),
        (lambda content: "[" * 10**5, r"^no architecture in JSON \(JSON that is nested too deeply\)"),
        (lambda content: '{"arch": ' + "[" * 900 + "]" * 900 + "}", r"^no architecture in JSON \(JSON that is nested"),
        (lambda content: json.dumps({"format": 1}), r"^no architecture in JSON, expected an object of format, space, "),
        (lambda content: json.dumps(content | {"format": 2}), "^an architecture in format 2, but .* reads format 1"),
        (lambda content: json.dumps(content | {"space": "mine"}), "^an architecture of 'mine' .*, expected digits_ch"),
        (lambda content: json.dumps(content | {"arch": [0, 0, 1, 0, 0]}), "whose ops, .* contradict its arch"),
        (lambda content: json.dumps(content | {"ops": ["mb2_k3"] * 5}), "^an architecture whose ops, .* contra"),
        (lambda content: json.dumps(content | {"ops": 3}), "^an architecture whose ops, 3, contradict its arch"),
        (lambda content: json.dumps(content | {"layout": {}}), "^an architecture in JSON that was edited since"),
        (lambda content: json.dumps(content | {"checksum": 5}), "^an architecture in JSON that was edited since"),
        (lambda content: json.dumps(content | {"arch": [0.0] * 5}), "^digits_chain: archs have dtype float64"),
        (lambda content: json.dumps(content | {"arch": [10**30] * 5}), "^digits_chain: archs have dtype object"),
        (lambda content: json.dumps(content | {"arch": [True] * 5}), "^digits_chain: archs have dtype bool"),
        (lambda content: json.dumps(content | {"arch": None}), "^digits_chain: archs have shape"),
        (lambda content: json.dumps(content | {"arch": [0, 0, 3, 0, 0]}), "^digits_chain: code 3 at index 2 of arch"),
        (lambda content: json.dumps(content | {"arch": [0, 0]}), r"^digits_chain: archs have shape \(1, 2\)"),
    ],
)  # fmt: skip
def test_json_that_is_none(change, message):
    text = change(json.loads(export.to_json(digits_chain, [0] * 5)))
    with pytest.raises(ValueError, match=message) as error:
        export.from_json(text, digits_chain)
    assert "\n" not in str(error.value)


class TestFiles:
    @pytest.fixture
    def saved(self, small_supernet, tmp_path):
        supernet, params = small_supernet("tiny")
        path = tmp_path / "found.npz"
        export.save(path, export.export(supernet, params, TINY_ARCH), supernet.space)
        return supernet, path

    def refuses(self, path, supernet, message):
        with pytest.raises(ValueError, match=f"^{re.escape(str(path))}: {message}") as error:
            export.load(path, supernet)
        assert "\n" not in str(error.value)

    def test_damage(self, saved):
        supernet, path = saved
        data = path.read_bytes()
        for wrong in (b"", data[:-30], data[:400] + bytes([data[400] ^ 1]) + data[401:], b"PK" + bytes(50)):
            path.write_bytes(wrong)
            self.refuses(path, supernet, r"truncated, damaged or no exported network \(")

    def test_content_changed_with_all_zip_checks_right(self, saved):
        supernet, path = saved
        with np.load(path) as file:
            arrays = dict(file)
        name = next(name for name in arrays if name.endswith("kernel"))
        np.savez(path, **(arrays | {name: arrays[name] * 2}))
        self.refuses(path, supernet, r"truncated, damaged or no exported network \(the checksum does not fit")
        meta = json.loads(str(arrays.pop("meta")))
        for change, message in (
            ({"ops": ["identity"] * 3}, "an architecture whose ops, .* contradict its arch"),
            ({"extra": 1}, "no architecture in JSON"),
        ):
            path.write_bytes(seal_arrays({"architecture": meta["architecture"] | change}, arrays))
            self.refuses(path, supernet, message)
        path.write_bytes(seal_arrays({"architecture": meta["architecture"]}, arrays | {name: arrays[name] > 0}))
        self.refuses(path, supernet, r"params/\S+ has bool of shape .*, expected float32 of shape")
        path.write_bytes(seal_arrays({}, arrays))
        self.refuses(path, supernet, r"truncated, damaged or no exported network \(it holds no architecture\)")

    def test_another_super_net(self, saved):
        supernet, path = saved
        message = "exported from another network of tiny, .*'widths': .3, 4, 4.*, expected .*; give the super-net that"
        self.refuses(path, make_supernet(supernet.space.resized(width=6)), message)
        layout = supernet.space.layout._replace(strides=(1, 1, 2))
        self.refuses(path, make_supernet(dataclasses.replace(supernet.space, layout=layout)), message)
        self.refuses(path, make_supernet(digits_chain), "an architecture of 'tiny' .*, expected digits_chain")
        self.refuses(
            path, make_supernet(supernet.space, affine=False), "params/.*(scale|bias) is no part of this network"
        )

    def test_weights_that_are_missing(self, small_supernet, saved):
        supernet, path = saved
        plain, params = small_supernet("tiny", False)
        export.save(path, export.export(plain, params, TINY_ARCH), plain.space)
        self.refuses(path, supernet, r"params/\S+ has nothing, expected float32 of shape")

    def test_what_was_there_stays_when_the_disk_is_full(self, saved, small_supernet, monkeypatch):
        supernet, path = saved
        before = path.read_bytes()

        def full(*_):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        _, params = small_supernet("tiny")
        with pytest.raises(OSError):
            export.save(path, export.export(supernet, params, [1, 1, 1]), supernet.space)
        assert path.read_bytes() == before and os.listdir(path.parent) == [path.name]


def test_bad_codes_are_refused(small_supernet):
    supernet, params = small_supernet("tiny")
    for call in (
        lambda arch: export.export(supernet, params, arch),
        lambda arch: export.to_json(supernet.space, arch),
        lambda arch: export.summary(supernet, arch),
        lambda arch: export.describe(supernet.space, arch),
    ):
        with pytest.raises(ValueError, match=r"^tiny: code 3 at index 1 of architecture 0 is outside"):
            call([0, 3, 0])


def test_summary_of_a_chain_by_hand():
    """Stem 9 * 4 weights at 64 pixels; 1x1 4 -> 24, 3x3 on 24, 1x1 24 -> 8; head 1x1 16 -> 32 at 4 pixels."""
    lines = export.summary(make_supernet(digits_chain), [0, 2, 0, 0, 0]).splitlines()
    assert lines[0] == "digits_chain 0-2-0-0-0"
    rows = {line.split()[0]: line.split() for line in lines[2:]}
    assert lines[1].split() == ["layer", "operation", "output", "parameters", "MACs"]
    assert rows["stem"] == ["stem", "stem", "8", "x", "8", "x", "4", "44", "2,304"]
    assert rows["layer0"] == ["layer0", "identity", "8", "x", "8", "x", "4", "0", "0"]
    weights = 4 * 24 + 9 * 24 + 24 * 8
    macs = 4 * 24 * 64 + 9 * 24 * 16 + 24 * 8 * 16
    assert rows["layer1"][-2:] == [str(weights + 2 * (24 + 24 + 8)), f"{macs:,}"]
    assert rows["head"] == ["head", "head", "10", str(512 + 64 + 330), f"{512 * 4 + 320:,}"]
    found = arch_costs(digits_chain, [[0, 2, 0, 0, 0]])
    assert rows["total"] == ["total", f"{int(found.params[0]):,}", f"{int(found.macs[0]):,}"]


@pytest.mark.parametrize("affine", [True, False])
def test_summary_of_cells_adds_up(affine):
    space = nasbench201.resized(width=4, image_size=8, cells_per_stage=2)
    lines = export.summary(make_supernet(space, affine=affine), CELL_ARCH).splitlines()
    assert len(lines) == 2 + (1 + 6 * 6 + 2 + 1) + 1
    columns = [[int(line.split()[at].replace(",", "")) for line in lines[2:]] for at in (-2, -1)]
    assert all(sum(column[:-1]) == column[-1] for column in columns)
    found = arch_costs(space, CELL_ARCH[None])
    assert columns[1][-1] == found.macs[0]
    assert (columns[0][-1] == found.params[0]) == affine
    assert all(macs >= 0 for macs in columns[1])
    assert columns[1][-2] == 16 * 10  # the head: 16 channels, ten classes


NASBENCH101 = nasbench101_space(4)


def test_describe_a_cell_whose_wiring_is_searched():
    arch = np.array([1, 0, 1, 1, 0, 1, 0, 2])  # edges 01, 03, 12 and 23; a 3x3 convolution, then pooling
    limit = limits.parse("macs:3e9", NASBENCH101)
    found = export.describe(NASBENCH101, arch, limit=limit)
    macs, params = network_costs(NASBENCH101, arch[None])
    assert (found["macs"], found["params"], found["limited"]) == (macs[0], params[0], macs[0])
    assert found["meets_limit"] == (macs[0] <= 3e9) and found["limit"] == "macs <= 3000000000"


def test_describe_against_a_limit():
    arch = np.array([0, 2, 0, 0, 0])
    costs = arch_costs(digits_chain, arch[None])
    plain = export.describe(digits_chain, arch)
    assert plain == {
        "arch": "0-2-0-0-0", "ops": "identity mb6_k3 identity identity identity", "accuracy": None,
        "params": costs.params[0], "macs": costs.macs[0], "measured_latency_ms": None,
    }  # fmt: skip
    for value, meets in ((costs.macs[0], True), (costs.macs[0] - 1, False)):
        found = export.describe(digits_chain, arch, limit=limits.parse(f"macs:{value}", digits_chain), accuracy=0.9)
        assert (found["limited"], found["meets_limit"], found["accuracy"]) == (costs.macs[0], meets, 0.9)
        assert "measured_over_limit" not in found
    per_op = limits.cost_table(digits_chain, np.full((5, 3), 0.5), 1.0)
    limit = limits.parse("latency_ms:4", digits_chain, {"latency_ms": per_op})
    found = export.describe(digits_chain, arch, limit=limit, measured_latency_ms=5.0)
    assert (found["limited"], found["meets_limit"], found["measured_over_limit"]) == (3.5, True, 1.25)
    json.dumps(found)
