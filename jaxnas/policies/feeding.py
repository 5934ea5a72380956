"""A policy fed with a table instead of shared weights: what it would find if its feedback were true."""

from typing import Any, NamedTuple

import chex
import jax
import numpy as np

from jaxnas.checks import whole
from jaxnas.policies.learning import check_terms
from jaxnas.policies.policy import Policy, Rewards, ScoreFn


class Fed(NamedTuple):
    """What a fed policy came to.

    Attributes:
      archs: int32 [num_asked, num_choices], in the order asked; an architecture asked again is there again. Fewer than
        num_queries only of a policy that never asks again and has asked for all that there are, as nao does.
      rewards: float64 [num_asked].
      best: int32 [num_choices], the one with the highest reward; of equals the first.
      decided: int32 [num_choices], the policy's own decision, which knows no more than what was asked.
      state: of the policy.
    """

    archs: np.ndarray
    rewards: np.ndarray
    best: np.ndarray
    decided: np.ndarray
    state: Any


def feed(policy: Policy, judge: ScoreFn, num_queries: int, key: chex.PRNGKey) -> Fed:
    """Ask, judge and update until `num_queries` architectures were judged, repetitions counted, or there are no more.

    Every policy is fed with rewards of codes; a mixture has codes drawn from it and learns from them by REINFORCE, with
    its own parameters, optimiser and rule of decision. A last `ask` of more than are left is cut, and teaches nothing.

    Args:
      judge: archs -> rewards, such as `tables.Judge.choose_by`; accuracies as fractions.

    Raises:
      ValueError: num_queries below 1, or rewards that aren't finite.
      FloatingPointError: a term of an update that isn't finite; says which.
    """
    whole("num_queries", num_queries, 1)
    init_key, run_key, decide_key = jax.random.split(key, 3)
    state = policy.init(init_key)
    archs, rewards, number = list[np.ndarray](), list[np.ndarray](), 0
    left = num_queries
    while left:
        ask_key, update_key = jax.random.split(jax.random.fold_in(run_key, number))
        asked = np.asarray(policy.ask(ask_key, state))
        if not len(asked):
            break
        asked, is_whole = asked[:left], len(asked) <= left
        told = np.asarray(judge(asked), np.float64)
        if told.shape != (len(asked),) or not np.isfinite(told).all():
            raise ValueError(f"{policy.name}: rewards {told}, expected a finite one for each of {len(asked)} codes.")
        archs.append(asked)
        rewards.append(told)
        left -= len(asked)
        if is_whole:
            state, terms = policy.update(update_key, state, Rewards(asked, told))
            check_terms(policy.name, terms, f"update {number}, after {num_queries - left} queries")
        number += 1
    all_archs, all_rewards = np.concatenate(archs), np.concatenate(rewards)
    known = {code.tobytes(): float(reward) for code, reward in zip(all_archs, all_rewards, strict=True)}

    def recall(codes: np.ndarray) -> np.ndarray:
        return np.array([known.get(code.tobytes(), -np.inf) for code in np.asarray(codes, np.int32)])

    best = all_archs[int(np.argmax(all_rewards))]
    return Fed(all_archs, all_rewards, best, policy.decide(decide_key, state, recall), state)
