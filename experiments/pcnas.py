"""PC-NAS under a hard limit: narrow a super-net's space choice by choice, retrain what is left, judge it by the table.

The pool of partial architectures, its potentials and the share of the space that is left are shown on the way. Where
there is a table a super-net of as many steps is trained uniformly beside the search, from the same warm-up and on the
same batches, and both rank the same architectures: the completions of the pool after half of the choices (later ones
are too few to rank).
`kendall_tau_in_pool` and `kendall_tau_uniform_same_cost` are taken with the final weights of both, `..._midway` with
those at the end of that pool's own interval. `imagenet-rehearsal` goes the way of ImageNet in small: pictures in a
folder, of CIFAR-10 if it is there and else of digits, enlarged; streamed; and `experiments.retrain` trains what it
finds. The outcome is the most accurate of the last pool once trained alone: the
table's validation accuracy chooses, or that of one training seed, and the others judge. With `--choose predictor` these
networks are not the last pool's, but chosen one by one by `ranking.predict` of what half of the choices leave, by the
weights of that moment. Costs and the limit are of the network at its published size.

    jaxnas pcnas quick --workdir runs/pcnas
    jaxnas pcnas cpu --limit macs:50e6 --data-dir DIR --workdir runs/pcnas-macro
    jaxnas pcnas imagenet-rehearsal --data-dir DIR --workdir runs/rehearsal
    jaxnas retrain quick --arch runs/rehearsal/found.json --workdir runs/retrained
    jaxnas pcnas paper --latency-table runs/latency/latency.npz --workdir runs/pcnas-imagenet

Minutes and figures are on the page Experiments of the documentation.
"""

import dataclasses
import functools
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np

from jaxnas import export, plotting, ranking, runs, tables
from jaxnas.checks import Count, Positive
from jaxnas.codes import to_text
from jaxnas.costs import limits
from jaxnas.costs.latency import LATENCY_MS, read_operations_table, setting_of
from jaxnas.costs.measuring import measure_networks
from jaxnas.files import replace_file
from jaxnas.runs import sealed
from jaxnas.runs.command import main
from jaxnas.tables import Judge
from jaxnas.training import Recipe

from .shared.config import SearchConfig, settle
from .shared.handing_over import one_by_one, train_alone
from .shared.problem import rehearse
from .shared.searching import (
    DIGITS,
    IMAGENET,
    MACRO,
    REHEARSED,
    TINY,
    Run,
    Step,
    Task,
    midway,
    midway_archs,
    narrowed,
    prepare,
    scores_in_pool,
    uniform,
    values,
)
from .shared.telling import Known, hashes, judged, level, write_found


@dataclasses.dataclass(frozen=True)
class Config(SearchConfig):
    """A search, and how its outcome is trained and judged."""

    # table: look stand-alone accuracies up; train the networks that are left; none: take the best without any
    retrain: Literal["table", "train", "none"] = "table"
    # pool: the last pool's best by shared weights are trained alone; predictor: of what half of the choices leave those
    # that scores, codes and the accuracies of those before name one by one (ranking.predict)
    choose: Literal["pool", "predictor"] = "pool"

    def check(self) -> None:
        """Raise a ValueError for settings that contradict each other."""
        super().check()
        if self.choose == "predictor" and self.retrain == "none":
            raise ValueError("choose is predictor and retrain none, expected table or train: it goes by accuracies.")

    retrain_epochs: Count = 30  # this and the next one: of retrain train
    retrain_learning_rate: Positive = 0.1  # decays to 0


PRESETS = {
    "tiny": runs.replace(Config(), **TINY),
    "quick": runs.replace(Config(), **DIGITS),
    "cpu": runs.replace(Config(), **MACRO),
    "imagenet-rehearsal": runs.replace(Config(), **REHEARSED),
    # On an accelerator, not run; the table is that of `measure_latency paper --space mobile_small`, or of mobile_large.
    "paper": runs.replace(Config(), **IMAGENET),
}

LABELS = {"accuracy": "accuracy", "loss": "minus loss, nats", "factor": "factor"}
# Of each seed; None where there is no table, or nothing is retrained.
OF_A_SEED = (
    *("retrained_accuracy", "table_accuracy", "table_rank", "regret", "num_archs_in_pool"),
    *(f"kendall_tau_{which}{when}" for which in ("in_pool", "uniform_same_cost") for when in ("", "_midway")),
)


