"""Training: super-nets by losses over a batch of architectures, landmarks among them, and networks alone."""

from jaxnas.training import landmarks, schedules, seeds, standalone
from jaxnas.training._batches import BatchAt, batches, merge_batches
from jaxnas.training._fit import Callback, fit
from jaxnas.training._sharing import Sharing, make_logits
from jaxnas.training.losses import Aux, Batch, LossFn, add_losses, make_cross_entropy_loss, ranking_loss
from jaxnas.training.preprocess import Preprocess, make_preprocess, standardise
from jaxnas.training.recipe import RECIPES, Recipe, Weights
from jaxnas.training.retraining import Retraining, make_retraining
from jaxnas.training.standalone import Standalone, make_standalone
from jaxnas.training.step import TrainState, TrainStep, descend, init_train_state, make_train_step, sgd, track

__all__ = [
    "RECIPES",
    "Aux",
    "Batch",
    "BatchAt",
    "Callback",
    "LossFn",
    "Preprocess",
    "Recipe",
    "Retraining",
    "Sharing",
    "Standalone",
    "TrainState",
    "TrainStep",
    "Weights",
    "add_losses",
    "batches",
    "descend",
    "fit",
    "init_train_state",
    "landmarks",
    "make_cross_entropy_loss",
    "make_logits",
    "make_preprocess",
    "make_retraining",
    "make_standalone",
    "make_train_step",
    "merge_batches",
    "ranking_loss",
    "schedules",
    "seeds",
    "sgd",
    "standalone",
    "standardise",
    "track",
]
