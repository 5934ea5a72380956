"""Rankings of a population by what is known of it and by a few labels: what `label_budget` compares, without images."""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from sklearn.ensemble import GradientBoostingRegressor

from jaxnas import costs, plotting, ranking, runs, tables
from jaxnas.space import SearchSpace
from jaxnas.spaces import graph_features, pruned

Features = Mapping[str, Any]  # arrays that `ranking.predict` is given besides codes, labels and MACs
NONE = np.zeros(0, np.int64)
FEW_IMAGES = 50
CODES = ("code_process", "code_graph", "code_boosting")  # without a super-net
METRICS = ("tau", "top_decile_tau", "regret")
# Of which labels saved are told, and how figures call them.
SAVED = {"fingerprint": "", "everything": "everything_", "all_everything": "all_everything_"}


class Population(NamedTuple):
    """Architectures that are ranked, and what is known of them without a super-net."""

    archs: np.ndarray  # int32 [num_archs, num_choices], see `of_network`
    macs: np.ndarray  # [num_archs]
    graph: np.ndarray  # float64 [num_archs, any], see `spaces.graph_features`
    network: np.ndarray  # int [any, num_archs], see `same_networks`
    accuracy: np.ndarray  # fractions [num_archs], means over training seeds
    seeds: np.ndarray | None  # fractions [num_archs, num_seeds], of single training seeds
    choose_by: np.ndarray | None  # [num_archs], what chooses the top decile where there are no single seeds


def of_network(published: SearchSpace, archs: np.ndarray) -> dict[str, Any]:
    """What `ranking.predict` is given of networks besides scores and labels: codes without what their outputs do not
    depend on, their MACs and the features of their graphs."""
    codes = pruned(published, archs)
    features = [graph_features(published, codes)]
    return {"archs": codes, "macs": costs.arch_costs(published, codes).macs, "features": features}


def same_networks(published: SearchSpace, archs: np.ndarray) -> np.ndarray:
    """Numbers, int [2, num_archs], of which one at least is equal where networks trained alone are the same: that of
    the published class, and that of the code without what is dead."""
    both = published.isomorphs(archs), pruned(published, archs)
    return np.stack([np.unique(codes, axis=0, return_inverse=True)[1].ravel() for codes in both])


def among(network: np.ndarray, known: np.ndarray | list[int]) -> np.ndarray:
    """Which are the same network as one of the known rows, bool [num_archs]."""
    return np.any([np.isin(row, row[known]) for row in network], axis=0)


def describe(published: SearchSpace, truth: tables.Table, archs: np.ndarray) -> Population:
    """What the table and the codes say of `archs`; MACs are those of the network at its published size."""
    test, known = tables.lookup(truth, archs, "test_accuracy"), of_network(published, archs)
    several = test.ndim == 2 and bool(np.isfinite(test).all())
    has_valid = not several and "valid_accuracy" in truth.columns
    return Population(
        archs=known["archs"],
        macs=known["macs"],
        graph=known["features"][0],
        network=same_networks(published, archs),
        accuracy=ranking.mean_truth(test),
        seeds=test if several else None,
        choose_by=ranking.mean_truth(tables.lookup(truth, archs, "valid_accuracy")) if has_valid else None,
    )


def by_codes(population: Population) -> dict[str, dict[str, Any]]:
    """What is given to the predictors without a super-net."""
    return {"code_process": {}, "code_graph": {"features": [population.graph]}, "code_boosting": {}}


