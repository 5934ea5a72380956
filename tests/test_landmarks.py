"""Landmarks: pairs against their probabilities, one batched forward against a loop, training that obeys the order."""

import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import control_flow

from jaxnas.codes import enumerate_archs
from jaxnas.evaluation import cross_entropy
from jaxnas.samplers import uniform
from jaxnas.space import ChainLayout
from jaxnas.spaces import chain_space
from jaxnas.supernets import make_supernet
from jaxnas.tables import lookup, make_table
from jaxnas.training import Aux, add_losses, fit, init_train_state, make_cross_entropy_loss, make_train_step, sgd
from jaxnas.training.landmarks import (
    PAIR_DRAWS,
    Landmarks,
    adjacent_pairs,
    all_pairs,
    biased_pairs,
    distant_landmarks,
    extend_landmarks,
    make_ranking_loss_fn,
    propose_landmarks,
    random_landmarks,
    ranked_landmarks,
)
from jaxnas.training.schedules import constant

SPACE = chain_space(
    "pair",
    ChainLayout(stem_width=3, widths=(3, 3), strides=(1, 1), head_width=0, image_size=4, in_channels=1),
    [("nor_conv_1x1", "nor_conv_3x3"), ("identity", "nor_conv_1x1", "nor_conv_3x3")],
)
SUPERNET = make_supernet(SPACE)
CODES = enumerate_archs(SPACE)
LANDMARKS, ORDER = CODES[[4, 0, 2, 5]], np.array([0.7, 0.9, 0.7, 0.2])  # from the worst: 3, then 0 and 2 tied, 1
FROM_WORST = [3, 0, 2, 1]
KEY = jax.random.key(0)
POOL = np.array(list(itertools.product(range(3), repeat=4)), np.int32)  # 81 codes


def make_batch(seed=0, num_images=6):
    rng = np.random.default_rng(seed)

    def split():
        images = rng.normal(size=(num_images, 4, 4, 1)).astype(np.float32)
        return {"images": images, "labels": rng.integers(0, 10, num_images)}

    return {"train": split(), "valid": split()}


@pytest.fixture(scope="module")
def params():
    return SUPERNET.init(KEY)


@pytest.fixture(scope="module")
def losses(params):
    """(codes, split of batch 0) -> cross-entropies, one architecture after the other."""
    run = jax.jit(lambda params, arch, images: SUPERNET.apply(params, arch, images, groups=None)[0])

    def of(codes, split="valid"):
        data = make_batch()[split]
        return [float(cross_entropy(run(params, code, data["images"]), data["labels"]).mean()) for code in codes]

    return of


# Pairs


def test_every_pair():
    assert all_pairs(4)(KEY).tolist() == [[0, 1], [0, 2], [0, 3], [1, 2], [1, 3], [2, 3]]
    assert adjacent_pairs(4)(KEY).tolist() == [[0, 1], [1, 2], [2, 3]]
    assert set(PAIR_DRAWS) == {"all", "adjacent", "biased"}


@pytest.mark.parametrize(
    ("name", "probability"),
    [
        ("all", lambda a, b: 1 / 10),
        ("adjacent", lambda a, b: (b == a + 1) / 4),
        ("biased", lambda a, b: 1 / (4 * (4 - a))),  # of five landmarks
    ],
)
def test_draws_have_their_probabilities(name, probability):
    num_pairs = 20_000
    pairs = np.asarray(PAIR_DRAWS[name](5, num_pairs)(KEY))
    assert pairs.shape == (num_pairs, 2)
    expected = np.array([[probability(a, b) if a < b else 0.0 for b in range(5)] for a in range(5)])
    assert expected.sum() == pytest.approx(1)
    got = np.zeros((5, 5))
    np.add.at(got, tuple(pairs.T), 1 / num_pairs)
    np.testing.assert_allclose(got, expected, atol=5 * np.sqrt(0.25 / num_pairs))  # five standard deviations
    assert np.all((got > 0) == (expected > 0))
    assert not np.array_equal(pairs, PAIR_DRAWS[name](5, num_pairs)(jax.random.key(1)))


def test_the_published_draw_is_one_pair_and_favours_the_best():
    assert biased_pairs(5)(KEY).shape == (1, 2)
    pairs = np.asarray(biased_pairs(30, 100_000)(KEY))
    share = np.mean((pairs == [28, 29]).all(axis=1))
    assert share == pytest.approx(30 / 2 * 2 / (30 * 29), rel=0.05)  # M / 2 times a uniform draw's


