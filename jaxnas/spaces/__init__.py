"""The search spaces by name, each with its published layout; `space.resized(...)` gives a smaller network."""

from typing import Any

from jaxnas.checks import Text
from jaxnas.space import SearchSpace
from jaxnas.spaces._darts import darts, darts_space
from jaxnas.spaces._digits_chain import digits_chain
from jaxnas.spaces._graph_features import graph_features, pruned
from jaxnas.spaces._imported import import_space
from jaxnas.spaces._nasbench101 import enumerate_cells, nasbench101, nasbench101_space
from jaxnas.spaces._nasbench201 import nasbench201
from jaxnas.spaces._nasbench_macro import nasbench_macro
from jaxnas.spaces._nats_size import nats_size
from jaxnas.spaces._outline import Outline, outline
from jaxnas.spaces._rnn import darts_rnn, rnn32, rnn_space
from jaxnas.spaces.chain import chain_isomorphs, chain_space
from jaxnas.spaces.mobile import (
    Stage,
    mobile_large,
    mobile_large_cifar,
    mobile_small,
    mobile_small_140,
    mobile_small_cifar,
    mobile_space,
    mobilenet_v2,
)

__all__ = [
    "SPACES",
    "Outline",
    "SpaceName",
    "Stage",
    "chain_isomorphs",
    "chain_space",
    "darts",
    "darts_rnn",
    "darts_space",
    "digits_chain",
    "enumerate_cells",
    "get_space",
    "graph_features",
    "mobile_large",
    "mobile_large_cifar",
    "mobile_small",
    "mobile_small_140",
    "mobile_small_cifar",
    "mobile_space",
    "mobilenet_v2",
    "nasbench101",
    "nasbench101_space",
    "nasbench201",
    "nasbench_macro",
    "nats_size",
    "outline",
    "pruned",
    "rnn32",
    "rnn_space",
]

SPACES: dict[str, SearchSpace] = {
    "nasbench101": nasbench101,
    "nasbench101_v4": nasbench101_space(4),
    "nasbench101_v5": nasbench101_space(5),
    "nasbench101_v6": nasbench101_space(6),
    "nasbench201": nasbench201,
    "nasbench_macro": nasbench_macro,
    "darts": darts,
    "nats_size": nats_size,
    "rnn32": rnn32,
    "darts_rnn": darts_rnn,
    "digits_chain": digits_chain,
    "mobile_small": mobile_small,
    "mobile_large": mobile_large,
    "mobile_small_140": mobile_small_140,
    "mobile_small_cifar": mobile_small_cifar,
    "mobile_large_cifar": mobile_large_cifar,
}


class SpaceName:
    """A kind of value, as in `jaxnas.checks`: what `get_space` takes."""

    def __str__(self) -> str:
        return f"{', '.join(sorted(SPACES))}, or one of your own as package.module:object or file.py:object"

    def check(self, name: str, value: Any) -> str:
        get_space(Text(f"one of {self}").check(name, value))
        return value


def get_space(name: str) -> SearchSpace:
    """The space called `name`, or the one of the user's own at `package.module:object` or `file.py:object`.

    Raises:
      ValueError: no such space; or it is called as a known one, whose tables it would be compared with.
    """
    if isinstance(name, str) and name in SPACES:
        return SPACES[name]
    if not isinstance(name, str) or ":" not in name:
        raise ValueError(f"unknown search space {name!r}; choose one of {SpaceName()}.")
    space = import_space(name)
    known = SPACES.get(space.name)
    if known is not None and known.fingerprint != space.fingerprint:
        raise ValueError(f"space {name!r} is called {space.name}, as one with other operations; give it another name.")
    return space
