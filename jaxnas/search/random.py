"""Random search: the baseline that a search has to beat (Li and Talwalkar, UAI 2019, arXiv 1902.07638)."""

import numpy as np

from jaxnas.checks import whole
from jaxnas.costs import Limit
from jaxnas.search.search import Proposals, Search, SearchState, make_search
from jaxnas.space import SearchSpace


def random_search(space: SearchSpace, limit: Limit | None = None, *, num_archs: int = 50) -> Search:
    """Draw feasible architectures uniformly, without replacement.

    Args:
      num_archs: how many an `ask` returns; the order of all that are drawn depends on it.

    Raises:
      ValueError: a bad setting, or no architecture meets the limit.
    """
    num_archs = whole("random: num_archs", num_archs, 1)

    def propose(proposals: Proposals, rng: np.random.Generator, state: SearchState) -> None:
        proposals.add_random(rng, num_archs)

    return make_search("random", space, limit, propose)
