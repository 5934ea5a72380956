"""The settings of a super-net, factors of "How to Train Your Super-Net" among them."""

from typing import Any, Literal, NamedTuple, get_args

from jaxnas.checks import choice, whole
from jaxnas.ops import OPS, Channels, OpFactory, PartialChannels, Policy, as_operation, check_names
from jaxnas.space import SearchSpace

Kernels = Literal["separate", "centre", "transform"]
OpOn = Literal["edge", "node"]
BatchNorm = Literal["shared", "per_input"]


class Factors(NamedTuple):
    """The settings of `make_supernet`, which says what they mean."""

    affine: bool = True
    policy: Policy = Policy()
    kernels: Kernels = "separate"
    op_on: OpOn = "edge"
    channels: Channels = "fixed"
    batch_norm: BatchNorm = "shared"
    path_dropout: float = 0.0
    global_dropout: float = 0.0
    partial_channels: int = 1

    def check(self) -> None:
        """Raise a ValueError where a setting has a value that none knows."""
        for name, known in (("kernels", Kernels), ("op_on", OpOn), ("channels", Channels), ("batch_norm", BatchNorm)):
            choice(name, getattr(self, name), get_args(known))
        choice("affine", self.affine, (False, True))
        whole("partial_channels", self.partial_channels, 1)

    def refuse(self, space: SearchSpace, reason: str, *names: str) -> None:
        """Raise a ValueError where one of these settings, for which the space has no place, isn't the default."""
        defaults: dict[str, Any] = Factors._field_defaults
        for name in names:
            if getattr(self, name) != defaults[name]:
                raise ValueError(f"{space.name}: {name}={getattr(self, name)!r} {reason}; leave it {defaults[name]!r}.")


def candidates_at(space: SearchSpace, choice: int, width: int, stride: int, factors: Factors) -> dict[str, Any]:
    """The candidates of a choice by name, for so many output channels; from `jaxnas.ops.OPS` and the space's own."""
    ops = {**OPS, **space.operations}
    check_names(space.name, space.op_names[choice], space.operations)
    return {name: candidate(ops[name], width, stride, factors) for name in space.op_names[choice]}


def candidate(factory: OpFactory, width: int, stride: int, factors: Factors) -> Any:
    """A candidate for so many output channels, or for a part of them within `PartialChannels`."""
    parts = factors.partial_channels
    if parts == 1:
        return factory(width, stride, factors.affine, factors.policy)
    if width % parts:
        raise ValueError(f"partial_channels: {width} channels don't divide into {parts} parts; choose another width.")
    inside = factory(width // parts, stride, factors.affine, factors.policy)
    return PartialChannels(as_operation(inside), parts, stride)
