"""Samplers of training populations, by name: `SAMPLERS[name](space, num_archs=...)`; `restricted` wants to be told
which part of the space besides, `replayed` takes populations drawn elsewhere."""

from jaxnas.samplers._distinct import distinct
from jaxnas.samplers._fair import fair
from jaxnas.samplers._replayed import Replay, replay, replayed
from jaxnas.samplers._restricted import check_allowed, restricted
from jaxnas.samplers._sandwich import sandwich
from jaxnas.samplers._uniform import listed, uniform
from jaxnas.samplers.sampler import Sampler, SamplerFactory, tile_of

SAMPLERS: dict[str, SamplerFactory] = {"uniform": uniform, "fair": fair, "distinct": distinct, "sandwich": sandwich}

__all__ = [
    "SAMPLERS",
    "Replay",
    "Sampler",
    "SamplerFactory",
    "check_allowed",
    "distinct",
    "fair",
    "listed",
    "replay",
    "replayed",
    "restricted",
    "sandwich",
    "tile_of",
    "uniform",
]
