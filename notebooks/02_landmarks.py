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
# [![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/jaxnas/jaxnas/blob/main/notebooks/02_landmarks.ipynb)
#
# # Landmarks: a few known architectures pull the ranking
#
# A super-net ranks architectures by the loss each has with the shared weights, and gets many pairs wrong. Suppose that
# a few architectures, the **landmarks**, have been trained alone, so that their order is known. Landmark regularisation
# (Yu, Ranftl and Salzmann, CVPR 2021) adds a term to the training loss that asks the super-net to have these few in
# their known order, in the hope that the others follow. This notebook shows the term on a toy, then on the space of the
# [quickstart](https://github.com/jaxnas/jaxnas/blob/main/notebooks/01_quickstart.ipynb). It takes about a minute on two
# CPU cores.

# %%
# On Colab this installs jaxnas; where it is installed already, nothing happens. pip builds the wheel from the
# repository, which takes git; once jaxnas is on PyPI, source = "jaxnas" takes the wheel from there.
import importlib.util
import subprocess
import sys

if importlib.util.find_spec("jaxnas") is None:
    source = "git+https://github.com/jaxnas/jaxnas"
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", source], check=True)

# %% tags=["parameters"]
NUM_STEPS = 240  # training steps of a super-net
WARMUP_STEPS = 120  # of these, before the regulariser begins
BATCH_SIZE = 64  # training images a step
NUM_LANDMARKS = 30

# %% [markdown]
# The stored outputs are those of the machine that the first line below names. On another number of cores, or another
# device, sums are rounded in another order, and training makes much of small differences: what is printed of a trained
# super-net then differs, a τ by some hundredths. What needs no training is the same everywhere.

# %%
# %matplotlib inline
import jax

from jaxnas import runs

print(f"jax {jax.__version__} on {jax.devices()[0].device_kind}, {runs.num_cores()} cores")

# %% [markdown]
# ## The loss, on a toy
#
# Four architectures with the losses 1.0, 0.6, 0.8 and 0.4 nats. Their `order`, higher is better, says that the first is
# the worst and the last the best, but the second and the third are the wrong way round: the better one has the larger
# loss. Each pair costs `max(0, loss of the better - loss of the worse)`, so of the six pairs only this one costs
# anything, 0.8 - 0.6 = 0.2, and the mean over pairs is 0.2 / 6.

# %% tags=["exact"]
import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from jaxnas.training import ranking_loss

losses = jnp.array([1.0, 0.6, 0.8, 0.4])
order = jnp.array([0.80, 0.85, 0.90, 0.95])  # accuracies of training alone; any unit will do
print("ranking loss:", ranking_loss(losses, order), "=", 0.2 / 6)
print("gradient:    ", jax.grad(ranking_loss)(losses, order))

# %% [markdown]
# The gradient pushes the loss of the third down and of the second **up**: there are two ways to put a pair in order.
# A `margin` asks for a distance, and so goes on pulling at pairs that are in order already but close together.
# Differences in `order` up to `tolerance` are ties, which are dropped. Below, gradient descent on this loss alone.

# %%
figure = Figure(figsize=(9, 3), dpi=80, layout="constrained")
for axes, margin in zip(figure.subplots(1, 2, sharey=True), (0.0, 0.3)):
    track = [losses]
    for _ in range(60):
        track.append(track[-1] - 0.1 * jax.grad(ranking_loss)(track[-1], order, margin=margin))
    for values, accuracy in zip(np.array(track).T, np.array(order)):
        axes.plot(values, label=f"accuracy {accuracy:.2f}")
    axes.set(title=f"margin {margin} nats", xlabel="step of gradient descent", ylabel="loss (nats)")
figure.legend(*axes.get_legend_handles_labels(), loc="outside right center", frameon=False)
figure

# %% [markdown]
# ## Landmarks of a real space
#
# `digits_chain` has 243 architectures, and the accuracy of each, trained alone, comes with jaxnas. Thirty of them,
# drawn at random, are the landmarks. Images are in three parts: one trains the weights, one is the regulariser's, on
# one the super-net is scored.

# %% tags=["exact"]
from jaxnas import codes, costs, datasets, make_evaluator, make_supernet, plotting, ranking, samplers, tables, training
from jaxnas.spaces import digits_chain
from jaxnas.training import landmarks, schedules

data = datasets.load("digits", num_train=500, num_valid=400)
archs = codes.enumerate_archs(digits_chain)
truth = ranking.mean_truth(tables.lookup(tables.load_truth(digits_chain, "digits"), archs, "test_accuracy"))
chosen = landmarks.random_landmarks(jax.random.key(0), len(archs), NUM_LANDMARKS)
others = np.setdiff1d(np.arange(len(archs)), chosen)
macs = costs.arch_costs(digits_chain, archs).macs
print(f"counting MACs: τ of the {len(others)} others {ranking.kendall_tau(macs[others], truth[others]):.3f}")
print(f"landmarks from {truth[chosen].min():.3f} to {truth[chosen].max():.3f}, all from {truth.min():.3f}")

