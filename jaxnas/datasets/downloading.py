"""Files that others publish, fetched by pooch: checked by their hash, resumed where a download was cut off."""

import os
import re
import shutil
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from filelock import FileLock, Timeout
from tqdm import tqdm

from jaxnas.files import one_line

CHUNK = 2**16  # bytes that are read at once
TIMEOUT = 30  # seconds without an answer
NOTHING_BEHIND = 416  # HTTP: what is here already is all, or more


class Remote(NamedTuple):
    """A file that somebody publishes.

    Attributes:
      hash: "sha256:..." or, where its publisher states no other, "md5:..."; in hexadecimal digits.
      urls: where it lies, first choice first; none: it has to be got by hand.
      source: who published it, and where that can be read.
      licence: as its publisher states it.
      num_bytes: its size; None: not known.
    """

    file_name: str
    hash: str
    urls: tuple[str, ...]
    source: str
    licence: str
    num_bytes: int | None = None


def fetch(remote: Remote, folder: str | os.PathLike[str], *, mirror: str | None = None, progress: bool = True) -> Path:
    """Download `remote` into `folder`, and return its path; where it is already, as published, it is only checked.

    What has come is kept in `.NAME.part` until all of it is there, so that a download that was cut off goes on where it
    was. The file gets its name when its hash is that of `remote`, not before.

    Args:
      mirror: the address of a folder that has the file under its name, in place of `remote.urls`.
      progress: show a bar.

    Raises:
      ValueError: the file is another one than was published; nothing of it is kept. Or another process downloads it.
      OSError: no server gave it, the download was cut off, the disk is full; what has come is kept.
    """
    import pooch  # slow to import, and only needed here

    pooch.get_logger().setLevel("ERROR")
    folder = Path(folder).expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    part, urls = folder / f".{remote.file_name}.part", remote.urls
    if mirror is not None:
        if not re.match("https?://", mirror):
            raise ValueError(f"the mirror is {mirror!r}, expected the address of a folder, https://...")
        urls = (f"{mirror.rstrip('/')}/{remote.file_name}",)
    _check_room(remote, folder, part)
    failed: list[str] = []
    try:
        with FileLock(folder / f".{remote.file_name}.lock", timeout=0):
            for url in urls:
                found = _Resuming(part, remote, progress)
                try:
                    return Path(pooch.retrieve(url, remote.hash, remote.file_name, folder, downloader=found))
                except ValueError as error:
                    raise ValueError(
                        f"{url}: not the file that was published ({found.told()}; {one_line(error)}); it was"
                        " deleted. Try again, or give another server with --mirror URL."
                    ) from None
                except OSError as error:
                    if error.errno is not None and not isinstance(error, ConnectionError | TimeoutError):
                        raise OSError(
                            error.errno, f"{os.strerror(error.errno)}, after {found.told()}: {part}"
                        ) from None
                    failed.append(f"{url} ({found.told()}; {one_line(error)})")
    except Timeout:
        raise ValueError(f"{folder / remote.file_name}: another process is downloading it; wait for it.") from None
    raise OSError(
        f"{remote.file_name}: not downloaded from {'; nor from '.join(failed)}. The same command goes on from what has"
        " come; --mirror URL takes another server."
    )


class _Resuming:
    """A downloader of pooch's, which goes on where `part` ends."""

    def __init__(self, part: Path, remote: Remote, progress: bool) -> None:
        self.part, self.remote, self.progress = part, remote, progress
        self.whole: int | None = None  # bytes of a download that came to its end

    def told(self) -> str:
        """How much has come."""
        have = _size(self.part) if self.whole is None else self.whole
        return f"{have:,} bytes" + (f" of {self.remote.num_bytes:,}" if self.remote.num_bytes else "")

    def __call__(self, url: str, output_file: str, _: Any) -> None:
        import pooch

        have, expected = _size(self.part), self.remote.num_bytes
        if expected is not None and have > expected:
            self.part.unlink()
            have = 0
        if have != expected:
            with self.part.open("ab") as file, _Bar(file, self.remote, self.progress) as bar:
                get = pooch.HTTPDownloader(
                    chunk_size=CHUNK,
                    timeout=TIMEOUT,
                    # Of what a server compresses on the way the length would be another one.
                    headers={"Accept-Encoding": "identity", **({"Range": f"bytes={have}-"} if have else {})},
                    hooks={"response": bar.begin},
                )
                try:
                    get(url, bar, None)
                except OSError as error:  # of requests, whose `response` says what the server answered
                    if getattr(getattr(error, "response", None), "status_code", None) != NOTHING_BEHIND:
                        raise
        self.whole = _size(self.part)
        os.replace(self.part, output_file)


class _Bar:
    """A file that is written at its end, and shows how far it is."""

    def __init__(self, file: BinaryIO, remote: Remote, progress: bool) -> None:
        self.file, self.answers = file, list[Any]()
        have = file.tell()
        self.bar = tqdm(
            desc=remote.file_name, total=remote.num_bytes, initial=have, unit="B", unit_scale=True, disable=not progress
        )

    def __enter__(self) -> "_Bar":
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()
        for answer in self.answers:  # one that was cut off is closed by nobody else
            answer.close()

    def begin(self, response: Any, *_: Any, **__: Any) -> None:
        """A server that doesn't go on, where it was asked to, sends all: what was there is thrown away."""
        self.answers.append(response)
        if response.status_code == 200 and self.file.tell():
            self.file.truncate(0)
            self.bar.reset()

    def write(self, chunk: bytes) -> None:
        self.file.write(chunk)
        self.bar.update(len(chunk))

    def flush(self) -> None:
        self.file.flush()


def _check_room(remote: Remote, folder: Path, part: Path) -> None:
    if remote.num_bytes is None or (folder / remote.file_name).exists():
        return
    needed = remote.num_bytes - _size(part)
    if (free := shutil.disk_usage(folder).free) < needed:
        raise ValueError(
            f"{folder}: {free:,} bytes are free on its disk, {remote.file_name} needs {needed:,} more; make room, or"
            " name another folder with --data-dir."
        )


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def get_command(name: str, data_dir: str | os.PathLike[str] | None) -> str:
    """The command that gets what `jaxnas data list` calls `name`."""
    return f"jaxnas data get {name} --data-dir {data_dir or 'DIR'}"
