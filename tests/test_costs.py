"""Costs: the published tables to the last digit, and small numbers by hand."""

import json

import jax
import numpy as np
import pytest

from jaxnas.codes import enumerate_archs, sample
from jaxnas.costs import arch_costs, op_costs
from jaxnas.ops import OPS, Policy, as_operation
from jaxnas.space import ChainLayout
from jaxnas.spaces import SPACES, Stage, chain_space, mobile_small, mobile_space, nasbench201, nasbench_macro
from jaxnas.spaces.mobile import LARGE_OPS
from jaxnas.supernets import make_supernet


def test_all_published_macro_chains(data_dir):
    table = json.loads((data_dir / "nas-bench-macro_cifar10.json").read_text())
    archs = enumerate_archs(nasbench_macro)
    entries = [table["".join(map(str, code))] for code in archs]
    found = arch_costs(nasbench_macro, archs)
    assert len(entries) == len(table) == 6_561
    np.testing.assert_array_equal(found.macs, [entry["flops"] for entry in entries])
    np.testing.assert_array_equal(found.params, [entry["params"] for entry in entries])


def test_all_published_cells(data_dir):
    with np.load(data_dir / "nasbench201_cifar10.npz") as table:
        archs, macs_m, params_mb = (table[name] for name in ("ops", "flops_m_cifar10", "params_mb_cifar10"))
    found = arch_costs(nasbench201, archs)
    assert len(archs) == 15_625
    np.testing.assert_array_equal((found.macs / 1e6).astype(np.float32), macs_m)  # the table has float32
    np.testing.assert_array_equal((found.params / 1e6).astype(np.float32), params_mb)


@pytest.mark.parametrize(
    ("space", "code", "macs", "params"),
    [
        # Stem 884,736, three strided identities of 524,288 each, head 5,242,880, classifier 12,800.
        (nasbench_macro, "00000000", 7_713_280, 387_882),
        (nasbench_macro, "22222222", 105_660_928, 2_932_586),  # as published
        # Stem 442,368, two reduction blocks of 3,670,016 each, classifier 640.
        (nasbench201, "000000", 7_783_040, 73_306),
        (nasbench201, "111444", 7_783_040, 73_306),  # skip and pooling count nothing
        (nasbench201, "421211", 15_647_360, 129_306),  # as published, row 0
        # One 3x3 on a dead edge, 15 times 9 * 16 * 16 * 32 * 32 MACs: counted all the same.
        (nasbench201, "300000", 7_783_040 + 35_389_440, 73_306 + 243_040),
    ],
)
def test_known_networks(space, code, macs, params):
    found = arch_costs(space, [[int(op) for op in code]])
    assert (found.macs.tolist(), found.params.tolist()) == ([macs], [params])


@pytest.mark.parametrize(
    ("name", "where", "macs", "params"),
    [  # where: channels in and out, pixels, stride
        # 1x1 2 -> 8 at 5 px, 7x7 depthwise and 1x1 8 -> 3 at 3 px; normalisations of 8, 8 and 3 channels.
        ("mb4_k7", (2, 3, 5, 2), 16 * 25 + 392 * 9 + 24 * 9, 16 + 392 + 24 + 2 * (8 + 8 + 3)),
        # 1x1 2 -> 3 at 5 px, 7x7 3 -> 3 and 1x1 3 -> 6 at 3 px.
        ("nconv2_k7", (2, 6, 5, 2), 6 * 25 + 441 * 9 + 18 * 9, 6 + 441 + 18 + 2 * (3 + 3 + 6)),
        ("nconv4_k3", (1, 1, 2, 1), 4 + 36 + 4, 1 + 9 + 1 + 2 * 3),  # at least one channel within
        # 3x3 2 -> 3 and 3x3 3 -> 3 at 3 px.
        ("rconv_k3", (2, 3, 5, 2), 54 * 9 + 81 * 9, 54 + 81 + 2 * (3 + 3)),
        # 5x5 on each of 2, 1x1 2 -> 3, 5x5 on each of 3, 1x1 3 -> 3, all at 3 px.
        ("dconv_k5", (2, 3, 5, 2), (50 + 6 + 75 + 9) * 9, 50 + 6 + 75 + 9 + 2 * (2 + 3 + 3 + 3)),
        ("nor_conv_3x3", (2, 2, 4, 1), 36 * 16, 36 + 4),
        ("identity", (2, 2, 4, 1), 0, 0),
        ("identity", (2, 3, 4, 1), 6 * 16, 6 + 6),
        ("identity", (2, 2, 4, 2), 4 * 4, 4 + 4),
        ("avg_pool_3x3", (2, 2, 4, 1), 0, 0),
    ],
)
def test_operations_by_hand(name, where, macs, params):
    in_channels, channels, size, stride = where
    operation = as_operation(OPS[name](channels, stride, True, Policy()))
    assert operation.cost((size, size, in_channels)) == (macs, params)


