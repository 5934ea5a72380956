"""A found architecture on its own: its code as JSON, what it consists of, its weights, and whether it meets the limit.

    exported = export(supernet, params, arch, stats)       # weights sliced out of the super-net's
    save("found.npz", exported, supernet.space)
    exported = load("found.npz", supernet)
    module, variables = flax_module(supernet, exported)    # logits = module.apply(variables, images)
    print(summary(supernet, exported.arch))

To retrain it from scratch: `make_standalone(supernet, recipe, compiled="each", ...)([exported.arch], ...)`.
"""

import json
import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import chex
import jax
import numpy as np

from jaxnas.checks import shown
from jaxnas.codes import check, to_text
from jaxnas.costs import Limit, arch_costs
from jaxnas.costs.latency import LATENCY_MS
from jaxnas.files import checksum, decode_json, open_arrays, read_file, replace_file, seal_arrays
from jaxnas.space import SearchSpace
from jaxnas.supernets import Params, Stats, Supernet, only
from jaxnas.supernets.network import Network, make_network, network_variables

FORMAT = 1


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


def to_json(space: SearchSpace, arch: chex.ArrayNumpy) -> str:
    """The architecture, int [num_choices], as a JSON text: space, code, the names of its operations, the layout, and a
    checksum of all that."""
    content = _describing(space, arch)
    return json.dumps(content | {"checksum": checksum(content)}, indent=2)


def from_json(text: str, space: SearchSpace) -> np.ndarray:
    """The architecture, int32 [num_choices], that `to_json` wrote for the same space; its layout may be another.

    Raises:
      ValueError: no such text, edited since, of another version or another space, a code that does not exist, or names
        of operations that contradict it.
    """
    try:
        content = decode_json(text)
        if not isinstance(content, dict):
            raise ValueError(f"a {type(content).__name__}")
        stored = content.pop("checksum", None)
    except (ValueError, TypeError) as error:
        raise ValueError(f"no architecture in JSON ({error}), expected what export.to_json writes.") from None
    arch = _described(content, space)
    if stored != checksum(content):
        raise ValueError("an architecture in JSON that was edited since; export it again, or give the code itself.")
    return arch


def save(path: str | os.PathLike[str], exported: Exported, space: SearchSpace) -> None:
    """Write it to one .npz file of arrays by path, such as params/layer0/mb3_k3/expand/kernel, whole or not at all."""
    arrays = {}
    trees = {"params": exported.params} | ({} if exported.stats is None else {"stats": exported.stats})
    for leaf_path, leaf in jax.tree_util.tree_leaves_with_path(trees):
        array = np.asarray(leaf)
        if array.dtype.kind == "V":  # bfloat16 is no type of NumPy's own files
            array = array.astype(np.float32)
        arrays["/".join(entry.key for entry in leaf_path)] = array
    replace_file(path, seal_arrays({"architecture": _describing(space, exported.arch)}, arrays))


def load(path: str | os.PathLike[str], supernet: Supernet) -> Exported:
    """Read what `save` wrote, for a super-net of the same space and layout.

    Raises:
      ValueError: damaged, of another space or layout, or of other parameters than the super-net's.
      OSError: the file cannot be read.
    """
    data = read_file(path)
    try:
        meta, arrays = open_arrays(data)
        if "architecture" not in meta:
            raise ValueError("it holds no architecture")
    except ValueError as error:
        raise ValueError(f"{path}: truncated, damaged or no exported network ({error}); export it again.") from None
    try:
        arch = _described(meta["architecture"], supernet.space)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    written, given = meta["architecture"]["layout"], json.loads(to_json(supernet.space, arch))["layout"]
    if written != given:  # strides change no parameter's shape
        raise ValueError(
            f"{path}: exported from another network of {supernet.space.name}, {written}, expected {given};"
            " give the super-net that it was exported from."
        )
    shapes = _shapes(supernet)
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


