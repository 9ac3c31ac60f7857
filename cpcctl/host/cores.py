# SPDX-License-Identifier: Apache-2.0
"""The cores that this process may use, how many of them are idle, and whose they are."""

from __future__ import annotations

import os
import time
from pathlib import Path

STAT = Path("/proc/stat")
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
# Time is counted in ticks of 10 ms a core.
SAMPLE_SECONDS = 0.1
IDLE, IOWAIT = 3, 4


def machine() -> str:
    """The same for all processes of one running kernel, "" where it does not say."""
    try:
        return BOOT_ID.read_text().strip()
    except OSError:
        return ""


def count() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0))


def idle() -> float:
    """How many of them did nothing during a tenth of a second. Takes that long."""
    mine = os.sched_getaffinity(0)
    try:
        before = parse(STAT.read_text(), mine)
        time.sleep(SAMPLE_SECONDS)
        after = parse(STAT.read_text(), mine)
    except (OSError, ValueError):
        return float(len(mine))
    return between(before, after)


def parse(text: str, cores: set[int]) -> tuple[int, int, int]:
    """Idle ticks, all ticks, and how many of these cores /proc/stat has. Raises ValueError."""
    idle = total = found = 0
    for line in text.splitlines():
        name, *fields = line.split()
        if name.startswith("cpu") and name[3:].isdigit() and int(name[3:]) in cores:
            ticks = [int(field) for field in fields[:8]]  # guests' are in user's already
            idle += ticks[IDLE] + ticks[IOWAIT]
            total += sum(ticks)
            found += 1
    return idle, total, found


def between(before: tuple[int, int, int], after: tuple[int, int, int]) -> float:
    """Idle cores between two of them."""
    total = after[1] - before[1]
    share = (after[0] - before[0]) / total if total > 0 else 1.0
    return after[2] * min(1.0, max(0.0, share))
