"""Regions against brute force: what is feasible, how many, uniform draws, and what is said when nothing is."""

import dataclasses
import functools

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxnas.codes import enumerate_archs, to_index
from jaxnas.costs import arch_costs, cost_table, make_limit, parse, table_costs
from jaxnas.search.regions import OPEN, Region
from jaxnas.space import ChainLayout, SearchSpace
from jaxnas.spaces import SPACES, chain_space


def toy(*num_ops, is_valid=None):
    """A space whose choices have so many operations."""
    layout = ChainLayout(1, (1,) * len(num_ops), (1,) * len(num_ops), 0)
    space = SearchSpace("toy", tuple(tuple(f"op{op}" for op in range(num)) for num in num_ops), layout)
    return space if is_valid is None else dataclasses.replace(space, is_valid=is_valid)


def odd_sum(archs):
    return archs.sum(axis=1) % 2 == 1


def completions(space, partial):
    """By brute force: every valid code that agrees with `partial` where it isn't open."""
    archs = enumerate_archs(space)
    return archs[((archs == partial) | (np.asarray(partial) == OPEN)).all(axis=1)]


@st.composite
def cases(draw):
    """(space, table, partial, limit): whole or real costs, also negative; limits anywhere, often exactly on a sum."""
    num_ops = draw(st.lists(st.integers(1, 4), min_size=1, max_size=5))
    space = toy(*num_ops, is_valid=draw(st.sampled_from([None, None, odd_sum])))
    figures = draw(st.sampled_from([st.integers(0, 5), st.floats(0, 10), st.floats(-3, 10)]))
    width = max(num_ops)
    per_op = [draw(st.lists(figures, min_size=width, max_size=width)) for _ in num_ops]
    table = cost_table(space, per_op, draw(figures))
    partial = [draw(st.one_of(st.just(OPEN), st.integers(0, num - 1))) for num in num_ops]
    sums = np.unique(table_costs(table, enumerate_archs(toy(*num_ops))))
    value = draw(st.one_of(st.sampled_from(sums.tolist()), st.floats(float(sums[0]) - 1, float(sums[-1]) + 1)))
    return space, table, np.array(partial), value


@settings(max_examples=150, deadline=None)
@given(cases(), st.sampled_from([2**16, 3, 1]), st.booleans(), st.integers(0, 2**32))
def test_exactly_the_feasible_completions(case, max_sums, is_additive, seed):
    """Whatever the route: exact sums, sums merged to three or to one, or a function instead of a table."""
    space, table, partial, value = case
    costs = functools.partial(table_costs, table)
    limit = make_limit(space, "cost", value, table if is_additive else costs)
    region = Region(space, limit, max_sums=max_sums)
    everything = completions(space, partial)
    feasible = everything[costs(everything) <= value]
    assert region.count(partial) == len(feasible)
    if len(everything) and (not is_additive or space.is_valid is SearchSpace.is_valid):
        assert region.bounds(partial) == (costs(everything).min(), costs(everything).max())
    if len(feasible):
        np.testing.assert_array_equal(region.members(partial), feasible)
        drawn = region.sample(np.random.default_rng(seed), 40 * len(feasible), partial)
        assert drawn.dtype == np.int32 and set(map(tuple, drawn)) <= set(map(tuple, feasible))
        assert len(feasible) > 3 or len(np.unique(drawn, axis=0)) == len(feasible)  # misses one in 10^17 trials
    else:
        for function in (region.members, lambda partial: region.sample(np.random.default_rng(seed), 1, partial)):
            with pytest.raises(ValueError, match="toy: no architecture") as caught:
                function(partial)
            assert "\n" not in str(caught.value)


@settings(max_examples=60, deadline=None)
@given(cases(), st.integers(0, 2**32))
def test_limits_that_one_architecture_meets_and_that_none_does(case, seed):
    space, table, _, _ = case
    archs = enumerate_archs(space)
    if not len(archs):
        return
    costs = table_costs(table, archs)
    cheapest = archs[costs == costs.min()]
    region = Region(space, make_limit(space, "cost", costs.min(), table))
    assert region.count() == len(cheapest)
    assert set(map(tuple, region.sample(np.random.default_rng(seed), 5))) <= set(map(tuple, cheapest))
    below = make_limit(space, "cost", np.nextafter(costs.min(), -np.inf), table)
    with pytest.raises(ValueError, match="the smallest possible is ") as caught:
        Region(space, below).sample(np.random.default_rng(seed), 1)
    assert float(str(caught.value).rsplit(" ", 1)[1].rstrip(".")) == costs.min()


