"""Data sets: exact digits, class proportions, resampling by a written-out filter, TFDS sets written on the spot."""

import io
import json
import logging
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.datasets import load_digits

from jaxnas import datasets

NUM_CLASSES = 3


def refuses(message, *args, **kwargs):
    with pytest.raises(ValueError, match=message) as caught:
        datasets.load(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def as_bytes(images):
    return sorted(image.tobytes() for image in images)


class TestDigits:
    def test_parts_together_are_every_image_once(self):
        data = datasets.load("digits", num_valid=300)
        assert (len(data.train_images), len(data.valid_images), len(data.test_images)) == (600, 300, 897)
        assert data.train_images.dtype == np.uint8 and data.train_images.shape[1:] == (8, 8, 1)
        assert data.train_labels.dtype == np.int32 and data.num_classes == 10
        digits = load_digits()
        whole = {
            image.tobytes(): label
            for image, label in zip(np.rint(digits.images / 16 * 255).astype(np.uint8), digits.target)
        }
        parts = [
            (data.train_images, data.train_labels),
            (data.valid_images, data.valid_labels),
            (data.test_images, data.test_labels),
        ]
        assert as_bytes(np.concatenate([images for images, _ in parts])) == as_bytes(
            np.rint(digits.images / 16 * 255).astype(np.uint8)
        )
        for images, labels in parts:
            assert [whole[image.tobytes()] for image in images] == labels.tolist()

    def test_split_depends_on_the_seed_and_test_does_not(self):
        first, again, other = (datasets.load("digits", num_valid=300, split_seed=seed) for seed in (0, 0, 1))
        np.testing.assert_array_equal(first.train_images, again.train_images)
        assert as_bytes(first.train_images) != as_bytes(other.train_images)
        np.testing.assert_array_equal(first.test_images, other.test_images)

    def test_fewer_train_images_leave_validation_alone(self):
        whole, few = (datasets.load("digits", num_valid=200, num_train=num) for num in (None, 50))
        np.testing.assert_array_equal(whole.valid_images, few.valid_images)
        np.testing.assert_array_equal(whole.train_images[:50], few.train_images)

    def test_classes_are_in_proportion(self):
        data = datasets.load("digits", num_valid=300)
        for labels in (data.train_labels, data.valid_labels, data.test_labels, data.train_labels[:100]):
            expected = np.bincount(load_digits().target) * len(labels) / 1797
            assert np.abs(np.bincount(labels, minlength=10) - expected).max() <= 2

    def test_statistics_are_those_of_the_train_part(self):
        data = datasets.load("digits", num_valid=300, num_train=100)
        np.testing.assert_allclose(data.mean, [data.train_images.mean() / 255], rtol=1e-6)
        np.testing.assert_allclose(data.std, [data.train_images.std() / 255], rtol=1e-6)

    def test_split_is_the_one_of_every_numpy(self):
        # The embedded table was trained on this split: another one makes its accuracies wrong without a word.
        order = datasets.stratified_order(load_digits().target, 0)
        assert order[:6].tolist() == [1712, 1101, 1050, 1439, 652, 293]

    def test_bad_requests(self):
        refuses("asked for 600 train and 301 validation", "digits", num_valid=301, num_train=600)
        refuses("asked for 0 train and 900", "digits", num_valid=900)
        refuses("num_valid is 0, expected 1 to", "digits", num_valid=0)
        refuses("num_train is -5, expected 1 to", "digits", num_valid=10, num_train=-5)
        refuses("num_train is 2.5, expected a whole number", "digits", num_valid=10, num_train=2.5)
        refuses("num_valid is True, expected a whole number", "digits", num_valid=True)
        refuses("split_seed is -1, expected 0 to", "digits", num_valid=10, split_seed=-1)
        refuses("image_size is 100000, expected 1 to 4096", "digits", num_valid=10, image_size=100_000)
        refuses("unknown data set 5", 5, num_valid=10)
        refuses("valid part has 1 images of fewer than two classes", "digits", num_valid=1)
        refuses("train part has 1 images of fewer than two classes", "digits", num_valid=10, num_train=1)
        refuses("image_size is 0", "digits", num_valid=10, image_size=0)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=60), st.integers(0, 2**32))
