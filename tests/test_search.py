"""The contract that every search keeps, and what each search promises by itself."""

import dataclasses
import functools
import importlib.util

import jax
import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxnas.codes import check, enumerate_archs, neighbours
from jaxnas.costs import cost_table, make_limit, parse, table_costs
from jaxnas.search import (
    SEARCHES,
    SearchState,
    evolution,
    host_rng,
    local,
    nsga2,
    nsga3,
    optuna_search,
    random_search,
    spos,
)
from jaxnas.space import ChainLayout, SearchSpace
from jaxnas.spaces import SPACES

SMALL = {  # settings with which a few dozen evaluations show all that a search does
    "random": functools.partial(random_search, num_archs=4),
    "evolution": functools.partial(evolution, population_size=8, tournament_size=3, num_archs=2),
    "local": functools.partial(local, num_starts=3),
    "nsga2": functools.partial(nsga2, population_size=6, costs={"sum": lambda archs: archs.sum(axis=1)}),
    "nsga3": functools.partial(
        nsga3,
        population_size=6,
        costs={"sum": lambda archs: archs.sum(axis=1), "first": lambda archs: archs[:, 0]},
    ),
    "optuna": functools.partial(optuna_search, num_archs=4),
    "spos": functools.partial(spos, population_size=8, num_parents=3, num_mutations=4, num_crossovers=3),
}
KEY = jax.random.key(0)
NEED = {"nsga2": ("pymoo", "pareto"), "nsga3": ("pymoo", "pareto"), "optuna": ("optuna", "optuna")}  # package, extra
SLOW = {"optuna": [pytest.mark.slow("Optuna's sampler under the contract of searches")]}


def param(name):
    """The name of a search as a parameter of a test, which is skipped where its package isn't there."""
    package, extra = NEED.get(name, ("numpy", ""))
    reason = f"{package} isn't installed: pip install 'jaxnas[{extra}]'"
    marks = [pytest.mark.skipif(importlib.util.find_spec(package) is None, reason=reason)]
    return pytest.param(name, marks=marks + SLOW.get(name, []))


def toy(*num_ops, is_valid=None):
    """A space whose choices have so many operations."""
    layout = ChainLayout(1, (1,) * len(num_ops), (1,) * len(num_ops), 0)
    space = SearchSpace("toy", tuple(tuple(f"op{op}" for op in range(num)) for num in num_ops), layout)
    return space if is_valid is None else dataclasses.replace(space, is_valid=is_valid)


def odd_sum(archs):
    return archs.sum(axis=1) % 2 == 1


def digits_differ(archs):
    """Some score without ties among neighbours."""
    return np.sin(archs @ (1.0 + np.arange(archs.shape[1])))


def run(search, budget, score=digits_differ, state=None):
    """Ask and tell until the budget is spent or nothing is left."""
    state = search.init(KEY) if state is None else state
    while len(state.archs) < budget and len(archs := search.ask(state)):
        state = search.tell(state, archs, score(archs))
    return state


def assert_same(first, second):
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)


def test_every_search_is_here():
    assert set(SMALL) == set(SEARCHES)


@pytest.fixture(params=[param(name) for name in SEARCHES])
def make(request):
    return SMALL[request.param]


