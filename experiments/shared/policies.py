"""Search policies as the experiments build them and let them learn beside the shared weights."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from jaxnas import runs
from jaxnas.checks import Count
from jaxnas.datasets import Dataset
from jaxnas.evaluation import merits, replicated
from jaxnas.policies import POLICIES, NaoPool, NaoTraining, Policy, SearchTraining, Timetable, make_search_training
from jaxnas.runs import sealed
from jaxnas.samplers import uniform
from jaxnas.space import SearchSpace
from jaxnas.supernets import Supernet, soft_weights
from jaxnas.tables import Judge
from jaxnas.training import BatchAt, LossFn, TrainState, batches, merge_batches

from .config import NetworkConfig, SupernetConfig
from .supernet import Score, build, make_objective, make_score, sharing_of
from .telling import write_weights

PARTIAL_CHANNELS = {"pc_darts": 4}  # of the super-net that a policy is published with
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


def supernet_of(policy: str, config: NetworkConfig, space: SearchSpace) -> Supernet:
    """The super-net of a config for a policy of this name; a ValueError where the space has no place for it."""
    network = dataclasses.replace(config, affine=bool(config.affine))
    return build(network, space, partial_channels=PARTIAL_CHANNELS.get(policy, 1))


def make_policy(
    config: PolicySearchConfig, name: str, space: SearchSpace, num_updates: int, *, rescore: bool = True, **changes: Any
) -> Policy:
    """A policy with published settings, but those that its config scales down, and `changes`; `num_updates` there
    will be."""
    of_policy, supernet = config.policy, supernet_of(name, config.network, space)
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
    return POLICIES[name](supernet, **settings | changes)


class SearchSetup(NamedTuple):
    """A policy and how it trains with its super-net: all seeds share one, so that its step is compiled once."""

    policy: Policy
    data: Dataset
    search: SearchTraining
    valid_at: list[BatchAt]  # its last entry gives the policy's batches: those of the seed in training


def make_search_setup(
    config: SupernetConfig,
    policy: Policy,
    data: Dataset,
    timetable: Timetable,
    terms: Mapping[str, tuple[float | optax.Schedule, LossFn]] | None = None,
) -> SearchSetup:
    """The step of a settled config, of policy and weights; `terms` as for `make_objective`."""
    tx, loss_fn, preprocess = make_objective(config.training, policy.supernet, data, terms)
    valid_at: list[BatchAt] = []
    search = make_search_training(
        policy.supernet,
        policy,
        loss_fn,
        tx,
        timetable=timetable,
        valid_at=lambda number: valid_at[-1](number),
        preprocess=preprocess,
        idle=config.training.idle,
        num_rows=config.training.batch_size,
        sharing=sharing_of(config.training),
    )
    return SearchSetup(policy, data, search, valid_at)


def mixing_softly(policy: Policy, tilt: float) -> Policy:
    """The policy whose weight steps train softoneshot mixtures of random codes in place of its own mixture."""
    supernet, sample = policy.supernet, uniform(policy.supernet.space).sample

    @jax.jit
    def propose(key: Any, state: Any) -> jax.Array:
        return soft_weights(supernet.weights(sample(key, ())), supernet.num_candidates, tilt=tilt)

    return policy._replace(propose=propose)


def train_search(
    config: SupernetConfig,
    setup: SearchSetup,
    folder: Path,
    *,
    seed: int,
    origin: sealed.Origin,
    label: str,
    begin: TrainState | None = None,
    more_at: BatchAt | None = None,
    until: int | None = None,
) -> runs.Trained:
    """Train policy and weights of a seed, or go on from the folder's checkpoint.

    Args:
      seed: of weights, policy and batches.
      origin: of what is written in the folder.
      begin: the state to begin at; None: fresh ones.
      more_at: step -> further splits of the batch of a weight step; None: none.
      until: the step to stop at, on the way to the `num_steps` that the schedules span; None: the end.
    """
    policy, data, search, valid_at = setup
    training = config.training
    assert training.num_steps is not None
    init_key, train_key, valid_key, _ = _keys(seed)
    mesh = sharing_of(training).mesh
    size = training.batch_size
    valid_at[:] = [batches(valid_key, data.valid_images, data.valid_labels, size, split="valid", mesh=mesh)]
    train_at = batches(train_key, data.train_images, data.train_labels, size, mesh=mesh)
    return runs.resumable(
        search.step,
        replicated(mesh, search.init(init_key) if begin is None else begin),
        train_at if more_at is None else merge_batches(train_at, more_at),
        training.num_steps if until is None else until,
        folder,
        fingerprint=policy.supernet.space.fingerprint,
        origin=origin,
        checkpoint_every=training.checkpoint_every,
        report_every=training.report_every,
        keep=1,
        label=label,
        progress=config.problem.progress,
    )


def decide(policy: Policy, state: TrainState, score: Score, seed: int) -> list[int]:
    """The code that a policy ends with; what it compares in the end it compares by accuracy, on text by perplexity."""
    space = policy.supernet.space
    decided = policy.decide(
        _keys(seed)[3], state.sampler_state.policy, lambda archs: merits(space, score(state, np.asarray(archs)))
    )
    code: list[int] = decided.tolist()
    return code


def _keys(seed: int) -> jax.Array:
    """Of weights and policy, of training batches, of the policy's, and of its decision."""
    return jax.random.split(jax.random.key(seed), 4)