def test_pairs_refuse():
    for make in PAIR_DRAWS.values():
        with pytest.raises(ValueError, match=r"^num_landmarks is 1, expected 2 to"):
            make(1, 1)
        with pytest.raises(ValueError, match=r"^num_pairs is 0, expected 1 to"):
            make(4, 0)


# The loss


def wrong_order(losses, tolerance=0.0, margin=0.0):
    """Mean over the pairs that differ in order, by a loop."""
    costs = [
        max(0.0, margin + losses[better] - losses[worse])
        for better, worse in itertools.permutations(range(4), 2)
        if ORDER[better] - ORDER[worse] > tolerance
    ]
    return np.mean(costs)


@pytest.mark.parametrize("tile", [None, 2])
@pytest.mark.parametrize("margin", [0.0, 5.0])
def test_all_pairs_against_a_loop(params, losses, tile, margin):
    loss_fn = make_ranking_loss_fn(SUPERNET, LANDMARKS, ORDER, tile=tile, margin=margin)
    value, aux = jax.jit(loss_fn)(params, None, make_batch(), KEY, 0)
    np.testing.assert_allclose(value, wrong_order(losses(LANDMARKS), margin=margin), rtol=1e-5)
    assert jax.tree.leaves(aux) == []  # nothing of the population


def test_options(params, losses):
    loss_fn = make_ranking_loss_fn(SUPERNET, LANDMARKS, 1e9 * ORDER, tolerance=0.3e9, margin=3.0)
    value, _ = jax.jit(loss_fn)(params, None, make_batch(), KEY, 0)
    np.testing.assert_allclose(value, wrong_order(losses(LANDMARKS), tolerance=0.3, margin=3.0), rtol=1e-5)
    double = make_ranking_loss_fn(
        SUPERNET, LANDMARKS, ORDER, margin=3.0, split="train", preprocess=lambda key, images: images / 1.0
    )
    value, _ = jax.jit(double)(params, None, make_batch(), KEY, 0)
    np.testing.assert_allclose(value, wrong_order(losses(LANDMARKS, "train"), margin=3.0), rtol=1e-5)


@pytest.mark.parametrize("tile", [None, 2])
def test_drawn_pairs_run_alone_or_among_all(params, losses, tile):
    """Ranks are counted from the worst; the same pair gives the same loss whether the others run or not."""
    fixed = jnp.array([[0, 3]])
    loss_fn = make_ranking_loss_fn(SUPERNET, LANDMARKS, ORDER, draw=lambda key: fixed, beta=1.0, tile=tile)
    value, _ = jax.jit(loss_fn)(params, None, make_batch(), KEY, 0)
    worst, *_, best = losses(LANDMARKS[FROM_WORST])
    np.testing.assert_allclose(value, np.log1p(np.exp(best - worst)), rtol=1e-5)


def test_some_landmarks_of_each_step(losses, params):
    """Three of four, all pairs of these: one of four values by a loop, each of them in some step."""
    loss_fn = make_ranking_loss_fn(SUPERNET, LANDMARKS, ORDER, num_per_step=3, margin=1.0)
    known = losses(LANDMARKS)
    expected = []
    for subset in itertools.combinations(range(4), 3):
        pairs = [(a, b) for a, b in itertools.permutations(subset, 2) if ORDER[a] > ORDER[b]]
        expected.append(np.mean([max(0.0, 1.0 + known[better] - known[worse]) for better, worse in pairs]))
    run = jax.jit(lambda key: loss_fn(params, None, make_batch(), key, 0)[0])
    values = np.array([run(jax.random.key(seed)) for seed in range(40)])
    distance = np.abs(values[:, None] - np.array(expected))
    assert distance.min(axis=1).max() < 1e-5 and distance.min(axis=0).max() < 1e-5
    assert len(set(np.round(expected, 3))) == 3  # the tied pair, 0 and 2, may lead to the same
    for number in (1, 5):
        with pytest.raises(ValueError, match=rf"num_per_step, of the landmarks, is {number}, expected 2 to 4"):
            make_ranking_loss_fn(SUPERNET, LANDMARKS, ORDER, num_per_step=number)


