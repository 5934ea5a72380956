"""Tables: round trips, every kind of damage, look-ups against a dict, and the published files' known figures."""

import errno
import importlib.resources
import json
import os
import shutil
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from jaxnas import tables
from jaxnas.codes import enumerate_archs, from_text
from jaxnas.files import seal_arrays
from jaxnas.space import ChainLayout, SearchSpace
from jaxnas.spaces import SPACES
from jaxnas.tables.format import RANGES

LAYOUT = ChainLayout(stem_width=4, widths=(4, 4, 4), strides=(1, 1, 1), head_width=0)
SPACE = SearchSpace("toy", (("a", "b", "c"), ("a", "b"), ("a", "b", "c", "d")), LAYOUT)
ARCHS = enumerate_archs(SPACE)
MACRO, NB201 = SPACES["nasbench_macro"], SPACES["nasbench201"]


def small_table(**changes):
    arguments = {
        "space": SPACE,
        "archs": ARCHS[[5, 0, 7]],
        "columns": {"test_accuracy": np.array([[0.5, 0.25], [0.75, np.nan], [0.0, 1.0]]), "macs": np.array([3, 1, 2])},
        "units": {"test_accuracy": "fraction", "macs": "count"},
        "provenance": {"command": "by hand", "seeds": "0, 1"},
    }
    arguments |= changes
    return tables.make_table(arguments.pop("space"), arguments.pop("archs"), arguments.pop("columns"), **arguments)


def assert_equal(first, second):
    assert (first.space, first.fingerprint, first.units, first.provenance) == (
        second.space,
        second.fingerprint,
        second.units,
        second.provenance,
    )
    assert list(first.columns) == list(second.columns)
    for left, right in zip((first.archs, *first.columns.values()), (second.archs, *second.columns.values())):
        assert left.dtype == right.dtype
        np.testing.assert_array_equal(left, right)


def refuses(message, function, *args, **kwargs):
    with pytest.raises(ValueError, match=message) as caught:
        function(*args, **kwargs)
    assert "\n" not in str(caught.value)


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "table.npz"
    tables.write_table(path, small_table())
    return path


@st.composite
def random_tables(draw):
    archs = draw(st.lists(st.sampled_from(range(len(ARCHS))), min_size=1, unique=True))
    column = st.sampled_from([np.float32, np.float64, np.int16, np.int64, np.bool_]).flatmap(
        lambda dtype: st.sampled_from([(len(archs),), (len(archs), 1), (len(archs), 3)]).flatmap(
            lambda shape: hnp.arrays(dtype, shape)
        )
    )
    names = st.from_regex(r"[a-z][a-z0-9_]{0,5}", fullmatch=True).filter(lambda name: name not in ("archs", "meta"))
    columns = draw(st.dictionaries(names, column, max_size=3))
    return small_table(
        archs=ARCHS[archs],
        columns=columns,
        units={name: draw(st.text(max_size=3).filter(lambda unit: unit not in RANGES)) for name in columns},
        provenance=draw(st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=2)),
    )


@settings(max_examples=40, deadline=None)
@given(table=random_tables())
def test_what_is_written_is_read_and_writes_the_same_bytes(table, tmp_path_factory):
    folder = tmp_path_factory.mktemp("round_trip")
    tables.write_table(folder / "a.npz", table)
    read = tables.read_table(folder / "a.npz", SPACE)
    assert_equal(read, table)
    tables.write_table(folder / "b.npz", read)
    assert (folder / "a.npz").read_bytes() == (folder / "b.npz").read_bytes()


def test_numpy_alone_reads_a_file(path):
    with np.load(path, allow_pickle=False) as file:
        assert file["macs"].tolist() == [3, 1, 2] and file["archs"].tolist() == ARCHS[[5, 0, 7]].tolist()
        assert json.loads(str(file["meta"]))["provenance"] == {"command": "by hand", "seeds": "0, 1"}


def test_a_file_carries_no_time(path):
    with zipfile.ZipFile(path) as archive:
        assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def test_big_endian_columns_give_the_same_file(tmp_path, path):
    table = small_table()
    swapped = {name: column.astype(column.dtype.newbyteorder(">")) for name, column in table.columns.items()}
    tables.write_table(tmp_path / "swapped.npz", table._replace(columns=swapped))
    assert (tmp_path / "swapped.npz").read_bytes() == path.read_bytes()


