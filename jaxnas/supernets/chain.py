"""Chain super-nets: stem, one searched layer after another, head (NAS-Bench-Macro, mobile spaces)."""

import functools
from collections.abc import Mapping

from jaxnas.arch import ChainLayout, SearchSpace
from jaxnas.ops import Head, OpFactory, Policy, Stem
from jaxnas.supernets.layer import Supernet, make_apply, make_init, make_layer


def chain_supernet(space: SearchSpace, *, affine: bool, policy: Policy, ops: Mapping[str, OpFactory]) -> Supernet:
    """A super-net over `space.layout`, a ChainLayout; see `make_supernet`."""
    layout = space.layout
    assert isinstance(layout, ChainLayout)
    build = functools.partial(make_layer, stats_dtype=policy.stats)
    image_shape = (layout.image_size, layout.image_size, layout.in_channels)
    stem = Stem(layout.stem_width, layout.stem_stride, relu=True, affine=affine, policy=policy)
    layers = [build("stem", None, {"stem": stem}, image_shape)]
    for choice, (names, width, stride) in enumerate(zip(space.op_names, layout.widths, layout.strides, strict=True)):
        modules = {name: ops[name](width, stride, affine, policy) for name in names}
        layers.append(build(f"layer{choice}", choice, modules, layers[-1].out_shape, shared_input=choice == 0))
    head = Head(layout.head_width, layout.num_classes, affine=affine, policy=policy)
    layers.append(build("head", None, {"head": head}, layers[-1].out_shape))

    def wire(run, x):
        for layer in layers:
            x = run(layer.name, x)
        return x

    by_name = {layer.name: layer for layer in layers}
    return Supernet(space, make_init(by_name), make_apply(by_name, wire), tuple(layers), by_name, wire)
