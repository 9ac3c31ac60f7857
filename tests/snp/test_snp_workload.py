# SPDX-License-Identifier: Apache-2.0
"""A long workload that verifies itself: stress-ng, as SEV-SNP guest and plain.

Debian's stress-ng, from the demo's guest image, with its own checks on: memory, processor,
caches, files, pipes, system calls that switch contexts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from tests.snp.boot import OBJECTS, Guest, Parts, command

Launch = Callable[[list[str]], Guest]
MINUTES = 10
SHORT_SECONDS = 10
# Two of each at a time, one after the other. All have a --verify of their own.
STRESSORS = (
    "vm", "cpu", "qsort", "matrix", "hash", "pipe", "switch", "futex", "memcpy", "mmap",
    "atomic", "vecmath", "crypt", "shm",
)  # fmt: skip
OPTIONS = "--vm-bytes 96m --mmap-bytes 64m --verify --temp-path /tmp"


def work(guest: Guest, seconds: int) -> None:
    """Run every stressor for its share of the seconds."""
    each = max(1, seconds // len(STRESSORS))
    said = guest.run(
        f"for s in {' '.join(STRESSORS)}; do stress-ng --$s 2 --timeout {each} {OPTIONS} "
        "> /tmp/said 2>&1 && ! grep -i fail: /tmp/said && echo ''verified $s "
        "|| cat /tmp/said; done",
        4.0 * seconds + 300,
    )
    lacking = [name for name in STRESSORS if f"\nverified {name}\n" not in said]
    assert not lacking, f"{lacking}: {said}"


FULL = [pytest.mark.long, pytest.mark.timeout(7200)]


@pytest.mark.parametrize(
    ("platform", "seconds"),
    [
        ("sev-snp", SHORT_SECONDS),
        pytest.param("sev-snp", 60 * MINUTES, marks=FULL),
        pytest.param("plain", 60 * MINUTES, marks=FULL),
    ],
)
def test_stress_ng_verifies(
    parts: Parts, launch: Launch, built: Any, platform: str, seconds: int
) -> None:
    full = replace(parts, initrd=built.guest_initrd)
    guest = launch(command(full, OBJECTS[platform], memory_mib=1024))
    guest.ready()
    work(guest, seconds)
    if platform == "sev-snp":
        seen = guest.query()
        assert (seen["reads-scrambled"], seen["writes-denied"]) == (0, 0)
