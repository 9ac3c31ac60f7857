# SPDX-License-Identifier: Apache-2.0
"""How many data streams a migration uses when nobody says. Pure.

A stream keeps an hvCPU busy on each side, and half a core more with pumps, QEMU
and the controller. More streams than cores are slower than one: they wait for
each other, and the guest waits for them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from cpcctl.ui.check import Check

CORES_A_STREAM = 1.5


@dataclass(frozen=True)
class Room:
    """What one side has. free: cores that are idle now. machine: the same on both
    sides when they share their cores; "" where nobody knows."""

    hvcpus: int
    cores: int
    free: float
    machine: str


@dataclass(frozen=True)
class Parallel:
    """streams, and why so many, for the report."""

    streams: int
    why: str


def check(host: str, name: str, hvcpus: int, wanted: int) -> Check:
    """--parallel can be honoured."""
    return Check.of(
        host, "parallel", wanted <= hvcpus,
        f"--parallel is {wanted}, and VM {name} has {hvcpus} hvCPU{'' if hvcpus == 1 else 's'}",
        f"cpcctl hvcpu add {name} --count {wanted - hvcpus}",
    )  # fmt: skip


def choose(here: Room, there: Room, wanted: int = 0) -> Parallel:
    """Streams for one migration, at least one. wanted: by --parallel, 0 for nobody's wish."""
    most = min(here.hvcpus, there.hvcpus)
    if wanted:
        return Parallel(min(wanted, most), f"--parallel {wanted}")
    if most == 1:
        return Parallel(1, "both sides have one hvCPU" if here.hvcpus == there.hvcpus
                        else "one side has one hvCPU")  # fmt: skip
    if here.machine and here.machine == there.machine:
        free = min(here.free, there.free)
        fitting = math.floor(free / (2 * CORES_A_STREAM))
        words = f"both sides share {here.cores} cores, {free:.1f} of them idle"
    else:
        fitting = math.floor(min(here.free, there.free) / CORES_A_STREAM)
        words = (
            f"{here.free:.1f} of {here.cores} cores idle here, "
            f"{there.free:.1f} of {there.cores} there"
        )
    streams = max(1, min(most, fitting))
    return Parallel(streams, f"{streams} of {most} hvCPUs: {words}")