def test_a_large_table_is_small(tmp_path):
    space = SPACES["nasbench_macro"]
    archs = enumerate_archs(space)
    accuracy = np.random.default_rng(0).integers(8000, 9500, len(archs)).astype(np.float32) / 10_000
    table = tables.make_table(
        space, archs, {"test_accuracy": accuracy}, units={"test_accuracy": "fraction"}, provenance={}
    )
    tables.write_table(tmp_path / "large.npz", table)
    assert (tmp_path / "large.npz").stat().st_size < 40_000  # 26 KB of accuracies; the codes alone are 210 KB


class TestRefusals:
    def test_truncated_anywhere(self, path):
        data = path.read_bytes()
        for length in range(len(data)):
            path.write_bytes(data[:length])
            refuses("table.npz: truncated, damaged or no table", tables.read_table, path, SPACE)

    def test_one_byte_flipped_anywhere(self, path):
        data, table = path.read_bytes(), tables.read_table(path, SPACE)
        num_refused = 0
        for position in range(len(data)):
            path.write_bytes(data[:position] + bytes([data[position] ^ 0xFF]) + data[position + 1 :])
            try:
                read = tables.read_table(path, SPACE)
            except ValueError as error:
                assert str(error).startswith(str(path)) and "\n" not in str(error)
                num_refused += 1
            else:
                assert_equal(read, table)  # dates and attributes of the zip: nothing that we read
        assert num_refused > 0.8 * len(data)

    def test_content_changed_with_all_zip_checks_right(self, path):
        with np.load(path) as file:
            arrays = dict(file)
        for name, change in {
            "macs": arrays["macs"] + 1,
            "archs": arrays["archs"][::-1],
            "meta": np.array(str(arrays["meta"]).replace("by hand", "by foot")),
            "new": np.zeros(3),
        }.items():
            np.savez(path, **(arrays | {name: change}))
            refuses("checksum does not fit", tables.read_table, path, SPACE)
        np.savez(path, **{name: array for name, array in arrays.items() if name != "macs"})
        refuses("checksum does not fit", tables.read_table, path, SPACE)

    @pytest.mark.parametrize("meta", ["[]", "{}", "no json", '{"checksum": "", "format": 1}'])
    def test_no_table_of_ours(self, path, meta):
        np.savez(path, archs=ARCHS, meta=np.array(meta))
        refuses("no table of jaxnas", tables.read_table, path, SPACE)
        np.savez(path, archs=ARCHS)
        refuses("no table of jaxnas", tables.read_table, path, SPACE)
        with open(path, "wb") as file:
            np.save(file, ARCHS)
        refuses("no table of jaxnas", tables.read_table, path, SPACE)

    def test_pickled_arrays_are_not_loaded(self, path):
        np.savez(path, archs=np.array([{}], dtype=object), meta=np.array("{}"))
        refuses("no table of jaxnas", tables.read_table, path, SPACE)

    @pytest.mark.parametrize(
        ("name", "unit", "value", "expected"),
        [
            ("test_accuracy", "fraction", 93.1, "at least 0 and at most 1, or NaN"),
            ("test_accuracy", "fraction", -0.1, "at least 0 and at most 1"),
            ("test_accuracy", "fraction", np.inf, "at least 0 and at most 1"),
            ("macs", "count", -1.0, "at least 0, or NaN"),
            ("macs", "s", -np.inf, "at least 0"),
            ("macs", "ms", np.inf, "at least 0"),
        ],
    )
    def test_figures_that_their_unit_does_not_allow(self, name, unit, value, expected):
        columns = {"test_accuracy": np.full((3, 2), 0.5), "macs": np.array([1.0, np.nan, 2.0])}
        columns[name][2] = value
        units = {"test_accuracy": "fraction", "macs": "count"} | {name: unit}
        message = rf"column '{name}' in the unit {unit} has {value} for architecture \[0, 1, 3\], expected {expected}"
        refuses(message, small_table, columns=columns, units=units)
        units[name] = "nats"  # a loss may be anything
        small_table(columns=columns, units=units)

    def test_meta_that_is_none(self, path):
        with np.load(path) as file:
            arrays = {name: file[name] for name in file.files if name != "meta"}
        about = {"format": 1, "space": "toy", "fingerprint": SPACE.fingerprint, "units": {}, "provenance": {}}
        for change, message in (
            ({"units": [1]}, r"table.npz: toy: units of a table are \[1\]"),
            ({"provenance": 5}, "provenance of a table are 5"),
            ({"space": None}, "a table of space None, expected 'toy'"),
            ({"format": [1]}, r"table format \[1\], but"),
        ):
            path.write_bytes(seal_arrays(about | change, arrays))
            refuses(message, tables.read_table, path, SPACE)
        np.savez(path, archs=ARCHS, meta=np.array("[" * 10**5))
        refuses("no table of jaxnas .JSON that is nested too deeply", tables.read_table, path, SPACE)

    def test_another_version_of_the_format(self, path, monkeypatch):
        monkeypatch.setattr(tables.format, "FORMAT", 2)
        refuses("table format 1, but .* reads format 2", tables.read_table, path, SPACE)

    def test_another_space(self, path):
        refuses("a table of space 'toy', expected 'nasbench201'", tables.read_table, path, NB201)

    def test_a_space_whose_operations_have_changed(self, path):
        changed = SearchSpace("toy", (("a", "b", "c"), ("a", "b"), ("a", "b", "c", "new")), LAYOUT)
        refuses("made for other operations of toy", tables.read_table, path, changed)

    def test_the_same_space_on_another_network(self, path):
        assert_equal(tables.read_table(path, SPACE.resized(width=8)), small_table())

    def test_codes_out_of_range(self, path):
        table = small_table()
        table.archs[1, 2] = 4
        tables.write_table(path, table)
        refuses(
            r"table.npz: toy: code 4 at index 2 of architecture 1 is outside \[0, 4\)", tables.read_table, path, SPACE
        )

    @pytest.mark.parametrize(
        "changes, message",
        [
            ({"archs": ARCHS[[5, 0, 5]]}, r"architecture 0, \[0, 1, 1\], is in the table more than once"),
            ({"units": None}, "toy: units of a table are None, expected an object of texts"),
            ({"units": {"test_accuracy": "fraction", "macs": 3}}, "units of a table are .*'macs': 3"),
            ({"provenance": ["by hand"]}, r"provenance of a table are \['by hand'\], expected an object of texts"),
            ({"archs": ARCHS[:2]}, r"column 'test_accuracy' has shape \(3, 2\), expected \[2\]"),
            ({"archs": ARCHS[:0]}, "population is empty"),
            ({"columns": {"macs": np.zeros(3)}}, r"units are for columns \['macs', 'test_accuracy'\]"),
            ({"units": {}}, r"units are for columns \[\], but"),
            ({"columns": {"x": np.zeros((3, 1, 1))}, "units": {"x": "s"}}, "has shape"),
            ({"columns": {"x": np.float64(1)}, "units": {"x": "s"}}, "has shape"),
            ({"columns": {"x": np.array(["1", "2", "3"])}, "units": {"x": "s"}}, "expected real numbers"),
            ({"columns": {"x": np.array([None] * 3)}, "units": {"x": "s"}}, "expected real numbers"),
            ({"columns": {"archs": np.zeros(3)}, "units": {"archs": "s"}}, "column 'archs'"),
            ({"columns": {"a/b": np.zeros(3)}, "units": {"a/b": "s"}}, "lower-case letters"),
        ],
    )
    def test_tables_that_are_not_well_formed(self, changes, message):
        refuses(message, small_table, **changes)

    def test_write_table_checks_too(self, path):
        before = path.read_bytes()
        table = small_table()
        refuses("more than once", tables.write_table, path, table._replace(archs=table.archs[[0, 0, 1]]))
        refuses("expected int32", tables.write_table, path, table._replace(archs=table.archs.astype(np.int64)))
        refuses("units are for", tables.write_table, path, table._replace(units={}))
        assert path.read_bytes() == before


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_write_that_fails_leaves_the_old_file(path, monkeypatch, step):
    def disk_is_full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    before = path.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(os, step, disk_is_full)
        with pytest.raises(OSError, match="No space left"):
            tables.write_table(path, small_table(provenance={}))
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == ["table.npz"]
    tables.write_table(path, small_table(provenance={}))
    assert path.read_bytes() != before


