"""Search policies: the contract that all keep, a planted optimum that each finds, and each one's update by hand."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxnas.codes import check, enumerate_archs, sample
from jaxnas.costs import cost_table, make_limit
from jaxnas.policies import POLICIES, Gradients, NaoPool, NaoTraining, Rewards, Timetable, feed, make_search_training
from jaxnas.policies._nao import make_ascend
from jaxnas.policies.drawing import make_drawer
from jaxnas.policies.learning import gauss_newton_diagonal, make_judge_step, unrolled_gradients
from jaxnas.policies.nao_networks import EncoderPredictorDecoder
from jaxnas.search.regions import Region
from jaxnas.space import CellLayout, ChainLayout, SearchSpace
from jaxnas.spaces import chain_space, get_space
from jaxnas.spaces._darts import darts_space
from jaxnas.spaces._nasbench101 import nasbench101_space
from jaxnas.supernets import Drawn, make_supernet
from jaxnas.supernets.choice import draw
from jaxnas.training import batches, fit, make_cross_entropy_loss, sgd

# What compiles in no time: parameter-free candidates, and one that scales each channel.
OWN = {
    "twice": lambda channels, stride, affine, policy: (lambda key, x, tape: {}, lambda params, x, tape: 2.0 * x),
    "scaled": lambda channels, stride, affine, policy: (
        lambda key, x, tape: {"scale": jnp.ones(x.shape[-1])},
        lambda params, x, tape: x * jnp.expand_dims(params["scale"], (0, 1, 2)),
    ),
}
CELL = SearchSpace(
    "small_cell",
    (
        ("none", "skip_connect", "twice", "scaled"),
        ("skip_connect", "twice", "scaled"),
        ("none", "skip_connect", "twice"),
    ),
    CellLayout(4, 1, ((0, 1), (0, 2), (1, 2)), num_stages=1, image_size=4, in_channels=1, num_classes=3),
    operations=OWN,
)
TARGET = np.array([3, 0, 2])
SETTINGS = {
    "random": {},
    "enas": {"num_asked": 10, "learning_rate": 0.05, "hidden_size": 8, "num_layers": 1, "num_updates": 2},
    "reinforce": {"learning_rate": 0.1, "num_asked": 2},
    "darts": {"learning_rate": 0.1},
    "darts_second_order": {"learning_rate": 0.1},
    "gdas": {"learning_rate": 0.1},
    "pc_darts": {"learning_rate": 0.1, "warmup": 0.5},
    "fbnet": {"learning_rate": 0.1},
    "bayesnas": {"learning_rate": 0.05, "warmup": 0.5, "curvature_every": 2},
    "nao": {
        "pool": NaoPool(24, 24, 4, 1), "num_ascended": 6, "hidden_size": 16, "predictor_sizes": (16,), "dropout": 0.0,
        "rescore": False, "num_rounds": 2, "by_params": False,
        "training": NaoTraining(num_steps=800, batch_size=24, learning_rate=1e-2),
    },
}  # fmt: skip
MIXTURES = ("darts", "gdas", "pc_darts", "fbnet", "bayesnas")


@pytest.fixture(scope="module")
def supernet():
    return make_supernet(CELL, affine=False)


@pytest.fixture(scope="module")
def of_name(supernet):
    """name -> the policy, made once: it keeps what it compiled."""
    return functools.cache(lambda name: POLICIES[name](supernet, **SETTINGS[name]))


@pytest.fixture(params=list(POLICIES))
def policy(request, of_name):
    return of_name(request.param)


def matches(archs):
    """The share of choices at which codes are the planted one."""
    return (np.asarray(archs) == TARGET).mean(axis=1)


def assert_equal(got, expected):
    jax.tree.map(np.testing.assert_array_equal, got, expected)


# --- the contract


def test_contract(policy):
    """Codes of the space; what is drawn depends on key and state alone; an update gives a state like the one before."""
    key = jax.random.key(1)
    state = policy.init(jax.random.key(0))
    assert_equal(policy.init(jax.random.key(0)), state)
    before = jax.tree.map(np.array, state)
    asked = policy.ask(key, state)
    check(CELL, asked)
    assert asked.dtype == np.int32
    np.testing.assert_array_equal(policy.ask(key, state), asked)
    assert_equal(policy.propose(key, state), policy.propose(key, state))
    after, terms = policy.update(key, state, Rewards(asked, matches(asked)))
    assert tuple(terms) == policy.terms and all(isinstance(term, float) for term in terms.values())
    assert jax.tree.structure(after) == jax.tree.structure(state)
    assert [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(after)] == [
        (leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(state)
    ]
    assert_equal(policy.update(key, state, Rewards(asked, matches(asked)))[0], after)
    decided = policy.decide(key, after, matches)
    check(CELL, decided[None])
    np.testing.assert_array_equal(policy.decide(key, after, matches), decided)
    assert_equal(state, before)


def test_proposals_are_what_the_super_net_takes(policy, supernet):
    population = policy.propose(jax.random.key(1), policy.init(jax.random.key(0)))
    if policy.relax is None:
        check(CELL, population)
        return
    weights = population.weights if isinstance(population, Drawn) else population
    assert weights.shape == (1, 3, 4)
    missing = np.arange(4) >= np.array(CELL.num_ops)[:, None]
    np.testing.assert_array_equal(np.asarray(weights)[0][missing], 0)
    if policy.name in ("darts", "gdas", "fbnet"):
        np.testing.assert_allclose(weights.sum(axis=-1), 1, rtol=1e-5)


def test_planted_optimum_is_found(policy):
    """Fed with the share of choices that are the planted ones; a broken sign ends at the other end."""
    if policy.name in ("random", "nao"):  # of nao see below
        return
    fed = feed(policy, matches, 400, jax.random.key(0))
    assert matches(fed.best[None]) == 1
    np.testing.assert_array_equal(fed.decided, TARGET)
    assert fed.rewards[-40:].mean() > max(0.8, fed.rewards[:20].mean() + 0.2)


@pytest.mark.parametrize("name", MIXTURES)
def test_mixtures_follow_the_gradient(name, of_name):
    """The loss falls by what the weights give to the planted candidates."""
    policy = of_name(name)
    goal = jax.nn.one_hot(TARGET, 4)

    def loss_fn(alphas, state, key):
        mixture = policy.relax(key, state._replace(alphas=alphas))
        weights = mixture.weights if isinstance(mixture, Drawn) else mixture
        return ((weights - goal) ** 2).sum() if name == "bayesnas" else -(weights * goal).sum()

    gradient = jax.jit(jax.value_and_grad(loss_fn))
    state = policy.init(jax.random.key(0))
    for number in range(60):
        loss, grads = gradient(state.alphas, state, jax.random.key(number))
        state, terms = policy.update(jax.random.key(0), state, Gradients(grads, loss))
        assert terms["policy_loss"] == pytest.approx(float(loss))
    np.testing.assert_array_equal(policy.decide(jax.random.key(0), state, None), TARGET)


@pytest.mark.parametrize("name", ["reinforce", "enas", "darts", "gdas", "pc_darts"])
def test_preference_is_what_a_decision_follows(name, of_name):
    """Log-probabilities of all codes of a controller; of a mixture the largest is the decision's."""
    policy = of_name(name)
    state, archs = policy.init(jax.random.key(3)), enumerate_archs(CELL)
    preferences = policy.prefer(state, archs)
    assert preferences.shape == (len(archs),)
    if policy.relax is None:
        assert np.exp(preferences).sum() == pytest.approx(1, rel=1e-4)
    else:
        np.testing.assert_array_equal(archs[np.argmax(preferences)], policy.decide(jax.random.key(0), state, None))


