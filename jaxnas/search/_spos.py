"""The evolutionary search of single-path one-shot NAS (Guo et al., ECCV 2020, arXiv 1904.00420, algorithm 1)."""

import numpy as np

from jaxnas.checks import number, whole
from jaxnas.costs import Limit
from jaxnas.search.search import Proposals, Search, SearchState, make_search
from jaxnas.space import SearchSpace


def spos(
    space: SearchSpace,
    limit: Limit | None = None,
    *,
    population_size: int = 50,
    num_parents: int = 10,
    num_mutations: int = 25,
    num_crossovers: int = 25,
    mutation_prob: float = 0.1,
) -> Search:
    """Each `ask` is a generation: children of the best so far by mutation, then by crossover, then random ones.

    The parents are the `num_parents` best of everything evaluated. A mutation draws each choice of one parent anew with
    `mutation_prob`; a crossover takes each choice from either of two parents. Infeasible children and those evaluated
    before are dropped, ten tries for each one wanted, and random feasible architectures fill the generation up. The
    defaults are those of MMRazor's port and others; the authors' own code was not seen.

    Raises:
      ValueError: a bad setting, or no architecture meets the limit.
    """
    population_size = whole("spos: population_size", population_size, 1)
    num_parents = whole("spos: num_parents", num_parents, 1)
    num_mutations, num_crossovers = (
        whole("spos: num_mutations", num_mutations),
        whole("spos: num_crossovers", num_crossovers),
    )
    mutation_prob = number("spos: mutation_prob", mutation_prob, 0, 1)
    if num_mutations + num_crossovers > population_size:
        raise ValueError(
            f"spos: {num_mutations} mutations and {num_crossovers} crossovers must fit a population of"
            f" {population_size}."
        )

    def propose(proposals: Proposals, rng: np.random.Generator, state: SearchState) -> None:
        if len(state.archs):
            parents = state.archs[np.argsort(-state.scores, kind="stable")[:num_parents]]
            shape = 10 * num_mutations, space.num_choices
            drawn = rng.integers(0, space.num_ops, size=shape, dtype=np.int32)
            kept = parents[rng.integers(len(parents), size=len(drawn))]
            proposals.add(np.where(rng.random(shape) < mutation_prob, drawn, kept), at_most=num_mutations)
            mothers, fathers = parents[rng.integers(len(parents), size=(2, 10 * num_crossovers))]
            proposals.add(np.where(rng.random(mothers.shape) < 0.5, mothers, fathers), at_most=num_crossovers)
        proposals.add_random(rng, population_size - len(proposals.archs))

    return make_search("spos", space, limit, propose)
