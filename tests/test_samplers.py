"""The contract that every sampler keeps, and what each sampler promises by itself."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from jaxnas.codes import check, enumerate_archs, to_index
from jaxnas.samplers import SAMPLERS, check_allowed, distinct, fair, restricted, sandwich, uniform
from jaxnas.space import ChainLayout
from jaxnas.spaces import SPACES, chain_space
from jaxnas.supernets.choice import branch_runs

uneven = chain_space(  # choices of different sizes: 1, 2 and 3 operations
    "uneven",
    ChainLayout(stem_width=2, widths=(2, 2, 2), strides=(1, 1, 1), head_width=0),
    [("identity",), ("identity", "mb1_k3"), ("identity", "mb1_k3", "mb2_k3")],
)
PROTOCOL_SPACES = {"uneven": uneven, "nasbench201": SPACES["nasbench201"], "digits_chain": SPACES["digits_chain"]}


@pytest.fixture(params=[(name, space) for name in SAMPLERS for space in PROTOCOL_SPACES], ids="-".join)
def case(request):
    name, space = request.param
    space = PROTOCOL_SPACES[space]
    return space, SAMPLERS[name](space)


def assert_equal(got, expected):
    jax.tree.map(np.testing.assert_array_equal, got, expected)


def test_populations_are_codes_of_the_space(case):
    space, sampler = case
    state = sampler.init(jax.random.key(0))
    draws = [sampler.sample(jax.random.key(seed), state) for seed in range(5)]
    for archs in draws:
        assert archs.dtype == jnp.int32 and archs.shape == draws[0].shape and archs.shape[1] == space.num_choices
        check(space, np.asarray(archs))
    assert any((archs != draws[0]).any() for archs in draws)


def test_sampling_is_pure_and_reads_the_state_only(case):
    _, sampler = case
    key = jax.random.key(3)
    state = sampler.init(jax.random.key(0))
    assert_equal(sampler.init(jax.random.key(0)), state)
    before = jax.tree.map(np.array, state)
    archs = sampler.sample(key, state)
    np.testing.assert_array_equal(sampler.sample(key, state), archs)
    np.testing.assert_array_equal(jax.jit(sampler.sample)(key, state), archs)
    assert_equal(state, before)


def test_update_returns_a_state_like_the_one_given(case):
    """So that a compiled step can carry it; also within `jit`, and the old state stays as it was."""
    space, sampler = case
    state = sampler.init(jax.random.key(0))
    before = jax.tree.map(np.array, state)
    archs = sampler.sample(jax.random.key(1), state)
    losses = jnp.linspace(1.0, 2.0, len(archs))
    updated = sampler.update(state, archs, losses)
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), updated) == jax.tree.map(
        lambda leaf: (leaf.shape, leaf.dtype), state
    )
    assert_equal(jax.jit(sampler.update)(state, archs, losses), updated)
    assert_equal(state, before)
    check(space, np.asarray(sampler.sample(jax.random.key(2), updated)))


def test_promise_of_balance_is_kept(case):
    """`groups="balanced"` runs without any switch, which a draw that isn't balanced would make wrong."""
    space, sampler = case
    state = sampler.init(jax.random.key(0))
    if sampler.groups != "balanced":
        assert sampler.groups is None or sampler.groups >= 1
        return
    for seed in range(20):
        archs = np.asarray(sampler.sample(jax.random.key(seed), state))
        state = sampler.update(state, archs, jnp.ones(len(archs)))
        for choice, num_ops in enumerate(space.num_ops):
            counts = np.bincount(archs[:, choice], minlength=num_ops)
            assert (counts == len(archs) // num_ops).all()


@pytest.mark.parametrize("name", SAMPLERS)
def test_population_size(name):
    for num_archs in (6, 12):
        sampler = SAMPLERS[name](uneven, num_archs=num_archs)
        assert sampler.sample(jax.random.key(0), sampler.init(jax.random.key(0))).shape == (num_archs, 3)


@pytest.mark.parametrize("sampler", [uniform(uneven, num_archs=6), fair(uneven)], ids=["uniform", "fair"])
def test_all_codes_are_equally_likely(sampler):
    """Each place of the population, on its own, is uniform over the 6 codes: chi-square over 2,000 draws."""
    keys = jax.random.split(jax.random.key(0), 2000)
    draws = np.asarray(jax.jit(jax.vmap(lambda key: sampler.sample(key, ())))(keys))
    for place in (0, 5):
        seen = to_index(uneven, draws[:, place])
        assert scipy.stats.chisquare(np.bincount(seen, minlength=6)).pvalue > 1e-3


def test_uniform_draws_each_architecture_independently():
    sampler = uniform(uneven, num_archs=2)
    keys = jax.random.split(jax.random.key(1), 3600)
    draws = np.asarray(jax.jit(jax.vmap(lambda key: sampler.sample(key, ())))(keys))
    pairs = [to_index(uneven, draws[:, place]) for place in (0, 1)]
    counts = np.array([np.sum((pairs[0] == a) & (pairs[1] == b)) for a, b in itertools.product(range(6), repeat=2)])
    assert scipy.stats.chisquare(counts).pvalue > 1e-3


def test_distinct_draws_networks_uniformly_and_then_their_codes():
    """Two layers, each an identity or a block: 00, 01 or 10, 11 are three networks, hence 1/3, 1/6, 1/6, 1/3; and the
    two architectures of a step are independent."""
    twins = chain_space(
        "twins", ChainLayout(stem_width=2, widths=(2, 2), strides=(1, 1), head_width=0), [("identity", "mb1_k3")] * 2
    )
    sampler = distinct(twins, num_archs=2)
    keys = jax.random.split(jax.random.key(0), 6000)
    draws = np.asarray(jax.jit(jax.vmap(lambda key: sampler.sample(key, ())))(keys))
    first, second = (to_index(twins, draws[:, place]) for place in (0, 1))
    chances = np.array([1 / 3, 1 / 6, 1 / 6, 1 / 3])
    expected = 6000 * np.outer(chances, chances).ravel()
    assert scipy.stats.chisquare(np.bincount(4 * first + second, minlength=16), expected).pvalue > 1e-3


def test_distinct_on_published_classes():
    """NAS-Bench-201 has 6,466 networks; the cell without any edge is one of them, written in many codes, so it comes up
    at 1 in 6,466 draws whatever their number, where uniform codes bring it up more often."""
    space = SPACES["nasbench201"]
    sampler = distinct(space, num_archs=64_660)
    archs = np.asarray(sampler.sample(jax.random.key(0), ()))
    same = (space.isomorphs(archs) == space.isomorphs(np.zeros((1, 6), np.int32))).all(axis=1)
    share = (space.isomorphs(enumerate_archs(space)) == 0).all(axis=1).mean()
    assert scipy.stats.binomtest(int(same.sum()), 64_660, 1 / 6466).pvalue > 1e-3
    assert scipy.stats.binomtest(int(same.sum()), 64_660, share).pvalue < 1e-3


def test_fair_needs_no_more_than_the_least_common_multiple():
    sampler = fair(uneven)
    archs = np.asarray(sampler.sample(jax.random.key(0), ()))
    assert archs.shape == (6, 3)  # lcm of 1, 2 and 3
    assert [np.bincount(column).tolist() for column in archs.T] == [[6], [3, 3], [2, 2, 2]]
    assert fair(SPACES["nasbench201"]).sample(jax.random.key(0), ()).shape == (5, 6)


def test_refusals():
    with pytest.raises(ValueError, match="uniform: num_archs is 0, expected 1 to"):
        uniform(uneven, num_archs=0)
    with pytest.raises(ValueError, match="distinct: num_archs is 0, expected 1 to"):
        distinct(uneven, num_archs=0)
    with pytest.raises(ValueError, match=r"nasbench101: .* codes are too many to enumerate"):
        distinct(SPACES["nasbench101"])
    for wrong, words in (
        (0, "is 0, expected"),
        (-6, "is -6, expected"),
        (7, "must be a multiple of 6 on uneven, got 7"),
    ):
        with pytest.raises(ValueError, match=f"fair: num_archs {words}"):
            fair(uneven, num_archs=wrong)


class TestRestricted:
    allowed = np.array([[True, False, True], [False, True, False], [True, True, True]])
    space = chain_space("toy", ChainLayout(4, (4, 4, 4), (1, 1, 1), 0), [("identity", "mb3_k3", "mb6_k3")] * 3)

    def test_only_what_is_allowed_and_uniformly(self):
        sampler = restricted(self.space, self.allowed, num_archs=6000)
        archs = np.asarray(jax.jit(sampler.sample)(jax.random.key(0), sampler.init(jax.random.key(1))))
        assert archs.shape == (6000, 3) and archs.dtype == np.int32
        codes, counts = np.unique(archs, axis=0, return_counts=True)
        assert codes.tolist() == [[first, 1, last] for first in (0, 2) for last in (0, 1, 2)]
        assert scipy.stats.chisquare(counts).pvalue > 1e-3

    def test_the_part_is_state(self):
        sampler = restricted(self.space, self.allowed, num_archs=50)
        other = np.zeros((3, 3), bool)
        other[:, 2] = True
        archs = sampler.sample(jax.random.key(0), jnp.asarray(other))
        assert np.asarray(archs).tolist() == [[2, 2, 2]] * 50

    @pytest.mark.parametrize(
        "change, message",
        [
            (lambda allowed: allowed[:2], r"toy: allowed is bool \(2, 3\), expected bool \(3, 3\)"),
            (lambda allowed: allowed.astype(int), r"toy: allowed is int64 \(3, 3\), expected bool"),
            (lambda allowed: allowed & [[1], [0], [1]] > 0, "toy: no operation is allowed at choice 1"),
        ],
    )
    def test_what_is_no_part(self, change, message):
        with pytest.raises(ValueError, match=message):
            restricted(self.space, change(self.allowed))
        with pytest.raises(ValueError, match="num_archs is 0, expected 1 to"):
            restricted(self.space, self.allowed, num_archs=0)

    def test_operations_that_a_choice_does_not_have(self):
        layout = ChainLayout(4, (4, 4), (1, 1), 0)
        space = chain_space("toy", layout, [("identity", "mb3_k3"), ("identity",)])
        with pytest.raises(ValueError, match="toy: allowed names operations that a choice does not have"):
            check_allowed(space, np.ones((2, 2), bool))


@pytest.mark.parametrize("name", ["uniform", "distinct"])
@pytest.mark.parametrize("num_archs", [1, 2, 5, 9, 10, 23, 40])
def test_padding_is_less_than_the_work(name, num_archs):
    """A population that is drawn independently executes less than twice what it needs, at every choice."""
    space = SPACES["nasbench201"]
    sampler = SAMPLERS[name](space, num_archs=num_archs)
    state = sampler.init(jax.random.key(0))
    for seed in range(5):
        archs = np.asarray(sampler.sample(jax.random.key(seed), state))
        for column in archs.T:
            assert branch_runs(column, 5, sampler.groups).sum() < 2 * num_archs


class TestSandwich:
    def test_the_ends_by_hand_and_the_rest_uniform(self):
        """The dearest and the cheapest operation of each choice; the others as any code."""
        sampler = sandwich(uneven, num_archs=5)
        keys = jax.random.split(jax.random.key(0), 1000)
        draws = np.asarray(jax.jit(jax.vmap(lambda key: sampler.sample(key, ())))(keys))
        assert (draws[:, 0] == [0, 1, 2]).all() and (draws[:, 1] == [0, 0, 0]).all()
        counts = np.bincount(np.asarray(to_index(uneven, draws[:, 2:].reshape(-1, 3))), minlength=6)
        assert scipy.stats.chisquare(counts).pvalue > 1e-3

    def test_of_cells(self):
        """3x3 convolutions on every edge; of those without products, none, skip and pooling, the first."""
        space = SPACES["nasbench201"]
        ends = np.asarray(sandwich(space).sample(jax.random.key(0), ()))[:2]
        names = [[space.op_names[choice][op] for choice, op in enumerate(code)] for code in ends]
        assert names == [["nor_conv_3x3"] * 6, ["none"] * 6]

    def test_refusals(self):
        with pytest.raises(ValueError, match=r"^sandwich: num_archs is 2, expected 3 to"):
            sandwich(uneven, num_archs=2)
        with pytest.raises(ValueError, match=r"^sandwich: nasbench101_v4 has no operation of a choice that is the dea"):
            sandwich(SPACES["nasbench101_v4"])
