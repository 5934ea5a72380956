"""Does a search do better than chance: policies that learn, beside one uniform draw, with shared weights and without.

"Evaluating the Search Phase of NAS" (Yu et al., ICLR 2020, arXiv 1902.08142): each policy ends with one architecture a
seed, which the table judges. The random policy is one uniform draw a seed, not the best of several. With shared weights
("NAME_...") policy and super-net train together. Fed with the table ("fed_NAME_..."), each policy asks for the table's
validation accuracies, `num_queries` of them and repetitions counted, and ends with the best that it asked for; random
search and regularised evolution ask for as many. The published comparison gave ENAS 60,000 look-ups and NAO its whole
pool. A mixture is fed with codes drawn from it.

`prob_surpass_random` is the chance that the best of all seeds beats as many uniform draws; `p_value` that of Welch's
t-test against the random policy, `minus_random` the mean difference to it, seeds paired, with Student's interval and a
percentile bootstrap's beside it, which is too short for few seeds. `minus_uniform` is that to the mean of all uniform
draws, which the table knows, so that the luck of a few draws is not in it. `parameter_free` is the share of edges or
layers, "none" left out, whose operation has no parameters; parameter_free.png has the weight of all such candidates,
"none" among them, in mixtures over the training, where collapse to skip-connections shows. Networks on text are judged
by one over their perplexity in place of accuracy.

    jaxnas search_phase quick --workdir runs/policies
    jaxnas search_phase cpu --data-dir DIR --workdir runs/policies-nb201
    jaxnas search_phase table --data-dir DIR --workdir runs/policies-fed      # no super-net: minutes
    jaxnas search_phase cpu --space rnn32 --dataset shakespeare --data-dir DIR --workdir runs/rnn

Figures are on the page Experiments of the documentation. A killed run goes on policy by policy, and within a
super-net's training.
"""

import dataclasses
import functools
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import numpy as np
import scipy.stats
from tqdm import tqdm

from jaxnas import codes, plotting, ranking, runs, tables
from jaxnas.checks import OneOf, Pair
from jaxnas.policies import POLICIES, feed
from jaxnas.runs.command import main
from jaxnas.search import SEARCHES
from jaxnas.space import SearchSpace
from jaxnas.spaces import get_space
from jaxnas.supernets import Supernet
from jaxnas.tables import Judge

from .shared.config import settle
from .shared.policies import (
    Found,
    PolicySearchConfig,
    check_judged,
    kept,
    make_policy,
    parameter_free,
    search_with_weights,
)
from .shared.problem import load_images, load_truth, resize
from .shared.supernet import build
from .shared.telling import differences, hashes, judged, write_found

BASELINES = {"random_search": "random", "evolution": "evolution"}  # which ask for as much as the policies do


@dataclasses.dataclass(frozen=True)
class Config(PolicySearchConfig):
    """Which policies, how often, and what feeds them."""

    policies: tuple[Annotated[str, OneOf(POLICIES)], ...] = (
        "random", "enas", "reinforce", "darts", "darts_second_order", "gdas", "fbnet", "bayesnas", "nao",
    )  # fmt: skip
    feedback: Literal["both", "table", "weights"] = "both"
    num_seeds: Pair = 10  # runs of each policy, from seeds seed, seed + 1, ...


PRESETS = {
    "tiny": runs.replace(
        Config(), policies=("random", "enas", "darts"), num_seeds=2, num_queries=8, num_asked=2, num_updates=1,
        num_final=2, nao_steps=2, width=4,
        num_train=64, num_valid=50, num_steps=4, batch_size=16, report_every=1, checkpoint_every=2,
    ),
    "quick": runs.replace(
        Config(), policies=("random", "enas", "darts", "gdas"), num_seeds=3, num_steps=60, batch_size=32,
        checkpoint_every=30,
    ),
    "table": runs.replace(
        Config(), space="nasbench201", dataset="cifar10", feedback="table",
    ),
    "cpu": runs.replace(
        Config(), space="nasbench201", dataset="cifar10", width="small", cells_per_stage=1, image_size="small",
        num_train=None, num_valid=25_000, num_steps=None, learning_rate=None, crop=2, flip=True, checkpoint_every=500,
        report_every=50, num_eval_images=500, images_per_call=250,
    ),
}  # fmt: skip


