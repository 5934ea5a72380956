"""NAS-Bench-101's super-net without a conditional: one small program that takes the code as data.

In `dag_supernet` each width of a vertex is a candidate of a switch, which does no more work than needed and takes
minutes to compile. Here every layer computes its operations once, at full width, and keeps the channels that the code
leaves it: the same parameters, codes and results. Its case are small networks, where compiling and the calls of
conditionals cost more than products do; at the published size switches do several times less work.
"""

from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

from jaxnas.ops import DynamicConvBN, MaxPool, PlaceChannels, Tape
from jaxnas.ops.convolution import convolve, project
from jaxnas.ops.normalisation import along_channels, relu, scale_and_shift
from jaxnas.supernets.layer import Layer, Params, Stats
from jaxnas.supernets.supernet import Supernet, check_images

# (parameters of the layer, index of the candidate taken, x, tape) -> y; tables are looked up by the index.
Masked = Callable[[Any, chex.Array, chex.Array, Tape], chex.Array]


def masked(supernet: Supernet) -> Supernet:
    """The same super-net, which runs a code by masks in place of switches. It can be trained alone as well
    (`Supernet.alone`): of what candidates share, one network uses each kernel at one width.

    Raises:
      ValueError: a space without searched wiring, or factors for which there is no mask.
    """
    space = supernet.space
    if not any(_owners(layer) for layer in supernet.layers.values()):
        raise ValueError(f"{space.name}: masks are for cells whose wiring is searched; take a space nasbench101.")
    layers = supernet.layers
    stored = jax.eval_shape(supernet.init, jax.random.key(0))
    chosen = {name: layer for name, layer in layers.items() if layer.choice is not None}
    if supernet.dropout is not None or not all(
        _has_mask(layer, stored.get(name, {})) for name, layer in chosen.items()
    ):
        raise ValueError(
            f"{space.name}: masks take the first channels of kernels of their own; leave channels 'fixed', kernels"
            " 'separate', batch_norm 'shared' and both kinds of dropout 0."
        )
    by_mask = {name: _masked(layer) for name, layer in chosen.items()}

    def apply(
        params: Params,
        arch: Any,
        images: chex.Array,
        *,
        stats: Stats | None = None,
        mask: chex.Array | None = None,
        **given: Any,
    ) -> tuple[chex.Array, Stats]:
        if not (isinstance(arch, jax.Array) and jnp.issubdtype(arch.dtype, jnp.integer)):
            return supernet.apply(params, arch, images, stats=stats, mask=mask, **given)
        check_images(space, images)
        taken, used = supernet.taken(arch), dict[str, chex.Array]()

        def run(name: str, x: chex.Array) -> chex.Array:
            layer = layers[name]
            if name not in by_mask:
                y, used[name] = layer(params, arch, x, stats, mask, None)
                return y
            tape = Tape(None if stats is None else stats[name], mask, layer.stats_dtype)
            y = by_mask[name](params.get(name, {}), taken[name], x, tape)
            counted = jnp.arange(layer.stats_size) < jnp.asarray(_table(layer, "width"))[taken[name]]
            used[name] = tape.used(layer.stats_size) * counted[None].astype(layer.stats_dtype)
            return y

        return supernet.wire(run, images), used

    def alone(params: Params, arch: chex.Array) -> Params:
        taken, own = supernet.taken(arch), dict(params)
        for name, layer in chosen.items():
            widths = np.maximum(_table(layer, "in_width"), 1).astype(np.float32)
            own[name] = {op: dict(tree) for op, tree in params.get(name, {}).items()}
            for tree in own[name].values():
                if "kernel" in tree:  # of He's variance, which is one over the inputs
                    share = jnp.sqrt(tree["kernel"].shape[2] / jnp.asarray(widths)[taken[name]])
                    tree["kernel"] = tree["kernel"] * share.astype(tree["kernel"].dtype)
        return own

    return supernet._replace(apply=apply, alone=alone)


