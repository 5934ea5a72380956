"""How much of the best front do searches find: accuracy and costs at once, with a table in place of super-nets.

Every search looks up so many architectures (`budget`) of the table's validation accuracies, or of those of one training
seed, and ends with a front of these and of the costs. What a front is worth is its hypervolume: the volume that it
dominates of a box from the best (highest accuracy, least costs) to the median accuracy of all feasible architectures
and to the largest costs on the true front, divided by what the true front dominates of it. `NAME_volume` is that share;
`NAME_test_volume` is the same of the front that was found and of the test accuracies, all of them: box, true front and
what the found one, which was chosen by the others, dominates. `nsga2_minus_random` and its like are differences, seeds
paired, with Student's interval over seeds.

`plain_nsga2` is pymoo's NSGA-II as its documentation has it for whole numbers (simulated binary crossover and
polynomial mutation, rounded), with a limit as its constraint; look-ups that repeat an architecture or break the limit
count for it as for all others.

    jaxnas pareto_compare quick --workdir runs/fronts
    jaxnas pareto_compare cpu --data-dir DIR --workdir runs/fronts-nb201        # 3 minutes

Settings were chosen on NAS-Bench-Macro, other seeds; figures are on the page Experiments of the documentation.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import jax
import numpy as np
from tqdm import tqdm

from jaxnas import costs, plotting, ranking, runs, tables
from jaxnas.checks import OneOf, Pair, Seeds, Text
from jaxnas.codes import to_text
from jaxnas.costs import latency_files, limits
from jaxnas.runs.command import main
from jaxnas.search import SEARCHES, SearchState, front
from jaxnas.search.pareto import objectives
from jaxnas.search.regions import Region
from jaxnas.search.sorting import hypervolume, non_dominated
from jaxnas.spaces import get_space

from .shared.config import ProblemConfig
from .shared.policies import kept
from .shared.problem import load_truth
from .shared.telling import estimate_of, hashes, judged, write_found

PLAIN = "plain_nsga2"


@dataclasses.dataclass(frozen=True)
class Config:
    """What is searched, by which searches, how long and how often."""

    problem: ProblemConfig = dataclasses.field(default_factory=ProblemConfig)
    searches: tuple[Annotated[str, OneOf((*SEARCHES, PLAIN))], ...] = ("nsga2", PLAIN, "random")
    # what is kept low beside high accuracy: macs, params, columns of the latency table
    costs: tuple[Annotated[str, Text("macs, params or a latency")], ...] = ("macs",)
    # QUANTITY:VALUE as in macs:50e6, several with commas; None: no limit
    limit: Annotated[str, Text("a limit such as macs:50e6")] | None = None
    latency_table: Annotated[str, Text("a file")] | None = None  # as of pcnas
    budget: Pair = 500  # architectures that are looked up
    population_size: Pair = 20  # of nsga2, nsga3 and plain_nsga2
    num_seeds: Seeds = 20

    def check(self) -> None:
        if len(set(self.searches)) < len(self.searches) or len(self.searches) < 2:
            raise ValueError(f"searches are {', '.join(self.searches)}, expected two or more, each once.")


PRESETS = {
    "tiny": runs.replace(Config(), budget=40, num_seeds=2, population_size=8),
    "quick": runs.replace(Config(), budget=60, population_size=10),
    "cpu": runs.replace(Config(), space="nasbench201", dataset="cifar10"),
}


class Box:
    """Between the best and the worst that count, of points [num_archs, num_objectives]: see the module's docstring."""

    def __init__(self, points: np.ndarray) -> None:
        self.true = points[non_dominated(points)]
        self.best = self.true.min(axis=0)
        worst = np.append(np.median(points[:, 0]), self.true[:, 1:].max(axis=0))
        self.sides = np.where(worst > self.best, worst - self.best, 1.0)
        self.whole = self.volume(self.true)

    def volume(self, points: np.ndarray) -> float:
        return hypervolume((points - self.best) / self.sides, np.ones(len(self.sides)))

    def share(self, points: np.ndarray) -> float:
        """Of the volume that the true front dominates, what these points dominate."""
        return self.volume(points) / self.whole


