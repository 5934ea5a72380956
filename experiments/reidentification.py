"""What is a found network worth as the backbone of re-identification?

Each backbone learns to classify, then to embed: identity cross-entropy and batch-hard triplet loss on batches of
several images of each identity, a batch-norm neck whose output is compared by cosine. Judged are mean average precision
and rank-1 by Market-1501's rule. Compared are networks that were found (or, without `--arch`, the best of the space's
table), networks drawn at random within the same limit, MobileNetV2's block everywhere, and the first of them without
having learnt to classify; beside them pixels and random weights, with which nothing was learnt at all.

    jaxnas reidentification quick --workdir runs/reid
    jaxnas reidentification paper --market MARKET --arch retrained.npz --workdir runs/reid-market

Without `--market` it is a proxy: classes of an image set are identities, `--held-out` are those that are searched,
which neither classification nor embedding ever sees, and four fixed changes of contrast, brightness, turn and shift are
the cameras. Its figures say which backbone is better, and stand beside no published one. WORKDIR/backbones.csv has a
row for each backbone and seed, retrieved.png what some queries find. Minutes and figures are on the page Experiments of
the documentation.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnas import datasets, plotting, ranking, runs
from jaxnas.checks import Count, Pair, Positive, Share, Text, Whole
from jaxnas.datasets import Dataset, Identities, Reid
from jaxnas.runs import sealed
from jaxnas.runs.command import main
from jaxnas.training import standardise
from jaxnas.transfer import (
    Embedder,
    Retrieval,
    balanced_rows,
    cosine_distances,
    evaluate_retrieval,
    make_embedder,
    make_identity_loss,
)
from jaxnas.transfer.retrieval import ranked

from .shared.backbones import Candidate, Figures, by_backbone, draw_transfer, find_candidates, summarise
from .shared.classifying import FOLDER, Classifier, Pretrained, compare, make_tuning, tune
from .shared.config import TransferConfig
from .shared.problem import load_images
from .shared.telling import hashes, level

NUM_SHOWN, NUM_GIVEN = 6, 8  # queries of the picture, and what each finds


@dataclasses.dataclass(frozen=True)
class Config(TransferConfig):
    """Backbones, and the identities that they learn to tell apart."""

    market: Annotated[str, Text("a folder")] | None = None  # as Market-1501 comes; None: the proxy
    held_out: tuple[Annotated[int, Whole(0)], ...] = (3, 6, 8)  # of the proxy: classes that are searched
    height: Count = 16  # pixels of the pictures
    width_px: Count = 16  # of the proxy height counts for both
    stride: Count = 4  # of the features that are embedded
    num_identities: Pair = 6  # in a batch
    num_each: Pair = 4  # images of each
    margin: Positive = 0.3
    label_smoothing: Share = 0.1
    mirror: bool = False  # training pictures, with probability one half


QUICK = runs.replace(
    Config(), width=8, image_size=16, backbone_rate=1.0, num_steps=300, num_seeds=3,
)  # fmt: skip
PRESETS = {
    "tiny": runs.replace(
        QUICK, width=4, num_train=200, num_seeds=1, num_epochs=1, num_steps=4, num_warm_up_steps=1, num_identities=2,
        num_each=2, image_size=8, height=8, mobilenet_v2=False, num_calibration_images=32, checkpoint_every=2,
        report_every=2,
    ),
    "quick": QUICK,
    "cpu": runs.replace(
        QUICK, num_best=5, num_random=5,
    ),
    # On an accelerator, not run: sizes of Luo et al. (CVPR workshops 2019), the recipe is this experiment's.
    "paper": runs.replace(
        QUICK, space="mobile_small", dataset="imagenet2012", num_best=0, num_random=1, num_train=None,
        num_valid=10_000, image_size=None, augment="crop", reading_workers=16, recipe="imagenet", num_epochs=None,
        height=256, width_px=128, stride=32, num_identities=16, num_each=4, mirror=True, num_steps=24_000,
        num_warm_up_steps=2000, learning_rate=3.5e-4, backbone_rate=1.0, weight_decay=5e-4,
        checkpoint_every=2000, report_every=200,
    ),
}  # fmt: skip


class Task(NamedTuple):
    """What is told apart, with what the pictures are standardised by."""

    reid: Reid
    data: Dataset  # of classification


def run(config: Config, workdir: Path, identity: str) -> Mapping[str, Any]:
    """Compare the backbones; see the module's docstring."""
    candidates = find_candidates(runs.check(config))
    compile_seconds = runs.compile_clock()
    task = load_task(config, candidates)
    rows = compare(
        config, candidates, task.data, (config.stride,), workdir, identity, lambda made: learner(config, task, made)
    )
    first = by_backbone(rows, "random_weights_map")[candidates[0].name]
    references = {"pixels_map": by_pixels(task), **ranking.estimate_mean(first).named("random_weights_map")}
    figures: Figures = {
        "space": candidates[0].published.name,
        "dataset": task.reid.name,
        **summarise(rows, "map"),
        **{f"{name}_rank1": float(values.mean()) for name, values in by_backbone(rows, "rank1").items()},
        **references,
        "num_unmatched": rows[0]["num_unmatched"],
        "num_queries": len(task.reid.query.identities),
        "num_gallery": len(task.reid.gallery.identities),
        "num_seeds": config.finetuning.num_seeds,
        "trained_steps": config.finetuning.num_steps,
        "compile_seconds": compile_seconds(),
        **hashes(task.data),
    }
    sentence = f"mAP of retrieval on {figures['backbone']} is {{}}; by pixels {references['pixels_map']:.3f}"
    told = level(figures, "map", f"{sentence}, by random weights {references['random_weights_map']:.3f}", digits=3)
    draw(config, task, workdir, identity, rows, told["verdict"], references)
    return told | figures


