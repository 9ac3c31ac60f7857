# SPDX-License-Identifier: Apache-2.0
"""Captures everything that crosses one network device and looks for a secret.

    python -m cpcctl.demo.capture DEVICE        the secret comes on stdin, in hex

Says READY, captures until stdin closes, then prints one JSON object: bytes,
packets, missed (packets the kernel had to drop before we saw them), hits.
"""

from __future__ import annotations

import json
import select
import socket
import struct
import sys

from cpcctl.demo.scan import PacketFinder

ETH_P_ALL = 3
SOL_PACKET = 263
PACKET_STATISTICS = 6
SO_RCVBUFFORCE = 33
BUFFER = 512 << 20
LARGEST = 256 << 10


def main() -> int:
    """Capture until stdin closes."""
    secret = bytes.fromhex(sys.stdin.readline().strip())
    finder = PacketFinder(secret)
    link = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    try:
        link.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER)
    except PermissionError:
        # Root of a user namespace only: the ordinary limit has to do.
        link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
    link.bind((sys.argv[1], 0))
    link.setblocking(False)
    print("READY", flush=True)
    packets = 0
    buffer = bytearray(LARGEST)
    ended = False
    while True:
        ready, _, _ = select.select([link, sys.stdin] if not ended else [link], [], [], 0.2)
        if sys.stdin in ready and not sys.stdin.readline():
            ended = True
        if link in ready:
            for _ in range(256):
                try:
                    size = link.recv_into(buffer)
                except BlockingIOError:
                    break
                finder.feed(bytes(memoryview(buffer)[:size]))
                packets += 1
        elif ended:
            break
    _, missed = struct.unpack("II", link.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8))
    result = {"bytes": finder.bytes, "packets": packets, "missed": missed, "hits": finder.hits}
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
