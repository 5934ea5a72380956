"""What others made is opened with care: crafted pickles, what unpacks to gigabytes, and where that may be done."""

import ast
import bz2
import collections
import pickle
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from jaxnas.tables import plain_pickle
from jaxnas.tables.plain_pickle import MOST_BYTES, read_pickle, sha256_of

ROOT = Path(__file__).parents[1]


def read(folder: Path, program: bytes):
    """What a pickle of that program, in a file of NATS-Bench's kind, gives."""
    path = folder / "000001.pickle.pbz2"
    path.write_bytes(bz2.compress(program))
    return read_pickle(path, sha256_of(path))


# Programs that would do more than make plain data


def text(name: str) -> bytes:
    return b"\x8c" + bytes([len(name)]) + name.encode()


def call(module: str, name: str, argument: bytes = b"", *, protocol: int) -> bytes:
    """{"200": module.name(argument)}: the name as a line of protocol 2 or, with dots in it as well, of protocol 4."""
    named = f"c{module}\n{name}\n".encode() if protocol == 2 else text(module) + text(name) + b"\x93"
    return bytes([0x80, protocol]) + b"}" + text("200") + named + b"(" + argument + b"tRs."


TOUCH = text("touch stolen")
FUNCTIONS = {  # by module
    "os": "system popen execv remove",
    "posix": "system",
    "subprocess": "Popen call check_output",
    "builtins": "eval exec compile open getattr setattr __import__ print object type",
    "__builtin__": "eval",
    "importlib": "import_module",
    "runpy": "run_path run_module",
    "code": "interact",
    "pdb": "run",
    "timeit": "timeit",
    "cProfile": "run",
    "shutil": "rmtree",
    "pathlib": "Path",
    "webbrowser": "open",
    "socket": "create_connection",
    "urllib.request": "urlopen",
    "threading": "Thread",
    "ctypes": "CDLL",
    "types": "FunctionType CodeType",
    "functools": "partial",
    "operator": "attrgetter methodcaller",
    "itertools": "starmap",
    "copyreg": "_reconstructor __newobj__",
    "codecs": "encode",
    "pickle": "loads",
    "marshal": "loads",
    "sys": "exit modules",
    "numpy": "load ndarray memmap fromfile",
    "numpy.core.multiarray": "_reconstruct fromfile",
    "numpy.testing": "measure",
    "jax": "device_put",
    "torch": "load",
    "collections": "defaultdict Counter",
}
DOTTED = [  # reached through what is allowed
    ("collections", "OrderedDict.fromkeys"),
    ("collections", "OrderedDict.__init__.__class__"),
    ("collections", "_sys.modules"),
    ("numpy", "dtype.__reduce__"),
    ("numpy", "dtype.newbyteorder"),
    ("numpy.core.multiarray", "scalar.__self__"),
    ("builtins", "set.__class__"),
    ("", "system"),
]
DTYPE = b"cnumpy\ndtype\n"
SCALAR = b"cnumpy.core.multiarray\nscalar\n"
FLOAT64 = DTYPE + b"(" + text("f8") + b"K\x00K\x01tR"
PROGRAMS = {
    **{
        f"{module}.{name} ({protocol})": call(module, name, TOUCH, protocol=protocol)
        for module, names in FUNCTIONS.items()
        for name in names.split()
        for protocol in (2, 4)
    },
    **{f"{module}.{name}": call(module, name, TOUCH, protocol=4) for module, name in DOTTED},
    "an instance": b"(i__main__\nX\n.",
    "a class and its arguments": b"(cos\nsystem\n" + TOUCH + b"o.",
    "a new object": b"\x80\x02cnumpy\ndtype\n)\x81.",
    "a new object with keywords": b"\x80\x04cnumpy\ndtype\n)}\x92.",
    "a name by number": b"\x82\x01.",
    "a name by two bytes": b"\x83\x01\x00.",
    "a name by four bytes": b"\x84\x01\x00\x00\x00.",
    "a persistent id": b"Pid\n.",
    "a persistent id of the stack": b"K\x01Q.",
    "a buffer out of band": b"\x80\x05\x97.",
    "a text that eval reads": b"S'text'\n.",
    "a scalar of objects": SCALAR + b"(" + DTYPE + b"(" + text("O8") + b"K\x00K\x01tR" + TOUCH + b"tR.",
    "a scalar of a terabyte": b"}" + text("200") + SCALAR + b"(" + DTYPE + b"(" + text("V999999999999") + b"tRtRs.",
    "a scalar of too few bytes": b"}" + text("200") + SCALAR + b"(" + FLOAT64 + b"C\x03abctRs.",
    "a scalar without a type": b"}" + text("200") + SCALAR + b"(K\x01C\x03abctRs.",
    "a type of fields": DTYPE + b"(]" + text("f8") + b"atR.",
    "the state of a function": SCALAR + b"N}" + text("__code__") + b"K\x01s\x86b.",
    "the state of a class": DTYPE + b"}" + text("__init__") + b"K\x01sb.",
    "the state of a dict": b"ccollections\nOrderedDict\n)R}" + text("get") + b"K\x01sb.",
    "a place in the memo of 32 gigabytes": b"}r\xff\xff\xff\xffr\xff\xff\xff\x7f.",
    "a text of four gigabytes": b"X\xff\xff\xff\xffabc.",
    "bytes of exabytes": b"\x8e" + struct.pack("<Q", 2**62) + b"abc.",
    "a number of two gigabytes": b"\x8b\xff\xff\xff\x7f.",
    "a line that does not end": b"cos",
    "nothing": b"",
    "no end": b"}" * 100,
    "nothing on the stack": b".",
    "a list a hundred thousand deep": b"]" * 10**5 + b"a" * (10**5 - 1) + b".",
    "a number": b"K\x01.",
}  # fmt: skip


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_crafted_pickle_is_refused(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"000001\.pickle\.pbz2: (cut short, damaged or no file|holds a)") as error:
        read(tmp_path, PROGRAMS[name])
    assert "\n" not in str(error.value) and len(str(error.value)) < 700
    assert [path.name for path in tmp_path.iterdir()] == ["000001.pickle.pbz2"]


