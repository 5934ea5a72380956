"""Which candidates share parameters: op on node, weight-sharing batch norm and shared kernels, factors of "How to Train
Your Super-Net" (Yu, Ranftl and Salzmann, arXiv 2003.04276).

Sharing changes what is stored and nothing else: `view` turns it into the parameters of each candidate, with which a
super-net computes as any other does. Gradients sum over all who share by themselves.
"""

import collections
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import chex
import jax
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxnas.supernets.layer import Layer, Params, outline


class Sharing(NamedTuple):
    """Two functions between parameter trees {group: {name: tree}}.

    Attributes:
      store: what each candidate has of its own, arrays or ShapeDtypeStructs -> what is stored.
      view: what is stored -> what each candidate has of its own, {layer: {candidate: tree}}.
    """

    store: Callable[[Params], Params]
    view: Callable[[Params], Params]


def as_it_is(given: Any) -> Any:
    """`view` where nothing is shared, `decode` where a code says itself which candidate each choice takes."""
    return given


NO_SHARING = Sharing(as_it_is, as_it_is)


def share_candidates(owners: Mapping[str, Mapping[str, str]]) -> Sharing:
    """Candidates of one layer that use the same parameters, such as the widths of one operation.

    Args:
      owners: layer -> candidate -> the one under whose name the parameters are stored; those left out have their own.
    """

    def store(params: Params) -> Params:
        kept = {}
        for layer, candidates in params.items():
            of = owners.get(layer, {})
            kept[layer] = {op: tree for op, tree in candidates.items() if of.get(op, op) == op}
        return kept

    def view(stored: Params) -> Params:
        return {
            layer: candidates
            | {op: candidates[owner] for op, owner in owners.get(layer, {}).items() if owner in candidates}
            for layer, candidates in stored.items()
        }

    return Sharing(store, view)


def share_by_node(edges: Mapping[str, str], *, per_input: bool) -> Sharing:
    """One instance of each operation for all edges into a node.

    Args:
      edges: layer -> name under which its node's parameters are stored.
      per_input: each edge keeps scale and shift of its own batch normalisations, so a set for each input of the node.
    """

    def split(tree: Any) -> tuple[dict[Any, Any], dict[Any, Any]]:
        """Parameters of a candidate: (without those of its normalisations, those of its normalisations)."""
        leaves = flatten_dict(tree)
        norms = {path: leaf for path, leaf in leaves.items() if (*path[:-1], "scale") in leaves}
        rest = {path: leaf for path, leaf in leaves.items() if path not in norms}
        return unflatten_dict(rest), unflatten_dict(norms)

    def store(params: Params) -> Params:
        stored = {}
        for layer, candidates in params.items():
            if layer not in edges:
                stored[layer] = candidates
            elif per_input:
                parts = {op: split(tree) for op, tree in candidates.items()}
                stored.setdefault(edges[layer], {op: shared for op, (shared, _) in parts.items()})
                stored[layer] = {op: norms for op, (_, norms) in parts.items()}
            else:
                stored.setdefault(edges[layer], candidates)
        return stored

    def view(stored: Params) -> Params:
        nodes = set(edges.values())
        params = {layer: candidates for layer, candidates in stored.items() if layer not in nodes | set(edges)}
        for layer, node in edges.items():
            norms = stored.get(layer, {}) if per_input else {}
            params[layer] = {op: _merged(tree, norms.get(op, {})) for op, tree in stored.get(node, {}).items()}
        return params

    return Sharing(store, view)


class _Cut(NamedTuple):
    """What a candidate takes of a shared kernel."""

    name: str  # under which the kernel is stored in the candidate's group
    path: tuple[str, ...]  # of the kernel among the candidate's own parameters
    shape: tuple[int, ...]  # of the candidate's kernel, [size, size, ...]


