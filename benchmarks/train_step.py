"""What a training step costs against the same step with its path fixed while tracing.

    python -m benchmarks.train_step                     # a table, minutes on two cores (most of them compiling)
    python -m benchmarks.train_step --quick             # smaller networks
    python -m benchmarks.train_step --json --out FILE   # flat records

One step of SGD on one batch, in turns within one run, medians. Routes:

    fixed       the path is known while tracing: a plain network, the least that any step can cost
    fixed_scan  the same inside `lax.scan`, eight steps a call: loops must not cost anything
    single      the same path, drawn while running: one architecture a step
    fair        strict fairness, as many architectures a step as a choice has operations; ms are those of one of them
    landmarks   `single`, and all pairs of 30 landmarks from one batched forward
    serial_pair `single`, and one pair of them from two forwards, one after the other, as the method's authors do it
    codes       `single`, the path drawn by the controller of ENAS, which a limit leaves no other
    controller  an update of that controller: 20 codes judged on a batch, no step of the weights
    mixture     all candidates of each place, mixed by the weights of DARTS
    darts       `mixture`, and the update of these weights on another batch
    operations  no step: the sum of the fixed costs of each candidate at each place, which a mixture is measured by

What `landmarks` and `serial_pair` take beyond `single`, divided by their number of pairs, is `ms_per_pair`. The sum of
`operations` is that of the fixed paths with one candidate everywhere; what all have in common, the cheapest of them,
counts once.
"""

import dataclasses
import functools
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks import command
from benchmarks.evaluator import make_space
from jaxnas.checks import Cells, Count, Pixels, Width
from jaxnas.codes import exist, sample, to_text
from jaxnas.costs import cost_table, make_limit
from jaxnas.evaluation import cross_entropy
from jaxnas.policies import POLICIES, Policy, Timetable, make_search_training
from jaxnas.policies.learning import make_judge_step
from jaxnas.samplers import Sampler, fair
from jaxnas.spaces import SpaceName
from jaxnas.supernets import Supernet, make_supernet
from jaxnas.training import (
    Aux,
    LossFn,
    add_losses,
    init_train_state,
    make_cross_entropy_loss,
    make_train_step,
    ranking_loss,
    sgd,
)
from jaxnas.training.landmarks import biased_pairs, make_ranking_loss_fn