def test_random_is_one_uniform_draw(supernet):
    """Not the best of those it asked for."""
    policy = POLICIES["random"](supernet, num_archs=5)
    draws = [policy.decide(jax.random.key(seed), (), None) for seed in range(300)]
    counts = np.bincount(np.ravel_multi_index(np.array(draws).T, CELL.num_ops), minlength=36)
    assert (counts > 0).sum() > 33 and counts.max() < 25  # 36 codes, 8.3 draws each
    assert policy.timetable(100, 10).done(100) == 0


def test_timetable():
    """First 15 steps without, then three updates after every five."""
    timetable = Timetable(15, 5, updates=3)
    assert [step for step in range(31) if timetable.due(step)] == [20, 25, 30]
    assert [timetable.done(step) for step in (0, 15, 19, 20, 24, 30)] == [0, 0, 0, 3, 3, 9]
    assert sum(map(timetable.due, range(28))) == timetable.done(27)


# --- draws and limits


def test_probabilities_of_all_codes_add_up_to_one():
    archs = enumerate_archs(CELL)
    logits = jax.random.normal(jax.random.key(0), (3, 4))
    logs, entropies = jax.vmap(make_drawer(Region(CELL)).log_prob, in_axes=(None, 0))(logits, archs)
    assert float(jnp.exp(logs).sum()) == pytest.approx(1, rel=1e-5)
    assert float(entropies[0]) == pytest.approx(float(-(jnp.exp(logs) * logs).sum()), rel=1e-5)


def test_frequencies_are_probabilities():
    drawer = make_drawer(Region(CELL))
    logits = 2 * jax.random.normal(jax.random.key(0), (3, 4))
    logs, _ = jax.vmap(drawer.log_prob, in_axes=(None, 0))(logits, enumerate_archs(CELL))
    archs = drawer.draw(jax.random.key(1), logits, 4000)
    counts = np.bincount(np.ravel_multi_index(archs.T, CELL.num_ops), minlength=36)
    np.testing.assert_allclose(counts / 4000, np.exp(logs), atol=4 * np.sqrt(0.25 / 4000))


COSTS = np.array([[0, 1, 2, 6.0], [1, 2, 6, 0], [0, 1, 2, 0]])


def limits(value):
    table = cost_table(CELL, COSTS)
    return {
        "additive": make_limit(CELL, "units", value, table),
        "any": make_limit(CELL, "units", value, lambda archs: COSTS[np.arange(3), archs].sum(axis=1)),
    }


