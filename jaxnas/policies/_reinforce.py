"""REINFORCE on a table of logits, each choice independent (NATS-Bench, Dong et al., TPAMI 2021, arXiv 2009.00437)."""

import jax
import optax

from jaxnas.checks import number
from jaxnas.costs import Limit
from jaxnas.policies.controller import Learning, make_controller
from jaxnas.policies.drawing import TABLE
from jaxnas.policies.policy import Policy, Timetable
from jaxnas.supernets import Supernet


def reinforce(
    supernet: Supernet,
    limit: Limit | None = None,
    *,
    learning_rate: float = 0.01,
    num_asked: int = 1,
    baseline_decay: float = 0.9,
    num_final: int = 100,
    num_archs: int = 1,
) -> Policy:
    """Logits [num_choices, max(num_ops)], begun at 0.001 times a normal draw, follow the reward by Adam.

    The settings are those of the benchmark, which feeds the policy with its table, one code an update; with shared
    weights it is updated once a step. The benchmark's baseline begins at zero and corrects for it; here it begins at
    the first reward.

    Args:
      num_asked, baseline_decay, num_final: see `controller.Learning`.
      num_archs: architectures of a weight step.

    Raises:
      ValueError: a bad setting, or no architecture meets the limit.
    """
    number("reinforce: learning_rate", learning_rate, above=0)
    space = supernet.space
    shape = space.num_choices, max(space.num_ops)
    return make_controller(
        "reinforce",
        supernet,
        limit,
        TABLE,
        lambda key: 1e-3 * jax.random.normal(key, shape),
        optax.adam(learning_rate),
        Learning(num_asked, baseline_decay, entropy_weight=0.0, num_final=num_final),
        lambda num_steps, steps_per_epoch: Timetable(0, 1),
        num_archs=num_archs,
    )
