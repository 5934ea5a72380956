"""A network with its weights: taken out of a super-net, as a Flax module, and in files."""

import dataclasses
import json
import os
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import chex
import jax
import numpy as np

from jaxnas.codes import check
from jaxnas.export.described import described, describing, shapes_of, to_json
from jaxnas.files import (
    decode_json,
    one_line,
    open_arrays,
    open_tensors,
    read_file,
    replace_file,
    seal_arrays,
    seal_tensors,
)
from jaxnas.space import SearchSpace
from jaxnas.supernets import Params, Stats, Supernet, only
from jaxnas.supernets.network import Network, make_network, network_variables


class Exported(NamedTuple):
    """One architecture with its weights, on the host."""

    arch: np.ndarray  # int32 [num_choices]
    params: Params  # layer -> the candidate taken -> its parameters; the super-net's paths
    stats: Stats | None  # layer -> float [2, size], by which it normalises; None: by the images at hand


def export(supernet: Supernet, params: Params, arch: chex.ArrayNumpy, stats: Stats | None = None) -> Exported:
    """Take one architecture, int [num_choices], out of a super-net.

    Args:
      stats: layer -> [2, size], calibrated: what `supernet.apply(params, arch, images)` returned; of tracked ones
        `select_stats`, the row of this architecture. None: it normalises by the images of each call.
    """
    (arch,) = check(supernet.space, np.asarray(arch)[None])
    return Exported(arch, jax.device_get(only(supernet, supernet.view(params), arch)), jax.device_get(stats))


def flax_module(supernet: Supernet, exported: Exported) -> tuple[Network, dict[str, dict[str, Any]]]:
    """The architecture as a Flax module, and its variables: `module.apply(variables, images)` are the logits."""
    variables = network_variables(supernet, exported.params, exported.arch, exported.stats)
    return make_network(supernet, exported.arch), variables


def save(path: str | os.PathLike[str], exported: Exported, space: SearchSpace) -> None:
    """Write it to one file of arrays by path, such as params/layer0/mb3_k3/expand/kernel, whole or not at all.

    Args:
      path: ends in .npz or .safetensors, which decides the format.

    Raises:
      ValueError: a path that ends otherwise.
      OSError: it cannot be written, a full disk for instance; a file that was there stays as it was.
    """
    seal, _ = _format(path)
    arrays = {}
    trees = {"params": exported.params} | ({} if exported.stats is None else {"stats": exported.stats})
    for leaf_path, leaf in jax.tree_util.tree_leaves_with_path(trees):
        array = np.asarray(leaf)
        if array.dtype.kind == "V":  # bfloat16 is no type of NumPy's own files
            array = array.astype(np.float32)
        arrays["/".join(entry.key for entry in leaf_path)] = array
    replace_file(path, seal({"architecture": describing(space, exported.arch)}, arrays))


def load(path: str | os.PathLike[str], supernet: Supernet) -> Exported:
    """Read what `save` wrote, for a super-net of the same space and layout.

    Raises:
      ValueError: a path of no known format; damaged, of another space or layout, or of other parameters than the
        super-net's.
      OSError: the file cannot be read.
    """
    _, unseal = _format(path)
    data = read_file(path)
    try:
        meta, arrays = unseal(data)
        if "architecture" not in meta:
            raise ValueError("it holds no architecture")
    except ValueError as error:
        raise ValueError(f"{path}: truncated, damaged or no exported network ({error}); export it again.") from None
    try:
        arch = described(meta["architecture"], supernet.space)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    written, given = meta["architecture"]["layout"], json.loads(to_json(supernet.space, arch))["layout"]
    if written != given:  # strides change no parameter's shape
        raise ValueError(
            f"{path}: exported from another network of {supernet.space.name}, {written}, expected {given};"
            " give the super-net that it was exported from."
        )
    shapes = shapes_of(supernet)
    expected: dict[str, Any] = {"params": only(supernet, shapes, arch)}
    if any(name.startswith("stats/") for name in arrays):
        expected["stats"] = {
            name: jax.ShapeDtypeStruct((2, layer.stats_size), layer.stats_dtype)
            for name, layer in supernet.layers.items()
        }

    def find(leaf_path: tuple[Any, ...], leaf: Any) -> np.ndarray:
        name = "/".join(entry.key for entry in leaf_path)
        array = arrays.pop(name, None)
        if array is None or array.shape != leaf.shape or array.dtype.kind != "f":
            found = "nothing" if array is None else f"{array.dtype} of shape {array.shape}"
            raise ValueError(
                f"{path}: {name} has {found}, expected {leaf.dtype} of shape {leaf.shape};"
                " give the super-net that it was exported from."
            )
        return array.astype(leaf.dtype)

    trees = jax.tree_util.tree_map_with_path(find, expected)
    if arrays:
        raise ValueError(
            f"{path}: {next(iter(arrays))} is no part of this network; give the super-net that it was exported from."
        )
    return Exported(arch, trees["params"], trees.get("stats"))


def space_in(path: str | os.PathLike[str], spaces: Mapping[str, SearchSpace]) -> SearchSpace:
    """The space of the network that `save` wrote to `path`, of the size that it has there, so that
    `load(path, make_supernet(space_in(path, SPACES)))` reads it; or of the architecture that `to_json` wrote.

    Args:
      path: ends in .npz or .safetensors; else it is read as JSON.
      spaces: by name, among which it is.

    Raises:
      ValueError: no such file, or of another space.
    """
    data = read_file(path)
    _, unseal = FORMATS.get(os.path.splitext(path)[1], (None, None))
    try:
        content = decode_json(data) if unseal is None else unseal(data)[0]["architecture"]
        name, layout = content["space"], content["layout"]
        space = spaces[name]
        sizes = {key: _tuples(value) for key, value in layout.items()}
        if sizes.pop("kind") != type(space.layout).__name__ or set(sizes) != set(space.layout._asdict()):
            raise ValueError(f"a layout {layout}")
        return dataclasses.replace(space, layout=type(space.layout)(**sizes))
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path}: no exported network of {', '.join(spaces)} ({one_line(error)}); give what export.save wrote."
        ) from None


def _tuples(value: Any) -> Any:
    """JSON's lists as the tuples that they were."""
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


FORMATS = {".npz": (seal_arrays, open_arrays), ".safetensors": (seal_tensors, open_tensors)}  # by a file's ending


def _format(path: str | os.PathLike[str]) -> tuple[Callable[..., bytes], Callable[..., Any]]:
    """How a file that is called so is sealed and opened."""
    suffix = os.path.splitext(path)[1]
    if suffix not in FORMATS:
        raise ValueError(f"{path}: ends in {suffix or 'nothing'!r}, expected {' or '.join(FORMATS)}.")
    return FORMATS[suffix]
