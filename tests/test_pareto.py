"""Fronts, their volume, the searches for them, and what is exchanged with Optuna."""

import functools
import importlib.util
import itertools
import sys

import jax
import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from test_search import toy

from jaxnas.costs import cost_table, functions, make_limit, parse, table_costs
from jaxnas.search import SEARCHES, SearchState, front, nsga2, nsga3, random_search
from jaxnas.search.optuna import optuna_search, to_study
from jaxnas.search.pareto import objectives
from jaxnas.search.sorting import crowded, hypervolume, near_directions, non_dominated
from jaxnas.spaces import SPACES

pymoo = pytest.mark.skipif(
    importlib.util.find_spec("pymoo") is None, reason="pymoo isn't installed: pip install 'jaxnas[pareto]'"
)
optuna_there = pytest.mark.skipif(
    importlib.util.find_spec("optuna") is None, reason="Optuna isn't installed: pip install 'jaxnas[optuna]'"
)
COSTS = {"sum": lambda archs: archs.sum(axis=1), "first": lambda archs: archs[:, 0]}
points = st.lists(st.tuples(*[st.integers(0, 4)] * 3), min_size=1, max_size=12)


def dominates(one, other):
    return all(a <= b for a, b in zip(one, other)) and any(a < b for a, b in zip(one, other))


def state_of(archs, scores):
    return SearchState(np.asarray(jax.random.key_data(jax.random.key(0))), np.array(archs, np.int32), np.array(scores))


@pymoo
class TestSorting:
    @settings(max_examples=50, deadline=None)
    @given(points)
    def test_non_dominated_is_what_nothing_dominates(self, points):
        wanted = {point for point in points if not any(dominates(other, point) for other in points)}
        rows = non_dominated(np.array(points, float))
        assert sorted(points[row] for row in rows) == sorted(wanted)
        assert all(points.index(points[row]) == row for row in rows)  # of equals the first

    @settings(max_examples=50, deadline=None)
    @given(points)
    def test_hypervolume_counts_the_cells_of_a_grid(self, points):
        """Of the 27 unit cells below (3, 3, 3), those whose lower corner some point is at or below."""
        cells = [cell for cell in itertools.product(range(3), repeat=3)]
        covered = sum(any(all(a <= b for a, b in zip(point, cell)) for point in points) for cell in cells)
        assert hypervolume(np.array(points, float), np.full(3, 3.0)) == pytest.approx(covered)

    def test_hypervolume_by_hand(self):
        assert hypervolume(np.array([[0, 0.5], [0.5, 0], [2, -1]]), np.ones(2)) == pytest.approx(0.75)
        assert hypervolume(np.zeros((0, 2)), np.ones(2)) == 0
        with pytest.raises(ValueError, match=r"^points: shape \(1, 3\)"):
            hypervolume(np.zeros((1, 3)), np.ones(2))

    def test_crowded_survivors_by_hand(self):
        """The first front is (0,8) (1,5) (2,4) (3,3) (8,0), the second (9,9). Inside of it (2,4) lies between (1,5) and
        (3,3): (2 + 2) / 8, the least; (1,5): (2 + 4) / 8, (3,3): (6 + 4) / 8."""
        given = np.array([[9, 9], [2, 4], [0, 8], [3, 3], [1, 5], [8, 0]])
        rows, places = crowded(given, 4, np.random.default_rng(0))
        assert set(rows) == {2, 3, 4, 5}
        ordered = [int(rows[np.flatnonzero(places == place)[0]]) for place in range(4)]
        assert set(ordered[:2]) == {2, 5} and ordered[2:] == [3, 4]
        rows, places = crowded(given, 6, np.random.default_rng(0))
        assert rows[np.argmax(places)] == 0

    def test_directions_keep_the_ends(self):
        """Of 60 points on a plane 10 stay: the one nearest each corner among them, all of rank one."""
        rng = np.random.default_rng(0)
        plane = np.concatenate([np.eye(3), rng.dirichlet(np.ones(3), 57)])
        given = np.concatenate([plane, plane[:20] + 1]) * [1, 1e9, 1e-6]
        rows, places = near_directions(3)(given, 10, rng)
        assert {0, 1, 2} <= set(rows) and rows.max() < 60 and len(set(rows)) == 10
        assert sorted(places) == list(range(10))


