"""Plain data out of pickles that somebody else made, compressed by bzip2: the files of NATS-Bench, and nothing else.

A pickle is a program. It is read in three steps, each of which ends in a ValueError: it is decompressed up to a bound;
its instructions are looked through, so that none asks for more than the file can hold; then it runs, and the names that
it may call are those of `_CALLABLE`, none of which is NumPy's or does more than make a number or a container.
"""

import bz2
import hashlib
import io
import pickle
import pickletools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from jaxnas.checks import shown
from jaxnas.files import one_line, read_file

MOST_BYTES = 2**24  # of a file, packed and unpacked; those of NATS-Bench take up to some two million
_NUMBERS = ("b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8")
# What the protocols 2 to 4 make of numbers, texts and containers; no other instruction is run.
_INSTRUCTIONS = {
    "PROTO", "FRAME", "STOP", "MARK", "POP", "POP_MARK", "NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2",
    "LONG1", "BINFLOAT", "SHORT_BINUNICODE", "BINUNICODE", "SHORT_BINBYTES", "BINBYTES", "EMPTY_TUPLE", "TUPLE",
    "TUPLE1", "TUPLE2", "TUPLE3", "EMPTY_LIST", "APPEND", "APPENDS", "EMPTY_DICT", "SETITEM", "SETITEMS", "EMPTY_SET",
    "ADDITEMS", "BINGET", "LONG_BINGET", "BINPUT", "LONG_BINPUT", "MEMOIZE", "GLOBAL", "STACK_GLOBAL", "REDUCE",
    "BUILD",
}  # fmt: skip


def sha256_of(path: Path) -> str:
    """What identifies a file's content, to be asked for before it is opened; errors as in `read_pickle`."""
    return hashlib.sha256(read_file(path, MOST_BYTES)).hexdigest()


def read_pickle(path: Path, sha256: str) -> dict[Any, Any]:
    """The dict that a pickle holds: numbers, texts, lists, tuples, sets and dicts; `sha256` is that of its file.

    Raises:
      ValueError: another content, damaged, too large, no plain data or no dict.
      OSError: the file cannot be read.
    """
    content = read_file(path, MOST_BYTES)
    if hashlib.sha256(content).hexdigest() != sha256:
        raise ValueError(f"{path}: changed since it was first read; leave the folder alone and start again.")
    try:
        value = _Unpickler(io.BytesIO(_checked(_decompressed(content)))).load()
    except Exception as error:  # a damaged pickle raises anything
        raise ValueError(
            f"{path}: cut short, damaged or no file of NATS-Bench ({one_line(error)}); take it again."
        ) from None
    if not isinstance(value, dict):
        raise ValueError(f"{path}: holds a {type(value).__name__}, expected a dict of NATS-Bench.")
    return value


def _decompressed(content: bytes) -> bytes:
    decompressor = bz2.BZ2Decompressor()
    data = decompressor.decompress(content, max_length=MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        raise ValueError(f"it unpacks to more than {MOST_BYTES:,} bytes")
    if not decompressor.eof or decompressor.unused_data:
        raise EOFError("it ends within its data, or does not end with them")
    return data


def _checked(program: bytes) -> bytes:
    """The same program, if all its instructions are known and end within it. Some reserve memory by a number that they
    state: a place in the memo, which grows by one at a time, or the length of a text."""
    place = number = 0
    while place < len(program):
        code = program[place]
        number += 1
        if (size := _SIZES.get(code)) is not None:  # nearly all
            place += size
        elif code in _SIZES_OF_LENGTH:
            place += 1 + (width := _SIZES_OF_LENGTH[code])
            place += int.from_bytes(program[place - width : place], "little")
        elif code == pickle.LONG_BINPUT[0]:
            if (index := int.from_bytes(program[place + 1 : place + 5], "little")) > number:
                raise pickle.UnpicklingError(f"it keeps a value at place {index:,} of {number:,}")
            place += 5
        elif code == pickle.GLOBAL[0]:  # two lines
            place = program.index(b"\n", program.index(b"\n", place) + 1) + 1
        elif code == pickle.STOP[0]:
            return program
        else:
            raise pickle.UnpicklingError(f"it has the instruction {code:#04x}, which makes no plain data")
    raise EOFError("it ends within an instruction")


_ARGUMENTS = {
    ord(code.code): code.arg.n if code.arg else 0 for code in pickletools.opcodes if code.name in _INSTRUCTIONS
}
_SPECIAL = {pickle.LONG_BINPUT[0], pickle.GLOBAL[0], pickle.STOP[0]}
_SIZES = {code: 1 + size for code, size in _ARGUMENTS.items() if size >= 0 and code not in _SPECIAL}  # with the code
_WIDTHS = {pickletools.TAKEN_FROM_ARGUMENT1: 1, pickletools.TAKEN_FROM_ARGUMENT4U: 4}
_SIZES_OF_LENGTH = {code: _WIDTHS[kind] for code, kind in _ARGUMENTS.items() if kind in _WIDTHS}


class _Dtype:
    """The type of a NumPy scalar, in place of NumPy's own, whose state could be made to lie."""

    def __init__(self, code: Any, *_: Any) -> None:
        if code not in _NUMBERS:
            raise pickle.UnpicklingError(f"it has a scalar of the type {shown(code)}, which is no number")
        self.code, self.order = str(code), "<"

    def __setstate__(self, state: Any) -> None:
        self.order = ">" if state[1] == ">" else "<"


def _scalar(dtype: Any, content: Any = None) -> int | float:
    if not isinstance(dtype, _Dtype) or not isinstance(content, bytes):
        raise pickle.UnpicklingError("it has a scalar without a type or a value")
    (value,) = np.frombuffer(content, dtype.order + dtype.code).tolist()
    return value


_CALLABLE: dict[tuple[str, str], Callable[..., Any]] = {
    ("collections", "OrderedDict"): dict,
    ("builtins", "set"): set,
    ("numpy", "dtype"): _Dtype,
    ("numpy.core.multiarray", "scalar"): _scalar,
    ("numpy._core.multiarray", "scalar"): _scalar,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _CALLABLE:
            raise pickle.UnpicklingError(f"it wants {shown(f'{module}.{name}')}, which is no plain data")
        function = _CALLABLE[module, name]
        return lambda *args: function(*args)  # a function of its own: a pickle may set attributes of what it has
