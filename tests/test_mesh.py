"""The same scores on one device and on meshes of simulated ones, in a process that has eight."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


def with_eight_devices(script: str) -> list[str]:
    """What a script prints in a process with eight simulated devices, which has to end well."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
    paths = os.pathsep.join([str(Path(__file__).parents[1]), str(Path(__file__).parent)])
    env = os.environ | {"XLA_FLAGS": flags, "PYTHONPATH": paths}
    done = subprocess.run([sys.executable, script], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.split()


@pytest.mark.slow("a process with eight devices scores on meshes of them")
def test_scores_do_not_depend_on_the_mesh():
    """Numbers of architectures, batches and devices that don't divide one another; nodes side by side as on
    accelerators too."""
    assert with_eight_devices(__file__) == ["3x2", "2x4", "1x8", "2x2", "2x2", "1x4"]


@pytest.mark.slow("a process with eight devices trains on meshes of them")
def test_training_does_not_depend_on_the_mesh():
    """Networks alone on two devices as on one. Super-nets with landmarks, crops and tracked statistics as on one;
    with statistics of each device's own images, in parts and with layers computed twice, as gradients by hand; and
    meshes that divide nothing end in one line."""
    script = str(Path(__file__).with_name("mesh_training.py"))
    assert with_eight_devices(script) == ["alone", "2x2", "4x1", "local", "refused"]


@pytest.mark.slow("a process with eight devices trains policies and on text over meshes of them")
def test_policies_and_text_do_not_depend_on_the_mesh():
    """Weights and policy by mixtures, to second order and with curvature, and by codes; of text also what it remembers;
    and a step of one architecture, or a mixture in parts, is refused in one line."""
    script = str(Path(__file__).with_name("mesh_policies.py"))
    assert with_eight_devices(script) == ["darts", "bayesnas", "enas", "text:2x2", "text:1x4", "refused"]


@pytest.mark.parametrize("axes", [("data", "archs"), ("archs",)])
def test_a_mesh_of_other_axes_is_refused(axes, small_supernet):
    import jax
    import numpy as np

    from jaxnas.evaluation import make_evaluator

    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]).reshape((1,) * len(axes)), axes)
    with pytest.raises(ValueError, match=r"^the mesh has axes \(.*\), expected \('archs', 'data'\)\.$"):
        make_evaluator(small_supernet("tiny")[0], mesh=mesh)


def main() -> None:
    import jax
    import numpy as np
    from conftest import SMALL_SPACES, random_params

    from jaxnas import codes
    from jaxnas.evaluation import evaluator, make_evaluator
    from jaxnas.evaluation.planning import Target
    from jaxnas.supernets import make_supernet

    rng = np.random.default_rng(0)
    supernet = make_supernet(SMALL_SPACES["tiny"])
    params = random_params(supernet)
    archs = codes.enumerate_archs(supernet.space)[:7]
    images, labels = rng.normal(size=(18, 4, 4, 1)).astype(np.float32), rng.integers(0, 10, 18)
    assert len(jax.devices()) == 8
    target_of = evaluator.target_of
    for route, bn_mode, rows, columns in (
        ("graph", "batch", 3, 2),
        ("graph", "calibrated", 2, 4),
        ("serial", "calibrated", 1, 8),
        ("dispatch", "batch", 2, 2),
        ("side_by_side", "batch", 2, 2),
        ("side_by_side", "calibrated", 1, 4),
    ):
        if route == "side_by_side":
            route, evaluator.target_of = "graph", lambda mesh: Target("gpu", 2**33)
        settings = {"strategy": route, "bn_mode": bn_mode, "images_per_call": 4, "archs_per_call": 3, "per_image": True}
        given = {"calibration_images": images[:10] + 1} if bn_mode == "calibrated" else {}
        alone = make_evaluator(supernet, **settings).evaluate(params, archs, images, labels, **given)
        assert np.std(alone.loss) > 0.01
        mesh = jax.sharding.Mesh(np.array(jax.devices()[: rows * columns]).reshape(rows, columns), ("archs", "data"))
        scores = make_evaluator(supernet, **settings, mesh=mesh).evaluate(params, archs, images, labels, **given)
        evaluator.target_of = target_of
        np.testing.assert_array_equal(scores.archs, archs)
        np.testing.assert_allclose(scores.image_loss, alone.image_loss, rtol=1e-4, atol=1e-4)
        np.testing.assert_array_equal(scores.image_correct, alone.image_correct)
        print(f"{rows}x{columns}")


if __name__ == "__main__":
    main()