def test_a_limit_just_below_zero():
    """Over the quantum of large costs it would round to 0."""
    space = toy(2)
    limit = make_limit(space, "cost", -5e-324, cost_table(space, [[0, 2.0**60]]))
    assert Region(space, limit).count() == 0
    assert Region(space, limit._replace(value=0.0)).members().tolist() == [[0]]


WALK = toy(3, 2, 4, 3, 3, is_valid=None)
RNG = np.random.default_rng(5)
WALK_TABLE = cost_table(WALK, RNG.uniform(0, 10, (5, 4)), 1.0)


@pytest.mark.parametrize(
    "route, settings_of_region",
    [
        ("exact sums", {}),
        ("merged sums", {"max_sums": 6, "max_members": 0}),
        ("merged to one", {"max_sums": 1, "max_members": 0}),
        ("listed", {}),
        ("rejection", {"max_members": 0}),
    ],
)
@pytest.mark.parametrize("partial", [None, [OPEN, 1, OPEN, OPEN, 0]])
@pytest.mark.parametrize("share", [0.15, 0.6, 1.0])
def test_draws_are_uniform(route, settings_of_region, partial, share):
    everything = completions(WALK, [OPEN] * 5 if partial is None else partial)
    costs = table_costs(WALK_TABLE, everything)
    value = np.quantile(costs, share)
    is_additive = route not in ("listed", "rejection")
    cost = WALK_TABLE if is_additive else functools.partial(table_costs, WALK_TABLE)
    region = Region(WALK, make_limit(WALK, "cost", value, cost), **settings_of_region)
    feasible = to_index(WALK, everything[costs <= value])
    assert len(feasible) > 4
    drawn = to_index(WALK, region.sample(np.random.default_rng(1), 50 * len(feasible), partial))
    assert set(drawn) <= set(feasible)
    counts = np.bincount(drawn, minlength=WALK.size)[feasible]
    assert scipy.stats.chisquare(counts).pvalue > 1e-3


