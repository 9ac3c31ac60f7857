# SPDX-License-Identifier: Apache-2.0
"""The host tries every door to a SEV, SEV-ES or SEV-SNP guest of the emulated processor.

Such guests as anybody starts them, without hvCPUs: what QEMU shuts for a guest with hvCPUs,
confidential or not, is in tests/onevm/test_doors.py. Each door is tried on a plain guest as
well, where it has to be open. One guest of each kind serves all tests that leave it running.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cpcctl.host.qmp import QmpError
from tests.doors import hmp
from tests.snp.boot import BOOT_SECONDS, MEMORY_MIB, OBJECTS, Guest, Parts, command, refusal
from tests.snp.device import Device, counters

Launch = Callable[[list[str]], Guest]
PLATFORMS = list(OBJECTS)
FILL, FILLED_MIB, SECONDS = b"Z", 192, 120.0
PAGE, STEP = 4096, 1 << 20
PIECE = 64
SHUT = r"registers are encrypted|Not for the host"
STATE = r"cannot be saved|[Mm]igration is not implemented|not supported"


def fill(guest: Guest) -> None:
    """A good part of the guest's memory becomes one byte, over and over."""
    guest.run(
        f"tr '\\0' {FILL.decode()} < /dev/zero | dd of=/data/piece bs=64k count=256 "
        f"iflag=fullblock; for i in $(seq {FILLED_MIB // 16}); do cat /data/piece; done "
        "> /data/held; rm /data/piece; md5sum /data/held > /data/sum",
        SECONDS,
    )


@dataclass(frozen=True)
class Opened:
    """A guest that has booted and filled its memory. folder: of its door for devices."""

    platform: str
    guest: Guest
    folder: Path

    @property
    def plain(self) -> bool:
        """All doors have to be open."""
        return self.platform == "plain"


@pytest.fixture(scope="module")
def kept(
    request: pytest.FixtureRequest, parts: Parts, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Opened]:
    """The one of a kind."""
    folder = tmp_path_factory.mktemp("d")
    extra = Device.arguments(folder)
    guest = Guest(command(parts, OBJECTS[request.param], extra=extra), folder)
    try:
        guest.ready()
        fill(guest)
        yield Opened(request.param, guest, folder)
    finally:
        guest.end()


@pytest.fixture
def opened(kept: Opened) -> Iterator[Opened]:
    """The same, which runs when a test begins."""
    assert kept.guest.qmp().execute("query-status")["running"] is True
    yield kept
    kept.guest.qmp().execute("cont")


def of(*platforms: str) -> pytest.MarkDecorator:
    """The kinds of guests that a test is for."""
    return pytest.mark.parametrize("kept", platforms, indirect=True)


def filled(device: Device) -> list[int]:
    """Pages that a device finds full of that byte, one of each STEP at most."""
    addresses = range(16 << 20, MEMORY_MIB << 20, STEP)
    return [at for at in addresses if device.read(at, PAGE) == FILL * PAGE]


def bsd_sum(data: bytes) -> int:
    """What the human monitor's `sum` makes of them."""
    total = 0
    for byte in data:
        total = (((total >> 1) | (total << 15)) + byte) & 0xFFFF
    return total


