"""Codes: every error message, and every function against brute force or a count."""

import dataclasses
import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxnas.codes import (
    check,
    crossover,
    enumerate_archs,
    from_index,
    from_text,
    mutate,
    neighbours,
    sample,
    to_index,
    to_text,
)
from jaxnas.space import CellLayout, ChainLayout, SearchSpace

LAYOUT = ChainLayout(stem_width=4, widths=(4, 8, 8), strides=(1, 2, 1), head_width=16)


def make_space(*num_ops: int, **fields) -> SearchSpace:
    return SearchSpace("toy", tuple(tuple(f"op{op}" for op in range(size)) for size in num_ops), LAYOUT, **fields)


UNEQUAL = make_space(2, 1, 4)
EVEN_SUM = make_space(2, 3, 4, is_valid=lambda archs: archs.sum(axis=1) % 2 == 0)
sizes = st.lists(st.integers(1, 4), min_size=3, max_size=3)
seeds = st.integers(0, 2**31 - 1)


def brute_force(space: SearchSpace) -> list[tuple[int, ...]]:
    return list(itertools.product(*map(range, space.num_ops)))


@pytest.mark.parametrize(
    ("archs", "message"),
    [
        ([], "toy: the population is empty; give at least one architecture."),
        (np.zeros((0, 3), int), "toy: the population is empty; give at least one architecture."),
        ([0, 0, 3], r"toy: archs have shape (3,), expected [num_archs, 3] (one architecture is archs[None])."),
        ([[0, 0]], r"toy: archs have shape (1, 2), expected [num_archs, 3] (one architecture is archs[None])."),
        (5, r"toy: archs have shape (), expected [num_archs, 3] (one architecture is archs[None])."),
        ([[0, 0, 3], [0, 0]], r"toy: archs: [[0, 0, 3], [0, 0]] is no rectangular array."),
        ([[0.0, 0.0, 3.0]], "toy: archs have dtype float64, expected integers."),
        ([[True, False, True]], "toy: archs have dtype bool, expected integers."),
        ([[0, 0, 3], [0, 0, 4]], "toy: code 4 at index 2 of architecture 1 is outside [0, 4)."),
        ([[0, 1, 9]], "toy: code 1 at index 1 of architecture 0 is outside [0, 1)."),
        ([[0, 0, -1]], "toy: code -1 at index 2 of architecture 0 is outside [0, 4)."),
    ],
)
def test_check_names_the_first_offence(archs, message):
    with pytest.raises(ValueError) as error:
        check(UNEQUAL, archs)
    assert str(error.value) == message


def test_check_refuses_codes_that_do_not_exist():
    with pytest.raises(ValueError) as error:
        check(EVEN_SUM, [[1, 1, 0], [1, 0, 0]])
    assert str(error.value) == "toy: architecture 1, 1_0_0, does not exist in the space."


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int64, np.uint64])
def test_check_returns_int32_and_leaves_its_input_alone(dtype):
    archs = np.array([[1, 0, 3], [0, 0, 2]], dtype)
    codes = check(UNEQUAL, archs)
    assert codes.dtype == np.int32
    codes[:] = 0
    np.testing.assert_array_equal(archs, [[1, 0, 3], [0, 0, 2]])
    np.testing.assert_array_equal(check(UNEQUAL, jnp.asarray([[1, 0, 3]])), [[1, 0, 3]])


def test_space_properties_by_hand():
    assert (UNEQUAL.num_choices, UNEQUAL.num_ops, UNEQUAL.size) == (3, (2, 1, 4), 8)


def test_sample_is_uniform_over_codes():
    archs = np.asarray(sample(jax.random.key(0), UNEQUAL, 8_000))
    assert archs.dtype == np.int32 and archs.shape == (8_000, 3)
    counts = np.bincount(to_index(UNEQUAL, archs), minlength=8)
    chi_square = ((counts - 1_000) ** 2 / 1_000).sum()
    assert chi_square < 24.3  # 7 degrees of freedom: exceeded once in 1,000 seeds


def test_random_functions_need_no_implicit_promotion():
    def use_all(key):
        archs = sample(key, UNEQUAL, 5)
        return crossover(key, archs, mutate(key, UNEQUAL, archs))

    with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"):
        children = jax.eval_shape(use_all, jax.random.key(0))  # promotion is checked while tracing
    assert (children.shape, children.dtype) == ((5, 3), np.int32)


