"""PC-NAS: feasible whatever the table and the limit, potentials by brute force, and the same after every kill."""

import functools
import json

import jax
import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxnas.codes import enumerate_archs
from jaxnas.costs import cost_table, make_limit, parse, table_costs
from jaxnas.costs.latency import measured_costs
from jaxnas.costs.latency_files import read_nasbench201_latency
from jaxnas.evaluation import is_correct, make_evaluator
from jaxnas.samplers import replay, replayed
from jaxnas.search import PcnasState, pcnas
from jaxnas.search.regions import OPEN
from jaxnas.space import ChainLayout, SearchSpace
from jaxnas.spaces import SPACES

KEY = jax.random.key(0)


def toy(*num_ops, **fields):
    """A space whose choices have so many operations."""
    layout = ChainLayout(1, (1,) * len(num_ops), (1,) * len(num_ops), 0)
    return SearchSpace("toy", tuple(tuple(f"op{op}" for op in range(num)) for num in num_ops), layout, **fields)


def uneven(archs):
    """Some score without ties."""
    return np.sin(archs @ np.sqrt(2.0 + np.arange(archs.shape[1])))


def steps(search, score=uneven, state=None):
    """Every state from the given one to the ranked pool, and what was asked for on the way."""
    state = search.init(KEY) if state is None else state
    asked = []
    while True:
        was_complete = search.is_complete(state)
        extension = search.ask(state)
        asked.append((state, extension))
        state = search.tell(state, extension, score(extension.archs))
        if was_complete:
            return state, asked


def completes(archs, partial):
    """Which of the codes agree with a partial architecture: bool [num_archs]."""
    return ((np.asarray(partial) == OPEN) | (archs == partial)).all(axis=1)


def assert_same(first, second):
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)


