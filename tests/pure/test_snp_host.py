# SPDX-License-Identifier: Apache-2.0
"""What a host, a CPU model and a guest's last words mean for SEV-SNP."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cpcctl.accel import device
from cpcctl.accel.choose import Choice
from cpcctl.accel.verdict import ABSENT, Verdict
from cpcctl.errors import CpcError
from cpcctl.snp import cpu, hardware, termination
from cpcctl.snp.hardware import Obstacle

LACKS = [Obstacle("there is no /dev/sev", "modprobe ccp"), Obstacle("no KVM", "x")]


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A host on which nothing lacks; its files are below the folder."""
    (tmp_path / "kvm_amd/parameters").mkdir(parents=True)
    (tmp_path / "kvm_amd/parameters/sev_snp").write_text("Y\n")
    (tmp_path / "sev").write_text("")
    monkeypatch.setattr(hardware, "MODULE", tmp_path / "kvm_amd")
    monkeypatch.setattr(hardware, "SEV", tmp_path / "sev")
    monkeypatch.setattr(device, "look", lambda: None)
    return tmp_path


def test_a_host_with_everything(host: Path) -> None:
    assert hardware.obstacles() == []


def _unload(host: Path, _: pytest.MonkeyPatch) -> None:
    (host / "kvm_amd").rename(host / "gone")


def _old(host: Path, _: pytest.MonkeyPatch) -> None:
    (host / "kvm_amd/parameters/sev_snp").unlink()


def _off(host: Path, _: pytest.MonkeyPatch) -> None:
    (host / "kvm_amd/parameters/sev_snp").write_text("N\n")


def _no_processor(host: Path, _: pytest.MonkeyPatch) -> None:
    (host / "sev").unlink()


def _closed(host: Path, patch: pytest.MonkeyPatch) -> None:
    # Root may open anything but a folder for writing.
    (host / "sev").unlink()
    (host / "sev").mkdir()


