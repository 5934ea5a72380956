"""What landmarks do to a super-net's ranking: the same super-nets with and without the regulariser, on real tables.

Landmark Regularization (Yu, Ranftl and Salzmann, CVPR 2021, arXiv 2104.05309): the known order of a few architectures
pulls the losses of the super-net into that order while it trains. Four rankings, from the same seeds and as many steps:

    baseline      the super-net alone
    landmark      with the regulariser, ordered by the landmarks' stand-alone accuracy
    flops_order   the same, ordered by their FLOPs: no ground truth at all
    equal_budget  the baseline, corrected by a predictor fitted to the landmarks: their ground truth spent otherwise

The coefficient is zero through a warm-up, in which all are one: each seed trains it once, and the others go on from its
checkpoint, exactly as if each had trained alone. Landmarks, and what is the same network as one, are left out of every
tau. Three sets of images: for training; for the regulariser; for the scores. `delta` is the tau of the validation loss
with landmarks less that without; its 95 % interval is a bootstrap over seeds and architectures, for these landmarks.

    D="--dataset cifar10 --data-dir DIR"
    python -m experiments.landmark quick --workdir runs/landmark
    python -m experiments.landmark cpu --space nasbench201 $D --workdir runs/landmark-nb201
    python -m experiments.landmark cpu --space nasbench_macro $D --workdir runs/landmark-macro

Minutes and figures are in experiments/README.md.
"""

import dataclasses
import itertools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
import optax

from experiments import rank_correlation
from experiments import workdir as cli
from experiments.problem import (
    Problem,
    SupernetConfig,
    arch_rows,
    by_kind,
    check,
    evaluation_archs,
    load_problem,
    settle,
)
from experiments.rank_correlation import compile_clock
from experiments.supernet_run import Recipe, batches, build, make_recipe, make_score, score_all, train
from jaxnas import costs, plotting, ranking, tables
from jaxnas.codes import enumerate_archs
from jaxnas.datasets import Dataset
from jaxnas.spaces import get_space
from jaxnas.supernets import Supernet
from jaxnas.training import landmarks, make_preprocess
from jaxnas.training.schedules import SCHEDULES

TRAINED = ("baseline", "landmark", "flops_order")
VARIANTS = (*TRAINED, "equal_budget")


@dataclasses.dataclass(frozen=True)
class Config(SupernetConfig):
    """A super-net run, the regulariser, and how often the comparison is repeated. num_steps None: 2,000 for cells, 900
    for chains, less than elsewhere since each seed trains three."""

    num_seeds: int = 3  # super-nets of each kind, from seeds seed, seed + 1, ...
    num_resamples: int = 1000  # of the bootstrap

    num_landmarks: int = 30
    selection: Literal["random", "ranked", "distant"] = "random"  # ranked: equally spaced in accuracy, worst to best
    min_distance: int = 2  # choices in which any two landmarks differ, for selection distant
    landmark_seed: int = 0  # of the selection; all super-nets have the same landmarks
    landmark_batch_size: int = 32  # images of the regulariser in each step
    pairs: Literal["all", "adjacent", "biased"] = "all"  # of landmarks; biased: the authors' draw
    num_pairs: int | None = None  # drawn in each step; None: every pair, of biased one
    num_landmarks_per_step: int | None = 8  # drawn in each step, pairs are among these; None: all landmarks run
    tile: int | None = None  # see jaxnas.training.landmarks; 1: only landmarks of drawn pairs run, if these are fewer
    margin: float = 0.03  # nats by which the better landmark's loss has to be lower
    beta: float | None = None  # of softplus; None: the hinge
    tolerance: float = 0.0  # accuracies that differ by no more are ties, which are dropped
    reduction: Literal["mean", "sum"] = "mean"  # over the pairs of a step
    coefficient: float = 30.0
    schedule: Literal["constant", "cosine_increase", "published_increase", "stepped"] = "cosine_increase"
    warmup_share: float = 0.5  # of the steps, with a coefficient of zero