def load_task(config: Config, candidates: list[Candidate]) -> Task:
    """The pictures of identities, and the set that the backbones learn to classify: of the proxy without the classes
    that are held out."""
    data = load_images(config.problem, candidates[0].published)
    if config.market is not None:
        return Task(datasets.read_market(config.market, height=config.height, width=config.width_px), data)
    held = set(config.held_out)
    parts = (data.train_images, data.train_labels), (data.test_images, data.test_labels)
    reid = datasets.classes_as_identities(
        config.problem.dataset, *parts, sorted(held), size=config.height, seed=config.problem.seed
    )
    kept = sorted(set(range(data.num_classes)) - held)
    changes: dict[str, Any] = {"num_classes": len(kept)}
    for part in ("train", "valid", "test"):
        labels = getattr(data, f"{part}_labels")
        rows = np.isin(labels, kept)
        changes[f"{part}_images"] = getattr(data, f"{part}_images")[rows]
        changes[f"{part}_labels"] = np.searchsorted(kept, labels[rows]).astype(np.int32)
    return Task(reid, data._replace(**changes))


def learner(
    config: Config, task: Task, classifier: Classifier
) -> Callable[[Pretrained, int, Path, sealed.Origin], Figures]:
    """What one backbone's embedding learns and comes to, by seed; what is compiled serves all seeds."""
    train, given = task.reid.train, config.finetuning
    embedder = make_embedder(classifier.backbone, int(train.identities.max()) + 1)
    loss_of = make_identity_loss(embedder, label_smoothing=config.label_smoothing, margin=config.margin)

    def loss_fn(params: Any, batch: Any, key: jax.Array) -> tuple[jax.Array, Mapping[str, jax.Array]]:
        images = standardise(batch["images"], task.data.mean, task.data.std)
        if config.mirror:
            turned = jax.random.bernoulli(key, 0.5, (len(images), 1, 1, 1))
            images = jnp.where(turned, images[:, :, ::-1], images)
        return loss_of(params, images, batch["labels"])

    made = make_tuning(given, loss_fn)
    embed = make_embed(config, task, embedder)
    numbers = config.num_identities, config.num_each
    num_images = math.prod(numbers)
    balanced_rows(jax.random.key(0), train.identities, *numbers)  # before anything is trained

    def learn(ready: Pretrained, seed: int, folder: Path, origin: sealed.Origin) -> Figures:
        head_key, batch_key, run_key = jax.random.split(jax.random.fold_in(jax.random.key(seed), 1), 3)
        rows_at = balanced_rows(batch_key, train.identities, *numbers)

        def batch(step: int) -> Any:
            rows = rows_at(step)
            return {"images": jnp.asarray(train.images[rows]), "labels": jnp.asarray(train.identities[rows])}

        state = made.init(run_key, embedder.init(head_key, ready.params))
        params = tune(
            config,
            classifier,
            state,
            made.step,
            batch,
            folder,
            origin,
            doing="embedding",
            num_images=num_images,
        )
        _, distances = embed(params)
        found = judge(task, distances)
        fresh, _ = embed(embedder.init(head_key, jax.jit(classifier.backbone.init)(head_key)))
        if seed == config.problem.seed:
            shown = distances[found.queries[np.linspace(0, len(found.queries) - 1, NUM_SHOWN).astype(int)]]
            sealed.write_json(folder / "shown.json", "distances", shown.tolist(), origin)
        return {
            "map": found.mean_average_precision,
            "rank1": found.cmc(1),
            "random_weights_map": judge(task, fresh).mean_average_precision,
            "num_unmatched": found.num_unmatched,
        }

    return learn