def test_stratified_order_keeps_proportions_in_every_prefix(labels, seed):
    labels = np.array(labels)
    order = datasets.stratified_order(labels, seed)
    assert sorted(order.tolist()) == list(range(len(labels)))
    counts = np.bincount(labels)
    for num in range(len(labels) + 1):
        # round(t c) of each class: 1/2 off by rounding, and t itself is off by half an image for each class.
        bound = 0.5 + counts / len(labels) * (counts > 0).sum() / 2
        assert (
            np.abs(np.bincount(labels[order[:num]], minlength=len(counts)) - counts * num / len(labels)) <= bound
        ).all()


def test_a_class_of_one_image_comes_half_way():
    order = datasets.stratified_order(np.array([0] * 20 + [1]), 3)
    assert order.tolist().index(20) == 10


def test_stratified_order_is_uniform_over_seeds():
    first = [datasets.stratified_order(np.zeros(4, int), seed)[0] for seed in range(800)]
    assert (np.abs(np.bincount(first, minlength=4) - 200) < 60).all()  # five standard deviations of 12.2


class TestResize:
    @pytest.mark.parametrize("channels", [1, 3])
    @pytest.mark.parametrize("size", [3, 5, 8, 16, 20])
    def test_agrees_with_the_filter_written_out(self, size, channels):
        image = np.random.default_rng(0).integers(0, 256, (16, 16, channels), np.uint8)
        scale = max(16 / size, 1.0)
        centres = (np.arange(size)[:, None] + 0.5) * 16 / size
        distance = (np.arange(16) + 0.5 - centres) / scale
        weights = np.where(np.abs(distance) < 1, np.sinc(distance) * (0.54 + 0.46 * np.cos(np.pi * distance)), 0)
        weights /= weights.sum(axis=1, keepdims=True)
        expected = np.clip(np.einsum("ai,bj,ijc->abc", weights, weights, image), 0, 255)
        resized = datasets.resize(image, size)
        assert resized.dtype == np.uint8 and resized.shape == (size, size, channels)
        assert np.abs(resized - expected).max() <= 1.5

    def test_stripes_finer_than_the_new_pixels_become_grey(self):
        stripes = np.tile(np.array([0, 255], np.uint8), (32, 16))[..., None]
        assert set(datasets.resize(stripes, 16)[:, 1:-1].ravel().tolist()) <= {127, 128}

    def test_the_own_size_changes_nothing(self):
        image = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
        np.testing.assert_array_equal(datasets.resize(image, 4), image)

    @pytest.mark.parametrize("shape, dtype", [((4, 5, 3), np.uint8), ((4, 4, 2), np.uint8), ((4, 4, 1), np.uint16)])
    def test_other_images_are_refused(self, shape, dtype):
        with pytest.raises(ValueError, match="expected uint8, square"):
            datasets.resize(np.zeros(shape, dtype), 2)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 3), st.integers(1, 5), st.integers(0, 2**32))
def test_channel_statistics_agree_with_numpy(channels, num_images, seed):
    images = np.random.default_rng(seed).integers(0, 256, (num_images, 3, 4, channels), np.uint8)
    mean, std = datasets.channel_statistics(images)
    np.testing.assert_allclose(mean, (images / 255).mean((0, 1, 2)), rtol=1e-5)
    np.testing.assert_allclose(std, (images / 255).std((0, 1, 2)), rtol=1e-4, atol=1e-6)


def as_png(image):
    png = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(png, "PNG")
    return png.getvalue()