@pytest.mark.parametrize(
    "name, kind",
    [
        pytest.param(
            name,
            kind,
            marks=[pytest.mark.slow("compiles other networks")] * (name == "nao" or (name == "enas" and kind == "any")),
        )
        for name in POLICIES
        for kind in ("additive", "any")
    ],
)
def test_limits_hold(name, kind, supernet):
    """For what is asked, proposed as codes, and decided: at 2 units there are 4 of 36 codes, the planted one isn't."""
    policy = POLICIES[name](
        supernet, limits(2)[kind], **SETTINGS[name] | ({"pool": NaoPool(4, 4, 1, 1)} if name == "nao" else {})
    )
    feasible = Region(CELL, limits(2)["additive"])
    assert feasible.count() == 4
    state = policy.init(jax.random.key(0))
    if policy.relax is not None:  # a mixture that is sure of the planted code, which costs 9
        sure = {"op": 9 * jax.nn.one_hot(TARGET, 4), "edge": jnp.ones(3)}
        state = state._replace(alphas=sure if isinstance(state.alphas, dict) else sure["op"])
    for seed in range(3):
        archs = policy.ask(jax.random.key(seed), state)
        if not len(archs):
            break
        assert feasible.contains(archs).all()
        if policy.relax is None:
            assert feasible.contains(policy.propose(jax.random.key(seed), state)).all()
        state, _ = policy.update(jax.random.key(seed), state, Rewards(archs, matches(archs)))
    assert feasible.contains(policy.decide(jax.random.key(0), state, matches)[None])[0]


def test_a_mixture_decides_for_the_likeliest_feasible_code(supernet):
    """Its own code costs 6 + 6 + 2; of the four at 2 units or less the first operation of the first choice has the most
    to say."""
    policy = POLICIES["darts"](supernet, limits(2)["additive"])
    state = policy.init(jax.random.key(0))
    alphas = jnp.array([[1.0, 1.5, 0, 9], [0, 1, 9, 0], [0, 0.25, 9, 0]])
    decided = policy.decide(jax.random.key(0), state._replace(alphas=alphas), None)
    np.testing.assert_array_equal(decided, [0, 1, 0])  # 1 + 1 + 0 against 1.5 + 0 + 0 and 1 + 0 + 0.25
    tied = policy.decide(jax.random.key(0), state._replace(alphas=jnp.zeros((3, 4))), None)
    np.testing.assert_array_equal(tied, [0, 0, 0])


@pytest.mark.parametrize("name", POLICIES)
def test_limits_that_nothing_meets_are_refused(name, supernet):
    with pytest.raises(ValueError, match=r"^small_cell: no architecture meets units <= 0.5; .*smallest possible is 1"):
        POLICIES[name](supernet, limits(0.5)["additive"])


def test_an_additive_limit_leaves_a_distribution():
    """Masked while drawing, so that the feasible codes share all of the probability."""
    drawer = make_drawer(Region(CELL, limits(2)["additive"]))
    feasible = Region(CELL, limits(2)["additive"]).members()
    logs, _ = jax.vmap(drawer.log_prob, in_axes=(None, 0))(jnp.ones((3, 4)), feasible)
    assert float(jnp.exp(logs).sum()) == pytest.approx(1, rel=1e-5)


@pytest.mark.parametrize("name", MIXTURES)
def test_spaces_without_mixtures_are_refused(name):
    space = nasbench101_space(4).resized(width=2, image_size=4, cells_per_stage=1)
    with pytest.raises(ValueError, match=rf"^{name}: in nasbench101_v4 no code stands for a mixture.*wirings.*enas\.$"):
        POLICIES[name](make_supernet(space))


def test_pc_darts_needs_nodes_with_several_inputs():
    layout = ChainLayout(stem_width=2, widths=(2, 2), strides=(1, 1), head_width=0, image_size=4)
    space = chain_space("chain", layout, [("identity", "nor_conv_1x1")] * 2)
    with pytest.raises(ValueError, match=r"^pc_darts weighs the edges into a node.*take darts\.$"):
        POLICIES["pc_darts"](make_supernet(space))
    with pytest.raises(ValueError, match=r"^chain: partial_channels=4 is for cells"):
        make_supernet(space, partial_channels=4)


@pytest.mark.parametrize(
    "name, settings, said",
    [
        ("enas", {"num_asked": 0}, "enas: num_asked is 0"),
        ("enas", {"temperature": 0.0}, "enas: temperature is 0.0"),
        ("reinforce", {"baseline_decay": 1.0}, "reinforce: baseline_decay is 1.0"),
        ("gdas", {"last_temperature": 0.0}, "gdas: last_temperature is 0.0"),
        ("darts", {"learning_rate": float("nan")}, "darts: learning_rate is nan"),
        ("fbnet", {"cost_weight": -1.0}, "fbnet: cost_weight is -1.0"),
        ("bayesnas", {"sparsity": 0.0}, "bayesnas: sparsity is 0.0"),
        ("pc_darts", {"warmup": 1.0}, "pc_darts: warmup is 1.0"),
        ("nao", {"pool": NaoPool(num_seeds=1)}, "nao: num_seeds is 1"),
    ],
)
def test_bad_settings_are_refused(name, settings, said, supernet):
    with pytest.raises(ValueError, match=said):
        POLICIES[name](supernet, **settings)


