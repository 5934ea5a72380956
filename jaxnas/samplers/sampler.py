"""The contract of architecture samplers."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import chex

from jaxnas.checks import whole
from jaxnas.space import SearchSpace
from jaxnas.supernets.choice import Groups


class Sampler(NamedTuple):
    """Draws the population of a training step; three pure functions and one promise.

    Attributes:
      init: key -> state.
      sample: (key, state) -> archs int32 [num_archs, num_choices]; only reads the state.
      update: (state, archs, losses [num_archs]) -> state; the only writer.
      groups: what `choose` may rely on: "balanced" where each operation of a choice occurs equally often in every
        population, else a tile size.
    """

    init: Callable[[chex.PRNGKey], Any]
    sample: Callable[[chex.PRNGKey, Any], chex.Array]
    update: Callable[[Any, chex.Array, chex.Array], Any]
    groups: Groups


class SamplerFactory(Protocol):
    """What `SAMPLERS` holds: from a space to a sampler of so many architectures a step; each has a default."""

    def __call__(self, space: SearchSpace, *, num_archs: int = ...) -> Sampler: ...


def drawing(
    name: str,
    space: SearchSpace,
    num_archs: int,
    sample: Callable[[chex.PRNGKey, Any], chex.Array],
    init: Callable[[chex.PRNGKey], Any] = lambda key: (),
) -> Sampler:
    """A sampler that draws architectures independently and learns nothing; `sample` and `init` are those of `Sampler`.

    Raises:
      ValueError: num_archs below 1; `name` is the sampler's.
    """
    num_archs = whole(f"{name}: num_archs", num_archs, 1)
    return Sampler(init, sample, lambda state, archs, losses: state, tile_of(space, num_archs))


def tile_of(space: SearchSpace, num_archs: int) -> int:
    """Tile size for a population whose operations are drawn independently: as many as a choice gives each operation on
    average, at least 1, at most 4. With five architectures and five operations, tiles of four would be padding for the
    most part."""
    return max(1, min(4, num_archs // max(space.num_ops)))
