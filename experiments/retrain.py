"""Train a found architecture from scratch, and give what is needed to use it: weights, accuracy, latency, files.

The architecture comes from the JSON that `jaxnas.export.to_json` writes, which also names the space and the size that
it is trained at, unless `width` or `image_size` says otherwise; without one it is drawn from the seed. One recipe by
name (`jaxnas.training.RECIPES`) says how it is trained: SGD with momentum, linear warm-up, cosine decay, label
smoothing, and an average of the weights that the network ends with. Then batch normalisation takes its statistics from
`num_calibration_images` training images under these weights.

    jaxnas retrain quick --workdir runs/retrained
    jaxnas retrain cpu --arch found.json --data-dir DIR --workdir runs/retrained-macro
    jaxnas retrain paper --arch found.json --dataset folder:IMAGENET --workdir runs/retrained-imagenet

WORKDIR/retrained.npz and .safetensors hold the weights, retrained.json the architecture, retrained.stablehlo (and with
--onnx retrained.onnx) the whole network, which takes pixels; `export_difference` is how far the logits of what was
written are from the network's own, on a few test images. Accuracies have Wilson's interval over images, which says
nothing of other seeds. The latency is that of the device at hand, measured once. A killed run goes on from its last
checkpoint and ends with the same weights, bit for bit. Minutes and figures are on the page Experiments of the
documentation.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats

from jaxnas import codes, export, ranking, runs
from jaxnas.checks import Count, Crop, OneOf, Positive, Text
from jaxnas.costs.measuring import measure_networks
from jaxnas.datasets import Dataset
from jaxnas.evaluation import cross_entropy, is_correct
from jaxnas.export.programs import Pixels, need_jax2onnx
from jaxnas.files import read_file, replace_file
from jaxnas.runs import sealed
from jaxnas.runs.command import main
from jaxnas.space import SearchSpace
from jaxnas.spaces import get_space
from jaxnas.supernets import Params, Policy, Stats, Supernet, make_supernet
from jaxnas.training import RECIPES, Recipe, batches, make_preprocess, make_retraining, standardise

from .shared.config import ProblemConfig
from .shared.problem import load_images, of_images, read_arch, resize
from .shared.telling import Known, draw_network, hashes, level

MOST_DRAWN = 1000  # of which the first that exists is taken
NUM_COMPARED = 8  # images on which what was written is compared with the network


@dataclasses.dataclass(frozen=True)
class Config(ProblemConfig):
    """Which network, on which images, and how it is trained."""

    # JSON of jaxnas.export, which names the space and its size; `space` only says where one of your own is. None: drawn
    arch: Annotated[str, Text("a file")] | None = None
    recipe: Annotated[str, OneOf(RECIPES)] = "small"  # how it is trained
    num_epochs: Count | None = None  # this and the next four: None, as the recipe has it
    batch_size: Count | None = None
    learning_rate: Positive | None = None
    crop: Crop | None = None  # pixels of random shift
    flip: bool | None = None
    compute_dtype: Literal["float32", "bfloat16"] = "float32"
    num_calibration_images: Count = 256  # training images, of which the statistics of batch normalisation are
    images_per_call: Count = 256  # that are scored at once
    latency_batch_size: Count = 16
    num_rounds: Count = 5  # of measuring the latency, of which the median counts
    onnx: bool = False  # write retrained.onnx too: pip install 'jaxnas[onnx]'
    checkpoint_every: Count = 200  # steps
    report_every: Count = 20  # steps


QUICK = Config()
PRESETS = {
    "tiny": runs.replace(
        QUICK, width=4, num_train=64, num_valid=50, num_epochs=4, batch_size=16,
        num_calibration_images=64, latency_batch_size=2, num_rounds=2, checkpoint_every=4, report_every=2,
    ),
    "quick": QUICK,
    "cpu": runs.replace(
        QUICK, space="nasbench_macro", dataset="cifar10", num_train=None, num_valid=5000, width=8, image_size=16,
        num_epochs=10, crop=2, flip=True, checkpoint_every=500, report_every=50,
    ),
    # On an accelerator, not run: PC-NAS's own settings are not to be had.
    "paper": runs.replace(
        QUICK, space="mobile_small", dataset="imagenet2012", num_train=None, num_valid=10_000, augment="crop",
        reading_workers=16, recipe="imagenet", flip=False, compute_dtype="bfloat16", num_calibration_images=1024,
        checkpoint_every=1250, report_every=125,
    ),
}  # fmt: skip


class Trained(NamedTuple):
    """A network that is done."""

    supernet: Supernet
    arch: np.ndarray  # int32 [num_choices]
    params: Params
    stats: Stats


def run(config: Config, workdir: Path, identity: str) -> Mapping[str, Any]:
    """Train, score, measure, write; see the module's docstring."""
    published, arch = find_arch(runs.check(config))
    if config.onnx:
        need_jax2onnx()
    compile_seconds = runs.compile_clock()
    data = load_images(config, published)
    space, recipe = resize(config, published, data), find_recipe(config)
    origin = {"run": identity, "arch": codes.to_text(space, arch)}
    supernet = make_supernet(space, policy=Policy(compute=config.compute_dtype))
    num_steps = recipe.num_epochs * steps_per_epoch(recipe, data)
    network = train(config, supernet, arch, recipe, data, workdir, origin)
    valid = score(config, network, data, data.valid_images, data.valid_labels)
    test = score(config, network, data, data.test_images, data.test_labels)
    described = export.describe(
        space, arch, accuracy=test["accuracy"], measured_latency_ms=latency(config, space, arch, workdir, origin)
    )
    draw_network(workdir / "retrained.png", space, arch, "retrained", Known(test["accuracy"]))
    figures = {
        "space": space.name,
        "dataset": config.dataset,
        **described,
        **{f"test_{name}": value for name, value in test.items()},
        **{f"valid_{name}": value for name, value in valid.items()},
        "latency_batch_size": config.latency_batch_size,
        "num_epochs": recipe.num_epochs,
        "trained_steps": num_steps,
        "export_difference": write(config, network, data, workdir),
        "compile_seconds": compile_seconds(),
        **hashes(data),
    }
    return level(figures, "test_accuracy", "the retrained network's test accuracy is", digits=4) | figures


