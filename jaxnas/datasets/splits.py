"""Splits: an order of a set's images whose every beginning is stratified by class."""

import numpy as np

from jaxnas.checks import array, whole


def stratified_order(labels: np.ndarray, seed: int) -> np.ndarray:
    """A seeded permutation of the images, each prefix of which has the classes in proportion: int64 [num_images].

    Image number r (from 0) of a class of c images, in random order, sorts at (r + 1/2) / c; so a prefix that holds the
    share t of all images holds round(t c) of every class. Ranks come from raw Philox bits, which NumPy keeps stable
    between versions, unlike its permutations.
    """
    labels = array("labels", labels, (None,), "integer")
    bits = np.random.Philox(whole("seed", seed, 0, 2**128 - 1)).random_raw(len(labels))
    position = np.empty(len(labels))
    for label in np.unique(labels):
        (members,) = np.nonzero(labels == label)
        members = members[np.argsort(bits[members], kind="stable")]
        position[members] = (np.arange(len(members)) + 0.5) / len(members)
    return np.lexsort((bits, position))
