"""PC-NAS, and searches on a uniform super-net, at equal total cost: how far each stays from the best feasible.

Cost is counted in forward passes of one image through one architecture ("image-archs"): a training step counts three
for each of its images and architectures, a scored architecture one for each image that it is scored on. Every search
pays for a whole super-net of the same number of steps, PC-NAS for its own, the others (`searches`) for the uniform one,
which is trained once a seed for all of them. PC-NAS goes first; the others may score as many architectures as it did,
fewer where the whole region is fewer. Sharing of prefixes makes scoring cheaper for all; it is not counted.

Each search hands its `num_retrained` best by score to the table, of which the most accurate is taken: the table's
validation accuracy chooses, or that of one training seed, and the others judge. `predictor` hands them over one by one:
of as many networks drawn at random, each next one is the best by `ranking.predict` on the super-net's scores, codes,
features of their graphs, MACs and the accuracies known so far. `halfway` does so with PC-NAS's own: of what its pool
can still become after half of the choices, by the weights of that moment, so that it costs less than the others. The
same is asked of networks drawn at random and of the feasible networks with most MACs, which cost no super-net at all.

    jaxnas search_compare quick --workdir runs/compare
    jaxnas search_compare cpu --data-dir DIR --workdir runs/compare-macro

Minutes and figures are on the page Experiments of the documentation.
"""

import dataclasses
import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import jax
import numpy as np

from jaxnas import costs, plotting, ranking, runs, tables
from jaxnas.checks import Count, OneOf, Pair, Seeds
from jaxnas.runs.command import main
from jaxnas.search import SEARCHES, Search
from jaxnas.supernets import Params
from jaxnas.tables import Judge

from .shared.config import SearchConfig, settle
from .shared.handing_over import one_by_one
from .shared.searching import (
    DIGITS,
    MACRO,
    TINY,
    Run,
    Task,
    image_archs,
    midway,
    midway_archs,
    narrowed,
    prepare,
    top,
    uniform,
    values,
)
from .shared.supernet import score_all
from .shared.telling import difference, hashes, judged, write_found


@dataclasses.dataclass(frozen=True)
class Config(SearchConfig):
    """What is searched; the settings of the searches that are compared with PC-NAS are their own defaults but these."""

    searches: tuple[Annotated[str, OneOf(SEARCHES)], ...] = ("spos", "evolution", "random")
    num_seeds: Seeds = 3
    population_size: Pair = 50  # of the evolutions
    max_listed: Count = 20_000  # feasible architectures, all of which are scored once on the uniform super-net


PRESETS = {
    "tiny": runs.replace(Config(), **TINY, num_seeds=2, population_size=4),
    "quick": runs.replace(Config(), **DIGITS | {"pool_size": 3, "num_completions": 4}, population_size=20),
    "cpu": runs.replace(Config(), **MACRO),
}
Curve = list[tuple[int, float, np.ndarray]]  # (cost in image-archs, regret, the outcome's code), cost growing


