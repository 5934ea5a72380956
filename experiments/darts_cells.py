"""Policies on DARTS's cells: what they make of the 214 published ones, and whether they end without parameters.

Yang, Esperanca and Carlucci (ICLR 2020, arXiv 1912.12522) trained 214 random cells of DARTS's space; what a policy
finds is none of them, so that no table says what it is worth. What can be said:

    NAME_tau_weights   how the losses of single paths, with the weights that trained beside the policy, rank those cells
    NAME_tau_policy    how the policy itself would: by the log-probability of a code, or the merits of its operations
    NAME_parameter_free  the share of edges that the found cells fill with skip or pooling; `table_parameter_free` is
        that of the published ones, and `table_tau_parameter_free` how such a share ranks them
    NAME_weight_first, NAME_weight_last  the weight of all candidates without parameters in a mixture, "none" among
        them: collapse to skip-connections would show in it (collapse.png)

Intervals are over seeds and cells. The ceiling is low: two trainings of one cell agree to a tau of 0.48, and all
cells lie between 96.0 and 97.4 %. Each policy decides by its own rule: of each node the two edges with the largest
weight of an operation other than "none", in PC-DARTS times that of the edge; codes of ENAS are compared by accuracy.

    jaxnas darts_cells cpu --data-dir DIR --workdir runs/cells

Minutes and figures are on the page Experiments of the documentation. A killed run goes on policy by policy, and within
a training.
"""

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from jaxnas import costs, plotting, ranking, runs, tables
from jaxnas.checks import OneOf, Pair, Positive
from jaxnas.policies import POLICIES, Policy
from jaxnas.runs.command import main
from jaxnas.training import TrainState

from .shared.config import settle
from .shared.policies import Found, PolicySearchConfig, kept, make_policy, parameter_free, search_with_weights
from .shared.problem import arch_rows, load_problem
from .shared.supernet import Score, build
from .shared.telling import Known, differences, hashes, write_found

MIXTURES = ("darts", "darts_second_order", "gdas", "pc_darts")  # whose weights learn at `alpha_rate`


@dataclasses.dataclass(frozen=True)
class Config(PolicySearchConfig):
    """Which policies, and how often."""

    policies: tuple[Annotated[str, OneOf(POLICIES)], ...] = ("random", "enas", "darts", "gdas", "pc_darts")
    num_seeds: Pair = 3  # runs of each policy, from seeds seed, seed + 1, ...
    alpha_rate: Positive | None = None  # learning rate of the weights of mixtures; None: as published

    def check(self) -> None:
        """Raise a ValueError where a policy is named twice."""
        super().check()
        if not self.policies or len(set(self.policies)) < len(self.policies):
            raise ValueError(f"policies is {self.policies}, expected one or more, each once.")


# A fiftieth of the published search: alphas learn at ten times the published rate, to get anywhere.
CPU = runs.replace(
    Config(), space="darts", dataset="cifar10", width="small", cells_per_stage=1, image_size="small", num_train=3_200,
    num_valid=3_200, num_steps=400, batch_size=32, learning_rate=None, crop=1, flip=True, alpha_rate=3e-3,
    checkpoint_every=200, report_every=10, num_eval_images=500, images_per_call=250,
)  # fmt: skip
PRESETS = {
    "tiny": runs.replace(  # on a space that compiles fast
        Config(), policies=("enas", "darts"), num_seeds=2, num_asked=2, num_updates=1, num_final=2, width=4,
        num_eval_archs=27, num_train=64, num_valid=50, num_steps=4, batch_size=16, report_every=1, checkpoint_every=2,
    ),
    "quick": runs.replace(CPU, policies=("random", "enas"), num_seeds=2, num_steps=100, width=4, checkpoint_every=50),
    "cpu": CPU,
}  # fmt: skip


