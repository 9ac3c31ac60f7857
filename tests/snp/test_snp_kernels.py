# SPDX-License-Identifier: Apache-2.0
"""Debian's kernels as SEV-SNP guests, with 1 to 4 vCPUs and 512 MiB to 6 GiB."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from dataclasses import replace

import pytest

from cpcctl.setup.kernels import SUITES, provide_testing
from tests.snp.boot import OBJECTS, Guest, Parts, command
from tests.snp.conftest import Launch

Boot = Callable[..., Guest]
VCPUS = (1, 2, 3, 4)
MEMORY_MIB = (512, 1024, 2048, 3072, 6144)  # 3 GiB and more are on both sides of the PCI hole
ACTIVE = ["Memory Encryption Features active: AMD SEV SEV-ES SEV-SNP"]
# The kernel keeps 6 % for DMA buffers and its own; firmware and memory map take theirs.
USABLE = 0.75
# The smallest, and memory on both sides of the PCI hole, which test_snp_hops.py has of 6.1.
SOME = [("6.12", 1, 512), ("6.12", 4, 6144)]
IN_A_ROW = 20


def memory_total_mib(guest: Guest) -> float:
    """What the kernel has for use, in MiB."""
    found = re.search(r"MemTotal:\s+(\d+) kB", guest.run("cat /proc/meminfo"))
    assert found
    return int(found[1]) / 1024


def check(boot: Boot, kernel: str, vcpus: int, memory_mib: int) -> None:
    """Boots, is what it was asked to be, and no device met private memory."""
    guest = boot(kernel, vcpus=vcpus, memory_mib=memory_mib)
    assert f"\n{kernel}." in guest.run("uname -r")
    assert guest.active_features() == ACTIVE
    assert f"\n{vcpus}\n" in guest.run("nproc")
    assert memory_total_mib(guest) > memory_mib * USABLE
    seen = guest.query()
    assert (seen["reads-scrambled"], seen["writes-denied"]) == (0, 0)
    assert not guest.words(), guest.words()
    guest.end()


@pytest.mark.parametrize(("kernel", "vcpus", "memory_mib"), SOME)
def test_boots(boot: Boot, kernel: str, vcpus: int, memory_mib: int) -> None:
    check(boot, kernel, vcpus, memory_mib)


@pytest.mark.long
@pytest.mark.parametrize(
    ("kernel", "vcpus", "memory_mib"), list(itertools.product(SUITES, VCPUS, MEMORY_MIB))
)
def test_boots_with_every_number_of_vcpus_and_size(
    boot: Boot, kernel: str, vcpus: int, memory_mib: int
) -> None:
    check(boot, kernel, vcpus, memory_mib)


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kernel", SUITES)
def test_boots_twenty_times_in_a_row(boot: Boot, kernel: str) -> None:
    for vcpus, _ in zip(itertools.cycle(VCPUS), range(IN_A_ROW), strict=False):
        check(boot, kernel, vcpus, 1024)


@pytest.mark.long
def test_the_next_release(parts: Parts, launch: Launch) -> None:
    """Debian's next one, whatever its kernel is today: boots, and has a device for reports."""
    found = provide_testing()
    mine = replace(parts, vmlinuz=found.vmlinuz, initrd=found.initrd)
    guest = launch(command(mine, OBJECTS["sev-snp"]))
    guest.ready()
    assert guest.active_features() == ACTIVE
    guest.run("cd /modules; for m in $(cat attest); do insmod $m; done")
    assert "/dev/sev-guest" in guest.run("ls /dev/sev-guest | cat")
    seen = guest.query()
    assert (seen["reads-scrambled"], seen["writes-denied"]) == (0, 0)
