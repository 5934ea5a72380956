"""The gradient of a training step: on one device or a mesh of them, at once or in parts of the batch."""

import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import chex
import jax
import jax.numpy as jnp

from jaxnas.checks import choice, whole
from jaxnas.evaluation.meshes import check_axes
from jaxnas.ops.collectives import (
    ARCHS,
    DATA,
    DATA_ALONE,
    mean_over_all,
    mean_over_data,
    pooled,
    sum_over_all,
    sum_over_archs,
)
from jaxnas.ops.derivative import vary_alike
from jaxnas.samplers import Sampler, tile_of
from jaxnas.supernets import Params, Supernet
from jaxnas.supernets.choice import Groups
from jaxnas.supernets.running import LAYER
from jaxnas.training.losses import MEMORY, Aux, Batch, LossFn, check_outcome

P = jax.sharding.PartitionSpec
KEPT = jax.checkpoint_policies.save_only_these_names(LAYER)  # of a rematerialised step: what each layer puts out
# (params, archs, batch, key, step) -> ((loss, what it reports), gradients)
Gradient = Callable[[Params, Any, Batch, chex.PRNGKey, chex.Array], tuple[tuple[chex.Array, Aux], Params]]


class Sharing(NamedTuple):
    """Who computes a training step, and how much of it at once.

    Attributes:
      mesh: devices with axes ("archs", "data"): each row of them takes architectures of its own, each column images of
        its own. Gradients are those of the whole population on the whole batch. None: the default device.
      statistics: whose images batch normalisation takes its moments of: "global", all of the batch, as one device
        would; or "local", each device those of its own, which talks less and is another training.
      parts: of the batch, one after the other, whose gradients are averaged: less memory, and batch statistics of a
        part at a time.
      rematerialise: keep what layers return, and compute what lies between once more for the gradient.
    """

    mesh: jax.sharding.Mesh | None = None
    statistics: Literal["global", "local"] = "global"
    parts: int = 1
    rematerialise: bool = False


ALONE = Sharing()


