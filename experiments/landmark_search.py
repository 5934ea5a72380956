"""What landmarks do to three search algorithms: NAO, GDAS and PC-DARTS with the regulariser and without it.

Landmark Regularization (Yu, Ranftl and Salzmann, CVPR 2021, arXiv 2104.05309) beside algorithms that learn where to
search. Each super-net goes through three phases, whose lengths are those of the authors' scripts for NAS-Bench-201, in
epochs of 400:

    NAO         100 alone, 300 with the regulariser; the pool is renewed every 40
    GDAS        100 alone, 300 with it, and 50 more in which the architecture parameters learn, it staying on
    PC-DARTS    150 alone, 250 with it, and 35 more

Before its parameters learn, GDAS draws one path a step, nearly uniformly. PC-DARTS begins with "softoneshot" mixtures
of random codes (`jaxnas.supernets.softened`), then trains as its own mixture; landmarks run as softoneshot, and so do
the architectures that its super-net is scored on. Elsewhere landmarks and scores are single paths. The regulariser is
the published one: a pair a step, without margin, and a coefficient that rises as theirs does, but in each step.

Both sides of a seed share the first phase, and all batches and draws. `delta_tau_NAME` is the tau of the super-net's
loss with landmarks less that without; landmarks and what is the same network as one are left out, and its interval is
over seeds and architectures. `delta_accuracy_NAME`, over seeds, is that of the table's test accuracy of what the
algorithm ends with. Landmarks are drawn at random and ordered by the table's validation accuracy, which the other side
doesn't know: `best_landmark_accuracy` is what the best of them is worth without any search.

    jaxnas landmark_search quick --workdir runs/landmark-search
    jaxnas landmark_search cpu --space nasbench201 --dataset cifar10 --data-dir DIR --workdir runs/nb201

Figures are on the page Experiments of the documentation. A killed run goes on algorithm by algorithm, and within each.
"""

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import jax
import numpy as np

from jaxnas import codes, costs, plotting, ranking, runs, tables
from jaxnas.checks import Count, OneOf, Pair, Share
from jaxnas.policies import POLICIES, NaoPool, NaoTraining, Policy, Timetable
from jaxnas.runs.command import main
from jaxnas.runs.sealed import Origin
from jaxnas.space import SearchSpace
from jaxnas.spaces import get_space
from jaxnas.supernets import softened
from jaxnas.training import batches, schedules

from .shared.config import LANDMARKREG, SupernetConfig, settle
from .shared.policies import (
    Found,
    SearchSetup,
    check_judged,
    decide,
    kept,
    make_search_setup,
    mixing_softly,
    supernet_of,
    train_search,
)
from .shared.problem import Problem, arch_rows, evaluation_archs, load_problem
from .shared.regulariser import (
    PUBLISHED,
    LandmarkConfig,
    archs_beside,
    check_regulariser,
    choose_landmarks,
    make_regulariser,
)
from .shared.supernet import Score, make_score, score_all, sharing_of
from .shared.telling import differences, hashes, judged, write_found, write_weights

SIDES = ("baseline", "landmark")
EPOCHS = 400  # of the authors' super-nets, before architecture parameters learn
# Of these, those of the first phase; and further ones, of the third.
PUBLISHED_EPOCHS = {"nao": (100, 0), "gdas": (100, 50), "pc_darts": (150, 35)}


@dataclasses.dataclass(frozen=True)
class Config(SupernetConfig):
    """What is trained. num_steps are those before architecture parameters learn; None: 2,400 for cells."""

    policies: tuple[Annotated[str, OneOf(PUBLISHED_EPOCHS)], ...] = tuple(PUBLISHED_EPOCHS)
    landmarks: LandmarkConfig = dataclasses.field(default_factory=LandmarkConfig)
    tilt: Share = 0.01  # of softoneshot, towards the candidate taken
    num_seeds: Pair = 5  # of each side, from seeds seed, seed + 1, ...
    nao_pool: Count = 100  # codes that nao begins with, and keeps; three times as many are new, four times random
    nao_rounds: Count = 10
    nao_steps: Count = 500  # of its networks, in each round

    def check(self) -> None:
        """Raise a ValueError for settings that contradict each other."""
        super().check()
        check_regulariser(self.landmarks, self.scoring, self.problem)
        if not self.policies or len(set(self.policies)) < len(self.policies):
            raise ValueError(f"policies is {self.policies}, expected each once, of {', '.join(PUBLISHED_EPOCHS)}.")


