"""The other way to spend landmarks: a predictor of accuracy, fitted to them, beside a super-net that never saw them.

A regulariser is told the accuracies of some architectures. Whoever has those can as well correct the ranking of a
super-net trained without them, so this is what the regulariser is to be compared with; it needs no training at all.
"""

import warnings

import chex
import numpy as np
import scipy.stats
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel
from sklearn.linear_model import Ridge
from sklearn.model_selection import KFold, cross_val_predict

from jaxnas.space import SearchSpace

NUM_FOLDS = 5


def predict_ranking(
    space: SearchSpace,
    landmarks: chex.ArrayNumpy,
    order: chex.ArrayNumpy,
    landmark_scores: chex.ArrayNumpy,
    landmark_macs: chex.ArrayNumpy,
    archs: chex.ArrayNumpy,
    scores: chex.ArrayNumpy,
    macs: chex.ArrayNumpy,
) -> tuple[np.ndarray, str]:
    """What a predictor fitted to the landmarks gives `archs`: float64 [num_archs], higher is better, and its name.

    Candidates are the super-net's score alone, ridge regressions and a Gaussian process over score, MACs and one-hot
    codes. The one taken has the highest Kendall's tau between the landmarks' order and what it predicts for each
    landmark from the other folds: a few dozen landmarks may be too few for the codes, and nothing but the landmarks may
    decide that. Scores and MACs enter as ranks among all architectures, which needs no ground truth; the target is the
    rank of `order`, since tau knows nothing else and a few very bad landmarks would otherwise rule the fit.

    Args:
      landmarks: int [num_landmarks, num_choices]; order, landmark_scores, landmark_macs: [num_landmarks], higher is
        better for the first two.
      archs: int [num_archs, num_choices]; scores, macs: [num_archs].
    """
    num_landmarks = len(landmarks)
    codes = np.concatenate([landmarks, archs])
    one_hot = [codes[:, [choice]] == np.arange(size) for choice, size in enumerate(space.num_ops)]
    numbers = [np.concatenate(pair) for pair in ((landmark_scores, scores), (landmark_macs, macs))]
    ranked = [scipy.stats.rankdata(column)[:, None] for column in numbers]
    features = np.concatenate([*ranked, *one_hot], axis=1).astype(np.float64)
    features = (features - features.mean(axis=0)) / np.maximum(features.std(axis=0), 1e-12)
    features[:, 2:] *= np.sqrt(1 / space.num_choices)  # all codes together weigh about as much as the score
    known, asked = features[:num_landmarks], features[num_landmarks:]
    target = scipy.stats.zscore(scipy.stats.rankdata(order))

    kernel = ConstantKernel() * RBF(length_scale=3.0) + WhiteKernel(noise_level=0.3)
    candidates = {"score": (1, Ridge(alpha=1e-3)), "score and macs": (2, Ridge(alpha=1.0))}
    candidates |= {f"ridge {alpha:g}": (features.shape[1], Ridge(alpha=alpha)) for alpha in (1.0, 10.0, 100.0)}
    candidates["gaussian process"] = (features.shape[1], GaussianProcessRegressor(kernel, random_state=0))
    folds = KFold(min(NUM_FOLDS, num_landmarks), shuffle=True, random_state=0)
    taus = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a length scale at its bound is a fit like any other
        for name, (width, model) in candidates.items():
            predicted = cross_val_predict(model, known[:, :width], target, cv=folds)
            taus[name] = np.nan_to_num(scipy.stats.kendalltau(predicted, target).statistic, nan=-1.0)
        best = max(taus, key=lambda name: taus[name])
        width, model = candidates[best]
        return model.fit(known[:, :width], target).predict(asked[:, :width]), best
