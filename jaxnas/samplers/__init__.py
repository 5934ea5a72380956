"""Samplers of training populations, by name: `SAMPLERS[name](space, num_archs=...)`; `restricted` wants to be told
which part of the space besides."""

from jaxnas.samplers._distinct import distinct
from jaxnas.samplers._fair import fair
from jaxnas.samplers._restricted import check_allowed, restricted
from jaxnas.samplers._uniform import listed, uniform
from jaxnas.samplers.sampler import Sampler, tile_of

SAMPLERS = {"uniform": uniform, "fair": fair, "distinct": distinct}

__all__ = ["SAMPLERS", "Sampler", "check_allowed", "distinct", "fair", "listed", "restricted", "tile_of", "uniform"]
