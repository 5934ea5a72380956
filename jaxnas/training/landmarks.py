"""Landmark regularisation: a few architectures of known order pull the super-net's ranking towards it.

Landmark Regularization (Yu, Ranftl and Salzmann, CVPR 2021, arXiv 2104.05309). The loss is
`jaxnas.training.ranking_loss`; here is what it is computed on: which landmarks, which pairs of them, and when new ones
join. Its weight over time is in `jaxnas.training.schedules`. An order is any vector, higher for better architectures.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from jaxnas.checks import array, number, whole
from jaxnas.codes import check
from jaxnas.evaluation import cross_entropy
from jaxnas.space import SearchSpace
from jaxnas.supernets import Supernet
from jaxnas.training.losses import Aux, LossFn, Reduce, check_batch, mean_of_each, ranking_loss
from jaxnas.training.preprocess import Preprocess

PairDraw = Callable[[chex.PRNGKey], chex.Array]  # key -> int [num_pairs, 2]: ranks (worse, better), the worst is 0


class Landmarks(NamedTuple):
    """Architectures whose order is known."""

    archs: np.ndarray  # int32 [num_landmarks, num_choices]
    order: np.ndarray  # float [num_landmarks], higher is better


def make_ranking_loss_fn(
    supernet: Supernet,
    landmarks: chex.ArrayNumpy | Sequence[Any],
    order: chex.ArrayNumpy | Sequence[float],
    *,
    draw: PairDraw | None = None,
    num_per_step: int | None = None,
    margin: float = 0.0,
    beta: float | None = None,
    tolerance: float = 0.0,
    reduce_fn: Reduce = jnp.mean,
    tile: int | None = None,
    preprocess: Preprocess = lambda key, images: images,
    split: str = "valid",
) -> LossFn:
    """The ranking loss of the landmarks' cross-entropies on one batch: a term for `jaxnas.training.add_losses`.

    The landmarks run in one batched forward, and each counts once however many pairs it is in. They enter neither what
    is reported of the sampled population nor the tracked statistics.

    Args:
      landmarks: int [num_landmarks, num_choices], at least two.
      order: float [num_landmarks], higher is better.
      draw: the pairs of a step, as one of `PAIR_DRAWS` makes it for as many landmarks; None: all pairs.
      num_per_step: run only so many, drawn anew in each step without repetition; `draw` is then made for these. What a
        step costs is landmarks times images, whereas pairs cost nothing.
      margin, beta, tolerance, reduce_fn: see `ranking_loss`. The published form is the default with `jnp.sum` over the
        pairs of a step, of which it draws one.
      tile: None: all landmarks run, grouped by candidate while tracing: no switch, no loop. A tile size (see
        `jaxnas.supernets.choice.choose`): only those drawn run where they are fewer; that pays on accelerators.
      preprocess: (key, images) -> float images; all landmarks see the same ones.
      split: which part of the batch. The published choice is the validation half.

    Raises:
      ValueError: fewer than two landmarks or more a step than there are, one that is not in the space, an order of
        another length or not finite, or no two landmarks that differ in order by more than the tolerance.
    """
    margin, tolerance = number("margin", margin, 0), number("tolerance", tolerance, 0)
    beta = None if beta is None else number("beta", beta, above=0)
    archs, levels, spread = _from_worst(supernet.space, landmarks, order, tolerance)
    num_landmarks = len(archs)
    tile = None if tile is None else whole("tile", tile, 1)
    if num_per_step is not None:
        num_per_step = whole("num_per_step, of the landmarks,", num_per_step, 2, num_landmarks)
    if num_per_step is not None:
        tile = tile or 1
    groups: Any = supernet.counts(archs) if tile is None else tile
    draw = all_pairs(num_per_step or num_landmarks) if draw is None else draw

    def loss_fn(params, archs_of_step, batch, key, step, groups_of_step=4):
        draw_key, image_key = jax.random.split(key)
        stored, labels = check_batch(batch, split)
        images = preprocess(image_key, stored)
        codes, order = jnp.asarray(archs), jnp.asarray(levels)
        if num_per_step is not None:
            subset_key, draw_key = jax.random.split(draw_key)
            rows = jnp.sort(jax.random.choice(subset_key, num_landmarks, (num_per_step,), replace=False))
            codes, order = codes[rows], order[rows]
        pairs = jnp.asarray(draw(draw_key))
        if tile is not None and pairs.size < len(codes):
            taken = pairs.ravel()
            pairs, codes, order = jnp.arange(pairs.size).reshape(-1, 2), codes[taken], order[taken]
        logits, _ = jax.vmap(lambda arch: supernet.apply(params, arch, images, groups=groups))(codes)
        losses = mean_of_each(cross_entropy(logits, labels))
        cost = functools.partial(ranking_loss, margin=margin, beta=beta, tolerance=tolerance / spread)
        return cost(losses, order, pairs=pairs, reduce_fn=reduce_fn), Aux()

    return loss_fn


def _from_worst(
    space: SearchSpace,
    landmarks: chex.ArrayNumpy | Sequence[Any],
    order: chex.ArrayNumpy | Sequence[float],
    tolerance: float,
) -> tuple[np.ndarray, np.ndarray, float]:
    """Checked landmarks from worst to best: codes, order float32 from 0 to 1, and the spread that was divided by."""
    archs, levels = check(space, landmarks), array("order", order, (None,), finite=False).astype(np.float64)
    if len(archs) < 2:
        raise ValueError(f"{space.name}: one landmark gives no pair to rank; give at least 2.")
    if levels.shape != (len(archs),) or not np.isfinite(levels).all():
        raise ValueError(
            f"{space.name}: the order of {len(archs)} landmarks must be as many finite numbers; got shape"
            f" {levels.shape} with {np.count_nonzero(~np.isfinite(levels))} not finite."
        )
    spread = np.ptp(levels)
    if spread <= tolerance:
        raise ValueError(
            f"{space.name}: all {len(archs)} landmarks are tied, order {levels.min():g} to {levels.max():g} at"
            f" tolerance {tolerance:g}; choose landmarks that differ, or a smaller tolerance."
        )
    rows = np.argsort(levels, kind="stable")
    # In units of the spread: large figures such as FLOPs would lose their differences in float32.
    return archs[rows], ((levels[rows] - levels.min()) / spread).astype(np.float32), spread


def all_pairs(num_landmarks: int, num_pairs: int | None = None) -> PairDraw:
    """Every pair in every step; or so many, drawn uniformly and with replacement."""
    _check_draw(num_landmarks, num_pairs)
    return _draw_from(np.stack(np.triu_indices(num_landmarks, k=1), axis=1), num_pairs)


def adjacent_pairs(num_landmarks: int, num_pairs: int | None = None) -> PairDraw:
    """Every pair of neighbours in rank in every step; or so many, drawn uniformly and with replacement."""
    _check_draw(num_landmarks, num_pairs)
    return _draw_from(np.arange(num_landmarks - 1)[:, None] + np.arange(2), num_pairs)


def biased_pairs(num_landmarks: int, num_pairs: int | None = None) -> PairDraw:
    """The authors' draw: the worse uniformly from all but the best, then the better uniformly from those above it.

    Pair (a, b), a < b, of M landmarks has the probability 1 / ((M - 1) (M - 1 - a)): the two best meet M / 2 times as
    often as in a uniform draw. `num_pairs` None: one, as published.
    """
    _check_draw(num_landmarks, num_pairs)

    def draw(key: chex.PRNGKey) -> chex.Array:
        worse_key, better_key = jax.random.split(key)
        worse = jax.random.randint(worse_key, (num_pairs or 1,), 0, num_landmarks - 1)
        better = jax.random.randint(better_key, worse.shape, worse + 1, num_landmarks)
        return jnp.stack([worse, better], axis=1)

    return draw


PAIR_DRAWS = {"all": all_pairs, "adjacent": adjacent_pairs, "biased": biased_pairs}


def _draw_from(pairs: np.ndarray, num_pairs: int | None) -> PairDraw:
    if num_pairs is None:
        return lambda key: jnp.asarray(pairs)
    return lambda key: jnp.asarray(pairs)[jax.random.randint(key, (num_pairs,), 0, len(pairs))]


def _check_draw(num_landmarks: int, num_pairs: int | None) -> None:
    whole("num_landmarks", num_landmarks, 2)
    if num_pairs is not None:
        whole("num_pairs", num_pairs, 1)


def random_landmarks(key: chex.PRNGKey, num_archs: int, num_landmarks: int) -> np.ndarray:
    """So many different indices into a pool of `num_archs`, uniformly: int [num_landmarks]. The published choice."""
    _check_number(num_landmarks, num_archs)
    return np.asarray(jax.random.choice(key, num_archs, (num_landmarks,), replace=False))


def ranked_landmarks(order: chex.ArrayNumpy, num_landmarks: int) -> np.ndarray:
    """Equally spaced in rank over a pool, from its worst to its best: int [num_landmarks], indices into `order`."""
    levels = array("order", order, (None,))
    _check_number(num_landmarks, len(levels))
    return np.argsort(levels, kind="stable")[np.rint(np.linspace(0, len(levels) - 1, num_landmarks)).astype(int)]


def distant_landmarks(
    key: chex.PRNGKey, archs: chex.ArrayNumpy, num_landmarks: int, *, min_distance: int
) -> np.ndarray:
    """Random, yet every two at least `min_distance` choices apart: int [num_landmarks], indices into `archs`.

    Goes through the pool, int [num_archs, num_choices], in a random order and takes whatever keeps the distance to
    those taken before. Raises a ValueError if the pool ends before there are enough.
    """
    archs = array("archs", archs, (None, None), "integer")
    _check_number(num_landmarks, len(archs))
    min_distance = whole("min_distance", min_distance, 1, archs.shape[1])
    shuffled = np.asarray(jax.random.permutation(key, len(archs)))
    taken = _spread_out(np.asarray(archs)[shuffled], num_landmarks, min_distance)
    if len(taken) < num_landmarks:
        raise ValueError(
            f"only {len(taken)} of {len(archs)} architectures are at Hamming distance {min_distance} of each other,"
            f" {num_landmarks} landmarks are wanted; lower min_distance or num_landmarks."
        )
    return shuffled[taken]


def propose_landmarks(
    landmarks: Landmarks, archs: chex.ArrayNumpy, scores: chex.ArrayNumpy, num_new: int, *, min_distance: int = 1
) -> np.ndarray:
    """The architectures to train alone next: the best scored that are no landmarks yet, int [<= num_new, num_choices].

    One round of the iterative scheme is: train with the landmarks, score `archs` int [num_archs, num_choices] with the
    super-net (higher is better), propose, find out how good those are, `extend_landmarks`.

    Args:
      min_distance: Hamming distance that a proposal keeps to every landmark and to every better proposal.
    """
    codes = np.asarray(archs)[np.argsort(-np.asarray(scores), kind="stable")]
    gap = np.full(len(codes), codes.shape[1] + 1)
    for landmark in landmarks.archs:
        gap = np.minimum(gap, (codes != landmark).sum(axis=1))
    codes = codes[gap >= min_distance]
    return codes[_spread_out(codes, num_new, min_distance)]


def extend_landmarks(landmarks: Landmarks, archs: chex.ArrayNumpy, order: chex.ArrayNumpy) -> Landmarks:
    """The landmarks with new ones behind them; a ValueError if one is there already, which would count it twice."""
    codes = np.concatenate([landmarks.archs, np.asarray(archs, np.int32)])
    if len(np.unique(codes, axis=0)) < len(codes):
        raise ValueError("an architecture is a landmark already, or given twice; take new ones from propose_landmarks.")
    return Landmarks(codes, np.concatenate([landmarks.order, np.asarray(order, np.float64)]))


def _spread_out(codes: np.ndarray, number: int, min_distance: int) -> np.ndarray:
    """Greedily the first `number` rows that keep the distance to all rows taken before: their indices."""
    taken: list[int] = []
    free = np.ones(len(codes), bool)
    while len(taken) < number and free.any():
        taken.append(int(np.argmax(free)))
        free &= (codes != codes[taken[-1]]).sum(axis=1) >= min_distance
        free[taken[-1]] = False
    return np.array(taken, np.int64)


def _check_number(num_landmarks: int, num_archs: int) -> None:
    whole("num_landmarks, of the pool,", num_landmarks, 2, whole("num_archs", num_archs, 2))
