"""Candidate operations against XLA's convolutions and pools, and normalisation against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnas.ops import OPS, Head, Policy, Reduction, Stem, Tape, reduction
from jaxnas.ops.convolution import Conv, Unfold, convolve
from jaxnas.ops.depthwise import Depthwise, depthwise
from jaxnas.ops.mobile import DoubleDepthwise, Identity, InvertedResidual, NormalBottleneck, ResidualPair
from jaxnas.ops.normalisation import EPSILON, BatchNorm, relu
from jaxnas.ops.pooling import AveragePool

pytestmark = pytest.mark.codegen

RNG = np.random.default_rng(0)


def images(num_images=3, size=6, channels=4):
    return RNG.normal(size=(num_images, size, size, channels)).astype(np.float32)


def conv(x, kernel, stride=1, groups=1):
    """What `lax` makes of the convolution that the operations write in another form."""
    pad = len(kernel) // 2
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        [(pad, pad), (pad, pad)],
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


def assert_close(got, expected):
    np.testing.assert_allclose(got, expected, rtol=2e-5, atol=2e-5)


def normalise(x):
    """Batch normalisation by the batch itself, in float64."""
    x = np.asarray(x, np.float64)
    mean, variance = x.mean(axis=(0, 1, 2)), x.var(axis=(0, 1, 2))
    return (x - mean) / np.sqrt(variance + EPSILON)


def run(module, x, *, mask=None, params=None, policy=Policy()):  # noqa: B008 (an immutable tuple)
    """(parameters, freshly drawn if not given; output; statistics used), all NumPy; compiled as one program."""

    @jax.jit
    def once(params, x, mask):
        tape = Tape(None, mask, policy.stats)
        if params is None:
            y, variables = module.init_with_output(jax.random.key(1), x, tape)
            return variables.get("params", {}), y, tape.used(tape.size)
        return params, module.apply({"params": params}, x, tape), tape.used(tape.size)

    return jax.device_get(once(params, x, mask))


@pytest.mark.parametrize("kernel, stride, size", [(1, 1, 6), (1, 2, 6), (1, 2, 5), (3, 1, 6), (3, 2, 5), (5, 2, 1)])
def test_conv_and_unfold_are_convolutions(kernel, stride, size):
    x, weights = images(size=size), RNG.normal(size=(kernel, kernel, 4, 7)).astype(np.float32)
    expected = conv(x, weights, stride)
    ours = jax.jit(lambda w: Conv(7, kernel, stride, Policy()).apply({"params": {"kernel": w}}, x))
    assert_close(ours(weights), expected)
    if kernel > 1 and size > 1:
        unfold = jax.jit(lambda w: Unfold(7, kernel, stride, Policy()).apply({"params": {"kernel": w}}, x))
        assert_close(unfold(weights.reshape(-1, 7)), expected)


@pytest.mark.parametrize(
    "kernel, stride, size, dilation", [(5, 1, 6, 1), (7, 2, 6, 1), (3, 2, 5, 2), (5, 2, 2, 1), (7, 1, 1, 1)]
)
@pytest.mark.parametrize("form", ["place by place", "image by image", "on an accelerator"])
def test_depthwise_is_a_grouped_convolution(kernel, stride, size, dilation, form, monkeypatch):
    """Values and both gradients, also where the kernel is larger than the image."""
    if form == "image by image":
        monkeypatch.setattr(reduction, "LARGE", 0)
        monkeypatch.setattr(reduction, "CACHED", 0)
    if form == "on an accelerator":
        monkeypatch.setattr("jaxnas.ops.depthwise.by_platform", lambda *operands, cpu, others: others(*operands))
    x, weights = images(size=size), RNG.normal(size=(kernel, kernel, 4)).astype(np.float32)

    def ours(x, weights):
        return Depthwise(kernel, stride, Policy(), dilation).apply({"params": {"kernel": weights}}, x)

    def theirs(x, weights):
        spread = jnp.zeros((dilation * (kernel - 1) + 1,) * 2 + (4,)).at[::dilation, ::dilation].set(weights)
        return conv(x, spread[:, :, None], stride, groups=4)

    def value_and_gradients(function):
        @jax.jit
        def both(x, weights, towards):
            value, pull = jax.vjp(function, x, weights)
            return value, *pull(towards)

        return both

    towards = RNG.normal(size=jax.eval_shape(theirs, x, weights).shape).astype(np.float32)
    expected = value_and_gradients(theirs)(x, weights, towards)
    jax.tree.map(assert_close, value_and_gradients(ours)(x, weights, towards), expected)


def test_sums_image_by_image_equal_sums_at_once(monkeypatch):
    x, y = images(), images()
    expected = {"square": (x * x).sum(axis=(0, 1, 2)), "product": (x * y).sum(axis=(0, 1, 2))}
    for large in (10**9, 1):  # at once; in a loop over images, the fast form on CPU
        monkeypatch.setattr(reduction, "LARGE", large)
        terms = lambda x, y: {"square": x * x, "product": x * y}  # noqa: E731
        got = jax.jit(lambda x, y, terms=terms: reduction.sum_over_images(terms, x, y))(x, y)
        jax.tree.map(assert_close, got, expected)
        looped = "scan[" in str(jax.make_jaxpr(lambda x, y, t=terms: reduction.sum_over_images(t, x, y))(x, y))
        assert looped == (large == 1 and jax.default_backend() == "cpu")


def test_depthwise_gradients_keep_the_compute_type():
    x, weights = jnp.asarray(images(), jnp.bfloat16), jnp.ones((3, 3, 4), jnp.bfloat16)
    loss = lambda x, w: depthwise(x, w, 2).astype(jnp.float32).sum()  # noqa: E731
    gradients = jax.eval_shape(jax.grad(loss, argnums=(0, 1)), x, weights)
    assert [gradient.dtype for gradient in gradients] == [jnp.bfloat16] * 2


@pytest.mark.parametrize("size", [1, 2, 5])
def test_average_pool_counts_existing_pixels_only(size):
    x = images(size=size)
    expected = np.zeros_like(x)
    for row in range(size):
        for column in range(size):
            window = x[:, max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2]
            expected[:, row, column] = window.mean(axis=(1, 2))
    assert_close(run(AveragePool(), x)[1], expected)
    summed = [
        jax.lax.reduce_window(part, 0.0, jax.lax.add, (1, 3, 3, 1), (1, 1, 1, 1), "SAME")
        for part in (jnp.asarray(x), jnp.ones_like(x))
    ]
    assert_close(expected, summed[0] / summed[1])


def test_reduction():
    x = images(size=6)
    params, got, _ = run(Reduction(8, affine=False), x)
    y = normalise(conv(np.maximum(x, 0), params["first"]["Conv_0"]["kernel"], 2))
    y = normalise(conv(np.maximum(y, 0).astype(np.float32), params["second"]["Conv_0"]["kernel"]))
    halves = (x[:, ::2, ::2] + x[:, 1::2, ::2] + x[:, ::2, 1::2] + x[:, 1::2, 1::2]) / 4
    expected = y + halves @ params["shortcut"]["kernel"][0, 0]
    assert got.shape == (3, 3, 3, 8)
    assert_close(got, expected)


@pytest.mark.parametrize("stride, channels, shortcut", [(1, 4, True), (2, 4, False), (1, 6, False)])
def test_inverted_residual(stride, channels, shortcut):
    x = images()
    params, got, _ = run(InvertedResidual(channels, stride, 2, 3, affine=False), x)
    y = np.maximum(normalise(x @ params["expand"]["kernel"][0, 0]), 0).astype(np.float32)
    y = np.maximum(normalise(conv(y, params["depthwise"]["kernel"][:, :, None], stride, groups=8)), 0)
    y = normalise(y @ params["project"]["kernel"][0, 0])
    assert_close(got, x + y if shortcut else y)


@pytest.mark.parametrize("stride, channels, shortcut", [(1, 4, True), (2, 6, False)])
def test_normal_bottleneck(stride, channels, shortcut):
    x = images()
    params, got, _ = run(NormalBottleneck(channels, stride, 2, 3, affine=False), x)
    kernels = [params[name]["Conv_0"]["kernel"] for name in ("reduce", "convolve", "expand")]
    assert kernels[1].shape == (3, 3, channels // 2, channels // 2)
    y = np.maximum(normalise(x @ kernels[0][0, 0]), 0).astype(np.float32)
    y = np.maximum(normalise(conv(y, kernels[1], stride)), 0)
    y = normalise(y @ kernels[2][0, 0])
    assert_close(got, x + y if shortcut else y)


@pytest.mark.parametrize("stride, channels, shortcut", [(1, 4, True), (2, 6, False)])
def test_residual_pair(stride, channels, shortcut):
    x = images()
    params, got, _ = run(ResidualPair(channels, stride, 3, affine=False), x)
    first, second = (params[name]["Conv_0"]["kernel"] for name in ("first", "second"))
    y = np.maximum(normalise(conv(x, first, stride)), 0).astype(np.float32)
    y = normalise(conv(y, second))
    assert_close(got, x + y if shortcut else y)


@pytest.mark.parametrize("stride, channels, shortcut", [(1, 4, True), (2, 6, False)])
def test_double_depthwise(stride, channels, shortcut):
    x = images()
    params, got, _ = run(DoubleDepthwise(channels, stride, 7, affine=False), x)
    y = x
    for half, stride_of_half in (("first", stride), ("second", 1)):
        y = conv(y, params[f"{half}_depthwise"]["kernel"][:, :, None], stride_of_half, groups=y.shape[-1])
        y = np.maximum(normalise(y), 0)
        y = normalise(y @ params[f"{half}_project"]["Conv_0"]["kernel"][0, 0]).astype(np.float32)
        y = np.maximum(y, 0) if half == "first" else y
    assert_close(got, x + y if shortcut else y)


def test_identity():
    x = images()
    params, y, _ = run(Identity(4, 1), x)  # nothing, where shapes agree
    assert not params
    np.testing.assert_array_equal(y, x)
    params, y, _ = run(Identity(6, 2, affine=False), x)
    assert_close(y, normalise(x[:, ::2, ::2] @ params["ConvBN_0"]["Conv_0"]["kernel"][0, 0]))


def test_operations_of_the_cell_space():
    """ReLU before convolution before normalisation, as in NAS-Bench-201; the others have no parameters."""
    x = images()
    for kernel in (1, 3):
        params, y, _ = run(OPS[f"nor_conv_{kernel}x{kernel}"](4, 1, False, Policy()), x)
        assert_close(y, normalise(conv(np.maximum(x, 0), params["Conv_0"]["kernel"])))
    for name, expected in (("none", np.zeros_like(x)), ("skip_connect", x)):
        params, y, _ = run(OPS[name](4, 1, True, Policy()), x)
        assert not params
        np.testing.assert_array_equal(y, expected)


def test_stem_and_head():
    x = images(channels=3)
    params, stem, _ = run(Stem(5, stride=2, relu=True, affine=False), x)
    kernel = params["Unfold_0"]["kernel"].reshape(3, 3, 3, 5)
    assert_close(stem, np.maximum(normalise(conv(x, kernel, 2)), 0))

    params, logits, _ = run(Head(9, 10, affine=False), stem)
    dense = params["Classifier_0"]["Dense_0"]
    wide = np.maximum(normalise(stem @ params["Conv_0"]["kernel"][0, 0]), 0)
    assert_close(logits, wide.mean(axis=(1, 2)) @ dense["kernel"] + dense["bias"])
    assert "Conv_0" not in run(Head(0, 10), stem)[0]


@pytest.mark.parametrize("affine", [True, False])
def test_normalisation_by_hand(affine):
    x = 3.0 * images() + 5.0
    module = BatchNorm(affine, Policy())
    params = {"scale": np.array([1.0, 2.0, 3.0, 4.0], np.float32), "bias": np.arange(4, dtype=np.float32)}
    assert set(run(module, x)[0]) == (set(params) if affine else set())  # not affine: no parameters
    _, y, used = run(module, x, params=params if affine else {})
    assert_close(y, normalise(x) * params["scale"] + params["bias"] if affine else normalise(x))
    assert_close(used, np.stack([x.mean(axis=(0, 1, 2)), x.var(axis=(0, 1, 2))]))


@pytest.mark.parametrize("mask", [None, np.array([True, False, True])], ids=["whole", "masked"])
def test_gradient_of_normalisation(mask):
    """Written out in the library; here JAX's own, through the moments of the images under the mask; also for what
    depends on the statistics themselves."""
    x = images() + 1.0
    weights, stats_weights = RNG.normal(size=x.shape), RNG.normal(size=(2, 4))

    def ours(x):
        tape = Tape(None, mask)
        y = tape.normalise(x)
        return jnp.sum(weights * y) + jnp.sum(stats_weights * tape.used(4))

    def theirs(x):
        taken = x if mask is None else x[np.flatnonzero(mask)]
        mean, variance = (moment(axis=(0, 1, 2), keepdims=True) for moment in (taken.mean, taken.var))
        y = (x - mean) / jnp.sqrt(variance + EPSILON)
        return jnp.sum(weights * y) + jnp.sum(stats_weights * jnp.stack([mean.ravel(), variance.ravel()]))

    got, expected = (jax.jit(jax.value_and_grad(function))(x) for function in (ours, theirs))
    np.testing.assert_allclose(got[0], expected[0], rtol=1e-4)
    np.testing.assert_allclose(got[1], expected[1], rtol=1e-3, atol=1e-4)


def test_masked_padding_equals_no_padding():
    """Zero images under a mask move nothing; without the mask they do."""
    x = images() + 1.0
    padded = np.concatenate([x, np.zeros((2, 6, 6, 4), np.float32)])
    mask = np.array([True, True, True, False, False])
    module = InvertedResidual(4, 1, 2, 3)
    params, expected, used = run(module, x)
    _, y, masked = run(module, padded, mask=mask, params=params)
    assert_close(y[:3], expected)
    assert_close(masked, used)
    _, y, unmasked = run(module, padded, params=params)
    assert np.abs(unmasked - used).max() > 0.1 and np.abs(y[:3] - expected).max() > 0.1


def test_given_statistics_are_read_in_the_order_they_were_written():
    """The three normalisations of a block, one after the other, and zeros up to the size of the widest candidate."""
    x, other = images(), images(num_images=1)
    module = InvertedResidual(4, 1, 2, 3)
    params, expected, used = run(module, x)
    assert used.shape == (2, 8 + 8 + 4)

    @jax.jit
    def given(stats, x):
        tape = Tape(stats, None)
        return module.apply({"params": params}, x, tape), tape.used(30)

    wide = np.pad(used, ((0, 0), (0, 10)))
    y, returned = given(wide, np.concatenate([x, other]))  # another image changes nothing
    assert_close(y[:3], expected)
    np.testing.assert_array_equal(returned, wide)


def test_normalisation_of_a_constant_is_zero_and_of_nan_is_nan():
    """A constant's variance is zero, which must not divide; a diverged network must not look healthy."""
    tape = Tape(None, None)
    assert_close(tape.normalise(jnp.full((2, 3, 3, 1), 7.0)), np.zeros((2, 3, 3, 1)))
    assert np.isnan(Tape(None, None).normalise(jnp.full((2, 3, 3, 1), jnp.nan))).all()
    np.testing.assert_array_equal(jax.jit(relu)(jnp.array([-1.0, 2.0, jnp.nan])), [0.0, 2.0, np.nan])