def has_control_flow(loss_fn, params):
    """Whether the program has switches or loops."""
    return bool(control_flow(lambda params: loss_fn(params, None, make_batch(), KEY, 0)[0], params))


def test_one_forward_without_switch_or_loop(params):
    assert not has_control_flow(make_ranking_loss_fn(SUPERNET, LANDMARKS, ORDER), params)
    assert not has_control_flow(make_ranking_loss_fn(SUPERNET, LANDMARKS, ORDER, draw=biased_pairs(4)), params)
    assert has_control_flow(make_ranking_loss_fn(SUPERNET, LANDMARKS, ORDER, tile=2), params)


def test_gradient_against_the_chain_rule(params):
    """The gradient of each landmark alone, times how often it is the better or the worse of an active pair."""
    data = make_batch()["valid"]

    @jax.jit
    @jax.value_and_grad
    def alone(params, arch):
        return cross_entropy(SUPERNET.apply(params, arch, data["images"], groups=None)[0], data["labels"]).mean()

    results = [alone(params, code) for code in LANDMARKS]
    pulls = np.zeros(4)
    for better, worse in itertools.permutations(range(4), 2):
        if ORDER[better] > ORDER[worse] and 0.3 + results[better][0] > results[worse][0]:
            pulls += np.eye(4)[better] - np.eye(4)[worse]
    assert np.abs(pulls).sum() > 2
    expected = jax.tree.map(lambda *g: np.tensordot(pulls / 5, np.array(g), 1), *[g for _, g in results])
    loss_fn = make_ranking_loss_fn(SUPERNET, LANDMARKS, ORDER, margin=0.3)
    got = jax.jit(jax.grad(lambda params: loss_fn(params, None, make_batch(), KEY, 0)[0]))(params)
    jax.tree.map(lambda g, e: np.testing.assert_allclose(g, e, rtol=1e-3, atol=1e-5), got, expected)


@pytest.mark.parametrize(
    ("landmarks", "order", "options", "message"),
    [
        (LANDMARKS[:1], ORDER[:1], {}, "one landmark gives no pair to rank; give at least 2"),
        (LANDMARKS[:0], [], {}, "the population is empty"),
        (LANDMARKS, [0.5] * 4, {}, "all 4 landmarks are tied, order 0.5 to 0.5 at tolerance 0"),
        (LANDMARKS, ORDER, {"tolerance": 0.8}, "all 4 landmarks are tied, order 0.2 to 0.9 at tolerance 0.8"),
        (LANDMARKS, ORDER[:3], {}, r"the order of 4 landmarks must be as many finite numbers; got shape \(3,\)"),
        (LANDMARKS, [0.1, 0.2, np.nan, 0.3], {}, "with 1 not finite"),
        ([[0, 0], [0, 3]], [1, 2], {}, r"code 3 at index 1 of architecture 1 is outside \[0, 3\)"),
    ],
)
def test_refusals(landmarks, order, options, message):
    with pytest.raises(ValueError, match=message) as error:
        make_ranking_loss_fn(SUPERNET, landmarks, order, **options)
    assert "\n" not in str(error.value) and str(error.value).startswith("pair: ")


def test_a_landmark_that_the_table_lacks_is_named():
    table = make_table(SPACE, CODES[:3], {"accuracy": [0.1, 0.2, 0.3]}, units={"accuracy": "fraction"}, provenance={})
    with pytest.raises(ValueError, match=r"^the table of pair \(3 architectures\) lacks architecture 0, \[1, 1\]; "):
        lookup(table, LANDMARKS, "accuracy")


# Training


