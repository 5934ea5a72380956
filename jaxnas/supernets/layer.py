"""What super-nets are built from: layers, each a fixed operation or the candidates of one choice."""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from jaxnas.ops import Operation, Tape, as_operation
from jaxnas.supernets.choice import Branch, Drawn, Groups, choose, draw, mix
from jaxnas.supernets.together import are_little_work, run_together

Params = dict[str, dict[str, Any]]  # layer name -> candidate name -> that operation's parameters
Stats = dict[str, chex.Array]  # layer name -> float [2, size], rows mean and variance, of the candidate taken


class Costs(NamedTuple):
    """Two arrays of one shape, which the function that returns them states."""

    macs: np.ndarray  # float64, multiply-accumulates for one image
    params: np.ndarray  # float64, number of scalars


class Layer(NamedTuple):
    """One part of the network: a fixed operation, or the candidates of one choice."""

    name: str
    choice: int | None  # which position of the decoded code decides; None: there is one candidate
    candidates: Mapping[str, Operation]  # by name, in code order
    in_shape: tuple[int, ...]  # [height, width, channels]
    out_shape: tuple[int, ...]
    stats_dtype: str = "float32"
    shared_input: bool = False  # its input is the stem's output, the same for every architecture
    is_edge: bool = False  # path dropout takes away all that it returns; else what stands beside a shortcut

    @property
    def stats_size(self) -> int:
        """The largest candidate's number of normalised channels; at least 1, for files have no empty arrays."""
        return max(1, *(outline(operation, self.in_shape)[2] for operation in self.candidates.values()))

    @property
    def keeps_balance(self) -> bool:
        """Whether a population that has each operation of each choice equally often has each candidate here so too."""
        return True

    @property
    def costs(self) -> Costs:
        """Of each candidate, [num_candidates]; a ValueError where one doesn't say what it costs."""
        said = {op: operation.cost(self.in_shape) for op, operation in self.candidates.items()}
        for op, cost in said.items():
            if cost is None:
                raise ValueError(
                    f"layer {self.name}: candidate {op!r} doesn't say what it costs; give its class a method"
                    " cost(in_shape) -> jaxnas.ops.Cost, or its space a function `costs`."
                )
        return Costs(*np.array(list(said.values()), np.float64).T)

    @property
    def branches(self) -> tuple[Branch, ...]:
        """One function a candidate: ((params of the layer, mask), x, stats, keep) -> (y, stats used)."""

        def branch(name: str, operation: Operation) -> Branch:
            is_path = operation.algebra(self.in_shape[-1]) not in ("zero", "same")

            def run(shared: Any, x: chex.Array, stats: Any, keep: Any = None) -> tuple[chex.Array, chex.Array]:
                params, mask = shared
                tape = Tape(stats, mask, self.stats_dtype, None if self.is_edge else keep)
                y = operation.apply(self.params_of(params, name), x, tape)
                if self.is_edge and is_path:
                    y = Tape(None, None, keep=keep).drop(y)
                return y, self.told(tape, x.shape[0])

            return run

        return tuple(branch(name, operation) for name, operation in self.candidates.items())

    def told(self, tape: Tape, num_images: int) -> chex.Array:
        """What a branch returns beside its output: the statistics that it used."""
        return tape.used(self.stats_size)

    def params_of(self, params: Mapping[str, Any], op: str) -> Any:
        """A candidate's parameters among those of this layer. One that has none may be missing, as it is in a file of
        arrays by path; a ValueError where others are."""
        if op in params:
            return params[op]
        if jax.tree.leaves(outline(self.candidates[op], self.in_shape)[1]):
            raise ValueError(
                f"layer {self.name}: the parameters of {op!r} are missing; give those of `Supernet.init`'s tree."
            )
        return {}

    def taken(self, decoded: Any) -> Any:
        """The index of the candidate that decoded codes, int [..., num_places], take here: int [...]."""
        return np.zeros(decoded.shape[:-1], np.int32) if self.choice is None else decoded[..., self.choice]

    def __call__(
        self,
        params: Params,
        arch: Any,
        x: chex.Array,
        stats: Stats | None,
        mask: chex.Array | None,
        groups: Groups | tuple[tuple[int, ...], ...],
        keep: chex.Array | None = None,
    ) -> tuple[chex.Array, chex.Array]:
        """Run the candidate that the decoded `arch` takes here: x [num_images, *in_shape] -> (y, stats used).

        Args:
          params: of each candidate of each layer, as `Supernet.view` gives them.
          keep: what dropout leaves, see `jaxnas.ops.Tape`.
        """
        shared = (params.get(self.name, {}), mask)
        stats_here = None if stats is None else stats[self.name]
        if self.choice is None:
            return self.branches[0](shared, x, stats_here, keep)
        if isinstance(arch, Drawn):
            drawn = arch.at(self.choice)
            drawn = drawn._replace(weights=drawn.weights[: len(self.candidates)])
            return draw(self.branches, drawn, shared, x, stats_here, keep, together=self._together(shared, x))
        here = arch[self.choice]
        if jnp.ndim(here) == 1:  # weights of the candidates instead of a code
            return mix(self.branches, here[: len(self.candidates)], shared, x, stats_here, keep)
        groups_here: Any = groups[self.choice] if isinstance(groups, tuple) else groups
        together = None if isinstance(here, int | np.integer) else self._together(shared, x)
        return choose(self.branches, here, shared, x, stats_here, keep, groups=groups_here, together=together)

    def _together(self, shared: Any, x: chex.Array) -> Branch | None:
        """A function of (index of a candidate, shared, x, stats, keep) that returns what its branch does, with no
        conditional; None where a conditional costs less."""
        operations = tuple(self.candidates.values())
        if not are_little_work(operations, self._own(shared[0]), x):
            return None

        def run(choice: chex.Array, shared: Any, *inputs: Any) -> Any:
            params, mask = shared

            def call(index: int, params: Any) -> Any:
                return branches[index](({names[index]: params}, mask), *inputs)

            names, branches = tuple(self.candidates), self.branches
            return run_together(operations, self._own(params), choice, call)

        return run

    def _own(self, params: Mapping[str, Any]) -> list[Any]:
        """Of each candidate."""
        return [self.params_of(params, op) for op in self.candidates]


