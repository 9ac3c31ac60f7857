# SPDX-License-Identifier: Apache-2.0
"""Every check of `cpcctl doctor`: fine on a whole host, and broken on purpose."""

from __future__ import annotations

import json
import platform
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cpcctl import __main__ as entry
from cpcctl.accel import device, probe
from cpcctl.config.settings import Settings
from cpcctl.doctor import checks
from cpcctl.doctor.checks import Finding
from cpcctl.host import find
from cpcctl.snp import checks as snp
from cpcctl.snp import hardware, package
from cpcctl.vm import lifecycle
from tests import accel
from tests.onevm import images

Patch = pytest.MonkeyPatch


@pytest.fixture
def whole(
    place: Settings, monkeypatch: Patch, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> Settings:
    """A host on which nothing lacks, whatever this machine lacks.

    Where KVM does not work the probe looks at TCG and takes it for KVM.
    """
    place = replace(place, accel=accel.chosen(), kvm_verdict=tmp_path / "verdict")
    if accel.chosen() == "tcg":
        monkeypatch.setattr(device, "DEVICE", Path("/dev/null"))
        monkeypatch.setattr(probe, "run", partial(probe.run, accel="tcg"))
    monkeypatch.setattr(checks, "TUN", Path("/dev/null"))
    monkeypatch.setattr(lifecycle, "available_memory", lambda: 8 << 30)
    (tmp_path / "parameters").mkdir()
    (tmp_path / "parameters/sev_snp").write_text("Y\n")
    monkeypatch.setattr(hardware, "MODULE", tmp_path)
    monkeypatch.setattr(hardware, "SEV", Path("/dev/null"))
    unshare(tmp_path_factory.mktemp("bin"), monkeypatch, "exit 0")
    return place


def unshare(folder: Path, monkeypatch: Patch, body: str) -> None:
    """Put a program of that name in front of the real one."""
    program = folder / "unshare"
    program.write_text(f"#!/bin/sh\n{body}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")


def _python(s: Settings, patch: Patch, tmp: Path) -> Settings:
    patch.setattr(checks, "sys", SimpleNamespace(version_info=(3, 10), executable=sys.executable))
    return s


def _packages(s: Settings, patch: Patch, tmp: Path) -> Settings:
    patch.setattr(checks, "PACKAGES", (*checks.PACKAGES, "cpc-no-such-package"))
    return s


def _qemu(s: Settings, patch: Patch, tmp: Path) -> Settings:
    return replace(s, qemu=Path("/bin/true"))


def _patched(s: Settings, patch: Patch, tmp: Path) -> Settings:
    patch.setattr(find, "COMMANDS", find.COMMANDS | {"cpc-no-such-command"})
    return s


def _threads(s: Settings, patch: Patch, tmp: Path) -> Settings:
    patch.setattr(platform, "machine", lambda: "aarch64")
    return s


def _firmware(s: Settings, patch: Patch, tmp: Path) -> Settings:
    (tmp / "fw").write_bytes(b"no firmware at all, but long enough to have a header" * 4)
    return replace(s, firmware=tmp / "fw")


def _kvm(s: Settings, patch: Patch, tmp: Path) -> Settings:
    return replace(s, firmware=images.damaged(find.firmware_image(s), tmp))


def _accelerator(s: Settings, patch: Patch, tmp: Path) -> Settings:
    patch.setattr(device, "DEVICE", tmp / "none")
    return replace(s, accel="kvm")


def _hvcpu(s: Settings, patch: Patch, tmp: Path) -> Settings:
    return replace(s, firmware=images.damaged(find.firmware_image(s), tmp))


def _ovmf(s: Settings, patch: Patch, tmp: Path) -> Settings:
    # Its own, so that OVMF of this machine is not found either.
    patch.setattr(find, "ovmf_image", lambda *_: Path("/bin/true"))
    return s


def _emulation(s: Settings, patch: Patch, tmp: Path) -> Settings:
    patch.setattr(snp, "EMULATION", "no-such-command")
    return s


def _hardware(s: Settings, patch: Patch, tmp: Path) -> Settings:
    (tmp / "parameters/sev_snp").write_text("N\n")
    return s


def _space(s: Settings, patch: Patch, tmp: Path) -> Settings:
    patch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1 << 20))
    return s


def _memory(s: Settings, patch: Patch, tmp: Path) -> Settings:
    patch.setattr(lifecycle, "available_memory", lambda: 1 << 20)
    return s


def _state(s: Settings, patch: Patch, tmp: Path) -> Settings:
    (tmp / "file").write_text("")
    return replace(s, state_dir=tmp / "file")


def _namespaces(s: Settings, patch: Patch, tmp: Path) -> Settings:
    unshare(tmp, patch, "echo unshare: no way >&2; exit 1")
    return s


def _tun(s: Settings, patch: Patch, tmp: Path) -> Settings:
    patch.setattr(checks, "TUN", tmp / "none")
    return s


