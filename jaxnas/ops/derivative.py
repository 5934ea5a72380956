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
        def function(*args: Any) -> Any:
            return forward(*args)[0]

        @functools.wraps(forward)
        def of_arrays(*args: Any) -> Any:
            arrays = vary_alike([None if place in static else value for place, value in enumerate(args)])
            return function(*(value if place in static else arrays[place] for place, value in enumerate(args)))

        @function.defjvp
        def rule(*args: Any) -> Any:
            *fixed, primals, tangents = args
            ordered = list(primals)
            for position, value in zip(static, fixed, strict=True):
                ordered.insert(position, value)
            outputs, kept = forward(*ordered)

            def push(kept: Any, tangents: Any) -> Any:
                pull = jax.linear_transpose(lambda outputs: backward(*fixed, kept, outputs), outputs)
                return pull(tangents)[0]

            return outputs, jax.checkpoint(push, prevent_cse=False)(kept, tuple(tangents[:num_linear]))

        return of_arrays

    return decorate


def vary_alike(arrays: Any) -> Any:
    """The arrays of a tree, each marked as varying over all axes of the mesh that one of them varies over: inside
    `jax.shard_map` branches, carries and cotangents must agree in that. Elsewhere the tree itself."""
    leaves, treedef = jax.tree.flatten(arrays)
    axes = [axes_of(leaf) for leaf in leaves]
    everywhere = frozenset().union(*axes)
    if not everywhere:
        return arrays
    varied = [_vary(leaf, tuple(everywhere - here)) for leaf, here in zip(leaves, axes, strict=True)]
    return jax.tree.unflatten(treedef, varied)


def axes_of(array: Any) -> frozenset[Any]:
    """The axes of the mesh that an array varies over, inside `jax.shard_map`; elsewhere none."""
    kind = jax.typeof(array)
    if hasattr(kind, "manual_axis_type"):
        return kind.manual_axis_type.varying
    return getattr(kind, "vma", frozenset())  # before JAX 0.10


def _vary(array: Any, axes: tuple[Any, ...]) -> Any:
    if not axes:
        return array
    if hasattr(jax.lax, "pcast"):
        return jax.lax.pcast(array, axes, to="varying")
    return getattr(jax.lax, "pvary")(array, axes)  # noqa: B009 (JAX 0.7 and 0.8, which have no pcast)
