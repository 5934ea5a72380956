"""Searches for the best feasible architecture, by name: `SEARCHES[name](space, limit)`; and PC-NAS, which trains."""

from jaxnas.search._evolution import evolution
from jaxnas.search._local import local
from jaxnas.search._pcnas import Extension, Pcnas, PcnasState, pcnas
from jaxnas.search._spos import spos
from jaxnas.search.optuna import optuna_search
from jaxnas.search.pareto import Front, front, nsga2, nsga3
from jaxnas.search.random import random_search
from jaxnas.search.search import Search, SearchFactory, SearchState, host_rng

SEARCHES: dict[str, SearchFactory] = {
    "random": random_search,
    "evolution": evolution,
    "spos": spos,
    "local": local,
    "nsga2": nsga2,
    "nsga3": nsga3,
    "optuna": optuna_search,
}

__all__ = [
    "SEARCHES",
    "Extension",
    "Front",
    "Pcnas",
    "PcnasState",
    "Search",
    "SearchFactory",
    "SearchState",
    "evolution",
    "front",
    "host_rng",
    "local",
    "nsga2",
    "nsga3",
    "optuna_search",
    "pcnas",
    "random_search",
    "spos",
]