def run(config: Config, workdir: Path, identity: str) -> Mapping[str, Any]:
    """Search and judge; see the module's docstring. Files: a folder for each feedback, searches.csv,
    outcomes.png and parameter_free.png, and found_POLICY.json and its like: what each ends with, of the first seed,
    with its weights where they are shared."""
    config = settle(config)
    problem, space = config.problem, get_space(config.problem.space)
    supernet = build(config.network, space)
    judge = tables.make_judge(load_truth(problem, space))
    check(config, judge, space)

    data, found = None, dict[str, dict[str, Found]]()
    origin = {"run": identity}
    if config.feedback != "weights":
        found["table"] = {}
        for name in (*teachable(config, supernet), *BASELINES):
            ask = functools.partial(fed, config, judge, name)
            found["table"][name] = kept(workdir / "table" / f"{name}.json", {**origin, "policy": name}, ask)
    if config.feedback != "table":
        data, found["weights"] = load_images(problem, space), {}
        sized = resize(problem, space, data)
        for name in config.policies:
            ask = functools.partial(
                search_with_weights, config, config.num_seeds, sized, data, name, workdir, workdir / "weights", origin
            )
            found["weights"][name] = kept(workdir / "weights" / f"{name}.json", {**origin, "policy": name}, ask)
    figures: dict[str, Any] = {"space": space.name, "dataset": problem.dataset, "num_seeds": config.num_seeds}
    figures |= {
        "num_queries": config.policy.num_queries,
        "num_archs": len(judge.feasible),
        "table_best": judge.feasible[0],
        "uniform_mean_accuracy": float(judge.feasible.mean()),
    }
    if space.is_text and data is not None:
        figures["corpus"] = data.source
    panels: dict[str, dict[str, np.ndarray]] = {}
    rows = []
    for feedback, prefix in (("weights", ""), ("table", "fed_")):
        if feedback in found:
            of_feedback = {name: accuracies(judge, one) for name, one in found[feedback].items()}
            panels["shared weights" if prefix == "" else f"the table, {config.policy.num_queries} look-ups"] = (
                of_feedback
            )
            for name, one in found[feedback].items():
                figures |= figures_of(f"{prefix}{name}", one, of_feedback[name], judge)
                if space.is_text:
                    figures |= ranking.estimate_mean(1 / of_feedback[name]).named(f"{prefix}{name}_mean_perplexity")
                outcomes = np.array(one["archs"], np.int32)
                write_found(workdir, space, outcomes[0], judged(judge, outcomes[0]), search=f"{prefix}{name}")
                ends = parameter_free(supernet, outcomes)
                figures |= {f"{prefix}{name}_parameter_free": float(ends.mean())}
                for other in ("random", "random_search"):
                    if other in of_feedback and other != name:
                        figures |= compared(f"{prefix}{name}", other, of_feedback[name], of_feedback[other])
                rows += [
                    {"feedback": feedback, "policy": name, "seed": problem.seed + seed, "arch": text, "accuracy": value}
                    for seed, (text, value) in enumerate(
                        zip((codes.to_text(space, code) for code in one["archs"]), of_feedback[name], strict=True)
                    )
                ]
    figures |= hashes(data, judge.truth)
    runs.write_rows(workdir / "searches.csv", rows)
    minus = {name.removesuffix("_minus_uniform"): name for name in figures if name.endswith("_minus_uniform")}
    others = {name: figure for name, figure in minus.items() if not name.endswith("random")} or minus
    told = differences(figures, others, "the mean of uniform draws")
    title = f"What policies end with, {space.name} on {problem.dataset}, {plotting.counted(config.num_seeds, 'seed')}"
    title += f"\n{told['verdict']}"
    label = "1 / perplexity on the test part, trained alone" if space.is_text else "stand-alone test accuracy"
    figure = plotting.outcomes(panels, judge.feasible, title=title, accuracy_label=label)
    plotting.save_figure(figure, workdir / "outcomes.png")
    mixed = {name: one for name, one in found.get("weights", {}).items() if one.get("steps")}
    if mixed and not supernet.parameter_free.all():  # all are, where they are activations
        title = f"Weight of candidates without parameters in each mixture, {space.name} on {problem.dataset}"
        plotting.save_figure(
            plotting.training_curve(*over_training(mixed), title=title), workdir / "parameter_free.png"
        )
    return told | figures


