"""How well a query finds its like in a gallery: cumulative matching and mean average precision, by Market-1501's rule.

The rule (Zheng et al., "Scalable person re-identification: a benchmark", ICCV 2015, section 5): of each query's ranking
those gallery images are dropped that show the same identity *and* come from the same camera, since that view is all but
the query itself. Average precision is the mean, over what is left of the right identity, of the precision at its rank.
Queries of which nothing right is left are not counted.
"""

from typing import NamedTuple

import chex
import numpy as np

from jaxnas.checks import array, whole


class Retrieval(NamedTuple):
    """What a gallery gave for each query that counts.

    Attributes:
      average_precision: float64 [num_counted], in [0, 1].
      first_match: int64 [num_counted], from 0: the rank of the first right image.
      queries: int64 [num_counted], which queries these are.
      num_unmatched: queries without a right image from another camera, which are left out.
    """

    average_precision: np.ndarray
    first_match: np.ndarray
    queries: np.ndarray
    num_unmatched: int

    @property
    def mean_average_precision(self) -> float:
        return float(self.average_precision.mean())

    def cmc(self, rank: int) -> float:
        """The share of queries whose first `rank` images, at least 1, hold a right one."""
        return float((self.first_match < whole("rank", rank, 1)).mean())


def evaluate_retrieval(
    distances: chex.ArrayNumpy,
    query_ids: chex.ArrayNumpy,
    query_cameras: chex.ArrayNumpy,
    gallery_ids: chex.ArrayNumpy,
    gallery_cameras: chex.ArrayNumpy,
) -> Retrieval:
    """Judge distances [num_queries, num_gallery] by Market-1501's rule; equal ones keep the gallery's order.

    Args:
      query_ids, query_cameras: int [num_queries]. gallery_ids, gallery_cameras: int [num_gallery]; an identity that no
        query has, such as Market-1501's 0 for what is no person, is a wrong answer to all.

    Raises:
      ValueError: shapes or types that don't fit, distances that are not finite, or no query that has a match.
    """
    query_ids = array("query_ids", query_ids, (None,), "integer")
    gallery_ids = array("gallery_ids", gallery_ids, (None,), "integer")
    query_cameras = array("query_cameras", query_cameras, query_ids.shape, "integer")
    gallery_cameras = array("gallery_cameras", gallery_cameras, gallery_ids.shape, "integer")
    distances = array("distances", distances, (len(query_ids), len(gallery_ids)), "floating")
    precisions, firsts, counted = [], [], []
    for query, (row, identity, camera) in enumerate(zip(distances, query_ids, query_cameras)):
        right = ranked(row, identity, camera, gallery_ids, gallery_cameras)[1]
        (places,) = np.nonzero(right)
        if not len(places):
            continue
        precisions.append(np.mean(np.arange(1, len(places) + 1) / (places + 1)))
        firsts.append(places[0])
        counted.append(query)
    if not counted:
        raise ValueError(
            f"none of {len(query_ids)} queries has an image of its identity from another camera in the gallery."
        )
    return Retrieval(np.array(precisions), np.array(firsts), np.array(counted), len(query_ids) - len(counted))


def ranked(
    distances: np.ndarray, identity: int, camera: int, gallery_ids: np.ndarray, gallery_cameras: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Of one query's distances [num_gallery]: which gallery images it gives, nearest first, and whether each is right;
    those of the same identity and camera are dropped."""
    order = np.argsort(distances, kind="stable")
    order = order[(gallery_ids[order] != identity) | (gallery_cameras[order] != camera)]
    return order, gallery_ids[order] == identity


def cosine_distances(queries: chex.ArrayNumpy, gallery: chex.ArrayNumpy) -> np.ndarray:
    """One less the cosine of each pair: float [num_queries, size] and [num_gallery, size] -> float64
    [num_queries, num_gallery], in [0, 2]; from a vector of zeros, 1."""
    queries = array("queries", queries, (None, None), "floating").astype(np.float64)
    gallery = array("gallery", gallery, (None, queries.shape[1]), "floating").astype(np.float64)
    return 1 - _unit(queries) @ _unit(gallery).T


def _unit(vectors: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(length > 0, length, 1)
