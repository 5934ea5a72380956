"""What the fuzz tests share: mutators of bytes, files, JSON, arrays and words, and the two outcomes that are accepted.

Whatever comes from outside either gives the right result or ends in one line that our own code says. A case is a test
of `test_fuzz.py` under `fuzz(few)`: it is given `rng`, has a mutator spoil something by it, and asks `judge`.

    JAXNAS_FUZZ_EXAMPLES=300 python -m pytest -q tests/test_fuzz.py    # so many of each test, instead of few
    JAXNAS_FUZZ_COUNT=1                                                # counts and shows what is wrong, and goes on
"""

import collections
import copy
import json
import math
import os
import random
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

ROOT = Path(__file__).parents[1]
OURS = (__file__, *(str(ROOT / top) for top in ("jaxnas", "experiments", "benchmarks")))
COUNTS: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)


def fuzz(few: int) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Run a test with `few` different `rng`, in the suite always the same ones."""
    bounded = settings(
        max_examples=int(os.environ.get("JAXNAS_FUZZ_EXAMPLES", few)),
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    return lambda test: bounded(given(rng=st.randoms(use_true_random=True))(test))


def judge(category: str, call: Callable[[], Any], is_right: Callable[[Any], bool]) -> None:
    """Fail unless `call` gives what is right, or raises what a command shows as one line, from our own code."""
    try:
        outcome = "right" if is_right(call()) else "another result than the right one"
    except (ValueError, OSError, FloatingPointError) as error:
        where, text = traceback.extract_tb(error.__traceback__)[-1].filename, str(error)
        outcome = "refused"
        if "\n" in text or not 0 < len(text) <= 1000:
            outcome = f"not one line: {text!r}"
        elif not isinstance(error, OSError) and not where.startswith(OURS):
            outcome = f"{type(error).__name__} from {where}: {text}"
    except Exception as error:
        outcome = "".join(traceback.format_exception(error)[-3:])
    COUNTS[category][outcome if outcome in ("right", "refused") else "wrong"] += 1
    if outcome not in ("right", "refused"):
        if not os.environ.get("JAXNAS_FUZZ_COUNT"):
            raise AssertionError(f"{category}: {outcome}")
        print(f"WRONG {category}: {outcome}")


def refused(line: str) -> None:
    """Raise what a command said in one line before its exit, for `judge`."""
    raise ValueError(line)


def same(one: Any, other: Any) -> bool:
    """Whether two trees have the same structure and equal leaves."""
    first, second = jax.tree_util.tree_leaves_with_path(one), jax.tree_util.tree_leaves_with_path(other)
    return [path for path, _ in first] == [path for path, _ in second] and all(
        np.array_equal(np.asarray(leaf), np.asarray(leaf_there)) for (_, leaf), (_, leaf_there) in zip(first, second)
    )


def spoil_bytes(rng: random.Random, content: bytes) -> bytes:
    """A bit flipped, a byte set, cut, emptied, a piece missing, twice or zeroed, something behind, all of it twice."""
    start = rng.randrange(max(len(content), 1))
    end = start + rng.choice([1, 2, 8, 40])
    before, piece, after = content[:start], content[start:end], content[end:]
    spoilt = [
        before,
        b"",
        before + after,
        before + piece + piece + after,
        before + bytes(len(piece)) + after,
        before + rng.randbytes(len(piece)) + after,
        content + rng.randbytes(end - start),
        content + content,
    ]
    if piece:
        spoilt += 2 * [before + bytes([piece[0] ^ (1 << rng.randrange(8))]) + content[start + 1 :]]
    return rng.choice(spoilt)


def spoil_folder(rng: random.Random, folder: Path) -> None:
    """One file of the folder: other bytes, gone, a folder, or with the content of another, once or both ways."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    path, other = rng.choice(files), rng.choice(files)
    content, content_there = path.read_bytes(), other.read_bytes()
    kind = rng.choice(["bytes", "bytes", "digit", "gone", "copied", "swapped", "folder"])
    if kind == "bytes":
        path.write_bytes(spoil_bytes(rng, content))
    elif kind == "digit":  # what an editor or a spreadsheet may do
        digits = [place for place, byte in enumerate(content) if chr(byte).isdigit()]
        if digits:
            place = rng.choice(digits)
            path.write_bytes(content[:place] + rng.choice("0123456789").encode() + content[place + 1 :])
    elif kind in ("copied", "swapped"):
        path.write_bytes(content_there)
        if kind == "swapped":
            other.write_bytes(content)
    else:
        path.unlink()
        if kind == "folder":
            path.mkdir()