@st.composite
def problems(draw):
    """(space, limit, its feasible codes), often only one of them: additive or not, with all codes there or not."""
    num_ops = draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
    space = toy(*num_ops)
    if draw(st.booleans()):
        odd = toy(*num_ops, is_valid=lambda archs: archs.sum(axis=1) % 2 == 1)
        space = odd if len(enumerate_archs(odd)) else space
    archs, width = enumerate_archs(space), max(num_ops)
    table = cost_table(space, [draw(st.lists(st.floats(0, 9), min_size=width, max_size=width)) for _ in num_ops])
    costs = np.unique(table_costs(table, archs))
    value = float(draw(st.sampled_from(costs[[0, 0, len(costs) // 3, -1]].tolist())))
    limit = make_limit(space, "cost", value, draw(st.sampled_from([table, functools.partial(table_costs, table)])))
    return space, limit, archs[limit.costs(archs) <= value]


class TestFeasibility:
    @settings(max_examples=60, deadline=None)
    @given(problem=problems(), pool_size=st.integers(1, 6), num_completions=st.integers(1, 12), data=st.data())
    def test_all_that_is_scored_trained_and_returned_meets_the_limit(self, problem, pool_size, num_completions, data):
        space, limit, feasible = problem
        order = data.draw(st.permutations(range(space.num_choices)))
        search = pcnas(space, limit, pool_size=pool_size, num_completions=num_completions, order=order)
        known = {tuple(code) for code in feasible.tolist()}
        last, asked = steps(search)
        assert len(asked) == space.num_choices + 1
        for decided, (state, extension) in enumerate(asked):
            assert {tuple(code) for code in [*extension.archs.tolist(), *search.draw(state, 9).tolist()]} <= known
            fixed = [choice for choice in range(space.num_choices) if state.pool[0][choice] != OPEN]
            assert sorted(order[:decided]) == fixed
            # every candidate that has a feasible completion is there, and no other
            prefixes = [code for code in feasible if any(completes(code[None], part)[0] for part in state.pool)]
            left = np.setdiff1d(range(space.num_choices), order[: decided + 1])
            expected = {tuple(OPEN if choice in left else op for choice, op in enumerate(code)) for code in prefixes}
            assert {tuple(candidate) for candidate in extension.candidates.tolist()} == expected
            assert len(extension.candidates) == len(expected) and len(state.pool) <= pool_size
            for row, candidate in enumerate(extension.candidates):
                assert completes(extension.archs[extension.owner == row], candidate).all()
        arch, score = search.best(last)
        assert tuple(arch.tolist()) in known and score == pytest.approx(uneven(arch[None])[0])
        assert len(last.pool) == min(pool_size, len(asked[-2][1].candidates))

    def test_a_limit_that_one_architecture_meets(self):
        space = SPACES["nasbench201"]
        search = pcnas(space, parse("macs:7783040", space), order=(5, 3, 1, 0, 2, 4))
        free = [op for op, name in enumerate(space.op_names[0]) if not name.startswith("nor_conv")]
        assert search.region.count() == len(free) ** 6  # those without a convolution all cost the same
        one = toy(3, 3, 3)
        search = pcnas(one, make_limit(one, "cost", 0, cost_table(one, [[2, 0, 1]] * 3)))
        state, asked = steps(search)
        assert search.best(state)[0].tolist() == [1, 1, 1]
        assert [len(extension.archs) for _, extension in asked] == [1] * 4

    @pytest.mark.parametrize("name, smallest", [("digits_chain", "5696"), ("nasbench201", "7783040")])
    def test_a_limit_that_none_meets(self, name, smallest):
        with pytest.raises(
            ValueError, match=rf"no architecture meets macs <= 9; the smallest possible is {smallest}\.$"
        ):
            pcnas(SPACES[name], parse("macs:9", SPACES[name]))

    def test_measured_latencies_of_whole_networks(self, data_dir):
        """NAS-Bench-201 on a TITAN Xp: no sum over operations, so what is feasible is listed."""
        space, column = SPACES["nasbench201"], "latency_ms_titanxp_32"
        table = read_nasbench201_latency(data_dir, space)
        limit = make_limit(space, column, 7, measured_costs(space, table, column))
        search = pcnas(space, limit, num_completions=5)
        assert search.region.count() == (table.columns[column] <= 7).sum() > 0
        state, asked = steps(search)
        assert max(limit.costs(extension.archs).max() for _, extension in asked) <= 7
        assert len(state.pool) == 5

    def test_a_large_space(self):
        """6^20 codes under a tight limit: nothing is listed, and the pool's space shrinks with every step."""
        space = toy(*[6] * 20)
        table = cost_table(space, np.random.default_rng(0).uniform(0.1, 2, (20, 6)))
        limit = make_limit(space, "latency_ms", 1.3 * table.per_op.min(axis=1).sum(), table)
        search = pcnas(space, limit, pool_size=3, num_completions=10)
        state, asked = steps(search)
        assert limit.costs(state.pool).max() <= limit.value
        left = [sum(search.region.count(prefix) for prefix in before.pool) for before, _ in asked]
        assert left[0] > 10**6 and left[-1] == 3 and (np.diff(left) <= 0).all()


class TestPotentials:
    space = toy(3, 2, 4)
    limit = make_limit(space, "cost", 5, cost_table(space, [[0, 1, 2, 0], [0, 3, 0, 0], [0, 1, 2, 3]]))

    def feasible(self):
        archs = enumerate_archs(self.space)
        return [code for code in archs.tolist() if (0, 1, 2)[code[0]] + (0, 3)[code[1]] + code[2] <= 5]

    def test_are_means_over_all_completions_where_these_are_few(self):
        search = pcnas(self.space, self.limit, num_completions=24)
        _, extension = steps(search)[1][1]  # two choices decided
        scores = uneven(extension.archs)
        for candidate, potential in zip(extension.candidates.tolist(), extension.potentials(scores), strict=True):
            mine = [uneven(np.array([code]))[0] for code in self.feasible() if code[:2] == candidate[:2]]
            assert potential == pytest.approx(np.mean(mine), rel=1e-12)

    def test_are_means_over_draws(self):
        """A draw that comes twice counts twice, also where one architecture is scored for it."""
        search = pcnas(toy(2, 5, 5), num_completions=20)
        _, extension = steps(search)[1][0]
        assert extension.num_draws.max() > 1 and np.bincount(extension.owner, extension.num_draws).tolist() == [20, 20]
        scores = uneven(extension.archs)
        for row, potential in enumerate(extension.potentials(scores)):
            drawn_scores = []
            for owner, score, times in zip(extension.owner, scores, extension.num_draws, strict=True):
                drawn_scores += [score] * int(times) if owner == row else []
            assert potential == pytest.approx(sum(drawn_scores) / 20, rel=1e-12)

    def test_draws_of_completions_are_uniform(self):
        """40 keys, 20 draws each, of the 25 completions of either operation of the first choice."""
        search, counts = pcnas(toy(2, 5, 5), num_completions=20), np.zeros((2, 5, 5))
        for seed in range(40):
            extension = search.ask(search.init(jax.random.key(seed)))
            np.add.at(counts, tuple(extension.archs.T), extension.num_draws)
        assert counts.sum() == 1600 and scipy.stats.chisquare(counts.ravel()).pvalue > 1e-3

    def test_of_a_supernet_are_those_of_its_paths(self, small_supernet):
        """Mean accuracy by the shared-prefix evaluator, against one path at a time."""
        supernet, params = small_supernet("tiny")
        images = np.random.default_rng(0).normal(size=(24, 4, 4, 1)).astype(np.float32)
        labels = np.arange(24) % 10
        search = pcnas(supernet.space, num_completions=5, pool_size=2)
        scores = make_evaluator(supernet, strategy="graph", workers=1).evaluate
        _, asked = steps(search, lambda archs: scores(params, archs, images, labels).accuracy)
        _, extension = asked[1]
        apply = jax.jit(lambda code: supernet.apply(params, code, images, groups=None)[0])
        potentials = extension.potentials(scores(params, extension.archs, images, labels).accuracy)
        for row, potential in enumerate(potentials):
            of_row = []
            for code, owner, times in zip(extension.archs, extension.owner, extension.num_draws, strict=True):
                if owner == row:
                    of_row += [float(is_correct(apply(code), labels).mean())] * int(times)
            assert potential == pytest.approx(np.mean(of_row), abs=1e-6)


class TestPool:
    def test_all_completions_and_a_wide_pool_find_the_best(self):
        space = toy(3, 4, 3)
        limit = make_limit(space, "cost", 4, cost_table(space, [[0, 1, 2, 0], [0, 1, 2, 3], [0, 1, 2, 0]]))
        archs = enumerate_archs(space)
        archs = archs[archs.sum(axis=1) <= 4]
        state, _ = steps(pcnas(space, limit, pool_size=100))
        expected = archs[np.argsort(-uneven(archs))]
        np.testing.assert_array_equal(state.pool, expected)
        np.testing.assert_allclose(state.potentials, np.sort(uneven(archs))[::-1])

    @pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 2, 1, 0), (2, 0, 3, 1)])
    def test_one_prefix_finds_the_best_of_a_separable_score(self, order):
        """The mean over completions of a sum is the prefix's own sum plus a constant: greedy choice by choice."""
        weights = np.random.default_rng(1).normal(size=(4, 3))
        search = pcnas(toy(3, 3, 3, 3), pool_size=1, num_completions=81, order=order)
        state, asked = steps(search, lambda archs: weights[np.arange(4), archs].sum(axis=1))
        assert search.best(state)[0].tolist() == weights.argmax(axis=1).tolist()
        assert [(before.pool[0] != OPEN).nonzero()[0].tolist() for before, _ in asked] == [
            sorted(order[:number]) for number in range(5)
        ]

    def test_equals_keep_their_order_and_duplicates_go(self):
        search = pcnas(toy(2, 3), pool_size=2)
        start = search.init(KEY)
        state = PcnasState(start.key, np.array([[1, OPEN], [1, OPEN], [0, OPEN]], np.int32), np.zeros(3))
        extension = search.ask(state)
        assert extension.candidates.tolist() == [[1, 0], [1, 1], [1, 2], [0, 0], [0, 1], [0, 2]]
        assert search.tell(state, extension, np.zeros(6)).pool.tolist() == [[1, 0], [1, 1]]

    def test_a_pool_smaller_than_wanted(self):
        """Of nine candidates at the second choice only three are feasible."""
        space = toy(3, 3)
        search = pcnas(space, make_limit(space, "cost", 1, cost_table(space, [[0, 1, 2]] * 2)), pool_size=5)
        state, asked = steps(search)
        assert [len(before.pool) for before, _ in asked] == [1, 2, 3]
        assert sorted(state.pool.tolist()) == [[0, 0], [0, 1], [1, 0]]

    def test_trains_on_each_prefix_equally_and_on_its_feasible_completions_equally(self):
        """A sum of at most 3: 0 has the completions 00..03, 10, 11, 12, 20, 21, 30, and 3 has 00 alone."""
        space = toy(4, 4, 4)
        search = pcnas(space, make_limit(space, "cost", 3, cost_table(space, [[0, 1, 2, 3]] * 3)))
        state = PcnasState(search.init(KEY).key, np.array([[0, -1, -1], [3, -1, -1]], np.int32), np.zeros(2))
        archs = search.draw(state, 4000)
        counts = dict(zip(*np.unique(archs @ [100, 10, 1], return_counts=True), strict=True))
        few = [0, 1, 2, 3, 10, 11, 12, 20, 21, 30]
        assert sorted(counts) == [*few, 300]
        assert scipy.stats.binomtest(int(counts[300]), 4000, 0.5).pvalue > 1e-3
        assert scipy.stats.chisquare([counts[code] for code in few]).pvalue > 1e-3
        np.testing.assert_array_equal(archs, search.draw(state, 4000))
        assert (archs != search.draw(state, 4000, number=1)).any()
        assert (archs != search.draw(search.init(KEY)._replace(pool=state.pool, key=state.key + 1), 4000)).any()

    def test_a_resumed_search_ends_as_an_uninterrupted_one(self):
        space = SPACES["nasbench_macro"]

        def make():
            return pcnas(space, parse("macs:50e6", space), num_completions=4)

        whole, asked = steps(make())
        for state, _ in asked[1:]:  # another process, to which pool and potentials came as text
            pool, potentials = json.loads(json.dumps([state.pool.tolist(), state.potentials.tolist()]))
            again = PcnasState(make().init(KEY).key, np.array(pool, np.int32), np.array(potentials))
            assert_same(steps(make(), state=again)[0], whole)
        assert (steps(make(), state=make().init(jax.random.key(1)))[0].pool != whole.pool).any()


def test_bad_settings_and_scores():
    space = toy(2, 3)
    for settings_, message in (
        ({"pool_size": 0}, "pool_size is 0, expected 1 to"),
        ({"num_completions": 0}, "num_completions is 0, expected 1 to"),
        ({"order": (0,)}, r"order is \[0\], expected each of the choices 0..1 once"),
        ({"order": (1, 1)}, r"order is \[1, 1\]"),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            pcnas(space, **settings_)
        assert "\n" not in str(caught.value)
    search = pcnas(space)
    state = search.init(KEY)
    extension = search.ask(state)
    for scores in (np.full(6, np.nan), np.zeros(5)):
        with pytest.raises(ValueError, match=r"expected a finite score for each of 6 architectures"):
            search.tell(state, extension, scores)
    with pytest.raises(ValueError, match="0 of 2 choices are decided"):
        search.best(state)


def test_the_sampler_goes_through_the_draws():
    archs = np.arange(24).reshape(8, 3) % 2
    sampler = replayed(toy(2, 2, 2), num_archs=2, num_steps=4)
    assert sampler.init(KEY).archs.shape == (4, 2, 3)
    state, seen = replay(archs, num_archs=2, first=1), []
    sample, update = jax.jit(sampler.sample), jax.jit(sampler.update)
    for _ in range(4):
        seen.append(sample(KEY, state))
        state = update(state, seen[-1], np.zeros(2))
    np.testing.assert_array_equal(np.concatenate(seen), np.concatenate([archs[2:], archs[:2]]))
    assert int(state.next) == 5
    with pytest.raises(ValueError, match="replayed: num_archs is 0, expected 1 to"):
        replayed(toy(2), num_archs=0, num_steps=4)
