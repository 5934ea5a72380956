"""The random policy: one uniform draw (Yu et al., "Evaluating the Search Phase of NAS", arXiv 1902.08142)."""

from typing import Any

import chex
import numpy as np

from jaxnas.checks import whole
from jaxnas.costs import Limit
from jaxnas.policies.policy import Policy, Timetable, feasible_region
from jaxnas.search import host_rng
from jaxnas.supernets import Supernet


def random_policy(supernet: Supernet, limit: Limit | None = None, *, num_archs: int = 1) -> Policy:
    """Train on uniform draws, learn nothing, and end with one uniform draw: the paper's baseline. It isn't the best of
    many draws, which is random search (`jaxnas.search.random_search`).

    Args:
      num_archs: architectures of a weight step and of an `ask`.

    Raises:
      ValueError: no architecture meets the limit, or num_archs below 1.
    """
    whole("num_archs", num_archs, 1)
    region = feasible_region(supernet, limit)

    def ask(key: chex.PRNGKey, state: Any) -> np.ndarray:
        return region.sample(host_rng(key), num_archs)

    return Policy(
        "random",
        supernet,
        init=lambda key: (),
        propose=ask,
        ask=ask,
        update=lambda key, state, feedback: (state, {}),
        decide=lambda key, state, score: region.sample(host_rng(key), 1)[0],
        timetable=lambda num_steps, steps_per_epoch: Timetable(num_steps, 1),
    )
