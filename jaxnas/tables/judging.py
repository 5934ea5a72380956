"""How what a search found is judged: by the table of stand-alone accuracies, among the feasible, over seeds."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from jaxnas.tables.format import Table, lookup


class Judge(NamedTuple):
    """Ground truth that chooses among retrained networks, and ground truth that they are judged by.

    `choose_by` is the table's validation accuracy, else that of the first training seed; `accuracy` is test accuracy,
    without that seed. So nothing is chosen by what is reported. A table of one seed chooses nothing: None.
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
      ValueError: nothing in the table is feasible.
    """

    def column(name: str) -> Callable[[np.ndarray], np.ndarray]:
        return lambda archs: lookup(truth, archs, name).astype(np.float64)

    accuracy, choose_by = column("test_accuracy"), None
    if "valid_accuracy" in truth.columns:
        choose_by = column("valid_accuracy")
    if truth.columns["test_accuracy"].ndim == 2:
        seeds = accuracy
        if choose_by is None and truth.columns["test_accuracy"].shape[1] > 1:
            choose_by, accuracy = (lambda archs: seeds(archs)[:, 0]), (lambda archs: seeds(archs)[:, 1:].mean(axis=1))
        else:
            accuracy = lambda archs: seeds(archs).mean(axis=1)  # noqa: E731
    archs = truth.archs if contains is None else truth.archs[contains(truth.archs)]
    if not len(archs):
        raise ValueError(f"the table of {truth.space} has no architecture that meets {limit}.")
    return Judge(truth, accuracy, choose_by, np.sort(accuracy(archs))[::-1])