def search_with_weights(
    config: PolicySearchConfig,
    num_seeds: int,
    space: SearchSpace,
    data: Dataset,
    name: str,
    workdir: Path,
    folder: Path,
    origin: sealed.Origin,
    also: Callable[[Policy, TrainState, Score], dict[str, Any]] = lambda policy, state, score: {},
    **settings: Any,
) -> Found:
    """A policy, of further `settings`, that learns while the super-net trains: what each seed ends with, and a list of
    what `also` says of each. Its trainings lie in `folder`; workdir/found_NAME.npz has what the first seed ends with,
    with the weights that trained beside it."""
    training = config.training
    assert training.num_steps is not None
    num_steps, per_epoch = training.num_steps, max(1, len(data.train_images) // training.batch_size)
    timetable = make_policy(config, name, space, 1, **settings).timetable(num_steps, per_epoch)
    num_updates = timetable.done(num_steps)
    policy = make_policy(config, name, space, max(1, num_updates), **settings)
    setup = make_search_setup(config, policy, data, timetable)
    score = make_score(config.scoring, policy.supernet, data, mesh=training.mesh, progress=False)
    seconds, archs, curves, more = 0.0, [], [], []
    for seed in range(config.problem.seed, config.problem.seed + num_seeds):
        trained = train_search(
            config,
            setup,
            folder / name / f"seed{seed}",
            seed=seed,
            origin={**origin, "policy": name, "seed": seed},
            label=f"{name}, seed {seed}",
        )
        seconds += trained.seconds
        archs.append(decide(policy, trained.state, score, seed))
        if len(archs) == 1:
            write_weights(workdir, archs[0], policy.supernet, trained.state.params, name)
        more.append(also(policy, trained.state, score))
        # A row is of the steps since the one before, and there are terms from the first update on.
        rows = [row for row in trained.rows if timetable.done(int(row["step"]) - training.report_every) > 0]
        curves.append([(row["step"], row[PARAMETER_FREE]) for row in rows if PARAMETER_FREE in row])
    steps = forward_passes(policy, num_steps, num_updates, config.policy.num_asked) * training.batch_size
    found = {"archs": archs, "seconds": seconds, "forward_passes": float(steps)}
    found |= {what: [each[what] for each in more] for what in more[0]}
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


def parameter_free(supernet: Supernet, archs: np.ndarray) -> np.ndarray:
    """Of the edges that codes [num_archs, num_choices] have, "none" left out, the share whose operation has no
    parameters: [num_archs], 0 where there is no edge."""
    layers = {layer.choice: layer for layer in supernet.layers.values() if layer.choice is not None}
    names = [list(layers[place].candidates) for place in range(len(layers))]
    is_none = np.array([[op == "none" for op in ops] for ops in names])
    taken = supernet.decode(np.asarray(archs, np.int32))
    places = np.arange(taken.shape[1])
    has_edge = ~is_none[places, taken]
    free = supernet.parameter_free[places, taken] & has_edge
    share: np.ndarray = free.sum(axis=1) / np.maximum(1, has_edge.sum(axis=1))
    return share


def check_judged(judge: Judge, space: SearchSpace) -> None:
    """Raise a ValueError where a policy may end with an architecture that the table doesn't know."""
    if len(judge.feasible) < space.size and space.has_all_codes:
        raise ValueError(
            f"the table of {space.name} has {len(judge.feasible)} of {space.size} architectures, and a policy may end"
            " with any; take a space with a whole table."
        )


def kept(path: Path, origin: sealed.Origin, search: Callable[[], Found]) -> Found:
    """What a search found: from its file, or now."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        sealed.write_json(path, "searches", search(), origin)
    found: Found = sealed.read_json(path, "searches", origin)
    return found