# --- updates by hand


def test_weight_without_parameters(supernet):
    """Of the first choice three of four candidates have none, of the others two of three and all three; alphas that
    favour them by log 2 at the first make it 6 of 7."""
    free = supernet.parameter_free
    assert free.tolist() == [[True, True, True, False], [True, True, False, False], [True, True, True, False]]
    policy = POLICIES["darts"](supernet)
    state = policy.init(jax.random.key(0))
    alphas = jnp.zeros((3, 4)).at[0, :3].set(jnp.log(2.0))
    _, terms = policy.update(
        jax.random.key(0), state._replace(alphas=alphas), Gradients(jnp.zeros((3, 4)), jnp.zeros(()))
    )
    assert terms["policy_parameter_free"] == pytest.approx((6 / 7 + 2 / 3 + 1) / 3, abs=1e-3)


def test_reinforce_by_hand(supernet):
    """Two codes with rewards 1 and 0: the baseline is 0.5, signals are +-0.5, and the first step of Adam moves each
    logit by the learning rate in the direction of (one-hot - probability) times the signal, averaged."""
    policy = POLICIES["reinforce"](supernet, learning_rate=0.1, num_asked=2)
    state = policy.init(jax.random.key(0))
    state = state._replace(params=jnp.zeros((3, 4)))
    archs = np.array([[3, 0, 2], [1, 0, 0]], np.int32)
    after, terms = policy.update(jax.random.key(0), state, Rewards(archs, np.array([1.0, 0.0])))
    sizes = np.array([4, 3, 3])
    assert terms["baseline"] == terms["reward"] == 0.5
    assert terms["policy_entropy"] == pytest.approx(np.log(sizes).sum(), rel=1e-6)
    assert terms["policy_loss"] == pytest.approx(0)  # both codes are equally likely
    # d(loss)/d(logits): -0.5 * (onehot_a - p) * 0.5 + 0.5 * (onehot_b - p) * 0.5 = (onehot_b - onehot_a) / 4
    expected = np.zeros((3, 4))
    for choice in range(3):
        expected[choice, archs[1, choice]] += 0.25
        expected[choice, archs[0, choice]] -= 0.25
    assert terms["policy_grad_norm"] == pytest.approx(np.linalg.norm(expected), rel=1e-5)
    np.testing.assert_allclose(after.params, -0.1 * np.sign(expected), atol=1e-5)
    later, terms = policy.update(jax.random.key(0), after, Rewards(archs, np.array([1.0, 1.0])))
    assert terms["baseline"] == pytest.approx(0.9 * 0.5 + 0.1 * 1.0)
    assert int(later.num_updates) == 2


def test_enas_loss_by_finite_difference(of_name):
    """The step of gradient descent against differences of the loss that the update reports."""
    policy = of_name("enas")
    state = policy.init(jax.random.key(0))
    state = state._replace(num_updates=jnp.ones((), jnp.int32), baseline=jnp.float32(0.2))
    archs, rewards = np.array([[3, 0, 2], [1, 2, 0]], np.int32), np.array([1.0, -1.0])
    after, _ = policy.update(jax.random.key(0), state, Rewards(archs, rewards))
    flat, restore = jax.flatten_util.ravel_pytree(state.params)
    moved = jax.flatten_util.ravel_pytree(after.params)[0] - flat
    losses = [
        policy.update(jax.random.key(0), state._replace(params=restore(flat + scale * moved)), Rewards(archs, rewards))[
            1
        ]
        for scale in (-1, 1)
    ]
    assert losses[1]["policy_loss"] < losses[0]["policy_loss"]
    name = max(range(flat.size), key=lambda index: abs(float(moved[index])))
    ends = [
        policy.update(
            jax.random.key(0), state._replace(params=restore(flat.at[name].add(shift))), Rewards(archs, rewards)
        )[1]["policy_loss"]
        for shift in (-1e-2, 1e-2)
    ]
    slope = (ends[1] - ends[0]) / 2e-2
    # The first step of Adam with eps 1e-3: -learning_rate * g / (|g| + eps).
    assert float(moved[name]) == pytest.approx(-0.05 * slope / (abs(slope) + 1e-3), rel=2e-2)


