"""Limits: additive costs whose sums are exact, the quantities by name, and what is refused."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxnas.codes import enumerate_archs
from jaxnas.costs import arch_costs, cost_table, make_limit, number, parse, table_costs
from jaxnas.space import ChainLayout, SearchSpace
from jaxnas.spaces import SPACES

# Three choices with 2, 1 and 3 operations; the layout plays no part.
LAYOUT = ChainLayout(stem_width=1, widths=(1, 1, 1), strides=(1, 1, 1), head_width=0)
SPACE = SearchSpace("toy", (("a", "b"), ("c",), ("d", "e", "f")), LAYOUT)
PER_OP = np.array([[1, 2, np.nan], [4, np.inf, -7], [8, 16, 32]])  # what a choice has no operation for is ignored


def refuses(message, function, *args, **kwargs):
    with pytest.raises(ValueError, match=message) as caught:
        function(*args, **kwargs)
    assert "\n" not in str(caught.value)


def test_a_cost_is_the_sum_over_choices_and_the_fixed_part():
    table = cost_table(SPACE, PER_OP, fixed=100)
    assert table_costs(table, np.array([[0, 0, 0], [1, 0, 2]])).tolist() == [113, 138]


@pytest.mark.parametrize("name", SPACES)
@pytest.mark.parametrize("quantity", ["macs", "params"])
def test_counted_quantities_are_those_of_arch_costs_to_the_last_digit(name, quantity):
    space = SPACES[name]
    limit = parse(f"{quantity}:1e6", space)
    if space.size > 1e6:
        archs = np.random.default_rng(0).integers(space.num_ops, size=(200, space.num_choices))
        archs = archs[space.is_valid(archs)]
    else:
        archs = enumerate_archs(space)[:: max(1, space.size // 200)]
    np.testing.assert_array_equal(limit.costs(archs), getattr(arch_costs(space, archs), quantity))
    assert (limit.table is None) == name.startswith(("darts", "nasbench101", "nats_size", "rnn"))
    assert (limit.name, limit.value) == (quantity, 1_000_000) and str(limit) == f"{quantity} <= 1000000"


@given(st.lists(st.floats(-1e6, 1e6), min_size=7, max_size=7), st.permutations(range(4)))
def test_sums_do_not_depend_on_their_order(figures, order):
    table = cost_table(SPACE, [[*figures[:2], 0], [figures[2], 0, 0], figures[3:6]], figures[6])
    for code in enumerate_archs(SPACE):
        terms = [table.fixed, *table.per_op[range(3), code]]
        in_order, exact = 0.0, sum(int(term / table.quantum) for term in terms)
        for place in order:
            in_order += terms[place]
        assert in_order / table.quantum == exact == table_costs(table, code[None])[0] / table.quantum
        given_terms = [figures[6], [*figures[:2], 0][code[0]], figures[2], figures[3 + code[2]]]
        assert abs(in_order - sum(given_terms)) <= 2e-14 * max(map(abs, figures)) + 1e-290


def test_another_cost_by_name():
    table = cost_table(SPACE, PER_OP)
    limit = parse("latency_ms:12.5", SPACE, {"latency_ms": table, "energy": lambda archs: archs.sum(axis=1)})
    assert limit.table is table and str(limit) == "latency_ms <= 12.5"
    assert parse("energy:2", SPACE, {"energy": lambda archs: archs.sum(axis=1)}).costs(np.array([[1, 0, 2]])) == [3]


@pytest.mark.parametrize("value, text", [(5e7, "50000000"), (0.1, "0.1"), (12.5, "12.5"), (-3, "-3"), (1e22, "1e+22")])
def test_numbers_are_read_back(value, text):
    assert number(value) == text and float(text) == value


class TestRefusals:
    @pytest.mark.parametrize("text", ["macs", "flops:1e6", ":3", "", "macs=3"])
    def test_no_limit_of_ours(self, text):
        refuses(re.escape(f"limit {text!r}: expected QUANTITY:VALUE as in 'macs:50e6', with one of macs, params"),
                parse, text, SPACES["digits_chain"])  # fmt: skip

    def test_a_latency_without_a_table(self):
        refuses("one of macs, params; a latency needs a measured table", parse, "latency_ms:5", SPACES["digits_chain"])

    def test_no_number(self):
        refuses("limit 'macs:many': 'many' is no number", parse, "macs:many", SPACES["digits_chain"])
        for value in ("nan", "inf"):
            refuses(f"limit of macs is {value}", parse, f"macs:{value}", SPACES["digits_chain"])

    def test_tables_that_do_not_fit(self):
        refuses(r"shape \(2, 3\), expected \(3, 3\)", cost_table, SPACE, PER_OP[:2])
        refuses("the fixed cost is nan, expected a number, finite", cost_table, SPACE, PER_OP, np.nan)
        refuses("the largest cost of an architecture is inf", cost_table, SPACE, np.full((3, 3), 1e308))
        holed = PER_OP.copy()
        holed[2, 1] = np.nan
        refuses("the cost of e at choice 2 is nan", cost_table, SPACE, holed)
        table = cost_table(SPACE, PER_OP)
        refuses(
            r"macs table has shape \(3, 3\), expected \(5, 3\)", make_limit, SPACES["digits_chain"], "macs", 1, table
        )

    def test_functions_that_do_not_answer(self):
        archs = enumerate_archs(SPACE)
        for wrong in (lambda archs: 3.0, lambda archs: np.full(len(archs), np.nan)):
            refuses("toy: the joules of 6 architectures came as", make_limit(SPACE, "joules", 1, wrong).costs, archs)
