# SPDX-License-Identifier: Apache-2.0
"""A guest under a full-speed memory writer moves back and forth, ten times with --long."""

from __future__ import annotations

import json
import os
import signal
from typing import Any

import pytest

from cpcctl.demo.console import Console
from tests.patience import patient
from tests.twohosts import memory
from tests.twohosts.pair import Pair, finish, until, wait_stopped


def console(pair: Pair, name: str) -> Console:
    """The guest's shell, on the host that runs it."""
    return Console(pair.a.folder / "r" / "vms" / name / "console.sock")


def hop(pair: Pair, name: str, *more: str) -> dict[str, Any]:
    """Move it to b, compare all of its memory while nobody runs, swap a and b; the result."""
    receive, ticket = pair.receive()
    options = ("--max-downtime", "10000", "--format", "json", *more)
    process = pair.migrate(name, ticket, *options, stop_at="before commit")
    worker = pair.worker()
    wait_stopped(worker)
    here, there = pair.a.qemu_pid(name), pair.b.qemu_pid(name)
    assert memory.digest(here) == memory.digest(there)
    os.kill(worker, signal.SIGCONT)
    result: dict[str, Any] = json.loads(finish(process, 0).stdout)
    finish(receive, 0)
    pair.check_one_side(name, "b")
    pair.a, pair.b = pair.b, pair.a
    return result


@pytest.mark.kvm
def test_hops_keep_every_byte(pair: Pair) -> None:
    """There and back, with two streams, of a guest that is quiet once it has something to keep."""
    name = pair.vm(vcpus=2, hvcpus=2, append="console=ttyS0 quiet cpc.job=fill:16")
    with console(pair, name) as shell:
        shell.wait_ready(pair.a.folder / "s" / "vms" / name / "console.log", patient(90))
    for _ in range(2):
        result = hop(pair, name, "--parallel", "2")
        # The pages are shared out by number, and the guest's are all over.
        assert min(result["stream_bytes"]) > result["bytes_sent"] / 8
    with console(pair, name) as shell:
        assert "CPC-CHECK ok" in shell.run("cpc-job check")
        assert shell.run("nproc").strip() == "2"


@pytest.mark.parametrize(
    ("machine", "hops"), [("q35", 2), ("pc", 1), pytest.param("q35", 10, marks=pytest.mark.long)]
)
def test_hops_under_a_writer(pair: Pair, machine: str, hops: int) -> None:
    name = pair.vm(
        machine=machine,
        vcpus=2,
        max_vcpus=4,
        memory="384M",
        memory_blocks=2,
        initrd=str(pair.built.guest_initrd),
        append="console=ttyS0 quiet cpc.job=fill:32,writer:64",
    )
    log = pair.a.folder / "s" / "vms" / name / "console.log"
    with console(pair, name) as shell:
        shell.wait_ready(log, patient(90))
    for _ in range(hops):
        hop(pair, name)
    with console(pair, name) as shell:
        assert "CPC-WRITER ok" in shell.run("cpc-job written")
        assert "CPC-CHECK ok" in shell.run("cpc-job check")
        assert shell.run("nproc").strip() == "2"


@pytest.mark.parametrize("block", [0, 1])
def test_digest_notices_one_byte(pair: Pair, block: int) -> None:
    """The comparison above is one that can fail, in each block of memory."""
    name = pair.vm(memory_blocks=2)
    receive, ticket = pair.receive()
    process = pair.migrate(name, ticket, stop_at="before commit")
    worker = pair.worker()
    wait_stopped(worker)
    here, there = pair.a.qemu_pid(name), pair.b.qemu_pid(name)
    before = memory.digest(there)
    files = memory.guest_memory(there)
    assert len(files) == 2
    byte = os.pread(files[block], 1, 0x10000)
    os.pwrite(files[block], bytes([byte[0] ^ 1]), 0x10000)
    assert memory.digest(there) != before
    os.pwrite(files[block], byte, 0x10000)
    for file in files:
        os.close(file)
    assert memory.digest(there) == memory.digest(here)
    os.kill(worker, signal.SIGCONT)
    finish(process, 0)
    finish(receive, 0)
    until(lambda: pair.b.vm_state(name) == "running", "the guest on b")
