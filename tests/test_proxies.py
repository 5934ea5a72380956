"""Zero-cost proxies: each against its formula on a network that is written out here, one architecture at a time."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from conftest import SMALL_SPACES
from experiment_runs import result_of, rows_of, start

from jaxnas import ranking
from jaxnas.codes import enumerate_archs
from jaxnas.ranking import proxies
from jaxnas.spaces import SPACES, nasbench201
from jaxnas.supernets import activation_kernel, make_supernet

SPACE = SMALL_SPACES["tiny"]
SUPERNET = make_supernet(SPACE, affine=True)
ARCHS = enumerate_archs(SPACE)
ROWS = (5, 26)
IMAGES = jax.random.normal(jax.random.key(1), (6, 4, 4, 1))
LABELS = np.array([0, 1, 2, 3, 9, 9])


def trained():
    """Weights that a training might have led to: scales, shifts and biases are no longer one and zero."""
    params = SUPERNET.init(jax.random.key(0))
    leaves, treedef = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(2), len(leaves))
    return jax.tree.unflatten(
        treedef, [leaf + 0.3 * jax.random.normal(key, leaf.shape) for key, leaf in zip(keys, leaves)]
    )


PARAMS = trained()


@pytest.fixture(scope="module")
def scores():
    return proxies.make_proxies(SUPERNET, IMAGES, LABELS)(PARAMS, ARCHS)


def one(name):
    made = proxies.make_proxies(SUPERNET, IMAGES, names=[name])
    return lambda weights, archs: made(weights, archs)[name]


def network(params, arch, x, *, norm=True, rectified=None):
    """The network of one code of "tiny", from its description: 3x3 stem, three layers, 1x1 head."""

    def along(vector):
        return vector[None, None, None]

    def conv_bn(x, op, stride=1, conv="Conv_0"):
        kernel = op[conv]["kernel"]
        if kernel.ndim == 2:
            kernel = kernel.reshape(3, 3, x.shape[-1], -1)
        pad = len(kernel) // 2
        numbers = ("NHWC", "HWIO", "NHWC")
        x = jax.lax.conv_general_dilated(x, kernel, (stride, stride), [(pad, pad)] * 2, dimension_numbers=numbers)
        if norm:
            mean = x.mean(axis=(0, 1, 2), keepdims=True)
            x = (x - mean) / jnp.sqrt(((x - mean) ** 2).mean(axis=(0, 1, 2), keepdims=True) + 1e-5)
        return x * along(op["BatchNorm_0"]["scale"]) + along(op["BatchNorm_0"]["bias"])

    def relu(x):
        if rectified is not None:
            rectified.append(np.asarray(x))
        return jnp.maximum(x, 0)

    x = relu(conv_bn(x, params["stem"]["stem"], conv="Unfold_0"))
    for layer, (op, stride) in enumerate(zip(arch, SPACE.layout.strides)):
        candidates = params[f"layer{layer}"]
        name = SPACE.op_names[layer][op]
        if name == "identity":
            x = x if stride == 1 else conv_bn(x, candidates["identity"]["ConvBN_0"], stride)
        else:
            x = conv_bn(relu(x), candidates[name], stride)
    head = params["head"]["head"]
    x = relu(conv_bn(x, head)).mean(axis=(1, 2))
    dense = head["Classifier_0"]["Dense_0"]
    return x @ dense["kernel"] + dense["bias"][None]


def kernels(tree):
    return [leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree) if path[-1].key == "kernel"]


def gradient(arch):
    def loss_fn(params):
        logits = network(params, arch, IMAGES)
        return -jnp.mean(jax.nn.log_softmax(logits)[np.arange(len(LABELS)), LABELS])

    return jax.grad(loss_fn)(PARAMS)


@pytest.mark.parametrize("row", ROWS)
def test_gradients(scores, row):
    slopes = kernels(gradient(ARCHS[row]))
    norm = sum(np.linalg.norm(np.asarray(slope)) for slope in slopes)
    saliency = sum(np.abs(np.asarray(w * g)).sum() for w, g in zip(kernels(PARAMS), slopes))
    assert scores["grad_norm"][row] == pytest.approx(norm, rel=1e-4)
    assert scores["snip"][row] == pytest.approx(saliency, rel=1e-4)


@pytest.mark.parametrize("row", ROWS)
def test_synflow_by_a_backward_pass_over_weights_without_normalisation(scores, row):
    positive = jax.tree_util.tree_map_with_path(
        lambda path, leaf: jnp.zeros_like(leaf) if path[-1].key == "bias" else jnp.abs(leaf), PARAMS
    )
    slopes = jax.grad(lambda params: network(params, ARCHS[row], jnp.ones((1, 4, 4, 1)), norm=False).sum())(positive)
    total = sum(float((w * g).sum()) for w, g in zip(kernels(positive), kernels(slopes)))
    assert scores["synflow"][row] == pytest.approx(np.log(total), rel=1e-5)


@pytest.mark.parametrize("row", ROWS)
def test_jacob_cov_by_numpy(scores, row):
    jacobian = jax.grad(lambda images: network(PARAMS, ARCHS[row], images).sum())(IMAGES)
    values = np.linalg.eig(np.corrcoef(np.asarray(jacobian, np.float64).reshape(6, -1)))[0]
    expected = -np.sum(np.log(values + 1e-5) + 1 / (values + 1e-5))
    assert scores["jacob_cov"][row] == pytest.approx(expected.real, rel=1e-3)


@pytest.mark.parametrize("row", ROWS)
def test_naswot_by_counting_pairs(scores, row):
    rectified = []
    network(PARAMS, ARCHS[row], IMAGES, rectified=rectified)
    active = np.concatenate([x.reshape(6, -1) > 0 for x in rectified], axis=1)
    counted = np.zeros((6, 6))
    for one, other in itertools.product(range(6), repeat=2):
        counted[one, other] = (active[one] == active[other]).sum()
    assert counted[0, 0] == active.shape[1]
    kernel = activation_kernel(SUPERNET)(PARAMS, jnp.asarray(ARCHS[row]), IMAGES, groups=None)
    np.testing.assert_array_equal(np.asarray(kernel), counted)
    assert scores["naswot"][row] == pytest.approx(np.log(np.linalg.det(counted)), rel=1e-6)


@pytest.mark.slow("compiles two proxies once more, side by side")
def test_side_by_side_is_one_after_the_other(scores):
    made = proxies.make_proxies(SUPERNET, IMAGES, names=["naswot", "synflow"], archs_at_once=4)
    for name, found in made(PARAMS, ARCHS[::5]).items():
        np.testing.assert_allclose(found, scores[name][::5], rtol=1e-5)


def test_a_population_by_dispatch_has_the_same_kernels(scores):
    kernel = activation_kernel(SUPERNET)
    of_all = jax.jit(jax.vmap(lambda arch: kernel(PARAMS, arch, IMAGES, groups=2)))(jnp.asarray(ARCHS))
    np.testing.assert_allclose(np.linalg.slogdet(np.asarray(of_all, np.float64))[1], scores["naswot"], rtol=1e-6)


def test_weights_of_their_own_are_those_of_the_architecture_whatever_stands_beside_it():
    proxy = one("naswot")
    key = jax.random.key(3)
    alone = proxy(key, ARCHS[[7]])
    np.testing.assert_array_equal(proxy(key, ARCHS[[2, 7, 7]])[1:], np.repeat(alone, 2))
    own = jax.random.fold_in(key, ARCHS[7][0])
    for op in ARCHS[7][1:]:
        own = jax.random.fold_in(own, op)
    np.testing.assert_allclose(alone, proxy(SUPERNET.init(own), ARCHS[[7]]), rtol=1e-6)
    assert (proxy(jax.random.key(4), ARCHS[[7]]) != alone).all()


def test_flows_beyond_float32_are_their_logarithm():
    """Kernels times 1e6 in all seven kernels on the way: R and its derivative grow by 1e42."""
    proxy = one("synflow")
    larger = jax.tree_util.tree_map_with_path(lambda path, w: 1e6 * w if path[-1].key == "kernel" else w, PARAMS)
    difference = proxy(larger, ARCHS[[26]]) - proxy(PARAMS, ARCHS[[26]])
    assert difference == pytest.approx(6 * np.log(1e6), rel=1e-5)  # stem, three layers, head, classifier


@pytest.mark.slow("compiles two proxies of cells")
def test_an_architecture_through_which_nothing_gets_comes_last():
    small = nasbench201.resized(width=4, image_size=8, cells_per_stage=1)
    archs = np.array([[0] * 6, [3] * 6, [2, 0, 0, 0, 0, 0], [1] * 6], np.int32)  # nothing; all there; a dead end; skips
    made = proxies.make_proxies(
        make_supernet(small), jax.random.normal(jax.random.key(0), (4, 8, 8, 3)), names=["synflow", "jacob_cov"]
    )
    params = make_supernet(small).init(jax.random.key(0))
    for name, found in made(params, archs).items():
        assert np.isfinite(found).all() and found[0] == found[2] == found.min(), name
        assert found[1] > found[0] and found[3] > found[0], name


@pytest.mark.parametrize(
    "given, said",
    [
        ({"names": ["nasnot"]}, "names is 'nasnot', expected"),
        ({"labels": None}, "snip needs the labels"),
        ({"labels": np.zeros(5, int)}, "labels"),
        ({"images": IMAGES[:1]}, "the number of images is 1, expected 2"),
        ({"images": jnp.zeros((4, 8, 8, 1))}, "images have shape"),
        ({"archs_at_once": 0}, "archs_at_once is 0, expected 1"),
        ({"memory_budget": 0}, "memory_budget is 0, expected 1"),
    ],
)
def test_refuses(given, said):
    given = {"images": IMAGES, "labels": LABELS} | given
    with pytest.raises(ValueError, match=said.replace("(", r"\(")):
        proxies.make_proxies(SUPERNET, **given)


def test_refuses_text_codes_and_broken_weights():
    text = SPACES["rnn32"]
    with pytest.raises(ValueError, match="proxies are for networks on images"):
        proxies.make_proxies(make_supernet(text), jnp.zeros((2, 5), jnp.int32))
    proxy = one("naswot")
    with pytest.raises(ValueError, match="outside"):
        proxy(PARAMS, [[0, 0, 7]])
    with pytest.raises(ValueError, match="naswot is finite for none of 1 networks"):
        proxy(jax.tree.map(lambda leaf: leaf * jnp.nan, PARAMS), ARCHS[:1])


@pytest.mark.slow("compiles a super-net, its training and a proxy")
def test_rank_correlation_sets_proxies_beside_the_super_net(tmp_path):
    argv = ["rank_correlation", "tiny", "--rankers", "macs", "naswot", "naswot_trained", "--no-progress"]
    start(*argv, "--workdir", tmp_path)
    rows, result = rows_of(tmp_path / "rankers.csv"), result_of(tmp_path)
    assert [row["ranker"] for row in rows] == ["macs", "naswot", "naswot_trained", "mean_rank", "supernet"]
    assert [row["steps"] for row in rows] == ["0", "0", "6", "6", "6"]
    assert float(rows[0]["tau"]) == pytest.approx(result["macs_kendall_tau"])
    assert float(rows[4]["tau"]) == pytest.approx(result["kendall_tau"]) == pytest.approx(result["tau_supernet"])
    assert rows[1]["tau"] != rows[2]["tau"]


def test_rankers_stand_in_one_table():
    truth = np.arange(27.0)
    rankers = [
        ranking.Ranker("sum", lambda archs: archs.sum(axis=1)),
        ranking.scored("seen", ARCHS, truth**2, steps=100, passes=5.0),
        ranking.predicted("told", [ranking.scored("seen", ARCHS, truth**2, steps=100)], ARCHS[::9], truth[::9]),
    ]
    rows = ranking.compare(rankers, ARCHS, truth)
    assert [row["ranker"] for row in rows] == ["sum", "seen", "told"]
    assert rows[0]["tau"] == pytest.approx(scipy.stats.kendalltau(ARCHS.sum(axis=1), truth).statistic)
    assert rows[0]["tau_low"] < rows[0]["tau"] < rows[0]["tau_high"]
    assert rows[1]["tau"] == 1 and rows[1]["spearman"] == pytest.approx(1)
    assert [(row["labels"], row["steps"], row["passes"]) for row in rows] == [(0, 0, 0), (0, 100, 5.0), (3, 100, 0)]
    assert rows[2]["tau"] > 0.9
    assert rows[0]["over_first"] is None and rows[1]["over_first"] == pytest.approx(1 - rows[0]["tau"])
    assert rows[1]["over_first_low"] < rows[1]["over_first"] < rows[1]["over_first_high"]