def over_training(mixed: Mapping[str, Found]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """All steps [num_steps], and of each mixture its shares [num_seeds, num_steps], nan before its first update."""
    steps = np.unique([step for one in mixed.values() for step in one["steps"]])
    shares = {name: np.full((len(one["parameter_free"]), len(steps)), np.nan) for name, one in mixed.items()}
    for name, one in mixed.items():
        shares[name][:, np.searchsorted(steps, one["steps"])] = one["parameter_free"]
    return steps, shares


def check(config: Config, judge: Judge, space: SearchSpace) -> None:
    """Raise a ValueError for what can't be done, before anything is trained."""
    if "random" not in config.policies or len(set(config.policies)) < len(config.policies):
        raise ValueError("policies: each is named once, and random, which the others are compared with, is among them.")
    if config.feedback != "weights" and judge.choose_by is None:
        raise ValueError(
            f"the table of {space.name} has neither validation accuracies nor a second training seed: what would feed"
            " the policies is what they are judged by; take --feedback weights."
        )
    check_judged(judge, space)
    for name in config.policies:
        make_policy(config, name, space, 1)


def teachable(config: Config, supernet: Supernet) -> list[str]:
    """The policies that a table can feed: not mixtures of edges, of which codes are no draws with a known chance."""
    names = []
    for name in config.policies:
        if supernet.is_decoded and make_policy(config, name, supernet.space, 1).relax is not None:
            print(f"{name} is not fed with the table: its mixture gives codes of {supernet.space.name} no known chance")
        else:
            names.append(name)
    return names


def fed(config: Config, judge: Judge, name: str) -> Found:
    """A policy, or a search, that the table feeds: what each seed ends with."""
    space, begin, archs = get_space(config.problem.space), time.perf_counter(), []
    assert judge.choose_by is not None
    known = dict(zip((code.tobytes() for code in judge.truth.archs), judge.choose_by(judge.truth.archs), strict=True))
    policy = None

    def look_up(asked: np.ndarray) -> np.ndarray:
        return np.array([known[code.tobytes()] for code in np.asarray(asked, judge.truth.archs.dtype)])

    if name not in BASELINES:
        policy = make_policy(config, name, space, config.policy.num_queries, rescore=False)
    for number in tqdm(range(config.num_seeds), desc=f"{name}, table", disable=not config.problem.progress):
        key = jax.random.key(config.problem.seed + number)
        if policy is not None:
            outcome = feed(policy, look_up, config.policy.num_queries, key)
            archs.append((outcome.decided if name == "random" else outcome.best).tolist())
            continue
        options = {"population_size": 10, "tournament_size": 3} if name == "evolution" else {}  # of NATS-Bench
        search = SEARCHES[BASELINES[name]](space, None, num_archs=1, **options)
        state = search.init(key)
        while (left := config.policy.num_queries - len(state.archs)) > 0 and len(asked := search.ask(state)[:left]):
            state = search.tell(state, asked, look_up(asked))
        archs.append(search.best(state)[0].tolist())
    return {"archs": archs, "seconds": time.perf_counter() - begin, "forward_passes": 0.0}


def accuracies(judge: Judge, found: Found) -> np.ndarray:
    return judge.accuracy(np.array(found["archs"], np.int32))


def figures_of(name: str, found: Found, values: np.ndarray, judge: Judge) -> dict[str, Any]:
    """The figures of one policy."""
    best = int(np.argmax(values))
    rank = judge.rank(np.array(found["archs"][best], np.int32))
    minus_uniform = ranking.estimate_mean(values - judge.feasible.mean())
    return (
        ranking.estimate_mean(values).named(f"{name}_mean_accuracy")
        | minus_uniform.named(f"{name}_minus_uniform")
        | {
            f"{name}_std_accuracy": float(np.std(values, ddof=1)),
            f"{name}_best_accuracy": float(values[best]),
            f"{name}_best_rank": rank,
            f"{name}_prob_surpass_random": ranking.prob_surpass_random(
                rank, num_archs=len(judge.feasible), num_draws=len(values)
            ),
            f"{name}_seconds": found["seconds"],
            f"{name}_forward_passes": found["forward_passes"],
        }
    )


def compared(name: str, other: str, values: np.ndarray, of_other: np.ndarray) -> dict[str, Any]:
    """The figures of one policy beside another: Welch's p, and the mean difference, paired by seed, with the intervals
    of Student's t and of the percentile bootstrap."""
    moments = [part for group in (values, of_other) for part in (group.mean(), group.std(ddof=1), len(group))]
    varies = np.ptp(values) > 0 or np.ptp(of_other) > 0
    welch = scipy.stats.ttest_ind_from_stats(*moments, equal_var=False).pvalue if varies else None
    p_value = f"{name}_p_value" if other == "random" else f"{name}_p_value_{other}"
    figures = {p_value: None if welch is None else float(welch)}
    differences, minus = values - of_other, f"{name}_minus_{other}"
    bounds = (differences[0],) * 2  # of differences that are all equal
    if np.ptp(differences) > 0:
        bounds = scipy.stats.bootstrap((differences,), np.mean, method="percentile", rng=0).confidence_interval
    figures |= {f"{minus}_bootstrap_{side}": float(bound) for side, bound in zip(("low", "high"), bounds, strict=True)}
    return figures | ranking.estimate_mean(differences).named(minus)


if __name__ == "__main__":
    main(f"{__package__}.search_phase", __doc__, run, PRESETS)
