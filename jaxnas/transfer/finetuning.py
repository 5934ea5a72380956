"""Training what stands on a backbone, and the backbone with it: one recipe for every task and every backbone."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import chex
import jax
import jax.numpy as jnp
import optax

from jaxnas.checks import number, whole
from jaxnas.training import TrainState, TrainStep, descend
from jaxnas.training.step import plain_key, typed_key

BACKBONE = "backbone"  # its parameters, beside those of what stands on it


class TaskLoss(Protocol):
    """(params, batch, key) -> (scalar to minimise, its terms by name); params are {"backbone": ..., ...}."""

    def __call__(self, params: Any, batch: Any, key: chex.PRNGKey) -> tuple[chex.Array, Mapping[str, chex.Array]]: ...


class Finetuning(NamedTuple):
    """How a task is trained.

    Attributes:
      init: (key, params) -> a fresh state.
      step: as `jaxnas.runs.resumable` takes it, with metrics `loss`, `grad_norm` and the loss's terms. The batch is
        what the loss takes.
    """

    init: Callable[[chex.PRNGKey, Any], TrainState]
    step: TrainStep


def make_finetuning(
    loss_fn: TaskLoss,
    *,
    num_steps: int,
    learning_rate: float = 1e-3,
    backbone_rate: float = 0.1,
    weight_decay: float = 1e-4,
    clip_norm: float = 5.0,
    num_warm_up_steps: int = 0,
) -> Finetuning:
    """AdamW with a linear warm-up and cosine decay to zero.

    Args:
      backbone_rate: the share of the learning rate that the backbone has, in [0, 1]; with 0 it stays as it is, and its
        gradient is not computed.

    Raises:
      ValueError: a setting out of range.
    """
    whole("num_steps", num_steps, 1)
    number("backbone_rate", backbone_rate, 0, 1)
    warm_up = whole("num_warm_up_steps", num_warm_up_steps, 0, num_steps - 1)
    schedule = optax.warmup_cosine_decay_schedule(
        0.0, number("learning_rate", learning_rate, above=0), warm_up, num_steps
    )

    def is_backbone(params: Any) -> Any:
        return {name: jax.tree.map(lambda _, name=name: name == BACKBONE, tree) for name, tree in params.items()}

    tx = optax.chain(
        optax.clip_by_global_norm(number("clip_norm", clip_norm, above=0)),
        optax.adamw(schedule, weight_decay=number("weight_decay", weight_decay, 0)),
        optax.masked(optax.scale(backbone_rate), is_backbone),
    )

    @jax.jit
    def init(key: chex.PRNGKey, params: Any) -> TrainState:
        return TrainState(jnp.zeros((), jnp.int32), params, tx.init(params), (), {}, plain_key(key))

    def step(state: TrainState, batch: Any) -> tuple[TrainState, dict[str, chex.Array]]:
        key = jax.random.fold_in(typed_key(state.key), state.step)

        def reported(params: Any) -> tuple[chex.Array, Mapping[str, chex.Array]]:
            if not backbone_rate:
                params = {**params, BACKBONE: jax.lax.stop_gradient(params[BACKBONE])}
            return loss_fn(params, batch, key)

        (loss, terms), grads = jax.value_and_grad(reported, has_aux=True)(state.params)
        params, opt_state = descend(tx, grads, state.opt_state, state.params)
        metrics = {"loss": loss, "grad_norm": optax.tree.norm(grads), **terms}
        return state._replace(step=state.step + 1, params=params, opt_state=opt_state), metrics

    return Finetuning(init, jax.jit(step, donate_argnums=0))
