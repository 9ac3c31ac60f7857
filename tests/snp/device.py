# SPDX-License-Identifier: Apache-2.0
"""What a host's devices can do to a guest's memory, over QEMU's test protocol."""

from __future__ import annotations

import socket
from pathlib import Path

from tests.patience import patient
from tests.snp.boot import MEMORY_MIB, Guest


class Device:
    """Access to guest-physical memory as a device has it, over QEMU's test protocol."""

    @staticmethod
    def arguments(folder: Path) -> list[str]:
        """QEMU's, for a machine that has this door."""
        return ["-qtest", f"unix:{folder}/qtest,server=on,wait=off", "-qtest-log", "none"]

    def __init__(self, folder: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(patient(30.0))
        self._socket.connect(f"{folder}/qtest")
        self._stream = self._socket.makefile("rw")

    def ask(self, line: str) -> str:
        """One command; its answer."""
        self._stream.write(line + "\n")
        self._stream.flush()
        return self._stream.readline().strip()

    def read(self, address: int, size: int) -> bytes:
        """As a device reads."""
        return bytes.fromhex(self.ask(f"read {address:#x} {size:#x}").removeprefix("OK 0x"))

    def write(self, address: int, data: bytes) -> None:
        """As a device writes; not told whether it was denied."""
        assert self.ask(f"write {address:#x} {len(data):#x} 0x{data.hex()}") == "OK"

    def close(self) -> None:
        """Let go."""
        self._stream.close()
        self._socket.close()


def counters(guest: Guest) -> tuple[int, int]:
    """How often the host met private pages: reads, writes."""
    seen = guest.query()
    return seen["reads-scrambled"], seen["writes-denied"]


def private_pages(guest: Guest, device: Device, step: int) -> list[int]:
    """Addresses of private pages, one of each step of memory above the first 16 MiB."""
    found = []
    for address in range(16 << 20, MEMORY_MIB << 20, step):
        before = counters(guest)
        device.read(address, 8)
        after = counters(guest)
        if after != before:
            assert after == (before[0] + 1, before[1])
            found.append(address)
    return found
