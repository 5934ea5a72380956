"""Samplers of training populations, by name: `SAMPLERS[name](space, num_archs=...)`."""

from jaxnas.samplers.fair import fair
from jaxnas.samplers.sampler import Sampler
from jaxnas.samplers.uniform import listed, uniform

SAMPLERS = {"uniform": uniform, "fair": fair}

__all__ = ["SAMPLERS", "Sampler", "fair", "listed", "uniform"]
