"""What chain and cell super-nets are built from: layers of candidate modules, and the `Supernet` they become."""

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxnas.ops import Tape, algebra
from jaxnas.space import SearchSpace
from jaxnas.supernets.choice import Branch, Groups, choose, mix
from jaxnas.supernets.dropout import Dropout, draw_keep

Params = dict[str, dict[str, Any]]  # layer name -> candidate name -> that module's parameters
Stats = dict[str, chex.Array]  # layer name -> float [2, size], rows mean and variance, of the candidate taken


def own_params(params: Params) -> Params:
    """`Supernet.view` where nothing is shared."""
    return params


class Layer(NamedTuple):
    """One place in the network: a fixed module, or the candidates of one choice."""

    name: str
    choice: int | None  # which position of the decoded code decides; None: there is one candidate
    modules: Mapping[str, nn.Module]  # candidate name -> module, in code order
    in_shape: tuple[int, ...]  # [height, width, channels]
    out_shape: tuple[int, ...]
    stats_size: int  # the largest candidate's number of normalised channels, at least 1
    stats_dtype: str = "float32"
    shared_input: bool = False  # its input is the stem's output, the same for every architecture
    is_edge: bool = False  # path dropout takes away all that it returns; else what stands beside a shortcut

    @property
    def branches(self) -> tuple[Branch, ...]:
        """One function a candidate: ((params of the layer, mask), x, stats, keep) -> (y, stats used)."""

        def branch(name: str, module: nn.Module) -> Branch:
            is_path = algebra(module, self.in_shape[-1]) not in ("zero", "same")

            def run(shared, x, stats, keep=None):
                params, mask = shared
                tape = Tape(stats, mask, self.stats_dtype, None if self.is_edge else keep)
                y = module.apply({"params": params[name]}, x, tape)
                if self.is_edge and is_path:
                    y = Tape(None, None, keep=keep).drop(y)
                return y, tape.used(self.stats_size)

            return run

        return tuple(branch(name, module) for name, module in self.modules.items())

    def __call__(self, params, arch, x, stats, mask, groups: Groups | tuple[tuple[int, ...], ...], keep=None):
        """Run the candidate that `arch` takes here: x [num_images, *in_shape] -> (y, stats used). `params` are those of
        each candidate, as `Supernet.view` gives them; `keep` is what dropout leaves, see `jaxnas.ops.Tape`."""
        shared = (params[self.name], mask)
        own_stats = None if stats is None else stats[self.name]
        if self.choice is None:
            return self.branches[0](shared, x, own_stats, keep)
        here = arch[self.choice]
        if jnp.ndim(here) == 1:  # weights of the candidates instead of a code
            return mix(self.branches, here[: len(self.modules)], shared, x, own_stats, keep)
        own_groups: Any = groups[self.choice] if isinstance(groups, tuple) else groups
        return choose(self.branches, here, shared, x, own_stats, keep, groups=own_groups)


def as_it_is(archs: Any) -> Any:
    """`Supernet.decode` where the code says itself which candidate each choice takes."""
    return archs


class Supernet(NamedTuple):
    """All sub-networks of a space over one parameter tree.

    Attributes:
      space: the space whose codes it takes.
      init: key -> params. Leaf paths are layer/candidate/leaf and stable.
      apply: (params, arch, images, *, stats=None, mask=None, key=None, ramp=1.0, groups=4) -> (logits, stats), for ONE
        architecture; `jax.vmap` it over architectures.
        arch: int32 [num_choices]; or float [num_places, max(num_candidates)], weights that mix the candidates of each
          place of the decoded code.
        images: float [num_images, height, width, channels], already normalised. logits: float32 [num_images, classes].
        stats None: normalise by these images (those where `mask` is True) and return what was used.
        stats given (calibrated, tracked): normalise by them and return them.
        key: draws what dropout takes away, which is a training matter; None: nothing is dropped. ramp: strength of path
          dropout, in [0, 1]. Of no matter to a super-net without dropout.
        groups: how a batch of architectures is dispatched, see `jaxnas.supernets.choose`; counts are given per place of
          the decoded code, as `jaxnas.supernets.count_ops` gives them. The gradient of an unbatched call needs
          `groups=None`; losses are written over a batch.
      layers: chains only, else None: stem, one layer per choice, head, in order; so that prefixes can be shared.
      all_layers: every layer by name, whatever the wiring.
      wire: (run, images) -> logits, the wiring itself: calls `run(layer name, input)`, in order, and adds what it
        returns. `apply` follows it with arrays, `jaxnas.evaluation.graph` with symbols.
      view: params -> {layer: {candidate: parameters}}: where candidates share some, what each has of them.
      dropout: what is dropped in training, or None.
      decode: codes int32 [..., num_choices] -> int32 [..., num_places], the candidate taken wherever there are several:
        a layer's `choice` is a position in it. The code itself, but for cells whose wiring is searched.
    """

    space: SearchSpace
    init: Callable[[chex.PRNGKey], Params]
    apply: Callable[..., tuple[chex.Array, Stats]]
    layers: tuple[Layer, ...] | None
    all_layers: Mapping[str, Layer]
    wire: Callable[[Callable[[str, Any], Any], Any], Any]
    view: Callable[[Params], Params] = own_params
    dropout: Dropout | None = None
    decode: Callable[[Any], Any] = as_it_is

    @property
    def num_candidates(self) -> tuple[int, ...]:
        """Number of candidates at each place of a decoded code."""
        by_place = {layer.choice: len(layer.modules) for layer in self.all_layers.values() if layer.choice is not None}
        return tuple(by_place[place] for place in range(len(by_place)))


