"""Operations of one's own, in each form that a candidate may have: a Flax module, a pair, an NNX module, a class.

All four are the same: x + drop(gain * normalise(x) + shift), computed here by NumPy.
"""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from jaxnas import export
from jaxnas.costs import arch_costs, limits, op_costs
from jaxnas.evaluation import make_evaluator
from jaxnas.ops import OPS, Cost, Kernel, NNXOperation, Operation, Policy, Tape, as_operation
from jaxnas.samplers import fair
from jaxnas.space import ChainLayout
from jaxnas.spaces import chain_space
from jaxnas.supernets import make_supernet
from jaxnas.training import init_train_state, make_cross_entropy_loss, make_train_step

RNG = np.random.default_rng(0)
CODES = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
IMAGES, LABELS = RNG.normal(size=(6, 4, 4, 3)).astype(np.float32), RNG.integers(0, 10, 6)


def add_path(x, tape, gain, shift):
    gain, shift = (jnp.reshape(vector, (1, 1, 1, -1)) for vector in (gain, shift))
    return x + tape.drop(gain * tape.normalise(x) + shift)


class FlaxShift(nn.Module):
    @nn.compact
    def __call__(self, x, tape):
        shape = x.shape[-1:]
        gain = self.param("gain", nn.initializers.normal(1.0), shape)
        return add_path(x, tape, gain, self.param("shift", nn.initializers.normal(1.0), shape))

    def cost(self, in_shape):
        return Cost(macs=7, params=2 * in_shape[-1])

    def has_shortcut(self, in_channels):
        return True


def init_shift(key, x, tape):
    return dict(zip(("gain", "shift"), jax.random.normal(key, (2, x.shape[-1]))))


def apply_shift(params, x, tape):
    return add_path(x, tape, params["gain"], params["shift"])


class NNXShift(nnx.Module):
    def __init__(self, in_channels, scale, *, rngs):
        self.gain = nnx.Param(scale * jax.random.normal(rngs.params(), (in_channels,)))
        self.shift = nnx.Param(scale * jax.random.normal(rngs.params(), (in_channels,)))

    def __call__(self, x, tape):
        return add_path(x, tape, self.gain[...], self.shift[...])

    def cost(self, in_shape):
        return Cost(macs=7, params=self.gain.size + self.shift.size)

    def has_shortcut(self, in_channels):
        return True


@dataclasses.dataclass(frozen=True)
class ClassShift(Operation):
    scale: float = 1.0

    def init(self, key, x, tape):
        return jax.tree.map(lambda leaf: self.scale * leaf, init_shift(key, x, tape))

    def apply(self, params, x, tape):
        return apply_shift(params, x, tape)

    def cost(self, in_shape):
        return Cost(macs=7, params=2 * in_shape[-1])

    def has_shortcut(self, in_channels):
        return True


FORMS = {
    "flax": FlaxShift,
    "pair": lambda: (init_shift, apply_shift),
    "nnx": lambda: NNXOperation(NNXShift, (1.0,)),
    "class": ClassShift,
}


@functools.cache
def space_with(form):
    return chain_space(
        "mine",
        ChainLayout(stem_width=3, widths=(3, 3), strides=(1, 1), head_width=4, image_size=4),
        [("mb1_k3", "shift")] * 2,
        operations={"shift": lambda channels, stride, affine, policy: FORMS[form]()},
    )


@functools.cache
def built(form, **settings):
    supernet = make_supernet(space_with(form), **settings)
    return supernet, jax.jit(supernet.init)(jax.random.key(0))


@pytest.fixture(params=FORMS)
def form(request):
    return request.param