def run(config: Config, workdir: Path, identity: str) -> Mapping[str, Any]:
    """Search and compare; see the module's docstring. Files: one folder a seed, seeds.csv, pools.csv with what each
    step of PC-NAS leaves, regret.png, and found_SEARCH.json and its like: what each search ends with, of the first
    seed, with the weights it was scored by; those of `halfway` are gone."""
    config = settle(config)
    compile_seconds = runs.compile_clock()
    if len(set(config.searches)) < len(config.searches):
        raise ValueError(f"searches are {', '.join(config.searches)}, expected each once.")
    task = prepare(config)
    region, problem = task.search.region, config.problem
    truth = tables.load_truth(task.published, problem.dataset, data_dir=problem.data_dir)
    judge = tables.make_judge(truth, region.contains, limit=region.limit)
    searches = {name: make_search(config, task, name) for name in config.searches}
    archs = region.members()
    if len(archs) > config.max_listed:
        raise ValueError(f"{len(archs)} architectures are feasible, max_listed is {config.max_listed}; tighten limit.")

    rows, pools, curves, totals, weights = [], [], [], [], list[Params]()
    for seed in range(problem.seed, problem.seed + config.num_seeds):
        seeded, folder = runs.replace(config, seed=seed), workdir / f"seed{seed}"
        origin = {"run": identity, "seed": seed}
        found = narrowed(seeded, task, folder, origin)
        shared = uniform(seeded, task, folder, np.array(found.steps[midway(task) - 1].pool), origin)
        of_uniform = {**origin, "training": "uniform"}
        columns, _ = score_all(seeded, shared.state, archs, task.score, task.space, folder / "uniform", of_uniform)
        scores = values(config, columns)
        budget = sum(step.num_scored for step in found.steps)
        of_seed = {"pcnas": pcnas_curve(seeded, task, judge, found)}
        for name, search in searches.items():
            path = folder / f"{name}.csv"
            of_seed[name] = search_curve(seeded, task, judge, search, archs, scores, budget, path)
        of_seed["predictor"] = predictor_curve(seeded, task, judge, archs, columns, budget)
        of_seed["halfway"] = halfway_curve(seeded, task, judge, found)
        curves.append(of_seed)
        weights = weights or [found.state.params, shared.state.params]
        totals.append(of_seed["pcnas"][-1][0])
        pools += [{"seed": seed, **left} for left in what_is_left(judge, archs, found)]
        rows.append({"seed": seed, **{name: curve[-1][1] for name, curve in of_seed.items()}, "num_scored": budget})
    runs.write_rows(workdir / "seeds.csv", rows)
    runs.write_rows(workdir / "pools.csv", pools)
    by_lot, by_macs = drawn_regret(config, judge, archs), largest_regret(config, task, judge, archs)
    number = config.num_retrained
    references = {f"drawn at random, best of {number} (mean)": by_lot, f"most MACs, best of {number}": by_macs}

    figures: dict[str, Any] = {}
    for name, curve in curves[0].items():
        of_search = None if name == "halfway" else (task.setup.supernet, weights[name != "pcnas"])  # gone since
        write_found(workdir, task.published, curve[-1][2], judged(judge, curve[-1][2]), search=name, weights=of_search)
        figures |= ranking.estimate_mean([row[name] for row in rows]).named(f"{name}_regret")
    ends = [left["least_regret"] for left in pools if left["step"] == pools[-1]["step"]]
    figures |= ranking.estimate_mean(ends).named("pool_least_regret")
    for mine, name in itertools.product(("pcnas", "halfway", "predictor"), curves[0]):
        if mine != name:  # seeds are paired: the same warm-up, the same batches
            figures |= ranking.estimate_mean([row[mine] - row[name] for row in rows]).named(f"{mine}_minus_{name}")
    other = "random" if "random" in config.searches else config.searches[-1]
    regret = (
        f"the regret of PC-NAS, in accuracy, is {{}} than that of {'random search' if other == 'random' else other}"
    )
    told = difference(figures, f"pcnas_minus_{other}", regret, "higher", "lower", digits=4)
    draw(config, task, workdir, curves, references, told["verdict"])
    return {
        **told,
        "space": task.published.name,
        "dataset": problem.dataset,
        "limit": None if region.limit is None else config.limit,
        "num_feasible": len(archs),
        **figures,
        "drawn_regret": by_lot,
        "most_macs_regret": by_macs,
        "num_seeds": config.num_seeds,
        "trained_steps": config.training.num_steps,
        "evaluated_archs": float(np.mean([row["num_scored"] for row in rows])),
        "total_cost_image_archs": float(np.mean(totals)),
        "compile_seconds": compile_seconds(),
        **hashes(task.setup.data, truth),
    }


def num_images(config: Config, task: Task) -> int:
    return config.scoring.num_eval_images or len(task.setup.data.valid_images)


def pcnas_curve(config: Config, task: Task, judge: Judge, found: Run) -> Curve:
    """After each step, the outcome if the best that it scored were retrained."""
    curve, num_scored = [], 0
    for number, step in enumerate(found.steps):
        num_scored += step.num_scored
        trained = task.ends[min(number, len(task.ends) - 1)]
        code = judge.outcome(np.array(step.best, np.int32))
        curve.append((image_archs(config, trained, num_scored, num_images(config, task)), judge.regret(code), code))
    return curve


def what_is_left(judge: Judge, archs: np.ndarray, found: Run) -> list[dict[str, float]]:
    """After each step, of the feasible networks that the pool can still be completed to: how many, and how far the best
    of them and their mean stay from the best feasible."""
    rows, accuracies = [], judge.accuracy(archs)
    for number, step in enumerate(found.steps, 1):
        pool = np.array(step.pool)[:, None]
        left = accuracies[((archs == pool) | (pool < 0)).all(axis=-1).any(axis=0)]
        regrets = {"least_regret": judge.feasible[0] - left.max(), "mean_regret": judge.feasible[0] - left.mean()}
        rows.append({"step": number, "num_left": len(left), **regrets})
    return rows


