"""What sub-networks do on each image, as features of their architectures, or as one score without any label.

    evaluator = make_evaluator(supernet, per_image=True)
    scores = evaluator.evaluate(params, archs, images, labels)
    prints = ranking.fingerprints(scores.image_loss)  # or a list, of several super-nets or moments, side by side
    prediction = ranking.predict(archs, known, accuracies, macs=macs, fingerprints=prints.features)

A mean loss is one figure of a row of hundreds. The principal components of the matrix [architectures x images] keep
what the rows have in common, and no label is needed for them. Where one component rules it may be quality itself, as in
item response theory (architectures are the examinees, images the items; Lord and Novick, "Statistical Theories of
Mental Test Scores", 1968): `one_factor` takes it for a score, and says when that is not to be trusted.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from jaxnas.checks import array, choice, whole
from jaxnas.ranking._decomposition import TRANSFORMS, Block, Matrix, read_blocks
from jaxnas.ranking.metrics import kendall_tau

Transform = Literal["log", "sqrt", "margin", "none"]
MAX_COMPONENTS = 30
# Below one of these a factor is doubted: that one thing rules, that other images would say the same, that the mean is
# near it, and that it is the same on all images. The last was chosen on super-nets of digits_chain and of a half of
# NAS-Bench-201: docs/fingerprints.md.
LEAST_ARCHS, LEAST_SHARE, LEAST_SPLIT_HALF, LEAST_AGREEMENT, LEAST_SAME_WAY = 10, 0.3, 0.8, 0.6, 0.8


class Fingerprints(NamedTuple):
    """Principal components of a population, that of most variance first."""

    features: np.ndarray  # float64 [num_archs, num_components], of mean 0; `shares` are the means of their squares
    shares: np.ndarray  # float64 [num_components], of the variance over architectures on all images
    # float64 [num_components]: how much of each, by half of the images, the other half finds beyond chance; 1: all
    found_again: np.ndarray


class Factor(NamedTuple):
    """The first component as a score, and what speaks against it."""

    scores: np.ndarray  # float64 [num_archs], mean 0, deviation 1; higher is better, as far as the mean says so
    share: float  # of the variance over architectures on all images
    split_half: float  # correlation of what either half of the images gives; nan for one image
    agreement: float  # Kendall's tau with minus the mean, 0 to 1
    same_way: float  # share of the images on which whoever has more of it does better, 0 to 1
    doubts: tuple[str, ...]  # why not to trust it; empty: nothing speaks against it

    @property
    def trusted(self) -> bool:
        return not self.doubts


def fingerprints(
    values: ArrayLike | Sequence[ArrayLike], *, transform: Transform = "log", num_components: int | None = None
) -> Fingerprints:
    """The principal components of what each architecture does on each image.

    Several matrices stand side by side, each with as much variance as any other. Beside them, and they may be
    memory-mapped (`numpy.memmap`), memory is taken for some forty numbers for each architecture and each image and for
    the rows that are transformed at once. The same input gives the same output.

    Args:
      values: [num_archs, num_images], such as `Scores.image_loss`; or a list of such, of several super-nets, moments of
        a training or sets of images, for the same architectures in the same order.
      transform: of losses in nats "log", "sqrt" or "margin" (minus the log odds of the label's class); "none" of what
        is no loss, such as logits as [num_archs, num_images * num_classes].
      num_components: None: all that are found again, from the first on, 30 at most. Even and odd images are
        decomposed alone, and a component counts where more than half of it lies among the components of the others.

    A value that is NaN or infinite is taken as the largest finite one on its image; a warning names the rows.

    Raises:
      ValueError: shapes that don't fit, one architecture, a negative loss, an image without a finite value, or all
        architectures alike.
    """
    matrix, blocks = _read(values, transform)
    most = min(matrix.num_archs - 1, matrix.num_columns)
    again = _found_again(
        blocks, transform, max(1, min(MAX_COMPONENTS, matrix.num_columns, (matrix.num_archs - 1) // 2))
    )
    if num_components is None:
        number = max(1, int(np.argmin(np.append(again, 0.0) > 0.5)))
    else:
        number = min(whole("num_components", num_components, 1), most)
        again = np.append(again, np.full(max(0, number - len(again)), np.nan))
    left, sizes = matrix.decomposed(number)
    return Fingerprints(left * sizes * np.sqrt(matrix.num_archs), sizes**2, again[:number])


def one_factor(values: ArrayLike | Sequence[ArrayLike], *, transform: Transform = "sqrt") -> Factor:
    """The first component as a score, with the sign of minus the mean over images.

    It can sharpen what a mean loss says. It is doubted where there are fewer than 10 architectures, where it carries
    less than 0.3 of the variance, where the first components of even and of odd images correlate below 0.8, where its
    tau with the mean is below 0.6, or where it goes the same way on less than 0.8 of the images. What differs most
    between architectures may be how sure they are, which helps on the images that most get right and hurts on the
    others; whether the sure ones are the good ones, only labels tell.

    Args and errors as for `fingerprints`; values of transform "none" are such that lower is better.
    """
    matrix, blocks = _read(values, transform)
    left, sizes = matrix.decomposed(1)
    mean = -np.sum([_row_means(block) for block in blocks], axis=0)
    tau = np.nan_to_num(kendall_tau(left[:, 0], mean))
    split_half, halves = float("nan"), _halves(blocks, transform)
    if halves is not None:
        even, odd = (half.decomposed(1)[0][:, 0] for half in halves)
        split_half = float(abs(even @ odd))
    doubts = [f"{matrix.num_archs} architectures are fewer than {LEAST_ARCHS}"] * (matrix.num_archs < LEAST_ARCHS)
    scores = left[:, 0] * np.sqrt(matrix.num_archs) * (-1.0 if tau < 0 else 1.0)
    share, agreement = float(sizes[0] ** 2), float(abs(tau))
    same_way = float((matrix.correlations(scores) < 0).mean())
    for name, value, least in (
        ("share of the variance", share, LEAST_SHARE),
        ("correlation between halves of the images", split_half, LEAST_SPLIT_HALF),
        ("tau with the mean", agreement, LEAST_AGREEMENT),
        ("share of images on which it goes the same way", same_way, LEAST_SAME_WAY),
    ):
        if not value >= least:  # or nan
            doubts.append(f"its {name} is {value:.2f}, below {least}")
    return Factor(scores, share, split_half, agreement, same_way, tuple(doubts))


def loadings(
    values: ArrayLike | Sequence[ArrayLike], scores: ArrayLike, *, transform: Transform = "sqrt"
) -> np.ndarray:
    """How far each image orders architectures as some scores do: which images carry a factor, a component or the truth.

    It is what psychometrics calls an item's discrimination, as a correlation: 1 where the network of the higher score
    always does better on the image, negative where it does worse, as on an image with a wrong label.

    Args:
      scores: [num_archs], higher is better: `Factor.scores`, a column of `Fingerprints.features`, accuracies.
      values, transform: as for `one_factor`; lower is better.

    Returns:
      float64 [num_images], in [-1, 1], of several matrices one after the other: Pearson's correlation of minus the
      transformed values on the image with the scores; 0 where all architectures do alike.

    Raises a ValueError as `fingerprints` does, and for scores of another shape, not finite or all equal.
    """
    matrix, _ = _read(values, transform)
    scores = array("scores", scores, (matrix.num_archs,)).astype(np.float64)
    if np.ptp(scores) == 0:
        raise ValueError(f"all scores are {scores[0]:g}, which orders nothing.")
    return -matrix.correlations(scores)


def _read(values: ArrayLike | Sequence[ArrayLike], transform: str) -> tuple[Matrix, list[Block]]:
    choice("transform", transform, TRANSFORMS)
    blocks = read_blocks(values, are_losses=transform != "none")
    matrix = Matrix(blocks, transform)
    if matrix.is_constant:
        raise ValueError("all architectures have the same values: nothing tells them apart.")
    return matrix, blocks


def _row_means(block: Block) -> np.ndarray:
    return np.concatenate([part.mean(axis=1) for _, part in block.rows()])


def _found_again(blocks: Sequence[Block], transform: str, rank: int) -> np.ndarray:
    """Of each component of the even images, the share that lies among as many of the odd ones, beyond that of a random
    direction: [rank], 1 if all does, about 0 by chance; nan where halves, or archs, are too few to tell."""
    halves, found = _halves(blocks, transform), np.full(rank, np.nan)
    by_chance = rank / (len(blocks[0].values) - 1)
    if halves is not None and by_chance < 1:
        even, odd = (half.decomposed(rank)[0] for half in halves)
        shares = ((odd.T @ even) ** 2).sum(axis=0)
        found[: len(shares)] = (shares - by_chance) / (1 - by_chance)
    return found


def _halves(blocks: Sequence[Block], transform: str) -> list[Matrix] | None:
    """Even and odd images; None where either half has none, or tells nothing apart."""
    if any(block.values.shape[1] < 2 for block in blocks):
        return None
    halves = [Matrix([block.half(which) for block in blocks], transform) for which in (0, 1)]
    return None if any(half.is_constant for half in halves) else halves
