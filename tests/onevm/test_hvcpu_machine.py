# SPDX-License-Identifier: Apache-2.0
"""The machine around hvCPUs: memory comes and goes, it is reset, QEMU ends, KVM gives up."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from cpcctl import abi
from cpcctl.host.firmware import Hvcpu, HvcpuDead
from cpcctl.host.qmp import QmpGone
from tests import accel
from tests.onevm.faulty import ABSORB, SWEEP, TOUCH, Machine, fault, status, wait_for
from tests.patience import patient

PAGE_FAULT = 14
PLUGGED = 128 << 20
# Of the ACPI device that a guest's operating system ejects memory with.
SLOT_PORT, CONTROL_PORT, EJECT = 0xA00, 0xA14, 8
# And PCI devices: a bit for each slot.
EJECT_PORT = 0xAE08
# KVM_INTERNAL_ERROR_EMULATION
NOT_EMULATED = "KVM internal error 1"
FOR_EVER = 1 << 40


def regions(machine: Machine) -> dict[str, dict[str, Any]]:
    """The RAM blocks that hvCPUs see; asking has QEMU look at them anew."""
    return {region["name"]: region for region in machine.qmp.execute("query-cpc")["regions"]}


def plug(machine: Machine, number: int) -> int:
    """Plug a block of memory in; where the hvCPUs' window has it."""
    before = regions(machine)
    memory: dict[str, Any] = {
        "qom-type": "memory-backend-memfd", "id": f"m{number}", "size": PLUGGED,
    }  # fmt: skip
    machine.qmp.execute("object-add", **memory)
    machine.qmp.execute("device_add", driver="pc-dimm", id="dimm", memdev=f"m{number}")
    (fresh,) = (region for name, region in regions(machine).items() if name not in before)
    assert fresh["pages"] == PLUGGED >> abi.PAGE_SHIFT
    return int(abi.WINDOW_BASE + (fresh["first-page"] << abi.PAGE_SHIFT))


def unplug(machine: Machine, number: int) -> None:
    """The guest lets go of it, as its operating system would."""
    before = regions(machine)
    machine.qmp.execute("device_del", id="dimm")
    machine.out(SLOT_PORT, 0, "l")
    machine.out(CONTROL_PORT, EJECT, "b")
    machine.qmp.wait_event(lambda e: bool(e["event"] == "DEVICE_DELETED"), patient(10))
    assert len(regions(machine)) == len(before) - 1
    machine.qmp.execute("object-del", id=f"m{number}")


def absorbed(hvcpu: Hvcpu, start: int) -> int:
    """The status of reading all over a block, by what only mapped memory answers."""
    return status(hvcpu, ABSORB, start, PLUGGED >> 21, 2 << 20)


def check_gives_up(machine: Machine, number: int, address: int) -> None:
    """An hvCPU reads what is no memory by an instruction that KVM cannot emulate. TCG can,
    and finds zeros; under KVM the hvCPU is dead, QEMU says why, and it can be added again."""
    hvcpu = Hvcpu(machine.qmp, machine.rings, number)
    if accel.chosen() != "kvm":
        assert status(hvcpu, ABSORB, address, 1, 0) == abi.S_OK
        assert hvcpu.ping().hvcpu == number
        return
    with pytest.raises(HvcpuDead) as dead:
        hvcpu.call(ABSORB, (address, 1, 0))
    assert dead.value.cause == NOT_EMULATED
    event = machine.qmp.wait_event(lambda e: bool(e["event"] == "CPC_HVCPU_DEAD"), patient(5))
    assert event["data"] == {"id": number, "reason": NOT_EMULATED}
    # It must not begin its next life with what has ended this one.
    machine.qmp.execute("cpc-hvcpu-remove", id=number)
    assert machine.add(number).ping().hvcpu == number


@pytest.mark.kvm
def test_a_processor_that_gives_up_is_that_hvcpus_death_only(machine: Machine) -> None:
    """The registers' page is never memory, whatever the accelerator."""
    first, second = machine.add(0), machine.add(1)
    check_gives_up(machine, 0, abi.MMIO_BASE)
    assert first.ping().hvcpu == 0
    assert second.ping().hvcpu == 1
    assert machine.process.poll() is None


@pytest.mark.kvm
def test_memory_that_is_plugged_in_is_in_the_window(machine: Machine) -> None:
    """Once somebody has asked QEMU for the map; its writes are dirty as well."""
    hvcpu = machine.add(0)
    start = plug(machine, 1)
    assert absorbed(hvcpu, start) == abi.S_OK
    last = start + PLUGGED - abi.PAGE_SIZE
    hvcpu.call(TOUCH, (last, 1))
    assert hvcpu.call(TOUCH, (last, 0)).result[0] == 1
    assert fault(hvcpu, TOUCH, abi.WINDOW_BASE + (1 << 40), 0)[0] == PAGE_FAULT
    machine.qmp.execute("cpc-dirty-log", enable=True)
    hvcpu.call(TOUCH, (last, 1))
    assert machine.qmp.execute("cpc-dirty-sync")["dirty-pages"] == 1


@pytest.mark.kvm
def test_memory_that_is_unplugged_is_gone(machine: Machine) -> None:
    """Also from what the processor itself reaches; the guest's other memory is not."""
    hvcpu = machine.add(0)
    machine.add(1)
    start = plug(machine, 1)
    hvcpu.call(TOUCH, (start, 1))
    assert absorbed(hvcpu, start) == abi.S_OK
    unplug(machine, 1)
    assert hvcpu.call(TOUCH, (start, 0)).result[0] == 0
    check_gives_up(machine, 1, start)
    assert absorbed(hvcpu, abi.WINDOW_BASE) == abi.S_OK