def test_darts_first_step_is_adams(supernet):
    policy = POLICIES["darts"](supernet, learning_rate=0.01, weight_decay=0.5)
    state = policy.init(jax.random.key(0))
    grads = jnp.zeros((3, 4)).at[0, 1].set(2.0)
    after, _ = policy.update(jax.random.key(0), state, Gradients(grads, jnp.float32(1)))
    gradient = np.asarray(grads + 0.5 * state.alphas)
    np.testing.assert_allclose(
        after.alphas - state.alphas, -0.01 * gradient / (np.abs(gradient) + 1e-8), rtol=1e-3, atol=1e-6
    )


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_unrolled_gradient_by_hand(momentum):
    """Training loss (w - a)^2 / 2 and validation loss (w - 1)^2 / 2 + a w: w' = w - lr (momentum b + w - a), of
    which the derivative with respect to a is lr."""
    w, a, rate, buffer = 0.3, 0.8, 0.1, 0.4
    tx = optax.sgd(rate, momentum or None)
    opt_state = tx.init(jnp.float32(w))
    if momentum:
        opt_state = jax.tree.map(lambda leaf: jnp.full_like(leaf, buffer), opt_state)
    got = unrolled_gradients(
        lambda w, a: (w - a) ** 2 / 2, lambda w, a: (w - 1) ** 2 / 2 + a * w, tx, opt_state, jnp.float32(w),
        jnp.float32(a),
    )  # fmt: skip
    after = w - rate * (momentum * buffer + w - a)
    assert float(got.loss) == pytest.approx((after - 1) ** 2 / 2 + a * after, rel=1e-5)
    assert float(got.alphas) == pytest.approx(after + (after - 1 + a) * rate, rel=1e-3)


def test_gdas_gradient_by_hand():
    """Candidates x, 2 x and 3 x, the second drawn: its weight's gradient is that of 2 x, the others' that of ones."""
    branches = [lambda shared, x, factor=factor: factor * x for factor in (1.0, 2.0, 3.0)]
    x, upstream = jnp.array([1.0, 4.0]), jnp.array([0.5, -2.0])
    weights = jnp.array([0.0, 1.0, 0.0])
    output = lambda weights: draw(branches, Drawn(weights, jnp.int32(1)), None, x)  # noqa: E731
    np.testing.assert_array_equal(output(weights), 2 * x)
    gradient = jax.grad(lambda weights: output(weights) @ upstream)(weights)
    np.testing.assert_allclose(gradient, [-1.5, 2 * (0.5 - 8.0), -1.5])


def test_gdas_draws_by_its_logits_and_cools(supernet):
    policy = POLICIES["gdas"](supernet, num_updates=10)
    state = policy.init(jax.random.key(0))
    state = state._replace(alphas=jnp.array([[0, 0, 0, 3.0], [0, 0, 0, 9], [0, 0, 0, 9]]))
    drawn = jax.vmap(policy.relax, in_axes=(0, None))(jax.random.split(jax.random.key(0), 2000), state)
    share = (np.asarray(drawn.taken)[:, 0] == 3).mean()
    assert share == pytest.approx(np.exp(3) / (np.exp(3) + 3), abs=0.03)
    np.testing.assert_allclose(drawn.weights, jax.nn.one_hot(drawn.taken, 4), atol=1e-5)
    assert np.asarray(drawn.taken)[:, 1].max() == 2  # what doesn't exist isn't drawn

    def slope(done):
        """Of the weight of what is drawn with respect to its own logit: p (1 - p) / temperature."""
        at = state._replace(num_updates=jnp.int32(done))
        weight = lambda alphas: policy.relax(jax.random.key(0), at._replace(alphas=alphas)).weights[0, 3]  # noqa: E731
        return float(jax.grad(weight)(state.alphas)[0, 3])

    perturbed = jax.nn.log_softmax(state.alphas[0]) + jax.random.gumbel(jax.random.key(0), (3, 4))[0]
    for done, temperature in ((0, 10.0), (5, 5.05), (10, 0.1), (50, 0.1)):
        soft = jax.nn.softmax(perturbed / temperature)[3]
        assert slope(done) == pytest.approx(float(soft * (1 - soft) / temperature), rel=1e-3, abs=1e-6)


def test_pc_darts_weighs_the_edges_into_a_node(supernet):
    """Edges 0-2 and 1-2 share node 2: softmax of betas 1 and 0 is 0.731 and 0.269; edge 0-1 is alone."""
    policy = POLICIES["pc_darts"](supernet)
    state = policy.init(jax.random.key(0))
    alphas = {"op": jnp.zeros((3, 4)), "edge": jnp.array([5.0, 1.0, 0.0])}
    weights = policy.relax(jax.random.key(0), state._replace(alphas=alphas))
    np.testing.assert_allclose(weights.sum(axis=1), [1, 0.7311, 0.2689], atol=1e-4)
    np.testing.assert_allclose(weights[1, :3], 0.7311 / 3, atol=1e-4)
    assert policy.timetable(100, 10).done(30) == 0 and policy.timetable(100, 10).done(100) == 70


