# SPDX-License-Identifier: Apache-2.0
"""The host tries every door of QEMU's monitors to a guest with hvCPUs."""

from __future__ import annotations

import hashlib
import json
import re
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cpcctl.config.settings import Settings
from cpcctl.host.qmp import Qmp, QmpError
from cpcctl.vm import lifecycle, spec
from tests.doors import FILES, hmp, naming
from tests.patience import patient

# Left out by make test-fast, which has a minute.
pytestmark = pytest.mark.slow

DENIED = "not for the host to read"
DEVICE = "/machine/peripheral/cpc"


@pytest.fixture
def start(place: Settings, built: Any) -> Iterator[Callable[..., Qmp]]:
    """Starts a VM and connects to its monitor."""
    connected: list[Qmp] = []

    def run(incoming: bool = False, **more: Any) -> Qmp:
        document = {
            "name": "d", "memory": "128M", "ring_size": "2M", "kernel": str(built.vmlinuz),
            "initrd": str(built.tiny_initrd), "append": "console=ttyS0 quiet", **more,
        }
        path = place.state_dir / "d.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({k: v for k, v in document.items() if v is not None}))
        connected.append(lifecycle.start(place, spec.load(path), incoming=incoming).qmp())
        return connected[-1]

    yield run
    for qmp in connected:
        qmp.close()


def refused(qmp: Qmp, why: str, command: str, arguments: dict[str, Any] | None = None) -> None:
    """QEMU refuses, and says why."""
    with pytest.raises(QmpError) as told:
        qmp.execute(command, **(arguments or {}))
    assert re.search(why, str(told.value.cause)), told.value.cause


QMP: list[tuple[str, dict[str, Any]]] = [
    *FILES,
    ("trace-event-set-state", {"name": "*", "enable": True}),
    ("qom-set", {"path": f"{DEVICE}/hvcpu[0]", "property": "realized", "value": False}),
    ("qom-set", {"path": DEVICE, "property": "realized", "value": False}),
]
HMP = [
    "x /4x 0", "xp /4x 0", "info registers", "info registers -a", "info tlb", "info mem",
    "gdbserver tcp:127.0.0.1:0", "gpa2hva 0", "gva2gpa 0", "savevm x", "log cpu,fpu",
    "logfile FILE", "trace-event exec* on", "log in_asm", "sum 0 64", "loadvm x",
    f"qom-set {DEVICE} realized false",
]


def test_every_door_is_shut(start: Callable[..., Qmp], tmp_path: Path) -> None:
    qmp, file = start(), tmp_path / "leak"
    for command, arguments in QMP:
        refused(qmp, DENIED, command, naming(file, arguments))
    for line in HMP:
        text = hmp(qmp, line.replace("FILE", str(file)))
        assert DENIED in text or "Not for the host" in text, (line, text)
    assert "unknown register" in hmp(qmp, "print $rip")
    assert not file.exists()
    assert qmp.execute("query-status")["running"] is True


def test_a_snapshot_cannot_be_loaded(start: Callable[..., Qmp], tmp_path: Path) -> None:
    qmp = start(incoming=True)
    arguments: dict[str, Any] = {"job-id": "l", "tag": "x", "vmstate": "q", "devices": ["q"]}
    qmp.execute("snapshot-load", **arguments)
    (job,) = qmp.execute("query-jobs")
    assert DENIED in job["error"]
    refused(qmp, DENIED, "xen-load-devices-state", {"filename": str(tmp_path / "none")})
    assert qmp.execute("query-cpc")["frozen"] is True


def test_the_view_is_for_hvcpus_only(start: Callable[..., Qmp]) -> None:
    """No gvCPU can be plugged in with another memory than the machine's."""
    qmp = start(vcpus=1, max_vcpus=2)
    listed = qmp.execute("qom-list", path=DEVICE)
    names = {e["name"] for e in listed if e["type"].startswith(("child<", "link<"))}
    assert not {n for n in names if "view" in n or "trusted" in n or "mmio" in n}, names
    slot = next(s for s in qmp.execute("query-hotpluggable-cpus") if "qom-path" not in s)
    window = f"{DEVICE}/cpc-window-0[0]"
    plug = {"driver": slot["type"], "id": "evil", **slot["props"]}
    refused(qmp, "system memory", "device_add", {"memory": window, **plug})
    qmp.execute("device_add", **plug)  # the same CPU with the machine's memory is fine
    assert qmp.execute("query-cpc")["gvcpus"] == 2