@pymoo
class TestFront:
    space = toy(3, 3)

    def test_by_hand(self):
        state = state_of([[0, 0], [1, 0], [0, 1], [2, 2], [0, 2], [1, 1]], [0.1, 0.5, 0.5, 0.9, 0.5, 0.6])
        found = front(state, COSTS)
        assert found.archs.tolist() == [[2, 2], [1, 1], [0, 1], [0, 0]]
        assert found.scores.tolist() == [0.9, 0.6, 0.5, 0.1]
        assert {name: column.tolist() for name, column in found.costs.items()} == {
            "sum": [4, 2, 1, 0],
            "first": [2, 1, 0, 0],
        }
        assert front(state, {"sum": COSTS["sum"]}).archs.tolist() == [[2, 2], [1, 1], [1, 0], [0, 0]]

    def test_what_is_wrong_is_said(self):
        state = state_of([[0, 0]], [0.1])
        with pytest.raises(ValueError, match=r"^the front: nothing has been evaluated yet\.$"):
            front(state_of(np.zeros((0, 2)), np.zeros(0)), COSTS)
        for cost in (lambda archs: np.full(len(archs), np.inf), lambda archs: archs):
            with pytest.raises(ValueError, match=r"^the ms of 1 architectures came as shape"):
                front(state, {"ms": cost})
        with pytest.raises(ValueError, match=r"^nsga2: no costs"):
            nsga2(self.space, costs={})
        with pytest.raises(ValueError, match=r"^cost is 'lat', expected one of macs, params"):
            functions(SPACES["digits_chain"], ("lat",))

    @pytest.mark.parametrize("name", ["nsga2", "nsga3"])
    def test_without_pymoo_one_line_says_how_to_get_it(self, name, monkeypatch):
        monkeypatch.setitem(sys.modules, "pymoo", None)
        with pytest.raises(ValueError, match=r"^fronts are sorted by pymoo, .* pip install 'jaxnas\[pareto\]'$"):
            SEARCHES[name](SPACES["digits_chain"])


def volume(state, costs, reference):
    return hypervolume(objectives(state, costs), reference)


@pymoo
@pytest.mark.parametrize("make, num_costs", [(nsga2, 1), (nsga3, 2)])
def test_fronts_of_searches_are_larger_than_by_chance(make, num_costs):
    """Twelve choices of four operations: a score and costs that are sums, under a limit; 240 evaluations, ten seeds."""
    space = toy(*[4] * 12)
    limit = make_limit(space, "sum", 24, cost_table(space, np.tile(np.arange(4.0), (12, 1))))
    volumes = {"search": [], "random": []}
    for seed in range(10):
        weights = np.random.default_rng(seed).uniform(size=(1 + num_costs, 12, 4))
        score, *others = (functools.partial(lambda table, archs: table[np.arange(12), archs].sum(axis=1), table)
                          for table in weights)  # fmt: skip
        costs = {f"cost{number}": other for number, other in enumerate(others)}
        for name, search in (("search", make(space, limit, costs=costs)), ("random", random_search(space, limit))):
            state = search.init(jax.random.key(seed))
            while len(state.archs) < 240:
                state = search.tell(state, archs := search.ask(state)[: 240 - len(state.archs)], score(archs))
            assert limit.costs(state.archs).max() <= 24
            volumes[name].append(volume(state, costs, np.array([-5.0, *[7.0] * num_costs])))
    assert scipy.stats.ttest_rel(volumes["search"], volumes["random"], alternative="greater").pvalue < 1e-4


def test_several_limits_are_met_together():
    space = SPACES["nasbench_macro"]
    both, macs, params = (parse(text, space) for text in ("macs:50e6,params:1e6", "macs:50e6", "params:1e6"))
    archs = np.random.default_rng(0).integers(0, 3, (500, 8))
    meets = both.costs(archs) <= both.value
    np.testing.assert_array_equal(meets, (macs.costs(archs) <= 50e6) & (params.costs(archs) <= 1e6))
    assert 0 < meets.sum() < 500 and str(both) == "max(macs / 50000000, params / 1000000) <= 1"
    state = (search := random_search(space, both)).init(jax.random.key(0))
    assert (both.costs(search.ask(state)) <= 1).all()
    for text, message in (
        ("macs:50e6,", "limit '': expected QUANTITY"),
        ("macs:50e6,params:0", "the limit of params, one of several, is 0.0, expected a number, above 0"),
    ):
        with pytest.raises(ValueError, match=f"^{message}"):
            parse(text, space)


