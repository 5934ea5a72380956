"""NAO: gradient ascent on the embedding of architectures (Luo et al., NeurIPS 2018, arXiv 1808.07233)."""

from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxnas.checks import number, whole
from jaxnas.costs import Limit, arch_costs
from jaxnas.policies.nao_networks import EncoderPredictorDecoder, unit
from jaxnas.policies.policy import Gradients, Policy, Rewards, Terms, Timetable, best_of, feasible_region
from jaxnas.search import SearchState, host_rng
from jaxnas.search.regions import Region
from jaxnas.search.search import Proposals
from jaxnas.supernets import Supernet
from jaxnas.training import descend

TERMS = ("reward", "predictor_error", "decoder_loss", "policy_loss", "policy_grad_norm", "num_new")


class NaoState(NamedTuple):
    """The pool and the networks. Arrays have room for the largest pool; `size` says how many architectures it holds."""

    params: Any
    archs: chex.Array  # int32 [capacity, num_choices]
    scores: chex.Array  # float32 [capacity], NaN where unknown
    size: chex.Array  # int32
    num_updates: chex.Array  # int32

    @property
    def pool(self) -> tuple[np.ndarray, np.ndarray]:
        """The architectures int32 [size, num_choices] and their scores [size]."""
        return np.asarray(self.archs)[: int(self.size)], np.asarray(self.scores)[: int(self.size)]


class NaoPool(NamedTuple):
    """How many architectures the pool has: in the beginning, and in each round those that stay, those that are decoded,
    and those that are drawn. The defaults are eval-nas's on NAS-Bench-101 (which keeps all); landmark regularisation
    has 100 seeds, keeps 100, and takes 300 new and 400 random ones."""

    num_seeds: int = 600
    num_kept: int = 600
    num_new: int = 300
    num_random: int = 100

    @property
    def capacity(self) -> int:
        return max(self.num_seeds, self.num_kept + self.num_new + self.num_random)


class NaoTraining(NamedTuple):
    """How encoder, predictor and decoder are trained in each round, from a fresh Adam.

    The loss of an architecture is prediction_weight times the squared error of its score, brought to [0, 1] over the
    pool, and the rest times the negative log-likelihood of its code.
    """

    num_steps: int = 48_000  # 1,000 epochs of a pool of 600, eight times over, in batches of 100
    batch_size: int = 100
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    clip_norm: float = 5.0
    prediction_weight: float = 0.8