def share_kernels(name: str, groups: Mapping[str, Layer], *, transform: bool) -> Sharing:
    """One kernel for all candidates of a choice that differ in kernel size: its centre, of its first channels, serves
    the smaller ones (Once-for-All, arXiv 1908.09791, section 3.3).

    Args:
      name: of the space, for errors.
      groups: name under which candidates are stored -> a layer that has these candidates.
      transform: the smaller kernels are a learned linear transform of the centre's pixels, [size^2, size^2], the same
        for all channels, at first the identity; each from the whole kernel, where Once-for-All goes size by size.

    Raises:
      ValueError: no choice has kernels of one kind and two sizes.
    """
    cuts = {group: _cuts(layer) for group, layer in groups.items()}
    if not any(cuts.values()):
        raise ValueError(f"{name}: no choice has kernels of two sizes that could share one; take kernels='separate'.")

    def store(params: Params) -> Params:
        stored = dict(params)
        for group, cuts_of_group in cuts.items():
            candidates = {op: dict(flatten_dict(tree)) for op, tree in params[group].items()}
            whole: dict[str, jax.ShapeDtypeStruct] = {}
            for op, cut in cuts_of_group.items():
                kernel = candidates[op].pop(cut.path)
                shape = whole[cut.name].shape if cut.name in whole else kernel.shape
                whole[cut.name] = jax.ShapeDtypeStruct(tuple(map(max, shape, kernel.shape)), kernel.dtype)
            for op, cut in cuts_of_group.items():
                if transform and cut.shape[0] < whole[cut.name].shape[0]:
                    matrix = jax.ShapeDtypeStruct((cut.shape[0] ** 2,) * 2, whole[cut.name].dtype)
                    candidates[op]["transform",] = matrix
            shared = {name: {"kernel": kernel} for name, kernel in whole.items()}
            stored[group] = {op: unflatten_dict(leaves) for op, leaves in candidates.items()} | shared
        return stored

    def view(stored: Params) -> Params:
        params = dict(stored)
        for group, cuts_of_group in cuts.items():
            here = stored[group]  # what has nothing of its own may be missing, see `Layer.params_of`
            candidates = {op: here.get(op, {}) for op in groups[group].candidates if op in here or op in cuts_of_group}
            for op, cut in cuts_of_group.items():
                others = dict(candidates[op])
                kernel = _centre(stored[group][cut.name]["kernel"], cut.shape)
                if "transform" in others:
                    matrix = others.pop("transform")
                    kernel = (matrix @ kernel.reshape(len(matrix), -1)).reshape(kernel.shape)
                candidates[op] = _merged(others, unflatten_dict({cut.path: kernel}))
            params[group] = candidates
        return params

    return Sharing(store, view)


def both(first: Sharing, second: Sharing) -> Sharing:
    """Sharing on top of sharing: `second` works on what `first` stores."""
    return Sharing(lambda params: second.store(first.store(params)), lambda stored: first.view(second.view(stored)))


def _cuts(layer: Layer) -> dict[str, _Cut]:
    """By candidate, for the kinds of kernels that this layer has in two sizes or more."""
    said = {op: operation.shared_kernel() for op, operation in layer.candidates.items()}
    kernels = {op: kernel for op, kernel in said.items() if kernel is not None}
    sizes = collections.Counter(kind for kind, _ in {(kernel.kind, kernel.size) for kernel in kernels.values()})
    return {
        op: _Cut(
            f"{kernel.kind}_kernel",
            kernel.path,
            flatten_dict(outline(layer.candidates[op], layer.in_shape)[1])[kernel.path].shape,
        )
        for op, kernel in kernels.items()
        if sizes[kernel.kind] > 1
    }


def _centre(kernel: chex.Array, shape: tuple[int, ...]) -> chex.Array:
    """Of kernel [size, size, ...] the middle pixels and first channels: an array of `shape`."""
    start = (kernel.shape[0] - shape[0]) // 2
    return jax.lax.slice(
        kernel, (start, start, *[0] * (len(shape) - 2)), (start + shape[0], start + shape[0], *shape[2:])
    )


def _merged(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Two trees of parameters as one."""
    return unflatten_dict(flatten_dict(first) | flatten_dict(second))