@pytest.mark.parametrize("kind", ["additive", "any"])
def test_fbnet_pays_for_what_it_costs(kind, supernet):
    """Uniform theta expects 9/4 + 9/3 + 3/3 = 6.25 units; without a gradient of the loss the mixture becomes cheap."""
    limit = limits(12.5)[kind]
    policy = POLICIES["fbnet"](supernet, limit, learning_rate=0.05, weight_decay=0.0, cost_weight=2.0, cost_power=1.0)
    state = policy.init(jax.random.key(0))
    nothing = Gradients(jnp.zeros((3, 4)), jnp.float32(0))
    _, terms = policy.update(jax.random.key(0), state, nothing)
    exists, costs = np.arange(4) < np.array(CELL.num_ops)[:, None], COSTS
    p = exists / exists.sum(axis=1, keepdims=True)
    expected = 2.0 / 12.5 * p * (costs - (p * costs).sum(axis=1, keepdims=True))  # of a softmax, by hand
    assert terms["policy_grad_norm"] == pytest.approx(np.linalg.norm(expected), rel=1e-4)
    for _ in range(60):
        state, _ = policy.update(jax.random.key(0), state, nothing)
    np.testing.assert_array_equal(policy.decide(jax.random.key(0), state, None), [0, 0, 0])
    free = POLICIES["fbnet"](supernet, weight_decay=0.0)
    assert free.update(jax.random.key(0), free.init(jax.random.key(0)), nothing)[1]["policy_grad_norm"] == 0


def test_fbnet_cools(supernet):
    policy = POLICIES["fbnet"](supernet, num_updates=100)
    state = policy.init(jax.random.key(0))
    largest = [
        float(policy.relax(jax.random.key(1), state._replace(num_updates=jnp.int32(done))).max(axis=-1).mean())
        for done in (0, 50, 100)
    ]
    assert largest[0] < largest[1] < largest[2]
    noise = 1.0 * jax.random.gumbel(jax.random.key(1), (3, 4))
    weights = jax.nn.softmax((jnp.log(0.25) + noise[0]) / 5.0)
    np.testing.assert_allclose(policy.relax(jax.random.key(1), state)[0], weights, rtol=1e-5)


def test_gauss_newton_is_the_hessian_of_linear_logits():
    """Where logits are linear in the switches, the Gauss-Newton matrix is the Hessian of the loss."""
    keys = jax.random.split(jax.random.key(0), 2)
    jacobian, labels = jax.random.normal(keys[0], (5, 3, 4)), jnp.array([0, 2, 1, 1, 0])
    logits_fn = lambda switches: jnp.einsum("ncs,s->nc", jacobian, switches["s"])  # noqa: E731

    def loss_fn(flat):
        logs = jax.nn.log_softmax(logits_fn({"s": flat}))
        return -logs[jnp.arange(5), labels].mean()

    at = jax.random.normal(keys[1], (4,))
    got = jax.jit(lambda at: gauss_newton_diagonal(logits_fn, {"s": at})["s"])(at)
    np.testing.assert_allclose(got, jnp.diag(jax.jit(jax.hessian(loss_fn))(at)), rtol=1e-4)


def test_bayesnas_by_hand(supernet):
    """gamma = |s| / omega with omega^2 = 1 / gamma - C / gamma^2; "none", without effect, has no merit."""
    policy = POLICIES["bayesnas"](supernet, sparsity=0.01, learning_rate=1e-9)
    state = policy.init(jax.random.key(0))
    halves = {"op": jnp.full((3, 4), 0.5), "edge": jnp.full((3,), 0.5)}
    state = state._replace(extra=state.extra | {"gamma": halves, "omega": halves})
    curvature = {"op": jnp.full((3, 4), 0.02).at[0, 0].set(0.0).at[0, 2].set(0.06), "edge": jnp.full((3,), 0.02)}
    zeros = jax.tree.map(jnp.zeros_like, state.alphas)
    after, _ = policy.update(jax.random.key(0), state, Gradients(zeros, jnp.float32(0), curvature))
    np.testing.assert_allclose(after.extra["gamma"]["op"][0], [0, 1, 1 / np.sqrt(1.5), 1], rtol=1e-4)
    np.testing.assert_allclose(after.extra["omega"]["op"][0, 1:], [1, np.sqrt(1.5), 1], rtol=1e-4)
    np.testing.assert_array_equal(policy.decide(jax.random.key(0), after, None), [1, 0, 0])
    again, terms = policy.update(jax.random.key(0), after, Gradients(zeros, jnp.float32(0)))
    pulls = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(after.extra["omega"])])
    pulls = np.delete(pulls, [3 + 4 + 3, 3 + 8 + 3])  # of the second and third place there are three candidates
    assert terms["policy_grad_norm"] == pytest.approx(0.01 * np.linalg.norm(pulls), rel=1e-4)
    assert_equal(again.extra, after.extra)


def test_nao_learns_its_pool_and_goes_uphill(of_name):
    """Codes decode to themselves, and what is decoded uphill scores higher than what it came from."""
    policy = of_name("nao")
    state = policy.init(jax.random.key(0))
    archs = policy.ask(jax.random.key(0), state)
    assert len(np.unique(archs, axis=0)) == 24
    after, terms = policy.update(jax.random.key(0), state, Rewards(archs, matches(archs)))
    assert terms["predictor_error"] < 0.02 and terms["decoder_loss"] < 0.1
    module = EncoderPredictorDecoder(CELL, 16, (16,), 0.0)
    ascend = make_ascend(module)
    np.testing.assert_array_equal(ascend(after.params, archs, 0.0), archs)
    worse = archs[np.argsort(matches(archs), kind="stable")[:12]]
    assert matches(ascend(after.params, worse, 5.0)).mean() > matches(worse).mean() + 0.1
    pool, scores = after.pool
    assert len(np.unique(pool, axis=0)) == len(pool) and np.isnan(scores[24:]).all()
    np.testing.assert_allclose(scores[:24], np.sort(matches(archs))[::-1], rtol=1e-6)
    assert len(policy.ask(jax.random.key(1), after)) == len(pool) - 24
    assert (np.diff(scores[:24]) <= 0).all()