@pytest.mark.parametrize(
    "policy",
    [Policy(), Policy(compute="bfloat16"), Policy("bfloat16", "bfloat16", "bfloat16"), Policy(params="bfloat16")],
)
def test_number_types(policy):
    """Parameters, activations and statistics as the policy says, for every kind of operation; logits are float32."""
    x = jax.ShapeDtypeStruct((3, 6, 6, 4), policy.compute)
    modules = {name: OPS[name](4, 1, True, policy) for name in ("identity", "mb3_k3", "nor_conv_3x3", "none")}
    modules |= {"pool": OPS["avg_pool_3x3"](4, 1, True, policy), "halve": OPS["identity"](4, 2, True, policy)}
    modules |= {
        "reduction": Reduction(4, policy=policy),
        "stem": Stem(4, policy=policy),
        "head": Head(8, 10, True, policy),
    }
    for name, module in modules.items():

        def outline(x, module=module):
            tape = Tape(None, None, policy.stats)
            y, variables = module.init_with_output(jax.random.key(0), x, tape)
            return variables.get("params", {}), y, tape.used(40)

        params, y, used = jax.eval_shape(outline, jax.ShapeDtypeStruct(x.shape, "float32") if name == "stem" else x)
        assert {str(leaf.dtype) for leaf in jax.tree.leaves(params)} <= {policy.params}, name
        assert y.dtype == ("float32" if name == "head" else policy.compute), name
        assert used.dtype == policy.stats, name


