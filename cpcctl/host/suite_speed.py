# SPDX-License-Identifier: Apache-2.0
"""How fast an hvCPU seals and opens with each cipher suite: a hint, measured once.

The firmware seals or opens records and the time is taken here. It has no clock
that could do better: TCG's time-stamp counter stands still while gvCPUs are
stopped, which is a destination's state until it has everything, and elsewhere
the host sets the counter's rate. A host that lies about it slows itself down.
"""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Callable
from pathlib import Path

from cpcctl import abi
from cpcctl.abi_status import SUITE_NAMES
from cpcctl.host import atomic
from cpcctl.host.firmware import Hvcpu
from cpcctl.host.shm import CallError

# Beside this, waking an hvCPU and finding its answer is little.
ENOUGH_SECONDS = 0.008
NAMES = {abi.SPEED_SEAL: "seal", abi.SPEED_OPEN: "open"}

Speeds = dict[int, float]


def measure(
    hvcpu: Hvcpu, direction: int, clock: Callable[[], float] = time.monotonic
) -> Speeds:
    """Bytes a second of every suite whose known answers matched, by abi.SUITE_*.

    direction: abi.SPEED_*. Empty with a firmware that does not know the call.
    Some 10 ms a suite. Raises what Hvcpu.call raises when the hvCPU is gone.
    """
    found = {}
    for suite in SUITE_NAMES:
        with contextlib.suppress(CallError):
            found[suite] = _one(hvcpu, suite, direction, clock)
    return found


def _one(hvcpu: Hvcpu, suite: int, direction: int, clock: Callable[[], float]) -> float:
    """The best of some runs, each longer than the one before until it is enough."""
    # The first one counts for nothing: an emulator translates the code in it.
    begin = clock()
    hvcpu.call(abi.OP_SPEED, (suite, direction, 1))
    slow = clock() - begin >= ENOUGH_SECONDS
    records, best = 1, 0.0
    while True:
        begin = clock()
        hvcpu.call(abi.OP_SPEED, (suite, direction, records))
        seconds = max(clock() - begin, 1e-6)
        best = max(best, records * abi.RUN_BYTES / seconds)
        # One record alone may have been slow because something else ran.
        enough = seconds >= ENOUGH_SECONDS and (slow or records > 1)
        if enough or records == abi.SPEED_RECORDS_MAX:
            return best
        wanted = records * min(16.0, max(2.0, 1.2 * ENOUGH_SECONDS / seconds))
        records = min(abi.SPEED_RECORDS_MAX, int(wanted))


def remembered(path: Path, hvcpu: Hvcpu, direction: int) -> Speeds:
    """What `path` has of this direction, else a measurement, which it then has.

    path: a file that goes with the VM's QEMU, and so with the firmware's life.
    """
    known = _read(path)
    name = NAMES[direction]
    if name not in known:
        found = measure(hvcpu, direction)
        known[name] = {str(suite): speed for suite, speed in found.items()}
        # What cannot be kept is measured again.
        with contextlib.suppress(OSError):
            atomic.write_atomic(path, json.dumps(known).encode())
    return read(known[name])


def shown(path: Path, hvcpu: Hvcpu) -> dict[str, dict[str, float]]:
    """Both directions by the suite's name, for people: {"aegis-128l": {"seal": 1e9, ...}}."""
    both = {name: remembered(path, hvcpu, number) for number, name in NAMES.items()}
    return {
        title: {name: round(speeds[suite]) for name, speeds in both.items()}
        for suite, title in SUITE_NAMES.items()
        if all(suite in speeds for speeds in both.values())
    }


def text(speed: float) -> str:
    """"812 MB/s"."""
    return f"{speed / 1e6:.0f} MB/s"


def read(document: object) -> Speeds:
    """Speeds from a file or from the other host; whatever is no speed is left out."""
    found: Speeds = {}
    for suite in SUITE_NAMES:
        speed = document.get(str(suite)) if isinstance(document, dict) else None
        if isinstance(speed, (int, float)) and 0 < speed < math.inf:
            found[suite] = float(speed)
    return found


def _read(path: Path) -> dict[str, object]:
    try:
        known = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}