class Problem:
    """Feasible architectures, and what is looked up of them."""

    def __init__(self, config: Config) -> None:
        self.space = get_space(config.problem.space)
        table = config.latency_table
        others = {} if table is None else latency_files.read_latencies(table, self.space)
        self.limit = None if config.limit is None else limits.parse(config.limit, self.space, others)
        self.costs = costs.functions(self.space, config.costs, others)
        region = Region(self.space, self.limit)
        self.truth = load_truth(config.problem, self.space)
        self.judge = tables.make_judge(self.truth, region.contains, limit=self.limit)
        self.archs = self.truth.archs[region.contains(self.truth.archs)].astype(np.int32)
        if len(self.archs) < region.count():
            raise ValueError(
                f"the table has {len(self.archs)} of the {region.count()} feasible architectures of {self.space.name},"
                " expected all: any may be asked for."
            )
        self.values = (self.judge.choose_by or self.judge.accuracy)(self.archs)
        self._known = dict(zip((code.tobytes() for code in self.archs), self.values.tolist(), strict=True))
        self.box = Box(objectives(state_of(self.archs, self.values), self.costs))
        self.test_box = Box(objectives(state_of(self.archs, self.judge.accuracy(self.archs)), self.costs))

    def look_up(self, asked: np.ndarray) -> np.ndarray:
        """Accuracies of architectures int32 [num_archs, num_choices]; 0 of infeasible ones."""
        return np.array([self._known.get(code.tobytes(), 0.0) for code in asked])


def run(config: Config, workdir: Path, identity: str) -> Mapping[str, Any]:
    """Search and compare; see the module's docstring. Files: what each search looked up, searches/NAME.json;
    volumes.csv; fronts.csv, the fronts of the first seed; fronts.png; found.json and its like, the most accurate of the
    first search's front."""
    runs.check(config)
    problem = Problem(config)
    seeds = range(config.problem.seed, config.problem.seed + config.num_seeds)
    states: dict[str, list[SearchState]] = {}
    for name in config.searches:
        search = lambda name=name: {"archs": look_ups(config, problem, name, seeds)}  # noqa: E731
        found = kept(workdir / "searches" / f"{name}.json", {"run": identity, "search": name}, search)
        states[name] = [evaluated(problem, np.array(archs, np.int32)) for archs in found["archs"]]

    moments = np.unique(np.linspace(config.population_size, config.budget, 25).astype(int))
    grown = {name: np.array([volumes(problem, state, moments) for state in of]) for name, of in states.items()}
    tested = {name: [test_volume(problem, state) for state in of] for name, of in states.items()}
    last = {name: of_name[:, -1] for name, of_name in grown.items()}
    figures: dict[str, Any] = {}
    for name in states:
        figures |= ranking.estimate_mean(last[name]).named(f"{name}_volume")
        figures |= ranking.estimate_mean(tested[name]).named(f"{name}_test_volume")
        distinct = [len(np.unique(state.archs, axis=0)) for state in states[name]]
        figures |= {f"{name}_distinct": float(np.mean(distinct))}
    first, *others = config.searches
    for name in others:
        figures |= ranking.estimate_mean(last[first] - last[name]).named(f"{first}_minus_{name}")
        figures |= ranking.estimate_mean(np.subtract(tested[first], tested[name])).named(f"{first}_minus_{name}_test")
    minus = {name: estimate_of(figures, f"{first}_minus_{name}") for name in others}
    than = [one.verdict(f"{{}} than {name}", "more", "less", digits=3) for name, one in minus.items()]
    verdict = f"of the hypervolume of the true front {first} finds {', and '.join(than)}"
    runs.write_rows(
        workdir / "volumes.csv",
        [
            {"search": name, "seed": seed, "volume": last[name][row], "test_volume": tested[name][row]}
            for name in states
            for row, seed in enumerate(seeds)
        ],
    )
    write_fronts(problem, {name: of[0] for name, of in states.items()}, workdir)
    draw(config, problem, {name: of[0] for name, of in states.items()}, moments, grown, workdir, verdict)
    best = front(states[first][0], problem.costs).archs[0]
    return {
        "verdict": verdict,
        "headline": f"{first}_minus_{others[0]}",
        "space": problem.space.name,
        "dataset": config.problem.dataset,
        "num_feasible": len(problem.archs),
        "true_front_size": len(problem.box.true),
        "budget": config.budget,
        "num_seeds": config.num_seeds,
        **figures,
        **write_found(workdir, problem.space, best, judged(problem.judge, best)),
        **hashes(None, problem.truth),
    }


def state_of(archs: np.ndarray, scores: np.ndarray) -> SearchState:
    """What was evaluated, whoever asked for it."""
    return SearchState(np.zeros(2, np.uint32), archs, np.asarray(scores, np.float64))


def evaluated(problem: Problem, archs: np.ndarray) -> SearchState:
    """What was looked up and is feasible, in its order."""
    feasible = np.ones(len(archs), bool) if problem.limit is None else problem.limit.costs(archs) <= problem.limit.value
    return state_of(archs[feasible], problem.look_up(archs[feasible]))


def look_ups(config: Config, problem: Problem, name: str, seeds: range) -> list[list[list[int]]]:
    """The architectures that a search asked for, seed by seed, in their order."""
    found = []
    for seed in tqdm(seeds, desc=name, disable=not config.problem.progress):
        if name == PLAIN:
            found.append(plain(config, problem, seed).tolist())
            continue
        settings: dict[str, Any] = {}
        if name in ("nsga2", "nsga3"):
            settings = {"costs": problem.costs, "population_size": config.population_size}
        search = SEARCHES[name](problem.space, problem.limit, **settings)
        state = search.init(jax.random.key(seed))
        while (left := config.budget - len(state.archs)) > 0 and len(asked := search.ask(state)[:left]):
            state = search.tell(state, asked, problem.look_up(asked))
        found.append(state.archs.tolist())
    return found