FIELDS = runs.flat(Config())
DIGITS = runs.replace(
    Config(), policies=("nao", "gdas"), num_train=500, num_valid=400, num_eval_images=200, images_per_call=200,
    num_steps=200, batch_size=32, checkpoint_every=100, num_seeds=3, nao_pool=12, nao_rounds=5, **PUBLISHED,
)  # fmt: skip
PRESETS = {
    "tiny": runs.replace(
        DIGITS, policies=("gdas",), width=4, num_train=128, num_valid=100, num_eval_images=60, num_steps=8,
        batch_size=16, report_every=1, checkpoint_every=2, num_eval_archs=27, archs_per_save=16, num_seeds=2,
        num_landmarks=6, landmark_batch_size=8, nao_pool=2, nao_rounds=2, nao_steps=2,
    ),
    "quick": DIGITS,
    "cpu": runs.replace(
        Config(), space="nasbench201", dataset="cifar10", width="small", cells_per_stage=1, image_size="small",
        num_train=None, num_valid=25_000, num_steps=None, learning_rate=None, crop=2, flip=True, checkpoint_every=500,
        report_every=50, num_eval_archs=530, num_eval_images=500, images_per_call=250, landmark_batch_size=64,
        **PUBLISHED,
    ),
    "paper": runs.replace(  # but GDAS has 36 channels in the scripts
        Config(), **{name: value for name, value in LANDMARKREG.items() if name in FIELDS}, affine=True, num_seeds=3,
        num_eval_archs=230, landmark_batch_size=256, nao_steps=48_000, **PUBLISHED,
    ),
}  # fmt: skip


class Algorithm(NamedTuple):
    """One algorithm on both sides, for all seeds."""

    policy: Policy
    setups: dict[str, SearchSetup]  # of the first phase, "alone", and of each side after it
    num_alone: int  # steps of the first phase
    config: Config  # with the steps of all three
    score: Score  # as landmarks run


class Outcome(NamedTuple):
    """Of one algorithm; sides in the order of `SIDES`."""

    archs: np.ndarray  # int32 [num_sides, num_seeds, num_choices], what it ends with
    accuracy: np.ndarray  # of these, the table's, [num_sides, num_seeds]
    losses: np.ndarray  # nats, [num_sides, num_seeds, num_landmarks + num_archs]
    seconds: np.ndarray  # [num_sides, num_seeds]


def run(config: Config, workdir: Path, identity: str) -> Mapping[str, Any]:
    """See the module's docstring. Files: a folder for each algorithm, scores.csv, found.csv, found_*, pairs.png."""
    config = settle(config)
    published = get_space(config.problem.space)
    for name in config.policies:
        make_policy(config, name, published, 1)  # or a space that it cannot express
    problem = load_problem(config.problem)
    judge = tables.make_judge(problem.truth)
    check_judged(judge, published)
    if judge.choose_by is None:
        raise ValueError(f"{published.name} has but one test accuracy each: landmarks would be ordered by their judge.")
    landmarks = choose_landmarks(config.landmarks, problem).archs
    order, number = judge.choose_by(landmarks), len(landmarks)
    everything = evaluation_archs(problem.space, config.scoring.num_eval_archs, problem.truth, half=config.scoring.half)
    archs = np.concatenate([landmarks, archs_beside(problem.space, everything, landmarks)])

    outcomes: dict[str, Outcome] = {}
    for name in config.policies:
        origin = {"run": identity, "policy": name}
        search = functools.partial(both_sides, config, name, problem, order, archs, workdir / name, origin)
        found = kept(workdir / f"{name}.json", origin, search)
        ends = np.array([found[side]["archs"] for side in SIDES], np.int32)
        losses, seconds = (np.array([found[side][what] for side in SIDES]) for what in ("losses", "seconds"))
        outcomes[name] = Outcome(ends, np.stack([judge.accuracy(side) for side in ends]), losses, seconds)
    test = judge.accuracy(archs)
    macs = costs.arch_costs(problem.published, archs[number:]).macs
    figures: dict[str, Any] = {
        "space": published.name,
        "dataset": config.problem.dataset,
        "num_landmarks": number,
        "landmarks": f"{config.landmarks.selection}, seed {config.landmarks.landmark_seed}, by validation accuracy",
        "num_seeds": config.num_seeds,
        "num_eval_archs": len(archs) - number,
        "num_images": config.scoring.num_eval_images,
        "bn_mode": config.scoring.bn_mode,
        "macs_kendall_tau": ranking.kendall_tau(macs, test[number:]),
        "best_landmark_accuracy": float(judge.accuracy(landmarks[np.argmax(order)][None])[0]),
        "table_best": judge.feasible[0],
    } | hashes(problem.data, problem.truth)
    for name, outcome in outcomes.items():
        figures |= figures_of(name, outcome, order, test)
        write_found(workdir, published, outcome.archs[1, 0], judged(judge, outcome.archs[1, 0]), search=name)
    write(workdir, config, published, archs, outcomes, test, figures)
    return differences(figures, {name: f"delta_tau_{name}" for name in outcomes}, "without landmarks") | figures


