"""Converters, on files of the official formats written here: by the protobuf package, a bitwise CRC, pickle."""

import base64
import bz2
import collections
import hashlib
import io
import json
import pickle
import struct

import numpy as np
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from jaxnas import tables
from jaxnas.spaces import SPACES, nasbench101, nasbench201
from jaxnas.spaces._nasbench101 import graph_hash
from jaxnas.tables import nasbench101 as converter
from jaxnas.tables import parts, tfrecord

V5 = SPACES["nasbench101_v5"]
CONV3, CONV1, POOL = "conv3x3-bn-relu", "conv1x1-bn-relu", "maxpool3x3"


def refuses(message, function, *args, **kwargs):
    with pytest.raises(ValueError, match=message) as error:
        function(*args, **kwargs)
    assert "\n" not in str(error.value)


# CRC and protobuf


def crc_bit_by_bit(message: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in message:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def masked(message: bytes) -> int:
    crc = crc_bit_by_bit(message)
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) % 2**32


def test_crc32c_of_rfc_3720():
    messages = [bytes(32), b"\xff" * 32, bytes(range(32)), b"123456789", b""]
    assert tfrecord.crc32c(messages).tolist() == [0x8A9136AA, 0x62A8AB43, 0x46DD794E, 0xE3069283, 0]
    random = np.random.default_rng(0)
    messages = [random.bytes(length) for length in (0, 1, 7, 300, 8)]
    assert tfrecord.masked_crc32c(messages).tolist() == list(map(masked, messages))


def metrics_class():
    """The message classes of model_metrics.proto, as the protobuf package makes them."""
    file = descriptor_pb2.FileDescriptorProto(name="model_metrics.proto", package="nasbench", syntax="proto2")
    field = descriptor_pb2.FieldDescriptorProto
    evaluation = file.message_type.add(name="EvaluationData")
    names = ("current_epoch", "training_time", "train_accuracy", "validation_accuracy", "test_accuracy")
    for number, name in enumerate(names, 1):
        evaluation.field.add(name=name, number=number, type=field.TYPE_DOUBLE, label=field.LABEL_OPTIONAL)
    evaluation.field.add(name="checkpoint_path", number=6, type=field.TYPE_STRING, label=field.LABEL_OPTIONAL)
    metrics = file.message_type.add(name="ModelMetrics")
    metrics.field.add(
        name="evaluation_data",
        number=1,
        type=field.TYPE_MESSAGE,
        type_name=".nasbench.EvaluationData",
        label=field.LABEL_REPEATED,
    )
    metrics.field.add(name="trainable_parameters", number=2, type=field.TYPE_INT32, label=field.LABEL_OPTIONAL)
    metrics.field.add(name="total_time", number=3, type=field.TYPE_DOUBLE, label=field.LABEL_OPTIONAL)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("nasbench.ModelMetrics"))


METRICS = metrics_class()


def metrics(test_accuracy: float, epochs: int, params: int = 8_555_530) -> bytes:
    """Before, half-way and at the end of a training; the other figures follow from the test accuracy."""
    message = METRICS(trainable_parameters=params, total_time=99.0)
    for share in (0.0, 0.5, 1.0):
        message.evaluation_data.add(
            current_epoch=share * epochs,
            training_time=share * 1000,
            train_accuracy=share,
            validation_accuracy=share * test_accuracy + 0.01,
            test_accuracy=share * test_accuracy,
            checkpoint_path="gs://somewhere/model.ckpt-1",
        )
    return message.SerializeToString()


def varint_metrics(params: int) -> bytes:
    """Metrics with a number of parameters that the schema's int32 doesn't hold."""
    rest, varint = params, bytearray()
    while rest >= 128:
        varint.append(rest % 128 + 128)
        rest //= 128
    return metrics(0.5, 4).replace(b"\x10\x8a\x98\x8a\x04", b"\x10" + bytes([*varint, rest]))


