"""Chain super-nets: stem, one searched layer after another, head (NAS-Bench-Macro, mobile spaces)."""

from collections.abc import Mapping

from jaxnas.arch import ChainLayout, SearchSpace
from jaxnas.ops import Head, OpFactory, Policy, Stem
from jaxnas.supernets.layer import Layer, Supernet, make_init, make_layer


def chain_supernet(space: SearchSpace, *, affine: bool, policy: Policy, ops: Mapping[str, OpFactory]) -> Supernet:
    """A super-net over `space.layout`, a ChainLayout; see `make_supernet`."""
    layout = space.layout
    assert isinstance(layout, ChainLayout)
    fixed = dict(affine=affine, policy=policy)
    image_shape = (layout.image_size, layout.image_size, layout.in_channels)
    layers: list[Layer] = [
        make_layer("stem", None, {"stem": Stem(layout.stem_width, layout.stem_stride, relu=True, **fixed)}, image_shape)
    ]
    for choice, (names, width, stride) in enumerate(zip(space.op_names, layout.widths, layout.strides, strict=True)):
        modules = {name: ops[name](width, stride, affine, policy) for name in names}
        layers.append(make_layer(f"layer{choice}", choice, modules, layers[-1].out_shape, shared_input=choice == 0))
    head = {"head": Head(layout.head_width, layout.num_classes, **fixed)}
    layers.append(make_layer("head", None, head, layers[-1].out_shape))

    def apply(params, arch, images, *, stats=None, mask=None, groups=4):
        x, used = images, {}
        for layer in layers:
            x, used[layer.name] = layer(params, arch, x, stats, mask, groups)
        return x, used

    by_name = {layer.name: layer for layer in layers}
    return Supernet(space, make_init(by_name), apply, tuple(layers), by_name)
