"""Samplers of training populations, by name: `SAMPLERS[name](space, num_archs=...)`; `restricted` wants to be told
which part of the space besides."""

from jaxnas.samplers.fair import fair
from jaxnas.samplers.restricted import check_allowed, restricted
from jaxnas.samplers.sampler import Sampler
from jaxnas.samplers.uniform import uniform

SAMPLERS = {"uniform": uniform, "fair": fair}

__all__ = ["SAMPLERS", "Sampler", "check_allowed", "fair", "restricted", "uniform"]
