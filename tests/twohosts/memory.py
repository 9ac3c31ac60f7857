# SPDX-License-Identifier: Apache-2.0
"""What this machine's root can see of a QEMU process on the plain platform."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

CHUNK = 4 << 20


def guest_memory(pid: int) -> list[int]:
    """Descriptors of a QEMU's guest RAM, one a block, in order; close them."""
    found = []
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            if "memory-backend-memfd" in os.readlink(entry):
                found.append(int(entry.name))
        except OSError:
            continue
    assert found, f"process {pid} has no memory file"
    return [os.open(f"/proc/{pid}/fd/{number}", os.O_RDWR) for number in sorted(found)]


def digest(pid: int) -> str:
    """SHA-256 of all guest RAM, every block. Holes read as zeros and stay holes."""
    total = hashlib.sha256()
    for file in guest_memory(pid):
        offset = 0
        while chunk := os.pread(file, CHUNK, offset):
            total.update(chunk)
            offset += len(chunk)
        total.update(offset.to_bytes(8, "little"))
        os.close(file)
    return total.hexdigest()


def resident_bytes(pid: int) -> int:
    """Bytes of guest RAM that the host has allocated."""
    total = 0
    for file in guest_memory(pid):
        total += os.fstat(file).st_blocks * 512
        os.close(file)
    return total


def cpu_seconds(pid: int, thread: int) -> float:
    """User and system time of one thread."""
    fields = Path(f"/proc/{pid}/task/{thread}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def asleep(pid: int, thread: int) -> bool:
    """Whether a thread waits; one that is to wait may still be on its way there."""
    fields = Path(f"/proc/{pid}/task/{thread}/stat").read_text().rpartition(")")[2].split()
    return fields[0] == "S"


def peak_bytes(pid: int) -> int:
    """Largest resident size that a process has had, the mapped ring file left out."""
    text = Path(f"/proc/{pid}/status").read_text()
    sizes = {line.split(":")[0]: line.split() for line in text.splitlines()}
    return (int(sizes["VmHWM"][1]) - int(sizes["RssShmem"][1])) * 1024
