"""`choose` and `mix`: one of several candidate functions per architecture, or a weighted sum of them all.

A branch is written for one architecture: `branch(shared, *inputs) -> outputs`, with `shared` what every
architecture has in common (parameters, image mask) and `inputs` what belongs to one (activations, statistics).
Alone, `choose` is `lax.switch`. Under `vmap` over architectures JAX would turn that switch into a select of ALL
branches, with kernels batched into grouped convolutions; `choose` brings its own batching rule, which runs each
branch only on the architectures that chose it.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_batching import custom_vmap

from jaxnas.ops.derivative import derivative_by, vary_alike
from jaxnas.ops.platform import by_platform

Branch = Callable[..., chex.ArrayTree]
Groups = int | Literal["balanced"] | tuple[int, ...] | None


class Drawn(NamedTuple):
    """Weights of candidates of which one each is run, in place of a decoded code: GDAS (arXiv 1910.04465) as released.

    Attributes:
      weights: float [num_places, max(num_candidates)], 0 where a place has fewer candidates.
      taken: int32 [num_places], the candidate that runs.
    """

    weights: chex.Array
    taken: chex.Array

    def at(self, place: int) -> "Drawn":
        """Of one place: weights [max(num_candidates)] and the candidate that runs."""
        return Drawn(self.weights[place], self.taken[place])


def choose(
    branches: Sequence[Branch],
    choice: int | chex.Array,
    shared: chex.ArrayTree,
    *inputs: chex.ArrayTree,
    groups: Groups = 4,
    together: Branch | None = None,
) -> Any:
    """Return `branches[choice](shared, *inputs)`; all branches return the same tree of shapes and dtypes.

    Args:
      branches: functions of (shared, *inputs). They must not close over traced values.
      choice: a Python int (decided while tracing), or an int32 scalar in [0, len(branches)); `lax.switch` clamps
        what lies outside, so codes are checked on the host (`jaxnas.codes.check`).
      shared: read by every architecture alike. If it is batched under `vmap` (several super-nets at once) each
        branch runs for all of them and the results are selected: len(branches) times the work.
      *inputs: one architecture's own. Where `vmap` leaves them unbatched (the first choice after the stem) and there
        are at least as many architectures as branches, each branch runs once and results are gathered.
      groups: how a batch of choices is dispatched.
        int: sort by choice and run tiles of so many architectures, each one switch. Any population; at most
          `groups - 1` architectures of padding per branch. On accelerators a larger tile fills the device.
        "balanced": the caller promises that each branch is chosen equally often (strict fairness): no switch, no
          loop, no padding. A broken promise gives NaN, never a silent wrong answer.
        tuple: the same promise with other counts, for a population known beforehand: how often each branch is chosen.
        None: a plain switch, for `lax.map` and for the gradient of each architecture by itself, `vmap(grad(...))`;
          under `vmap` it costs all branches. An unbatched call is differentiated as this one whatever `groups` are;
          what `jit` or `checkpoint` encloses inside the `vmap` counts as unbatched, so put them outside.
      together: (choice, shared, *inputs) -> what that branch returns, by a way without a conditional. Of one
        architecture an accelerator takes it, where the host would wait for each conditional.
    """
    if isinstance(choice, int | np.integer):
        return branches[int(choice)](shared, *inputs)
    branches = [_varying(branch) for branch in branches]
    if groups is None:
        return _run_one(branches, choice, shared, inputs, None if is_batched(choice) else together)
    if isinstance(groups, tuple):
        if len(groups) != len(branches) or min(groups) < 0:
            raise ValueError(
                f"groups must count the architectures of each of {len(branches)} branches, got {groups!r}."
            )
    else:
        check_groups(groups)

    @custom_vmap
    def select(choice, shared, inputs):
        return _run_one(branches, choice, shared, inputs, together)

    @select.def_vmap
    def batched_select(num_archs, in_batched, choice, shared, inputs):
        choice_batched, shared_batched, inputs_batched = in_batched
        axes = jax.tree.map(lambda batched: 0 if batched else None, inputs_batched)
        if any(jax.tree.leaves(shared_batched)):
            shared_axes = jax.tree.map(lambda batched: 0 if batched else None, shared_batched)
            over_all = (0 if choice_batched else None, shared_axes, *axes)
            outputs = jax.vmap(lambda c, *args: jax.lax.switch(c, branches, *args), in_axes=over_all)(
                choice, shared, *inputs
            )
        elif not choice_batched:
            run = [jax.vmap(branch, in_axes=(None, *axes)) for branch in branches]
            outputs = jax.lax.switch(choice, run, shared, *inputs)
        elif num_archs == 1:
            only_inputs = jax.tree.map(lambda leaf, batched: leaf[0] if batched else leaf, inputs, inputs_batched)
            outputs = _run_one(branches, choice[0], shared, only_inputs, together)
            outputs = jax.tree.map(lambda leaf: leaf[None], outputs)
        elif num_archs >= len(branches) and not any(jax.tree.leaves(inputs_batched)):
            results = [branch(shared, *inputs) for branch in branches]
            outputs = jax.tree.map(lambda *leaves: jnp.stack(leaves)[choice], *results)
        else:
            inputs = jax.tree.map(
                lambda leaf, batched: leaf if batched else jnp.broadcast_to(leaf, (num_archs, *leaf.shape)),
                inputs,
                inputs_batched,
            )
            dispatch = _dispatch_counts if isinstance(groups, str | tuple) else _dispatch_tiles
            outputs = dispatch(branches, choice, shared, inputs, groups)
        return outputs, jax.tree.map(lambda _: True, outputs)

    if is_batched(choice):
        return select(choice, shared, inputs)

    @jax.custom_jvp
    def alone(choice, shared, inputs):
        return select(choice, shared, inputs)

    @alone.defjvp
    def derivative(primals, tangents):  # JAX cannot differentiate the unbatched form of `select`
        run = lambda shared, inputs: _run_one(branches, primals[0], shared, inputs, together)  # noqa: E731
        return jax.jvp(run, tuple(primals[1:]), tuple(tangents[1:]))

    return alone(choice, shared, inputs)


def _run_one(branches, choice, shared, inputs, together):
    """The branch chosen by a conditional, or `together` where there is one and the device is no CPU."""

    def switch(choice, shared, *inputs):
        return jax.lax.switch(choice, branches, shared, *inputs)

    if together is None:
        return switch(choice, shared, *inputs)
    return by_platform(choice, shared, *inputs, cpu=switch, others=together)


def _varying(branch: Branch) -> Branch:
    """The branch, whose results vary over the same axes of a mesh as what it is given, as those of all others do."""
    return lambda shared, *inputs: vary_alike((branch(shared, *inputs), shared, inputs))[0]


def check_groups(groups: Any) -> None:
    """Raise a ValueError where `groups`, no tuple, is none that `choose` takes."""
    is_tile = isinstance(groups, int | np.integer) and not isinstance(groups, bool) and groups >= 1
    if not (groups is None or is_tile or (isinstance(groups, str) and groups == "balanced")):
        raise ValueError(f"groups must be a tile size of at least 1, 'balanced' or None, got {groups!r}.")


def is_batched(choice: chex.Array) -> bool:
    """Whether a `vmap` makes many of this choice, nothing traced in between: its rule runs at once."""
    seen = []

    @custom_vmap
    def look(choice):
        return choice

    @look.def_vmap
    def rule(num_archs, in_batched, choice):
        seen.append(num_archs)
        return choice, in_batched[0]

    look(jax.lax.stop_gradient(choice))
    return bool(seen)


def mix(branches: Sequence[Branch], weights: chex.Array, shared: chex.ArrayTree, *inputs: chex.ArrayTree) -> Any:
    """Return the sum over branches of `weights[b] * branches[b](shared, *inputs)`; weights: float [num_branches].

    With one-hot weights this is the mask route: what `choose` must equal, at the cost of every branch.
    """
    results = [branch(shared, *inputs) for branch in branches]
    return jax.tree.map(
        lambda *leaves: sum(weight.astype(leaf.dtype) * leaf for weight, leaf in zip(weights, leaves, strict=True)),
        *results,
    )


def draw(
    branches: Sequence[Branch],
    here: Drawn,
    shared: chex.ArrayTree,
    *inputs: chex.ArrayTree,
    together: Branch | None = None,
) -> Any:
    """Return the output of the branch taken times its weight, plus the sum of the other weights.

    With weights that are 1 for the branch taken and 0 for the others in value, though not in derivative, this is that
    branch's output, and each of the other weights has the gradient of a branch that returns ones. `mix` would give them
    those of their own outputs, and run every branch for it. For one architecture: it is a plain switch, or `together`
    as in `choose`.
    """
    outputs = _run_one([_varying(branch) for branch in branches], here.taken, shared, inputs, together)
    weight = here.weights[here.taken]
    rest = here.weights.sum() - weight
    return jax.tree.map(lambda leaf: weight.astype(leaf.dtype) * leaf + rest.astype(leaf.dtype), outputs)


def branch_runs(choices: np.ndarray, num_branches: int, groups: Groups) -> np.ndarray:
    """How many architectures each branch is executed for, padding included: int64 [num_branches].

    Host-side twin of the dispatch above for one choice: `choices` int [num_archs] is one call's population.
    """
    counts = np.bincount(choices, minlength=num_branches)
    if groups == "balanced" or isinstance(groups, tuple):
        return counts
    if groups is None:
        return np.full(num_branches, len(choices))
    tile = min(groups, len(choices))
    return -(-counts // tile) * tile


def count_ops(archs: np.ndarray, num_ops: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    """The static `groups` of a population, int [num_archs, num_choices]: how often each choice takes each operation."""
    columns = zip(np.asarray(archs).T, num_ops, strict=True)
    return tuple(tuple(np.bincount(column, minlength=size).tolist()) for column, size in columns)


def _dispatch_counts(branches, choice, shared, inputs, groups):
    """Each branch on its static share of the sorted population."""
    num_archs, num_branches = choice.shape[0], len(branches)
    if groups == "balanced":
        if num_archs % num_branches:
            raise ValueError(
                f"groups='balanced' needs a multiple of {num_branches} architectures, got {num_archs};"
                " pass a tile size."
            )
        groups = (num_archs // num_branches,) * num_branches
    elif sum(groups) != num_archs:
        raise ValueError(f"groups counts {sum(groups)} architectures, {groups}, but there are {num_archs}.")
    order = jnp.argsort(choice, stable=True)
    inverse = jnp.argsort(order)
    inputs = jax.tree.map(lambda leaf: _permute(leaf, order, inverse), inputs)
    results = []
    for branch, count, end in zip(branches, groups, np.cumsum(groups), strict=True):
        if count:
            inputs_of_branch = jax.tree.map(lambda leaf, span=slice(end - count, end): leaf[span], inputs)
            results.append(_over(branch, count)(shared, *inputs_of_branch))
    kept = jnp.all(choice[order] == np.repeat(np.arange(num_branches), groups))

    def restore(*leaves):
        whole = _permute(jnp.concatenate(leaves), inverse, order)
        return jnp.where(kept, whole, jnp.asarray(jnp.nan, whole.dtype))

    return jax.tree.map(restore, *results)


def _over(branch: Branch, num_archs: int) -> Branch:
    """The branch on a leading axis of so many architectures; one alone runs without that axis, since XLA's products and
    sums over an axis of one are slower than without it."""

    def run(shared, *inputs):
        if num_archs == 1:
            outputs = branch(shared, *jax.tree.map(lambda leaf: leaf[0], inputs))
            return jax.tree.map(lambda leaf: leaf[None], outputs)
        return jax.vmap(branch, in_axes=(None, *[0] * len(inputs)))(shared, *inputs)

    return run


@derivative_by(lambda inverse, cotangent: (cotangent[inverse],), num_linear=1)
def _permute(array, order, inverse):
    return array[order], inverse  # the derivative is a gather too: autodiff of array[order] would scatter


def _dispatch_tiles(branches, choice, shared, inputs, tile):
    """Sorted by choice, cut into tiles of one branch each; a scan switches once per tile."""
    num_archs, num_branches = choice.shape[0], len(branches)
    tile = min(tile, num_archs)
    most_tiles = (num_archs + num_branches * (tile - 1)) // tile  # sum of ceil(count / tile) cannot exceed it
    order = jnp.argsort(choice, stable=True)
    counts = jnp.bincount(choice, length=num_branches)
    tiles = -(-counts // tile)
    first_row, first_tile = jnp.cumsum(counts) - counts, jnp.cumsum(tiles) - tiles

    number = jnp.arange(most_tiles)
    branch_of = jnp.searchsorted(jnp.cumsum(tiles), number, side="right")  # num_branches: an idle tile
    within = jnp.minimum(branch_of, num_branches - 1)
    position = ((number - first_tile[within]) * tile)[:, None] + jnp.arange(tile)[None, :]
    rows = order[first_row[within][:, None] + jnp.minimum(position, counts[within][:, None] - 1)]

    def run_tile(_, xs):
        branch, tile_inputs = xs
        run = [_over(branch, tile) for branch in branches]
        like = jax.eval_shape(run[0], shared, *tile_inputs)

        def idle(*given):
            return vary_alike((jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), like), given))[0]

        return None, jax.lax.switch(branch, [*run, idle], shared, *tile_inputs)

    _, outputs = jax.lax.scan(run_tile, None, (branch_of, jax.tree.map(lambda leaf: leaf[rows], inputs)))
    rank = jnp.argsort(order)  # place of each architecture in the sorted population
    slot = first_tile[choice] * tile + rank - first_row[choice]
    return jax.tree.map(lambda leaf: leaf.reshape(most_tiles * tile, *leaf.shape[2:])[slot], outputs)
