"""Recurrent cells on text: the space, its super-net against a loop in NumPy, training that remembers."""

import dataclasses
import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.special

from jaxnas.codes import enumerate_archs, sample, to_index
from jaxnas.costs import arch_costs
from jaxnas.evaluation import make_evaluator, merits
from jaxnas.export import export, flax_module
from jaxnas.runs import checkpoint
from jaxnas.samplers import uniform
from jaxnas.samplers.sampler import Sampler
from jaxnas.spaces import darts_rnn, rnn32, rnn_space
from jaxnas.supernets import Drawn, Policy, make_supernet
from jaxnas.training import batches, fit, init_train_state, make_cross_entropy_loss, make_train_step
from jaxnas.training.landmarks import make_ranking_loss_fn

WIDTH, CLASSES, LENGTH = 5, 7, 6
SMALL = rnn32.resized(width=WIDTH, num_classes=CLASSES, num_words=LENGTH)
CODES = enumerate_archs(SMALL)
RNG = np.random.default_rng(0)
WORDS = RNG.integers(0, CLASSES, (4, LENGTH))
NEXT = RNG.integers(0, CLASSES, (4, LENGTH))
ACTIVATIONS = {
    "tanh": np.tanh,
    "relu": lambda h: np.maximum(h, 0),
    "sigmoid": scipy.special.expit,
    "identity": lambda h: h,
}


@pytest.fixture(scope="module")
def supernet():
    return make_supernet(SMALL)


@pytest.fixture(scope="module")
def params(supernet):
    """Large enough that activations bend."""
    return jax.tree.map(lambda leaf: 3 * leaf, supernet.init(jax.random.key(0)))


# --- the space


def published(code):
    """8 slot(node 1) + slot(node 2), slot = 4 source + op."""
    return 8 * code[0] + 4 * code[1] + code[2]


def test_numbers_are_the_published_ones():
    assert [published(code) for code in CODES.tolist()] == to_index(rnn32, CODES).tolist() == list(range(32))
    assert rnn32.num_ops == (4, 2, 4) and darts_rnn.size == 40_320 * 4**8


def test_published_cells_are_those_of_their_numbers(data_dir):
    path = data_dir / "rnn32_ranking.json"
    if not path.exists():
        pytest.skip(f"{path} is not there: it holds the published order of the 32 cells")
    content = json.loads(path.read_text())
    names = [[[rnn32.op_names[0][op1], 0], [rnn32.op_names[2][op2], source]] for op1, source, op2 in CODES.tolist()]
    assert content["cells"] == names and sorted(content["order_best_first"]) == list(range(32))


def test_26_networks_and_their_six_twins():
    same = to_index(rnn32, rnn32.isomorphs(CODES))
    assert len(set(same.tolist())) == 26
    twins = {(int(one), number) for number, one in enumerate(same) if one != number}
    assert twins == {(1, 8), (2, 16), (10, 17), (3, 24), (11, 25), (19, 26)}  # [(a, 0), (b, 0)] and [(b, 0), (a, 0)]


def renamed(code):
    """Every code of the same network, by brute force: nodes counted in each order that has sources first."""
    ops, sources = code[::2], [0, *code[1::2]]
    for order in itertools.permutations(range(len(ops))):
        number = {0: 0} | {node + 1: place for place, node in enumerate(order, 1)}
        pairs = [(number[sources[node]], ops[node]) for node in order]
        if all(source <= place for place, (source, _) in enumerate(pairs)):
            yield tuple(itertools.chain(*pairs))[1:]


@pytest.mark.parametrize("num_nodes", [2, 3, 4])
def test_isomorphs_are_the_classes_of_renamed_nodes(num_nodes):
    space = rnn_space(num_nodes)
    archs = enumerate_archs(space)
    if num_nodes == 4:
        archs = archs[RNG.choice(len(archs), 300, replace=False)]
    for code, found in zip(archs.tolist(), space.isomorphs(archs).tolist(), strict=True):
        same = np.array(sorted(set(renamed(code))))
        assert tuple(found) in set(map(tuple, same.tolist()))
        assert len(np.unique(space.isomorphs(same), axis=0)) == 1


@pytest.mark.parametrize("num_nodes", [1, 9, 2.0])
def test_numbers_of_nodes(num_nodes):
    with pytest.raises(ValueError, match="num_nodes"):
        rnn_space(num_nodes)


# --- the super-net