def test_half_precision_changes_little():
    x = images()
    params, expected, _ = run(InvertedResidual(4, 1, 2, 3), x)
    _, y, used = run(
        InvertedResidual(4, 1, 2, 3, policy=Policy(compute="bfloat16")), x.astype(jnp.bfloat16), params=params
    )
    assert y.dtype == jnp.bfloat16 and used.dtype == np.float32
    np.testing.assert_allclose(y.astype(np.float32), expected, atol=0.1)  # bfloat16 keeps 8 bits


@pytest.mark.parametrize("relu_first", [False, True])
@pytest.mark.parametrize("kernel, stride, size", [(3, 1, 5), (3, 2, 6), (5, 2, 7), (5, 1, 2)])
@pytest.mark.parametrize("large", [0, 2**17])
def test_gradient_of_a_convolution_is_autodiffs(kernel, stride, size, relu_first, large, monkeypatch):
    """In a loop, which it is written out for, image by image or all at once; the plain convolution is the oracle."""
    monkeypatch.setattr("jaxnas.ops.reduction.LARGE", large)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3, size, size, 4)).astype(np.float32)
    weights = rng.normal(size=(kernel, kernel, 4, 6)).astype(np.float32)

    def plain(x, weights):
        pads = [(kernel // 2, kernel // 2)] * 2
        x = jnp.maximum(x, 0) if relu_first else x
        numbers = ("NHWC", "HWIO", "NHWC")
        return jnp.sin(jax.lax.conv_general_dilated(x, weights, (stride,) * 2, pads, dimension_numbers=numbers)).sum()

    def ours(x, weights):
        return jnp.sin(convolve(x, weights, stride, relu_first)).sum()

    @jax.jit
    def in_loop(x, weights):
        return jax.lax.scan(lambda _, xs: (None, jax.grad(ours, (0, 1))(*xs)), None, (x[None], weights[None]))[1]

    for mine, expected in zip(in_loop(x, weights), jax.grad(plain, (0, 1))(x, weights)):
        np.testing.assert_allclose(mine[0], expected, rtol=1e-4, atol=1e-4)