def make_embed(config: Config, task: Task, embedder: Embedder) -> Callable[[Any], tuple[np.ndarray, np.ndarray]]:
    """Parameters -> cosine distances [num_queries, num_gallery] of the features before the neck, and of the embeddings;
    normalised by the statistics of training images."""
    reid, size = task.reid, config.finetuning.images_per_call
    few = reid.train.images[:: max(1, len(reid.train.images) // config.backbones.num_calibration_images)]

    @jax.jit
    def calibrate(params: Any, images: jax.Array) -> Any:
        return embedder.apply(params, standardise(images, task.data.mean, task.data.std), None)[3]

    @jax.jit
    def call(params: Any, stats: Any, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        return embedder.apply(params, standardise(images, task.data.mean, task.data.std), stats)[:2]

    def embed(params: Any) -> tuple[np.ndarray, np.ndarray]:
        stats = calibrate(params, jnp.asarray(few))

        def of(part: Identities) -> list[np.ndarray]:
            found = []
            for start in range(0, len(part.images), size):
                rows = np.minimum(np.arange(start, start + size), len(part.images) - 1)  # the last call is filled up
                found.append(jax.device_get(call(params, stats, jnp.asarray(part.images[rows]))))
            return [np.concatenate(side)[: len(part.images)] for side in zip(*found)]

        pooled, embedded = (cosine_distances(*pair) for pair in zip(of(reid.query), of(reid.gallery)))
        return pooled, embedded

    return embed


def judge(task: Task, distances: np.ndarray) -> Retrieval:
    query, gallery = task.reid.query, task.reid.gallery
    return evaluate_retrieval(distances, query.identities, query.cameras, gallery.identities, gallery.cameras)


def by_pixels(task: Task) -> float:
    """mAP of pixels, less the training images' mean, where nothing was learnt."""
    flat = [
        (part.images / 255.0 - task.data.mean).reshape(len(part.images), -1)
        for part in (task.reid.query, task.reid.gallery)
    ]
    return judge(task, cosine_distances(*flat)).mean_average_precision


def draw(
    config: Config,
    task: Task,
    workdir: Path,
    identity: str,
    rows: list[Figures],
    verdict: str,
    references: Figures,
) -> None:
    """transfer.png, a point for each backbone; retrieved.png, what some queries find with the first one."""
    seed, name = config.problem.seed, rows[0]["backbone"]
    folder = workdir / FOLDER / name / f"seed{seed}"
    origin = {"run": identity, "backbone": name, "seed": seed}
    shown = np.array(sealed.read_json(folder / "shown.json", "distances", origin))
    reid, gallery = task.reid, task.reid.gallery
    counted = judge(task, np.random.default_rng(0).random((len(reid.query.images), len(gallery.images)))).queries
    queries = counted[np.linspace(0, len(counted) - 1, NUM_SHOWN).astype(int)]
    results, right = [], []
    for query, distances in zip(queries, shown, strict=True):
        given = ranked(
            distances, reid.query.identities[query], reid.query.cameras[query], gallery.identities, gallery.cameras
        )
        results.append([gallery.images[place] for place in given[0][:NUM_GIVEN]])
        right.append(given[1][:NUM_GIVEN].tolist())
    title = f"what queries find on {name}: {reid.name}\n{verdict}"
    images = [reid.query.images[query] for query in queries]
    plotting.save_figure(plotting.retrieved(images, results, right, title=title), workdir / "retrieved.png")
    draw_transfer(
        rows,
        "map",
        workdir,
        title=f"backbones of re-identification, {reid.name}",
        y_label="mAP of retrieval",
        references=[("pixels", references["pixels_map"]), ("random weights", references["random_weights_map"])],
    )


if __name__ == "__main__":
    main(f"{__package__}.reidentification", __doc__, run, PRESETS)