class TestLocal:
    space = toy(*[3] * 4)

    def test_asks_for_the_neighbourhood_of_the_best_and_climbs(self):
        """The score is the number of 2s, so a summit is at most four steps from any start; then a new climb begins."""
        search = SEARCHES["local"](self.space, num_starts=2)
        state = search.init(jax.random.key(3))
        state = search.tell(state, starts := search.ask(state), (starts == 2).sum(axis=1))
        assert len(starts) == 2
        best = starts[np.argmax((starts == 2).sum(axis=1))]
        for _ in range(4 - int((best == 2).sum())):
            around = search.ask(state)
            known = {tuple(code) for code in state.archs.tolist()}
            wanted = {
                tuple(np.where(np.arange(4) == choice, op, best).tolist()) for choice in range(4) for op in range(3)
            }
            assert {tuple(code) for code in around.tolist()} == wanted - known
            state = search.tell(state, around, (around == 2).sum(axis=1))
            best, score = search.best(state)
        assert score == 4
        last = search.ask(state)  # what is left around the summit, then two new starts
        state = search.tell(state, last, (last == 2).sum(axis=1))
        assert ((last != 2).sum(axis=1) == 1).all() and len(search.ask(state)) <= 2

    def test_infeasible_neighbours_are_left_out(self):
        limit = make_limit(self.space, "sum", 4, cost_table(self.space, np.tile(np.arange(3.0), (4, 1))))
        search = SEARCHES["local"](self.space, limit, num_starts=1)
        state = search.init(jax.random.key(0))
        while len(archs := search.ask(state)):
            state = search.tell(state, archs, archs.sum(axis=1))
        assert limit.costs(state.archs).max() == 4 and len(state.archs) == 50  # of 81 codes those of sum 0 to 4


@optuna_there
class TestOptuna:
    space = toy(3, 2, 4)
    table = np.random.default_rng(0).normal(size=(3, 4))

    def score(self, archs):
        return table_costs(cost_table(self.space, self.table), archs)

    def test_finds_the_best_and_goes_on_exactly(self):
        import optuna

        search = optuna_search(self.space, sampler=optuna.samplers.RandomSampler, num_archs=5)
        state, states = search.init(jax.random.key(1)), []
        while len(archs := search.ask(state)):
            states.append(state := search.tell(state, archs, self.score(archs)))
        assert len(state.archs) == 24
        again = optuna_search(self.space, sampler=optuna.samplers.RandomSampler, num_archs=5)
        retold = again.tell(again.init(jax.random.key(1)), states[1].archs, states[1].scores)
        np.testing.assert_array_equal(again.ask(retold), states[2].archs[10:15])

    def test_a_study_holds_what_a_search_has_evaluated_once(self):
        import optuna

        search, costs = random_search(self.space, num_archs=6), {"sum": lambda archs: archs.sum(axis=1)}
        storage = optuna.storages.InMemoryStorage()
        state = search.init(jax.random.key(0))
        for number in (1, 2):
            state = search.tell(state, archs := search.ask(state), self.score(archs))
            study = to_study(self.space, state, name="toy", storage=storage, costs=costs)
            assert len(study.trials) == 6 * number
        study = optuna.load_study(study_name="toy", storage=storage)
        assert study.metric_names == ["score", "sum"]
        for trial, code, score in zip(study.trials, state.archs, state.scores, strict=True):
            assert list(trial.params.values()) == [f"{op} op{op}" for op in code]
            assert trial.values == [score, code.sum()]
        kept = {trial.user_attrs["arch"] for trial in study.best_trials}
        points = [(-score, code.sum()) for code, score in zip(state.archs, state.scores)]
        best = [
            code for code, point in zip(state.archs, points) if not any(dominates(other, point) for other in points)
        ]
        assert kept == {"_".join(map(str, code)) for code in best}
        with pytest.raises(ValueError, match=r"^study toy: its values are .*; take another name\.$"):
            to_study(self.space, state, name="toy", storage=storage)

    def test_without_optuna_one_line_says_how_to_get_it(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "optuna", None)
        with pytest.raises(ValueError, match=r"^this search is Optuna's, .* pip install 'jaxnas\[optuna\]'$"):
            SEARCHES["optuna"](self.space)
