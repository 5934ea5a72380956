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
# [![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/jaxnas/jaxnas/blob/main/notebooks/04_policies.ipynb)
#
# # Three policies, side by side
#
# A super-net can be trained first and searched afterwards. A **policy** searches while it trains: it proposes what the
# shared weights train on, learns from how well that does, and ends with one architecture. "Evaluating the Search Phase
# of NAS" (Yu et al., ICLR 2020) asked what this is worth, and compared policies with the simplest one there is, a
# **single uniform draw**. This notebook watches three of them on a space where every answer is known: `random`, a
# controller (`enas`), and a mixture (`darts`). It takes about three minutes on two CPU cores.

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
NUM_STEPS = 300  # training steps of the shared weights, after each of which a policy learns once
BATCH_SIZE = 64  # images a step, to train on and to be judged on
NUM_VALID = 300  # images held out of training, from which the policies learn

# %% [markdown]
# The stored outputs are those of the machine that the first line below names. On another number of cores, or another
# device, sums are rounded in another order, and a search makes much of small differences: it may end elsewhere.

# %%
# %matplotlib inline
import jax

from jaxnas import runs

print(f"jax {jax.__version__} on {jax.devices()[0].device_kind}, {runs.num_cores()} cores")

# %% [markdown]
# ## What there is to find
#
# `digits_chain` has five layers with three operations each. All 243 networks were trained alone, five times, and the
# table of their accuracies comes with jaxnas. Here it judges what a policy ends with; no policy sees it.

# %% tags=["exact"]
import jax
import numpy as np

from jaxnas import codes, datasets, make_evaluator, make_supernet, plotting, policies, ranking, tables, training
from jaxnas.spaces import digits_chain

data = datasets.load("digits", num_train=600, num_valid=NUM_VALID)
archs = codes.enumerate_archs(digits_chain)  # int32 [243, 5]
truth = ranking.mean_truth(tables.lookup(tables.load_truth(digits_chain, "digits"), archs, "test_accuracy"))
print(f"a uniform draw is worth {truth.mean():.3f} on average")
for share in (0.0, 0.5, 0.9, 1.0):
    print(f"{share:4.0%} of the networks are at or below {np.quantile(truth, share):.3f}")

# %% [markdown]
# ## What they propose
#
# All policies keep one contract: `init` a state, `propose` what is trained next, `update` the state by feedback, and
# `decide` in the end.
#
# - `random` proposes a uniform code, and never learns.
# - `enas` draws codes choice by choice from a recurrent network, the controller. Feedback is the accuracy of some codes
#   on held-out images; codes that did better than usual become more likely.
# - `darts` proposes **weights**: each layer runs all of its operations, and adds their outputs up by a softmax of
#   parameters α. Feedback is the derivative of the held-out loss with respect to α.
#
# The published searches are far longer. Here both that learn do so at ten times the published rate.

# %% tags=["exact"]
supernet = make_supernet(digits_chain)
searched = {
    "random": policies.POLICIES["random"](supernet),
    "enas": policies.POLICIES["enas"](supernet, learning_rate=1e-2, num_asked=10),
    "darts": policies.POLICIES["darts"](supernet, learning_rate=3e-3),
}
for name, policy in searched.items():
    proposed = np.asarray(policy.propose(jax.random.key(1), policy.init(jax.random.key(0))))
    print(f"{name} proposes {proposed.dtype} {list(proposed.shape)}:")
    print(np.round(proposed[0], 2))

# %% [markdown]
# ## Train the weights, and the policy with them
#
# `make_search_training` makes one step of both: the weights follow the loss of what is proposed, on training images;
# then the policy learns, on images held out. The step is run by `training.fit` as any other, and the policy's state
# lies in the train state, so that checkpoints hold it too.
#
# On the way we ask each policy how it would bet. `prefer` says it of any codes: the controller's log-probabilities, of
# a mixture the sum of its parameters. The softmax over all 243 codes makes both a probability, at every moment.

# %%
import scipy.special

preprocess = training.make_preprocess(data.mean, data.std, crop=1)
loss_fn = training.make_cross_entropy_loss(supernet, preprocess=preprocess)
tx = training.sgd(0.1, num_steps=NUM_STEPS, weight_decay=5e-4)
train_key, valid_key, last_key = jax.random.split(jax.random.key(2), 3)
batch_at = training.batches(train_key, data.train_images, data.train_labels, BATCH_SIZE)
valid_at = training.batches(valid_key, data.valid_images, data.valid_labels, BATCH_SIZE, split="valid")
after_each_step = policies.Timetable(first=0, every=1)

