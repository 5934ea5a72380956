"""Scoring many sub-networks of one super-net on the same images."""

from jaxnas.evaluation.evaluator import BNMode, Evaluator, Strategy, make_evaluator
from jaxnas.evaluation.meshes import make_mesh, replicated
from jaxnas.evaluation.per_image import cross_entropy, is_correct
from jaxnas.evaluation.planning import Plan
from jaxnas.evaluation.population import Population, host_calls, work
from jaxnas.evaluation.route import ordered_map
from jaxnas.evaluation.scores import Scores, merits

__all__ = [
    "BNMode",
    "Evaluator",
    "Plan",
    "Population",
    "Scores",
    "Strategy",
    "cross_entropy",
    "host_calls",
    "is_correct",
    "make_evaluator",
    "make_mesh",
    "merits",
    "ordered_map",
    "replicated",
    "work",
]