@of(*PLATFORMS)
def test_every_way_to_memory_leads_to_the_same_bytes(opened: Opened, tmp_path: Path) -> None:
    """A plain guest's own ones, and else noise: byte by byte as in one piece, as a device, by
    the loads of one byte that devices use (`sum`), by `xp` and by pmemsave."""
    guest = opened.guest
    guest.qmp().execute("stop")
    device, file = Device(opened.folder), tmp_path / "page"
    met = 0 if opened.plain else counters(guest)[0]
    try:
        found = filled(device)
        if opened.plain:
            assert len(found) > FILLED_MIB // 2
        else:
            assert not found
            # They are in there all the same, most of them: what is read there is noise.
            found = [16 << 20] + [at << 20 for at in range(32, MEMORY_MIB - 64, 32)]
        for at in found[:16]:
            data = device.read(at, PAGE)
            if not opened.plain and not any(data):
                continue  # a shared page that nobody has used
            alike = data.count(FILL)
            assert alike == PAGE if opened.plain else alike < PAGE // 20
            assert b"".join(device.read(at + i, 1) for i in range(PIECE)) == data[:PIECE]
            shown = re.findall(r"0x([0-9a-f]{2})\b", hmp(guest.qmp(), f"xp /{PIECE}xb {at:#x}"))
            assert bytes.fromhex("".join(shown)) == data[:PIECE]
            assert int(hmp(guest.qmp(), f"sum {at:#x} {PIECE}")) == bsd_sum(data[:PIECE])
            guest.qmp().execute("pmemsave", val=at, size=PAGE, filename=str(file))
            assert file.read_bytes() == data
        if not opened.plain:
            assert counters(guest)[0] > met + 16 * PIECE
    finally:
        device.close()


AHCI, BAR, COMMAND = 0x8000FA00, 0x24, 0x04
PORT, FIS_BASE, PORT_COMMAND, SATA_CONTROL = 0x100, 0x08, 0x18, 0x2C
RECEIVE = 1 << 4


def receive_into(device: Device, page: int) -> None:
    """Have the machine's disk controller map that page, and write the frame of a reset there."""

    def config(register: int, value: int | None = None) -> int:
        device.ask(f"outl 0xcf8 {AHCI | register:#x}")
        if value is not None:
            device.ask(f"outl 0xcfc {value:#x}")
        return int(device.ask("inl 0xcfc").split()[1], 16)

    base = config(BAR) & ~0xF
    assert base, "the firmware has not mapped the controller"
    config(COMMAND, config(COMMAND) & 0xFFFF | 6)

    def port(register: int, value: int) -> None:
        assert device.ask(f"writel {base + PORT + register:#x} {value:#x}") == "OK"

    port(PORT_COMMAND, 0)
    port(FIS_BASE, page)
    port(FIS_BASE + 4, 0)
    port(SATA_CONTROL, 1)
    port(SATA_CONTROL, 0)
    port(PORT_COMMAND, RECEIVE)
    port(PORT_COMMAND, 0)  # lets go of the page: what was held back is written now


@of("plain", "sev-snp")
def test_a_device_that_maps_memory_does_not_change_it(opened: Opened) -> None:
    guest = opened.guest
    assert "/data/held: OK" in guest.run("md5sum -c /data/sum", SECONDS)
    guest.qmp().execute("stop")
    device = Device(opened.folder)
    try:
        if opened.plain:
            pages = filled(device)  # some were let go by the guest since
        else:
            pages = []
            for at in range(64 << 20, MEMORY_MIB << 20, STEP):
                met = counters(guest)[0]
                device.read(at, 8)
                if counters(guest)[0] != met:
                    pages.append(at)
        assert pages
        was, denied = [device.read(page, PAGE) for page in pages], 0
        if not opened.plain:
            denied = counters(guest)[1]
        for page in pages:
            receive_into(device, page)
        assert ([device.read(page, PAGE) for page in pages] == was) is not opened.plain
        if not opened.plain:
            assert counters(guest)[1] >= denied + len(pages)
    finally:
        device.close()
    guest.qmp().execute("cont")
    good = "/data/held: OK" in guest.run("md5sum -c /data/sum", SECONDS)
    assert good is not opened.plain


REGISTERS = [
    "info registers", "info registers -a", "info tlb", "info mem", "x /4x 0", "gva2gpa 0",
    "gdbserver tcp:127.0.0.1:0", "log cpu", "log in_asm", "logfile FILE",
]  # fmt: skip


