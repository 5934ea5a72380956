"""Two forms of one computation, of which the device that a program is compiled for takes its own."""

import contextlib
import contextvars
from collections.abc import Callable, Iterator
from typing import Any

import jax

from jaxnas.ops.derivative import vary_alike

_portable = contextvars.ContextVar("portable", default=False)


@contextlib.contextmanager
def portable() -> Iterator[None]:
    """What is traced inside takes the form of other devices than CPUs and holds no choice, for readers of programs that
    know none."""
    token = _portable.set(True)
    try:
        yield
    finally:
        _portable.reset(token)


def by_platform(*operands: Any, cpu: Callable[..., Any], others: Callable[..., Any]) -> Any:
    """`cpu(*operands)` in a program that is compiled for CPUs, `others(*operands)` in one for any other device,
    whichever machine compiles it; both return arrays of the same shapes."""
    operands = tuple(vary_alike(list(operands)))
    if _portable.get():
        return others(*operands)
    cpu_form, other_form = (_varying(form) for form in (cpu, others))
    return jax.lax.platform_dependent(*operands, cpu=cpu_form, default=other_form)


def _varying(form: Callable[..., Any]) -> Callable[..., Any]:
    """The form, whose results vary over the same axes of a mesh as its operands, as those of the other do."""
    return lambda *operands: vary_alike((form(*operands), operands))[0]
