"""Detection: overlaps, suppression and assignment by brute force, COCO's metrics by its oracle, folders, the proxy."""

import json
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from jaxnas import datasets
from jaxnas.space import ChainLayout
from jaxnas.spaces import chain_space
from jaxnas.supernets import make_supernet
from jaxnas.transfer import (
    Objects,
    assign,
    evaluate_coco,
    evaluate_detections,
    giou_loss,
    make_backbone,
    make_detection_loss,
    make_detector,
    pairwise_iou,
    suppress,
)
from jaxnas.transfer.assignment import Targets, detection_losses
from jaxnas.transfer.detector import Outputs, locations

LAYOUT = ChainLayout(3, (4, 6), (2, 2), 7, image_size=8, in_channels=1, num_classes=3)
SPACE = chain_space("falling2", LAYOUT, [("nor_conv_1x1", "nor_conv_3x3")] * 2)


def iou(box, other):
    across = min(box[2], other[2]) - max(box[0], other[0])
    down = min(box[3], other[3]) - max(box[1], other[1])
    shared = max(across, 0.0) * max(down, 0.0)
    sizes = [(end[2] - end[0]) * (end[3] - end[1]) for end in (box, other)]
    return shared / (sum(sizes) - shared) if sum(sizes) > shared else 0.0


def some_boxes(rng, number):
    corner = rng.uniform(0, 20, (number, 2))
    return np.concatenate([corner, corner + rng.uniform(0.5, 12, (number, 2))], axis=1).astype(np.float32)


def greedy(boxes, scores, labels, threshold):
    kept = []
    for place in sorted(range(len(boxes)), key=lambda place: (-scores[place], place)):
        if scores[place] > 0 and not any(
            labels[place] == labels[other] and iou(boxes[place], boxes[other]) > threshold for other in kept
        ):
            kept.append(place)
    return kept


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.3, 0.6]), st.booleans())
def test_suppression_is_greedy(seed, threshold, ties):
    rng = np.random.default_rng(seed)
    boxes, labels = some_boxes(rng, 12), rng.integers(2, size=12)
    scores = rng.uniform(-0.2, 1, 12).astype(np.float32)
    scores = np.round(scores, 1) if ties else scores
    kept = suppress(jnp.asarray(boxes), jnp.asarray(scores), jnp.asarray(labels), num_kept=5, threshold=threshold)
    expected = greedy(boxes, scores, labels, threshold)[:5]
    assert np.asarray(kept.rows)[np.asarray(kept.is_kept)].tolist() == expected
    assert not np.asarray(kept.rows)[~np.asarray(kept.is_kept)].any()
    np.testing.assert_allclose(
        pairwise_iou(boxes[:3], boxes[3:]), [[iou(box, other) for other in boxes[3:]] for box in boxes[:3]], atol=1e-5
    )


def test_generalised_overlap_by_hand():
    """The same box 0; touching halves of one square 1 - (0 - 0); apart by as much as they are wide 1 + 1/3."""
    one = jnp.array([[0.0, 0, 2, 2], [0, 0, 1, 2], [0, 0, 1, 1], [0, 0, 0, 0]])
    other = jnp.array([[0.0, 0, 2, 2], [1, 0, 2, 2], [2, 0, 3, 1], [0, 0, 0, 0]])
    np.testing.assert_allclose(giou_loss(one, other)[:3], [0.0, 1.0, 1 + 1 / 3], atol=1e-6)
    assert np.isfinite(jax.grad(lambda box: giou_loss(box, other).sum())(one)).all()


def assigned(boxes, labels, points, strides):
    """Location by location, as FCOS tells it."""
    found, levels = [], sorted(set(strides.tolist()))
    for (x, y), stride in zip(points, strides):
        level, best = levels.index(stride), None
        least = 0 if level == 0 else 8 * levels[level - 1]
        most = np.inf if level == len(levels) - 1 else 8 * stride
        for number, (box, label) in enumerate(zip(boxes, labels)):
            sides = (x - box[0], y - box[1], box[2] - x, box[3] - y)
            centre = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
            near = max(abs(x - centre[0]), abs(y - centre[1])) < 1.5 * stride
            if label >= 0 and min(sides) > 0 and near and least < max(sides) <= most:
                size = (box[2] - box[0]) * (box[3] - box[1])
                if best is None or size < best[0]:
                    across, down = (sides[0], sides[2]), (sides[1], sides[3])
                    balance = np.sqrt(min(across) / max(across) * min(down) / max(down))
                    best = (size, labels[number], number, balance)
        found.append((-1, None, 0.0) if best is None else best[1:])
    return found