@of("plain", "sev-es", "sev-snp")
def test_registers_are_not_for_the_host(opened: Opened, tmp_path: Path) -> None:
    guest, file = opened.guest, tmp_path / "leak"
    guest.qmp().execute("stop")
    shut = [
        line
        for line in REGISTERS
        if re.search(SHUT, hmp(guest.qmp(), line.replace("FILE", f"{tmp_path}/log")))
    ]
    assert shut == ([] if opened.plain else REGISTERS)
    assert ("unknown register" in hmp(guest.qmp(), "print $eip")) is not opened.plain
    # Nothing is mapped there: that is what a plain guest's answer says.
    with pytest.raises(QmpError) as told:
        guest.qmp().execute("memsave", val=0, size=64, filename=str(file))
    assert bool(re.search(SHUT, str(told.value.cause))) is not opened.plain
    assert file.exists() is (tmp_path / "log").exists() is opened.plain
    # For the tests to come.
    hmp(guest.qmp(), "log none")
    hmp(guest.qmp(), "gdbserver none")


@of(*PLATFORMS)
def test_neither_dumped_nor_saved_nor_loaded(opened: Opened, tmp_path: Path) -> None:
    """Which page is private is nowhere in such a state; loading one would meet them all."""
    guest = opened.guest
    told: dict[str, str] = {}
    doors: dict[str, dict[str, Any]] = {
        "dump-guest-memory": {"paging": False, "protocol": f"file:{tmp_path}/dump"},
        "xen-save-devices-state": {"filename": f"{tmp_path}/devices", "live": False},
        "xen-load-devices-state": {"filename": f"{tmp_path}/none"},
        "migrate": {"uri": f"file:{tmp_path}/migrated"},
    }
    for name, arguments in doors.items():
        try:
            guest.qmp().execute(name, **arguments)
            told[name] = ""
        except QmpError as error:
            told[name] = str(error.cause)
    told["savevm"] = hmp(guest.qmp(), "savevm x")
    told["loadvm"] = hmp(guest.qmp(), "loadvm x")
    why = rf"memory is private|{STATE}"
    shut = [name for name, words in told.items() if re.search(why, words)]
    assert shut == ([] if opened.plain else list(told)), told
    left = {path.name for path in tmp_path.iterdir()}
    if opened.plain:
        assert {"dump", "devices"} <= left
    else:
        assert not left & {"dump", "devices", "migrated"}
        assert guest.qmp().execute("query-status")["running"] is True


@pytest.mark.parametrize("platform", ["sev", "sev-es", "sev-snp"])
def test_no_migration_comes_in(parts: Parts, platform: str) -> None:
    for door in ("defer", "file:/nonexistent"):
        assert re.search(STATE, refusal([*command(parts, OBJECTS[platform]), "-incoming", door]))


@pytest.mark.parametrize("platform", ["sev-es", "sev-snp"])
def test_no_debugger_and_no_log_from_the_start(
    parts: Parts, launch: Launch, tmp_path: Path, platform: str
) -> None:
    argv = command(parts, OBJECTS[platform])
    assert re.search(SHUT, refusal([*argv, "-gdb", "tcp:127.0.0.1:0"]))
    log = tmp_path / "log"
    guest = launch([*argv, "-d", "in_asm,cpu,int", "-D", str(log)])
    # From the first instruction on there would be something to log.
    guest.wait_for("Linux version", BOOT_SECONDS)
    assert "no log of this guest's code and registers" in guest.words()
    text = log.read_text(errors="replace") if log.exists() else ""
    assert not re.search(r"^IN:|[ER]IP=|[ER]AX=", text, re.M)


@pytest.mark.parametrize("platform", ["sev", "sev-es", "sev-snp"])
def test_the_object_stays_with_the_machine(parts: Parts, launch: Launch, platform: str) -> None:
    """What the guest's protection comes from is not the host's to delete. One that no
    machine uses is."""
    guest = launch(command(parts, OBJECTS[platform], extra=["-S"]))
    with pytest.raises(QmpError) as error:
        guest.qmp().execute("object-del", id="sev0")
    assert "is in use" in str(error.value.cause)
    other: dict[str, Any] = {"qom-type": "sev-guest", "id": "other", "reduced-phys-bits": 1}
    guest.qmp().execute("object-add", **other)
    guest.qmp().execute("object-del", id="other")
    guest.qmp().execute("qom-list", path="/objects/sev0")