def everything(population: Population, losses: np.ndarray, proxies: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """What is known of the population altogether: mean losses and fingerprints of losses [num_moments, num_archs,
    num_images], proxies, [num_archs] each, features of the graph."""
    scores = np.column_stack([-losses.mean(axis=(0, 2)), *proxies.values()])
    prints = ranking.fingerprints(losses).features
    return {"scores": scores, "fingerprints": prints, "features": [population.graph]}


def unlabelled(population: Population, scores: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
    """A row for each ranking that takes no label, [num_archs] each: method, labels, draw and what `judged` says."""
    none = {"labels": 0, "draw": 0}
    return [{"method": method, **none, **judged(population, ranks, NONE)} for method, ranks in scores.items()]


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
    or, by any other name, bought where they tell most given those before."""
    rows, known = [], NONE
    for number in [number for number in budgets if number]:
        if method == "spread":
            known = far_apart(features["fingerprints"], number)
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
    others = ~among(population.network, known)
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


def figures_of(rows: Sequence[Mapping[str, Any]], budgets: Sequence[int]) -> dict[str, Any]:
    """`METRIC_METHOD_LABELS` with its interval, what is paired by super-net, and the labels that are saved."""
    of_seed = {}  # (metric, method, labels) -> [num_seeds] means over draws; of `all`, [num_draws]
    for metric, (key, group) in itertools.product(METRICS, grouped(rows).items()):
        by_seed: dict[Any, list[float]] = {}
        for row in group:
            by_seed.setdefault(row.get("seed", row["draw"]), []).append(row.get(metric, np.nan))
        of_seed[metric, *key] = np.array([np.mean(values) for values in by_seed.values()])
    for metric, number in itertools.product(METRICS, budgets):
        sign = -1 if metric == "regret" else 1
        best = max(CODES, key=lambda method: np.nan_to_num(sign * of_seed[metric, method, number].mean(), nan=-np.inf))
        of_seed[metric, "code", number] = of_seed[metric, best, number]
    figures: dict[str, Any] = {}
    for (metric, method, number), values in of_seed.items():
        if np.isfinite(values).all():
            figures |= ranking.estimate_mean(values).named(f"{metric}_{method}_{number}")
    if ("tau", "fingerprint", 0) not in of_seed:
        return figures
    for number in budgets:
        paired = of_seed["tau", "fingerprint", number] - of_seed["tau", "code", number]
        figures |= ranking.estimate_mean(paired).named(f"fingerprint_over_code_{number}")
    paired = of_seed["tau", "fingerprint", 0] - of_seed["tau", "macs", 0]
    figures |= ranking.estimate_mean(paired).named("no_labels_over_macs")
    curve = np.maximum.accumulate([of_seed["tau", "code", number].mean() for number in budgets])
    for number, (method, name) in itertools.product(budgets, SAVED.items()):
        wanted = of_seed.get(("tau", method, number))
        if number and wanted is not None:
            needed = np.expm1(np.interp(wanted, curve, np.log1p(budgets))) / number
            figures |= ranking.estimate_mean(needed).named(f"labels_saved_{name}{number}")
            figures[f"labels_saved_{name}{number}_is_least"] = bool((wanted > curve[-1]).any())
    return figures


def grouped(rows: Sequence[Mapping[str, Any]]) -> dict[tuple[str, int], list[Mapping[str, Any]]]:
    """Rows by method and number of labels, in order."""
    groups: dict[tuple[str, int], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["method"], row["labels"]), []).append(row)
    return groups


def shown_of(budgets: Sequence[int]) -> int:
    """The number of labels that a run's sentence is about."""
    return 30 if 30 in budgets else budgets[-1]


def write_draws(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Rows as a CSV file, with all columns."""
    runs.write_rows(path, [{"seed": "", **dict.fromkeys(METRICS), **row} for row in rows])


def draw(path: Path, figures: Mapping[str, Any], budgets: Sequence[int], title: str) -> None:
    """A picture of tau over the number of labels, without a super-net and with it; and what fingerprints are of."""
    shown = [number for number in budgets if number]
    panels = {
        "Kendall's tau": {
            "no super-net, best of three": "code",
            "... and proxies": "proxies",
            "fingerprints": "fingerprint",
            "... and proxies, graph": "everything",
        },
        "Kendall's tau, by\nfingerprints": {
            "of all moments": "fingerprint",
            "of all super-nets": "all",
            f"of {FEW_IMAGES} images": "few_images",
            "of fresh weights": "untrained",
        },
    }
    sizes: dict[str, list[int]] = {}
    drawn_panels = {}
    for panel, methods in panels.items():
        series = {}
        for name, method in methods.items():
            if f"tau_{method}_{shown[0]}" not in figures:
                continue
            known = [number for number in shown if f"tau_{method}_{number}" in figures]
            series[name] = tuple(
                [figures[f"tau_{method}_{number}{end}"] for number in known] for end in ("", "_low", "_high")
            )
            sizes[name] = known
        if not series:
            continue
        references = {f"MACs: {figures['tau_macs_0']:.2f}": figures["tau_macs_0"]}
        drawn_panels[panel] = plotting.Panel(series, references)  # type: ignore[arg-type]
    figure = plotting.panels_over_size(
        sizes, drawn_panels, title=title, size_label="labels: accuracies of training alone"
    )
    plotting.save_figure(figure, path)
