"""PC-NAS: a search that narrows its super-net's space while training it, under a hard limit (arXiv 1910.02543).

Weights shared by many architectures fit none of them well: the paper's "posterior fading". So the search keeps a pool
of partial architectures, decides one more choice of them at a time, and trains only on their completions:

    search = pcnas(space, parse("macs:50e6", space), pool_size=5, num_completions=100)
    state = search.init(jax.random.key(0))
    train(search.draw(state, num_warm_up_archs))                        # uniform over what is feasible
    while not search.is_complete(state):
        extension = search.ask(state)                                   # every operation of the next choice
        state = search.tell(state, extension, accuracy(extension.archs))
        train(search.draw(state, num_interval_archs))                   # completions of the pool alone
    extension = search.ask(state)                                       # the pool itself, under the final weights
    state = search.tell(state, extension, accuracy(extension.archs))
    state.pool                                                          # best first; train these from scratch

It is no `Search`: an architecture's score changes while the weights are trained, so nothing is evaluated once and for
all. Everything follows from the state, which is the key and the pool: a killed search goes on from them.

The paper's abstract and figure 1 give the algorithm; its settings (steps of warm-up and intervals, prefixes,
completions) could not be had and are chosen here. An infeasible prefix, of potential 0 in the paper, is never a
candidate; completions are drawn from the feasible ones instead of being drawn and discarded.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import chex
import jax
import numpy as np

from jaxnas.checks import array, whole
from jaxnas.costs import Limit
from jaxnas.search.regions import MAX_MEMBERS, OPEN, Region
from jaxnas.search.search import host_rng
from jaxnas.space import SearchSpace


class PcnasState(NamedTuple):
    """Where the search is.

    Attributes:
      key: uint32 [key_size], the data of the jax key that it was begun with.
      pool: int32 [num_prefixes, num_choices], partial architectures with `OPEN` where nothing is decided, best first.
      potentials: float64 [num_prefixes], the mean score of each one's completions; NaN before the first `tell`.
    """

    key: np.ndarray
    pool: np.ndarray
    potentials: np.ndarray


class Extension(NamedTuple):
    """What the next step has to score, and for which candidates.

    Attributes:
      candidates: int32 [num_candidates, num_choices]: the pool's prefixes with each operation of the next choice, where
        anything feasible begins so; the pool itself once all is decided.
      archs: int32 [num_archs, num_choices], distinct: completions of the candidates.
      owner: int [num_archs], the row of `candidates` that each completes.
      num_draws: int [num_archs], how often each was drawn.
    """

    candidates: np.ndarray
    archs: np.ndarray
    owner: np.ndarray
    num_draws: np.ndarray

    def potentials(self, scores: np.ndarray) -> np.ndarray:
        """The mean score of each candidate's draws, float64 [num_candidates], from the scores [num_archs]."""
        total = np.bincount(self.owner, self.num_draws * scores, minlength=len(self.candidates))
        return total / np.bincount(self.owner, self.num_draws, minlength=len(self.candidates))


class PopulationDraw(Protocol):
    """Architectures to train on, int32 [num_archs, num_choices]; see `Pcnas.draw`."""

    def __call__(self, state: PcnasState, num_archs: int, number: int = 0) -> np.ndarray: ...


class Pcnas(NamedTuple):
    """The search as pure functions on the host.

    Attributes:
      region: the feasible architectures; every prefix of the pool has completions there, and only those are drawn.
      order: the choices in the order in which they are decided.
      init: key -> state whose pool is one prefix, all open.
      is_complete: state -> whether every choice of the pool is decided.
      ask: state -> Extension. Only reads, and asks for the same again until told.
      tell: (state, extension, scores [num_archs], higher is better) -> state with the candidates of highest potential.
        A ValueError for scores that are not finite or not one for each architecture.
      draw: (state, num_archs, number=0) -> int32 [num_archs, num_choices], what to train on: a prefix of the pool by
        lot, completed uniformly among the feasible. Other numbers give other draws from the same pool.
      best: state -> (arch int32 [num_choices], its score); a ValueError before all is decided and scored.
    """

    region: Region
    order: tuple[int, ...]
    init: Callable[[chex.PRNGKey], PcnasState]
    is_complete: Callable[[PcnasState], bool]
    ask: Callable[[PcnasState], Extension]
    tell: Callable[[PcnasState, Extension, np.ndarray], PcnasState]
    draw: PopulationDraw
    best: Callable[[PcnasState], tuple[np.ndarray, float]]


