"""Measuring latencies: what is timed once, what is summed where, by a clock that the test sets."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnas.costs import latency, measuring, table_costs
from jaxnas.costs.measuring import (
    TimedProgram,
    distinct_operations,
    measure,
    measure_networks,
    measure_ops,
    spread,
    time_programs,
)
from jaxnas.space import ChainLayout
from jaxnas.spaces import chain_space, nasbench201
from jaxnas.supernets import make_supernet

# Four choices; the last two are of one shape, and there identity is nothing.
SPACE = chain_space(
    "toy",
    ChainLayout(stem_width=2, widths=(2, 4, 4, 4), strides=(1, 2, 1, 1), head_width=0, image_size=4, in_channels=1),
    [("identity", "nor_conv_1x1"), ("identity", "nor_conv_3x3"), *[("identity", "nor_conv_1x1")] * 2],
)


def test_equal_operations_at_equal_shapes_are_timed_once():
    places = distinct_operations(make_supernet(SPACE))
    assert places == [
        [("stem", "stem")],
        [("layer0", "nor_conv_1x1")],
        [("layer1", "identity")],  # strided
        [("layer1", "nor_conv_3x3")],
        [("layer2", "nor_conv_1x1"), ("layer3", "nor_conv_1x1")],
        [("head", "head")],
    ]
    # Of 90 edges with five operations each, a stage's are of one shape; none and skip do nothing.
    cells = distinct_operations(make_supernet(nasbench201.resized(width=2, image_size=4)))
    assert sorted(len(same) for same in cells) == [1, 1, 1, 1] + [30] * 9


def test_times_fall_to_the_choices_they_belong_to(monkeypatch):
    """Six operations at 1.5, 2.5, ... ms beside an empty program of 0.5 ms, two networks at 100 ms, two rounds."""

    def known(programs, num_rounds, num_runs, known_ms, **_):
        assert known_ms is None and (len(programs), num_rounds, num_runs) == (9, 2, 3)
        times = np.array([0.5, 1.5, 2.5, 3.5, 4.5, 5.5, 6.5, 100, 101])
        return np.stack([times, times + (times > 1)], axis=1)  # a millisecond more in the second round

    monkeypatch.setattr(measuring, "time_programs", known)
    archs = np.array([[0, 0, 0, 0], [1, 1, 1, 1]])
    measured = measure(SPACE, archs, batch_size=2, num_rounds=2, num_runs=3, provenance={"jax": "0.10.2"})
    assert measured.networks_ms.tolist() == [[100, 101], [101, 102]]
    rows = dict(zip(measured.table.archs[:, 0].tolist(), measured.table.columns["latency_ms"].tolist()))
    # Rows: fixed (stem and head), then identity and convolution of each choice.
    assert rows == {
        0: [1 + 6, 2 + 7], 1: [0, 0], 2: [2, 3], 3: [3, 4], 4: [4, 5], 5: [0, 0], 6: [5, 6], 7: [0, 0], 8: [5, 6],
    }  # fmt: skip
    assert latency.setting_of(measured.table)[1:] == (2, "float32")
    assert measured.table.provenance["empty_program_ms"] == "0.5" and measured.table.provenance["jax"] == "0.10.2"
    costs = latency.operation_costs(SPACE, measured.table)
    assert table_costs(costs, archs).tolist() == [8 + 3.5, 8 + 2.5 + 4.5 + 5.5 + 5.5]


def test_cells_sum_over_all_places_of_a_choice(monkeypatch):
    """Every program takes 2 ms, the empty one 1 ms: an edge's operation stands in three stages of two cells."""
    monkeypatch.setattr(
        measuring, "time_programs", lambda programs, *_, **__: np.array([[1.0]] + [[2.0]] * (len(programs) - 1))
    )
    space = nasbench201.resized(width=2, image_size=4, cells_per_stage=2)
    costs = latency.operation_costs(space, measure_ops(space, batch_size=1, num_rounds=1))
    assert costs.per_op.tolist() == [[0, 0, 6, 6, 6]] * 6
    assert costs.fixed == 4  # stem, two reductions, head


def test_the_fastest_run_of_each_round_counts():
    """By a clock on which the runs take 3, 1, 2 and 9, 8, 1.05 s."""
    times = itertools.accumulate(step for run in (3, 1, 2, 9, 8, 1.05) for step in (10, run))
    compiled, rounds = [], []
    program = TimedProgram(lambda x: x * 2, (jnp.ones(2),))
    found = time_programs(
        [program],
        2,
        3,
        clock=lambda: next(times),
        on_program=lambda: compiled.append(1),
        on_round=lambda: rounds.append(1),
    )
    assert found[0].tolist() == pytest.approx([1000.0, 1050.0])
    assert (len(compiled), len(rounds)) == (1, 2)


def clock_of(seconds):
    """A clock on which the runs take so long, one after the other."""
    times = itertools.accumulate(step for run in seconds for step in (10, run))
    return lambda: next(times)


def test_what_scatters_is_timed_again_and_the_rest_is_kept(monkeypatch):
    """Two programs; of the first 1, 1 and 1 s, of the second 2, 4 and 8: it alone is timed again, 3, 2.1 and 9 s, of
    which two are faster than what there was; and then once more, 2.05 s three times."""
    twice = [TimedProgram(lambda x: x * 2, (jnp.ones(2),))] * 2
    orders = [np.random.default_rng(number).permutation(2).tolist() for number in range(3)]
    first = [(1, seconds)[row] for order, seconds in zip(orders, (2, 4, 8)) for row in order]
    monkeypatch.setattr(measuring, "TIMES_AGAIN", 1)
    found = time_programs(twice, 3, 1, clock=clock_of([*first, 3, 2.1, 9]))
    assert found.tolist() == [pytest.approx([1000] * 3), pytest.approx([2000, 3000, 2100])]
    monkeypatch.setattr(measuring, "TIMES_AGAIN", 3)
    found = time_programs(twice, 3, 1, clock=clock_of([*first, 3, 2.1, 9, 2.05, 2.05, 2.05]))
    assert found.tolist() == [pytest.approx([1000] * 3), pytest.approx([2000, 2050, 2050])]


