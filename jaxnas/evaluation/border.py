"""What an evaluator is given is checked on the host, before anything is compiled: one line of what came instead."""

import chex
import numpy as np

from jaxnas.supernets import Stats, Supernet


def check_given(bn_mode: str, stats: Stats | None, calibration_images: chex.Array | None) -> None:
    """Raise a ValueError where what the mode normalises by is missing, or something else is given."""
    for wanted, name, given in (("tracked", "stats", stats), ("calibrated", "calibration_images", calibration_images)):
        if (bn_mode == wanted) != (given is not None):
            verb = "needs" if bn_mode == wanted else "does not take"
            raise ValueError(f"bn_mode {bn_mode!r} {verb} {name}.")


def check_images(supernet: Supernet, name: str, images: chex.Array) -> None:
    """Raise a ValueError where images are none that the network takes, or none at all."""
    layout = supernet.space.layout
    expected = (layout.image_size, layout.image_size, layout.in_channels)
    if images.shape[1:] != expected or len(images) == 0:
        raise ValueError(
            f"{name} have shape {images.shape}, expected [num_images, {str(expected)[1:-1]}], at least one image."
        )


def check_labels(supernet: Supernet, labels: chex.Array, num_images: int) -> None:
    """Raise a ValueError where labels are none of the images' classes."""
    labels, num_classes = np.asarray(labels), supernet.space.layout.num_classes
    if labels.shape != (num_images,):
        raise ValueError(f"labels have shape {labels.shape}, expected ({num_images},), one for each image.")
    if labels.min() < 0 or labels.max() >= num_classes:
        raise ValueError(f"labels are {labels.min()}..{labels.max()}, expected within [0, {num_classes}).")


def check_balanced(supernet: Supernet, archs: np.ndarray) -> None:
    """Raise a ValueError where an operation of a choice occurs more often than another."""
    for place, counts in enumerate(supernet.counts(archs)):
        if len(set(counts)) > 1:
            raise ValueError(
                f"groups='balanced' needs each operation of a choice equally often, got {counts} at index {place};"
                " pass a tile size."
            )
