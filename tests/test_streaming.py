"""Pictures that are decoded when they are asked for: equal to those held in memory, whatever reads them, and damage."""

import io
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from test_datasets import write_tfds

from jaxnas import datasets
from jaxnas.datasets import AUGMENTS, Augment, Reading
from jaxnas.datasets.augmenting import RAND_OPS, augmented, central, draw_box
from jaxnas.training import batches

COLOURS = {"blue": (20, 20, 200), "green": (20, 200, 20), "red": (200, 20, 20)}  # classes, by name
SIZES = [(40, 30), (30, 50), (9, 7), (33, 33), (64, 20), (24, 24), (41, 90), (8, 40)]  # some smaller than the crop
SIZE = 16
STREAM = Reading(most_resident=1)


def encode(pixels, kind="JPEG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, quality=95)
    return file.getvalue()


def picture(name: str, number: int) -> np.ndarray:
    """Of the class's colour, with stripes and shades that tell it from all others."""
    width, height = SIZES[number % len(SIZES)]
    noise = np.random.default_rng([number, *COLOURS[name]]).integers(-20, 20, (2, 2, 3))
    shades = np.kron(noise, np.ones((height, width, 1), int))[:height, :width]
    return np.uint8(np.array(COLOURS[name]) + shades + 20 * (np.arange(width) > width * number / 16)[None, :, None])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("pictures")
    for part, count in (("train", 8), ("val", 3)):
        for name in COLOURS:
            (root / part / name).mkdir(parents=True)
            for number in range(count):
                (root / part / name / f"{number}.jpg").write_bytes(encode(picture(name, number)))
    return root


def load(root, reading=None, **settings):
    return datasets.load(f"folder:{root}", num_valid=6, image_size=SIZE, reading=reading, **settings)


@pytest.fixture
def damaged(folder, tmp_path):
    """(The folder with two training pictures that cannot be read, one cut and one that is none; their names.)"""
    root = tmp_path / "damaged"
    shutil.copytree(folder, root)
    images = load(root, STREAM).train_images
    names = [images.records.name(images.places[row]) for row in (3, 11)]
    cut = Path(names[0])
    cut.write_bytes(cut.read_bytes()[:400])
    Path(names[1]).write_bytes(b"no picture")
    return root, names


def colour_of(images) -> np.ndarray:
    """The class, int [num_images], by what is seen."""
    return np.array([2, 1, 0])[images.mean(axis=(1, 2)).argmax(axis=-1)]


def test_held_and_streamed_are_equal(folder):
    held, streamed = load(folder), load(folder, STREAM)
    assert isinstance(held.train_images, np.ndarray) and not isinstance(streamed.train_images, np.ndarray)
    for part, number in (("train", 18), ("valid", 6), ("test", 9)):
        ours, theirs = (getattr(data, f"{part}_images") for data in (streamed, held))
        assert ours.shape == theirs.shape == (number, SIZE, SIZE, 3) and len(ours) == number
        np.testing.assert_array_equal(ours[:], theirs)
        np.testing.assert_array_equal(ours[np.array([3, 1])], theirs[[3, 1]])
        labels = getattr(streamed, f"{part}_labels")
        np.testing.assert_array_equal(labels, getattr(held, f"{part}_labels"))
        np.testing.assert_array_equal(labels, colour_of(theirs))
    np.testing.assert_array_equal(streamed.mean, held.mean)
    np.testing.assert_array_equal(streamed.std, held.std)
    reads = [batches(jax.random.key(3), data.train_images, data.train_labels, 5) for data in (streamed, held)]
    for step in (0, 1, 2, 3, 4, 9):  # three batches an epoch
        ours, theirs = (read(step)["train"] for read in reads)
        np.testing.assert_array_equal(ours["images"], theirs["images"])
        np.testing.assert_array_equal(ours["labels"], theirs["labels"])


def test_a_step_reads_the_same_whenever_it_is_asked_for(folder):
    """Drawn augmentations included; another key, epoch or place draws others."""
    data = load(folder, Reading(augment=AUGMENTS["rand_augment"]))
    one, other, again = (batches(jax.random.key(key), data.train_images, data.train_labels, 6) for key in (0, 1, 0))
    expected = [one(step)["train"] for step in range(7)]
    for step in (5, 6, 2, 0):
        found = again(step)["train"]
        np.testing.assert_array_equal(found["images"], expected[step]["images"])
        np.testing.assert_array_equal(found["labels"], expected[step]["labels"])
    assert (np.asarray(other(0)["train"]["images"]) != np.asarray(expected[0]["images"])).any()
    pictures = {image.tobytes() for batch in expected for image in np.asarray(batch["images"])}
    assert len(pictures) == 42  # of 18 that are drawn in three epochs
    for batch in expected[:3], expected[3:6]:  # each epoch has every picture once: six of each colour
        assert np.bincount(np.concatenate([part["labels"] for part in batch])).tolist() == [6, 6, 6]


def test_processes_share_a_batch(folder):
    for reading in (None, Reading(augment=AUGMENTS["crop"])):
        data = load(folder, reading)
        given = jax.random.key(0), data.train_images, data.train_labels, 6
        whole, *parts = (batches(*given, **more) for more in ({}, {"share": (0, 2)}, {"share": (1, 2)}))
        for step in (0, 4):
            for process, part in enumerate(parts):
                for name, array in part(step)["train"].items():
                    np.testing.assert_array_equal(array, whole(step)["train"][name][process::2])
    with pytest.raises(ValueError, match="4 processes: a batch of 6 cannot be shared evenly"):
        batches(*given, share=(0, 4))


@pytest.mark.slow("worker processes, each of which imports jaxnas")
@pytest.mark.parametrize("kind", ["folder", "array records"])
def test_workers_change_nothing(folder, tmp_path, kind):
    if kind == "array records":
        write_tfds(tmp_path, height=None, width=None)
    reads = []
    for number in (0, 2):
        reading = Reading(augment=AUGMENTS["jitter"], num_workers=number)
        if kind == "folder":
            data = load(folder, reading)
        else:
            data = datasets.load("tiny", num_valid=6, image_size=SIZE, data_dir=tmp_path, reading=reading)
        reads.append(batches(jax.random.key(0), data.train_images, data.train_labels, 6))
    for step in (0, 1, 2, 3, 8):
        ours, theirs = (read(step)["train"] for read in reads)
        np.testing.assert_array_equal(ours["images"], theirs["images"])
        np.testing.assert_array_equal(ours["labels"], theirs["labels"])


@pytest.mark.parametrize("ask", [np.asarray, jnp.asarray])
def test_streamed_images_are_no_array(folder, ask):
    with pytest.raises(ValueError, match=r"^18 pictures are streamed, .* raise most_resident to 13,824 bytes"):
        ask(load(folder, STREAM).train_images)


class TestDamage:
    def read_all(self, data, num_steps=9):
        read = batches(jax.random.key(0), data.train_images, data.train_labels, 6)
        return [read(step)["train"] for step in range(num_steps)]

    @pytest.mark.parametrize("most_resident", [1, 2**32])
    def test_stopped_in_the_middle_of_an_epoch(self, damaged, most_resident):
        root, names = damaged
        with pytest.raises(ValueError, match=r"\.jpg: cannot be read \(.*\); delete it, or") as error:
            self.read_all(load(root, Reading(most_resident)))
        assert "\n" not in str(error.value) and str(error.value).split(": cannot")[0] in names

    def test_skipped_by_name(self, damaged):
        """Each warns once, and the next picture comes, with its own label; held and streamed alike."""
        root, names = damaged
        found = []
        for most_resident in (1, 2**32):
            with pytest.warns(UserWarning) as told:
                found.append(self.read_all(load(root, Reading(most_resident, damaged="skip"))))
            assert sorted(str(warning.message).split(": cannot")[0] for warning in told) == sorted(names)
        for ours, theirs in zip(*found, strict=True):
            np.testing.assert_array_equal(ours["images"], theirs["images"])
            np.testing.assert_array_equal(ours["labels"], theirs["labels"])
            np.testing.assert_array_equal(colour_of(np.asarray(ours["images"])), ours["labels"])

    def test_what_is_judged_on_is_whole(self, folder, tmp_path):
        root = tmp_path / "judged"
        shutil.copytree(folder, root)
        cut = root / "val" / "red" / "0.jpg"
        cut.write_bytes(cut.read_bytes()[:-300])
        with pytest.raises(ValueError, match=r"val/red/0\.jpg: cannot be read"):
            load(root, Reading(damaged="skip"))
        data = load(root, STREAM._replace(damaged="skip"))
        with pytest.raises(ValueError, match=r"val/red/0\.jpg: cannot be read"):
            data.test_images[:]

    def test_nothing_but_damage(self, folder, tmp_path):
        root = tmp_path / "none"
        shutil.copytree(folder, root)
        data = load(root, Reading(1, damaged="skip"))
        for path in root.glob("train/*/*.jpg"):
            path.write_bytes(b"")
        with pytest.warns(UserWarning), pytest.raises(ValueError, match="pictures one after the other cannot be read"):
            self.read_all(data, 1)


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda root: shutil.rmtree(root), "there is no such folder; expected PATH/train/CLASS"),
        (lambda root: shutil.rmtree(root / "train"), "no folder train; expected PATH/train/CLASS"),
        (lambda root: shutil.rmtree(root / "val"), "no folder val; expected PATH/train/CLASS"),
        (lambda root: [path.unlink() for path in root.glob("train/red/*")], "train/red: no picture .*, or delete"),
        (lambda root: (root / "train" / "white").mkdir(), "train/white: no picture .*, or delete the class folder"),
        (lambda root: (root / "val" / "white").mkdir(), "a class 'white' that train doesn't have"),
        (lambda root: [shutil.rmtree(root / "train" / name) for name in ("red", "blue")], "1 class folders, expected"),
    ],
)  # fmt: skip
def test_folders_that_are_no_set(folder, tmp_path, change, words):
    root = tmp_path / "changed"
    shutil.copytree(folder, root)
    change(root)
    for ask in (lambda: load(root), lambda: datasets.check_name(f"folder:{root}")):
        with pytest.raises(ValueError, match=words) as error:
            ask()
        assert "\n" not in str(error.value)


