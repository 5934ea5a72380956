"""One architecture's candidate by running all candidates of its layer, with no conditional in the program.

An accelerator runs ahead of the host but at conditionals, where the host waits to see which branch it is. Where all
candidates together are little work, it is done sooner without. Candidates that differ in the size of one kernel take
one call: a smaller kernel is the middle of the largest, zeros around it.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import chex
import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxnas.ops import Operation
from jaxnas.ops.derivative import vary_alike
from jaxnas.ops.operation import FlaxOperation

MOST_WORK = 2.0  # multiply-accumulates of all calls, over those of the dearest candidate
MOST_BYTES = 2**24  # of a layer's input; a guess: moving ten such arrays takes an H100 as long as a conditional


class Call(Protocol):
    """A candidate by its index, with parameters of its shape."""

    def __call__(self, index: int, params: Any) -> Any: ...


def are_little_work(operations: Sequence[Operation], params: Sequence[Any], x: chex.Array) -> bool:
    """Whether an accelerator runs one call of each family of candidates on x [num_images, height, width, channels]
    rather than one candidate behind a conditional; params: of each candidate. Not where costs aren't known."""
    if not isinstance(x.size, int) or x.size * x.dtype.itemsize > MOST_BYTES:  # of a symbolic size nothing is known
        return False
    macs = [cost.macs for operation in operations if (cost := operation.cost(x.shape[1:])) is not None]
    if len(macs) < len(operations):
        return False
    return sum(macs[members[-1]] for members in families(operations, params)) <= MOST_WORK * max(macs)


def families(operations: Sequence[Operation], params: Sequence[Any]) -> list[list[int]]:
    """The candidates that one call serves, by index, that of the largest kernel last."""
    found: dict[Any, list[int]] = {}
    sizes = [0] * len(operations)
    for index, (operation, tree) in enumerate(zip(operations, params, strict=True)):
        key: Any = index
        kernel = operation.shared_kernel()
        if isinstance(operation, FlaxOperation) and kernel and getattr(operation.module, "kernel", None) == kernel.size:
            others = {path: leaf.shape for path, leaf in flatten_dict(tree).items() if path != kernel.path}
            key = operation.module.clone(kernel=0), kernel.path, *sorted(others.items())
            sizes[index] = kernel.size
        found.setdefault(key, []).append(index)
    return [sorted(members, key=sizes.__getitem__) for members in found.values()]


def run_together(operations: Sequence[Operation], params: Sequence[Any], choice: chex.Array, call: Call) -> Any:
    """What `call(choice, params[choice])` returns; choice: int32 scalar that isn't known yet.

    Gradients reach the parameters of the candidate chosen alone; those of the others are zeros.
    """
    chosen: Any = None
    for members in families(operations, params):
        largest = members[-1]
        outputs = call(largest, _of_the_chosen(operations, params, choice, members))
        if chosen is None:
            chosen = outputs
            continue
        is_here = (choice == jnp.array(members)).any()
        outputs, before = vary_alike((outputs, chosen))
        chosen = jax.tree.map(lambda here, other, is_here=is_here: jnp.where(is_here, here, other), outputs, before)
    return chosen


def _of_the_chosen(
    operations: Sequence[Operation], params: Sequence[Any], choice: chex.Array, members: Sequence[int]
) -> Any:
    """Parameters in the shapes of the family's last member: those of the member chosen, if it is one of them."""
    *others, largest = members
    kernel = operations[largest].shared_kernel()
    if not others or kernel is None:
        return params[largest]
    leaves = dict(flatten_dict(params[largest]))
    for index in others:
        for path, leaf in flatten_dict(params[index]).items():
            if path == kernel.path:
                pad = (kernel.size - len(leaf)) // 2
                leaf = jnp.pad(leaf, [(pad, pad)] * 2 + [(0, 0)] * (leaf.ndim - 2))
            leaves[path] = jnp.where(choice == index, leaf, leaves[path])
    return unflatten_dict(leaves)