def make_policy(config: Config, name: str, space: SearchSpace, num_updates: int) -> Policy:
    """An algorithm with the settings of the authors' scripts, scaled as the config says; `num_updates` of its
    architecture parameters there will be."""
    settings: dict[str, Any] = {}
    if name == "nao":
        size = config.nao_pool
        settings = {
            "pool": NaoPool(max(2, size), size, 3 * size, 4 * size),
            "num_ascended": size,
            "num_rounds": config.nao_rounds,
            "hidden_size": 16,
            "predictor_sizes": (64, 64),
            "training": NaoTraining(num_steps=config.nao_steps),
        }
    elif name == "gdas":
        settings = {"learning_rate": 6e-4, "num_updates": num_updates}
    return POLICIES[name](supernet_of(name, config.network, space), **settings)


def make_algorithm(config: Config, name: str, problem: Problem, landmarks: np.ndarray, order: np.ndarray) -> Algorithm:
    """Its policy, and what trains it in each phase and on each side."""
    num_steps, epochs = config.training.num_steps, PUBLISHED_EPOCHS[name]
    assert num_steps is not None
    num_alone, num_updates = (max(int(number > 0), round(number * num_steps / EPOCHS)) for number in epochs)
    policy = make_policy(config, name, problem.space, num_updates)
    whole = runs.replace(config, num_steps=num_steps + num_updates)
    timetable = Timetable(num_steps, 1) if policy.relax else policy.timetable(num_steps, 1)
    first, data = config.scoring.num_eval_images, problem.data  # nothing is trained on what is scored
    held_out = data._replace(valid_images=data.valid_images[first:], valid_labels=data.valid_labels[first:])
    is_soft, scoring, supernet = name == "pc_darts", config.scoring, policy.supernet
    if is_soft:
        scoring, supernet = dataclasses.replace(scoring, strategy="mask"), softened(supernet, tilt=config.tilt)
    weight = schedules.published_increase(
        config.landmarks.coefficient, num_epochs=num_steps, steps_per_epoch=1, warmup_epochs=num_alone
    )
    loss_fn = make_regulariser(
        config.landmarks, config.training, supernet, data, landmarks, order, tolerance=config.landmarks.tolerance
    )
    setups = {
        side: make_search_setup(whole, policy, held_out, timetable, terms)
        for side, terms in zip(SIDES, ({}, {"ranking": (weight, loss_fn)}), strict=True)
    }
    alone = make_search_setup(whole, mixing_softly(policy, config.tilt), held_out, timetable, {}) if is_soft else None
    setups["alone"] = alone or setups["baseline"]
    mesh = config.training.mesh
    return Algorithm(policy, setups, num_alone, whole, make_score(scoring, supernet, data, mesh=mesh, progress=False))


def both_sides(
    config: Config, name: str, problem: Problem, order: np.ndarray, archs: np.ndarray, folder: Path, origin: Origin
) -> Found:
    """What an algorithm ends with, and the losses of `archs` [num_archs, num_choices], the first of which are the
    landmarks in this order: on either side, of each seed."""
    algorithm = make_algorithm(config, name, problem, archs[: len(order)], order)
    data, batch_size = algorithm.setups["landmark"].data, config.landmarks.landmark_batch_size
    mesh = sharing_of(config.training).mesh
    whole, found = algorithm.config, Found((side, {"archs": [], "losses": [], "seconds": []}) for side in SIDES)
    for seed in range(config.problem.seed, config.problem.seed + config.num_seeds):
        at, key = folder / f"seed{seed}", jax.random.fold_in(jax.random.key(seed), len(SIDES))
        more = {"landmark": batches(key, data.valid_images, data.valid_labels, batch_size, split="valid", mesh=mesh)}
        own = {phase: {**origin, "seed": seed, "training": phase} for phase in algorithm.setups}
        setup, label, until = algorithm.setups["alone"], f"{name}, seed {seed}", algorithm.num_alone
        alone = train_search(whole, setup, at / "alone", seed=seed, origin=own["alone"], label=label, until=until)
        for side in SIDES:
            setup, more_at = algorithm.setups[side], more.get(side)
            trained = train_search(
                whole, setup, at / side, seed=seed, origin=own[side], label=label, begin=alone.state, more_at=more_at
            )
            columns, _ = score_all(config, trained.state, archs, algorithm.score, problem.space, at / side, own[side])
            found[side]["archs"].append(decide(algorithm.policy, trained.state, algorithm.score, seed))
            if side == SIDES[1] and seed == config.problem.seed:
                write_weights(folder.parent, found[side]["archs"][0], setup.policy.supernet, trained.state.params, name)
            found[side]["losses"].append(columns["loss"].tolist())
            found[side]["seconds"].append(alone.seconds + trained.seconds)
    return found