class TestAlone:
    @pytest.fixture
    def operation(self, form):
        return as_operation(FORMS[form]())

    def test_what_it_computes(self, operation):
        params = operation.init(jax.random.key(1), IMAGES, Tape(None, None))
        gain, shift = (np.asarray(params[name]) for name in ("gain", "shift"))
        assert gain.shape == shift.shape == (3,) and (gain != shift).all()
        mask, keep = np.arange(6) < 4, np.array([0, 2, 1, 1, 1, 1])
        x = np.float64(IMAGES)
        mean, variance = x[:4].mean(axis=(0, 1, 2)), x[:4].var(axis=(0, 1, 2))
        path = gain * (x - mean) / np.sqrt(variance + 1e-5) + shift
        tape = Tape(None, jnp.array(mask), keep=jnp.float32(keep))
        found = jax.jit(lambda params, x: operation.apply(params, x, tape))(params, IMAGES)
        np.testing.assert_allclose(found, x + keep[:, None, None, None] * path, rtol=1e-4, atol=1e-4)
        assert tape.size == 3

    def test_equal_ones_are_one(self, form, operation):
        again = as_operation(FORMS[form]())
        assert again == operation and hash(again) == hash(operation)

    def test_what_is_not_said_is_not_known(self, form, operation):
        assert operation.algebra(3) == "any" and operation.shared_kernel() is None
        known = form != "pair"
        assert operation.cost((4, 4, 3)) == ((7, 6) if known else None)
        assert operation.has_shortcut(3) == known


class TestInASupernet:
    def test_every_route_gives_the_scores_of_serial(self, form):
        supernet, params = built(form)
        scores = {
            route: make_evaluator(supernet, strategy=route, images_per_call=4)
            .evaluate(params, CODES, IMAGES, LABELS)
            .loss
            for route in ("serial", "mask", "dispatch", "graph")
        }
        assert len(set(scores["serial"].round(4))) == 4
        for losses in scores.values():
            np.testing.assert_allclose(losses, scores["serial"], rtol=1e-4)

    def test_parameters_are_its_own_draws_for_each_layer(self, form):
        _, params = built(form)
        first, second = (params[layer]["shift"] for layer in ("layer0", "layer1"))
        assert np.abs(first["gain"] - second["gain"]).max() > 1e-3

    @pytest.mark.slow("trains own operations with dropout")
    def test_training_with_dropout_moves_it(self, form):
        supernet, _ = built(form, path_dropout=0.3)
        sampler, tx = fair(supernet.space), optax.sgd(0.1)
        state = init_train_state(supernet, sampler, tx, jax.random.key(0))
        start = jax.tree.map(np.array, state.params["layer0"]["shift"])
        loss_fn = make_cross_entropy_loss(supernet)
        step = make_train_step(supernet, loss_fn, sampler, tx, stats_momentum=0.9)
        batch = {"train": {"images": IMAGES, "labels": LABELS}}
        losses = []
        for _ in range(20):
            state, metrics = step(state, batch)
            losses.append(float(metrics["loss"]))
        assert np.mean(losses[-5:]) < np.mean(losses[:5])
        assert np.abs(state.params["layer0"]["shift"]["gain"] - start["gain"]).max() > 1e-3
        assert np.abs(np.asarray(state.stats["layer0"][1, 0])).max() > 1e-3  # its means, at first zero

    def test_costs(self, form):
        space = space_with(form)
        if form == "pair":
            with pytest.raises(ValueError, match=r"^layer layer0: candidate 'shift' doesn't say what it costs; give"):
                arch_costs(space, CODES)
            return
        macs, params = (np.diff(figures) for figures in arch_costs(space, CODES))
        block = OPS["mb1_k3"](3, 1, True, Policy()).cost((4, 4, 3))
        assert macs[0] == 7 - block.macs and params[0] == 6 - block.params
        assert limits.parse("params:1e9", space).table is not None

    def test_export(self, form, tmp_path):
        supernet, params = built(form)
        arch = CODES[1]
        logits, stats = jax.jit(functools.partial(supernet.apply, groups=None))(params, jnp.array(arch), IMAGES)
        exported = export.export(supernet, params, arch, stats)
        export.save(tmp_path / "found.npz", exported, supernet.space)
        module, variables = export.flax_module(supernet, export.load(tmp_path / "found.npz", supernet))
        np.testing.assert_allclose(jax.jit(module.apply)(variables, IMAGES), logits, rtol=1e-4, atol=1e-5)
        fresh = jax.eval_shape(module.init, jax.random.key(0), IMAGES)
        assert jax.tree.map(jnp.shape, fresh["params"]) == jax.tree.map(jnp.shape, variables["params"])
        if form != "pair":
            assert f"{7:>9}" in export.summary(supernet, arch)
            assert export.describe(supernet.space, arch)["ops"] == "mb1_k3 shift"


