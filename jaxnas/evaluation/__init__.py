"""Scoring many sub-networks of one super-net on the same images."""

from jaxnas.evaluation.evaluator import BNMode, Evaluator, Population, Scores, Strategy, make_evaluator, work
from jaxnas.evaluation.per_image import cross_entropy, is_correct
from jaxnas.evaluation.planning import Plan
from jaxnas.evaluation.route import ordered_map

__all__ = [
    "BNMode",
    "Evaluator",
    "Plan",
    "Population",
    "Scores",
    "Strategy",
    "cross_entropy",
    "is_correct",
    "make_evaluator",
    "ordered_map",
    "work",
]
