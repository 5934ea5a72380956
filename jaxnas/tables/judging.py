"""How what a search found is judged: by the table of stand-alone accuracies, among the feasible, over seeds."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from jaxnas.ranking import mean_truth
from jaxnas.tables.format import Table, lookup


class Judge(NamedTuple):
    """Ground truth that chooses among retrained networks, and ground truth that they are judged by.

    `choose_by` is the table's validation accuracy, the mean over seeds where it has them, else the test accuracy of
    each architecture's first training seed; `accuracy` is the mean test accuracy, without that seed. So nothing is
    chosen by what is reported. A table of one seed chooses nothing: None. Missing seeds (NaN) are left out of means.
    """

    truth: Table
    accuracy: Callable[[np.ndarray], np.ndarray]  # archs -> float64 [num_archs]
    choose_by: Callable[[np.ndarray], np.ndarray] | None
    feasible: np.ndarray  # float64, the accuracies of all feasible architectures of the table, best first

    def outcome(self, archs: np.ndarray) -> np.ndarray:
        """Of architectures [num_archs, num_choices] in order of score, the one that is most accurate once trained."""
        return archs[0] if self.choose_by is None else archs[np.argmax(self.choose_by(archs))]

    def regret(self, code: np.ndarray) -> float:
        """The best feasible accuracy minus that of the architecture."""
        return float(self.feasible[0] - self.accuracy(code[None])[0])

    def rank(self, code: np.ndarray) -> int:
        """The architecture's place among the feasible, from 1."""
        return 1 + int((self.feasible > self.accuracy(code[None])[0]).sum())


def make_judge(
    truth: Table, contains: Callable[[np.ndarray], np.ndarray] | None = None, *, limit: object = "the limit"
) -> Judge:
    """Read a table with the column `test_accuracy` as a judge.

    Args:
      contains: archs [num_archs, num_choices] -> bool [num_archs], the feasible ones, such as `Region.contains`; None:
        all are.
      limit: what makes an architecture feasible, for the error.

    Raises:
      ValueError: nothing in the table is feasible, or it lacks a figure that a feasible architecture, which is named,
        is chosen or judged by.
    """
    archs = truth.archs if contains is None else truth.archs[contains(truth.archs)]
    if not len(archs):
        raise ValueError(f"the table of {truth.space} has no architecture that meets {limit}.")
    seeds = lookup(truth, archs, "test_accuracy").reshape(len(archs), -1)
    num_trained = np.isfinite(seeds).sum(axis=1)
    choose_by: Callable[[np.ndarray], np.ndarray] | None = None
    accuracy = _reading(truth, "test_accuracy", mean_truth)
    if "valid_accuracy" in truth.columns:
        choose_by = _reading(truth, "valid_accuracy", mean_truth)
    elif num_trained.max() > 1:
        choose_by = _reading(truth, "test_accuracy", _first)
        accuracy = _reading(truth, "test_accuracy", lambda seeds: mean_truth(_without_first(seeds)))
    figures = {"judged": accuracy(archs)} | ({} if choose_by is None else {"chosen": choose_by(archs)})
    for use, values in figures.items():
        if not (known := np.isfinite(values)).all():
            row = int(np.argmin(known))
            raise ValueError(
                f"the table of {truth.space} has {num_trained[row]} test accuracies of architecture"
                f" {archs[row].tolist()}, too few figures for it to be {use} by; expected a valid_accuracy and a test"
                " accuracy of each feasible one, or test accuracies of two seeds; leave such architectures out."
            )
    return Judge(truth, accuracy, choose_by, np.sort(figures["judged"])[::-1])


def _reading(
    truth: Table, name: str, over_seeds: Callable[[np.ndarray], np.ndarray]
) -> Callable[[np.ndarray], np.ndarray]:
    """archs -> float64 [num_archs], of a column [num_archs] or [num_archs, num_seeds]."""
    return lambda archs: over_seeds(lookup(truth, archs, name).astype(np.float64).reshape(len(archs), -1))


def _first(seeds: np.ndarray) -> np.ndarray:
    """The first figure of each row that is there: [num_archs], NaN for a row without any."""
    place = np.isfinite(seeds).argmax(axis=1)
    first: np.ndarray = np.take_along_axis(seeds, place[:, None], axis=1)[:, 0]
    return first


def _without_first(seeds: np.ndarray) -> np.ndarray:
    """The same rows without their first figure, which becomes one that is missing."""
    there = np.isfinite(seeds)
    return np.where(there & (there.cumsum(axis=1) > 1), seeds, np.nan)