def make_layer(
    name: str,
    choice: int | None,
    modules: Mapping[str, nn.Module],
    in_shape: tuple[int, ...],
    *,
    stats_dtype: str = "float32",
    shared_input: bool = False,
    is_edge: bool = False,
) -> Layer:
    """Build a layer, checking that all candidates agree on what they return for in_shape [height, width, channels]."""
    outlines = {op: outline(module, in_shape) for op, module in modules.items()}
    shapes = {op: outline[0] for op, outline in outlines.items()}
    if len(set(shapes.values())) != 1:
        raise ValueError(
            f"layer {name}: candidates must return one shape, got {shapes}; give them one width and stride."
        )
    stats_size = max(1, *(size for *_, size in outlines.values()))  # files of checkpoints have no empty arrays
    out_shape = next(iter(shapes.values()))
    return Layer(name, choice, modules, in_shape, out_shape, stats_size, stats_dtype, shared_input, is_edge)


@functools.cache
def outline(module: nn.Module, in_shape: tuple[int, ...]) -> tuple[tuple[int, ...], Any, int]:
    """Without computing anything: shape returned, parameters as ShapeDtypeStructs, number of normalised channels."""
    tape = Tape(None, None)
    x = jax.ShapeDtypeStruct((2, *in_shape), "float32")
    y, variables = jax.eval_shape(lambda key, x: module.init_with_output(key, x, tape), jax.random.key(0), x)
    return y.shape[1:], variables.get("params", {}), tape.size


def make_init(
    layers: Mapping[str, Layer], store: Callable[[Params], Params] = own_params
) -> Callable[[chex.PRNGKey], Params]:
    """Initialise every candidate of every layer, or what `store` makes of their parameters, from one key.

    By leaf name: `kernel` He-normal over its fan-in (all axes but the last), `scale` one, `bias` zero, `transform` the
    identity. One draw serves all kernels, since each separate draw costs XLA half a second to compile. A module with
    other leaves initialises itself.
    """

    def by_rule(path) -> bool:
        return path[-1].key in ("kernel", "scale", "bias")

    @jax.jit
    def init(key: chex.PRNGKey) -> Params:
        kernel_key, own_key = jax.random.split(key)
        params: Params = {}
        for number, (name, layer) in enumerate(layers.items()):
            params[name] = {}
            for index, (op, module) in enumerate(layer.modules.items()):
                _, tree, _ = outline(module, layer.in_shape)
                if not all(by_rule(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)):
                    op_key = jax.random.fold_in(jax.random.fold_in(own_key, number), index)
                    tree = module.init(op_key, jnp.zeros((2, *layer.in_shape)), Tape(None, None))["params"]
                params[name][op] = tree
        leaves, treedef = jax.tree_util.tree_flatten_with_path(store(params))
        kernels = [leaf for path, leaf in leaves if isinstance(leaf, jax.ShapeDtypeStruct) and path[-1].key == "kernel"]
        draws = jax.random.normal(kernel_key, (sum(leaf.size for leaf in kernels),))
        values, used = [], 0
        for path, leaf in leaves:
            if not isinstance(leaf, jax.ShapeDtypeStruct):
                values.append(leaf)
            elif path[-1].key == "kernel":
                std = math.sqrt(2.0 / math.prod(leaf.shape[:-1]))
                values.append((std * draws[used : used + leaf.size].reshape(leaf.shape)).astype(leaf.dtype))
                used += leaf.size
            elif path[-1].key == "transform":
                values.append(jnp.eye(leaf.shape[0], dtype=leaf.dtype))
            else:
                values.append(jnp.full(leaf.shape, path[-1].key == "scale", leaf.dtype))
        return jax.tree.unflatten(treedef, values)

    return init


def make_apply(
    layers: Mapping[str, Layer],
    wire: Callable,
    *,
    decode: Callable[[Any], Any] = as_it_is,
    view: Callable[[Params], Params] = own_params,
    dropout: Dropout | None = None,
) -> Callable[..., tuple[chex.Array, Stats]]:
    """`Supernet.apply` of a wiring."""

    def apply(params, arch, images, *, stats=None, mask=None, key=None, ramp=1.0, groups=4):
        used: Stats = {}
        own, arch = view(params), decode(arch)
        keep = {} if dropout is None or key is None else draw_keep(dropout, key, ramp, len(images))

        def run(name, x):
            y, used[name] = layers[name](own, arch, x, stats, mask, groups, keep.get(name))
            return y

        return wire(run, images), used

    return apply


def select_stats(supernet: Supernet, tracked: Stats, archs: chex.Array) -> Stats:
    """Of tracked statistics [num_candidates, 2, size] by layer, those of each architecture: [num_archs, 2, size]."""
    archs = supernet.decode(archs)

    def one(name: str, layer: Layer) -> chex.Array:
        taken = jnp.zeros(len(archs), jnp.int32) if layer.choice is None else archs[:, layer.choice]
        return tracked[name][taken]

    return {name: one(name, layer) for name, layer in supernet.all_layers.items()}