def test_add_losses_by_hand(params):
    population = jnp.array([[0, 0], [1, 1]])
    cross = make_cross_entropy_loss(SUPERNET)
    ranking = make_ranking_loss_fn(SUPERNET, LANDMARKS, ORDER, margin=1.0)
    inner = add_losses({"rank": (0.5, ranking)})
    total = add_losses({"ce": (2.0, cross), "extra": (constant(3.0, warmup_steps=5), inner)})
    first, aux = jax.jit(total)(params, population, make_batch(), KEY, jnp.int32(4))
    last, later = jax.jit(total)(params, population, make_batch(), KEY, jnp.int32(5))
    ce, own = jax.jit(cross)(params, population, make_batch(), KEY, 0)
    rank, _ = jax.jit(ranking)(params, population, make_batch(), KEY, 0)
    assert rank > 0
    np.testing.assert_allclose(first, 2 * ce, rtol=1e-5)
    np.testing.assert_allclose(last, 2 * ce + 1.5 * rank, rtol=1e-5)
    assert aux.terms["extra"] == 0 and set(aux.terms) == {"ce", "extra", "extra/rank"}
    np.testing.assert_allclose([later.terms[name] for name in ("ce", "extra")], [2 * ce, 1.5 * rank], rtol=1e-5)
    np.testing.assert_allclose(later.terms["extra/rank"], 1.5 * rank, rtol=1e-5)
    np.testing.assert_allclose(later.arch_loss, own.arch_loss, rtol=1e-5)
    jax.tree.map(np.testing.assert_array_equal, outline(later.stats), outline(own.stats))
    with pytest.raises(ValueError, match="there is no term"):
        add_losses({})


def outline(tree):
    return jax.tree.map(lambda leaf: np.array(leaf.shape), tree)


def test_terms_have_keys_of_their_own_place():
    """So that a term draws the same whatever stands behind it."""
    draw = lambda params, archs, batch, key, step, groups: (jax.random.uniform(key), Aux())  # noqa: E731
    of = lambda *names: add_losses({name: (1.0, draw) for name in names})(None, None, None, KEY, 0)[1].terms  # noqa: E731
    two = of("a", "b")
    assert of("a")["a"] == two["a"] != two["b"]


WEIGHTS = {0: 5.0, 1000: 0.0, 2000: np.inf, 3000: 1e30}  # by the step from which they hold


