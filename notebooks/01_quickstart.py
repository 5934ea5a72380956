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
# [![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/jaxnas/jaxnas/blob/main/notebooks/01_quickstart.ipynb)
#
# # One super-net, 243 networks, one ranking
#
# Which of many architectures is best? Training each of them alone answers that, and costs a training each. A
# **super-net** is trained once: it holds the weights of every candidate, and each architecture borrows its own from it.
# This notebook trains one on scikit-learn's digits, scores all 243 architectures of a small space with it, and asks how
# far that ranking can be believed. It takes about a minute on two CPU cores.

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
NUM_STEPS = 600  # training steps of the super-net
BATCH_SIZE = 64  # training images a step
NUM_VALID = 300  # images held out of training, on which sub-networks are scored

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
# ## A space, and its codes
#
# `digits_chain` is a chain of five layers. At each, an architecture takes one of three operations: `identity`, or an
# inverted bottleneck that expands its input two or six times (`mb2_k3`, `mb6_k3`). That makes 3⁵ = 243 networks. Each
# is a **code**, five integers that say which operation is taken where, and a population is an array of codes.

# %% tags=["exact"]
import jax

from jaxnas import codes, costs, datasets, make_evaluator, make_supernet, plotting, ranking, samplers, tables, training
from jaxnas.spaces import digits_chain

data = datasets.load("digits", num_train=600, num_valid=NUM_VALID)
archs = codes.enumerate_archs(digits_chain)  # int32 [num_archs, num_choices]
print(f"{len(archs)} codes; number 100 is {archs[100]}:")
print(" -> ".join(names[op] for names, op in zip(digits_chain.op_names, archs[100])))

# %% [markdown]
# ## Train the super-net
#
# `params` is one tree of arrays: layer, then candidate, then weights. Every step draws a few architectures and adds up
# their gradients. The `fair` sampler draws three whose operations differ at every layer, so that each candidate is
# trained equally often. `training.batches` makes a batch out of the step's number, so that a training that is
# interrupted can go on as if it had not been (`jaxnas.runs.resumable` does that, with checkpoints in a folder).

# %% tags=["exact"]
supernet = make_supernet(digits_chain)
sampler = samplers.fair(digits_chain)
tx = training.sgd(0.1, num_steps=NUM_STEPS, weight_decay=5e-4)  # any optax transformation will do
loss_fn = training.make_cross_entropy_loss(supernet, preprocess=training.make_preprocess(data.mean, data.std, crop=1))
step = training.make_train_step(supernet, loss_fn, sampler, tx)
state = training.init_train_state(supernet, sampler, tx, jax.random.key(0))
print(f"{sum(leaf.size for leaf in jax.tree.leaves(state.params)):,} weights; a step trains, for instance,")
print(sampler.sample(jax.random.key(1), state.sampler_state))


# %%
def show(steps: int, figures: dict[str, float], state: training.TrainState) -> None:
    print(f"{steps} steps: loss {figures['loss']:.3f} nats, accuracy {figures['accuracy']:.3f}")


batch_at = training.batches(jax.random.key(2), data.train_images, data.train_labels, BATCH_SIZE)
state = training.fit(step, state, batch_at, NUM_STEPS, report_at=lambda steps: steps % 100 == 0, callbacks=[show])

# %% [markdown]
# ## Score a handful, by hand
#
# `supernet.apply` runs **one** architecture; `jax.vmap` over codes runs many. A `vmap` over `lax.switch` would run all
# candidates for every architecture and throw most of that away. Here the architectures are grouped by what they chose,
# and each candidate runs only for those that take it. (`apply` also returns the batch-norm statistics that it used;
# they are left aside here.)

# %%
images = training.standardise(data.valid_images, data.mean, data.std)
labels = data.valid_labels


@jax.jit
def logits_of(archs):
    return jax.vmap(lambda code: supernet.apply(state.params, code, images[:100])[0])(archs)


logits = logits_of(archs[::60])  # [num_archs, num_images, num_classes]
for code, share in zip(archs[::60], (logits.argmax(axis=-1) == labels[None, :100]).mean(axis=1)):
    print(codes.to_text(digits_chain, code), f"{share:.2f} of 100 images right")

# %% [markdown]
# ## Score every one, and compare with the truth
#
# `make_evaluator` gives the loss and accuracy of any number of architectures on a whole split, in calls that fit a
# memory budget and run as suits the device. The **truth** comes with jaxnas: each of the 243 networks trained alone,
# five times. **Kendall's τ** compares two rankings: 1 where they order every pair alike, 0 where they agree no more
# than by chance, −1 where one is the other reversed. Its 95 % interval says how much τ would vary with other
# architectures.
#
# Two figures to hold it against. A ranking must beat counting **MACs**, which needs no training at all. And the truth
# has noise of its own: **one training seed with another** says how well two rankings by stand-alone training agree.
# `ranking.report` gives these and whatever else belongs beside a τ; higher has to be better, hence minus the loss.

# %% tags=["exact"]
truth = tables.lookup(tables.load_truth(digits_chain, "digits"), archs, "test_accuracy")  # [num_archs, num_seeds]
macs = costs.arch_costs(digits_chain, archs).macs
print(f"counting MACs: τ {ranking.kendall_tau(macs, ranking.mean_truth(truth)):.3f}")
print(f"one training seed with another: τ {ranking.seed_kendall_tau(truth):.3f}")

# %%
scores = make_evaluator(supernet).evaluate(state.params, archs, images, labels)
report = ranking.report(-scores.loss, truth, accuracies=scores.accuracy, macs=macs)
print(report)

# %%
figure = plotting.rank_scatter(
    -scores.loss,
    ranking.mean_truth(truth),
    title=f"digits_chain on digits: one super-net, {NUM_STEPS} steps",
    score_label="super-net score (minus validation loss, nats)",
    truth_label="stand-alone test accuracy",
    tau=report.kendall_tau,
    macs=macs,
)
figure.set_dpi(100)  # small enough for the page
figure

# %% [markdown]
# ## What to read next
#
# - One super-net is one draw: other seeds give another τ, and the interval above doesn't know that. From a clone,
#   `jaxnas rank_correlation --num-seeds 5 --workdir runs/seeds` trains five, and its interval is over
#   architectures and super-nets.
# - The same command ranks NAS-Bench-201 and NAS-Bench-Macro on CIFAR-10 against their published tables: figures in
#   [experiments/README.md](https://github.com/jaxnas/jaxnas/blob/main/experiments/README.md).
# - A search space, an operation or a sampler of your own:
#   [README.md](https://github.com/jaxnas/jaxnas/blob/main/README.md) and
#   [CONTRIBUTING.md](https://github.com/jaxnas/jaxnas/blob/main/CONTRIBUTING.md).