def figures_of(name: str, outcome: Outcome, order: np.ndarray, test: np.ndarray) -> dict[str, Any]:
    """The figures of one algorithm; `test` are the accuracies of the landmarks, whose order is given, and of others."""
    number, figures = len(order), dict[str, Any]()
    scores = np.stack([ranking.as_scores(side) for side in outcome.losses])
    for place, side in enumerate(SIDES):
        tau = ranking.estimate(ranking.kendall_tau, scores[place, :, number:], test[number:])
        on_landmarks = [ranking.kendall_tau(row[:number], order) for row in scores[place]]
        figures |= tau.named(f"tau_{side}_{name}")
        figures |= {f"tau_{side}_{name}_on_landmarks": float(np.mean(on_landmarks))}
        figures |= ranking.estimate_mean(outcome.accuracy[place]).named(f"accuracy_{side}_{name}")
        figures |= {f"{side}_{name}_seconds": float(outcome.seconds[place].sum())}
    without, with_them = scores[:, :, number:]
    delta = ranking.estimate_difference(ranking.kendall_tau, with_them, without, test[number:])
    figures |= delta.named(f"delta_tau_{name}")
    return figures | ranking.estimate_mean(outcome.accuracy[1] - outcome.accuracy[0]).named(f"delta_accuracy_{name}")


def write(
    workdir: Path,
    config: Config,
    space: SearchSpace,
    archs: np.ndarray,
    outcomes: Mapping[str, Outcome],
    test: np.ndarray,
    figures: Mapping[str, Any],
) -> None:
    """scores.csv, with a row for each architecture scored; found.csv, with one for each search; pairs.png."""
    number, taus, rows = figures["num_landmarks"], dict[str, np.ndarray](), []
    columns: dict[str, np.ndarray] = {"is_landmark": (np.arange(len(archs)) < number).astype(int)}
    for name, outcome in outcomes.items():
        taus[name] = np.zeros(outcome.accuracy.shape)
        for place, row in np.ndindex(outcome.accuracy.shape):
            side, seed, losses = SIDES[place], config.problem.seed + row, outcome.losses[place, row]
            taus[name][place, row] = ranking.kendall_tau(ranking.as_scores(losses)[number:], test[number:])
            columns[f"{name}_{side}_{seed}"] = losses
            found = {"arch": codes.to_text(space, outcome.archs[place, row]), "accuracy": outcome.accuracy[place, row]}
            rows.append({"policy": name, "side": side, "seed": seed, **found, "tau": taus[name][place, row]})
    runs.write_rows(workdir / "scores.csv", arch_rows(space, archs, columns | {"test_accuracy": test}))
    runs.write_rows(workdir / "found.csv", rows)
    counted = f"{plotting.counted(number, 'landmark')}, {plotting.counted(config.num_seeds, 'seed')}"
    figure = plotting.paired_sides(
        {
            "Kendall's τ of the super-net": (taus, {"MACs only": figures["macs_kendall_tau"]}),
            "accuracy of what is found": (
                {name: outcome.accuracy for name, outcome in outcomes.items()},
                {"best landmark": figures["best_landmark_accuracy"]},
            ),
        },
        sides=("without", "with landmarks"),
        title=f"{space.name} on {config.problem.dataset}, {counted}",
    )
    plotting.save_figure(figure, workdir / "pairs.png")


if __name__ == "__main__":
    main(f"{__package__}.landmark_search", __doc__, run, PRESETS)
