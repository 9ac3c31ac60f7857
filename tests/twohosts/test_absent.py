# SPDX-License-Identifier: Apache-2.0
"""What must not grow: memory of untouched pages, of the controller, CPU while parked."""

from __future__ import annotations

import json
import os
import signal
import time

from tests.patience import patient
from tests.twohosts import memory
from tests.twohosts.pair import Pair, finish, until, wait_stopped

MIB = 1 << 20


def test_untouched_pages_stay_absent(pair: Pair) -> None:
    """Neither side allocates guest memory that the guest never touched."""
    name = pair.vm(memory="2G", append="console=ttyS0 quiet init_on_alloc=0")
    log = pair.a.folder / "s/vms" / name / "console.log"
    until(lambda: "CPC-READY" in log.read_text(errors="replace"), "the guest's boot", patient(90))
    before = memory.resident_bytes(pair.a.qemu_pid(name))
    assert before < 512 * MIB, "the guest itself touched too much for this test"
    receive, ticket = pair.receive()
    process = pair.migrate(name, ticket, stop_at="before commit")
    worker = pair.worker()
    wait_stopped(worker)
    here = memory.resident_bytes(pair.a.qemu_pid(name))
    there = memory.resident_bytes(pair.b.qemu_pid(name))
    controller = memory.peak_bytes(worker)
    os.kill(worker, signal.SIGCONT)
    finish(process, 0)
    finish(receive, 0)
    # A guest goes on touching some pages; a migration of 2 GiB must not.
    assert here - before < 32 * MIB
    assert there <= here + MIB
    assert controller < 64 * MIB


def test_controller_does_not_grow_with_the_guest(pair: Pair) -> None:
    peaks = []
    for size in ("128M", "3G"):
        name = pair.vm(f"t{size.lower()}", memory=size)
        receive, ticket = pair.receive()
        process = pair.migrate(name, ticket, stop_at="before commit")
        worker = pair.worker()
        wait_stopped(worker)
        peaks.append((memory.peak_bytes(worker), memory.peak_bytes(receive.pid)))
        os.kill(worker, signal.SIGCONT)
        finish(process, 0)
        finish(receive, 0)
    for small, large in zip(*peaks, strict=True):
        assert large - small < 4 * MIB, peaks


def test_parked_hvcpus_use_no_cpu(pair: Pair) -> None:
    name = pair.vm(hvcpus=2)
    listed = json.loads(pair.a.run("hvcpu", "list", name, "--format", "json").stdout)
    threads = [entry["thread_id"] for entry in listed if entry["state"] == "parked"]
    assert len(threads) == 2, listed
    pid = pair.a.qemu_pid(name)
    deadline = time.monotonic() + patient(10)
    while not all(memory.asleep(pid, thread) for thread in threads):
        assert time.monotonic() < deadline, "parked, and not asleep"
    before = [memory.cpu_seconds(pid, thread) for thread in threads]
    begin = time.monotonic()
    while time.monotonic() - begin < 2:
        pair.a.vm_state(name)  # something to do meanwhile
    assert [memory.cpu_seconds(pid, thread) for thread in threads] == before
