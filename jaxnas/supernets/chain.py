"""Chain super-nets: stem, one searched layer after another, head (NAS-Bench-Macro, mobile spaces)."""

import functools

from jaxnas.ops import Head, Stem
from jaxnas.space import ChainLayout, SearchSpace
from jaxnas.supernets.dropout import make_dropout
from jaxnas.supernets.factors import Factors, candidates_at
from jaxnas.supernets.layer import make_layer
from jaxnas.supernets.sharing import NO_SHARING, share_kernels
from jaxnas.supernets.supernet import Supernet, assemble


def chain_supernet(space: SearchSpace, layout: ChainLayout, factors: Factors) -> Supernet:
    """A super-net over `layout`; see `make_supernet`."""
    factors.refuse(
        space, "is for cells, whose nodes have several inputs; each layer of a chain has one", "op_on", "batch_norm"
    )
    factors.refuse(space, "is for cells whose wiring is searched", "channels")
    factors.refuse(space, "is for cells, whose candidates keep the number of channels", "partial_channels")
    affine, policy = factors.affine, factors.policy
    build = functools.partial(make_layer, stats_dtype=policy.stats)
    image_shape = (layout.image_size, layout.image_size, layout.in_channels)
    stem = Stem(layout.stem_width, layout.stem_stride, relu=True, affine=affine, policy=policy)
    layers = [build("stem", None, {"stem": stem}, image_shape)]
    for choice, (width, stride) in enumerate(zip(layout.widths, layout.strides, strict=True)):
        candidates = candidates_at(space, choice, width, stride, factors)
        layers.append(build(f"layer{choice}", choice, candidates, layers[-1].out_shape, shared_input=choice == 0))
    head = Head(layout.head_width, layout.num_classes, affine=affine, policy=policy)
    layers.append(build("head", None, {"head": head}, layers[-1].out_shape))

    def wire(run, x):
        for layer in layers:
            x = run(layer.name, x)
        return x

    searched = {layer.name: layer for layer in layers if layer.choice is not None}
    with_shortcut = (
        operation.has_shortcut(layer.in_shape[-1]) for layer in layers for operation in layer.candidates.values()
    )
    if factors.path_dropout and not any(with_shortcut):
        raise ValueError(
            f"{space.name}: path_dropout needs paths beside a shortcut, and this chain has none; a chain without its"
            " only path is nothing."
        )
    num_features = layout.head_width or layers[-1].in_shape[-1]
    dropout = make_dropout([[name] for name in searched], factors.path_dropout, factors.global_dropout, num_features)
    sharing = NO_SHARING
    if factors.kernels != "separate":
        sharing = share_kernels(space.name, searched, transform=factors.kernels == "transform")
    return assemble(space, {layer.name: layer for layer in layers}, wire, sharing=sharing, dropout=dropout)
