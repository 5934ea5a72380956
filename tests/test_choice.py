"""One of several functions per architecture: equal to a plain loop, and no more branches run than promised."""

import collections

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxnas.supernets.choice import branch_runs, choose, count_ops, mix

pytestmark = pytest.mark.codegen

SHARED = {"weight": np.array([2.0, -1.0, 0.5], np.float32)}


def branches(calls: collections.Counter | None = None):
    """Three functions of (shared, x [3], offset) that return the same tree; `calls` counts architectures per branch."""

    def counted(number):
        if calls is None:
            return lambda x: None
        return lambda x: jax.debug.callback(lambda _: calls.update([number]), x)

    def scale(shared, x, offset):
        counted(0)(x)
        return x * shared["weight"], {"total": x.sum() + offset}

    def square(shared, x, offset):
        counted(1)(x)
        return jnp.sin(x) ** 2, {"total": offset}

    def nothing(shared, x, offset):
        counted(2)(x)
        return jnp.zeros_like(x), {"total": jnp.zeros(())}

    return scale, square, nothing


def by_hand(choices, xs, offsets):
    """The same with NumPy, one architecture after the other."""
    rows = []
    for choice, x, offset in zip(choices, xs, offsets, strict=True):
        y = (x * SHARED["weight"], np.sin(x) ** 2, np.zeros(3))[choice]
        rows.append((y, (x.sum() + offset, offset, 0.0)[choice]))
    ys, totals = zip(*rows, strict=True)
    return np.stack(ys), np.stack(totals)


def data(num_archs: int):
    rng = np.random.default_rng(num_archs)
    return rng.normal(size=(num_archs, 3)).astype(np.float32), rng.normal(size=num_archs).astype(np.float32)


def population(groups, functions=None):
    functions = functions or branches()
    return jax.jit(
        lambda choices, xs, offsets: jax.vmap(
            lambda c, x, offset: choose(functions, c, SHARED, x, offset, groups=groups)
        )(choices, xs, offsets)
    )


def assert_equal(outputs, choices, xs, offsets):
    ys, totals = by_hand(choices, xs, offsets)
    np.testing.assert_allclose(outputs[0], ys, rtol=1e-6)
    np.testing.assert_allclose(outputs[1]["total"], totals, rtol=1e-6)


def test_alone():
    (x,), (offset,) = data(1)
    for choice in range(3):
        for code in (choice, np.int32(choice), jnp.int32(choice)):
            for groups in (1, "balanced", None):
                y, total = choose(branches(), code, SHARED, x, offset, groups=groups)
                ys, totals = by_hand([choice], [x], [offset])
                np.testing.assert_allclose(y, ys[0], rtol=1e-6)
                np.testing.assert_allclose(total["total"], totals[0], rtol=1e-6)


@pytest.mark.parametrize("num_archs", [1, 7])
@pytest.mark.parametrize("groups", [1, 2, 7, 100, None])
def test_any_population_equals_a_loop(num_archs, groups):
    dispatch = population(groups)
    xs, offsets = data(num_archs)

    @settings(max_examples=30, deadline=None)
    @given(st.lists(st.integers(0, 2), min_size=num_archs, max_size=num_archs))
    def equals(choices):
        assert_equal(dispatch(np.array(choices), xs, offsets), choices, xs, offsets)

    equals()


def test_balanced_population_equals_a_loop():
    dispatch = population("balanced")
    xs, offsets = data(6)

    @settings(max_examples=30, deadline=None)
    @given(st.permutations([0, 0, 1, 1, 2, 2]))
    def equals(choices):
        assert_equal(dispatch(np.array(choices), xs, offsets), choices, xs, offsets)

    equals()


