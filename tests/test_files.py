"""A file is written whole or not at all, and nothing that it says of itself is taken on trust when it is read."""

import io
import json
import struct
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest

from jaxnas.files import MOST_LEVELS, decode_arrays, decode_json, read_file, replace_file


def refuses(message, function, *args):
    with pytest.raises(ValueError, match=message) as error:
        function(*args)
    assert "\n" not in str(error.value)


def npz(**arrays) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def archive(entries, method=zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as file, warnings.catch_warnings(action="ignore"):  # names there twice
        for name, content in entries:
            file.writestr(name, content)
    return buffer.getvalue()


def npy(header: str, content: bytes = b"") -> bytes:
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + content


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, the disk that is always full (Linux)")
def test_full_disk_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    replace_file(path, b"old")
    (tmp_path / ".file.tmp").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        replace_file(path, b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["file"] and path.read_bytes() == b"old"
    replace_file(path, b"new")
    assert path.read_bytes() == b"new"


def test_arrays_come_back():
    arrays = {
        "a": np.arange(6, dtype=np.int8).reshape(2, 3),
        "b/c": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "d": np.array("text"),
        "e": np.zeros((0, 2), bool),
        "f": np.array([1, 2], ">i4"),
    }
    found = decode_arrays(npz(**arrays))
    assert list(found) == list(arrays)
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype and found[name].flags.writeable
        np.testing.assert_array_equal(found[name], array)


def stating(descr: str, shape: int = 1, content: bytes = bytes(8)) -> bytes:
    return npy(f"{{'descr': {descr}, 'fortran_order': False, 'shape': ({shape},)}}", content)


ONE = stating("'<f8'")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "BadZipFile"),
        (npz(a=np.zeros(3))[:-30], "BadZipFile"),
        (archive([("a.npy", stating("'<f8'", 10**12, b""))]), "0 bytes for"),
        (archive([("a.npy", ONE + b"more")]), "12 bytes for an array of float64"),
        (archive([("a.npy", stating("'|O'"))]), "of object"),
        (archive([("a.npy", stating("[('a', '<f8')]"))]), "'a'"),
        (archive([("a.npy", npy("__import__('os').getpid()"))]), "ValueError"),
        (archive([("a.npy", b"\x93NUMPY\x03\x00" + ONE[8:])]), "version"),
        (archive([("a.npy", ONE), ("a.npy", ONE)]), "there twice"),
        (archive([("../a.txt", ONE)]), "is no array"),
        (archive([("a.npy", ONE)], zipfile.ZIP_BZIP2), "compressed by method 12"),  # its output cannot be bounded
        (archive([("a.npy", ONE)], zipfile.ZIP_LZMA), "compressed by method 14"),
    ],
)  # fmt: skip
def test_arrays_that_are_none(data, message):
    refuses(message, decode_arrays, data)


def test_what_an_archive_unpacks_to_is_bounded():
    bomb = npz(a=np.zeros(10**7, np.uint8), b=np.zeros(10, np.uint8))
    assert len(bomb) < 11_000
    refuses(r"its arrays take 10,000,266 bytes, more than 10,000,000", decode_arrays, bomb, 10**7)
    assert decode_arrays(bomb)["a"].size == 10**7
    # An archive that states 100 bytes and holds 10 million ends at what it states.
    liar = bomb.replace(struct.pack("<I", 10**7 + 128), struct.pack("<I", 228))
    refuses("BadZipFile: Bad CRC-32", decode_arrays, liar)


def test_files_are_read_up_to_a_size(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"12345")
    assert read_file(path, 5) == b"12345"
    refuses(r"file: more than 4 bytes, expected a smaller file", read_file, path, 4)
    with path.open("wb") as file:
        file.truncate(2**40)  # takes no disk
    refuses("more than 2,147,483,648 bytes", read_file, path)
    if Path("/dev/zero").exists():
        refuses("more than 1,000 bytes", read_file, "/dev/zero", 1000)


def test_json():
    assert decode_json('{"a": [1, 2.5, null]}') == json.loads('{"a": [1, 2.5, null]}')
    refuses("nested too deeply", decode_json, "[" * 10**6)
    refuses("nested too deeply", decode_json, '{"a":' * 10**6)
    for open_, close in ("[]", ('{"a": [', "]}")):
        most = MOST_LEVELS // len(close)
        assert decode_json(open_ * most + close * most)
        refuses("nested too deeply", decode_json, open_ * (most + 1) + close * (most + 1))
    for text in ("", "{", b"\xff\xfe", "1" * 5000):
        with pytest.raises(ValueError):
            decode_json(text)
