"""One sub-network as a Flax module of its own, without the candidates that it doesn't take."""

from collections.abc import Mapping
from typing import Any, ClassVar

import chex
import flax.linen as nn

from jaxnas.ops import Operation, Tape
from jaxnas.ops.operation import FlaxOperation
from jaxnas.supernets.layer import Params, Stats
from jaxnas.supernets.supernet import Supernet, Wire


class Network(nn.Module):
    """The layers of one architecture: images [num_images, height, width, channels], standardised -> logits float32
    [num_images, num_classes].

    Variables, by layer: the collection "params", and optionally "batch_stats", float [2, size] with rows mean and
    variance, by which it normalises; without them it normalises by the images of the call, those under `mask` if one is
    given. `init` makes parameters alone.
    """

    layers: Mapping[str, nn.Module]
    wire: Wire  # of the super-net
    stats_dtype: str = "float32"

    preserve_adopted_names: ClassVar[bool] = True  # parameters are filed under the layers' own names

    @nn.compact
    def __call__(self, images: chex.Array, mask: chex.Array | None = None) -> chex.Array:
        def run(name: str, x: chex.Array) -> chex.Array:
            stats = self.get_variable("batch_stats", name) if self.has_variable("batch_stats", name) else None
            return self.layers[name](x, Tape(stats, mask, self.stats_dtype))

        return self.wire(run, images)


class OperationModule(nn.Module):
    """An operation as a Flax module with parameters of its own."""

    operation: Operation

    @nn.compact
    def __call__(self, x: chex.Array, tape: Tape) -> chex.Array:
        if self.is_initializing():
            for leaf, value in self.operation.init(self.make_rng("params"), x, Tape(None, None)).items():
                self.param(leaf, lambda _, value=value: value)
        return self.operation.apply(self.variables.get("params", {}), x, tape)


def make_network(supernet: Supernet, arch: chex.ArrayNumpy) -> Network:
    """The network of `arch`, int [num_choices], codes in range: what `supernet.apply` computes for it."""
    layers: dict[str, nn.Module] = {}
    for name, op in supernet.taken_by(arch).items():
        operation = supernet.layers[name].candidates[op]
        module = operation.module if isinstance(operation, FlaxOperation) else OperationModule(operation)
        layers[name] = module.clone(name=name)
    (stats_dtype,) = {layer.stats_dtype for layer in supernet.layers.values()}
    return Network(layers, supernet.wire, stats_dtype)


def network_variables(
    supernet: Supernet, params: Params, arch: chex.ArrayNumpy, stats: Stats | None = None
) -> dict[str, dict[str, Any]]:
    """The variables of `make_network(supernet, arch)`, taken out of the super-net's.

    Args:
      params: of each candidate, as `Supernet.view` gives them, or those of this architecture alone
        (`jaxnas.supernets.only`).
      stats: layer -> [2, size], what `supernet.apply` returned for this architecture; None: normalise by the images.
    """
    trees = {name: params[name][op] for name, op in supernet.taken_by(arch).items()}
    variables = {"params": {name: tree for name, tree in trees.items() if tree}}
    return variables if stats is None else variables | {"batch_stats": dict(stats)}
