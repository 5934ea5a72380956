"""The size search space of NATS-Bench (Dong et al., TPAMI 2021, arXiv 2009.00437): 8^5 = 32,768 networks for CIFAR-10
that differ in width alone.

Five layers, a cell, a reduction, a cell, a reduction and a cell, each choose one of eight widths, 8 to 64 channels. The
cell is that of NAS-Bench-201 with the operations `CELL`; its shortcut is the input itself where the widths before and
after agree, and a 1x1 convolution with batch normalisation elsewhere. The stem has the width of the first layer. (From
the authors' code, AutoDL-Projects: DynamicShapeTinyNet and the cell with the highest validation accuracy on CIFAR-100.)

What a layer costs depends on the width of the one before it, so that no sum over choices gives the cost of a network.
"""

from typing import NamedTuple

import numpy as np

from jaxnas.space import CHAIN_SIZES, SearchSpace, known_sizes

CELL = {(0, 1): 3, (0, 2): 3, (1, 2): 3, (0, 3): None, (1, 3): 3, (2, 3): 3}  # edge -> kernel; None: the shortcut
REDUCTIONS = (1, 3)  # the layers that halve the image


class SizeLayout(NamedTuple):
    """The fixed part of a network whose layers choose their widths."""

    widths: tuple[int, ...]  # channels that a layer may have, ascending: candidates of every choice
    image_size: int = 32
    in_channels: int = 3
    num_classes: int = 10

    @property
    def sizes(self) -> tuple[str, ...]:
        """The names of what `resized` sets."""
        return CHAIN_SIZES

    def resized(self, **sizes: int | None) -> "SizeLayout":
        """Set any of `sizes`; width scales all widths so that the largest is `width`."""
        changes = known_sizes(self, sizes)
        if width := changes.pop("width", None):
            if width < len(self.widths):
                raise ValueError(
                    f"SizeLayout: the largest of {len(self.widths)} widths must be at least {len(self.widths)},"
                    f" got width {width}."
                )
            changes["widths"] = tuple(round(each * width / self.widths[-1]) for each in self.widths)
        return self._replace(**changes)


def network_costs(space: SearchSpace, archs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """MACs and parameters of the narrow networks, float64 [num_archs] each, counted as in `jaxnas.costs`; archs int
    [num_archs, 5], codes in range."""
    layout = space.layout
    assert isinstance(layout, SizeLayout)
    widths = np.array(layout.widths, np.float64)[archs]
    macs = params = np.zeros(len(widths))

    def add(
        kernel: int,
        inputs: np.ndarray,
        outputs: np.ndarray,
        size: int,
        *,
        norm: bool = True,
        times: float | np.ndarray = 1.0,
    ) -> None:
        nonlocal macs, params
        weights = kernel**2 * inputs * outputs
        macs = macs + times * weights * size**2
        params = params + times * (weights + 2 * outputs * norm)

    size, before = layout.image_size, widths[:, 0]
    add(3, np.full(len(widths), float(layout.in_channels)), before, size)
    for layer, after in enumerate(widths.T):
        if layer in REDUCTIONS:
            size //= 2
            add(3, before, after, size)
            add(3, after, after, size)
            add(1, before, after, size, norm=False)
        else:
            for (source, _), kernel in CELL.items():
                inputs = after if source else before
                add(kernel or 1, inputs, after, size, times=1.0 if kernel else before != after)
        before = after
    params = params + 2 * before + (before + 1) * layout.num_classes
    return macs + before * layout.num_classes, params


nats_size = SearchSpace(
    "nats_size",
    (tuple(f"width{width}" for width in range(8, 72, 8)),) * 5,
    SizeLayout(widths=tuple(range(8, 72, 8))),
    costs=network_costs,
)
