"""Chain super-nets: stem, one searched layer after another, head (NAS-Bench-Macro, mobile spaces)."""

import functools
from collections.abc import Mapping

from jaxnas.ops import Head, OpFactory, Policy, Stem, has_shortcut
from jaxnas.space import ChainLayout, SearchSpace
from jaxnas.supernets.dropout import make_dropout
from jaxnas.supernets.layer import Supernet, make_apply, make_init, make_layer
from jaxnas.supernets.sharing import NO_SHARING, share_kernels


def chain_supernet(
    space: SearchSpace,
    *,
    affine: bool,
    policy: Policy,
    ops: Mapping[str, OpFactory],
    kernels: str,
    op_on: str,
    batch_norm: str,
    path_dropout: float,
    global_dropout: float,
) -> Supernet:
    """A super-net over `space.layout`, a ChainLayout; see `make_supernet`."""
    layout = space.layout
    assert isinstance(layout, ChainLayout)
    if op_on != "edge" or batch_norm != "shared":
        raise ValueError(
            f"{space.name}: op_on='node' and batch_norm='per_input' are for cells, whose nodes have several inputs;"
            " each layer of a chain has one."
        )
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
    searched = {layer.name: layer for layer in layers if layer.choice is not None}
    with_shortcut = (has_shortcut(m, layer.in_shape[-1]) for layer in layers for m in layer.modules.values())
    if path_dropout and not any(with_shortcut):
        raise ValueError(
            f"{space.name}: path_dropout needs paths beside a shortcut, and this chain has none; a chain without its"
            " only path is nothing."
        )
    num_features = layout.head_width or layers[-1].in_shape[-1]
    dropout = make_dropout([[name] for name in searched], path_dropout, global_dropout, num_features)
    sharing = NO_SHARING
    if kernels != "separate":
        sharing = share_kernels(space.name, searched, transform=kernels == "transform")
    apply = make_apply(by_name, wire, view=sharing.view, dropout=dropout)
    init = make_init(by_name, sharing.store)
    return Supernet(space, init, apply, tuple(layers), by_name, wire, sharing.view, dropout)
