"""Hand-written backward passes in every mode: forward, forward over reverse, over a mesh, exported; and moments."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict
from jax import export
from jax.sharding import Mesh, PartitionSpec

from jaxnas.evaluation import make_evaluator
from jaxnas.ops import reduction
from jaxnas.ops.convolution import convolve, project
from jaxnas.ops.depthwise import depthwise
from jaxnas.ops.normalisation import EPSILON, batch_normalise, moments, relu
from jaxnas.space import ChainLayout
from jaxnas.spaces import chain_space
from jaxnas.supernets import make_supernet
from jaxnas.supernets.supernet import assemble

SPACE = chain_space(
    "tiny_modes",
    ChainLayout(stem_width=2, widths=(2,), strides=(1,), head_width=0, image_size=4, in_channels=1),
    [("identity", "nor_conv_3x3", "mb1_k3")],
)
SUPERNET = make_supernet(SPACE)
ARCHS = np.array([[0], [1], [2]], np.int32)
IMAGES = np.random.default_rng(0).normal(size=(4, 4, 4, 1)).astype(np.float32)


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def plain_normalise(x):
    mean = x.mean(axis=(0, 1, 2), keepdims=True)
    return (x - mean) / jnp.sqrt(((x - mean) ** 2).mean(axis=(0, 1, 2), keepdims=True) + EPSILON)


def plain_convolution(x, weights, stride, groups=1):
    numbers = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(
        x, weights, (stride,) * 2, [(1, 1)] * 2, dimension_numbers=numbers, feature_group_count=groups
    )


X, WEIGHTS = normal(1, 3, 4, 4, 2), normal(2, 3, 3, 2, 2)
CASES = {
    "relu": (relu, lambda x: jnp.where(x > 0, x, 0.0), (X,)),
    "project": (
        lambda x, w: project(x, w, True),
        lambda x, w: jnp.tensordot(jnp.where(x > 0, x, 0.0), w, 1),
        (X, WEIGHTS[0, 0]),
    ),
    "convolve": (
        lambda x, w: convolve(x, w, 2, True),
        lambda x, w: plain_convolution(jnp.where(x > 0, x, 0.0), w, 2),
        (X, WEIGHTS),
    ),
    "depthwise": (
        lambda x, w: depthwise(x, w, 1),
        lambda x, w: plain_convolution(x, w[:, :, None, :], 1, groups=2),
        (X, WEIGHTS[:, :, 0]),
    ),
    "batch_normalise": (lambda x: batch_normalise(x, None, "float32")[0], plain_normalise, (X,)),
}


@pytest.mark.parametrize(
    "name, large", [*((name, 10**9) for name in CASES), ("convolve", 1), ("depthwise", 1), ("batch_normalise", 1)]
)
def test_forward_and_forward_over_reverse_are_autodiffs(monkeypatch, name, large):
    """Against JAX's own rules of the same function, written plainly; large arrays are summed image by image."""
    monkeypatch.setattr(reduction, "LARGE", large)
    monkeypatch.setattr(reduction, "CACHED", large)
    ours, plain, args = CASES[name]
    tangents = tuple(normal(7 + place, *arg.shape) for place, arg in enumerate(args))

    def modes(function):
        loss = lambda *args: jnp.sum(jnp.sin(function(*args)))  # noqa: E731
        gradient = jax.grad(loss, argnums=tuple(range(len(args))))
        return jax.jvp(function, args, tangents)[1], gradient(*args), jax.jvp(gradient, args, tangents)[1]

    got, expected = jax.jit(lambda: modes(ours))(), jax.jit(lambda: modes(plain))()
    jax.tree.map(lambda g, e: np.testing.assert_allclose(g, e, rtol=2e-3, atol=1e-4), got, expected)


@pytest.mark.parametrize("scale", [100.0, 1e3, 1e4])
@pytest.mark.parametrize("backend", ["cpu", "gpu"])
def test_means_of_many_deviations(monkeypatch, backend, scale):
    """Against float64; the mean of squares less the square of the mean is off by 1e-3, 0.25 and 1,000."""
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    x = normal(3, 16, 8, 8, 3) + scale
    exact = np.asarray(x, np.float64)
    variance = exact.var(axis=(0, 1, 2))
    mask = jnp.arange(20) < 16
    padded = jnp.concatenate([x, jnp.zeros((4, 8, 8, 3))])
    for mean, got in (moments(x, None), moments(padded, mask)):
        np.testing.assert_allclose(mean, exact.mean(axis=(0, 1, 2)), rtol=1e-6)
        np.testing.assert_allclose(got, variance, rtol=1e-4)
    normalised = (exact - exact.mean(axis=(0, 1, 2))) / np.sqrt(variance + EPSILON)
    got, _ = batch_normalise(x, None, "float32")
    np.testing.assert_allclose(got, normalised, atol=2e-6 * scale)


