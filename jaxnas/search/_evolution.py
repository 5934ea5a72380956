"""Regularised evolution: the oldest dies, not the worst (Real et al., AAAI 2019, arXiv 1802.01548, algorithm 1)."""

import numpy as np

from jaxnas.checks import whole
from jaxnas.codes import neighbours
from jaxnas.costs import Limit
from jaxnas.search.search import Proposals, Search, SearchState, make_search
from jaxnas.space import SearchSpace


def evolution(
    space: SearchSpace,
    limit: Limit | None = None,
    *,
    population_size: int = 100,
    tournament_size: int = 25,
    num_archs: int = 1,
) -> Search:
    """Begin with random architectures; then, child by child, mutate the winner of a tournament.

    The population is the `population_size` architectures told last. The parent is the best of `tournament_size` drawn
    from it with replacement, the child a uniformly drawn feasible neighbour of the parent (one operation changed) that
    was not evaluated before, so that no evaluation is spent twice; a random architecture where there is none. The paper
    may evaluate a code again, and mutates cells in its own ways.

    Args:
      num_archs: children per `ask`, of one population; 1 in the algorithm, hundreds of workers in the paper's runs.

    Raises:
      ValueError: a bad setting, or no architecture meets the limit.
    """
    population_size = whole("evolution: population_size", population_size, 1)
    tournament_size = whole("evolution: tournament_size", tournament_size, 1)
    num_archs = whole("evolution: num_archs", num_archs, 1)

    def propose(proposals: Proposals, rng: np.random.Generator, state: SearchState) -> None:
        if (missing := population_size - len(state.archs)) > 0:
            proposals.add_random(rng, missing)
            return
        archs, scores = state.archs[-population_size:], state.scores[-population_size:]
        for _ in range(num_archs):
            entrants = rng.integers(population_size, size=tournament_size)
            children = neighbours(space, archs[entrants[np.argmax(scores[entrants])]])
            children = children[rng.permutation(len(children))]
            if not proposals.add(children, at_most=1):
                proposals.add_random(rng, 1)

    return make_search("evolution", space, limit, propose)
