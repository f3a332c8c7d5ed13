"""Files that are written whole or not at all, and lines in them: a kill at any moment leaves the old or the new."""

import gzip
import hashlib
import json
import os
import shutil
import socket
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from platformdirs import user_cache_path

FORGOTTEN_SECONDS = 3600.0
"""A temporary file this old was left by a killed writer."""


def cache_folder() -> Path:
    """Where vision features and datasets are kept: ``$MMPEFT_CACHE``, else the user's cache folder."""
    return Path(os.environ.get("MMPEFT_CACHE") or user_cache_path("mmpeft"))


def pack(lines: Iterable[Mapping[str, Any]]) -> bytes | None:
    """The lines as one compressed file, or None if there are none."""
    text = "".join(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n" for line in lines)
    return gzip.compress(text.encode(), mtime=0) if text else None  # mtime=0: the same lines are the same bytes


def waiting(path: Path) -> Path:
    """Where a file waits for its record."""
    return path.with_name(path.name.replace(".jsonl.gz", ".waiting.jsonl.gz"))


def belonging(path: Path, digest: str) -> bytes | None:
    """The bytes of that digest, even if their writer died before moving them into place."""
    for each in (path, waiting(path)):
        packed = each.read_bytes() if each.exists() else b""
        if hashlib.sha256(packed).hexdigest() == digest:
            return packed
    return None


def write_whole(path: Path, content: bytes) -> None:
    """Put the content at the path in one step: readers see the old file or the new one, never a part."""
    with in_its_place(path) as temporary:
        temporary.write_bytes(content)


@contextmanager
def in_its_place(path: Path) -> Iterator[Path]:
    """Where to write what shall stand at the path: it is moved there in one step when the block ends well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob(f".{path.name}.*.tmp"):
        with suppress(FileNotFoundError):
            if time.time() - left.stat().st_mtime > FORGOTTEN_SECONDS:
                left.unlink()
    temporary = path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}.tmp")
    try:
        yield temporary
        _flush(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    _flush(path.parent)


def shards_of(checkpoint: Path) -> Path:
    """The folder beside a checkpoint for weights that several processes hold in pieces."""
    return checkpoint.with_suffix(".shards")


def forget_checkpoint(checkpoint: Path) -> None:
    """Removes a checkpoint, if there is one, with its pieces."""
    shutil.rmtree(shards_of(checkpoint), ignore_errors=True)
    checkpoint.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    """Waits until the file, or the folder's list of files, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
