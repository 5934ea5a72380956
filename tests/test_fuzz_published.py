"""What others publish, spoilt: shards of image sets and the files that the converters read."""

import shutil

import numpy as np
import pytest
from fuzzing import fuzz, judge, same, spoil_bytes, spoil_folder
from test_converters import RECORDS, archive, convert, convert_nats, framed  # noqa: F401 (a fixture)
from test_datasets import write_tfds

from jaxnas import datasets, tables
from jaxnas.spaces import nasbench101, nasbench201


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


@pytest.fixture(scope="module")
def image_set(folder):
    write_tfds(folder / "whole")
    return folder / "whole", datasets.load("tiny", num_valid=9, data_dir=folder / "whole")


@fuzz(8)
def test_shards(image_set, folder, rng):
    """The same images, or one line: each record carries checksums."""
    whole, data = image_set
    spoilt = folder / "spoilt"
    shutil.rmtree(spoilt, ignore_errors=True)
    shutil.copytree(whole, spoilt)
    spoil_folder(rng, spoilt)
    judge("shards", lambda: datasets.load("tiny", num_valid=9, data_dir=spoilt), lambda found: same(found, data))


def is_of_figures(table, space) -> bool:
    """What nobody can tell from another publication: codes of the space, fractions, numbers."""
    fractions = [table.columns[name] for name, unit in table.units.items() if unit == "fraction"]
    inside = not any((column < 0).any() or (column > 1).any() or np.isinf(column).any() for column in fractions)
    return inside and table.archs.shape[1] == space.num_choices and space.is_valid(table.archs).all()


@fuzz(8)
def test_nasbench101(folder, rng):
    path, out = folder / "made.tfrecord", folder / "out101"
    shutil.rmtree(out, ignore_errors=True)
    path.write_bytes(spoil_bytes(rng, framed(RECORDS)))

    def call():
        return tables.read_table(convert(path, out), nasbench101)

    judge("nasbench101's records", call, lambda table: is_of_figures(table, nasbench101))


@fuzz(8)
def test_nats_bench(archive, folder, rng):  # noqa: F811
    spoilt, out = folder / "nats", folder / "outnats"
    for path in (spoilt, out):
        shutil.rmtree(path, ignore_errors=True)
    shutil.copytree(archive, spoilt)
    spoil_folder(rng, spoilt)

    def call():
        return [tables.read_table(path, nasbench201) for path in convert_nats(spoilt, out)]

    judge("nats-bench's pickles", call, lambda found: all(is_of_figures(table, nasbench201) for table in found))
