"""Weight-sharing neural architecture search in JAX: the names that most programs begin with. The rest is in the rooms:
`jaxnas.codes`, `metrics`, `costs`, `tables`, `datasets`, `plotting`, `limits`, `regions`, `search` and so on."""

from jaxnas.evaluation import Scores, cross_entropy, make_evaluator
from jaxnas.samplers import Sampler
from jaxnas.space import SearchSpace
from jaxnas.spaces import get_space
from jaxnas.supernets import Supernet, make_supernet
from jaxnas.supernets.choice import choose
from jaxnas.training import (
    add_losses,
    fit,
    init_train_state,
    make_cross_entropy_loss,
    make_standalone,
    make_train_step,
    ranking_loss,
)

__all__ = [
    "Sampler",
    "Scores",
    "SearchSpace",
    "Supernet",
    "add_losses",
    "choose",
    "cross_entropy",
    "fit",
    "get_space",
    "init_train_state",
    "make_cross_entropy_loss",
    "make_evaluator",
    "make_standalone",
    "make_supernet",
    "make_train_step",
    "ranking_loss",
]