@pytest.mark.kvm
def test_the_place_of_unplugged_memory_is_free(machine: Machine) -> None:
    """The next block has it, and nothing of the one before."""
    hvcpu = machine.add(0)
    start = plug(machine, 1)
    hvcpu.call(TOUCH, (start, 1))
    unplug(machine, 1)
    assert plug(machine, 2) == start
    assert absorbed(hvcpu, start) == abi.S_OK
    assert hvcpu.call(TOUCH, (start, 0)).result[0] == 0
    hvcpu.call(TOUCH, (start, 1))
    assert hvcpu.call(TOUCH, (start, 0)).result[0] == 1


def plug_display(machine: Machine, before: set[str]) -> tuple[int, int]:
    """Plug in a device with memory of its own; its slot, where the hvCPUs' window has that."""
    machine.qmp.execute("device_add", driver="secondary-vga", id="display")
    (fresh,) = (region for name, region in regions(machine).items() if name not in before)
    assert not fresh["indirect"]
    devices = [entry for bus in machine.qmp.execute("query-pci") for entry in bus["devices"]]
    (slot,) = (entry["slot"] for entry in devices if entry["qdev_id"] == "display")
    return slot, int(abi.WINDOW_BASE + (fresh["first-page"] << abi.PAGE_SHIFT))


@pytest.mark.kvm
def test_memory_of_a_device_goes_with_it(machine: Machine) -> None:
    """The window once kept the device, which was never gone: no event, its memory a region
    for ever, and the end of QEMU when another one was plugged in there."""
    hvcpu = machine.add(0)
    before = set(regions(machine))
    slot, start = plug_display(machine, before)
    hvcpu.call(TOUCH, (start, 1))
    assert hvcpu.call(TOUCH, (start, 0)).result[0] == 1
    machine.qmp.execute("device_del", id="display")
    machine.out(EJECT_PORT, 1 << slot, "l")
    machine.qmp.wait_event(lambda e: bool(e["event"] == "DEVICE_DELETED"), patient(20))
    assert hvcpu.call(TOUCH, (start, 0)).result[0] == 0
    assert set(regions(machine)) == before
    assert plug_display(machine, before) == (slot, start)
    assert hvcpu.call(TOUCH, (start, 0)).result[0] == 0
    assert machine.process.poll() is None


@pytest.mark.kvm
def test_a_ring_file_that_was_cut_short(machine: Machine, tmp_path: Path) -> None:
    """Under KVM that hvCPU's death only; TCG's own access is the end of QEMU, as with any memory
    of a guest that the host takes away."""
    machine.add(0)
    os.truncate(tmp_path / "ring", 0)
    # Not by way of the rings, which are gone for us as well.
    if accel.chosen() != "kvm":
        with contextlib.suppress(QmpGone):
            machine.qmp.execute("cpc-wake", id=0)
        assert machine.process.wait(patient(20)) == -signal.SIGBUS
        return
    machine.qmp.execute("cpc-wake", id=0)
    event = machine.qmp.wait_event(lambda e: bool(e["event"] == "CPC_HVCPU_DEAD"), patient(20))
    assert event["data"] == {"id": 0, "reason": "KVM: Bad address"}
    assert machine.state(0) == "dead"


def sweep(rounds: int) -> tuple[int, ...]:
    """Arguments of SWEEP over the first MiB of the guest's memory."""
    return (abi.SUITE_AEGIS128L, abi.WINDOW_BASE, (1 << 20) // abi.RUN_BYTES, rounds)


@pytest.mark.kvm
def test_a_reset_during_a_call(machine: Machine) -> None:
    """The hvCPU stands still meanwhile, and then goes on with its call."""
    hvcpu = machine.add(0)
    begin = time.monotonic()
    hvcpu.call(SWEEP, sweep(4))
    # As many as are sure to take longer than a reset, here.
    rounds = 4 + int(4 * patient(1.0) / (time.monotonic() - begin))
    machine.qmp.execute("cont")
    request = hvcpu.mailbox.post(SWEEP, sweep(rounds))
    hvcpu.wake()
    machine.qmp.execute("system_reset")
    machine.qmp.wait_event(lambda e: bool(e["event"] == "RESET"), patient(20))
    assert machine.state(0) == "running" and not hvcpu.mailbox.done(request), "it came too late"
    wait_for(lambda: hvcpu.mailbox.done(request), "the call ends", 60)
    assert hvcpu.mailbox.reply().status == abi.S_OK
    wait_for(lambda: machine.state(0) == "parked", "hvCPU 0 parks")
    assert hvcpu.ping().hvcpu == 0
    assert machine.qmp.execute("query-status")["running"]


@pytest.mark.kvm
def test_qemu_ends_during_calls(machine: Machine) -> None:
    """As it should, and soon, although no hvCPU would ever be done."""
    machine.qmp.execute("cont")
    for hvcpu in (machine.add(0), machine.add(1)):
        hvcpu.mailbox.post(SWEEP, sweep(FOR_EVER))
        hvcpu.wake()
    assert [machine.state(number) for number in (0, 1)] == ["running", "running"]
    machine.qmp.execute("quit")
    assert machine.process.wait(patient(20)) == 0
