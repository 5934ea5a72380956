"""All candidates at once in place of a conditional: each returns what it would by itself, and where it is done."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from test_platform import conditionals

from jaxnas.ops import OPS, Policy
from jaxnas.ops.operation import Free, Kernel
from jaxnas.samplers import uniform
from jaxnas.supernets import make_supernet
from jaxnas.supernets.layer import make_layer, outline
from jaxnas.supernets.together import MOST_BYTES, are_little_work, families, run_together
from jaxnas.training import init_train_state, make_cross_entropy_loss, make_train_step

RNG = np.random.default_rng(0)
CELL = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
MOBILE = ("mb3_k7", "identity", "mb3_k3", "mb6_k5")


def built(ops, stride=1, size=6, **options):
    layer = make_layer("layer", 0, {op: OPS[op](4, stride, True, Policy()) for op in ops}, (size, size, 4), **options)
    params = {op: outline(operation, layer.in_shape)[1] for op, operation in layer.candidates.items()}
    draw = lambda leaf: jnp.asarray(RNG.normal(size=leaf.shape), leaf.dtype)  # noqa: E731
    return layer, jax.tree.map(draw, params)


@pytest.mark.parametrize(
    "ops, stride, is_edge, expected",
    [
        (CELL, 1, True, [[0], [1], [2, 3], [4]]),
        pytest.param(
            MOBILE[:3], 2, False, [[2, 0], [1]], marks=pytest.mark.slow("mobile candidates of a layer at once")
        ),
    ],
)
def test_each_candidate_is_what_it_is_alone(ops, stride, is_edge, expected):
    """Output, statistics used, and gradients by the input and by the parameters of all candidates; with images left out
    and dropout. Statistics given, too."""
    layer, params = built(ops, stride, is_edge=is_edge)
    operations, trees = tuple(layer.candidates.values()), [params[op] for op in ops]
    assert families(operations, trees) == expected
    x = jnp.asarray(RNG.normal(size=(5, *layer.in_shape)), jnp.float32)
    mask, keep = jnp.arange(5) < 4, jnp.array([0.0, 2.0, 2.0, 0.0, 2.0])
    stats = jnp.asarray(1 + RNG.random((2, layer.stats_size)), jnp.float32)
    weights = jnp.asarray(RNG.normal(size=(5, *layer.out_shape)), jnp.float32)

    def by_itself(choice, params, x, stats):
        return jax.lax.switch(choice, layer.branches, (params, mask), x, stats, keep)

    def together(choice, params, x, stats):
        def call(index, own):
            return layer.branches[index](({ops[index]: own}, mask), x, stats, keep)

        return run_together(operations, [params[op] for op in ops], choice, call)

    def outcome(run, choice):
        def total(params, x):
            (y, used), (given, _) = run(choice, params, x, None), run(choice, params, x, stats)
            return (weights * (y + 2 * given)).sum() + used[:, : layer.stats_size].sum(), (y, used, given)

        return jax.value_and_grad(total, (0, 1), has_aux=True)(params, x)

    ours, its_own = (jax.jit(lambda choice, run=run: outcome(run, choice)) for run in (together, by_itself))
    for index in map(jnp.int32, range(len(ops))):
        for found, wanted in zip(jax.tree.leaves(ours(index)), jax.tree.leaves(its_own(index)), strict=True):
            np.testing.assert_allclose(found, wanted, rtol=2e-3, atol=2e-3, err_msg=ops[index])


class TwoKernels(Free):
    """Says that one of its two kernels can be shared; the other has its size as well."""

    kernel: int

    @nn.compact
    def __call__(self, x, tape):
        for name in ("first", "second"):
            x = nn.Conv(4, (self.kernel,) * 2, use_bias=False, name=name)(x)
        return x

    def shared_kernel(self):
        return Kernel("dense", self.kernel, ("first", "kernel"))


def test_what_differs_in_more_than_one_kernel_is_no_family():
    layer = make_layer("layer", 0, {"small": TwoKernels(1), "large": TwoKernels(3)}, (6, 6, 4))
    params = [outline(operation, layer.in_shape)[1] for operation in layer.candidates.values()]
    assert families(tuple(layer.candidates.values()), params) == [[0], [1]]


def test_where_it_is_little_work():
    """By hand: of two mobile blocks of 4 channels on 6 x 6 pixels the dearer takes 36 * (4*24*2 + 25*24) MACs."""
    layer, params = built(MOBILE)
    operations, trees = tuple(layer.candidates.values()), [params[op] for op in MOBILE]
    x = jnp.zeros((5, 6, 6, 4))
    macs = {op: operation.cost((6, 6, 4)).macs for op, operation in layer.candidates.items()}
    assert macs["mb6_k5"] == 36 * (4 * 24 * 2 + 25 * 24) and macs["mb3_k7"] == 36 * (4 * 12 * 2 + 49 * 12)
    assert are_little_work(operations, trees, x)  # 684 + 792 of 792 at most
    wide = jax.ShapeDtypeStruct((MOST_BYTES // (36 * 4 * 4) + 1, 6, 6, 4), "float32")
    assert not are_little_work(operations, trees, wide)
    dear = ("sep_conv_3x3", "sep_conv_5x5", "dil_conv_3x3", "dil_conv_5x5")
    layer, params = built(dear)
    assert not are_little_work(tuple(layer.candidates.values()), [params[op] for op in dear], x)
    own = (lambda key, x, tape: {}, lambda params, x, tape: x + 1.0)  # which says of no cost
    layer = make_layer("layer", 0, {"own": own, "known": OPS["avg_pool_3x3"](4, 1, True, Policy())}, (6, 6, 4))
    assert not are_little_work(tuple(layer.candidates.values()), [{}, {}], x)


@pytest.mark.parametrize(
    "name",
    ["nasbench201", pytest.param("digits_chain", marks=pytest.mark.slow("steps of a chain lowered for three devices"))],
)
def test_steps_of_one_path_have_no_conditional_on_accelerators(small_space, name):
    """Forward and backward; on CPU they have."""
    space = small_space(name)
    supernet, tx = make_supernet(space), optax.sgd(0.1)
    sampler = uniform(space)
    state = jax.eval_shape(lambda key: init_train_state(supernet, sampler, tx, key), jax.random.key(0))
    images = jax.ShapeDtypeStruct((4, *supernet.layers["stem"].in_shape), "float32")
    batch = {"train": {"images": images, "labels": jax.ShapeDtypeStruct((4,), "int32")}}
    step = make_train_step(supernet, make_cross_entropy_loss(supernet), sampler, tx)
    for platform in ("cpu", "cuda", "tpu"):
        text = jax.export.export(step, platforms=[platform])(state, batch).mlir_module()
        branching = set(conditionals(text)) - {"tensor<i32>"}
        assert bool(branching) == (platform == "cpu"), (platform, branching)
        assert platform == "cpu" or "stablehlo.while" not in text
