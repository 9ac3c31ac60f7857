# SPDX-License-Identifier: Apache-2.0
"""What booting as a confidential guest costs: time, and processor time, beside the same
guest plain.

    python -m tests.snp.bench [--repeat N] [--vcpus N] [--memory MIB]

To userspace, with each kernel and alternately plain and SEV-SNP; the medians' ratio. A
measurement, not a test: nothing fails by its result.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from cpcctl.setup import kernels, store
from tests.snp.boot import BOOT_SECONDS, OBJECTS, Guest, Parts, command

PLATFORMS = ("plain", "sev-snp")
LIMIT = 1.3


def processor_seconds(pid: int) -> float:
    """Time a process and its threads have had, in user and kernel mode, in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def one(parts: Parts, platform: str, vcpus: int, memory_mib: int) -> tuple[float, float]:
    """Time of one boot to userspace, and processor time, in seconds."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="cpc-bench-") as folder:
        argv = command(parts, OBJECTS[platform], vcpus=vcpus, memory_mib=memory_mib)
        guest = Guest(argv, Path(folder))
        try:
            guest.wait_for("CPC-READY", BOOT_SECONDS)
            return time.monotonic() - began, processor_seconds(guest.pid)
        finally:
            guest.end()


def line(name: str, taken: Mapping[str, list[float]]) -> str:
    """The result for one kernel, or one kind of time: seconds by platform."""
    medians = {platform: statistics.median(taken[platform]) for platform in PLATFORMS}
    words = ", ".join(
        f"{platform} {medians[platform]:.2f} s ({min(taken[platform]):.2f} to "
        f"{max(taken[platform]):.2f})"
        for platform in PLATFORMS
    )
    ratio = medians["sev-snp"] / medians["plain"]
    return f"{name:14} {words}: {ratio:.2f}x"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="time of a boot")
    parser.add_argument("--repeat", type=int, default=5, help="boots of each kind (5)")
    parser.add_argument("--vcpus", type=int, default=1, help="(1)")
    parser.add_argument("--memory", type=int, default=1024, help="MiB (1024)")
    asked = parser.parse_args()
    current = store.root() / "current"
    qemu = Path(os.environ.get("CPCCTL_QEMU") or current / "qemu/bin/qemu-system-x86_64")
    print(f"time of a boot, {asked.vcpus} vCPUs, {asked.memory} MiB, "
          f"median of {asked.repeat} (lowest to highest; wanted: at most {LIMIT}x)")  # fmt: skip
    for version, kernel in kernels.provide().items():
        parts = Parts(
            qemu, current / "qemu/share/qemu", current / "ovmf/OVMF.fd",
            kernel.vmlinuz, kernel.initrd,
        )  # fmt: skip
        taken: dict[str, list[tuple[float, float]]] = {platform: [] for platform in PLATFORMS}
        for _ in range(asked.repeat):
            for platform in PLATFORMS:
                taken[platform].append(one(parts, platform, asked.vcpus, asked.memory))
        for place, kind in enumerate(("time", "processor")):
            seconds = {platform: [boot[place] for boot in taken[platform]] for platform in taken}
            print(line(f"{version} {kind}", seconds), flush=True)


if __name__ == "__main__":
    main()
