"""The judge of what a search found, on tables of four architectures that one can judge by hand."""

import numpy as np
import pytest

from jaxnas import tables
from jaxnas.space import ChainLayout
from jaxnas.spaces import chain_space

SPACE = chain_space("two", ChainLayout(2, (2, 2), (1, 1), 0), [("identity", "nor_conv_1x1")] * 2)
ARCHS = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], np.int32)


def judge(contains=None, **columns) -> tables.Judge:
    units = dict.fromkeys(columns, "fraction")
    columns = {name: np.array(column) for name, column in columns.items()}
    return tables.make_judge(tables.make_table(SPACE, ARCHS, columns, units=units, provenance={}), contains)


def test_validation_accuracy_chooses_where_the_table_has_it():
    by_table = judge(test_accuracy=[0.1, 0.2, 0.3, 0.4], valid_accuracy=[0.4, 0.3, 0.2, 0.1])
    assert by_table.outcome(ARCHS[[3, 1, 2]]).tolist() == [0, 1]
    assert by_table.regret(ARCHS[1]) == pytest.approx(0.2) and by_table.rank(ARCHS[1]) == 3


def test_the_first_seed_chooses_and_the_others_judge():
    """By the first seed code 01 is best, by the mean of the others 00 with 0.5, and 01 has 0.25."""
    by_table = judge(test_accuracy=[[0.1, 0.4, 0.6], [0.9, 0.2, 0.3], [0.2, 0.1, 0.1], [0.3, 0.0, 0.1]])
    assert by_table.outcome(ARCHS).tolist() == [0, 1]
    assert by_table.regret(ARCHS[1]) == pytest.approx(0.25) and by_table.rank(ARCHS[1]) == 2


def test_a_single_seed_chooses_nothing():
    by_table = judge(test_accuracy=[0.1, 0.5, 0.2, 0.4])
    assert by_table.choose_by is None and by_table.outcome(ARCHS[[2, 1]]).tolist() == [1, 0]
    assert by_table.rank(ARCHS[2]) == 3 and by_table.regret(ARCHS[2]) == pytest.approx(0.3)


def test_seeds_of_the_validation_accuracy_are_averaged():
    """The best by the mean over seeds is 01 with 0.5; a flat index would be 4, of no architecture."""
    by_table = judge(
        test_accuracy=[0.1, 0.2, 0.3, 0.4], valid_accuracy=[[0.3, 0.4], [0.1, 0.9], [0.4, 0.4], [0.4, np.nan]]
    )
    assert by_table.outcome(ARCHS).tolist() == [0, 1] and by_table.choose_by(ARCHS).tolist() == [0.35, 0.5, 0.4, 0.4]


def test_missing_seeds_are_left_out():
    """Validation: means 0.4, 0.3, 0.2, 0.1. Test: 0.2, 0.3, 0.5, 0.1."""
    nan = np.nan
    test = [[0.1, 0.3], [0.3, nan], [nan, 0.5], [0.1, 0.1]]
    by_table = judge(test_accuracy=test, valid_accuracy=[[nan, 0.4], [0.2, 0.4], [0.2, nan], [0.1, 0.1]])
    assert by_table.outcome(ARCHS[::-1]).tolist() == [0, 0]
    assert by_table.feasible == pytest.approx([0.5, 0.3, 0.2, 0.1]) and by_table.rank(ARCHS[0]) == 3
    # Without it the first training that there is chooses, of 00 with 0.9, and the others judge.
    by_seeds = judge(test_accuracy=[[nan, 0.9, 0.2, 0.4], [0.8, nan, nan, 0.5], [0.1, 0.2, 0.3, nan], [0, 0, 0, 0]])
    assert by_seeds.outcome(ARCHS).tolist() == [0, 0]
    assert by_seeds.accuracy(ARCHS) == pytest.approx([0.3, 0.5, 0.25, 0])
    # One training of each, in one column or the other, chooses nothing.
    assert judge(test_accuracy=[[0.1, nan], [nan, 0.2], [0.3, nan], [0.4, nan]]).choose_by is None


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"test_accuracy": [0.1, np.nan, 0.3, 0.4]}, r"0 test accuracies of architecture \[0, 1\], .* judged by"),
        ({"test_accuracy": [[0.1, 0.2], [0.3, np.nan], [0.1, 0.2], [0.1, 0.2]]}, r"1 .* of architecture \[0, 1\]"),
        ({"test_accuracy": [0.1, 0.2, 0.3, 0.4], "valid_accuracy": [[0.1], [0.2], [np.nan], [0.1]]}, "chosen by"),
    ],
)
def test_an_architecture_without_a_figure_is_named(columns, message):
    with pytest.raises(ValueError, match=message) as error:
        judge(**columns)
    assert "\n" not in str(error.value)
    assert judge(lambda archs: archs.sum(axis=1) == 0, **columns).feasible.size == 1  # the others don't matter


def test_only_the_feasible_are_compared():
    by_table = judge(lambda archs: archs[:, 1] == 0, test_accuracy=[0.1, 0.5, 0.2, 0.4])
    assert by_table.feasible.tolist() == [0.2, 0.1] and by_table.regret(ARCHS[0]) == pytest.approx(0.1)
    with pytest.raises(ValueError, match="no architecture that meets the limit"):
        judge(lambda archs: np.zeros(len(archs), bool), test_accuracy=[0.1, 0.5, 0.2, 0.4])
