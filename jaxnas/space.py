"""Search spaces: what there is to choose, and the fixed network around the choices."""

import dataclasses
import hashlib
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np

from jaxnas.checks import whole

CHAIN_SIZES = ("width", "image_size", "in_channels", "num_classes")
CELL_SIZES = ("width", "cells_per_stage", "image_size", "in_channels", "num_classes")


class Layout(Protocol):
    """The fixed part of a network, an immutable tuple; `jaxnas.supernets.BUILDERS` has a super-net for each kind."""

    @property
    def image_size(self) -> int: ...  # pixels, height and width; 0: it reads text

    @property
    def in_channels(self) -> int: ...

    @property
    def num_classes(self) -> int: ...

    @property
    def sizes(self) -> tuple[str, ...]: ...  # the names of what `resized` sets

    def resized(self, **sizes: int | None) -> Any: ...  # a layout of the same kind; None: as it is

    def _asdict(self) -> dict[str, Any]: ...


class ChainLayout(NamedTuple):
    """The fixed part of a chain: stem, one searched layer per choice, head. Widths are output channels."""

    stem_width: int
    widths: tuple[int, ...]  # [num_choices]
    strides: tuple[int, ...]  # [num_choices]
    head_width: int  # channels of the 1x1 convolution before pooling; 0 for none
    image_size: int = 32  # pixels, height and width
    in_channels: int = 3
    num_classes: int = 10
    stem_stride: int = 1

    @property
    def sizes(self) -> tuple[str, ...]:
        """The names of what `resized` sets."""
        return CHAIN_SIZES

    def resized(self, **sizes: int | None) -> "ChainLayout":
        """Set any of `sizes`; width scales every width by `width / stem_width`, head included."""
        changes = known_sizes(self, sizes)
        if width := changes.pop("width", None):

            def scale(channels: int) -> int:
                return max(1, round(channels * width / self.stem_width)) if channels else 0

            changes |= {
                "stem_width": width,
                "widths": tuple(map(scale, self.widths)),
                "head_width": scale(self.head_width),
            }
        return self._replace(**changes)


class CellLayout(NamedTuple):
    """The fixed part of a NAS-Bench-201-like network: stages of equal cells, width doubled between stages."""

    width: int  # channels of the first stage
    cells_per_stage: int
    edges: tuple[tuple[int, int], ...]  # (from node, to node) of each choice; node 0 is the input, the last the output
    num_stages: int = 3
    image_size: int = 32
    in_channels: int = 3
    num_classes: int = 10

    @property
    def sizes(self) -> tuple[str, ...]:
        """The names of what `resized` sets."""
        return CELL_SIZES

    def resized(self, **sizes: int | None) -> "CellLayout":
        """Set any of `sizes`."""
        return self._replace(**known_sizes(self, sizes))


class DagLayout(NamedTuple):
    """The fixed part of a NAS-Bench-101-like network: stages of equal cells whose wiring is part of the code.

    The first choices are bits, one per possible edge; the rest are the operations of the vertices between the cell's
    input (vertex 0) and output (the last).
    """

    width: int  # channels of the stem and of the first stage's cells
    cells_per_stage: int
    edges: tuple[tuple[int, int], ...]  # (from vertex, to vertex) of each bit
    num_stages: int = 3
    image_size: int = 32
    in_channels: int = 3
    num_classes: int = 10
    output_degree: int | None = None  # how many vertices between lead straight to the output, if all cells agree

    @property
    def num_vertices(self) -> int:
        return max(target for _, target in self.edges) + 1

    @property
    def sizes(self) -> tuple[str, ...]:
        """The names of what `resized` sets."""
        return CELL_SIZES

    def resized(self, **sizes: int | None) -> "DagLayout":
        """Set any of `sizes`."""
        return self._replace(**known_sizes(self, sizes))


def known_sizes(layout: Layout, sizes: Mapping[str, int | None]) -> dict[str, Any]:
    for name, size in sizes.items():
        if name not in layout.sizes and size is not None:
            raise ValueError(f"{type(layout).__name__} has no size {name!r}; it has {', '.join(layout.sizes)}.")
    most = {"width": 4096, "image_size": 2048, "cells_per_stage": 100}
    return {
        name: whole(f"{type(layout).__name__}: {name}", size, 1, most.get(name, 2**20))
        for name, size in sizes.items()
        if size is not None
    }


def _same_codes(archs: np.ndarray) -> np.ndarray:
    return archs


def _all_valid(archs: np.ndarray) -> np.ndarray:
    return np.ones(len(archs), bool)


@dataclasses.dataclass(frozen=True)
class SearchSpace:
    """A named set of architecture codes and the fixed network around them.

    Attributes:
      name: how commands and tables call it.
      op_names: the candidate operations of each choice, in code order; `op_names[i][archs[n, i]]`.
      layout: what super-nets and cost tables build from.
      is_valid: archs -> bool [num_archs], for spaces where not every combination exists; of such a space it takes
        JAX's arrays too, so that samplers can ask it while they are traced.
      isomorphs: archs -> archs, each code replaced by a representative that is the SAME STAND-ALONE network.
      operations: candidates of its own beside those of `jaxnas.ops.OPS`: name -> (channels, stride, affine, policy) ->
        what `jaxnas.ops.as_operation` takes.
      costs: (space, archs) -> (macs, params), [num_archs] each, where what networks cost is not the sum of what their
        operations do; None: `jaxnas.costs` sums.
    """

    name: str
    op_names: tuple[tuple[str, ...], ...]
    layout: Layout
    is_valid: Callable[[np.ndarray], np.ndarray] = _all_valid
    isomorphs: Callable[[np.ndarray], np.ndarray] = _same_codes
    operations: Mapping[str, "OpFactory"] = dataclasses.field(default_factory=dict, hash=False)
    costs: "CostsFn | None" = None

    @property
    def num_choices(self) -> int:
        return len(self.op_names)

    @property
    def num_ops(self) -> tuple[int, ...]:
        """Number of candidate operations of each choice."""
        return tuple(len(names) for names in self.op_names)

    @property
    def size(self) -> int:
        """Number of codes, valid or not."""
        return math.prod(self.num_ops)

    @property
    def has_all_codes(self) -> bool:
        """Whether every combination exists, so that none needs checking."""
        return self.is_valid is _all_valid

    @property
    def is_text(self) -> bool:
        """Whether its networks read rows of words and say after each which comes next; else they classify images."""
        return not self.layout.image_size

    @property
    def fingerprint(self) -> str:
        """16 hex digits over name and operations: files of codes carry it, so that spaces are never mixed up."""
        return hashlib.sha256(repr((self.name, self.op_names)).encode()).hexdigest()[:16]

    @property
    def sizes(self) -> tuple[str, ...]:
        """The names of the sizes that `resized` sets; not every layout has all."""
        return self.layout.sizes

    def resized(self, **sizes: int | None) -> "SearchSpace":
        """The same codes on another network, as in `space.resized(image_size=16, in_channels=3, num_classes=3)`.

        Args:
          sizes: any of `sizes`, which every layout of images has but for cells_per_stage: width, channels of the stem
            (of a chain all others scale with it, of cells they follow from it); image_size, pixels; in_channels of the
            images; num_classes; cells_per_stage. None: as it is.

        Raises:
          ValueError: a size that the layout lacks, or one that is no whole number from 1.
        """
        return dataclasses.replace(self, layout=self.layout.resized(**sizes))


OpFactory = Callable[[int, int, bool, Any], Any]  # as `jaxnas.ops.OpFactory`
CostsFn = Callable[[SearchSpace, np.ndarray], tuple[np.ndarray, np.ndarray]]