@pytest.mark.parametrize("choices", [[2, 0, 2, 2, 0], [1], [0, 1, 2, 0, 1, 2]])
def test_counted_population_equals_a_loop(choices):
    """Counts of any size, also none of a branch; each runs as often as counted, and the gradient needs no switch."""
    ((counts,), calls) = count_ops(np.array(choices)[:, None], [3]), collections.Counter()
    assert counts == tuple(choices.count(branch) for branch in range(3))
    xs, offsets = data(len(choices))
    outputs = population(counts, branches(calls))(np.array(choices), xs, offsets)
    assert_equal(outputs, choices, xs, offsets)
    jax.effects_barrier()
    assert calls == collections.Counter(choices)
    assert branch_runs(np.array(choices), 3, counts).tolist() == list(counts)


@pytest.mark.parametrize("groups", ["balanced", (2, 2, 2)])
def test_broken_promise_is_nan(groups):
    xs, offsets = data(6)
    y, total = population(groups)(np.array([0, 0, 0, 1, 2, 2]), xs, offsets)
    assert np.isnan(y).all() and np.isnan(total["total"]).all()


def test_refusals():
    xs, offsets = data(4)
    with pytest.raises(ValueError, match="needs a multiple of 3 architectures, got 4; pass a tile size"):
        population("balanced")(np.array([0, 1, 2, 0]), xs, offsets)
    with pytest.raises(ValueError, match="groups must be a tile size of at least 1, 'balanced' or None, got 0"):
        population(0)(np.array([0, 1, 2, 0]), xs, offsets)
    with pytest.raises(ValueError, match=r"must count the architectures of each of 3 branches, got \(2, 2\)"):
        population((2, 2))(np.array([0, 1, 1, 0]), xs, offsets)
    with pytest.raises(ValueError, match=r"groups counts 5 architectures, \(2, 2, 1\), but there are 4"):
        population((2, 2, 1))(np.array([0, 1, 1, 0]), xs, offsets)


@pytest.mark.parametrize("groups", [2, "balanced"])
def test_what_is_not_batched(groups):
    """One input for all choices, one choice for all inputs, inputs of which some are shared, several super-nets."""
    functions, choices = branches(), jnp.array([2, 0, 1])
    xs, offsets = data(3)
    run = lambda weight, c, x, offset: choose(functions, c, {"weight": weight}, x, offset, groups=groups)  # noqa: E731
    weight = SHARED["weight"]

    def batched(function, *in_axes):
        return jax.jit(jax.vmap(function, in_axes=in_axes))

    shared_input = batched(run, None, 0, None, None)(weight, choices, xs[0], offsets[0])
    assert_equal(shared_input, choices, [xs[0]] * 3, [offsets[0]] * 3)
    one_choice = batched(run, None, None, 0, 0)(weight, choices[1], xs, offsets)
    assert_equal(one_choice, [0] * 3, xs, offsets)
    partly_shared = batched(run, None, 0, None, 0)(weight, choices, xs[0], offsets)
    assert_equal(partly_shared, choices, [xs[0]] * 3, offsets)
    weights = jnp.stack([weight, 2 * weight])
    seeds = batched(batched(run, None, 0, 0, 0), 0, None, None, None)(weights, choices, xs, offsets)
    assert_equal((seeds[0][0], {"total": seeds[1]["total"][0]}), choices, xs, offsets)
    np.testing.assert_allclose(seeds[0][1][1], 2 * xs[1] * weight, rtol=1e-6)


@pytest.mark.parametrize("groups, num_archs", [(1, 7), (3, 7), (100, 7), ("balanced", 6), (None, 6)])
def test_executed_branches_are_those_counted(groups, num_archs):
    """`branch_runs`, from which all figures of executed work are made, against counters inside the branches."""
    calls: collections.Counter = collections.Counter()
    run = population(groups, branches(calls))
    xs, offsets = data(num_archs)
    rng = np.random.default_rng(0)
    for _ in range(4):
        if groups == "balanced":
            choices = rng.permutation(np.arange(num_archs) % 3)
        else:
            choices = rng.integers(0, 3, num_archs)
        calls.clear()
        jax.block_until_ready(run(choices, xs, offsets))
        jax.effects_barrier()
        np.testing.assert_array_equal([calls[b] for b in range(3)], branch_runs(choices, 3, groups))


