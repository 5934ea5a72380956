"""From what a super-net says of networks to what rankings and searches go by, networks that diverged included."""

import warnings

import numpy as np
from numpy.typing import ArrayLike


def as_scores(loss: ArrayLike, accuracy: ArrayLike | None = None) -> np.ndarray:
    """Scores, higher is better: minus the loss in nats, or the accuracy where it is given.

    A network whose loss is NaN or infinite comes last, by its accuracy too, which says nothing then: with `accuracy` it
    scores 0, the least that there is; else a nat below the worst of the others. A warning names such networks. So they
    can be told to a search, averaged by PC-NAS and ranked, where a score that is not finite is refused.

    Args:
      loss, accuracy: float [..., num_archs].

    Returns:
      float64 [..., num_archs], finite.

    Raises:
      ValueError: shapes that differ, no finite loss at all, or an accuracy that is not finite where the loss is.

    >>> as_scores([0.5, 0.25], [0.75, 0.8]).tolist()
    [0.75, 0.8]
    """
    loss = np.asarray(loss, np.float64)
    scores = -loss if accuracy is None else np.array(accuracy, np.float64)
    if scores.shape != loss.shape:
        raise ValueError(f"loss has shape {loss.shape} and accuracy {scores.shape}, expected one shape.")
    finite = np.isfinite(loss)
    if not np.isfinite(scores[finite]).all():
        raise ValueError("an accuracy is not finite where the loss is; score the networks again.")
    if finite.all():
        return scores
    rows = np.unique(np.nonzero(~finite)[-1])
    if not finite.any():
        raise ValueError("no network has a finite loss: the super-net diverged; train it with a lower learning rate.")
    shown = ", ".join(map(str, rows[:5])) + (", ..." if len(rows) > 5 else "")
    warnings.warn(
        f"{len(rows)} of {loss.shape[-1]} networks have a loss that is NaN or infinite, at rows {shown}: ranked last.",
        stacklevel=2,
    )
    scores[~finite] = scores[finite].min() - 1 if accuracy is None else 0.0
    return scores
