"""A cache of compiled programs that is damaged, or cannot be written, costs time and nothing else."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow("a process scores with a damaged cache of compiled programs")
@pytest.mark.filterwarnings("default")
def test_a_damaged_cache_changes_nothing(tmp_path):
    (tmp_path / "cache").mkdir()
    env = os.environ | {
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "cache"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "PYTHONPATH": str(Path(__file__).parents[1]),
    }
    done = subprocess.run([sys.executable, __file__, str(tmp_path)], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    whole, *damaged = done.stdout.splitlines()
    assert damaged == [whole.replace("whole", state) for state in ("truncated", "garbage", "not a folder")]
    assert "Error reading persistent compilation cache entry" in done.stderr


def main(folder: Path) -> None:
    import jax
    import numpy as np
    from jax.experimental.compilation_cache import compilation_cache

    from jaxnas import codes
    from jaxnas.evaluation import make_evaluator
    from jaxnas.spaces import get_space
    from jaxnas.supernets import make_supernet

    space = get_space("nasbench201").resized(width=2, image_size=4, cells_per_stage=1)
    supernet = make_supernet(space)
    rng = np.random.default_rng(0)
    images, archs = rng.normal(size=(4, 4, 4, 3)).astype(np.float32), codes.enumerate_archs(space)[[7, 8000]]
    params = supernet.init(jax.random.key(0))
    for state in ("whole", "truncated", "garbage", "not a folder"):
        programs = list((folder / "cache").glob("*-cache"))
        assert (len(programs) > 5) == (state != "whole")
        for program in programs:
            content = program.read_bytes()
            program.write_bytes({"truncated": content[: len(content) // 2]}.get(state, b"garbage"))
        if state == "not a folder":
            (folder / "file").touch()
            jax.config.update("jax_compilation_cache_dir", str(folder / "file" / "cache"))
        compilation_cache.reset_cache()
        jax.clear_caches()
        print(state, make_evaluator(supernet).evaluate(params, archs, images, np.arange(4)).loss.tolist())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