def test_an_overflowing_variance_is_not_a_network_of_zeros():
    logits, _ = SUPERNET.apply(SUPERNET.init(jax.random.key(0)), [1], jnp.asarray(1e20 * IMAGES))
    assert np.isnan(logits).all()


def run_all(params, images):
    """Every way to run one or three architectures: sums of squares of the logits."""
    alone = [SUPERNET.apply(params, arch, images)[0] for arch in (ARCHS[1], [2], jnp.asarray(ARCHS)[1])]
    many = [
        jax.vmap(lambda arch, groups=groups: SUPERNET.apply(params, arch, images, groups=groups)[0])(ARCHS)
        for groups in (2, "balanced")
    ]
    return sum(jnp.mean(logits**2) for logits in [*alone, *many])


@pytest.mark.slow("a super-net's gradient under shard_map, types checked")
def test_a_supernet_over_a_mesh_with_varying_types_checked():
    """`jax.shard_map` with its checks, statistics of each device's own images; on one device it is the plain thing."""
    mesh = Mesh(np.array(jax.devices()[:1]), ("data",))
    sharded = jax.shard_map(
        lambda params, images: jax.lax.pmean(run_all(params, images), "data"),
        mesh=mesh,
        in_specs=(PartitionSpec(), PartitionSpec("data")),
        out_specs=PartitionSpec(),
    )
    params = SUPERNET.init(jax.random.key(0))
    got = jax.jit(jax.value_and_grad(sharded))(params, IMAGES)
    expected = jax.jit(jax.value_and_grad(run_all))(params, IMAGES)
    jax.tree.map(lambda g, e: np.testing.assert_allclose(g, e, rtol=1e-4, atol=1e-5), got, expected)


def test_a_supernet_is_exported_with_an_open_batch():
    (size,) = export.symbolic_shape("size")
    params = SUPERNET.init(jax.random.key(0))
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), params)

    def run(params, images):
        return SUPERNET.apply(params, [2], images)[0], SUPERNET.apply(params, jnp.asarray(ARCHS)[1], images)[0]

    exported = export.export(jax.jit(run))(shapes, jax.ShapeDtypeStruct((size, 4, 4, 1), "float32"))
    for images in (IMAGES, IMAGES[:2]):
        got, expected = exported.call(params, images), jax.jit(run)(params, images)
        jax.tree.map(lambda g, e: np.testing.assert_allclose(g, e, rtol=1e-4, atol=1e-5), got, expected)


def test_parameters_without_empty_dicts_are_enough():
    """A file of arrays by path, such as safetensors, knows nothing of candidates without parameters."""
    params = SUPERNET.init(jax.random.key(0))
    kept = unflatten_dict(flatten_dict(params))  # as such a file gives them back
    assert "identity" in params["layer0"] and "identity" not in kept["layer0"]
    for arch in ([0], jnp.asarray(ARCHS)[0]):
        np.testing.assert_array_equal(*(SUPERNET.apply(tree, arch, IMAGES)[0] for tree in (params, kept)))
    scores = [make_evaluator(SUPERNET).evaluate(tree, ARCHS, IMAGES, np.arange(4)) for tree in (params, kept)]
    np.testing.assert_array_equal(*(score.loss for score in scores))
    del kept["layer0"]["nor_conv_3x3"]
    with pytest.raises(ValueError, match=r"^layer layer0: the parameters of 'nor_conv_3x3' are missing; give those of"):
        SUPERNET.apply(kept, [1], IMAGES)


def test_a_wiring_that_concatenates_is_scored_one_by_one():
    """Symbols can be added and nothing else: "auto" says so once and takes "serial", "graph" is refused."""

    def wire(run, x):
        x = run("layer0", run("stem", x))
        return run("head", jnp.concatenate([x[..., :1], x[..., 1:]], axis=-1))

    other = assemble(SPACE, SUPERNET.layers, wire)
    params, labels = SUPERNET.init(jax.random.key(0)), np.arange(4)
    with pytest.warns(UserWarning, match=r"^tiny_modes: strategy 'graph' follows wirings that only add .*'serial'\.$"):
        evaluator = make_evaluator(other)
    scores = evaluator.evaluate(params, ARCHS, IMAGES, labels)
    expected = make_evaluator(SUPERNET).evaluate(params, ARCHS, IMAGES, labels)
    assert scores.strategy == "serial" and expected.strategy == "graph"
    np.testing.assert_allclose(scores.loss, expected.loss, rtol=1e-4)
    with pytest.raises(ValueError, match=r"^tiny_modes: strategy 'graph' follows .* take 'serial' or 'auto'"):
        make_evaluator(other, strategy="graph")
