"""How well a ranking agrees with the truth, and how sure one can be of it: NumPy and SciPy, on the host.

`jaxnas.ranking.proxies`, which runs networks, stands higher: import it by its name.
"""

from jaxnas.ranking._as_scores import as_scores
from jaxnas.ranking._fingerprints import Factor, Fingerprints, fingerprints, loadings, one_factor
from jaxnas.ranking._report import Report, report
from jaxnas.ranking.intervals import Estimate, estimate, estimate_difference, estimate_mean
from jaxnas.ranking.metrics import (
    best_rank_at_k,
    kendall_tau,
    mean_truth,
    precision_at_k,
    prob_surpass_random,
    reliability,
    seed_kendall_tau,
    sparse_kendall_tau,
    spearman,
    top_decile_kendall_tau,
    top_decile_seed_kendall_tau,
    top_k_mean,
    top_k_regret,
    worst_rank_at_k,
)
from jaxnas.ranking.predictor import Prediction, predict
from jaxnas.ranking.rankers import Ranker, compare, predicted, scored

__all__ = [
    "Estimate",
    "Factor",
    "Fingerprints",
    "Prediction",
    "Ranker",
    "Report",
    "as_scores",
    "best_rank_at_k",
    "compare",
    "estimate",
    "estimate_difference",
    "estimate_mean",
    "fingerprints",
    "kendall_tau",
    "loadings",
    "mean_truth",
    "one_factor",
    "precision_at_k",
    "predict",
    "predicted",
    "prob_surpass_random",
    "reliability",
    "report",
    "scored",
    "seed_kendall_tau",
    "sparse_kendall_tau",
    "spearman",
    "top_decile_kendall_tau",
    "top_decile_seed_kendall_tau",
    "top_k_mean",
    "top_k_regret",
    "worst_rank_at_k",
]
