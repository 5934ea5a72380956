"""What an architecture is, in words: as JSON, as a table of layers, and against what was asked for."""

import json
from collections.abc import Mapping
from typing import Any

import chex
import jax
import numpy as np

from jaxnas.checks import shown
from jaxnas.codes import check, to_text
from jaxnas.costs import Limit, arch_costs
from jaxnas.costs.latency import LATENCY_MS
from jaxnas.files import checksum, decode_json
from jaxnas.space import SearchSpace
from jaxnas.spaces import outline
from jaxnas.supernets import Layer, Params, Supernet

FORMAT = 1


def to_json(space: SearchSpace, arch: chex.ArrayNumpy, figures: Mapping[str, Any] | None = None) -> str:
    """The architecture, int [num_choices], as a JSON text: space, code, the names of its operations, the layout, what
    is known of it (`figures`, such as those of `describe`, if there are any), and a checksum of all that."""
    content = describing(space, arch) | ({} if figures is None else {"figures": dict(figures)})
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
    arch = described(content, space)
    if stored != checksum(content):
        raise ValueError("an architecture in JSON that was edited since; export it again, or give the code itself.")
    return arch


def named_space(text: str) -> str:
    """The name of the space of an architecture that `to_json` wrote, not checked in any other way.

    Raises:
      ValueError: no such text.
    """
    try:
        name = decode_json(text)["space"]
    except (ValueError, KeyError, TypeError):
        name = None
    if not isinstance(name, str):
        raise ValueError("no architecture in JSON, expected what export.to_json writes.")
    return name


def summary(supernet: Supernet, arch: chex.ArrayNumpy) -> str:
    """A table for people: each layer with its operation, output shape, parameters and MACs for one image, and the sums.

    Parameters are those that the layer holds, so without scale and shift where normalisation has none; MACs as in
    `jaxnas.costs`, and "?" where an operation doesn't say what it costs.
    """
    (arch,) = check(supernet.space, np.asarray(arch)[None])
    shapes = shapes_of(supernet)
    rows = []
    for name, taken in supernet.taken(arch).items():
        layer = supernet.layers[name]
        op = list(layer.candidates)[taken]
        num_params = sum(leaf.size for leaf in jax.tree.leaves(shapes[name][op]))
        rows.append((name, op, " x ".join(map(str, layer.out_shape)), num_params, _macs(layer, int(taken))))
    num_params, total = sum(row[3] for row in rows), sum(row[4] for row in rows)
    text = [("layer", "operation", "output", "parameters", "MACs")]
    rows.append(("total", "", "", num_params, total))
    text += [
        (name, op, shape, f"{size:,}", "?" if np.isnan(macs) else f"{macs:,.0f}")
        for name, op, shape, size, macs in rows
    ]
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


def _macs(layer: Layer, taken: int) -> float:
    """Of the candidate taken; nan where it isn't known."""
    try:
        return float(layer.costs.macs[taken])
    except ValueError:
        return float("nan")


def in_words(
    space: SearchSpace,
    arch: chex.ArrayNumpy,
    *,
    accuracy: float | None = None,
    rank: int | None = None,
    num_ranked: int | None = None,
) -> str:
    """One architecture, int [num_choices], for people: its operations by layer, and what it costs and is worth.

    Args:
      accuracy: of the network trained alone, a fraction; None: not known, and neither is `rank`, its place from 1
        among `num_ranked` networks.

    >>> from jaxnas.spaces import get_space
    >>> print(in_words(get_space("digits_chain"), [1, 1, 0, 2, 1], accuracy=0.9123, rank=3, num_ranked=243))
    layers 1-2 mb2_k3, layer 3 identity, layer 4 mb6_k3, layer 5 mb2_k3
    33,792 MACs, 4,622 parameters, stand-alone accuracy 0.912, rank 3 of 243
    """
    found = outline(space, arch)
    lines = [f"{name}: {cell}" if len(found) > 1 else str(cell) for name, cell in found.items()]
    costs = arch_costs(space, np.asarray(arch)[None])
    known = [f"{costs.macs[0]:,.0f} MACs", f"{costs.params[0]:,.0f} parameters"]
    known += [] if accuracy is None else [f"stand-alone accuracy {accuracy:.3f}"]
    known += [] if rank is None else [f"rank {rank:,}" + ("" if num_ranked is None else f" of {num_ranked:,}")]
    return "\n".join([*lines, ", ".join(known)])


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


def describing(space: SearchSpace, arch: chex.ArrayNumpy) -> dict[str, Any]:
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


def described(content: Any, space: SearchSpace) -> np.ndarray:
    """The architecture, int32 [num_choices], that `describing` says this of."""
    expected = ("format", "space", "fingerprint", "arch", "ops", "layout")
    if not isinstance(content, dict) or set(content) - {"figures"} != set(expected):
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
    if ops != (known := describing(space, code)["ops"]):
        raise ValueError(
            f"an architecture whose ops, {shown(ops)}, contradict its arch, {shown(known)}; export it again."
        )
    return code


def shapes_of(supernet: Supernet) -> Params:
    """Parameters of every candidate as ShapeDtypeStructs."""
    return jax.eval_shape(lambda key: supernet.view(supernet.init(key)), jax.random.key(0))
