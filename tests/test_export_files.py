"""Networks in files that others read: each is read by a process without jaxnas, and its logits are ours."""

import importlib.util
import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnas import export
from jaxnas.export.programs import Pixels
from jaxnas.files import open_tensors, seal_tensors
from jaxnas.training import standardise

ARCH = np.array([0, 1, 2])  # identity, nor_conv_1x1 of stride 2, nor_conv_3x3
CELL = np.array([3, 1, 2, 4, 0, 1])
PIXELS = Pixels(np.float32([0.4]), np.float32([0.2]))

ALONE = """
import sys
sys.modules["jaxnas"] = None  # so that importing it fails
import numpy as np
folder = sys.argv[1]
images = np.load(f"{folder}/images.npy")
{read}
np.save(f"{folder}/logits.npy", logits)
"""

# The network written out: NumPy's and the file's own names are all that it knows.
SAFETENSORS = """
from safetensors.numpy import load_file
t = load_file(f"{folder}/found.safetensors")
def norm(x, name, scale_and_shift, start=0):
    mean, var = t[f"stats/{name}"][:, start : start + x.shape[-1]]
    scale, bias = (t[f"params/{name}/{scale_and_shift}/{leaf}"] for leaf in ("scale", "bias"))
    return (x - mean) / np.sqrt(var + 1e-5) * scale + bias
def conv3(x, kernel):
    n, h, w, _ = x.shape
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    return sum(padded[:, i : i + h, j : j + w] @ kernel[i, j] for i in range(3) for j in range(3))
relu = lambda x: np.maximum(x, 0)
x = conv3(images, t["params/stem/stem/Unfold_0/kernel"].reshape(3, 3, images.shape[-1], -1))
x = relu(norm(x, "stem", "stem/BatchNorm_0"))
x = relu(x)[:, ::2, ::2] @ t["params/layer1/nor_conv_1x1/Conv_0/kernel"][0, 0]
x = norm(x, "layer1", "nor_conv_1x1/BatchNorm_0")
x = conv3(relu(x), t["params/layer2/nor_conv_3x3/Conv_0/kernel"])
x = norm(x, "layer2", "nor_conv_3x3/BatchNorm_0")
x = relu(norm(x @ t["params/head/head/Conv_0/kernel"][0, 0], "head", "head/BatchNorm_0"))
dense = "params/head/head/Classifier_0/Dense_0/"
logits = x.mean((1, 2)) @ t[dense + "kernel"] + t[dense + "bias"]
"""

STABLEHLO = """
import jax
exported = jax.export.deserialize(bytearray(open(f"{folder}/found.stablehlo", "rb").read()))
logits = exported.call(images)
assert "flax" not in sys.modules
"""

ONNX = """
import onnxruntime
session = onnxruntime.InferenceSession(f"{folder}/found.onnx")
(logits,) = session.run(None, {"images": images})
"""