# %% [markdown]
# ## Two steps that differ in one term
#
# `add_losses` sums named terms; a weight may be a schedule. Every step draws eight landmarks and runs them in **one**
# batched forward, which gives all their 28 pairs: what costs is landmarks times images, pairs cost nothing. Through the
# warm-up the term's weight is zero, so the warm-up is trained once, with the step that lacks the term, and both
# super-nets go on from it.

# %%
supernet = make_supernet(digits_chain)
sampler = samplers.fair(digits_chain)
tx = training.sgd(0.1, num_steps=NUM_STEPS, weight_decay=5e-4)
preprocess = training.make_preprocess(data.mean, data.std, crop=1)
cross_entropy = training.make_cross_entropy_loss(supernet, preprocess=preprocess)
pull = landmarks.make_ranking_loss_fn(
    supernet, archs[chosen], truth[chosen], num_per_step=8, margin=0.1, preprocess=preprocess
)
weight = schedules.cosine_increase(30.0, num_steps=NUM_STEPS, warmup_steps=WARMUP_STEPS)
terms = {"cross_entropy": (1.0, cross_entropy), "ranking": (weight, pull)}
plain_step = training.make_train_step(
    supernet, training.add_losses({"cross_entropy": terms["cross_entropy"]}), sampler, tx
)
landmark_step = training.make_train_step(supernet, training.add_losses(terms), sampler, tx)


train_at = training.batches(jax.random.key(1), data.train_images, data.train_labels, BATCH_SIZE)
spare_at = training.batches(jax.random.key(2), data.valid_images[200:], data.valid_labels[200:], 32, split="valid")


def batch_at(number: int) -> training.Batch:
    return train_at(number) | spare_at(number)


def copy(state: training.TrainState) -> training.TrainState:
    return jax.tree.map(lambda leaf: leaf.copy(), state)  # a step consumes the state that it is given


start = training.init_train_state(supernet, sampler, tx, jax.random.key(0))
start = training.fit(plain_step, start, batch_at, WARMUP_STEPS)
baseline = training.fit(plain_step, copy(start), batch_at, NUM_STEPS)
regularised = training.fit(landmark_step, copy(start), batch_at, NUM_STEPS)

# %% [markdown]
# ## What became of the ranking
#
# Kendall's τ of the landmarks themselves says whether the regulariser did what it was asked to. What counts is τ of the
# **others**: of architectures whose accuracy nobody told the super-net.

# %%
evaluate = make_evaluator(supernet).evaluate
images = training.standardise(data.valid_images[:200], data.mean, data.std)
scores = np.stack(
    [-evaluate(state.params, archs, images, data.valid_labels[:200]).loss for state in (baseline, regularised)]
)
for name, row in zip(("without", "with"), scores):
    known = ranking.kendall_tau(row[chosen], truth[chosen])
    unknown = ranking.kendall_tau(row[others], truth[others])
    print(f"{name:8} landmarks: τ of the landmarks {known:.3f}, of the {len(others)} others {unknown:.3f}")

# %%
figure = plotting.rank_scatter(
    scores[1][others],
    truth[others],
    title=f"digits_chain with {NUM_LANDMARKS} landmarks: the architectures that are none",
    score_label="super-net score (minus validation loss, nats)",
    truth_label="stand-alone test accuracy",
    tau=ranking.estimate(ranking.kendall_tau, scores[1][others], truth[others]),
)
figure.set_dpi(100)  # small enough for the page
figure

# %% [markdown]
# ## The same accuracies, spent otherwise
#
# The super-net **without** landmarks has a score for every architecture, and thirty accuracies are known. A predictor
# fitted to those, over score, MACs and code, corrects its ranking without any training. It says as well how sure it is
# of each architecture. Ranks among the known have mean 0 and deviation 1.

# %%
prediction = ranking.predict(archs, chosen, truth[chosen], scores=scores[0], macs=macs)
print(f"{prediction.model}: τ of the others {ranking.kendall_tau(prediction.ranks[others], truth[others]):.3f}")
for row in others[np.argsort(-prediction.ranks[others])[:3]]:
    place = f"{prediction.ranks[row]:.2f} ± {prediction.deviations[row]:.2f}"
    print(codes.to_text(digits_chain, archs[row]), place, f"accuracy {truth[row]:.3f}")

# %% [markdown]
# ## How far to trust this
#
# - It is **one** super-net of each kind. Another seed moves τ by more than most gains, so a gain means something only
#   over several paired seeds, with an interval: `jaxnas landmark --workdir runs/landmark`.
# - Landmarks are extra information: thirty trainings. The fair question is whether the regulariser is the best use of
#   them. The experiment also fits the predictor, for each super-net, and orders the same landmarks by FLOPs, which
#   needs no training. Its figures are in
#   [experiments/README.md](https://github.com/jaxnas/jaxnas/blob/main/experiments/README.md).
# - Other forms (softplus, the authors' biased draw of one pair a step, other schedules and selections) are in
#   [training/landmarks.py](https://github.com/jaxnas/jaxnas/blob/main/jaxnas/training/landmarks.py) and
#   [training/schedules.py](https://github.com/jaxnas/jaxnas/blob/main/jaxnas/training/schedules.py).
