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
# [![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/jaxnas/jaxnas/blob/main/notebooks/03_pcnas.ipynb)
#
# # Narrow the space while the super-net trains
#
# Weights that many architectures share fit none of them well, and the more share them, the worse: the PC-NAS paper
# ([arXiv 1910.02543](https://arxiv.org/abs/1910.02543)) calls it "posterior fading". Its remedy is to train on fewer
# and fewer. The search keeps a **pool of partial architectures**, decides one more choice at a time, and trains the
# super-net on the pool's completions only. A **hard limit**, here on multiply-accumulates (MACs), holds at every
# moment.
#
# This notebook does that by hand on scikit-learn's digits; it takes about a minute on two CPU cores.

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
NUM_WARM_UP_STEPS = 500  # on all that is feasible
NUM_INTERVAL_STEPS = 200  # after each choice that is decided
BATCH_SIZE = 64  # training images a step
NUM_VALID = 300  # images held out of training, on which architectures are scored

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
# ## A limit, and what it leaves
#
# `digits_chain` has five choices of three operations: 243 architectures, each a code of five integers. `Region`
# counts those within a limit without listing them, and draws from them uniformly without trial and error, also where
# some choices are decided already (`OPEN`, −1, stands for those that aren't).

# %% tags=["exact"]
import jax
import numpy as np

from jaxnas import datasets, make_evaluator, make_supernet, plotting, tables, training
from jaxnas.costs import limits
from jaxnas.samplers import replay, replayed
from jaxnas.search import pcnas, regions
from jaxnas.spaces import digits_chain

limit = limits.parse("macs:50e3", digits_chain)
region = regions.Region(digits_chain, limit)
low, high = region.bounds()
print(f"architectures have {low:,.0f} to {high:,.0f} MACs; {region.count()} of {digits_chain.size} meet {limit}")
begun = np.array([0, 2, regions.OPEN, regions.OPEN, regions.OPEN])
print(f"{region.count(begun)} of them begin with 0 2; three draws from these:")
codes = region.sample(np.random.default_rng(0), 3, begun)
for code, macs in zip(codes, limit.costs(codes)):
    print(f"{code}  {macs:,.0f} MACs")

# %% [markdown]
# ## The search is a few pure functions
#
# Its state is a key and the pool. `ask` extends every prefix of the pool by each operation of the next choice and draws
# feasible completions of each; `tell` takes their scores, averages them into the candidates' **potentials** and keeps
# the best as the new pool; `draw` draws training populations from the pool. Nothing is ever drawn that the limit
# forbids.

# %% tags=["exact"]
search = pcnas(digits_chain, limit, pool_size=4, num_completions=10)
state = search.init(jax.random.key(0))
extension = search.ask(state)
print("the pool:", state.pool.tolist())
print("its extensions:", extension.candidates.tolist())
print(f"{len(extension.archs)} completions to score, such as {extension.archs[0]}")

# %% [markdown]
# ## Train, choose, train
#
# The super-net is trained as any other, one architecture a step. `replayed` replays what `draw` drew.

# %%
data = datasets.load("digits", num_train=600, num_valid=NUM_VALID)
supernet = make_supernet(digits_chain)
num_steps = NUM_WARM_UP_STEPS + digits_chain.num_choices * NUM_INTERVAL_STEPS
populations = max(NUM_WARM_UP_STEPS, NUM_INTERVAL_STEPS)
sampler = replayed(digits_chain, num_archs=1, num_steps=populations)
tx = training.sgd(0.1, num_steps=num_steps, weight_decay=5e-4)
preprocess = training.make_preprocess(data.mean, data.std, crop=1)
loss_fn = training.make_cross_entropy_loss(supernet, preprocess=preprocess)
step = training.make_train_step(supernet, loss_fn, sampler, tx)
evaluate = make_evaluator(supernet).evaluate
images = training.standardise(data.valid_images, data.mean, data.std)


batch_at = training.batches(jax.random.key(2), data.train_images, data.train_labels, BATCH_SIZE)


def train(trained, state, num_steps):
    """`num_steps` more, on completions of the pool."""
    trained = trained._replace(sampler_state=replay(search.draw(state, populations), num_archs=1))
    return training.fit(step, trained, batch_at, int(trained.step) + num_steps)


def accuracy(trained, archs):
    return evaluate(trained.params, archs, images, data.valid_labels).accuracy


trained = training.init_train_state(supernet, sampler, tx, jax.random.key(1))
trained = train(trained, state, NUM_WARM_UP_STEPS)
potentials, kept, shares = [], [], []
while True:
    was_complete = search.is_complete(state)
    extension = search.ask(state)
    scores = accuracy(trained, extension.archs)
    state = search.tell(state, extension, scores)
    potentials.append(extension.potentials(scores))
    kept.append(len(state.pool))
    shares.append(sum(region.count(prefix) for prefix in state.pool) / region.count())
    prefixes = ", ".join("".join("?" if op < 0 else str(op) for op in prefix) for prefix in state.pool.tolist())
    candidates = plotting.counted(len(extension.candidates), "candidate")
    print(f"{candidates}; pool {prefixes}; {plotting.percent(shares[-1])} of the space left")
    if was_complete:
        break
    trained = train(trained, state, NUM_INTERVAL_STEPS)

# %% [markdown]
# Five choices are five steps; the sixth ranks the pool once more, under the weights that it was trained to. Potentials
# rise over the search: training goes on, the worst candidates go, and the weights adapt to those that stay.

# %%
figure = plotting.narrowing(
    potentials,
    kept,
    shares,
    title=f"PC-NAS on digits_chain, {limit}: {region.count()} feasible architectures",
    potential_label="potential (validation accuracy)",
)
figure.set_dpi(100)  # small enough for the page
figure

# %% [markdown]
# ## What was found
#
# The paper trains the last pool from scratch and returns the most accurate network. Here a table with all 243 trained
# alone, five times each, comes with jaxnas. `make_judge` lets one of the five trainings choose among the pool, and the
# others judge: a figure that chose is no longer a fair one to report.

# %%
judge = tables.make_judge(tables.load_truth(digits_chain, "digits"), region.contains)
chosen = judge.outcome(state.pool)
(found,) = judge.accuracy(chosen[None])
print(" -> ".join(names[op] for names, op in zip(digits_chain.op_names, chosen)))
print(f"{limit.costs(chosen[None])[0]:,.0f} MACs of {limit.value:,.0f}")
print(f"accuracy alone {found:.4f}: number {judge.rank(chosen)} of {len(judge.feasible)} feasible architectures")
print(f"the best has {judge.feasible[0]:.4f}, the median {np.median(judge.feasible):.4f}")

# %% [markdown]
# ## What to read next
#
# - One search is one draw. `jaxnas search_compare --workdir runs/compare` sets PC-NAS
#   against SPOS, regularised evolution and random search on a uniform super-net, at equal cost and over several seeds;
#   `jaxnas pcnas` does one search with all its figures. What they gave is in
#   [experiments/README.md](https://github.com/jaxnas/jaxnas/blob/main/experiments/README.md).
# - Limits on parameters, on measured latency or on a cost of your own:
#   [costs/limits.py](https://github.com/jaxnas/jaxnas/blob/main/jaxnas/costs/limits.py) and
#   [costs/latency.py](https://github.com/jaxnas/jaxnas/blob/main/jaxnas/costs/latency.py).
