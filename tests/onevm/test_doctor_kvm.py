# SPDX-License-Identifier: Apache-2.0
"""The probe that finds out whether KVM works, and what follows from it."""

from __future__ import annotations

import functools
import json
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from cpcctl import __main__ as entry
from cpcctl import abi
from cpcctl.accel import answer, device, memory, probe, verdict
from cpcctl.accel.verdict import Verdict
from cpcctl.config.settings import Settings
from cpcctl.errors import CpcError
from cpcctl.host import find
from cpcctl.migrate import facts
from cpcctl.migrate.checks import DestinationFacts, SourceFacts, destination_checks
from cpcctl.vm import lifecycle, spec
from cpcctl.vm.spec import VmSpec
from tests import accel
from tests.onevm import images
from tests.patience import patient

# A QEMU that was killed, its folder removed.
END_SECONDS = patient(3.0)
CHOSEN = accel.chosen()
ENTRY = 32  # behind the multiboot header of the probe guest
LOOP, UNDEFINED = images.LOOP, images.UD2
FAULT = b"\xb0!\x66\xba\xf8\x03\xee\xf4"  # mov $'!', %al; mov $0x3f8, %dx; out; hlt


@pytest.fixture
def timed() -> Callable[..., Verdict]:
    """Run the probe; fails when it takes longer than it was given, or leaves QEMU behind."""

    def run(settings: Settings, seconds: float, **more: Any) -> Verdict:
        begin = time.monotonic()
        found = probe.run(settings, seconds, **more)
        taken = time.monotonic() - begin
        assert taken < seconds + END_SECONDS, f"it took {taken:.1f} s"
        assert not leftovers()
        assert verdict.read(found.document()) == found
        return found

    return run


def leftovers() -> list[str]:
    """Command lines of probing QEMUs that still run, ours or anybody's below us."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            words = (path / "cmdline").read_bytes()
            mine = f"CPC_TEST_RUN={os.environ['CPC_TEST_RUN']}".encode()
            if b"kvm-probe" in words and mine in (path / "environ").read_bytes():
                found.append(words.decode(errors="replace"))
        except OSError:
            continue
    return found


@pytest.fixture
def guest(place: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Replace the probe guest's first instructions."""
    image = bytearray(find.probe_guest(place).read_bytes())

    def patched(code: bytes) -> None:
        image[ENTRY : ENTRY + len(code)] = code
        (tmp_path / "guest").write_bytes(image)
        monkeypatch.setattr(find, "probe_guest", lambda _: tmp_path / "guest")

    return patched


def fake(place: Settings, tmp_path: Path, script: str) -> Settings:
    """The same host with a shell script for its QEMU."""
    program = tmp_path / "qemu-system-x86_64"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return replace(place, qemu=program)


def outcome(place: Settings, cpu: str, accelerator: str) -> str:
    """Start a VM with the probe guest; what goes wrong, if anything does."""
    vm = {
        "name": "a", "memory": "64M", "ring_size": "2M", "cpu": cpu, "accel": accelerator,
        "kernel": str(find.probe_guest(place)), "vcpus": 2,
    }  # fmt: skip
    try:
        started = lifecycle.start(place, spec.read(vm))
    except CpcError as error:
        return f"{error.message}: {error.cause}"
    log, deadline = started.paths.console_log, time.monotonic() + patient(4)
    while not answer.done(said := log.read_text(errors="replace")):
        if time.monotonic() > deadline:
            return f"the guest said {said!r}"
        time.sleep(0.01)
    return ""


def test_a_probe_can_succeed(place: Settings, timed: Any) -> None:
    """The control: the same guest and hvCPU answer with what the tests run with."""
    found = timed(place, patient(10), accel=CHOSEN)
    assert found.works, found
    assert outcome(place, "max", CHOSEN) == ""


def test_a_qemu_that_hangs(place: Settings, timed: Any, tmp_path: Path) -> None:
    found = timed(fake(place, tmp_path, "exec sleep 1000"), 0.5)
    assert (found.kind, found.reason) == ("hang", "QEMU did not answer within 0.5 s")


def test_a_qemu_that_hangs_with_children(place: Settings, timed: Any, tmp_path: Path) -> None:
    found = timed(fake(place, tmp_path, "trap '' TERM; sleep 1000 & sleep 1000"), 0.5)
    assert found.kind == "hang"


