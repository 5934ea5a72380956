"""The contract of architecture samplers."""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex

from jaxnas.choice import Groups


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
