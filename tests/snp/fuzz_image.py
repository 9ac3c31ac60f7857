# SPDX-License-Identifier: Apache-2.0
"""The firmware image of the fuzzing guest: code, the metadata a launch needs, parameters.

64 KiB below 4 GiB, as OVMF's: a table of GUIDs before the reset vector leads to the
list of pages that are validated, and to where the secrets and CPUID pages go.
"""

from __future__ import annotations

import re
import struct
import subprocess
import uuid
from enum import IntEnum
from pathlib import Path

from cpcctl.setup import store

HERE = Path(__file__).parent / "fuzz_guest"
SIZE = 0x10000
METADATA, PARAMETERS, RESET = 0xE000, 0xF000, 0xFFF0
FLAGS = [
    "-ffreestanding", "-fpie", "-O2", "-mno-red-zone", "-mgeneral-regs-only",
    "-fno-jump-tables", "-fno-stack-protector", "-fcf-protection=none",
    "-fno-asynchronous-unwind-tables", "-fno-builtin", "-Wall", "-Wextra", "-Werror",
]  # fmt: skip
VALIDATED, SECRETS, CPUID = 1, 2, 3
# Start, length and kind; see memory.h.
PAGES = [
    (0x1000, 0x9F000, VALIDATED),
    (0x100000, 0x100000, VALIDATED),
    (0x200000, 0x1000, SECRETS),
    (0x201000, 0x1000, CPUID),
    (0x300000, 0x1000, VALIDATED),
]
FOOTER = "96b582de-1fb2-45f7-baea-a366c55a082d"
METADATA_GUID = "dc886566-984a-4798-a75e-5585a7bf67cc"
RESET_BLOCK = "00f771de-1a7e-4fcb-890e-68c77e2fb44e"


class Mode(IntEnum):
    """What the guest does; enum mode in fuzz.c."""

    RACE = 0  # at random, on two vCPUs
    WILD_VMSA = 1  # and with a second vCPU whose save area is damaged at random
    END_BY_MSR = 2  # nothing but to end itself, with a reason
    END_BY_PAGE = 3
    SPOIL = 4  # changes what nothing may change, and has to notice
    WINDOW = 5  # the memory of the device at 00:02.0 goes, with a save area in use


def _run(*argv: str) -> None:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{argv[0]}: {done.stderr}"


def code() -> bytes:
    """The guest, compiled once and kept in the store."""
    sources = sorted(p for p in HERE.iterdir() if p.is_file())

    def build(folder: Path) -> None:
        for name in ("start.S", "fuzz.c"):
            _run("gcc", *FLAGS, "-c", "-o", str(folder / f"{name}.o"), str(HERE / name))
        objects = [str(folder / f"{name}.o") for name in ("start.S", "fuzz.c")]
        _run("ld", "-T", str(HERE / "fuzz.ld"), "--no-warn-rwx-segments",
             "-o", str(folder / "elf"), *objects)  # fmt: skip
        _run("objcopy", "-O", "binary", str(folder / "elf"), str(folder / "code"))

    return (store.provide("test-fuzz", store.key(FLAGS, sources), build) / "code").read_bytes()


def _entry(data: bytes, guid: str) -> bytes:
    """Of the table, which is read from its end: data, length, GUID."""
    return data + struct.pack("<H", len(data) + 18) + uuid.UUID(guid).bytes_le


def image(seed: int, mode: Mode, end: int = 0) -> bytes:
    """A firmware of 64 KiB.

    end: how END_BY_... end themselves: the set in the lowest 4 bits, the code in the next 8.
    Not 0 in WILD_VMSA: the task register may be damaged as well.
    """
    text = code()
    assert len(text) <= METADATA
    out = bytearray(SIZE)
    out[: len(text)] = text
    pages = b"".join(struct.pack("<III", *page) for page in PAGES)
    metadata = b"ASEV" + struct.pack("<III", 16 + len(pages), 1, len(PAGES)) + pages
    out[METADATA : METADATA + len(metadata)] = metadata
    out[PARAMETERS : PARAMETERS + 24] = struct.pack("<QQQ", seed, mode, end)
    table = _entry(struct.pack("<I", SIZE - METADATA), METADATA_GUID)
    table += _entry(struct.pack("<I", 0xFFFF0000 + RESET), RESET_BLOCK)
    table = _entry(table, FOOTER)
    out[SIZE - 0x20 - len(table) : SIZE - 0x20] = table
    out[RESET : RESET + 3] = b"\xe9" + struct.pack("<H", SIZE - RESET - 3)
    return bytes(out)


def arguments(qemu: Path, qemu_data: Path, firmware: Path) -> list[str]:
    """QEMU's command line of such a guest, with 64 MiB."""
    return [
        str(qemu), "-L", str(qemu_data), "-accel", "tcg,thread=multi", "-cpu", "EPYC",
        "-machine", "q35,confidential-guest-support=sev0",
        "-object", "sev-snp-guest,id=sev0,cbitpos=51,reduced-phys-bits=1",
        "-bios", str(firmware), "-m", "64M", "-smp", "2", "-nodefaults",
        "-display", "none", "-no-reboot",
    ]  # fmt: skip


KINDS = ("pages", "msrs", "pvalidates", "rmpadjusts", "touches", "exceptions", "vcpus")
BROKEN = "BAD"


def reported(console: str) -> dict[str, int]:
    """What the guest says it has done, in its last whole report; empty: there is none."""
    lines = re.findall(rf"^((?:[0-9a-f]{{16}} ?){{{len(KINDS)}}})\n", console, re.M)
    if not lines:
        return {}
    return dict(zip(KINDS, (int(word, 16) for word in lines[-1].split()), strict=True))