@settings(deadline=None, max_examples=20)
@given(sizes.filter(lambda num_ops: max(num_ops) > 1), seeds)
def test_mutate_changes_exactly_one_choice_and_stays_in_range(num_ops, seed):
    space = make_space(*num_ops)
    sample_key, mutate_key = jax.random.split(jax.random.key(seed))
    archs = sample(sample_key, space, 50)
    mutants = check(space, mutate(mutate_key, space, archs))
    np.testing.assert_array_equal((mutants != np.asarray(archs)).sum(axis=1), 1)


def test_mutate_draws_choices_and_operations_uniformly():
    space = make_space(2, 1, 4)
    parents = np.tile(np.array([[1, 0, 2]], np.uint8), (6_000, 1))  # plain NumPy codes are welcome
    mutants = np.asarray(mutate(jax.random.key(1), space, parents))
    codes, counts = np.unique(mutants, axis=0, return_counts=True)
    np.testing.assert_array_equal(codes, [[0, 0, 2], [1, 0, 0], [1, 0, 1], [1, 0, 3]])
    expected = np.array([3_000, 1_000, 1_000, 1_000])
    assert ((counts - expected) ** 2 / expected).sum() < 16.3  # 3 degrees of freedom, p = 0.001


def test_mutate_needs_a_second_operation():
    with pytest.raises(ValueError, match=r"^toy: no choice has a second operation to mutate to\.$"):
        mutate(jax.random.key(0), make_space(1, 1, 1), jnp.zeros((1, 3), jnp.int32))


@settings(deadline=None, max_examples=20)
@given(sizes, seeds)
def test_crossover_takes_only_genes_of_the_parents(num_ops, seed):
    first_key, second_key, key = jax.random.split(jax.random.key(seed), 3)
    first, second = (np.asarray(sample(key, make_space(*num_ops), 50)) for key in (first_key, second_key))
    children = np.asarray(crossover(key, first, second))
    assert ((children == first) | (children == second)).all()


def test_crossover_takes_each_gene_from_either_parent_half_the_time():
    zeros, ones = np.zeros((4_000, 3), np.int32), np.ones((4_000, 3), np.int32)
    children = np.asarray(crossover(jax.random.key(0), zeros, ones))
    counts = np.unique(children, axis=0, return_counts=True)[1]
    assert len(counts) == 8 and ((counts - 500) ** 2 / 500).sum() < 24.3  # 7 degrees of freedom, p = 0.001


@pytest.mark.parametrize("space", [UNEQUAL, EVEN_SUM, make_space(1)], ids=["unequal", "even sum", "one choice"])
def test_neighbours_are_the_valid_codes_at_distance_one(space):
    everything = [code for code in brute_force(space) if space.is_valid(np.array([code]))[0]]
    for code in everything:
        expected = {other for other in everything if sum(map(int.__ne__, code, other)) == 1}
        found = neighbours(space, np.array(code))
        assert found.shape == (len(expected), space.num_choices) and set(map(tuple, found.tolist())) == expected


def test_enumerate_is_lexicographic_and_valid():
    np.testing.assert_array_equal(enumerate_archs(UNEQUAL), brute_force(UNEQUAL))
    valid = [code for code in brute_force(EVEN_SUM) if sum(code) % 2 == 0]
    np.testing.assert_array_equal(enumerate_archs(EVEN_SUM), valid)
    assert enumerate_archs(EVEN_SUM).dtype == np.int32


@settings(deadline=None)
@given(sizes)
def test_index_and_text_round_trip(num_ops):
    space = make_space(*num_ops)
    archs = enumerate_archs(space)
    np.testing.assert_array_equal(to_index(space, archs), np.arange(space.size))
    np.testing.assert_array_equal(from_index(space, np.arange(space.size)), archs)
    texts = [to_text(space, code) for code in archs]
    assert len(set(texts)) == space.size
    np.testing.assert_array_equal(from_text(space, texts), archs)


def test_texts_by_hand():
    wide = make_space(13, 2, 4)
    assert to_text(UNEQUAL, [1, 0, 3]) == "1_0_3"
    assert to_text(wide, [12, 0, 3]) == "12_0_3" and to_text(make_space(2, 2, 2, 2), [0, 0, 0, 1]) == "0-0-0-1"
    np.testing.assert_array_equal(from_text(wide, ["12-0-3", "1_1_1"]), [[12, 0, 3], [1, 1, 1]])
    np.testing.assert_array_equal(from_text(UNEQUAL, ["103", "1_0_2"]), [[1, 0, 3], [1, 0, 2]])  # as files had it, too


