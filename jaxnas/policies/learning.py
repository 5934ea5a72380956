"""A policy that learns while the shared weights train: one step of both, which `training.fit` runs and resumes.

    search = make_search_training(supernet, policy, loss_fn, tx, timetable=..., valid_at=...)
    state = fit(search.step, search.init(key), batch_at, num_steps)
    arch = policy.decide(key, state.sampler_state.policy, score)

The state is a `TrainState`, whose `sampler_state` holds the policy's: one tree, which checkpoints keep whole.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

from jaxnas.evaluation import Strategy, cross_entropy, make_evaluator, merits
from jaxnas.policies.policy import Gradients, Policy, Rewards, Terms, Timetable
from jaxnas.samplers import Sampler, tile_of
from jaxnas.supernets import Params, Supernet
from jaxnas.training import (
    Batch,
    BatchAt,
    LossFn,
    Preprocess,
    Sharing,
    TrainState,
    TrainStep,
    descend,
    init_train_state,
    make_logits,
    make_train_step,
)

ALONE = Sharing()
POLICY = 2**30  # folded into a state's key: beyond its steps


class Searcher(NamedTuple):
    """The policy's part of a `TrainState`."""

    policy: Any  # its state
    population: Any  # what the last weight step trained on
    terms: dict[str, chex.Array]  # of the last update; zeros before the first


class SearchTraining(NamedTuple):
    """A super-net and a policy that train together.

    Attributes:
      init: key -> state.
      step: as `make_train_step` gives it; the policy's terms are among the metrics.
    """

    init: Callable[[chex.PRNGKey], TrainState]
    step: TrainStep


def make_search_training(
    supernet: Supernet,
    policy: Policy,
    loss_fn: LossFn,
    tx: optax.GradientTransformation,
    *,
    timetable: Timetable,
    valid_at: BatchAt,
    preprocess: Preprocess = lambda key, images: images,
    idle: Literal["move", "rest"] = "move",
    stats_momentum: float | None = None,
    strategy: Strategy = "serial",
    num_rows: int | None = None,
    sharing: Sharing = ALONE,
) -> SearchTraining:
    """Build the step: the weights on what the policy proposes, then the policy's updates that are due.

    Codes are judged by the accuracy, with the weights as they are, on a validation batch that all codes of an update
    share; a mixture by the gradient of its cross-entropy there. Of text nothing is remembered from one validation batch
    to the next, and codes are judged by one over the perplexity.

    Args:
      loss_fn: of the weight step; `add_losses` puts landmarks beside the cross-entropy.
      timetable: when to update, such as `policy.timetable(num_steps, steps_per_epoch)`.
      valid_at: number of the update -> {"valid": batch}, a pure function; of images that the weights don't train on.
      preprocess: (key, images) -> float images, for the policy's batches.
      idle, stats_momentum: see `make_train_step`; a mixture uses every candidate, and its statistics are no
        candidate's.
      strategy: how codes are scored, see `make_evaluator`; "serial" compiles once for few codes on one batch.
      num_rows: see `init_train_state`.
      sharing: the devices that share the steps of the weights and the policy's gradients and scores. A step in parts is
        one of the weights: only codes are judged without a gradient that would need the memory of the whole batch.

    Raises:
      ValueError: statistics to be tracked of a mixture, or a mixture in parts; and see `make_train_step`.
      FloatingPointError: from the step: a term of an update that is not finite; says which, and where.
    """
    if policy.relax is not None and stats_momentum is not None:
        raise ValueError(
            f"{policy.name} mixes candidates, whose statistics can't be tracked; leave stats_momentum None."
        )

    if policy.relax is not None and sharing.parts != 1:
        raise ValueError(
            f"{policy.name} judges mixtures by gradients of whole batches, parts is {sharing.parts}, expected 1."
        )

    def init(key: chex.PRNGKey) -> Searcher:
        state = policy.init(key)
        return Searcher(state, as_arrays(policy.propose(key, state)), {name: jnp.zeros(()) for name in policy.terms})

    population = jax.tree.leaves(policy.propose(jax.random.key(0), policy.init(jax.random.key(0))))[0]
    sampler = Sampler(
        init=init,
        sample=lambda key, searcher: searcher.population,
        update=lambda searcher, archs, losses: searcher,
        groups=tile_of(supernet.space, len(population)),
    )
    idle = "move" if policy.relax is not None else idle
    weight_step = make_train_step(
        supernet, loss_fn, sampler, tx, idle=idle, stats_momentum=stats_momentum, sharing=sharing
    )
    judge = make_judge_step(supernet, policy, tx, preprocess, strategy, sharing)

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, chex.Array]]:
        number, searcher = int(state.step), state.sampler_state
        propose_key, update_key = policy_keys(state.key, state.step)
        searcher = searcher._replace(population=as_arrays(policy.propose(propose_key, searcher.policy)))
        state, metrics = weight_step(state._replace(sampler_state=searcher), batch)
        done = timetable.done(number)
        for count in range(timetable.due(number + 1)):
            searcher = state.sampler_state
            ask_key, judge_key, own_key = jax.random.split(jax.random.fold_in(update_key, count), 3)
            feedback = judge(ask_key, judge_key, state, batch, valid_at(done + count), done + count)
            policy_state, terms = policy.update(own_key, searcher.policy, feedback)
            check_terms(policy.name, terms, f"update {done + count}, after {number + 1} steps of the weights")
            searcher = searcher._replace(
                policy=as_arrays(policy_state), terms={name: jnp.asarray(term) for name, term in terms.items()}
            )
            state = state._replace(sampler_state=searcher)
        terms = state.sampler_state.terms  # copied: the next step consumes the state before metrics are read
        return state, metrics | {name: term.copy() for name, term in terms.items()}

    return SearchTraining(lambda key: init_train_state(supernet, sampler, tx, key, num_rows=num_rows), step)


