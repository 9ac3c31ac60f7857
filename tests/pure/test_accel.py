# SPDX-License-Identifier: Apache-2.0
"""Which accelerator is taken, how a verdict is reached, kept and believed."""

from __future__ import annotations

import errno
import json
import os
import tempfile
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cpcctl.accel import answer, choose, device, memory, probe, verdict
from cpcctl.accel.verdict import Verdict
from cpcctl.config.load import load
from cpcctl.config.settings import Settings
from cpcctl.errors import CpcError
from cpcctl.host import find
from cpcctl.host.firmware import HvcpuDead

WORKS = Verdict("works", "a guest and an hvCPU answered within 0.3 s")
MUTE = Verdict("hvcpu", "no hvCPU answered", "make firmware")
BAD = Verdict("hang", "a small guest hung for 10 s", "use another host")


@pytest.mark.parametrize("flag", [None, "auto", "tcg", "kvm"])
@pytest.mark.parametrize("defined", ["auto", "tcg", "kvm"])
@pytest.mark.parametrize("setting", ["auto", "tcg", "kvm"])
def test_precedence(flag: str | None, defined: str, setting: str) -> None:
    found = choose.wanted(flag, defined, setting)
    if flag is not None:
        assert found == flag
    elif defined != "auto":
        assert found == defined
    else:
        assert found == setting


@pytest.mark.parametrize(
    ("wish", "verdict", "accel", "why"),
    [
        ("tcg", None, "tcg", None),
        ("tcg", WORKS, "tcg", None),
        ("kvm", WORKS, "kvm", None),
        ("auto", WORKS, "kvm", "KVM works here; using it"),
        ("auto", BAD, "tcg",
         "KVM does not work here: a small guest hung for 10 s; using TCG"),
        # Only for who asks for it: what its hvCPUs lack comes out at the start.
        ("kvm", MUTE, "kvm", None),
        ("auto", MUTE, "tcg", "KVM does not work here: no hvCPU answered; using TCG"),
    ],
)
def test_decision(wish: str, verdict: Verdict | None, accel: str, why: str | None) -> None:
    assert choose.decide(wish, verdict) == choose.Choice(accel, why)


def test_kvm_that_does_not_work_is_refused() -> None:
    with pytest.raises(CpcError) as caught:
        choose.decide("kvm", BAD)
    assert caught.value.exit_code == 3
    assert caught.value.cause == BAD.reason
    assert caught.value.hint == "use another host\n--accel tcg"


# ---- what the probe guest says ---------------------------------------------------


@pytest.mark.parametrize(
    ("said", "step"),
    [("", "the BIOS"), ("a", "64-bit mode"), ("abcd", "vector registers"), ("abx", answer.STEPS[2]),
     (answer.LETTERS, "last output")],
)
def test_step(said: str, step: str) -> None:
    assert answer.step(said) == step
    assert step in answer.hang(said, 10, True).reason


def test_only_the_whole_answer_counts() -> None:
    source = Path(__file__).parents[2] / "guest-agent" / "kvm-probe" / "probe.S"
    lines = [line for line in source.read_text().splitlines() if "say     '" in line]
    whole = "".join(line.split("'")[1] for line in lines).replace("\\n", "")
    assert whole == answer.DONE, "the guest and its reader have the same letters"
    assert answer.done(whole + "\n")
    for end in range(len(whole)):
        assert not answer.done(whole[:end])
    assert answer.fault("abc!")
    assert not answer.fault(whole)


@pytest.mark.parametrize(("said", "answers"), [("", False), ("", True), ("ab", True)])
def test_a_hang_that_may_be_a_busy_hosts_says_how_to_ask_again(said: str, answers: bool) -> None:
    assert "cpcctl doctor (it asks again)" in (answer.hang(said, 10, answers).fix or "")


@given(st.text(max_size=40), st.integers(-64, 255), st.text(max_size=400))
def test_whatever_it_says_is_a_verdict_that_can_be_kept(said: str, code: int, log: str) -> None:
    for found in (
        answer.hang(said, 10, False), answer.crashed(said, "was reset"),
        answer.ended(code, log, said, False),
    ):
        assert not found.works
        assert found.fix
        assert verdict.read(found.document()) == found