def make_gradient(supernet: Supernet, loss_fn: LossFn, sampler: Sampler, sharing: Sharing) -> Gradient:
    """Build the gradient of a step, unjitted; a ValueError for settings that don't fit, from it for a loss that reports
    too little."""
    choice("statistics", sharing.statistics, ("global", "local"))
    parts = whole("parts", sharing.parts, 1)
    groups = sampler.groups

    def reported(
        params: Params, archs: Any, batch: Batch, key: chex.PRNGKey, step: chex.Array, groups: Groups
    ) -> tuple[chex.Array, Aux]:
        loss, aux = check_outcome("loss_fn", loss_fn(params, archs, batch, key, step, groups))
        shape = None if aux.arch_loss is None else jnp.shape(aux.arch_loss)
        population = jax.tree.leaves(archs)[0].shape[:1]
        if shape != population:
            came = "nothing" if shape is None else f"arch_loss of shape {shape}"
            raise ValueError(
                f"loss_fn reports {came} of the population, expected Aux(arch_loss=...) of shape"
                f" {population}; take the loss of each architecture, or add one that has it, with add_losses."
            )
        return mean_over_data(sum_over_archs(loss)), aux

    if sharing.rematerialise:
        reported = jax.checkpoint(reported, policy=KEPT, static_argnums=5)

    def of_batch(
        params: Params, archs: Any, batch: Batch, key: chex.PRNGKey, step: chex.Array, groups: Groups = groups
    ) -> tuple[tuple[chex.Array, Aux], Params]:
        differentiate = jax.value_and_grad(reported, has_aux=True)
        if parts == 1:
            return differentiate(params, archs, batch, key, step, groups)

        def of_part(number: chex.Array, part: Batch) -> Any:
            return differentiate(params, archs, part, jax.random.fold_in(key, number), step, groups)

        if supernet.recurrence is not None:
            raise ValueError(f"{supernet.space.name}: a batch of text is not taken in parts; leave parts at 1.")
        cut = jax.tree.map(lambda leaf: leaf.reshape(parts, len(leaf) // parts, *leaf.shape[1:]), batch)
        each = jax.lax.map(lambda xs: of_part(*xs), (jnp.arange(parts), cut))
        return jax.tree.map(lambda leaf: leaf.mean(axis=0), each)

    if sharing.mesh is not None:
        return _over_mesh(supernet, sampler, sharing.mesh, sharing, of_batch)

    def gradient(params: Params, archs: Any, batch: Batch, key: chex.PRNGKey, step: chex.Array) -> Any:
        check_divides(batch, parts, 1)
        return of_batch(params, archs, batch, key, step)

    return gradient


def _over_mesh(
    supernet: Supernet, sampler: Sampler, mesh: jax.sharding.Mesh, sharing: Sharing, of_batch: Callable[..., Any]
) -> Gradient:
    check_axes(mesh)
    rows, columns = mesh.devices.shape
    inside, data = _axes_inside(mesh, sharing)

    def of_device(
        groups: Groups, params: Params, archs: Any, batch: Batch, key: chex.PRNGKey, step: chex.Array
    ) -> tuple[tuple[chex.Array, Aux], Params]:
        # From here on each device has parameters of its own, whose gradients are summed last: a sum over all devices
        # within a branch that only some of them take would wait for the others for ever.
        params, archs, batch = vary_alike((params, archs, batch))
        (loss, aux), grads = of_batch(params, archs, batch, key, step, groups)
        means = {"arch_loss": aux.arch_loss, "arch_accuracy": aux.arch_accuracy}
        aux = aux._replace(
            **jax.tree.map(mean_over_data, means),
            stats=jax.tree.map(lambda each: pooled(each, data), aux.stats),
            terms=jax.tree.map(mean_over_all, aux.terms),
        )
        return (mean_over_all(loss), aux), jax.tree.map(sum_over_all, grads)

    def gradient(params: Params, archs: Any, batch: Batch, key: chex.PRNGKey, step: chex.Array) -> Any:
        check_divides(batch, sharing.parts, columns)
        population = len(jax.tree.leaves(archs)[0])
        if population % rows:
            raise ValueError(
                f"a mesh of archs={rows} does not divide the {population} architectures of a step; choose a divisor of"
                f" {population}, or another num_archs."
            )
        groups = sampler.groups if rows == 1 else tile_of(supernet.space, population // rows)
        rows_of_text = P(ARCHS, data)  # [num_archs, num_rows, ...]
        of_split = {
            split: rows_of_text
            if split == MEMORY
            else {name: P(data) if jnp.ndim(leaf) else P() for name, leaf in part.items()}
            for split, part in batch.items()
        }
        out = Aux._make([P(ARCHS), P(ARCHS), P(ARCHS), P(), rows_of_text])
        sharded = jax.shard_map(
            functools.partial(of_device, groups),
            mesh=inside,
            in_specs=(P(), P(ARCHS), of_split, P(), P()),
            out_specs=((P(), out), P()),
        )
        (loss, aux), grads = sharded(params, archs, batch, key, step)
        everywhere = jax.sharding.NamedSharding(
            mesh, P()
        )  # as the state came, so that the next step is the same program
        return (loss, aux._replace(memory=jax.lax.with_sharding_constraint(aux.memory, everywhere))), grads

    return gradient


def make_logits(supernet: Supernet, sharing: Sharing) -> Callable[[Params, Any, chex.Array], chex.Array]:
    """Build the forward pass of one architecture by its batch's statistics, shared as a training step is; unjitted.

    Args:
      sharing: every device of its mesh computes the images of its column, whichever its row; `parts` has no part in it.

    Returns:
      logits(params, arch, images): float [num_images, num_classes], of text [num_rows, num_words, num_classes], for a
      code or a mixture. It may be differentiated, with respect to either. A ValueError for images that the columns do
      not divide.
    """

    def logits_of(params: Params, arch: Any, images: chex.Array) -> chex.Array:
        return supernet.apply(params, arch, images, groups=None)[0]

    if sharing.rematerialise:
        logits_of = jax.checkpoint(logits_of, policy=KEPT)
    if sharing.mesh is None:
        return logits_of
    check_axes(sharing.mesh)
    inside, data = _axes_inside(sharing.mesh, sharing)
    shared = jax.shard_map(
        lambda *args: logits_of(*vary_alike(args)), mesh=inside, in_specs=(P(), P(), P(data)), out_specs=P(data)
    )

    def logits(params: Params, arch: Any, images: chex.Array) -> chex.Array:
        check_divides({"given": {"images": images}}, 1, inside.devices.shape[1])
        return shared(params, arch, images)

    return logits


def _axes_inside(mesh: jax.sharding.Mesh, sharing: Sharing) -> tuple[jax.sharding.Mesh, str]:
    """The mesh as `ops.collectives` knows it, and the axis of its columns."""
    data = DATA if sharing.statistics == "global" else DATA_ALONE
    return jax.sharding.Mesh(mesh.devices, (ARCHS, data)), data


def check_divides(batch: Batch, parts: int, columns: int) -> None:
    """A ValueError where so many columns of devices cannot share the images of a batch, each cut into so many parts."""
    for split, part in batch.items():
        if split != MEMORY and (number := len(part["images"])) % (parts * columns):
            shared = f"a mesh of data={columns}" if parts == 1 else f"data={columns} and {parts} parts"
            raise ValueError(
                f"{shared} does not divide the {number} {split} images of a step; choose a batch size that"
                f" {parts * columns} divides."
            )