def test_branch_runs_by_hand():
    choices = np.array([0, 0, 0, 0, 0, 2])
    assert branch_runs(choices, 3, 4).tolist() == [8, 0, 4]
    assert branch_runs(choices, 3, 100).tolist() == [6, 0, 6]  # a tile is never larger than the population
    assert branch_runs(np.array([2, 0, 1]), 3, "balanced").tolist() == [1, 1, 1]
    assert branch_runs(choices, 3, None).tolist() == [6, 6, 6]


def test_shared_input_runs_each_branch_once():
    calls: collections.Counter = collections.Counter()
    functions = branches(calls)
    xs, offsets = data(1)
    choices = jnp.array([0, 0, 2, 0, 1])
    jax.block_until_ready(jax.vmap(lambda c: choose(functions, c, SHARED, jnp.asarray(xs[0]), offsets[0]))(choices))
    jax.effects_barrier()
    assert calls == {0: 1, 1: 1, 2: 1}


@pytest.mark.parametrize("groups", [1, 2, 100, "balanced"])
def test_gradients_equal_a_loop(groups):
    functions, choices = branches(), [2, 0, 1, 1, 2, 0]
    xs, offsets = data(6)
    factors = jnp.arange(1.0, 7.0)  # so that a gradient that went to another architecture shows

    def one(choice, shared, x, offset, groups=None):
        y, total = choose(functions, choice, shared, x, offset, groups=groups)
        return jnp.sum(y**2) + total["total"] ** 2

    def dispatched(shared, xs, offsets):
        each = jax.vmap(lambda c, x, o: one(c, shared, x, o, groups))(jnp.array(choices), xs, offsets)
        return jnp.sum(factors * each)

    def loop(shared, xs, offsets):
        return sum(f * one(c, shared, x, o) for f, c, x, o in zip(factors, choices, xs, offsets, strict=True))

    got = jax.jit(jax.grad(dispatched, argnums=(0, 1, 2)))(SHARED, xs, offsets)
    expected = jax.grad(loop, argnums=(0, 1, 2))(SHARED, xs, offsets)
    jax.tree.map(lambda g, e: np.testing.assert_allclose(g, e, rtol=1e-5, atol=1e-6), got, expected)


@pytest.mark.parametrize("groups", [None, 4, "balanced"])
def test_gradient_of_an_unbatched_call(groups):
    (x,), (offset,) = data(1)
    loss = lambda x: choose(branches(), jnp.int32(1), SHARED, x, offset, groups=groups)[0].sum()  # noqa: E731
    np.testing.assert_allclose(jax.grad(loss)(x), np.sin(2 * x), rtol=1e-5)
    np.testing.assert_allclose(jax.grad(jax.jit(loss))(x), np.sin(2 * x), rtol=1e-5)


@pytest.mark.parametrize("groups", [0, 2.5, True, "balance"])
def test_groups_that_are_none(groups):
    (x,), (offset,) = data(1)
    with pytest.raises(ValueError, match=r"^groups must be a tile size of at least 1, 'balanced' or None, got"):
        choose(branches(), jnp.int32(1), SHARED, x, offset, groups=groups)


def test_mix():
    (x,), (offset,) = data(1)
    y, total = mix(branches(), jnp.array([0.5, 2.0, 7.0]), SHARED, x, offset)
    np.testing.assert_allclose(y, 0.5 * x * SHARED["weight"] + 2.0 * np.sin(x) ** 2, rtol=1e-6)
    np.testing.assert_allclose(total["total"], 0.5 * (x.sum() + offset) + 2.0 * offset, rtol=1e-6)
    with pytest.raises(ValueError):
        mix(branches(), jnp.ones(2), SHARED, x, offset)
