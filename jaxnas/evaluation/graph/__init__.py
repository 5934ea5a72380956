"""The distinct work of a population, traced, cut into programs and run: the route "graph"."""

from jaxnas.evaluation.graph.running import make_graph_route

__all__ = ["make_graph_route"]
