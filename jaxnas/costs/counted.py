"""Multiply-accumulates and parameters of every operation and architecture.

Each operation says what it costs (`jaxnas.ops.Operation.cost`); here those of a network are summed. Both are counted as
the published tables of NAS-Bench-Macro, NAS-Bench-201 and NAS-Bench-101 count them, which `arch_costs` reproduces
exactly. MACs (what those tables call FLOPs) are those of convolutions and of the classifier for one image; batch
normalisation, biases, activations, pooling and sums count nothing. Parameters are the weights of convolutions and
classifier, the classifier's bias, and scale and shift of every batch normalisation: with affine parameters, that is; a
super-net without them has fewer. An operation counts where the code names it, also on an edge of NAS-Bench-201 that is
dead.
"""

import functools

import chex
import numpy as np

from jaxnas.codes import check
from jaxnas.space import SearchSpace
from jaxnas.supernets import Costs, Factors, Supernet, build_supernet


def is_additive(space: SearchSpace) -> bool:
    """Whether what a network costs is a sum over choices and a constant, so that `op_costs` exists."""
    return space.costs is None and not _supernet(space).is_decoded


def op_costs(space: SearchSpace) -> tuple[Costs, Costs]:
    """The costs of each operation at each choice, and of the fixed rest of the network.

    Returns:
      per_op: [num_choices, max(num_ops)], summed over all cells for a space of cells; 0 where a choice has fewer ops.
      fixed: scalars: stem, reduction blocks, head, classifier.

    Raises:
      ValueError: the space isn't additive, or an operation doesn't say what it costs.
    """
    if not is_additive(space):
        raise ValueError(
            f"{space.name}: what an operation costs depends on the whole code; costs.arch_costs has whole networks."
        )
    per_op, fixed = np.zeros((2, space.num_choices, max(space.num_ops))), np.zeros(2)
    for layer in _supernet(space).layers.values():
        if layer.choice is None:
            fixed += np.ravel(layer.costs)
        else:
            per_op[:, layer.choice, : len(layer.candidates)] += layer.costs
    return Costs(*per_op), Costs(*fixed)


def arch_costs(space: SearchSpace, archs: chex.ArrayNumpy) -> Costs:
    """The costs [num_archs] of whole networks; archs int [num_archs, num_choices], checked.

    Raises:
      ValueError: codes not of the space, an operation that doesn't say what it costs, or figures of a space's own
        `costs` that aren't one finite number for each network.
    """
    codes = check(space, archs)
    if space.costs is None:
        return supernet_costs(_supernet(space), codes)
    costs = Costs(*(np.asarray(figures, np.float64) for figures in space.costs(space, codes)))
    for figures in costs:
        if figures.shape != (len(codes),) or not np.isfinite(figures).all():
            raise ValueError(
                f"{space.name}: its own costs of {len(codes)} architectures came as shape {figures.shape}, expected a"
                " finite number for each."
            )
    return costs


def supernet_costs(supernet: Supernet, archs: chex.ArrayNumpy) -> Costs:
    """The costs [num_archs] of what codes [num_archs, num_choices], in range, run in a super-net."""
    costs = np.zeros((2, len(archs)))
    for name, taken in supernet.taken(archs).items():
        costs += np.asarray(supernet.layers[name].costs)[:, taken]
    return Costs(*costs)


@functools.lru_cache(maxsize=64)
def _supernet(space: SearchSpace) -> Supernet:
    return build_supernet(space, Factors())
