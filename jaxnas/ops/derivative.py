"""Derivatives written by hand as a backward pass, for every mode of JAX."""

import functools
from collections.abc import Callable
from typing import Any

import jax


def derivative_by(backward: Callable[..., Any], *, num_linear: int, static: tuple[int, ...] = ()) -> Callable[..., Any]:
    """Decorate `forward(*args) -> (outputs, kept)`: a function args -> outputs, whose derivative is written by hand.

    `jax.custom_vjp` would keep forward mode out, and with it Hessians by vectors. Here the forward derivative is the
    transpose of the backward pass, which JAX works out; of a gradient it is transposed once more, which gives the
    backward pass as it was written. Only `kept` is remembered until then, nothing that is made of it.

    Args:
      backward: (*static arguments, kept, cotangents of the outputs) -> tuple of those of the first `num_linear`
        arguments that are not static; linear in the cotangents.
      num_linear: the others, such as masks, have no derivative.
      static: positions of arguments that are plain Python values.
    """

    def decorate(forward: Callable[..., Any]) -> Callable[..., Any]:
        @functools.partial(jax.custom_jvp, nondiff_argnums=static)
        @functools.wraps(forward)
        def function(*args):
            return forward(*args)[0]

        @function.defjvp
        def rule(*args):
            *fixed, primals, tangents = args
            ordered = list(primals)
            for position, value in zip(static, fixed, strict=True):
                ordered.insert(position, value)
            outputs, kept = forward(*ordered)

            def push(kept, tangents):
                pull = jax.linear_transpose(lambda outputs: backward(*fixed, kept, outputs), outputs)
                return pull(tangents)[0]

            return outputs, jax.checkpoint(push, prevent_cse=False)(kept, tuple(tangents[:num_linear]))

        return function

    return decorate
