"""Rankings of a population by what is known of it and by a few labels: what `label_budget` compares, without images."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from sklearn.ensemble import GradientBoostingRegressor

from jaxnas import costs, ranking, tables
from jaxnas.space import SearchSpace

Features = Mapping[str, np.ndarray]  # what `ranking.predict` is given besides codes, labels and MACs
NONE = np.zeros(0, np.int64)


class Population(NamedTuple):
    """Architectures that are ranked, and what is known of them without a super-net."""

    archs: np.ndarray  # int32 [num_archs, num_choices]
    macs: np.ndarray  # [num_archs]
    graph: np.ndarray  # float64 [num_archs, any], see `graph_features`
    network: np.ndarray  # int [num_archs], equal for what is the same network alone
    accuracy: np.ndarray  # fractions [num_archs], means over training seeds
    seeds: np.ndarray | None  # fractions [num_archs, num_seeds], of single training seeds
    choose_by: np.ndarray | None  # [num_archs], what chooses the top decile where there are no single seeds


def describe(published: SearchSpace, space: SearchSpace, truth: tables.Table, archs: np.ndarray) -> Population:
    """What the table and the codes say of `archs`; MACs are those of the network at its published size."""
    test = tables.lookup(truth, archs, "test_accuracy")
    several = test.ndim == 2 and bool(np.isfinite(test).all())
    has_valid = not several and "valid_accuracy" in truth.columns
    return Population(
        archs=archs,
        macs=costs.arch_costs(published, archs).macs,
        graph=graph_features(space, archs),
        network=np.unique(space.isomorphs(archs), axis=0, return_inverse=True)[1].ravel(),
        accuracy=ranking.mean_truth(test),
        seeds=test if several else None,
        choose_by=ranking.mean_truth(tables.lookup(truth, archs, "valid_accuracy")) if has_valid else None,
    )


def graph_features(space: SearchSpace, archs: np.ndarray) -> np.ndarray:
    """How often each operation occurs; of a cell with an operation on each edge also, for each set of up to four
    operations, the shortest and the longest path from input to output by these alone, and how many of them enter the
    output and leave the input. After GRAF (Kadlecová et al., "Surprisingly Strong Performance Prediction with Neural
    Graph Features", arXiv 2404.16551), from its abstract. Standardised, float64 [num_archs, any]."""
    names = list(dict.fromkeys(name for choice in space.op_names for name in choice))
    ops = np.stack(
        [np.array([names.index(name) for name in choice])[codes] for choice, codes in zip(space.op_names, archs.T)],
        axis=1,
    )
    features = [(ops == index).sum(axis=1) for index in range(len(names))]
    edges = getattr(space.layout, "edges", ())
    if len(edges) == archs.shape[1]:
        begins, ends = np.array(edges).T
        for size in range(1, 5):
            for chosen in itertools.combinations(range(len(names)), size):
                there = np.isin(ops, chosen)
                features += _paths(edges, there)
                features += [there[:, ends == ends.max()].sum(axis=1), there[:, begins == 0].sum(axis=1)]
    columns = np.stack(features, axis=1).astype(np.float64)
    columns = columns[:, np.ptp(columns, axis=0) > 0]
    return (columns - columns.mean(axis=0)) / columns.std(axis=0)


def _paths(edges: Sequence[tuple[int, int]], there: np.ndarray) -> list[np.ndarray]:
    """The shortest and the longest path from node 0 to the last by the edges that are there, bool [num_archs,
    num_edges]: one more than any, and 0, where there is none."""
    last = max(end for _, end in edges)
    shortest = np.full((len(there), last + 1), last + 1.0)
    longest = np.full((len(there), last + 1), -np.inf)
    shortest[:, 0] = longest[:, 0] = 0
    for (begin, end), used in sorted(zip(edges, there.T), key=lambda pair: pair[0]):
        shortest[:, end] = np.minimum(shortest[:, end], np.where(used, shortest[:, begin] + 1, last + 1))
        longest[:, end] = np.maximum(longest[:, end], np.where(used, longest[:, begin] + 1, -np.inf))
    return [shortest[:, last], np.maximum(longest[:, last], 0)]


def drawn(
    population: Population, given: Mapping[str, Features], budgets: Sequence[int], *, num_draws: int, seed: int
) -> list[dict[str, Any]]:
    """Rows with method, labels, draw and what `judged` says: each method by what it is given, over random draws of
    labels, which are nested and the same for all methods. `code_boosting` is gradient boosting, given nothing."""
    rows = []
    for draw in range(num_draws):
        order = np.random.Generator(np.random.Philox((seed, draw))).permutation(len(population.archs))
        for number in budgets[:] if draw == 0 else [number for number in budgets if number]:
            known = order[:number]
            for method, features in given.items():
                boosting = method == "code_boosting"
                ranks = boosted(population, known) if boosting else predicted(population, features, known).ranks
                rows.append({"method": method, "labels": number, "draw": draw, **judged(population, ranks, known)})
    return rows


def ordered(population: Population, method: str, features: Features, budgets: Sequence[int]) -> list[dict[str, Any]]:
    """The same rows with labels that are not drawn: "spread", each as far from those before as can be by fingerprints,
    or "bought", where they tell most given those before."""
    rows, known = [], NONE
    spread = far_apart(features["fingerprints"], max(budgets, default=0))
    for number in [number for number in budgets if number]:
        if method == "spread":
            known = spread[:number]
        else:
            bought = predicted(population, features, known).next_labels(number - len(known))
            known = np.append(known, bought)
        ranks = predicted(population, features, known).ranks
        rows.append({"method": method, "labels": number, "draw": 0, **judged(population, ranks, known)})
    return rows


def far_apart(features: np.ndarray, number: int) -> np.ndarray:
    """Rows, the first in the middle, each next one as far as can be from the nearest before (Gonzalez, "Clustering to
    minimize the maximum intercluster distance", 1985): int [number], or all."""
    rows = [int((features**2).sum(axis=1).argmin())]
    nearest = np.full(len(features), np.inf)
    while len(rows) < min(number, len(features)):
        nearest = np.minimum(nearest, ((features - features[rows[-1]]) ** 2).sum(axis=1))
        nearest[rows] = -1
        rows.append(int(nearest.argmax()))
    return np.array(rows)


def predicted(population: Population, features: Features, known: np.ndarray) -> ranking.Prediction:
    """`ranking.predict`; labels that are all tied are as good as none."""
    if len(known) and np.ptp(population.accuracy[known]) == 0:
        known = NONE
    return ranking.predict(
        population.archs, known, population.accuracy[known], macs=population.macs, **features
    )  # fmt: skip


def boosted(population: Population, known: np.ndarray) -> np.ndarray:
    """Gradient boosting over codes, MACs and features of the graph; MACs alone without labels."""
    if len(known) < 2:
        return population.macs
    archs, macs = population.archs, population.macs
    codes = np.concatenate([choice[:, None] == np.unique(choice) for choice in archs.T], axis=1)
    columns = np.concatenate([codes, macs[:, None] / macs.max(), population.graph], axis=1)
    ranks = population.accuracy[known].argsort().argsort()
    model = GradientBoostingRegressor(subsample=0.7, random_state=0)
    return np.asarray(model.fit(columns[known], ranks).predict(columns))


def judged(population: Population, ranks: np.ndarray, known: np.ndarray) -> dict[str, float]:
    """Kendall's tau, that inside the top decile and the regret of the best of five, of all that is no network of a
    known one; nan where it cannot be had."""
    others = ~np.isin(population.network, population.network[known])
    if others.sum() < 11:
        return {"tau": float("nan"), "top_decile_tau": float("nan"), "regret": float("nan")}
    ranks, accuracy, top = ranks[others], population.accuracy[others], float("nan")
    if population.seeds is not None:
        top = ranking.top_decile_kendall_tau(ranks, population.seeds[others])
    elif population.choose_by is not None:
        top = ranking.top_decile_kendall_tau(ranks, accuracy, choose_by=population.choose_by[others])
    return {
        "tau": ranking.kendall_tau(ranks, accuracy),
        "top_decile_tau": top,
        "regret": ranking.top_k_regret(ranks, accuracy, k=5),
    }