def cell(params, code, words, memory, most_norm=25.0):
    """Logits [num_rows, length, classes] and memory, word by word."""
    of = {name: np.asarray(next(iter(tree.values())).get("matrix", 0), np.float64) for name, tree in params.items()}
    table = np.asarray(params["words"]["words"]["table"], np.float64)
    ops, sources = code[::2], [0, *code[1::2]]
    logits = []
    for word in words.T:
        gate, candidate = np.split(np.concatenate([table[word], memory], axis=1) @ of["input"], 2, axis=1)
        states = [memory + scipy.special.expit(gate) * (np.tanh(candidate) - memory)]
        for node, (op, source) in enumerate(zip(ops, sources, strict=True), 1):
            state = states[source]
            gate, candidate = np.split(state @ of[f"node{node}"], 2, axis=1)
            moved = ACTIVATIONS[SMALL.op_names[0][op]](candidate)
            states.append(state + scipy.special.expit(gate) * (moved - state))
        memory = np.mean(states[1:], axis=0)
        norm = np.linalg.norm(memory, axis=1, keepdims=True)
        memory = memory * np.minimum(1, most_norm / norm)
        logits.append(memory @ table.T + np.asarray(params["head"]["head"]["bias"]))
    return np.stack(logits, axis=1), memory


@pytest.mark.parametrize("most_norm", [25.0, 0.5])
def test_every_cell_is_the_loop_over_words(params, most_norm):
    """Codes one by one, by vmap, and as weights; the hidden state too long, or not."""
    layout = SMALL.layout._replace(most_norm=most_norm)
    supernet = make_supernet(dataclasses.replace(SMALL, layout=layout))
    memory = RNG.normal(size=(4, WIDTH))
    expected = [cell(params, code, WORDS, memory, most_norm) for code in CODES.tolist()]
    unroll = lambda arch: supernet.recurrence.unroll(params, arch, WORDS, jnp.asarray(memory, "float32"))  # noqa: E731
    alone = jax.lax.map(unroll, jnp.asarray(CODES))
    for found in (alone, jax.vmap(unroll)(jnp.asarray(CODES)), jax.vmap(unroll)(supernet.weights(CODES))):
        for place in (0, 1):
            np.testing.assert_allclose(found[place], np.stack([each[place] for each in expected]), atol=2e-5)
    lengths = np.linalg.norm(alone[1], axis=-1)
    assert lengths.max() == pytest.approx(0.5) if most_norm == 0.5 else 1 < lengths.max() < 25


@pytest.mark.slow("cells of eight nodes against the loop over words")
def test_deep_cells_too():
    space = darts_rnn.resized(width=WIDTH, num_classes=CLASSES, num_words=LENGTH)
    supernet = make_supernet(space)
    params = jax.tree.map(lambda leaf: 3 * leaf, supernet.init(jax.random.key(1)))
    archs = sample(jax.random.key(2), space, 6)
    found = jax.vmap(lambda arch: supernet.apply(params, arch, WORDS)[0])(archs)
    for code, logits in zip(archs.tolist(), found, strict=True):
        np.testing.assert_allclose(logits, cell(params, code, WORDS, np.zeros((4, WIDTH)))[0], atol=2e-5)


def test_mixtures(supernet, params):
    """Of two activations of one source: the mean of two states is what the next words see."""
    weights = np.zeros((3, 5), np.float32)
    weights[0, [1, 2]], weights[1, 3] = 0.25, 0.5  # node 1: tanh and relu of state 0; node 2: half a sigmoid of it
    memory = np.zeros((4, WIDTH))
    table, into = (np.asarray(params["words"]["words"]["table"]), np.asarray(params["input"]["input"]["matrix"]))
    gate, candidate = np.split(np.concatenate([table[WORDS[:, 0]], memory], axis=1) @ into, 2, axis=1)
    first = scipy.special.expit(gate) * np.tanh(candidate)

    def edge(node, name):
        gate, candidate = np.split(first @ np.asarray(params[f"node{node}"]["node"]["matrix"]), 2, axis=1)
        return first + scipy.special.expit(gate) * (ACTIVATIONS[name](candidate) - first)

    state = (0.25 * (edge(1, "tanh") + edge(1, "relu")) + 0.5 * edge(2, "sigmoid")) / 2
    logits, _ = supernet.apply(params, jnp.asarray(weights), WORDS[:, :1])
    np.testing.assert_allclose(logits[:, 0], state @ table.T, atol=1e-5)


def test_one_drawn_candidate_an_edge_is_that_candidate(supernet, params):
    taken = supernet.decode(CODES)
    of_drawn = jax.jit(lambda one: supernet.apply(params, Drawn(jax.nn.one_hot(one, 5), one), WORDS)[0])
    for code, one in zip(CODES[[3, 14, 29]].tolist(), taken[[3, 14, 29]], strict=True):
        np.testing.assert_allclose(of_drawn(one), cell(params, code, WORDS, np.zeros((4, WIDTH)))[0], atol=2e-5)