def nao(
    supernet: Supernet,
    limit: Limit | None = None,
    *,
    pool: NaoPool = NaoPool(),  # noqa: B008 (an immutable tuple)
    num_ascended: int = 100,
    num_rounds: int = 4,
    hidden_size: int = 96,
    predictor_sizes: tuple[int, ...] = (200, 200, 200),
    dropout: float = 0.1,
    training: NaoTraining = NaoTraining(),  # noqa: B008 (an immutable tuple)
    max_step: int = 50,
    by_params: bool = True,
    rescore: bool = True,
    num_archs: int = 1,
) -> Policy:
    """Keep a pool of architectures; learn to predict their scores; move the best uphill and decode them into new ones.

    In each round the pool is scored, the networks learn it, and the pool becomes its best ones, decoded ones and random
    ones, all different. New codes come from the best `num_ascended`: the encoder's outputs go one step along the
    gradient of the prediction, brought back to length one and decoded greedily, with the step 1, 2, ... to `max_step`
    until there are enough. Codes that exist already or miss the limit are dropped.

    The settings are those of eval-nas on NAS-Bench-101 (which looks at a tenth that it doesn't learn). Landmark
    regularisation has a round every 40 epochs, predictor_sizes (64, 64) and hidden_size 16.

    Args:
      num_rounds: equally spaced over the training, the last at its end.
      training: of the networks, in each round.
      by_params: weight steps draw from the pool in proportion to an architecture's parameters, else uniformly.
      rescore: ask for the whole pool in each round, since shared weights change; False: for what has no score yet.
      num_archs: architectures of a weight step.

    Raises:
      ValueError: a bad setting, or no architecture meets the limit.
    """
    counts = {"num_ascended": num_ascended, "num_rounds": num_rounds, "max_step": max_step, "num_archs": num_archs}
    _check(counts | {"hidden_size": hidden_size}, pool, dropout, training)
    space, region, capacity = supernet.space, feasible_region(supernet, limit), pool.capacity
    module = EncoderPredictorDecoder(space, hidden_size, tuple(predictor_sizes), dropout)
    learn, ascend = make_learn(module, training), make_ascend(module)
    start = jax.jit(lambda key: module.init(key, jnp.zeros(space.num_choices, jnp.int32), False))

    def init(key: chex.PRNGKey) -> NaoState:
        params_key, pool_key = jax.random.split(key)
        seeds = _beside(region, np.zeros((0, space.num_choices), np.int32))
        seeds.add_random(host_rng(pool_key), pool.num_seeds)
        archs = seeds.stacked()
        return _pool(capacity, archs, np.full(len(archs), np.nan), start(params_key), 0)

    def propose(key: chex.PRNGKey, state: NaoState) -> np.ndarray:
        archs = state.pool[0]
        chances = arch_costs(space, archs).params if by_params else np.ones(len(archs))
        return archs[host_rng(key).choice(len(archs), num_archs, p=chances / chances.sum())]

    def ask(key: chex.PRNGKey, state: NaoState) -> np.ndarray:
        archs, scores = state.pool
        return archs if rescore else archs[np.isnan(scores)]

    def update(key: chex.PRNGKey, state: NaoState, feedback: Rewards | Gradients) -> tuple[NaoState, Terms]:
        if not isinstance(feedback, Rewards):
            raise ValueError(f"nao learns from rewards of codes, got {type(feedback).__name__}.")
        archs, scores = state.pool[0], _told(state, feedback)
        learn_key, random_key = jax.random.split(key)
        params, terms = learn(learn_key, _pool(capacity, archs, scores, state.params, int(state.num_updates)))
        best = np.argsort(-scores, kind="stable")  # NaN last
        fresh = _beside(region, archs)
        for step in range(1, max_step + 1):
            if (missing := pool.num_new - len(fresh.archs)) > 0:
                codes = ascend(params, jnp.asarray(archs[best[:num_ascended]]), jnp.float32(step))
                fresh.add(np.asarray(codes), at_most=missing)
        found = len(fresh.archs)
        fresh.add_random(host_rng(random_key), pool.num_random)
        new, kept = fresh.stacked(), best[: pool.num_kept]
        archs, scores = np.concatenate([archs[kept], new]), np.append(scores[kept], np.full(len(new), np.nan))
        values = [np.mean(feedback.rewards), *jax.device_get(terms), found]
        state = _pool(capacity, archs, scores, params, int(state.num_updates) + 1)
        return state, dict(zip(TERMS, map(float, values), strict=True))

    return Policy(
        "nao",
        supernet,
        init,
        propose,
        ask,
        update,
        decide=lambda key, state, score: best_of(state.pool[0], score),
        timetable=lambda num_steps, _: Timetable(num_steps % num_rounds, max(1, num_steps // num_rounds)),
        terms=TERMS,
    )


def _check(counts: dict[str, int], pool: NaoPool, dropout: float, training: NaoTraining) -> None:
    """Raise a ValueError for settings out of range."""
    counts = counts | {"num_steps": training.num_steps, "batch_size": training.batch_size}
    for name, count in (counts | {"num_kept": pool.num_kept}).items():
        whole(f"nao: {name}", count, 1)
    whole("nao: num_seeds", pool.num_seeds, 2)  # one score predicts nothing
    whole("nao: num_new", pool.num_new)
    whole("nao: num_random", pool.num_random)
    number("nao: dropout", dropout, 0, below=1)
    number("nao: weight_decay", training.weight_decay, 0)
    number("nao: learning_rate", training.learning_rate, above=0)
    number("nao: clip_norm", training.clip_norm, above=0)
    number("nao: prediction_weight", training.prediction_weight, 0, 1)


def _told(state: NaoState, feedback: Rewards) -> np.ndarray:
    """The scores of the pool, with what was told now: float32 [size]."""
    told = dict(zip((code.tobytes() for code in feedback.archs), np.asarray(feedback.rewards), strict=True))
    return np.array([told.get(code.tobytes(), score) for code, score in zip(*state.pool)], np.float32)


def _pool(capacity: int, archs: np.ndarray, scores: np.ndarray, params: Any, num_updates: int) -> NaoState:
    """The state that holds these architectures."""
    room = capacity - len(archs)
    return NaoState(
        params,
        jnp.asarray(np.pad(archs, ((0, room), (0, 0))), jnp.int32),
        jnp.asarray(np.pad(scores, (0, room), constant_values=np.nan), jnp.float32),
        jnp.asarray(len(archs), jnp.int32),
        jnp.asarray(num_updates, jnp.int32),
    )


def _beside(region: Region, archs: np.ndarray) -> Proposals:
    """An empty list of architectures that are feasible and none of these."""
    return Proposals(region, SearchState(np.zeros(0, np.uint32), archs, np.zeros(len(archs))))


def make_learn(module: EncoderPredictorDecoder, training: NaoTraining) -> Any:
    """(key, state) -> (params, terms): the networks after `training` on what the pool is known to score."""
    steps, batch_size, learning_rate, weight_decay, clip_norm, share = training
    tx = optax.chain(
        optax.clip_by_global_norm(clip_norm), optax.add_decayed_weights(weight_decay), optax.adam(learning_rate)
    )

    @jax.jit
    def learn(key: chex.PRNGKey, state: NaoState) -> tuple[Any, tuple[chex.Array, ...]]:
        known = jnp.isfinite(state.scores)
        least = jnp.where(known, state.scores, jnp.inf).min()
        spread = jnp.where(known, state.scores, -jnp.inf).max() - least
        targets = jnp.where(known, (state.scores - least) / jnp.where(spread > 0, spread, 1.0), 0.0)
        places = jnp.argsort(~known, stable=True)  # the known first

        def loss_fn(params: Any, key: chex.PRNGKey, rows: chex.Array) -> tuple[chex.Array, Any]:
            def one(arch: chex.Array, key: chex.PRNGKey) -> Any:
                return module.apply(params, arch, True, rngs={"dropout": key})

            predicted, likelihood = jax.vmap(one)(state.archs[rows], jax.random.split(key, batch_size))
            error, decoding = ((predicted - targets[rows]) ** 2).mean(), likelihood.mean()
            return share * error + (1 - share) * decoding, (error, decoding)

        def step(carry: Any, number: chex.Array) -> Any:
            params, opt_state, _ = carry
            row_key, drop_key = jax.random.split(jax.random.fold_in(key, number))
            rows = places[jax.random.randint(row_key, (batch_size,), 0, jnp.maximum(known.sum(), 1))]
            (loss, parts), grads = jax.value_and_grad(loss_fn, has_aux=True)(params, drop_key, rows)
            params, opt_state = descend(tx, grads, opt_state, params)
            return (params, opt_state, (*parts, loss, optax.tree.norm(grads))), None

        begin = state.params, tx.init(state.params), (jnp.zeros(()),) * 4
        (params, _, terms), _ = jax.lax.scan(step, begin, jnp.arange(steps))
        return params, terms

    return learn


def make_ascend(module: EncoderPredictorDecoder) -> Any:
    """(params, archs int32 [num_archs, num_choices], step) -> the codes decoded a step uphill of these."""

    @jax.jit
    def ascend(params: Any, archs: chex.Array, step: chex.Array) -> chex.Array:
        def one(arch: chex.Array) -> chex.Array:
            outputs = module.apply(params, arch, method="encode")
            uphill = jax.grad(lambda outputs: module.apply(params, outputs, method="predict"))(outputs)
            return module.apply(params, unit(outputs + step * uphill), method="decode")

        return jax.vmap(one)(archs)

    return ascend
