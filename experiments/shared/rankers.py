"""What ranks architectures beside a super-net and without its training, as experiments ask for it by name."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from jaxnas import costs, runs, tables
from jaxnas.ranking import Ranker, compare, predicted, scored
from jaxnas.ranking.proxies import PROXIES, make_proxies
from jaxnas.runs import sealed
from jaxnas.space import SearchSpace
from jaxnas.supernets import Params

from .config import RankedConfig
from .supernet import TrainingSetup, fresh_state, network_inputs

COSTS = ("macs", "params")
TRAINED = "_trained"
RANKERS = (*COSTS, *PROXIES, *(name + TRAINED for name in PROXIES))
PROXY_IMAGES = 32  # training images of the batch that proxies look at


def beside(
    config: RankedConfig,
    names: Sequence[str],
    published: SearchSpace,
    setup: TrainingSetup,
    trained: Params,
    archs: np.ndarray,
    folder: Path,
    seed: int,
    origin: sealed.Origin,
) -> list[Ranker]:
    """Rankers by name, proxies on the weights that the training from that seed begins with or, as NAME_trained, on
    those of its end; and the mean of the ranks of several."""
    known = {
        "macs": Ranker("macs", lambda archs: costs.arch_costs(published, archs).macs),
        "params": Ranker("params", lambda archs: costs.arch_costs(published, archs).params),
    }
    for end, weights in {"": fresh_state(config, setup, seed).params, TRAINED: trained}.items():
        wanted = [name for name in PROXIES if name + end in names]
        if not wanted:
            continue
        score = make_proxy_scores(config, setup, wanted)
        for name, column in score(weights, archs, folder, origin, f"proxies{end}_").items():
            cost = {"passes": PROXIES[name].passes * PROXY_IMAGES, "steps": config.training.num_steps if end else 0}
            known[name + end] = scored(name + end, archs, column, **cost)
    rankers = [known[name] for name in names]
    return [*rankers, predicted("mean_rank", rankers, archs[:0], [])] if len(rankers) > 1 else rankers


class ProxyScores(Protocol):
    """Scores of each proxy, [num_archs], in blocks saved in a folder under names that begin so."""

    def __call__(
        self, params: Params, archs: np.ndarray, folder: Path, origin: sealed.Origin, prefix: str = "proxies_"
    ) -> dict[str, np.ndarray]: ...


def make_proxy_scores(config: RankedConfig, setup: TrainingSetup, names: Sequence[str] = tuple(PROXIES)) -> ProxyScores:
    """Proxies on the first training images, compiled once."""
    space, data = setup.supernet.space, setup.data
    images = network_inputs(data, data.train_images[:PROXY_IMAGES])
    proxies = make_proxies(setup.supernet, images, data.train_labels[:PROXY_IMAGES], names=names)

    def score(
        params: Params, archs: np.ndarray, folder: Path, origin: sealed.Origin, prefix: str = "proxies_"
    ) -> dict[str, np.ndarray]:
        def compute(block: np.ndarray, bar: Any) -> tables.Table:
            columns = proxies(params, block)
            bar.update(len(block))
            units = dict.fromkeys(columns, "score")
            return tables.make_table(space, block, columns, units=units, provenance={"num_images": str(PROXY_IMAGES)})

        size, progress = config.scoring.archs_per_save, config.problem.progress
        told: dict[str, Any] = {"prefix": prefix, "label": "proxies", "progress": progress}
        return runs.in_blocks(compute, archs, folder, space, size=size, origin=origin, **told)[0]

    return score


def print_table(rankers: Sequence[Ranker], archs: np.ndarray, truth: np.ndarray, path: Path) -> dict[str, Any]:
    """Compare rankers; print their table and write it to a CSV file: figures `tau_NAME` with their intervals."""
    rows = compare(rankers, archs, truth)
    runs.write_rows(path, rows)
    widest = max(len(row["ranker"]) for row in rows)
    over = f"above {rows[0]['ranker']}"
    print(f"{'ranker':{widest}}  tau [95 % over architectures]  {over:23}  spearman  labels  steps  passes")
    for row in rows:
        tau = "{tau:6.3f} [{tau_low:6.3f}, {tau_high:6.3f}]".format(**row)
        above = ""
        if row is not rows[0]:
            above = "{over_first:6.3f} [{over_first_low:6.3f}, {over_first_high:6.3f}]".format(**row)
        costs = "{labels:6}  {steps:5}  {passes:6g}".format(**row)
        print(f"{row['ranker']:{widest}}  {tau:29}  {above:23}  {row['spearman']:8.3f}  {costs}")
    return {f"tau_{row['ranker']}{end}": row[f"tau{end}"] for row in rows for end in ("", "_low", "_high")}