def test_a_qemu_that_fails(place: Settings, timed: Any, tmp_path: Path) -> None:
    script = "echo 'qemu-system-x86_64: error: no such MSR' >&2; exit 1"
    found = timed(fake(place, tmp_path, script), patient(5))
    assert (found.kind, found.reason) == ("qemu", "QEMU fails with KVM: no such MSR")
    found = timed(fake(place, tmp_path, "kill -ABRT $$"), patient(5))
    assert found.kind == "qemu"
    program = tmp_path / "qemu-system-x86_64"
    program.write_bytes(b"\0")
    found = timed(replace(place, qemu=program), patient(5))
    assert found.kind == "qemu"


@pytest.mark.parametrize(
    ("code", "kind", "words"),
    [
        (LOOP, "hang", "a small guest hung for 5 s; it came as far as the BIOS"),
        (UNDEFINED, "crash", "a small guest was reset (a triple fault) at the BIOS"),
        (FAULT, "crash", "a small guest met a fault that is none at the BIOS"),
    ],
)
def test_a_guest_that_does_not_answer(
    code: bytes, kind: str, words: str, guest: Any, place: Settings, timed: Any
) -> None:
    guest(code)
    seconds = 5.0 if kind == "hang" else patient(10)
    found = timed(place, seconds, accel=CHOSEN)
    assert (found.kind, found.reason) == (kind, words)