def test_a_draw_is_a_function_of_the_generator():
    region = Region(WALK, make_limit(WALK, "cost", 20, WALK_TABLE))
    first, again, other = (region.sample(np.random.default_rng(seed), 20) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


class TestLargeSpaces:
    """20 choices of 6 operations, 3.7e15 codes, with real costs: too many sums to keep apart."""

    space = toy(*[6] * 20)
    table = cost_table(space, np.random.default_rng(0).uniform(0.1, 2, (20, 6)), 0.5)
    least = table.fixed + table.per_op.min(axis=1).sum()
    most = table.fixed + table.per_op.max(axis=1).sum()

    def region(self, value):
        return Region(self.space, make_limit(self.space, "latency_ms", value, self.table), max_sums=2**12)

    @pytest.mark.parametrize("share", [0.05, 0.4, 0.9])
    def test_draws_meet_the_limit_and_use_it(self, share):
        value = self.least + share * (self.most - self.least)
        region = self.region(value)
        archs = region.sample(np.random.default_rng(0), 300)
        costs = table_costs(self.table, archs)
        assert archs.shape == (300, 20) and costs.max() <= value and costs.max() > 0.8 * value

    def test_half_of_the_space(self):
        """At the median of uniform draws half of the codes are feasible, and draws have the mean of that half."""
        archs = np.random.default_rng(1).integers(0, 6, (20_000, 20))
        costs = table_costs(self.table, archs)
        region = self.region(np.median(costs))
        assert region.count() == pytest.approx(self.space.size / 2, rel=0.05)
        drawn = table_costs(self.table, region.sample(np.random.default_rng(2), 4000))
        assert scipy.stats.ks_2samp(drawn, costs[costs <= np.median(costs)]).pvalue > 1e-3

    def test_one_architecture_and_none(self):
        cheapest = self.table.per_op.argmin(axis=1)
        assert self.region(self.least).count() == 1
        np.testing.assert_array_equal(self.region(self.least).sample(np.random.default_rng(0), 2), [cheapest] * 2)
        nothing = self.region(np.nextafter(self.least, 0))
        assert nothing.count() == 0
        with pytest.raises(ValueError, match=f"meets latency_ms <= .*; the smallest possible is {self.least}"):
            nothing.sample(np.random.default_rng(0), 1)

    def test_counts_beyond_int64(self):
        space = toy(*[8] * 24)  # 2^72 codes
        region = Region(space, make_limit(space, "macs", 1, cost_table(space, np.zeros((24, 8)))))
        assert region.count() == Region(space).count() == 8**24
        archs = Region(space).sample(np.random.default_rng(0), 4000)
        for column in archs.T:
            assert scipy.stats.chisquare(np.bincount(column, minlength=8)).pvalue > 1e-5

    def test_rejection_ends(self):
        """A limit by a function that hardly any code meets is given up, in one line."""
        limit = make_limit(self.space, "joules", 0, lambda archs: archs.sum(axis=1))
        with pytest.raises(ValueError, match=r"toy: of \d+ draws only 0 meet joules <= 0, 1 are wanted; loosen"):
            Region(self.space, limit).sample(np.random.default_rng(0), 1)
        with pytest.raises(
            ValueError,
            match=r"toy: 3656158440062976 .* at most 65536; `sample` draws from them by rej",
        ):
            Region(self.space, limit).members()

    def test_a_prefix_that_cannot_be_completed_is_recognised(self):
        partial = np.full(20, OPEN)
        partial[:3] = self.table.per_op[:3].argmax(axis=1)
        least = self.table.fixed + self.table.per_op[:3].max(axis=1).sum() + self.table.per_op[3:].min(axis=1).sum()
        assert self.region(least).count(partial) == 1
        assert self.region(np.nextafter(least, 0)).count(partial) == 0
        assert self.region(np.nextafter(least, 0)).count() > 0


def test_published_macs():
    """NAS-Bench-Macro under 50 MMACs: the codes to which its authors' table gives so many."""
    space = SPACES["nasbench_macro"]
    archs = enumerate_archs(space)
    feasible = archs[arch_costs(space, archs).macs <= 50e6]  # equal to the published figures, see test_costs
    np.testing.assert_array_equal(Region(space, parse("macs:50e6", space)).members(), feasible)


class TestRefusals:
    space = chain_space("digits", SPACES["digits_chain"].layout, SPACES["digits_chain"].op_names)

    @pytest.mark.parametrize(
        "partial, message",
        [
            ([0, 0], r"int64 \(2,\), expected integers \[5\]"),
            ([0.0] * 5, r"float64 \(5,\), expected integers"),
            ([3, 0, 0, 0, 0], r"partial architecture \[3, 0, 0, 0, 0\], expected codes below \[3, 3, 3, 3, 3\], or -1"),
            ([-2, 0, 0, 0, 0], "expected codes below"),
        ],
    )
    def test_partials_that_are_none(self, partial, message):
        region = Region(self.space)
        for function in (region.bounds, region.count, region.members):
            with pytest.raises(ValueError, match=message):
                function(np.array(partial))

    def test_what_is_infeasible_is_said_of_the_prefix(self):
        limit = parse("macs:4e4", self.space)
        smallest = arch_costs(self.space, completions(self.space, [2, 2, OPEN, OPEN, OPEN])).macs.min()
        message = (
            rf"digits: no architecture of 2 2 \? \? \? meets macs <= 40000; the smallest possible is {smallest:.0f}\."
        )
        with pytest.raises(ValueError, match=message):
            Region(self.space, limit).sample(np.random.default_rng(0), 1, np.array([2, 2, -1, -1, -1]))

    def test_nothing_exists(self):
        empty = toy(2, 2, is_valid=lambda archs: np.zeros(len(archs), bool))
        for limit in (None, make_limit(empty, "cost", 1, cost_table(empty, np.zeros((2, 2))))):
            with pytest.raises(ValueError, match="toy: no architecture"):
                Region(empty, limit).sample(np.random.default_rng(0), 1)
            assert Region(empty, limit).count() == 0


def test_a_limit_is_read_from_text_first(small_space):
    with pytest.raises(ValueError, match=r"^limit is 'macs:50e6', expected a Limit; `costs.limits.parse` reads one"):
        Region(small_space("tiny"), "macs:50e6")