def test_a_mixture_ends_as_darts_ends_it(supernet):
    for code in CODES:
        np.testing.assert_array_equal(supernet.encode(np.asarray(supernet.weights(code))), code)
    weights = np.zeros((3, 5))
    weights[:, 0] = 9  # "none" is never taken
    weights[0, 4], weights[1, 2], weights[2, 3] = 0.1, 0.2, 0.3
    assert supernet.encode(weights).tolist() == [3, 1, 2]


def test_costs_count_what_is_there(supernet, params):
    macs, counted = arch_costs(SMALL, CODES)
    assert set(counted) == {sum(leaf.size for leaf in jax.tree.leaves(params))}
    assert set(macs) == {CLASSES * WIDTH + 4 * WIDTH**2 + 2 * 2 * WIDTH**2}  # of one word


def test_bfloat16_stays_near(supernet, params):
    half = make_supernet(SMALL, policy=Policy(compute="bfloat16"))
    logits = half.apply(params, CODES[9], WORDS)[0]
    assert logits.dtype == jnp.float32
    np.testing.assert_allclose(logits, supernet.apply(params, CODES[9], WORDS)[0], atol=0.1)


@pytest.mark.parametrize(
    "setting", [{"op_on": "node"}, {"kernels": "centre"}, {"path_dropout": 0.1}, {"partial_channels": 4}]
)
def test_factors_without_a_place(setting):
    with pytest.raises(ValueError, match=f"^rnn32: {next(iter(setting))}=.*; leave it"):
        make_supernet(SMALL, **setting)


# --- scores


@pytest.mark.parametrize("strategy", ["auto", "serial", "dispatch", "mask"])
def test_scores_are_means_over_words(supernet, params, strategy):
    archs, evaluator = CODES[::5], make_evaluator(supernet, strategy=strategy, images_per_call=3)
    scores = evaluator.evaluate(params, archs, WORDS, NEXT)
    assert scores.strategy == ("serial" if strategy == "auto" else strategy)
    for code, loss, accuracy, merit in zip(archs, scores.loss, scores.accuracy, merits(SMALL, scores), strict=True):
        logits, _ = cell(params, code.tolist(), WORDS, np.zeros((4, WIDTH)))
        losses = -np.take_along_axis(scipy.special.log_softmax(logits, axis=-1), NEXT[..., None], axis=-1)
        assert loss == pytest.approx(losses.mean(), rel=1e-5) and merit == pytest.approx(np.exp(-losses.mean()))
        assert accuracy == pytest.approx((logits.argmax(axis=-1) == NEXT).mean())


@pytest.mark.parametrize(
    ("message", "words", "labels"),
    [
        ("expected words, integers", WORDS.astype(np.float32), NEXT),
        ("at most 6 a row", np.zeros((4, 7), int), NEXT),
        (r"words: 7 at index \(0, 0\)|images: 7 at index \(0, 0\)", np.full((4, LENGTH), 7), NEXT),
        ("labels: shape", WORDS, NEXT[:, 0]),
        ("labels: -1", WORDS, NEXT - NEXT.max() - 1),
    ],
)
def test_what_is_no_text(supernet, params, message, words, labels):
    if message.startswith("labels: -1"):
        labels = np.full_like(NEXT, -1)
    with pytest.raises(ValueError, match=message) as caught:
        make_evaluator(supernet).evaluate(params, CODES[:1], words, labels)
    assert "\n" not in str(caught.value)


def test_what_is_for_images(supernet, params):
    with pytest.raises(ValueError, match=r"graph.*take 'serial'"):
        make_evaluator(supernet, strategy="graph")
    with pytest.raises(ValueError, match="per_image is for images"):
        make_evaluator(supernet, per_image=True)
    module, variables = flax_module(supernet, export(supernet, params, CODES[0]))
    with pytest.raises(ValueError, match="a recurrent network is no wiring"):
        module.apply(variables, WORDS)


# --- training

TEXT = RNG.integers(0, CLASSES, 12 * LENGTH + 1)
ROWS, FOLLOWING = TEXT[:-1].reshape(12, LENGTH), TEXT[1:].reshape(12, LENGTH)


def scripted(num_archs):
    """Architectures in order, so that each step has others."""
    codes = jnp.asarray(CODES)
    return Sampler(
        init=lambda key: jnp.zeros((), jnp.int32),
        sample=lambda key, state: codes[(state + jnp.arange(num_archs)) % 32],
        update=lambda state, archs, losses: state + num_archs,
        groups=1,
    )


def test_batches_of_text_are_read_in_order():
    batch_at = batches(jax.random.key(0), ROWS, FOLLOWING, 5)  # two steps; two rows left out
    for step in range(4):
        batch = batch_at(step)["train"]
        np.testing.assert_array_equal(batch["images"], ROWS[[0, 2, 4, 6, 8]] if step % 2 == 0 else ROWS[1:10:2])
        np.testing.assert_array_equal(batch["labels"][:, :-1], batch["images"][:, 1:])
        assert bool(batch["first"]) == (step % 2 == 0)
    with pytest.raises(ValueError, match="12 validation rows of text"):
        batches(jax.random.key(0), ROWS, FOLLOWING, 13, split="valid")


