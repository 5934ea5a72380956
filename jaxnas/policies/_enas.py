"""ENAS: a recurrent controller (Pham et al., ICML 2018, arXiv 1802.03268), with the settings of NATS-Bench."""

from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxnas.checks import number, whole
from jaxnas.costs import Limit
from jaxnas.policies.controller import Learning, make_controller
from jaxnas.policies.drawing import Chain
from jaxnas.policies.policy import Policy, Timetable
from jaxnas.policies.tokens import token_numbers
from jaxnas.space import SearchSpace
from jaxnas.supernets import Supernet

SCALE = 0.1  # of the uniform draws of all parameters


class Controller(nn.Module):
    """A stack of LSTM cells, one step a choice: from the operation before, embedded, to logits of the next.

    Choices with the same candidates share their embeddings and outputs.
    """

    space: SearchSpace
    num_layers: int
    hidden_size: int
    temperature: float
    tanh_constant: float

    @nn.compact
    def __call__(self, carry: Any, op: chex.Array, choice: chex.Array) -> tuple[Any, chex.Array]:
        numbers = token_numbers(self.space)
        uniform = nn.initializers.uniform(2 * SCALE)

        def init(key: chex.PRNGKey, shape: tuple[int, ...], dtype: Any = jnp.float32) -> chex.Array:
            return uniform(key, shape, dtype) - SCALE

        num_tokens = int(numbers.max()) + 1
        embeddings = self.param("embeddings", init, (num_tokens, self.hidden_size))
        begin = self.param("begin", init, (self.hidden_size,))
        before = embeddings[jnp.asarray(numbers)[jnp.maximum(choice - 1, 0), op]]
        x = jnp.where(choice == 0, begin, before)
        states = []
        for layer in range(self.num_layers):
            cell = nn.LSTMCell(
                self.hidden_size, kernel_init=init, recurrent_kernel_init=init, bias_init=init, name=f"lstm{layer}"
            )
            state, x = cell(carry[layer], x)
            states.append(state)
        logits = nn.Dense(num_tokens, kernel_init=init, bias_init=init, name="out")(x)[jnp.asarray(numbers)[choice]]
        return states, self.tanh_constant * jnp.tanh(logits / self.temperature)


def enas(
    supernet: Supernet,
    limit: Limit | None = None,
    *,
    learning_rate: float = 1e-3,
    num_layers: int = 2,
    hidden_size: int = 32,
    temperature: float = 5.0,
    tanh_constant: float = 2.5,
    num_asked: int = 20,
    num_updates: int = 50,
    baseline_decay: float = 0.99,
    entropy_weight: float = 1e-4,
    clip_norm: float = 5.0,
    num_final: int = 100,
    num_archs: int = 1,
) -> Policy:
    """An LSTM draws a code choice by choice and follows the reward by Adam.

    The settings are those of AutoDL-Projects (exps/NATS-algos): after each epoch of the weights so many updates, each
    of the mean over so many codes; of the codes drawn in the end the best is taken. There each code is judged on a
    batch of its own, here all of an update on one batch. Eval-nas has on NAS-Bench-101: one layer of 64, learning rate
    0.0035, tanh_constant 1.1, 30 updates of 10 codes, a baseline that begins anew each epoch, and attention over the
    wiring.

    Args:
      temperature, tanh_constant: logits are tanh_constant * tanh(logits / temperature).
      num_asked, baseline_decay, entropy_weight, num_final: see `controller.Learning`.
      num_updates: after each epoch of the weights.
      num_archs: architectures of a weight step.

    Raises:
      ValueError: a bad setting, or no architecture meets the limit.
    """
    for name, count in (("num_layers", num_layers), ("hidden_size", hidden_size), ("num_updates", num_updates)):
        whole(f"enas: {name}", count, 1)
    positive = {"learning_rate": learning_rate, "temperature": temperature, "tanh_constant": tanh_constant}
    for name, value in (positive | {"clip_norm": clip_norm}).items():
        number(f"enas: {name}", value, above=0)
    module = Controller(supernet.space, num_layers, hidden_size, temperature, tanh_constant)
    zeros = [(jnp.zeros(hidden_size), jnp.zeros(hidden_size))] * num_layers
    first = np.zeros((), np.int32)
    return make_controller(
        "enas",
        supernet,
        limit,
        Chain(
            start=lambda params: zeros,
            step=module.apply,
        ),
        jax.jit(lambda key: module.init(key, zeros, first, first)),
        optax.chain(optax.clip_by_global_norm(clip_norm), optax.adam(learning_rate, eps=1e-3)),
        Learning(num_asked, baseline_decay, entropy_weight, num_final),
        lambda num_steps, steps_per_epoch: Timetable(0, steps_per_epoch, num_updates),
        num_archs=num_archs,
    )
