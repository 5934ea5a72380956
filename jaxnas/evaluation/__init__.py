"""Scoring many sub-networks of one super-net on the same images."""

from jaxnas.evaluation.evaluator import Batch, Scores, make_evaluator, measure, ordered_map
from jaxnas.evaluation.per_image import cross_entropy, is_correct
from jaxnas.evaluation.planning import Plan, candidate_macs, work

__all__ = [
    "Batch",
    "Plan",
    "Scores",
    "candidate_macs",
    "cross_entropy",
    "is_correct",
    "make_evaluator",
    "measure",
    "ordered_map",
    "work",
]
