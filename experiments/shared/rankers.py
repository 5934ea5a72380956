"""What ranks architectures beside a super-net and without its training, as experiments ask for it by name."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxnas import costs, runs, tables
from jaxnas.ranking import Ranker, compare, predicted, scored
from jaxnas.ranking.proxies import PROXIES, Proxy, make_proxies
from jaxnas.runs import sealed
from jaxnas.space import SearchSpace
from jaxnas.supernets import Params

from .config import RankedConfig
from .supernet import TrainingSetup, fresh_state, network_inputs

COSTS = ("macs", "params")
RANKERS = (*COSTS, *PROXIES)
PROXY_IMAGES = 32  # training images of the batch that proxies look at


def beside(
    config: RankedConfig,
    names: Sequence[str],
    published: SearchSpace,
    setup: TrainingSetup,
    archs: np.ndarray,
    folder: Path,
    seed: int,
    origin: sealed.Origin,
) -> list[Ranker]:
    """Rankers by name, proxies on the weights that the training from that seed begins with; and the mean of the ranks
    of several."""
    known = {
        "macs": Ranker("macs", lambda archs: costs.arch_costs(published, archs).macs),
        "params": Ranker("params", lambda archs: costs.arch_costs(published, archs).params),
    }
    proxies = proxies_on(setup, [name for name in names if name in PROXIES])
    columns = proxy_scores(config, proxies, fresh_state(config, setup, seed).params, setup, archs, folder, origin)
    for name, column in columns.items():
        known[name] = scored(name, archs, column, passes=PROXIES[name].passes * PROXY_IMAGES)
    rankers = [known[name] for name in names]
    return [*rankers, predicted("mean_rank", rankers, archs[:0], [])] if len(rankers) > 1 else rankers


def proxies_on(setup: TrainingSetup, names: Sequence[str]) -> dict[str, Proxy]:
    """Proxies on the first training images."""
    data = setup.data
    images = network_inputs(data, data.train_images[:PROXY_IMAGES])
    return make_proxies(setup.supernet, images, data.train_labels[:PROXY_IMAGES], names=names) if names else {}


def proxy_scores(
    config: RankedConfig,
    proxies: Mapping[str, Proxy],
    params: Params,
    setup: TrainingSetup,
    archs: np.ndarray,
    folder: Path,
    origin: sealed.Origin,
) -> dict[str, np.ndarray]:
    """Scores of each proxy, [num_archs], in blocks saved in `folder`."""
    space = setup.supernet.space

    def compute(block: np.ndarray, bar: Any) -> tables.Table:
        columns = {name: proxy(params, block) for name, proxy in proxies.items()}
        bar.update(len(block))
        units = dict.fromkeys(columns, "score")
        return tables.make_table(space, block, columns, units=units, provenance={"num_images": str(PROXY_IMAGES)})

    if not proxies:
        return {}
    size, progress = config.scoring.archs_per_save, config.problem.progress
    told: dict[str, Any] = {"prefix": "proxies_", "label": "proxies", "progress": progress}
    return runs.in_blocks(compute, archs, folder, space, size=size, origin=origin, **told)[0]


def print_table(rankers: Sequence[Ranker], archs: np.ndarray, truth: np.ndarray, path: Path) -> dict[str, Any]:
    """Compare rankers; print their table and write it to a CSV file: figures `tau_NAME` with their intervals."""
    rows = compare(rankers, archs, truth)
    runs.write_rows(path, rows)
    widest = max(len(row["ranker"]) for row in rows)
    print(f"{'ranker':{widest}}  tau [95 % over architectures]  spearman  labels  steps  passes")
    for row in rows:
        tau = "{tau:6.3f} [{tau_low:6.3f}, {tau_high:6.3f}]".format(**row)
        costs = "{labels:6}  {steps:5}  {passes:6g}".format(**row)
        print(f"{row['ranker']:{widest}}  {tau:29}  {row['spearman']:8.3f}  {costs}")
    return {f"tau_{row['ranker']}{end}": row[f"tau{end}"] for row in rows for end in ("", "_low", "_high")}
