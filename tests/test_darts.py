"""DARTS's space: its codes by brute force, its operations and networks against plain NumPy, its routes."""

import functools
import itertools

import jax
import numpy as np
import optax
import pytest
import scipy.special
import scipy.stats
from conftest import random_params

from experiments.shared.problem import evaluation_archs
from jaxnas import codes as coding
from jaxnas import costs, export, tables
from jaxnas.evaluation import make_evaluator
from jaxnas.ops import OPS, Policy, Tape
from jaxnas.samplers import uniform
from jaxnas.spaces import darts, darts_space
from jaxnas.spaces._darts import OP_NAMES
from jaxnas.supernets import Drawn, make_supernet, only, two_cell
from jaxnas.supernets.running import Running
from jaxnas.training import init_train_state, make_cross_entropy_loss, make_train_step
from jaxnas.training.standalone import Recipe, make_standalone

NONE, MAX_POOL, AVG_POOL, SKIP, SEP3, SEP5, DIL3, DIL5 = range(8)
RNG = np.random.default_rng(0)
IMAGES = RNG.normal(size=(6, 8, 8, 3)).astype(np.float32)
LABELS = RNG.integers(0, 10, 6)
# Each operation at stride 1 and 2 and, but for the last two, on a node.
PAIRS = [
    [(SEP3, 0), (DIL5, 1), (MAX_POOL, 1), (SKIP, 2), *[(AVG_POOL, 0), (SKIP, 1), (SEP5, 2), (NONE, 0)]],
    [(DIL3, 0), (SEP5, 1), (AVG_POOL, 2), (NONE, 1), *[(MAX_POOL, 0), (SEP3, 1), (DIL5, 1), (MAX_POOL, 2)]],
    [(SKIP, 1), (AVG_POOL, 0), (SEP3, 2), (SEP5, 0), *[(DIL3, 0), (SEP5, 1), (SEP3, 0), (DIL3, 2)]],
]
CODES = np.array(PAIRS, np.int32).reshape(3, -1)

SLOW = pytest.mark.slow("every route of a super-net of two cells")


def small(num_nodes=2, width=4):
    return darts_space(num_nodes).resized(width=width, image_size=8, cells_per_stage=1)


@functools.cache
def built(num_nodes=2, affine=True):
    supernet = make_supernet(small(num_nodes), affine=affine)
    return supernet, random_params(supernet)


# The plain network, in float64


def windows(x, kernel, stride, dilation=1, fill=0.0):
    """What each place of the kernel meets: [kernel^2, num_images, height, width, channels]."""
    pad, size = dilation * (kernel // 2), x.shape[1]
    x = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)), constant_values=fill)
    starts = itertools.product(range(0, kernel * dilation, dilation), repeat=2)
    return np.stack([x[:, i : i + size : stride, j : j + size : stride] for i, j in starts])


def norm(x, tree):
    x = (x - x.mean(axis=(0, 1, 2))) / np.sqrt(x.var(axis=(0, 1, 2)) + 1e-5)
    if "BatchNorm_0" in tree:
        x = x * np.float64(tree["BatchNorm_0"]["scale"]) + np.float64(tree["BatchNorm_0"]["bias"])
    return x


def project(x, tree):
    return norm(x @ np.float64(tree["Conv_0"]["kernel"])[0, 0], tree)


def depthwise(x, tree, stride, dilation=1):
    kernel = np.float64(tree["kernel"])
    return np.einsum("pnhwc,pc->nhwc", windows(x, len(kernel), stride, dilation), kernel.reshape(-1, x.shape[-1]))


def reduce(x, tree):
    x = np.maximum(x, 0)
    halves = [x[:, i::2, i::2] @ np.float64(tree[name]["kernel"])[0, 0] for i, name in enumerate(("first", "second"))]
    return norm(np.concatenate(halves, axis=-1), tree)


