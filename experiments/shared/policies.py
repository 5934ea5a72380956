"""Search policies as the experiments build them and let them learn beside the shared weights."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxnas import runs
from jaxnas.checks import Count
from jaxnas.datasets import Dataset
from jaxnas.policies import POLICIES, NaoPool, NaoTraining, Policy, make_search_training
from jaxnas.runs import sealed
from jaxnas.space import SearchSpace
from jaxnas.training import Batch, BatchAt, batches, make_cross_entropy_loss, make_preprocess, sgd

from .config import SupernetConfig
from .supernet import build, make_score

PARAMETER_FREE = "policy_parameter_free"  # the column of training.csv
# Of a policy: "archs" [num_seeds][num_choices], "seconds", "forward_passes"; "steps" [num_points] and "parameter_free"
# [num_seeds][num_points] of a mixture over the training.
Found = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class PolicyConfig:
    """What policies do that can be scaled down; all else is as published."""

    num_queries: Count = 100  # look-ups of a policy that a table feeds; of nao the codes that it judges in all
    num_asked: Count = 10  # codes judged for an update of enas and reinforce
    num_updates: Count = 50  # of enas after each epoch of the weights
    num_final: Count = 100  # codes that enas and reinforce draw in the end, of which the best by score is taken
    nao_steps: Count = 500  # of its networks, in each round


@dataclasses.dataclass(frozen=True)
class PolicySearchConfig(SupernetConfig):
    """What every experiment on policies says of them."""

    policy: PolicyConfig = PolicyConfig()


def make_policy(
    config: PolicySearchConfig, name: str, space: SearchSpace, num_updates: int, *, rescore: bool = True
) -> Policy:
    """A policy with published settings, but those that its config scales down; `num_updates` there will be."""
    of_policy, partial = config.policy, 4 if name == "pc_darts" else 1
    network = dataclasses.replace(config.network, affine=bool(config.network.affine))
    supernet = build(network, space, partial_channels=partial)
    settings: dict[str, Any] = {}
    if name in ("enas", "reinforce"):
        settings = {"num_asked": of_policy.num_asked, "num_final": of_policy.num_final}
        settings |= {"num_updates": of_policy.num_updates} if name == "enas" else {}
    elif name in ("gdas", "fbnet"):
        settings = {"num_updates": num_updates}
    elif name == "nao":  # four rounds: two fifths of the queries first, a fifth in each of three more
        first, more = max(2, 2 * of_policy.num_queries // 5), max(2, of_policy.num_queries // 5)
        settings = {
            "pool": NaoPool(first, first, more - more // 4, more // 4),
            "num_ascended": max(1, first // 2),
            "hidden_size": 32,
            "predictor_sizes": (64, 64),
            "training": NaoTraining(num_steps=of_policy.nao_steps, batch_size=32),
            "rescore": rescore,
            "by_params": False,
        }
    return POLICIES[name](supernet, **settings)


def search_with_weights(
    config: PolicySearchConfig,
    num_seeds: int,
    space: SearchSpace,
    data: Dataset,
    name: str,
    folder: Path,
    origin: sealed.Origin,
) -> Found:
    """A policy that learns while the super-net trains: what each seed ends with."""
    training = config.training
    assert training.num_steps is not None and training.learning_rate is not None
    num_steps, per_epoch = training.num_steps, max(1, len(data.train_images) // training.batch_size)
    timetable = make_policy(config, name, space, 1).timetable(num_steps, per_epoch)
    num_updates = timetable.done(num_steps)
    policy = make_policy(config, name, space, max(1, num_updates))
    preprocess = make_preprocess(data.mean, data.std, crop=training.crop, flip=training.flip)
    tx = sgd(
        training.learning_rate, num_steps=num_steps, momentum=training.momentum, weight_decay=training.weight_decay,
        clip_norm=training.clip_norm, final_learning_rate=training.final_learning_rate,
    )  # fmt: skip
    loss_fn = make_cross_entropy_loss(policy.supernet, preprocess=preprocess, label_smoothing=training.label_smoothing)
    score = make_score(config.scoring, policy.supernet, data, progress=False)
    valid: dict[int, BatchAt] = {}  # seed -> its validation batches: one step is compiled for all seeds

    def valid_at(number: int) -> Batch:
        return valid[seed](number)

    search = make_search_training(
        policy.supernet, policy, loss_fn, tx, timetable=timetable, valid_at=valid_at, preprocess=preprocess,
        idle=training.idle,
    )  # fmt: skip
    seconds, archs, curves = 0.0, [], []
    for seed in range(config.problem.seed, config.problem.seed + num_seeds):
        init_key, train_key, valid_key, last_key = jax.random.split(jax.random.key(seed), 4)
        valid[seed] = batches(valid_key, data.valid_images, data.valid_labels, training.batch_size, split="valid")
        trained = runs.resumable(
            search.step,
            search.init(init_key),
            batches(train_key, data.train_images, data.train_labels, training.batch_size),
            num_steps,
            folder / name / f"seed{seed}",
            fingerprint=space.fingerprint,
            origin={**origin, "policy": name, "seed": seed},
            checkpoint_every=training.checkpoint_every,
            report_every=training.report_every,
            keep=1,
            label=f"{name}, seed {seed}",
            progress=config.problem.progress,
        )
        state, seconds = trained.state, seconds + trained.seconds
        scored = lambda found, state=state: score(state, np.asarray(found)).accuracy  # noqa: E731
        archs.append(policy.decide(last_key, state.sampler_state.policy, scored).tolist())
        curves.append([(row["step"], row[PARAMETER_FREE]) for row in trained.rows if PARAMETER_FREE in row])
    steps = forward_passes(policy, num_steps, num_updates, config.policy.num_asked) * training.batch_size
    found = {"archs": archs, "seconds": seconds, "forward_passes": float(steps)}
    if policy.relax is None:
        return found
    return found | {
        "steps": [step for step, _ in curves[0]],
        "parameter_free": [[share for _, share in curve] for curve in curves],
    }


def forward_passes(policy: Policy, num_steps: int, num_updates: int, num_asked: int) -> float:
    """Of a run, per image of a batch, in architectures: three for a step with its gradient, each candidate of a mixture
    for itself; what is scored at the end is left out."""
    width = float(np.mean(policy.supernet.num_candidates)) if policy.relax and policy.name != "gdas" else 1.0
    asked = {"enas": num_asked, "reinforce": num_asked, "random": 0}.get(policy.name, 1)
    return 3 * width * num_steps + num_updates * (3 * width if policy.relax else asked)
