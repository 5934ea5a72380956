"""Encoder, predictor and decoder of NAO, as one Flax module over one code."""

from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxnas.codes import exist
from jaxnas.policies.tokens import token_numbers
from jaxnas.space import SearchSpace


class EncoderPredictorDecoder(nn.Module):
    """An LSTM encodes a code, an MLP predicts from the embedding, an LSTM with attention decodes it.

    A code becomes `outputs`, float [num_choices, hidden_size], one vector of length one a choice; their mean, brought
    to length one, is the embedding.
    """

    space: SearchSpace
    hidden_size: int
    predictor_sizes: tuple[int, ...]
    dropout: float

    def setup(self) -> None:
        numbers = token_numbers(self.space)
        self.numbers, self.num_tokens = numbers, int(numbers.max()) + 1
        self.exists = exist(self.space.num_ops)
        self.encoder_embedding = nn.Embed(self.num_tokens, self.hidden_size)
        self.encoder = nn.RNN(nn.LSTMCell(self.hidden_size))
        self.hidden = [nn.Dense(size) for size in self.predictor_sizes]
        self.drops = [nn.Dropout(self.dropout) for _ in self.predictor_sizes]
        self.last = nn.Dense(1)
        self.decoder_embedding = nn.Embed(self.num_tokens + 1, self.hidden_size)  # and one token to begin with
        self.decoder = nn.LSTMCell(self.hidden_size)
        self.combine = nn.Dense(self.hidden_size)
        self.out = nn.Dense(self.num_tokens)

    def __call__(self, arch: chex.Array, is_training: bool) -> tuple[chex.Array, chex.Array]:
        """Of one code int32 [num_choices]: (prediction in [0, 1], negative log-likelihood of the code, decoded from its
        own encoding, per choice)."""
        outputs = self.encode(arch)
        return self.predict(outputs, is_training), self.likelihood(outputs, arch)

    def encode(self, arch: chex.Array) -> chex.Array:
        """The outputs of a code."""
        tokens = jnp.asarray(self.numbers)[jnp.arange(len(self.numbers)), arch]
        return unit(self.encoder(self.encoder_embedding(tokens)))

    def predict(self, outputs: chex.Array, is_training: bool = False) -> chex.Array:
        """The predicted score of what these outputs encode, in [0, 1]."""
        x = embed(outputs)
        for dense, drop in zip(self.hidden, self.drops, strict=True):
            x = drop(nn.relu(dense(x)), deterministic=not is_training)
        return nn.sigmoid(self.last(x))[0]

    def likelihood(self, outputs: chex.Array, arch: chex.Array) -> chex.Array:
        """The mean negative log-likelihood of the operations of a code, each given those before it."""
        carry, before, total = *self._begin(outputs), jnp.zeros(())
        for choice in range(len(self.numbers)):
            carry, logits = self._step(carry, before, outputs, choice)
            total -= jax.nn.log_softmax(logits)[arch[choice]]
            before = jnp.asarray(self.numbers)[choice, arch[choice]]
        return total / len(self.numbers)

    def decode(self, outputs: chex.Array) -> chex.Array:
        """The code int32 [num_choices] that greedy decoding makes of these outputs."""
        carry, before, ops = *self._begin(outputs), []
        for choice in range(len(self.numbers)):
            carry, logits = self._step(carry, before, outputs, choice)
            ops.append(jnp.argmax(logits).astype(jnp.int32))
            before = jnp.asarray(self.numbers)[choice, ops[-1]]
        return jnp.stack(ops)

    def _begin(self, outputs: chex.Array) -> tuple[Any, chex.Array]:
        """The decoder's state and the token before the first choice."""
        return (embed(outputs), embed(outputs)), jnp.asarray(self.num_tokens)

    def _step(self, carry: Any, before: chex.Array, outputs: chex.Array, choice: int) -> tuple[Any, chex.Array]:
        """One step of the decoder: the logits of a choice's operations, -inf where there are fewer."""
        carry, x = self.decoder(carry, self.decoder_embedding(before))
        attention = jax.nn.softmax(outputs @ x) @ outputs
        logits = self.out(nn.tanh(self.combine(jnp.concatenate([attention, x]))))[self.numbers[choice]]
        return carry, jnp.where(self.exists[choice], logits, -jnp.inf)


def unit(x: chex.Array) -> chex.Array:
    """Vectors [..., size] of length one."""
    return x / jnp.sqrt(jnp.sum(x * x, axis=-1, keepdims=True) + 1e-12)


def embed(outputs: chex.Array) -> chex.Array:
    """The embedding [hidden_size] of outputs [num_choices, hidden_size]."""
    return unit(outputs.mean(axis=0))
