"""What landmarks do to a super-net's ranking: the same super-nets with and without the regulariser, on real tables.

Landmark Regularization (Yu, Ranftl and Salzmann, CVPR 2021, arXiv 2104.05309): the known order of a few architectures
pulls the losses of the super-net into that order while it trains. Six rankings, from the same seeds and as many steps:

    baseline      the super-net alone
    landmark      with the regulariser, ordered by the landmarks' stand-alone accuracy
    flops_order   the same, ordered by their FLOPs, counted as MACs: no ground truth at all
    equal_budget  the baseline, corrected by a predictor fitted to the landmarks: their ground truth spent otherwise
    fingerprint   the same predictor, told besides what sub-networks do on each image (`ranking.fingerprints`)
    both          the same of the super-nets with the regulariser: the ground truth is used twice

The coefficient is zero through a warm-up, in which all are one: each seed trains it once, and the others go on from its
checkpoint, exactly as if each had trained alone. Landmarks, and what is the same network as one, are left out of every
tau. Three sets of images: for training; for the regulariser; for the scores. `delta` is the tau of the validation loss
with landmarks less that without; its 95 % interval is over seeds and architectures, for these landmarks.

    D="--dataset cifar10 --data-dir DIR"
    jaxnas landmark quick --workdir runs/landmark
    jaxnas landmark cpu --space nasbench201 $D --workdir runs/landmark-nb201
    jaxnas landmark cpu --space nasbench_macro $D --workdir runs/landmark-macro

Minutes and figures are on the page Experiments of the documentation.
"""

import dataclasses
import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np

from jaxnas import costs, plotting, ranking, runs, tables
from jaxnas.checks import Whole
from jaxnas.runs import sealed
from jaxnas.runs.command import main
from jaxnas.spaces import get_space

from .shared.config import CIFAR, LANDMARKREG, RankedConfig, by_kind, settle
from .shared.labelling import of_network
from .shared.problem import Problem, arch_rows, evaluation_archs, load_problem
from .shared.regulariser import (
    PUBLISHED,
    Landmarks,
    RegulariserConfig,
    archs_beside,
    check_regulariser,
    choose_landmarks,
    make_setups,
    num_warmup_steps,
    ranking_batches,
)
from .shared.supernet import build, make_score, score_all, train
from .shared.telling import difference, hashes

TRAINED = ("baseline", "landmark", "flops_order")
VARIANTS = (*TRAINED, "equal_budget", "fingerprint", "both")
LABELS = {
    "baseline": "baseline:\nsuper-net\nalone",
    "landmark": "landmark:\nregulariser,\norder by\naccuracy",
    "flops_order": "MACs order:\nregulariser,\norder by\nMACs",
    "equal_budget": "equal budget:\nbaseline +\npredictor on\nthe landmarks",
    "fingerprint": "fingerprint:\nthe same and\nlosses by\nimage",
    "both": "both:\nlandmark,\npredictor and\nlosses by\nimage",
}


@dataclasses.dataclass(frozen=True)
class Config(RankedConfig):
    """A super-net, the regulariser, and how often the comparison is repeated. num_steps None: 2,000 for cells, 900
    for chains, less than elsewhere since each seed trains three."""

    regulariser: RegulariserConfig = dataclasses.field(default_factory=RegulariserConfig)
    # super-nets of each kind, from seeds seed, seed + 1, ...; the interval of delta is over them
    num_seeds: Annotated[int, Whole(2, 1000)] = 3

    def check(self) -> None:
        """Raise a ValueError for settings that contradict each other."""
        super().check()
        check_regulariser(self.regulariser, self.scoring, self.problem)


DIGITS = runs.replace(
    Config(), num_train=500, num_valid=400, num_eval_images=200, images_per_call=200, num_steps=240,
    checkpoint_every=120, num_curve_points=0,
)  # fmt: skip
PRESETS = {
    "tiny": runs.replace(
        DIGITS, width=4, num_train=128, num_valid=100, num_eval_images=80, num_steps=6, batch_size=16, report_every=1,
        checkpoint_every=2, num_eval_archs=27, archs_per_save=16, num_seeds=2, num_landmarks=6,
        landmark_batch_size=8, num_landmarks_per_step=None,
    ),
    "quick": DIGITS,
    "cpu": runs.replace(
        runs.replace(Config(), **CIFAR), width=8, cells_per_stage=1, image_size="small", num_steps=None,
        learning_rate=None, num_eval_archs=1100, num_eval_images=500, num_curve_points=0, num_seeds=6, warmup_share=0.6,
        checkpoint_every=180,
    ),
    # As in the scripts of nas-landmarkreg: 150 of 400 epochs are warm-up, one pair a step. There the other half of the
    # training images is the regulariser's and test images score; here that half serves both.
    "paper": runs.replace(
        runs.replace(Config(), **LANDMARKREG), affine=True, num_archs=1, num_eval_archs=1100, num_curve_points=0,
        num_seeds=3, landmark_batch_size=256, schedule="published_increase", warmup_share=150 / 400, **PUBLISHED,
    ),
}  # fmt: skip