def test_a_chain_by_hand():
    """8 px, 1 -> 8 channels, nothing, 8 -> 16 strided, head 64, ten classes."""
    layout = ChainLayout(8, widths=(8, 16), strides=(1, 2), head_width=64, image_size=8, in_channels=1)
    found = arch_costs(chain_space("mine", layout, [("identity", "mb3_k3")] * 2), [[0, 0]])
    assert found.macs.tolist() == [72 * 64 + 128 * 16 + 1024 * 16 + 640]
    assert found.params.tolist() == [(72 + 16) + (128 + 32) + (1024 + 128) + 650]
    headless = chain_space("mine", layout._replace(head_width=0, stem_stride=2), [("identity", "mb3_k3")] * 2)
    assert arch_costs(headless, [[0, 0]]).macs.tolist() == [72 * 16 + 128 * 4 + 160]


MINE = chain_space(
    "mine",
    ChainLayout(8, widths=(8, 16, 12), strides=(1, 2, 1), head_width=0, image_size=9),
    [("mb1_k7", "identity"), ("identity", "mb2_k5", "mb3_k3"), ("identity",)],
)

FAMILIES = mobile_space(
    "families", [Stage(4, 1, 1, ("mb1_k3",)), Stage(6, 2, 2)], LARGE_OPS, stem_width=3, head_width=5, image_size=9
)


@pytest.mark.parametrize(
    "space",
    [
        *(SPACES[name] for name in ("digits_chain", "nasbench_macro", "nasbench201")),
        nasbench201.resized(width=4, image_size=8),
        MINE,
        FAMILIES,
    ],
    ids=lambda space: space.name,
)
def test_parameters_are_those_of_the_sub_network(space):
    """Counted in the super-net's tree: the taken candidate of each choice, and every layer without a choice."""
    with jax.numpy_rank_promotion("allow"):  # channels broadcast over images inside the operations
        supernet = make_supernet(space)
        params = jax.eval_shape(supernet.init, jax.random.key(0))
    sizes = {
        name: [sum(leaf.size for leaf in jax.tree.leaves(params[name][op])) for op in layer.candidates]
        for name, layer in supernet.layers.items()
    }
    choices = {name: layer.choice for name, layer in supernet.layers.items()}
    archs = np.asarray(sample(jax.random.key(1), space, 20))
    counted = [
        sum(sizes[name][0 if choice is None else arch[choice]] for name, choice in choices.items()) for arch in archs
    ]
    np.testing.assert_array_equal(arch_costs(space, archs).params, counted)


def test_mobilenet_v2_is_in_the_mobile_space():
    """Published: 3,504,872 parameters (torchvision) and 300 million MACs (the paper). Ours has a 1x1 convolution 32 ->
    32 with normalisation more, at 112 px, since its first block expands by 1 where MobileNetV2's leaves that out."""
    best = mobile_small.op_names[1].index("mb6_k3")
    found = arch_costs(mobile_small, [[0, *[best] * 16]])
    assert found.params.tolist() == [3_504_872 + 32 * 32 + 2 * 32]
    assert found.macs[0] - 32 * 32 * 112**2 == pytest.approx(300e6, rel=0.005)


def test_a_small_cell_network_by_hand():
    small = nasbench201.resized(width=8, image_size=16, cells_per_stage=1, num_classes=3)
    per_op, fixed = op_costs(small)
    # A 1x1 convolution at every stage: 8 * 8 at 16 px, 16 * 16 at 8 px, 32 * 32 at 4 px.
    assert per_op.macs[0].tolist() == [0, 0, 3 * 64 * 256, 9 * 3 * 64 * 256, 0]
    assert per_op.params[5].tolist() == [0, 0, 64 + 256 + 1024 + 2 * 56, 9 * (64 + 256 + 1024) + 2 * 56, 0]
    # The stem, two reductions (3x3, 3x3 and 1x1), the classifier.
    assert fixed.macs == 216 * 256 + (1152 + 2304 + 128) * 64 + (4608 + 9216 + 512) * 16 + 96


def test_op_costs_with_choices_of_different_sizes():
    layout = ChainLayout(8, widths=(8, 16), strides=(1, 2), head_width=0)
    space = chain_space("mine", layout, [("mb3_k3", "mb6_k5", "identity"), ("mb3_k3",)])
    per_op, fixed = op_costs(space)
    assert per_op.macs.shape == per_op.params.shape == (2, 3) and fixed.macs.shape == fixed.params.shape == ()
    assert (per_op.macs[0, :2] > 0).all() and per_op.macs[1, 0] > 0
    assert per_op.macs[0, 2] == 0 and per_op.macs[1, 1:].tolist() == [0, 0]


def test_bad_codes_are_refused():
    with pytest.raises(ValueError, match=r"^nasbench201: code 5 at index 5 of architecture 0 is outside \[0, 5\)\.$"):
        arch_costs(nasbench201, [[0, 0, 0, 0, 0, 5]])
