"""The distinct work of a population, traced, cut into programs and run: the route "graph"."""

from jaxnas.evaluation.graph.running import make_graph_route
from jaxnas.evaluation.graph.tracing import why_untraceable

__all__ = ["make_graph_route", "why_untraceable"]