@st.composite
def problems(draw):
    """(space, limit) with at least one feasible architecture, often with only one."""
    num_ops = draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
    space = toy(*num_ops, is_valid=draw(st.sampled_from([None, None, odd_sum])))
    archs = enumerate_archs(space)
    if not len(archs):
        return toy(*num_ops), None
    width = max(num_ops)
    table = cost_table(space, [draw(st.lists(st.floats(0, 9), min_size=width, max_size=width)) for _ in num_ops])
    costs = np.unique(table_costs(table, archs))
    value = float(draw(st.sampled_from(costs[[0, len(costs) // 3, -1]].tolist())))
    cost = draw(st.sampled_from([table, functools.partial(table_costs, table)]))
    return space, draw(st.sampled_from([None, make_limit(space, "cost", value, cost)]))


class TestContract:
    @pytest.mark.parametrize("name", [param(name) for name in SEARCHES])
    @settings(max_examples=40, deadline=None)
    @given(problem=problems())
    def test_all_that_is_feasible_is_asked_for_once_and_nothing_else(self, name, problem):
        make, (space, limit) = SMALL[name], problem
        archs = enumerate_archs(space)
        feasible = archs if limit is None else archs[limit.costs(archs) <= limit.value]
        search = make(space, limit)
        state = run(search, budget=10**6)
        check(space, state.archs)
        np.testing.assert_array_equal(np.unique(state.archs, axis=0), feasible)
        assert len(state.archs) == len(feasible)  # no duplicate, none evaluated twice
        assert search.ask(state).shape == (0, space.num_choices)
        assert state.archs.dtype == np.int32 and state.scores.dtype == np.float64

    def test_a_resumed_search_ends_as_an_uninterrupted_one(self, make):
        space = SPACES["nasbench_macro"]
        search = make(space, parse("macs:60e6", space))
        whole = run(search, budget=60)
        for killed_at in (8, 24, 40):
            part = run(search, budget=killed_at)
            again = make(space, parse("macs:60e6", space))  # another process: only archs and scores were written
            retold = again.tell(again.init(KEY), part.archs.tolist(), part.scores.tolist())
            assert_same(retold, part)
            assert_same(run(again, 60, state=retold), whole)

    def test_asking_reads_only_and_follows_from_the_state(self, make):
        search = make(SPACES["nasbench201"])
        state = run(search, budget=20)
        before = SearchState(*(np.array(part) for part in state))
        first = search.ask(state)
        assert_same([first], [search.ask(state)])
        assert_same(state, before)
        told = search.tell(state, first, digits_differ(first))
        assert_same(state, before)
        assert len(told.archs) == len(state.archs) + len(first)
        assert_same(run(search, 60), run(search, 60))
        other = search.init(jax.random.key(1))
        assert (search.ask(other) != search.ask(search.init(KEY))).any()

    def test_nothing_feasible_is_said_at_once(self, make):
        with pytest.raises(ValueError, match=r"no architecture meets macs <= 1000; the smallest possible is 5696\.$"):
            make(SPACES["digits_chain"], parse("macs:1000", SPACES["digits_chain"]))

    def test_architectures_of_ones_own_are_taken(self, make):
        space = SPACES["digits_chain"]
        search = make(space)
        state = search.tell(search.init(KEY), [[2, 2, 2, 2, 2], [0, 0, 0, 0, 0]], [0.9, 0.1])
        state = run(search, 243, score=lambda archs: np.zeros(len(archs)), state=state)
        assert len(state.archs) == 243
        arch, score = search.best(state)
        assert arch.tolist() == [2, 2, 2, 2, 2] and score == 0.9

    def test_best_of_equals_is_the_first(self, make):
        search = make(SPACES["digits_chain"])
        state = search.tell(search.init(KEY), [[0] * 5, [1] * 5, [2] * 5], [0.1, 0.4, 0.4])
        assert search.best(state)[0].tolist() == [1] * 5

    def test_what_cannot_be_told(self, make):
        space = SPACES["digits_chain"]
        search = make(space, parse("macs:50000", space))
        state = search.tell(search.init(KEY), [[0] * 5], [0.5])
        for archs, scores, message in (
            ([[0] * 5], [0.5], "told twice"),
            ([[1, 0, 0, 0, 0]] * 2, [0.5, 0.5], "told twice"),
            ([[2] * 5], [0.5], r"architecture \[2, 2, 2, 2, 2\] does not meet macs <= 50000"),
            ([[1, 0, 0, 0, 0]], [np.nan], r"scores of shape \(1,\), 0 of them finite"),
            ([[1, 0, 0, 0, 0]], [0.5, 0.5], r"scores of shape \(2,\), 2 of them finite, expected .* 1 architectures"),
            ([[3, 0, 0, 0, 0]], [0.5], "code 3 at index 0"),
        ):
            with pytest.raises(ValueError, match=message) as caught:
                search.tell(state, archs, scores)
            assert "\n" not in str(caught.value)
        with pytest.raises(ValueError, match="nothing has been evaluated"):
            search.best(search.init(KEY))

    def test_large_spaces(self, make):
        """6^20 codes under a tight limit: nothing is listed, everything asked for is feasible."""
        space = toy(*[6] * 20)
        table = cost_table(space, np.random.default_rng(0).uniform(0.1, 2, (20, 6)))
        limit = make_limit(space, "latency_ms", 1.3 * table.per_op.min(axis=1).sum(), table)
        state = run(make(space, limit), budget=40)
        assert len(np.unique(state.archs, axis=0)) == len(state.archs) >= 40
        assert limit.costs(state.archs).max() <= limit.value


@pytest.mark.parametrize(
    "name, wrong",
    [
        ("random", {"num_archs": 0}),
        ("evolution", {"population_size": 0}),
        ("evolution", {"tournament_size": 0}),
        ("evolution", {"num_archs": 0}),
        ("local", {"num_starts": 0}),
        ("nsga2", {"population_size": 3}),
        ("nsga3", {"crossover_prob": 1.1}),
        ("nsga3", {"num_mutations": -1}),
        ("spos", {"population_size": 0}),
        ("spos", {"num_parents": 0}),
        ("spos", {"num_mutations": -1}),
        ("spos", {"population_size": 49}),
        ("spos", {"mutation_prob": 1.5}),
    ],
)
def test_bad_settings(name, wrong):
    ((setting, value),) = wrong.items()
    with pytest.raises(
        ValueError, match=rf"^{name}: ({setting} is {value}, expected|25 mutations .* {value})"
    ) as caught:
        SEARCHES[name](SPACES["digits_chain"], **wrong)
    assert "\n" not in str(caught.value)


def separable(weights, archs):
    return weights[np.arange(weights.shape[0]), archs].sum(axis=1)


@pytest.mark.parametrize("name", ["evolution", "spos"])
def test_evolution_beats_random_on_a_separable_score(name):
    """Ten choices of four operations, a score that is a sum over choices, a limit: best of 300, over 12 seeds."""
    space = toy(*[4] * 10)
    limit = make_limit(space, "cost", 12, cost_table(space, np.tile(np.arange(4.0), (10, 1))))
    searches = {
        "random": random_search(space, limit),
        "evolution": evolution(space, limit, population_size=30, tournament_size=10),
        "spos": spos(space, limit, population_size=30, num_mutations=15, num_crossovers=15),
    }
    best = {"random": [], name: []}
    for seed in range(12):
        weights = np.random.default_rng(seed).normal(size=(10, 4))
        for which in best:
            search = searches[which]
            state = run(search, 300, functools.partial(separable, weights), search.init(jax.random.key(seed)))
            best[which].append(search.best(state)[1])
    assert scipy.stats.ttest_rel(best[name], best["random"], alternative="greater").pvalue < 1e-3


def test_random_draws_without_replacement_and_uniformly():
    """Which codes come first: each of 24 equally often among the first six, over 400 keys."""
    space = toy(2, 3, 4)
    search = random_search(space, num_archs=6)
    counts = np.zeros(24)
    for seed in range(400):
        archs = search.ask(search.init(jax.random.key(seed)))
        counts[np.ravel_multi_index(tuple(archs.T), (2, 3, 4))] += 1
    assert counts.sum() == 2400 and scipy.stats.chisquare(counts).pvalue > 1e-3


class TestEvolution:
    space = toy(*[4] * 6)

    def test_begins_with_a_random_population_and_goes_on_child_by_child(self):
        search = evolution(self.space, population_size=8, tournament_size=3, num_archs=2)
        state = search.init(KEY)
        sizes = []
        for _ in range(4):
            archs = search.ask(state)
            sizes.append(len(archs))
            state = search.tell(state, archs, digits_differ(archs))
        assert sizes == [8, 2, 2, 2]

    def test_the_oldest_dies_even_if_it_is_the_best(self):
        """A tournament of all: the parent is the best of the last four told, not the best of all."""
        search = evolution(self.space, population_size=4, tournament_size=200)
        archs = [[0] * 6, [1] * 6, [2] * 6, [3] * 6]
        state = search.tell(search.init(KEY), archs, [9.0, 1.0, 2.0, 3.0])
        assert self.distance(search.ask(state), [0] * 6) == 1
        state = search.tell(state, [[0, 1, 2, 3, 0, 1]], [0.0])
        assert self.distance(search.ask(state), [3] * 6) == 1
        assert search.best(state)[0].tolist() == [0] * 6

    @staticmethod
    def distance(archs, parent):
        ((number,),) = [(np.asarray(archs) != parent).sum(axis=1)]
        return number

    def test_children_are_uniform_over_feasible_neighbours(self):
        """A code costs its sum: of the neighbours of 111111, with a 0, 2 or 3, a limit of 7 forbids those with a 3."""
        table = cost_table(self.space, np.tile(np.arange(4.0), (6, 1)))
        search = evolution(self.space, make_limit(self.space, "cost", 7, table), population_size=1, tournament_size=1)
        parent = [1] * 6
        feasible = [code for code in neighbours(self.space, np.array(parent)).tolist() if sum(code) <= 7]
        assert len(feasible) == 12
        counts = dict.fromkeys(map(tuple, feasible), 0)
        for seed in range(600):
            ((child),) = search.ask(search.tell(search.init(jax.random.key(seed)), [parent], [1.0]))
            counts[tuple(child.tolist())] += 1
        assert scipy.stats.chisquare(list(counts.values())).pvalue > 1e-3

    def test_every_ask_draws_anew(self):
        """Whatever is told: the parent is not at the same place of the population again and again."""
        search, rng, places = evolution(toy(*[4] * 20), population_size=4, tournament_size=1), host_rng(KEY), []
        state = search.tell(search.init(KEY), rng.integers(0, 4, (4, 20)), np.zeros(4))
        for _ in range(40):
            distances = (search.ask(state) != state.archs[-4:]).sum(axis=1)
            places.append(distances.tolist().index(1))
            state = search.tell(state, rng.integers(0, 4, (1, 20)), [0.0])
        assert min(np.bincount(places, minlength=4)) >= 3

    def test_a_parent_without_neighbours_gives_way_to_a_random_architecture(self):
        space = toy(2, 2, is_valid=lambda archs: archs[:, 0] == archs[:, 1])  # 00 and 11 alone
        search = evolution(space, population_size=1, tournament_size=1)
        state = search.tell(search.init(KEY), [[0, 0]], [1.0])
        assert search.ask(state).tolist() == [[1, 1]]


class TestSpos:
    space = toy(*[4] * 12)

    def test_generations_are_of_the_published_size(self):
        search = spos(self.space)
        state = run(search, 1000)
        assert len(state.archs) == 1000
        assert len(search.ask(search.init(KEY))) == len(search.ask(state)) == 50

    def test_crossovers_take_every_choice_from_one_of_the_best(self):
        """Three parents, all with 1 at the even choices; the others, told as well, have nothing of theirs."""
        search = spos(self.space, population_size=20, num_parents=3, num_mutations=0, num_crossovers=20)
        parents = np.ones((3, 12), int)
        parents[:, 1::2] = [[0] * 6, [1] * 6, [2] * 6]
        others = np.full((4, 12), 3)
        others[range(4), range(4)] = 0
        state = search.tell(search.init(KEY), np.concatenate([others, parents]), [0, 0.1, 0.2, 0.3, 0.8, 0.9, 0.7])
        children = search.ask(state)
        assert len(children) == 20
        assert (children[:, ::2] == 1).all() and set(children[:, 1::2].ravel()) == {0, 1, 2}

    def test_mutations_draw_a_tenth_of_the_choices_anew(self):
        """With chance 0.1 among four operations, so 0.075 to change: binomial over 12 choices, but for no change."""
        search = spos(self.space, population_size=1, num_parents=1, num_mutations=1, num_crossovers=0)
        parent, counts = np.ones(12, int), np.zeros(13)
        for seed in range(1000):
            (child,) = search.ask(search.tell(search.init(jax.random.key(seed)), [parent], [1.0]))
            counts[(child != parent).sum()] += 1
        chances = scipy.stats.binom.pmf(np.arange(1, 4), 12, 0.075)
        assert counts[0] == 0 and counts[4:].sum() < 30
        assert scipy.stats.chisquare(counts[1:4], chances / chances.sum() * counts[1:4].sum()).pvalue > 1e-3

    def test_a_generation_is_filled_up_with_random_ones(self):
        search = spos(self.space, population_size=20, num_parents=1, num_mutations=0, num_crossovers=20)
        state = search.tell(search.init(KEY), [[1] * 12], [1.0])  # crossed with itself it gives nothing new
        assert len(search.ask(state)) == 20


def test_host_rng():
    draws = [host_rng(key, *steps).random() for key in (KEY, jax.random.key(1)) for steps in ((), (0,), (1,), (1, 2))]
    assert len(set(draws)) == 8
    assert host_rng(KEY, 1, 2).random() == draws[3]