@pytest.mark.parametrize("seed", range(4))
def test_locations_answer_for_the_smallest_object_that_suits_them(seed):
    rng = np.random.default_rng(seed)
    points, strides = locations((32, 24), (2, 4, 8))
    corner = rng.uniform(0, 16, (5, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(1, [8, 30], (5, 2))], axis=1).astype(np.float32)
    labels = np.array([0, 3, 1, 2, -1])
    found = ASSIGN(boxes, labels, points, strides)
    expected = assigned(boxes.astype(np.float64), labels, points.astype(np.float64), strides)
    assert found.labels.tolist() == [label for label, *_ in expected] and (found.labels >= 0).any()
    np.testing.assert_allclose(found.centredness, [balance for *_, balance in expected], atol=1e-4)
    for row, (label, number, _) in enumerate(expected):
        if label >= 0:
            np.testing.assert_array_equal(found.boxes[row], boxes[number])


ASSIGN = jax.jit(assign)


def test_losses_by_hand():
    """One location with an object and one without; two classes."""
    points = np.array([[4.0, 4.0], [12.0, 4.0]], np.float32)
    outputs = Outputs(
        np.array([[[0.0, -2.0], [1.0, -1.0]]], np.float32),
        np.array([[[2.0, 2, 2, 2], [1, 1, 1, 1]]], np.float32),
        np.array([[0.5, 3.0]], np.float32),
    )
    targets = Targets(
        np.array([[1, -1]]), np.array([[[2.0, 2, 6, 10], [0, 0, 0, 0]]], np.float32), np.array([[0.6, 0.0]], np.float32)
    )

    def focal(logit, wanted):
        p = 1 / (1 + np.exp(-logit))
        return -0.25 * (1 - p) ** 2 * np.log(p) if wanted else -0.75 * p**2 * np.log(1 - p)

    classes = focal(0.0, 0) + focal(-2.0, 1) + focal(1.0, 0) + focal(-1.0, 0)
    overlap = 1 - 16 / 32  # 4 x 4 within 4 x 8
    p = 1 / (1 + np.exp(-0.5))
    central = -(0.6 * np.log(p) + 0.4 * np.log(1 - p))
    found = detection_losses(
        Outputs(*map(jnp.asarray, outputs)), Targets(*map(jnp.asarray, targets)), jnp.asarray(points)
    )
    np.testing.assert_allclose(
        [found["term_classes"], found["term_boxes"], found["term_centredness"]], [classes, overlap, central], rtol=1e-5
    )


@pytest.fixture(scope="module")
def detector():
    backbone = make_backbone(make_supernet(SPACE), [1, 0], strides=(2, 4))
    return backbone, make_detector(backbone, 3, width=4, depth=1)


def test_a_detector_says_something_of_every_location(detector):
    backbone, made = detector
    params = made.init(jax.random.key(0), backbone.init(jax.random.key(1)))
    images = jax.random.normal(jax.random.key(2), (2, 16, 8, 1))
    outputs, _ = jax.eval_shape(lambda params, images: made.apply(params, images, None), params, images)
    num_locations = 8 * 4 + 4 * 2
    assert outputs.logits.shape == (2, num_locations, 3) and outputs.distances.shape == (2, num_locations, 4)
    assert len(locations((16, 8), (2, 4))[0]) == num_locations
    found = jax.jit(lambda params, images: made.detect(params, images, None))(params, images)
    assert found.boxes.shape == (2, 100, 4) and ((found.labels == -1) == (found.scores == 0)).all()
    for boxes, scores, labels in zip(*map(np.asarray, found)):
        there = labels >= 0
        assert (np.diff(scores[there]) <= 0).all() and there.any()
        assert (boxes >= 0).all() and (boxes[:, [0, 2]] <= 8).all() and (boxes[:, [1, 3]] <= 16).all()
        assert greedy(boxes[there], scores[there], labels[there], 0.6) == list(range(int(there.sum())))
    with pytest.raises(ValueError, match="images are 16 x 10, expected sides of whole multiples of the strides 2, 4"):
        made.apply(params, jnp.zeros((1, 16, 10, 1)), None)
    loss, terms = jax.eval_shape(
        make_detection_loss(made), params, images, jnp.zeros((2, 3, 4)), jnp.zeros((2, 3), jnp.int32)
    )
    assert loss.shape == () and set(terms) == {"term_classes", "term_boxes", "term_centredness"}


def test_strides_that_do_not_fit_each_other_are_refused(detector):
    backbone, _ = detector
    with pytest.raises(ValueError, match="strides are \\(2, 3\\), expected each a multiple of the one before"):
        make_detector(backbone._replace(channels={2: 4, 3: 4}), 3)