def write_tfds(
    folder, name="tiny", *, channels=3, height=6, width=6, splits=("train", "test"), labels=None, encode=as_png,
    num_classes=NUM_CLASSES, given=None, **info,
):  # fmt: skip
    """Write a TFDS set as array_record files without TensorFlow, of images drawn by lot or those given; return {split:
    (images, labels)}."""
    import tensorflow_datasets as tfds
    from array_record.python import array_record_module

    root = folder / "tfds" / name / "1.0.0"
    root.mkdir(parents=True)

    image = tfds.features.Image(shape=(height, width, channels), dtype=np.uint8)
    label = tfds.features.ClassLabel(num_classes=num_classes)
    tfds.features.FeaturesDict({"image": image, "label": label}).save_config(str(root))
    features = tfds.features.FeaturesDict({"image": image, "label": tfds.features.Scalar(np.int64)})  # of any number
    rng = np.random.default_rng(0)
    parts, records = {}, []
    for num_images, split in zip((30, 12), splits):
        images = rng.integers(0, 256, (num_images, height or 6, width or 6, channels), np.uint8)
        part_labels = np.arange(num_images) % NUM_CLASSES if labels is None else np.resize(labels, num_images)
        images, part_labels = parts[split] = (images, part_labels) if given is None else given[split]
        num_images = len(images)
        writer = array_record_module.ArrayRecordWriter(
            str(root / f"{name}-{split}.array_record-00000-of-00001"), "group_size:1"
        )
        for image, label in zip(images, part_labels):
            example = {"image": io.BytesIO(encode(image)), "label": int(label)}
            writer.write(features.serialize_example(features.encode_example(example)))
        writer.close()
        records.append({"name": split, "shardLengths": [str(num_images)], "numBytes": "1"})
        records[-1]["filepathTemplate"] = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
    keys = {"tuple": {"items": [{"featureKey": "image"}, {"featureKey": "label"}]}}
    content = {
        "name": name,
        "version": "1.0.0",
        "fileFormat": "array_record",
        "splits": records,
        "supervisedKeys": keys,
    }
    content = {key: value for key, value in (content | info).items() if value is not None}
    (root / "dataset_info.json").write_text(json.dumps(content))
    return parts


def saved(picture, kind="PNG"):
    file = io.BytesIO()
    picture.save(file, kind)
    return file.getvalue()


