"""Reading TFRecord files, and the few protobuf fields in them, without TensorFlow.

A record is its length (8 bytes, little-endian), a checksum of these, the content, a checksum of that. The checksum is
CRC-32C, rotated and offset. It is computed here for thousands of records at a time, byte position by byte position,
which NumPy does at some 100 MB/s: no package is needed for a file that is read once.
"""

import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

MAX_LENGTH = 2**16  # bytes of a record: far above what the benchmark's have; more is damage


def read_batches(path: Path, start: int, batch_size: int) -> Iterator[tuple[int, list[bytes]]]:
    """The contents of the records from byte `start` on, checked: (byte after the batch, at most batch_size records).

    Raises:
      ValueError: the file ends within a record, a checksum is wrong, or a record is longer than MAX_LENGTH; names the
        file and the byte.
      OSError: the file cannot be read.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        while start < size:
            file.seek(start)
            positions: list[int] = []
            records: list[tuple[bytes, ...]] = []
            failure = None
            while len(records) < batch_size and file.tell() < size and failure is None:
                positions.append(file.tell())
                try:
                    records.append(_read_record(file, path, size))
                except ValueError as error:
                    failure = error
            if records:  # checked before a later failure is told: one wrong length leads all that follows astray
                lengths, length_checks, contents, checks = zip(*records, strict=True)
                _compare(path, positions, lengths, length_checks)
                _compare(path, positions, contents, checks)
            if failure:
                raise failure
            start = file.tell()
            yield start, list(contents)


def _read_record(file: BinaryIO, path: Path, size: int) -> tuple[bytes, bytes, bytes, bytes]:
    """Length, its checksum, content, its checksum; all as they stand."""
    position = file.tell()
    packed, check = file.read(8), file.read(4)
    if len(check) == 4:
        (length,) = struct.unpack("<Q", packed)
        if length > MAX_LENGTH or position + 16 + length > size:
            _compare(path, [position], [packed], [check])
        if length > MAX_LENGTH:
            raise ValueError(f"{path}: the record at byte {position} has {length} bytes, more than {MAX_LENGTH}.")
        if position + 16 + length <= size:
            return packed, check, file.read(length), file.read(4)
    raise ValueError(
        f"{path}: cut short, the record at byte {position} does not end within the file's {size} bytes; take it again."
    )


def _compare(path: Path, positions: list[int], messages: Sequence[bytes], stored: Sequence[bytes]) -> None:
    wrong = np.flatnonzero(masked_crc32c(messages) != np.frombuffer(b"".join(stored), "<u4"))
    if wrong.size:
        raise ValueError(
            f"{path}: damaged, the checksum of the record at byte {positions[wrong[0]]} is wrong; take it again."
        )


def masked_crc32c(messages: Sequence[bytes]) -> np.ndarray:
    """The checksum that TFRecord stores of each message: uint32 [num_messages]."""
    crc = crc32c(messages)
    return ((crc >> np.uint32(15)) | (crc << np.uint32(17))) + np.uint32(0xA282EAD8)


def crc32c(messages: Sequence[bytes]) -> np.ndarray:
    """CRC-32C (Castagnoli) of each message: uint32 [num_messages]."""
    lengths = np.array([len(message) for message in messages])
    width = lengths.max(initial=0)
    padded = b"".join(message.ljust(width, b"\0") for message in messages)
    columns = np.ascontiguousarray(np.frombuffer(padded, np.uint8).reshape(len(messages), width).T)
    crc = np.full(len(messages), 0xFFFFFFFF, np.uint32)
    for place, column in enumerate(columns):
        after = _TABLE[(crc & np.uint32(0xFF)) ^ column] ^ (crc >> np.uint32(8))
        crc = np.where(place < lengths, after, crc)
    return ~crc


def _crc_table() -> np.ndarray:
    """What eight shifts do to each byte; 0x82F63B78 is Castagnoli's polynomial, lowest bit first."""
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, (table >> np.uint32(1)) ^ np.uint32(0x82F63B78), table >> np.uint32(1))
    return table


_TABLE = _crc_table()


def protobuf_fields(message: bytes) -> Iterator[tuple[int, int | float | bytes]]:
    """The fields of a message in the order of the bytes: (number, value). Two messages with three kinds of field are no
    reason for a schema compiler: varints come as int, 8 bytes as float (double), length-delimited ones as bytes.

    Raises:
      ValueError: another kind of field, or a message that ends within one.
    """
    place = 0

    def varint() -> int:
        nonlocal place
        value = shift = 0
        while True:
            if place == len(message) or shift > 63:
                raise ValueError("a protobuf message ends within a number")
            byte = message[place]
            value |= (byte & 0x7F) << shift
            place, shift = place + 1, shift + 7
            if byte < 0x80:
                return value

    while place < len(message):
        number, kind = divmod(varint(), 8)
        if kind == 0:
            yield number, varint()
            continue
        if kind not in (1, 2):
            raise ValueError(f"a protobuf field of kind {kind}")
        length = 8 if kind == 1 else varint()
        content = message[place : place + length]
        if len(content) < length:
            raise ValueError("a protobuf message ends within a field")
        place += length
        yield number, struct.unpack("<d", content)[0] if kind == 1 else content
