# SPDX-License-Identifier: Apache-2.0
"""A gvCPU sees nothing of what an hvCPU has: trusted memory, ring, registers.

The guest here is a probe of our own. Every address is read by the same code
that finds, as a control, what the guest has at addresses of its own.
"""

from __future__ import annotations

import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from cpcctl import abi
from cpcctl.vm import lifecycle, spec

# Left out by make test-fast, which has a minute.
pytestmark = pytest.mark.slow

SOURCE = Path(__file__).with_name("probe.S")
SECONDS = 40.0
KNOWN = 0x0123456789ABCDEF
RAM = 0x800000  # a page that the probe fills with KNOWN
MAGIC_PAGE = 0x900000  # a page it makes look like a firmware image
PCALL = 0xA00000  # a platform call that it forges in its own memory
PENDING = 0xFFFFFFFF
HPET = 0xFED00000  # a device that the guest does have
NOWHERE = 0x6000000000
MEMORY = 64 << 20
PARK, CALL = abi.MMIO_BASE + abi.MMIO_PARK, abi.MMIO_BASE + abi.MMIO_CALL

PROBES = [
    ("w", RAM, KNOWN),
    ("r", RAM, 0),
    ("r", HPET, 0),
    ("r", NOWHERE, 0),
    ("r", abi.TRUSTED_BASE, 0),
    ("r", abi.SHM_BASE, 0),
    ("w", abi.SHM_BASE, KNOWN),
    ("r", abi.SHM_BASE, 0),
    ("r", abi.WINDOW_BASE + RAM, 0),
    ("r", PARK, 0),
    ("r", CALL, 0),
    ("w", PCALL, PENDING << 32 | 1),
    ("w", PARK, 0),
    ("w", CALL, 0),
    ("w", CALL, PCALL),
    ("w", CALL, abi.TRUSTED_BASE),
    ("r", PCALL, 0),
    ("w", MAGIC_PAGE, abi.IMAGE_MAGIC),
    ("s", MEMORY, abi.IMAGE_MAGIC),
]


@pytest.fixture(scope="module")
def probe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The kernel, built anew."""
    folder = tmp_path_factory.mktemp("probe")
    table = "".join(f"DO('{op}',{address:#x},{value:#x})" for op, address, value in PROBES)
    steps = (
        ["gcc", "-c", f"-DPROBES={table}", "-o", str(folder / "o"), str(SOURCE)],
        ["ld", "-Ttext=0x400000", "--oformat=binary", "-e", "start", "-o",
         str(folder / "kernel"), str(folder / "o")],
    )
    for argv in steps:
        subprocess.run(argv, check=True, capture_output=True, text=True)
    return folder / "kernel"


def wait_ready(log: Path) -> None:
    """Until the probe waits for its byte."""
    deadline = time.monotonic() + SECONDS
    while not log.exists() or "R\n" not in log.read_text(errors="replace"):
        assert time.monotonic() < deadline, "the probe did not start"
        time.sleep(0.02)


def seen(lines: list[str]) -> list[tuple[int, int]]:
    """(address, value) of every read, in order."""
    pairs = [line.split() for line in lines[: lines.index("E")]]
    return [(int(address, 16), int(value, 16)) for address, value in pairs]


def test_a_gvcpu_reaches_nothing_of_an_hvcpu(place: Any, probe: Path) -> None:
    definition = spec.read(
        {"name": "probe", "memory": "64M", "kernel": str(probe), "hvcpus": 1, "ring_size": "2M"}
    )
    vm = lifecycle.start(place, definition)
    wait_ready(vm.paths.state / "console.log")
    ring = vm.paths.ring.read_bytes()[:8]
    assert int.from_bytes(ring, "little") == abi.SHM_MAGIC  # what a gvCPU must not see
    with vm.qmp() as qmp:
        before = qmp.require_cpc()
    assert [entry["state"] for entry in before["hvcpus"] if entry["id"] == 0] == ["parked"]

    with socket.socket(socket.AF_UNIX) as console:
        console.settimeout(SECONDS)
        console.connect(str(vm.paths.run / "console.sock"))
        console.sendall(b"g")
        said = b""
        # Read here: a console that nobody reads holds the guest up.
        while b"E\n" not in said:
            said += console.recv(4096)
    found = seen(said.decode("ascii").splitlines())

    values = dict(found)
    # The probe works: memory, a device, and what it hid for itself.
    assert values[RAM] == KNOWN
    assert values[HPET] >> 16 & 0xFFFF == 0x8086
    assert values[MEMORY] == 1, "only the page that looks like a firmware image is found"
    # What only an hvCPU has is to a gvCPU what nothing is.
    nothing = values[NOWHERE]
    assert [value for address, value in found if address == abi.SHM_BASE] == [nothing, nothing]
    for address in (PARK, CALL, abi.WINDOW_BASE + RAM):
        assert values[address] == nothing, hex(address)
    assert values[abi.TRUSTED_BASE] & 0xFFFFFFFF != abi.IMAGE_MAGIC
    # And writing there did nothing.
    assert values[PCALL] == PENDING << 32 | 1, "the forged call was answered"
    assert vm.paths.ring.read_bytes()[:8] == ring
    with vm.qmp() as qmp:
        assert qmp.require_cpc() == before
    lifecycle.discard(place, "probe")
