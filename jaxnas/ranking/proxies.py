"""Zero-cost proxies: what one batch says of architectures that have not been trained.

    proxies = make_proxies(supernet, images, labels)
    scores = proxies(params, archs)["naswot"]  # float64 [num_archs], higher is better; params fresh or trained
    scores = proxies(jax.random.key(0), archs)  # each with fresh weights of its own, as it would begin alone

Many architectures are one compiled call each: one after the other inside it on CPU, where that computes no more than
needed, side by side on accelerators. Over kernels w of convolutions and classifier, g the gradient of the mean
cross-entropy of the batch:

    grad_norm  sum over kernels of the Euclidean norm of g (Abdelfattah et al., "Zero-Cost Proxies for Lightweight NAS",
               ICLR 2021, arXiv 2101.08134, section 3.2; summed by layer as in their code)
    snip       sum of |w g| (Lee et al., "SNIP", ICLR 2019, arXiv 1810.02340; summed as by Abdelfattah et al.)
    synflow    sum of w dR/dw with |w| for w, R being the sum of the logits of one image of ones (Tanaka et al.,
               "Pruning neural networks without any data by iteratively conserving synaptic flow", NeurIPS 2020, arXiv
               2006.05467; summed as by Abdelfattah et al.)
    jacob_cov  -sum over eigenvalues v of log(v + k) + 1 / (v + k), k = 1e-5, of the correlations between images of the
               gradients of the sum of all logits (Mellor et al., arXiv 2006.04647, first version; so in both codes)
    naswot     log |det K|, K[i, j] the ReLUs that are active on both images i and j or on neither (Mellor et al.,
               "Neural Architecture Search without Training", ICML 2021, arXiv 2006.04647, section 3)

Batch normalisation: by the batch itself for all but synflow, so that gradients flow through mean and variance, and each
image moves what the others give (jacob_cov holds what all logits owe to an image). For synflow it is taken out: scales
remain as |scale|, which is 1 in fresh weights, shifts and biases are zero. What synflow returns is the logarithm.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import chex
import jax
import jax.numpy as jnp
import numpy as np

from jaxnas import checks, codes
from jaxnas.evaluation import cross_entropy
from jaxnas.evaluation.planning import SHARE, Target, target_of
from jaxnas.ops.normalisation import EPSILON
from jaxnas.supernets import Params, Supernet, activation_kernel, check_images

SMALL = 2.0**-120  # an input from which synflow's sums of up to 1e74 stay within float32
JITTER = 1e-5  # of jacob_cov
FEWEST_ARCHS, MOST_ARCHS = 16, 64  # of a call, which is filled up: one size, one program
LAST = -1e30  # where there is no finite figure


class Batch(NamedTuple):
    """What a proxy looks at."""

    images: chex.Array  # float [num_images, height, width, channels], standardised
    labels: chex.Array | None  # int [num_images]


class Proxies(Protocol):
    """(weights, archs int [num_archs, num_choices]) -> name -> scores, float64 [num_archs], higher is better.

    Weights are the super-net's, fresh or trained; or a key, from which each architecture gets fresh ones of its own. An
    architecture whose figure is not finite, such as one through which nothing gets to the output, comes last.
    """

    def __call__(self, weights: Params | chex.PRNGKey, archs: Any) -> dict[str, np.ndarray]: ...


OnDevice = Callable[[Supernet, Params, chex.Array, Batch], chex.Array]  # of one architecture


class Measure(NamedTuple):
    """A formula in two parts."""

    on_device: OnDevice
    on_host: Callable[[np.ndarray], np.ndarray]  # of many, float64 [num_archs, ...] -> [num_archs]
    needs_labels: bool = False
    passes: int = 3  # of each image, a backward one counted twice


def make_proxies(
    supernet: Supernet,
    images: chex.Array,
    labels: chex.Array | None = None,
    *,
    names: Sequence[str] | None = None,
    archs_at_once: int | None = None,
    memory_budget: int | None = None,
) -> Proxies:
    """Build proxies on one batch; snip and grad_norm share a gradient.

    Args:
      images: float [num_images, height, width, channels], standardised; two at least.
      labels: int [num_images]; snip and grad_norm need them.
      names: of `PROXIES`; None: all.
      archs_at_once: architectures side by side, each choice running all its candidates for them. None: 1 on CPU, on
        accelerators as many as the budget takes.
      memory_budget: bytes, by estimate. None: 1 GiB on CPU, elsewhere 3/4 of the device.

    Raises:
      ValueError: another name, a space on text, images that the space doesn't take, labels missing, counts below 1;
        from a proxy for codes not of the space, and where no architecture has a finite figure.
    """
    space = supernet.space
    if space.is_text:
        raise ValueError(f"{space.name}: proxies are for networks on images, these read text.")
    names = tuple(PROXIES if names is None else names)
    for name in names:
        checks.choice("names", name, PROXIES)
        if PROXIES[name].needs_labels and labels is None:
            raise ValueError(f"{name} needs the labels of the images.")
    check_images(space, images)
    num_images = checks.whole("the number of images", len(images), 2)
    if labels is not None:
        labels = jnp.asarray(checks.array("labels", labels, (num_images,), "integer", least=0))
    target = target_of(None)
    budget = 2**30 if target.platform == "cpu" or not target.memory else int(SHARE * target.memory)
    budget = checks.whole("memory_budget", budget if memory_budget is None else memory_budget, 1)
    at_once = _at_once(supernet, num_images, budget, target) if archs_at_once is None else archs_at_once
    checks.whole("archs_at_once", at_once, 1)
    batch = Batch(jnp.asarray(images), labels)
    programs = dict.fromkeys(PROXIES[name].on_device for name in names)

    @functools.partial(jax.jit, static_argnames="on_device")
    def run(weights: Params | chex.PRNGKey, archs: chex.Array, batch: Batch, *, on_device: OnDevice) -> chex.Array:
        def one(arch: chex.Array) -> chex.Array:
            return on_device(supernet, weights_of(supernet, weights, arch), arch, batch)

        return jax.lax.map(one, archs, batch_size=None if at_once == 1 else at_once)

    def score(weights: Params | chex.PRNGKey, archs: Any) -> dict[str, np.ndarray]:
        archs, size = codes.check(space, archs), max(at_once, FEWEST_ARCHS)
        parts: dict[str, list[np.ndarray]] = {name: [] for name in names}
        for start in range(0, len(archs), size):
            part = archs[start : start + size]
            padded = jnp.asarray(np.concatenate([part, np.repeat(part[-1:], size - len(part), axis=0)]))
            found = {on_device: run(weights, padded, batch, on_device=on_device) for on_device in programs}
            for name in names:
                of_part = np.asarray(found[PROXIES[name].on_device], np.float64)[: len(part)]
                parts[name].append(PROXIES[name].on_host(of_part))
        return {name: finite(name, np.concatenate(of_name)) for name, of_name in parts.items()}

    def finite(name: str, scores: np.ndarray) -> np.ndarray:
        there = np.isfinite(scores)
        if not there.any():
            raise ValueError(f"{space.name}: {name} is finite for none of {len(scores)} networks; look at the weights.")
        return np.where(there, scores, LAST)

    return score


def weights_of(supernet: Supernet, weights: Params | chex.PRNGKey, arch: chex.Array) -> Params:
    """The super-net's parameters; or of a key those that the architecture alone begins with, whatever stands beside."""
    if not (isinstance(weights, jax.Array) and jnp.issubdtype(weights.dtype, jax.dtypes.prng_key)):
        return weights
    key, _ = jax.lax.scan(lambda key, op: (jax.random.fold_in(key, op), None), weights, arch)
    params = supernet.init(key)
    return params if supernet.alone is None else supernet.alone(params, arch)


