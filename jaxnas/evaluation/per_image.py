"""What a network's logits say of each image, or of each word of a text: loss and correctness."""

import chex
import jax
import jax.numpy as jnp

from jaxnas import checks


def cross_entropy(logits: chex.Array, labels: chex.Array, *, label_smoothing: float = 0.0) -> chex.Array:
    """Cross-entropy of each image in nats.

    Args:
      logits: float [..., num_images, num_classes]; of text [..., num_rows, length, num_classes].
      labels: int [num_images], in [0, num_classes); of text [num_rows, length].
      label_smoothing: share of the target spread evenly over all classes, in [0, 1).

    Returns:
      float [..., num_images]; of text [..., num_rows, length].

    Raises:
      ValueError: labels that are no integers, one for each image, or where they are no tracers outside their range.

    >>> cross_entropy(jnp.zeros((2, 4)), jnp.array([0, 3])).tolist()  # log 4
    [1.386294..., 1.386294...]
    """
    _check_labels(logits, labels)
    log_probs = jax.nn.log_softmax(logits)
    hit = jax.nn.one_hot(labels, logits.shape[-1], dtype=log_probs.dtype)
    target = hit * (1.0 - label_smoothing) + label_smoothing / logits.shape[-1]
    target = jnp.expand_dims(target, tuple(range(logits.ndim - target.ndim)))  # the same for all architectures
    return -jnp.sum(target * log_probs, axis=-1)


def is_correct(logits: chex.Array, labels: chex.Array) -> chex.Array:
    """Whether the largest logit is the label's: bool [..., num_images]; of text [..., num_rows, length]."""
    _check_labels(logits, labels)
    return jnp.argmax(logits, axis=-1) == jnp.expand_dims(labels, tuple(range(logits.ndim - 1 - jnp.ndim(labels))))


def _check_labels(logits: chex.Array, labels: chex.Array) -> None:
    """Float labels would give losses and accuracies of 0, and so would classes that the network does not have."""
    expected = logits.shape[-3:-1] if jnp.ndim(labels) == 2 else logits.shape[-2:-1]
    if isinstance(labels, jax.core.Tracer):  # has no values to look at
        if labels.shape != expected or not jnp.issubdtype(labels.dtype, jnp.integer):
            raise ValueError(f"labels are {labels.dtype} {labels.shape}, expected integers {expected}.")
    else:
        checks.array("labels", labels, expected, "integer", least=0, most=logits.shape[-1] - 1)
