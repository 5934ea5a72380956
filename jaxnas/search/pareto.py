"""Searches for a front: super-net score, MACs, parameters, latencies at once, none of which is traded for another.

    costs = functions(space, ("macs", "latency_ms"), others)          # of `jaxnas.costs`: name -> (archs -> costs)
    search = nsga2(space, parse("params:2e6", space), costs=costs)
    state = search.init(jax.random.key(0))
    while len(state.archs) < budget and len(archs := search.ask(state)):
        state = search.tell(state, archs, -evaluate(archs).loss)      # a generation, in one call of the evaluator
    front(state, costs).archs

They are `Search`es as all others: costs follow from the codes, so that scores are all that is told, and a killed search
goes on from the list of them. `front` reads the state of any search.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from jaxnas.checks import number, whole
from jaxnas.costs import CostFn, Limit, functions
from jaxnas.search.search import Proposals, Search, SearchState, make_search
from jaxnas.search.sorting import Survive, crowded, near_directions, need_pymoo, non_dominated
from jaxnas.space import SearchSpace


class Front(NamedTuple):
    """The architectures than which no other is better in one respect and as good in all others.

    Attributes:
      archs: int32 [num_archs, num_choices], the best score first.
      scores: float64 [num_archs], higher is better.
      costs: name -> float64 [num_archs], lower is better.
    """

    archs: np.ndarray
    scores: np.ndarray
    costs: dict[str, np.ndarray]


def nsga2(
    space: SearchSpace,
    limit: Limit | None = None,
    *,
    costs: Mapping[str, CostFn] | None = None,
    population_size: int = 20,
    crossover_prob: float = 0.9,
    num_mutations: float = 0.5,
) -> Search:
    """NSGA-II (Deb et al., IEEE Transactions on Evolutionary Computation 6, 2002): ranks of non-dominated fronts, and
    crowding distance where a front has to be cut.

    Each `ask` is a generation of `population_size`. The parents are so many of everything evaluated, where the paper
    takes them from the last population and its children; tournaments of two choose a mother and a father. Children that
    are infeasible or were evaluated before are dropped, ten tries for each one wanted, and random feasible
    architectures fill the generation up.

    Args:
      costs: name -> (archs int32 [num_archs, num_choices] -> costs [num_archs]), lower is better; None: MACs.
      crossover_prob: with which a child takes each choice from either parent; else all from its mother.
      num_mutations: choices that are then changed, in the mean. The paper has 1; where codes are short and no child is
        evaluated twice, fewer find more (on NAS-Bench-Macro).

    Raises:
      ValueError: pymoo isn't installed, a bad setting, or no architecture meets the limit.
    """
    settings = population_size, crossover_prob, num_mutations
    return _evolved("nsga2", space, limit, functions(space, ("macs",)) if costs is None else costs, *settings, crowded)


def nsga3(
    space: SearchSpace,
    limit: Limit | None = None,
    *,
    costs: Mapping[str, CostFn] | None = None,
    population_size: int = 40,
    crossover_prob: float = 0.9,
    num_mutations: float = 0.5,
) -> Search:
    """NSGA-III (Deb and Jain, IEEE Transactions on Evolutionary Computation 18, 2014), for three objectives and more:
    where a front has to be cut, what lies near directions stays that spread evenly. Parents are drawn from the
    survivors by lot. Arguments and all else as for `nsga2`, but `costs` None means MACs and parameters."""
    settings = population_size, crossover_prob, num_mutations
    costs = functions(space, ("macs", "params")) if costs is None else costs
    return _evolved("nsga3", space, limit, costs, *settings, near_directions(len(costs) + 1))


def _evolved(
    name: str,
    space: SearchSpace,
    limit: Limit | None,
    costs: Mapping[str, CostFn],
    population_size: int,
    crossover_prob: float,
    num_mutations: float,
    survive: Survive,
) -> Search:
    size = whole(f"{name}: population_size", population_size, 4)
    crossover_prob = number(f"{name}: crossover_prob", crossover_prob, 0, 1)
    mutation_prob = number(f"{name}: num_mutations", num_mutations, 0, space.num_choices) / space.num_choices
    num_ops = np.array(space.num_ops, np.int32)
    need_pymoo()
    if not costs:
        raise ValueError(f"{name}: no costs, expected at least one beside the score.")

    def propose(proposals: Proposals, rng: np.random.Generator, state: SearchState) -> None:
        if (missing := size - len(state.archs)) > 0:
            proposals.add_random(rng, missing)
            return
        rows, places = survive(objectives(state, costs), size, rng)
        shape = 10 * size, space.num_choices
        first, second = rng.integers(len(rows), size=(2, 2, shape[0]))
        mothers, fathers = state.archs[rows[np.where(places[first] <= places[second], first, second)]]
        mixes = (rng.random((shape[0], 1)) < crossover_prob) & (rng.random(shape) < 0.5)
        children = np.where(mixes, fathers, mothers)
        changes = (rng.random(shape) < mutation_prob) & (num_ops > 1)
        others = (children + rng.integers(1, np.maximum(num_ops, 2), shape, np.int32)) % num_ops
        proposals.add(np.where(changes, others, children), at_most=size)
        proposals.add_random(rng, size - len(proposals.archs))

    return make_search(name, space, limit, propose)


def objectives(state: SearchState, costs: Mapping[str, CostFn]) -> np.ndarray:
    """What is minimised, float64 [num_evaluated, 1 + num_costs]: minus the score, then the costs.

    Raises:
      ValueError: a cost that is not a finite number for each architecture.
    """
    columns = [-state.scores]
    for name, cost in costs.items():
        values = np.asarray(cost(state.archs), np.float64)
        if values.shape != state.scores.shape or not np.isfinite(values).all():
            raise ValueError(
                f"the {name} of {len(state.archs)} architectures came as shape {values.shape},"
                f" {np.isfinite(values).sum()} of them finite, expected a number for each."
            )
        columns.append(values)
    return np.column_stack(columns)


def front(state: SearchState, costs: Mapping[str, CostFn]) -> Front:
    """The front of all that a search has evaluated, whichever search; of architectures equal in all respects the first.

    Raises:
      ValueError: pymoo isn't installed, nothing was evaluated, or as `objectives`.
    """
    if not len(state.archs):
        raise ValueError("the front: nothing has been evaluated yet.")
    points = objectives(state, costs)
    rows = non_dominated(points)
    rows = rows[np.lexsort(points[rows].T[::-1])]
    return Front(state.archs[rows], state.scores[rows], dict(zip(costs, points[rows, 1:].T, strict=True)))
