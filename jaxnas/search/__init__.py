"""Searches for the best feasible architecture, by name: `SEARCHES[name](space, limit)`; and PC-NAS, which trains."""

from collections.abc import Callable

from jaxnas.search._evolution import evolution
from jaxnas.search._pcnas import Extension, Pcnas, PcnasState, pcnas
from jaxnas.search._spos import spos
from jaxnas.search.random import random_search
from jaxnas.search.search import Search, SearchState, host_rng

SEARCHES: dict[str, Callable[..., Search]] = {"random": random_search, "evolution": evolution, "spos": spos}

__all__ = [
    "SEARCHES",
    "Extension",
    "Pcnas",
    "PcnasState",
    "Search",
    "SearchState",
    "evolution",
    "host_rng",
    "pcnas",
    "random_search",
    "spos",
]
