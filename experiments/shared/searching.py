"""PC-NAS inside a workdir, and the uniform super-net of equal cost: what the experiments on searches share.

Both begin with the same warm-up on all that is feasible. Then the steps that are left are cut into one interval for
each choice of the space: PC-NAS decides a choice and trains on its pool's completions, the uniform super-net goes on
as it began. Weights, batches and schedule are the same, so that the pool is all that differs. Every interval has a
folder of its own with its pool, its checkpoint and its CSV; a killed run walks through the finished ones and goes on.
"""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import chex
import jax
import numpy as np
from tqdm import tqdm

from jaxnas import plotting, ranking, runs
from jaxnas.codes import joined
from jaxnas.costs import latency_files, limits
from jaxnas.evaluation import replicated
from jaxnas.runs import sealed
from jaxnas.samplers import replay, replayed
from jaxnas.search import Pcnas, PcnasState, pcnas
from jaxnas.space import SearchSpace
from jaxnas.spaces import get_space
from jaxnas.training import TrainState, batches, init_train_state

from .config import REHEARSAL, SearchConfig
from .problem import load_images, resize
from .supernet import Score, TrainingSetup, build, make_score, make_setup, sharing_of

DIGITS = {
    "limit": "macs:50e3", "num_completions": 10, "num_steps": 1500, "num_warm_up_steps": 500, "num_eval_archs": 1000
}  # fmt: skip
TINY = DIGITS | {
    "width": 4, "num_train": 128, "num_valid": 100, "num_steps": 12, "num_warm_up_steps": 2, "batch_size": 16,
    "report_every": 1, "checkpoint_every": 1, "pool_size": 2, "num_completions": 2, "num_retrained": 2,
}  # fmt: skip
MACRO = {
    "space": "nasbench_macro", "dataset": "cifar10", "limit": "macs:50e6", "num_train": None, "num_valid": 5000,
    "crop": 2, "flip": True, "width": 8, "cells_per_stage": 1, "image_size": 16, "num_steps": 2600,
    "num_warm_up_steps": 1000, "num_eval_archs": 1000, "num_eval_images": 500, "images_per_call": 250,
    "checkpoint_every": 200, "report_every": 50,
}  # fmt: skip
REHEARSED = {
    "space": "mobile_small", "dataset": REHEARSAL, "limit": "macs:250e6", "retrain": "none", "most_resident": 1,
    "augment": "crop", "crop": 0, "width": 8, "image_size": 32, "num_train": None, "num_valid": 300, "batch_size": 32,
    "num_steps": 200, "num_warm_up_steps": 64, "num_completions": 5, "num_eval_archs": 10, "num_eval_images": 150,
    "images_per_call": 150, "checkpoint_every": 50, "report_every": 10,
}  # fmt: skip
# ImageNet within PC-NAS's 11 ms at batch 16. Its other settings are not to be had, and these are chosen here: 120
# epochs, half of them warm-up, at settings usual for networks of MobileNetV2's size.
IMAGENET = {
    "space": "mobile_small", "dataset": "imagenet2012", "limit": "latency_ms:11", "retrain": "none", "augment": "crop",
    "crop": 0, "reading_workers": 16, "width": None, "image_size": None, "num_train": None, "num_valid": 50_000,
    "compute_dtype": "bfloat16", "batch_size": 1024, "num_steps": 144_000, "num_warm_up_steps": 72_000,
    "learning_rate": 0.5, "weight_decay": 4e-5, "label_smoothing": 0.1, "num_eval_archs": 1000,
    "num_eval_images": 5000, "images_per_call": 250, "checkpoint_every": 2000, "report_every": 200,
}  # fmt: skip


class Task(NamedTuple):
    """What is searched, and what both super-nets have in common."""

    published: SearchSpace  # of the size that limits and truth are of
    space: SearchSpace  # of the size that is trained
    search: Pcnas
    setup: TrainingSetup
    score: Score
    ends: list[int]  # training steps done at the end of the warm-up and of each interval
    populations: int  # most that are drawn at once


class Step(NamedTuple):
    """One extension of the pool, as its folder holds it."""

    candidates: list[list[int]]
    potentials: list[float]
    pool: list[list[int]]
    pool_potentials: list[float]
    num_scored: int  # distinct architectures
    best: list[list[int]]  # of these the best by score, `num_retrained` at most
    share_left: float  # of the feasible architectures
    seconds: float


class Run(NamedTuple):
    """A finished training."""

    state: TrainState
    midway: Mapping[str, np.ndarray]  # columns of the scores of `midway_archs` at the end of interval `midway`
    steps: list[Step]  # empty for the uniform one
    seconds: float  # of training