class TestLookup:
    @settings(max_examples=50, deadline=None)
    @given(table=random_tables(), seed=st.integers(0, 2**32))
    def test_agrees_with_a_dict(self, table, seed):
        wanted = table.archs[np.random.default_rng(seed).integers(0, len(table.archs), 7)]
        for name, column in table.columns.items():
            figures = {tuple(arch): figure for arch, figure in zip(table.archs, column)}
            found = tables.lookup(table, wanted, name)
            assert found.dtype == column.dtype
            np.testing.assert_array_equal(found, [figures[tuple(arch)] for arch in wanted])

    def test_no_architectures_give_no_figures(self):
        assert tables.lookup(small_table(), ARCHS[:0], "test_accuracy").shape == (0, 2)

    def test_the_first_missing_architecture_is_named(self):
        refuses(r"lacks architecture 1, \[0, 0, 1\]", tables.lookup, small_table(), ARCHS[[0, 1, 2]], "macs")

    def test_bad_requests(self):
        table = small_table()
        refuses("no column 'flops'; it has test_accuracy, macs", tables.lookup, table, ARCHS[:1], "flops")
        refuses(r"archs are int32 \(3,\), expected integers \[num_archs, 3\]", tables.lookup, table, ARCHS[0], "macs")
        refuses("archs are float64", tables.lookup, table, ARCHS[:1].astype(float), "macs")