def test_protobuf_fields():
    (first, *_), (number, params), (total, time) = (
        [value for key, value in tfrecord.protobuf_fields(metrics(0.5, 4)) if key == 1],
        *[pair for pair in tfrecord.protobuf_fields(metrics(0.5, 4)) if pair[0] != 1],
    )
    assert (number, params, total, time) == (2, 8_555_530, 3, 99.0)
    assert dict(tfrecord.protobuf_fields(first))[6] == b"gs://somewhere/model.ckpt-1"
    whole = metrics(0.5, 4)
    for cut in range(1, len(whole)):
        fields = []
        try:
            fields = list(tfrecord.protobuf_fields(whole[:cut]))
        except ValueError as error:
            assert "ends within" in str(error)
        assert len(fields) < 5
    for bad in (b"\x0b", b"\xff" * 11, b"\x0a\x05ab"):
        refuses("protobuf", list, tfrecord.protobuf_fields(bad))


# NAS-Bench-101


def record(key: str, epochs: int, edges: str, ops: list[str], message: bytes) -> bytes:
    bits = np.zeros((len(ops) + 2,) * 2, int)
    for edge in edges.split():
        bits[int(edge[0]), int(edge[1])] = 1
    text = "".join(map(str, bits.ravel()))
    return json.dumps(
        [key, epochs, text, ",".join(["input", *ops, "output"]), base64.b64encode(message).decode()]
    ).encode()


def framed(contents) -> bytes:
    def frame(content):
        length = struct.pack("<Q", len(content))
        return length + struct.pack("<I", masked(length)) + content + struct.pack("<I", masked(content))

    return b"".join(map(frame, contents))


# Hash of the first from the published table; the others only have to differ.
CELLS = [
    ("00005c142e6f48ac74fdcf73e3439874", "01 04 05 12 23 26 35 45 56", [CONV3, POOL, CONV3, CONV3, CONV1]),
    ("aa" * 16, "01 12 23", [CONV1, POOL]),
    ("bb" * 16, "01", []),
]
# By cell, epochs and repeat; the file has the runs in this order of epochs, with repeats apart.
ACCURACY = {
    (cell, epochs, repeat): (repeat + 1) / 8 + cell / 32 + epochs / 1024
    for repeat in range(2)
    for epochs in (108, 4)
    for cell in range(3)
}
RECORDS = [
    record(CELLS[cell][0], epochs, CELLS[cell][1], CELLS[cell][2], metrics(accuracy, epochs, params=1000 + cell))
    for (cell, epochs, _), accuracy in ACCURACY.items()
]


@pytest.fixture
def official(tmp_path):
    path = tmp_path / "made.tfrecord"
    path.write_bytes(framed(RECORDS))
    return path


def convert(path, out_dir, space=nasbench101, **options):
    return converter.convert_nasbench101(path, out_dir, space, progress=False, **options)


def check_nasbench101(table, cells, space):
    """`cells` in the order of the table."""
    assert sorted(table.columns) == sorted(
        [
            f"{length}{half}{name}"
            for length in ("", "ep4_")
            for half in ("", "half_")
            for name in converter.MEASURES.values()
        ]
        + ["params"]
    )
    for row, cell in enumerate(cells):
        for repeat in range(2):
            for epochs, prefix in ((108, ""), (4, "ep4_")):
                accuracy = ACCURACY[cell, epochs, repeat]
                got = {
                    name: table.columns[prefix + name][row, repeat] for name in ("test_accuracy", "half_test_accuracy")
                }
                assert got == {"test_accuracy": accuracy, "half_test_accuracy": accuracy / 2}
                assert table.columns[prefix + "valid_accuracy"][row, repeat] == np.float32(accuracy + 0.01)
                assert table.columns[prefix + "half_train_seconds"][row, repeat] == 500
                assert table.columns[prefix + "train_accuracy"][row, repeat] == 1
        assert table.columns["params"][row] == 1000 + cell
    np.testing.assert_array_equal(space.isomorphs(table.archs), table.archs)
    assert table.provenance["repeats"] == "ep4: 0, 1; ep108: 0, 1" and table.provenance["dataset"] == "cifar10"


