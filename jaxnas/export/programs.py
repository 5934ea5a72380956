"""A network with its weights as a program that needs no jaxnas: StableHLO for JAX, XLA and TensorFlow, ONNX for others.

    exported = jax.export.deserialize(bytearray(path.read_bytes()))   # StableHLO; no Flax and no jaxnas is needed
    logits = exported.call(images)

    session = onnxruntime.InferenceSession(path)                      # ONNX
    (logits,) = session.run(None, {"images": images})

Both take any number of images.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import numpy as np

from jaxnas.checks import array
from jaxnas.export.network import Exported, flax_module
from jaxnas.ops.platform import portable
from jaxnas.supernets import Supernet
from jaxnas.training import standardise

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
INSTALL = "pip install 'jaxnas[onnx]', in an environment of its own, for it asks for an older Orbax"


class Pixels(NamedTuple):
    """How pixels are made network inputs: mean and standard deviation, float [channels], in units where 255 is 1."""

    mean: chex.ArrayNumpy
    std: chex.ArrayNumpy


def to_stablehlo(supernet: Supernet, exported: Exported, *, pixels: Pixels | None = None) -> bytes:
    """The network for any number of images, as `jax.export` serialises it, for CPUs, GPUs and TPUs.

    Args:
      pixels: the program takes uint8 images and standardises them so; None: it takes float32 images as the module does.

    Raises:
      ValueError: moments of other shapes than the network's channels.
    """
    function, shape, dtype = _program(supernet, exported, pixels)
    (num_images,) = jax.export.symbolic_shape("num_images")
    images = jax.ShapeDtypeStruct((num_images, *shape), dtype)
    return bytes(jax.export.export(jax.jit(function), platforms=PLATFORMS)(images).serialize())


def to_onnx(supernet: Supernet, exported: Exported, *, pixels: Pixels | None = None) -> bytes:
    """The network for any number of images as an ONNX model, input "images", output "logits"; `pixels` as for
    `to_stablehlo`.

    Raises:
      ValueError: jax2onnx isn't installed, or it cannot convert the network; as `to_stablehlo`.
    """
    jax2onnx = need_jax2onnx()
    function, shape, dtype = _program(supernet, exported, pixels)
    given: dict[str, Any] = {"input_names": ["images"], "output_names": ["logits"]}
    images = jax.ShapeDtypeStruct((jax.export.symbolic_shape("num_images")[0], *shape), dtype)
    name = supernet.space.name
    try:
        with portable():
            return bytes(jax2onnx.to_onnx(function, [images], model_name=name, **given).SerializeToString())
    except NotImplementedError as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"jax2onnx cannot convert this network of {name}: {reason}") from error


def need_jax2onnx() -> Any:
    """The module jax2onnx, or a ValueError that says how to get it."""
    try:
        import jax2onnx  # slow to import, and an extra
    except ImportError as error:
        raise ValueError(f"ONNX is written by jax2onnx, which isn't there ({error}); {INSTALL}") from None
    return jax2onnx


def _program(
    supernet: Supernet, exported: Exported, pixels: Pixels | None
) -> tuple[Callable[[Any], Any], tuple[int, int, int], Any]:
    """(images -> logits, shape of an image, its dtype)."""
    module, variables = flax_module(supernet, exported)
    layout = supernet.space.layout
    shape = (layout.image_size, layout.image_size, layout.in_channels)
    if pixels is None:
        return lambda images: module.apply(variables, images), shape, np.float32
    moments = [array(name, value, shape[2:]).astype(np.float32) for name, value in pixels._asdict().items()]
    return lambda images: module.apply(variables, standardise(images, *moments)), shape, np.uint8
