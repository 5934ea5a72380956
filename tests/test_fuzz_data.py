"""As `test_fuzz`, for what others made and published, for images and labels, and for arrays of figures."""

import bz2
import io
import json
import pickle
import shutil

import numpy as np
import pytest
import test_converters as made
import test_datasets
from fuzzing import fuzz, judge, same, spoil_array, spoil_bytes, spoil_folder, spoil_json
from PIL import Image

from jaxnas import datasets, files, tables
from jaxnas.codes import enumerate_archs
from jaxnas.costs import latency
from jaxnas.datasets import images, loading, sources
from jaxnas.space import ChainLayout
from jaxnas.spaces import chain_space, nasbench101, nasbench201
from jaxnas.tables import plain_pickle

SPACE = chain_space("two", ChainLayout(2, (2, 2), (1, 1), 0), [("identity", "nor_conv_1x1")] * 2)
ARCHS = enumerate_archs(SPACE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


def in_range(table: tables.Table) -> bool:
    """Whether every figure is what its unit allows, or missing."""
    for name, unit in table.units.items():
        column = table.columns[name][~np.isnan(table.columns[name])]
        if unit in ("fraction", "count", "ms", "s") and not ((column >= 0).all() and np.isfinite(column).all()):
            return False
        if unit == "fraction" and not (column <= 1).all():
            return False
    return True


# Archives and JSON


@fuzz(20)
def test_arrays_of_an_archive(rng):
    arrays = {"a": np.arange(6.0).reshape(2, 3), "b": np.array("text")}
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    judge("arrays", lambda: files.decode_arrays(spoil_bytes(rng, file.getvalue())), lambda found: same(found, arrays))


# The converters


def convert_records(folder, contents):
    path, out = folder / "made.tfrecord", folder / "out101"
    shutil.rmtree(out, ignore_errors=True)
    path.write_bytes(contents)
    return tables.read_table(made.convert(path, out, batch_size=100), nasbench101)


@fuzz(12)
def test_bytes_of_nasbench101(folder, rng):
    whole = made.framed(made.RECORDS)
    before = convert_records(folder, whole)
    is_right = lambda found: in_range(found) and set(found.columns) == set(before.columns)  # noqa: E731
    judge("nasbench101: bytes", lambda: convert_records(folder, spoil_bytes(rng, whole)), is_right)


@fuzz(25)
def test_records_of_nasbench101(folder, rng):
    """Records with right checksums, of wrong content: JSON, or the protobuf message in it."""
    records = list(made.RECORDS)
    place = rng.randrange(len(records))
    content = json.loads(records[place])
    if rng.random() < 0.5:
        content = spoil_json(rng, content)
    else:
        message = made.base64.b64decode(content[-1])
        content[-1] = made.base64.b64encode(spoil_bytes(rng, message)).decode()
    records[place] = json.dumps(content).encode()
    judge("nasbench101: records", lambda: convert_records(folder, made.framed(records)), in_range)


@pytest.fixture(scope="module")
def archive(folder):
    """The folder of a small NATS-Bench archive."""
    whole = folder / "NATS-tss-v1_0-3ffb9-simple"
    whole.mkdir()
    made.save(whole / "meta.pickle.pbz2", {"meta_archs": made.TEXTS, "total_archs": 2})
    for index in range(2):
        made.save(whole / f"{index:06d}.pickle.pbz2", made.arch_file(index))
    return whole


def convert_archive(folder, copy):
    out = folder / "nats"
    shutil.rmtree(out, ignore_errors=True)
    return [tables.read_table(path, nasbench201) for path in made.convert_nats(copy, out)]


@pytest.mark.parametrize("how", ["files", "content", "program"])
@fuzz(12)
def test_nats_bench(archive, folder, how, rng):
    """Other files; other numbers, texts and lists in them; or another program that makes them."""
    copy = folder / "copy"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(archive, copy)
    name = rng.choice(["meta", "000000", "000001"])
    path = copy / f"{name}.pickle.pbz2"
    value = plain_pickle.read_pickle(path, plain_pickle.sha256_of(path))
    if how == "files":
        spoil_folder(rng, copy)
    elif how == "content":
        path.write_bytes(bz2.compress(pickle.dumps(spoil_json(rng, value), protocol=4)))
    else:
        program = pickle.dumps(value, protocol=rng.choice([3, 4]))
        path.write_bytes(bz2.compress(spoil_bytes(rng, program)))
    judge(f"nats_bench: {how}", lambda: convert_archive(folder, copy), lambda found: all(map(in_range, found)))


# Images and labels


@pytest.fixture(scope="module")
def prepared(folder):
    """A folder with a small TFDS set, and what is loaded of it."""
    test_datasets.write_tfds(folder / "prepared", labels=[0, 1, 2])
    return folder / "prepared", datasets.load("tiny", num_valid=9, data_dir=folder / "prepared")


@pytest.mark.parametrize("how", ["files", "json"])
@fuzz(12)
def test_a_prepared_set(prepared, folder, how, rng):
    whole, before = prepared
    copy = folder / "tfds_copy"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(whole, copy)
    if how == "files":
        spoil_folder(rng, copy)
    else:
        path = rng.choice(sorted(copy.rglob("*.json")))
        path.write_text(json.dumps(spoil_json(rng, json.loads(path.read_text()))))

    def is_right(found):
        """The same images and labels; the number of classes is what the files say it is, if it fits the labels."""
        return same(found._replace(num_classes=3), before) and found.num_classes >= 3

    judge(f"prepared set: {how}", lambda: datasets.load("tiny", num_valid=9, data_dir=copy), is_right)


@fuzz(40)
def test_pictures(rng):
    """Of wrong bytes, kind, size, depth or colours, against what the set declares."""
    height = [rng.choice([6, 6, None, 5]) for _ in range(2)]
    channels = rng.choice([1, 3, None])
    pixels = np.random.default_rng(rng.randrange(10)).integers(0, 256, (6, 6, 3), np.uint8)
    picture = Image.fromarray(pixels).convert(rng.choice(["L", "RGB", "RGB", "P", "1", "CMYK", "I;16", "F", "RGBA"]))
    file = io.BytesIO()
    try:
        picture.save(file, rng.choice(["PNG", "JPEG", "BMP", "GIF", "TIFF"]))
    except (OSError, ValueError):
        return  # no such picture in this format
    encoded = spoil_bytes(rng, file.getvalue()) if rng.random() < 0.5 else file.getvalue()
    split = sources.Split(np.zeros(1, np.int64), lambda place: images.decode(encoded, (*height, channels)))

    def is_right(found):
        return found.dtype == np.uint8 and found.shape == (1, 4, 4, 1 if channels == 1 else 3)

    judge("pictures", lambda: loading._decoded("tiny", "train", split, np.zeros(1, int), 4), is_right)


@fuzz(25)
def test_images_and_labels(rng):
    pixels, labels = np.zeros((4, 4, 3), np.uint8), np.array([0, 1, 2, 0, 1])
    spoilt = spoil_array(rng, pixels)
    judge("resize", lambda: datasets.resize(spoilt, 2), lambda found: found.shape[:2] == (2, 2))
    judge("statistics", lambda: datasets.channel_statistics(spoilt), lambda found: np.isfinite(found).all())
    order = spoil_array(rng, labels)
    judge("order", lambda: datasets.stratified_order(order, 0), lambda found: sorted(found) == list(range(len(order))))


# Arrays of figures


@fuzz(40)
def test_what_a_table_is_made_of(rng):
    given = {
        "archs": ARCHS,
        "accuracy": np.random.default_rng(0).random((4, 2)),
        "units": {"test_accuracy": "fraction"},
        "provenance": {"source": "by lot"},
    }
    name = rng.choice(list(given))
    given[name] = (spoil_array if name in ("archs", "accuracy") else spoil_json)(rng, given[name])

    def judged():
        columns = {"test_accuracy": given["accuracy"]}
        table = tables.make_table(SPACE, given["archs"], columns, units=given["units"], provenance=given["provenance"])
        return table, tables.make_judge(table).outcome(table.archs)

    judge(f"table: {name}", judged, lambda found: in_range(found[0]) and found[1] in ARCHS)


@fuzz(40)
def test_arrays_of_latencies(rng):
    rng_of_figures = np.random.default_rng(0)
    given = {"per_op_ms": rng_of_figures.random((2, 2, 3)), "fixed_ms": rng_of_figures.random(3)}
    name = rng.choice(list(given))
    odd = rng.choice([{}, {}, {"device": ""}, {"batch_size": rng.choice([0, -1, 1.5, None])}, {"dtype": "int8"}])
    setting = latency.Setting(device="cpu", batch_size=2, dtype="float32")._replace(**odd)

    def costs():
        spoilt = given if odd else given | {name: spoil_array(rng, given[name])}
        table = latency.operations_table(SPACE, **spoilt, setting=setting, provenance={})
        return latency.operation_costs(SPACE, table), latency.setting_of(table)

    judge("latencies", costs, lambda found: (found[0].per_op >= 0).all() and found[1] == setting)
    predicted, measured = np.array([1.0, 2, 3, 4]), np.array([2.0, 3, 5, 6])
    pair = [predicted, spoil_array(rng, measured)] if rng.random() < 0.5 else [spoil_array(rng, predicted), measured]
    judge("calibration", lambda: latency.calibrate(*pair), lambda found: found.scale > 0 and np.isfinite(found).all())
    judge("agreement", lambda: latency.agreement(*pair), lambda found: found.median_relative_error >= 0)
