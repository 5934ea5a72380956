"""A training step of one sub-network in PyTorch, from the same weights: what `benchmarks.train_step` is compared with.

Clipped gradients, coupled weight decay, SGD with momentum, as ours; losses equal ours. Of the learning rate's cosine
nothing is seen in so few steps, so that it stays. In bfloat16 by autocast, which keeps the weights in float32 as we do.

- `torch_eager`: as published code does it, eager and in the default memory layout.
- `torch_best`: channels_last, layers through torch.compile, and on a GPU the whole step replayed as one CUDA graph.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import torch
import torch.nn.functional as F

from benchmarks.peer_torch import Replayed, make_peer, to_torch
from benchmarks.steps import CLIP_NORM, LEARNING_RATE, MOMENTUM, WEIGHT_DECAY
from jaxnas.supernets import Supernet


class PeerStep:
    """Calls a step, and waits for it; `loss` is that of the step before."""

    def __init__(self, step: Callable[[], torch.Tensor], wait: Callable[[], Any]):
        self.step, self.wait = step, wait
        self.loss: float = float("nan")

    def __call__(self) -> None:
        loss = self.step()
        self.wait()
        self.loss = float(loss)


def make_peer_step(supernet: Supernet, route: str, code: np.ndarray, batch: Any, dtype: str) -> PeerStep:
    """The step of route "torch_eager" or "torch_best", on the device that JAX computes on.

    Args:
      code: int [num_choices], the path.
      batch: images float [num_images, height, width, channels] and labels int [num_images].
      dtype: "float32" or "bfloat16", of activations and products.
    """
    best, device = route == "torch_best", "cpu" if jax.default_backend() == "cpu" else "cuda"
    params = supernet.init(jax.random.key(0))
    peer = make_peer(supernet, params, channels_last=best, compiled=best, device=device).train()
    x = to_torch(batch["images"], channels_last=best, device=device)
    y = torch.tensor(np.asarray(batch["labels"]), dtype=torch.int64, device=device)
    optimiser = torch.optim.SGD(peer.parameters(), LEARNING_RATE, MOMENTUM, weight_decay=WEIGHT_DECAY)
    path = [int(op) for op in code]
    casts = {"device_type": device, "dtype": torch.bfloat16, "enabled": dtype == "bfloat16", "cache_enabled": not best}

    def step() -> torch.Tensor:
        optimiser.zero_grad(set_to_none=True)
        with torch.autocast(**casts):
            logits = peer(path, x)
        loss = F.cross_entropy(logits.float(), y)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(peer.parameters(), CLIP_NORM)
        optimiser.step()
        return loss.detach()

    if device == "cpu":
        return PeerStep(step, lambda: None)
    return PeerStep(Replayed(step, num_warm_up=3) if best else step, torch.cuda.synchronize)
