"""The front of a super-net: score and costs at once, under hard limits, with every network of it written out.

A super-net is trained; a search then asks for a generation after the other, which the evaluator scores in one call, and
ends after `budget` architectures. Any search will do: those that look at the score alone leave a front as well. What
breaks the limit is never asked for; what is to be kept low is named by `costs`, of which latencies come from
`latency_table`, a file of operations or of whole networks.

    jaxnas pareto quick --workdir runs/pareto
    jaxnas pareto quick --search nsga3 --costs macs params --limit macs:99e3,params:9e3 --workdir runs/2
    jaxnas pareto cpu --data-dir DIR --workdir runs/pareto-nb201

front.csv and front.json have the codes, scores and costs of the front, with stand-alone accuracies where a table has
them; front/CODE.npz is the network of each with its weights, for `jaxnas.export.load`. All but those accuracies is the
same without a table. A killed run goes on in the middle of the training or of the search. Minutes are
on the page Experiments of the documentation.
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import jax
import numpy as np
from tqdm import tqdm

from jaxnas import costs, export, files, plotting, ranking, runs, tables
from jaxnas.checks import OneOf, Pair, Text
from jaxnas.codes import to_text
from jaxnas.costs import CostFn, latency_files, limits
from jaxnas.runs import sealed
from jaxnas.runs.command import main
from jaxnas.search import SEARCHES, Front, Search, SearchState, front
from jaxnas.space import SearchSpace
from jaxnas.spaces import get_space
from jaxnas.supernets import Params, Supernet
from jaxnas.tables import Judge
from jaxnas.training import TrainState

from .shared.config import CIFAR, RankedConfig, settle
from .shared.problem import load_images, resize
from .shared.supernet import Score, build, make_score, make_setup, train
from .shared.telling import hashes, judged, write_found

MOST_WRITTEN = 50  # networks of the front whose weights are written


@dataclasses.dataclass(frozen=True)
class Config(RankedConfig):
    """A super-net, and what is asked of the front."""

    search: Annotated[str, OneOf(SEARCHES)] = "nsga2"
    # what is kept low beside a good score: macs, params, latency_ms or columns of the latency table
    costs: tuple[Annotated[str, Text("macs, params or a latency")], ...] = ("macs",)
    # QUANTITY:VALUE as in macs:50e6, several with commas; None: no limit
    limit: Annotated[str, Text("a limit such as macs:50e6")] | None = None
    latency_table: Annotated[str, Text("a file")] | None = None  # as of pcnas
    population_size: Pair = 20  # of a generation
    budget: Pair = 120  # architectures that are scored


DIGITS = runs.replace(Config(), num_curve_points=0)
PRESETS = {
    "tiny": runs.replace(
        DIGITS, width=4, num_train=128, num_valid=100, num_steps=6, batch_size=16, report_every=2, checkpoint_every=3,
        population_size=4, budget=12,
    ),
    "quick": DIGITS,
    "cpu": runs.replace(
        runs.replace(DIGITS, **CIFAR), space="nasbench201", width="small", cells_per_stage=1, image_size="small",
        num_steps=None, learning_rate=None, num_eval_images=500, num_curve_points=0, budget=500,
    ),
}  # fmt: skip


def run(config: Config, workdir: Path, identity: str) -> Mapping[str, Any]:
    """Train, search, write the front; see the module's docstring. Files: seed0 with the training and the search,
    evaluated.csv, front.csv, front.json, front.png, front/CODE.npz, and found.json and its like: the best score."""
    config = settle(config)
    compile_seconds = runs.compile_clock()
    published = get_space(config.problem.space)
    others = {} if config.latency_table is None else latency_files.read_latencies(config.latency_table, published)
    limit = None if config.limit is None else limits.parse(config.limit, published, others)
    wanted = costs.functions(published, config.costs, others)
    search = make_search(config, published, limit, wanted)
    judge = find_judge(config, published, search)

    data = load_images(config.problem, published)
    space = resize(config.problem, published, data)
    supernet, seed = build(config.network, space), config.problem.seed
    score = make_score(config.scoring, supernet, data, mesh=config.training.mesh, progress=config.problem.progress)
    setup = make_setup(config.training, supernet, data, config.sampling)
    folder, origin = workdir / f"seed{seed}", {"run": identity, "seed": seed}
    trained = train(config, setup, score, folder, seed=seed, origin=origin)
    state = searched(config, published, search, score, trained.state, folder, origin, wanted)

    found = front(state, wanted)
    test = None if judge is None else judge.accuracy(found.archs)
    rows = rows_of(published, found.archs, found.scores, found.costs, test)
    runs.write_rows(workdir / "front.csv", rows)
    of_all = {name: cost(state.archs) for name, cost in wanted.items()}
    runs.write_rows(workdir / "evaluated.csv", rows_of(published, state.archs, state.scores, of_all, None))
    write_networks(workdir, published, supernet, trained.state.params, found, rows)
    name, first = f"{published.name} on {config.problem.dataset}", found.costs[config.costs[0]]
    verdict = (
        f"the front has {plotting.counted(len(found.archs), 'architecture')} of {len(state.archs):,} scored, with"
        f" {config.costs[0]} from {first.min():,.6g} to {first.max():,.6g}"
    )
    draw(config, workdir, name, state, of_all, found, limit, verdict)
    best = found.archs[0]
    weights = (supernet, trained.state.params)
    return {
        "verdict": verdict,
        "headline": "front_size",
        "space": published.name,
        "dataset": config.problem.dataset,
        "search": config.search,
        "costs": " ".join(config.costs),
        "limit": config.limit,
        "front_size": len(found.archs),
        "evaluated_archs": len(state.archs),
        "best_score": float(found.scores[0]),
        **{f"least_{cost}": float(column.min()) for cost, column in found.costs.items()},
        **tau_on_front(found, test),
        **write_found(workdir, published, best, judged(judge, best), weights=weights),
        "train_seconds": trained.seconds,
        "compile_seconds": compile_seconds(),
        **hashes(data, None if judge is None else judge.truth),
    }


def make_search(config: Config, space: SearchSpace, limit: limits.Limit | None, wanted: Mapping[str, CostFn]) -> Search:
    settings: dict[str, Any] = {}
    if config.search in ("nsga2", "nsga3"):
        settings = {"costs": wanted, "population_size": config.population_size}
    elif config.search in ("random", "evolution", "optuna"):
        settings = {"num_archs": config.population_size}
    return SEARCHES[config.search](space, limit, **settings)


def find_judge(config: Config, space: SearchSpace, search: Search) -> Judge | None:
    """The table's judge; None where there is no table."""
    try:
        truth = tables.load_truth(space, config.problem.dataset, data_dir=config.problem.data_dir)
    except tables.MissingTable:
        return None
    return tables.make_judge(truth, search.region.contains, limit=search.region.limit)


