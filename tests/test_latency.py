"""Latency tables: predictions by hand, calibration, what others measured, and the ways a table can be the wrong one."""

import re
import shutil

import numpy as np
import pytest
import scipy.stats

from jaxnas import tables
from jaxnas.codes import enumerate_archs
from jaxnas.costs import arch_costs, latency, latency_files, make_limit, parse, table_costs
from jaxnas.costs.latency import Calibration, Setting
from jaxnas.search.regions import Region
from jaxnas.space import ChainLayout, SearchSpace
from jaxnas.spaces import SPACES

LAYOUT = ChainLayout(stem_width=4, widths=(4, 8), strides=(1, 2), head_width=0)
SPACE = SearchSpace("toy", (("identity", "mb3_k3", "mb6_k5"), ("identity", "mb3_k3")), LAYOUT)
# Two choices, three rounds each; the medians are 0, 2, 5 and 1, 4 ms, and 10 ms for the rest.
PER_OP = np.array(
    [[[0, 0, 3], [1, 2, 3], [5, 4, 9]], [[1, 1, 1], [4, 4, 8], [np.nan] * 3]],
)
FIXED = np.array([10, 9, 30])
SETTING = Setting(device="cpu", batch_size=32, dtype="float32")


def table(**changes):
    arguments = {"per_op_ms": PER_OP, "fixed_ms": FIXED, "setting": SETTING, "provenance": {"jax": "0.10.2"}}
    return latency.operations_table(SPACE, **(arguments | changes))


@pytest.fixture
def path(tmp_path):
    tables.write_table(tmp_path / "latency.npz", table())
    return tmp_path / "latency.npz"


def refuses(message, function, *args, **kwargs):
    with pytest.raises(ValueError, match=message) as caught:
        function(*args, **kwargs)
    assert "\n" not in str(caught.value)


def test_a_network_is_predicted_by_the_sum_of_medians():
    archs = enumerate_archs(SPACE)
    costs = latency.operation_costs(SPACE, table())
    assert table_costs(costs, archs).tolist() == [11, 14, 13, 16, 16, 19]
    calibrated = latency.operation_costs(SPACE, table(), Calibration(constant=-3.0, scale=2.0))
    assert table_costs(calibrated, archs).tolist() == [19, 25, 23, 29, 29, 35]


def test_a_calibrated_table_is_summed_by_its_calibration(tmp_path):
    """As it is written and read; one that is given wins."""
    calibrated = latency.with_calibration(table(), Calibration(constant=-3.0, scale=2.0))
    tables.write_table(tmp_path / "latency.npz", calibrated)
    read = latency.read_operations_table(tmp_path / "latency.npz", SPACE)
    assert latency.calibration_of(read) == (-3, 2) and latency.calibration_of(table()) == (0, 1)
    archs = enumerate_archs(SPACE)
    assert table_costs(latency.operation_costs(SPACE, read), archs).tolist() == [19, 25, 23, 29, 29, 35]
    plain = latency.operation_costs(SPACE, read, Calibration(0.0, 1.0))
    assert table_costs(plain, archs).tolist() == [11, 14, 13, 16, 16, 19]
    wrong = table()._replace(provenance=table().provenance | {"scale": "twice"})
    refuses("has the calibration .'0', 'twice'., expected two numbers", latency.operation_costs, SPACE, wrong)


def test_what_is_written_is_read(path):
    read = latency.read_operations_table(path, SPACE, device="cpu", batch_size=32, dtype="float32")
    assert latency.setting_of(read) == SETTING and read.provenance["jax"] == "0.10.2"
    assert read.units == {"latency_ms": "ms"} and read.columns["latency_ms"].shape == (6, 3)
    first, again = (latency.operation_costs(SPACE, each) for each in (table(), read))
    np.testing.assert_array_equal(first.per_op, again.per_op)
    assert first.fixed == again.fixed == 10


def test_a_limit_by_a_table(path):
    costs = latency.operation_costs(SPACE, latency.read_operations_table(path, SPACE))
    region = Region(SPACE, parse("latency_ms:13", SPACE, {"latency_ms": costs}))
    assert region.members().tolist() == [[0, 0], [1, 0]]
    refuses(
        "toy: no architecture meets latency_ms <= 10.5; the smallest possible is 11",
        Region(SPACE, parse("latency_ms:10.5", SPACE, {"latency_ms": costs})).members,
    )


