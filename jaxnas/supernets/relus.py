"""Which ReLUs of a sub-network are active on which images, told without a conditional's contents leaving it."""

from typing import Protocol

import chex
import jax.numpy as jnp

from jaxnas.ops import Tape
from jaxnas.supernets.choice import Groups
from jaxnas.supernets.dag import Gate
from jaxnas.supernets.layer import Layer, Params
from jaxnas.supernets.running import Running
from jaxnas.supernets.size import Mask, Shortcut
from jaxnas.supernets.supernet import Supernet, check_images


class ActivationKernel(Protocol):
    """(params, arch int [num_choices], images [num_images, height, width, channels]) -> float32 [num_images,
    num_images]; `jax.vmap` it over architectures, with `groups` as `jaxnas.supernets.choice.choose` takes them."""

    def __call__(
        self,
        params: Params,
        arch: chex.Array,
        images: chex.Array,
        *,
        groups: Groups | tuple[tuple[int, ...], ...] = 4,
    ) -> chex.Array: ...


def activation_kernel(supernet: Supernet) -> ActivationKernel:
    """Build the function that counts, for each pair of images, the ReLUs that are active on both or on neither.

    Images are normalised by each other. Counted are the ReLUs of all that the code names, each as often as it runs,
    that operations take by `Tape.relu`. Channels that a narrower width leaves out are active on no image. NaN where a
    logit is not finite, since nothing is active then.

    Raises:
      ValueError: a space on text, or layers that don't run their candidates, as with batch_norm="per_input".
    """
    space = supernet.space
    if space.is_text:
        raise ValueError(f"{space.name}: its networks read text and have no ReLUs to look at.")
    layers: dict[str, Layer] = {}
    for name, layer in supernet.layers.items():
        if type(layer) in NOTING:
            layers[name] = NOTING[type(layer)](*layer)
        elif type(layer) in (Gate, Mask):  # have none
            layers[name] = layer
        else:
            raise ValueError(f"{space.name}: the ReLUs of layer {name} can't be looked at; leave batch_norm 'shared'.")

    def kernel(
        params: Params, arch: chex.Array, images: chex.Array, *, groups: Groups | tuple[tuple[int, ...], ...] = 4
    ) -> chex.Array:
        check_images(space, images)
        used: dict[str, chex.Array] = {}
        running = Running(layers, supernet.view(params), supernet.decode(arch), None, None, groups, {}, used)
        logits = supernet.wire(running, images)
        total = sum(used[name] for name, layer in layers.items() if isinstance(layer, Noting))
        return jnp.where(jnp.isfinite(logits).all(), total, jnp.nan)

    return kernel


class Noting:
    """Layers whose branches return, in place of statistics, for each pair of images the number of equal ReLUs."""

    def told(self, tape: Tape, num_images: int) -> chex.Array:
        total = jnp.zeros((num_images, num_images))
        for x in tape.rectified:
            signs = jnp.where(x > 0, 1.0, -1.0).reshape(num_images, -1)  # equal ones less others: 2 equal - all
            total += (signs.shape[1] + signs @ signs.T) / 2
        return total


class NotingLayer(Noting, Layer):
    """A layer that does."""


class NotingShortcut(Noting, Shortcut):
    """Another."""


NOTING: dict[type[Layer], type[Layer]] = {Layer: NotingLayer, Shortcut: NotingShortcut}
