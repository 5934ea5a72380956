"""DAG super-nets: stages of equal cells whose wiring is searched (NAS-Bench-101).

Every possible edge and every vertex of a cell is a layer. What each of them does follows from the whole code: an edge
is there or not, and how many channels a vertex has depends on how many others lead to the output. `Supernet.decode`
works this out; after it a cell is wired like any other, and every route of evaluation applies. Activations have the
full width, so that shapes are fixed, but the work is not: each width of a vertex is a candidate of its own, which
computes so many channels.
"""

import zlib
from collections.abc import Callable
from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp

from jaxnas.ops import (
    DYNAMIC_OPS,
    Channels,
    Classifier,
    DynamicConvBN,
    MaxPool,
    Place,
    Policy,
    ScaleShift,
    Skip,
    Stem,
    Zero,
)
from jaxnas.ops.normalisation import relu
from jaxnas.space import DagLayout, SearchSpace
from jaxnas.supernets.dropout import make_dropout
from jaxnas.supernets.layer import Layer, Supernet, make_apply, make_init, make_layer
from jaxnas.supernets.sharing import NO_SHARING, both, share_candidates, share_kernels
from jaxnas.supernets.wiring import Part, make_decode, output_degrees, output_slots, vertex_widths

Modules = dict[str, nn.Module]


def dag_supernet(
    space: SearchSpace,
    *,
    affine: bool,
    policy: Policy,
    kernels: str,
    channels: Channels,
    batch_norm: Literal["shared", "per_input"],
    path_dropout: float,
    global_dropout: float,
) -> Supernet:
    """A super-net over `space.layout`, a DagLayout; see `make_supernet`. Every cell has its own parameters."""
    layout = space.layout
    assert isinstance(layout, DagLayout)
    _check(space, layout, affine, channels, batch_norm, kernels)
    last, per_input = layout.num_vertices - 1, batch_norm == "per_input"
    layers: dict[str, Layer] = {}
    parts: list[Part] = []
    owners: dict[str, dict[str, str]] = {}  # layer -> candidate -> the one whose parameters it uses

    def add(name: str, part: Part | None, modules: Modules, in_shape, kind: Callable = Layer, **options):
        if part is not None and part not in parts:
            parts.append(part)
        choice = None if part is None else parts.index(part)
        layers[name] = kind(*make_layer(name, choice, modules, in_shape, stats_dtype=policy.stats, **options))
        return layers[name].out_shape

    def convolution(name: str, op: str, width: int, in_width: int | None, **options) -> tuple[Modules, dict[str, str]]:
        """One operation at every width that a vertex may have: the candidates, and whose parameters they use."""
        widths = vertex_widths(layout, width)
        names = [op, *(f"{op}_{each}" for each in widths[1:])]
        alone = channels in ("expanded", "disabled")  # of the latter there is one width
        options |= {"rule": "expanded" if alone else channels, "affine": affine, "policy": policy}
        if channels == "shuffled":
            options["seed"] = zlib.crc32(f"{name}/{op}".encode())
        built = {
            each: DYNAMIC_OPS[op](channels=width, width=own, in_width=in_width or own, **options)
            for each, own in zip(names, widths, strict=True)
        }
        return built, {} if alone else dict.fromkeys(names, op)

    def add_edge(cell: str, part: Part, cell_shape, width: int, shared_input: bool) -> None:
        name, shape = f"{cell}_edge{part.source}{part.target}", (*cell_shape[:2], width)
        modules: Modules = {"no_edge": Zero(width)}
        if part.source:
            if part.target < last:
                add(name, part, modules | {"edge": Skip()}, shape, Gate)
                return
            for (degree, rank), (offset, own) in output_slots(layout, width).items():
                modules[f"{rank + 1}of{degree}"] = Place(offset, own)
            add(name, part, modules, shape)
            return
        if part.target == last:  # always all channels
            options: dict[str, Any] = {"rule": "expanded", "affine": affine, "policy": policy}
            modules["project"] = DynamicConvBN(width, width, cell_shape[-1], 1, **options)
        else:
            built, owners[name] = convolution(name, "conv1x1-bn-relu", width, cell_shape[-1])
            modules |= built
        add(name, part, modules, cell_shape, shared_input=shared_input)

    def add_vertex(cell: str, part: Part, shape) -> None:
        name = f"{cell}_vertex{part.target}"
        modules: Modules = {"no_vertex": Zero()}
        owners[name] = {}
        for op in space.op_names[-1]:
            if op.startswith("conv"):
                built, owned = convolution(name, op, shape[-1], None, norm_only=per_input)
                modules |= built
                owners[name] |= owned
            else:
                modules[op] = DYNAMIC_OPS[op]()
        add(name, part, modules, shape, is_edge=True)
        if per_input:
            known: Modules = {"no_convolution": Skip()}
            for configuration in range(1, 2**part.target):
                sources = [str(source) for source in range(part.target) if configuration >> source & 1]
                known["inputs" + "".join(sources)] = ScaleShift(policy)
            add(f"{name}_inputs", part._replace(kind="inputs"), known, shape, ScaleShiftByInputs)

    stem: Modules = {"stem": Stem(layout.width, relu=True, affine=affine, policy=policy)}
    shape = add("stem", None, stem, (layout.image_size, layout.image_size, layout.in_channels))
    vertices: list[list[str]] = []  # of each cell
    steps: list[str] = []  # cells and what stands between their stages
    for stage in range(layout.num_stages):
        if stage:
            steps.append(f"pool{stage}")
            shape = add(steps[-1], None, {"pool": MaxPool(stride=2)}, shape)
        for number in range(layout.cells_per_stage):
            steps.append(f"stage{stage}_cell{number}")
            width = layout.width * 2**stage
            for source, target in layout.edges:
                part = Part(stage, "edge", source, target)
                add_edge(steps[-1], part, shape, width, shared_input=stage == number == 0)
            shape = (*shape[:2], width)
            vertices.append([f"{steps[-1]}_vertex{vertex}" for vertex in range(1, last)])
            for vertex in range(1, last):
                add_vertex(steps[-1], Part(stage, "vertex", vertex, vertex), shape)
    add("head", None, {"head": Classifier(layout.num_classes, policy)}, shape)

    def wire(run, images):
        x = run("stem", images)
        for name in steps:
            if name in layers:
                x = run(name, x)
                continue
            outputs = [x]
            for target in range(1, last + 1):
                inputs = [run(f"{name}_edge{source}{target}", outputs[source]) for source in range(target)]
                x = sum(inputs[1:], inputs[0])
                if target < last:
                    x = run(f"{name}_vertex{target}", x)
                    x = run(f"{name}_vertex{target}_inputs", x) if per_input else x
                outputs.append(x)
        return run("head", x)

    decode = make_decode(space, parts, max(len(layer.modules) for layer in layers.values()))
    sharing = NO_SHARING if channels in ("expanded", "disabled") else share_candidates(owners)
    if kernels != "separate":
        stored = {}
        for name in (name for names in vertices for name in names):
            own = {op: module for op, module in layers[name].modules.items() if owners[name].get(op, op) == op}
            stored[name] = layers[name]._replace(modules=own)
        sharing = both(sharing, share_kernels(space.name, stored, transform=kernels == "transform"))
    dropout = make_dropout(vertices, path_dropout, global_dropout, shape[-1])
    apply = make_apply(layers, wire, decode=decode, view=sharing.view, dropout=dropout)
    init = make_init(layers, sharing.store)
    return Supernet(space, init, apply, None, layers, wire, sharing.view, dropout, decode)