def prepare(config: SearchConfig) -> Task:
    """Read the images, and build whatever can go wrong before the training begins."""
    published = get_space(config.problem.space)
    search = pcnas(
        published,
        read_limit(config, published),
        pool_size=config.pool_size,
        num_completions=config.num_completions,
        order=range(published.num_choices)[:: -1 if config.order == "back_to_front" else 1],
    )
    num_steps, num_choices = config.training.num_steps, published.num_choices
    assert num_steps is not None
    trained = num_steps - config.num_warm_up_steps
    if trained < num_choices:
        raise ValueError(
            f"num_steps is {num_steps} and num_warm_up_steps {config.num_warm_up_steps}, expected at least"
            f" {num_choices} steps after the warm-up, one for each choice."
        )
    ends = [config.num_warm_up_steps + round(trained * i / num_choices) for i in range(num_choices + 1)]
    populations = max(np.diff(ends, prepend=0).tolist())
    data = load_images(config.problem, published)
    space = resize(config.problem, published, data)
    supernet = build(config.network, space)
    sampler = replayed(space, num_archs=config.num_archs, num_steps=populations)
    setup = make_setup(config.training, supernet, data, sampler)
    score = make_score(
        config.scoring,
        supernet,
        data,
        mesh=config.training.mesh,
        progress=config.problem.progress,
        per_image=config.potential == "factor",
    )
    return Task(published, space, search, setup, score, ends, populations)


def read_limit(config: SearchConfig, space: SearchSpace) -> limits.Limit | None:
    """The limit that the config states; a latency comes from its `latency_table`."""
    table = config.latency_table
    others = {} if table is None else latency_files.read_latencies(table, space)
    return None if config.limit is None else limits.parse(config.limit, space, others)


def narrowed(config: SearchConfig, task: Task, folder: Path, origin: sealed.Origin) -> Run:
    """PC-NAS with the seed of the config: warm-up, then decide and train, choice by choice; at last rank the pool."""
    keys = _keys(config)
    state, seconds = warm_up(config, task, folder, origin)
    search, steps = task.search.init(keys[2]), []
    scores: Mapping[str, np.ndarray] = {}
    for number in range(1, task.published.num_choices + 2):
        interval = folder / "narrowed" / f"{number:02d}"
        of_interval = {**origin, "training": "narrowed", "interval": number}
        step = extend(config, task, interval, state, search, of_interval)
        search = PcnasState(search.key, np.array(step.pool, np.int32), np.array(step.pool_potentials))
        steps.append(step)
        if config.problem.progress:
            report(task, search, step)
        if number <= task.published.num_choices:
            state, spent = train(config, task, interval, state, search, number, of_interval)
            seconds += spent
        if number == midway(task):
            scores = scores_in_pool(config, task, interval / "midway.npz", state, search.pool, of_interval)
    return Run(state, scores, steps, seconds)


def uniform(config: SearchConfig, task: Task, folder: Path, pool: np.ndarray, origin: sealed.Origin) -> Run:
    """The super-net of as many steps on all that is feasible; the completions of `pool` are scored midway as well."""
    keys = _keys(config)
    state, seconds = warm_up(config, task, folder, origin)
    search = task.search.init(keys[2])
    scores: Mapping[str, np.ndarray] = {}
    for number in range(1, task.published.num_choices + 1):
        interval = folder / "uniform" / f"{number:02d}"
        of_interval = {**origin, "training": "uniform", "interval": number}
        state, spent = train(config, task, interval, state, search, number, of_interval)
        seconds += spent
        if number == midway(task):
            scores = scores_in_pool(config, task, interval / "midway.npz", state, pool, of_interval)
    return Run(state, scores, [], seconds)


def warm_up(config: SearchConfig, task: Task, folder: Path, origin: sealed.Origin) -> tuple[TrainState, float]:
    """Train on all that is feasible, for both; the second to ask finds it done."""
    keys, setup = _keys(config), task.setup
    state = init_train_state(setup.supernet, setup.sampler, setup.tx, keys[0])
    state = replicated(sharing_of(config.training).mesh, state)
    of_warm_up = {**origin, "training": "warm_up"}
    return train(config, task, folder / "warm_up", state, task.search.init(keys[2]), 0, of_warm_up)


def train(
    config: SearchConfig,
    task: Task,
    folder: Path,
    state: TrainState,
    search: PcnasState,
    number: int,
    origin: sealed.Origin,
) -> tuple[TrainState, float]:
    """Train interval `number` (0: the warm-up) on draws from the pool, from the folder's checkpoint if there is one.

    Returns the state and the seconds of training, those of a process killed before included.
    """
    codes = task.search.draw(search, task.populations * config.num_archs, number)
    data, mesh = task.setup.data, sharing_of(config.training).mesh
    trained = runs.resumable(
        task.setup.step,
        state._replace(sampler_state=replicated(mesh, replay(codes, num_archs=config.num_archs))),
        batches(_keys(config)[1], data.train_images, data.train_labels, config.training.batch_size, mesh=mesh),
        task.ends[number],
        folder,
        fingerprint=task.space.fingerprint,
        origin=origin,
        checkpoint_every=config.training.checkpoint_every,
        report_every=config.training.report_every,
        keep=1,
        label=f"{folder.parent.name} {folder.name}" if number else "warm-up",
        num_images=config.training.batch_size,
        progress=config.problem.progress,
    )
    return trained.state, trained.seconds


