"""Programs lowered for another device than that of the machine that traces them hold that device's forms."""

import re

import jax
import jax.numpy as jnp
import pytest

from jaxnas.ops import OPS, Policy, Tape, as_operation
from jaxnas.ops.platform import by_platform, portable

SHAPE = (64, 16, 16, 16)  # large enough for the CPU's loops over images


def lowered(platform, op):
    """StableHLO of one candidate's output and gradients, for a platform that need not be here."""
    operation = as_operation(OPS[op](SHAPE[-1], 1, True, Policy()))
    images = jax.ShapeDtypeStruct(SHAPE, jnp.float32)
    params = jax.eval_shape(lambda x: operation.init(jax.random.key(0), x, Tape(None, None)), images)

    def loss(params, x):
        return (operation.apply(params, x, Tape(None, None)) ** 2).sum()

    function = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))
    return jax.export.export(function, platforms=[platform])(params, images).mlir_module()


def conditionals(text):
    """What each conditional of several branches returns. With one branch, which is what lowering leaves of a choice by
    platform, it is none."""
    found, opened = [], []
    for line in text.splitlines():
        if line.endswith("({"):
            opened.append([line, 1])
        elif line.lstrip() == "}, {":
            opened[-1][1] += 1
        elif line.lstrip().startswith("})"):
            head, branches = opened.pop()
            if "stablehlo.case" in head and branches > 1:
                found.append(line.split("->")[1].split("loc(")[0].strip())
    return found


@pytest.mark.parametrize("op", ["nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3", "mb3_k5", "nconv2_k3", "rconv_k3"])
@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_accelerators_get_no_loops_over_images(platform, op):
    text = lowered(platform, op)
    assert "stablehlo.while" not in text
    assert set(conditionals(text)) <= {"tensor<i32>"}  # the number of the platform itself, a constant
    assert not re.search(r"feature_group_count = ([2-9]|\d\d)", text)


def test_a_gradient_is_autodiffs_there_and_by_hand_on_cpu():
    """By autodiff a 3x3 convolution has three: itself and one for each gradient; by hand two, and a product."""
    of = {platform: lowered(platform, "nor_conv_3x3") for platform in ("cpu", "cuda")}
    assert of["cuda"].count("stablehlo.convolution(") == 3
    assert of["cpu"].count("stablehlo.convolution(") == 2
    assert "stablehlo.while" in of["cpu"]


def test_a_depthwise_kernels_gradient_is_one_convolution_there():
    """By sums it would have a reduction for each of its places."""
    small, large = (lowered("cuda", op) for op in ("mb3_k3", "mb3_k7"))
    assert small.count("batch_group_count = 48") == large.count("batch_group_count = 48") == 1
    assert small.count("stablehlo.reduce(") == large.count("stablehlo.reduce(")


def test_a_portable_program_holds_no_choice_of_platform():
    """As converters want it, which know no primitive for that."""

    def traced():
        return str(jax.make_jaxpr(lambda x: by_platform(x, cpu=jnp.sin, others=jnp.cos))(1.0))

    assert "platform_index" in traced()
    with portable():
        text = traced()
    assert "platform_index" not in text and " cos " in text and " sin " not in text
    assert "platform_index" in traced()


def test_moments_are_of_one_pass_there_and_of_two_on_cpu():
    """One pass takes deviations from a pixel of the first image, which is sliced out."""
    pixel = re.compile(r"stablehlo\.(slice|dynamic_slice|gather).*-> tensor<1x1x1x16xf32>")
    assert pixel.search(lowered("cuda", "nor_conv_1x1"))
    assert not pixel.search(lowered("cpu", "nor_conv_1x1"))