def operate(op, x, tree, stride):
    name = OP_NAMES[op]
    if name == "none":
        return np.zeros_like(x[:, ::stride, ::stride])
    if name == "skip_connect":
        return x if stride == 1 else reduce(x, tree)
    if name == "max_pool_3x3":
        return windows(x, 3, stride, fill=-np.inf).max(axis=0)
    if name == "avg_pool_3x3":
        return windows(x, 3, stride).sum(axis=0) / windows(np.ones_like(x), 3, stride).sum(axis=0)
    if name.startswith("dil"):
        return project(depthwise(np.maximum(x, 0), tree["depthwise"], stride, dilation=2), tree["project"])
    for half, own_stride in (("first", stride), ("second", 1)):
        x = depthwise(np.maximum(x, 0), tree[f"{half}_depthwise"], own_stride)
        x = project(x, tree[f"{half}_project"])
    return x


def plain_network(params, code, images, num_nodes):
    """Five cells: normal, reduction, normal, reduction, normal; edges by the code alone."""
    stem = params["stem"]["stem"]
    kernels = np.float64(stem["Unfold_0"]["kernel"])
    x = np.concatenate(list(windows(np.float64(images), 3, 1)), axis=-1) @ kernels
    before = last = norm(x, stem)
    cells = np.reshape(code, (2, num_nodes, 2, 2))
    for number in range(5):
        name, reduces = f"cell{number}", number in (1, 3)
        inputs = []
        for each, x in enumerate((before, last)):
            (how, tree), *_ = params[f"{name}_input{each}"].items()
            inputs.append(reduce(x, tree) if how == "reduce" else project(np.maximum(x, 0), tree))
        for node, edges in enumerate(cells[int(reduces)], start=2):
            parts = [
                operate(
                    op,
                    inputs[source],
                    params[f"{name}_edge{source}{node}"][OP_NAMES[op]],
                    2 if reduces and source < 2 else 1,
                )
                for op, source in edges
            ]
            inputs.append(sum(parts))
        before, last = last, np.concatenate(inputs[2:], axis=-1)
    dense = params["head"]["head"]["Dense_0"]
    return last.mean(axis=(1, 2)) @ np.float64(dense["kernel"]) + np.float64(dense["bias"])


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("op", range(8))
def test_operations(op, stride):
    """Gradients too, by finite differences along one direction."""
    operation = OPS[OP_NAMES[op]](4, stride, True, Policy())
    x = RNG.normal(size=(3, 6, 6, 4)).astype(np.float32)
    params = operation.init(jax.random.key(0), x, Tape(None, None)).get("params", {})
    params = jax.tree.map(lambda leaf: leaf + 0.1 * RNG.normal(size=leaf.shape).astype(np.float32), params)

    @jax.jit
    def run(params, x):
        return operation.apply({"params": params}, x, Tape(None, None))

    expected = operate(op, np.float64(x), params, stride)
    np.testing.assert_allclose(run(params, x), expected, rtol=1e-3, atol=1e-4)
    weights = RNG.normal(size=expected.shape)
    step = 1e-6 * RNG.normal(size=x.shape)
    ends = [(weights * operate(op, np.float64(x) + sign * step, params, stride)).sum() for sign in (-1, 1)]
    gradient = jax.grad(lambda x: (weights.astype(np.float32) * run(params, x)).sum())(x)
    assert (gradient * step).sum() / 1e-6 == pytest.approx((ends[1] - ends[0]) / 2e-6, rel=2e-2, abs=2e-3)
    if op >= SEP3:  # of the kernels that are shifted
        name = "depthwise" if op >= DIL3 else "first_depthwise"
        moved = RNG.normal(size=params[name]["kernel"].shape)
        ends = [
            (weights * operate(op, np.float64(x), params | {name: {"kernel": k}}, stride)).sum()
            for k in (np.float64(params[name]["kernel"]) + sign * 1e-6 * moved for sign in (-1, 1))
        ]
        gradient = jax.grad(lambda p: (weights.astype(np.float32) * run(p, x)).sum())(params)[name]["kernel"]
        assert (gradient * moved).sum() == pytest.approx((ends[1] - ends[0]) / 2e-6, rel=2e-2, abs=2e-3)


