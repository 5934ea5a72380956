"""Searches for the best feasible architecture, by name: `SEARCHES[name](space, limit)`; and PC-NAS, which trains."""

from jaxnas.search._evolution import evolution
from jaxnas.search._pcnas import Extension, Pcnas, PcnasState, pcnas
from jaxnas.search._spos import spos
from jaxnas.search.random import random_search
from jaxnas.search.search import Search, SearchFactory, SearchState, host_rng

SEARCHES: dict[str, SearchFactory] = {"random": random_search, "evolution": evolution, "spos": spos}

__all__ = [
    "SEARCHES",
    "Extension",
    "Pcnas",
    "PcnasState",
    "Search",
    "SearchFactory",
    "SearchState",
    "evolution",
    "host_rng",
    "pcnas",
    "random_search",
    "spos",
]
