"""One architecture trained from scratch, step by step: for a training that is long enough to be killed and to go on.

`make_standalone` trains many small networks in one call; here a step is one call on a batch, wherever that comes from,
and the state is one that `jaxnas.runs.resumable` keeps.
"""

from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from jaxnas.codes import check
from jaxnas.evaluation import cross_entropy, is_correct
from jaxnas.supernets import Params, Supernet, only
from jaxnas.training.losses import Batch, check_batch
from jaxnas.training.preprocess import Preprocess
from jaxnas.training.recipe import Recipe, final_params, make_optimiser
from jaxnas.training.step import TrainState, TrainStep, descend, plain_key, typed_key


class Retraining(NamedTuple):
    """How one architecture is trained.

    Attributes:
      init: key -> a fresh state.
      step: as `make_train_step` gives it, with metrics `loss`, `accuracy` and `grad_norm`.
      params: state -> what the network has learnt, the weight average if the recipe keeps one.
    """

    init: Callable[[chex.PRNGKey], TrainState]
    step: TrainStep
    params: Callable[[TrainState], Params]


def make_retraining(
    supernet: Supernet,
    arch: chex.ArrayNumpy,
    recipe: Recipe,
    *,
    num_steps: int,
    steps_per_epoch: int,
    preprocess: Preprocess,
) -> Retraining:
    """The training of one architecture, int [num_choices], of a super-net of images.

    Only its own operations are in the program and in the state. Batches are those of `batches`; `crop` and `flip` of
    the recipe are `preprocess`'s to do.

    Raises:
      ValueError: no such code, a setting out of range, text, or a super-net whose candidates share parameters.
    """
    if supernet.has_shared_params or supernet.recurrence is not None:
        what = "reads text" if supernet.recurrence is not None else "shares parameters among candidates"
        raise ValueError(f"{supernet.space.name}: this super-net {what}; a network of images is trained alone.")
    code = tuple(int(op) for op in check(supernet.space, jnp.asarray(arch)[None])[0])
    tx = make_optimiser(recipe, num_steps, steps_per_epoch=steps_per_epoch)

    @jax.jit
    def init(key: chex.PRNGKey) -> TrainState:
        params_key, run_key = jax.random.split(key)
        params = only(supernet, supernet.init(params_key), code)
        return TrainState(jnp.zeros((), jnp.int32), params, tx.init(params), (), {}, plain_key(run_key))

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, chex.Array]]:
        stored, labels = check_batch(batch, "train")
        images = preprocess(jax.random.fold_in(typed_key(state.key), state.step), stored)

        def loss_fn(params: Params) -> tuple[chex.Array, chex.Array]:
            logits, _ = supernet.apply(params, code, images, groups=None)
            loss = cross_entropy(logits, labels, label_smoothing=recipe.label_smoothing).mean()
            return loss, is_correct(logits, labels).mean()

        (loss, accuracy), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
        params, opt_state = descend(tx, grads, state.opt_state, state.params)
        metrics = {"loss": loss, "accuracy": accuracy, "grad_norm": optax.tree.norm(grads)}
        return state._replace(step=state.step + 1, params=params, opt_state=opt_state), metrics

    return Retraining(
        init,
        jax.jit(step, donate_argnums=0),
        lambda state: final_params(recipe, state.params, state.opt_state),
    )
