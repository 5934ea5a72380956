"""Candidates on a part of the channels (PC-DARTS, Xu et al., ICLR 2020, arXiv 1907.05737)."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np

from jaxnas.ops.normalisation import Tape
from jaxnas.ops.operation import Cost, Operation, OpParams


@dataclasses.dataclass(frozen=True)
class PartialChannels(Operation):
    """The first of `num_parts` equal parts of the channels through `inside`, the others past it; then the parts are
    interleaved, so that other channels come first in the next candidate.

    What passes by is max-pooled (2x2) where the candidate halves the image. All candidates of an edge let the same
    channels pass, so that their sum under weights that add up to one is the published mixed operation.

    Attributes:
      inside: of as many channels, in and out, as a part has.
      stride: that of `inside`, 1 or 2.
    """

    inside: Operation
    num_parts: int
    stride: int = 1

    def init(self, key: chex.PRNGKey, x: chex.Array, tape: Tape) -> OpParams:
        return self.inside.init(key, x[..., : self._part(x.shape[-1])], tape)

    def apply(self, params: OpParams, x: chex.Array, tape: Tape) -> chex.Array:
        part = self._part(x.shape[-1])
        first, rest = self.inside.apply(params, x[..., :part], tape), x[..., part:]
        if self.stride == 2:
            lowest = np.array(-np.inf, x.dtype)  # no array of JAX's: inside a loop it would hide that this is a maximum
            rest = jax.lax.reduce_window(rest, lowest, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "SAME")
        whole = jnp.concatenate([first, rest], axis=-1)
        parts = whole.reshape(*whole.shape[:-1], self.num_parts, part)
        return parts.swapaxes(-1, -2).reshape(whole.shape)

    def cost(self, in_shape: tuple[int, ...]) -> Cost | None:
        return self.inside.cost((*in_shape[:-1], self._part(in_shape[-1])))

    def _part(self, channels: int) -> int:
        if channels % self.num_parts:
            raise ValueError(
                f"partial_channels: {channels} channels don't divide into {self.num_parts} parts; choose a width that"
                " does."
            )
        return channels // self.num_parts
