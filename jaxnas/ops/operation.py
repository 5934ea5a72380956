"""What a candidate operation is: two pure functions, and what it says of itself.

A candidate is given as a Flax Linen module, as a plain pair (init, apply), as an `NNXOperation`, or as an object of a
class derived from `Operation`; `as_operation` makes the last of them all. What an operation says of itself is optional,
"nothing known" by default. A module says it by methods of its class with the same names. The how-to page shows each.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import chex
import flax.linen as nn

from jaxnas.ops.normalisation import Tape

Algebra = Literal["zero", "same", "linear", "vanishing", "any"]
OpParams = Mapping[str, Any]  # dicts by name, nested or not, of arrays
InitFn = Callable[[chex.PRNGKey, chex.Array, Tape], OpParams]
ApplyFn = Callable[[OpParams, chex.Array, Tape], chex.Array]


class Kernel(NamedTuple):
    """The convolution of an operation whose kernel can serve operations of other sizes."""

    kind: Literal["dense", "depthwise"]
    size: int  # pixels
    path: tuple[str, ...]  # of the leaf among the operation's parameters


class Cost(NamedTuple):
    """Of one operation, counted as `jaxnas.costs` says."""

    macs: float  # multiply-accumulates for one image
    params: float  # number of scalars


@runtime_checkable
class Operation(Protocol):
    """A candidate. It must be hashable, and equal operations must be one function: compiled programs, shapes and costs
    are kept by operation.

    Leaves called `kernel`, `scale` and `bias` are initialised
    by the rule of `jaxnas.supernets.supernet.make_init` where an operation has no others.
    """

    def init(self, key: chex.PRNGKey, x: chex.Array, tape: Tape) -> OpParams:
        """Parameters for inputs like x [num_images, height, width, channels]."""
        ...

    def apply(self, params: OpParams, x: chex.Array, tape: Tape) -> chex.Array:
        """What is made of x; `tape` normalises (`tape.normalise`) and drops (`tape.drop`)."""
        ...

    def init_with_output(self, key: chex.PRNGKey, x: chex.Array, tape: Tape) -> tuple[chex.Array, OpParams]:
        """What `apply` makes of x by the parameters of `init`, and these."""
        params = self.init(key, x, Tape(None, None))
        return self.apply(params, x, tape), params

    def __hash__(self) -> int:
        return object.__hash__(self)

    def algebra(self, in_channels: int) -> Algebra:
        """What holds of it exactly, whatever its input, so that work can be shared.

        "zero": returns zeros. "same": returns its input. "linear": linear and without parameters, so that equal
        operations are one function wherever they stand. "vanishing": zeros in, zeros out, where normalisation takes its
        statistics from the images. "any": nothing is known.
        """
        return "any"

    def cost(self, in_shape: tuple[int, ...]) -> Cost | None:
        """For inputs of in_shape [height, width, channels]; None: not known."""
        return None

    def shared_kernel(self) -> Kernel | None:
        """The kernel that it may share with its like; None: it has none."""
        return None

    def has_shortcut(self, in_channels: int) -> bool:
        """Whether it adds its input to what it makes of it, and drops the latter by `tape.drop` (path dropout)."""
        return False


class ModuleOperation(Operation):
    """A module that is called with (x, tape), whose class has the methods that say something."""

    def outline(self, in_channels: int) -> Any:
        """The module, of which no parameter is asked."""
        raise NotImplementedError

    def algebra(self, in_channels: int) -> Algebra:
        return self._said("algebra", in_channels, super().algebra)(in_channels)

    def cost(self, in_shape: tuple[int, ...]) -> Cost | None:
        return self._said("cost", in_shape[-1], super().cost)(in_shape)

    def has_shortcut(self, in_channels: int) -> bool:
        return self._said("has_shortcut", in_channels, super().has_shortcut)(in_channels)

    def _said(self, name: str, in_channels: int, default: Callable[..., Any]) -> Callable[..., Any]:
        module = self.outline(in_channels)
        return getattr(module, name) if callable(getattr(type(module), name, None)) else default


@dataclasses.dataclass(frozen=True)
class FlaxOperation(ModuleOperation):
    """A Flax Linen module; what it has beside parameters can't be kept."""

    module: nn.Module

    def outline(self, in_channels: int) -> nn.Module:
        return self.module

    def init(self, key: chex.PRNGKey, x: chex.Array, tape: Tape) -> OpParams:
        return self.init_with_output(key, x, tape)[1]

    def init_with_output(self, key: chex.PRNGKey, x: chex.Array, tape: Tape) -> tuple[chex.Array, OpParams]:
        y, variables = self.module.init_with_output(key, x, tape)
        if others := set(variables) - {"params"}:
            raise keeps(self.module, others)
        return y, variables.get("params", {})

    def apply(self, params: OpParams, x: chex.Array, tape: Tape) -> chex.Array:
        return self.module.apply({"params": params}, x, tape)

    def shared_kernel(self) -> Kernel | None:
        return self._said("shared_kernel", 0, super().shared_kernel)()