# What a number, a text or an entry may turn out to be.
ODD: list[Any] = [
    *(None, True, -1, 0, 1, 1.5, 10**30, -(10**30), math.nan, math.inf, 1e300),
    *("", "x", "é\n", "1", [], {}, [[]], {"a": 1}, json.loads("[" * 60 + "]" * 60)),
]


def spoil_json(rng: random.Random, content: Any) -> Any:
    """One entry, at any depth, becomes something odd or goes away; or its number or text changes a little."""
    content = copy.deepcopy(content)
    parent, key = [content], 0
    while isinstance(entry := parent[key], dict | list) and entry and rng.random() < 0.8:
        parent, key = entry, rng.choice(list(entry) if isinstance(entry, dict) else range(len(entry)))
    kind = rng.choice(["odd", "gone", "other"])
    if kind == "gone" and entry is not content:
        del parent[key]
        return content
    if kind == "other" and isinstance(entry, int | float) and not isinstance(entry, bool):
        parent[key] = entry + rng.choice([1, -1, 0.5, 1e-9, 100])
    elif kind == "other" and isinstance(entry, str):
        parent[key] = entry[: rng.randrange(len(entry) + 1)] + rng.choice(["", "0", " ", "Z"])
    else:
        parent[key] = rng.choice(ODD)
    return content if entry is not content else parent[0]


def spoil_array(rng: random.Random, array: np.ndarray) -> Any:
    """Another type, shape or order, an entry out of range or not finite, nothing at all, no array."""
    array = np.array(array)
    entries = array.astype(np.result_type(array.dtype, rng.choice([np.int64, np.float64])))
    where = tuple(rng.randrange(length) for length in array.shape)
    odd = [-1, 2**7, 2**31, 2**40 + 1, -(2**62), 0.5, 1e30, math.nan, math.inf, -math.inf]
    entries[where] = rng.choice(odd if entries.dtype.kind == "f" else odd[:5])
    dtype = rng.choice([bool, np.int8, np.uint64, np.float16, np.float64, complex, "U8", object])
    with np.errstate(all="ignore"):
        other = array.astype(dtype)
    longer = np.concatenate([array, array[:1]])
    shapes = [array[:-1], longer, array[None], array.ravel(), array[:0], array.T, array[..., :1]]
    return rng.choice([entries, entries, other, other, *shapes, None, "x", [*array.tolist(), [1]], 7])


# What somebody may type.
WORDS = (
    *(
        "",
        "0",
        "1",
        "-1",
        "2",
        "3",
        "7",
        "16",
        "128",
        "1000",
        "0.5",
        "1.5",
        "-0.5",
        "1e-9",
        "1e30",
        "nan",
        "inf",
        "-inf",
    ),
    *("99999999999999999999", "2147483647", "2147483648", "1e999", "1e-999", "None", "none", "true", "True", "x", " "),
    *("é", "a b", "small", "auto", "uniform", "distinct", "nasbench201", "cifar10", "/", "..", "macs:1", "macs:50e3"),
    *("latency_ms:1", "a=b", "learning_rate=0.1", "learning_rate=", "num_steps=0", "1_000", "0x10", "٣", "{", "%s"),
    *("\n", "-", "--", "tracked", "calibrated", "node", "per_input", "transform", "dispatch", "mask", "serial"),
)


def some_word(rng: random.Random) -> str:
    """Of `WORDS`, a small number, or letters by lot."""
    letters = "".join(rng.choices("abc019.-_:=/ \t", k=rng.randrange(6)))
    return rng.choice([rng.choice(WORDS), rng.choice(WORDS), str(rng.randrange(-3, 40)), letters])
