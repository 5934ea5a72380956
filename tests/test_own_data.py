"""Data that users bring: CIFAR's archives, arrays, .npz files, tables as CSV; and `jaxnas data`."""

import hashlib
import io
import tarfile
from pathlib import Path

import numpy as np
import pytest

from experiments.__main__ import main
from jaxnas import codes, datasets, tables
from jaxnas.datasets import cifar, own
from jaxnas.runs import data as had
from jaxnas.spaces import get_space

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (40, 6, 6, 3), np.uint8)
LABELS = np.arange(40) % 4
SPACE = get_space("digits_chain")


def write_archive(path: Path, files: dict[str, bytes]) -> None:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def records(images: np.ndarray, labels: np.ndarray, coarse: bool) -> bytes:
    """As the authors describe their binary files: a byte or two of labels, then all of red, of green, of blue."""
    parts = []
    for image, label in zip(images, labels, strict=True):
        before = bytes([7]) if coarse else b""
        parts.append(before + bytes([label]) + b"".join(image[:, :, channel].tobytes() for channel in range(3)))
    return b"".join(parts)


def make_cifar(folder: Path, monkeypatch, name: str, train, test) -> Path:
    """An archive of some images (images, labels), which for this test is the published one."""
    archive = datasets.ARCHIVES[name]
    coarse, number = name == "cifar100", len(archive.train)
    split = [zip(*(np.array_split(part, number) for part in train), strict=True)]
    files = {"readme.html": b"<html>"}
    files |= {path: records(*part, coarse) for path, part in zip(archive.train, *split, strict=True)}
    files |= {archive.test[0]: records(*test, coarse)}
    path = folder / archive.remote.file_name
    write_archive(path, files)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    known = archive._replace(remote=archive.remote._replace(hash=f"sha256:{digest}"))
    monkeypatch.setitem(cifar.ARCHIVES, name, known)
    return path


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_an_archive_gives_its_images(tmp_path, monkeypatch, name):
    images, labels = RNG.integers(0, 256, (60, 32, 32, 3), np.uint8), np.arange(60) % 10
    path = make_cifar(tmp_path, monkeypatch, name, (images[:40], labels[:40]), (images[40:], labels[40:]))
    datasets.check_name(name, tmp_path)
    data = datasets.load(name, num_valid=10, data_dir=tmp_path)
    assert data.train_images.shape == (30, 32, 32, 3) and data.num_classes == int(name.removeprefix("cifar"))
    known = {image.tobytes(): label for image, label in zip(images, labels, strict=True)}
    for part, number in (("train", 30), ("valid", 10), ("test", 20)):
        found = [known[image.tobytes()] for image in getattr(data, f"{part}_images")]
        assert found == getattr(data, f"{part}_labels").tolist() and len(found) == number
    assert path.name in data.source and "licence: none is stated" in data.source
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ValueError, match=rf"not the published archive .*: jaxnas data get {name} --data-dir"):
        datasets.load(name, num_valid=10, data_dir=tmp_path)


@pytest.mark.slow("all of CIFAR-10 is read")
def test_real_images_come_back_as_tfds_has_them(data_dir, tmp_path, monkeypatch):
    if not (data_dir / "tfds" / "cifar10").is_dir():
        pytest.skip(f"there is no prepared CIFAR-10 in {data_dir}/tfds: set JAXNAS_DATA")
    by_tfds = datasets.load("cifar10", num_train=200, num_valid=50, data_dir=data_dir)
    train, test = (by_tfds.train_images, by_tfds.train_labels), (by_tfds.valid_images, by_tfds.valid_labels)
    make_cifar(tmp_path, monkeypatch, "cifar10", train, test)
    found = datasets.load("cifar10", num_valid=20, data_dir=tmp_path)
    known = {image.tobytes(): label for image, label in zip(*train, strict=True)}
    images = np.concatenate([found.train_images, found.valid_images])
    labels = np.concatenate([found.train_labels, found.valid_labels])
    assert [known[image.tobytes()] for image in images] == labels.tolist()
    (tmp_path / "tfds" / "cifar10").mkdir(parents=True)  # in whose order figures from before are
    assert datasets.find_archive("cifar10", tmp_path) is None


def test_a_set_that_is_not_there_ends_in_the_command(tmp_path):
    for name in ("cifar10", "cifar100"):
        with pytest.raises(ValueError, match=rf": jaxnas data get {name} --data-dir {tmp_path}$"):
            datasets.load(name, num_valid=10, data_dir=tmp_path)


