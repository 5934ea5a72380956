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
# [![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/jaxnas/jaxnas/blob/main/notebooks/06_fingerprints.ipynb)
#
# # What a super-net knows beyond its mean loss
#
# A super-net is asked one thing of each architecture: its mean loss on held-out images. But it says more, a loss on
# every image, and what a sub-network does on each of them is a **fingerprint** of its architecture. This notebook takes
# the fingerprints of all 243 networks of a small space, asks what is in them, and lets them help where a few
# stand-alone accuracies are known. It takes about two minutes on two CPU cores.

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
NUM_DRAWS = 10  # of labels

# %% [markdown]
# The stored outputs are those of the machine that the first line below names. On another number of cores, or another
# device, sums are rounded in another order, and training makes much of small differences.

# %%
# %matplotlib inline
import jax

from jaxnas import runs

print(f"jax {jax.__version__} on {jax.devices()[0].device_kind}, {runs.num_cores()} cores")

# %% [markdown]
# ## Networks, their truth, and a baseline
#
# The truth comes with jaxnas: each network of `digits_chain` trained alone, five times. What can be had without any
# super-net is what every use of one has to beat: counting MACs, or a few of the accuracies with codes and MACs.

# %% tags=["exact"]
import numpy as np

from jaxnas import codes, costs, datasets, make_evaluator, make_supernet, plotting, ranking, samplers, tables, training
from jaxnas.spaces import digits_chain

archs = codes.enumerate_archs(digits_chain)  # int32 [num_archs, num_choices]
truth = ranking.mean_truth(tables.lookup(tables.load_truth(digits_chain, "digits"), archs, "test_accuracy"))
counted = costs.arch_costs(digits_chain, archs)
print(f"counting MACs: τ {ranking.kendall_tau(counted.macs, truth):.3f}")

known = np.random.default_rng(0).permutation(len(archs))[:30]
by_codes = ranking.predict(archs, known, truth[known], macs=counted.macs)
others = np.setdiff1d(np.arange(len(archs)), known)  # a known accuracy is no prediction
print(f"30 labels, codes and MACs: τ {ranking.kendall_tau(by_codes.ranks[others], truth[others]):.3f}")

# %% [markdown]
# ## A super-net that says what it does on each image
#
# Trained as in the first notebook. `per_image=True` makes the evaluator keep the loss on each image, and whether it was
# right.

# %%
data = datasets.load("digits", num_train=600, num_valid=NUM_VALID)
supernet = make_supernet(digits_chain)
sampler = samplers.fair(digits_chain)
tx = training.sgd(0.1, num_steps=NUM_STEPS, weight_decay=5e-4)
loss_fn = training.make_cross_entropy_loss(supernet, preprocess=training.make_preprocess(data.mean, data.std, crop=1))
step = training.make_train_step(supernet, loss_fn, sampler, tx)
state = training.init_train_state(supernet, sampler, tx, jax.random.key(0))
batch_at = training.batches(jax.random.key(2), data.train_images, data.train_labels, BATCH_SIZE)
state = training.fit(step, state, batch_at, NUM_STEPS)

images = training.standardise(data.valid_images, data.mean, data.std)
scores = make_evaluator(supernet, per_image=True).evaluate(state.params, archs, images, data.valid_labels)
print(f"losses {scores.image_loss.shape}; the mean loss ranks with τ {ranking.kendall_tau(-scores.loss, truth):.3f}")

# %% [markdown]
# ## Fingerprints
#
# The logarithms of the losses, less their mean on each image, are reduced to principal components: the few directions
# in which architectures differ most, found without any label. A component is kept where half of the images finds what
# the other half found.

# %%
prints = ranking.fingerprints(scores.image_loss)
print(f"{prints.features.shape[1]} components; of the first five")
print(f"shares of the variance {np.round(prints.shares[:5], 2)}, found again {np.round(prints.found_again[:5], 2)}")

# %% [markdown]
# What are they? Kendall's τ of each with what is known of the networks. Two measures need all ten logits of each image:
# how sure a network is beyond how often it is right, and how large its logits are.

# %%
logits = jax.jit(lambda: jax.lax.map(lambda code: supernet.apply(state.params, code, images)[0], archs))()
confidence = np.asarray(jax.nn.softmax(logits).max(axis=-1).mean(axis=-1))
size = np.asarray(logits.std(axis=-1).mean(axis=-1))
measures = {
    "stand-alone accuracy": truth,
    "MACs": counted.macs,
    "parameters": counted.params,
    "layers that do something": (archs > 0).sum(axis=1),  # code 0 is identity
    "minus mean loss": -scores.loss,
    "super-net accuracy": scores.accuracy,
    "confidence less accuracy": confidence - scores.accuracy,
    "size of logits": size,
}
shown = prints.features[:, :5] * np.sign(
    [ranking.kendall_tau(column, -scores.loss) for column in prints.features.T[:5]]
)
taus = [[ranking.kendall_tau(column, measure) for column in shown.T] for measure in measures.values()]
figure = plotting.correlations(
    {"Kendall's τ": taus},
    list(measures),
    [f"component {place + 1}\n{share:.0%}" for place, share in enumerate(prints.shares[:5])],
    title="digits_chain: what each component says, and its share of the variance",
)
figure.set_dpi(100)
figure

