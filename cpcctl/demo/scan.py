# SPDX-License-Identifier: Apache-2.0
"""Looks for a secret in byte streams, packets and a ring file while it is used."""

from __future__ import annotations

import contextlib
import mmap
import os
import struct
import threading
import time
from pathlib import Path

ETH_IPV4 = 0x0800
TCP = 6


class Finder:
    """Searches one stream that comes in pieces; a match may span two of them."""

    def __init__(self, secret: bytes) -> None:
        if len(secret) < 16:
            raise ValueError("a shorter secret could appear by chance")
        self._secret = secret
        self._tail = b""
        self.hits = 0

    def feed(self, piece: bytes | memoryview) -> None:
        """The next piece of the stream."""
        data = bytes(piece)
        edge = self._tail + data[: len(self._secret) - 1]
        self.hits += edge.count(self._secret) + data.count(self._secret)
        self._tail = (self._tail + data)[-(len(self._secret) - 1) :]


def tcp_payload(frame: bytes) -> tuple[bytes, bytes]:
    """(flow, payload) of an Ethernet frame; an empty flow if it is no TCP/IPv4."""
    if len(frame) < 54 or struct.unpack_from(">H", frame, 12)[0] != ETH_IPV4:
        return b"", frame
    header = 14 + (frame[14] & 15) * 4
    if frame[23] != TCP or len(frame) < header + 20:
        return b"", frame
    start = header + (frame[header + 12] >> 4) * 4
    total = 14 + struct.unpack_from(">H", frame, 16)[0]
    # Offloaded segments may say 0 for a length that does not fit.
    end = total if total > start else len(frame)
    return frame[26:34] + frame[header : header + 4], frame[start:end]


class PacketFinder:
    """Searches packets: every one as it is, and each TCP flow as a stream."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        self._flows: dict[bytes, Finder] = {}
        self._raw_hits = 0
        self.bytes = 0

    def feed(self, frame: bytes) -> None:
        """One captured frame."""
        self.bytes += len(frame)
        flow, payload = tcp_payload(frame)
        if flow:
            finder = self._flows.get(flow)
            if finder is None:
                finder = self._flows[flow] = Finder(self._secret)
            finder.feed(payload)
        else:
            self._raw_hits += frame.count(self._secret)

    @property
    def hits(self) -> int:
        """How often the secret was seen."""
        return self._raw_hits + sum(f.hits for f in self._flows.values())


class RingScanner:
    """Reads a whole ring file over and over while others write it."""

    def __init__(self, path: Path, secret: bytes, pause: float = 0.02) -> None:
        self._path = path
        self._secret = secret
        self._pause = pause
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ring-scan", daemon=True)
        self.hits = 0
        self.passes = 0
        self.error: OSError | None = None

    def _run(self) -> None:
        try:
            with self._path.open("rb") as stream:
                size = os.fstat(stream.fileno()).st_size
                mapping = mmap.mmap(stream.fileno(), size, prot=mmap.PROT_READ)
            with contextlib.closing(mapping):
                while not self._stop.wait(self._pause):
                    self.hits += mapping.find(self._secret) >= 0
                    self.passes += 1
        except OSError as error:
            self.error = error

    def start(self) -> None:
        """Begin. The file must be there."""
        self._thread.start()

    def stop(self) -> None:
        """One last pass may still be under way; returns when it is over."""
        self._stop.set()
        self._thread.join()


def wait_for_file(path: Path, seconds: float) -> bool:
    """True as soon as the file is there and has content."""
    end = time.monotonic() + seconds
    while not (path.exists() and path.stat().st_size):
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True