class TestArrays:
    def test_they_are_split_like_any_set(self, tmp_path):
        given = (IMAGES[:30], LABELS[:30], IMAGES[30:], LABELS[30:])
        data = datasets.from_arrays("mine", *given, num_valid=8, source="a camera; licence: mine")
        assert (len(data.train_images), len(data.valid_images), len(data.test_images)) == (22, 8, 10)
        assert data.num_classes == 4 and np.bincount(data.valid_labels).tolist() == [2] * 4
        assert data.source == "a camera; licence: mine"
        np.savez_compressed(tmp_path / "mine.npz", **dict(zip(own.PARTS, given)))
        of_file = datasets.load(f"npz:{tmp_path}/mine.npz", num_valid=8)
        for part in ("train", "valid", "test"):
            np.testing.assert_array_equal(getattr(of_file, f"{part}_images"), getattr(data, f"{part}_images"))
            np.testing.assert_array_equal(getattr(of_file, f"{part}_labels"), getattr(data, f"{part}_labels"))

    def test_grey_images_need_no_axis_of_channels_and_sizes_change(self):
        grey = IMAGES[..., 0]
        data = datasets.from_arrays("grey", grey, LABELS, grey, LABELS, num_valid=8, image_size=3)
        assert data.train_images.shape == (32, 3, 3, 1)

    @pytest.mark.parametrize(
        ("changed", "message"),
        [
            ({0: IMAGES / 255}, r"images of train are float64 \[40, 6, 6, 3\], expected uint8"),
            ({0: IMAGES[:, :5]}, "expected uint8 .*size, size"),
            ({2: IMAGES[..., :2]}, "images of test .*1 or 3 channels"),
            ({1: LABELS[:-1]}, "labels of train"),
            ({3: LABELS - 1}, "labels of test"),
            ({2: IMAGES[:, :5, :5]}, r"of train are \[6, 6, 3\], those of test \[5, 5, 3\]"),
            ({0: IMAGES[:0], 1: LABELS[:0]}, "no images of train"),
            ({1: LABELS + 0.5}, "labels of train"),
        ],
    )  # fmt: skip
    def test_bad_ones(self, changed, message):
        given = [changed.get(place, part) for place, part in enumerate((IMAGES, LABELS, IMAGES, LABELS))]
        with pytest.raises(ValueError, match=message) as error:
            datasets.from_arrays("mine", *given, num_valid=8)
        assert "\n" not in str(error.value)

    def test_bad_files(self, tmp_path):
        with pytest.raises(ValueError, match=r"there is no such file; numpy\.savez\(.*makes it"):
            datasets.check_name(f"npz:{tmp_path}/none.npz")
        (tmp_path / "bad.npz").write_text("no archive")
        with pytest.raises(ValueError, match=r"bad\.npz: no arrays can be read"):
            datasets.load(f"npz:{tmp_path}/bad.npz", num_valid=8)
        np.savez(tmp_path / "few.npz", train_images=IMAGES)
        with pytest.raises(ValueError, match=r"few\.npz: it has no train_labels, expected .*; it has train_images"):
            datasets.load(f"npz:{tmp_path}/few.npz", num_valid=8)


class TestCSV:
    @staticmethod
    def read(folder: Path, text: str):
        path = folder / "digits_chain_mine.csv"
        path.write_text(text, encoding="utf-8")
        return tables.load_truth(SPACE, "mine", data_dir=folder)

    def test_of_one_training_each(self, tmp_path):
        table = self.read(tmp_path, "\ufeffcode,accuracy,note\n0-0-0-0-1,0.5,a\n0-1-2-0-1,0.25,b\n")
        archs = codes.from_text(SPACE, ["0-1-2-0-1", "0-0-0-0-1"])
        assert tables.lookup(table, archs, "test_accuracy").tolist() == [0.25, 0.5]
        assert "mine.csv" in table.provenance["source"] and table.provenance["licence"] == "the user's"

    def test_of_several_seeds(self, tmp_path):
        table = self.read(tmp_path, "seed,arch,accuracy\n7,00001,0.5\n9,00001,0.6\n9,0-0-0-0-2,0.7\n")
        np.testing.assert_array_equal(table.columns["test_accuracy"], [[0.5, 0.6], [np.nan, 0.7]])
        assert table.provenance["seeds"] == "7, 9"

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("", "its first line names nothing, expected code,accuracy"),
            ("a,b\n1,2\n", "its first line names a, b, expected"),
            ("code,accuracy\n", "no line with a code"),
            ("code,accuracy\n0-0-0-0-1,93.1\n", r"line 2: the accuracy is 93\.1, expected 0 to 1, a fraction: divide"),
            ("code,accuracy\n0-0-0-0-1,nan\n", "line 2: the accuracy is nan, expected 0 to 1"),
            ("code,accuracy\n0-0-0-0-1,good\n", "line 2: the accuracy is 'good'"),
            ("code,accuracy\n0-0-0-0-1\n", "line 2: the accuracy is None"),
            ("code,accuracy\n0-0-0-0-9,0.5\n", "line 2: .*code 9 at index 4"),
            ("code,accuracy\n0-0-0,0.5\n", "line 2: .*'0-0-0' is no architecture code"),
            ("code,accuracy\n0-0-0-0-1,0.5\n00001,0.5\n", "line 3: 00001 is there twice; expected it once"),
            ("code,accuracy,seed\n0-0-0-0-1,0.5,1\n0-0-0-0-1,0.5,1\n", "line 3: 0-0-0-0-1 is there twice with seed 1"),
            ("code,accuracy,seed\n0-0-0-0-1,0.5,\n", "line 2: no seed"),
        ],
    )  # fmt: skip
    def test_bad_ones(self, tmp_path, text, message):
        with pytest.raises(ValueError, match=message) as error:
            self.read(tmp_path, text)
        assert "\n" not in str(error.value)