@pytest.mark.parametrize(
    "affine",
    [pytest.param(True, marks=pytest.mark.slow("plain networks of two cells, with affine normalisation")), False],
)
def test_sub_networks_are_plain_networks(affine):
    supernet, params = built(2, affine)
    kept = CODES if affine else CODES[:1]
    run = jax.jit(lambda params, images: [supernet.apply(params, code.tolist(), images)[0] for code in kept])
    for logits, code in zip(run(params, IMAGES), kept, strict=True):
        expected = plain_network(params, code, IMAGES, 2)
        np.testing.assert_allclose(logits, expected, rtol=2e-3, atol=1e-3, err_msg=str(code))
        assert np.std(expected) > 0.1


# Codes


def test_codes_of_one_node_by_brute_force():
    """Per cell 8 x 8 operations and two orders of the sources; up to order 8 x 8 networks."""
    space = darts_space(1)
    codes = coding.enumerate_archs(space)
    assert len(codes) == (2 * 64) ** 2 and space.size == (4 * 64) ** 2

    def network(code):
        cells = np.reshape(code, (2, 2, 2)).tolist()
        cells = [[(op, source) for op, source in cell if op != NONE] for cell in cells]
        return tuple(tuple(sorted(cell)) for cell in cells)

    by_network: dict = {}
    for code, representative in zip(codes, space.isomorphs(codes), strict=True):
        by_network.setdefault(network(code), set()).add(tuple(representative))
    assert all(len(found) == 1 for found in by_network.values()) and len(by_network) == 64**2
    assert len(set.union(*by_network.values())) == 64**2


def test_isomorphs_by_brute_force():
    """A network as the set of its wirings under all orders of its nodes; few operations, so that some are equal."""

    def wirings(code):
        found = []
        for cell in np.reshape(code, (2, 3, 2, 2)).tolist():
            names = [(0, 1, *order) for order in itertools.permutations((2, 3, 4))]
            found.append(
                {
                    frozenset(
                        (own[node + 2], frozenset((op, own[source]) for op, source in cell[node])) for node in range(3)
                    )
                    for own in names
                }
            )
        return found

    space = darts_space(3)
    rng = np.random.default_rng(0)
    archs = rng.integers(0, space.num_ops, (40_000, space.num_choices)).astype(np.int32)
    archs[:, ::2] = SKIP
    archs = archs[space.is_valid(archs)][:120]
    assert len(archs) == 120
    representatives = space.isomorphs(archs)
    known = [wirings(code) for code in archs]
    same = [
        (representatives[i] == representatives[j]).all() == (known[i][0] == known[j][0] and known[i][1] == known[j][1])
        for i, j in itertools.combinations(range(len(archs)), 2)
    ]
    assert all(same)
    assert 20 < len(np.unique(representatives, axis=0)) < 120
    np.testing.assert_array_equal(space.isomorphs(representatives), representatives)
    assert space.is_valid(representatives).all()


def test_codes():
    assert darts.num_choices == 32 and darts.size == 8**16 * (2 * 2 * 3 * 3 * 4 * 4 * 5 * 5) ** 2
    draws = np.asarray(jax.jit(uniform(darts, num_archs=3000).sample)(jax.random.key(0), ()))
    assert darts.is_valid(draws).all() and not darts.has_all_codes
    sources = draws.reshape(3000, 2, 4, 2, 2)[..., 1]
    assert (sources[..., 0] != sources[..., 1]).all()
    pairs = np.sort(sources[:, 0, 3], axis=-1) @ [5, 1]
    assert len(np.unique(pairs)) == 10 and scipy.stats.chisquare(np.unique(pairs, return_counts=True)[1]).pvalue > 1e-3
    assert scipy.stats.chisquare(np.bincount(draws[:, 0], minlength=8)).pvalue > 1e-3
    text = coding.to_text(darts, draws[0])
    assert len(text.split("-")) == 32 and (coding.from_text(darts, [text]) == draws[0]).all()
    near = coding.neighbours(darts, draws[0])
    assert darts.is_valid(near).all() and ((near != draws[0]).sum(axis=1) == 1).all()
    # One operation for seven others, a source for one that neither edge has: none of two, one of three, and so on.
    assert len(near) == 16 * 7 + 2 * 2 * (0 + 1 + 2 + 3)
    for call in (
        coding.enumerate_archs,
        lambda space: coding.to_index(space, draws),
        lambda space: coding.from_index(space, [0]),
    ):
        with pytest.raises(ValueError, match="darts: 58366651170721628160000 codes "):
            call(darts)
    with pytest.raises(ValueError, match=r"darts: architecture 0, .*, does not exist in the space"):
        coding.check(darts, np.zeros((1, 32), int))
    with pytest.raises(ValueError, match="darts: num_nodes is 5, expected 1 to 4"):
        darts_space(5)