def _no_kvm(_: Path, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(device, "look", lambda: Verdict(ABSENT, "there is no KVM", "modprobe kvm"))


@pytest.mark.parametrize(
    ("damage", "why", "fix"),
    [
        (_unload, "kvm_amd is not loaded", "modprobe kvm_amd; turn SMEE"),
        (_old, "has no parameter sev_snp", "Linux 6.11 or later"),
        (_off, "was loaded with sev_snp=N", "modprobe kvm_amd sev=1 sev_es=1 sev_snp=1"),
        (_no_processor, "there is no ", "modprobe ccp"),
        (_closed, "cannot be opened", "chmod 660"),
        (_no_kvm, "there is no KVM", "modprobe kvm"),
    ],
)
def test_what_lacks(
    damage: Any, why: str, fix: str, host: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    damage(host, monkeypatch)
    found = hardware.obstacles()
    assert len(found) == 1
    assert why in found[0].why
    assert fix in found[0].fix


def test_which_accelerator() -> None:
    assert hardware.decide("tcg", LACKS) == Choice("tcg")
    assert hardware.decide("auto", []).accel == hardware.decide("kvm", []).accel == "kvm"
    chosen = hardware.decide("auto", LACKS)
    assert chosen.accel == "tcg"
    assert chosen.why == "emulated SEV-SNP, since there is no /dev/sev; no KVM; using TCG"
    with pytest.raises(CpcError) as caught:
        hardware.decide("kvm", LACKS)
    assert caught.value.exit_code == 3
    assert caught.value.cause == "there is no /dev/sev; no KVM"
    assert caught.value.hint == "modprobe ccp\n--accel tcg, which emulates SEV-SNP"


GOOD = {
    "family": 25, "model": 1, "stepping": 1, "vendor": "AuthenticAMD", "la57": False,
    **dict.fromkeys(cpu.NEEDED + cpu.FIRMWARE_NEEDED, True),
}


def test_a_cpu_model_that_does() -> None:
    found = cpu.read(GOOD)
    # What sev-snp-measure has for EPYC-Milan.
    assert found.signature == 0xA00F11
    assert cpu.problems("EPYC-Milan", found, hvcpus=True) == []
    bare = cpu.read({**GOOD, "aes": False})
    assert cpu.problems("EPYC-Milan", bare, hvcpus=False) == []
    assert cpu.signature(25, 17, 0) == 0xA10F10
    assert cpu.signature(15, 107, 1) == 0x060FB1


@pytest.mark.parametrize(
    ("change", "why", "fix"),
    [
        ({"vendor": "GenuineIntel"}, "is of GenuineIntel", "use cpu: EPYC-Milan"),
        ({"xsavec": False}, "lacks xsavec", "use cpu: EPYC-Milan, or X,+xsavec"),
        ({"rdrand": None, "xsave": False}, "lacks xsave, rdrand",
         "use cpu: EPYC-Milan, or X,+xsave,+rdrand"),
        ({"la57": True}, "has LA57", "use cpu: X,la57=off"),
        ({"aes": False, "avx2": False}, "lacks aes, avx2, which its hvCPUs need",
         "use cpu: EPYC-Milan, or X,+aes,+avx2"),
    ],
)
def test_a_cpu_model_that_does_not(change: dict[str, Any], why: str, fix: str) -> None:
    found = cpu.problems("X", cpu.read({**GOOD, **change}), hvcpus=True)
    assert len(found) == 1
    assert why in found[0][0]
    assert fix == found[0][1]


@pytest.mark.parametrize(
    ("model", "change", "fix"),
    [
        ("EPYC,+la57", {"la57": True}, "use cpu: EPYC,la57=off"),
        ("EPYC,la57=on,+svm", {"la57": True}, "use cpu: EPYC,+svm,la57=off"),
        ("EPYC,-aes", {"aes": False}, "use cpu: EPYC-Milan, or EPYC,+aes"),
        ("EPYC-Genoa,aes=off", {"aes": False, "xsave": False, "la57": True},
         "use cpu: EPYC-Milan, or EPYC-Genoa,+xsave,+aes,la57=off"),
        ("Skylake-Server", {"vendor": "GenuineIntel", "xsave": False}, "use cpu: EPYC-Milan"),
    ],
)
def test_one_model_that_mends_everything(model: str, change: dict[str, Any], fix: str) -> None:
    found = cpu.problems(model, cpu.read({**GOOD, **change}), hvcpus=True)
    assert {hint for _, hint in found} == {fix}


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ((0, 1), "no GHCB protocol version"),
        ((0, 2), "needs an SEV-SNP feature"),
        ((1, 0), "did not take its GHCB's address"),
        ((1, 2), "PVALIDATE failed"),
        ((1, 11), "calling area could not be moved (Linux, reason set 1, code 11)"),
        ((1, 12), "no name here (Linux, reason set 1, code 12)"),
        ((7, 3), "no name here (unknown set, reason set 7, code 3)"),
    ],
)
def test_a_termination_in_words(asked: tuple[int, int], words: str) -> None:
    assert words in termination.words(*asked)
    line = "qemu: the guest terminated itself: whatever (reason set {}, code {})\n"
    logged = "qemu: warning: x\n" + line.format(0, 0) + line.format(*asked)
    assert termination.in_log(logged) == termination.words(*asked)


def test_what_was_done_to_a_guest_before_it_ended_itself() -> None:
    """By far the most give no particular reason."""
    said = "the guest terminated itself: no particular reason (reason set 0, code 0)"
    found = termination.in_log(f"qemu: {said}; before that, 2 faults were injected\nqemu: x\n")
    assert found == f"{termination.words(0, 0)}; before that, 2 faults were injected"


def test_a_guest_that_cannot_be_answered() -> None:
    said = "the guest was ended: VMGEXIT with 0x77 in the GHCB MSR, which is no request"
    assert termination.in_log(f"qemu: {said}\n") == said


def test_a_guest_that_was_reset() -> None:
    found = termination.in_log("qemu-system-x86_64: cpus are not resettable, terminating\n")
    assert found is not None and "rebooted" in found


@given(st.integers(0, 15), st.integers(0, 255))
def test_every_request_has_words(reason_set: int, code: int) -> None:
    assert termination.words(reason_set, code).endswith(f"reason set {reason_set}, code {code})")


@given(st.text())
def test_a_log_without_one(text: str) -> None:
    assert termination.in_log(text) is None
