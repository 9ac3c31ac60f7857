# SPDX-License-Identifier: Apache-2.0
"""The x86-64 runtime on a real hvCPU: faults, guards, isolation, a second life."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest

from cpcctl import abi
from cpcctl.abi_status import SUITE_NAMES
from cpcctl.host.firmware import Hvcpu
from tests import accel
from tests.onevm.faulty import (
    ASK,
    DIVIDE,
    JUMP,
    OUTSIDE,
    RECURSE,
    RING,
    SEAL,
    SWEEP,
    TOUCH,
    Machine,
    fault,
    status,
    wait_for,
)
from tests.patience import patient

DIVIDE_ERROR, INVALID_OPCODE, PROTECTION, PAGE_FAULT = 0, 6, 13, 14
RING_VIRTUAL = 0x700000A00000


@pytest.mark.kvm
def test_what_is_not_mapped_or_not_allowed_ends_the_call(machine: Machine) -> None:
    """Each access faults with its address; the next call works."""
    hvcpu = machine.add(0)
    at = machine.symbols
    window = abi.WINDOW_BASE
    trusted_end = abi.TRUSTED_BASE + machine.trusted
    for address, write in (
        (0, 0),
        (8, 1),
        (at["image_start"] - 8, 0),
        (at["image_start"], 1),
        (at["entry"], 1),
        (at["text_end"], 1),
        (at["stacks"], 0),
        (at["stacks"] + 3 * 4096, 1),
        (trusted_end, 0),
        (RING_VIRTUAL - 8, 0),
        (RING_VIRTUAL + 2 * RING, 0),
        (window - 8, 0),
        (window + (1 << 40), 0),
        (abi.MMIO_BASE + 4096, 0),
    ):
        assert fault(hvcpu, TOUCH, address, write) == (PAGE_FAULT, address), hex(address)
    for address in (at["rodata_end"], trusted_end - 8, RING_VIRTUAL, window, abi.SHM_BASE):
        assert fault(hvcpu, JUMP, address) == (PAGE_FAULT, address), hex(address)
    for address in (at["image_start"], at["entry"], trusted_end - 8, RING_VIRTUAL, window):
        assert status(hvcpu, TOUCH, address, 0) == abi.S_OK, hex(address)
    assert fault(hvcpu, TOUCH, 1 << 62, 0)[0] == PROTECTION
    assert fault(hvcpu, DIVIDE, 0, 1)[0] == DIVIDE_ERROR
    assert hvcpu.ping().hvcpu == 0


def test_stack_overflow_meets_the_guard(machine: Machine) -> None:
    hvcpu = machine.add(1)
    guard = machine.symbols["stacks"] + (1 * 24 + 3) * 4096
    assert status(hvcpu, RECURSE, 20) == abi.S_OK
    vector, address = fault(hvcpu, RECURSE, 100000)
    assert vector == PAGE_FAULT
    assert guard <= address < guard + 4096
    assert hvcpu.ping().hvcpu == 1


def test_a_ring_is_mapped_twice_in_a_row(machine: Machine) -> None:
    hvcpu = machine.add(0)
    word = bytes(range(8))
    with machine.rings.path.open("r+b") as file:
        file.seek(machine.rings.layout.data_offset + 4096)
        file.write(word)
    for copy in (0, RING):
        reply = hvcpu.call(TOUCH, (RING_VIRTUAL + copy + 4096, 0))
        assert reply.result[0] == int.from_bytes(word, "little")


@pytest.mark.kvm
def test_a_fault_outside_a_call_kills_that_hvcpu_only(machine: Machine) -> None:
    """It is reported and dead; the other one works; removed and added it lives."""
    first, second = machine.add(0), machine.add(1)
    with pytest.raises(Exception, match="hvCPU 0"):
        first.call(OUTSIDE, (1,), timeout=patient(20))
    assert machine.state(0) == "dead"
    event = machine.qmp.wait_event(lambda e: bool(e["event"] == "CPC_HVCPU_FAULT"), patient(5))
    assert event["data"]["vector"] == INVALID_OPCODE
    assert second.ping().hvcpu == 1
    machine.qmp.execute("cpc-hvcpu-remove", id=0)
    again = machine.add(0)
    assert again.ping().hvcpu == 0
    assert status(again, OUTSIDE, 0) == abi.S_OK


def test_two_start_at_once(machine: Machine) -> None:
    """Whoever is first prepares the machine; the other one waits for it."""
    machine.qmp.execute("cpc-hvcpu-add", id=1)
    machine.qmp.execute("cpc-hvcpu-add", id=0)
    for number in (0, 1):
        wait_for(lambda: machine.state(number) == "parked", f"hvCPU {number} parks")  # noqa: B023
        assert Hvcpu(machine.qmp, machine.rings, number).ping().hvcpu == number


def expected_suites() -> set[int]:
    """What this CPU can compute, as the kernel found it with CPUID; under TCG, QEMU can
    do all of it."""
    found = set(SUITE_NAMES)
    if accel.chosen() == "kvm":
        flags = re.search(r"^flags\s*: (.*)", Path("/proc/cpuinfo").read_text(), re.M)
        has = set(flags[1].split()) if flags else set()
        if not has >= {"aes", "pclmulqdq", "ssse3", "sse4_1", "avx", "xsave"}:
            found -= {abi.SUITE_AEGIS128L, abi.SUITE_AEGIS128X2, abi.SUITE_AES256GCM}
        if not has >= {"avx2", "vaes"}:
            found -= {abi.SUITE_AEGIS128X2}
    return found


@pytest.mark.kvm
def test_every_suite_passed_its_known_answers_here(machine: Machine) -> None:
    hvcpu = machine.add(0)
    expected = expected_suites()
    assert {abi.SUITE_AEGIS128L, abi.SUITE_AES256GCM} <= expected, "this CPU lacks AES or AVX"
    assert set(hvcpu.ping().suites) == {SUITE_NAMES[suite] for suite in expected}
    for suite in SUITE_NAMES:
        answer = abi.S_OK if suite in expected else abi.S_CRYPTO
        assert status(hvcpu, SEAL, suite, 1) == answer, SUITE_NAMES[suite]
    assert status(hvcpu, SEAL, max(SUITE_NAMES) + 1, 1) == abi.S_CRYPTO


@pytest.mark.kvm
def test_what_an_hvcpu_writes_into_the_guest_is_dirty(machine: Machine) -> None:
    """Also where hvCPUs are in a VM of their own, whose dirty log is another one."""
    hvcpu = machine.add(0)
    machine.qmp.execute("cpc-dirty-log", enable=True)
    machine.qmp.execute("cpc-dirty-sync")
    assert machine.qmp.execute("cpc-dirty-sync")["dirty-pages"] == 0
    for page in (7, 300, 301):
        hvcpu.call(TOUCH, (abi.WINDOW_BASE + page * 4096, 1))
        hvcpu.call(TOUCH, (abi.WINDOW_BASE + (page + 50) * 4096, 0))
    assert machine.qmp.execute("cpc-dirty-sync")["dirty-pages"] == 3
    hint = machine.rings.path.read_bytes()[abi.SHM_BITMAP :]
    assert [page for page in range(1000) if hint[page // 8] >> page % 8 & 1] == [7, 300, 301]
    machine.qmp.execute("cpc-dirty-log", enable=False)


@pytest.mark.kvm
def test_hvcpus_read_on_while_their_memory_is_mapped_anew(machine: Machine) -> None:
    """A dirty log that begins or ends replaces memory slots under KVM."""
    machine.qmp.execute("cont")  # a stopped guest keeps its dirty log
    hvcpus = [machine.add(0), machine.add(1)]
    each = 32 << 20
    requests = [
        hvcpu.mailbox.post(
            SWEEP, (abi.SUITE_AEGIS128L, abi.WINDOW_BASE + i * each, each // (64 << 10), 4)
        )
        for i, hvcpu in enumerate(hvcpus)
    ]
    for hvcpu in hvcpus:
        hvcpu.wake()
    # Some milliseconds; both are in their calls for longer.
    for change in range(20):
        machine.qmp.execute("cpc-dirty-log", enable=change % 2 == 0)
    wait_for(lambda: "running" not in (machine.state(0), machine.state(1)), "both end", 60)
    for hvcpu, request in zip(hvcpus, requests, strict=True):
        assert machine.state(hvcpu.number) == "parked"
        assert hvcpu.mailbox.done(request)
        assert hvcpu.mailbox.reply().status == abi.S_OK


@pytest.mark.kvm
def test_faults_are_reported_at_a_limited_rate(machine: Machine) -> None:
    """Every one of them; but after the first 32, ten a second."""
    hvcpu, count = machine.add(0), 45
    for _ in range(count):
        assert fault(hvcpu, DIVIDE, 0, 1)[0] == DIVIDE_ERROR
    at = []
    for _ in range(count):
        event = machine.qmp.wait_event(lambda e: bool(e["event"] == "CPC_HVCPU_FAULT"), patient(5))
        at.append(event["timestamp"]["seconds"] + event["timestamp"]["microseconds"] / 1e6)
    # The credit grows by ten a second as well, so the last 12 take a second and more.
    assert at[-1] - at[0] >= (count - 1 - 32) * 0.1 - 0.05, at
    assert hvcpu.ping().hvcpu == 0


@pytest.mark.kvm
def test_platform_calls_leave_time_for_others(machine: Machine) -> None:
    """Each is charged, though it is refused, and QEMU answers meanwhile."""
    hvcpu, calls = machine.add(0), 50000
    asked = hvcpu.mailbox.post(ASK, (1 << 20, calls))
    begun = time.monotonic()
    hvcpu.wake()
    answers = 0
    while not hvcpu.mailbox.done(asked):
        machine.qmp.execute("query-status")
        answers += 1
        assert time.monotonic() - begun < patient(120)
    took = time.monotonic() - begun
    # 20 us a call and as long again as it took; 50 ms are free.
    assert took >= calls * 20e-6 - 0.1, took
    assert answers > 10, f"QEMU answered {answers} times in {took:.1f} s"
    assert hvcpu.ping().hvcpu == 0