def make_search(config: Config, task: Task, name: str) -> Search:
    size = config.population_size
    settings: dict[str, dict[str, Any]] = {
        "spos": {"population_size": size, "num_mutations": size // 2, "num_crossovers": size // 2},
        "evolution": {"population_size": size, "tournament_size": max(1, size // 4)},
        "random": {"num_archs": 10},
    }
    return SEARCHES[name](task.published, task.search.region.limit, **settings.get(name, {}))


def search_curve(
    config: Config,
    task: Task,
    judge: Judge,
    search: Search,
    archs: np.ndarray,
    scores: np.ndarray,
    budget: int,
    path: Path,
) -> Curve:
    """Ask and tell until the budget of scored architectures is spent; their scores are looked up in those of all. The
    file has how far it came after each `tell`."""
    num_steps = config.training.num_steps
    assert num_steps is not None
    by_code = {code.tobytes(): score for code, score in zip(archs, scores, strict=True)}
    state, curve = search.init(jax.random.fold_in(jax.random.key(config.problem.seed), 1)), []
    write = runs.csv_metrics(path)
    while (left := budget - len(state.archs)) > 0 and len(asked := search.ask(state)[:left]):
        state = search.tell(state, asked, np.array([by_code[code.tobytes()] for code in asked]))
        code = judge.outcome(state.archs[top(state.scores, config.num_retrained)])
        cost = image_archs(config, num_steps, len(state.archs), num_images(config, task))
        curve.append((cost, judge.regret(code), code))
        write({"step": len(state.archs), "best_score": state.scores.max(), "regret": curve[-1][1]})
    return curve


def predictor_curve(
    config: Config, task: Task, judge: Judge, archs: np.ndarray, columns: Mapping[str, np.ndarray], budget: int
) -> Curve:
    """Of as many networks as the others may score, drawn at random, those that are handed to the table one by one."""
    rng = np.random.Generator(np.random.Philox((config.problem.seed, 2)))
    rows = rng.permutation(len(archs))[:budget]
    code = handed_over(config, task, judge, archs[rows], {name: column[rows] for name, column in columns.items()})
    assert config.training.num_steps is not None
    cost = image_archs(config, config.training.num_steps, len(rows), num_images(config, task))
    return [(cost, judge.regret(code), code)]


def halfway_curve(config: Config, task: Task, judge: Judge, found: Run) -> Curve:
    """Of what PC-NAS has left after half of the choices, those that are handed to the table one by one."""
    steps = found.steps[: midway(task)]
    archs = midway_archs(config, task, np.array(steps[-1].pool))
    code = handed_over(config, task, judge, archs, found.midway)
    num_scored = sum(step.num_scored for step in steps) + len(archs)
    return [
        (image_archs(config, task.ends[len(steps)], num_scored, num_images(config, task)), judge.regret(code), code)
    ]


def handed_over(
    config: Config, task: Task, judge: Judge, archs: np.ndarray, columns: Mapping[str, np.ndarray]
) -> np.ndarray:
    """The outcome where networks are handed to the table one by one."""
    accuracies = (judge.choose_by or judge.accuracy)(archs)
    return judge.outcome(archs[one_by_one(config, task, archs, columns, lambda row: float(accuracies[row]))])


def drawn_regret(config: Config, judge: Judge, archs: np.ndarray, num_draws: int = 1000) -> float:
    """The mean regret where networks drawn at random are retrained."""
    rng, number = np.random.default_rng(0), 1 if judge.choose_by is None else config.num_retrained
    regrets = [judge.regret(judge.outcome(archs[rng.integers(len(archs), size=number)])) for _ in range(num_draws)]
    return float(np.mean(regrets))


def largest_regret(config: Config, task: Task, judge: Judge, archs: np.ndarray) -> float:
    """The regret where the feasible networks with most MACs are retrained."""
    macs = costs.arch_costs(task.published, archs).macs
    return judge.regret(judge.outcome(archs[top(macs, config.num_retrained)]))


def draw(
    config: Config, task: Task, workdir: Path, curves: list[dict[str, Curve]], references: dict, verdict: str
) -> None:
    """regret.png: the mean over seeds at each cost; a search has found nothing before its super-net is trained."""
    costs_of_all = np.unique([cost for of_seed in curves for curve in of_seed.values() for cost, *_ in curve])
    shown = {}
    for name in curves[0]:
        at = np.array([held(of_seed[name], costs_of_all) for of_seed in curves])  # [num_seeds, num_costs]
        known = np.isfinite(at).all(axis=0)
        _, low, high = np.array([ranking.estimate_mean(column) for column in at[:, known].T]).T
        shown[name] = (costs_of_all[known], at[:, known].mean(axis=0), low, high)
    limit, title = task.search.region.limit, f"{task.space.name}, {config.problem.dataset}"
    figure = plotting.regret_over_cost(
        shown,
        title=f"Searches on {title}{f', {limit}' if limit else ''}, {plotting.counted(len(curves), 'seed')}\n{verdict}",
        cost_label="cost: forward passes of one image through one architecture",
        references=references,
    )
    plotting.save_figure(figure, workdir / "regret.png")


def held(curve: Curve, at: np.ndarray) -> np.ndarray:
    """A curve's value at each cost: the newest until then, nan before the first."""
    known, values = np.array([point[:2] for point in curve]).T
    rows = np.searchsorted(known, at, side="right") - 1
    return np.where(rows < 0, np.nan, values[rows])


if __name__ == "__main__":
    main(f"{__package__}.search_compare", __doc__, run, PRESETS)