class TestWrongTables:
    def test_an_operation_is_missing(self):
        holed = PER_OP.copy()
        holed[0, 2] = np.nan
        refuses(
            r"the latency table of toy misses 0/mb6_k5 \(1 of 6 rows\); measure it again",
            latency.operation_costs, SPACE, table(per_op_ms=holed),
        )  # fmt: skip
        one_round = PER_OP.copy()
        one_round[0, 2, 1:] = np.nan
        assert latency.operation_costs(SPACE, table(per_op_ms=one_round)).per_op[0, 2] == 5

    def test_another_space(self, path):
        digits = SPACES["digits_chain"]
        refuses(
            "a table of space 'toy operations', expected 'digits_chain op", latency.read_operations_table, path, digits
        )
        refuses("a table of toy operations, expected digits_chain operations", latency.operation_costs, digits, table())

    def test_other_operations(self, path):
        other = SearchSpace("toy", (("identity", "mb3_k3", "mb6_k7"), ("identity", "mb3_k3")), LAYOUT)
        refuses("made for other operations of toy operations", latency.read_operations_table, path, other)

    def test_another_network_of_the_space(self, path):
        message = f"{re.escape(str(path))}: measured on another network of toy, .*stem_width=4.*stem_width=8"
        refuses(message, latency.read_operations_table, path, SPACE.resized(width=8))

    @pytest.mark.parametrize(
        "wanted, message",
        [
            ({"device": "TPU v5"}, "measured with device cpu, expected TPU v5; measure again"),
            ({"batch_size": 1}, "measured with batch_size 32, expected 1; measure again"),
            ({"batch_size": 32, "dtype": "bfloat16"}, "measured with dtype float32, expected bfloat16"),
            ({"threads": 2}, "unknown setting 'threads'; a table has device, batch_size, dtype"),
        ],
    )
    def test_another_setting(self, path, wanted, message):
        refuses(message, latency.read_operations_table, path, SPACE, **wanted)

    def test_damage(self, path):
        path.write_bytes(path.read_bytes()[:-100])
        refuses("truncated, damaged or no table", latency.read_operations_table, path, SPACE)

    def test_ground_truth_is_no_latency(self, tmp_path):
        archs = enumerate_archs(SPACE)
        accuracy = {"test_accuracy": np.linspace(0, 1, 6)}
        truth = tables.make_table(SPACE, archs, accuracy, units={"test_accuracy": "fraction"}, provenance={})
        tables.write_table(tmp_path / "truth.npz", truth)
        refuses(
            "a table of space 'toy', expected 'toy operations'",
            latency.read_operations_table,
            tmp_path / "truth.npz",
            SPACE,
        )

    def test_figures_that_are_none(self):
        refuses(r"latencies of shapes \(2, 2, 3\) and \(3,\)", table, per_op_ms=PER_OP[:, :2])
        refuses(r"latencies of shapes \(2, 3, 3\) and \(2,\)", table, fixed_ms=FIXED[:2])
        refuses("toy: the latency of 0/identity is -3.0, negative or infinite", table, per_op_ms=-PER_OP)
        refuses("toy: the latency of fixed is inf, negative or infinite", table, fixed_ms=FIXED * np.inf)
        refuses("per_op_ms: shape .3,., expected", table, per_op_ms=FIXED)
        refuses("fixed_ms: dtype <U1, expected number", table, fixed_ms=["a", "b", "c"])
        refuses("device is '', expected the name of one", table, setting=SETTING._replace(device=""))
        refuses("batch_size is 0, expected 1 to", table, setting=SETTING._replace(batch_size=0))
        refuses("dtype is 'int8', expected one of float32", table, setting=SETTING._replace(dtype="int8"))

    def rewritten(self, path, **changes):
        """The table with other entries of its provenance, or without them."""
        read = table()
        about = {name: text for name, text in {**read.provenance, **changes}.items() if text is not None}
        tables.write_table(path, read._replace(provenance=about))

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"device": None}, "a table of toy operations that doesn't say with which device it was measured; measure"),
            ({"batch_size": None}, "doesn't say with which batch_size it was measured"),
            ({"batch_size": "many"}, "batch_size is 'many', expected a whole number"),
            ({"batch_size": "-1"}, "batch_size is '-1', expected a whole number"),
            ({"dtype": "float8"}, "dtype is 'float8', expected one of"),
            ({"layout": None}, "measured on another network of toy, None"),
        ],
    )
    def test_a_table_that_does_not_say_how_it_was_measured(self, path, changes, message):
        self.rewritten(path, **changes)
        refuses(f"{re.escape(str(path))}: .*{message}", latency.read_operations_table, path, SPACE)

    def test_another_unit(self):
        read = table()
        in_seconds = read._replace(units={"latency_ms": "s"})
        refuses("has its column 'latency_ms' in the unit s, expected ms", latency.operation_costs, SPACE, in_seconds)
        other = read._replace(columns={"time": read.columns["latency_ms"]}, units={"time": "ms"})
        refuses("has no column 'latency_ms'; it has time", latency.operation_costs, SPACE, other)

    def test_a_calibration_that_is_none(self):
        for calibration in (Calibration(np.nan, 1.0), Calibration(0.0, -0.28), Calibration(0.0, np.inf)):
            refuses("(constant|scale) is", latency.operation_costs, SPACE, table(), calibration)