def test_known_times_are_kept_and_the_missing_ones_taken():
    twice, compiled = [TimedProgram(lambda x: x * 2, (jnp.ones(2),))] * 2, []
    known = np.array([[1.0, 9.0], [np.nan, np.nan]])
    found = time_programs(
        twice, 2, 1, known_ms=known, clock=clock_of([0.002, 0.002]), on_program=lambda: compiled.append(1)
    )
    assert found[0].tolist() == [1, 9] and found[1].tolist() == pytest.approx([2, 2]) and compiled == [1]
    assert time_programs(twice, 2, 1, known_ms=found, clock=lambda: pytest.fail("timed")).tolist() == found.tolist()
    with pytest.raises(ValueError, match=r"^known_ms: shape \(2, 2\), expected \(2, 3\)"):
        time_programs(twice, 3, 1, known_ms=known)


def test_a_queue_is_timed_by_what_its_length_adds():
    """Queues of one call and of five: 3 and 11 s are 2 s a call; then 4 and 8 s, 1 s, which is the faster run."""
    program = TimedProgram(lambda x: x * 2, (jnp.ones(2),))
    found = time_programs([program], 1, 2, queue=(1, 5), clock=clock_of([3, 11, 4, 8]))
    assert found[0].tolist() == pytest.approx([1000])


def test_on_an_accelerator_an_operation_runs_so_often_that_the_host_is_not_timed(monkeypatch):
    """Its program, of 8 ms, holds it `REPEATS` times, and nothing is taken off; a network, of 5 ms, is called once."""
    monkeypatch.setattr(measuring, "_is_queued", lambda: True)
    monkeypatch.setattr(measuring, "REPEATS", 4)
    products = []  # convolutions, and those of one pixel

    def known(programs, *_, **__):
        for program in programs:
            text = jax.jit(program.function).lower(*program.args).as_text()
            products.append(text.count("stablehlo.convolution") + text.count("stablehlo.dot_general"))
        return np.array([[0.5]] + [[8.0]] * (len(programs) - 2) + [[5.0]])

    monkeypatch.setattr(measuring, "time_programs", known)
    measured = measure(SPACE, np.array([[1, 1, 1, 1]]), batch_size=1, num_rounds=1)
    assert products == [0, *[4] * 6, 6]
    assert latency.operation_costs(SPACE, measured.table).fixed == 2 + 2  # stem and head
    assert measured.networks_ms.tolist() == [[5]]
    assert "queues of 4 and 20 calls" in measured.table.provenance["timed"]
    assert measured.table.provenance["driver"]


def test_host_bound():
    """The empty program takes 2 ms in the middle of its rounds: 3 are within half of it, 3.1 are not."""
    assert measuring.host_bound([[1, 2, 9], [3, 3, 3], [3.1, 3.1, 3.1], [2, 9, 1]]).tolist() == [1, 3]


def test_scattered():
    """Quartiles of 1..5 are 2 and 4; a row of zeros takes nothing."""
    assert measuring.scattered(
        [[1, 2, 3, 4, 5], [0] * 5, [10, 10.4, 11, 11.4, 12], [10, 10.5, 11, 11.7, 12]]
    ).tolist() == [0, 3]


def test_spread():
    """Quartiles of 1..5 are 2 and 4: 2/3; the constant row has none, the row of zeros doesn't count."""
    assert spread(np.array([[1, 2, 3, 4, 5], [2, 2, 2, 2, 2], [0, 0, 0, 0, 0]])) == pytest.approx((2 / 3 + 0) / 2)
    assert spread(np.zeros((2, 3))) == 0


def test_a_real_measurement():
    measured = measure(SPACE, np.array([[1, 1, 1, 1]]), batch_size=1, num_rounds=2, num_runs=1)
    assert measured.networks_ms.shape == (1, 2) and (measured.networks_ms > 0).all()
    assert latency.operation_costs(SPACE, measured.table).per_op[[0, 2, 3], 0].tolist() == [0, 0, 0]


def test_networks_alone(monkeypatch):
    def known(programs, num_rounds, num_runs):
        assert (num_rounds, num_runs) == (3, 2)
        shapes = [jax.eval_shape(program.function, *program.args).shape for program in programs]
        assert shapes == [(5, 10)] * 2  # the logits of five images
        return np.arange(6.0).reshape(2, 3)

    monkeypatch.setattr(measuring, "time_programs", known)
    archs = np.array([[1, 1, 1, 1], [0, 0, 0, 0]])
    times = measure_networks(SPACE, archs, batch_size=5, num_rounds=3, num_runs=2)
    assert times.tolist() == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"batch_size": 0}, "batch_size is 0, expected 1 to 2147483647."),
        ({"num_rounds": 0}, "num_rounds is 0, expected 1 to 2147483647."),
        ({"num_runs": -1}, "num_runs is -1, expected 1 to 2147483647."),
        ({"dtype": "int8"}, "dtype is 'int8', expected one of float32, bfloat16, float16."),
    ],
)
def test_settings_that_are_none(changes, message):
    with pytest.raises(ValueError) as error:
        measure_ops(SPACE, **({"batch_size": 1} | changes))
    assert str(error.value) == message


def test_codes_of_another_space():
    with pytest.raises(ValueError, match=r"^toy: archs have shape \(1, 3\), expected"):
        measure(SPACE, np.zeros((1, 3), int), batch_size=1)
