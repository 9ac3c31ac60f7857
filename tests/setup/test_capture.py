# SPDX-License-Identifier: Apache-2.0
"""The capture loses nothing, also where this user is root of a user namespace only."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[2]
SIZE, COUNT = 32 << 10, 1000
# Sends everything before it reads the first packet; each is seen going out and coming in.
BURST = f"""
import json, socket, subprocess, sys
from cpcctl.demo import packet_ring
packet_ring.RING_BYTES = int(sys.argv[1])
subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
ring = packet_ring.PacketRing("lo")
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
    for number in range({COUNT}):
        sender.sendto(number.to_bytes(4, "big") + bytes({SIZE - 4}), ("127.0.0.1", 9))
seen = set()
import select
while select.select([ring], [], [], 0.5)[0]:
    while (block := ring.block()) is not None:
        seen |= {{int.from_bytes(p[42:46], "big") for p in block if len(p) == {SIZE} + 42}}
print(json.dumps([len(seen), ring.missed()]))
"""


def burst(ring_bytes: int) -> tuple[int, int]:
    """How many of COUNT packets were seen, and how many were said to be missed."""
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--net", sys.executable, "-c", BURST,
         str(ring_bytes)],
        cwd=TOP, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if "unshare:" in done.stderr:
        pytest.skip(f"this user may not make namespaces: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    seen, missed = json.loads(done.stdout)
    return seen, missed


def test_a_burst_that_fits_into_the_ring() -> None:
    """A socket's own buffer, with net.core.rmem_max, holds some six of them."""
    assert burst(128 << 20) == (COUNT, 0)


def test_what_does_not_fit_is_counted() -> None:
    seen, missed = burst(16 << 20)
    assert 0 < seen < COUNT and missed > 0