@jax.jit
def policy_keys(key: chex.PRNGKey, step: chex.Array) -> tuple[chex.PRNGKey, chex.PRNGKey]:
    """A state's keys of this step: to propose, and to update."""
    propose_key, update_key = jax.random.split(jax.random.fold_in(jax.random.fold_in(key, POLICY), step))
    return propose_key, update_key


def make_judge_step(
    supernet: Supernet,
    policy: Policy,
    tx: optax.GradientTransformation,
    preprocess: Preprocess,
    strategy: Strategy = "serial",
    sharing: Sharing = ALONE,
) -> Callable[[chex.PRNGKey, chex.PRNGKey, TrainState, Batch, Batch, int], Rewards | Gradients]:
    """(key to ask, key of images and noise, state, batch, validation batch, number of the update) -> feedback."""
    if policy.relax is None:
        prepare, evaluators = jax.jit(preprocess), {}

        def rewards(
            ask_key: chex.PRNGKey, key: chex.PRNGKey, state: TrainState, batch: Batch, valid: Batch, number: int
        ) -> Rewards:
            archs = policy.ask(ask_key, state.sampler_state.policy)
            images, labels = valid["valid"]["images"], valid["valid"]["labels"]
            if len(images) not in evaluators:
                evaluators[len(images)] = make_evaluator(
                    supernet, strategy=strategy, images_per_call=len(images), mesh=sharing.mesh
                )
            scores = evaluators[len(images)].evaluate(state.params, archs, prepare(key, images), labels)
            return Rewards(archs, merits(supernet.space, scores))

        return rewards

    relax, unrolled = policy.relax, policy.unrolled
    every, apply = policy.curvature_every, make_logits(supernet, sharing)

    def logits_of(params: Params, alphas: Any, policy_state: Any, key: chex.PRNGKey, images: chex.Array) -> chex.Array:
        mixture = relax(key, policy_state._replace(alphas=alphas))
        return apply(params, mixture, images)

    @jax.jit
    def gradients(key: chex.PRNGKey, state: TrainState, batch: Batch, valid: Batch) -> Gradients:
        policy_state = state.sampler_state.policy
        valid_key, train_key, draw_key = jax.random.split(key, 3)

        def loss_fn(params: Params, alphas: Any, images: chex.Array, labels: chex.Array) -> chex.Array:
            return cross_entropy(logits_of(params, alphas, policy_state, draw_key, images), labels).mean()

        images, labels = preprocess(valid_key, valid["valid"]["images"]), valid["valid"]["labels"]
        valid_loss = lambda params, alphas: loss_fn(params, alphas, images, labels)  # noqa: E731
        if not unrolled:
            loss, grads = jax.value_and_grad(valid_loss, argnums=1)(state.params, policy_state.alphas)
            return Gradients(grads, loss)
        train = preprocess(train_key, batch["train"]["images"]), batch["train"]["labels"]
        train_loss = lambda params, alphas: loss_fn(params, alphas, *train)  # noqa: E731
        return unrolled_gradients(train_loss, valid_loss, tx, state.opt_state, state.params, policy_state.alphas)

    @jax.jit
    def curvature(key: chex.PRNGKey, state: TrainState, valid: Batch) -> Any:
        policy_state = state.sampler_state.policy
        valid_key, _, draw_key = jax.random.split(key, 3)
        images = preprocess(valid_key, valid["valid"]["images"])
        return gauss_newton_diagonal(
            lambda alphas: logits_of(state.params, alphas, policy_state, draw_key, images), policy_state.alphas
        )

    def judge(
        ask_key: chex.PRNGKey, key: chex.PRNGKey, state: TrainState, batch: Batch, valid: Batch, number: int
    ) -> Gradients:
        feedback = gradients(key, state, batch, valid)
        if every and (number + 1) % every == 0:
            feedback = feedback._replace(curvature=curvature(key, state, valid))
        return feedback

    return judge


