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


class Look:
    """A look at the cores, from its making until somebody asks for the outcome."""

    def __init__(self) -> None:
        self._mine = os.sched_getaffinity(0)
        self._before = self._read()
        self._began, self._own = time.monotonic(), time.process_time()

    def idle(self) -> float:
        """How many of them did nothing meanwhile but for this process, which does not go on
        like that. Returns a tenth of a second after the beginning, if that is not over yet."""
        time.sleep(max(0.0, self._began + SAMPLE_SECONDS - time.monotonic()))
        after, passed = self._read(), time.monotonic() - self._began
        if self._before is None or after is None:
            return float(len(self._mine))
        own = (time.process_time() - self._own) / passed
        return min(float(len(self._mine)), between(self._before, after) + own)

    def _read(self) -> tuple[int, int, int] | None:
        try:
            return parse(STAT.read_text(), self._mine)
        except (OSError, ValueError):
            return None


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