class Scored(NamedTuple):
    """One super-net."""

    rows: list[dict[str, float]]  # of its training.csv
    loss: np.ndarray  # nats, of landmarks and all others, [num_landmarks + num_archs]
    image_loss: np.ndarray  # of each image, [num_landmarks + num_archs, num_images]
    evaluate_seconds: float


def run(config: Config, workdir: Path, identity: str) -> Mapping[str, Any]:
    """Train, score, compare; see the module's docstring. Files: a folder for each seed, scores.csv, variants.png."""
    if config.training.num_steps is None:
        num_steps = by_kind(get_space(config.problem.space), cells=2000, others=900)
        config = runs.replace(config, num_steps=num_steps)
    config = settle(config)
    problem = load_problem(config.problem)
    space, truth = problem.space, problem.truth
    chosen = choose_landmarks(config.regulariser, problem)
    archs = archs_beside(
        space, evaluation_archs(space, config.scoring.num_eval_archs, truth, half=config.scoring.half), chosen.archs
    )
    test = ranking.mean_truth(tables.lookup(truth, archs, "test_accuracy"))
    macs = costs.arch_costs(problem.published, archs).macs

    # MACs in place of scores: figures that cannot be had of this table or config end the run before the training.
    compare(dict.fromkeys(VARIANTS, macs[None]), test, macs)

    compile_seconds = runs.compile_clock()
    all_archs, number = np.concatenate([chosen.archs, archs]), len(chosen.archs)
    supernets, warmup_seconds = train_all(config, problem, chosen, all_archs, workdir, identity)
    losses = {name: np.stack([one.loss for one in kind]) for name, kind in supernets.items()}
    of_all = {name: ranking.as_scores(rows) for name, rows in losses.items()}  # [num_seeds, num_landmarks + num_archs]
    scores = {name: rows[:, number:] for name, rows in of_all.items()}
    network = of_network(problem.published, all_archs)
    predicted = {
        "equal_budget": predict("baseline", supernets, chosen, network, by_image=False),
        "fingerprint": predict("baseline", supernets, chosen, network, by_image=True),
        "both": predict("landmark", supernets, chosen, network, by_image=True),
    }
    for name, of_seeds in predicted.items():
        scores[name] = np.stack([prediction.ranks[number:] for prediction in of_seeds])
    figures = compare(scores, test, macs)
    draw(
        workdir,
        f"{space.name} on {config.problem.dataset}, {plotting.counted(number, 'landmark')}",
        scores,
        test,
        figures,
    )
    on_landmarks, seconds = {}, {}
    for name, kind in supernets.items():
        taus = [ranking.kendall_tau(row[:number], chosen.accuracy) for row in of_all[name]]
        on_landmarks[f"kendall_tau_{name}_on_landmarks"] = float(np.mean(taus))
        seconds[f"{name}_step_seconds"] = float(np.median([_step_seconds(one.rows) for one in kind]))
        seconds[f"{name}_seconds"] = sum(one.rows[-1]["seconds"] for one in kind)
    columns = {
        "is_landmark": (np.arange(len(all_archs)) < number).astype(int),
        **{f"{name}_{seed}": row for name, rows in losses.items() for seed, row in enumerate(rows)},
        "test_accuracy": np.concatenate([chosen.accuracy, test]),
    }
    runs.write_rows(workdir / "scores.csv", arch_rows(space, all_archs, columns))
    return {
        **difference(figures, "delta", "the super-net ranks {} with landmarks than without", "better", "worse"),
        "space": space.name,
        "dataset": config.problem.dataset,
        "truth": f"stand-alone test accuracy, {truth.provenance.get('source', 'see the table')}",
        "num_landmarks": number,
        "num_seeds": config.num_seeds,
        "num_eval_archs": len(archs),
        "num_images": config.scoring.num_eval_images,
        "bn_mode": config.scoring.bn_mode,
        **figures,
        **on_landmarks,
        "predictors": ", ".join(prediction.model for prediction in predicted["equal_budget"]),
        "warmup_seconds": warmup_seconds,
        **seconds,
        "evaluate_seconds": sum(one.evaluate_seconds for kind in supernets.values() for one in kind),
        "compile_seconds": compile_seconds(),
        **hashes(problem.data, truth),
    }