def test_calibration_finds_the_line():
    predicted = np.array([1.0, 2.0, 4.0, 7.0])
    constant, scale = latency.calibrate(predicted, 0.5 + 1.25 * predicted)
    assert (constant, scale) == pytest.approx((0.5, 1.25))
    noisy = 0.5 + 1.25 * predicted + np.array([0.1, -0.2, 0.1, 0.05])
    fit = scipy.stats.linregress(predicted, noisy)
    assert latency.calibrate(predicted, noisy) == pytest.approx((fit.intercept, fit.slope))


def test_agreement():
    """Relative errors 0.5, 0, 0.25 and 0; of the six pairs one is in the wrong order, two ranks are swapped."""
    found = latency.agreement(np.array([1.0, 3.0, 5.0, 4.5]), np.array([2.0, 3.0, 4.0, 4.5]))
    assert found.median_relative_error == pytest.approx(0.125)
    assert found.kendall_tau == pytest.approx((5 - 1) / 6)
    assert found.spearman == pytest.approx(1 - 6 * (1 + 1) / (4 * 15))


def test_latencies_that_cannot_be_compared():
    three = np.array([1.0, 2.0, 3.0])
    refuses("calibrate: all predictions are equal", latency.calibrate, np.ones(3), three)
    refuses("falls with the predicted one", latency.calibrate, three, three[::-1])
    refuses(r"shapes \(3,\) and \(2,\), expected two of one", latency.calibrate, three, three[:2])
    refuses("must be finite, and the measured ones above 0", latency.agreement, three, three - 1)
    refuses("must be finite", latency.agreement, three * np.nan, three)


class TestMeasuredNetworks:
    archs = np.array([[0, 0], [2, 1], [1, 0]])
    table = tables.make_table(
        SPACE, archs, {"ms": [3.0, 9.0, 5.0], "rounds": [[1, 3], [8, 8], [4, 6]]}, units={"ms": "ms", "rounds": "ms"},
        provenance={},
    )  # fmt: skip

    def test_costs_by_code(self):
        for column, expected in (("ms", [5, 3, 9]), ("rounds", [5, 2, 8])):
            costs = latency.measured_costs(SPACE, self.table, column)
            assert costs(self.archs[[2, 0, 1]]).tolist() == expected

    def test_rounds_that_are_missing(self):
        holed = self.table._replace(columns={"ms": np.array([[1, np.nan], [np.nan, np.nan], [4, 6]])})
        costs = latency.measured_costs(SPACE, holed, "ms")
        assert costs(self.archs[[0, 2]]).tolist() == [1, 5]
        refuses(r"table of toy \(2 architectures\) lacks 2_1", costs, self.archs)
        nothing = holed._replace(columns={"ms": np.full((3, 1), np.nan)})
        refuses("has no figure in its column 'ms'", latency.measured_costs, SPACE, nothing, "ms")

    def test_another_unit(self):
        in_seconds = self.table._replace(units={"ms": "s", "rounds": "ms"})
        refuses("has its column 'ms' in the unit s, expected ms", latency.measured_costs, SPACE, in_seconds, "ms")

    def test_what_was_not_measured(self):
        refuses("has no column 'gpu'; it has ms, rounds", latency.measured_costs, SPACE, self.table, "gpu")
        costs = latency.measured_costs(SPACE, self.table, "ms")
        for missing, text in (([0, 1], "0_1"), ([1, 1], "1_1")):
            refuses(rf"table of toy \(3 architectures\) lacks {text}", costs, np.array([[0, 0], missing]))

    def test_nasbench201(self, data_dir):
        space = SPACES["nasbench201"]
        measured = latency_files.read_nasbench201_latency(data_dir, space)
        assert set(measured.columns) == {
            f"latency_ms_{device}" for device in ("titanxp_1", "titanxp_32", "gold_6226", "pixel3")
        }
        assert (measured.columns["latency_ms_pixel3"] < 0.5).sum() == 273
        # Row 0 is |avg_pool_3x3~0|+|nor_conv_1x1~0|skip_connect~1|+..., as in the table of accuracies.
        assert measured.archs[0].tolist() == [4, 2, 1, 2, 1, 1]
        assert measured.columns["latency_ms_titanxp_1"][0] == pytest.approx(8.086047)
        macs = arch_costs(space, measured.archs).macs
        assert scipy.stats.spearmanr(measured.columns["latency_ms_pixel3"], macs).statistic > 0.8  # rows and codes fit
        costs = latency.measured_costs(space, measured, "latency_ms_titanxp_1")
        region = Region(space, make_limit(space, "latency_ms", 4.0, costs))
        assert region.count() == (measured.columns["latency_ms_titanxp_1"] <= 4.0).sum()
        assert costs(region.sample(np.random.default_rng(0), 50)).max() <= 4.0

    def test_only_the_known_bytes(self, data_dir, tmp_path):
        shutil.copy(data_dir / "nasbench201_cifar10.npz", tmp_path)
        data = (data_dir / "nasbench201_latency.npz").read_bytes()
        for wrong in (b"", data[:-1], data[:700] + bytes([data[700] ^ 1]) + data[701:]):
            (tmp_path / "nasbench201_latency.npz").write_bytes(wrong)
            refuses("not the published file", latency_files.read_nasbench201_latency, tmp_path, SPACES["nasbench201"])