def summary(supernet: Supernet, arch: chex.ArrayNumpy) -> str:
    """A table for people: each layer with its operation, output shape, parameters and MACs for one image, and the sums.

    Parameters are those that the layer holds, so without scale and shift where normalisation has none; MACs as in
    `jaxnas.costs`.
    """
    (arch,) = check(supernet.space, np.asarray(arch)[None])
    shapes = _shapes(supernet)
    rows = []
    for name, taken in supernet.taken(arch).items():
        layer = supernet.layers[name]
        op = list(layer.candidates)[taken]
        num_params = sum(leaf.size for leaf in jax.tree.leaves(shapes[name][op]))
        rows.append((name, op, " x ".join(map(str, layer.out_shape)), num_params, float(layer.costs.macs[taken])))
    num_params, total = sum(row[3] for row in rows), sum(row[4] for row in rows)
    text = [("layer", "operation", "output", "parameters", "MACs")]
    text += [(name, op, shape, f"{size:,}", f"{macs:,.0f}") for name, op, shape, size, macs in rows]
    text += [("total", "", "", f"{num_params:,}", f"{total:,.0f}")]
    widths = [max(map(len, column)) for column in zip(*text)]
    lines = [
        "  ".join(
            cell.rjust(width) if column > 2 else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths))
        ).rstrip()
        for row in text
    ]
    title = f"{supernet.space.name} {to_text(supernet.space, arch)}"
    return "\n".join([title, *lines])


def describe(
    space: SearchSpace,
    arch: chex.ArrayNumpy,
    *,
    limit: Limit | None = None,
    accuracy: float | None = None,
    measured_latency_ms: float | None = None,
) -> Mapping[str, Any]:
    """What was found against what was asked for, flat: numbers, texts and None by name, as result.json has them.

    Args:
      limit: the limit of the search; `limited` is the cost that it predicts, `meets_limit` whether that is feasible.
      accuracy: of the network retrained alone, a fraction.
      measured_latency_ms: of the whole network, see `jaxnas.costs.measuring`. Where the limit is one on
        latency, `measured_over_limit` is its share of it: a prediction may hold and the network still be slower.
    """
    (arch,) = check(space, np.asarray(arch)[None])
    costs = arch_costs(space, arch[None])
    figures: dict[str, Any] = {
        "arch": to_text(space, arch),
        "ops": " ".join(names[op] for names, op in zip(space.op_names, arch)),
        "accuracy": accuracy,
        "params": int(costs.params[0]),
        "macs": int(costs.macs[0]),
        "measured_latency_ms": measured_latency_ms,
    }
    if limit is not None:
        limited = float(limit.costs(arch[None])[0])
        figures |= {"limit": str(limit), "limited": limited, "meets_limit": limited <= limit.value}
        if limit.name.startswith(LATENCY_MS) and measured_latency_ms is not None:
            figures["measured_over_limit"] = measured_latency_ms / limit.value
    return figures


def _describing(space: SearchSpace, arch: chex.ArrayNumpy) -> dict[str, Any]:
    """What JSON says of an architecture, int [num_choices]."""
    (arch,) = check(space, np.asarray(arch)[None])
    return {
        "format": FORMAT,
        "space": space.name,
        "fingerprint": space.fingerprint,
        "arch": arch.tolist(),
        "ops": [names[op] for names, op in zip(space.op_names, arch)],
        "layout": {"kind": type(space.layout).__name__, **space.layout._asdict()},
    }


def _described(content: Any, space: SearchSpace) -> np.ndarray:
    """The architecture, int32 [num_choices], that `_describing` says this of."""
    expected = ("format", "space", "fingerprint", "arch", "ops", "layout")
    if not isinstance(content, dict) or set(content) != set(expected):
        raise ValueError(f"no architecture in JSON, expected an object of {', '.join(expected)}.")
    version, name, fingerprint, arch, ops, _ = (content[entry] for entry in expected)
    if version != FORMAT:
        raise ValueError(
            f"an architecture in format {shown(version)}, but this version of jaxnas reads format {FORMAT}."
        )
    if (name, fingerprint) != (space.name, space.fingerprint):
        raise ValueError(
            f"an architecture of {shown(name)} (fingerprint {shown(fingerprint)}), expected {space.name}"
            f" ({space.fingerprint}); give the space that it was exported from."
        )
    (code,) = check(space, [arch])
    if ops != (known := _describing(space, code)["ops"]):
        raise ValueError(
            f"an architecture whose ops, {shown(ops)}, contradict its arch, {shown(known)}; export it again."
        )
    return code


def _shapes(supernet: Supernet) -> Params:
    """Parameters of every candidate as ShapeDtypeStructs."""
    return jax.eval_shape(lambda key: supernet.view(supernet.init(key)), jax.random.key(0))