def keeps(module: Any, kinds: Iterable[str]) -> ValueError:
    """The error that says what a module keeps beside parameters."""
    return ValueError(
        f"{type(module).__name__} keeps {', '.join(sorted(kinds))}, but an operation has parameters alone; let"
        " tape.normalise and tape.drop do batch normalisation and dropout."
    )


@dataclasses.dataclass(frozen=True)
class PlainOperation(Operation):
    """Two functions of which nothing else is known."""

    init_fn: InitFn
    apply_fn: ApplyFn

    def init(self, key: chex.PRNGKey, x: chex.Array, tape: Tape) -> OpParams:
        return self.init_fn(key, x, tape)

    def apply(self, params: OpParams, x: chex.Array, tape: Tape) -> chex.Array:
        return self.apply_fn(params, x, tape)


def as_operation(candidate: Any) -> Operation:
    """The operation that a candidate is.

    Raises:
      ValueError: something else than the docstring of this file names, or an operation that is not hashable.
    """
    if isinstance(candidate, nn.Module):
        candidate = FlaxOperation(candidate)
    elif isinstance(candidate, tuple) and len(candidate) == 2 and all(map(callable, candidate)):
        candidate = PlainOperation(*candidate)
    if not isinstance(candidate, Operation):
        raise ValueError(
            f"{candidate!r} is no operation; give a Flax module, a pair (init, apply), an NNXOperation or an object of"
            " a class derived from jaxnas.ops.Operation."
        )
    try:
        hash(candidate)
    except TypeError:
        name = type(getattr(candidate, "module", candidate)).__name__
        raise ValueError(f"an operation {name} is not hashable; give it tuples for lists and arrays.") from None
    return candidate


class Convolution(NamedTuple):
    """One that pads and has no bias, for `conv_cost`."""

    channels: int | None  # that it returns; None: depthwise, as many as it gets
    kernel: int  # pixels
    stride: int = 1
    norm: bool = True  # affine batch normalisation follows


def conv_cost(in_shape: tuple[int, ...], *convolutions: Convolution) -> Cost:
    """Of convolutions one after the other, the first on in_shape [height, width, channels]."""
    height, width, in_channels = in_shape
    macs = params = 0
    for channels, kernel, stride, norm in convolutions:
        height, width = -(-height // stride), -(-width // stride)
        weights = kernel**2 * in_channels * (channels or 1)
        in_channels = channels or in_channels
        macs, params = macs + weights * height * width, params + weights + 2 * in_channels * norm
    return Cost(float(macs), float(params))


class Free(nn.Module):
    """A module that counts nothing."""

    def cost(self, in_shape: tuple[int, ...]) -> Cost:
        return Cost(0.0, 0.0)
