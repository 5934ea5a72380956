"""The principal components of matrices too large to be copied: rows are read some at a time, nothing is drawn anew."""

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from jaxnas.checks import rectangular

LEAST_LOSS = 1e-6  # nats; below, float32 losses are rounding
TRANSFORMS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "log": lambda loss: np.log(np.maximum(loss, LEAST_LOSS)),
    "sqrt": np.sqrt,
    "margin": lambda loss: loss + np.log(-np.expm1(-np.maximum(loss, LEAST_LOSS))),  # minus the label's log odds
    "none": lambda values: values,
}
CHUNK = 2**22  # entries that are transformed at once
OVERSAMPLED, ITERATIONS = 10, 4


class Block(NamedTuple):
    """What a population did on some images, as it was given."""

    values: np.ndarray  # [num_archs, num_images], perhaps memory-mapped
    instead: np.ndarray | None  # [num_images], what stands where a value is not finite; None: all are

    def half(self, which: int) -> "Block":
        """The even images (0) or the odd ones (1)."""
        return Block(self.values[:, which::2], None if self.instead is None else self.instead[which::2])

    def rows(self) -> Iterator[tuple[slice, np.ndarray]]:
        """(rows, what they hold as float64, finite), as many at once as a chunk allows."""
        size = max(1, CHUNK // self.values.shape[1])
        for begin in range(0, len(self.values), size):
            rows = slice(begin, begin + size)
            part = np.asarray(self.values[rows], np.float64)
            yield rows, part if self.instead is None else np.where(np.isfinite(part), part, self.instead)


def read_blocks(values: ArrayLike | Sequence[ArrayLike], *, are_losses: bool) -> list[Block]:
    """One matrix or several, checked; see `fingerprints` for what is refused and what is replaced with a warning."""
    several = isinstance(values, list | tuple) and len(values) > 0 and np.ndim(values[0]) == 2
    matrices = [rectangular("values", matrix) for matrix in values] if several else [rectangular("values", values)]  # type: ignore[union-attr]
    if not several and matrices[0].ndim == 3:
        matrices = list(matrices[0])
    if any(matrix.ndim != 2 or len(matrix) != len(matrices[0]) or matrix.size == 0 for matrix in matrices):
        shapes = ", ".join(str(matrix.shape) for matrix in matrices)
        raise ValueError(f"values have shapes {shapes}, expected [num_archs, num_images], of the same architectures.")
    if len(matrices[0]) < 2:
        raise ValueError("values are of one architecture, expected two or more.")
    if any(matrix.dtype.kind not in "fiu" for matrix in matrices):
        raise ValueError(f"values: dtypes {[str(matrix.dtype) for matrix in matrices]}, expected real numbers.")
    blocks, wrong = [], np.zeros(len(matrices[0]), bool)
    for number, matrix in enumerate(matrices):
        largest = np.full(matrix.shape[1], -np.inf)
        for rows, part in Block(matrix, None).rows():
            if are_losses and (part < 0).any():
                raise ValueError(
                    f"values hold {part.min():g}, but no loss is below 0; take transform 'none' for others."
                )
            finite = np.isfinite(part)
            wrong[rows] |= ~finite.all(axis=1)
            largest = np.maximum(largest, np.where(finite, part, -np.inf).max(axis=0))
        if not np.isfinite(largest).all():
            image = int(np.argmin(np.isfinite(largest)))
            raise ValueError(
                f"image {image} of matrix {number} has no finite value: the super-net diverged; train it anew."
            )
        blocks.append(Block(matrix, largest if wrong.any() else None))
    if wrong.any():
        which = np.flatnonzero(wrong)
        shown = ", ".join(map(str, which[:5])) + (", ..." if len(which) > 5 else "")
        warnings.warn(
            f"{len(which)} of {len(wrong)} networks have a value that is NaN or infinite, at rows {shown}: taken as the"
            " largest finite one on the same image.",
            stacklevel=3,
        )
    return blocks


class Matrix:
    """Blocks side by side, transformed, columns of mean 0, each block of the same part of a Frobenius norm of 1."""

    def __init__(self, blocks: Sequence[Block], transform: str) -> None:
        self.blocks, self.transform = blocks, TRANSFORMS[transform]
        self.num_archs = len(blocks[0].values)
        self.num_columns = sum(block.values.shape[1] for block in blocks)
        self.means, self.scales = [np.zeros(block.values.shape[1]) for block in blocks], np.ones(len(blocks))
        for index in range(len(blocks)):
            total = np.zeros_like(self.means[index])
            for _, part in self._rows(index):
                total += part.sum(axis=0)
            self.means[index] = total / self.num_archs
            size = math.sqrt(sum(float(np.vdot(part, part)) for _, part in self._rows(index)))
            rounding = 1e-7 * float(np.linalg.norm(self.means[index])) * math.sqrt(self.num_archs)
            self.scales[index] = 1 / size if size > rounding else 0.0
        self.is_constant = not self.scales.any()
        self.scales /= math.sqrt(max(1, int(np.count_nonzero(self.scales))))

    def decomposed(self, rank: int) -> tuple[np.ndarray, np.ndarray]:
        """Left singular vectors [num_archs, rank], and the singular values [rank], whose squares are shares.

        Halko, Martinsson and Tropp, "Finding structure with randomness", SIAM Review 53, 2011, algorithm 4.4.
        """
        width = min(rank + OVERSAMPLED, self.num_archs, self.num_columns)
        found = self._times(np.random.default_rng(0).normal(size=(self.num_columns, width)))
        for _ in range(ITERATIONS):
            across = self._transposed_times(np.linalg.qr(found).Q)
            found = self._times(np.linalg.qr(across).Q)
        basis = np.linalg.qr(found).Q
        turn, sizes, _ = np.linalg.svd(self._transposed_times(basis).T, full_matrices=False)
        return basis @ turn[:, :rank], sizes[:rank]

    def correlations(self, vector: np.ndarray) -> np.ndarray:
        """Of each column with a vector [num_archs]: [num_columns], 0 for a column without variance."""
        centred = (vector - vector.mean())[:, None]
        sizes = np.concatenate(
            [np.sqrt(sum((part**2).sum(axis=0) for _, part in self._rows(index))) for index in range(len(self.blocks))]
        )
        products = self._transposed_times(centred)[:, 0] / max(float(np.linalg.norm(centred)), 1e-300)
        return np.divide(products, sizes, out=np.zeros_like(products), where=sizes > 1e-7 * sizes.max())

    def _times(self, right: np.ndarray) -> np.ndarray:
        product, begin = np.zeros((self.num_archs, right.shape[1])), 0
        for index, mean in enumerate(self.means):
            of_block = right[begin : begin + len(mean)]
            for rows, part in self._rows(index):
                product[rows] += part @ of_block
            begin += len(mean)
        return product

    def _transposed_times(self, left: np.ndarray) -> np.ndarray:
        products = [np.zeros((len(mean), left.shape[1])) for mean in self.means]
        for index, product in enumerate(products):
            for rows, part in self._rows(index):
                product += part.T @ left[rows]
        return np.concatenate(products)

    def _rows(self, index: int) -> Iterator[tuple[slice, np.ndarray]]:
        for rows, part in self.blocks[index].rows():
            yield rows, (self.transform(part) - self.means[index]) * self.scales[index]