bets = {name: [np.full(len(archs), 1 / len(archs))] for name in searched}  # probabilities of all codes, every ten steps
states = {}
for name, policy in searched.items():

    def bet(steps, figures, state, name=name, policy=policy):
        if policy.prefer is not None:
            bets[name].append(scipy.special.softmax(policy.prefer(state.sampler_state.policy, archs)))
        if steps % (NUM_STEPS // 2) == 0:
            print(f"{name:6} {steps} steps: loss {figures['loss']:.3f} nats, accuracy {figures['accuracy']:.3f}")

    search = policies.make_search_training(
        supernet, policy, loss_fn, tx, timetable=after_each_step, valid_at=valid_at, preprocess=preprocess
    )
    states[name] = training.fit(
        search.step,
        search.init(jax.random.key(0)),
        batch_at,
        NUM_STEPS,
        report_at=lambda steps: steps % max(1, NUM_STEPS // 30) == 0,
        callbacks=[bet],
    )

# %% [markdown]
# ## What they learn
#
# Each column is a layer, from the first to the last, each row a policy; colours are the probabilities of the three
# operations over the training, which begin at a third each. The controller hesitates as long as the shared weights tell
# codes apart by little, then settles within a hundred steps. The mixture hardly leaves the thirds that it began with.

# %%
from matplotlib.figure import Figure

COLOURS = ("#999999", "#56B4E9", "#0072B2")  # identity, and blocks of expansion 2 and 6
learning = [name for name in searched if len(bets[name]) > 1]
figure = Figure(figsize=(8.5, 3.6), dpi=90, layout="constrained")
rows = figure.subplots(len(learning), digits_chain.num_choices, sharex=True, sharey=True, squeeze=False)
one_hot = np.asarray(supernet.weights(archs))  # [num_archs, num_choices, num_ops]
for name, panels in zip(learning, rows):
    marginals = np.einsum("ta,aco->cot", np.array(bets[name]), one_hot)
    steps = np.linspace(0, NUM_STEPS, marginals.shape[-1])
    for choice, axes in enumerate(panels):
        axes.stackplot(steps, marginals[choice], colors=COLOURS, labels=digits_chain.op_names[choice])
        axes.set(xlim=(0, NUM_STEPS), ylim=(0, 1), yticks=(0, 0.5, 1))
        if name == learning[0]:
            axes.set_title(f"layer {choice + 1}", fontsize=10)
    panels[0].set_ylabel(name)
figure.supxlabel("training step", fontsize=10)
figure.legend(*rows[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=3, frameon=False)
figure

# %% [markdown]
# What are these bets worth? Above, how **sure** a policy is: the entropy of its bets, $\log_2 243 = 7.9$ bits where all
# codes are equally likely and 0 where one is certain. Below, the **stand-alone accuracy of a code drawn** by them, from
# the table, with the quantiles of the space. A policy that becomes sure without getting better has learnt something
# about the shared weights that isn't so of networks trained alone; here surer is better. The mixture stays unsure: what
# it ends with are the largest of nearly equal weights.

# %%
figure = Figure(figsize=(7, 4.6), dpi=90, layout="constrained")
sure, worth = figure.subplots(2, sharex=True)
styles = {"random": ("#666666", ":"), "enas": ("#D55E00", "-"), "darts": ("#0072B2", "-")}
for name, (colour, dashes) in styles.items():
    bet = np.array(bets[name] if len(bets[name]) > 1 else bets[name] * 2)
    steps = np.linspace(0, NUM_STEPS, len(bet))
    sure.plot(steps, -(bet * np.log2(np.maximum(bet, 1e-30))).sum(axis=1), color=colour, linestyle=dashes, label=name)
    worth.plot(steps, bet @ truth, color=colour, linestyle=dashes)
for share, label in ((0.5, "median"), (0.9, "90 %"), (1.0, "best")):
    worth.axhline(np.quantile(truth, share), color="#cccccc", zorder=0)
    worth.annotate(label, (NUM_STEPS, np.quantile(truth, share)), fontsize=8, color="#666666", ha="right", va="bottom")
sure.set(ylabel="entropy, bits", ylim=(0, None))
worth.set(ylabel="accuracy of a draw", xlabel="training step", xlim=(0, NUM_STEPS))
figure.legend(loc="outside upper center", ncols=3, frameon=False)
for axes in (sure, worth):
    axes.spines[["top", "right"]].set_visible(False)
figure

# %% [markdown]
# ## What they end with
#
# `random` draws one code. `enas` draws a hundred and takes the one whose accuracy with the shared weights is highest on
# the held-out images. `darts` takes the operation with the largest weight at each layer.

# %%
evaluator = make_evaluator(supernet)
images = training.standardise(data.valid_images, data.mean, data.std)
ends = {}
for name, policy in searched.items():

    def score(some, name=name):
        return evaluator.evaluate(states[name].params, some, images, data.valid_labels).accuracy

    code = policy.decide(last_key, states[name].sampler_state.policy, score)
    ends[name] = truth[(archs == code).all(axis=1)]
    place = 1 + int((truth > ends[name]).sum())
    print(f"{name:6} {codes.to_text(digits_chain, code)}: {ends[name][0]:.3f}, number {place} of {len(archs)}")

# %%
title = "What three policies end with, digits_chain on digits, one seed"
figure = plotting.outcomes({"shared weights": ends}, truth, title=title, accuracy_label="stand-alone test accuracy")
figure.set_dpi(100)  # small enough for the page
figure

# %% [markdown]
# ## What to read next
#
# - **One seed says next to nothing.** The random policy may be lucky, and a search may be. From a clone,
#   `jaxnas search_phase --workdir runs/policies` repeats this with several seeds, tests the difference
#   to the random policy, and feeds the same policies with the table instead of the shared weights. Its figures on
#   NAS-Bench-201 are in [experiments/README.md](https://github.com/jaxnas/jaxnas/blob/main/experiments/README.md).
# - More policies: `reinforce`, second-order `darts`, `gdas`, `pc_darts`, `fbnet`, `bayesnas`, `nao`; a hard limit on
#   MACs or latency is their second argument. One of your own:
#   [CONTRIBUTING.md](https://github.com/jaxnas/jaxnas/blob/main/CONTRIBUTING.md).