def run(config: Config, workdir: Path, identity: str) -> Mapping[str, Any]:
    """Search, compare, judge; see the module's docstring. Files: one folder a seed, seeds.csv, pool.png, found.json and
    its like: the outcome of the first seed, with its weights if it is of the last pool; and random.json, one that is
    feasible too, drawn, for what compares the two (`experiments.detection`)."""
    config = settle(rehearse(config, workdir))
    compile_seconds = runs.compile_clock()
    task = prepare(config)
    judge = find_judge(config, task)
    searches, rows = [], []
    for seed in range(config.problem.seed, config.problem.seed + config.num_seeds):
        of_seed, folder = runs.replace(config, seed=seed), workdir / f"seed{seed}"
        origin = {"run": identity, "seed": seed}
        found = narrowed(of_seed, task, folder, origin)
        pool = np.array(found.steps[midway(task) - 1].pool)
        compared = None if judge is None else uniform(of_seed, task, folder, pool, origin)
        searches.append(found)
        rows.append({"seed": seed, **figures_of(of_seed, task, judge, found, compared, folder, origin)})
    runs.write_rows(workdir / "seeds.csv", [{name: row[name] for name in row if name != "codes"} for row in rows])

    code = np.array(json.loads(rows[0]["codes"]), np.int32)
    region = task.search.region
    known = Known(rows[0]["retrained_accuracy"]) if judge is None else judged(judge, code)
    drawn = region.sample(np.random.default_rng(config.problem.seed), 1)[0]
    replace_file(workdir / "random.json", (export.to_json(task.published, drawn) + "\n").encode())
    weights = (task.setup.supernet, searches[0].state.params) if config.choose == "pool" else None
    found_figures = write_found(workdir, task.published, code, known, weights=weights)
    figures = {
        "space": task.published.name,
        "dataset": config.problem.dataset,
        "arch": rows[0]["arch"],
        **limited(config, task, code),
        "num_feasible": region.count(),
        **{name: found_figures[f"found_{name}"] for name in ("macs", "params")},
        **{name: rows[0][name] for name in ("retrained_accuracy", "table_accuracy", "table_rank")},
        **mean_of_searches(rows, "regret"),
        **mean_of_searches(rows, "table_rank", name="mean_table_rank"),
        **{key: value for name in rows[0] if "kendall" in name for key, value in mean_of_searches(rows, name).items()},
        "found_potential": searches[0].steps[-1].pool_potentials[0],
        "num_archs_in_pool": rows[0]["num_archs_in_pool"],
        "num_seeds": config.num_seeds,
        "search_seconds": float(np.mean([row["search_seconds"] for row in rows])),
        "trained_steps": config.training.num_steps,
        "evaluated_archs": rows[0]["evaluated_archs"],
        "compile_seconds": compile_seconds(),
        **hashes(task.setup.data, None if judge is None else judge.truth),
    }
    told = level(figures, "retrained_accuracy", "test accuracy of what it finds:", digits=4)
    if config.retrain == "none":
        told = level(figures, "found_potential", f"the potential ({config.potential}) of what it finds is", digits=4)
    if judge is not None:
        feasible = "the best feasible architecture" if region.limit else "the best architecture"
        told = level(figures, "regret", f"the accuracy of what it finds is {{}} below that of {feasible}", digits=4)
    draw(config, task, workdir, searches[0].steps, told["verdict"])
    return told | {"verdict": told["verdict"] + over_limit(region.limit, figures)} | figures


def find_judge(config: Config, task: Task) -> Judge | None:
    """The table's judge; None where there is no table and none is needed."""
    try:
        truth = tables.load_truth(task.published, config.problem.dataset, data_dir=config.problem.data_dir)
    except tables.MissingTable as error:
        if config.retrain != "table":
            return None
        raise tables.MissingTable(
            f"{error}; or without a table: --retrain train trains what is left, --retrain none takes the"
            " best by shared weights."
        ) from None
    region = task.search.region
    return tables.make_judge(truth, region.contains, limit=region.limit)


def figures_of(
    config: Config,
    task: Task,
    judge: Judge | None,
    found: Run,
    compared: Run | None,
    folder: Path,
    origin: sealed.Origin,
) -> dict:
    """What one seed gave: a row of seeds.csv."""
    figures: dict[str, Any] = dict.fromkeys(OF_A_SEED)
    if config.retrain == "train":
        left = functools.partial(left_to_train, config, task, found)
        seed = config.problem.seed
        code, figures["retrained_accuracy"] = train_alone(task, recipe_of(config), left, folder, origin, seed=seed)
    elif config.retrain == "none":
        code = np.array(found.steps[-1].best[0], np.int32)
    else:
        assert judge is not None
        accuracy = judge.choose_by or judge.accuracy
        code = judge.outcome(left_to_train(config, task, found, lambda code: float(accuracy(code[None])[0])))
    if judge is not None:
        figures |= {
            "table_accuracy": float(judge.accuracy(code[None])[0]),
            "table_rank": judge.rank(code),
            "regret": judge.regret(code),
        }
        pool = np.array(found.steps[midway(task) - 1].pool)
        in_pool = midway_archs(config, task, pool)
        truth = judge.accuracy(in_pool)
        assert compared is not None
        for name, training, trained in (("in_pool", "narrowed", found), ("uniform_same_cost", "uniform", compared)):
            path, of_training = folder / training / "final.npz", {**origin, "training": training}
            final = scores_in_pool(config, task, path, trained.state, pool, of_training)
            for suffix, columns in (("", final), ("_midway", trained.midway)):
                scores = values(config, columns)
                figures |= tau(f"kendall_tau_{name}{suffix}", scores, truth)
        figures["num_archs_in_pool"] = len(in_pool)
    return {
        "arch": to_text(task.published, code),
        "codes": json.dumps(code.tolist()),
        **figures,
        "evaluated_archs": sum(step.num_scored for step in found.steps),
        "search_seconds": found.seconds + sum(step.seconds for step in found.steps),
    }


