"""Ways to train a super-net that others report to help, each against the same training without it.

    python -m results.tried digits_chain --seeds 5 --out DIR
    python -m results.tried nasbench_macro --seeds 3 --data-dir DATA --out DIR

Super-nets of `label_budget quick` (digits) and `label_budget cpu` (the others), the half of the networks on which
settings are chosen, seeds from 20 on: no claim is made on these. Of each super-net: Kendall's tau of the mean loss, of
the predictor that is given the mean loss and 30 labels, and of the one that is given fingerprints besides, over the
same ten draws of labels; and tau in the top decile. tried.csv has a row for each setting and seed.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import label_budget
from experiments.shared import labelling
from experiments.shared.config import settle
from experiments.shared.problem import evaluation_archs, load_problem
from experiments.shared.supernet import build, make_score, network_inputs, preprocess_of
from jaxnas import codes, ranking, runs, samplers
from jaxnas.evaluation import cross_entropy, make_evaluator
from jaxnas.samplers import Sampler
from jaxnas.supernets import make_supernet
from jaxnas.training import batches, descend

FIRST_SEED = 20
SHARE_OF_TEACHER = 0.5  # of the loss, where a network is taught by another
DECAYS = 1.5, 0.5  # powers of what is left of the training: of the network with least MACs, and with most
INTERVAL = 50  # steps between looks at the networks that are filtered
FILTERED = 0.5  # share of the paths of a step that is trained, those with the lowest loss (GreedyNAS: 5 of 10)
SHIFT_FROM, SHIFTED = 0.7, 0.25  # from this share of the training on, this share of the networks is trained
SPLIT_FROM = 0.5  # the share of the training before the split


class Way(NamedTuple):
    """How a super-net is trained."""

    sampler: str = "fair"
    teacher: str = ""  # largest or average
    by_complexity: bool = False
    keep: str = ""  # filter or shift
    split: int | None = None  # the choice of which each operation gets weights of its own


WAYS = {
    "base": Way(),
    "uniform paths": Way(sampler="uniform"),
    "distilled from the largest": Way(teacher="largest"),
    "distilled from the average": Way(teacher="average"),
    "complexity-aware rate": Way(by_complexity=True),
    "path filtering": Way(keep="filter"),
    "order-preserving shift": Way(keep="shift"),
    "few-shot, first choice": Way(split=0),
}
AVERAGES = (
    9.0,
    1.0,
)  # of the base's weights, scored besides: after n steps n / (9 + n) is kept, a window of n / 10, or n / 2


class State(NamedTuple):
    """Of a training; `averages` are exponential ones of the weights."""

    step: Any
    params: Any
    opt_state: Any
    averages: Any
    stats: Any = None


class Bench:
    """What all trainings on a space share."""

    def __init__(self, space: str, data_dir: str | None) -> None:
        config = label_budget.PRESETS["quick" if space == "digits_chain" else "cpu"]
        self.config = settle(runs.replace(config, space=space, data_dir=data_dir, progress=False))
        self.published, self.space, self.data, truth = load_problem(self.config.problem)
        scoring = self.config.scoring
        self.archs = evaluation_archs(self.space, scoring.num_eval_archs, truth, half=scoring.half)
        self.population = labelling.describe(self.published, self.space, truth, self.archs)
        self.supernet = build(self.config.network, self.space)
        self.score = make_score(scoring, self.supernet, self.data, progress=False, per_image=True)
        self.evaluator = make_evaluator(self.supernet)
        few = slice(0, scoring.images_per_call)
        self.looked_at = network_inputs(self.data, self.data.train_images[few]), self.data.train_labels[few]
        whole = make_supernet(self.published)
        self.macs = np.zeros((self.space.num_choices, max(self.space.num_ops)))
        for layer in whole.layers.values():
            if layer.choice is not None:
                self.macs[layer.choice, : len(layer.candidates)] += np.asarray(layer.costs.macs)
        self.largest = jnp.asarray(self.macs.argmax(axis=1), jnp.int32)
        drawn = codes.sample(jax.random.key(0), self.space, 2000)
        self.ordered = jnp.sort(jnp.asarray(self.macs_of(np.asarray(drawn)), jnp.float32))
        self.preprocess = preprocess_of(self.config.training, self.data)
        self.steps: dict[Any, Callable[..., Any]] = {}

    def macs_of(self, archs: Any) -> Any:
        """Sums of the operations' own, [num_archs]."""
        macs = jnp.asarray(self.macs, jnp.float32)
        return macs[jnp.arange(self.space.num_choices), archs].sum(axis=-1)

    def rate(self, step: Any, num_branches: int | None) -> Any:
        """Cosine decay to zero; after a split, as much faster as there are branches."""
        training = self.config.training
        done = step / training.num_steps
        if num_branches is not None:
            done = jnp.where(done < SPLIT_FROM, done, SPLIT_FROM + (done - SPLIT_FROM) * num_branches)
        return training.learning_rate * 0.5 * (1 + jnp.cos(jnp.pi * jnp.minimum(done, 1.0)))

    def optimiser(self, way: Way) -> optax.GradientTransformation:
        training = self.config.training
        branches = None if way.split is None else self.space.num_ops[way.split]
        assert training.clip_norm is not None
        return optax.chain(
            optax.clip_by_global_norm(training.clip_norm),
            optax.add_decayed_weights(training.weight_decay),
            optax.sgd(lambda step: self.rate(step, branches), training.momentum),
        )

    def loss(self, way: Way, sampler: Sampler, params: Any, average: Any, archs: Any, batch: Any, key: Any, step: Any):
        """Summed over the population."""
        images, labels = self.preprocess(key, batch["train"]["images"]), batch["train"]["labels"]

        def logits_of(params: Any, arch: Any, groups: Any = sampler.groups) -> Any:
            return self.supernet.apply(params, arch, images, groups=groups)[0]

        logits = jax.vmap(lambda arch: logits_of(params, arch))(archs)
        losses, of_teacher = cross_entropy(logits, labels).mean(axis=1), 0.0
        if way.teacher:
            if way.teacher == "largest":
                taught = logits_of(params, self.largest, None)
                of_teacher = cross_entropy(taught, labels).mean()
                taught = jnp.broadcast_to(taught, logits.shape)
            else:
                taught = jax.vmap(lambda arch: logits_of(average, arch))(archs)
            target = jax.nn.softmax(jax.lax.stop_gradient(taught))
            soft = -(target * jax.nn.log_softmax(logits)).sum(axis=-1).mean(axis=1)
            losses = (1 - SHARE_OF_TEACHER) * losses + SHARE_OF_TEACHER * soft
        if way.by_complexity:
            rank = jnp.searchsorted(self.ordered, self.macs_of(archs)) / len(self.ordered)
            power = DECAYS[0] + (DECAYS[1] - DECAYS[0]) * rank
            left = 1 - step / self.config.training.num_steps
            losses = left ** (power - 1) * losses
        return losses.sum() + of_teacher

    def make_step(self, way: Way, sampler: Sampler) -> Callable[..., State]:
        """(state, sampler's state, batch, key of the run) -> state, jitted."""
        tx = self.optimiser(way)

        def step(state: State, drawn_from: Any, batch: Any, run_key: Any) -> State:
            sample_key, loss_key = jax.random.split(jax.random.fold_in(run_key, state.step))
            archs = sampler.sample(sample_key, drawn_from)
            grads = jax.grad(
                lambda params: self.loss(
                    way, sampler, params, state.averages[0], archs, batch, loss_key, state.step.astype(jnp.float32)
                )
            )(state.params)
            params, opt_state = descend(tx, grads, state.opt_state, state.params)
            count = (state.step + 1).astype(jnp.float32)
            shares = [count / (few + count) for few in AVERAGES]
            averages = [
                optax.incremental_update(params, average, 1 - share)
                for share, average in zip(shares, state.averages, strict=True)
            ]
            return State(state.step + 1, params, opt_state, averages)

        return jax.jit(step, donate_argnums=0)

    def step(self, way: Way, kind: str) -> tuple[Callable[..., State], Sampler]:
        """The step of a way whose populations come from a sampler, or were drawn beforehand; compiled once."""
        if (way, kind) not in self.steps:
            num_archs = max(self.space.num_ops)
            if kind == "replayed":
                sampler = samplers.replayed(self.space, num_archs=num_archs, num_steps=INTERVAL)
            else:
                sampler = samplers.SAMPLERS[kind](self.space, num_archs=num_archs)
            if way.split is not None:
                fair, split = sampler, way.split
                sampler = Sampler(
                    fair.init,
                    lambda key, op: jnp.where(
                        (jnp.arange(self.space.num_choices) == split) & (op >= 0), op, fair.sample(key, ())
                    ),
                    fair.update,
                    1,
                )
            self.steps[way, kind] = self.make_step(way, sampler), sampler
        return self.steps[way, kind]

    def train(self, way: Way, seed: int) -> list[State]:
        """The states that a training ends with; several after a split."""
        params_key, run_key, data_key, look_key = jax.random.split(jax.random.key(seed), 4)
        training = self.config.training
        batch_at = batches(data_key, self.data.train_images, self.data.train_labels, training.batch_size)
        params = self.supernet.init(params_key)
        copies = [jax.tree.map(jnp.copy, params) for _ in AVERAGES]
        state = State(jnp.zeros((), jnp.int32), params, self.optimiser(way).init(params), copies)
        num_steps, number, rng = training.num_steps, max(self.space.num_ops), np.random.default_rng(seed)
        assert num_steps is not None
        step, _ = self.step(way, way.sampler)
        if way.split is not None:
            for at in range(half := int(SPLIT_FROM * num_steps)):
                state = step(state, jnp.int32(-1), batch_at(at), run_key)
            branches = []
            for op in range(self.space.num_ops[way.split]):
                branch = jax.tree.map(jnp.copy, state)
                for at in range((num_steps - half) // self.space.num_ops[way.split]):
                    branch = step(branch, jnp.int32(op), batch_at(half + at), run_key)
                branches.append(branch)
            return branches
        first = {"filter": 0, "shift": int(SHIFT_FROM * num_steps)}.get(way.keep, num_steps)
        for at in range(num_steps):
            if at < first:
                state = step(state, (), batch_at(at), run_key)
                continue
            replay, _ = self.step(way, "replayed")
            if (at - first) % INTERVAL == 0:
                kept = self.kept(way, state.params, jax.random.fold_in(look_key, at), number * INTERVAL, rng)
                played = search_replay(kept, number)
            state = replay(state, played._replace(next=jnp.int32((at - first) % INTERVAL)), batch_at(at), run_key)
        return [state]

    def kept(self, way: Way, params: Any, key: Any, number: int, rng: np.random.Generator) -> np.ndarray:
        """The next networks to train: of those drawn for each step the best, or of many drawn the best part."""
        share = FILTERED if way.keep == "filter" else SHIFTED
        drawn = np.asarray(codes.sample(key, self.space, round(number / share)))
        losses = self.evaluator.evaluate(params, drawn, *self.looked_at).loss
        if way.keep == "shift":
            best = np.argsort(losses, kind="stable")[:number]
            return drawn[rng.permutation(best)]
        per_step = round(number / INTERVAL / share)
        order = np.argsort(losses.reshape(INTERVAL, per_step), axis=1, kind="stable")[:, : number // INTERVAL]
        return np.take_along_axis(drawn.reshape(INTERVAL, per_step, -1), order[..., None], axis=1).reshape(number, -1)

    def outcome(self, way: Way, states: list[State]) -> np.ndarray:
        """Losses [num_archs, num_images]; each network by the weights of its branch."""
        if way.split is None:
            return self.score(states[0], self.archs).image_loss
        losses = [self.score(state, self.archs).image_loss for state in states]
        return np.stack(losses)[self.archs[:, way.split], np.arange(len(self.archs))]

    def judged(self, losses: np.ndarray) -> dict[str, float]:
        scores, prints = -losses.mean(axis=1), ranking.fingerprints([losses]).features
        of_mean = labelling.judged(self.population, scores, labelling.NONE)
        given = {"score": {"scores": scores}, "fingerprint": {"scores": scores, "fingerprints": prints}}
        rows = labelling.drawn(self.population, given, [30], num_draws=10, seed=0)
        of_labels = {
            f"tau_{name}_30": float(np.mean([row["tau"] for row in rows if row["method"] == name])) for name in given
        }
        return {"tau": of_mean["tau"], "top_decile_tau": of_mean["top_decile_tau"], **of_labels}


def search_replay(archs: np.ndarray, number: int) -> Any:
    return samplers.replay(archs, num_archs=number)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("space", choices=["digits_chain", "nasbench201", "nasbench_macro"])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--data-dir")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--ways", nargs="*", default=list(WAYS))
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    bench, rows, path = Bench(given.space, given.data_dir), [], given.out / "tried.csv"
    for seed in range(FIRST_SEED, FIRST_SEED + given.seeds):
        for name in given.ways:
            way, begin = WAYS[name], time.monotonic()
            states = bench.train(way, seed)
            jax.block_until_ready(states[0].params)
            seconds = time.monotonic() - begin
            shown = {name: states}
            if name == "base":
                for index, share in enumerate(("last tenth", "last half")):
                    averaged = states[0]._replace(params=states[0].averages[index])
                    shown[f"average of weights, {share}"] = [averaged]
            for label, of_label in shown.items():
                judged = bench.judged(bench.outcome(way, of_label))
                rows.append({"setting": label, "seed": seed, **judged, "seconds": seconds})
                print({key: value if isinstance(value, str) else round(value, 3) for key, value in rows[-1].items()})
                runs.write_rows(path, rows)


if __name__ == "__main__":
    main()
