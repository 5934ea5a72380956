"""The super-net of NATS-Bench's size space: layers of full width, and masks that leave each its chosen channels.

All widths share one kernel, of which a narrow network has the first channels, and so they share scales and shifts. A
choice is nothing but a mask: every architecture runs the same operations, at the cost of the widest, and computes what
the narrow network does (see `jaxnas.ops.elastic`). Trained alone it is that network too, but for its initial weights,
which are drawn for the full width.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxnas.ops import ChannelMask, Classifier, ConvBN, NormRelu, PooledProjection, Skip, Stem
from jaxnas.ops.elastic import mask_channels
from jaxnas.space import SearchSpace
from jaxnas.spaces._nats_size import CELL, REDUCTIONS, SizeLayout
from jaxnas.supernets.dropout import make_dropout
from jaxnas.supernets.factors import Factors
from jaxnas.supernets.layer import Layer, make_layer
from jaxnas.supernets.supernet import Supernet, assemble, decode_by_columns


def size_supernet(space: SearchSpace, layout: SizeLayout, factors: Factors) -> Supernet:
    """A super-net over `layout`; see `make_supernet`."""
    factors.refuse(
        space,
        "is of no use where all widths share everything",
        "kernels",
        "op_on",
        "channels",
        "batch_norm",
        "partial_channels",
    )
    if layout.image_size % 4:
        raise ValueError(
            f"{space.name}: image_size {layout.image_size} cannot be halved twice; choose a multiple of 4."
        )
    affine, policy, channels = factors.affine, factors.policy, layout.widths[-1]
    widths = {name: ChannelMask(width) for name, width in zip(space.op_names[0], layout.widths, strict=True)}
    # The cells before which another width may stand: whether it does is a place of its own in the decoded code.
    changing = [layer for layer in range(1, space.num_choices) if layer not in REDUCTIONS]
    layers: dict[str, Layer] = {}

    def add(
        name: str, choice: int | None, candidates: dict[str, Any], in_shape, kind=Layer, **options
    ) -> tuple[int, ...]:
        layers[name] = kind(*make_layer(name, choice, candidates, in_shape, stats_dtype=policy.stats, **options))
        return layers[name].out_shape

    def convolution(kernel: int, stride: int = 1, *, relu_first: bool = True) -> dict[str, Any]:
        return {"convolution": ConvBN(channels, kernel, stride, relu_first, affine, policy)}

    def add_cell(layer: int, shape) -> None:
        for (source, target), kernel in CELL.items():
            name = f"layer{layer}_edge{source}{target}"
            if kernel:
                add(name, None, convolution(kernel), shape, is_edge=True)
            elif layer in changing:
                place = space.num_choices + changing.index(layer)
                add(name, place, {"same": Skip()} | convolution(1, relu_first=False), shape, kind=Shortcut)
            else:
                add(name, None, {"same": Skip()}, shape)

    stem = {"stem": Stem(channels, affine=affine, policy=policy)}
    shape = add("stem", None, stem, (layout.image_size, layout.image_size, layout.in_channels))
    for layer in range(space.num_choices):
        if layer in REDUCTIONS:
            add(f"layer{layer}_shortcut", None, {"projection": PooledProjection(channels, policy)}, shape)
            shape = add(f"layer{layer}_first", None, convolution(3, stride=2), shape)
            add(f"layer{layer}_second", None, convolution(3), shape)
        else:
            add_cell(layer, shape)
        add(f"layer{layer}_width", layer, widths, shape, kind=Mask)
    add("norm", None, {"norm": NormRelu(affine, policy)}, shape)
    add("head", None, {"head": Classifier(layout.num_classes, policy)}, shape)

    def wire(run, images):
        x = run("layer0_width", run("stem", images))
        for layer in range(space.num_choices):
            name, width = f"layer{layer}", f"layer{layer}_width"
            if layer in REDUCTIONS:
                first = run(width, run(f"{name}_first", x))
                x = run(width, run(f"{name}_second", first) + run(f"{name}_shortcut", x))
                continue
            nodes = [x]
            for target in range(1, 4):
                inputs = [run(f"{name}_edge{source}{target}", nodes[source]) for source in range(target)]
                nodes.append(run(width, sum(inputs[1:], inputs[0])))
            x = nodes[-1]
        return run("head", run(width, run("norm", x)))

    def columns(archs: Any) -> list[Any]:
        """The code itself, and before which cells the width changes."""
        changes = [(archs[..., layer] != archs[..., layer - 1]).astype(np.int32) for layer in changing]
        return [*(archs[..., choice] for choice in range(space.num_choices)), *changes]

    cells = [layer for layer in range(space.num_choices) if layer not in REDUCTIONS]
    edges = [[f"layer{layer}_edge{source}{target}" for source, target in CELL] for layer in cells]
    return assemble(
        space,
        layers,
        wire,
        dropout=make_dropout(edges, factors.path_dropout, factors.global_dropout, channels),
        decode=decode_by_columns(space, (space.num_choices + len(changing), len(widths)), columns),
    )


class Mask(Layer):
    """The chosen channels: a comparison, where `choose` would dispatch."""

    def __call__(self, params, arch, x, stats, mask, groups, keep=None):
        here = arch[self.choice]
        if jnp.ndim(here) == 1:
            return super().__call__(params, arch, x, stats, mask, groups, keep)
        candidates: Any = self.candidates  # of modules, which have a width
        width = jnp.array([candidate.module.width for candidate in candidates.values()])[here]
        return mask_channels(x, width), jnp.zeros((2, self.stats_size), self.stats_dtype)


class Shortcut(Layer):
    """Whether widths change follows from two choices, so that a population that is balanced in both promises nothing
    here."""

    keeps_balance = False

    def __call__(self, params, arch, x, stats, mask, groups, keep=None):
        return super().__call__(params, arch, x, stats, mask, 1 if groups == "balanced" else groups, keep)