@pytest.fixture(scope="module")
def macro(data_dir):
    return tables.load_truth(MACRO, "cifar10", data_dir=data_dir)


@pytest.fixture(scope="module")
def nb201(data_dir):
    return tables.load_truth(NB201, "cifar10", data_dir=data_dir)


class TestPublished:
    def test_macro_best_chain(self, macro):
        mean = macro.columns["test_accuracy"].mean(axis=1)
        assert macro.archs.shape == (6561, 8) and macro.columns["test_accuracy"].shape == (6561, 3)
        assert macro.archs[mean.argmax()].tolist() == [2, 2, 2, 1, 2, 2, 0, 2]
        assert mean.max() == pytest.approx(0.93127, abs=5e-6)

    def test_macro_rows_are_those_of_the_file(self, macro, data_dir):
        records = json.loads((data_dir / "nas-bench-macro_cifar10.json").read_text())
        archs = from_text(MACRO, records)
        for column, field in (("params", "params"), ("macs", "flops")):
            expected = [record[field] for record in records.values()]
            np.testing.assert_array_equal(tables.lookup(macro, archs, column), expected)
        accuracy = tables.lookup(macro, archs, "test_accuracy")
        np.testing.assert_allclose(
            accuracy.mean(1) * 100, [record["mean_acc"] for record in records.values()], rtol=1e-6
        )
        np.testing.assert_allclose(accuracy.std(1) * 100, [record["std"] for record in records.values()], atol=1e-6)

    def test_nasbench201_known_cells(self, nb201):
        accuracy = nb201.columns["test_accuracy"]
        assert accuracy.argmax() == 6111 and accuracy.max() == pytest.approx(0.943733, abs=5e-7)
        # |avg_pool_3x3~0|+|nor_conv_1x1~0|skip_connect~1|+|nor_conv_1x1~0|skip_connect~1|skip_connect~2|
        assert nb201.archs[0].tolist() == [4, 2, 1, 2, 1, 1]
        assert (nb201.columns["macs"][0], nb201.columns["params"][0]) == (15_647_360, 129_306)
        assert nb201.columns["index"].tolist() == list(range(15625))
        assert len(nb201.archs) == NB201.size

    def test_nasbench201_seeds(self, nb201):
        seeds, mean = nb201.columns["valid_accuracy_seeds"], nb201.columns["valid_accuracy"]
        assert np.isnan(seeds).sum() == 7456 and not np.isnan(seeds[:, :2]).any()
        np.testing.assert_allclose(np.nanmean(seeds, axis=1), mean, atol=1e-6)

    def test_every_accuracy_is_a_fraction(self, macro, nb201):
        for table in (macro, nb201):
            assert set(table.units) == set(table.columns) and table.units["test_accuracy"] == "fraction"
            for name, unit in table.units.items():
                if unit == "fraction":
                    assert np.nanmin(table.columns[name]) >= 0 and 0.7 < np.nanmax(table.columns[name]) <= 1
            assert table.provenance["source"].endswith(("xiusu/NAS-Bench-Macro", "D-X-Y/NAS-Bench-201"))

    def test_operations_are_matched_by_name(self, macro, nb201, data_dir):
        for space, table, read, file_name in (
            (MACRO, macro, tables.read_nasbench_macro, "nas-bench-macro_cifar10.json"),
            (NB201, nb201, tables.read_nasbench201, "nasbench201_cifar10.npz"),
        ):
            reverse = SearchSpace("reverse", tuple(names[::-1] for names in space.op_names), space.layout)
            reversed_table = read(data_dir / file_name, reverse)
            num_ops = len(space.op_names[0])
            np.testing.assert_array_equal(
                tables.lookup(reversed_table, num_ops - 1 - table.archs, "test_accuracy"),
                table.columns["test_accuracy"],
            )
            refuses("the published table has", read, data_dir / file_name, SPACE)

    @pytest.mark.parametrize(
        "space, file_name, read",
        [
            (MACRO, "nas-bench-macro_cifar10.json", tables.read_nasbench_macro),
            (NB201, "nasbench201_cifar10.npz", tables.read_nasbench201),
        ],
    )
    def test_only_the_published_bytes_are_read(self, tmp_path, data_dir, space, file_name, read):
        data = (data_dir / file_name).read_bytes()
        path = tmp_path / file_name
        for wrong in (b"", data[:1000], data[:-1], data + b"\n", data[:500] + bytes([data[500] ^ 1]) + data[501:]):
            path.write_bytes(wrong)
            refuses("not the published file or not all of it", read, path, space)
            refuses("take it again from", tables.load_truth, space, "cifar10", data_dir=tmp_path)


