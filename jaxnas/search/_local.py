"""Local search: uphill among neighbours until none is better (White, Nolen and Savani, UAI 2021, arXiv 2005.02960)."""

import numpy as np

from jaxnas.checks import whole
from jaxnas.codes import neighbours
from jaxnas.costs import Limit
from jaxnas.search.search import Proposals, Search, SearchState, host_rng, make_search
from jaxnas.space import SearchSpace

MOST_IDLE = 20  # climbs in a row that meet nothing new, until what is left is drawn at random


def local(space: SearchSpace, limit: Limit | None = None, *, num_starts: int = 10) -> Search:
    """Climb from the best of `num_starts` random architectures: evaluate all its neighbours, one operation changed, and
    go to the best of them while it is better (the paper's algorithm 1); on a summit begin anew.

    An `ask` is what is not known yet of a neighbourhood, so that an evaluator gets it in one call; infeasible
    neighbours are left out. The climbs are the same for the same key, and are followed through what was told: no place
    in them is kept.

    Raises:
      ValueError: a bad setting, or no architecture meets the limit.
    """
    num_starts = whole("local: num_starts", num_starts, 1)

    def propose(proposals: Proposals, rng: np.random.Generator, state: SearchState) -> None:
        known = dict(zip((code.tobytes() for code in state.archs), state.scores.tolist(), strict=True))
        starts, met, idle = host_rng(state.key, 0), set[bytes](), 0
        while idle < MOST_IDLE:
            idle += 1
            best: np.ndarray | None = None
            level = proposals.region.sample(starts, num_starts)
            while len(level):
                if proposals.add(level, at_most=len(level)):
                    return
                codes = {code.tobytes() for code in level}
                idle = idle if codes <= met else 0
                met |= codes
                highest = max(level, key=lambda code: known[code.tobytes()])
                if best is not None and known[highest.tobytes()] <= known[best.tobytes()]:
                    break
                best, level = highest, neighbours(space, highest)
                level = level[proposals.region.contains(level)]
        proposals.add_random(rng, num_starts)

    return make_search("local", space, limit, propose)