def run(config: Config, workdir: Path, identity: str) -> Mapping[str, Any]:
    """Search and compare; see the module's docstring. Files: a folder for each policy, found.csv, scores.csv,
    collapse.png, and found_POLICY.json and its like, with weights: what each ends with, of the first seed."""
    config = settle(config)
    problem = load_problem(config.problem)
    space, truth = problem.space, problem.truth
    archs = truth.archs[: config.scoring.num_eval_archs]
    accuracy = ranking.mean_truth(tables.lookup(truth, archs, "test_accuracy"))
    for name in config.policies:
        make_policy(config, name, space, 1)

    found: dict[str, Found] = {}
    for name in config.policies:
        settings = {"learning_rate": config.alpha_rate} if config.alpha_rate and name in MIXTURES else {}
        also = functools.partial(opinions, archs)
        search = functools.partial(
            search_with_weights, config, config.num_seeds, space, problem.data, name, workdir, workdir,
            {"run": identity}, also=also, **settings,
        )  # fmt: skip
        found[name] = kept(workdir / f"{name}.json", {"run": identity, "policy": name}, search)

    supernet = build(config.network, space)
    shares = parameter_free(supernet, archs)
    macs = costs.arch_costs(problem.published, archs).macs
    figures: dict[str, Any] = {
        "space": space.name,
        "dataset": config.problem.dataset,
        "num_archs": len(archs),
        "num_seeds": config.num_seeds,
        "num_images": config.scoring.num_eval_images or len(problem.data.valid_images),
        "bn_mode": config.scoring.bn_mode,
        "macs_kendall_tau": ranking.kendall_tau(macs, accuracy),
        "table_parameter_free": float(shares.mean()),
        "table_parameter_free_most": float(shares.max()),
        **ranking.estimate(ranking.kendall_tau, shares, accuracy).named("table_tau_parameter_free"),
    }
    rows, ends_of = [], dict[str, np.ndarray]()
    columns = {"test_accuracy": accuracy, "macs": macs, "parameter_free": shares}
    for name, one in found.items():
        ends = np.array(one["archs"], np.int32)
        write_found(workdir, problem.published, ends[0], Known(), search=name)
        figures |= figures_of(name, one, accuracy) | {f"{name}_seconds": one["seconds"]}
        share = ends_of[name] = parameter_free(supernet, ends)
        figures |= ranking.estimate_mean(share).named(f"{name}_parameter_free")
        seeds = config.problem.seed + np.arange(config.num_seeds)
        columns |= {f"{name}_loss_{seed}": np.array(losses) for seed, losses in zip(seeds, one["losses"], strict=True)}
        rows += arch_rows(space, ends, {"policy": np.full(len(ends), name), "seed": seeds, "parameter_free": share})
    runs.write_rows(workdir / "found.csv", rows)
    runs.write_rows(workdir / "scores.csv", arch_rows(space, archs, columns))
    mixed = {name: one for name, one in found.items() if one.get("steps")}
    figure = plotting.collapse(
        {name: (one["steps"], one["parameter_free"]) for name, one in mixed.items()}, ends_of, shares, accuracy,
        title=f"Operations without parameters, {space.name} on {config.problem.dataset},"
        f" {plotting.counted(config.num_seeds, 'seed')}",
    )  # fmt: skip
    plotting.save_figure(figure, workdir / "collapse.png")
    taus = {name: f"{name}_tau_weights" for name in found}
    return differences(figures, taus, "a ranking by chance") | figures | hashes(problem.data, truth)


def opinions(archs: np.ndarray, policy: Policy, state: TrainState, score: Score) -> dict[str, Any]:
    """What the trained weights, and the policy itself, make of codes [num_archs, num_choices]."""
    own = None if policy.prefer is None else policy.prefer(state.sampler_state.policy, archs).tolist()
    return {"losses": score(state, archs).loss.tolist(), "preferences": own}


def figures_of(name: str, found: Found, accuracy: np.ndarray) -> dict[str, Any]:
    """How a policy and its weights rank the published cells, of this accuracy [num_archs]; and of a mixture, the weight
    without parameters at the first report and the last."""
    scores = {"weights": ranking.as_scores(np.array(found["losses"]))}
    if None not in found["preferences"]:
        scores["policy"] = np.array(found["preferences"])
    figures = dict[str, Any]()
    for what, of_seeds in scores.items():
        figures |= ranking.estimate(ranking.kendall_tau, of_seeds, accuracy).named(f"{name}_tau_{what}")
    if found.get("steps"):
        curves = np.array(found["parameter_free"])
        figures |= ranking.estimate_mean(curves[:, 0]).named(f"{name}_weight_first")
        figures |= ranking.estimate_mean(curves[:, -1]).named(f"{name}_weight_last")
    return figures


if __name__ == "__main__":
    main(f"{__package__}.darts_cells", __doc__, run, PRESETS)
