"""Re-identification: figures by Market-1501's rule, losses by hand, batches, folders; and the experiment."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from jaxnas import datasets
from jaxnas.ops import Tape
from jaxnas.transfer import balanced_rows, batch_hard_triplet, cosine_distances, evaluate_retrieval
from jaxnas.transfer.embedding import Neck


def brute_force(distances, query_ids, query_cameras, gallery_ids, gallery_cameras):
    """(mean average precision, {rank: cmc}, counted queries), image by image as the rule is told."""
    precisions, firsts = [], []
    for query in range(len(query_ids)):
        ranking = sorted(range(len(gallery_ids)), key=lambda place: (distances[query][place], place))
        right_so_far, rank, found, first = 0, 0, [], None
        for place in ranking:
            same = gallery_ids[place] == query_ids[query]
            if same and gallery_cameras[place] == query_cameras[query]:
                continue
            rank += 1
            if same:
                right_so_far += 1
                found.append(right_so_far / rank)
                first = rank if first is None else first
        if found:
            precisions.append(sum(found) / len(found))
            firsts.append(first)
    cmc = {rank: sum(first <= rank for first in firsts) / len(firsts) for rank in (1, 2, 5)} if firsts else {}
    return (sum(precisions) / len(precisions) if firsts else None), cmc, len(firsts)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 6),
    st.integers(1, 12),
    st.integers(1, 4),
    st.integers(1, 3),
    st.booleans(),
)
def test_retrieval_is_what_brute_force_finds(seed, num_queries, num_gallery, num_ids, num_cameras, ties):
    rng = np.random.default_rng(seed)
    distances = rng.random((num_queries, num_gallery))
    distances = np.round(distances, 1) if ties else distances
    ids = [rng.integers(num_ids, size=size) for size in (num_queries, num_gallery)]
    cameras = [rng.integers(num_cameras, size=size) for size in (num_queries, num_gallery)]
    given = distances, ids[0], cameras[0], ids[1], cameras[1]
    expected, cmc, counted = brute_force(*given)
    if expected is None:
        with pytest.raises(ValueError, match=f"none of {num_queries} queries has an image of its identity"):
            evaluate_retrieval(*given)
        return
    found = evaluate_retrieval(*given)
    assert found.mean_average_precision == pytest.approx(expected, abs=1e-12)
    assert all(found.cmc(rank) == pytest.approx(share, abs=1e-12) for rank, share in cmc.items())
    assert (len(found.queries), found.num_unmatched) == (counted, num_queries - counted)


def test_retrieval_by_hand():
    """One query; nearest comes its own camera's view, which is dropped: right ones are then at ranks 1 and 3."""
    found = evaluate_retrieval(
        np.array([[0.0, 0.1, 0.2, 0.3], [0.0, 0.1, 0.2, 0.3]]),
        np.array([7, 9]), np.array([0, 0]), np.array([7, 7, 8, 7]), np.array([0, 1, 0, 2]),
    )  # fmt: skip
    np.testing.assert_allclose(found.average_precision, [(1 / 1 + 2 / 3) / 2])
    assert (found.first_match.tolist(), found.queries.tolist(), found.num_unmatched) == ([0], [0], 1)
    assert found.cmc(1) == 1.0


@pytest.mark.parametrize(
    "change, said",
    [
        ({"distances": np.zeros((2, 3))}, r"distances: shape \(2, 3\), expected \(1, 2\)"),
        ({"distances": np.array([[np.nan, 0.0]])}, "distances: nan at index"),
        ({"query_cameras": np.array([0, 1])}, r"query_cameras: shape \(2,\), expected \(1\)"),
        ({"gallery_ids": np.array([0.5, 1.0])}, "gallery_ids: dtype float64, expected integer"),
        ({"gallery_ids": np.array([3, 4])}, "none of 1 queries"),
    ],
)
def test_what_is_no_retrieval_is_refused(change, said):
    right = {
        "distances": np.array([[0.1, 0.2]]),
        "query_ids": np.array([1]), "query_cameras": np.array([0]),
        "gallery_ids": np.array([1, 2]), "gallery_cameras": np.array([1, 1]),
    }  # fmt: skip
    evaluate_retrieval(**right)
    with pytest.raises(ValueError, match=said):
        evaluate_retrieval(**{**right, **change})