def read_alone(folder, images, how) -> np.ndarray:
    """The logits that a process without jaxnas makes of the images and of what lies in the folder."""
    np.save(folder / "images.npy", images)
    command = [sys.executable, "-c", ALONE.replace("{read}", how), str(folder)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return np.load(folder / "logits.npy")


def network(small_supernet, name, arch):
    """(super-net, the network exported with statistics of some images, images, its logits by the super-net's path)."""
    supernet, params = small_supernet(name)
    layout = supernet.space.layout
    shape = (5, layout.image_size, layout.image_size, layout.in_channels)
    images, others = np.random.default_rng(0).normal(size=(2, *shape)).astype(np.float32)
    code = tuple(int(op) for op in arch)

    @jax.jit
    def path(params, images, others):
        _, stats = supernet.apply(params, code, others, groups=None)
        return supernet.apply(params, code, images, stats=stats, groups=None)[0], stats

    logits, stats = path(params, images, others)
    return supernet, export.export(supernet, params, arch, stats), images, logits


@pytest.fixture(scope="module")
def chain(small_supernet):
    return network(small_supernet, "tiny", ARCH)


def test_safetensors_without_jaxnas(chain, tmp_path):
    supernet, exported, images, logits = chain
    export.save(tmp_path / "found.safetensors", exported, supernet.space)
    np.testing.assert_allclose(read_alone(tmp_path, images, SAFETENSORS), logits, atol=1e-4)
    jax.tree.map(np.testing.assert_array_equal, export.load(tmp_path / "found.safetensors", supernet), exported)


def test_stablehlo_without_jaxnas(chain, small_supernet, tmp_path):
    """Any number of images, and any of the platforms that it is told to serve."""
    supernet, exported, images, logits = chain
    data = export.to_stablehlo(supernet, exported)
    (tmp_path / "found.stablehlo").write_bytes(data)
    np.testing.assert_allclose(read_alone(tmp_path, images[:3], STABLEHLO), logits[:3], atol=1e-4)
    assert set(jax.export.deserialize(bytearray(data)).platforms) == {"cpu", "cuda", "rocm", "tpu"}
    supernet, exported, images, logits = network(small_supernet, "nasbench201", CELL)
    cell = jax.export.deserialize(bytearray(export.to_stablehlo(supernet, exported)))
    np.testing.assert_allclose(cell.call(images), logits, atol=1e-4)


def test_a_program_may_take_pixels(chain):
    supernet, exported, _, _ = chain
    pixels = np.random.default_rng(1).integers(0, 256, (4, 4, 4, 1), np.uint8)
    program = jax.export.deserialize(bytearray(export.to_stablehlo(supernet, exported, pixels=PIXELS)))
    module, variables = export.flax_module(supernet, exported)
    expected = module.apply(variables, standardise(jnp.asarray(pixels), *PIXELS))
    np.testing.assert_allclose(program.call(pixels), expected, atol=1e-4)
    with pytest.raises(ValueError, match=r"^mean: shape \(3,\), expected \(1\)\.$"):
        export.to_stablehlo(supernet, exported, pixels=Pixels(np.zeros(3), np.ones(3)))


@pytest.mark.skipif(
    importlib.util.find_spec("jax2onnx") is None, reason="jax2onnx isn't installed: pip install 'jaxnas[onnx]'"
)
@pytest.mark.parametrize("name, arch", [("tiny", ARCH), ("digits_chain", [0, 2, 1, 2, 0]), ("nasbench201", CELL)])
def test_onnx_without_jaxnas(small_supernet, tmp_path, name, arch):
    supernet, exported, images, logits = network(small_supernet, name, np.array(arch))
    (tmp_path / "found.onnx").write_bytes(export.to_onnx(supernet, exported))
    np.testing.assert_allclose(read_alone(tmp_path, images[:3], ONNX), logits[:3], atol=1e-4)


def test_without_jax2onnx_one_line_says_how_to_get_it(chain, monkeypatch):
    supernet, exported, _, _ = chain
    monkeypatch.setitem(sys.modules, "jax2onnx", None)
    with pytest.raises(
        ValueError, match=r"^ONNX is written by jax2onnx, .* 'jaxnas\[onnx\]', in an environment"
    ) as error:
        export.to_onnx(supernet, exported)
    assert "\n" not in str(error.value)


class TestSafetensors:
    @pytest.fixture
    def saved(self, chain, tmp_path):
        path = tmp_path / "found.safetensors"
        export.save(path, chain[1], chain[0].space)
        return chain[0], path

    def test_damage(self, saved):
        supernet, path = saved
        data = path.read_bytes()
        for wrong in (b"", data[:-30], data[:-4] + bytes(4), bytes([255]) * 8 + data[8:], b"PK" + bytes(50)):
            path.write_bytes(wrong)
            with pytest.raises(ValueError, match=r"truncated, damaged or no exported network \(") as error:
                export.load(path, supernet)
            assert "\n" not in str(error.value) and str(error.value).startswith(str(path))

    def test_weights_of_another_origin(self, saved):
        from safetensors.numpy import save

        supernet, path = saved
        meta, arrays = open_tensors(path.read_bytes())
        path.write_bytes(save(arrays))
        with pytest.raises(ValueError, match="no exported network"):
            export.load(path, supernet)
        name = next(iter(arrays))
        path.write_bytes(seal_tensors(meta, {**arrays, name: arrays[name][..., :1]}))
        with pytest.raises(ValueError, match=f"{name} has float32 of shape .*, expected float32 of shape"):
            export.load(path, supernet)
        path.write_bytes(seal_tensors({"architecture": json.loads("[]")}, arrays))
        with pytest.raises(ValueError, match="no architecture in JSON"):
            export.load(path, supernet)

    def test_the_old_file_stays_whole_when_the_disk_is_full(self, saved, chain):
        """A real limit on what a process may write stands in for the disk: the second network doesn't fit in it."""
        _, path = saved
        before = path.read_bytes()
        code = f"""
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, ({len(before) // 2}, {len(before) // 2}))
from jaxnas.files import replace_file
try:
    replace_file({str(path)!r}, bytes({2 * len(before)}))
except OSError as error:
    print(error.errno)
"""
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert int(done.stdout) == 27, done.stderr  # EFBIG
        assert path.read_bytes() == before and os.listdir(path.parent) == [path.name]

    def test_other_endings(self, chain, tmp_path):
        with pytest.raises(ValueError, match=r"ends in '.pt', expected .npz or .safetensors"):
            export.save(tmp_path / "found.pt", chain[1], chain[0].space)