def test_array_records_are_read_alike(tmp_path):
    """A TFDS set that declares no size, held and streamed; what a record holds is what its picture shows."""
    split = write_tfds(tmp_path, height=None, width=None, encode=lambda image: encode(image, "PNG"))
    arrays = [
        datasets.load("tiny", num_valid=4, image_size=SIZE, data_dir=tmp_path, reading=reading)
        for reading in (Reading(), STREAM)
    ]
    for part in ("train", "valid", "test"):
        held, streamed = (getattr(data, f"{part}_images") for data in arrays)
        np.testing.assert_array_equal(streamed[:], held)
    images, labels = split["test"]
    expected = [central(encode(image, "PNG"), SIZE) for image in images]
    assert sorted(image.tobytes() for image in arrays[0].test_images) == sorted(image.tobytes() for image in expected)
    assert sorted(arrays[0].test_labels.tolist()) == sorted(labels.tolist())
    assert arrays[1].train_images.records.name(3) == "record 3 of train"


class TestPixels:
    def test_the_middle_by_hand(self):
        """32 pixels high: 28 of them in the middle, at their own size."""
        pixels = np.random.default_rng(0).integers(0, 256, (32, 64, 3), np.uint8)
        np.testing.assert_array_equal(central(encode(pixels, "PNG"), 28), pixels[2:30, 18:46])

    @pytest.mark.parametrize("shape", [(1, 1, 3), (5, 9, 3), (300, 4, 3)])
    def test_smaller_than_the_crop(self, shape):
        pixels = np.full(shape, 77, np.uint8)
        for found in (
            central(encode(pixels, "PNG"), SIZE),
            augmented(encode(pixels, "PNG"), SIZE, Augment(), np.random.default_rng(0)),
        ):
            assert found.shape == (SIZE, SIZE, 3) and (found == 77).all()

    def test_grey_and_indexed_pictures_become_colours(self):
        grey = np.random.default_rng(0).integers(0, 256, (32, 32), np.uint8)
        found = central(encode(grey, "PNG"), 28)
        np.testing.assert_array_equal(found, np.repeat(grey[2:30, 2:30, None], 3, axis=2))

    def test_scaled_decoding_is_near_to_the_whole(self):
        """A smooth picture of 16 times the size, decoded at an eighth, against all of its pixels averaged."""
        x, y = np.meshgrid(np.arange(512), np.arange(512))
        pixels = np.stack([128 + 100 * np.sin(x / 80), 128 + 100 * np.cos(y / 90), (x + y) / 4], axis=-1)
        found = central(encode(np.uint8(pixels)), 28).astype(int)
        expected = pixels[32:480, 32:480].reshape(28, 16, 28, 16, 3).mean(axis=(1, 3))
        assert np.abs(found - expected).max() < 6

    @settings(max_examples=60, deadline=None)
    @given(st.integers(1, 400), st.integers(1, 400), st.integers(0, 2**32))
    def test_crops_lie_inside(self, width, height, seed):
        left, upper, right, lower = draw_box((width, height), Augment(), np.random.default_rng(seed))
        across, down = right - left, lower - upper
        assert -1e-9 <= left < right <= width + 1e-9 and -1e-9 <= upper < lower <= height + 1e-9
        whole = max(across / down, down / across) if min(width, height) * 4 / 3 < max(width, height) else 1
        assert 3 / 4 - 1e-9 <= across / down <= 4 / 3 + 1e-9 or whole > 4 / 3
        if 3 / 4 < width / height < 4 / 3:
            assert across * down >= 0.08 * width * height - 1e-6

    def test_crops_are_spread_as_they_say(self):
        """Of areas uniform in 0.08 to 1, of which large ones don't fit: all sizes come, and none is favoured below."""
        rng = np.random.default_rng(0)
        boxes = np.array([draw_box((200, 200), Augment(), rng) for _ in range(2000)])
        share = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]) / 200**2
        low, high = ((share > start) & (share < start + 0.2) for start in (0.1, 0.4))
        assert abs(low.sum() - high.sum()) < 5 * np.sqrt(low.sum() + high.sum())
        assert abs((boxes[:, 0] / (200 - (boxes[:, 2] - boxes[:, 0]))).mean() - 0.5) < 0.03

    def test_a_flip_is_a_coin(self):
        pixels = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), np.uint8)
        plain = Augment(scale=(1.0, 1.0), ratio=(1.0, 1.0))
        found = [augmented(encode(pixels, "PNG"), SIZE, plain, np.random.default_rng(seed)) for seed in range(200)]
        mirrored = sum(np.array_equal(image, pixels[:, ::-1]) for image in found)
        assert mirrored + sum(np.array_equal(image, pixels) for image in found) == 200
        assert 65 < mirrored < 135  # five standard deviations of 7

    def test_jitter_stays_in_its_range(self):
        """Of an even grey picture only brightness moves anything: 100 by a factor of 0.6 to 1.4."""
        pixels = np.full((SIZE, SIZE, 3), 100, np.uint8)
        drawn = [
            augmented(encode(pixels, "PNG"), SIZE, Augment(jitter=0.4), np.random.default_rng(seed))[0, 0, 0]
            for seed in range(300)
        ]
        assert 60 <= min(drawn) < 66 and 134 < max(drawn) <= 140