def plain(config: Config, problem: Problem, seed: int) -> np.ndarray:
    """What pymoo's NSGA-II asks for, int32 [budget, num_choices]."""
    from pymoo.algorithms.moo.nsga2 import NSGA2
    from pymoo.core.problem import Problem as PymooProblem
    from pymoo.operators.crossover.sbx import SBX
    from pymoo.operators.mutation.pm import PM
    from pymoo.operators.repair.rounding import RoundingRepair
    from pymoo.operators.sampling.rnd import IntegerRandomSampling
    from pymoo.optimize import minimize

    asked: list[np.ndarray] = []
    space, limit = problem.space, problem.limit

    class Lookups(PymooProblem):
        def __init__(self) -> None:
            ends = {"xl": 0, "xu": np.array(space.num_ops) - 1, "vtype": int}
            super().__init__(len(space.num_ops), 1 + len(problem.costs), int(limit is not None), **ends)

        def _evaluate(self, x: np.ndarray, out: dict[str, Any], *args: Any, **kwargs: Any) -> None:
            archs = np.asarray(x, np.int32)
            asked.append(archs)
            out["F"] = objectives(state_of(archs, problem.look_up(archs)), problem.costs)
            if limit is not None:
                out["G"] = limit.costs(archs)[:, None] - limit.value

    rounded = {"prob": 1.0, "eta": 3.0, "vtype": float, "repair": RoundingRepair()}
    algorithm = NSGA2(
        pop_size=config.population_size,
        sampling=IntegerRandomSampling(),
        crossover=SBX(**rounded),
        mutation=PM(**rounded),
        eliminate_duplicates=True,
    )
    minimize(Lookups(), algorithm, ("n_eval", config.budget), seed=seed)
    return np.concatenate(asked)[: config.budget]


def volumes(problem: Problem, state: SearchState, moments: np.ndarray) -> list[float]:
    """The share of the true front's volume after so many look-ups."""
    points = objectives(state, problem.costs)
    return [problem.box.share(points[:moment]) for moment in moments]


def test_volume(problem: Problem, state: SearchState) -> float:
    """The share that the front dominates by its test accuracies."""
    found = front(state, problem.costs)
    return problem.test_box.share(objectives(state_of(found.archs, problem.judge.accuracy(found.archs)), problem.costs))


def write_fronts(problem: Problem, states: Mapping[str, SearchState], workdir: Path) -> None:
    """fronts.csv: the fronts, and the true one."""
    whole = state_of(problem.archs, problem.values)
    rows = []
    for name, state in {"true front": whole, **states}.items():
        found = front(state, problem.costs)
        for row, (code, test) in enumerate(zip(found.archs, problem.judge.accuracy(found.archs), strict=True)):
            scores = {"accuracy": float(found.scores[row]), "test_accuracy": float(test)}
            of_costs = {cost: float(column[row]) for cost, column in found.costs.items()}
            rows.append({"search": name, "arch": to_text(problem.space, code), **scores, **of_costs})
    runs.write_rows(workdir / "fronts.csv", rows)


def draw(
    config: Config,
    problem: Problem,
    states: Mapping[str, SearchState],
    moments: np.ndarray,
    grown: Mapping[str, np.ndarray],
    workdir: Path,
    verdict: str,
) -> None:
    """fronts.png: the fronts of the first seed over the first cost, and the volumes over what was looked up."""
    name = next(iter(problem.costs))
    points = {"true front": (-problem.box.true[:, 0], problem.box.true[:, 1])}
    for search, state in states.items():
        found = front(state, problem.costs)
        points[search] = (found.scores, found.costs[name])
    curves = {}
    for search, of_search in grown.items():
        mean, low, high = np.array([ranking.estimate_mean(column) for column in of_search.T]).T
        curves[search] = (moments, mean, low, high)
    figure = plotting.compared_fronts(
        points,
        curves,
        title=f"Fronts on {problem.space.name}, {config.problem.dataset}: the first of"
        f" {plotting.counted(config.num_seeds, 'seed')}, and means over all\n{verdict}",
        score_label="validation accuracy" if problem.judge.choose_by is not None else "accuracy",
        cost_label={"macs": "MACs", "params": "parameters"}.get(name, name),
        volume_label="share of the true front's\nhypervolume",
    )
    plotting.save_figure(figure, workdir / "fronts.png")


if __name__ == "__main__":
    main(f"{__package__}.pareto_compare", __doc__, run, PRESETS)
