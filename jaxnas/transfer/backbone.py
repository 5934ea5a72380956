"""A found network without its classifier: feature maps at several strides, for what comes after classification."""

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
Seen = dict[str, chex.Array]  # layer -> images
TRACED = 512  # pixels of a side, by which strides are found; nothing is computed
NUM_LEVELS = 3  # if nothing else is asked for
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


def make_backbone(supernet: Supernet, arch: chex.ArrayNumpy, *, strides: Sequence[int] | None = STRIDES) -> Backbone:
    """The features of one architecture, int [num_choices], of a super-net of images.

    The map at a stride is the last one of that resolution: what the layer that halves it next is given, or the
    classifier.

    Args:
      strides: of the features; None: the coarsest three that the network has, without 1.

    Raises:
      ValueError: no such code; a super-net of text or whose candidates share parameters; strides that the network does
        not have, or a network whose resolution falls elsewhere than in single layers.
    """
    if supernet.has_shared_params or supernet.recurrence is not None:
        what = "reads text" if supernet.recurrence is not None else "shares parameters among candidates"
        raise ValueError(f"{supernet.space.name}: this super-net {what}; a backbone is a network of images of its own.")
    code = tuple(int(op) for op in check(supernet.space, jnp.asarray(arch)[None])[0])
    decoded: Any = tuple(int(op) for op in supernet.decode(np.array(code)))
    kept = [name for name in supernet.layers if name != HEAD]

    def follow(params: Params, images: chex.Array, stats: Stats | None) -> tuple[Seen, Seen, Stats]:
        """What each layer is given, the classifier included, and what it makes of it."""
        used: Stats = {}
        running = Running(supernet.layers, params, decoded, stats, None, None, {}, used)
        given: Seen = {}
        made: Seen = {}

        def run(name: str, x: chex.Array) -> chex.Array:
            given[name] = x
            made[name] = x if name == HEAD else running(name, x)
            return made[name]

        supernet.wire(run, images)
        return given, made, used

    def own(params: Params) -> Params:
        of_network = only(supernet, params, np.array(code))
        return {name: of_network[name] for name in kept}

    def adopt(exported: Exported) -> tuple[Params, Stats | None]:
        if tuple(exported.arch.tolist()) != code:
            raise ValueError(f"weights of architecture {exported.arch.tolist()}, expected those of {[*code]}.")
        stats = None if exported.stats is None else {name: exported.stats[name] for name in kept}
        return own(exported.params), stats

    images = jax.ShapeDtypeStruct((2, TRACED, TRACED, supernet.space.layout.in_channels), "float32")
    given, made, _ = jax.eval_shape(
        lambda key, images: follow(own(supernet.init(key)), images, None), jax.random.key(0), images
    )
    taken = _taps(supernet.space.name, given, made, strides)
    channels = {stride: given[name].shape[-1] for stride, name in taken.items()}

    def apply(params: Params, images: chex.Array, *, stats: Stats | None = None) -> tuple[dict[int, Any], Stats]:
        given, _, used = follow(params, images, stats)
        return {stride: given[name] for stride, name in taken.items()}, used

    return Backbone(channels, lambda key: own(supernet.init(key)), apply, adopt)


def _taps(
    name: str, given: Mapping[str, Any], made: Mapping[str, Any], strides: Sequence[int] | None
) -> dict[int, str]:
    """Stride -> the layer whose input is the feature map, by the shapes of what each layer is given and makes."""
    before, after = ({layer: round(TRACED / x.shape[1]) for layer, x in side.items()} for side in (given, made))
    falls: dict[int, list[str]] = {}
    for layer, stride in before.items():
        if after[layer] > stride:
            falls.setdefault(stride, []).append(layer)
    for stride, layers in falls.items():
        if len(layers) > 1:
            raise ValueError(
                f"{name}: {len(layers)} layers at once leave stride {stride}, so that no single map is the last of it;"
                " a backbone is a chain, or has cells with one layer between stages, as NAS-Bench-201's."
            )
    if before[HEAD] != max(after.values()):
        raise ValueError(
            f"{name}: its resolution falls between layers, to 1/{before[HEAD]}; a backbone's falls in them."
        )
    found = {stride: layers[0] for stride, layers in falls.items()} | {before[HEAD]: HEAD}
    if strides is None:
        strides = sorted(found)[-NUM_LEVELS:]
        strides = strides[1:] if strides[0] == 1 and len(strides) > 1 else strides
    wanted = sorted({whole("a stride", stride, 1) for stride in strides})
    if not wanted or len(wanted) != len(strides):
        raise ValueError(f"strides are {tuple(strides)}, expected distinct ones, at least one, such as {STRIDES}.")
    missing = [stride for stride in wanted if stride not in found]
    if missing:
        raise ValueError(
            f"{name}: the network has no features at stride {', '.join(map(str, missing))}; it has strides"
            f" {', '.join(map(str, sorted(found)))}."
        )
    return {stride: found[stride] for stride in wanted}


def calibrate(backbone: Backbone, params: Params, images: chex.Array) -> Stats:
    """The statistics of these images, float [num_images, height, width, channels], which `apply` takes as `stats`."""
    _, stats = jax.jit(backbone.apply)(params, images)
    return stats
