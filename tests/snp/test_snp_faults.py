# SPDX-License-Identifier: Apache-2.0
"""What a hostile host does to an SEV-SNP guest: it stops, or goes on unharmed, and never with
wrong data; QEMU lives on and says why the guest ended."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cpcctl.host.qmp import QmpError
from tests.patience import patient
from tests.snp import fuzz_image, guest_image
from tests.snp.boot import MEMORY_MIB, OBJECTS, Guest, Parts, command
from tests.snp.fuzz_image import Mode
from tests.snp.guest_image import MEMORY
from tests.snp.steps import (
    BAD_EVENT,
    NOT_VALIDATED,
    Follow,
    Step,
    Steps,
    msr,
    read,
    refused,
    request,
    vmgexit,
)

Boot = Callable[..., Guest]
Launch = Callable[[list[str]], Guest]
# A guest that has ended leaves QEMU to be asked about it.
STAYS = ["-action", "panic=pause,shutdown=pause"]
HELD_MIB = 96
SECONDS, ASK_SECONDS, LOOK_SECONDS = 120.0, 8.0, 0.3
# One page of so many: a command for each takes its time, and the guest holds 24,576.
STEP = 32 * 4096
# What its own #VC handler needs may be in a page that was exchanged: then it meets that page
# for ever, on silicon too, and does nothing else. So many times between two looks (a running
# guest does it 0 times).
FOR_EVER = 1000
TRIES = 4
INTACT, CHANGED, STOPPED, CAUGHT = "intact", "changed", "stopped", "caught"


def hold(guest: Guest, mib: int = HELD_MIB) -> None:
    """Fill a good part of the guest's memory, with a checksum beside it."""
    guest.run(f"dd if=/dev/urandom of=/data/held bs=1M count={mib}", SECONDS)
    guest.run("md5sum /data/held > /data/sum", SECONDS)


def running(guest: Guest) -> bool:
    """Whether the guest runs. Fails when QEMU is dead."""
    assert guest.ended() is None, guest.words()
    return bool(guest.qmp().execute("query-status")["running"])


def outcome(guest: Guest) -> str:
    """What has become of the guest and of what it held. Fails when it does not say in time.

    The question is typed anew while no answer comes: the fault may befall the typing.
    """
    deadline = time.monotonic() + patient(SECONDS)
    start = len(guest.console())
    while time.monotonic() < deadline:
        asked = len(guest.console())
        guest.type("\nmd5sum -c /data/sum")
        again = time.monotonic() + patient(ASK_SECONDS)
        met = guest.query()["unvalidated-accesses"]
        while time.monotonic() < again:
            said = guest.console(LOOK_SECONDS)[start:]
            if "/data/held: FAILED" in said or "WARNING: 1 computed" in said:
                return CHANGED
            if not running(guest) or "Kernel panic" in said:
                return STOPPED
            if "/data/held: OK" in said:
                return INTACT
        if guest.query()["unvalidated-accesses"] - met > FOR_EVER and len(said) == asked - start:
            return CAUGHT
    raise AssertionError(f"neither runs nor stops: {guest.console()[start:][-2000:]}")


def faults(guest: Guest) -> int:
    """How many the emulated processor has done."""
    return int(guest.query()["faults"])


def spoil(guest: Guest, fault: str) -> int:
    """Do something to one page of every STEP above 16 MiB; to how many it was done."""
    done, before = 0, faults(guest)
    for address in range(16 << 20, MEMORY_MIB << 20, STEP):
        try:
            guest.qmp().execute("sev-emulation-inject", fault=fault, gpa=address)
            done += 1
        except QmpError as error:
            assert "private" in str(error.cause) or "save area" in str(error.cause)
    assert faults(guest) == before + done
    return done


@pytest.mark.parametrize(
    ("fault", "kernel"),
    [("rmp-remap", "6.1"), ("rmp-unvalidate", "6.12"), ("psc-replay", "6.1")],
)
def test_a_guest_whose_pages_are_exchanged_ends_itself(
    boot: Boot, fault: str, kernel: str
) -> None:
    """Or taken away, or had their page state changes done once more."""
    for _ in range(TRIES):
        guest = boot(kernel, extra=STAYS)
        hold(guest)
        assert spoil(guest, fault) > HELD_MIB * (1 << 20) // STEP
        ended = outcome(guest)
        assert ended in (STOPPED, CAUGHT)
        if ended == STOPPED:
            break
        guest.end()
    assert ended == STOPPED, f"caught {TRIES} times"
    # Where it was when it met such a page decides how: by a request, a panic, a triple fault.
    if (why := guest.query().get("terminated")) is not None:
        assert f"the guest terminated itself: {why['reason']}" in guest.words()


