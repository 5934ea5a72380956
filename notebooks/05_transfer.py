# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#       jupytext_version: 1.19.6
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# [![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/jaxnas/jaxnas/blob/main/notebooks/05_transfer.ipynb)
#
# # From a found architecture to detection and re-identification
#
# A search on classification images ends with an architecture; what it is wanted for is often something else: a network
# that finds objects, or knows a person again. This notebook takes one architecture that way on scikit-learn's digits:
# it learns to classify, then it is the **backbone** of a detector and of an embedding. The two experiments
# `detection` and `reidentification` do the same for many backbones, with seeds and intervals.
#
# Digits pasted on canvases, and digit classes as "identities", are proxies: small enough for two CPU cores and a few
# minutes, and no figure here stands beside a published one.

# %%
# On Colab this installs jaxnas; where it is installed already, nothing happens. pip builds the wheel from the
# repository, which takes git; once jaxnas is on PyPI, source = "jaxnas" takes the wheel from there.
import importlib.util
import subprocess
import sys

if importlib.util.find_spec("jaxnas") is None:
    source = "git+https://github.com/jaxnas/jaxnas"
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", source], check=True)

# %%
# COCO's metrics are an extra of jaxnas.
if importlib.util.find_spec("pycocotools") is None:
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "pycocotools"], check=True)

# %% tags=["parameters"]
NUM_EPOCHS = 8  # of classification
NUM_STEPS = 300  # of the detector, and of the embedding
NUM_SCENES = 600  # canvases that the detector is trained on
BATCH_SIZE = 16

# %% [markdown]
# The stored outputs are those of the machine that the first line below names. On another number of cores, or another
# device, sums are rounded in another order, and training makes much of small differences.

# %%
# %matplotlib inline
import jax

from jaxnas import runs

print(f"jax {jax.__version__} on {jax.devices()[0].device_kind}, {runs.num_cores()} cores")

# %% [markdown]
# ## A network that classifies
#
# Any code will do; this one is among the best of `digits_chain` within 50,000 MACs. It is trained alone by a recipe,
# as `experiments.retrain` does.

# %% tags=["exact"]
from jaxnas import datasets, export, make_supernet, plotting, training
from jaxnas.spaces import digits_chain

arch = [2, 1, 0, 2, 0]
supernet = make_supernet(digits_chain.resized(image_size=16))
print(export.in_words(digits_chain, arch))

# %%
data = datasets.load("digits", num_valid=300, num_train=600, image_size=16)
per_epoch = len(data.train_images) // 64
recipe = training.RECIPES["small"]._replace(num_epochs=NUM_EPOCHS, num_warm_up_epochs=0)
retraining = training.make_retraining(
    supernet,
    arch,
    recipe,
    num_steps=NUM_EPOCHS * per_epoch,
    steps_per_epoch=per_epoch,
    preprocess=training.make_preprocess(data.mean, data.std, crop=1),
)
batch_at = training.batches(jax.random.key(1), data.train_images, data.train_labels, 64)
state = training.fit(retraining.step, retraining.init(jax.random.key(0)), batch_at, NUM_EPOCHS * per_epoch)
exported = export.export(supernet, retraining.params(state), arch)

# %% [markdown]
# ## The same network as a backbone
#
# `make_backbone` leaves the classifier out and gives the last feature map of each resolution that is asked for, on
# images of any size: `digits_chain` falls to a half and to a quarter, the mobile spaces to 8, 16 and 32.

# %%
import jax.numpy as jnp

from jaxnas import transfer

backbone = transfer.make_backbone(supernet, arch, strides=(2, 4))
params, _ = backbone.adopt(exported)
features, _ = jax.eval_shape(backbone.apply, params, jnp.zeros((1, 32, 32, 1)))
print({stride: x.shape for stride, x in features.items()})

# %% [markdown]
# ## A detector
#
# On the maps stands a feature pyramid with an anchor-free head (FCOS): at each location the class, the distances to the
# four sides, and how central it is. Everything is trained together, the backbone at a tenth of the learning rate.

# %%
scenes = datasets.paste(data.train_images, data.train_labels, 10, NUM_SCENES, size=32, sides=(10, 20), most_objects=3)
test = datasets.paste(data.test_images, data.test_labels, 10, 100, size=32, sides=(10, 20), most_objects=3, seed=1)
detector = transfer.make_detector(backbone, 10, width=32, depth=1)
loss_of = transfer.make_detection_loss(detector)


def pixels(images):
    return training.standardise(jnp.asarray(images), data.mean, data.std)


def detection_loss(params, batch, key):
    return loss_of(params, pixels(batch["images"]), batch["boxes"], batch["labels"])


rows_at = transfer.shuffled_rows(jax.random.key(2), NUM_SCENES, BATCH_SIZE)


def scenes_at(step):
    rows = rows_at(step)
    return {"images": scenes.images[rows], "boxes": scenes.boxes[rows], "labels": scenes.labels[rows]}