def png(width, height, bits, colour, data):
    """A PNG file written out."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


def sixteen_bits(side):
    """A colour picture of 16 bits."""
    return png(side, side, 16, 2, (b"\0" + bytes(range(6)) * side) * side)


def claiming(side):
    """A small file that claims to be a large grey picture."""
    return png(side, side, 8, 0, bytes(1000))


class TestTfds:
    @pytest.mark.parametrize("channels, test_split", [(1, "test"), (3, "validation")])
    def test_reads_every_image_with_its_label(self, tmp_path, capfd, caplog, channels, test_split):
        parts = write_tfds(tmp_path, channels=channels, splits=("train", test_split))
        capfd.readouterr()
        with caplog.at_level(logging.WARNING):
            data = datasets.load("tiny", num_valid=9, data_dir=tmp_path)
        assert capfd.readouterr() == ("", "") and not caplog.records
        assert data.train_images.shape == (21, 6, 6, channels) and data.num_classes == NUM_CLASSES
        for (images, labels), taken, taken_labels in (
            (
                parts["train"],
                np.concatenate([data.train_images, data.valid_images]),
                np.concatenate([data.train_labels, data.valid_labels]),
            ),
            (parts[test_split], data.test_images, data.test_labels),
        ):
            expected = {image.tobytes(): label for image, label in zip(images, labels)}
            assert as_bytes(taken) == as_bytes(images)
            assert [expected[image.tobytes()] for image in taken] == taken_labels.tolist()
        assert np.bincount(data.valid_labels).tolist() == [3, 3, 3]

    def test_the_folder_of_the_environment_gives_way_to_the_argument(self, tmp_path, monkeypatch):
        write_tfds(tmp_path / "a")
        monkeypatch.setenv("JAXNAS_DATA", str(tmp_path / "a"))
        assert datasets.load("tiny", num_valid=9).train_images.shape == (21, 6, 6, 3)
        assert str(tmp_path / "b") in refuses("unknown data set 'tiny'", "tiny", num_valid=9, data_dir=tmp_path / "b")

    def test_resizing(self, tmp_path):
        write_tfds(tmp_path)
        whole, small = (datasets.load("tiny", num_valid=9, data_dir=tmp_path, image_size=size) for size in (None, 3))
        np.testing.assert_array_equal(small.train_images[4], datasets.resize(whole.train_images[4], 3))
        np.testing.assert_array_equal(small.train_labels, whole.train_labels)

    def test_sets_that_do_not_fit(self, tmp_path):
        write_tfds(tmp_path, "unkeyed", supervisedKeys=None)
        refuses("unkeyed: not an image-classification set", "unkeyed", num_valid=9, data_dir=tmp_path)
        keys = {"tuple": {"items": [{"featureKey": "label"}, {"featureKey": "label"}]}}
        write_tfds(tmp_path, "imageless", supervisedKeys=keys)
        refuses("imageless: not an image-classification set", "imageless", num_valid=9, data_dir=tmp_path)
        write_tfds(tmp_path, "untested", splits=("train",))
        refuses("untested: expected splits train and test", "untested", num_valid=9, data_dir=tmp_path)
        write_tfds(tmp_path, "oblong", width=8)
        refuses("oblong: its images differ in size; give the image_size", "oblong", num_valid=9, data_dir=tmp_path)
        refuses("expected uint8, square", "oblong", num_valid=9, data_dir=tmp_path, image_size=4)
        write_tfds(tmp_path, "oneclass", labels=[1])
        refuses("fewer than two classes", "oneclass", num_valid=9, data_dir=tmp_path)
        write_tfds(tmp_path, "unlabelled", labels=[-1, 1])
        refuses("image 0 of train has no label", "unlabelled", num_valid=9, data_dir=tmp_path)
        write_tfds(tmp_path, "sixteen", channels=3)
        (config,) = (tmp_path / "tfds" / "sixteen").rglob("features.json")
        config.write_text(config.read_text().replace("uint8", "uint16"))
        refuses("its images are uint16 .*, expected uint8", "sixteen", num_valid=9, data_dir=tmp_path)

    @pytest.mark.parametrize(
        ("labels", "message"),
        [
            ([0, 1, 3], "image 2 of train has the label 3, expected 0 to 2"),
            ([0, 2**40 + 1], "image 1 of train has the label 1099511627777, expected 0 to 2"),
            ([0, -7], "image 1 of train has the label -7"),
        ],
    )
    def test_labels_that_are_none_of_the_classes(self, tmp_path, labels, message):
        write_tfds(tmp_path, labels=labels)
        refuses(message, "tiny", num_valid=9, data_dir=tmp_path)

    @pytest.mark.parametrize("num_classes", [0, -5, 1])
    def test_numbers_of_classes_that_are_none(self, tmp_path, num_classes):
        write_tfds(tmp_path)
        (config,) = (tmp_path / "tfds").rglob("features.json")
        content = config.read_text()
        assert f'"numClasses": "{NUM_CLASSES}"' in content
        config.write_text(content.replace(f'"numClasses": "{NUM_CLASSES}"', f'"numClasses": "{num_classes}"'))
        refuses("tiny: .*num_classes is", "tiny", num_valid=9, data_dir=tmp_path)

    @pytest.mark.parametrize(
        ("channels", "encode", "message"),
        [
            (1, lambda image: saved(Image.fromarray(np.full((6, 6), 40_000, np.uint16))), "mode I;16 with 16 bits"),
            (3, lambda image: sixteen_bits(6), "mode RGB with 16 bits, expected 8 bits"),
            (1, lambda image: as_png(np.repeat(image, 3, axis=2)), "mode RGB with 8 bits, expected 8 bits and 1 or L"),
            (3, lambda image: saved(Image.new("RGBA", (6, 6))), "mode RGBA"),
            (3, lambda image: as_png(image[:5]), "5 x 6 pixels, the set declares 6 x 6"),
            (3, lambda image: as_png(np.tile(image, (2, 2, 1))), "12 x 12 pixels, the set declares 6 x 6"),
            (3, lambda image: as_png(image)[:60], "cannot be read"),
            (3, lambda image: b"no picture", "UnidentifiedImageError"),
            (3, lambda image: saved(Image.fromarray(image), "BMP"), "UnidentifiedImageError"),
        ],
    )
    def test_images_other_than_declared(self, tmp_path, channels, encode, message):
        write_tfds(tmp_path, channels=channels, encode=encode)
        found = refuses(message, "tiny", num_valid=9, data_dir=tmp_path)
        assert found.startswith("tiny: image ") and "of the train part, cannot be read (" in found

    def test_grey_and_indexed_pictures_are_colour_ones_too(self, tmp_path):
        """As ImageNet has them."""
        grey, indexed = np.arange(36, dtype=np.uint8).reshape(6, 6), Image.new("P", (6, 6), 1)
        indexed.putpalette([0, 0, 0, 10, 20, 30])
        for name, picture, expected in (
            ("grey", Image.fromarray(grey), np.repeat(grey[..., None], 3, axis=2)),
            ("indexed", indexed, np.broadcast_to(np.array([10, 20, 30], np.uint8), (6, 6, 3))),
        ):
            write_tfds(tmp_path, name, encode=lambda image, picture=picture: saved(picture))
            np.testing.assert_array_equal(datasets.load(name, num_valid=9, data_dir=tmp_path).test_images[3], expected)

    @pytest.mark.parametrize("side", [9_000, 11_000, 60_000])
    def test_an_image_bomb(self, tmp_path, side, capfd):
        """Pillow is silent about the first, warns of the second and raises its own error at the last."""
        write_tfds(tmp_path, height=None, width=None, encode=lambda image: claiming(side))
        found = refuses("cannot be read", "tiny", num_valid=9, image_size=4, data_dir=tmp_path)
        assert f"{side} x {side} pixels, expected at most 67,108,864" in found or "decompression bomb" in found
        assert capfd.readouterr().err == ""

    def test_damage(self, tmp_path):
        write_tfds(tmp_path)
        (file,) = (tmp_path / "tfds").rglob("*-test.array_record-*")
        whole = file.read_bytes()
        file.write_bytes(whole[:700])
        refuses("tiny: cannot read .*prepare it with", "tiny", num_valid=9, data_dir=tmp_path)
        file.write_bytes(whole[: len(whole) // 2])
        refuses(
            "has 0 records, the set declares 12: cut short",
            "tiny",
            num_valid=9,
            data_dir=tmp_path,
        )
        file.unlink()
        refuses("tiny: cannot read .*prepare it with", "tiny", num_valid=9, data_dir=tmp_path)

    def test_a_shard_of_another_part(self, tmp_path):
        """Of thirty training images twelve would be read as test images."""
        write_tfds(tmp_path)
        (test,), (train,) = ((tmp_path / "tfds").rglob(f"*-{part}.array_record-*") for part in ("test", "train"))
        test.write_bytes(train.read_bytes())
        refuses("tiny-test.* has 30 records, the set declares 12", "tiny", num_valid=9, data_dir=tmp_path)

    def test_tfrecord_files_need_preparing_again(self, tmp_path, capfd):
        write_tfds(tmp_path, fileFormat="tfrecord")
        refuses("NotImplementedError.*--file_format=array_record", "tiny", num_valid=9, data_dir=tmp_path)
        assert capfd.readouterr() == ("", "")

    def test_a_set_that_is_not_there_says_how_to_get_it(self, tmp_path, monkeypatch, caplog):
        command = f"tfds build mnist --file_format=array_record --data_dir={tmp_path}/tfds"
        with caplog.at_level(logging.WARNING):
            assert command in refuses("pip install tensorflow", "mnist", num_valid=9, data_dir=tmp_path)
        assert not caplog.records
        monkeypatch.delenv("JAXNAS_DATA", raising=False)
        monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
        refuses("JAXNAS_DATA name another folder.*tfds build mnist", "mnist", num_valid=9)

    @pytest.mark.parametrize("name", ["nosuch", "", "a b", "cifar10/nosuch", "cifar10:9.9.9", "cifar10/a=b", "../x"])
    def test_unknown_names(self, tmp_path, name):
        refuses("unknown data set", name, num_valid=9, data_dir=tmp_path)

    @pytest.mark.slow("all of CIFAR-10 is read")
    def test_real_cifar10(self, data_dir):
        if not (data_dir / "tfds" / "cifar10").is_dir():
            pytest.skip(f"there is no prepared CIFAR-10 in {data_dir}/tfds: set JAXNAS_DATA")
        data = datasets.load("cifar10", num_valid=1000, num_train=1000, image_size=16, data_dir=data_dir)
        assert data.train_images.shape == (1000, 16, 16, 3) and data.test_images.shape == (10_000, 16, 16, 3)
        assert np.bincount(data.train_labels).tolist() == np.bincount(data.valid_labels).tolist() == [100] * 10
        assert np.bincount(data.test_labels).tolist() == [1000] * 10
        assert not set(as_bytes(data.train_images)) & set(as_bytes(data.valid_images))
        # The means of all 50,000; images' own means vary by about 35, so those of 2,000 by 0.8.
        means = np.concatenate([data.train_images, data.valid_images]).mean((0, 1, 2))
        np.testing.assert_allclose(means, [125.31, 122.95, 113.87], atol=3)