def make_layer(
    name: str,
    choice: int | None,
    candidates: Mapping[str, Any],
    in_shape: tuple[int, ...],
    *,
    stats_dtype: str = "float32",
    shared_input: bool = False,
    is_edge: bool = False,
) -> Layer:
    """Build a layer of what `jaxnas.ops.as_operation` takes, for in_shape [height, width, channels]. What it returns is
    known from its first candidate; `check_layer` looks at all, which takes a while."""
    operations = {op: as_operation(candidate) for op, candidate in candidates.items()}
    out_shape, *_ = outline(next(iter(operations.values())), in_shape)
    return Layer(name, choice, operations, in_shape, out_shape, stats_dtype, shared_input, is_edge)


def check_layer(layer: Layer) -> None:
    """Raise a ValueError where candidates disagree on the shape that they return."""
    shapes = {op: outline(operation, layer.in_shape)[0] for op, operation in layer.candidates.items()}
    if len(set(shapes.values())) != 1:
        raise ValueError(
            f"layer {layer.name}: candidates must return one shape, got {shapes}; give them one width and stride."
        )


@functools.cache
def outline(operation: Operation, in_shape: tuple[int, ...]) -> tuple[tuple[int, ...], Any, int]:
    """Without computing anything: shape returned, parameters as ShapeDtypeStructs, number of normalised channels."""
    tape = Tape(None, None)
    x = jax.ShapeDtypeStruct((2, *in_shape), "float32")
    y, params = jax.eval_shape(lambda key, x: operation.init_with_output(key, x, tape), jax.random.key(0), x)
    return y.shape[1:], params, tape.size


@functools.cache
def returned_dtype(operation: Operation, in_shape: tuple[int, ...], dtype: str) -> str:
    """The number type of what it returns of x [num_images, *in_shape] of number type `dtype`."""
    x = jax.ShapeDtypeStruct((2, *in_shape), dtype)
    _, params, _ = outline(operation, in_shape)
    return jax.eval_shape(lambda params, x: operation.apply(params, x, Tape(None, None)), params, x).dtype.name


def run_operation(
    operation: Operation,
    params: Any,
    x: chex.Array,
    stats: chex.Array | None = None,
    mask: chex.Array | None = None,
    *,
    stats_dtype: str = "float32",
) -> tuple[chex.Array, chex.Array]:
    """One candidate alone: x [num_images, height, width, channels] -> (y, stats used [2, number of channels that it
    normalises]). `stats` and `mask` are those of `jaxnas.ops.Tape`; dropout is left out."""
    tape = Tape(stats, mask, stats_dtype)
    y = apply_operation(operation, params, x, tape)
    return y, tape.used(tape.size)


def apply_operation(operation: Operation, params: Any, x: chex.Array, tape: Tape) -> chex.Array:
    """The same by a tape of the caller's, who may look at it afterwards."""
    return operation.apply(params, x, tape)