def with_disk(disk: Path) -> list[str]:
    """An empty disk."""
    disk.write_bytes(bytes(32 << 20))
    drive = f"file={disk},format=raw,if=none,id=d0"
    device = "virtio-blk-pci,drive=d0,iommu_platform=on,disable-legacy=on"
    return [*STAYS, "-drive", drive, "-device", device]


def page(guest: Guest, address: int, file: Path) -> bytes:
    """A page as the host reads it."""
    guest.qmp().execute("pmemsave", val=address, size=4096, filename=str(file))
    return file.read_bytes()


@pytest.mark.parametrize("fault", ["shared-garbage", "psc-replay"])
def test_a_shared_page_changes(boot: Boot, tmp_path: Path, fault: str) -> None:
    """What the next test relies on. A replayed one was private, and is what it was then,
    as the host sees that."""
    guest, file = boot("6.12"), tmp_path / "page"
    guest.qmp().execute("stop")
    for address in range(16 << 20, MEMORY_MIB << 20, STEP):
        before = page(guest, address, file)
        denied = guest.query()["reads-scrambled"]
        if before == page(guest, address, file) and guest.query()["reads-scrambled"] == denied:
            break
    else:
        raise AssertionError("no shared page")
    guest.qmp().execute("sev-emulation-inject", fault=fault, gpa=address)
    assert page(guest, address, file) != before
    assert guest.query()["reads-scrambled"] == denied, "it is shared still"


def test_garbage_in_shared_pages_harms_nothing_else(boot: Boot, tmp_path: Path) -> None:
    """While a disk, whose rings and buffers are shared pages, is in use."""
    guest = boot("6.12", extra=with_disk(tmp_path / "disk"))
    hold(guest)
    guest.run(
        "(while dd if=/dev/urandom of=/dev/vda bs=64k count=64; do :; done) "
        "> /dev/null 2>&1 & true"
    )
    assert spoil(guest, "shared-garbage")
    assert outcome(guest) in (INTACT, STOPPED)


CHECKS = (
    "(i=0; while md5sum -c -s /data/sum; do i=$((i + 1)); "
    "echo $i | dd of=/dev/vda bs=512 conv=sync,fsync; done; "
    "echo BAD | dd of=/dev/vda bs=512 conv=sync,fsync) > /dev/null 2>&1 & true"
)


def test_random_answers_to_requests(boot: Boot, tmp_path: Path) -> None:
    """They garble the console, so the guest checks what it holds again and again, and has
    the count of its checks on the disk."""
    disk = tmp_path / "disk"
    guest = boot("6.12", extra=with_disk(disk))
    hold(guest, 16)
    guest.run(CHECKS)

    def checks() -> int:
        word = disk.read_bytes()[:16].split(b"\0")[0].strip()
        assert word != b"BAD", "the guest went on with wrong data"
        return int(word or b"0")

    def wait_for_more() -> None:
        deadline, wanted = time.monotonic() + patient(SECONDS), checks() + 3
        while running(guest) and checks() < wanted and "Kernel panic" not in guest.console():
            assert time.monotonic() < deadline, f"after {checks()} checks: {guest.console()}"
            guest.console(LOOK_SECONDS)

    wait_for_more()
    assert running(guest) and checks()
    guest.qmp().execute("sev-emulation-inject", fault="ghcb-reply", count=200)
    wait_for_more()
    assert faults(guest), "nothing was answered at random"


def test_withheld_page_state_changes(parts: Parts, launch: Launch) -> None:
    """From the first one on: what the firmware shares with the host stays private, so that
    the host's devices cannot write there, and the firmware waits for them in vain."""
    guest = launch(command(parts, OBJECTS["sev-snp"], extra=[*STAYS, "-S"]))
    guest.qmp().execute("sev-emulation-inject", fault="psc-withhold", count=0xFFFFFFFF)
    guest.qmp().execute("cont")
    deadline = time.monotonic() + patient(SECONDS)
    while running(guest) and not guest.query()["writes-denied"]:
        assert time.monotonic() < deadline, guest.console()
        guest.console(LOOK_SECONDS)
    assert faults(guest)
    assert "Linux version" not in guest.console()


def ending(parts: Parts, folder: Path, mode: Mode, end: int = 0) -> list[str]:
    """A guest that does nothing but end itself."""
    firmware = folder / "firmware"
    firmware.write_bytes(fuzz_image.image(1, mode, end))
    base = guest_image.arguments(parts.qemu, parts.qemu_data, firmware)
    return [*base, "-serial", "null", *STAYS, "-S"]


