"""What all tests share: a cache of their own, and one thread."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session", autouse=True)
def cache_of_the_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Vision features of this session go to a temporary folder, never to the user's cache."""
    folder = tmp_path_factory.mktemp("cache")
    before = os.environ.get("MMPEFT_CACHE")
    os.environ["MMPEFT_CACHE"] = str(folder)
    yield folder
    if before is None:
        del os.environ["MMPEFT_CACHE"]
    else:
        os.environ["MMPEFT_CACHE"] = before