def test_the_oracle_of_coco_is_reproduced(data_dir):
    """The figures that pycocotools' own demonstration prints of these files."""
    pytest.importorskip("pycocotools", reason="pip install 'jaxnas[detection]'")
    folder = data_dir / "coco"
    if not folder.is_dir():
        pytest.skip(f"there is no folder {folder} with COCO's oracle")
    annotated = json.loads((folder / "instances_val2014_100.json").read_text())
    results = json.loads((folder / "instances_val2014_fakebbox100_results.json").read_text())
    figures, _ = evaluate_coco(annotated, results)
    published = [0.505, 0.697, 0.573, 0.586, 0.519, 0.501, 0.387, 0.594, 0.595, 0.640, 0.566, 0.564]
    np.testing.assert_allclose(list(figures.values()), published, atol=1e-3)


def test_average_precision_by_hand():
    """Class 0: the better of two detections is right, the other overlaps nothing. Class 1: missed. Class 2: none."""
    pytest.importorskip("pycocotools", reason="pip install 'jaxnas[detection]'")
    there = Objects(np.array([[0.0, 0, 10, 10], [20, 20, 60, 60]]), np.array([0, 1]))
    seen = Objects(np.array([[0.0, 0, 10, 10], [40, 0, 50, 10]]), np.array([0, 0]), np.array([0.9, 0.8]))
    figures, by_class = evaluate_detections([there], [seen], 3)
    assert figures["ap"] == pytest.approx(0.5) and figures["ap_small"] == pytest.approx(1.0)
    assert figures["ap_medium"] == 0.0 and np.isnan(figures["ap_large"])
    np.testing.assert_allclose(by_class, [1.0, 0.0, np.nan])
    nothing = Objects(np.zeros((0, 4)), np.zeros(0, int), np.zeros(0))
    assert evaluate_detections([there], [nothing], 3)[0]["ap"] == 0.0
    crowd = there._replace(is_crowd=np.array([False, True]))
    assert evaluate_detections([crowd], [seen], 3)[0]["ap"] == pytest.approx(1.0)  # the missed one counts neither way
    flat = there._replace(boxes=np.array([[0.0, 0, 10, 10], [20, 20, 20, 60]]))
    with pytest.raises(ValueError, match=r"box \[20.0, 20.0, 20.0, 60.0\] has no area"):
        evaluate_detections([flat], [seen], 3)
    with pytest.raises(ValueError, match="labels of detections: 7 at index"):
        evaluate_detections([there], [seen._replace(labels=np.array([0, 7]))], 3)
    with pytest.raises(ValueError, match="1 images with objects and 0 with detections"):
        evaluate_detections([there], [], 3)


ANNOTATED = {
    "images": [
        {"id": 7, "file_name": "a.jpg", "width": 40, "height": 20},
        {"id": 9, "file_name": "b.jpg", "width": 10, "height": 20},
    ],
    "categories": [{"id": 18, "name": "dog"}, {"id": 3, "name": "car"}],
    "annotations": [
        {"id": 1, "image_id": 7, "category_id": 18, "bbox": [30, 5, 20, 10], "iscrowd": 0},  # beyond the right side
        {"id": 2, "image_id": 7, "category_id": 3, "bbox": [0, 0, 8, 4], "iscrowd": 1},
        {"id": 3, "image_id": 9, "category_id": 3, "bbox": [2, 2, 0, 5], "iscrowd": 0},  # no area
        {"id": 4, "image_id": 9, "category_id": 3, "bbox": [50, 2, 6, 5], "iscrowd": 0},  # outside
    ],
}  # fmt: skip


@pytest.fixture
def coco(tmp_path):
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "instances_train2017.json").write_text(json.dumps(ANNOTATED))
    (tmp_path / "train2017").mkdir()
    for image in ANNOTATED["images"]:
        Image.new("RGB", (image["width"], image["height"]), (200, 0, 0)).save(
            tmp_path / "train2017" / image["file_name"]
        )
    return tmp_path


def test_coco_folders_are_read(coco):
    with pytest.warns(
        UserWarning, match=r"2 boxes have no area within their picture, the first b.jpg, box \(2.0, 2.0,"
    ):
        found = datasets.read_coco(coco, "train", size=20)
    assert found.class_names == ("car", "dog") and found.images.shape == (2, 20, 20, 3)
    np.testing.assert_allclose(found.boxes[0], [[15, 2.5, 20, 7.5], [0, 0, 4, 2]])  # cut at 40 pixels, and halved
    assert found.labels.tolist() == [[1, 0], [-1, -1]] and found.is_crowd.tolist() == [[False, True], [False, False]]
    np.testing.assert_allclose(found.scales, [0.5, 1.0])
    pictures = found.images[np.array([1, 0])]
    assert (pictures[0][:20, :10, 0] > 150).all() and (pictures[0][:, 10:] == 114).all()
    assert (pictures[1][:10, :, 0] > 150).all() and (pictures[1][10:] == 114).all()