def _at_once(supernet: Supernet, num_images: int, budget: int, target: Target) -> int:
    """Side by side all candidates run, and a gradient keeps what each of them takes and gives."""
    if target.platform == "cpu":
        return 1
    kept = 0
    for layer in supernet.layers.values():
        inside = 2 * layer.stats_size * layer.in_shape[0] * layer.in_shape[1]
        kept += len(layer.candidates) * (int(np.prod(layer.in_shape)) + int(np.prod(layer.out_shape)) + inside)
    return int(np.clip(budget // (4 * num_images * kept), 1, MOST_ARCHS))


def _kernels(tree: Any, of_kernel: Callable[..., chex.Array], *others: Any) -> list[chex.Array]:
    """What a function makes of each leaf called `kernel` of trees of one structure."""
    leaves = zip(jax.tree_util.tree_leaves_with_path(tree), *map(jax.tree.leaves, others), strict=True)
    return [of_kernel(leaf, *rest) for (path, leaf), *rest in leaves if path[-1].key == "kernel"]


def _gradients(supernet: Supernet, params: Params, arch: chex.Array, batch: Batch) -> chex.Array:
    """snip and grad_norm, [2]."""

    def loss_fn(params: Params) -> chex.Array:
        logits, _ = supernet.apply(params, arch, batch.images, groups=None)
        return cross_entropy(logits, batch.labels).mean()

    gradient = jax.grad(loss_fn)(params)
    snip = _kernels(params, lambda w, g: jnp.abs(w * g).sum(), gradient)
    norms = _kernels(gradient, lambda g: jnp.sqrt((g**2).sum()))
    return jnp.stack([jnp.stack(snip).sum(), jnp.stack(norms).sum()])


def _synflow(supernet: Supernet, params: Params, arch: chex.Array, batch: Batch) -> chex.Array:
    """The logarithm. All terms being positive, their sum is the derivative of R by a factor common to all kernels,
    which forward mode has without the huge cotangents of a backward pass; R is proportional to the input."""

    def without_shifts(path: Any, leaf: chex.Array) -> chex.Array:
        return jnp.zeros_like(leaf) if path[-1].key == "bias" else jnp.abs(leaf)

    def kernels_alone(path: Any, leaf: chex.Array) -> chex.Array:
        return leaf if path[-1].key == "kernel" else jnp.zeros_like(leaf)

    positive = jax.tree_util.tree_map_with_path(without_shifts, params)
    towards = jax.tree_util.tree_map_with_path(kernels_alone, positive)
    stats = {
        name: jnp.array([[0.0] * layer.stats_size, [1.0 - EPSILON] * layer.stats_size], layer.stats_dtype)
        for name, layer in supernet.layers.items()
    }

    def total(params: Params, ones: chex.Array) -> chex.Array:
        return supernet.apply(params, arch, ones, stats=stats, groups=None)[0].sum()

    def flow(size: chex.Array) -> chex.Array:
        ones = size * jnp.ones_like(batch.images[:1])
        return jnp.log(jax.jvp(lambda params: total(params, ones), (positive,), (towards,))[1]) - jnp.log(size)

    large, small = jax.lax.map(flow, jnp.array([1.0, SMALL]))
    return jnp.where(jnp.isfinite(large), large, small)


def _jacobian(supernet: Supernet, params: Params, arch: chex.Array, batch: Batch) -> chex.Array:
    """[num_images, height * width * channels]"""

    def total(images: chex.Array) -> chex.Array:
        return supernet.apply(params, arch, images, groups=None)[0].sum()

    return jax.grad(total)(batch.images).reshape(len(batch.images), -1)


def _spread(jacobians: np.ndarray) -> np.ndarray:
    """Of [num_archs, num_images, any]."""
    centred = jacobians - jacobians.mean(axis=2, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        unit = centred / np.linalg.norm(centred, axis=2, keepdims=True)
    scores = np.full(len(unit), -np.inf)
    there = np.isfinite(unit).all(axis=(1, 2))
    values = np.linalg.eigvalsh(unit[there] @ unit[there].swapaxes(1, 2))
    scores[there] = -(np.log(values + JITTER) + 1 / (values + JITTER)).sum(axis=1)
    return scores


def _activations(supernet: Supernet, params: Params, arch: chex.Array, batch: Batch) -> chex.Array:
    return activation_kernel(supernet)(params, arch, batch.images, groups=None)


def _log_det(kernels: np.ndarray) -> np.ndarray:
    """Of [num_archs, num_images, num_images]; minus infinity of a singular one."""
    with np.errstate(invalid="ignore"):
        return np.linalg.slogdet(kernels)[1]


def _itself(found: np.ndarray) -> np.ndarray:
    return found


PROXIES = {
    "synflow": Measure(_synflow, _itself, passes=0),  # two of one image of ones
    "jacob_cov": Measure(_jacobian, _spread),
    "snip": Measure(_gradients, lambda found: found[:, 0], needs_labels=True),
    "grad_norm": Measure(_gradients, lambda found: found[:, 1], needs_labels=True),
    "naswot": Measure(_activations, _log_det, passes=1),
}