def tau(name: str, scores: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Kendall's tau of one seed with its interval over architectures; nan for fewer than two."""
    if len(scores) < 2:
        return ranking.Estimate(np.nan, np.nan, np.nan).named(name)
    return ranking.estimate(ranking.kendall_tau, scores, truth).named(name)


def mean_of_searches(rows: list[dict], column: str, name: str | None = None) -> dict[str, float | None]:
    """A figure's mean over seeds with its interval over them; for one seed its own interval, if it has one."""
    name = name or column
    given = [row[column] for row in rows]
    if column.endswith(("_low", "_high")):
        return {}
    if any(figure is None for figure in given):
        return {name: None}
    figures: dict[str, float | None] = {**ranking.estimate_mean(given).named(name)}
    if len(rows) == 1:
        figures |= {f"{name}{end}": rows[0].get(f"{column}{end}") for end in ("_low", "_high")}
    return figures


def limited(config: Config, task: Task, code: np.ndarray) -> dict[str, Any]:
    """What the limit bounds, of the network that was found."""
    limit = task.search.region.limit
    result: dict[str, Any] = dict.fromkeys(("limit", "limited_value", "predicted_latency_ms", "measured_latency_ms"))
    if limit is None:
        return result
    value = float(limit.costs(code[None])[0])
    result |= {"limit": f"{limit.name}:{limits.number(limit.value)}", "limited_value": value}
    if limit.name == LATENCY_MS and limit.table is not None and config.latency_table is not None:
        result["predicted_latency_ms"] = value
        if Path(config.latency_table).suffix.lower() == ".csv":
            return result  # it doesn't say where and how it was measured
        setting = setting_of(read_operations_table(config.latency_table, task.published))
        if setting.device == jax.devices()[0].device_kind:
            rounds = measure_networks(task.published, code[None], batch_size=setting.batch_size, dtype=setting.dtype)
            result["measured_latency_ms"] = float(np.median(rounds))
    elif limit.name.startswith(LATENCY_MS):
        result["measured_latency_ms"] = value  # a table of whole networks
    return result


def over_limit(limit: limits.Limit | None, figures: Mapping[str, Any]) -> str:
    """What is to be said of a network that meets a limit on latency by its prediction alone; else nothing."""
    measured = figures["measured_latency_ms"]
    if limit is None or measured is None or measured <= limit.value:
        return ""
    return (
        f"; but measured here it takes {measured:.3g} ms, over the limit of {limits.number(limit.value)} ms, which is"
        f" on what the table predicts, {figures['limited_value']:.3g} ms; measure_latency's median_relative_error says"
        " how far it errs"
    )


def left_to_train(config: Config, task: Task, found: Run, accuracy_of: Callable[[np.ndarray], float]) -> np.ndarray:
    """The networks that are trained alone, int32 [num_retrained, num_choices], most promising first: `accuracy_of` is
    asked where each next one depends on it."""
    if config.choose == "pool":
        return np.array(found.steps[-1].best, np.int32)
    archs = midway_archs(config, task, np.array(found.steps[midway(task) - 1].pool))
    return archs[one_by_one(config, task, archs, found.midway, lambda row: accuracy_of(archs[row]))]


def recipe_of(config: Config) -> Recipe:
    training = config.training
    return Recipe(
        config.retrain_epochs,
        training.batch_size,
        config.retrain_learning_rate,
        weight_decay=training.weight_decay,
        crop=training.crop,
        flip=training.flip,
    )


def draw(config: Config, task: Task, workdir: Path, steps: list[Step], verdict: str) -> None:
    """pool.png: the potentials and the shrinking space of the first seed."""
    limit = task.search.region.limit
    which = f", seed {config.problem.seed}" + (f", one of {config.num_seeds} searches" if config.num_seeds > 1 else "")
    number, of_limit = (
        plotting.counted(task.search.region.count(), "feasible architecture"),
        f", {limit}" if limit else "",
    )
    figure = plotting.narrowing(
        [step.potentials for step in steps],
        [len(step.pool) for step in steps],
        [step.share_left for step in steps],
        title=f"PC-NAS on {task.space.name}, {config.problem.dataset}{which}\n{number}{of_limit}\n{verdict}",
        potential_label=f"potential ({LABELS[config.potential]})",
    )
    plotting.save_figure(figure, workdir / "pool.png")


if __name__ == "__main__":
    main(f"{__package__}.pcnas", __doc__, run, PRESETS)
