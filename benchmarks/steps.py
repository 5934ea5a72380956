"""The training steps that `benchmarks.train_step` times and `benchmarks.compiled` compiles, as calls."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.evaluator import make_space
from jaxnas.checks import Cells, Count, Pixels, Width
from jaxnas.codes import exist, sample
from jaxnas.costs import cost_table, make_limit
from jaxnas.evaluation import cross_entropy
from jaxnas.policies import POLICIES, Policy, Timetable, make_search_training
from jaxnas.policies.learning import make_judge_step
from jaxnas.samplers import Sampler, fair
from jaxnas.supernets import Policy as NumberTypes
from jaxnas.supernets import Supernet, make_supernet
from jaxnas.training import (
    Aux,
    LossFn,
    add_losses,
    init_train_state,
    make_cross_entropy_loss,
    make_train_step,
    ranking_loss,
    seeds,
    sgd,
)
from jaxnas.training.landmarks import biased_pairs, make_ranking_loss_fn

OwnRoute = Literal[
    "fixed", "fixed_scan", "single", "fair", "single_seeds", "fair_seeds", "landmarks", "serial_pair", "codes",
    "controller", "mixture", "darts", "operations",
]  # fmt: skip
TorchRoute = Literal["torch_eager", "torch_best"]
Route = Literal[OwnRoute, TorchRoute]
OWN_ROUTES: tuple[Route, ...] = get_args(OwnRoute)
OF_ALL_CODES = ("mixture", "darts", "operations")  # which depend on no code, and are timed once
OF_ONE_PATH = ("fixed", "single", *get_args(TorchRoute))  # which train the same network, to equal losses
SCANNED = 8  # steps of fixed_scan
NUM_SEEDS = 4  # super-nets side by side
NUM_LANDMARKS = 30
NUM_PAIRS = {"landmarks": NUM_LANDMARKS * (NUM_LANDMARKS - 1) // 2, "serial_pair": 1}
LEARNING_RATE, MOMENTUM, WEIGHT_DECAY, CLIP_NORM = 0.01, 0.9, 5e-4, 5.0


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Of the networks and batches."""

    width: Width = 16  # channels of the stem
    image_size: Pixels = 16  # pixels
    cells: Cells = 1  # cells per stage, for spaces of cells
    batch_size: Count = 64
    landmark_images: Count = 16  # that the landmarks are compared on in a step
    affine: bool = False
    compute_dtype: Literal["float32", "bfloat16"] = "float32"  # of activations and products, everybody's
    num_paths: Count = 2  # random architectures, each timed alone; ms are those of their mean


class Repeat:
    """Calls a step on the state that it returned before, and waits for it; step: state -> (state, loss or None)."""

    def __init__(self, step: Callable[[Any], tuple[Any, Any]], state: Any):
        self.step, self.state, self.loss = step, state, None

    def __call__(self) -> None:
        self.state, self.loss = jax.block_until_ready(self.step(self.state))


def make_problem(config: Sizes, name: str) -> tuple[Supernet, np.ndarray, Any]:
    """A super-net, random codes [num_paths, num_choices], and a batch of noise to train and be judged on."""
    space = make_space(config, name)  # type: ignore[arg-type]
    supernet = make_supernet(space, affine=config.affine, policy=NumberTypes(compute=config.compute_dtype))
    codes = np.asarray(sample(jax.random.key(3), space, config.num_paths))
    shape = (config.batch_size, *supernet.layers["stem"].in_shape)
    images = jax.random.normal(jax.random.key(1), shape)
    batch = {"train": {"images": images, "labels": jnp.arange(config.batch_size) % space.layout.num_classes}}
    few = np.resize(np.arange(config.batch_size), config.landmark_images)
    batch["valid"] = {key: value[few] for key, value in batch["train"].items()}
    return supernet, codes, batch


def make_ranking_term(supernet: Supernet, route: Route) -> LossFn:
    """The ranking loss of random landmarks whose order is that of their codes."""
    codes = np.asarray(sample(jax.random.key(5), supernet.space, NUM_LANDMARKS))
    order = np.arange(NUM_LANDMARKS)
    if route == "landmarks":
        return make_ranking_loss_fn(supernet, codes, order)

    def one_pair(params, archs, batch, key, step, groups=None):
        pair = biased_pairs(NUM_LANDMARKS)(key)[0]
        images, labels = batch["valid"]["images"], batch["valid"]["labels"]
        logits = [supernet.apply(params, jnp.asarray(codes)[row], images, groups=None)[0] for row in pair]
        losses = jnp.stack([cross_entropy(one, labels).mean() for one in logits])
        return ranking_loss(losses, jnp.arange(2)), Aux()

    return one_pair


