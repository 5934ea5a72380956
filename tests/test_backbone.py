"""A found network as a backbone: its features are what its classifier would see, its weights those of a file."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnas import codes, export
from jaxnas.space import ChainLayout
from jaxnas.spaces import SPACES, chain_space, darts_rnn
from jaxnas.supernets import make_supernet
from jaxnas.transfer import make_backbone

LAYOUT = ChainLayout(3, (4, 5, 6, 6), (2, 1, 2, 1), 7, image_size=8, in_channels=1, num_classes=3)
SPACE = chain_space("falling", LAYOUT, [("nor_conv_1x1", "nor_conv_3x3")] * 4)
ARCH = [1, 0, 1, 1]


@pytest.fixture(scope="module")
def network():
    """Super-net, exported network with statistics, images."""
    supernet = make_supernet(SPACE)
    params = supernet.init(jax.random.key(0))
    images = jax.random.normal(jax.random.key(1), (5, 8, 8, 1))
    _, stats = supernet.apply(params, tuple(ARCH), images, groups=None)
    return supernet, export.export(supernet, params, ARCH, stats), images


def test_the_last_map_is_what_the_classifier_sees(network):
    supernet, exported, images = network
    backbone = make_backbone(supernet, ARCH, strides=(4, 1, 2))
    assert backbone.channels == {1: 3, 2: 5, 4: 6}
    params, stats = backbone.adopt(exported)
    assert "head" not in params and "head" not in stats
    features, used = backbone.apply(params, images, stats=stats)
    assert {stride: x.shape for stride, x in features.items()} == {1: (5, 8, 8, 3), 2: (5, 4, 4, 5), 4: (5, 2, 2, 6)}
    seen = []

    def run(name, x):
        """The network by its layers' own functions, one by one."""
        seen.append((name, np.asarray(x)))
        op = supernet.taken_by(ARCH)[name]
        branch = supernet.layers[name].branches[list(supernet.layers[name].candidates).index(op)]
        return branch(({op: exported.params[name][op]}, None), x, exported.stats[name])[0]

    logits = supernet.wire(run, images)
    inputs = dict(seen)
    for stride, name in ((1, "layer0"), (2, "layer2"), (4, "head")):
        np.testing.assert_allclose(features[stride], inputs[name], atol=1e-6)
    module, variables = export.flax_module(supernet, exported)
    np.testing.assert_allclose(module.apply(variables, images), logits, atol=1e-5)
    for name, of_layer in used.items():
        np.testing.assert_array_equal(of_layer, exported.stats[name])


def test_images_of_another_size_do(network):
    supernet, exported, _ = network
    backbone = make_backbone(supernet, ARCH, strides=(2, 4))
    params, _ = backbone.adopt(exported)
    features, _ = jax.eval_shape(backbone.apply, params, jnp.zeros((2, 24, 16, 1)))
    assert {stride: x.shape[1:3] for stride, x in features.items()} == {2: (12, 8), 4: (6, 4)}
    fresh = jax.eval_shape(backbone.init, jax.random.key(0))
    assert jax.tree.map(lambda leaf: leaf.shape, fresh) == jax.tree.map(lambda leaf: leaf.shape, params)


@pytest.mark.parametrize("suffix", ["npz", "safetensors"])
def test_weights_come_from_a_file(network, tmp_path, suffix):
    supernet, exported, _ = network
    export.save(tmp_path / f"found.{suffix}", exported, SPACE)
    backbone = make_backbone(supernet, ARCH, strides=(4,))
    both = [backbone.adopt(each) for each in (exported, export.load(tmp_path / f"found.{suffix}", supernet))]
    jax.tree.map(np.testing.assert_array_equal, *both)
    with pytest.raises(ValueError, match=r"weights of architecture \[1, 0, 1, 1\], expected those of \[0, 0, 1, 1\]"):
        make_backbone(supernet, [0, 0, 1, 1], strides=(4,)).adopt(exported)


def test_mobile_spaces_have_the_strides_of_a_pyramid():
    layout = SPACES["mobile_small"].resized(width=8).layout
    space = chain_space("pyramid", layout, [("nor_conv_1x1",)] * len(layout.widths))  # which compiles in no time
    backbone = make_backbone(make_supernet(space), [0] * space.num_choices)
    assert backbone.channels == {8: 8, 16: 24, 32: 80}
    small = make_supernet(space.resized(image_size=16))  # at which the last stages have one pixel
    assert make_backbone(small, [0] * space.num_choices, strides=None).channels == backbone.channels


def test_cells_with_one_layer_between_stages_do():
    space = SPACES["nasbench201"].resized(width=4, image_size=16, cells_per_stage=1)
    backbone = make_backbone(make_supernet(space), [3, 1, 2, 4, 0, 3], strides=(1, 2, 4))
    assert backbone.channels == {1: 4, 2: 8, 4: 16}
    params = jax.eval_shape(backbone.init, jax.random.key(0))
    features, _ = jax.eval_shape(backbone.apply, params, jnp.zeros((2, 32, 32, 3)))
    assert features[4].shape == (2, 8, 8, 16)


@pytest.mark.parametrize(
    "space, strides, said",
    [
        (SPACE, (2, 8), "no features at stride 8; it has strides 1, 2, 4"),
        (SPACE, (), "strides are \\(\\), expected distinct ones"),
        (SPACE, (2, 2), "strides are \\(2, 2\\), expected distinct ones"),
        (SPACE, (0,), "a stride is 0, expected 1 to"),
        (SPACES["darts"].resized(width=4, image_size=8), (1,), "layers at once leave stride [12], so that"),
        (SPACES["nasbench101_v4"].resized(width=4, image_size=8), (1,), "this super-net shares parameters"),
        (darts_rnn, (1,), "this super-net reads text"),
    ],
)  # fmt: skip
def test_networks_that_do_not_fit_are_refused_in_one_line(space, strides, said):
    archs = np.asarray(codes.sample(jax.random.key(0), space, 500))
    arch = archs[np.asarray(space.is_valid(archs))][0]
    with pytest.raises(ValueError, match=said) as refused:
        make_backbone(make_supernet(space), arch, strides=strides)
    assert "\n" not in str(refused.value)
