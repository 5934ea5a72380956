"""The `Supernet` that layers, a wiring and what they share become, and what can be asked of it."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import chex
import jax
import jax.numpy as jnp
import numpy as np

from jaxnas.checks import shown
from jaxnas.codes import exist
from jaxnas.ops import Tape
from jaxnas.space import SearchSpace
from jaxnas.supernets.choice import Drawn, count_ops
from jaxnas.supernets.dropout import Dropout, draw_keep
from jaxnas.supernets.layer import Layer, Params, Stats, outline
from jaxnas.supernets.running import Running
from jaxnas.supernets.sharing import NO_SHARING, Sharing, as_it_is

Wire = Callable[[Callable[[str, Any], Any], Any], Any]


class SupernetApply(Protocol):
    """One architecture on images; `jax.vmap` it over architectures."""

    def __call__(
        self,
        params: Params,
        arch: Any,
        images: chex.Array,
        *,
        stats: Stats | None = None,
        mask: chex.Array | None = None,
        key: chex.PRNGKey | None = None,
        ramp: float | chex.Array = 1.0,
        groups: Any = 4,
    ) -> tuple[chex.Array, Stats]: ...


class Recurrence(NamedTuple):
    """Of super-nets that read text: what goes on from one batch of rows to the next.

    Attributes:
      start: num_rows -> memory before the first word, an array with an axis of rows in front.
      unroll: (params, arch, words int [num_rows, length], memory) -> (logits float32 [num_rows, length, classes],
        memory after the last word). `apply` begins at `start`.
    """

    start: Callable[[int], chex.Array]
    unroll: Callable[[Params, Any, chex.Array, chex.Array], tuple[chex.Array, chex.Array]]


class Supernet(NamedTuple):
    """All sub-networks of a space over one parameter tree.

    Attributes:
      space: the space whose codes it takes.
      init: key -> params. Leaf paths are layer/candidate/leaf and stable.
      apply: (params, arch, images, *, stats=None, mask=None, key=None, ramp=1.0, groups=4) -> (logits, stats), for ONE
        architecture; `jax.vmap` it over architectures.
        arch: int32 [num_choices]; or float [num_places, max(num_candidates)], weights that mix the candidates of each
          place of the decoded code; or `Drawn`, such weights of which one candidate each runs.
        images: float [num_images, height, width, channels], already normalised. logits: float32 [num_images, classes].
        Of text (`SearchSpace.is_text`) words int [num_rows, length], and logits of each word's successor, float32
        [num_rows, length, classes].
        stats None: normalise by these images (those where `mask` is True) and return what was used.
        stats given (calibrated, tracked): normalise by them and return them.
        key: draws what dropout takes away, which is a training matter; None: nothing is dropped. ramp: strength of path
          dropout, in [0, 1]. Of no matter to a super-net without dropout.
        groups: how a batch of architectures is dispatched, see `jaxnas.supernets.choice.choose`; counts are given per
          place of the decoded code, as `counts` gives them.
      layers: every layer by name.
      wire: (run, images) -> logits, the wiring itself: calls `run(layer name, input)`, in order, and adds what it
        returns. `apply` follows it with arrays, `jaxnas.evaluation.graph` with symbols.
      view: params -> {layer: {candidate: parameters}}: where candidates share some, what each has of them.
      dropout: what is dropped in training, or None.
      decode: codes int32 [..., num_choices] -> int32 [..., num_places], the candidate taken wherever there are several:
        a layer's `choice` is a position in it. The code itself, but for cells whose wiring is searched.
      encode: weights of candidates, float [num_places, max(num_candidates)] on the host -> the code int32 [num_choices]
        that they stand for; of equal weights the first. None: no code stands for a mixture.
      joins: of each place, the number of the node whose inputs are summed that it leads into.
      recurrence: of text, else None.
      alone: (fresh params, arch) -> those that the network of this code would begin with alone, where candidates share
        parameters, and yet no two of one network; None: as they are.
    """

    space: SearchSpace
    init: Callable[[chex.PRNGKey], Params]
    apply: SupernetApply
    layers: Mapping[str, Layer]
    wire: Callable[[Callable[[str, Any], Any], Any], Any]
    view: Callable[[Params], Params] = as_it_is
    dropout: Dropout | None = None
    decode: Callable[[Any], Any] = as_it_is
    encode: Callable[[np.ndarray], np.ndarray] | None = None
    joins: tuple[int, ...] = ()
    recurrence: Recurrence | None = None
    alone: Callable[[Params, chex.Array], Params] | None = None

    @property
    def num_candidates(self) -> tuple[int, ...]:
        """Number of candidates at each place of a decoded code."""
        by_place = {layer.choice: len(layer.candidates) for layer in self.layers.values() if layer.choice is not None}
        return tuple(by_place[place] for place in range(len(by_place)))

    @property
    def parameter_free(self) -> np.ndarray:
        """Bool [num_places, max(num_candidates)]: which candidates have no parameters in any layer, such as none, skip
        and pooling; False where a place has fewer candidates."""
        free = exist(self.num_candidates).copy()
        for layer in self.layers.values():
            if layer.choice is not None:
                for index, operation in enumerate(layer.candidates.values()):
                    free[layer.choice, index] &= not jax.tree.leaves(outline(operation, layer.in_shape)[1])
        return free

    @property
    def has_shared_params(self) -> bool:
        """Whether candidates share parameters."""
        return self.view is not as_it_is

    @property
    def is_decoded(self) -> bool:
        """Whether what a choice stands for depends on the rest of the code."""
        return self.decode is not as_it_is

    def taken(self, archs: Any) -> dict[str, Any]:
        """Which candidate each layer runs: codes int [..., num_choices] -> layer -> int [...], its index; NumPy's
        arrays and JAX's alike, also traced ones."""
        decoded = self.decode(archs if isinstance(archs, jax.Array) else np.asarray(archs))
        return {name: layer.taken(decoded) for name, layer in self.layers.items()}

    def weights(self, archs: Any) -> chex.Array:
        """Float [..., num_places, max(num_candidates)] of codes [..., num_choices]: 1 for what they take, else 0."""
        return jax.nn.one_hot(self.decode(archs), max(self.num_candidates))

    def counts(self, archs: chex.ArrayNumpy) -> tuple[tuple[int, ...], ...]:
        """How often codes [num_archs, num_choices] take each candidate of each place: the `groups` of this batch."""
        return count_ops(self.decode(np.asarray(archs)), self.num_candidates)

    def taken_by(self, arch: chex.ArrayNumpy) -> dict[str, str]:
        """Of one code int [num_choices] on the host: layer -> name of the candidate."""
        return {name: list(self.layers[name].candidates)[int(index)] for name, index in self.taken(arch).items()}


