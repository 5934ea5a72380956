"""Do shared weights rank the 32 recurrent cells as they rank when each is trained alone?

"Evaluating the Search Phase of NAS" (Yu et al., ICLR 2020, arXiv 1902.08142) trained the 32 cells of two nodes and four
activations alone, and ten super-nets on one uniformly drawn cell a step; the two rankings agreed to a tau of -0.004 in
the mean, the best run to 0.282 and the worst to -0.116. The authors' released code takes Kendall's tau of two lists of
the cells' *numbers*, each in its own order, which says nothing of how the orders agree (kcyu2014/nas-landmarkreg,
nasws/rnn/general_search_policies.py): that figure is `as_coded_...` here, and `kendall_tau` is the one meant.

Truth is a table of `build_table text`, ranked by the mean test loss over its seeds. The published order of the cells,
where --data-dir or JAXNAS_DATA has its file, stands beside it. Six pairs of cells are the same network, and differ by
noise alone: how far apart twins come is the noise of a ranking.

    jaxnas build_table text --workdir runs/rnn-table
    jaxnas rnn_ranking cpu --data-dir runs/rnn-table --workdir runs/rnn-ranking

Figures are on the page Experiments of the documentation.
"""

import dataclasses
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxnas import plotting, ranking, runs, tables
from jaxnas.checks import Pair
from jaxnas.codes import enumerate_archs, to_index
from jaxnas.files import decode_json
from jaxnas.runs.command import main
from jaxnas.space import SearchSpace
from jaxnas.tables.published import read_as_published

from .shared.config import RankedConfig, settle
from .shared.problem import arch_rows, load_problem
from .shared.supernet import Score, TrainingSetup, build, make_score, make_setup, score_all, train
from .shared.telling import hashes, level

PUBLISHED = "rnn32_ranking.json"
SOURCE = "github.com/kcyu2014/eval-nas, visualization/best_configs.py"
SHA256 = "e64aecf8a90aed022303eafd1eb5058bd7e8dc8922c833630cf4d0dca3602bac"


@dataclasses.dataclass(frozen=True)
class Config(RankedConfig):
    """The super-nets, and how many."""

    num_seeds: Pair = 10  # super-nets trained, from seeds seed, seed + 1, ...


SMALL = runs.replace(
    Config(), space="rnn32", dataset="pydoc", width="small", num_train=None, num_valid=100, batch_size=32,
    num_steps=600, sampler="uniform", learning_rate=None, weight_decay=0.0, crop=0, images_per_call=50,
    num_curve_points=0, archs_per_save=32,
)  # fmt: skip
PRESETS = {
    "tiny": runs.replace(
        SMALL, width=4, vocabulary=50, words_per_row=5, num_train=64, num_valid=8, batch_size=8, num_steps=6,
        num_seeds=2, report_every=2, checkpoint_every=3, archs_per_save=16,
    ),
    "quick": runs.replace(SMALL, num_seeds=3),
    "cpu": runs.replace(SMALL, dataset="shakespeare"),
}  # fmt: skip


def run(config: Config, workdir: Path, identity: str) -> Mapping[str, Any]:
    """Train and score; compare three orders. Files: a folder a seed, cells.csv, scatter.png."""
    config = settle(config)
    if config.problem.space != "rnn32":
        raise ValueError(f"rnn_ranking is about the cells of rnn32, got space {config.problem.space!r}.")
    _, space, data, truth = load_problem(config.problem)
    archs = enumerate_archs(space)
    alone = tables.lookup(truth, archs, "test_loss").astype(np.float64).reshape(len(archs), -1)
    order = published_order(config)
    supernet = build(config.network, space)
    score = make_score(config.scoring, supernet, data, mesh=config.training.mesh, progress=config.problem.progress)
    setup = make_setup(config.training, supernet, data, config.sampling)
    seeds = range(config.problem.seed, config.problem.seed + config.num_seeds)
    shared = np.stack([losses_of(config, setup, score, archs, workdir, seed, identity) for seed in seeds])

    several = alone.shape[1] > 1
    figures = {
        "space": space.name,
        "dataset": config.problem.dataset,
        "corpus": data.source,
        "num_seeds": config.num_seeds,
        "num_table_seeds": alone.shape[1],
        "kendall_tau_between_truth_seeds": ranking.seed_kendall_tau(alone) if several else math.nan,
        "truth_reliability": ranking.reliability(alone) if several else math.nan,
        "lowest_perplexity": float(np.exp(alone.mean(axis=1).min())),
        "highest_perplexity": float(np.exp(alone.mean(axis=1).max())),
        "supernet_perplexity": float(np.exp(shared.mean())),
    }
    figures |= agreement("", -shared, -alone.mean(axis=1))
    figures |= twins_apart("alone", space, archs, alone.mean(axis=1)[None])
    figures |= twins_apart("supernet", space, archs, shared)
    columns = {"number": to_index(space, archs), "twin": to_index(space, space.isomorphs(archs))}
    if order is not None:
        rank = np.argsort(order) + 1
        figures |= agreement("alone_published_", -alone.mean(axis=1)[None], -rank)
        figures |= agreement("supernet_published_", -shared, -rank)
        figures |= twins_apart("published", space, archs, rank[None].astype(np.float64))
        columns |= {"published_rank": rank}
    columns |= {f"alone_loss_{number}": row for number, row in enumerate(alone.T)}
    columns |= {f"supernet_loss_{number}": row for number, row in enumerate(shared)}
    runs.write_rows(workdir / "cells.csv", arch_rows(space, archs, columns))
    figure = plotting.rank_scatter(
        -shared.mean(axis=0),
        -alone.mean(axis=1),
        title=f"rnn32 on {config.problem.dataset}, mean of {plotting.counted(config.num_seeds, 'super-net')}",
        score_label="minus validation loss, shared weights (nats)",
        truth_label="minus test loss, trained alone (nats)",
        tau=ranking.estimate(ranking.kendall_tau, -shared, -alone.mean(axis=1)),
        num_supernets=len(shared),
    )
    plotting.save_figure(figure, workdir / "scatter.png")
    sentence = "the super-nets' order agrees with that of the networks trained alone, Kendall's tau"
    return level(figures, "kendall_tau", sentence) | figures | hashes(data, truth)