def section(name: str, body: bytes, kind: int = 4) -> bytes:
    """A section of QEMU's stream: type, id, name, instance, version, body, footer."""
    number = 77
    head = bytes([kind]) + struct.pack(">I", number) + bytes([len(name)]) + name.encode()
    return head + struct.pack(">II", 0, 1) + body + b"\x7e" + struct.pack(">I", number)


HEAD = struct.pack(">II", 0x5145564D, 3)
RAM = section("ram", struct.pack(">Q", 0x5000000 | 8) + b"\4ram0" + bytes(4096), kind=1)


def loading(
    folder: Path, data: bytes
) -> Callable[[Qmp, bytes], tuple[str, dict[str, Any]]]:
    """A command that loads data as a device state, told the digest of `named`."""

    def command(qmp: Qmp, named: bytes) -> tuple[str, dict[str, Any]]:
        file = folder / "state"
        file.write_bytes(data)
        with file.open("rb") as stream:
            qmp.hand_over("state", stream.fileno())
        digest = hashlib.sha256(named).hexdigest()
        return "cpc-load-device-state", {"fdname": "state", "sha256": digest}

    return command


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "no device state"),
        (b"\xff" * 64, "no device state"),
        (HEAD, "another type|cut short"),
        (HEAD + b"\0", "the state of device .* is missing"),
        (HEAD + RAM, "another type"),
        (HEAD + section("ram", bytes(8)), "no device here"),
        (HEAD + section("cpu", bytes(64)), "no device here"),
        (HEAD + section("globalstate", bytes(64)), "no device here"),
        (HEAD + section("nonesuch", bytes(8)), "no device here"),
        (HEAD + section("mc146818rtc", bytes(3)), "does not load|version"),
        (HEAD + b"\x08" + bytes(32), "another type"),
    ],
)
def test_device_state_is_devices(
    start: Callable[..., Qmp], tmp_path: Path, data: bytes, why: str
) -> None:
    qmp, load = start(incoming=True), loading(tmp_path, data)
    refused(qmp, "digest", *load(qmp, b"other"))
    refused(qmp, why, *load(qmp, data))
    refused(qmp, "already", *load(qmp, data))
    assert qmp.execute("query-cpc")["frozen"] is True


def test_device_state_is_for_the_frozen(start: Callable[..., Qmp], tmp_path: Path) -> None:
    qmp = start()
    refused(qmp, "frozen", "cpc-save-device-state")
    refused(qmp, "incoming", *loading(tmp_path, b"x")(qmp, b"x"))


def test_an_incoming_guest_does_not_run(start: Callable[..., Qmp]) -> None:
    qmp = start(incoming=True)
    refused(qmp, "frozen", "cont")
    qmp.execute("system_reset")
    refused(qmp, "frozen", "cont")
    assert qmp.execute("query-status")["running"] is False


def test_an_unplugged_rom_is_forgotten(
    start: Callable[..., Qmp], built: Any, public: Path
) -> None:
    """The dirty log once read through the freed block of a device's ROM."""
    qmp = start(machine="pc", kernel=None, initrd=None, append=None)
    before = len(qmp.execute("query-cpc")["regions"])
    rom = public / "n.rom"
    rom.write_bytes((built.qemu_data / "efi-virtio.rom").read_bytes())
    qmp.execute("device_add", driver="virtio-rng-pci", id="n", romfile=str(rom))
    assert len(qmp.execute("query-cpc")["regions"]) == before + 1
    qmp.execute("cpc-dirty-log", enable=True)
    qmp.execute("device_del", id="n")
    qmp.execute("system_reset")  # ejects it
    qmp.wait_event(lambda event: event["event"] == "DEVICE_DELETED", patient(20))
    qmp.execute("cpc-dirty-sync")
    assert len(qmp.execute("query-cpc")["regions"]) == before