def extend(
    config: SearchConfig, task: Task, folder: Path, state: TrainState, search: PcnasState, origin: sealed.Origin
) -> Step:
    """Score what the search asks for and keep the best, or read what was kept."""
    path = folder / "pool.json"
    if path.exists():
        return Step(**sealed.read_json(path, "pool", origin))
    begin = time.perf_counter()
    extension = task.search.ask(search)
    scores = values(config, task.score(state, extension.archs)._asdict())
    told = task.search.tell(search, extension, scores)
    region = task.search.region
    step = Step(
        candidates=extension.candidates.tolist(),
        potentials=extension.potentials(scores).tolist(),
        pool=told.pool.tolist(),
        pool_potentials=told.potentials.tolist(),
        num_scored=len(extension.archs),
        best=extension.archs[top(scores, config.num_retrained)].tolist(),
        share_left=sum(region.count(prefix) for prefix in told.pool) / region.count(),
        seconds=time.perf_counter() - begin,
    )
    folder.mkdir(parents=True, exist_ok=True)
    sealed.write_json(path, "pool", step._asdict(), origin)
    return step


def report(task: Task, search: PcnasState, step: Step) -> None:
    """Print the pool, its potentials and the share of the space that is left."""
    texts = [joined(["?" if op < 0 else op for op in prefix]) for prefix in search.pool.tolist()]
    pool = ", ".join(f"{text} {value:.3f}" for text, value in zip(texts, search.potentials, strict=True))
    candidates = plotting.counted(len(step.candidates), "candidate")
    tqdm.write(f"{len(texts)} of {candidates} kept: {pool}; {plotting.percent(step.share_left)} of the space left")


def midway(task: Task) -> int:
    """The interval after which the pool's space is still large enough to ask how it is ranked: half of the choices."""
    return -(-task.published.num_choices // 2)


def midway_archs(config: SearchConfig, task: Task, pool: np.ndarray) -> np.ndarray:
    """The completions of a pool; where there are more than `num_eval_archs`, about so many, drawn uniformly."""
    region = task.search.region
    counts = np.array([region.count(prefix) for prefix in pool])
    if config.scoring.num_eval_archs is None or config.scoring.num_eval_archs >= counts.sum():
        return np.concatenate([region.members(prefix) for prefix in pool])
    rng = np.random.default_rng(0)
    shares = rng.multinomial(config.scoring.num_eval_archs, counts / counts.sum())
    drawn_archs = [region.sample(rng, share, prefix) for share, prefix in zip(shares, pool, strict=True)]
    return np.unique(np.concatenate(drawn_archs), axis=0)


def scores_in_pool(
    config: SearchConfig, task: Task, path: Path, state: TrainState, pool: np.ndarray, origin: sealed.Origin
) -> Mapping[str, np.ndarray]:
    """Columns of the scores of `midway_archs` with the weights of this moment; from the file, if it is there."""
    archs = midway_archs(config, task, pool)
    if not path.exists():
        sealed.write_table(path, "scores", runs.scores_table(task.space, task.score(state, archs)), origin)
    return sealed.read_table(path, "scores", task.space, archs, origin).columns


def values(config: SearchConfig, scores: Mapping[str, np.ndarray]) -> np.ndarray:
    """Of columns `loss` and `accuracy`, or of `image_loss`, what the search goes by: float64 [num_archs], higher is
    better. What has no factor goes by its loss."""
    if config.potential == "factor" and has_factor(scores):
        return ranking.one_factor(scores["image_loss"]).scores
    return ranking.as_scores(scores["loss"], scores["accuracy"] if config.potential == "accuracy" else None)


def has_factor(scores: Mapping[str, np.ndarray]) -> bool:
    """Whether there are losses of single images that tell architectures apart, of ten at least."""
    losses = scores.get("image_loss")
    return losses is not None and len(losses) >= 10 and bool(np.ptp(losses, axis=0).any())


def top(scores: np.ndarray, number: int) -> np.ndarray:
    """The rows of the best scores, best first; of equals the first."""
    return np.argsort(-scores, kind="stable")[:number]


def image_archs(config: SearchConfig, num_steps: int, num_scored: int, num_images: int) -> int:
    """What training and scoring cost in forward passes of one image through one architecture.

    A training step counts three for each image and architecture: its backward pass takes about two forward ones.
    """
    return 3 * num_steps * config.num_archs * config.training.batch_size + num_scored * num_images


def _keys(config: SearchConfig) -> chex.PRNGKey:
    """Keys of the weights, of the batches and of the search."""
    return jax.random.split(jax.random.key(config.problem.seed), 3)
