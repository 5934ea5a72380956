"""Searches for the best feasible architecture, by name: `SEARCHES[name](space, limit)`."""

from jaxnas.search.evolution import evolution
from jaxnas.search.random import random_search
from jaxnas.search.search import Search, SearchState, host_rng
from jaxnas.search.spos import spos

SEARCHES = {"random": random_search, "evolution": evolution, "spos": spos}

__all__ = ["SEARCHES", "Search", "SearchState", "evolution", "host_rng", "random_search", "spos"]