def test_a_policy_that_has_no_more_to_ask_ends(of_name):
    """As nao does when its pool holds the whole space."""
    rounds = [np.array([[0, 0, 0], [3, 0, 2]]), np.array([[1, 1, 1]]), np.zeros((0, 3), np.int32)]
    fed = feed(of_name("random")._replace(ask=lambda key, state: rounds.pop(0)), matches, 100, jax.random.key(0))
    np.testing.assert_array_equal(fed.archs, [[0, 0, 0], [3, 0, 2], [1, 1, 1]])
    np.testing.assert_allclose(fed.rewards, [1 / 3, 1, 0])
    np.testing.assert_array_equal(fed.best, TARGET)


# --- together with the weights


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 3
    return np.asarray(rng.normal(size=(60, 4, 4, 1)) + labels[:, None, None, None], np.float32), labels


def make(supernet, policy, images, num_steps=6, **options):
    loss_fn, tx = make_cross_entropy_loss(supernet), sgd(0.05, num_steps=num_steps)
    valid_at = batches(jax.random.key(8), images[0][40:], images[1][40:], 8, split="valid")
    timetable = policy.timetable(num_steps, 2)
    return make_search_training(supernet, policy, loss_fn, tx, timetable=timetable, valid_at=valid_at, **options)


def train(search, images, state, num_steps, rows=None):
    batch_at = batches(jax.random.key(9), images[0][:40], images[1][:40], 8)
    keep = lambda steps, metrics, state: rows.append(metrics)  # noqa: E731
    callbacks = [] if rows is None else [keep]
    return fit(search.step, state, batch_at, num_steps, report_at=lambda steps: steps % 3 == 0, callbacks=callbacks)


@pytest.mark.parametrize(
    "name",
    [
        name if name in ("enas", "darts") else pytest.param(name, marks=pytest.mark.slow("compiles another step"))
        for name in POLICIES
    ],
)
def test_weights_and_policy_learn_in_one_state(name, supernet, of_name, images):
    """A training that stops and goes on ends as one that doesn't; the policy is updated when its timetable says."""
    policy = of_name(name)
    search = make(supernet, policy, images)
    rows = []
    whole = train(search, images, search.init(jax.random.key(0)), 6, rows)
    half = train(search, images, search.init(jax.random.key(0)), 3)
    saved = jax.tree.map(
        lambda leaf: leaf if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key) else np.array(leaf), half
    )
    again = train(search, images, jax.tree.map(jnp.asarray, saved), 6)
    jax.tree.map(
        lambda a, b: (
            np.testing.assert_array_equal(jax.random.key_data(a), jax.random.key_data(b))
            if jax.dtypes.issubdtype(a.dtype, jax.dtypes.prng_key)
            else np.testing.assert_array_equal(a, b)
        ),
        whole,
        again,
    )
    state = whole.sampler_state.policy
    if name != "random":
        assert int(state.num_updates) == policy.timetable(6, 2).done(6) > 0
        assert set(policy.terms) <= set(rows[-1])
    check(CELL, policy.decide(jax.random.key(0), state, matches)[None])


@pytest.mark.parametrize("name", ["darts", "pc_darts"])
def test_gradient_of_the_validation_loss_by_finite_difference(name, supernet, images):
    """What a mixture is told, against differences of the loss that it is told."""
    policy = POLICIES[name](supernet)
    search = make(supernet, policy, images)
    state = search.init(jax.random.key(0))
    judge = make_judge_step(supernet, policy, sgd(0.05, num_steps=6), lambda key, images: images)
    batch = {"images": jnp.asarray(images[0][40:]), "labels": jnp.asarray(images[1][40:])}

    def told(alphas):
        searcher = state.sampler_state
        at = state._replace(sampler_state=searcher._replace(policy=searcher.policy._replace(alphas=alphas)))
        keys = jax.random.key(0), jax.random.key(0)
        return judge(*keys, at, {"train": batch}, {"valid": batch}, 0)

    alphas = state.sampler_state.policy.alphas
    flat, restore = jax.flatten_util.ravel_pytree(alphas)
    gradient = jax.flatten_util.ravel_pytree(told(alphas).alphas)[0]
    for index in (1, 2, 5, int(flat.size) - 1):
        up, down = (float(told(restore(flat.at[index].add(side * 0.05))).loss) for side in (1, -1))
        assert float(gradient[index]) == pytest.approx((up - down) / 0.1, rel=0.05, abs=3e-4)


