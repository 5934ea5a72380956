"""Parts of recurrent networks on text: words as vectors, products with a matrix, gated activations.

They act on the last axis, whatever stands before it. Costs are those of one word.
"""

import dataclasses
from typing import Any

import chex
import jax
import jax.numpy as jnp

from jaxnas.ops.normalisation import Policy, Tape
from jaxnas.ops.operation import Algebra, Cost, Operation, OpParams

ACTIVATIONS = {"tanh": jnp.tanh, "relu": jax.nn.relu, "sigmoid": jax.nn.sigmoid, "identity": lambda h: h}


def bound(width: int) -> float:
    """Of uniform initial weights: the 0.04 of DARTS (arXiv 1806.09055) at its 850 units, larger for fewer."""
    return 0.04 * (850 / width) ** 0.5


@dataclasses.dataclass(frozen=True)
class Words(Operation):
    """A vector for each word, [num_words, width]: of the words that come in, int [..., 1], and of those that may come
    next."""

    num_words: int
    width: int
    policy: Policy

    def init(self, key: chex.PRNGKey, x: chex.Array, tape: Tape) -> OpParams:
        return {"table": _uniform(key, (self.num_words, self.width), self.width, self.policy)}

    def apply(self, params: OpParams, x: chex.Array, tape: Tape) -> chex.Array:
        return params["table"].astype(self.policy.compute)[x[..., 0].astype(jnp.int32)]

    def cost(self, in_shape: tuple[int, ...]) -> Cost:
        return Cost(float(self.num_words * self.width), float(self.num_words * self.width))


@dataclasses.dataclass(frozen=True)
class Product(Operation):
    """x [..., num_inputs] times a matrix, without a bias."""

    features: int
    policy: Policy

    def init(self, key: chex.PRNGKey, x: chex.Array, tape: Tape) -> OpParams:
        return {"matrix": _uniform(key, (x.shape[-1], self.features), self.features // 2, self.policy)}

    def apply(self, params: OpParams, x: chex.Array, tape: Tape) -> chex.Array:
        return x.astype(self.policy.compute) @ params["matrix"].astype(self.policy.compute)

    def cost(self, in_shape: tuple[int, ...]) -> Cost:
        size = float(in_shape[-1] * self.features)
        return Cost(size, size)


@dataclasses.dataclass(frozen=True)
class Gated(Operation):
    """Of a state and what gate and candidate are made of, x [..., 3 * width] side by side: the state, moved by the gate
    towards the activation of the candidate; zeros for "none"."""

    activation: str

    def init(self, key: chex.PRNGKey, x: chex.Array, tape: Tape) -> OpParams:
        return {}

    def apply(self, params: OpParams, x: chex.Array, tape: Tape) -> chex.Array:
        state, gate, candidate = jnp.split(x, 3, axis=-1)
        if self.activation == "none":
            return jnp.zeros_like(state)
        return state + jax.nn.sigmoid(gate) * (ACTIVATIONS[self.activation](candidate) - state)

    def algebra(self, in_channels: int) -> Algebra:
        return "zero" if self.activation == "none" else "any"

    def cost(self, in_shape: tuple[int, ...]) -> Cost:
        return Cost(0.0, 0.0)


@dataclasses.dataclass(frozen=True)
class Bias(Operation):
    """x plus one number a feature, as float32."""

    policy: Policy

    def init(self, key: chex.PRNGKey, x: chex.Array, tape: Tape) -> OpParams:
        return {"bias": jnp.zeros(x.shape[-1], self.policy.params)}

    def apply(self, params: OpParams, x: chex.Array, tape: Tape) -> chex.Array:
        bias = jnp.expand_dims(params["bias"].astype(jnp.float32), tuple(range(x.ndim - 1)))
        return x.astype(jnp.float32) + bias

    def cost(self, in_shape: tuple[int, ...]) -> Cost:
        return Cost(0.0, float(in_shape[-1]))


def _uniform(key: chex.PRNGKey, shape: tuple[int, ...], width: int, policy: Policy) -> Any:
    return jax.random.uniform(key, shape, policy.params, -bound(width), bound(width))
