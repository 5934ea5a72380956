"""Files: written whole or not at all, and read without trust in what they say of themselves; for every other room."""

import contextlib
import hashlib
import io
import json
import math
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

MOST_LEVELS = 50  # of nesting in JSON
MOST_BYTES = 2**31  # of a file that is read into memory, and of the arrays that it unpacks to: twelve times the largest


def replace_file(path: str | os.PathLike[str], content: bytes) -> None:
    """Write `content` to `path`, whole or not at all: the file that was there stays until the new one is on disk."""
    path = Path(path)
    temp = path.with_name(f".{path.name}.tmp")
    try:
        with temp.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temp, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temp.unlink(missing_ok=True)
        raise


def read_file(path: str | os.PathLike[str], most_bytes: int = MOST_BYTES) -> bytes:
    """The content of a file of at most so many bytes; a ValueError names a larger one, before it is read."""
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        content = file.read(most_bytes + 1) if size <= most_bytes else b""  # a pipe or device states no size
    if max(size, len(content)) > most_bytes:
        raise ValueError(
            f"{path}: more than {most_bytes:,} bytes, expected a smaller file; see that it is the right one."
        )
    return content


def decode_json(text: str | bytes) -> Any:
    """What a JSON text holds; whatever is wrong with it is a ValueError, more than `MOST_LEVELS` of nesting included:
    what is deeper could be parsed and then not be printed or compared."""
    try:
        content = json.loads(text)
    except RecursionError:
        raise ValueError("JSON that is nested too deeply") from None
    level = [content]
    for _ in range(MOST_LEVELS):
        children = [list(value.values()) if isinstance(value, dict) else value for value in level]
        level = [child for values in children if isinstance(values, list) for child in values]
    if level:
        raise ValueError("JSON that is nested too deeply")
    return content


def checksum(content: Any) -> str:
    """SHA-256 of what JSON can hold, in hexadecimal digits; the order of entries doesn't matter."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def decode_arrays(data: bytes, most_bytes: int = MOST_BYTES) -> dict[str, np.ndarray]:
    """The arrays of an .npz file by name: numbers and texts, never pickles.

    What an archive says of itself may be anything, so nothing is taken on trust: entries are only read in memory, never
    unpacked to a folder; their sizes, stated and real, stay below `most_bytes` together; compression is deflation,
    whose output can be bounded; an array's bytes are as many as its shape and type say.

    Raises:
      ValueError: damaged, or anything else than such a file.
    """
    arrays: dict[str, np.ndarray] = {}
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = archive.infolist()
            if (size := sum(entry.file_size for entry in entries)) > most_bytes:
                raise ValueError(f"its arrays take {size:,} bytes, more than {most_bytes:,}")
            for entry in entries:
                if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                    raise ValueError(f"{entry.filename!r} is compressed by method {entry.compress_type}")
                name, dot, suffix = entry.filename.rpartition(".")
                if (dot, suffix) != (".", "npy") or name in arrays:
                    raise ValueError(f"{entry.filename!r} is no array, or there twice")
                arrays[name] = _decode_array(archive.read(entry))
    except Exception as error:  # damage shows as anything: zipfile, zlib and NumPy each have their own errors
        raise ValueError(one_line(error)) from None
    return arrays


def seal_arrays(meta: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> bytes:
    """An .npz file of `arrays` and of the entry `meta`, a JSON text that says what they are, with a SHA-256 over all.

    The same content gives the same bytes (for one version of zlib).
    """
    arrays = {name: np.ascontiguousarray(array, array.dtype.newbyteorder("<")) for name, array in arrays.items()}
    sealed = {**meta, "checksum": _checksum(meta, arrays)}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, array in {**arrays, "meta": np.array(json.dumps(sealed, sort_keys=True))}.items():
            entry = zipfile.ZipInfo(f"{name}.npy")  # its default date, not today's: equal arrays give equal bytes
            entry.compress_type, entry.create_system = zipfile.ZIP_DEFLATED, 3
            content = io.BytesIO()
            np.lib.format.write_array(content, array, version=(1, 0), allow_pickle=False)
            archive.writestr(entry, content.getvalue())
    return buffer.getvalue()


def open_arrays(data: bytes) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """What `seal_arrays` was given.

    Raises:
      ValueError: damaged, edited since, or anything else than such a file; in a few words, for the caller's sentence.
    """
    arrays = decode_arrays(data)
    return _opened(decode_json(str(arrays.pop("meta", ""))), arrays)


def seal_tensors(meta: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> bytes:
    """A safetensors file of `arrays`; `meta`, with a SHA-256 over all, is a JSON text in its metadata."""
    from safetensors.numpy import save

    arrays = {name: np.ascontiguousarray(array, array.dtype.newbyteorder("<")) for name, array in arrays.items()}
    return save(arrays, {"jaxnas": json.dumps({**meta, "checksum": _checksum(meta, arrays)}, sort_keys=True)})


def open_tensors(data: bytes) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """What `seal_tensors` was given; errors as for `open_arrays`."""
    from safetensors.numpy import load

    try:
        arrays = load(data)
        size = int.from_bytes(data[:8], "little")  # of the header, which `load` doesn't give
        meta = decode_json(decode_json(data[8 : 8 + size])["__metadata__"]["jaxnas"])
    except Exception as error:  # the library's own error, or no such entry
        raise ValueError(one_line(error)) from None
    return _opened(meta, arrays)


def _opened(meta: Any, arrays: dict[str, np.ndarray]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    if not isinstance(meta, dict):
        raise ValueError("nothing says what it is")
    if meta.pop("checksum", None) != _checksum(meta, arrays):
        raise ValueError("the checksum does not fit the content")
    return meta, arrays


def arrays_checksum(arrays: Mapping[str, np.ndarray]) -> str:
    """SHA-256 of named arrays, in hexadecimal digits; the order of names doesn't matter."""
    return _checksum({}, arrays)


def _checksum(meta: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.sha256(json.dumps(meta, sort_keys=True).encode())
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype.str} {array.shape}".encode() + array.tobytes())
    return digest.hexdigest()


def _decode_array(content: bytes) -> np.ndarray:
    file = io.BytesIO(content)
    if (version := np.lib.format.read_magic(file)) != (1, 0):
        raise ValueError(f"an array in version {version} of the format")
    shape, is_fortran, dtype = np.lib.format.read_array_header_1_0(file)
    if dtype.kind not in "biufUS" or dtype.itemsize * math.prod(shape) != len(content) - file.tell():
        raise ValueError(f"{len(content) - file.tell()} bytes for an array of {dtype} {shape}")
    flat = np.frombuffer(content, dtype, offset=file.tell())
    return flat.reshape(shape, order="F" if is_fortran else "C").copy()


def one_line(error: BaseException) -> str:
    """What an error of any library says, on one line that a reader can bear."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return text if len(text) <= 200 else f"{text[:197]}..."