def test_switches_have_the_curvature_of_differences(supernet, images):
    """Through the super-net's own gradients, against differences of its logits."""
    params = supernet.init(jax.random.key(0))
    x = jnp.asarray(images[0][:8])
    logits_fn = lambda weights: supernet.apply(params, weights, x, groups=None)[0]  # noqa: E731
    weights = jnp.where(np.arange(4) < np.array(CELL.num_ops)[:, None], 1.0, 0.0)
    got = jax.jit(lambda weights: gauss_newton_diagonal(logits_fn, weights))(weights)
    p = jax.nn.softmax(logits_fn(weights))
    for place, op in ((0, 1), (1, 2), (2, 2), (0, 0)):
        up, down = (logits_fn(weights.at[place, op].add(side * 0.05)) for side in (1, -1))
        u = (up - down) / 0.1
        expected = ((p * u * u).sum(axis=-1) - (p * u).sum(axis=-1) ** 2).mean()
        assert float(got[place, op]) == pytest.approx(float(expected), rel=0.05, abs=1e-6)


def test_a_policy_that_diverges_says_where(supernet, images):
    policy = POLICIES["darts"](supernet)
    search = make(supernet, policy, images, preprocess=lambda key, images: images * jnp.nan)
    with pytest.raises(FloatingPointError, match=r"^darts stopped: policy_loss is nan, .* at update 0, after 1 steps"):
        train(search, images, search.init(jax.random.key(0)), 2)


def test_rewards_must_be_numbers(supernet):
    policy = POLICIES["reinforce"](supernet)
    with pytest.raises(ValueError, match=r"^reinforce: rewards \[nan\], expected a finite one"):
        feed(policy, lambda archs: np.full(len(archs), np.nan), 3, jax.random.key(0))
    with pytest.raises(ValueError, match="num_queries is 0"):
        feed(policy, matches, 0, jax.random.key(0))


def test_statistics_of_a_mixture_are_not_tracked(supernet, images):
    with pytest.raises(ValueError, match=r"^darts mixes candidates, whose statistics can't be tracked"):
        make(supernet, POLICIES["darts"](supernet), images, stats_momentum=0.9)


# --- what super-nets offer for it


def test_partial_channels_by_hand():
    """Of six channels in two parts the first three are doubled, the others pass; then they are interleaved."""
    space = dataclasses.replace(CELL, layout=CELL.layout._replace(width=6))
    supernet = make_supernet(space, affine=False, partial_channels=2)
    layer = supernet.layers["stage0_cell0_edge02"]
    x = jnp.broadcast_to(jnp.arange(6.0), (2, 4, 4, 6))
    for op, expected in (("twice", [0, 3, 2, 4, 4, 5]), ("skip_connect", [0, 3, 1, 4, 2, 5])):
        y = layer.branches[list(layer.candidates).index(op)](({op: {}}, None), x, None)[0]
        np.testing.assert_array_equal(y[0, 0, 0], expected)
    with pytest.raises(ValueError, match="6 channels don't divide into 4 parts"):
        make_supernet(space, partial_channels=4)


def test_weights_of_one_are_the_code(supernet, images):
    """Mixtures that are certain, drawn or mixed, give the logits of `choose`."""
    params, x = supernet.init(jax.random.key(0)), jnp.asarray(images[0][:8])
    for arch in sample(jax.random.key(0), CELL, 2):
        expected = supernet.apply(params, arch, x, groups=None)[0]
        weights = supernet.weights(arch)
        np.testing.assert_allclose(supernet.apply(params, weights, x)[0], expected, atol=1e-5)
        np.testing.assert_allclose(supernet.apply(params, Drawn(weights, arch), x)[0], expected, atol=1e-5)


def test_encode_is_the_rule_of_darts():
    """One node a cell: its two edges; of two nodes, the second keeps the two of three with the largest weight of an
    operation that isn't "none"."""
    space = darts_space(2).resized(width=2, image_size=4, cells_per_stage=1)
    supernet = make_supernet(space)
    weights = np.zeros((10, 8))
    weights[:, 0] = 9.0  # none
    weights[0, 4], weights[1, 3] = 1.0, 0.5  # normal cell, node 2: sep_conv_3x3 from 0, skip_connect from 1
    weights[2, 1], weights[3, 7], weights[4, 2] = 0.2, 0.3, 0.4  # node 3: the weakest is from source 0
    code = supernet.encode(weights)
    np.testing.assert_array_equal(code[:8], [4, 0, 3, 1, 7, 1, 2, 2])
    np.testing.assert_array_equal(code[8:], [1, 0, 1, 1, 1, 0, 1, 1])  # equal weights: the first operation and edges
    check(space, code[None])
    kept = supernet.decode(code)
    assert [kept[place] for place in range(5)] == [4, 3, 0, 7, 2]


def test_joins_of_spaces():
    joins = make_supernet(get_space("nasbench201").resized(width=2, image_size=4, cells_per_stage=1)).joins
    assert joins == (1, 2, 2, 3, 3, 3)
    places = list(itertools.chain.from_iterable([node] * (2 + node) for node in (0, 1)))
    assert make_supernet(darts_space(2).resized(width=2, image_size=4, cells_per_stage=1)).joins == tuple(
        [*places, *(2 + node for node in places)]
    )