def unrolled_gradients(
    train_loss: Callable[[Any, Any], chex.Array],
    valid_loss: Callable[[Any, Any], chex.Array],
    tx: optax.GradientTransformation,
    opt_state: optax.OptState,
    params: Any,
    alphas: Any,
    *,
    distance: float = 0.01,
) -> Gradients:
    """The gradient, with respect to alphas, of the validation loss after one step of `tx` on the training loss (DARTS,
    arXiv 1806.09055, equations 7 and 8).

    The step depends on alphas by the gradient of the training loss, of whose derivative a finite difference is taken:
    `distance` away from params on either side. Momentum, decay and clipping are those of `tx`.
    """
    grads = jax.grad(train_loss)(params, alphas)

    after, pullback = jax.vjp(lambda grads: descend(tx, grads, opt_state, params)[0], grads)
    loss, (by_params, by_alphas) = jax.value_and_grad(valid_loss, argnums=(0, 1))(after, alphas)
    (direction,) = pullback(by_params)
    scale = distance / (optax.tree.norm(direction) + 1e-12)

    def at(side: float) -> Any:
        moved = jax.tree.map(lambda leaf, along: leaf + (side * scale * along).astype(leaf.dtype), params, direction)
        return jax.grad(train_loss, argnums=1)(moved, alphas)

    implicit = jax.tree.map(lambda up, down: (up - down) / (2 * scale), at(1.0), at(-1.0))
    return Gradients(jax.tree.map(jnp.add, by_alphas, implicit), loss)


def gauss_newton_diagonal(logits_fn: Callable[[Any], chex.Array], alphas: Any) -> Any:
    """The diagonal of the Gauss-Newton matrix of the mean cross-entropy: a tree like alphas.

    With u the derivative of an image's logits along one alpha and p its probabilities, that of this alpha is the mean
    over images of sum(p u^2) - sum(p u)^2. u is a product with the Jacobian, forward.
    """
    flat, restore = ravel_pytree(alphas)
    logits, push = jax.linearize(lambda flat: logits_fn(restore(flat)), flat)
    probabilities = jax.nn.softmax(logits, axis=-1)

    def of(index: chex.Array) -> chex.Array:
        along = push(jax.nn.one_hot(index, flat.size, dtype=flat.dtype))
        square, mean = (probabilities * along**2).sum(axis=-1), (probabilities * along).sum(axis=-1)
        return (square - mean**2).mean()

    return restore(jax.lax.map(of, jnp.arange(flat.size)))


def as_arrays(tree: Any) -> Any:
    return jax.tree.map(jnp.asarray, tree)


def check_terms(name: str, terms: Terms, where: str) -> None:
    """Raise a FloatingPointError that names the terms that aren't finite."""
    bad = ", ".join(f"{term} is {float(value)}" for term, value in terms.items() if not np.isfinite(value))
    if bad:
        raise FloatingPointError(
            f"{name} stopped: {bad} at {where}; lower the learning rate of the policy or of the weights."
        )
