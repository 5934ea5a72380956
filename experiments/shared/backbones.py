"""Which networks are compared as backbones, and what the comparison says.

Files that were given are called by their names, or where there is none the best of the space's table `best`; `random`
are drawn within the same limit; `mobilenet_v2` has MobileNetV2's block at every choice; `untrained` is the first
backbone without having learnt to classify.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import scipy.stats

from jaxnas import export, plotting, ranking
from jaxnas.costs import arch_costs, limits
from jaxnas.search.regions import Region
from jaxnas.space import SearchSpace
from jaxnas.spaces import SPACES, get_space, mobilenet_v2
from jaxnas.supernets import make_supernet
from jaxnas.tables import Table

from .config import ProblemConfig, TransferConfig
from .problem import load_truth, read_arch

UNTRAINED = "untrained"
Figures = dict[str, Any]


class Candidate(NamedTuple):
    """A network that is compared."""

    name: str
    group: str  # what it is one of: found, random and so on
    published: SearchSpace  # at its published size, which costs and limits are of
    arch: np.ndarray  # int32 [num_choices]
    weights: str | None = None  # a file


def find_candidates(config: TransferConfig) -> list[Candidate]:
    """The networks of a config, the first of which is the one that matters; a ValueError where one isn't there."""
    given, problem = config.backbones, config.problem
    if given.arch is None and not given.num_best:
        raise ValueError("no backbone: give arch, or at least 1 as num_best.")
    first = [_given(path, problem) for path in given.arch or ()]
    space = first[0].published if first else get_space(problem.space)
    known = np.stack([each.arch for each in first if each.published.name == space.name]) if first else None
    truth = load_truth(problem, space) if known is None else None
    if given.limit is not None:
        limit = limits.parse(given.limit, space)
    else:
        macs = np.sort(arch_costs(space, known if truth is None else truth.archs).macs)
        limit = limits.parse(f"macs:{macs[-1] if truth is None else macs[len(macs) // 2]:.0f}", space)
    region = Region(space, limit)
    if truth is not None:
        first = [Candidate("best", "best", space, arch) for arch in _best(truth, region, given.num_best)]
    found = [*first]
    if given.untrained:
        found.append(first[0]._replace(name=UNTRAINED, group=UNTRAINED))
    if given.num_random:
        drawn = region.sample(np.random.default_rng(problem.seed), given.num_random)
        found += [Candidate("random", "random", space, arch) for arch in drawn]
    if given.mobilenet_v2:
        found.append(Candidate("mobilenet_v2", "mobilenet_v2", space, mobilenet_v2(space)))
    return _numbered(found)


def _given(path: str, problem: ProblemConfig) -> Candidate:
    group = Path(path).stem
    if path.endswith((".npz", ".safetensors")):
        space = export.space_in(path, SPACES)
        arch = export.load(path, make_supernet(space)).arch
        return Candidate(group, group, SPACES[space.name], arch, path)
    space, arch = read_arch(path, problem.space)
    return Candidate(group, group, space, arch)


def _best(truth: Table, region: Region, number: int) -> np.ndarray:
    """The most accurate of the table that the limit allows: what a search without error would find."""
    allowed = truth.archs[region.contains(truth.archs)]
    if len(allowed) < number:
        raise ValueError(
            f"{region.space.name}: {len(allowed)} networks of the table meet {region.limit}, expected {number}; take"
            " another limit."
        )
    accuracy = truth.columns["test_accuracy"][region.contains(truth.archs)].reshape(len(allowed), -1).mean(axis=1)
    return allowed[np.argsort(-accuracy, kind="stable")[:number]]


def _numbered(found: Sequence[Candidate]) -> list[Candidate]:
    """Several of one name are told apart by a number."""
    names = [each.name for each in found]
    counts = {name: 0 for name in names}
    numbered = []
    for each in found:
        counts[each.name] += 1
        several = names.count(each.name) > 1
        numbered.append(each._replace(name=f"{each.name}_{counts[each.name]}") if several else each)
    return numbered


def by_backbone(rows: Sequence[Figures], column: str) -> dict[str, np.ndarray]:
    """Name -> float64 [num_seeds] of one column, in the order of the rows."""
    names = dict.fromkeys(row["backbone"] for row in rows)
    return {name: np.array([row[column] for row in rows if row["backbone"] == name], np.float64) for name in names}


def summarise(rows: Sequence[Figures], column: str) -> Figures:
    """Of one figure of the task: its mean for each backbone with Student's interval over seeds, what the first has over
    the untrained one (paired by seed), what each group has over `random`, and how far it ranks the backbones as the
    accuracy of classification does."""
    values = by_backbone(rows, column)
    first = next(iter(values))
    figures: Figures = {"backbone": first, **ranking.estimate_mean(values[first]).named(column)}
    for name, of_seeds in values.items():
        figures |= ranking.estimate_mean(of_seeds).named(f"{name}_{column}")
    if UNTRAINED in values:
        gain = ranking.estimate_mean(values[first] - values[UNTRAINED])
        figures |= gain.named(f"{column}_over_untrained")
    members: dict[str, list[str]] = {}
    for row in rows:
        if row["backbone"] not in members.setdefault(row["group"], []):
            members[row["group"]].append(row["backbone"])
    for group, names in members.items():
        if group not in ("random", UNTRAINED) and "random" in members:
            difference = over([values[name] for name in names], [values[name] for name in members["random"]])
            figures |= difference.named(f"{group}_over_random_{column}")
    kept = [name for name in values if name != UNTRAINED]
    accuracies = by_backbone(rows, "accuracy")
    figures |= {f"{name}_accuracy": float(accuracies[name].mean()) for name in kept}
    tau = ranking.Estimate(math.nan, math.nan, math.nan)
    if len(kept) > 2:
        scores = np.stack([values[name] for name in kept], axis=1)
        mean_accuracy = np.array([accuracies[name].mean() for name in kept])
        tau = ranking.estimate(ranking.kendall_tau, scores, mean_accuracy)
    return figures | tau.named("accuracy_kendall_tau") | {"num_backbones": len(kept)}


def over(ours: Sequence[np.ndarray], others: Sequence[np.ndarray]) -> ranking.Estimate:
    """By how much the mean of our architectures, each float [num_seeds], is above that of others: with Welch's interval
    over architectures where there are two or more on both sides, else paired, over seeds."""
    if min(len(ours), len(others)) < 2:
        return ranking.estimate_mean(np.mean(ours, axis=0) - np.mean(others, axis=0))
    sides = [np.array([of_seeds.mean() for of_seeds in side]) for side in (ours, others)]
    value = float(sides[0].mean() - sides[1].mean())
    ends = scipy.stats.ttest_ind(*sides, equal_var=False).confidence_interval(0.95)
    return ranking.Estimate(value, float(ends.low), float(ends.high))


def draw_transfer(
    rows: list[Figures],
    figure: str,
    workdir: Path,
    *,
    title: str,
    y_label: str,
    references: Sequence[tuple[str, float]],
) -> None:
    """WORKDIR/transfer.png: a point for each backbone and seed, accuracy of classification beside the figure."""
    kept = [row for row in rows if row["group"] != UNTRAINED]
    values, accuracies = by_backbone(kept, figure), by_backbone(kept, "accuracy")
    groups = {row["backbone"]: row["group"] for row in kept}
    picture = plotting.transfer_scatter(
        [accuracies[name] for name in values],
        [values[name] for name in values],
        [groups[name] for name in values],
        title=title,
        y_label=y_label,
        references=references,
    )
    plotting.save_figure(picture, workdir / "transfer.png")