def to_the_end(guest: Guest) -> None:
    """Let it run until it stops."""
    guest.qmp().execute("cont")
    deadline = time.monotonic() + patient(SECONDS)
    while running(guest):
        assert time.monotonic() < deadline, guest.words()
        guest.console(LOOK_SECONDS)


@pytest.mark.parametrize("mode", [Mode.END_BY_MSR, Mode.END_BY_PAGE], ids=lambda mode: mode.name)
@pytest.mark.parametrize(
    ("reasons", "code", "words"),
    [
        (0, 0, "no particular reason"),
        (0, 2, "a missing SEV-SNP feature"),
        (1, 2, "PVALIDATE failed"),
        (15, 255, "unknown"),
    ],
)
def test_why_a_guest_ended_itself(
    parts: Parts, launch: Launch, tmp_path: Path, mode: Mode, reasons: int, code: int, words: str
) -> None:
    guest = launch(ending(parts, tmp_path, mode, reasons | code << 4))
    assert "terminated" not in guest.query()
    to_the_end(guest)
    assert guest.qmp().execute("query-status")["status"] == "guest-panicked"
    guest.qmp().wait_event(lambda event: bool(event["event"] == "GUEST_PANICKED"), patient(5))
    assert guest.query()["terminated"] == {"set": reasons, "code": code, "reason": words}
    said = f"the guest terminated itself: {words} (reason set {reasons}, code {code})"
    assert said in guest.words()


def test_a_fault_before_a_guest_ended_itself(
    parts: Parts, launch: Launch, tmp_path: Path
) -> None:
    """It gives no particular reason, and the emulation knows one."""
    guest = launch(ending(parts, tmp_path, Mode.END_BY_PAGE))
    guest.qmp().execute("sev-emulation-inject", fault="ghcb-reply")
    to_the_end(guest)
    why, before = "no particular reason", "1 fault was injected"
    assert guest.query()["terminated"] == {"set": 0, "code": 0, "reason": why, "before": before}
    said = f"the guest terminated itself: {why} (reason set 0, code 0); before that, {before}"
    assert said in guest.words()


UNVALIDATED, NO_REQUEST = MEMORY["PLAY"], 0x8000ABCD
TERMINATE = 0x100


@pytest.mark.parametrize(
    ("before", "words"),
    [
        (
            [read(UNVALIDATED + 8).faults(NOT_VALIDATED)],
            f"this vCPU met a page that is not validated ({UNVALIDATED:#x})",
        ),
        (
            [refused(request(NO_REQUEST), BAD_EVENT)],
            f"its request {NO_REQUEST:#x} was refused (no such request)",
        ),
    ],
    ids=["a page", "a request"],
)
def test_what_was_done_to_a_guest_before_it_ended_itself(
    follow: Follow, before: Steps, words: str
) -> None:
    run = follow([*before, msr(TERMINATE)])
    run.guest.wait_ended(SECONDS)
    said = "the guest terminated itself: no particular reason (reason set 0, code 0)"
    assert f"{said}; before that, {words}" in run.guest.words()
    assert not [step for step, did in zip(before, run.results(), strict=True) if step.wrong(did)]


@pytest.mark.parametrize(
    ("last", "words"),
    [
        (msr(0x0FF), "VMGEXIT with 0xff in the GHCB MSR, which is no request"),
        (
            vmgexit(MEMORY["LIST0"]),
            f"VMGEXIT with a GHCB at {MEMORY['LIST0']:#x}, where there is no shared page",
        ),
    ],
    ids=["MSR", "page"],
)
def test_a_guest_that_cannot_be_answered(follow: Follow, last: Step, words: str) -> None:
    """Nobody had it say that it has no particular reason."""
    run = follow([last])
    run.guest.wait_ended(SECONDS)
    assert f"the guest was ended: {words}" in run.guest.words()
    assert "terminated itself" not in run.guest.words()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"fault": "shared-garbage", "gpa": 0x100000}, "the page is private"),
        ({"fault": "rmp-remap", "gpa": 0x400000}, "a private page is needed"),
        ({"fault": "rmp-unvalidate", "gpa": 1 << 40}, "an address in the guest's memory"),
        ({"fault": "rmp-unvalidate"}, "gpa has to be"),
    ],
)
def test_what_cannot_be_done_is_refused(
    parts: Parts, launch: Launch, tmp_path: Path, arguments: dict[str, Any], words: str
) -> None:
    guest = launch(ending(parts, tmp_path, Mode.END_BY_MSR))
    to_the_end(guest)  # memory is private from the start on
    with pytest.raises(QmpError) as error:
        guest.qmp().execute("sev-emulation-inject", **arguments)
    assert words in str(error.value.cause)