# What the authors' second-order search found (their genotypes.py).
DARTS_V2 = [
    *[(SEP3, 0), (SEP3, 1), (SEP3, 0), (SEP3, 1), (SEP3, 1), (SKIP, 0), (SKIP, 0), (DIL3, 2)],
    *[(MAX_POOL, 0), (MAX_POOL, 1), (SKIP, 2), (MAX_POOL, 1), (MAX_POOL, 0), (SKIP, 2), (SKIP, 2), (MAX_POOL, 1)],
]


def test_costs():
    """The parameters of the published network are 3.3 million (arXiv 1806.09055, table 1); those of small ones are what
    their paths hold; MACs of one edge of each kind by hand."""
    found = costs.arch_costs(darts, np.reshape(DARTS_V2, (1, 32)))
    assert round(found.params[0] / 1e6, 1) == 3.3
    supernet, params = built(2)
    counted = [sum(leaf.size for leaf in jax.tree.leaves(only(supernet, params, code))) for code in CODES]
    assert costs.arch_costs(small(2), CODES).params.tolist() == counted
    one = small(1, width=2)  # image 8, 4, 2; widths 2, 4, 8; one node, so that a cell returns as many channels

    def code(op, reduction=NONE):
        return [[op, 0, NONE, 1, reduction, 0, NONE, 1]]

    nothing = costs.arch_costs(one, code(NONE)).macs[0]
    inputs = 64 * (6 * 2 * 2) + 64 * (6 + 2) * 4 + 16 * (2 + 4) * 4 + 16 * (4 + 4) * 8 + 4 * (4 + 8) * 8
    assert nothing == 64 * 27 * 6 + inputs + 8 * 10
    of_size = [(64, 2), (16, 4), (4, 8)]
    for op, per_place in (
        (SEP3, lambda c: 2 * (9 * c + c * c)),
        (SEP5, lambda c: 2 * (25 * c + c * c)),
        (DIL3, lambda c: 9 * c + c * c),
        (DIL5, lambda c: 25 * c + c * c),
        (SKIP, lambda c: 0),
        (MAX_POOL, lambda c: 0),
    ):
        macs = costs.arch_costs(one, code(op)).macs[0] - nothing
        assert macs == sum(places * per_place(c) for places, c in of_size)
        if op != MAX_POOL:
            of_reduction = costs.arch_costs(one, code(NONE, op)).macs[0] - nothing
            assert of_reduction == sum(places * (c * c if op == SKIP else per_place(c)) for places, c in of_size[1:])
    limit = costs.parse("params:3.5e6", darts)
    assert limit.table is None and limit.costs(np.reshape(DARTS_V2, (1, 32)))[0] == found.params[0]


# Routes and training


@SLOW
@pytest.mark.parametrize("bn_mode", ["batch", "calibrated", "tracked"])
def test_routes_agree(bn_mode):
    supernet, params = built(1, affine=bn_mode != "batch")  # without scale and shift zeros stay zeros
    ops = [
        [SEP3, MAX_POOL, SKIP, DIL3],
        [NONE, AVG_POOL, SEP5, SKIP],
        [NONE, NONE, DIL5, AVG_POOL],
        [SEP3, NONE, NONE, SKIP],
    ]
    codes = np.stack([ops, np.tile([0, 1], (4, 2))], axis=-1).reshape(4, 8).astype(np.int32)
    how = {}
    if bn_mode == "calibrated":
        how["calibration_images"] = IMAGES[::-1] + 0.5
    if bn_mode == "tracked":
        state = init_train_state(supernet, uniform(supernet.space), optax.sgd(0.1), jax.random.key(0))
        rng = np.random.default_rng(1)
        how["stats"] = {name: stats + 0.1 * rng.random(stats.shape, np.float32) for name, stats in state.stats.items()}
    scores = {
        route: make_evaluator(supernet, strategy=route, bn_mode=bn_mode).evaluate(params, codes, IMAGES, LABELS, **how)
        for route in ("serial", "dispatch", "graph", "mask")
    }
    assert len(np.unique(scores["serial"].loss)) == len(codes)
    for route in ("dispatch", "graph", "mask"):
        np.testing.assert_allclose(scores[route].loss, scores["serial"].loss, rtol=1e-4)
    if bn_mode == "batch":
        for loss, code in zip(scores["serial"].loss, codes, strict=True):
            logits = plain_network(params, code, IMAGES, 1)
            expected = -scipy.special.log_softmax(logits, axis=-1)[np.arange(len(LABELS)), LABELS].mean()
            np.testing.assert_allclose(loss, expected, rtol=1e-3)


