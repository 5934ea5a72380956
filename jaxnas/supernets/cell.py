"""Cell super-nets: stages of equal cells with an operation on every edge (NAS-Bench-201)."""

from jaxnas.ops import Head, Reduction, Stem
from jaxnas.space import CellLayout, SearchSpace
from jaxnas.supernets.dropout import make_dropout
from jaxnas.supernets.factors import Factors, candidates_at
from jaxnas.supernets.layer import Layer, make_layer
from jaxnas.supernets.sharing import NO_SHARING, both, share_by_node, share_kernels
from jaxnas.supernets.supernet import Supernet, assemble


def cell_supernet(space: SearchSpace, layout: CellLayout, factors: Factors) -> Supernet:
    """A super-net over `layout`; see `make_supernet`. Every cell has its own parameters."""
    factors.refuse(space, "is for cells whose wiring is searched", "channels")
    affine, policy, op_on = factors.affine, factors.policy, factors.op_on
    if layout.image_size % 2 ** (layout.num_stages - 1):
        raise ValueError(
            f"{space.name}: image_size {layout.image_size} cannot be halved {layout.num_stages - 1} times;"
            f" choose a multiple of {2 ** (layout.num_stages - 1)}."
        )
    if factors.batch_norm == "per_input" and not (op_on == "node" and affine):
        raise ValueError(
            f"{space.name}: batch_norm='per_input' needs affine normalisation and op_on='node', got affine={affine} and"
            f" op_on={op_on!r}: with an operation on every edge, each input has its own normalisation anyway."
        )
    image_shape = (layout.image_size, layout.image_size, layout.in_channels)
    layers: dict[str, Layer] = {}

    def add(name, choice, candidates, in_shape, **how) -> tuple[int, ...]:
        layers[name] = make_layer(name, choice, candidates, in_shape, stats_dtype=policy.stats, **how)
        return layers[name].out_shape

    shape = add("stem", None, {"stem": Stem(layout.width, affine=affine, policy=policy)}, image_shape)
    steps: list[list[str]] = []  # the network as a list of cells (names of their edges) and reductions (one name)
    node_of: dict[str, str] = {}  # edge -> the node that it leads to
    for stage in range(layout.num_stages):
        width = layout.width * 2**stage
        if stage:
            steps.append([f"reduction{stage}"])
            shape = add(f"reduction{stage}", None, {"reduction": Reduction(width, affine=affine, policy=policy)}, shape)
        for cell in range(layout.cells_per_stage):
            steps.append([f"stage{stage}_cell{cell}_edge{i}{j}" for i, j in layout.edges])
            for choice, name in enumerate(steps[-1]):
                candidates = candidates_at(space, choice, width, 1, factors)
                source, target = layout.edges[choice]
                add(name, choice, candidates, shape, shared_input=stage == cell == source == 0, is_edge=True)
                node_of[name] = f"stage{stage}_cell{cell}_node{target}"
    add("head", None, {"head": Head(0, layout.num_classes, affine=affine, policy=policy)}, shape)

    sharing, stored = NO_SHARING, {name: layers[name] for name in node_of}
    if op_on == "node":
        _check_nodes(space, layout)
        sharing, stored = share_by_node(node_of, per_input=factors.batch_norm == "per_input"), {}
        for name, node in node_of.items():
            stored.setdefault(node, layers[name])
    if factors.kernels != "separate":
        sharing = both(sharing, share_kernels(space.name, stored, transform=factors.kernels == "transform"))
    cells = [names for names in steps if len(names) == len(layout.edges)]
    dropout = make_dropout(cells, factors.path_dropout, factors.global_dropout, shape[-1])

    def wire(run, images):
        x = run("stem", images)
        for names in steps:
            if len(names) == 1:
                x = run(names[0], x)
                continue
            nodes = {0: x}
            for (source, target), name in zip(layout.edges, names, strict=True):
                y = run(name, nodes[source])
                nodes[target] = nodes[target] + y if target in nodes else y
            x = nodes[max(nodes)]
        return run("head", x)

    joins = tuple(target for _, target in layout.edges)
    return assemble(space, layers, wire, sharing=sharing, dropout=dropout, joins=joins)


def _check_nodes(space: SearchSpace, layout: CellLayout) -> None:
    """Raise a ValueError where the edges into a node have different candidates."""
    candidates: dict[int, tuple[str, ...]] = {}
    for (_, target), names in zip(layout.edges, space.op_names, strict=True):
        if candidates.setdefault(target, names) != names:
            raise ValueError(f"{space.name}: op_on='node' needs the same candidates on all edges into node {target}.")