# %% [markdown]
# ## One factor, and what it says against itself
#
# If quality is what networks differ in most, the first component is quality, up to its sign: architectures are the
# examinees of a test, images its items. `one_factor` takes it for a score and says when not to. The table above warns:
# the component is even nearer to the size of the logits, to how sure networks are. Here the sure ones are the good
# ones. In other spaces they may not be, and a factor that helps on one half of the images and hurts on the other is
# doubted.

# %%
factor = ranking.one_factor(scores.image_loss)
print(f"τ {ranking.kendall_tau(factor.scores, truth):.3f}; trusted: {factor.trusted}; doubts: {factor.doubts}")
print(f"share {factor.share:.2f}, halves {factor.split_half:.2f}, τ with the mean loss {factor.agreement:.2f}")
print(f"on {factor.same_way:.0%} of the images whoever has more of it does better")

# %% [markdown]
# ## Images that carry the factor
#
# How much better does a good network do on an image? `loadings` are that correlation. Images of high loading tell
# networks apart. Those of negative loading are done *worse* by better networks: they look like another class.

# %%
loading = ranking.loadings(scores.image_loss, factor.scores)
order = np.argsort(loading)
groups = {
    "highest loading: better networks do better": order[::-1][:8],
    "lowest: better networks do worse, or no better": order[:8],
}
mean_loss = scores.image_loss.mean(axis=0)
figure = plotting.pictures(
    {name: data.valid_images[rows] for name, rows in groups.items()},
    {
        name: [f"a {data.valid_labels[row]}, {loading[row]:.2f}\nloss {mean_loss[row]:.2f}" for row in rows]
        for name, rows in groups.items()
    },
    title="label, loading, and mean loss of all networks",
)
figure.set_dpi(100)
figure

# %% [markdown]
# ## Thirty labels
#
# A few accuracies by training alone say which component is quality, and how codes and costs go with it. The same labels
# without a super-net are the baseline; draws of labels vary, so several are compared in pairs. On this space nearly all
# of the gain is in the mean loss already; on NAS-Bench-201 most of it is in the fingerprints.

# %%
taus = {"codes and MACs": [], "and mean loss": [], "and fingerprints": []}
for draw in range(NUM_DRAWS):
    known = np.random.default_rng(draw).permutation(len(archs))[:30]
    others = np.setdiff1d(np.arange(len(archs)), known)
    for given, name in zip(
        ({}, {"scores": -scores.loss}, {"scores": -scores.loss, "fingerprints": prints.features}), taus
    ):
        ranks = ranking.predict(archs, known, truth[known], macs=counted.macs, **given).ranks
        taus[name].append(ranking.kendall_tau(ranks[others], truth[others]))
for name, values in taus.items():
    print(f"{name}: τ {np.mean(values):.3f}, from {min(values):.3f} to {max(values):.3f}")
gain = np.subtract(taus["and fingerprints"], taus["codes and MACs"])
print(f"fingerprints less codes and MACs, paired: {ranking.estimate_mean(gain).text(digits=3)}")

# %% [markdown]
# ## Which labels to buy next
#
# `next_labels` names the networks whose accuracies would tell most, given those that are known.

# %%
prediction = ranking.predict(
    archs, known, truth[known], scores=-scores.loss, macs=counted.macs, fingerprints=prints.features
)
bought = prediction.next_labels(10)
print("train next:", ", ".join(codes.to_text(digits_chain, code) for code in archs[bought]))
more = np.append(known, bought)
others = np.setdiff1d(np.arange(len(archs)), more)
after = ranking.predict(archs, more, truth[more], scores=-scores.loss, macs=counted.macs, fingerprints=prints.features)
before, now = (ranking.kendall_tau(each.ranks[others], truth[others]) for each in (prediction, after))
print(f"τ of the rest before {before:.3f}, with them {now:.3f}")

# %% [markdown]
# ## What to read next
#
# - What the components are on NAS-Bench-201 and NAS-Bench-Macro, and which trainings make the first one quality:
#   [docs/fingerprints.md](https://github.com/jaxnas/jaxnas/blob/main/docs/fingerprints.md).
# - How many labels a super-net saves, with intervals over super-nets: `jaxnas label_budget`, and its figures in
#   [experiments/README.md](https://github.com/jaxnas/jaxnas/blob/main/experiments/README.md).