@pytest.mark.slow("gradients of a super-net of two cells, with edges in a loop and one by one")
@pytest.mark.parametrize("kind", ["code", "mixture", "drawn"])
def test_edges_in_a_loop_are_edges_one_by_one(monkeypatch, kind):
    """Loss, gradients of parameters and of an architecture's weights, and statistics, with images left out and dropout;
    and the loss with statistics given. Of half the operations, one of each kind, for the time that they compile."""
    monkeypatch.setattr(two_cell, "OP_NAMES", OP_NAMES[:1] + OP_NAMES[2:4] + OP_NAMES[6:7])
    supernet = make_supernet(small(2), path_dropout=0.3)
    params, rng = random_params(supernet), np.random.default_rng(2)
    weights = scipy.special.softmax(rng.normal(size=(len(supernet.num_candidates), 4)), axis=1).astype(np.float32)
    code = np.array([[[op, source] for source in (1, 0)] for op in (3, 2, 1, 3)], np.int32).ravel()
    arch = {"code": code, "mixture": weights, "drawn": Drawn(weights, supernet.decode(code))}[kind]
    stats = {name: rng.random((2, layer.stats_size), np.float32) for name, layer in supernet.layers.items()}
    mask = np.arange(len(IMAGES)) < 5

    def loss(params, arch, key):
        logits, used = supernet.apply(params, arch, IMAGES, mask=mask, key=key, ramp=0.5)
        return optax.softmax_cross_entropy_with_integer_labels(logits, LABELS)[:5].mean(), used

    def outcomes():
        run = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True, allow_int=True))
        given = jax.jit(lambda arch: supernet.apply(params, arch, IMAGES, stats=stats))
        found = jax.tree.leaves((run(params, arch, jax.random.key(3)), given(arch)))
        return [np.asarray(leaf) for leaf in found if leaf.dtype != jax.dtypes.float0]

    loops = []
    monkeypatch.setattr(
        Running, "along", lambda run, *given, own=Running.along: loops.append(given) or own(run, *given)
    )
    in_loop = outcomes()
    assert len(loops) == 2 * (3 + 2 * 2)  # a normal cell takes one, a reduction cell two
    monkeypatch.setattr(Running, "compiles_all", False)
    for ours, plain in zip(in_loop, outcomes(), strict=True):
        np.testing.assert_allclose(ours, plain, rtol=1e-3, atol=1e-4)
    assert len(loops) == 14


@pytest.mark.slow("a mixture of two cells by a part of the channels, in a loop")
def test_a_part_of_the_channels_can_be_differentiated_in_a_loop():
    """Traced only: what passes by is max-pooled, whose gradient JAX finds where it sees that it is a maximum."""
    supernet = make_supernet(small(1), partial_channels=2)
    params = jax.eval_shape(supernet.init, jax.random.key(0))
    weights = jax.ShapeDtypeStruct((len(supernet.num_candidates), 8), "float32")
    gradient = jax.grad(lambda weights, params: supernet.apply(params, weights, IMAGES)[0].sum())
    assert jax.eval_shape(gradient, weights, params).shape == weights.shape