tuning = transfer.make_finetuning(detection_loss, num_steps=NUM_STEPS, learning_rate=2e-3, backbone_rate=0.1)
state = training.fit(
    tuning.step, tuning.init(jax.random.key(3), detector.init(jax.random.key(4), params)), scenes_at, NUM_STEPS
)

# %% [markdown]
# Average precision is COCO's, by pycocotools. `by chance` are exact boxes whose classes are drawn.

# %%
import numpy as np

_, stats = jax.jit(lambda params, x: detector.apply(params, x, None))(state.params, pixels(scenes.images[:100]))
found = jax.device_get(jax.jit(detector.detect)(state.params, pixels(test.images), stats))
truth = [transfer.Objects(b[y >= 0], y[y >= 0]) for b, y in zip(test.boxes, test.labels)]
seen = [transfer.Objects(b[y >= 0], y[y >= 0], s[y >= 0]) for b, s, y in zip(*found)]
figures, _ = transfer.evaluate_detections(truth, seen, 10)
rng = np.random.default_rng(0)
drawn = [t._replace(labels=rng.integers(10, size=len(t.labels)), scores=np.ones(len(t.labels))) for t in truth]
chance, _ = transfer.evaluate_detections(truth, drawn, 10)
print(f"AP {figures['ap']:.3f}, at an overlap of one half {figures['ap50']:.3f}; by chance {chance['ap']:.3f}")

# %%
shown = [
    plotting.Boxes(
        each.boxes[each.scores > 0.3], [str(y) for y in each.labels[each.scores > 0.3]], each.scores[each.scores > 0.3]
    )
    for each in seen[:8]
]
there = [plotting.Boxes(each.boxes, [str(y) for y in each.labels]) for each in truth[:8]]
plotting.detections(list(test.images[:8]), there, shown, title="dashed: what is there; green: found and named right")

# %% [markdown]
# ## An embedding
#
# For re-identification classes are identities, of which 3, 6 and 8 are never trained on, and four fixed changes of the
# picture are cameras. (The classification above saw all ten classes; the experiment leaves these out of it as well.)
# Each query's ranking leaves out what shows the same identity from the same camera, by Market-1501's rule.

# %%
reid = datasets.classes_as_identities(
    "digits", (data.train_images, data.train_labels), (data.test_images, data.test_labels), [3, 6, 8], size=16
)
embedder = transfer.make_embedder(transfer.make_backbone(supernet, arch, strides=(4,)), 7)
identity_loss = transfer.make_identity_loss(embedder)
rows_of = transfer.balanced_rows(jax.random.key(5), reid.train.identities, 6, 4)


def embedding_loss(params, batch, key):
    return identity_loss(params, pixels(batch["images"]), batch["labels"])


def identities_at(step):
    rows = rows_of(step)
    return {"images": reid.train.images[rows], "labels": jnp.asarray(reid.train.identities[rows])}


tuning = transfer.make_finetuning(embedding_loss, num_steps=NUM_STEPS, learning_rate=2e-3, backbone_rate=0.1)
state = training.fit(
    tuning.step, tuning.init(jax.random.key(6), embedder.init(jax.random.key(7), params)), identities_at, NUM_STEPS
)
embed = jax.jit(embedder.apply)
*_, stats = embed(state.params, pixels(reid.train.images[:200]), None)
query, gallery = (np.asarray(embed(state.params, pixels(part.images), stats)[1]) for part in (reid.query, reid.gallery))


def judge(distances):
    cameras = reid.query.cameras, reid.gallery.cameras
    return transfer.evaluate_retrieval(
        distances, reid.query.identities, cameras[0], reid.gallery.identities, cameras[1]
    )


distances = transfer.cosine_distances(query, gallery)
flat = [(part.images / 255 - data.mean).reshape(len(part.images), -1) for part in (reid.query, reid.gallery)]
learnt, plain = judge(distances), judge(transfer.cosine_distances(*flat))
print(
    f"mAP {learnt.mean_average_precision:.3f}, rank-1 {learnt.cmc(1):.3f}; by pixels {plain.mean_average_precision:.3f}"
)

# %%
from jaxnas.transfer.retrieval import ranked

rows = learnt.queries[:: len(learnt.queries) // 5][:5]
given = [
    ranked(
        distances[row],
        reid.query.identities[row],
        reid.query.cameras[row],
        reid.gallery.identities,
        reid.gallery.cameras,
    )
    for row in rows
]
plotting.retrieved(
    [reid.query.images[row] for row in rows],
    [[reid.gallery.images[place] for place in order[:8]] for order, _ in given],
    [right[:8].tolist() for _, right in given],
    title="what queries find: green shows the same class from another camera",
)

# %% [markdown]
# Which backbone is best, and whether classification accuracy says so, is what
# `jaxnas detection quick --workdir runs/detection` and `jaxnas reidentification` compare.
