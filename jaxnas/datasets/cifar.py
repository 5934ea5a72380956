"""CIFAR-10 and CIFAR-100 as their authors publish them: binary archives, which need no TensorFlow and no pickles."""

import hashlib
import os
import tarfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxnas.datasets.downloading import Remote
from jaxnas.datasets.sources import Source, Split, data_folder

SIZE = 32
PIXELS = 3 * SIZE * SIZE  # of an image: its red values by row, then the green, then the blue ones
MOST_BYTES = 2**28  # of a file in an archive: five times the largest
ADDRESS = "https://www.cs.toronto.edu/~kriz/"


class Archive(NamedTuple):
    """A published archive, and where in it images are."""

    remote: Remote
    train: tuple[str, ...]  # names of the files with records
    test: tuple[str, ...]
    num_labels: int  # bytes before the pixels of a record; the last one is the class
    num_classes: int


def _archive(number: int, sha256: str, num_bytes: int, folder: str, **records: tuple[str, ...]) -> Archive:
    name = f"cifar-{number}-binary.tar.gz"
    remote = Remote(
        file_name=name,
        hash=f"sha256:{sha256}",
        urls=(ADDRESS + name,),
        source=f"Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009; {ADDRESS}cifar.html",
        licence="none is stated; its authors ask to be cited",
        num_bytes=num_bytes,
    )
    train, test = (tuple(f"{folder}/{name}.bin" for name in records[part]) for part in ("train", "test"))
    return Archive(remote, train, test, num_labels=1 if number == 10 else 2, num_classes=number)


# SHA-256 and sizes as TensorFlow Datasets 4.9 records them; the authors state MD5, c32a1d4a... and 03b5dce0...
ARCHIVES = {
    "cifar10": _archive(
        10,
        "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
        170_052_171,
        "cifar-10-batches-bin",
        train=tuple(f"data_batch_{number}" for number in range(1, 6)),
        test=("test_batch",),
    ),
    "cifar100": _archive(
        100,
        "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
        168_513_733,
        "cifar-100-binary",
        train=("train",),
        test=("test",),
    ),
}


def find_archive(name: str, data_dir: str | os.PathLike[str] | None) -> Path | None:
    """Where the archive of that set lies; None where there is none, or where TFDS has prepared the set, in whose order
    of the images figures from before are."""
    folder = data_folder(data_dir)
    if name not in ARCHIVES or folder is None or (folder / "tfds" / name).is_dir():
        return None
    path = folder / ARCHIVES[name].remote.file_name
    return path if path.is_file() else None


def cifar_set(name: str, path: Path) -> Source:
    """The set of that name from its archive; a ValueError where the file isn't the published one."""
    archive = ARCHIVES[name]
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        if f"sha256:{digest}" != archive.remote.hash:
            raise ValueError(
                f"{path}: not the published archive or not all of it ({path.stat().st_size:,} bytes, sha256"
                f" {digest[:12]}...); delete it, then: jaxnas data get {name} --data-dir {path.parent}"
            )
        file.seek(0)
        wanted = {*archive.train, *archive.test}
        with tarfile.open(fileobj=file, mode="r:gz") as members:  # read in memory, never unpacked to a folder
            held = {}
            for member in members:
                if member.name in wanted and member.isreg() and member.size <= MOST_BYTES:
                    opened = members.extractfile(member)
                    assert opened is not None  # of a regular file
                    held[member.name] = opened.read()
    source = f"{archive.remote.source}; {path.name}, sha256 {digest}; licence: {archive.remote.licence}"
    train, test = (_split(archive, [held[name] for name in names]) for names in (archive.train, archive.test))
    return Source(train, test, archive.num_classes, SIZE, source)


def _split(archive: Archive, files: list[bytes]) -> Split:
    records = np.frombuffer(b"".join(files), np.uint8).reshape(-1, archive.num_labels + PIXELS)
    images = records[:, archive.num_labels :].reshape(-1, 3, SIZE, SIZE)
    labels = records[:, archive.num_labels - 1].astype(np.int64)
    return Split(labels, lambda place: np.ascontiguousarray(images[place].transpose(1, 2, 0)))