@pytest.mark.parametrize(
    ("code", "log", "said", "kind", "words"),
    [
        (0, "", "a", "crash", "a small guest was reset (a triple fault) at 64-bit mode"),
        (0, "", "", "qemu", "QEMU fails with KVM: status 0"),
        (1, "", "a", "qemu", "QEMU fails with KVM: status 1"),
        (-6, "", "a", "qemu", "QEMU fails with KVM: killed by signal 6"),
        (1, "/x/qemu-system-x86_64: warning: y\n/x/qemu-system-x86_64: error: no MSR\nmore\n",
         "a", "qemu", "QEMU fails with KVM: no MSR"),
        (1, "a\x1b[2Jb", "a", "qemu", "QEMU fails with KVM: a\\x1b[2Jb"),
    ],
)
def test_a_qemu_that_ended(code: int, log: str, said: str, kind: str, words: str) -> None:
    found = answer.ended(code, log, said, False)
    assert (found.kind, found.reason) == (kind, words)


@pytest.mark.parametrize(
    "document",
    [None, [], {}, "works", {"kind": "works"}, {"kind": "fine", "reason": "x", "fix": None},
     {"kind": "works", "reason": "", "fix": None}, {"kind": "works", "reason": 1, "fix": None},
     {"kind": "works", "reason": "x", "fix": "a\nb"},
     {"kind": "works", "reason": "x" * 2000, "fix": None},
     {"kind": ["works"], "reason": "x", "fix": None},
     {"kind": "works", "reason": "x", "fix": None, "more": 1}],
)
def test_what_is_no_verdict(document: object) -> None:
    with pytest.raises(ValueError, match="no verdict"):
        verdict.read(document)


# ---- what QEMU says while the guest runs ------------------------------------------


class Child:
    """A QEMU that runs."""

    def poll(self) -> None:
        """It has not ended."""


class Monitor:
    """Its monitor: a run state and an accelerator."""

    def __init__(self, status: str, accelerator: str) -> None:
        self.status, self.accelerator = status, accelerator

    def execute(self, command: str, **_: object) -> dict[str, str]:
        """Only query-status is expected."""
        assert command == "query-status"
        return {"status": self.status}

    def require_cpc(self) -> dict[str, str]:
        """Of query-cpc what the probe looks at."""
        return {"accelerator": self.accelerator}


class DeadOne:
    """A monitor as HvcpuDead wants to know it."""

    label, host = "VM a", None


def watched(folder: Path, said: str, monitor: Monitor, seconds: float) -> Verdict:
    """The verdict on a guest that said something, and a QEMU that still runs."""
    (folder / "console.log").write_text(said)
    watch = probe._Watch(cast(Any, Child()), folder, seconds, "kvm")
    watch.qmp = cast(Any, monitor)
    return watch.verdict()


def test_a_guest_that_kvm_gave_up(tmp_path: Path) -> None:
    found = watched(tmp_path, "ab", Monitor("internal-error", "kvm"), 20)
    assert (found.kind, found.reason) == (
        "crash",
        "a small guest was stopped by the kernel (KVM internal error) "
        "at exceptions and page faults",
    )
    assert watched(tmp_path, "ab", Monitor("running", "kvm"), 0.05).kind == "hang"


def test_hvcpus_with_another_accelerator_are_no_answer(tmp_path: Path) -> None:
    found = watched(tmp_path, answer.DONE, Monitor("running", "tcg"), 20)
    assert (found.kind, found.reason) == ("hvcpu", "its hvCPUs run with tcg")