def test_a_space_brings_costs_that_do_not_add_up():
    space = dataclasses.replace(
        space_with("pair"), costs=lambda space, archs: (10 * archs.prod(axis=1), archs.sum(axis=1))
    )
    assert [figures.tolist() for figures in arch_costs(space, CODES)] == [[0, 0, 0, 10], [0, 1, 1, 2]]
    limit = limits.parse("macs:5", space)
    assert limit.table is None and (limit.costs(CODES) <= limit.value).tolist() == [True, True, True, False]
    with pytest.raises(ValueError, match=r"^mine: what an operation costs depends on the whole code"):
        op_costs(space)
    wrong = dataclasses.replace(space, costs=lambda space, archs: (np.zeros(3), np.zeros(3)))
    with pytest.raises(ValueError, match=r"^mine: its own costs of 4 architectures came as shape \(3,\), expected"):
        arch_costs(wrong, CODES)
    assert space.fingerprint == space_with("pair").fingerprint


class Unhashable(nn.Module):
    sizes: np.ndarray

    def __call__(self, x, tape):
        return x


class LinenNorm(nn.Module):
    @nn.compact
    def __call__(self, x, tape):
        return nn.BatchNorm(use_running_average=False)(x)


class NNXNorm(nnx.Module):
    def __init__(self, in_channels, *, rngs):
        self.norm, self.dropout = nnx.BatchNorm(in_channels, rngs=rngs), nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x, tape):
        return self.norm(x)


@pytest.mark.parametrize(
    ("candidate", "words"),
    [
        (lambda: 3, "^3 is no operation; give a Flax module"),
        (lambda: Unhashable(np.zeros(2)), "^an operation Unhashable is not hashable; give it tuples for lists"),
        (
            lambda: LinenNorm(),
            "^LinenNorm keeps batch_stats, but an operation has parameters alone; let tape.normalise",
        ),
        (lambda: NNXOperation(NNXNorm), "^NNXNorm keeps BatchStat, Rng.*, but an operation has parameters"),
    ],
)
def test_refusals(candidate, words):
    operations = {"bad": lambda channels, stride, affine, policy: candidate()}
    layout = ChainLayout(stem_width=3, widths=(3,), strides=(1,), head_width=4, image_size=4)
    with pytest.raises(ValueError, match=words) as error:
        make_supernet(chain_space("mine", layout, [("bad",)], operations=operations))
    assert "\n" not in str(error.value)


def test_what_flax_modules_of_the_library_say():
    """That it holds is tested where it is used: `test_graph`, `test_factors`, `test_costs`."""
    said = {name: as_operation(build(4, 1, False, Policy())) for name, build in OPS.items()}
    assert {name for name, operation in said.items() if operation.algebra(4) != "any"} == {
        "none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3", "identity", "max_pool_3x3",
        "sep_conv_3x3", "sep_conv_5x5", "dil_conv_3x3", "dil_conv_5x5",
    }  # fmt: skip
    assert said["mb3_k5"].shared_kernel() == Kernel("depthwise", 5, ("depthwise", "kernel"))
    assert said["rconv_k3"].has_shortcut(4) and not said["rconv_k3"].has_shortcut(8)