DIGITS = Config(
    num_train=500, num_valid=400, num_eval_images=200, images_per_call=200, num_steps=240, checkpoint_every=120,
    num_curve_points=0,
)  # fmt: skip
CIFAR = Config(
    **{field.name: getattr(rank_correlation.CIFAR, field.name) for field in dataclasses.fields(SupernetConfig)}
)
PRESETS = {
    "tiny": dataclasses.replace(
        DIGITS, width=4, num_train=128, num_valid=100, num_eval_images=80, num_steps=6, batch_size=16, report_every=1,
        checkpoint_every=2, num_eval_archs=27, archs_per_save=16, num_resamples=50, num_seeds=2, num_landmarks=6,
        landmark_batch_size=8, num_landmarks_per_step=None,
    ),
    "quick": DIGITS,
    "cpu": dataclasses.replace(
        CIFAR, width=8, cells_per_stage=1, image_size="small", num_steps=None, learning_rate=None, num_eval_archs=1100,
        num_eval_images=500, num_curve_points=0, num_seeds=6, warmup_share=0.6, checkpoint_every=180,
    ),
    # NAS-Bench-201 as in the scripts of nas-landmarkreg: 400 epochs on half of the training images, 150 of them
    # warm-up, one pair a step. There the other half is the regulariser's and test images score; here it serves both.
    "paper": dataclasses.replace(
        CIFAR, space="nasbench201", width=16, cells_per_stage=5, image_size=32, num_valid=25_000, batch_size=256,
        num_steps=400 * (25_000 // 256), learning_rate=0.025, final_learning_rate=0.001, crop=4, affine=True,
        sampler="uniform", num_archs=1, idle="rest", num_eval_archs=1100, num_eval_images=10_000, images_per_call=256,
        checkpoint_every=2000, num_curve_points=0, num_seeds=3, landmark_batch_size=256, pairs="biased", tile=1,
        num_landmarks_per_step=None, margin=0.0, reduction="sum", coefficient=10.0,
        schedule="published_increase", warmup_share=150 / 400,
    ),
}  # fmt: skip


def run(config: Config, workdir: Path) -> Mapping[str, Any]:
    """Train, score, compare; see the module's docstring. Files: a folder for each seed, scores.csv, variants.png."""
    if config.num_steps is None:
        num_steps = by_kind(get_space(config.space), cells=2000, others=900)
        config = dataclasses.replace(config, num_steps=num_steps)
    config = settle(config)
    check(config)
    _check(config)
    problem = load_problem(config)
    published, space, data, truth = problem
    codes, accuracy = choose_landmarks(config, problem)
    archs = evaluation_archs(config, space)
    archs = archs[~_same_network(space, archs, codes)]
    if len(archs) < 2:
        raise ValueError(
            f"outside the landmarks there are {len(archs)} architectures, expected 2; raise num_eval_archs."
        )
    test = ranking.mean_truth(tables.lookup(truth, archs, "test_accuracy"))
    macs = {"landmarks": costs.arch_costs(published, codes).macs, "archs": costs.arch_costs(published, archs).macs}

    # FLOPs in place of scores: figures that cannot be had of this table or config end the run before the training.
    once = dataclasses.replace(config, num_resamples=min(config.num_resamples, 1))
    compare(once, dict.fromkeys(VARIANTS, np.stack([macs["archs"]] * config.num_seeds)), test, macs["archs"])

    compile_seconds = compile_clock()
    supernet = build(config, space)
    score = make_score(config, supernet, data)
    warmup_steps = num_warmup_steps(config)
    recipes = make_recipes(config, problem, supernet, codes, {"landmark": accuracy, "flops_order": macs["landmarks"]})

    everything = np.concatenate([codes, archs])
    losses: dict[str, list[np.ndarray]] = {name: [] for name in TRAINED}
    seconds = dict.fromkeys([f"{phase}_seconds" for phase in ("warmup", *TRAINED, "evaluate")], 0.0)
    step_seconds: dict[str, list[float]] = {name: [] for name in TRAINED}
    for seed in range(config.seed, config.seed + config.num_seeds):
        own = dataclasses.replace(config, seed=seed)
        folder = workdir / f"seed{seed}"
        ranking_at = ranking_batches(own, data)
        start = None
        if warmup_steps:
            start = folder / "warmup"
            start.mkdir(parents=True, exist_ok=True)
            trained = train(own, supernet, data, score, start, recipe=recipes["baseline"], until=warmup_steps)
            seconds["warmup_seconds"] += trained.curve[-1]["seconds"]
        for name in TRAINED:
            (folder / name).mkdir(parents=True, exist_ok=True)
            more_at = (lambda step: {}) if name == "baseline" else ranking_at
            trained = train(
                own, supernet, data, score, folder / name, recipe=recipes[name], more_at=more_at, start=start
            )
            columns, evaluate_seconds = score_all(own, trained.state, everything, score, space, folder / name)
            losses[name].append(columns["loss"])
            seconds[f"{name}_seconds"] += trained.curve[-1]["seconds"]
            seconds["evaluate_seconds"] += evaluate_seconds
            step_seconds[name].append(_step_seconds(trained.curve))

    of_landmarks = {name: -np.stack(rows)[:, : len(codes)] for name, rows in losses.items()}
    scores = {name: -np.stack(rows)[:, len(codes) :] for name, rows in losses.items()}  # [num_seeds, num_archs]
    predictions = [
        ranking.predict(
            everything, np.arange(len(codes)), accuracy, scores=-loss, macs=np.concatenate([*macs.values()])
        )
        for loss in losses["baseline"]
    ]
    scores["equal_budget"] = np.stack([prediction.ranks[len(codes) :] for prediction in predictions])
    figures = compare(config, scores, test, macs["archs"])
    draw(workdir, config, scores, test, figures)
    columns = {
        "is_landmark": (np.arange(len(everything)) < len(codes)).astype(int),
        **{f"{name}_{number}": row for name, rows in losses.items() for number, row in enumerate(rows)},
        "test_accuracy": np.concatenate([accuracy, test]),
    }
    cli.write_rows(workdir / "scores.csv", arch_rows(space, everything, columns))
    return {
        "space": space.name,
        "dataset": config.dataset,
        "truth": f"stand-alone test accuracy, {truth.provenance.get('source', 'see the table')}",
        "num_landmarks": len(codes),
        "num_seeds": config.num_seeds,
        "num_eval_archs": len(archs),
        "num_images": config.num_eval_images,
        "bn_mode": config.bn_mode,
        **figures,
        **{f"kendall_tau_{name}_on_landmarks": _mean_tau(rows, accuracy) for name, rows in of_landmarks.items()},
        "predictors": ", ".join(prediction.model for prediction in predictions),
        **{f"{name}_step_seconds": float(np.median(values)) for name, values in step_seconds.items()},
        **seconds,
        "compile_seconds": compile_seconds(),
    }


def _check(config: Config) -> None:
    if config.num_seeds < 2:
        raise ValueError(
            f"num_seeds must be at least 2, since the interval of delta is over seeds; got {config.num_seeds}."
        )
    if config.num_landmarks < 2:
        raise ValueError(f"num_landmarks must be at least 2, one gives no pair to rank; got {config.num_landmarks}.")
    per_step = config.num_landmarks_per_step
    if per_step is not None and not 2 <= per_step <= config.num_landmarks:
        raise ValueError(f"num_landmarks_per_step must be within [2, {config.num_landmarks}], got {per_step}.")
    if not 0 <= config.warmup_share < 1:
        raise ValueError(f"warmup_share must be within [0, 1), got {config.warmup_share}.")
    if config.landmark_batch_size < 1:
        raise ValueError(f"landmark_batch_size must be at least 1, got {config.landmark_batch_size}.")
    if config.num_eval_images is None or config.num_valid - config.num_eval_images < config.landmark_batch_size:
        raise ValueError(
            f"num_eval_images is {config.num_eval_images} of the {config.num_valid} images held out, which leaves fewer"
            f" than landmark_batch_size = {config.landmark_batch_size} for the regulariser; raise num_valid."
        )


def choose_landmarks(config: Config, problem: Problem) -> tuple[np.ndarray, np.ndarray]:
    """Codes int32 [num_landmarks, num_choices] out of the whole space, and their accuracy [num_landmarks]."""
    pool = enumerate_archs(problem.space)
    key = jax.random.key(config.landmark_seed)
    if config.selection == "random":
        rows = landmarks.random_landmarks(key, len(pool), config.num_landmarks)
    elif config.selection == "distant":
        rows = landmarks.distant_landmarks(key, pool, config.num_landmarks, min_distance=config.min_distance)
    else:
        everything = ranking.mean_truth(tables.lookup(problem.truth, pool, "test_accuracy"))
        rows = landmarks.ranked_landmarks(everything, config.num_landmarks)
    return pool[rows], ranking.mean_truth(tables.lookup(problem.truth, pool[rows], "test_accuracy"))


def make_recipes(
    config: Config, problem: Problem, supernet: Supernet, codes: np.ndarray, orders: Mapping[str, np.ndarray]
) -> dict[str, Recipe]:
    """The baseline's recipe, and one with the regulariser for each of `orders`, name -> [num_landmarks]."""
    data = problem.data
    schedule = make_schedule(config, max(1, len(data.train_images) // config.batch_size))
    recipes = {"baseline": make_recipe(config, supernet, data, {})}
    for name, order in orders.items():
        ranking = landmarks.make_ranking_loss_fn(
            supernet,
            codes,
            order,
            draw=landmarks.PAIR_DRAWS[config.pairs](config.num_landmarks_per_step or len(codes), config.num_pairs),
            num_per_step=config.num_landmarks_per_step,
            margin=config.margin,
            beta=config.beta,
            tolerance=config.tolerance if name == "landmark" else 0.0,  # it is one of accuracies
            reduce_fn={"mean": jax.numpy.mean, "sum": jax.numpy.sum}[config.reduction],
            tile=config.tile,
            preprocess=make_preprocess(data.mean, data.std, crop=config.crop, flip=config.flip),
        )
        recipes[name] = make_recipe(config, supernet, data, {"ranking": (schedule, ranking)})
    return recipes


def make_schedule(config: Config, steps_per_epoch: int) -> optax.Schedule:
    """The coefficient over steps: zero through the warm-up, whatever the form."""
    assert config.num_steps is not None
    warmup_steps = num_warmup_steps(config)
    form: Any = SCHEDULES[config.schedule]
    if config.schedule == "constant":
        return form(config.coefficient, warmup_steps=warmup_steps)
    if config.schedule == "published_increase":
        epochs = {"num_epochs": -(-config.num_steps // steps_per_epoch), "steps_per_epoch": steps_per_epoch}
        return form(config.coefficient, warmup_epochs=-(-warmup_steps // steps_per_epoch), **epochs)
    return form(config.coefficient, num_steps=config.num_steps, warmup_steps=warmup_steps)


def num_warmup_steps(config: Config) -> int:
    assert config.num_steps is not None
    return round(config.warmup_share * config.num_steps)


def ranking_batches(config: Config, data: Dataset) -> Callable[[int], dict]:
    """step -> the batch of the regulariser."""
    key = jax.random.split(jax.random.key(config.seed), 3)[2]  # `train` splits the same key in two
    return batches(key, *_ranking_images(config, data), config.landmark_batch_size, split="valid")


def _ranking_images(config: Config, data: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """The held-out images on which nothing is scored."""
    return data.valid_images[config.num_eval_images :], data.valid_labels[config.num_eval_images :]


def _same_network(space, archs: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Which of `archs` are, trained alone, the same network as one of `codes`: bool [num_archs]."""
    known = {tuple(code) for code in space.isomorphs(codes).tolist()}
    return np.array([tuple(code) in known for code in space.isomorphs(archs).tolist()])


def _step_seconds(curve: list[dict[str, float]]) -> float:
    """Seconds a step, from the rows of training.csv; the first may hold the compilation."""
    rates = [(b["seconds"] - a["seconds"]) / (b["step"] - a["step"]) for a, b in itertools.pairwise(curve)]
    return float(np.median(rates)) if rates else float("nan")


def _mean_tau(scores: np.ndarray, truth: np.ndarray) -> float:
    return float(np.mean([ranking.kendall_tau(row, truth) for row in scores]))


def compare(config: Config, scores: Mapping[str, np.ndarray], test: np.ndarray, macs: np.ndarray) -> dict[str, float]:
    """Mean tau of each variant's scores [num_seeds, num_archs] and of FLOPs, and differences, with intervals."""
    figures: dict[str, float] = {}
    options = {"num_resamples": config.num_resamples}
    for name in VARIANTS:
        tau = ranking.estimate(ranking.kendall_tau, scores[name], test, **options)
        figures |= tau.named(f"kendall_tau_{name}")
    differences = {
        "delta": ("landmark", "baseline"),
        "delta_flops_order": ("flops_order", "baseline"),
        "delta_equal_budget": ("equal_budget", "baseline"),
        "landmark_over_flops_order": ("landmark", "flops_order"),
        "landmark_over_equal_budget": ("landmark", "equal_budget"),
    }
    for label, (one, other) in differences.items():
        delta = ranking.estimate_difference(ranking.kendall_tau, scores[one], scores[other], test, **options)
        figures |= delta.named(label)
    return figures | {"flops_kendall_tau": ranking.kendall_tau(macs, test)}


def draw(workdir: Path, config: Config, scores: Mapping[str, np.ndarray], test, figures: Mapping[str, float]) -> None:
    """variants.png: each seed's tau under each variant."""
    taus = {name: [ranking.kendall_tau(row, test) for row in scores[name]] for name in VARIANTS}
    intervals = {name: (figures[f"kendall_tau_{name}_low"], figures[f"kendall_tau_{name}_high"]) for name in VARIANTS}
    delta = "delta {delta:+.3f} [{delta_low:+.3f}, {delta_high:+.3f}]".format(**figures)
    figure = plotting.paired_taus(
        {name.replace("_", " "): values for name, values in taus.items()},
        {name.replace("_", " "): interval for name, interval in intervals.items()},
        title=f"{config.space} on {config.dataset}, {config.num_landmarks} landmarks: {delta}",
        references={"FLOPs only": figures["flops_kendall_tau"]},
    )
    plotting.save_figure(figure, workdir / "variants.png")


if __name__ == "__main__":
    cli.main("landmark", run, PRESETS)