def test_cosine_distances_by_hand():
    found = cosine_distances(np.array([[2.0, 0.0], [0.0, 0.0]]), np.array([[3.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]))
    np.testing.assert_allclose(found, [[0, 1, 2], [1, 1, 1]])


@settings(max_examples=15, deadline=None)
@given(
    hnp.arrays(np.float32, (6, 3), elements=st.floats(-4, 4, width=32)),
    st.lists(st.integers(0, 2), min_size=6, max_size=6),
)
def test_batch_hard_triplet_is_what_all_triplets_say(x, identities):
    terms = []
    for anchor in range(6):
        others = [place for place in range(6) if place != anchor]
        far = [math.dist(x[anchor], x[place]) for place in others if identities[place] == identities[anchor]]
        near = [math.dist(x[anchor], x[place]) for place in others if identities[place] != identities[anchor]]
        if far and near:
            terms.append(max(0.0, 0.3 + max(far) - min(near)))
    expected = sum(terms) / len(terms) if terms else 0.0
    assert float(TRIPLET(jnp.asarray(x), jnp.asarray(identities))) == pytest.approx(expected, abs=1e-4)


TRIPLET = jax.jit(batch_hard_triplet)


def test_equal_images_have_a_gradient():
    """The root of a distance of zero has none; the loss must not hand NaN on."""
    x, identities = jnp.zeros((4, 3)), jnp.array([0, 0, 1, 1])
    assert np.isfinite(jax.jit(jax.grad(batch_hard_triplet))(x, identities)).all()


def test_the_neck_normalises_what_is_classified():
    """Pooled features, then (x - mean) / sqrt(variance + 1e-5) by the batch, or by statistics that are given."""
    neck, features = Neck(4), jax.random.normal(jax.random.key(0), (6, 2, 3, 5)) * 3 + 1
    params = neck.init(jax.random.key(1), features, Tape(None, None))
    tape = Tape(None, None)
    pooled, embedding, logits = neck.apply(params, features, tape)
    x = np.asarray(features, np.float64).mean(axis=(1, 2))
    np.testing.assert_allclose(pooled, x, atol=1e-5)
    expected = (x - x.mean(axis=0)) / np.sqrt(x.var(axis=0) + 1e-5)
    np.testing.assert_allclose(embedding, expected, atol=1e-4)
    np.testing.assert_allclose(logits, expected @ np.asarray(params["params"]["kernel"]), atol=1e-4)
    again = neck.apply(params, features[:1], Tape(tape.used(5), None))
    np.testing.assert_allclose(again[1], expected[:1], atol=1e-4)


def test_batches_have_as_many_of_each():
    identities = np.array([5] * 3 + [2] * 2 + [9] * 8 + [1] * 4 + [7] * 4)
    rows_at = balanced_rows(jax.random.key(3), identities, 2, 4)
    seen = []
    for step in range(6):
        rows = rows_at(step)
        assert rows.shape == (8,) and rows.tolist() == rows_at(step).tolist()
        shown = [identities[rows[:4]], identities[rows[4:]]]
        assert all(len(set(each)) == 1 for each in shown) and shown[0][0] != shown[1][0]
        for four in (rows[:4], rows[4:]):
            assert len(set(four)) == min(4, int((identities == identities[four[0]]).sum()))  # repeated only if few
        seen.append({int(each[0]) for each in shown})
    for first, second in zip(seen[::2], seen[1::2]):  # a round of two batches shows four different identities
        assert not first & second
    assert balanced_rows(jax.random.key(4), identities, 2, 4)(0).tolist() != rows_at(0).tolist()


@pytest.mark.parametrize(
    "numbers, said",
    [
        ((6, 2), "a batch of 6 identities, but the training images show 3"),
        ((2, 1), "num_each is 1"),
        ((1, 2), "num_ident"),
    ],
)
def test_batches_that_cannot_be_are_refused(numbers, said):
    with pytest.raises(ValueError, match=said):
        balanced_rows(jax.random.key(0), np.array([0, 0, 1, 1, 2, 2]), *numbers)


MARKET = {
    "bounding_box_train": [
        "0002_c1s1_000451_03.jpg",
        "0002_c2s1_000551_01.jpg",
        "0007_c1s1_1_1.jpg",
        "0007_c3s1_1_1.jpg",
    ],
    "query": ["0003_c1s1_1_0.jpg"],
    "bounding_box_test": ["0003_c2s1_1_0.jpg", "0000_c1s1_1_0.jpg", "-1_c1s1_1_0.jpg"],
}


@pytest.fixture
def market(tmp_path):
    for folder, names in MARKET.items():
        (tmp_path / folder).mkdir()
        for number, name in enumerate(names):
            Image.new("RGB", (8, 16), (40 * number, 10, 20)).save(tmp_path / folder / name)
        (tmp_path / folder / "Thumbs.db").write_bytes(b"")  # as the set comes
    return tmp_path


def test_market_folders_are_read(market):
    found = datasets.read_market(market, height=12, width=6)
    assert found.train.images.shape == (4, 12, 6, 3) and found.train.images.dtype == np.uint8
    assert found.train.identities.tolist() == [0, 0, 1, 1] and found.train.cameras.tolist() == [1, 2, 1, 3]
    assert (found.query.identities.tolist(), found.query.cameras.tolist()) == ([3], [1])
    assert found.gallery.identities.tolist() == [0, 3]  # junk, -1, is left out; 0 is no person, and a wrong answer
    assert set(found.gallery.cameras.tolist()) == {1, 2}


@pytest.mark.parametrize(
    "spoil, said",
    [
        (lambda root: (root / "query" / "0003_c1s1_1_0.jpg").unlink(), "query: no picture in it"),
        (
            lambda root: (root / "query" / "person.jpg").write_bytes(b""),
            "person.jpg: expected a name such as 0002_c1s1",
        ),
        (
            lambda root: (root / "query" / "0004_c1s1_1_0.jpg").write_bytes(b"\xff\xd8"),
            "0004_c1s1_1_0.jpg: cannot be read",
        ),
        (
            lambda root: (root / "bounding_box_train" / "0007_c1s1_1_1.jpg").unlink(),
            "identity 7 has a single picture; expected two identities or more with two pictures",
        ),
        (
            lambda root: (root / "query" / "0003_c1s1_1_0.jpg").rename(root / "query" / "0007_c1s1_1_0.jpg"),
            "identity 7 is in bounding_box_train and in query",
        ),
        (lambda root: (root / "query").rename(root / "queries"), "there is no folder query"),
    ],
)
def test_market_folders_that_are_not_whole_are_refused(market, spoil, said):
    spoil(market)
    with pytest.raises(ValueError, match=said) as refused:
        datasets.read_market(market)
    assert "\n" not in str(refused.value)


def test_the_proxy_never_trains_on_what_is_searched():
    labels = np.tile(np.arange(5), 8)
    images = np.repeat(10 * labels[:, None, None, None] + 30, 6, axis=1).repeat(6, axis=2).astype(np.uint8)
    made = datasets.classes_as_identities("x", (images, labels), (images, labels), [1, 4], size=12)
    assert made.train.images.shape == (24, 12, 12, 1) and sorted(set(made.train.identities)) == [0, 1, 2]
    assert set(made.query.identities) == set(made.gallery.identities) == {1, 4}
    assert (len(made.query.identities), len(made.gallery.identities)) == (4, 12)
    again = datasets.classes_as_identities("x", (images, labels), (images, labels), [1, 4], size=12)
    for part, other in zip(itertools.chain(made.train, made.query), itertools.chain(again.train, again.query)):
        np.testing.assert_array_equal(part, other)
    assert len(set(made.gallery.cameras)) > 1
    with pytest.raises(ValueError, match="classes held out are"):
        datasets.classes_as_identities("x", (images, labels), (images, labels), [1, 9], size=12)
