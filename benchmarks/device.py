"""What the device itself does, whatever the library makes of it: the figures that all others are read beside.

Each function measures one thing and yields flat records; `benchmarks.gpu` runs them. Times are medians, taken from the
first call to the result of the last of so many calls, each of which needs what the one before gave.
"""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.steps import Sizes, make_problem, make_step
from jaxnas.ops.normalisation import moments

Records = Iterator[dict[str, Any]]
REPETITIONS = 5


def seconds_a_call(function: Callable[[Any], Any], x: Any, calls: int) -> float:
    """Of x = function(x), in the median of `REPETITIONS` runs of so many calls, after one that compiles."""
    x, times = jax.block_until_ready(function(x)), []
    for _ in range(REPETITIONS):
        start = time.perf_counter()
        for _ in range(calls):
            x = function(x)
        jax.block_until_ready(x)
        times.append((time.perf_counter() - start) / calls)
    return float(np.median(times))


def host_calls(calls: int = 2000) -> Records:
    """What a call of a compiled program costs that computes next to nothing: one thread, and two at the same time; with
    one array and with the forty of a network's node and its parameters."""
    one = jax.jit(lambda x: x + 1)
    many = jax.jit(lambda arrays: [arrays[0] + 1, *arrays[1:]])
    for num_arrays, function, x in ((1, one, jnp.zeros(8)), (40, many, [jnp.zeros(8)] * 40)):
        yield {
            "what": "host call",
            "num_arrays": num_arrays,
            "threads": 1,
            "us": 1e6 * seconds_a_call(function, x, calls),
        }
    with ThreadPoolExecutor(2) as pool:
        start = time.perf_counter()
        each = [pool.submit(seconds_a_call, one, jnp.zeros(8), calls) for _ in range(2)]
        for future in each:
            future.result()
        took = (time.perf_counter() - start) / (2 * REPETITIONS * calls)
    yield {"what": "host call", "num_arrays": 1, "threads": 2, "us": 1e6 * took}


def copies(num_bytes: int) -> Records:
    """What the memory moves where nothing is computed: read and written."""
    x = jnp.zeros(num_bytes // 4, jnp.float32)
    seconds = seconds_a_call(jax.jit(lambda x: x + 1), x, 10)
    yield {
        "what": "copy",
        "megabytes": 2 * num_bytes / 1e6,
        "ms": 1e3 * seconds,
        "gb_per_s": 2 * num_bytes / seconds / 1e9,
    }


def convolutions(num_images: int, channels: tuple[int, ...] = (16, 32, 64)) -> Records:
    """3x3 and 1x1 convolutions as the cells of NAS-Bench-201 have them, a stage each: pixels 32, 16, 8."""
    for dtype in ("bfloat16", "float32"):
        for width, pixels in zip(channels, (32, 16, 8)):
            for size in (3, 1):
                kernel = jax.random.normal(jax.random.key(0), (size, size, width, width), dtype) / (size * width**0.5)
                x = jax.random.normal(jax.random.key(1), (num_images, pixels, pixels, width), dtype)

                def convolve(x: jax.Array, kernel: jax.Array = kernel) -> jax.Array:
                    numbers = ("NHWC", "HWIO", "NHWC")
                    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=numbers)

                start = time.perf_counter()
                compiled = jax.jit(convolve).lower(x).compile()
                compile_s = time.perf_counter() - start
                seconds = seconds_a_call(compiled, x, 10)
                yield {
                    "what": f"convolution {size}x{size}",
                    "channels": width,
                    "pixels": pixels,
                    "num_images": num_images,
                    "dtype": dtype,
                    "ms": 1e3 * seconds,
                    "gb_per_s": 2 * x.nbytes / seconds / 1e9,
                    "tflop_per_s": 2 * x.size * width * size**2 / seconds / 1e12,
                    "compile_s": compile_s,
                }


def reductions(num_images: int) -> Records:
    """The moments of batch normalisation over 16 channels: what is read, over the time; the input moves a little each
    time, so that no call can be saved."""
    for dtype in ("bfloat16", "float32"):
        x = jax.random.normal(jax.random.key(0), (num_images, 32, 32, 16), dtype)

        @jax.jit
        def reduce(shift: jax.Array, x: jax.Array = x) -> jax.Array:
            return moments(x.astype(jnp.float32) + shift, None)[0, 0]

        seconds = seconds_a_call(reduce, jnp.zeros(()), 10)
        yield {
            "what": "moments of 16 channels",
            "num_images": num_images,
            "dtype": dtype,
            "ms": 1e3 * seconds,
            "gb_per_s": x.nbytes / seconds / 1e9,
        }


def autotuning(sizes: Sizes) -> Records:
    """What compiling a training step of one drawn path takes, as it is and without trying algorithms; nothing of it
    comes from the cache of compiled programs or goes there."""
    supernet, (code, *_), batch = make_problem(sizes, "nasbench201")
    repeat, _ = make_step(supernet, "fixed", code, batch)
    for level in (None, "0"):
        options = {} if level is None or jax.default_backend() != "gpu" else {"xla_gpu_autotune_level": level}
        jax.config.update("jax_enable_compilation_cache", False)
        start = time.perf_counter()
        repeat.step.lower(repeat.state).compile(compiler_options=options or None)  # type: ignore[attr-defined]
        compile_s = time.perf_counter() - start
        jax.config.update("jax_enable_compilation_cache", True)
        yield {"what": "compile a step", "autotuning": level is None, "compile_s": compile_s}