@pytest.mark.slow("training a super-net of two cells, whose step compiles for half a minute")
def test_training():
    """The loss falls; a step moves what its path takes, and nothing else."""
    supernet, _ = built(1)
    sampler, tx = uniform(supernet.space), optax.sgd(0.05)
    state = init_train_state(supernet, sampler, tx, jax.random.key(0))
    step = make_train_step(supernet, make_cross_entropy_loss(supernet), sampler, tx, idle="rest", stats_momentum=0.9)
    batch = {"train": {"images": IMAGES, "labels": LABELS}}
    before = jax.tree.map(np.array, state.params)
    sample_key, _ = jax.random.split(jax.random.fold_in(state.key, 0))
    taken = supernet.taken_by(np.asarray(sampler.sample(sample_key, ()))[0])
    state, metrics = step(state, batch)
    first = float(metrics["loss"])
    moved = jax.tree.map(lambda old, new: bool((np.asarray(new) != old).any()), before, state.params)
    for name, candidates in moved.items():
        for op, tree in candidates.items():
            assert all(leaf == (op == taken[name]) for leaf in jax.tree.leaves(tree)), (name, op)
    losses = []
    for _ in range(150):
        state, metrics = step(state, batch)
        losses.append(float(metrics["loss"]))
    assert np.mean(losses[-20:]) < 0.8 * first


@pytest.mark.slow("trains a network of two cells alone")
def test_export_and_training_alone(tmp_path):
    supernet, params = built(2)
    exported = export.export(supernet, params, CODES[0])
    export.save(tmp_path / "found.npz", exported, supernet.space)
    module, variables = export.flax_module(supernet, export.load(tmp_path / "found.npz", supernet))
    expected = plain_network(params, CODES[0], IMAGES, 2)
    np.testing.assert_allclose(module.apply(variables, IMAGES), expected, rtol=2e-3, atol=1e-3)
    supernet, _ = built(1)
    train = make_standalone(
        supernet,
        Recipe(num_epochs=8, batch_size=8, learning_rate=0.05),
        mean=np.zeros(3),
        std=np.ones(3),
        compiled="each",
    )
    labels = np.arange(16) % 2
    images = (labels[:, None, None, None] * 128 + RNG.integers(0, 100, (16, 8, 8, 3))).astype(np.uint8)
    code = [[SEP3, 0, SKIP, 1, MAX_POOL, 0, SKIP, 1]]
    result = train(code, jax.random.split(jax.random.key(0), 1), images, labels, images, labels)
    assert result.accuracy[0, 0] > 0.9


def test_refusals():
    for settings in ({"kernels": "centre"}, {"op_on": "node"}, {"batch_norm": "per_input"}, {"channels": "expanded"}):
        with pytest.raises(ValueError, match=r"darts_n1: .* is not for cells like these"):
            make_supernet(small(1), **settings)
    with pytest.raises(ValueError, match="darts: image_size 10 cannot be halved twice; choose a multiple of 4"):
        make_supernet(darts.resized(image_size=10))


def test_published_table(data_dir):
    """214 cells, all of them networks of their own; the first as the file has it."""
    table = tables.load_truth(darts, "cifar10", data_dir=data_dir)
    assert len(np.unique(darts.isomorphs(table.archs), axis=0)) == 214
    assert not (table.archs.reshape(214, -1, 2)[..., 0] == NONE).any()
    first = [(MAX_POOL, 0), (SKIP, 1), (SEP3, 2), (SEP5, 0), (SEP3, 1), (MAX_POOL, 0), (SEP5, 0), (MAX_POOL, 2)]
    np.testing.assert_array_equal(table.archs[0, :16], np.ravel(first))
    last = table.columns["last_test_accuracy"]
    assert abs(last.mean() - 0.9695) < 1e-4 and abs(last.std() - 0.0023) < 1e-4
    curve = [97.06, 97.03, 97.04, 97.04, 97.01, 97.00, 96.98, 96.96, 97.05, 97.02]
    assert table.columns["test_accuracy"][0] == pytest.approx(np.mean(curve) / 100, abs=1e-6)
    assert "ranks only" in table.provenance["note"]
    np.testing.assert_array_equal(evaluation_archs(darts, 6561, table), table.archs)  # what can be compared, no more
    np.testing.assert_array_equal(evaluation_archs(darts, 50, table), table.archs[:50])
