"""The contract of search policies, which learn where to search while the shared weights train.

    policy = POLICIES["enas"](supernet)
    state = policy.init(key)
    archs = policy.ask(key, state)
    state, terms = policy.update(key, state, Rewards(archs, accuracies))
    arch = policy.decide(key, state, score)

A policy runs on the host and compiles what it repeats; its state is one tree of arrays, and what it does depends on
key and state alone. `policies.make_search_training` lets it learn from shared weights, `policies.feed` from a table.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import chex
import numpy as np

from jaxnas.costs import Limit
from jaxnas.search.regions import Region
from jaxnas.supernets import Supernet

Terms = dict[str, float]  # what an update reports, by name
ScoreFn = Callable[[np.ndarray], np.ndarray]  # archs int32 [num_archs, num_choices] -> [num_archs], higher is better
Drawing = Callable[[chex.PRNGKey, Any], Any]  # key, state -> what is proposed


class Rewards(NamedTuple):
    """Feedback on codes, from shared weights or from a table."""

    archs: np.ndarray  # int32 [num_archs, num_choices]
    rewards: np.ndarray  # float [num_archs], higher is better; accuracies as fractions


class Gradients(NamedTuple):
    """Feedback on a mixture."""

    alphas: Any  # the derivatives of the validation loss, a tree like `state.alphas`
    loss: chex.Array  # nats
    curvature: Any = None  # the diagonal of the Gauss-Newton matrix, like `alphas`; where a policy asks for it


class Timetable(NamedTuple):
    """When a policy is updated, in steps of the shared weights."""

    first: int  # no update before so many steps
    every: int  # steps from one round of updates to the next, at least 1
    updates: int = 1  # in each round

    def due(self, steps: int) -> int:
        """How many updates follow on the first so many steps."""
        return self.updates if steps > self.first and (steps - self.first) % self.every == 0 else 0

    def done(self, steps: int) -> int:
        """How many updates there were after so many steps."""
        return self.updates * (max(0, steps - self.first) // self.every)


class Policy(NamedTuple):
    """A search policy.

    Attributes:
      name: as `POLICIES` has it.
      supernet: whose space it searches.
      init: key -> state, a tree of arrays.
      propose: (key, state) -> what the shared weights train on in a step: codes int32 [num_archs, num_choices], or
        weights float [1, num_places, max(num_candidates)] or `Drawn` with such an axis in front.
      ask: (key, state) -> codes int32 [num_asked, num_choices] to be judged next. Codes of a mixture are draws from it.
      update: (key, state, feedback) -> (state, terms): the only writer. Feedback is `Rewards` of what was asked, or
        where there is `relax`, also `Gradients`.
      decide: (key, state, score) -> the code int32 [num_choices] that the search ends with; `score` is asked by
        policies that compare some codes in the end. Of equals the first.
      timetable: (num_steps, steps_per_epoch) -> when to update, as published.
      terms: the names of the terms that `update` returns.
      relax: of mixtures, (key, state) -> weights float [num_places, max(num_candidates)] or `Drawn`, pure and
        differentiable with respect to `state.alphas`; None: the policy proposes codes.
      unrolled: whether the validation loss is to be that after one more step of the weights.
      curvature_every: updates from one curvature to the next; 0: none is wanted.
      prefer: (state, archs int32 [num_archs, num_choices]) -> float [num_archs], higher for what the policy would
        rather end with, by what it has learnt alone: the log-probability of a code, or of a mixture the sum over places
        of the merit of what the code takes there; None: it has no opinion of single codes.
    """

    name: str
    supernet: Supernet
    init: Callable[[chex.PRNGKey], Any]
    propose: Drawing
    ask: Callable[[chex.PRNGKey, Any], np.ndarray]
    update: Callable[[chex.PRNGKey, Any, Rewards | Gradients], tuple[Any, Terms]]
    decide: Callable[[chex.PRNGKey, Any, ScoreFn], np.ndarray]
    timetable: Callable[[int, int], Timetable]
    terms: tuple[str, ...] = ()
    relax: Drawing | None = None
    unrolled: bool = False
    curvature_every: int = 0
    prefer: Callable[[Any, np.ndarray], np.ndarray] | None = None


class PolicyFactory(Protocol):
    """What `POLICIES` holds: from a super-net and a limit to a policy; settings by keyword, each with a default."""

    def __call__(self, supernet: Supernet, limit: Limit | None = None, *args: Any, **settings: Any) -> Policy: ...


def feasible_region(supernet: Supernet, limit: Limit | None) -> Region:
    """What the limit leaves of the space; a ValueError where that is nothing, with the smallest cost there is."""
    region = Region(supernet.space, limit)
    region.sample(np.random.default_rng(0), 1)
    return region


def best_of(archs: np.ndarray, score: ScoreFn) -> np.ndarray:
    """The architecture [num_choices] with the highest score; of equals the first. A ValueError for scores that aren't
    numbers."""
    scores = np.asarray(score(archs), np.float64)
    if scores.shape != (len(archs),) or np.isnan(scores).any():
        raise ValueError(
            f"the scores of {len(archs)} architectures came as shape {scores.shape} with {np.isnan(scores).sum()} NaN,"
            " expected a number for each."
        )
    return archs[int(np.argmax(scores))]