@pytest.fixture(scope="module")
def train():
    """(first step, number of steps) -> metrics and state: one path by cross-entropy, the landmarks' order beside it."""
    sampler = uniform(SPACE)
    weight = lambda step: jnp.asarray(list(WEIGHTS.values()))[step // 1000]  # noqa: E731
    terms = {
        "cross_entropy": (1.0, make_cross_entropy_loss(SUPERNET)),
        "ranking": (weight, make_ranking_loss_fn(SUPERNET, LANDMARKS, ORDER, margin=1.0)),
    }
    tx = sgd(0.1, num_steps=10**6, momentum=0.0)
    step = make_train_step(SUPERNET, add_losses(terms), sampler, tx, idle="rest")
    start = jax.device_get(init_train_state(SUPERNET, sampler, tx, KEY)._replace(key=None))

    def run(first_step, num_steps):
        seen = []
        state = jax.tree.map(jnp.array, start)._replace(key=jax.random.key(0), step=jnp.int32(first_step))
        keep = lambda steps, metrics, state: seen.append((metrics, state))  # noqa: E731
        fit(step, state, lambda number: make_batch(), first_step + num_steps, callbacks=[keep])
        return *seen[-1], start.params

    return run


def test_training_brings_the_landmarks_into_order(train, losses):
    metrics, state, _ = train(0, 150)
    run = jax.jit(lambda arch, images: SUPERNET.apply(state.params, arch, images, groups=None)[0])
    data = make_batch()["valid"]
    after = [float(cross_entropy(run(code, data["images"]), data["labels"]).mean()) for code in LANDMARKS]
    assert wrong_order(losses(LANDMARKS)) > 0.05 and wrong_order(after) == 0
    assert set(metrics) == {"loss", "accuracy", "grad_norm", "term_cross_entropy", "term_ranking"}


def test_a_resting_candidate_moves_where_a_landmark_trains_it(train):
    """With "rest" the ranking gradient of candidates outside the population is not thrown away."""

    def moved(first_step):
        _, state, start = train(first_step, 1)
        changed = jax.tree.map(lambda before, after: bool(np.any(before != after)), start, state.params)
        layers = ("layer0", "layer1")
        return {
            (layer, op) for layer in layers for op, leaves in changed[layer].items() if any(jax.tree.leaves(leaves))
        }

    # the worst landmark, [1, 2], and the best, [0, 0]; those between are pulled both ways
    trained = {("layer0", "nor_conv_1x1"), ("layer0", "nor_conv_3x3"), ("layer1", "nor_conv_3x3")}
    assert trained <= moved(0) and len(moved(1000)) <= 2


@pytest.mark.parametrize(
    ("first_step", "named"),
    [(2000, "term_ranking is (inf|nan)"), (3000, "grad_norm is inf at step 3000, where .*term_ranking is .*e[+]")],
)
def test_a_term_that_overflows_is_named(train, first_step, named):
    with pytest.raises(FloatingPointError, match=named) as error:
        train(first_step, 3)
    assert re.search("lower the weight of a term, the learning rate or clip_norm.$", str(error.value))
    assert "\n" not in str(error.value)


def test_a_loss_without_population_is_refused():
    sampler, tx = uniform(SPACE), optax.sgd(0.1)
    step = make_train_step(SUPERNET, make_ranking_loss_fn(SUPERNET, LANDMARKS, ORDER), sampler, tx)
    with pytest.raises(ValueError, match="reports nothing of the population"):
        jax.eval_shape(step, init_train_state(SUPERNET, sampler, tx, KEY), make_batch())


# Selection


def distances(codes):
    return [int((a != b).sum()) for a, b in itertools.combinations(codes, 2)]


def test_random_landmarks():
    drawn = [random_landmarks(jax.random.key(seed), 81, 5) for seed in range(400)]
    assert all(len(set(one.tolist())) == 5 for one in drawn)
    counts = np.bincount(np.concatenate(drawn), minlength=81)
    assert counts.sum() == 2000 and counts.min() > 5 and counts.max() < 50  # 24.7 expected, standard deviation 4.8


def test_ranked_landmarks():
    order = np.array([5.0, 1.0, 3.0, 2.0, 4.0])
    assert order[ranked_landmarks(order, 3)].tolist() == [1.0, 3.0, 5.0]
    assert order[ranked_landmarks(order, 5)].tolist() == [1.0, 2.0, 3.0, 4.0, 5.0]
    assert np.arange(100.0)[ranked_landmarks(np.arange(100.0), 4)].tolist() == [0.0, 33.0, 66.0, 99.0]


@pytest.mark.parametrize(("min_distance", "num_landmarks"), [(1, 81), (2, 8), (3, 3)])
def test_distant_landmarks(min_distance, num_landmarks):
    chosen = distant_landmarks(KEY, POOL, num_landmarks, min_distance=min_distance)
    assert len(chosen) == num_landmarks and min(distances(POOL[chosen])) >= min_distance
    assert not np.array_equal(
        chosen, distant_landmarks(jax.random.key(1), POOL, num_landmarks, min_distance=min_distance)
    )


def test_selection_refuses():
    with pytest.raises(ValueError, match=r"^only \d of 81 architectures are at Hamming distance 4 of each other, 9"):
        distant_landmarks(KEY, POOL, 9, min_distance=4)  # at most three differ everywhere
    for number in (1, 82):
        with pytest.raises(ValueError, match=f"num_landmarks, of the pool, is {number}, expected 2 to 81"):
            random_landmarks(KEY, 81, number)
    with pytest.raises(ValueError, match="num_landmarks, of the pool, is 4, expected 2 to 3"):
        ranked_landmarks(np.arange(3), 4)


def test_the_iterative_scheme():
    """Scores are the sum of the codes: the best come first, without the landmarks and what is near."""
    landmarks = Landmarks(np.array([[2, 2, 2, 2], [0, 0, 0, 0]], np.int32), np.array([0.9, 0.1]))
    scores = POOL.sum(axis=1)
    new = propose_landmarks(landmarks, POOL, scores, 3)
    assert sorted(new.sum(axis=1).tolist()) == [7, 7, 7] and new.dtype == np.int32
    spread = propose_landmarks(landmarks, POOL, scores, 3, min_distance=2)
    assert spread.sum(axis=1).tolist() == [6, 6, 6] and set(spread[0].tolist()) == {1, 2}
    assert min(distances(np.concatenate([spread, landmarks.archs]))) >= 2
    assert len(propose_landmarks(landmarks, POOL[:5], scores[:5], 9)) == 4  # no more than there are

    more = extend_landmarks(landmarks, new, [0.5, 0.6, 0.7])
    assert more.archs.shape == (5, 4) and more.order.tolist() == [0.9, 0.1, 0.5, 0.6, 0.7]
    assert not {tuple(code) for code in propose_landmarks(more, POOL, scores, 3)} & {tuple(c) for c in more.archs}
    with pytest.raises(ValueError, match="is a landmark already, or given twice"):
        extend_landmarks(more, new[:1], [0.5])
