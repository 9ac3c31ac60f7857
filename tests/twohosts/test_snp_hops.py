# SPDX-License-Identifier: Apache-2.0
"""A stock Linux moves as an SEV-SNP guest of the emulated processor, under a writer."""

from __future__ import annotations

import os
import signal

import pytest

from cpcctl.demo.console import Console
from cpcctl.host.qmp import Qmp, QmpError
from tests.patience import patient
from tests.twohosts.pair import Host, Pair, finish, wait_stopped

HOPS = 10
READY_SECONDS = 120.0


def console(pair: Pair, name: str) -> Console:
    """The guest's shell, on the host that runs it."""
    return Console(pair.a.folder / "r" / "vms" / name / "console.sock")


def check_denied(host: Host, name: str) -> None:
    """The monitor does not read that guest's memory, and no device has met a private page."""
    with Qmp.connect(host.folder / "r" / "vms" / name / "qmp.sock") as qmp:
        image = host.folder / "image"
        with pytest.raises(QmpError) as refused:
            qmp.execute("pmemsave", val=0, size=4096, filename=str(image))
        assert "not for the host" in str(refused.value.cause)
        assert not image.exists()
        counted = qmp.execute("query-sev-emulation")
        assert counted["writes-denied"] == 0 and counted["reads-scrambled"] == 0


def hop(pair: Pair, name: str) -> None:
    """Move it to b, ask both sides for its memory while nobody runs, swap a and b."""
    receive, ticket = pair.receive()
    process = pair.migrate(name, ticket, "--max-downtime", "10000", stop_at="commit")
    worker = pair.worker()
    wait_stopped(worker)
    check_denied(pair.a, name)
    check_denied(pair.b, name)
    os.kill(worker, signal.SIGCONT)
    assert "sev-snp, emulated: no protection" in finish(process, 0).stdout
    finish(receive, 0)
    pair.check_one_side(name, "b")
    pair.a, pair.b = pair.b, pair.a


def test_ten_hops_of_an_snp_guest_under_a_writer(pair: Pair) -> None:
    name = pair.vm(
        platform="sev-snp",
        vcpus=2,
        memory="512M",
        initrd=str(pair.built.guest_initrd),
        append="console=ttyS0 quiet cpc.job=fill:32,writer:64",
    )
    with console(pair, name) as shell:
        shell.wait_ready(
            pair.a.folder / "s" / "vms" / name / "console.log", patient(READY_SECONDS)
        )
        assert "AMD SEV SEV-ES SEV-SNP" in shell.run("dmesg | grep Encryption")
    for _ in range(HOPS):
        hop(pair, name)
    with console(pair, name) as shell:
        assert "CPC-WRITER ok" in shell.run("cpc-job written")
        assert "CPC-CHECK ok" in shell.run("cpc-job check")
        # Each of its vCPUs runs what is bound to it.
        for cpu in (1, 2):
            assert shell.run(f"taskset {cpu} cat /proc/self/stat").split()[38] == str(cpu - 1)
