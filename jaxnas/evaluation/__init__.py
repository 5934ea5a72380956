"""Scoring many sub-networks of one super-net on the same images."""

from jaxnas.evaluation.evaluator import Batch, Scores, make_evaluator, measure, ordered_map
from jaxnas.evaluation.per_image import cross_entropy, is_correct
from jaxnas.evaluation.planning import Plan, work

__all__ = [
    "Batch",
    "Plan",
    "Scores",
    "cross_entropy",
    "is_correct",
    "make_evaluator",
    "measure",
    "ordered_map",
    "work",
]
