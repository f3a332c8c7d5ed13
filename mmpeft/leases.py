"""Leases on a shared folder: who is doing what right now, so that any number of workers do each thing once.

A lease is a small file that says process, host and time. Its holder touches it every few seconds; one that is
no longer touched, or whose process is dead on this host, is expired and may be taken over. Looking at a lease
and writing, replacing or removing it happen under one file lock for the folder, which the kernel frees when
its holder dies: two workers never take over the same lease, and a kill leaves nothing to clean.
"""

import fcntl
import json
import math
import os
import socket
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

HEARTBEAT_SECONDS = 5.0
EXPIRY_SECONDS = 60.0
PLACE = "MMPEFT_PLACE"
"""The environment variable with a worker's number among its like, from 0: with several GPUs, which of them is its own."""


@contextmanager
def lease(path: Path, *, heartbeat_seconds: float = HEARTBEAT_SECONDS, expiry_seconds: float = EXPIRY_SECONDS) -> Iterator[bool]:
    """True while this process alone holds the lease at ``path``; False if another one does.

    Args:
        path: The lease file; its folder is made.
        heartbeat_seconds: Time between two touches.
        expiry_seconds: A lease untouched for longer is dead.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    token = _acquired(path, expiry_seconds)
    if token is None:
        yield False
        return
    over = threading.Event()
    heartbeat = threading.Thread(target=_beat, args=(path, token, heartbeat_seconds, over), daemon=True)
    heartbeat.start()
    try:
        yield True
    finally:
        over.set()
        heartbeat.join()
        _release(path, token)


def holder(path: Path) -> dict[str, Any]:
    """What the lease says, ``{pid, host, token, since}``; empty if there is none or it was never finished."""
    try:
        content = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def held(path: Path, *, expiry_seconds: float = EXPIRY_SECONDS) -> bool:
    """Whether there is a lease that has not expired."""
    if not path.parent.is_dir():
        return False
    with _folder_lock(path.parent):
        return path.exists() and not _expired(path, expiry_seconds)


def sign_of_life(path: Path) -> float | None:
    """When a lease was last touched; infinity where its process lives on this host; None where there is no lease.

    A lease that nobody touches any more may be held, by :func:`held`, until it expires. Of a living holder this value changes.
    """
    content = holder(path)
    if content.get("host") == this_host() and _alive(int(content["pid"])):
        return math.inf
    with suppress(FileNotFoundError):
        return path.stat().st_mtime
    return None


def this_host() -> str:
    """Where process ids are comparable: the host, and on Linux the container's own space of process ids."""
    try:
        return f"{socket.gethostname()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return socket.gethostname()


def _acquired(path: Path, expiry_seconds: float) -> str | None:
    token = uuid.uuid4().hex
    content = {"pid": os.getpid(), "host": this_host(), "token": token, "since": time.time()}
    with _folder_lock(path.parent):
        if path.exists():
            if not _expired(path, expiry_seconds):
                return None
            path.unlink(missing_ok=True)
        # O_EXCL as well: where a network file system keeps locks to one host, fresh leases stay exclusive.
        try:
            descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        except FileExistsError:
            return None
        with os.fdopen(descriptor, "w") as file:
            json.dump(content, file)
    return token


def _release(path: Path, token: str) -> None:
    with _folder_lock(path.parent):
        if holder(path).get("token") == token:
            path.unlink(missing_ok=True)


def _beat(path: Path, token: str, seconds: float, over: threading.Event) -> None:
    while not over.wait(seconds):
        with suppress(OSError):  # a network file system that stumbles must not cost the lease: the next beat may get through
            if holder(path).get("token", token) != token:
                return
            os.utime(path)


def _expired(path: Path, expiry_seconds: float) -> bool:
    content = holder(path)
    if content.get("host") == this_host() and not _alive(int(content["pid"])):
        return True
    try:
        return _now(path.parent) - path.stat().st_mtime > expiry_seconds
    except FileNotFoundError:  # given back since it was looked for, by a host whose locks this one does not see
        return True


def _alive(pid: int) -> bool:
    """Whether a process of this host lives: one that has ended, and that nobody has asked after, does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    with suppress(OSError):  # Linux alone
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    return True


def _now(folder: Path) -> float:
    """The time by the folder's own clock, which on a network file system is not this machine's."""
    with tempfile.TemporaryFile(dir=folder) as probe:
        return os.fstat(probe.fileno()).st_mtime


@contextmanager
def _folder_lock(folder: Path) -> Iterator[None]:
    with (folder / ".lock").open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