def searched(
    config: Config,
    space: SearchSpace,
    search: Search,
    score: Score,
    trained: TrainState,
    folder: Path,
    origin: sealed.Origin,
    wanted: Mapping[str, CostFn],
) -> SearchState:
    """Ask and tell, a generation after the other; each is a file, from which a killed search goes on."""
    state = search.init(jax.random.fold_in(jax.random.key(config.problem.seed), 1))
    write = runs.csv_metrics(folder / "search.csv")
    with tqdm(total=config.budget, desc=config.search, unit=" archs", disable=not config.problem.progress) as bar:
        while (left := config.budget - len(state.archs)) > 0 and len(asked := search.ask(state)[:left]):
            path = folder / "search" / f"{len(state.archs):06d}.npz"
            of_step = {**origin, "evaluated": len(state.archs)}
            if not path.exists():
                path.parent.mkdir(exist_ok=True)
                table = runs.scores_table(space, score(trained, asked))
                sealed.write_table(path, "scores", table, of_step)
            losses = sealed.read_table(path, "scores", space, asked, of_step).columns["loss"]
            state = search.tell(state, asked, ranking.as_scores(losses))
            best, size = float(state.scores.max()), len(front(state, wanted).archs)
            write({"step": len(state.archs), "best_score": best, "front_size": size})
            bar.update(len(asked))
    return state


def rows_of(
    space: SearchSpace,
    archs: np.ndarray,
    scores: np.ndarray,
    of_costs: Mapping[str, np.ndarray],
    test: np.ndarray | None,
) -> list[dict[str, Any]]:
    """What files say of architectures, a row for each; the score is minus the super-net's validation loss, in nats."""
    columns = {"score": scores, **of_costs} | ({} if test is None else {"test_accuracy": test})
    return [
        {"arch": to_text(space, code)} | {name: float(column[row]) for name, column in columns.items()}
        for row, code in enumerate(archs)
    ]


def write_networks(
    workdir: Path, space: SearchSpace, supernet: Supernet, params: Params, found: Front, rows: list[dict[str, Any]]
) -> None:
    """front.json, and the networks with their weights: of a long front so many, spread over it, ends included."""
    places = np.unique(np.linspace(0, len(rows) - 1, min(len(rows), MOST_WRITTEN)).round().astype(int))
    (workdir / "front").mkdir(exist_ok=True)
    entries = []
    for row, code in zip(rows, found.archs, strict=True):
        figures = {name: value for name, value in row.items() if name != "arch"}
        words = export.in_words(space, code, accuracy=row.get("test_accuracy"))
        entries.append(json.loads(export.to_json(space, code, figures | {"words": words})))
    for place in places:
        network = export.export(supernet, params, found.archs[place])
        export.save(workdir / "front" / f"{rows[place]['arch']}.npz", network, supernet.space)
    content = {"space": space.name, "costs": list(found.costs), "front": entries}
    files.replace_file(workdir / "front.json", (json.dumps(content, indent=1) + "\n").encode())


def tau_on_front(found: Front, test: np.ndarray | None) -> dict[str, float]:
    """How well scores rank the front, where a table knows it."""
    if test is None or len(test) < 2:
        return {}
    return ranking.estimate(ranking.kendall_tau, found.scores, test).named("front_kendall_tau")


def draw(
    config: Config,
    workdir: Path,
    name: str,
    state: SearchState,
    of_all: Mapping[str, np.ndarray],
    found: Front,
    limit: limits.Limit | None,
    verdict: str,
) -> None:
    """front.png: everything that was scored, and the front, over each cost."""
    kept = {code.tobytes() for code in found.archs}
    figure = plotting.front_over_costs(
        (state.scores, of_all),
        [code.tobytes() in kept for code in state.archs],
        title=f"Front of a super-net, {name}, by {config.search}{f', {limit}' if limit else ''}\n{verdict}",
        score_label="super-net score\n(minus validation loss, nats)",
        limits=None if limit is None else {limit.name: limit.value},
    )
    plotting.save_figure(figure, workdir / "front.png")


if __name__ == "__main__":
    main(f"{__package__}.pareto", __doc__, run, PRESETS)