@pytest.mark.parametrize(
    ("raised", "seconds", "kind", "fix"),
    [
        (CpcError("call PING took longer"), 0.0, "hang", "cpcctl doctor (it asks again)"),
        (CpcError("hvCPU 0 gave a short answer to ping"), 20.0, "hvcpu", "make qemu firmware"),
        (HvcpuDead(cast(Any, DeadOne()), 0, "dead", "triple fault"), 0.0, "hvcpu", "make qemu"),
    ],
)
def test_an_hvcpu_that_is_late_is_no_hvcpu_that_fails(
    raised: CpcError, seconds: float, kind: str, fix: str, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A busy host is told apart: what it says is not remembered as a broken firmware."""
    def fails(*_: object) -> None:
        raise raised

    watch = probe._Watch(cast(Any, Child()), tmp_path, seconds, "kvm")
    monitor = Monitor("running", "kvm")
    monkeypatch.setattr(monitor, "require_cpc", fails)
    found = watch._call(cast(Any, monitor))
    assert (found.kind, found.reason.startswith("guests run, but ")) == (kind, True)
    assert fix in (found.fix or "")


def test_a_folder_too_long_for_sockets_says_nothing_of_kvm(
    host: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ("long" * 30)).mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / ("long" * 30)))
    monkeypatch.setattr(find, "firmware_version", lambda _: "0")
    (tmp_path / "kvm-probe.bin").write_bytes(probe.MULTIBOOT)
    found = memory.ask(host)
    assert (found.kind, found.fix) == ("parts", "unset TMPDIR")
    assert "too long for sockets" in found.reason
    assert not memory.file(host).exists()


# ---- the device --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "words"),
    [({"svm"}, "modprobe kvm_amd"), ({"vmx"}, "modprobe kvm_intel"), (set(), "BIOS")],
)
def test_no_device(
    flags: set[str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device, "DEVICE", tmp_path / "kvm")
    (tmp_path / "cpuinfo").write_text(f"processor: 0\nflags\t\t: fpu {' '.join(flags)} sse\n")
    monkeypatch.setattr(device, "CPUINFO", tmp_path / "cpuinfo")
    found = device.look()
    assert found is not None
    assert (found.kind, found.reason) == ("absent", f"there is no {tmp_path / 'kvm'}")
    assert words in (found.fix or "")
    assert device.identity() == []


@pytest.mark.parametrize(
    ("number", "kind"),
    [(errno.EACCES, "denied"), (errno.EPERM, "denied"), (errno.ENODEV, "unusable"),
     (errno.ENOENT, "absent"), (errno.EBUSY, "unusable")],
)
def test_a_device_that_does_not_open(
    number: int, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    (tmp_path / "kvm").write_text("")
    monkeypatch.setattr(device, "DEVICE", tmp_path / "kvm")
    monkeypatch.setattr(os, "open", refuse)
    found = device.look()
    assert found is not None and found.kind == kind
    assert found.fix
    assert verdict.read(found.document()) == found


def test_who_may_open_it_is_named() -> None:
    assert device.permit("/dev/kvm", "ann", "kvm") == (
        "usermod -aG kvm ann, as root; then log in again"
    )
    assert device.permit("/dev/kvm", "ann", None) == (
        "chgrp kvm /dev/kvm && chmod 660 /dev/kvm && usermod -aG kvm ann, as root; "
        "then log in again"
    )


# ---- what is remembered --------------------------------------------------------------


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A host whose parts are empty files, and whose device opens."""
    for name in ("qemu", "firmware", "kvm-probe.bin", "kvm", "boot"):
        (tmp_path / name).write_text(name)
    monkeypatch.setattr(device, "DEVICE", tmp_path / "kvm")
    monkeypatch.setattr(memory, "BOOT", tmp_path / "boot")
    for name in ("STATE_DIR", "QEMU", "FIRMWARE"):
        monkeypatch.setenv(f"CPCCTL_{name}", str(tmp_path / name.lower()))
    monkeypatch.setenv("CPCCTL_ACCEL", "auto")
    monkeypatch.setenv("CPCCTL_KVM_VERDICT", "")
    return load({})


@pytest.fixture
def probed(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The limits of the probes that were run; they find that KVM works."""
    runs: list[float] = []

    def run(_: Settings, seconds: float) -> Verdict:
        runs.append(seconds)
        return WORKS

    monkeypatch.setattr(probe, "run", run)
    return runs


def answers(monkeypatch: pytest.MonkeyPatch, found: Verdict) -> None:
    """From now on the probe finds this."""
    monkeypatch.setattr(probe, "run", lambda *_: found)


def test_it_is_asked_once(host: Settings, probed: list[float]) -> None:
    assert memory.known(host) is None
    assert memory.ask(host) == memory.ask(host) == WORKS
    assert len(probed) == 1
    assert memory.known(host) == "kvm"
    assert memory.take(host, None) == choose.Choice("kvm", "KVM works here; using it")
    assert memory.ask(host, fresh=True) == WORKS
    assert len(probed) == 2


def test_a_bad_verdict_is_kept_until_somebody_has_more_patience(
    host: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers(monkeypatch, BAD)
    assert memory.ask(host, seconds=10) == BAD
    answers(monkeypatch, WORKS)
    assert memory.ask(host, seconds=10) == BAD
    assert memory.known(host) == "tcg"
    assert memory.known(replace(host, accel="kvm")) is None
    assert memory.ask(host, seconds=11) == WORKS
    answers(monkeypatch, BAD)
    assert memory.ask(host, seconds=99) == WORKS


CHANGES: dict[str, Callable[[Path], object]] = {
    "another boot": lambda f: (f / "boot").write_text("other"),
    "another QEMU": lambda f: (f / "qemu").write_text("other"),
    "another firmware": lambda f: (f / "firmware").write_text("other one"),
    "another probe guest": lambda f: (f / "kvm-probe.bin").write_text("KVM-probe.bin"),
    "other rights": lambda f: (f / "kvm").chmod(0o600),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_verdict_on_something_else_does_not_count(
    change: str, host: Settings, probed: list[float], tmp_path: Path
) -> None:
    memory.ask(host)
    CHANGES[change](tmp_path)
    memory.ask(host)
    assert len(probed) == 2


def test_the_device_is_looked_at_each_time(
    host: Settings, probed: list[float], tmp_path: Path
) -> None:
    memory.ask(host)
    (tmp_path / "kvm").unlink()
    assert memory.ask(host).kind == "absent"
    assert memory.known(host) == "tcg"


DAMAGE: list[bytes] = [
    b"", b"{", b"\xff\xfe", b"[]", b"null", b"1", b"[" * 100000, b'{"format": 1}',
    b'{"format": 1, "key": {}, "verdict": {"kind": "works", "reason": "x", "fix": null}}',
]


@pytest.mark.parametrize("data", DAMAGE)
def test_a_damaged_file_is_as_good_as_none(
    data: bytes, host: Settings, probed: list[float]
) -> None:
    memory.ask(host)
    memory.file(host).write_bytes(data)
    assert memory.ask(host) == WORKS
    assert len(probed) == 2
    assert memory.ask(host) == WORKS
    assert len(probed) == 2


@pytest.mark.parametrize(
    "change",
    [{"format": 2}, {"verdict": {"kind": "fine"}}, {"seconds": "x", "verdict": BAD.document()},
     {"key": None}],
)
def test_a_changed_file_is_as_good_as_none(
    change: dict[str, Any], host: Settings, probed: list[float]
) -> None:
    memory.ask(host)
    document = json.loads(memory.file(host).read_text())
    memory.file(host).write_text(json.dumps({**document, **change}))
    memory.ask(host)
    assert len(probed) == 2


@pytest.mark.parametrize(
    ("make", "probes"),
    [
        (os.mkfifo, 1),  # opening one waits for a writer, unless told otherwise
        (lambda path: path.symlink_to("/dev/zero"), 1),
        (lambda path: path.symlink_to(path), 1),
        (Path.mkdir, 2),  # nothing can take its place
    ],
    ids=["pipe", "device", "loop", "folder"],
)
def test_what_is_no_file_is_as_good_as_none(
    make: Callable[[Path], object], probes: int, host: Settings, probed: list[float]
) -> None:
    host.state_dir.mkdir()
    make(memory.file(host))
    assert memory.known(host) is None
    assert memory.ask(host) == memory.ask(host) == WORKS
    assert len(probed) == probes


def test_what_only_lacks_to_ask_with_is_not_remembered(
    host: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers(monkeypatch, Verdict("parts", "no VM can be started: no space", "cpcctl doctor"))
    assert memory.ask(host).kind == "parts"
    answers(monkeypatch, WORKS)
    assert memory.ask(host) == WORKS


def test_a_file_that_cannot_be_written_changes_nothing(
    host: Settings, probed: list[float], tmp_path: Path
) -> None:
    (tmp_path / "state_dir").write_text("no folder")
    assert memory.ask(host) == WORKS


def test_it_can_be_kept_elsewhere(host: Settings, probed: list[float], tmp_path: Path) -> None:
    place = replace(host, kvm_verdict=tmp_path / "deep" / "verdict")
    memory.ask(place)
    memory.ask(replace(place, state_dir=tmp_path / "other"))
    assert len(probed) == 1
    assert (tmp_path / "deep" / "verdict").is_file()
    assert not host.state_dir.exists()


def test_two_at_once_probe_once(host: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    inside, go = threading.Event(), threading.Event()
    runs: list[int] = []

    def run(*_: object) -> Verdict:
        runs.append(1)
        inside.set()
        assert go.wait(20)
        return WORKS

    monkeypatch.setattr(probe, "run", run)
    found: list[Verdict] = []
    threads = [threading.Thread(target=lambda: found.append(memory.ask(host))) for _ in range(2)]
    for thread in threads:
        thread.start()
    assert inside.wait(20)
    go.set()
    for thread in threads:
        thread.join(20)
    assert (found, len(runs)) == ([WORKS, WORKS], 1)


def test_a_missing_part_is_named(host: Settings, tmp_path: Path) -> None:
    (tmp_path / "kvm-probe.bin").unlink()
    place = replace(host, cache_dir=tmp_path / "none")
    found = memory.ask(place)
    assert (found.kind, found.fix) == ("parts", "make firmware")
    assert "no probe guest for KVM found" in found.reason
    assert not memory.file(place).exists()


def test_tcg_needs_no_verdict(host: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> Verdict:
        raise AssertionError("it was asked")

    monkeypatch.setattr(probe, "run", never)
    monkeypatch.setattr(device, "look", never)
    assert memory.take(host, "tcg").accel == "tcg"
    assert memory.take(host, None, "tcg").accel == "tcg"
    assert memory.take(replace(host, accel="tcg"), None).accel == "tcg"
    assert memory.known(replace(host, accel="tcg")) == "tcg"