def assemble(
    space: SearchSpace,
    layers: Mapping[str, Layer],
    wire: Wire,
    *,
    sharing: Sharing = NO_SHARING,
    dropout: Dropout | None = None,
    decode: Callable[[Any], Any] = as_it_is,
    encode: Callable[[np.ndarray], np.ndarray] | None = None,
    joins: tuple[int, ...] | None = None,
) -> Supernet:
    """The super-net of these layers, wired so; arguments as `Supernet` has them. Where a place is a choice, weights
    stand for the code with the largest at each; without `joins`, each place is the only one into its node."""

    def apply(params, arch, images, *, stats=None, mask=None, key=None, ramp=1.0, groups=4):
        used: Stats = {}
        check_images(space, images)
        params, arch = sharing.view(params), arch if isinstance(arch, Drawn) else decode(arch)
        keep = {} if dropout is None or key is None else draw_keep(dropout, key, ramp, len(images))
        return wire(Running(layers, params, arch, stats, mask, groups, keep, used), images), used

    def largest(weights: np.ndarray) -> np.ndarray:
        return np.where(exist(space.num_ops), weights, -np.inf).argmax(axis=1).astype(np.int32)

    if encode is None and decode is as_it_is and space.has_all_codes:
        encode = largest
    places = {layer.choice for layer in layers.values()} - {None}
    joins = tuple(range(len(places))) if joins is None else joins
    init = make_init(layers, sharing.store)
    return Supernet(space, init, apply, layers, wire, sharing.view, dropout, decode, encode, joins)


def check_images(space: SearchSpace, images: Any, name: str = "images") -> None:
    """Raise a ValueError where a network of the space takes no such images, by shape and number type alone: no value
    is looked at, so that it holds while a function is traced as well."""
    layout: Any = space.layout
    if not hasattr(images, "shape") or not hasattr(images, "dtype"):
        kind = "integers" if space.is_text else "floats"
        raise ValueError(f"{space.name}: {name} are {shown(images)}, expected an array of {kind}.")
    shape, dtype = images.shape, images.dtype
    if space.is_text:
        if len(shape) != 2 or not 1 <= shape[1] <= layout.num_words or not jnp.issubdtype(dtype, jnp.integer):
            raise ValueError(
                f"{space.name}: {name} are {dtype} of shape {shape}, expected words, integers [num_rows, length], of at"
                f" most {layout.num_words} a row; `space.resized` makes a space for others."
            )
        return
    expected = (layout.image_size, layout.image_size, layout.in_channels)
    if len(shape) != 4 or shape[1:] != expected:
        raise ValueError(
            f"{space.name}: {name} have shape {shape}, expected [num_images, {str(expected)[1:-1]}];"
            " `space.resized` makes a space for others."
        )
    if not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(
            f"{space.name}: {name} are {dtype}, expected floats that are standardised;"
            " `jaxnas.training.standardise` makes them of pixels."
        )