Route = Literal[
    "fixed", "fixed_scan", "single", "fair", "landmarks", "serial_pair", "codes", "controller", "mixture", "darts",
    "operations",
]  # fmt: skip
ROUTES: tuple[Route, ...] = get_args(Route)
OF_ALL_CODES = ("mixture", "darts", "operations")  # which depend on no code, and are timed once
SCANNED = 8  # steps of fixed_scan
NUM_LANDMARKS = 30
NUM_PAIRS = {"landmarks": NUM_LANDMARKS * (NUM_LANDMARKS - 1) // 2, "serial_pair": 1}


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Of the networks and batches."""

    width: Width = 16  # channels of the stem
    image_size: Pixels = 16  # pixels
    cells: Cells = 1  # cells per stage, for spaces of cells
    batch_size: Count = 64
    landmark_images: Count = 16  # that the landmarks are compared on in a step
    affine: bool = False
    num_paths: Count = 2  # random architectures, each timed alone; ms are those of their mean


@dataclasses.dataclass(frozen=True)
class Config(Sizes):
    """What to time, at which size."""

    spaces: tuple[Annotated[str, SpaceName()], ...] = ("nasbench201", "nasbench_macro")
    routes: tuple[Route, ...] = ROUTES
    repetitions: Count = 10  # of every route, in turns; the median counts
    quick: bool = False  # other defaults
    json: bool = False  # records instead of a table
    out: Path | None = None  # write the records to this file as well


QUICK = Config(width=8, image_size=8, batch_size=16, num_paths=1, repetitions=3, quick=True)


def run(config: Config) -> list[dict[str, Any]]:
    """A flat record for every space and route."""
    records = []
    for name in config.spaces:
        supernet, codes, batch = make_problem(config, name)
        ms: dict[Route, list[float]] = {route: [] for route in config.routes}
        compile_s = dict.fromkeys(config.routes, 0.0)
        for code in codes:
            print(f"{name}: {to_text(supernet.space, code)} ...", file=sys.stderr, flush=True)
            routes = [route for route in config.routes if route not in OF_ALL_CODES or not ms[route]]
            steps = [(route, *made) for route in routes for made in make_steps(supernet, route, code, batch)]
            for first, step, _ in steps:
                start = time.perf_counter()
                step()
                compile_s[first] += time.perf_counter() - start
                step()
            took = np.zeros((config.repetitions, len(steps)))
            for turn in took:
                for number, (_, step, num_steps) in enumerate(steps):
                    start = time.perf_counter()
                    step()
                    turn[number] = (time.perf_counter() - start) / num_steps
            medians = 1000 * np.median(took, axis=0)
            for route in routes:
                parts = medians[[each == route for each, *_ in steps]]
                ms[route].append(float(parts.sum() - (len(parts) - 1) * parts.min()))
        fixed, operations = (float(np.mean(ms[name])) if name in ms else None for name in ("fixed", "operations"))
        for route, times in ms.items():
            mean = float(np.mean(times))
            records.append(
                {
                    "space": name,
                    "route": route,
                    "ms": mean,
                    "ratio_to_fixed": mean / fixed if fixed else None,
                    "ratio_to_operations": mean / operations if operations and route in OF_ALL_CODES else None,
                    "ms_per_pair": ms_per_pair(route, ms),
                    "compile_s": compile_s[route] / len(times),
                    **sizes_of(config),
                    "repetitions": config.repetitions,
                    "device": command.device_name(),
                    "versions": command.versions(),
                }
            )
    return records


def sizes_of(config: Sizes) -> dict[str, Any]:
    return {field.name: getattr(config, field.name) for field in dataclasses.fields(Sizes)}


def make_problem(config: Sizes, name: str) -> tuple[Supernet, np.ndarray, Any]:
    """A super-net, random codes [num_paths, num_choices], and a batch of noise to train and be judged on."""
    space = make_space(config, name)  # type: ignore[arg-type]
    supernet = make_supernet(space, affine=config.affine)
    codes = np.asarray(sample(jax.random.key(3), space, config.num_paths))
    shape = (config.batch_size, *supernet.layers["stem"].in_shape)
    images = jax.random.normal(jax.random.key(1), shape)
    batch = {"train": {"images": images, "labels": jnp.arange(config.batch_size) % space.layout.num_classes}}
    few = np.resize(np.arange(config.batch_size), config.landmark_images)
    batch["valid"] = {key: value[few] for key, value in batch["train"].items()}
    return supernet, codes, batch


def ms_per_pair(route: Route, ms: dict[Route, list[float]]) -> float | None:
    """What one pair of landmarks adds to the step, None where there is none or no `single` to compare with."""
    if route not in NUM_PAIRS or "single" not in ms:
        return None
    return float(np.mean(ms[route]) - np.mean(ms["single"])) / NUM_PAIRS[route]


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


def make_steps(supernet: Supernet, route: Route, code: np.ndarray, batch) -> list[tuple[Callable[[], Any], int]]:
    """Calls that each run so many steps of one architecture, and wait for them; one, but of `operations`."""
    if route != "operations":
        return [make_step(supernet, route, code, batch)]
    space, (most, *others) = supernet.space, sorted(set(supernet.space.num_ops), reverse=True)
    if others or supernet.is_decoded:
        raise ValueError(
            f"operations: no code of {space.name} takes the same candidate everywhere; leave this route out, or take"
            " nasbench201."
        )
    return [make_step(supernet, "fixed", np.full(space.num_choices, op), batch) for op in range(most)]


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
        return lambda state: search.step(state, batch)[0], state
    judge, key = make_judge_step(supernet, policy, tx, lambda key, images: images), jax.random.key(1)

    def update(controller: Any) -> Any:
        searcher = state.sampler_state._replace(policy=controller)
        feedback = judge(key, key, state._replace(sampler_state=searcher), batch, valid, 0)
        return policy.update(key, controller, feedback)[0]

    return update, state.sampler_state.policy


def make_step(supernet: Supernet, route: Route, code: np.ndarray, batch) -> tuple[Callable[[], Any], int]:
    """A call that runs so many steps of one architecture, and waits for them."""
    tx = sgd(0.01, num_steps=1000, momentum=0.9, weight_decay=5e-4)
    if route in ("codes", "controller", "mixture", "darts"):
        return Repeat(*make_search_step(supernet, route, code, batch, tx)), 1
    if route in ("single", "fair", *NUM_PAIRS):
        given = Sampler(
            lambda key: jnp.asarray(code[None]), lambda key, state: state, lambda state, *_: state, groups=1
        )
        sampler = fair(supernet.space) if route == "fair" else given
        loss_fn = make_cross_entropy_loss(supernet)
        if route in NUM_PAIRS:
            loss_fn = add_losses(
                {"cross_entropy": (1.0, loss_fn), "ranking": (1.0, make_ranking_term(supernet, route))}
            )
        jitted = make_train_step(supernet, loss_fn, sampler, tx)
        state = init_train_state(supernet, sampler, tx, jax.random.key(0))
        num_archs = len(sampler.sample(jax.random.key(0), state.sampler_state))
        return Repeat(lambda state: jitted(state, batch)[0], state), num_archs

    params = supernet.init(jax.random.key(0))
    path = tuple(int(op) for op in code)

    def one(carry, _=None):
        params, opt_state = carry

        def loss_fn(params):
            logits, _ = supernet.apply(params, path, batch["train"]["images"])
            return cross_entropy(logits, batch["train"]["labels"]).mean()

        grads = jax.grad(loss_fn)(params)
        with jax.numpy_dtype_promotion("standard"):  # optax's schedules divide whole numbers
            updates, opt_state = tx.update(grads, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), None

    carry = (params, tx.init(params))
    if route == "fixed":
        return Repeat(jax.jit(lambda carry: one(carry)[0], donate_argnums=0), carry), 1
    scan = functools.partial(jax.lax.scan, one, length=SCANNED)
    return Repeat(jax.jit(lambda carry: scan(carry, None)[0], donate_argnums=0), carry), SCANNED


class Repeat:
    """Calls a step on the state that it returned before."""

    def __init__(self, step: Callable, state: Any):
        self.step, self.state = step, state

    def __call__(self) -> None:
        self.state = jax.block_until_ready(self.step(self.state))


def table(records: Sequence[dict[str, Any]]) -> str:
    first = records[0]
    lines = [
        f"{first['device']}; {first['versions']}",
        f"width {first['width']}, {first['image_size']} px, batch {first['batch_size']}; ms of one architecture",
        f"{'space':16}{'route':12}{'ms':>9}{'against fixed':>15}{'operations':>12}{'ms a pair':>11}{'compile s':>11}",
    ]
    for record in records:
        ratio = f"{record['ratio_to_fixed']:.2f}x" if record["ratio_to_fixed"] else "-"
        of_sum = f"{record['ratio_to_operations']:.2f}x" if record["ratio_to_operations"] else "-"
        pair = f"{record['ms_per_pair']:.2f}" if record["ms_per_pair"] is not None else "-"
        lines.append(
            f"{record['space']:16}{record['route']:12}{record['ms']:9.1f}{ratio:>15}{of_sum:>12}{pair:>11}"
            f"{record['compile_s']:11.1f}"
        )
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    command.main("train_step", Config, QUICK, __doc__, run, table, argv)


if __name__ == "__main__":
    main()