class TestRandAugment:
    IMAGE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 20, 3), np.uint8))

    @pytest.mark.parametrize("name", sorted(set(RAND_OPS) - {"auto_contrast", "equalize", "solarize"}))
    def test_no_strength_changes_nothing(self, name):
        np.testing.assert_array_equal(RAND_OPS[name](self.IMAGE, 1.0, 0.0), self.IMAGE)

    def test_by_hand(self):
        pixels = np.asarray(self.IMAGE).astype(int)
        moved = np.asarray(RAND_OPS["translate_x"](self.IMAGE, 1.0, 1 / 3))  # 0.45 * 20 / 3 = 3 pixels to the left
        np.testing.assert_array_equal(moved[:, :17], pixels[:, 3:])
        assert (moved[:, 17:] == 128).all()
        moved = np.asarray(RAND_OPS["translate_y"](self.IMAGE, -1.0, 1 / 3))
        np.testing.assert_array_equal(moved[3:], pixels[:17])
        np.testing.assert_array_equal(RAND_OPS["posterize"](self.IMAGE, 1.0, 1.0), pixels // 16 * 16)
        half = np.where(pixels < 128, pixels, 255 - pixels)
        np.testing.assert_array_equal(RAND_OPS["solarize"](self.IMAGE, 1.0, 0.5), half)
        brighter = np.clip(pixels * 1.9, 0, 255)
        assert np.abs(np.asarray(RAND_OPS["brightness"](self.IMAGE, 1.0, 1.0)) - brighter).max() <= 1
        grey = np.asarray(RAND_OPS["colour"](self.IMAGE, -1.0, 1 / 0.9))  # none of its colour is left
        assert (grey == grey[..., :1]).all()

    def test_shear_and_rotation_keep_the_middle(self):
        dot = np.full((21, 21, 3), 10, np.uint8)
        dot[10, 10] = 250
        for name in ("shear_x", "shear_y", "rotate"):
            for sign in (-1.0, 1.0):
                found = np.asarray(RAND_OPS[name](Image.fromarray(dot), sign, 1.0))
                assert np.unravel_index(found[..., 0].argmax(), (21, 21)) == (10, 10)
                assert (found != dot).any()