@settings(deadline=None)
@given(sizes)
def test_a_spreadsheet_keeps_a_text(num_ops):
    """It takes what looks like a number for one, and what looks like a day or a month for a date."""
    space = make_space(*num_ops)
    for text in (to_text(space, code) for code in enumerate_archs(space)):
        assert re.fullmatch(r"[\d.,]+(e\d+)?", text, re.IGNORECASE) is None or str(int(text)) == text
        assert re.fullmatch(r"\d+[-/.]\d+([-/.]\d+)?", text) is None


@pytest.mark.parametrize(
    ("space", "texts", "message"),
    [
        (UNEQUAL, ["103", "10x"], "toy: '10x' is no architecture code, expected a text like '0_0_0'."),
        (UNEQUAL, ["103", "10"], "toy: '10' is no architecture code, expected a text like '0_0_0'."),
        (make_space(13, 2, 4), ["1203"], "toy: '1203' is no architecture code, expected a text like '0_0_0'."),
        (make_space(13, 2, 4), ["1--1"], "toy: '1--1' is no architecture code, expected a text like '0_0_0'."),
        (UNEQUAL, ["103", "104"], "toy: code 4 at index 2 of architecture 1 is outside [0, 4)."),
        (UNEQUAL, [], "toy: the population is empty; give at least one architecture."),
    ],
)
def test_from_text_names_the_offending_text(space, texts, message):
    with pytest.raises(ValueError) as error:
        from_text(space, texts)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("indices", "message"),
    [
        ([0, 8], "toy: indices: 8 at index (1,), expected at least 0 and at most 7."),
        ([-1], "toy: indices: -1 at index (0,), expected at least 0 and at most 7."),
        ([1.5], "toy: indices: dtype float64, expected integer."),
    ],
)
def test_from_index_refuses_bad_indices(indices, message):
    with pytest.raises(ValueError) as error:
        from_index(UNEQUAL, indices)
    assert str(error.value) == message


def test_to_index_refuses_a_space_too_large_for_int64():
    largest, too_large = make_space(*[2] * 62), make_space(*[2] * 63)
    np.testing.assert_array_equal(to_index(largest, np.ones((1, 62), int)), [2**62 - 1])
    with pytest.raises(ValueError, match="do not fit int64 indices; use to_text as the key"):
        to_index(too_large, np.ones((1, 63), int))


def test_fingerprint_is_of_name_and_operations_alone():
    space = make_space(2, 1, 4)
    assert len(space.fingerprint) == 16 and int(space.fingerprint, 16) >= 0
    assert space.fingerprint == space.resized(width=8, image_size=8).fingerprint
    others = [dataclasses.replace(space, name="other"), make_space(2, 4, 1), make_space(2, 1, 3)]
    assert len({space.fingerprint, *(other.fingerprint for other in others)}) == 4


def test_resized_layouts_by_hand():
    assert LAYOUT.resized() == LAYOUT
    assert LAYOUT.resized(width=2, image_size=8, num_classes=3, in_channels=None) == ChainLayout(
        stem_width=2, widths=(2, 4, 4), strides=(1, 2, 1), head_width=8, image_size=8, num_classes=3
    )
    assert LAYOUT._replace(head_width=0).resized(width=8).head_width == 0  # no head stays no head
    assert LAYOUT._replace(widths=(1, 8, 8)).resized(width=1).widths == (1, 2, 2)  # never less than one channel
    cells = CellLayout(width=16, cells_per_stage=5, edges=((0, 1),))
    assert cells.resized(width=8, cells_per_stage=1) == CellLayout(width=8, cells_per_stage=1, edges=((0, 1),))


@pytest.mark.parametrize(
    ("layout", "sizes", "message"),
    [
        (LAYOUT, {"width": 0}, "ChainLayout: width is 0, expected 1 to 4096."),
        (LAYOUT, {"image_size": -8}, "ChainLayout: image_size is -8, expected 1 to 2048."),
        (
            LAYOUT,
            {"cells_per_stage": 1},
            "ChainLayout has no size 'cells_per_stage'; it has width, image_size, in_channels, num_classes.",
        ),
        (
            CellLayout(16, 5, ((0, 1),)),
            {"depth": 3},
            "CellLayout has no size 'depth'; it has width, cells_per_stage, image_size, in_channels, num_classes.",
        ),
        (
            CellLayout(16, 5, ((0, 1),)),
            {"cells_per_stage": 0},
            "CellLayout: cells_per_stage is 0, expected 1 to 100.",
        ),
    ],
)
def test_resized_refuses_sizes_it_does_not_have(layout, sizes, message):
    with pytest.raises(ValueError) as error:
        SearchSpace("toy", (("a", "b"),), layout).resized(**sizes)
    assert str(error.value) == message
