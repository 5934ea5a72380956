"""What passes the border, and the line that everything else gets."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from jaxnas import checks


class TestWhole:
    @pytest.mark.parametrize("value", [1, 7, np.int64(3), np.uint8(1)])
    def test_passes(self, value):
        found = checks.whole("num_steps", value, 1, 7)
        assert found == value and type(found) is int

    @pytest.mark.parametrize(
        "value, words",
        [
            (0, "num_steps is 0, expected 1 to 2147483647."),
            (2**31, "num_steps is 2147483648, expected 1 to 2147483647."),
            (True, "num_steps is True, expected a whole number, at least 1."),
            (1.0, "num_steps is 1.0, expected a whole number, at least 1."),
            (math.nan, "num_steps is nan, expected a whole number, at least 1."),
            ("3", "num_steps is '3', expected a whole number, at least 1."),
            (None, "num_steps is None, expected a whole number, at least 1."),
        ],
    )
    def test_is_refused(self, value, words):
        with pytest.raises(ValueError) as error:
            checks.whole("num_steps", value, 1)
        assert str(error.value) == words


class TestNumber:
    @pytest.mark.parametrize("value", [0, 0.5, np.float32(0.25), 1 - 1e-9])
    def test_passes(self, value):
        assert checks.number("momentum", value, 0, below=1) == value

    @pytest.mark.parametrize("value", [-1e-9, 1, math.nan, math.inf, -math.inf, True, "0.5", None, 1j])
    def test_is_refused(self, value):
        with pytest.raises(ValueError, match=r"^momentum is .*, expected a number, at least 0 and below 1\.$"):
            checks.number("momentum", value, 0, below=1)

    @pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
    def test_what_is_not_finite_is_refused_without_limits_too(self, value):
        with pytest.raises(ValueError, match=r"^x is -?(nan|inf), expected a (finite number|number, finite)"):
            checks.number("x", value)


def test_choice():
    assert checks.choice("sampler", "fair", {"fair": 0, "uniform": 1}) == "fair"
    for value in ("fairy", None, 1, [], np.zeros(2)):
        with pytest.raises(ValueError, match=r"^sampler is .*, expected one of fair, uniform\.$"):
            checks.choice("sampler", value, ["fair", "uniform"])
    with pytest.raises(ValueError, match="k is True, expected one of 1, 2"):
        checks.choice("k", True, [1, 2])


class TestArray:
    @pytest.mark.parametrize(
        "value, shape, dtype",
        [
            ([[1, 2]], (None, 2), "integer"),
            (jnp.ones((2, 3), jnp.bfloat16), (2, 3), "floating"),
            (np.ones(3, np.uint8), (3,), "uint8"),
            ([True], (1,), "bool"),
            (1.5, (), "number"),
            (np.zeros((0, 2), int), (None, 2), "integer"),
        ],
    )
    def test_passes(self, value, shape, dtype):
        np.testing.assert_array_equal(checks.array("x", value, shape, dtype, most=2), np.asarray(value))

    @pytest.mark.parametrize(
        "value, words",
        [
            ([1.0, 2.0], "labels: dtype float64, expected integer."),
            ([[1, 2]], "labels: shape (1, 2), expected (2)."),
            ([1, 2, 3], "labels: shape (3,), expected (2)."),
            ([[1], [2, 3]], "labels: [[1], [2, 3]] is no rectangular array."),
            ([0, -1], "labels: -1 at index (1,), expected at least 0 and at most 9."),
            ([2**40, 1], "labels: 1099511627776 at index (0,), expected at least 0 and at most 9."),
            (["a", "b"], "labels: dtype <U1, expected integer."),
            ([None, 1], "labels: dtype object, expected integer."),
        ],
    )
    def test_is_refused(self, value, words):
        with pytest.raises(ValueError) as error:
            checks.array("labels", value, (2,), "integer", least=0, most=9)
        assert str(error.value) == words

    def test_nan(self):
        scores = [1.0, math.nan, math.inf]
        with pytest.raises(ValueError, match=r"scores: nan at index \(1,\), expected finite numbers\."):
            checks.array("scores", scores, (3,))
        with pytest.raises(ValueError, match=r"scores: inf at index \(2,\), expected at most 2\."):
            checks.array("scores", scores, (3,), most=2, finite=False)

    def test_complex_numbers_are_none(self):
        with pytest.raises(ValueError, match="dtype complex128, expected number"):
            checks.array("x", [1j], (1,))


def test_what_came_is_one_short_line():
    assert checks.shown(np.zeros((9, 9))).count("\n") == 0 and len(checks.shown("x" * 999)) == 60