def spoil_picture(root):
    path = root / "train2017" / "a.jpg"
    path.write_bytes(path.read_bytes()[:100])


def edit(root, **changes):
    (root / "annotations" / "instances_train2017.json").write_text(json.dumps(ANNOTATED | changes))


@pytest.mark.parametrize(
    "spoil, said",
    [
        (lambda root: edit(root, images=[]), "not annotations as COCO has them"),
        (lambda root: edit(root, annotations=[ANNOTATED["annotations"][0] | {"image_id": 5}]), "of no picture"),
        (lambda root: (root / "train2017").rename(root / "train"), "there is no folder train2017"),
        (lambda root: (root / "annotations" / "instances_train2017.json").unlink(), "0 files annotations/instances"),
        (lambda root: None, "2 boxes have no area within their picture, the first b.jpg"),
    ],
)  # fmt: skip
def test_coco_folders_that_are_not_whole_are_refused(coco, spoil, said):
    spoil(coco)
    with pytest.raises(ValueError, match=said) as refused:
        datasets.read_coco(coco, "train", size=20, damaged="stop")
    assert "\n" not in str(refused.value)


def test_pictures_that_cannot_be_read_are_named(coco):
    edit(coco, annotations=[])
    found = datasets.read_coco(coco, "train", size=20)
    spoil_picture(coco)
    Image.new("RGB", (11, 20)).save(coco / "train2017" / "b.jpg")
    for row, said in (
        (0, r"a.jpg: cannot be read \("),
        (1, r"b.jpg: cannot be read \(ValueError: 11 x 20 pixels, its annotation"),
    ):
        with pytest.raises(ValueError, match=said):
            found.images[np.array([row])]


def test_voc_records_are_read(tmp_path):
    Image.new("RGB", (40, 20), (200, 0, 0)).save(tmp_path / "a.jpg")
    objects = {
        "bbox": np.array([[0.25, 0.5, 0.75, 1.0], [0, 0, 1, 0.5]], np.float32),
        "label": np.array([1, 0]),
        "is_difficult": np.array([False, True]),
    }
    records = [{"image": (tmp_path / "a.jpg").read_bytes(), "image/filename": "a.jpg", "objects": objects}]
    found = datasets.read_voc(records, ["plane", "bird"], size=80)
    np.testing.assert_allclose(found.boxes[0], [[40, 10, 80, 30], [0, 0, 40, 40]])  # top, left, bottom, right as shares
    assert found.labels.tolist() == [[1, 0]] and found.is_crowd.tolist() == [[False, True]]
    assert found.images[:1].shape == (1, 80, 80, 3)


@pytest.mark.parametrize("channels", [1, 3])
def test_pasted_objects_lie_where_their_boxes_say(channels):
    rng = np.random.default_rng(0)
    images = np.zeros((5, 10, 10, channels), np.uint8)
    images[:, 2:8, 3:9] = 200 + 10 * np.arange(5)[:, None, None, None]  # a bright block; its value tells the class
    made = datasets.paste(
        images, np.arange(5), 5, 30, size=40, sides=(10, 10), most_objects=3, seed=int(rng.integers(9))
    )
    assert made.images.shape == (30, 40, 40, channels)
    shown = made.labels >= 0
    assert set(shown.sum(axis=1)) == {1, 2, 3}
    for scene, boxes, labels in zip(made.images, made.boxes, made.labels):
        for box, label in zip(boxes.astype(int), labels):
            if label >= 0:
                left, top, right, bottom = box
                part = scene[top:bottom, left:right]
                if channels == 1:
                    assert part.shape == (6, 6, 1) and (part == 200 + 10 * label).all()
                else:
                    np.testing.assert_array_equal(part, images[label])
    again = datasets.paste(images, np.arange(5), 5, 30, size=40, sides=(10, 10), most_objects=3, seed=0)
    other = datasets.paste(images, np.arange(5), 5, 30, size=40, sides=(10, 10), most_objects=3, seed=1)
    assert (again.images != other.images).any()
    with warnings.catch_warnings(), pytest.raises(ValueError, match="sides is 50, expected"):
        datasets.paste(images, np.arange(5), 5, 3, size=40, sides=(10, 50))