def _modules(layer: Layer) -> list[Any]:
    return [getattr(candidate, "module", None) for candidate in layer.candidates.values()]


def _table(layer: Layer, attribute: str) -> np.ndarray:
    """Of each candidate a whole number that convolutions have, 0 of others: int32 [num_candidates]."""
    is_conv = [isinstance(module, DynamicConvBN) for module in _modules(layer)]
    values = [getattr(module, attribute) if here else 0 for module, here in zip(_modules(layer), is_conv, strict=True)]
    return np.array(values, np.int32)


def _owners(layer: Layer) -> dict[str, DynamicConvBN]:
    """The convolutions under whose names parameters are stored: those of full width."""
    modules = dict(zip(layer.candidates, _modules(layer), strict=True))
    return {op: one for op, one in modules.items() if isinstance(one, DynamicConvBN) and one.width == one.channels}


def _has_mask(layer: Layer, stored: Any) -> bool:
    """Whether the layer's convolutions are of the kind that masks can stand for; stored: shapes of its parameters."""
    owners = _owners(layer)
    for module in _modules(layer):
        if isinstance(module, DynamicConvBN):
            if module.norm_only or (module.rule != "fixed" and module.width != module.channels):
                return False
            if all(owner.kernel != module.kernel for owner in owners.values()):
                return False
    kept = {op for op, tree in stored.items() if jax.tree.leaves(tree)}
    return kept == set(owners) and all("kernel" in stored[op] for op in owners)


def _masked(layer: Layer) -> Masked:
    modules, owners = _modules(layer), _owners(layer)
    if owners:
        return _convolution(layer, owners)
    if not any(isinstance(module, PlaceChannels) for module in modules):  # nothing or everything
        return lambda params, here, x, tape: jnp.where(here > 0, x, jnp.zeros_like(x))
    channels = layer.in_shape[-1]
    moves = np.zeros((len(modules), channels, channels), np.float32)
    for number, module in enumerate(modules):
        if isinstance(module, PlaceChannels):
            moves[number, np.arange(module.width), module.offset + np.arange(module.width)] = 1
    return lambda params, here, x, tape: x @ jnp.asarray(moves, x.dtype)[here]


def _convolution(layer: Layer, owners: dict[str, DynamicConvBN]) -> Masked:
    """Each convolution and, at a vertex, pooling: all on the input's channels that count, then what is taken."""
    in_channels, channels = layer.in_shape[-1], layer.out_shape[-1]
    inside = np.arange(in_channels) < _table(layer, "in_width")[:, None]
    outside = np.arange(channels) < _table(layer, "width")[:, None]
    kernel_of, is_pool = _table(layer, "kernel"), np.array([isinstance(one, MaxPool) for one in _modules(layer)])
    affine = next(iter(owners.values())).affine

    def run(params: Any, here: chex.Array, x: chex.Array, tape: Tape) -> chex.Array:
        read = x * along_channels(jnp.asarray(inside, x.dtype)[here])
        y, scale, bias = jnp.zeros((*x.shape[:-1], channels), x.dtype), jnp.zeros(channels), jnp.zeros(channels)
        for op, module in owners.items():
            own, taken = params[op], jnp.asarray(kernel_of == module.kernel)[here]
            kernel = own["kernel"].astype(x.dtype)
            made = project(read, kernel[0, 0], False) if module.kernel == 1 else convolve(read, kernel, 1, False)
            y = jnp.where(taken, made, y)
            if affine:
                scale, bias = jnp.where(taken, own["scale"], scale), jnp.where(taken, own["bias"], bias)
        y = tape.normalise(y)
        y = relu(scale_and_shift(y, scale, bias) if affine else y) * along_channels(jnp.asarray(outside, y.dtype)[here])
        if not is_pool.any():
            return y
        pooled: Any = MaxPool().apply({}, x, tape)
        return jnp.where(jnp.asarray(is_pool)[here], pooled, y)

    return run
