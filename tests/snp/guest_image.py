# SPDX-License-Identifier: Apache-2.0
"""Firmware images that are the guest: code, and the metadata that a launch needs.

64 KiB below 4 GiB, as OVMF's: a table of GUIDs before the reset vector leads to the
list of pages that are validated, and to where the secrets and CPUID pages go. The
programs are in fuzz_guest.
"""

from __future__ import annotations

import re
import struct
import subprocess
import uuid
from collections.abc import Mapping
from pathlib import Path

from cpcctl.setup import store
from cpcctl.snp.definition import DEFAULT_CPU

HERE = Path(__file__).parent / "fuzz_guest"
# What the programs say of where things are.
MEMORY = {
    name: int(value, 16)
    for name, value in re.findall(
        r"^#define (\w+) +(0x[0-9a-f]+)", (HERE / "memory.h").read_text(), re.M
    )
}
SIZE = 0x10000
BASE = 0xFFFF0000
METADATA, RESET = 0xE000, 0xFFF0
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


def _run(*argv: str) -> None:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{argv[0]}: {done.stderr}"


def code(program: str, *more: str) -> bytes:
    """A program, compiled once and kept in the store. more: sources besides program.c."""
    names = ["start.S", "guest.c", f"{program}.c", *more]
    sources = sorted(p for p in HERE.iterdir() if p.is_file())

    def build(folder: Path) -> None:
        for name in names:
            _run("gcc", *FLAGS, "-c", "-o", str(folder / f"{name}.o"), str(HERE / name))
        objects = [str(folder / f"{name}.o") for name in names]
        _run("ld", "-T", str(HERE / "guest.ld"), "--no-warn-rwx-segments",
             "-o", str(folder / "elf"), *objects)  # fmt: skip
        _run("objcopy", "-O", "binary", str(folder / "elf"), str(folder / "code"))

    built = store.provide(f"test-{program}", store.key([*FLAGS, *names], sources), build)
    return (built / "code").read_bytes()


def _entry(data: bytes, guid: str) -> bytes:
    """Of the table, which is read from its end: data, length, GUID."""
    return data + struct.pack("<H", len(data) + 18) + uuid.UUID(guid).bytes_le


def image(text: bytes, data: Mapping[int, bytes]) -> bytes:
    """A firmware of 64 KiB. data: what else is where in the guest's memory."""
    out = bytearray(SIZE)
    pages = b"".join(struct.pack("<III", *page) for page in PAGES)
    metadata = b"ASEV" + struct.pack("<III", 16 + len(pages), 1, len(PAGES)) + pages
    table = _entry(struct.pack("<I", SIZE - METADATA), METADATA_GUID)
    table += _entry(struct.pack("<I", BASE + RESET), RESET_BLOCK)
    table = _entry(table, FOOTER)
    parts = {
        0: text,
        METADATA: metadata,
        SIZE - 0x20 - len(table): table,
        RESET: b"\xe9" + struct.pack("<H", SIZE - RESET - 3),
        **{where - BASE: part for where, part in data.items()},
    }
    end = 0
    for where, part in sorted(parts.items()):
        assert where >= end, f"no room before {where:#x}"
        end = where + len(part)
        out[where:end] = part
    return bytes(out)


def arguments(qemu: Path, qemu_data: Path, firmware: Path) -> list[str]:
    """QEMU's command line of such a guest, with 64 MiB."""
    return [
        str(qemu), "-L", str(qemu_data), "-accel", "tcg,thread=multi", "-cpu", DEFAULT_CPU,
        "-machine", "q35,confidential-guest-support=sev0",
        "-object", "sev-snp-guest,id=sev0,cbitpos=51,reduced-phys-bits=1",
        "-bios", str(firmware), "-m", "64M", "-smp", "2", "-nodefaults",
        "-display", "none", "-no-reboot",
    ]  # fmt: skip
