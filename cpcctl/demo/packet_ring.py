# SPDX-License-Identifier: Apache-2.0
"""Packets of one network device, from a ring that the kernel fills (TPACKET_V3).

A socket's own buffer ends at net.core.rmem_max, some 200 KiB, for all but root of the machine:
under load packets were lost. A ring is as large as one asks for, also in a user namespace, and a
packet in it is read where it lies. Source: Documentation/networking/packet_mmap.rst of Linux.
"""

from __future__ import annotations

import mmap
import socket
import struct
from collections.abc import Iterator

ETH_P_ALL = 3
SOL_PACKET = 263
PACKET_RX_RING = 5
PACKET_STATISTICS = 6
PACKET_VERSION = 10
TPACKET_V3 = 2
TP_STATUS_KERNEL = 0
TP_STATUS_USER = 1
# Above the largest packet, 64 KiB where segments are offloaded.
BLOCK = 1 << 20
FRAME = 1 << 11
RING_BYTES = 256 << 20
LEAST_BYTES = 16 << 20
# After this a block with packets in it is handed over though it has room.
RETIRE_MS = 50
# struct tpacket_hdr_v1 in struct tpacket_block_desc: status, packets, offset of the first one.
BLOCK_HEADER = struct.Struct("@III")
BLOCK_HEADER_AT = 8
# struct tpacket3_hdr: offset of the next one, seconds, nanoseconds, length here, length, status,
# offset of the packet.
PACKET_HEADER = struct.Struct("@IIIIIIH")


class PacketRing:
    """Captures from the moment it is made. Needs CAP_NET_RAW in the network namespace."""

    def __init__(self, device: str) -> None:
        """Raises OSError: no such device, not permitted, no memory."""
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        self._socket.setsockopt(SOL_PACKET, PACKET_VERSION, TPACKET_V3)
        self._blocks = self._reserve()
        self._memory = mmap.mmap(self._socket.fileno(), self._blocks * BLOCK)
        self._next = 0
        self.cut = 0
        self._socket.bind((device, ETH_P_ALL))

    def _reserve(self) -> int:
        """The largest ring that there is memory for; its blocks."""
        size = RING_BYTES
        while True:
            blocks = size // BLOCK
            request = struct.pack(
                "7I", BLOCK, blocks, FRAME, blocks * (BLOCK // FRAME), RETIRE_MS, 0, 0
            )
            try:
                self._socket.setsockopt(SOL_PACKET, PACKET_RX_RING, request)
            except OSError:
                if size <= LEAST_BYTES:
                    raise
                size //= 2
            else:
                return blocks

    def fileno(self) -> int:
        """Readable when a block is full or due."""
        return self._socket.fileno()

    def block(self) -> Iterator[memoryview] | None:
        """The packets of the next block, each valid until the one after it is asked for; None
        when the kernel has handed over none."""
        start = self._next * BLOCK
        status, count, first = BLOCK_HEADER.unpack_from(self._memory, start + BLOCK_HEADER_AT)
        if not status & TP_STATUS_USER:
            return None
        return self._packets(start, count, start + first)

    def _packets(self, start: int, count: int, at: int) -> Iterator[memoryview]:
        with memoryview(self._memory) as memory:
            for _ in range(count):
                following, _, _, here, length, _, offset = PACKET_HEADER.unpack_from(memory, at)
                self.cut += here < length
                with memory[at + offset : at + offset + here] as packet:
                    yield packet
                at += following
        struct.pack_into("@I", self._memory, start + BLOCK_HEADER_AT, TP_STATUS_KERNEL)
        self._next = (self._next + 1) % self._blocks

    def missed(self) -> int:
        """Packets since the last call that found no room, or were cut short."""
        counts = self._socket.getsockopt(SOL_PACKET, PACKET_STATISTICS, 12)
        _, dropped, _ = struct.unpack("III", counts)
        missed, self.cut = dropped + self.cut, 0
        return int(missed)
