"""What policies share that mix all candidates of each place by weights, and follow the gradient of these weights."""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxnas.codes import exist
from jaxnas.costs import Limit
from jaxnas.policies.drawing import Drawer, entropies, make_drawer, moving_baseline
from jaxnas.policies.policy import Gradients, Policy, Rewards, ScoreFn, Terms, Timetable, feasible_region
from jaxnas.search import host_rng
from jaxnas.search.regions import MAX_MEMBERS, Region
from jaxnas.supernets import Drawn, Supernet
from jaxnas.training import descend

TERMS = ("policy_loss", "policy_entropy", "policy_grad_norm", "policy_parameter_free")
NUM_DRAWS = 1000  # codes drawn from a mixture whose likeliest code misses the limit, as many as FBNet's authors draw
BASELINE_DECAY = 0.9


class MixtureState(NamedTuple):
    """A mixture while it learns."""

    alphas: Any  # what the weights are made of
    opt_state: optax.OptState
    baseline: chex.Array  # float, the moving average of rewards, where codes are judged
    num_updates: chex.Array  # int32
    extra: Any  # a policy's own


class Mixture(NamedTuple):
    """What a mixture differs in.

    Attributes:
      init: key -> (alphas, the policy's own).
      weights: (key, alphas, num_updates) -> float [num_places, max(num_candidates)] or `Drawn`: pure, differentiable
        with respect to alphas.
      logits: alphas -> [num_places, max(num_candidates)], of the distribution that codes are drawn from; -inf where a
        place has fewer candidates.
      penalty: (alphas, aid) -> what is added to the loss; pure.
      aid: state -> arrays that the penalty needs, made on the host.
      merits: state -> [num_places, max(num_candidates)], larger for what should stay; None: the logits.
      finish: (state before, state after the gradient step, feedback) -> state.
    """

    init: Callable[[chex.PRNGKey], tuple[Any, Any]]
    weights: Callable[[chex.PRNGKey, Any, chex.Array], Any]
    logits: Callable[[Any], chex.Array]
    penalty: Callable[[Any, Any], chex.Array] = lambda alphas, aid: jnp.zeros(())
    aid: Callable[[MixtureState], Any] = lambda state: ()
    merits: Callable[[MixtureState], chex.Array] | None = None
    finish: Callable[[MixtureState, Gradients | Rewards], MixtureState] = lambda state, feedback: state


def make_mixture(
    name: str,
    supernet: Supernet,
    limit: Limit | None,
    mixture: Mixture,
    tx: optax.GradientTransformation,
    timetable: Callable[[int, int], Timetable],
    **options: Any,
) -> Policy:
    """A policy from how its weights come about; `options` are the last fields of `Policy`.

    Terms are of before the update; `policy_parameter_free` is the weight, a mean over places, of candidates without
    parameters, to which DARTS is known to collapse.

    With `Gradients` an update follows the loss's gradient, the penalty's added. With `Rewards` it follows the gradient
    of the expected reward of codes drawn from the mixture, less a moving average (REINFORCE), in its place: so a table,
    which knows no mixtures, can feed it.

    The decision is the code that `supernet.encode` makes of the merits: of equals the first. Where that misses the
    limit, it is the feasible code with the largest sum of merits, among all where they can be listed, else among draws.

    Raises:
      ValueError: a space of which no code stands for a mixture, or a limit that nothing meets.
    """
    region, encode = feasible_region(supernet, limit), _encode(name, supernet)
    drawer = None if supernet.is_decoded else make_drawer(region)
    finish, reward_gradient = mixture.finish, _reward_gradient(mixture, drawer)
    free = supernet.parameter_free

    def init(key: chex.PRNGKey) -> MixtureState:
        alphas, extra = mixture.init(key)
        return MixtureState(alphas, tx.init(alphas), jnp.zeros(()), jnp.zeros((), jnp.int32), extra)

    def relax(key: chex.PRNGKey, state: MixtureState) -> chex.Array | Drawn:
        return mixture.weights(key, state.alphas, state.num_updates)

    compiled = jax.jit(lambda key, state: jax.tree.map(lambda leaf: leaf[None], relax(key, state)))

    def ask(key: chex.PRNGKey, state: MixtureState, num_archs: int = 1) -> np.ndarray:
        logits = mixture.logits(state.alphas)
        if drawer is not None:
            return drawer.draw(key, logits, num_archs)
        noise = host_rng(key).gumbel(size=(NUM_DRAWS, *logits.shape))
        archs = np.stack([encode(np.asarray(logits) + each) for each in noise])
        return archs[region.contains(archs)][:num_archs]

    @jax.jit
    def learn(state: MixtureState, grads: Any, aid: Any) -> tuple[MixtureState, tuple[chex.Array, ...]]:
        grads = jax.tree.map(jnp.add, grads, jax.grad(mixture.penalty)(state.alphas, aid))
        alphas, opt_state = descend(tx, grads, state.opt_state, state.alphas)
        logs = jax.nn.log_softmax(mixture.logits(state.alphas), axis=-1)
        share = jnp.where(free, jnp.exp(logs), 0.0).sum(axis=-1).mean()
        state = state._replace(alphas=alphas, opt_state=opt_state, num_updates=state.num_updates + 1)
        return state, (entropies(logs).sum(), optax.tree.norm(grads), share)

    def update(key: chex.PRNGKey, state: MixtureState, feedback: Rewards | Gradients) -> tuple[MixtureState, Terms]:
        if isinstance(feedback, Rewards):
            if reward_gradient is None:
                raise ValueError(
                    f"{name}: codes drawn from a mixture of the edges of {supernet.space.name} have no known"
                    " probability, so that rewards teach nothing; let it learn from shared weights."
                )
            rewards = jnp.asarray(feedback.rewards, jnp.float32)
            baseline, grads = reward_gradient(state, jnp.asarray(feedback.archs, jnp.int32), rewards)
            state, loss = state._replace(baseline=baseline), -rewards.mean()
        else:
            grads, loss = feedback.alphas, feedback.loss
        state, others = learn(state, grads, mixture.aid(state))
        terms = (float(value) for value in jax.device_get((loss, *others)))
        return finish(state, feedback), dict(zip(TERMS, terms, strict=True))

    def merits_of(state: MixtureState) -> np.ndarray:
        return np.asarray(mixture.logits(state.alphas) if mixture.merits is None else mixture.merits(state))

    def prefer(state: MixtureState, archs: np.ndarray) -> np.ndarray:
        merits, taken = merits_of(state), supernet.decode(np.asarray(archs, np.int32))
        total: np.ndarray = merits[np.arange(len(merits)), taken].sum(axis=1)
        return total

    def decide(key: chex.PRNGKey, state: MixtureState, score: ScoreFn) -> np.ndarray:
        likeliest = encode(merits_of(state))
        if region.contains(likeliest[None])[0]:
            return likeliest
        archs = _within(region, ask, key, state, supernet)
        return archs[np.argmax(prefer(state, archs))]

    options |= {"relax": relax, "prefer": prefer}
    return Policy(name, supernet, init, compiled, ask, update, decide, timetable, TERMS, **options)


