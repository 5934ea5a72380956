"""How well a ranking agrees with the truth, and how sure one can be of it: NumPy and SciPy, on the host."""

from jaxnas.ranking.intervals import bootstrap_interval, bootstrap_paired_interval, bootstrap_seeds_interval, t_interval
from jaxnas.ranking.metrics import (
    best_rank_at_k,
    kendall_tau,
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

__all__ = [
    "best_rank_at_k",
    "bootstrap_interval",
    "bootstrap_paired_interval",
    "bootstrap_seeds_interval",
    "kendall_tau",
    "precision_at_k",
    "prob_surpass_random",
    "reliability",
    "seed_kendall_tau",
    "sparse_kendall_tau",
    "spearman",
    "t_interval",
    "top_decile_kendall_tau",
    "top_decile_seed_kendall_tau",
    "top_k_mean",
    "top_k_regret",
    "worst_rank_at_k",
]
