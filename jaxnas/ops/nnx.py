"""A Flax NNX module as a candidate operation: split into a pure function and its parameters.

NNX is imported where such a module is made: it takes a quarter of the time that `import jaxnas` would take with it.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING

import chex
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxnas.ops.normalisation import Tape
from jaxnas.ops.operation import ModuleOperation, OpParams, keeps

if TYPE_CHECKING:
    from flax import nnx


@dataclasses.dataclass(frozen=True)
class NNXOperation(ModuleOperation):
    """The module that `build(in_channels, *args, rngs=rngs)` makes, called with (x, tape).

    It keeps parameters (`nnx.Param`) alone: `tape` does batch normalisation and dropout. Equal `build` and `args` are
    one operation, so give the class of the module itself as `build`, and what its constructor takes as `args`. Its
    methods `algebra`, `cost` and `has_shortcut` say what is known of it.
    """

    build: Callable[..., nnx.Module]
    args: tuple[Hashable, ...] = ()

    def init(self, key: chex.PRNGKey, x: chex.Array, tape: Tape) -> OpParams:
        from flax import nnx

        module = self.build(x.shape[-1], *self.args, rngs=nnx.Rngs(key))
        leaves = nnx.to_flat_state(nnx.split(module)[1])
        if kinds := {type(leaf).__name__ for _, leaf in leaves if not isinstance(leaf, nnx.Param)}:
            raise keeps(module, kinds)
        return unflatten_dict({tuple(map(str, path)): leaf.get_value() for path, leaf in leaves})

    def apply(self, params: OpParams, x: chex.Array, tape: Tape) -> chex.Array:
        from flax import nnx

        graph, state = nnx.split(self.outline(x.shape[-1]))
        leaves = flatten_dict(params)
        given = [(path, leaf.replace(leaves[tuple(map(str, path))])) for path, leaf in nnx.to_flat_state(state)]
        return nnx.merge(graph, nnx.from_flat_state(given))(x, tape)

    def outline(self, in_channels: int) -> nnx.Module:
        return _outline(self, in_channels)


@functools.cache
def _outline(operation: NNXOperation, in_channels: int) -> nnx.Module:
    """The module with shapes in place of parameters."""
    from flax import nnx

    return nnx.eval_shape(lambda: operation.build(in_channels, *operation.args, rngs=nnx.Rngs(0)))
