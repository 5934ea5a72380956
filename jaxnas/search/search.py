"""The contract of searches, and what they share: one state, one way to meet a limit, one way to count the budget.

    search = SEARCHES["evolution"](space, parse("macs:50e6", space))
    state = search.init(jax.random.key(0))
    while len(state.archs) < budget and len(archs := search.ask(state)):
        state = search.tell(state, archs, -evaluate(archs).loss)
    arch, score = search.best(state)

The state is the key and what was told, and an `ask` follows from it alone. So a killed search goes on from the list of
its architectures and scores, told again in one call, and ends as if it had never stopped.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import chex
import jax
import numpy as np

from jaxnas.codes import check
from jaxnas.costs import Limit
from jaxnas.search.regions import MAX_MEMBERS, Region
from jaxnas.space import SearchSpace


class SearchState(NamedTuple):
    """What a search has seen, oldest first; `len(archs)` is what it has spent.

    Attributes:
      key: uint32 [key_size], the data of the jax key that it was begun with.
      archs: int32 [num_evaluated, num_choices], all distinct and feasible.
      scores: float64 [num_evaluated], higher is better.
    """

    key: np.ndarray
    archs: np.ndarray
    scores: np.ndarray


class Search(NamedTuple):
    """A search as four pure functions on the host.

    Attributes:
      region: the feasible architectures that it stays within.
      init: key -> state.
      ask: state -> archs int32 [num_archs, num_choices] to evaluate next: feasible, distinct, none of them evaluated
        before. As many as the search's settings say; fewer where the region runs out, and none when it has. Only reads.
      tell: (state, archs, scores [num_archs]) -> state; the only writer. Architectures that were never asked for are
        taken as well. A ValueError for scores that are not finite, and for architectures told before or infeasible.
      best: state -> (arch int32 [num_choices], score), of equals the first.
    """

    region: Region
    init: Callable[[chex.PRNGKey], SearchState]
    ask: Callable[[SearchState], np.ndarray]
    tell: Callable[[SearchState, np.ndarray, np.ndarray], SearchState]
    best: Callable[[SearchState], tuple[np.ndarray, float]]


class SearchFactory(Protocol):
    """What `SEARCHES` holds: from a space and a limit to a search; settings by keyword, each with a default."""

    def __call__(self, space: SearchSpace, limit: Limit | None = None, *args: Any, **settings: Any) -> Search: ...


class Proposals:
    """The architectures of one `ask`: each one once, and none that was evaluated before."""

    def __init__(self, region: Region, state: SearchState):
        self.region = region
        self.archs: list[np.ndarray] = []
        self._seen = {code.tobytes() for code in state.archs}

    def is_new(self, archs: np.ndarray) -> np.ndarray:
        """bool [num_archs] of archs int32 [num_archs, num_choices]."""
        return np.array([code.tobytes() not in self._seen for code in archs], bool)

    def add(self, archs: np.ndarray, *, at_most: int) -> int:
        """Take the first `at_most` of the feasible and new among `archs`; return how many there were."""
        before = len(self.archs)
        for code in archs[self.region.contains(archs)]:
            if len(self.archs) - before < at_most and code.tobytes() not in self._seen:
                self._seen.add(code.tobytes())
                self.archs.append(code)
        return len(self.archs) - before

    def add_random(self, rng: np.random.Generator, num_archs: int) -> int:
        """Take `num_archs` drawn uniformly without replacement, or as many as there are; return how many."""
        if self.region.count() <= MAX_MEMBERS:
            members = self.region.members()
            members = members[self.is_new(members)]
            return self.add(members[rng.permutation(len(members))[:num_archs]], at_most=num_archs)
        missing = num_archs
        for _ in range(20):  # where many are left, the first round hardly draws one twice
            if missing:
                missing -= self.add(self.region.sample(rng, missing), at_most=missing)
        return num_archs - missing

    def stacked(self) -> np.ndarray:
        """int32 [num_archs, num_choices]."""
        return np.array(self.archs, np.int32).reshape(-1, self.region.space.num_choices)


def make_search(
    name: str,
    space: SearchSpace,
    limit: Limit | None,
    propose: Callable[[Proposals, np.random.Generator, SearchState], None],
) -> Search:
    """A search from the one function in which it differs: what it adds to the proposals, given what was told.

    Raises:
      ValueError: no architecture meets the limit.
    """
    region = Region(space, limit)
    region.sample(np.random.default_rng(0), 1)

    def init(key: chex.PRNGKey) -> SearchState:
        codes = np.zeros((0, space.num_choices), np.int32)
        return SearchState(np.asarray(jax.random.key_data(key)), codes, np.zeros(0))

    def ask(state: SearchState) -> np.ndarray:
        proposals = Proposals(region, state)
        propose(proposals, _rng(state.key, len(state.archs)), state)
        return proposals.stacked()

    def tell(state: SearchState, archs: np.ndarray, scores: np.ndarray) -> SearchState:
        codes, figures = check(space, archs), np.asarray(scores, np.float64)
        if figures.shape != (len(codes),) or not np.isfinite(figures).all():
            raise ValueError(
                f"{name}: scores of shape {figures.shape}, {np.isfinite(figures).sum()} of them finite,"
                f" expected a finite score for each of {len(codes)} architectures;"
                " `ranking.as_scores` ranks networks that diverged last."
            )
        feasible = region.contains(codes)
        if not feasible.all():
            raise ValueError(f"{name}: architecture {codes[np.argmin(feasible)].tolist()} does not meet {limit}.")
        proposals = Proposals(region, state)
        if proposals.add(codes, at_most=len(codes)) < len(codes):
            raise ValueError(f"{name}: an architecture is told twice, expected each of them once.")
        return SearchState(state.key, np.concatenate([state.archs, codes]), np.concatenate([state.scores, figures]))

    def best(state: SearchState) -> tuple[np.ndarray, float]:
        if not len(state.archs):
            raise ValueError(f"{name}: nothing has been evaluated yet.")
        row = int(np.argmax(state.scores))
        return state.archs[row], float(state.scores[row])

    return Search(region, init, ask, tell, best)


def host_rng(key: chex.PRNGKey, *steps: int) -> np.random.Generator:
    """NumPy's generator for a jax key and what is counted beneath it (numbers of 0 or more), for draws on the host."""
    return _rng(np.asarray(jax.random.key_data(key)), *steps)


def _rng(key_data: np.ndarray, *steps: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence(key_data.ravel().tolist(), spawn_key=steps))