@pytest.mark.parametrize("num_archs", [1, pytest.param(3, marks=pytest.mark.slow("three that remember in a step"))])
def test_what_one_architecture_remembers_the_next_takes_over(supernet, num_archs):
    """Three steps with weights at rest: each place goes on from its memory, until an epoch begins."""
    sampler, tx = scripted(num_archs), optax.sgd(0.0)
    step = make_train_step(supernet, make_cross_entropy_loss(supernet), sampler, tx)
    state = init_train_state(supernet, sampler, tx, jax.random.key(0), num_rows=6)
    params = jax.tree.map(lambda leaf: 3 * np.asarray(leaf), state.params)
    state = state._replace(params=jax.tree.map(jnp.asarray, params))
    batch_at = batches(jax.random.key(0), ROWS, FOLLOWING, 6)
    memory = np.zeros((num_archs, 6, WIDTH))
    for number in range(3):
        batch, losses = batch_at(number), []
        memory = memory * (number != 2)  # the second epoch begins
        for place in range(num_archs):
            code = CODES[(number * num_archs + place) % 32].tolist()
            logits, memory[place] = cell(params, code, np.asarray(batch["train"]["images"]), memory[place])
            labels = np.asarray(batch["train"]["labels"])
            logs = scipy.special.log_softmax(logits, axis=-1)
            losses.append(-np.take_along_axis(logs, labels[..., None], axis=-1).mean())
        state, metrics = step(state, batch)
        assert float(metrics["loss"]) == pytest.approx(np.mean(losses), rel=1e-5)
        np.testing.assert_allclose(state.memory, memory, atol=2e-5)


def test_a_step_follows_the_gradient_of_the_words_at_hand(supernet):
    """Against autodiff of the loss with the memory a constant."""
    sampler, tx = scripted(1), optax.sgd(0.5)
    step = make_train_step(supernet, make_cross_entropy_loss(supernet), sampler, tx)
    batch_at = batches(jax.random.key(0), ROWS, FOLLOWING, 6)
    state, _ = step(init_train_state(supernet, sampler, tx, jax.random.key(0), num_rows=6), batch_at(0))
    before, memory, batch = jax.device_get(state.params), state.memory[0] + 0, batch_at(1)["train"]

    def loss(params):
        logits, _ = supernet.recurrence.unroll(params, jnp.asarray(CODES[1]), batch["images"], memory)
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch["labels"]).mean()

    expected = jax.tree.map(lambda leaf, grad: leaf - 0.5 * grad, before, jax.jit(jax.grad(loss))(before))
    state, _ = step(state, batch_at(1))
    jax.tree.map(lambda got, wanted: np.testing.assert_allclose(got, wanted, atol=1e-6), state.params, expected)


def test_training_resumes_with_what_it_remembers(supernet, tmp_path):
    sampler, tx = uniform(SMALL, num_archs=2), optax.sgd(0.5)
    step = make_train_step(supernet, make_cross_entropy_loss(supernet), sampler, tx)
    batch_at = batches(jax.random.key(0), ROWS, FOLLOWING, 3)
    start = init_train_state(supernet, sampler, tx, jax.random.key(0), num_rows=3)
    at_once, half = fit(step, start, batch_at, 5), fit(step, start, batch_at, 2)
    assert np.abs(half.memory).max() > 0
    checkpoint.save(tmp_path, 2, half, fingerprint=SMALL.fingerprint)
    _, restored = checkpoint.restore_latest(tmp_path, start, fingerprint=SMALL.fingerprint)
    resumed = fit(step, restored, batch_at, 5)
    jax.tree.map(np.testing.assert_array_equal, resumed, at_once)


def test_landmarks_on_text(supernet):
    """Their loss is made of mean losses over rows and words."""
    batch = {"train": {"images": jnp.asarray(WORDS), "labels": jnp.asarray(NEXT)}}
    params = supernet.init(jax.random.key(0))
    loss_fn = make_ranking_loss_fn(supernet, CODES[:2], [0.5, 0.6], margin=1.0, split="train")
    zeros = np.zeros((4, WIDTH))
    logs = [scipy.special.log_softmax(cell(params, code, WORDS, zeros)[0], axis=-1) for code in CODES[:2].tolist()]
    first, second = (-np.take_along_axis(each, NEXT[..., None], axis=-1).mean() for each in logs)
    key = jax.random.key(0)
    loss, _ = jax.jit(loss_fn)(params, jnp.asarray(CODES[:1]), batch, key, jnp.zeros((), jnp.int32))
    assert float(loss) == pytest.approx(1 + second - first, abs=1e-5)
