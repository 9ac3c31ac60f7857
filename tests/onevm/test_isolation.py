# SPDX-License-Identifier: Apache-2.0
"""A gvCPU sees nothing of what an hvCPU has: trusted memory, ring, registers.

The guest here is a probe of our own. Every address is read by the same code
that finds, as a control, what the guest has at addresses of its own.
"""

from __future__ import annotations

import socket
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cpcctl import __main__ as entry
from cpcctl import abi
from cpcctl.vm import lifecycle, spec
from tests.onevm import images
from tests.onevm.images import CALL, HPET, KNOWN, LEAK, MEMORY, NOWHERE, PARK, PCALL, PENDING, RAM
from tests.patience import patient

# Left out by make test-fast, which has a minute.
pytestmark = pytest.mark.slow

SECONDS = patient(40.0)


@pytest.fixture(scope="module")
def probe(built: Any) -> Path:
    """The kernel that looks."""
    return images.probe(built.firmware)


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


def start(place: Any, probe: Path) -> lifecycle.Vm:
    """The guest, waiting for its byte."""
    definition = spec.read(
        {"name": "probe", "memory": "64M", "kernel": str(probe), "hvcpus": 1, "ring_size": "2M"}
    )
    vm = lifecycle.start(place, definition)
    wait_ready(vm.paths.state / "console.log")
    return vm


def look(vm: lifecycle.Vm) -> list[tuple[int, int]]:
    """Let it look; (address, value) of every read."""
    with socket.socket(socket.AF_UNIX) as console:
        console.settimeout(SECONDS)
        console.connect(str(vm.paths.run / "console.sock"))
        console.sendall(b"g")
        said = b""
        # Read here: a console that nobody reads holds the guest up.
        while b"E\n" not in said:
            said += console.recv(4096)
    return seen(said.decode("ascii").splitlines())


def begin_again(vm: lifecycle.Vm) -> str:
    """Remove hvCPU 0 and add it, so that it begins at the firmware's entry; its state then."""
    with vm.qmp() as qmp, vm.rings() as rings:
        qmp.execute("cpc-hvcpu-remove", id=0)
        qmp.execute("cpc-hvcpu-add", id=0)
        deadline = time.monotonic() + SECONDS
        while (state := qmp.require_cpc()["hvcpus"][0]["state"]) == "running":
            assert time.monotonic() < deadline, "hvCPU 0 does not come up"
            time.sleep(0.005)
        if state == "parked":
            assert vm.hvcpu(qmp, rings, 0).ping().hvcpu == 0
        return str(state)


@pytest.mark.kvm
def test_a_gvcpu_reaches_nothing_of_an_hvcpu(place: Any, probe: Path, built: Any) -> None:
    vm = start(place, probe)
    ring = vm.paths.ring.read_bytes()[:8]
    assert int.from_bytes(ring, "little") == abi.SHM_MAGIC  # what a gvCPU must not see
    with vm.qmp() as qmp:
        before = qmp.require_cpc()
    assert [entry["state"] for entry in before["hvcpus"] if entry["id"] == 0] == ["parked"]
    assert before["isolated"] is True
    found = look(vm)

    values = dict(found)
    # The probe works: memory, a device, and what it hid for itself.
    assert values[RAM] == KNOWN
    assert values[HPET] >> 16 & 0xFFFF == 0x8086
    assert values[MEMORY] == 1, "only the page that looks like a firmware image is found"
    # What only an hvCPU has is to a gvCPU what nothing is.
    nothing = values[NOWHERE]
    assert [value for address, value in found if address == abi.SHM_BASE] == [nothing, nothing]
    for address in (PARK, CALL, abi.WINDOW_BASE + RAM, LEAK):
        assert values[address] == nothing, hex(address)
    assert values[abi.TRUSTED_BASE] & 0xFFFFFFFF != abi.IMAGE_MAGIC
    # And writing there did nothing.
    assert values[PCALL] == PENDING << 32 | 1, "the forged call was answered"
    assert vm.paths.ring.read_bytes()[:8] == ring
    with vm.qmp() as qmp:
        assert qmp.require_cpc() == before
    # Nor did it in the firmware's code; where that is, the guest has RAM of its own.
    begin = images.entry(built.firmware)
    assert values[abi.TRUSTED_BASE + begin] == int.from_bytes(images.UD2 * 4, "little")
    assert values[LEAK + begin] == nothing
    assert begin_again(vm) == "parked"
    lifecycle.discard(place, "probe")


@pytest.mark.kvm
def test_the_same_look_reaches_trusted_memory_where_it_is_mapped_for_the_guest(
    place: Any, probe: Path, built: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The negative control: without the isolation, the test above would fail."""
    leaking = tmp_path / "qemu"
    leaking.write_text(f'#!/bin/sh\nexec {built.qemu} -global cpc.x-leak-trusted={LEAK:#x} "$@"\n')
    leaking.chmod(0o755)
    vm = start(replace(place, qemu=leaking), probe)
    with vm.qmp() as qmp:
        assert qmp.require_cpc()["isolated"] is False
    assert dict(look(vm))[LEAK] & 0xFFFFFFFF == abi.IMAGE_MAGIC
    assert entry.main(["vm", "status", "probe"]) == 0
    assert "warning: the guest itself can reach what its hvCPUs hold" in capsys.readouterr().err
    # What it wrote there is what an hvCPU would run.
    assert begin_again(vm) == "dead"
    lifecycle.discard(place, "probe")
