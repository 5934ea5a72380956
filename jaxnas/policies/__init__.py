"""Search policies, which learn where to search while the super-net trains, by name: `POLICIES[name](supernet)`."""

import functools

from jaxnas.policies._bayesnas import bayesnas
from jaxnas.policies._darts import darts
from jaxnas.policies._enas import enas
from jaxnas.policies._fbnet import fbnet
from jaxnas.policies._gdas import gdas
from jaxnas.policies._nao import NaoPool, NaoTraining, nao
from jaxnas.policies._pc_darts import pc_darts
from jaxnas.policies._random import random_policy
from jaxnas.policies._reinforce import reinforce
from jaxnas.policies.feeding import Fed, feed
from jaxnas.policies.learning import Searcher, SearchTraining, make_search_training
from jaxnas.policies.policy import Gradients, Policy, PolicyFactory, Rewards, Timetable

POLICIES: dict[str, PolicyFactory] = {
    "random": random_policy,
    "enas": enas,
    "reinforce": reinforce,
    "darts": darts,
    "darts_second_order": functools.partial(darts, unrolled=True),
    "gdas": gdas,
    "pc_darts": pc_darts,
    "fbnet": fbnet,
    "bayesnas": bayesnas,
    "nao": nao,
}

__all__ = [
    "POLICIES",
    "Fed",
    "Gradients",
    "NaoPool",
    "NaoTraining",
    "Policy",
    "PolicyFactory",
    "Rewards",
    "SearchTraining",
    "Searcher",
    "Timetable",
    "bayesnas",
    "darts",
    "enas",
    "fbnet",
    "feed",
    "gdas",
    "make_search_training",
    "nao",
    "pc_darts",
    "random_policy",
    "reinforce",
]