def losses_of(
    config: Config, setup: TrainingSetup, score: Score, archs: np.ndarray, workdir: Path, seed: int, identity: str
) -> np.ndarray:
    """The validation losses [num_archs], nats, of one super-net."""
    folder, origin = workdir / f"seed{seed}", {"run": identity, "seed": seed}
    trained = train(config, setup, score, folder, seed=seed, origin=origin)
    columns, _ = score_all(config, trained.state, archs, score, setup.supernet.space, folder, origin)
    losses: np.ndarray = columns["loss"].astype(np.float64)
    return losses


def published_order(config: Config) -> np.ndarray | None:
    """The published order of the cells' numbers, best first, int [32]; None, which is said, where there is no file."""
    named = [folder for folder in (config.problem.data_dir, os.environ.get("JAXNAS_DATA")) if folder]
    path = next((path for folder in named if (path := Path(folder).expanduser() / PUBLISHED).is_file()), None)
    if path is None:
        print(f"without the published order: no {PUBLISHED} in {' or '.join(named)}; it is that of {SOURCE}")
        return None
    return np.array(decode_json(read_as_published(path, SHA256, SOURCE))["order_best_first"])


def agreement(name: str, scores: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Kendall's tau of scores [num_seeds, num_archs] and truth [num_archs], higher being better in both: the mean over
    seeds, with its interval, the lowest and the highest; and as the authors' code computes it."""
    taus = [ranking.kendall_tau(row, truth) for row in scores]
    coded = np.array([tau_of_numbers(row, truth) for row in scores])
    figures = ranking.estimate(ranking.kendall_tau, scores, truth).named(f"{name}kendall_tau")
    figures |= {f"{name}lowest_kendall_tau": min(taus), f"{name}highest_kendall_tau": max(taus)}
    figures |= ranking.estimate_mean(coded).named(f"{name}as_coded_kendall_tau")
    return figures | {
        f"{name}lowest_as_coded_kendall_tau": float(coded.min()),
        f"{name}highest_as_coded_kendall_tau": float(coded.max()),
    }


def tau_of_numbers(scores: np.ndarray, truth: np.ndarray) -> float:
    """Kendall's tau of two lists of the architectures' numbers, each from the best to the worst by its own figure."""
    orders = (np.argsort(-figures, kind="stable") for figures in (scores, truth))
    return ranking.kendall_tau(*orders)


def twins_apart(name: str, space: SearchSpace, archs: np.ndarray, losses: np.ndarray) -> dict[str, float]:
    """How many ranks lie between networks that are the same, and between any two, means over pairs and over seeds, of
    losses [num_seeds, num_archs]."""
    same = to_index(space, space.isomorphs(archs))
    first, second = np.triu_indices(len(archs), k=1)
    is_twin = same[first] == same[second]
    ranks = np.argsort(np.argsort(losses, axis=1, kind="stable"), axis=1)
    apart = np.abs(ranks[:, first] - ranks[:, second]).mean(axis=0)
    return {f"{name}_twin_ranks": float(apart[is_twin].mean()), f"{name}_pair_ranks": float(apart.mean())}


if __name__ == "__main__":
    main(f"{__package__}.rnn_ranking", __doc__, run, PRESETS)
