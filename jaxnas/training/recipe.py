"""How one network is trained from scratch: recipes, what they ask of the optimiser, the weights that it ends with."""

from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from jaxnas.checks import number, whole
from jaxnas.supernets import Params, Stats
from jaxnas.training.step import sgd


class Recipe(NamedTuple):
    """How a network is trained alone: SGD with momentum and cosine decay to zero; crop and flip on device.

    `RECIPES` has those that are known by a name.
    """

    num_epochs: int
    batch_size: int
    learning_rate: float
    momentum: float = 0.9
    weight_decay: float = 0.0
    clip_norm: float | None = 5.0
    crop: int = 0  # pixels of padding
    flip: bool = False
    num_warm_up_epochs: int = 0  # in which the learning rate grows linearly from zero
    label_smoothing: float = 0.0  # share of the target spread over all classes
    average: float = (
        0.0  # share of the old value in the average of weights that the network ends with; 0: the last ones
    )


RECIPES = {
    # Settings usual for networks of MobileNetV2's size on ImageNet, chosen here: those of PC-NAS are not to be had.
    "imagenet": Recipe(
        num_epochs=240,
        batch_size=1024,
        learning_rate=0.5,
        weight_decay=4e-5,
        clip_norm=None,
        flip=True,
        num_warm_up_epochs=5,
        label_smoothing=0.1,
        average=0.9999,
    ),
    # The same for images of CIFAR's size, a few minutes of two cores.
    "small": Recipe(
        num_epochs=30,
        batch_size=64,
        learning_rate=0.1,
        weight_decay=5e-4,
        crop=1,
        num_warm_up_epochs=2,
        label_smoothing=0.1,
        average=0.999,
    ),
}


class Weights(NamedTuple):
    """A trained network, on the host; `jaxnas.export.export` takes both."""

    params: Params
    stats: Stats | None  # layer -> [2, size], by which its test images were normalised; None of text


class AverageState(NamedTuple):
    """The weight average of an optimiser that keeps one."""

    count: chex.Array  # int32, number of steps
    average: Any  # as the parameters


def make_optimiser(recipe: Recipe, num_steps: int, *, steps_per_epoch: int) -> optax.GradientTransformation:
    """The optimiser of a training of `num_steps`; its state holds the weight average, if there is one.

    Raises:
      ValueError: a setting out of range, or a warm-up that is longer than the training.
    """
    number("label_smoothing", recipe.label_smoothing, 0, below=1)
    average = number("average", recipe.average, 0, below=1)
    epochs = whole("num_warm_up_epochs", recipe.num_warm_up_epochs)
    if epochs * steps_per_epoch >= num_steps:
        raise ValueError(f"num_warm_up_epochs is {epochs}, expected fewer than the {recipe.num_epochs} of the recipe.")
    tx = sgd(
        recipe.learning_rate,
        num_steps=num_steps,
        num_warm_up_steps=epochs * steps_per_epoch,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
        clip_norm=recipe.clip_norm,
    )
    return optax.chain(tx, averaging(average)) if average else tx


def averaging(decay: float) -> optax.GradientTransformation:
    """Leave updates as they are, and keep an exponential average of the parameters that they lead to: the last part of
    a chain. After n steps the old value's share is min(decay, n / (9 + n)): little is left of the first ones."""

    def init(params: Any) -> AverageState:
        return AverageState(jnp.zeros((), jnp.int32), jax.tree.map(jnp.array, params))

    def update(updates: Any, state: AverageState, params: Any = None) -> tuple[Any, AverageState]:
        count = state.count + 1
        steps = count.astype(jnp.float32)
        share = jnp.minimum(decay, steps / (9.0 + steps))

        def one(old: chex.Array, param: chex.Array, change: chex.Array) -> chex.Array:
            kept = share.astype(old.dtype)
            return kept * old + (1 - kept) * (param + change)

        return updates, AverageState(count, jax.tree.map(one, state.average, params, updates))

    return optax.GradientTransformation(init, update)


def final_params(recipe: Recipe, params: Any, opt_state: Any) -> Any:
    """The parameters that a training ends with: the average, if the recipe keeps one."""
    return opt_state[-1].average if recipe.average else params


def separate(stacked: Weights) -> list[list[Weights]]:
    """Weights with leading axes of architectures and seeds, one by one."""
    num_archs, num_seeds = jax.tree.leaves(stacked.params)[0].shape[:2]

    def at(row: int, seed: int) -> Weights:
        return jax.tree.map(lambda leaf: leaf[row, seed], stacked)

    return [[at(row, seed) for seed in range(num_seeds)] for row in range(num_archs)]
