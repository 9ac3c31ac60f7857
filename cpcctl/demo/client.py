# SPDX-License-Identifier: Apache-2.0
"""A client of the guest: one TCP connection, writes and reads back, verified.

    python -m cpcctl.demo.client ADDRESS PORT

Says READY after its first verified read, works until stdin closes, then prints
one JSON object: operations (pairs of a write and a read), mismatched_reads,
broken_connections, longest_pause_seconds, and for each tenth of a second in
which something completed [tenth on the monotonic clock, operations].
"""

from __future__ import annotations

import hashlib
import json
import select
import socket
import sys
import time
from collections import Counter

KEYS = 512
SILENCE_SECONDS = 60.0


class Broken(Exception):
    """The connection ended, or was silent for SILENCE_SECONDS."""


class Redis:
    """As much of Redis's protocol as SET and GET need."""

    def __init__(self, address: str, port: int) -> None:
        try:
            self._socket = socket.create_connection((address, port), timeout=SILENCE_SECONDS)
        except OSError as error:
            raise Broken(str(error)) from error
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._stream = self._socket.makefile("rb")

    def call(self, *words: bytes) -> bytes:
        """One command; a status or a value. Raises Broken."""
        text = b"*%d\r\n" % len(words)
        for word in words:
            text += b"$%d\r\n%b\r\n" % (len(word), word)
        try:
            self._socket.sendall(text)
            head = self._stream.readline()
            if not head.endswith(b"\r\n"):
                raise Broken("closed")
            if head[:1] != b"$" or head == b"$-1\r\n":
                return head[:-2]
            body = self._stream.read(int(head[1:]) + 2)
            if len(body) != int(head[1:]) + 2:
                raise Broken("closed")
            return body[:-2]
        except OSError as error:
            raise Broken(str(error)) from error

    def close(self) -> None:
        """Hang up."""
        self._stream.close()
        self._socket.close()


def value_of(number: int) -> bytes:
    """The value written in operation number: 512 bytes that nothing else has."""
    return hashlib.sha256(b"%d" % number).hexdigest().encode() * 8


def main() -> int:
    """Work until stdin closes."""
    address, port = sys.argv[1], int(sys.argv[2])
    done: Counter[int] = Counter()
    operations = mismatched = broken = 0
    longest = 0.0
    link = Redis(address, port)
    last = time.monotonic()
    while not select.select([sys.stdin], [], [], 0)[0]:
        key, value = b"client:%d" % (operations % KEYS), value_of(operations)
        try:
            if link.call(b"SET", key, value) != b"+OK" or link.call(b"GET", key) != value:
                mismatched += 1
        except Broken:
            broken += 1
            link.close()
            if broken > 100:
                break
            try:
                link = Redis(address, port)
            except Broken:
                continue
        now = time.monotonic()
        longest = max(longest, now - last)
        last = now
        done[int(now * 10)] += 1
        operations += 1
        if operations == 1:
            print("READY", flush=True)
    # What is silent now has been silent since the last answer.
    longest = max(longest, time.monotonic() - last)
    result = {
        "operations": operations,
        "mismatched_reads": mismatched,
        "broken_connections": broken,
        "longest_pause_seconds": round(longest, 4),
        "tenths": sorted(done.items()),
    }
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