Break = Callable[[Settings, Patch, Path], Settings]
# How each check is broken, its state then, and words of what it says and of the fix.
BREAK: dict[str, tuple[Break, str, str, str]] = {
    "python": (_python, "fail", "", "install Python 3.11"),
    "packages": (_packages, "fail", "missing: cpc-no-such-package", "-m pip install cpc-no-such"),
    "qemu": (_qemu, "fail", "/bin/true does not run as QEMU", "make qemu"),
    "qemu-patched": (_patched, "fail", "lacks cpc-no-such-command", "make qemu"),
    "tcg-threads": (_threads, "fail", "this host is aarch64", "use an x86-64 host"),
    "firmware": (_firmware, "fail", "is not a firmware image of this version", "make firmware"),
    "kvm": (_kvm, "warn", "guests run, but no hvCPU: hvCPU 0 is dead", "make qemu firmware"),
    "accelerator": (_accelerator, "fail", "KVM does not work here: there is no ", "--accel tcg"),
    "hvcpu-ping": (_hvcpu, "fail", "hvCPU 0 is dead", "cpcctl hvcpu remove"),
    "ovmf": (_ovmf, "warn", "the firmware /bin/true cannot be used", "make ovmf"),
    "snp-emulated": (_emulation, "warn", "QEMU does not emulate SEV-SNP", "make qemu"),
    "snp-hardware": (_hardware, "warn", "kvm_amd was loaded with sev_snp=N", "sev_snp=1"),
    "ring-space": (_space, "fail", "1 MiB free in ", "CPCCTL_RUN_DIR"),
    "memory": (_memory, "warn", "1 MiB available", "use smaller VMs"),
    "state-folder": (_state, "fail", "cannot be used as a folder", "CPCCTL_STATE_DIR"),
    "namespaces": (_namespaces, "warn", "unshare: no way", "run as root"),
    "tun": (_tun, "warn", "No such file or directory", "modprobe tun"),
}


@pytest.mark.parametrize("name", [name for name, _ in checks.CHECKS])
def test_a_check_that_is_broken(
    name: str, whole: Settings, monkeypatch: Patch, tmp_path: Path
) -> None:
    before = checks.check_one(whole, name)
    assert (before.name, before.state, before.fix) == (name, "ok", None), before
    damage, state, words, fix = BREAK[name]
    found = checks.check_one(damage(whole, monkeypatch, tmp_path), name)
    assert (found.name, found.state) == (name, state), found
    assert words in (found.reason or "")
    assert fix in (found.fix or "")


def _no_module(patch: Patch, tmp: Path) -> None:
    patch.setattr(hardware, "MODULE", tmp / "none")


def _no_processor(patch: Patch, tmp: Path) -> None:
    patch.setattr(hardware, "SEV", tmp / "none")


def _no_object(patch: Patch, tmp: Path) -> None:
    patch.setattr(snp, "OBJECT", "no-such-object")


def _old_firmware(patch: Patch, tmp: Path) -> None:
    patch.setattr(find, "ovmf_image", lambda *_: Path("/bin/true"))


def _no_package(patch: Patch, tmp: Path) -> None:
    patch.setattr(package, "PACKAGE", "cpc-no-such-package")


@pytest.mark.parametrize(
    ("name", "damage", "words", "fix"),
    [
        ("snp-hardware", _no_module, "the kernel module kvm_amd is not loaded", "modprobe kvm_amd"),
        ("snp-hardware", _no_processor, "there is no ", "modprobe ccp"),
        ("snp-hardware", _no_object, "knows no SEV-SNP guests", "make qemu"),
        ("snp-hardware", _old_firmware, "the firmware /bin/true cannot be used", "make ovmf"),
        ("snp-emulated", _no_object, "does not emulate", "make qemu"),
        ("snp-emulated", _no_package, "cpc-no-such-package", "pip install cpc-no-such-package"),
    ],
)
def test_each_thing_that_snp_lacks(
    name: str, damage: Callable[[Patch, Path], None], words: str, fix: str,
    whole: Settings, monkeypatch: Patch, tmp_path: Path,
) -> None:
    damage(monkeypatch, tmp_path)
    found = checks.check_one(whole, name)
    assert (found.name, found.state) == (name, "warn"), found
    assert words in (found.reason or "")
    assert fix in (found.fix or "")


def doctor(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, dict[str, Finding]]:
    """Exit code and every check of a doctor in this process."""
    capsys.readouterr()
    code = entry.main(["doctor", "--format", "json", *argv])
    document: Any = json.loads(capsys.readouterr().out)
    return code, {entry["name"]: Finding(**entry) for entry in document["checks"]}


def test_kvm_that_lacks_is_no_failure_since_tcg_does(
    place: Settings, monkeypatch: Patch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(device, "DEVICE", tmp_path / "none")
    monkeypatch.setattr("cpcctl.doctor.checks.CHECKS", tuple(
        pair for pair in checks.CHECKS if pair[0] in ("kvm", "accelerator")
    ))
    code, found = doctor(capsys, "--accel", "auto")
    assert (code, found["kvm"].state) == (0, "warn")
    assert found["kvm"].reason == f"there is no {tmp_path / 'none'}"
    assert found["kvm"].fix
    assert found["accelerator"].detail == "tcg (since KVM does not work)"
    code, found = doctor(capsys, "--accel", "tcg")
    assert (code, found["accelerator"].state) == (0, "ok")
    code, found = doctor(capsys, "--accel", "kvm")
    assert (code, found["accelerator"].state) == (3, "fail")
    assert entry.main(["doctor", "--accel", "auto"]) == 0
    assert "\n      " + " " * 13 + "try: " in "\n" + capsys.readouterr().out


def test_doctor_asks_anew(whole: Settings, monkeypatch: Patch, tmp_path: Path) -> None:
    """Something that was repaired is noticed, and remembered for vm start."""
    bad = replace(whole, firmware=images.damaged(find.firmware_image(whole), tmp_path))
    assert checks.check_one(bad, "kvm").state == "warn"
    kept = (tmp_path / "verdict").read_bytes()
    assert json.loads(kept)["verdict"]["kind"] == "hvcpu"
    assert checks.check_one(whole, "kvm").state == "ok"
    assert json.loads((tmp_path / "verdict").read_text())["verdict"]["kind"] == "works"
    auto = replace(whole, accel="auto")
    assert checks.check_one(auto, "accelerator").detail == "kvm (since KVM works)"