def make_policy(supernet: Supernet, route: Route, code: np.ndarray) -> Policy:
    """DARTS's, or ENAS's with a limit that leaves the code alone."""
    if route in ("mixture", "darts"):
        return POLICIES["darts"](supernet)
    others = 1.0 - np.asarray(jax.nn.one_hot(code, max(supernet.space.num_ops)))
    table = cost_table(supernet.space, np.where(exist(supernet.space.num_ops), others, 0.0))
    return POLICIES["enas"](supernet, make_limit(supernet.space, "other choices", 0.5, table))


def make_search_step(
    supernet: Supernet, route: Route, code: np.ndarray, batch, tx: optax.GradientTransformation
) -> tuple[Callable[[Any], Any], Any]:
    """A step of a policy and its first state; the validation images are the training images."""
    policy, valid = make_policy(supernet, route, code), {"valid": batch["train"]}
    loss_fn, timetable = make_cross_entropy_loss(supernet), Timetable(0 if route == "darts" else 2**31, 1)
    search = make_search_training(supernet, policy, loss_fn, tx, timetable=timetable, valid_at=lambda number: valid)
    state = search.init(jax.random.key(0))
    if route != "controller":
        return lambda state: (search.step(state, batch)[0], None), state
    judge, key = make_judge_step(supernet, policy, tx, lambda key, images: images), jax.random.key(1)

    def update(controller: Any) -> Any:
        searcher = state.sampler_state._replace(policy=controller)
        feedback = judge(key, key, state._replace(sampler_state=searcher), batch, valid, 0)
        return policy.update(key, controller, feedback)[0], None

    return update, state.sampler_state.policy


def make_steps(supernet: Supernet, route: Route, code: np.ndarray, batch, dtype: str) -> list[tuple[Any, int]]:
    """Calls that each run so many steps of one architecture, and wait for them; one, but of `operations`. dtype: that
    PyTorch computes in, as the super-net does."""
    if route in get_args(TorchRoute):
        from benchmarks.peer_training import make_peer_step

        return [(make_peer_step(supernet, route, code, batch["train"], dtype), 1)]
    if route != "operations":
        return [make_step(supernet, route, code, batch)]
    space, (most, *others) = supernet.space, sorted(set(supernet.space.num_ops), reverse=True)
    if others or supernet.is_decoded:
        raise ValueError(
            f"operations: no code of {space.name} takes the same candidate everywhere; leave this route out, or take"
            " nasbench201."
        )
    return [make_step(supernet, "fixed", np.full(space.num_choices, op), batch) for op in range(most)]


def make_step(supernet: Supernet, route: Route, code: np.ndarray, batch) -> tuple[Repeat, int]:
    """A call that runs so many steps of one architecture, and waits for them."""
    tx = sgd(LEARNING_RATE, num_steps=1000, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY, clip_norm=CLIP_NORM)
    if route in ("codes", "controller", "mixture", "darts"):
        return Repeat(*make_search_step(supernet, route, code, batch, tx)), 1
    params = supernet.init(jax.random.key(0))
    if route in ("single", "fair", "single_seeds", "fair_seeds", *NUM_PAIRS):
        given = Sampler(
            lambda key: jnp.asarray(code[None]), lambda key, state: state, lambda state, *_: state, groups=1
        )
        sampler = fair(supernet.space) if route.startswith("fair") else given
        loss_fn = make_cross_entropy_loss(supernet)
        if route in NUM_PAIRS:
            loss_fn = add_losses(
                {"cross_entropy": (1.0, loss_fn), "ranking": (1.0, make_ranking_term(supernet, route))}
            )
        jitted = make_train_step(supernet, loss_fn, sampler, tx)
        state = init_train_state(supernet, sampler, tx, jax.random.key(0))._replace(params=params)
        num_archs = len(sampler.sample(jax.random.key(0), state.sampler_state))
        given_batch, loss_name = batch, "loss"
        if route.endswith("_seeds"):
            jitted, state = seeds.side_by_side(jitted), seeds.stack([state] * NUM_SEEDS)
            given_batch = jax.tree.map(lambda leaf: jnp.stack([leaf] * NUM_SEEDS), batch)
            loss_name, num_archs = "loss_0", num_archs * NUM_SEEDS

        def one_step(state):
            state, metrics = jitted(state, given_batch)
            return state, metrics[loss_name]

        return Repeat(one_step, state), num_archs

    path = tuple(int(op) for op in code)

    def one(carry, _=None):
        params, opt_state = carry

        def loss_fn(params):
            logits, _ = supernet.apply(params, path, batch["train"]["images"])
            return cross_entropy(logits, batch["train"]["labels"]).mean()

        loss, grads = jax.value_and_grad(loss_fn)(params)
        with jax.numpy_dtype_promotion("standard"):  # optax's schedules divide whole numbers
            updates, opt_state = tx.update(grads, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), loss

    carry = (params, tx.init(params))
    if route == "fixed":
        return Repeat(jax.jit(one, donate_argnums=0), carry), 1
    scan = functools.partial(jax.lax.scan, one, length=SCANNED)
    return Repeat(jax.jit(lambda carry: scan(carry, None), donate_argnums=0), carry), SCANNED
