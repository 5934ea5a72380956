"""Fixtures of all tests."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of the published tables and of TFDS sets: JAXNAS_DATA, else `../shared/data` from the repository."""
    repository = Path(__file__).resolve().parent.parent
    folder = Path(os.environ.get("JAXNAS_DATA") or repository.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"there is no folder {folder}: set JAXNAS_DATA to the published tables and TFDS sets")
    return folder
