"""A found network without its classifier: feature maps at several strides, for what comes after classification."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import chex
import jax
import jax.numpy as jnp
import numpy as np

from jaxnas.checks import whole
from jaxnas.codes import check
from jaxnas.export import Exported
from jaxnas.supernets import Params, Stats, Supernet, only
from jaxnas.supernets.running import Running

HEAD = "head"  # of every super-net of images: the layer that classifies
STRIDES = (8, 16, 32)  # of the feature pyramid that detectors are built on (Lin et al., CVPR 2017)


class Features(Protocol):
    """images float [num_images, height, width, channels], standardised, sides of whole multiples of the largest stride
    -> feature maps [num_images, height / stride, width / stride, channels] by stride, and the statistics used.

    stats None: normalise by these images and return what was used; given, by them.
    """

    def __call__(
        self, params: Params, images: chex.Array, *, stats: Stats | None = None
    ) -> tuple[dict[int, chex.Array], Stats]: ...


class Backbone(NamedTuple):
    """One architecture as a feature extractor, for images of any size.

    Attributes:
      channels: of the feature map at each stride, in rising order.
      init: key -> fresh parameters, of the architecture's own operations alone.
      apply: see `Features`.
      adopt: of a network that was trained with its classifier, `Exported`: (parameters, statistics or None) that
        `apply` takes.
    """

    channels: Mapping[int, int]
    init: Callable[[chex.PRNGKey], Params]
    apply: Features
    adopt: Callable[[Exported], tuple[Params, Stats | None]]


def make_backbone(supernet: Supernet, arch: chex.ArrayNumpy, *, strides: Sequence[int] = STRIDES) -> Backbone:
    """The features of one architecture, int [num_choices], of a super-net of images.

    The map at a stride is the last one of that resolution: what the layer that halves it next is given, or the
    classifier.

    Raises:
      ValueError: no such code; a super-net of text or whose candidates share parameters; strides that the network does
        not have, or a network whose resolution falls elsewhere than in single layers.
    """
    if supernet.has_shared_params or supernet.recurrence is not None:
        what = "reads text" if supernet.recurrence is not None else "shares parameters among candidates"
        raise ValueError(f"{supernet.space.name}: this super-net {what}; a backbone is a network of images of its own.")
    code = tuple(int(op) for op in check(supernet.space, jnp.asarray(arch)[None])[0])
    decoded: Any = tuple(int(op) for op in supernet.decode(np.array(code)))
    taken = _taps(supernet, _distinct(strides))
    kept = [name for name in supernet.layers if name != HEAD]

    def apply(params: Params, images: chex.Array, *, stats: Stats | None = None) -> tuple[dict[int, Any], Stats]:
        used: Stats = {}
        running = Running(supernet.layers, params, decoded, stats, None, None, {}, used)
        given: dict[str, chex.Array] = {}

        def run(name: str, x: chex.Array) -> chex.Array:
            given[name] = x
            return x if name == HEAD else running(name, x)

        supernet.wire(run, images)
        return {stride: given[name] for stride, name in taken.items()}, used

    def own(params: Params) -> Params:
        of_network = only(supernet, params, np.array(code))
        return {name: of_network[name] for name in kept}

    def adopt(exported: Exported) -> tuple[Params, Stats | None]:
        if tuple(exported.arch.tolist()) != code:
            raise ValueError(f"weights of architecture {exported.arch.tolist()}, expected those of {[*code]}.")
        stats = None if exported.stats is None else {name: exported.stats[name] for name in kept}
        return own(exported.params), stats

    channels = {stride: supernet.layers[name].in_shape[-1] for stride, name in taken.items()}
    return Backbone(channels, lambda key: own(supernet.init(key)), apply, adopt)


def _distinct(strides: Sequence[int]) -> list[int]:
    found = sorted({whole("a stride", stride, 1) for stride in strides})
    if not found or len(found) != len(strides):
        raise ValueError(f"strides are {tuple(strides)}, expected distinct ones, at least one, such as {STRIDES}.")
    return found


def _taps(supernet: Supernet, strides: Sequence[int]) -> dict[int, str]:
    """Stride -> the layer whose input is the feature map."""
    ends: dict[int, list[str]] = {}
    size = supernet.space.layout.image_size
    stride = 1
    for name, layer in supernet.layers.items():
        if name == HEAD:
            continue
        by = round(layer.in_shape[0] / layer.out_shape[0])
        if by > 1:
            ends.setdefault(round(size / layer.in_shape[0]), []).append(name)
            stride = max(stride, by * round(size / layer.in_shape[0]))
    name = supernet.space.name
    several = {at: names for at, names in ends.items() if len(names) > 1}
    if several:
        at, names = next(iter(several.items()))
        raise ValueError(
            f"{name}: {len(names)} layers at once leave stride {at}, so that no single map is the last of it; a"
            " backbone is a chain, or has cells with one layer between stages, as NAS-Bench-201's."
        )
    found = {at: names[0] for at, names in ends.items()} | {stride: HEAD}
    in_head = math.ceil(size / supernet.layers[HEAD].in_shape[0])
    if in_head != stride:
        raise ValueError(f"{name}: its resolution falls between layers, to 1/{in_head}; a backbone's falls in them.")
    missing = [at for at in strides if at not in found]
    if missing:
        raise ValueError(
            f"{name}: the network has no features at stride {', '.join(map(str, missing))}; it has strides"
            f" {', '.join(map(str, sorted(found)))}."
        )
    return {at: found[at] for at in strides}


def calibrate(backbone: Backbone, params: Params, images: chex.Array) -> Stats:
    """The statistics of these images, float [num_images, height, width, channels], which `apply` takes as `stats`."""
    _, stats = jax.jit(backbone.apply)(params, images)
    return stats