def pcnas(
    space: SearchSpace,
    limit: Limit | None = None,
    *,
    pool_size: int = 5,
    num_completions: int = 100,
    order: Sequence[int] | None = None,
) -> Pcnas:
    """Build the search.

    Args:
      pool_size: prefixes kept after each step; fewer where fewer are feasible.
      num_completions: drawn uniformly for each candidate. One that has no more than that is
        scored by all of them, each once.
      order: a permutation of the choices; None: from the first to the last, in which prefixes are shared computation
        in evaluation's graph.

    Raises:
      ValueError: a bad setting, or no architecture meets the limit.
    """
    pool_size = whole("pcnas: pool_size", pool_size, 1)
    num_completions = whole("pcnas: num_completions", num_completions, 1, MAX_MEMBERS)
    given = range(space.num_choices) if order is None else order
    chosen = tuple(array("pcnas: order", tuple(given), (None,), "integer").tolist())
    if sorted(chosen) != list(range(space.num_choices)):
        raise ValueError(
            f"pcnas: order is {list(chosen)}, expected each of the choices 0..{space.num_choices - 1} once."
        )
    region = Region(space, limit)
    region.sample(np.random.default_rng(0), 1)  # raises where nothing is feasible

    def init(key: chex.PRNGKey) -> PcnasState:
        data = np.asarray(jax.random.key_data(key))
        return PcnasState(data, np.full((1, space.num_choices), OPEN, np.int32), np.full(1, np.nan))

    def num_decided(state: PcnasState) -> int:
        return int((state.pool[0] != OPEN).sum())

    def is_complete(state: PcnasState) -> bool:
        return num_decided(state) == space.num_choices

    def ask(state: PcnasState) -> Extension:
        candidates, decided = _distinct(state.pool), num_decided(state)
        if not is_complete(state):
            choice = chosen[decided]
            candidates = np.repeat(candidates, space.num_ops[choice], axis=0)
            candidates[:, choice] = np.arange(len(candidates)) % space.num_ops[choice]
            candidates = candidates[[region.count(candidate) > 0 for candidate in candidates]]
        rng = host_rng(state.key, 0, decided)
        parts = [completions(rng, candidate) for candidate in candidates]
        archs, num_draws = (np.concatenate(column) for column in zip(*parts, strict=True))
        owner = np.repeat(np.arange(len(candidates)), [len(part[0]) for part in parts])
        return Extension(candidates, archs, owner, num_draws)

    def completions(rng: np.random.Generator, candidate: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Distinct completions, and how often each is drawn."""
        if region.count(candidate) <= num_completions:
            archs = region.members(candidate)
            return archs, np.ones(len(archs), np.int64)
        return np.unique(region.sample(rng, num_completions, candidate), axis=0, return_counts=True)

    def tell(state: PcnasState, extension: Extension, scores: np.ndarray) -> PcnasState:
        figures = np.asarray(scores, np.float64)
        if figures.shape != extension.owner.shape or not np.isfinite(figures).all():
            raise ValueError(
                f"pcnas: scores of shape {figures.shape}, {np.isfinite(figures).sum()} of them finite,"
                f" expected a finite score for each of {len(extension.owner)} architectures;"
                " `ranking.as_scores` ranks networks that diverged last."
            )
        potentials = extension.potentials(figures)
        kept = np.argsort(-potentials, kind="stable")[:pool_size]
        return PcnasState(state.key, extension.candidates[kept], potentials[kept])

    def draw(state: PcnasState, num_archs: int, number: int = 0) -> np.ndarray:
        rng = host_rng(state.key, 1, num_decided(state), number)
        drawn = rng.integers(len(state.pool), size=num_archs)
        archs = state.pool[drawn]
        for row, prefix in enumerate(state.pool):
            of_row = np.flatnonzero(drawn == row)
            archs[of_row] = region.sample(rng, len(of_row), prefix)
        return archs

    def best(state: PcnasState) -> tuple[np.ndarray, float]:
        if not is_complete(state) or not np.isfinite(state.potentials).all():
            raise ValueError(f"pcnas: {num_decided(state)} of {space.num_choices} choices are decided; go on.")
        return state.pool[0], float(state.potentials[0])

    return Pcnas(region, chosen, init, is_complete, ask, tell, draw, best)


def _distinct(rows: np.ndarray) -> np.ndarray:
    """The rows without repetitions, in the order of their first occurrence."""
    _, first = np.unique(rows, axis=0, return_index=True)
    return rows[np.sort(first)]
