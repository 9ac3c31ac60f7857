# SPDX-License-Identifier: Apache-2.0
"""A stock Linux moves as an SEV-SNP guest of the emulated processor, under a writer."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path
from typing import Any

import pytest

from cpcctl.demo.console import Console
from cpcctl.host.qmp import Qmp, QmpError
from cpcctl.setup.kernels import Kernel
from tests.doors import FILES, hmp, naming
from tests.patience import patient
from tests.twohosts.pair import Host, Pair, finish, wait_stopped

HOPS, LONG_HOPS = 2, 10
FILLED_MIB = 48
READY_SECONDS = 120.0
SPARE_MIB = 1024
TRIES = 5
DESTROYED = "the guest is creating a vCPU anew"
QUIET = "console=ttyS0 quiet"
# Whatever the run's accelerator is: only this one emulates that processor.
SNP = {"platform": "sev-snp", "accel": "tcg"}


def available_mib() -> int:
    """Memory that nobody uses on this machine."""
    text = Path("/proc/meminfo").read_text()
    return int(text.split("MemAvailable:")[1].split()[0]) >> 10


def console(pair: Pair, name: str) -> Console:
    """The guest's shell, on the host that runs it."""
    return Console(pair.a.folder / "r" / "vms" / name / "console.sock")


def wait_ready(pair: Pair, shell: Console, name: str) -> None:
    """Until the guest has booted, on the host that runs it."""
    log = pair.a.folder / "s" / "vms" / name / "console.log"
    shell.wait_ready(log, patient(READY_SECONDS))


DOORS: list[tuple[str, dict[str, Any]]] = [*FILES, ("cont", {})]
HMP_DOORS = ["x /4x 0", "xp /4x 0", "sum 0 4", "info registers", "gdbserver tcp:127.0.0.1:0"]
SHUT = "not for the host|registers are encrypted|memory is private|cannot be saved|frozen"


def check_denied(host: Host, name: str) -> None:
    """The monitor has no way to that guest's memory and registers, nor to run it, and no device
    has met a private page."""
    with Qmp.connect(host.folder / "r" / "vms" / name / "qmp.sock") as qmp:
        image = host.folder / "image"
        for command, arguments in DOORS:
            with pytest.raises(QmpError) as refused:
                qmp.execute(command, **naming(image, arguments))
            assert re.search(SHUT, str(refused.value.cause)), refused.value.cause
        for line in HMP_DOORS:
            answer = hmp(qmp, line)
            assert re.search(SHUT, answer), (line, answer)
        assert not image.exists()
        counted = qmp.execute("query-sev-emulation")
        assert counted["writes-denied"] == 0 and counted["reads-scrambled"] == 0


def hop(pair: Pair, name: str) -> None:
    """Move it to b, ask both sides for its memory while nobody runs, swap a and b."""
    receive, ticket = pair.receive()
    process = pair.migrate(name, ticket, "--max-downtime", "10000", stop_at="before commit")
    worker = pair.worker()
    wait_stopped(worker)
    check_denied(pair.a, name)
    check_denied(pair.b, name)
    os.kill(worker, signal.SIGCONT)
    assert "sev-snp, emulated: no protection" in finish(process, 0).stdout
    finish(receive, 0)
    pair.check_one_side(name, "b")
    pair.a, pair.b = pair.b, pair.a


@pytest.mark.parametrize("hops", [HOPS, pytest.param(LONG_HOPS, marks=pytest.mark.long)])
def test_hops_of_an_snp_guest_under_a_writer(pair: Pair, hops: int) -> None:
    name = pair.vm(
        **SNP,
        vcpus=2,
        memory="512M",
        initrd=str(pair.built.guest_initrd),
        append=f"{QUIET} cpc.job=fill:32,writer:64",
    )
    with console(pair, name) as shell:
        wait_ready(pair, shell, name)
        assert "AMD SEV SEV-ES SEV-SNP" in shell.run("dmesg | grep Encryption")
    for _ in range(hops):
        hop(pair, name)
    with console(pair, name) as shell:
        assert "CPC-WRITER ok" in shell.run("cpc-job written")
        assert "CPC-CHECK ok" in shell.run("cpc-job check")
        # Each of its vCPUs runs what is bound to it.
        for cpu in (1, 2):
            assert shell.run(f"taskset {cpu} cat /proc/self/stat").split()[38] == str(cpu - 1)


@pytest.mark.parametrize(
    ("kernel", "vcpus", "memory_mib"),
    [
        ("6.12", 2, 512),
        ("6.1", 4, 3072),  # on both sides of the PCI hole
        pytest.param("6.12", 3, 6144, marks=pytest.mark.long),
        pytest.param("6.1", 1, 6144, marks=pytest.mark.long),
    ],
)
def test_there_and_back(
    pair: Pair, kernels: dict[str, Kernel], kernel: str, vcpus: int, memory_mib: int
) -> None:
    """Every vCPU goes on, and a file, which Linux has in its highest memory, is what it was."""
    debian, free = kernels[kernel], available_mib()
    if free < 2 * memory_mib + SPARE_MIB:
        pytest.skip(f"two hosts' worth of {memory_mib} MiB need more than the {free} MiB free here")
    name = pair.vm(
        **SNP,
        vcpus=vcpus,
        memory=f"{memory_mib}M",
        kernel=str(debian.vmlinuz),
        initrd=str(debian.initrd),
        append=f"{QUIET} cpc.job=fill:{FILLED_MIB}",
    )
    with console(pair, name) as shell:
        wait_ready(pair, shell, name)
        assert shell.run("uname -r").startswith(f"{kernel}.")
    hop(pair, name)
    hop(pair, name)
    with console(pair, name) as shell:
        assert "CPC-CHECK ok" in shell.run("cpc-job check")
        for cpu in range(vcpus):
            assert shell.run(f"taskset {1 << cpu:x} nproc").strip() == "1"


def test_a_guest_moves_while_it_boots(pair: Pair) -> None:
    """At any time in it: some vCPUs may not have been started, or run from OVMF's pages.

    But for moments in which OVMF has destroyed one to create it anew; then it stays.
    """
    name = pair.vm(**SNP, vcpus=4, memory="512M", append=QUIET)
    for _ in range(TRIES):
        receive, ticket = pair.receive()
        done = finish(pair.migrate(name, ticket), None)
        finish(receive, None)
        if done.returncode == 0:
            break
        assert done.returncode == 1 and DESTROYED in done.stderr
        pair.check_one_side(name, "a")
    pair.check_one_side(name, "b")
    pair.a, pair.b = pair.b, pair.a
    with console(pair, name) as shell:
        wait_ready(pair, shell, name)
        assert shell.run("nproc").strip() == "4"