@pytest.mark.parametrize("batch_size", [1, 5, 100])
def test_nasbench101(official, tmp_path, batch_size):
    out = convert(official, tmp_path / "out", batch_size=batch_size)
    table = tables.load_truth(nasbench101, "cifar10", data_dir=tmp_path / "out")
    assert out.name == "nasbench101_cifar10.npz" and [p.name for p in out.parent.iterdir()] == [out.name]
    check_nasbench101(table, [0, 1, 2], nasbench101)
    assert graph_hash(table.archs[0]) == CELLS[0][0]
    refuses("there is a file already; move it away", convert, official, tmp_path / "out")


def test_a_sub_space_takes_the_cells_that_fit(official, tmp_path):
    table = tables.read_table(convert(official, tmp_path, V5), V5)
    check_nasbench101(table, [1, 2], V5)
    refuses("nasbench201: NAS-Bench-101 has cells whose wiring is searched", convert, official, tmp_path, nasbench201)


def test_every_cut_of_a_tfrecord_ends_in_one_line(official, tmp_path):
    whole = official.read_bytes()
    ends = np.cumsum([len(content) + 16 for content in RECORDS]).tolist()
    for cut in [0, *range(1, 40), *(end + step for end in ends[:3] for step in (-1, 0, 1, 11, 12, 13))]:
        official.write_bytes(whole[:cut])
        if cut in ends:
            assert [len(batch) for _, batch in tfrecord.read_batches(official, 0, 100)] == [ends.index(cut) + 1]
        elif cut:
            refuses(r"cut short, the record at byte \d+ does not end", list, tfrecord.read_batches(official, 0, 100))
    official.write_bytes(b"")
    refuses("no run of a cell of nasbench101 in the file", convert, official, tmp_path / "out")
    official.write_bytes(whole[:-7])
    refuses(f"made.tfrecord: cut short, the record at byte {ends[-2]} ", convert, official, tmp_path / "out2")


def test_every_flipped_byte_of_a_tfrecord_is_seen(official):
    whole, second = official.read_bytes(), len(RECORDS[0]) + 16
    for place in [*range(second, second + 30), second + 200, second + len(RECORDS[1]) + 13]:
        damaged = bytearray(whole)
        damaged[place] ^= 0x10
        official.write_bytes(damaged)
        message = f"damaged, the checksum of the record at byte {second} is wrong"
        refuses(message, list, tfrecord.read_batches(official, 0, 100))
    long = struct.pack("<Q", 2**40)
    official.write_bytes(long + struct.pack("<I", masked(long)))
    refuses("the record at byte 0 has 1099511627776 bytes, more than", list, tfrecord.read_batches(official, 0, 1))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"\x80abc", "no record of NAS-Bench-101"),
        (b'{"a": 1}', "not enough values"),
        (record("zz", 4, "01", [], metrics(0.5, 4)), "non-hexadecimal"),
        (record("aa", 4, "10", [], metrics(0.5, 4)), "an edge that points backwards"),
        (record("aa", 4, "01 12", ["conv5x5"], metrics(0.5, 4)), "unknown operation 'conv5x5'"),
        (record("aa", 4, "01", [], metrics(0.5, 4)[:-5]), "a protobuf message ends within a field"),
        (record("aa", 4, "01", [], METRICS(trainable_parameters=3).SerializeToString()), "metrics with 0 evaluations"),
        (json.dumps(["aa", 4, "010", "input,output", ""]).encode(), "3 bits of adjacency for 2 vertices"),
        (json.dumps(["aa", 4, "0100", "input,output", "*"]).encode(), "no record of NAS-Bench-101"),
        (b"[" * 60_000, "JSON that is nested too deeply"),
        (record("aa", 4, "01", [], metrics(0.5, 4)), "a hash of 1 bytes, expected 16"),
        (record("aa" * 16, 2**31, "01", [], metrics(0.5, 4)), "epochs is 2147483648, expected 1 to 2147483647"),
        (record("aa" * 16, 10**30, "01", [], metrics(0.5, 4)), r"epochs is 10*, expected 1 to"),
        (record("aa" * 16, "4", "01", [], metrics(0.5, 4)), "epochs is '4', expected a whole number"),
        (record("aa" * 16, 4.5, "01", [], metrics(0.5, 4)), "epochs is 4.5, expected a whole number"),
        (
            record("aa" * 16, 4, "01", [], metrics(93.1, 4)),
            "accuracy is 46.5[0-9]*, expected a number, at least 0 and at m",
        ),
        (record("aa" * 16, 4, "01", [], metrics(-0.1, 4)), "accuracy is -0.0"),
        (record("aa" * 16, 4, "01", [], metrics(np.nan, 4)), "valid_accuracy is nan, expected a number"),
        (record("aa" * 16, 4, "01", [], metrics(np.inf, 4)), "valid_accuracy is inf, expected a number"),
        (record("aa" * 16, 4, "01", [], varint_metrics(2**63)), "parameters is 9223372036854775808, expected 0 to"),
    ],
)
def test_a_record_of_another_kind_is_refused(tmp_path, content, reason):
    path = tmp_path / "other.tfrecord"
    path.write_bytes(framed([RECORDS[0], content]))  # its checksums are right
    refuses(reason, convert, path, tmp_path)
    assert not (tmp_path / "nasbench101_cifar10.npz").exists()


