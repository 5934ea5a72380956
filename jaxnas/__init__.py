"""Weight-sharing neural architecture search in JAX: the names that most programs begin with, and the rooms.

A room is an attribute (`import jaxnas; jaxnas.ranking.report`), read when it is first asked for: who draws nothing does
not wait for matplotlib.
"""

import importlib
from types import ModuleType

from jaxnas.interrupted import end_in_one_line

end_in_one_line()  # of a command; the imports below take seconds

# ruff: noqa: E402
from jaxnas.evaluation import Scores, make_evaluator
from jaxnas.samplers import Sampler
from jaxnas.space import ChainLayout, SearchSpace
from jaxnas.spaces import chain_space, get_space
from jaxnas.supernets import Supernet, make_supernet
from jaxnas.training import (
    TrainState,
    add_losses,
    fit,
    init_train_state,
    make_cross_entropy_loss,
    make_preprocess,
    make_train_step,
    ranking_loss,
    sgd,
    standardise,
)

__version__ = "0.1.0"  # the one place: pyproject.toml reads it here

ROOMS = (
    "checks", "codes", "costs", "datasets", "evaluation", "export", "files", "ops", "plotting", "policies", "ranking",
    "runs", "samplers", "search", "space", "spaces", "supernets", "tables", "training", "transfer",
)  # fmt: skip

__all__ = [
    "ChainLayout",
    "Sampler",
    "Scores",
    "SearchSpace",
    "Supernet",
    "TrainState",
    "add_losses",
    "chain_space",
    "fit",
    "get_space",
    "init_train_state",
    "make_cross_entropy_loss",
    "make_evaluator",
    "make_preprocess",
    "make_supernet",
    "make_train_step",
    "ranking_loss",
    "sgd",
    "standardise",
]


def __getattr__(name: str) -> ModuleType:
    if name in ROOMS:
        return importlib.import_module(f"jaxnas.{name}")
    raise AttributeError(f"module 'jaxnas' has no attribute {name!r}.")


def __dir__() -> list[str]:
    return sorted([*__all__, *ROOMS, "__version__"])