def find_arch(config: Config) -> tuple[SearchSpace, np.ndarray]:
    """The space, of the size that its file says, and the architecture, int32 [num_choices], of a config; a ValueError
    where they contradict each other or aren't there."""
    if config.arch is None:
        space = get_space(config.space)
        drawn = np.asarray(codes.sample(jax.random.key(config.seed), space, MOST_DRAWN))
        return of_images(space), drawn[np.asarray(space.is_valid(drawn))][0]
    space, arch = read_arch(config.arch, config.space)
    return export.space_in(config.arch, {space.name: space}), arch


def find_recipe(config: Config) -> Recipe:
    """The named recipe with what the config sets itself."""
    named = RECIPES[config.recipe]
    changes = {name: getattr(config, name) for name in ("num_epochs", "batch_size", "learning_rate", "crop", "flip")}
    recipe = named._replace(**{name: value for name, value in changes.items() if value is not None})
    warm_up = min(named.num_warm_up_epochs, recipe.num_epochs // 2)  # of a training that was cut short
    return recipe._replace(num_warm_up_epochs=warm_up)


def steps_per_epoch(recipe: Recipe, data: Dataset) -> int:
    return len(data.train_images) // recipe.batch_size


def train(
    config: Config,
    supernet: Supernet,
    arch: np.ndarray,
    recipe: Recipe,
    data: Dataset,
    workdir: Path,
    origin: sealed.Origin,
) -> Trained:
    """The network, from the last checkpoint if there is one."""
    init_key, batch_key = jax.random.split(jax.random.key(config.seed))
    batch_at = batches(batch_key, data.train_images, data.train_labels, recipe.batch_size)
    per_epoch = steps_per_epoch(recipe, data)
    num_steps = recipe.num_epochs * per_epoch
    made = make_retraining(
        supernet,
        arch,
        recipe,
        num_steps=num_steps,
        steps_per_epoch=per_epoch,
        preprocess=make_preprocess(data.mean, data.std, crop=recipe.crop, flip=recipe.flip),
    )
    trained = runs.resumable(
        made.step,
        made.init(init_key),
        batch_at,
        num_steps,
        workdir,
        fingerprint=supernet.space.fingerprint,
        origin=origin,
        checkpoint_every=config.checkpoint_every,
        report_every=config.report_every,
        label="retrain",
        num_images=recipe.batch_size,
        progress=config.progress,
    )
    params, code = made.params(trained.state), tuple(int(op) for op in arch)
    few = network_images(data, data.train_images[: config.num_calibration_images])
    _, stats = jax.jit(lambda params, images: supernet.apply(params, code, images, groups=None))(params, few)
    return Trained(supernet, arch, params, stats)


def network_images(data: Dataset, images: np.ndarray) -> jax.Array:
    return standardise(jnp.asarray(images), data.mean, data.std)


def score(config: Config, network: Trained, data: Dataset, images: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Accuracy with its interval over images, and mean loss in nats; the images are scored a few at a time."""
    code, size = tuple(int(op) for op in network.arch), min(config.images_per_call, len(labels))

    @jax.jit
    def call(params: Params, stats: Stats, images: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
        x = standardise(images, data.mean, data.std)
        logits, _ = network.supernet.apply(params, code, x, stats=stats, groups=None)
        return cross_entropy(logits, labels), is_correct(logits, labels)

    losses, correct = [], []
    for start in range(0, len(labels), size):
        rows = np.minimum(np.arange(start, start + size), len(labels) - 1)  # the last call is filled up
        kept = len(labels[start : start + size])
        found = jax.device_get(
            call(network.params, network.stats, jnp.asarray(images[rows]), jnp.asarray(labels[rows]))
        )
        losses.append(found[0][:kept])
        correct.append(found[1][:kept])
    right, total = int(np.concatenate(correct).sum()), len(labels)
    interval = scipy.stats.binomtest(right, total).proportion_ci(method="wilson")
    accuracy = ranking.Estimate(right / total, float(interval.low), float(interval.high))
    return {**accuracy.named("accuracy"), "loss": float(np.concatenate(losses).mean(dtype=np.float64))}


def latency(config: Config, space: SearchSpace, arch: np.ndarray, workdir: Path, origin: sealed.Origin) -> float:
    """Median over rounds, in ms, measured once for this run and device."""
    path, here = workdir / "latency.json", {**origin, "device": jax.devices()[0].device_kind}
    if not path.exists():
        rounds = measure_networks(
            space,
            arch[None],
            batch_size=config.latency_batch_size,
            dtype=config.compute_dtype,
            num_rounds=config.num_rounds,
        )
        sealed.write_json(path, "measured latency", rounds[0].tolist(), here)
    return float(np.median(sealed.read_json(path, "measured latency", here)))


def write(config: Config, network: Trained, data: Dataset, workdir: Path) -> float:
    """The files, and how far the logits of what they hold are from the network's own."""
    supernet, space = network.supernet, network.supernet.space
    exported = export.export(supernet, network.params, network.arch, network.stats)
    replace_file(workdir / "retrained.json", (export.to_json(space, network.arch) + "\n").encode())
    pixels = data.test_images[:NUM_COMPARED]
    images = network_images(data, pixels)
    logits, found = run_module(supernet, exported, images), []
    for name in ("retrained.npz", "retrained.safetensors"):
        export.save(workdir / name, exported, space)
        found.append(run_module(supernet, export.load(workdir / name, supernet), images))
    moments = Pixels(data.mean, data.std)
    replace_file(workdir / "retrained.stablehlo", export.to_stablehlo(supernet, exported, pixels=moments))
    program = jax.export.deserialize(bytearray(read_file(workdir / "retrained.stablehlo")))
    found.append(np.asarray(program.call(pixels)))
    if config.onnx:
        import onnxruntime

        replace_file(workdir / "retrained.onnx", export.to_onnx(supernet, exported, pixels=moments))
        session = onnxruntime.InferenceSession(workdir / "retrained.onnx")
        found.append(session.run(None, {"images": pixels})[0])
    return float(max(np.abs(other - logits).max() for other in found))


def run_module(supernet: Supernet, exported: export.Exported, images: jax.Array) -> np.ndarray:
    """Logits of the exported network as a Flax module."""
    module, variables = export.flax_module(supernet, exported)
    return np.asarray(jax.jit(module.apply)(variables, images))


if __name__ == "__main__":
    main(f"{__package__}.retrain", __doc__, run, PRESETS)
