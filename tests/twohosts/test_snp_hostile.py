# SPDX-License-Identifier: Apache-2.0
"""A hostile host interferes with the move of an SEV-SNP guest: the guest is on one side, and
goes on with what it had, or stops. It never goes on with anything else."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import pytest

from cpcctl.demo.console import Console, ConsoleError
from cpcctl.host.qmp import Qmp, QmpError, QmpGone
from tests.patience import patient
from tests.twohosts.pair import Host, Pair, finish, until, wait_stopped

MEMORY_MIB, FILLED_MIB = 384, 48
READY_SECONDS = patient(120.0)
# How long an answer is waited for at first; then twice as long each time.
ASK_SECONDS = patient(3.0)
STEP = 32 * 4096  # one page of so many
FOR_EVER = 1000  # a guest that meets a page it has not validated so often does nothing else
INTACT, STOPPED = "intact", "stopped"


def monitor(host: Host, name: str) -> Qmp:
    """QEMU's, of that guest on that host."""
    return Qmp.connect(host.folder / "r/vms" / name / "qmp.sock")


def inject(host: Host, name: str, fault: str) -> int:
    """Spoil the next requests, or one page of every STEP; how many faults that were, or how
    many until the guest ended itself because of them."""
    done = 0
    with monitor(host, name) as qmp:
        if fault in ("ghcb-reply", "psc-withhold"):
            qmp.execute("sev-emulation-inject", fault=fault, count=0xFFFFFFFF)
            return 1
        for address in range(32 << 20, MEMORY_MIB << 20, STEP):
            try:
                qmp.execute("sev-emulation-inject", fault=fault, gpa=address)
                done += 1
            except QmpError as error:
                assert "private" in str(error.cause) or "save area" in str(error.cause)
            except QmpGone:
                until(lambda: host.vm_state(name) == "stopped", "the end of the guest")
                # Of a QEMU that crashed it would say nothing.
                assert "\nended:" in host.run("vm", "status", name).stdout
                break
    return done


def outcome(host: Host, name: str) -> str:
    """What has become of the guest, which is there. Fails when it has other data, or says
    nothing and runs all the same."""
    folder = host.folder / "r/vms" / name
    deadline, seconds = time.monotonic() + READY_SECONDS, ASK_SECONDS
    while time.monotonic() < deadline:
        if host.vm_state(name) != "running":
            return STOPPED
        with monitor(host, name) as qmp:
            met = qmp.execute("query-sev-emulation")["unvalidated-accesses"]
        try:
            with Console(folder / "console.sock") as shell:
                said = shell.run("cpc-job check", seconds)
            assert "CPC-CHECK bad" not in said, said
            if "CPC-CHECK ok" in said:
                return INTACT
        except (ConsoleError, OSError):
            pass
        if host.vm_state(name) != "running":
            return STOPPED
        with monitor(host, name) as qmp:
            seen = qmp.execute("query-sev-emulation")["unvalidated-accesses"]
        if seen - met > FOR_EVER:
            return STOPPED
        seconds *= 2
    raise AssertionError("the guest neither answers nor stops")


@pytest.mark.parametrize(
    ("side", "fault", "phase", "allowed"),
    [
        # The firmware there gives up, whatever it was told, and the guest is still here.
        ("b", "ghcb-reply", "before send", {(1, INTACT)}),
        # Nothing changes there but what the firmware itself finds private or shared.
        ("b", "psc-withhold", "before send", {(0, INTACT), (1, INTACT)}),
        # Taken for absent, or unreadable: then the freeze is undone. A guest that met such a
        # page before ended itself, and is nowhere.
        ("a", "rmp-unvalidate", "before freeze", {(0, STOPPED), (1, STOPPED), (7, STOPPED)}),
        # After all was verified: the guest meets what it has not validated, and may have ended
        # itself before the destination could say that it runs.
        ("b", "psc-replay", "before commit", {(0, STOPPED), (8, STOPPED)}),
    ],
)
def test_a_fault_on_the_way(
    pair: Pair, side: str, fault: str, phase: str, allowed: set[tuple[Any, str]]
) -> None:
    name = pair.vm(
        platform="sev-snp",
        accel="tcg",
        vcpus=2,
        memory=f"{MEMORY_MIB}M",
        append=f"console=ttyS0 quiet cpc.job=fill:{FILLED_MIB}",
    )
    log = pair.a.folder / "s/vms" / name / "console.log"
    with Console(pair.a.folder / "r/vms" / name / "console.sock") as shell:
        shell.wait_ready(log, READY_SECONDS)
    receive, ticket = pair.receive()
    process = pair.migrate(name, ticket, "--max-downtime", "10000", stop_at=phase)
    wait_stopped(worker := pair.worker())
    assert inject(pair.a if side == "a" else pair.b, name, fault)
    os.kill(worker, signal.SIGCONT)
    done = finish(process, None)
    finish(receive, None)
    assert done.returncode in {code for code, _ in allowed}, done.stderr
    if done.returncode == 7:
        assert f"VM {name} was lost" in done.stderr
        assert pair.a.vm_state(name) in ("absent", "stopped")
    elif done.returncode == 8:
        assert f"it is stopped on {pair.b.name}" in done.stderr
    elif done.returncode:
        assert f"runs on {pair.a.name}" in done.stderr
    arrived = done.returncode in (0, 8)
    there, other = (pair.b, pair.a) if arrived else (pair.a, pair.b)
    assert other.vm_state(name) in ("absent", "stopped")
    assert (done.returncode, outcome(there, name)) in allowed, done.stderr