def test_one_hash_is_one_cell(tmp_path):
    """The same cell written with other vertices passes, another cell or another number of parameters doesn't."""
    key, chain = "aa" * 16, record("aa" * 16, 4, "01 12 23", [CONV1, POOL], metrics(0.5, 4))
    same = record(key, 4, "01 13 34", [CONV1, CONV3, POOL], metrics(0.5, 4))  # vertex 2 hangs loose
    path = tmp_path / "made.tfrecord"
    path.write_bytes(framed([chain, same]))
    table = tables.read_table(convert(path, tmp_path), nasbench101)
    assert table.columns["test_accuracy"].shape == (1, 2)
    for other in (
        record(key, 4, "01 12 23", [POOL, CONV1], metrics(0.5, 4)),
        record(key, 4, "01", [], metrics(0.5, 4)),
        record(key, 4, "01 12 23", [CONV1, POOL], metrics(0.5, 4, params=3)),
    ):
        path.write_bytes(framed([chain, other]))
        refuses(f"made.tfrecord: runs of the hash {key} are of different cells", convert, path, tmp_path / "other")


def test_an_official_name_needs_the_official_content(official, tmp_path):
    path = official.rename(tmp_path / "nasbench_only108.tfrecord")
    refuses(r"not the official file or not all of it .* take it again from https://", convert, path, tmp_path)
    assert {len(digest) for digest in converter.OFFICIAL.values()} == {64}


# Resuming