class Gate(Layer):
    """An edge between vertices: nothing or everything, which takes no dispatch."""

    def __call__(self, params, arch, x, stats, mask, groups, keep=None):
        here = arch[self.choice]
        if jnp.ndim(here) == 1:
            return super().__call__(params, arch, x, stats, mask, groups, keep)
        return jnp.where(here > 0, x, jnp.zeros_like(x)), jnp.zeros((2, self.stats_size), self.stats_dtype)


class ScaleShiftByInputs(Layer):
    """Scale and shift by what a vertex has as inputs: cheap enough to look them up, where `choose` would move whole
    activations."""

    def __call__(self, params, arch, x, stats, mask, groups, keep=None):
        here = arch[self.choice]
        if jnp.ndim(here) == 1:
            return super().__call__(params, arch, x, stats, mask, groups, keep)
        own = [params[self.name][name] for name in list(self.modules)[1:]]
        scale, bias = (jnp.stack([each[leaf] for each in own])[here - 1].astype(x.dtype) for leaf in ("scale", "bias"))
        return jnp.where(here > 0, relu(x * scale + bias), x), jnp.zeros((2, self.stats_size), self.stats_dtype)


def _check(space: SearchSpace, layout: DagLayout, affine: bool, channels: str, batch_norm: str, kernels: str) -> None:
    """Raise a ValueError for settings that don't go together."""
    halved = 2 ** (layout.num_stages - 1)
    if layout.image_size % halved:
        raise ValueError(
            f"{space.name}: image_size {layout.image_size} cannot be halved {layout.num_stages - 1} times; choose a"
            f" multiple of {halved}."
        )
    most = max(output_degrees(layout))
    if layout.width < most:
        raise ValueError(
            f"{space.name}: up to {most} vertices share the width, got {layout.width}; choose {most} or more."
        )
    if batch_norm == "per_input" and not affine:
        raise ValueError(f"{space.name}: batch_norm='per_input' is about scales and shifts; it needs affine=True.")
    if channels == "expanded" and kernels != "separate":
        raise ValueError(
            f"{space.name}: channels='expanded' has separate kernels for every width, kernels={kernels!r} shared ones;"
            " change one of them."
        )
    if channels != "disabled":
        return
    if layout.output_degree is None:
        raise ValueError(
            f"{space.name}: channels='disabled' needs cells in which equally many vertices lead to the output; take"
            " nasbench101_space(num_vertices, output_degree=...), one super-net for each value."
        )
    if layout.width % layout.output_degree:
        raise ValueError(
            f"{space.name}: channels='disabled' needs a width that {layout.output_degree} vertices share without a"
            f" remainder, got {layout.width}; choose a multiple of {layout.output_degree}."
        )