def test_there_are_so_many_of_them():
    assert len(PROGRAMS) == 151


@pytest.mark.parametrize("protocol", [3, 4])
def test_plain_data_come_back(tmp_path, protocol):
    value = {
        "200": collections.OrderedDict([(("cifar10", 777), [1.5, None, True, -3, 2**70, "é", b"\xff", {1, 2}, ()])]),
        "numbers": [np.float64(0.1), np.float32(0.1), np.int64(-5), np.uint8(255), np.bool_(True)],
        "long": "a" * 300, "many": list(range(70_000)), "nested": [[[]]],
    }  # fmt: skip
    found = read(tmp_path, pickle.dumps(value, protocol=protocol))
    assert found == value and type(found["200"]) is dict
    assert [type(number) for number in found["numbers"]] == [float, float, int, int, bool]


def test_a_scalar_of_the_other_byte_order(tmp_path):
    program = (
        b"}" + text("a") + SCALAR + b"(" + FLOAT64 + b"(K\x03" + text(">") + b"NNNtb" + b"C\x08@\t!\xfbTD-\x18tRs."
    )
    assert read(tmp_path, program) == {"a": pytest.approx(np.pi)}


def test_what_unpacks_to_gigabytes_is_refused(tmp_path):
    """785 bytes of bzip2 held 2.2 gigabytes."""
    compressor = bz2.BZ2Compressor()
    data = compressor.compress(bytes(2 * MOST_BYTES)) + compressor.flush()
    assert len(data) < 100
    path = tmp_path / "bomb"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"bomb: .*it unpacks to more than 16,777,216 bytes"):
        read_pickle(path, sha256_of(path))
    path.write_bytes(bytes(MOST_BYTES + 1))
    with pytest.raises(ValueError, match=r"bomb: more than 16,777,216 bytes"):
        read_pickle(path, "")


def test_what_was_hashed_is_what_is_opened(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(bz2.compress(pickle.dumps({})))
    before = sha256_of(path)
    assert read_pickle(path, before) == {}
    path.write_bytes(bz2.compress(pickle.dumps({"other": 1})))
    with pytest.raises(ValueError, match="file: changed since it was first read"):
        read_pickle(path, before)


def test_instructions_are_known_by_name():
    known = [*plain_pickle._SIZES, *plain_pickle._SIZES_OF_LENGTH, *plain_pickle._SPECIAL]
    assert len(set(known)) == len(known) == len(plain_pickle._INSTRUCTIONS)


# What is done nowhere else: whoever unpickles, unpacks or downloads in another file has to think of all the above.

ONLY_IN = {
    "pickle": {"jaxnas/tables/plain_pickle.py"},
    "bz2": {"jaxnas/tables/plain_pickle.py"},
    "zipfile": {"jaxnas/files.py", "jaxnas/tables/format.py"},  # the latter reads names of entries only
    "tarfile": {"jaxnas/datasets/cifar.py"},  # of known SHA-256, in memory, files of known names
    "pooch": {"jaxnas/datasets/downloading.py"},  # checked by hash before a file has its name
    "yaml": {"jaxnas/runs/config.py"},  # whose `safe_load` makes plain values only
}
NOWHERE = {
    "dill", "cloudpickle", "joblib", "marshal", "shelve", "gzip", "lzma",
    "urllib", "requests", "http", "ftplib", "socket", "wget",
}  # fmt: skip
UNSAFE_CALLS = {"unpack_archive", "extractall", "extract", "eval", "exec"}
YAML_READERS = {"load", "load_all", "full_load", "full_load_all", "unsafe_load", "unsafe_load_all"}
NUMPY_READERS = {"load", "fromfile", "memmap"}


def unsafe(source: str, place: str) -> Iterator[str]:
    """What a file does that only others may do, or none."""
    for node in ast.walk(ast.parse(source)):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names = [node.module or ""]
        for module in {name.partition(".")[0] for name in names}:
            if module in NOWHERE or place not in ONLY_IN.get(module, {place}):
                yield f"{place} imports {module}"
        if isinstance(node, ast.Call):
            owner, _, name = ast.unparse(node.func).rpartition(".")
            of_numpy = owner in ("np", "numpy", "jnp") and name in NUMPY_READERS
            if name in UNSAFE_CALLS or of_numpy or (owner == "yaml" and name in YAML_READERS):
                yield f"{place} calls {ast.unparse(node.func)}"


def test_nothing_else_unpickles_unpacks_or_downloads():
    files = [path for folder in ("jaxnas", "experiments", "benchmarks") for path in (ROOT / folder).rglob("*.py")]
    assert len(files) > 100
    assert [found for path in files for found in unsafe(path.read_text(), str(path.relative_to(ROOT)))] == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "def f():\n    from zipfile import ZipFile",
        "import tarfile\ntarfile.open('x').extractall('y')",
        "shutil.unpack_archive('x')",
        "np.load('x')",
        "import urllib.request",
        "yaml.load(text)",
        "import yaml",
    ],
)
def test_what_is_unsafe_is_found(source):
    assert list(unsafe(source, "jaxnas/training/step.py"))
