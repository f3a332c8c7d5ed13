"""Doctor: can this machine run the study? One line a check, and what to do where the answer is no.

Works in a broken environment too: whatever may be missing is imported inside the check that needs it.
"""

import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Literal

Level = Literal["ok", "warning", "failed"]

PYTHON = (3, 11)
DISK_BYTES = 4 * 2**30
"""Vision features of the eight tasks, half precision, with room to spare."""
MEMORY_BYTES = 4 * 2**30
REINSTALL = "pip install -r requirements.txt"


@dataclass(frozen=True)
class Check:
    """One thing looked at.

    Attributes:
        name: What was looked at.
        level: "warning" lets the study run, "failed" does not.
        found: What is there.
        remedy: What to do; empty when all is well.
    """

    name: str
    level: Level
    found: str
    remedy: str = ""


def diagnose() -> list[Check]:
    """All checks, in the order in which to mend things."""
    return [*_machine(), *_packages(), _torchvision(), _cache(), *_weights()]


def _check(name: str, good: bool, found: str, remedy: str, otherwise: Level = "failed") -> Check:
    return Check(name, "ok", found) if good else Check(name, otherwise, found, remedy)


def _machine() -> Iterator[Check]:
    wanted = ".".join(map(str, PYTHON))
    yield _check("Python", sys.version_info >= PYTHON, platform.python_version(), f"install Python {wanted} or newer")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    yield _check("cores", cores >= 2, str(cores), "one core works, in twice the time", "warning")
    memory = _memory_bytes()
    if memory:
        remedy = "close other programs, or run with --workers 1"
        yield _check("memory", memory >= MEMORY_BYTES, _gib(memory), remedy, "warning")


def _memory_bytes() -> int:
    """Physical memory; 0 where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 0


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"


def _packages() -> Iterator[Check]:
    """Every package that mmpeft needs, in a version it accepts."""
    try:
        from packaging.requirements import Requirement
    except ImportError:
        yield Check("packages", "failed", "packaging is not installed", REINSTALL)
        return
    try:
        needed = [Requirement(line) for line in requires("mmpeft") or []]
    except PackageNotFoundError:
        yield Check("mmpeft", "failed", "not installed", "pip install --no-deps -e . (or make study, which does it)")
        return
    for one in needed:
        if one.marker and not one.marker.evaluate({"extra": ""}):
            continue
        try:
            found = version(one.name)
        except PackageNotFoundError:
            yield Check(one.name, "failed", "not installed", REINSTALL)
            continue
        good = one.specifier.contains(found, prereleases=True)
        yield _check(one.name, good, found, f"needs {one.name}{one.specifier}: {REINSTALL}")


def _torchvision() -> Check:
    """Whether torchvision is absent: beside a CPU build of torch it breaks transformers' import."""
    name = "torchvision"
    try:
        found = version(name)
    except PackageNotFoundError:
        return Check(name, "ok", "absent, as it should be beside a CPU torch")
    try:
        import torch
    except ImportError:
        return Check(name, "failed", f"{found}, without torch", f"pip uninstall {name}; {REINSTALL}")
    return _check(name, torch.version.cuda is not None, f"{found} beside a CPU torch", f"pip uninstall {name}")


def _cache() -> Check:
    """Whether the cache folder takes files and has room."""
    name = "cache folder"
    try:
        from mmpeft.files import cache_folder
    except ImportError as error:
        return Check(name, "failed", f"cannot be looked for: {error}", REINSTALL)
    folder = cache_folder()
    remedy = "set MMPEFT_CACHE to a folder you may write to"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder) as file:
            file.write(b"mmpeft")
    except OSError as error:
        return Check(name, "failed", f"{_short(folder)} is not writable ({error.strerror})", remedy)
    free = shutil.disk_usage(folder).free
    found = f"{_short(folder)}, {_gib(free)} free"
    remedy = f"free {_gib(DISK_BYTES)} there, or set MMPEFT_CACHE to a folder on a larger disk"
    return _check(name, free >= DISK_BYTES, found, remedy)


def _short(folder: Path) -> str:
    return str(folder).replace(str(Path.home()), "~", 1)


def _weights() -> Iterator[Check]:
    """Whether the packaged base and the vision encoder are, byte for byte, those that records name."""
    try:
        from mmpeft.loading import fingerprint_of
        from mmpeft.models import MODELS, Packaged
        from mmpeft.registry import DATA, fingerprint
        from mmpeft.vision import LiteEncoder, LiteEncoderConfig
    except ImportError as error:
        yield Check("weights", "failed", f"cannot be read: {error}", REINSTALL)
        return
    for name, model in MODELS.items():
        if isinstance(model.source, Packaged):
            found_in = partial(fingerprint_of, DATA / name, model.source.language_model)
            yield _try(f"base {name}", partial(_same, name, fingerprint, found_in))
    if not (DATA / "tiny-llava" / "model.safetensors").exists():
        yield Check("base tiny-llava", "failed", "no weights", "python -m mmpeft base tiny-llava, or reinstall mmpeft")
    yield _try("vision encoder", lambda: _loaded(LiteEncoder(LiteEncoderConfig())))


def _same(name: str, named: Callable[[str], str], found_in: Callable[[], str]) -> str:
    """The fingerprint of a packaged base, if it is the one that records name."""
    expected, found = named(name), found_in()
    if found != expected:
        raise ValueError(f"fingerprint {found}, expected {expected}")
    return found


def _loaded(encoder: object) -> str:
    encoder.load_backbone()  # type: ignore[attr-defined]
    return "the pinned weights"


def _try(name: str, look: Callable[[], str]) -> Check:
    """The check that passes when ``look`` does not raise."""
    try:
        return Check(name, "ok", look())
    except Exception as error:  # whatever is broken here, the reader wants the other lines too
        found = " ".join(str(error).split()) or type(error).__name__
        return Check(name, "failed", found, "reinstall mmpeft: the package is damaged")