def interrupted(monkeypatch, after: int, function, *args, **options):
    """Runs until the given number of parts is written, and is killed in the middle of the next."""
    written, replace_file = [], parts.replace_file

    def replace(path, content):
        if path.suffix == ".npz":
            if len(written) == after:
                path.write_bytes(content[: len(content) // 2])  # worse than a kill, which leaves nothing
                raise KeyboardInterrupt
            written.append(path.name)
        replace_file(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(parts, "replace_file", replace)
        with pytest.raises(KeyboardInterrupt):
            function(*args, **options)
    return written


def test_a_killed_conversion_goes_on(official, tmp_path, monkeypatch):
    expected = convert(official, tmp_path / "whole").read_bytes()
    done = interrupted(monkeypatch, 2, convert, official, tmp_path / "out", batch_size=3)
    assert done == ["000000000000000.npz", f"{sum(len(content) + 16 for content in RECORDS[:3]):015d}.npz"]
    assert not (tmp_path / "out" / "nasbench101_cifar10.npz").exists()

    seen = []
    read = tfrecord.read_batches
    monkeypatch.setattr(
        converter, "read_batches", lambda path, start, size: seen.append(start) or read(path, start, size)
    )
    assert convert(official, tmp_path / "out", batch_size=3).read_bytes() == expected
    assert seen == [sum(len(content) + 16 for content in RECORDS[:6])]


def test_a_part_in_the_place_of_another_is_read_again(official, tmp_path, monkeypatch):
    expected = convert(official, tmp_path / "whole").read_bytes()
    for out, spoil in ((tmp_path / "swapped", swap), (tmp_path / "copied", copy)):
        interrupted(monkeypatch, 2, convert, official, out, batch_size=3)
        spoil(*sorted((out / "nasbench101_cifar10.parts").glob("*.npz"))[:2])
        assert convert(official, out, batch_size=3).read_bytes() == expected


def copy(first, second):
    second.write_bytes(first.read_bytes())


def swap(first, second):
    content = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(content)


def test_parts_of_another_source_are_dropped(official, tmp_path, monkeypatch):
    interrupted(monkeypatch, 1, convert, official, tmp_path / "out", batch_size=3)
    official.write_bytes(framed(RECORDS[::-1]))  # the other order of repeats
    table = tables.read_table(convert(official, tmp_path / "out", batch_size=3), nasbench101)
    assert table.columns["test_accuracy"][0].tolist() == [ACCURACY[0, 108, 1], ACCURACY[0, 108, 0]]


def test_progress_is_shown(official, tmp_path, capsys):
    converter.convert_nasbench101(official, tmp_path, nasbench101, batch_size=3)
    assert "100%" in capsys.readouterr().err


# NATS-Bench

TEXTS = [
    "|avg_pool_3x3~0|+|nor_conv_1x1~0|skip_connect~1|+|nor_conv_1x1~0|skip_connect~1|skip_connect~2|",
    "|none~0|+|nor_conv_3x3~0|none~1|+|nor_conv_1x1~0|avg_pool_3x3~1|skip_connect~2|",
]
CODES = [[4, 2, 1, 2, 1, 1], [0, 3, 0, 2, 4, 1]]
SEEDS = {"12": [777], "200": [777, 888, 999]}


def run_of(name: str, index: int, epochs: int, seed: int) -> dict:
    """What `ResultsCount.state_dict` holds, with the last epoch's figures only, as older runs have them."""
    figure = 10.0 * index + epochs / 100 + seed / 1000
    sets = {"cifar10-valid": ["x-valid", "ori-test"], "cifar10": ["ori-test"]}.get(
        name, ["ori-test", "x-valid", "x-test"]
    )
    last = {f"{evaluated}@{epochs - 1}": figure + place for place, evaluated in enumerate(sets)}
    return {
        "name": name,
        "net_state_dict": None,
        "train_acc1es": collections.OrderedDict({epochs - 1: 99.0}),
        "train_acc5es": None,
        "train_losses": {epochs - 1: 0.01},
        "train_times": collections.OrderedDict({epochs - 1: 1.0}),
        "arch_config": {"channel": 16, "num_cells": 5, "arch_str": TEXTS[index], "class_num": 10},
        "params": np.float64(0.5 + index),  # count_parameters_in_MB returns a NumPy scalar
        "flop": 78.25,
        "seed": seed,
        "epochs": epochs,
        "latency": [0.01],
        "eval_names": sets,
        "eval_acc1es": last,
        "eval_times": dict.fromkeys(last, 1.0),
        "eval_losses": {key: value / 100 for key, value in last.items()},
    }


def arch_file(index: int) -> dict:
    """Seed 999 is missing for the first architecture, and on CIFAR-10 there is a test run of seed 777 only."""
    results = {}
    for length, seeds in SEEDS.items():
        known = [seed for seed in seeds if (index, seed) != (0, 999)]
        dataset_seed = {"cifar10-valid": known, "cifar10": known[:1], "cifar100": known, "ImageNet16-120": known}
        results[length] = {
            "arch_index": index,
            "arch_str": TEXTS[index],
            "all_results": {
                (name, seed): run_of(name, index, int(length), seed)
                for name, own in dataset_seed.items()
                for seed in own
            },
            "dataset_seed": dataset_seed,
            "clear_net_done": True,
        }
    return collections.OrderedDict(results)


def save(path, value):
    path.write_bytes(bz2.compress(pickle.dumps(value, protocol=4)))


@pytest.fixture
def archive(tmp_path):
    folder = tmp_path / "NATS-tss-v1_0-3ffb9-simple"
    folder.mkdir()
    meta = {"meta_archs": TEXTS, "total_archs": 2, "arch2infos": None, "evaluated_indexes": set()}
    save(folder / "meta.pickle.pbz2", meta)
    for index in range(2):
        save(folder / f"{index:06d}.pickle.pbz2", arch_file(index))
    return folder


def convert_nats(folder, out_dir, space=nasbench201, **options):
    out_dir.mkdir(exist_ok=True)
    return tables.convert_nats_bench(folder, out_dir, space, progress=False, **options)


@pytest.mark.parametrize("archs_per_part", [1, 500])
def test_nats_bench(archive, tmp_path, archs_per_part):
    outs = convert_nats(archive, tmp_path / "out", archs_per_part=archs_per_part)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(path.name for path in outs)
    assert [path.name for path in outs] == [
        "nasbench201_cifar10.npz",
        "nasbench201_cifar100.npz",
        "nasbench201_imagenet16-120.npz",
    ]
    for dataset in ("cifar10", "cifar100", "imagenet16-120"):
        table = tables.load_truth(nasbench201, dataset, data_dir=tmp_path / "out")
        assert table.archs.tolist() == CODES and table.columns["index"].tolist() == [0, 1]
        assert table.columns["params"].tolist() == [500_000, 1_500_000]
        assert table.columns["macs"].tolist() == [78_250_000] * 2
        assert table.provenance["seeds"] == "ep12: 777; ep200: 777, 888, 999"
        figures = np.array([[10 * i + 2 + seed / 1000 for seed in SEEDS["200"]] for i in range(2)])
        figures[0, 2] = np.nan
        valid_place, test_place = (0, 0) if dataset == "cifar10" else (1, 2)
        only_777 = np.array([1, np.nan, np.nan]) if dataset == "cifar10" else 1
        expected = {"valid": figures + valid_place, "test": (figures + test_place) * only_777}
        for split, values in expected.items():
            np.testing.assert_allclose(table.columns[f"{split}_accuracy"], values / 100, rtol=1e-6)
            np.testing.assert_allclose(table.columns[f"{split}_loss"], values / 100, rtol=1e-6)
        short = np.array([[10 * i + 0.12 + 0.777] for i in range(2)]) + test_place
        np.testing.assert_allclose(table.columns["ep12_test_accuracy"], short / 100, rtol=1e-6)
        assert table.units["test_loss"] == "nats" and table.units["ep12_test_accuracy"] == "fraction"
    refuses("there is a file already", convert_nats, archive, tmp_path / "out")


def test_official_texts_are_the_cells_of_the_published_extract(data_dir):
    """Three cells whose official numbers the authors' own code asserts."""
    from jaxnas.tables.nats_bench import _code

    table = tables.read_nasbench201(data_dir / "nasbench201_cifar10.npz", nasbench201)
    texts = {
        0: TEXTS[0],
        9: "|avg_pool_3x3~0|+|none~0|none~1|+|skip_connect~0|none~1|nor_conv_3x3~2|",
        123: "|avg_pool_3x3~0|+|avg_pool_3x3~0|nor_conv_1x1~1|+|none~0|avg_pool_3x3~1|nor_conv_3x3~2|",
    }
    assert [_code(text, nasbench201) for text in texts.values()] == table.archs[list(texts)].tolist()


def test_a_killed_nats_conversion_goes_on(archive, tmp_path, monkeypatch):
    expected = [path.read_bytes() for path in convert_nats(archive, tmp_path / "whole")]
    (tmp_path / "out").mkdir()
    assert len(interrupted(monkeypatch, 1, convert_nats, archive, tmp_path / "out", archs_per_part=1)) == 1
    assert [path.read_bytes() for path in convert_nats(archive, tmp_path / "out", archs_per_part=1)] == expected


def test_pickles_that_are_not_plain_data_are_refused(archive, tmp_path):
    """As all in `test_security`."""
    save(archive / "000001.pickle.pbz2", {"200": print})
    refuses(r"000001\.pickle\.pbz2: .*it wants 'builtins\.print', which", convert_nats, archive, tmp_path)
    save(archive / "meta.pickle.pbz2", {"meta_archs": [print]})
    refuses(r"meta\.pickle\.pbz2: .*it wants 'builtins\.print', which", convert_nats, archive, tmp_path)


@pytest.mark.parametrize(
    ("length", "key", "value", "reason"),
    [
        ("200", "epochs", 10**30, "epochs is 10*, expected 1 to"),
        ("200", "epochs", "200", "epochs is '200', expected a whole number"),
        ("200", "params", np.inf, "params is inf"),
        ("200", "flop", 1e300, "flop is 1e.300, expected a number, at least 0 and at most 1e.09"),
        ("200", "flop", -1.0, "flop is -1.0"),
        ("200", "params", np.nan, "params is nan"),
        ("200", "eval_acc1es", 9310.0, "an accuracy is 9310.0, expected a number, at least 0 and at most 100"),
        ("200", "eval_acc1es", np.nan, "an accuracy is nan"),
        ("200", "eval_acc1es", "93.1 fraction", "an accuracy is '93.1 fraction', expected a number"),
        ("200", "eval_losses", np.inf, "a loss is inf"),
        ("10" * 20, None, None, "a length of training is 10*.*, expected 1 to"),
        ("200", None, 10**30, "a seed is 10*, expected 0 to"),
        ("200", None, "777", "a seed is '777', expected a whole number"),
    ],
)
def test_figures_that_are_none(archive, tmp_path, length, key, value, reason):
    content = arch_file(1)
    results = content["200"]["all_results"]
    if length != "200":
        content[length] = content.pop("200")
    elif key is None:
        results["cifar100", value] = results["cifar100", 777]
    else:
        run = results["cifar100", 777]
        run[key] = dict.fromkeys(run[key], value) if isinstance(run[key], dict) else value
    save(archive / "000001.pickle.pbz2", content)
    refuses(rf"000001\.pickle\.pbz2: not as NATS-Bench has it .*{reason}", convert_nats, archive, tmp_path)


def test_provenance_names_every_byte(archive, tmp_path):
    (path, *_) = convert_nats(archive, tmp_path / "out")
    digests = [hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(archive.iterdir(), reverse=True)]
    meta, second, first = digests
    expected = hashlib.sha256("\n".join([meta, first, second]).encode()).hexdigest()
    assert tables.read_table(path, nasbench201).provenance["sha256"] == expected


def test_damaged_archives_end_in_one_line(archive, tmp_path):
    second = archive / "000001.pickle.pbz2"
    whole = second.read_bytes()
    for content in (b"", whole[:-1], whole[: len(whole) // 2], b"not bzip2", bz2.compress(b"not a pickle")):
        second.write_bytes(content)
        refuses(r"000001\.pickle\.pbz2: cut short, damaged or no file of NATS-Bench", convert_nats, archive, tmp_path)
    save(second, [1, 2])
    refuses(r"000001\.pickle\.pbz2: holds a list, expected a dict", convert_nats, archive, tmp_path)
    other = arch_file(0)
    save(second, other)
    refuses("not as NATS-Bench has it .*it is of '.avg_pool", convert_nats, archive, tmp_path)
    lacking = arch_file(1)
    del lacking["200"]["all_results"]["cifar100", 888]["eval_losses"]
    save(second, lacking)
    refuses(r"not as NATS-Bench has it \(KeyError: 'eval_losses'\)", convert_nats, archive, tmp_path)
    second.unlink()
    refuses(
        r"000001\.pickle\.pbz2: missing, of 2 architectures; unpack the archive again", convert_nats, archive, tmp_path
    )
    save(archive / "meta.pickle.pbz2", {"meta_archs": ["|conv~0|"]})
    refuses(r"nasbench201: '\|conv~0\|' is no architecture of the space", convert_nats, archive, tmp_path)
    save(archive / "meta.pickle.pbz2", {})
    refuses("no list meta_archs", convert_nats, archive, tmp_path)
    assert not list(tmp_path.glob("*.npz"))


def test_a_published_extract_and_a_converted_table_share_a_name(archive, tmp_path):
    """`load_truth` takes either for what it is, and damage in neither passes."""
    (path, *_) = convert_nats(archive, tmp_path / "out")
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    refuses("not the published file", tables.load_truth, nasbench201, "cifar10", data_dir=path.parent)
    buffer = io.BytesIO()
    np.savez(buffer, archs=np.zeros(3))
    path.write_bytes(buffer.getvalue())
    refuses("not the published file", tables.load_truth, nasbench201, "cifar10", data_dir=path.parent)
