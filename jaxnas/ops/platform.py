"""Two forms of one computation, of which the device that a program is compiled for takes its own."""

from collections.abc import Callable
from typing import Any

import jax

from jaxnas.ops.derivative import vary_alike


def by_platform(*operands: Any, cpu: Callable[..., Any], others: Callable[..., Any]) -> Any:
    """`cpu(*operands)` in a program that is compiled for CPUs, `others(*operands)` in one for any other device,
    whichever machine compiles it; both return arrays of the same shapes."""
    operands = tuple(vary_alike(list(operands)))
    return jax.lax.platform_dependent(*operands, cpu=cpu, default=others)