class TestLoadTruth:
    def test_a_table_of_ones_own(self, tmp_path, monkeypatch):
        monkeypatch.setenv("JAXNAS_DATA", str(tmp_path))
        tables.write_table(tmp_path / "toy_imagenet_resized-16x16.npz", small_table())
        assert_equal(tables.load_truth(SPACE, "imagenet_resized/16x16"), small_table())
        refuses(
            "no table of stand-alone", tables.load_truth, SPACE, "imagenet_resized/16x16", data_dir=tmp_path / "other"
        )

    def test_test_accuracy_must_be_there_as_a_fraction(self, tmp_path):
        for columns, units in (({}, {}), ({"test_accuracy": np.full(3, 90.0)}, {"test_accuracy": "percent"})):
            tables.write_table(tmp_path / "toy_mnist.npz", small_table(columns=columns, units=units))
            refuses("needs the column test_accuracy", tables.load_truth, SPACE, "mnist", data_dir=tmp_path)

    def test_what_is_not_there_says_where_to_get_it(self, tmp_path, monkeypatch):
        monkeypatch.delenv("JAXNAS_DATA", raising=False)
        brings, makes = f"jaxnas data get {{}} --data-dir {tmp_path}$", f"build_table .* --workdir {tmp_path}$"
        refuses("JAXNAS_DATA.* jaxnas data get nasbench_macro --data-dir DIR$", tables.load_truth, MACRO, "cifar10")
        refuses(brings.format("nasbench_macro"), tables.load_truth, MACRO, "cifar10", data_dir=tmp_path)
        refuses(brings.format("nats_bench"), tables.load_truth, NB201, "cifar10", data_dir=tmp_path)
        message = f"neither nasbench201_mnist.npz nor nasbench201_mnist.csv.*{makes}"
        refuses(message, tables.load_truth, NB201, "mnist", data_dir=tmp_path)

    def test_a_missing_table_is_told_from_a_damaged_one(self, tmp_path, monkeypatch):
        """Who can do without one, as PC-NAS that retrains, must not take a damaged one for none."""
        monkeypatch.delenv("JAXNAS_DATA", raising=False)
        for folder in (None, tmp_path):
            with pytest.raises(tables.MissingTable):
                tables.load_truth(SPACE, "mnist", data_dir=folder)
        (tmp_path / "toy_mnist.npz").write_bytes(b"")
        with pytest.raises(ValueError, match="damaged") as error:
            tables.load_truth(SPACE, "mnist", data_dir=tmp_path)
        assert not isinstance(error.value, tables.MissingTable)

    def test_the_embedded_table(self, tmp_path, monkeypatch):
        digits = SPACES["digits_chain"]
        monkeypatch.setattr(importlib.resources, "files", lambda _: tmp_path)
        refuses("digits_chain.npz is missing.*jaxnas build_table", tables.load_truth, digits, "digits")
        archs = enumerate_archs(digits)
        accuracy = {"test_accuracy": np.linspace(0, 1, len(archs))}
        table = tables.make_table(digits, archs, accuracy, units={"test_accuracy": "fraction"}, provenance={})
        tables.write_table(tmp_path / "digits_chain.npz", table)
        assert_equal(tables.load_truth(digits, "digits"), table)
        shutil.move(tmp_path / "digits_chain.npz", tmp_path / "nasbench201_digits.npz")
        refuses(
            "a table of space 'digits_chain', expected 'nasbench201'",
            tables.load_truth,
            NB201,
            "digits",
            data_dir=tmp_path,
        )
