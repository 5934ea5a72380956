"""A file is written whole or not at all."""

from pathlib import Path

import pytest

from jaxnas.files import replace_file


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
