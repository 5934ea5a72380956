"""The devices at hand, and what is said of one that is not there or fails."""

import os

import jax


def devices() -> list[jax.Device]:
    """JAX's devices.

    Raises:
      ValueError: there is none, as where JAX_PLATFORMS names a kind that this JAX has no plug-in for.
    """
    try:
        return jax.devices()
    except (RuntimeError, AssertionError) as error:  # the latter of a plug-in that isn't installed
        chosen = os.environ.get("JAX_PLATFORMS")
        why = " ".join(str(error).split())[:300] or "no plug-in for it is installed, or it finds no device"
        raise ValueError(
            f"JAX has no device, JAX_PLATFORMS being {chosen!r}: {why}; install the plug-in (pip install -U"
            " 'jax[cuda12]' for NVIDIA's cards), or unset JAX_PLATFORMS."
        ) from error


def failure(error: jax.errors.JaxRuntimeError) -> str:
    """A device's failure in one line, and what to do."""
    said = " ".join(str(error).split())[:300]
    if "RESOURCE_EXHAUSTED" in said:
        return (
            f"the device ran out of memory, or another process holds it ({said}); a smaller batch_size or memory_budget"
            " takes less, or batch_parts and rematerialise where a super-net trains."
        )
    return f"the device failed ({said}); where it works again, the same command goes on from the last checkpoint."
