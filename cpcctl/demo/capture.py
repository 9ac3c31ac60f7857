# SPDX-License-Identifier: Apache-2.0
"""Captures everything that crosses one network device and looks for a secret.

    python -m cpcctl.demo.capture DEVICE        the secret comes on stdin, in hex

Says READY, captures until stdin closes, then prints one JSON object: bytes,
packets, missed (packets that the kernel had no room for), hits.
"""

from __future__ import annotations

import json
import select
import sys

from cpcctl.demo.packet_ring import PacketRing
from cpcctl.demo.scan import PacketFinder

# So long without a packet after the end of stdin, and none is under way.
QUIET_SECONDS = 0.3


def main() -> int:
    """Capture until stdin closes."""
    secret = bytes.fromhex(sys.stdin.readline().strip())
    finder = PacketFinder(secret)
    ring = PacketRing(sys.argv[1])
    print("READY", flush=True)
    packets = 0
    ended = False
    while True:
        if (block := ring.block()) is not None:
            for packet in block:
                finder.feed(bytes(packet))
                packets += 1
            continue
        waited = [ring] if ended else [ring, sys.stdin]
        ready, _, _ = select.select(waited, [], [], QUIET_SECONDS)
        if sys.stdin in ready and not sys.stdin.readline():
            ended = True
        elif ended and not ready:
            break
    result = {
        "bytes": finder.bytes, "packets": packets, "missed": ring.missed(), "hits": finder.hits,
    }  # fmt: skip
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
