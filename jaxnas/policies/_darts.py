"""DARTS: softmax weights of all candidates (Liu, Simonyan and Yang, ICLR 2019, arXiv 1806.09055)."""

import jax

from jaxnas.checks import number
from jaxnas.costs import Limit
from jaxnas.policies.mixture import Mixture, adam, every_step, make_mixture, masked, normal_alphas
from jaxnas.policies.policy import Policy
from jaxnas.supernets import Supernet


def darts(
    supernet: Supernet,
    limit: Limit | None = None,
    *,
    unrolled: bool = False,
    learning_rate: float = 3e-4,
    beta1: float = 0.5,
    weight_decay: float = 1e-3,
) -> Policy:
    """Mix the candidates of each place by the softmax of alphas, which follow the validation loss by Adam.

    The settings are those of the authors' code (cnn/train_search.py), which updates alphas before each step of the
    weights where this updates them after it.

    Args:
      unrolled: second order: the validation loss is that after one more step of the weights, to whose dependence on
        alphas the gradient reaches by a finite difference; False: first order.

    Raises:
      ValueError: a bad setting, a limit that nothing meets, or a space of which no code stands for a mixture.
    """
    number("darts: learning_rate", learning_rate, above=0)
    number("darts: beta1", beta1, 0, below=1)
    number("darts: weight_decay", weight_decay, 0)

    mixture = Mixture(
        init=lambda key: (normal_alphas(supernet, key), ()),
        weights=lambda key, alphas, num_updates: jax.nn.softmax(masked(supernet, alphas), axis=-1),
        logits=lambda alphas: masked(supernet, alphas),
    )
    tx = adam(learning_rate, weight_decay, b1=beta1)
    name = "darts_second_order" if unrolled else "darts"
    return make_mixture(name, supernet, limit, mixture, tx, every_step, unrolled=unrolled)