class TestCommand:
    @staticmethod
    def said(capsys, *arguments: str, code: int | None = None) -> str:
        if code is None:
            main(["data", *arguments])
            return capsys.readouterr().out
        with pytest.raises(SystemExit) as stop:
            main(["data", *arguments])
        found = capsys.readouterr().err
        assert stop.value.code == code and found.count("\n") == 1
        return found

    def test_list(self, capsys, tmp_path, monkeypatch, no_data_dir):
        listed = self.said(capsys, "list")
        assert all(name in listed and known.remote.licence in listed for name, known in had.KNOWN.items())
        assert "variable JAXNAS_DATA names the folder" in listed and " there " not in listed.replace("not there", "")
        (tmp_path / had.KNOWN["cifar100"].gives[0]).touch()
        monkeypatch.setenv("JAXNAS_DATA", str(tmp_path))
        assert "cifar100          there  " in self.said(capsys, "list")

    def test_get_by_hand(self, capsys, tmp_path, monkeypatch):
        path = make_cifar(tmp_path, monkeypatch, "cifar10", (IMAGES[:0], LABELS[:0]), (IMAGES[:0], LABELS[:0]))
        monkeypatch.setitem(had.KNOWN, "cifar10", had._archive("cifar10"))
        arguments = ("get", "cifar10", "--file", str(path), "--data-dir", str(tmp_path / "new"))
        said = self.said(capsys, *arguments)
        assert said.endswith(f"use: --dataset cifar10 --data-dir {tmp_path}/new\n")
        assert (tmp_path / "new" / path.name).read_bytes() == path.read_bytes()
        path.write_bytes(b"other")
        refused = self.said(capsys, *arguments, code=2)
        assert "not the published cifar-10-binary.tar.gz or not all of it (5 bytes" in refused

    def test_what_is_converted(self, tmp_path, monkeypatch):
        made = []

        def convert(path, folder):
            made.append(path)
            (folder / "table.npz").touch()
            return [folder / "table.npz"]

        known = had.KNOWN["nasbench101"]._replace(convert=convert, gives=("table.npz",))
        monkeypatch.setitem(had.KNOWN, "nasbench101", known)
        (tmp_path / "file").touch()
        for _ in range(2):  # once
            assert had.get("nasbench101", tmp_path, file=tmp_path / "file") == [tmp_path / "table.npz"]
        assert made == [tmp_path / "file"]

    def test_errors(self, capsys, tmp_path, no_data_dir):
        folder = ("--data-dir", str(tmp_path))
        assert "unknown data 'x'; expected one of cifar10," in self.said(capsys, "get", "x", *folder, code=2)
        assert "which folder? --data-dir DIR" in self.said(capsys, "get", "cifar10", code=2)
        assert "expected list, or get NAME" in self.said(capsys, code=2)
        assert "there is no such file" in self.said(capsys, "get", "cifar10", "--file", "none", *folder, code=2)
        by_hand = self.said(capsys, "get", "nats_bench", *folder, code=2)
        assert by_hand.endswith(f"then: jaxnas data get nats_bench --file FOLDER --data-dir {tmp_path}\n")

    def test_errors_name_what_there_is(self):
        assert set(tables.published.BROUGHT.values()) <= set(had.KNOWN)
        for (name, dataset), brought in tables.published.BROUGHT.items():
            assert f"{name}_{dataset}.npz" in had.KNOWN[brought].gives or brought == name
            with pytest.raises(tables.MissingTable, match=rf"jaxnas data get {brought} --data-dir /nowhere$"):
                tables.load_truth(get_space(name), dataset, data_dir="/nowhere")
