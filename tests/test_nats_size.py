"""The size space: masks over shared kernels, against plain NumPy networks of the chosen widths."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.special
from conftest import random_params

from jaxnas import costs, export, tables
from jaxnas.codes import enumerate_archs, to_index
from jaxnas.evaluation import make_evaluator
from jaxnas.samplers import fair
from jaxnas.spaces import nats_size
from jaxnas.supernets import make_supernet
from jaxnas.training import init_train_state, make_cross_entropy_loss, make_train_step
from jaxnas.training.standalone import Recipe, make_standalone

SMALL = nats_size.resized(width=8, image_size=4)
WIDTHS = SMALL.layout.widths  # 1 to 8
CODES = np.array([[0, 7, 3, 3, 5], [7, 7, 7, 7, 7], [1, 1, 1, 1, 1], [2, 5, 1, 6, 6]], np.int32)
RNG = np.random.default_rng(0)
IMAGES = RNG.normal(size=(6, 4, 4, 3)).astype(np.float32)
LABELS = RNG.integers(0, 10, 6)


@functools.cache
def built(affine=True):
    supernet = make_supernet(SMALL, affine=affine)
    return supernet, random_params(supernet)


class Narrow:
    """A network of the chosen widths alone, in float64. Counts what it holds and multiplies."""

    def __init__(self, params, code, widths=WIDTHS):
        self.params, self.widths = params, [widths[op] for op in code]
        self.num_params = self.macs = 0

    def conv(self, x, kernels, outputs, stride=1):
        """x by the first channels of kernels [k, k, in, out]."""
        kernels = np.float64(kernels)[:, :, : x.shape[-1], :outputs]
        pad, size = len(kernels) // 2, x.shape[1]
        padded = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
        places = np.ndindex(kernels.shape[:2])
        y = sum(padded[:, i : i + size : stride, j : j + size : stride] @ kernels[i, j] for i, j in places)
        self.num_params += kernels.size
        self.macs += kernels.size * y.shape[1] * y.shape[2]
        return y

    def norm(self, x, tree):
        self.num_params += 2 * x.shape[-1]
        x = (x - x.mean(axis=(0, 1, 2))) / np.sqrt(x.var(axis=(0, 1, 2)) + 1e-5)
        if "BatchNorm_0" in tree:
            scale, bias = (np.float64(tree["BatchNorm_0"][name][: x.shape[-1]]) for name in ("scale", "bias"))
            x = x * scale + bias
        return x

    def unit(self, name, x, outputs, stride=1, relu=True):
        tree = self.params[name]["convolution"]
        return self.norm(self.conv(np.maximum(x, 0) if relu else x, tree["Conv_0"]["kernel"], outputs, stride), tree)

    def __call__(self, images):
        stem = self.params["stem"]["stem"]
        kernels = stem["Unfold_0"]["kernel"]
        x = self.conv(np.float64(images), kernels.reshape(3, 3, 3, -1), self.widths[0])
        x = self.norm(x, stem)
        for layer, width in enumerate(self.widths):

            def run(edge, x, layer=layer, width=width, **how):
                return self.unit(f"layer{layer}_{edge}", x, width, **how)

            if layer in (1, 3):
                beside = (x[:, ::2, ::2] + x[:, 1::2, ::2] + x[:, ::2, 1::2] + x[:, 1::2, 1::2]) / 4
                kernels = self.params[f"layer{layer}_shortcut"]["projection"]["Conv_0"]["kernel"]
                x = run("second", run("first", x, stride=2)) + self.conv(beside, kernels, width)
                continue
            first = run("edge01", x)
            second = run("edge02", x) + run("edge12", first)
            shortcut = x if x.shape[-1] == width else run("edge03", x, relu=False)
            x = shortcut + run("edge13", first) + run("edge23", second)
        x = np.maximum(self.norm(x, self.params["norm"]["norm"]), 0).mean(axis=(1, 2))
        dense = self.params["head"]["head"]["Dense_0"]
        self.num_params += (x.shape[-1] + 1) * len(dense["bias"])
        self.macs += x.shape[-1] * len(dense["bias"])
        return x @ np.float64(dense["kernel"])[: x.shape[-1]] + np.float64(dense["bias"])


@pytest.mark.parametrize("affine", [True, False])
def test_masked_networks_are_narrow_networks(affine):
    """Nothing of a masked channel leaks, whatever its scales, shifts and kernels are."""
    supernet, params = built(affine)
    logits = jax.jit(jax.vmap(lambda code: supernet.apply(params, code, IMAGES)[0]))(CODES)
    for row, code in zip(logits, CODES, strict=True):
        expected = Narrow(params, code)(IMAGES)
        np.testing.assert_allclose(row, expected, rtol=1e-5, atol=1e-5, err_msg=str(code))
        assert np.std(expected) > 0.1


def test_statistics_of_kept_channels_are_those_of_the_narrow_network():
    """The first convolution of the first cell: its input by hand, at widths of 2 and 8."""
    supernet, params = built()
    for code, width in (([1, 7, 7, 7, 7], 2), ([7, 0, 0, 0, 0], 8)):
        _, used = supernet.apply(params, code, IMAGES)
        narrow = Narrow(params, code)
        stem = params["stem"]["stem"]
        x = narrow.norm(narrow.conv(np.float64(IMAGES), stem["Unfold_0"]["kernel"].reshape(3, 3, 3, -1), width), stem)
        y = narrow.conv(np.maximum(x, 0), params["layer0_edge01"]["convolution"]["Conv_0"]["kernel"], width)
        expected = [y.mean(axis=(0, 1, 2)), y.var(axis=(0, 1, 2))]
        np.testing.assert_allclose(used["layer0_edge01"][:, :width], expected, rtol=1e-4, atol=1e-5)


def test_costs():
    """Counted while a network of the published sizes runs; the widest and the narrowest by hand."""
    supernet = make_supernet(nats_size)
    params = jax.tree.map(lambda leaf: np.zeros(leaf.shape), jax.eval_shape(supernet.init, jax.random.key(0)))
    codes = np.array([[0, 7, 3, 3, 5], [4, 4, 4, 4, 4]])
    found = costs.arch_costs(nats_size, codes)
    for row, code in enumerate(codes):
        network = Narrow(params, code, nats_size.layout.widths)
        network(np.zeros((1, 32, 32, 3)))
        assert (network.macs, network.num_params) == (found.macs[row], found.params[row])
    for op, c in ((7, 64), (0, 8)):
        cells = 5 * 9 * c * c * (32**2 + 16**2 + 8**2)
        reductions = 19 * c * c * (16**2 + 8**2)
        extreme = costs.arch_costs(nats_size, [[op] * 5])
        assert extreme.macs.tolist() == [27 * c * 32**2 + cells + reductions + 10 * c]
        norms = 2 * c * (1 + 3 * 5 + 2 * 2 + 1)
        assert extreme.params.tolist() == [27 * c + (15 * 9 + 2 * 19) * c * c + norms + 10 * c + 10]
    limit = costs.parse("macs:50e6", nats_size)
    assert limit.costs(codes).tolist() == found.macs.tolist() and limit.table is None
    assert "macs" in export.describe(nats_size, codes[0], limit=limit)


def test_all_codes_are_networks_of_their_own():
    codes = enumerate_archs(nats_size)
    assert len(codes) == 8**5 == len(np.unique(nats_size.isomorphs(codes), axis=0))
    assert nats_size.op_names[4][6] == "width56" and nats_size.layout.widths[6] == 56
    assert nats_size.resized(width=16).layout.widths == (2, 4, 6, 8, 10, 12, 14, 16)


@pytest.mark.parametrize(
    "bn_mode",
    [
        "batch",
        *(
            pytest.param(mode, marks=pytest.mark.slow("statistics given, nats_size"))
            for mode in ("calibrated", "tracked")
        ),
    ],
)
def test_routes_agree(bn_mode):
    supernet, params = built()
    how = {}
    if bn_mode == "calibrated":
        how["calibration_images"] = IMAGES[::-1] + 0.5
    if bn_mode == "tracked":
        state = init_train_state(supernet, fair(SMALL), optax.sgd(0.1), jax.random.key(0))
        noise = np.random.default_rng(1)
        how["stats"] = {
            name: stats + 0.05 * noise.random(stats.shape, np.float32) for name, stats in state.stats.items()
        }
    scores = {
        route: make_evaluator(supernet, strategy=route, bn_mode=bn_mode).evaluate(params, CODES, IMAGES, LABELS, **how)
        for route in ("serial", "dispatch", "graph", "mask")
    }
    assert len(np.unique(scores["serial"].loss)) == len(CODES)
    for route in ("dispatch", "graph", "mask"):
        np.testing.assert_allclose(scores[route].loss, scores["serial"].loss, rtol=1e-4)
    if bn_mode == "batch":
        for row, code in enumerate(CODES):
            logits = Narrow(params, code)(IMAGES)
            expected = -scipy.special.log_softmax(logits, axis=-1)[np.arange(len(LABELS)), LABELS].mean()
            np.testing.assert_allclose(scores["serial"].loss[row], expected, rtol=1e-4)


@pytest.mark.slow("gradients of fair paths of nats_size")
def test_gradients_of_fair_paths():
    """Eight fair paths a step, whose shortcuts are not balanced; gradients are the sum over paths, and none reaches
    what is masked."""
    supernet, params = built()
    loss_fn = make_cross_entropy_loss(supernet)
    batch = {"train": {"images": IMAGES, "labels": LABELS}}
    codes = np.asarray(fair(SMALL).sample(jax.random.key(1), ()))
    step = jnp.zeros((), jnp.int32)

    @jax.jit
    @jax.grad
    def together(params):
        return loss_fn(params, codes, batch, jax.random.key(0), step, "balanced")[0]

    @jax.jit
    @jax.grad
    def alone(params, code):
        logits, _ = supernet.apply(params, code, IMAGES, groups=None)
        return -jnp.take_along_axis(jax.nn.log_softmax(logits), LABELS[:, None], axis=1).mean()

    each = [alone(params, code) for code in codes]
    expected = jax.tree.map(lambda *leaves: np.sum(leaves, axis=0), *each)
    got = together(params)
    ratio = np.asarray(got["head"]["head"]["Dense_0"]["bias"] / expected["head"]["head"]["Dense_0"]["bias"])[0]
    assert ratio == pytest.approx(1) or ratio == pytest.approx(1 / 8)  # the population's sum or mean
    size = max(np.abs(leaf).max() for leaf in jax.tree.leaves(got))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, ratio * b, rtol=1e-3, atol=1e-4 * size), got, expected)
    narrow = alone(params, np.array([1, 1, 1, 1, 1]))
    kernel = np.asarray(narrow["layer2_edge12"]["convolution"]["Conv_0"]["kernel"])
    assert kernel[:, :, :2, :2].any() and not kernel[:, :, 2:].any() and not kernel[..., 2:].any()
    assert not np.asarray(narrow["norm"]["norm"]["BatchNorm_0"]["bias"])[2:].any()


@pytest.mark.slow("compiles a step of eight fair paths of nats_size")
def test_the_loss_falls():
    supernet, _ = built()
    batch = {"train": {"images": IMAGES, "labels": LABELS}}
    loss_fn = make_cross_entropy_loss(supernet)
    state = init_train_state(supernet, fair(SMALL), optax.sgd(0.05), jax.random.key(0))
    train = make_train_step(supernet, loss_fn, fair(SMALL), optax.sgd(0.05), stats_momentum=0.9)
    losses = []
    for _ in range(30):
        state, metrics = train(state, batch)
        losses.append(float(metrics["loss"]))
    assert np.mean(losses[-5:]) < 0.7 * losses[0]


@pytest.mark.slow("trains a network of nats_size alone")
def test_export_and_training_alone(tmp_path):
    supernet, params = built()
    exported = export.export(supernet, params, CODES[0])
    export.save(tmp_path / "found.npz", exported, SMALL)
    module, variables = export.flax_module(supernet, export.load(tmp_path / "found.npz", supernet))
    np.testing.assert_allclose(module.apply(variables, IMAGES), Narrow(params, CODES[0])(IMAGES), atol=1e-5)
    recipe = Recipe(num_epochs=24, batch_size=8, learning_rate=0.05)
    train = make_standalone(supernet, recipe, mean=np.zeros(3), std=np.ones(3), compiled="each")
    labels = np.arange(16) % 2
    images = (labels[:, None, None, None] * 128 + RNG.integers(0, 100, (16, 4, 4, 3))).astype(np.uint8)
    result = train(CODES[:1], jax.random.split(jax.random.key(0), 1), images, labels, images, labels)
    assert result.accuracy[0, 0] > 0.9


def test_refusals():
    for settings in ({"kernels": "centre"}, {"op_on": "node"}, {"batch_norm": "per_input"}, {"channels": "expanded"}):
        with pytest.raises(ValueError, match=r"nats_size: .* is of no use where all widths share everything"):
            make_supernet(SMALL, **settings)
    with pytest.raises(ValueError, match="nats_size: image_size 6 cannot be halved twice; choose a multiple of 4"):
        make_supernet(nats_size.resized(image_size=6))
    with pytest.raises(ValueError, match="the largest of 8 widths must be at least 8, got width 7"):
        nats_size.resized(width=7)
    with pytest.raises(ValueError, match="SizeLayout has no size 'cells_per_stage'"):
        nats_size.resized(cells_per_stage=1)


def test_published_table(data_dir):
    """All networks, wider ones better: the accuracies of the narrowest and the widest as the file has them."""
    table = tables.load_truth(nats_size, "cifar10", data_dir=data_dir)
    assert len(np.unique(to_index(nats_size, table.archs))) == 32_768
    accuracy = tables.lookup(table, [[0] * 5, [7] * 5, [0, 0, 0, 0, 1]], "test_accuracy")
    np.testing.assert_allclose(accuracy, [0.7979, 0.9340, 0.8256], atol=1e-6)
    assert "ranks only" in table.provenance["note"]
