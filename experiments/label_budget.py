"""How many labels a super-net saves: rankings of a space from 0 to some hundred known accuracies, with it and without.

A label is the stand-alone accuracy of one architecture. Some are drawn, the same ones for every method; tau is that of
all others with the truth, what is the same network as a labelled one left out. Codes and MACs are those of the network
that is trained alone: what its output does not depend on is in none of them (`spaces.pruned`).

    macs, mean_loss, factor   no label: MACs, the mean loss over images and moments, its one factor (`one_factor`)
    synflow, jacob_cov, snip, grad_norm, naswot
                              no label and no training: zero-cost proxies (`ranking.proxies`) on the fresh weights
                              of the first super-net
    code                      labels, codes and MACs without any super-net: a Gaussian process (`ranking.predict`),
                              the same with features of the graph, gradient boosting; the best in the mean
    score                     the super-net's mean loss besides
    fingerprint               fingerprints besides, of all moments of one super-net (`ranking.fingerprints`)
    all, all_everything, all_mean_loss, all_factor, all_everything_bought
                              as fingerprint, everything and so on, of all super-nets side by side
    untrained                 in place of fingerprints those of the fresh weights, and no mean loss
    last, few_images, one_component
                              as fingerprint, of the last moment, of 50 images, of one component
    proxies                   codes, MACs, features of the graph and the proxies: nothing is trained
    fingerprint_graph         as fingerprint, features of the graph besides
    everything                and the proxies as well
    spread, bought            as fingerprint, labels far apart in fingerprints, or bought where they tell most
    everything_bought         as everything, labels bought; this, that of all and the nine before up to 78 labels

Figures are means over super-nets, each with label draws of its own; 95 % intervals are over super-nets, of `all` and
`all_everything` over the draws; the other three of all have none. `labels_saved_N`: how many labels `code` needs for
the tau of `fingerprint` with N, over N, read off its mean curve linearly in the logarithm; `labels_saved_N_is_least`:
it never gets there, and this is known at least; `labels_saved_everything_N`: of `everything`, and so on. Nothing here
is chosen by these figures.

What the first components are (`tau_component_1`: its sign taken as known) is in components.csv and components.png,
and which images carry the one factor in images.csv and, of the first super-net, images.png. See docs/fingerprints.md.

    jaxnas label_budget quick --workdir runs/labels
    jaxnas label_budget cpu --dataset cifar10 --data-dir DIR --workdir runs/labels-nb201

Minutes and figures are on the page Experiments of the documentation.
"""

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from jaxnas import plotting, ranking, runs
from jaxnas.checks import Count, Whole
from jaxnas.runs import sealed
from jaxnas.runs.command import main
from jaxnas.spaces import get_space

from .shared.components import components_of, known_of, loadings_of, tell_components
from .shared.config import CIFAR, LANDMARKREG, RankedConfig, settle
from .shared.labelling import (
    FEW_IMAGES,
    Population,
    by_codes,
    describe,
    draw,
    drawn,
    everything,
    figures_of,
    ordered,
    shown_of,
    unlabelled,
    write_draws,
)
from .shared.problem import evaluation_archs, load_problem, load_truth
from .shared.rankers import make_proxy_scores
from .shared.supernet import (
    Score,
    TrainingSetup,
    build,
    fresh_state,
    make_score,
    make_setup,
    score_all,
    train,
    train_up_to,
)
from .shared.telling import difference, hashes

MOST_VARIED = 78  # labels, of what is beside the first rows: they tell it at a fraction of the time


@dataclasses.dataclass(frozen=True)
class Config(RankedConfig):
    """Super-nets, and how labels are drawn."""

    # super-nets, from seeds seed, seed + 1, ...; 0: none is trained, and only codes and MACs rank
    num_seeds: Annotated[int, Whole(0, 1000)] = 2
    num_snapshots: Count = 2  # moments of each training at which images are scored, the last at its end
    budgets: tuple[Annotated[int, Whole(0)], ...] = (0, 5, 10, 30, 78, 156, 400)  # labels; at most half of those scored
    num_draws: Count = 10  # of labels, for each super-net

    def check(self) -> None:
        """Raise a ValueError for settings that contradict each other."""
        super().check()
        if self.num_seeds == 1:
            raise ValueError("num_seeds is 1, expected 0 or, for an interval, 2 at least.")
        if list(self.budgets) != sorted(set(self.budgets)) or len(self.budgets) < 2 or self.budgets[0] != 0:
            raise ValueError(f"budgets are {self.budgets}, expected 0 and then one or more rising numbers of labels.")


DIGITS = runs.replace(Config(), num_curve_points=0, num_seeds=4)
PRESETS = {
    "tiny": runs.replace(
        DIGITS, width=4, num_train=128, num_valid=100, num_steps=6, batch_size=16, report_every=2, checkpoint_every=3,
        num_eval_archs=40, archs_per_save=20, num_seeds=2, budgets=(0, 5, 20), num_draws=2,
    ),
    "quick": DIGITS,
    "cpu": runs.replace(
        runs.replace(DIGITS, **CIFAR), space="nasbench201", width=8, cells_per_stage=1, image_size="small",
        num_steps=1000, learning_rate=None, checkpoint_every=250, num_eval_archs=1000, num_eval_images=250,
        half="claim", num_seeds=5, archs_per_save=500,
    ),
    "paper": runs.replace(
        DIGITS, **LANDMARKREG | {"num_eval_images": 2000}, num_archs=1, half="claim", num_seeds=5, num_draws=20,
        num_eval_archs=1000,
    ),
}  # fmt: skip


