"""Weight-sharing neural architecture search in JAX: the names that most programs begin with. The rest is in the rooms:
`jaxnas.arch`, `metrics`, `costs`, `tables`, `datasets`, `plotting`, `limits`, `regions`, `search` and so on."""

from jaxnas.arch import SearchSpace
from jaxnas.choice import choose
from jaxnas.evaluation import Scores, make_evaluator
from jaxnas.losses import cross_entropy, ranking_loss
from jaxnas.samplers import Sampler
from jaxnas.spaces import get_space
from jaxnas.standalone import make_standalone
from jaxnas.supernets import Supernet, make_supernet
from jaxnas.training import add_losses, fit, init_train_state, make_cross_entropy_loss, make_train_step

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