def test_a_file_of_latencies_is_of_operations_or_of_whole_networks(tmp_path, path):
    """Under any name; what it states is what a limit may be of."""
    archs = enumerate_archs(SPACE)
    rounds = np.arange(12.0).reshape(6, 2)
    columns = {"latency_ms_phone": rounds, "latency_ms": rounds[:, 0], "params": np.arange(6)}
    units = {"latency_ms_phone": "ms", "latency_ms": "ms", "params": "count"}
    for name in ("mine.npz", latency_files.NASBENCH201_FILE):
        tables.write_table(tmp_path / name, tables.make_table(SPACE, archs, columns, units=units, provenance={}))
        found = latency_files.read_latencies(tmp_path / name, SPACE)
        assert sorted(found) == ["latency_ms", "latency_ms_phone"]
        limit = parse("latency_ms_phone:4.5", SPACE, found)
        assert limit.costs(archs).tolist() == [0.5, 2.5, 4.5, 6.5, 8.5, 10.5] and limit.table is None
    of_operations = latency_files.read_latencies(path, SPACE)
    assert table_costs(of_operations["latency_ms"], archs).tolist() == [11, 14, 13, 16, 16, 19]
    path.write_bytes(path.read_bytes()[:-9])
    refuses("truncated, damaged or no table", latency_files.read_latencies, path, SPACE)
    tables.write_table(path, table()._replace(space="other operations"))
    refuses("a table of space 'other operations', expected 'toy operations'", latency_files.read_latencies, path, SPACE)


class TestCsv:
    """Figures of one's own, by hand."""

    ARCHS = enumerate_archs(SPACE)
    OPERATIONS = """operation,round,latency_ms,remark
fixed,a,10,
fixed,b,12,warm
0/identity,a,0,
0/mb3_k3,a,2,
0/mb6_k5,b,5,
1/identity,a,1,
1/mb3_k3,a,3,
1/mb3_k3,b,5,
"""

    def limit_of(self, path, text, **quantity):
        path.write_text(text, encoding="utf-8")
        return parse(quantity.get("limit", "latency_ms:99"), SPACE, latency_files.read_latencies(path, SPACE))

    def test_operations_are_summed(self, tmp_path):
        limit = self.limit_of(tmp_path / "mine.csv", self.OPERATIONS)
        assert limit.costs(self.ARCHS).tolist() == [12, 15, 14, 17, 17, 20]  # 11 for the rest, 4 for the last one

    def test_whole_networks_on_two_devices(self, tmp_path):
        text = "latency_ms_phone, latency_ms_card,arch\n7,0.5,0-0\n9,0.75,2-1\n"
        limit = self.limit_of(tmp_path / "mine.CSV", text, limit="latency_ms_card:1")
        assert limit.costs(self.ARCHS[[0, 5]]).tolist() == [0.5, 0.75] and limit.table is None
        refuses(r"the table of toy \(2 architectures\) lacks 1_0", limit.costs, self.ARCHS[[2]])

    @pytest.mark.parametrize(
        "text, message",
        [
            (
                "operation,ms\nfixed,1\n",
                "its first line names operation, ms, expected code,latency_ms or operation,lat",
            ),
            (
                OPERATIONS.replace("fixed", "stem"),
                "line 2: toy has no operation 'stem'; it has fixed, 0/identity, 0/mb",
            ),
            (OPERATIONS.replace("0/mb3_k3,a,2,", ""), r"the latency table of toy misses 0/mb3_k3 \(1 of 6 rows\)"),
            (OPERATIONS.replace("fixed,b", "fixed,a"), "line 3: fixed is there twice with round a"),
            (OPERATIONS.replace(",5,\n", ",-5,\n"), "line 6: latency_ms is '-5', expected milliseconds"),
            ("code,latency_ms\n0-0,0\n", "line 2: latency_ms is '0', expected milliseconds, a number above 0"),
            ("code,latency_ms\n0-3,1\n", "line 2: "),
            ("", "its first line names nothing"),
        ],
    )
    def test_what_is_none(self, tmp_path, text, message):
        (tmp_path / "mine.csv").write_text(text, encoding="utf-8")
        refuses(message, latency_files.read_latencies, tmp_path / "mine.csv", SPACE)
