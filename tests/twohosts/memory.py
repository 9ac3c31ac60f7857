# SPDX-License-Identifier: Apache-2.0
"""What this machine's root can see of a QEMU process on the plain platform."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

CHUNK = 4 << 20


def guest_memory(pid: int) -> int:
    """Descriptor of the memory file of a QEMU's guest RAM; close it."""
    best, size = "", 0
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            if "memfd:" in os.readlink(entry) and entry.stat().st_size > size:
                best, size = str(entry), entry.stat().st_size
        except OSError:
            continue
    assert best, f"process {pid} has no memory file"
    return os.open(best, os.O_RDONLY)


def digest(pid: int) -> str:
    """SHA-256 of all guest RAM. Holes read as zeros and stay holes."""
    total, offset = hashlib.sha256(), 0
    file = guest_memory(pid)
    try:
        while chunk := os.pread(file, CHUNK, offset):
            total.update(chunk)
            offset += len(chunk)
    finally:
        os.close(file)
    return total.hexdigest()


def resident_bytes(pid: int) -> int:
    """Bytes of guest RAM that the host has allocated."""
    file = guest_memory(pid)
    try:
        return os.fstat(file).st_blocks * 512
    finally:
        os.close(file)


def cpu_seconds(pid: int, thread: int) -> float:
    """User and system time of one thread."""
    fields = Path(f"/proc/{pid}/task/{thread}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def peak_bytes(pid: int) -> int:
    """Largest resident size that a process has had, mappings of files left out."""
    text = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) for line in text.splitlines() if "RssAnon" in line) * 1024
