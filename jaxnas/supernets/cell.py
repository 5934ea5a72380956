"""Cell super-nets: stages of equal cells with an operation on every edge (NAS-Bench-201)."""

from collections.abc import Mapping

from jaxnas.arch import CellLayout, SearchSpace
from jaxnas.ops import Head, OpFactory, Policy, Reduction, Stem
from jaxnas.supernets.layer import Layer, Supernet, make_apply, make_init, make_layer


def cell_supernet(space: SearchSpace, *, affine: bool, policy: Policy, ops: Mapping[str, OpFactory]) -> Supernet:
    """A super-net over `space.layout`, a CellLayout; see `make_supernet`. Every cell has its own parameters."""
    layout = space.layout
    assert isinstance(layout, CellLayout)
    if layout.image_size % 2 ** (layout.num_stages - 1):
        raise ValueError(
            f"{space.name}: image_size {layout.image_size} cannot be halved {layout.num_stages - 1} times;"
            f" choose a multiple of {2 ** (layout.num_stages - 1)}."
        )
    image_shape = (layout.image_size, layout.image_size, layout.in_channels)
    layers: dict[str, Layer] = {}

    def add(name, choice, modules, in_shape, shared_input=False) -> tuple[int, ...]:
        layers[name] = make_layer(name, choice, modules, in_shape, stats_dtype=policy.stats, shared_input=shared_input)
        return layers[name].out_shape

    shape = add("stem", None, {"stem": Stem(layout.width, affine=affine, policy=policy)}, image_shape)
    steps: list[list[str]] = []  # the network as a list of cells (names of their edges) and reductions (one name)
    for stage in range(layout.num_stages):
        width = layout.width * 2**stage
        if stage:
            steps.append([f"reduction{stage}"])
            shape = add(f"reduction{stage}", None, {"reduction": Reduction(width, affine=affine, policy=policy)}, shape)
        for cell in range(layout.cells_per_stage):
            steps.append([f"stage{stage}_cell{cell}_edge{i}{j}" for i, j in layout.edges])
            for choice, name in enumerate(steps[-1]):
                modules = {op: ops[op](width, 1, affine, policy) for op in space.op_names[choice]}
                first = stage == cell == 0 and layout.edges[choice][0] == 0
                add(name, choice, modules, shape, shared_input=first)
    add("head", None, {"head": Head(0, layout.num_classes, affine=affine, policy=policy)}, shape)

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

    return Supernet(space, make_init(layers), make_apply(layers, wire), None, layers, wire)
