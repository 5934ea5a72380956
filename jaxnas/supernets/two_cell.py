"""Super-nets of two searched cells: normal cells, and reduction cells between the stages (DARTS).

Every possible edge of every cell is a layer; a code takes one candidate of it, "none" where the node has no such edge.
`Supernet.decode` works this out, after which the wiring is always the same. The nodes of a cell stand side by side in
its output: each is put at its own channels, and these are added.
"""

from typing import Any

import numpy as np

from jaxnas.ops import OPS, Classifier, ConvBN, FactorisedReduction, PlaceChannels, Stem
from jaxnas.space import SearchSpace
from jaxnas.spaces._darts import CELLS, NONE, OP_NAMES, TwoCellLayout, edges_of
from jaxnas.supernets.dropout import make_dropout
from jaxnas.supernets.factors import Factors, candidate
from jaxnas.supernets.layer import Layer, make_layer
from jaxnas.supernets.running import Edge, add_up
from jaxnas.supernets.supernet import Supernet, assemble, decode_by_columns

STEM_MULTIPLE = 3  # the stem has so many times the channels of a node


def two_cell_supernet(space: SearchSpace, layout: TwoCellLayout, factors: Factors) -> Supernet:
    """A super-net over `layout`; see `make_supernet`. Every cell has its own parameters."""
    factors.refuse(space, "is not for cells like these", "kernels", "op_on", "channels", "batch_norm")
    if layout.image_size % 4:
        raise ValueError(
            f"{space.name}: image_size {layout.image_size} cannot be halved twice; choose a multiple of 4."
        )
    affine, policy = factors.affine, factors.policy
    nodes = range(2, 2 + layout.num_nodes)
    edges = [(source, node) for node in nodes for source in range(node)]
    layers: dict[str, Layer] = {}

    def add(name: str, candidates: dict[str, Any], in_shape, choice: int | None = None, **options) -> tuple[int, ...]:
        layers[name] = make_layer(name, choice, candidates, in_shape, stats_dtype=policy.stats, **options)
        return layers[name].out_shape

    def add_cell(name: str, kind: int, width: int, shapes, from_stem) -> tuple[int, ...]:
        """From the shapes of its inputs to that of its output; from_stem: which of the inputs are the stem's output."""
        inputs = []
        for number, shape in enumerate(shapes):
            candidates: dict[str, Any]
            if shape[0] > shapes[1][0]:
                candidates = {"reduce": FactorisedReduction(width, affine, policy)}
            else:
                candidates = {"project": ConvBN(width, 1, relu_first=True, affine=affine, policy=policy)}
            inputs.append(add(f"{name}_input{number}", candidates, shape, shared_input=from_stem[number]))
        of_node = inputs[0]
        for place, (source, node) in enumerate(edges, start=kind * len(edges)):
            stride = 2 if CELLS[kind] == "reduction" and source < 2 else 1
            candidates = {op: candidate(OPS[op], width, stride, factors) for op in OP_NAMES}
            in_shape = inputs[source] if source < 2 else of_node
            shared = source < 2 and from_stem[source]
            of_node = add(f"{name}_edge{source}{node}", candidates, in_shape, place, shared_input=shared, is_edge=True)
        for number, node in enumerate(nodes):
            place_nodes = {"place": PlaceChannels(number * width, width, layout.num_nodes * width)}
            output = add(f"{name}_place{node}", place_nodes, of_node)
        return output

    stem = {"stem": Stem(STEM_MULTIPLE * layout.width, affine=affine, policy=policy)}
    shape = add("stem", stem, (layout.image_size, layout.image_size, layout.in_channels))
    shapes, cells = [shape, shape], list[str]()
    for stage in range(3):
        for kind in [CELLS.index("reduction")] * (stage > 0) + [CELLS.index("normal")] * layout.cells_per_stage:
            from_stem = len(cells) < 2, len(cells) < 1
            cells.append(f"cell{len(cells)}")
            shapes = [shapes[1], add_cell(cells[-1], kind, layout.width * 2**stage, shapes, from_stem)]
    add("head", {"head": Classifier(layout.num_classes, policy)}, shapes[1])

    def wire(run, images):
        before = last = run("stem", images)
        for cell in cells:
            inputs = [run(f"{cell}_input0", before), run(f"{cell}_input1", last)]
            outputs = add_up(run, [Edge(f"{cell}_edge{source}{node}", source, node) for source, node in edges], inputs)
            places = [run(f"{cell}_place{node}", output) for node, output in zip(nodes, outputs, strict=True)]
            before, last = last, sum(places[1:], places[0])
        return run("head", last)

    def columns(archs: Any) -> list[Any]:
        """Of each possible edge of both cells the operation, 0 ("none") where the code has no such edge."""
        ops, sources = (part.astype(np.int32) for part in edges_of(archs))
        here = [(kind, node - 2, source) for kind in range(len(CELLS)) for source, node in edges]
        return [
            (ops[..., kind, node, :] * (sources[..., kind, node, :] == source).astype(np.int32)).sum(axis=-1)
            for kind, node, source in here
        ]

    def encode(weights: np.ndarray) -> np.ndarray:
        """The rule of DARTS: of each node the two edges with the largest weight of an operation that isn't "none", and
        these operations, the earlier source first."""
        best = np.where(np.arange(len(OP_NAMES)) == NONE, -np.inf, weights)
        ops, code = best.argmax(axis=1), list[int]()
        for kind in range(len(CELLS)):
            for node in nodes:
                places = [kind * len(edges) + place for place, edge in enumerate(edges) if edge[1] == node]
                kept = sorted(np.argsort(-best[places].max(axis=1), kind="stable")[:2])
                code += [number for source in kept for number in (ops[places[source]], source)]
        return np.array(code, np.int32)

    groups = [[f"{cell}_edge{source}{node}" for source, node in edges] for cell in cells]
    return assemble(
        space,
        layers,
        wire,
        dropout=make_dropout(groups, factors.path_dropout, factors.global_dropout, shapes[1][-1]),
        decode=decode_by_columns(space, (len(CELLS) * len(edges), len(OP_NAMES)), columns),
        encode=encode,
        joins=tuple(kind * len(nodes) + node - 2 for kind in range(len(CELLS)) for _, node in edges),
    )
