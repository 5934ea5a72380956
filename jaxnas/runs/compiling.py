"""What JAX compiles in a run: kept for the next one, and its seconds counted."""

import os
from collections.abc import Callable
from pathlib import Path

import jax


def keep_compilations() -> None:
    """Let later runs find what this one compiles: in the user's cache folder, or where JAX_COMPILATION_CACHE_DIR is."""
    if jax.config.jax_compilation_cache_dir is not None:  # type: ignore[attr-defined]
        return
    folder = compile_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return  # a home that cannot be written: compile each time
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


def compile_folder() -> Path:
    """Where compiled programs are kept: JAX's own setting, or else the user's cache folder."""
    known = jax.config.jax_compilation_cache_dir  # type: ignore[attr-defined]
    return Path(known or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "jaxnas" / "compiled")


def compile_clock() -> Callable[[], float]:
    """Start counting the seconds that JAX spends tracing and compiling; the returned function tells them."""
    total = 0.0

    def add(event: str, duration_secs: float, **_: str | int) -> None:
        nonlocal total
        if event.startswith("/jax/core/compile/"):
            total += duration_secs

    jax.monitoring.register_event_duration_secs_listener(add)
    return lambda: total
