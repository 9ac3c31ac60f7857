# SPDX-License-Identifier: Apache-2.0
"""The firmware image of the fuzzing guest, and what it reports."""

from __future__ import annotations

import re
import struct
from enum import IntEnum

from tests.snp import guest_image
from tests.snp.guest_image import MEMORY


class Mode(IntEnum):
    """What the guest does; enum mode in fuzz.c."""

    RACE = 0  # at random, on two vCPUs
    WILD_VMSA = 1  # and with a second vCPU whose save area is damaged at random
    END_BY_MSR = 2  # nothing but to end itself, with a reason
    END_BY_PAGE = 3
    SPOIL = 4  # changes what nothing may change, and has to notice
    WINDOW = 5  # the memory of the device at 00:02.0 goes, with a save area in use


def image(seed: int, mode: Mode, end: int = 0) -> bytes:
    """A firmware of 64 KiB.

    end: how END_BY_... end themselves: the set in the lowest 4 bits, the code in the next 8.
    Not 0 in WILD_VMSA: the task register may be damaged as well.
    """
    parameters = struct.pack("<QQQ", seed, mode, end)
    return guest_image.image(guest_image.code("fuzz"), {MEMORY["PARAMETERS"]: parameters})


KINDS = ("pages", "msrs", "pvalidates", "rmpadjusts", "touches", "exceptions", "vcpus")
BROKEN = "BAD"


def reported(console: str) -> dict[str, int]:
    """What the guest says it has done, in its last whole report; empty: there is none."""
    lines = re.findall(rf"^((?:[0-9a-f]{{16}} ?){{{len(KINDS)}}})\n", console, re.M)
    if not lines:
        return {}
    return dict(zip(KINDS, (int(word, 16) for word in lines[-1].split()), strict=True))
