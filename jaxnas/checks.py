"""What a user gives is checked where it comes in, on the host: one line of what came and what was expected.

    num_steps = whole("num_steps", num_steps, 1)
    momentum = number("momentum", momentum, 0, below=1)
    sampler = choice("sampler", sampler, SAMPLERS)
    labels = array("labels", labels, (num_images,), "integer", least=0, most=num_classes - 1)

Each returns what it was given, or raises a ValueError. A config says the same once, beside the field, as in
`num_steps: Annotated[int, Whole(1)]`: `--help` shows it and `jaxnas.runs.check` asks it before data are read.
"""

import math
import numbers
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Literal, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

MOST = 2**31 - 1  # devices count in int32


class Kind(Protocol):
    """What a value has to be; `str` of it says so in a few words."""

    def check(self, name: str, value: Any) -> Any: ...


class Whole(NamedTuple):
    """A whole number from `least` to `most`."""

    least: int = 0
    most: int = MOST

    def __str__(self) -> str:
        if self.least == -MOST:
            return "whole" if self.most == MOST else f"at most {self.most}"
        return f"at least {self.least}" if self.most == MOST else f"{self.least} to {self.most}"

    def check(self, name: str, value: Any) -> int:
        value = _without_axis(value)
        if isinstance(value, bool | np.bool_) or not isinstance(value, numbers.Integral):
            raise ValueError(f"{name} is {shown(value)}, expected a whole number, {self}.")
        if not self.least <= int(value) <= self.most:
            raise ValueError(f"{name} is {shown(value)}, expected {self.least} to {self.most}.")
        return int(value)


class Number(NamedTuple):
    """A finite number with `least <= value <= most` and `above < value < below`."""

    least: float = -math.inf
    most: float = math.inf
    above: float = -math.inf
    below: float = math.inf

    def __str__(self) -> str:
        ends = {"at least": self.least, "above": self.above, "at most": self.most, "below": self.below}
        return " and ".join(f"{word} {end:g}" for word, end in ends.items() if math.isfinite(end)) or "finite"

    def check(self, name: str, value: Any) -> float:
        value = _without_axis(value)
        real = isinstance(value, numbers.Real) and not isinstance(value, bool | np.bool_)
        if not real or not (self.least <= value <= self.most and self.above < value < self.below):
            raise ValueError(f"{name} is {shown(value)}, expected a number, {self}.")
        if not math.isfinite(value):  # within limits that are infinite
            raise ValueError(f"{name} is {shown(value)}, expected a finite number.")
        return float(value)


class OneOf:
    """One of `names`: what a registry holds, or a literal's words."""

    def __init__(self, names: Iterable[Any]) -> None:
        self.names = tuple(names)

    def __str__(self) -> str:
        return ", ".join(map(str, self.names))

    def check(self, name: str, value: Any) -> Any:
        if not any(type(value) is type(known) and value == known for known in self.names):
            raise ValueError(f"{name} is {shown(value)}, expected one of {self}.")
        return value


class Text(NamedTuple):
    """A text that is not empty; `what` says of what."""

    what: str = "a text"

    def __str__(self) -> str:
        return self.what

    def check(self, name: str, value: Any) -> str:
        if not isinstance(value, str) or not value.strip() or "\0" in value:
            raise ValueError(f"{name} is {shown(value)}, expected {self.what}.")
        return value


# What fields of configs often are.
Count = Annotated[int, Whole(1)]
Pair = Annotated[int, Whole(2)]  # two at least
Seed = Annotated[int, Whole(0)]
Seeds = Annotated[int, Whole(1, 1000)]
Width = Annotated[int, Whole(1, 4096)]  # channels of the stem
Pixels = Annotated[int, Whole(1, 2048)]
Cells = Annotated[int, Whole(1, 100)]  # of a stage
Crop = Annotated[int, Whole(0, 256)]  # pixels
Bytes = Annotated[int, Whole(1, 2**50)]
Share = Annotated[float, Number(0, below=1)]
Positive = Annotated[float, Number(above=0)]
NotNegative = Annotated[float, Number(0)]


def whole(name: str, value: Any, least: int = 0, most: int = MOST) -> int:
    """`value`, a whole number from `least` to `most`; truth values are none."""
    return Whole(least, most).check(name, value)


def number(
    name: str,
    value: Any,
    least: float = -math.inf,
    most: float = math.inf,
    *,
    above: float = -math.inf,
    below: float = math.inf,
) -> float:
    """`value`, a finite number with `least <= value <= most` and `above < value < below`."""
    return Number(least, most, above, below).check(name, value)


def choice(name: str, value: Any, names: Iterable[Any]) -> Any:
    """`value`, one of `names`."""
    return OneOf(names).check(name, value)


DTYPES = {"integer": jnp.integer, "floating": jnp.floating, "number": jnp.number, "bool": jnp.bool_, "uint8": jnp.uint8}


def array(
    name: str,
    value: Any,
    shape: Sequence[int | None],
    dtype: Literal["integer", "floating", "number", "bool", "uint8"] = "number",
    *,
    least: float = -math.inf,
    most: float = math.inf,
    finite: bool = True,
) -> np.ndarray:
    """`value` as an array on the host: of `shape`, None for a length that is free, and of that kind of dtype; with
    entries from `least` to `most`, none of them NaN or infinite unless `finite` is False."""
    found = rectangular(name, value)
    if len(shape) != found.ndim or any(length not in (None, got) for length, got in zip(shape, found.shape)):
        wanted = ", ".join("any" if length is None else str(length) for length in shape)
        raise ValueError(f"{name}: shape {found.shape}, expected ({wanted}).")
    if not jnp.issubdtype(found.dtype, DTYPES[dtype]) or jnp.issubdtype(found.dtype, jnp.complexfloating):
        raise ValueError(f"{name}: dtype {found.dtype}, expected {dtype}.")
    wrong = ~np.isfinite(found) if finite else np.zeros(found.shape, bool)
    limited = (least, most) != (-math.inf, math.inf)
    if limited and not wrong.any():
        wrong = (found < least) | (found > most)
    if wrong.any():
        where = tuple(map(int, np.argwhere(wrong)[0]))
        wanted = str(Number(least, most)) if limited else "finite numbers"
        raise ValueError(f"{name}: {found[where]} at index {where}, expected {wanted}.")
    return found


def rectangular(name: str, value: Any) -> np.ndarray:
    """`value` as an array on the host, of any shape and type."""
    try:
        return np.asarray(value)
    except (ValueError, TypeError):  # rows of unequal length; no array at all
        raise ValueError(f"{name}: {shown(value)} is no rectangular array.") from None


def _without_axis(value: Any) -> Any:
    """An array without an axis, as JAX's reductions give them, as the number that it is."""
    return np.asarray(value)[()] if isinstance(value, jax.Array | np.ndarray) and value.ndim == 0 else value


def shown(value: Any) -> str:
    """`value` on one line, no longer than a line can bear."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else f"{text[:57]}..."
