"""What an evaluator is given is checked on the host, before anything is compiled: one line of what came instead."""

import contextlib
from collections.abc import Iterator

import chex
import jax
import numpy as np

from jaxnas import checks, supernets
from jaxnas.codes import to_text
from jaxnas.supernets import Stats, Supernet
from jaxnas.supernets.layer import outline

LOOKED_AT = 256  # images whose values are looked at
LARGEST = 1e4  # standardised pixels stay below 20 or so; batch-norm variances lose their digits where means are larger


def check_given(bn_mode: str, stats: Stats | None, calibration_images: chex.Array | None) -> None:
    """Raise a ValueError where what the mode normalises by is missing, or something else is given."""
    for wanted, name, given in (("tracked", "stats", stats), ("calibrated", "calibration_images", calibration_images)):
        if (bn_mode == wanted) != (given is not None):
            verb = "needs" if bn_mode == wanted else "does not take"
            raise ValueError(f"bn_mode {bn_mode!r} {verb} {name}.")


def check_images(supernet: Supernet, name: str, images: chex.Array) -> None:
    """Raise a ValueError where images are none that the network takes, or none at all; or the first `LOOKED_AT` are
    pixels that were not standardised: whole numbers, NaN, or too large. Fractions of 0 to 1 can't be told. Of text all
    words are looked at, since one that the network doesn't know would be taken for another."""
    supernets.check_images(supernet.space, images, name)
    if not len(images):
        raise ValueError(f"{supernet.space.name}: there are no {name}, expected at least one.")
    if supernet.space.is_text:
        most = supernet.space.layout.num_classes - 1
        checks.array(name, images, (None, None), "integer", least=0, most=most)
        return
    few = np.asarray(images[:LOOKED_AT], np.float32)
    low, high = float(few.min()), float(few.max())
    if not -LARGEST <= low <= high <= LARGEST:  # or NaN
        raise ValueError(f"{name} hold values from {low:g} to {high:g}, expected standardised ones, about -5 to 5.")
    if low >= 0 and high > 1 and (few == np.round(few)).all():
        raise ValueError(
            f"{name} are whole numbers from {low:g} to {high:g}, raw pixels it seems; standardise them first"
            " (`jaxnas.training.standardise`)."
        )


def check_labels(supernet: Supernet, labels: chex.Array, images: chex.Array) -> np.ndarray:
    """The labels as int32, one for each image or word; a ValueError where they are none of their classes."""
    most, shape = supernet.space.layout.num_classes - 1, images.shape[: 2 if supernet.space.is_text else 1]
    return checks.array("labels", labels, shape, "integer", least=0, most=most).astype(np.int32)


def check_stats(supernet: Supernet, stats: Stats, archs: np.ndarray) -> None:
    """Raise a ValueError where tracked statistics are none of this super-net's, or where a candidate that archs int
    [num_archs, num_choices] take was never tracked: mean 0 and variance 1, as `init_train_state` begins."""
    name, layers = supernet.space.name, supernet.layers
    if not isinstance(stats, dict) or stats.keys() != layers.keys():
        came = sorted(set(stats) ^ set(layers))[:3] if isinstance(stats, dict) else type(stats).__name__
        raise ValueError(f"{name}: stats don't have the super-net's layers ({came}); give `TrainState.stats`.")
    for layer_name, taken in supernet.taken(archs).items():
        layer = layers[layer_name]
        expected = (len(layer.candidates), 2, layer.stats_size)
        of_layer = checks.array(f"stats of {layer_name}", stats[layer_name], expected, "floating", finite=False)
        for index, (op, operation) in enumerate(layer.candidates.items()):
            used = of_layer[index, :, : outline(operation, layer.in_shape)[2]].astype(np.float32)
            rows = np.flatnonzero(taken == index)
            if rows.size and used.size and (used[0] == 0).all() and (used[1] == 1).all():
                raise ValueError(
                    f"{name}: statistics of {op!r} in {layer_name}, which architecture"
                    f" {to_text(supernet.space, archs[rows[0]])} takes, were never tracked; train with stats_momentum,"
                    " or score with bn_mode 'calibrated'."
                )


@contextlib.contextmanager
def out_of_memory_told(supernet: Supernet) -> Iterator[None]:
    """Raise a ValueError in place of the device's own error where it has less memory than was planned with."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise ValueError(
            f"{supernet.space.name}: the device ran out of memory while it scored ({str(error).splitlines()[0][:200]});"
            " another process may hold a part of it: end that one, or give a smaller memory_budget."
        ) from error
