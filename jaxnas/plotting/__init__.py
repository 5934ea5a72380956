"""Pictures of results: each function takes arrays and returns a matplotlib Figure, `save_figure` writes one.

Figures are built without pyplot, so no window system is needed and nothing global changes. Colours are Okabe and Ito's
and the viridis map, which colour-blind readers can tell apart. Titles longer than a line are wrapped.
"""

from jaxnas.plotting._networks import networks
from jaxnas.plotting.curves import Panel, cost_growth, growth, panels_over_size, training_curve
from jaxnas.plotting.figure import counted, save_figure
from jaxnas.plotting.fingerprints import correlations, pictures
from jaxnas.plotting.pareto import compared_fronts, front_over_costs
from jaxnas.plotting.policies import collapse, outcomes, paired_sides
from jaxnas.plotting.rankings import forest, paired_taus, rank_scatter, tau_over_training
from jaxnas.plotting.searches import latency_scatter, narrowing, percent, regret_over_cost
from jaxnas.plotting.transfer import Boxes, detections, retrieved, transfer_scatter

__all__ = [
    "Boxes",
    "Panel",
    "collapse",
    "compared_fronts",
    "correlations",
    "cost_growth",
    "counted",
    "detections",
    "forest",
    "front_over_costs",
    "growth",
    "latency_scatter",
    "narrowing",
    "networks",
    "outcomes",
    "paired_sides",
    "paired_taus",
    "panels_over_size",
    "percent",
    "pictures",
    "rank_scatter",
    "regret_over_cost",
    "retrieved",
    "save_figure",
    "tau_over_training",
    "training_curve",
    "transfer_scatter",
]
