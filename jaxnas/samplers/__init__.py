"""Samplers of training populations, by name: `SAMPLERS[name](space, num_archs=...)`."""

from jaxnas.samplers.distinct import distinct
from jaxnas.samplers.fair import fair
from jaxnas.samplers.sampler import Sampler
from jaxnas.samplers.uniform import listed, uniform

SAMPLERS = {"uniform": uniform, "fair": fair, "distinct": distinct}

__all__ = ["SAMPLERS", "Sampler", "distinct", "fair", "listed", "uniform"]