def check_kept(supernet: Supernet, archs: Any, groups: Any, name: str = "archs") -> None:
    """Raise a ValueError where a population is not as `groups`, "balanced" or counts, say of it; one that is traced
    can't be looked at."""
    if isinstance(archs, jax.core.Tracer) or not (isinstance(groups, tuple) or groups == "balanced"):
        return
    if isinstance(archs, Drawn) or jnp.issubdtype(jnp.result_type(archs), jnp.floating):  # weights of candidates
        return
    unpromised = {layer.choice for layer in supernet.layers.values() if not layer.keeps_balance}
    for place, counts in enumerate(supernet.counts(archs)):
        if groups == "balanced" and place in unpromised:
            continue
        if counts != groups[place] if isinstance(groups, tuple) else len(set(counts)) > 1:
            expected = f"{groups[place]}" if isinstance(groups, tuple) else "each equally often"
            raise ValueError(
                f"groups={groups if isinstance(groups, str) else 'counts'!r}, but {name} take the candidates at index"
                f" {place} {counts} times, expected {expected}; give a tile size such as 4."
            )


def decode_by_columns(
    space: SearchSpace, shape: tuple[int, int], columns: Callable[[Any], Sequence[Any]]
) -> Callable[[Any], Any]:
    """`Supernet.decode` of spaces where what a choice stands for depends on the rest of the code.

    Args:
      shape: number of places, and the most candidates that one has. Weights of candidates, float of this shape, which
        `Supernet.apply` takes in place of a decoded code, pass.
      columns: codes int [..., num_choices] -> int [...] for each place, the candidate taken; NumPy's or JAX's.
    """

    def decode(archs: Any) -> Any:
        archs = archs if isinstance(archs, jax.Array) else np.asarray(archs)
        if jnp.issubdtype(archs.dtype, jnp.floating):
            if archs.shape[-2:] != shape:
                raise ValueError(
                    f"{space.name}: weights of shape {archs.shape} cannot express a wiring; give"
                    f" those of the decoded code, {[*shape]}, as jax.nn.one_hot(supernet.decode(arch), ...) makes."
                )
            return archs
        stack = jnp.stack if isinstance(archs, jax.Array) else np.stack
        return stack(columns(archs), axis=-1).astype(np.int32)

    return decode


def make_init(
    layers: Mapping[str, Layer], store: Callable[[Params], Params] = as_it_is
) -> Callable[[chex.PRNGKey], Params]:
    """Initialise every candidate of every layer, or what `store` makes of their parameters, from one key.

    By leaf name: `kernel` He-normal over its fan-in (all axes but the last), `scale` one, `bias` zero, `transform` the
    identity. One draw serves all kernels, since each separate draw costs XLA half a second to compile. An operation
    with other leaves initialises itself.
    """

    def by_rule(path: tuple[Any, ...]) -> bool:
        return path[-1].key in ("kernel", "scale", "bias")

    @jax.jit
    def init(key: chex.PRNGKey) -> Params:
        kernel_key, own_key = jax.random.split(key)
        params: Params = {}
        for number, (name, layer) in enumerate(layers.items()):
            params[name] = {}
            for index, (op, operation) in enumerate(layer.candidates.items()):
                _, tree, _ = outline(operation, layer.in_shape)
                if not all(by_rule(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)):
                    op_key = jax.random.fold_in(jax.random.fold_in(own_key, number), index)
                    tree = operation.init(op_key, jnp.zeros((2, *layer.in_shape)), Tape(None, None))
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


def select_stats(supernet: Supernet, tracked: Stats, archs: chex.Array) -> Stats:
    """Of tracked statistics [num_candidates, 2, size] by layer, those of each architecture: [num_archs, 2, size]."""
    return {name: tracked[name][taken] for name, taken in supernet.taken(archs).items()}


def only(supernet: Supernet, params: Params, arch: chex.ArrayNumpy) -> Params:
    """Of the parameters of each candidate, as `Supernet.view` gives them, those of one architecture [num_choices]: same
    paths, the other candidates absent."""
    return {
        name: {op: supernet.layers[name].params_of(params.get(name, {}), op)}
        for name, op in supernet.taken_by(arch).items()
    }
