"""A network that diverged: named, and ranked last by searches, by PC-NAS and in rankings, whatever they go by."""

import jax
import numpy as np
import pytest

from jaxnas import ranking
from jaxnas.evaluation import make_evaluator
from jaxnas.search import SEARCHES, pcnas

LOSS, ACCURACY = [0.5, np.nan, 0.25, np.inf], [0.75, 0.9, 0.8, 0.85]


def test_ranked_last_by_loss_and_by_accuracy():
    with pytest.warns(UserWarning, match=r"^2 of 4 networks have a loss that is NaN or infinite, at rows 1, 3: ranked"):
        assert ranking.as_scores(LOSS).tolist() == [-0.5, -1.5, -0.25, -1.5]
    with pytest.warns(UserWarning, match="ranked last"):
        scores = ranking.as_scores(LOSS, ACCURACY)
    assert scores.tolist() == [0.75, 0.0, 0.8, 0.0]
    assert ranking.kendall_tau(scores, [0.7, 0.1, 0.8, 0.1]) == 1.0
    with pytest.warns(UserWarning, match="rows 1: ranked"):  # of each super-net its own
        assert ranking.as_scores([[1.0, 2.0], [3.0, np.nan]]).tolist() == [[-1.0, -2.0], [-3.0, -4.0]]


def test_no_network_or_other_shapes():
    with pytest.raises(ValueError, match="no network has a finite loss: the super-net diverged"):
        ranking.as_scores([np.nan, np.inf])
    with pytest.raises(ValueError, match=r"loss has shape \(4,\) and accuracy \(3,\), expected one shape"):
        ranking.as_scores(LOSS, ACCURACY[:3])
    with pytest.raises(ValueError, match="an accuracy is not finite where the loss is"):
        ranking.as_scores([1.0], [np.nan])
    with pytest.raises(ValueError, match=r"`ranking.as_scores` ranks networks that diverged last"):
        ranking.kendall_tau(ACCURACY, LOSS)


def test_the_evaluator_gives_it_no_accuracy(small_supernet):
    """One candidate overflows: its networks' logits are no numbers, of which argmax would still make an accuracy; a
    search takes no such score, and with `as_scores` keeps away from it."""
    supernet, params = small_supernet("tiny")
    broken = dict(params) | {"layer2": dict(params["layer2"])}
    broken["layer2"]["nor_conv_1x1"] = jax.tree.map(
        lambda leaf: np.full_like(leaf, np.nan), params["layer2"]["nor_conv_1x1"]
    )
    images = np.random.default_rng(0).normal(size=(4, 4, 4, 1)).astype(np.float32)
    evaluate = make_evaluator(supernet, strategy="serial").evaluate
    scores = evaluate(broken, [[0, 0, 0], [0, 0, 1], [0, 0, 2]], images, np.zeros(4, int))
    assert np.isnan(scores.accuracy).tolist() == np.isnan(scores.loss).tolist() == [False, True, False]
    search = SEARCHES["random"](supernet.space)
    state = search.init(jax.random.key(0))
    with pytest.raises(ValueError, match=r"`ranking.as_scores` ranks networks that diverged last"):
        search.tell(state, scores.archs, scores.accuracy)
    with pytest.warns(UserWarning, match="rows 1: ranked last"):
        told = search.tell(state, scores.archs, ranking.as_scores(scores.loss, scores.accuracy))
    assert told.scores[1] == 0.0 and search.best(told)[0][2] != 1


def test_pcnas_decides_against_it(small_space):
    """Operation 1 of the first choice diverges whatever follows, with the accuracies of the best."""
    search = pcnas(small_space("tiny"), pool_size=2, num_completions=9)
    state = search.init(jax.random.key(0))
    extension = search.ask(state)
    diverged = extension.archs[:, 0] == 1
    loss, accuracy = np.where(diverged, np.nan, 1.0), np.where(diverged, 0.9, 0.5)
    for by in (None, accuracy):
        with pytest.warns(UserWarning, match="9 of 27 networks"):
            pool = search.tell(state, extension, ranking.as_scores(loss, by)).pool
        assert set(pool[:, 0].tolist()) == {0, 2}
    with pytest.raises(ValueError, match=r"`ranking.as_scores` ranks networks that diverged last"):
        search.tell(state, extension, -loss)
