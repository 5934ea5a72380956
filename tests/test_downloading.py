"""Downloads from a server on this machine: whole, cut off, resumed, redirected, of other content, onto a full disk."""

import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from jaxnas.datasets import Remote, downloading, fetch

pytest.importorskip("pooch", reason="pooch, a dependency since downloads, isn't installed: pip install pooch")
CONTENT = bytes(range(256)) * 2000  # several chunks


class Server(ThreadingHTTPServer):
    """Serves CONTENT under /whole, and by other names what servers do to it; `asked` has (path, Range) of each."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[tuple[str, str | None]] = []

    def address(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_port}/{path}"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        what, wanted = self.path.split("/")[1], self.headers.get("Range")
        self.server.asked.append((what, wanted))
        if what == "moved":
            return self.answer(302, b"", Location=self.server.address("whole/file.bin"))
        if what not in ("whole", "short", "old", "other", "page"):
            return self.answer(404, b"not here")
        content = {"other": CONTENT[:-1] + b"!", "page": b"<html>quota exceeded</html>"}.get(what, CONTENT)
        if wanted is None or what == "old":
            return self.answer(200, content, sent=len(content) // 3 if what == "short" else None)
        begin = int(wanted.removeprefix("bytes=").removesuffix("-"))
        if begin >= len(content):
            return self.answer(416, b"")
        span = f"bytes {begin}-{len(content) - 1}/{len(content)}"
        self.answer(206, content[begin:], sent=100_000 if what == "short" else None, **{"Content-Range": span})

    def answer(self, status, content, sent=None, **headers):
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content[:sent])

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def running():
    server = Server()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def server(running):
    running.asked.clear()
    return running


SIZE = len(CONTENT)


def remote(*urls, num_bytes: int | None = SIZE, md5=False):
    kind = "md5" if md5 else "sha256"
    digest = hashlib.new(kind, CONTENT).hexdigest()
    return Remote("file.bin", f"{kind}:{digest}", urls, "the tests", "none", num_bytes)


def left(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {".file.bin.lock"}  # which filelock leaves


@pytest.mark.parametrize("md5", [False, True])
@pytest.mark.parametrize("what", ["whole", "moved"])
def test_a_file_comes_whole_and_is_not_fetched_again(server, tmp_path, what, md5):
    asked = remote(server.address(f"{what}/file.bin"), md5=md5)
    path = fetch(asked, tmp_path / "new", progress=False)
    assert path == tmp_path / "new" / "file.bin" and path.read_bytes() == CONTENT
    assert left(path.parent) == {"file.bin"}
    before = len(server.asked)
    assert fetch(asked, tmp_path / "new", progress=False) == path and len(server.asked) == before


def test_what_was_cut_off_goes_on(server, tmp_path):
    with pytest.raises(
        OSError, match=r"file.bin: not downloaded from .*131,072 bytes of 512,000.* same command"
    ) as error:
        fetch(remote(server.address("short/file.bin")), tmp_path, progress=False)
    assert "\n" not in str(error.value) and left(tmp_path) == {".file.bin.part"}
    with pytest.raises(OSError, match="196,608 bytes of 512,000"):  # cut off once more
        fetch(remote(server.address("short/file.bin")), tmp_path, progress=False)
    path = fetch(remote(server.address("whole/file.bin")), tmp_path, progress=False)
    assert path.read_bytes() == CONTENT and left(tmp_path) == {"file.bin"}
    assert [wanted for _, wanted in server.asked] == [None, "bytes=131072-", "bytes=196608-"]


@pytest.mark.parametrize("num_bytes", [None, len(CONTENT)])
@pytest.mark.parametrize(("have", "what"), [(1000, "old"), (len(CONTENT), "whole"), (len(CONTENT) - 1, "whole")])
def test_servers_that_do_not_go_on_and_files_that_are_all_there(server, tmp_path, have, what, num_bytes):
    (tmp_path / ".file.bin.part").write_bytes(CONTENT[:have])
    path = fetch(remote(server.address(f"{what}/file.bin"), num_bytes=num_bytes), tmp_path, progress=False)
    assert path.read_bytes() == CONTENT and left(tmp_path) == {"file.bin"}


def test_a_part_that_is_too_long_is_thrown_away(server, tmp_path):
    (tmp_path / ".file.bin.part").write_bytes(bytes(len(CONTENT) + 1))
    assert fetch(remote(server.address("whole/file.bin")), tmp_path, progress=False).read_bytes() == CONTENT


@pytest.mark.parametrize(("what", "have"), [("other", 0), ("page", 0), ("whole", 1000)])
def test_what_was_not_published_is_deleted_and_what_was_there_stays(server, tmp_path, what, have):
    (tmp_path / "file.bin").write_bytes(b"before")
    (tmp_path / ".file.bin.part").write_bytes(bytes(have))  # of something else
    message = r"not the file that was published \((512,000|27) bytes of 512,000; .*deleted.*--mirror URL"
    with pytest.raises(ValueError, match=message) as error:
        fetch(remote(server.address(f"{what}/file.bin")), tmp_path, progress=False)
    assert "\n" not in str(error.value)
    assert left(tmp_path) == {"file.bin"} and (tmp_path / "file.bin").read_bytes() == b"before"


def test_the_next_address_and_a_mirror(server, tmp_path):
    path = fetch(remote(server.address("gone/file.bin"), server.address("whole/file.bin")), tmp_path, progress=False)
    assert path.read_bytes() == CONTENT and [what for what, _ in server.asked] == ["gone", "whole"]
    path.unlink()
    nowhere = remote("http://127.0.0.1:9/file.bin")
    with pytest.raises(OSError, match=r"not downloaded from http://127.0.0.1:9/file.bin .*; --mirror URL"):
        fetch(nowhere, tmp_path, progress=False)
    assert fetch(nowhere, tmp_path, mirror=server.address("whole/"), progress=False).read_bytes() == CONTENT
    with pytest.raises(ValueError, match=r"the mirror is 'example\.org', expected the address of a folder"):
        fetch(nowhere, tmp_path, mirror="example.org")


def test_a_disk_that_is_full(server, tmp_path, monkeypatch):
    if not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full, which only some systems have")
    (tmp_path / ".file.bin.part").symlink_to("/dev/full")
    with pytest.raises(OSError, match=r"No space left on device, after 0 bytes of 512,000") as error:
        fetch(remote(server.address("whole/file.bin")), tmp_path, progress=False)
    assert error.value.errno == 28 and left(tmp_path) == {".file.bin.part"}
    monkeypatch.setattr(downloading.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    with pytest.raises(ValueError, match=r"1,000 bytes are free on its disk, file.bin needs 512,000 more; make room"):
        fetch(remote(server.address("whole/file.bin")), tmp_path, progress=False)


def test_two_processes_do_not_write_one_file(server, tmp_path):
    with (
        downloading.FileLock(tmp_path / ".file.bin.lock"),
        pytest.raises(ValueError, match="another process is downloading it"),
    ):
        fetch(remote(server.address("whole/file.bin")), tmp_path, progress=False)


def test_progress_is_shown(server, tmp_path, capsys):
    fetch(remote(server.address("whole/file.bin")), tmp_path)
    assert "file.bin: 100%" in capsys.readouterr().err