def test_a_guest_that_stops_on_the_way(
    place: Settings, timed: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reason names the step that was not passed."""
    image = bytearray(find.probe_guest(place).read_bytes())
    letter = image.index(b"\xb0c")  # mov $'c', %al: before it is said
    image[letter : letter + 2] = LOOP
    (tmp_path / "guest").write_bytes(image)
    monkeypatch.setattr(find, "probe_guest", lambda _: tmp_path / "guest")
    found = timed(place, patient(3), accel=CHOSEN)
    assert found.kind == "hang"
    assert found.reason.endswith("it came as far as exceptions and page faults")


def test_an_hvcpu_that_hangs(place: Settings, timed: Any, tmp_path: Path, built: Any) -> None:
    """In time as well, and not taken for one that does not work."""
    firmware = images.damaged(built.firmware, tmp_path, LOOP)
    seconds = patient(4)
    found = timed(replace(place, firmware=firmware), seconds, accel=CHOSEN)
    assert (found.kind, found.reason) == (
        "hang", f"guests run, but an hvCPU did not answer within {seconds:g} s",
    )  # fmt: skip
    assert "cpcctl doctor (it asks again)" in found.fix


def test_a_part_that_lacks(place: Settings, timed: Any, tmp_path: Path) -> None:
    (tmp_path / "fw").write_text("nothing")
    found = timed(replace(place, firmware=tmp_path / "fw"), patient(5))
    assert (found.kind, found.fix) == ("parts", find.FIRMWARE_FIX)


@pytest.mark.parametrize("content", [b"", b"\x7fELF no guest of ours"])
def test_a_damaged_guest_says_nothing_of_kvm(
    content: bytes, place: Settings, timed: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "guest").write_bytes(content)
    monkeypatch.setattr(find, "probe_guest", lambda _: tmp_path / "guest")
    found = timed(place, patient(5))
    assert (found.kind, found.fix) == ("parts", "make firmware")
    assert found.reason == f"{tmp_path / 'guest'} is not a probe guest"


@pytest.mark.parametrize("cpu", ["max", pytest.param("qemu64", marks=pytest.mark.slow)])
def test_the_real_device(
    place: Settings, timed: Any, cpu: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever this machine's KVM does, what starts VMs then finds the same."""
    found = timed(place, patient(4), cpu=cpu)
    if CHOSEN == "kvm":
        assert found.works, found
    # Whoever starts it does not ask again: QEMU, hvCPU and guest are to agree by themselves.
    monkeypatch.setattr(memory, "ask", lambda *_, **__: Verdict("works", "is to be seen"))
    monkeypatch.setattr(lifecycle, "FIRMWARE_SECONDS", patient(4))
    assert (outcome(place, cpu, "kvm") == "") == found.works, found


def test_the_real_device_by_way_of_the_memory(place: Settings, tmp_path: Path) -> None:
    place = replace(place, kvm_verdict=tmp_path / "verdict")
    first = memory.ask(place, seconds=patient(4))
    begin = time.monotonic()
    assert memory.ask(place, seconds=patient(4)) == first
    assert time.monotonic() - begin < patient(0.2)
    assert (tmp_path / "verdict").exists() == (device.look() is None)


# ---- what vm start makes of it -------------------------------------------------------


@pytest.fixture
def cli(
    place: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Callable[..., tuple[int, str, str]]:
    """vm start of a definition with an accel, in this process: exit code, stdout, stderr."""
    monkeypatch.setenv("CPCCTL_KVM_VERDICT", str(tmp_path / "verdict"))
    monkeypatch.setenv("CPCCTL_ACCEL", "auto")

    def run(accel: str | None, *argv: str) -> tuple[int, str, str]:
        document = {"name": "a", "memory": "64M", "ring_size": "2M", "accel": accel}
        path = tmp_path / "a.yaml"
        path.write_text(yaml.safe_dump({k: v for k, v in document.items() if v is not None}))
        capsys.readouterr()
        code = entry.main(["vm", "start", str(path), *argv])
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    return run


@pytest.fixture
def no_kvm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """A machine without /dev/kvm; why not."""
    monkeypatch.setattr(device, "DEVICE", tmp_path / "none")
    return f"there is no {tmp_path / 'none'}"


@pytest.fixture
def good_kvm(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine whose KVM works, as far as anybody asks."""
    monkeypatch.setattr(device, "DEVICE", Path("/dev/null"))
    monkeypatch.setattr(probe, "run", lambda *_: Verdict("works", "it does"))


def used(out: str) -> str:
    """-accel in a printed command line."""
    argv = json.loads(out)["argv"]
    return str(argv[argv.index("-accel") + 1])


PRINT = ("--print-command", "--format", "json")


def short(reason: str) -> str:
    """A reason as one line has it."""
    return Verdict("absent", reason).short


def test_auto_falls_back_and_says_so(cli: Any, no_kvm: str) -> None:
    code, out, err = cli(None, *PRINT)
    assert (code, used(out)) == (0, "tcg,thread=multi")
    assert err == f"KVM does not work here: {short(no_kvm)}; using TCG\n"
    assert cli("auto", *PRINT) == (code, out, err)
    assert cli("kvm", "--accel", "auto", *PRINT) == (code, out, err)


def test_auto_does_without_a_kvm_that_hangs(
    cli: Any, place: Settings, built: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real start, by itself: QEMU with KVM says nothing at all, and with TCG it works."""
    works = tmp_path / "works"
    hangs = fake(place, tmp_path, (
        f'case " $* " in *" -accel kvm"*) exec sleep 1000;; esac; touch {works}; '
        f'exec {built.qemu} "$@"'
    ))  # fmt: skip
    monkeypatch.setenv("CPCCTL_QEMU", str(hangs.qemu))
    monkeypatch.setattr(device, "DEVICE", Path("/dev/null"))
    monkeypatch.setattr(probe, "SECONDS", 1.0)
    code, out, err = cli(None)
    assert code == 0, err
    assert "KVM does not work here: QEMU did not answer within 1 s; using TCG\n" in err
    assert ", tcg, " in out and works.exists()
    assert not accel.kvm_files(lifecycle.attach(place, "a").process.pid)
    assert json.loads((tmp_path / "verdict").read_text())["verdict"]["kind"] == "hang"
    # Remembered: the next one is told the same, without being made to wait for it.
    monkeypatch.setattr(probe, "run", lambda *_: pytest.fail("it was asked again"))
    assert lifecycle.stop(place, "a", force=True)
    code, out, err = cli(None)
    assert (code, "using TCG\n" in err) == (0, True)


def test_auto_takes_what_works(cli: Any, good_kvm: None) -> None:
    code, out, err = cli(None, *PRINT)
    assert (code, used(out), err) == (0, "kvm", "KVM works here; using it\n")


def test_who_is_asked_first(cli: Any, good_kvm: None, monkeypatch: pytest.MonkeyPatch) -> None:
    for defined, flag, setting, taken in (
        ("tcg", None, "kvm", "tcg,thread=multi"),
        ("kvm", None, "tcg", "kvm"),
        ("kvm", "tcg", "kvm", "tcg,thread=multi"),
        ("tcg", "kvm", "tcg", "kvm"),
        ("auto", None, "tcg", "tcg,thread=multi"),
        ("auto", None, "kvm", "kvm"),
        ("tcg", "auto", "tcg", "kvm"),
    ):
        monkeypatch.setenv("CPCCTL_ACCEL", setting)
        code, out, _ = cli(defined, *PRINT, *(("--accel", flag) if flag else ()))
        assert (code, used(out)) == (0, taken), (defined, flag, setting)


@pytest.mark.parametrize("how", ["definition", "flag", "setting"])
def test_kvm_that_lacks_is_refused(
    how: str, cli: Any, no_kvm: str, place: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    if how == "setting":
        monkeypatch.setenv("CPCCTL_ACCEL", "kvm")
    code, out, err = cli(
        "kvm" if how == "definition" else None, *(("--accel", "kvm") if how == "flag" else ())
    )
    assert (code, out) == (3, "")
    assert err.startswith(f"error: KVM does not work here\n  cause: {short(no_kvm)}\n  try: ")
    assert "  try: --accel tcg\n" in err
    assert lifecycle.list_all(place) == []
    assert not (place.state_dir / "vms").exists()


def test_what_was_chosen_is_written_down_and_shown(
    cli: Any, place: Settings, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    chosen = CHOSEN
    monkeypatch.setenv("CPCCTL_ACCEL", chosen)
    code, out, err = cli("auto")
    assert code == 0, err
    assert f", {chosen}, " in out
    written = place.state_dir / "vms" / "a" / "vm.yaml"
    assert yaml.safe_load(written.read_text())["accel"] == chosen
    assert spec.load(written).accel == chosen
    capsys.readouterr()
    assert entry.main(["vm", "status", "a", "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["accel"] == chosen
    assert entry.main(["vm", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[5:] == ["ACCEL", "MACHINE"]
    assert lines[1].split()[-2] == chosen
    # A VM that does not run shows what it ran with.
    lifecycle.attach(place, "a").kill()
    assert lifecycle.status(place, "a")["accel"] == chosen


# ---- and a migration -------------------------------------------------------------------


def test_both_sides_ask_for_the_same_cpu(place: Settings) -> None:
    """The destination asks a QEMU with the guest's accelerator, not just any."""
    vm = lifecycle.start(place, spec.read({"name": "a", "memory": "64M", "ring_size": "2M"}))
    with vm.qmp() as qmp:
        there = facts.cpu_features(qmp, vm.spec.cpu)
    source = SourceFacts("host-a", "plain", abi.ABI_VERSION, "", 64 << 20, there)
    here = facts.of_destination(place, vm.spec, source, True)
    assert here.cpu == there
    assert here.kvm == ("", "")
    assert not failed(vm.spec, source, here) & {"accelerator", "cpu"}


def test_what_qemu_would_leave_out_is_no_feature(place: Settings) -> None:
    """A named model expands to the same on every host; the guest gets less."""

    def ask(model: str) -> set[str]:
        data = find.qemu_data(place, find.qemu_binary(place))
        question = functools.partial(facts.cpu_features, model=model)
        return set(find.ask(find.qemu_binary(place), data, question, accel=CHOSEN))

    able, named = ask("max,migratable=off"), ask("Skylake-Server")
    assert {"sse2", "aes", "avx2"} <= named <= able
    assert "aes" not in ask("Skylake-Server,-aes")
    # The models have them, and TCG has not.
    if CHOSEN == "tcg":
        assert not {"hle", "avx512f"} & (named | ask("qemu64,+avx512f"))


def test_a_guest_with_kvm_does_not_come_to_a_host_without(place: Settings, no_kvm: str) -> None:
    guest = spec.read({"name": "a", "memory": "64M", "accel": "kvm", "machine": "pc-q35-10.0"})
    source = SourceFacts("host-a", "plain", abi.ABI_VERSION, "", 64 << 20, ("aes",))
    here = facts.of_destination(place, guest, source, False)
    assert here.kvm[0] == no_kvm
    assert "accelerator" in failed(guest, source, here)
    assert "cpu" not in failed(guest, source, here)
    # The same guest under TCG is welcome, also where KVM does not work.
    same = replace(guest, accel="tcg")
    here = facts.of_destination(place, same, source, False)
    assert not failed(same, source, here) & {"accelerator", "cpu"}


def failed(guest: VmSpec, source: SourceFacts, here: DestinationFacts) -> set[str]:
    """Names of the preflight checks that refuse."""
    return {check.name for check in destination_checks(guest, source, here) if not check.ok}