def train_all(
    config: Config, problem: Problem, chosen: Landmarks, archs: np.ndarray, workdir: Path, identity: str
) -> tuple[dict[str, list[Scored]], float]:
    """Train and score what is to be trained: (super-nets of each kind, seconds of the warm-ups that they share)."""
    data, space = problem.data, problem.space
    supernet = build(config.network, space)
    score = make_score(
        config.scoring,
        supernet,
        data,
        mesh=config.training.mesh,
        progress=config.problem.progress,
        per_image=True,
    )
    setups = make_setups(config, config.regulariser, supernet, data, chosen)
    supernets: dict[str, list[Scored]] = {name: [] for name in TRAINED}
    warmup_seconds, warmup_steps = 0.0, num_warmup_steps(config.regulariser, config.training)
    for seed in range(config.problem.seed, config.problem.seed + config.num_seeds):
        folder, start, warmup = workdir / f"seed{seed}", None, origin_of(identity, seed, "warmup")
        if warmup_steps:
            start, setup = folder / "warmup", setups["baseline"]
            warmup_seconds += train(config, setup, score, start, seed=seed, origin=warmup, until=warmup_steps).seconds
        of_landmarks = ranking_batches(config.regulariser, config, data, seed)
        for name, kind in supernets.items():
            more_at = None if name == "baseline" else of_landmarks
            origin = origin_of(identity, seed, name)
            trained = train(
                config,
                setups[name],
                score,
                folder / name,
                seed=seed,
                origin=origin,
                more_at=more_at,
                start=start,
                start_origin=warmup,
            )
            columns, seconds = score_all(config, trained.state, archs, score, space, folder / name, origin)
            kind.append(Scored(trained.rows, columns["loss"], columns["image_loss"], seconds))
    return supernets, warmup_seconds


def predict(
    kind: str,
    supernets: Mapping[str, list[Scored]],
    chosen: Landmarks,
    network: Mapping[str, Any],
    *,
    by_image: bool,
) -> list[ranking.Prediction]:
    """What each super-net of a kind and the landmarks' accuracies say of all, the landmarks first; `network` is what
    `of_network` says of them. With fingerprints or without."""
    found = []
    for one in supernets[kind]:
        given: dict[str, Any] = {"fingerprints": ranking.fingerprints(one.image_loss).features} if by_image else {}
        known, scores = np.arange(len(chosen.archs)), ranking.as_scores(one.loss)
        found.append(ranking.predict(known=known, accuracies=chosen.accuracy, scores=scores, **network, **given))
    return found


def origin_of(identity: str, seed: int, training: str) -> sealed.Origin:
    return {"run": identity, "seed": seed, "training": training}


def _step_seconds(curve: list[dict[str, float]]) -> float:
    """Seconds a step, from the rows of training.csv; the first may hold the compilation."""
    rates = [(b["seconds"] - a["seconds"]) / (b["step"] - a["step"]) for a, b in itertools.pairwise(curve)]
    return float(np.median(rates)) if rates else float("nan")


def compare(scores: Mapping[str, np.ndarray], test: np.ndarray, macs: np.ndarray) -> dict[str, float]:
    """Mean tau of each variant's scores [num_seeds, num_archs] and of MACs, and differences, with intervals."""
    figures: dict[str, float] = {}
    for name in VARIANTS:
        tau = ranking.estimate(ranking.kendall_tau, scores[name], test)
        figures |= tau.named(f"kendall_tau_{name}")
    differences = {
        "delta": ("landmark", "baseline"),
        "delta_flops_order": ("flops_order", "baseline"),
        "delta_equal_budget": ("equal_budget", "baseline"),
        "landmark_over_flops_order": ("landmark", "flops_order"),
        "landmark_over_equal_budget": ("landmark", "equal_budget"),
        "fingerprint_over_equal_budget": ("fingerprint", "equal_budget"),
        "both_over_fingerprint": ("both", "fingerprint"),
    }
    for label, (one, other) in differences.items():
        delta = ranking.estimate_difference(ranking.kendall_tau, scores[one], scores[other], test)
        figures |= delta.named(label)
    return figures | {"macs_kendall_tau": ranking.kendall_tau(macs, test)}


def draw(workdir: Path, name: str, scores: Mapping[str, np.ndarray], test, figures: Mapping[str, float]) -> None:
    """variants.png: each seed's tau under each variant."""
    taus = {variant: [ranking.kendall_tau(row, test) for row in scores[variant]] for variant in VARIANTS}
    lows, highs = ([figures[f"kendall_tau_{variant}_{end}"] for variant in VARIANTS] for end in ("low", "high"))
    delta = "landmark less baseline {delta:+.3f} [{delta_low:+.3f}, {delta_high:+.3f}]".format(**figures)
    number = plotting.counted(len(test), "other architecture")
    figure = plotting.paired_taus(
        {LABELS[variant]: values for variant, values in taus.items()},
        {LABELS[variant]: (low, high) for variant, low, high in zip(VARIANTS, lows, highs)},
        title=f"{name}, τ over {number}\n{delta}",
        references={"MACs only": figures["macs_kendall_tau"]},
    )
    plotting.save_figure(figure, workdir / "variants.png")


if __name__ == "__main__":
    main(f"{__package__}.landmark", __doc__, run, PRESETS)