def _reward_gradient(mixture: Mixture, drawer: Drawer | None) -> Any:
    """(state, archs, rewards) -> (baseline, gradient of what is expected to be lost); None where codes have no known
    probability."""
    if drawer is None:
        return None

    def expected_loss(alphas: Any, archs: chex.Array, advantages: chex.Array) -> chex.Array:
        logs, _ = jax.vmap(drawer.log_prob, in_axes=(None, 0))(mixture.logits(alphas), archs)
        return (-logs * advantages).mean()

    @jax.jit
    def gradient(state: MixtureState, archs: chex.Array, rewards: chex.Array) -> tuple[chex.Array, Any]:
        mean = rewards.mean()
        baseline = moving_baseline(state.baseline, mean, state.num_updates, BASELINE_DECAY)
        return baseline, jax.grad(expected_loss)(state.alphas, archs, rewards - baseline)

    return gradient


def _encode(name: str, supernet: Supernet) -> Callable[[np.ndarray], np.ndarray]:
    if supernet.encode is None:
        what = "wirings" if supernet.is_decoded else "codes that don't exist"
        raise ValueError(
            f"{name}: in {supernet.space.name} no code stands for a mixture, which would have {what} in it; take a"
            " policy that proposes codes, such as enas."
        )
    return supernet.encode


def _within(region: Region, ask: Any, key: chex.PRNGKey, state: MixtureState, supernet: Supernet) -> np.ndarray:
    """Feasible codes to decide among."""
    if not supernet.is_decoded and region.count() <= MAX_MEMBERS:
        return region.members()
    archs = ask(key, state, NUM_DRAWS)
    if not len(archs):
        raise ValueError(
            f"{supernet.space.name}: of {NUM_DRAWS} codes drawn from the mixture none meets {region.limit}; loosen it,"
            " or take a policy that proposes codes, such as enas."
        )
    return archs


def masked(supernet: Supernet, values: chex.Array) -> chex.Array:
    """values [num_places, max(num_candidates)], -inf where a place has fewer candidates."""
    return jnp.where(exist(supernet.num_candidates), values, -jnp.inf)


def normal_alphas(supernet: Supernet, key: chex.PRNGKey) -> chex.Array:
    """0.001 times a normal draw: [num_places, max(num_candidates)]."""
    return 1e-3 * jax.random.normal(key, (len(supernet.num_candidates), max(supernet.num_candidates)))


def adam(learning_rate: float, weight_decay: float, *, b1: float = 0.9) -> optax.GradientTransformation:
    """Adam with the decay in the gradient, as PyTorch's `weight_decay` has it."""
    decay = optax.add_decayed_weights(weight_decay) if weight_decay else optax.identity()
    return optax.chain(decay, optax.adam(learning_rate, b1=b1))


def every_step(num_steps: int, steps_per_epoch: int) -> Timetable:
    """An update after each step of the weights."""
    return Timetable(0, 1)