def run(config: Config, workdir: Path, identity: str) -> Mapping[str, Any]:
    """Train, score, rank with ever more labels; see the module's docstring. Files: a folder for each super-net with its
    taus.json, draws.csv, labels.png, components.csv and .png, images.csv and .png."""
    config = settle(config)
    if not config.num_seeds:
        return rank_codes(config, workdir)
    published, space, data, truth = load_problem(config.problem, part=True)
    archs = evaluation_archs(space, config.scoring.num_eval_archs, truth, half=config.scoring.half)
    population = describe(published, truth, archs)
    budgets = [number for number in config.budgets if number <= len(archs) // 2]
    compile_seconds = runs.compile_clock()
    supernet = build(config.network, space)
    score = make_score(
        config.scoring, supernet, data, mesh=config.training.mesh, progress=config.problem.progress, per_image=True
    )
    setup = make_setup(config.training, supernet, data, config.sampling)
    rows, of_all, components, of_images, first = [], [], [], [], config.problem.seed
    known = known_of(published, supernet, population)
    of_fresh, fresh = {"run": identity, "seed": first, "step": 0}, fresh_state(config, setup, first).params
    proxies = make_proxy_scores(config, setup)(fresh, archs, workdir / f"seed{first}" / "step0", of_fresh)
    for seed in range(first, first + config.num_seeds):
        folder, origin = workdir / f"seed{seed}", {"run": identity, "seed": seed}
        losses = losses_of_images(config, setup, score, archs, folder, seed, origin)
        of_all.append(losses[1:])
        components += components_of(losses[1:], known, seed)
        of_images += loadings_of(losses[1:], data.valid_labels, population.accuracy, seed)
        for path in (folder / "taus.json", folder / "proxy_taus.json"):
            if not path.exists():
                if path.stem == "taus":
                    ranked = rank_with_labels(config, population, losses, budgets, seed)
                else:
                    ranked = rank_with_proxies(config, population, losses, proxies, budgets, seed)
                sealed.write_json(path, "taus", [{"seed": seed, **row} for row in ranked], origin)
            rows += sealed.read_json(path, "taus", origin)
    rows += rank_with_all(config, population, np.concatenate(of_all), proxies, budgets)
    write_draws(rows, workdir / "draws.csv")
    figures = figures_of(rows, budgets)
    which = plotting.counted(config.num_seeds, "super-net")
    title = f"{space.name} on {config.problem.dataset}, {plotting.counted(len(archs), 'architecture')}, {which}"
    images, shown = np.asarray(data.valid_images[: losses.shape[2]]), shown_of(budgets)
    of_components = tell_components(components, of_images, images, workdir, title)
    sentence = f"with {shown} labels a super-net's fingerprints rank {{}} than codes and MACs alone, Kendall's tau"
    told = difference(figures, f"fingerprint_over_code_{shown}", sentence, "better", "worse")
    draw(
        workdir / "labels.png",
        figures,
        budgets,
        f"{title}\nbars: 95 % intervals over super-nets, each with labels of its own",
    )
    return {
        **told,
        "space": space.name,
        "dataset": config.problem.dataset,
        "half": config.scoring.half,
        "num_archs": len(archs),
        "num_images": losses.shape[2],
        "num_seeds": config.num_seeds,
        "num_draws": config.num_draws,
        "bn_mode": config.scoring.bn_mode,
        **figures,
        **of_components,
        "compile_seconds": compile_seconds(),
        **hashes(data, truth),
    }


def rank_codes(config: Config, workdir: Path) -> Mapping[str, Any]:
    """What ranks without any super-net, over label draws alone: no image is read."""
    space = get_space(config.problem.space)
    truth = load_truth(config.problem, space, part=True)
    archs = evaluation_archs(space, config.scoring.num_eval_archs, truth, half=config.scoring.half)
    population = describe(space, truth, archs)
    budgets = [number for number in config.budgets if number <= len(archs) // 2]
    rows = unlabelled(population, {"macs": population.macs})
    rows += drawn(population, by_codes(population), budgets, num_draws=config.num_draws, seed=config.problem.seed)
    write_draws(rows, workdir / "draws.csv")
    figures, shown = figures_of(rows, budgets), shown_of(budgets)
    title = f"{space.name} on {config.problem.dataset}, {plotting.counted(len(archs), 'architecture')}"
    draw(
        workdir / "labels.png",
        figures,
        budgets,
        f"{title}\nbars: 95 % intervals over {config.num_draws} draws of labels",
    )
    tau = figures[f"tau_code_{shown}"]
    return {
        "verdict": f"with {shown} labels codes and MACs alone rank with a Kendall's tau of {tau:.2f}",
        "headline": f"tau_code_{shown}",
        "space": space.name,
        "dataset": config.problem.dataset,
        "half": config.scoring.half,
        "num_archs": len(archs),
        "num_draws": config.num_draws,
        **figures,
        **hashes(None, truth),
    }


def losses_of_images(
    config: Config,
    setup: TrainingSetup,
    score: Score,
    archs: np.ndarray,
    folder: Path,
    seed: int,
    origin: sealed.Origin,
) -> np.ndarray:
    """What one super-net's sub-networks lose on each image, in nats: float32 [1 + num_snapshots, num_archs,
    num_images], with fresh weights and then at each moment. Where the scores of a moment were deleted and the training
    has gone on, it is trained once more up to there."""
    space, moments = setup.supernet.space, []
    train_one = functools.partial(train, config, setup, score, seed=seed)
    for step in snapshot_steps(config):
        place = folder / f"step{step}"
        blocks = runs.block_paths(place, len(archs), size=config.scoring.archs_per_save)
        state = None
        if not all(path.exists() for path in blocks):
            state = train_up_to(train_one, space, step, folder, place, origin=origin).state
        columns, _ = score_all(config, state, archs, score, space, place, {**origin, "step": step})
        moments.append(columns["image_loss"])
    return np.stack(moments)


def snapshot_steps(config: Config) -> list[int]:
    """The steps after which images are scored: none, and equal shares of the training."""
    num_steps = config.training.num_steps
    assert num_steps is not None
    return [round(num_steps * moment / config.num_snapshots) for moment in range(config.num_snapshots + 1)]


def rank_with_labels(
    config: Config, population: Population, losses: np.ndarray, budgets: list[int], seed: int
) -> list[dict[str, Any]]:
    """Every method on what one super-net's sub-networks lose, [1 + num_snapshots, num_archs, num_images]."""
    trained = list(losses[1:])
    scores, prints = -losses[1:].mean(axis=(0, 2)), ranking.fingerprints(trained).features
    few_images = ranking.fingerprints([moment[:, :FEW_IMAGES] for moment in trained]).features
    given: dict[str, dict[str, Any]] = {
        **by_codes(population),
        "score": {"scores": scores},
        "fingerprint": {"scores": scores, "fingerprints": prints},
    }
    varied = {
        "untrained": {"fingerprints": ranking.fingerprints(losses[0]).features},
        "last": {"scores": -losses[-1].mean(axis=1), "fingerprints": ranking.fingerprints(losses[-1]).features},
        "few_images": {"scores": scores, "fingerprints": few_images},
        "one_component": {"scores": scores, "fingerprints": prints[:, :1]},
    }
    factor = ranking.one_factor(trained)
    rows = unlabelled(population, {"macs": population.macs, "mean_loss": scores, "factor": factor.scores})
    for name in ("trusted", "share", "split_half", "agreement", "same_way"):
        rows.append({"method": f"factor_{name}", "labels": 0, "draw": 0, "tau": float(getattr(factor, name))})
    few = [number for number in budgets if number <= MOST_VARIED]
    rows += drawn(population, given, budgets, num_draws=config.num_draws, seed=seed)
    rows += drawn(population, varied, few, num_draws=config.num_draws, seed=seed)
    for method in ("spread", "bought"):
        rows += ordered(population, method, given["fingerprint"], few)
    return rows


def rank_with_proxies(
    config: Config,
    population: Population,
    losses: np.ndarray,
    proxies: Mapping[str, np.ndarray],
    budgets: list[int],
    seed: int,
) -> list[dict[str, Any]]:
    """What has to do with proxies, [num_archs] each, and with features of the graph beside the same losses."""
    rows, given = unlabelled(population, proxies), everything(population, losses[1:], proxies)
    varied = {
        "proxies": {"scores": given["scores"][:, 1:], "features": given["features"]},
        "fingerprint_graph": given | {"scores": given["scores"][:, 0]},
        "everything": given,
    }
    few = [number for number in budgets if number <= MOST_VARIED]
    rows += drawn(population, varied, few, num_draws=config.num_draws, seed=seed)
    return rows + ordered(population, "everything_bought", given, few)


def rank_with_all(
    config: Config, population: Population, losses: np.ndarray, proxies: Mapping[str, np.ndarray], budgets: list[int]
) -> list[dict[str, Any]]:
    """What all super-nets know side by side, losses [num_supernets * num_snapshots, num_archs, num_images]."""
    given = everything(population, losses, proxies)
    alone = {"scores": given["scores"][:, 0], "fingerprints": given["fingerprints"]}
    of_all = {"all_mean_loss": alone["scores"], "all_factor": ranking.one_factor(list(losses)).scores}
    varied, seed = {"all": alone, "all_everything": given}, config.problem.seed
    rows = unlabelled(population, of_all) + drawn(population, varied, budgets, num_draws=config.num_draws, seed=seed)
    return rows + ordered(population, "all_everything_bought", given, [n for n in budgets if n <= MOST_VARIED])


if __name__ == "__main__":
    main(f"{__package__}.label_budget", __doc__, run, PRESETS)
