# SPDX-License-Identifier: Apache-2.0
"""What an OVMF image says of itself: the table at its end. Pure.

The last 32 bytes are the reset vector. The table before them is read from its
end to its start: each entry is data, its length with this header (16 bits),
and a GUID. One entry points to the SEV metadata: which pages the processor
prepares before the firmware's first instruction.
"""

from __future__ import annotations

import struct
import uuid
from dataclasses import dataclass

from cpcctl import abi

RESET_VECTOR = 32
HEADER = struct.Struct("<H16s")
OFFSET = struct.Struct("<I")
METADATA = struct.Struct("<4sIII")
SECTION = struct.Struct("<III")
FOOTER = uuid.UUID("96b582de-1fb2-45f7-baea-a366c55a082d").bytes_le
RESET_BLOCK = uuid.UUID("00f771de-1a7e-4fcb-890e-68c77e2fb44e").bytes_le
SEV_METADATA = uuid.UUID("dc886566-984a-4798-a75e-5585a7bf67cc").bytes_le
MEMORY, SECRETS, CPUID, SVSM_AREA, KERNEL_HASHES = 1, 2, 3, 4, 0x10
KNOWN = frozenset({MEMORY, SECRETS, CPUID, SVSM_AREA, KERNEL_HASHES})
PAGE = 4096
# One range is the image itself.
SECTIONS_MAX = abi.SNP_LAUNCH - 1
# It is mapped below 4 GiB, where devices need room too.
SIZE_MAX = 64 << 20


class NoOvmf(ValueError):
    """The image is not OVMF, or not sound; the message says why."""


@dataclass(frozen=True)
class Section:
    """Pages prepared by the processor: address and size in bytes, kind as above."""

    address: int
    size: int
    kind: int


@dataclass(frozen=True)
class Ovmf:
    """An image that SEV-SNP can start.

    size:     of the image in bytes; it ends at 4 GiB
    ap_entry: where vCPUs but the first begin
    """

    size: int
    ap_entry: int
    sections: tuple[Section, ...]

    @property
    def launch(self) -> tuple[tuple[int, int], ...]:
        """What the launch validates for it: addresses and sizes in bytes, the image first."""
        own = (4 << 30) - self.size, self.size
        return own, *((section.address, section.size) for section in self.sections)

    @property
    def recent(self) -> bool:
        """True for edk2 of 2024.05 or later, which first had this section."""
        return any(section.kind == SVSM_AREA for section in self.sections)


def read(data: bytes) -> Ovmf:
    """Parse an image of untrusted origin. Raises NoOvmf, and nothing else."""
    if len(data) > SIZE_MAX or len(data) % PAGE:
        raise NoOvmf(f"{len(data)} bytes is not the size of an OVMF image")
    table = _table(data)
    if SEV_METADATA not in table or RESET_BLOCK not in table:
        raise NoOvmf("it is an OVMF without SEV metadata: too old, or only a part of the image")
    entry = _number(table[RESET_BLOCK], "reset block")
    found = Ovmf(len(data), entry, _sections(data, _number(table[SEV_METADATA], "SEV metadata")))
    ends = 0
    for at, size in sorted(found.launch):
        if at < ends:
            raise NoOvmf("sections of its SEV metadata overlap each other or the image")
        ends = at + size
    kinds = {section.kind for section in found.sections}
    for kind, name in ((MEMORY, "memory"), (SECRETS, "secrets"), (CPUID, "CPUID")):
        if kind not in kinds:
            raise NoOvmf(f"its SEV metadata is of an OVMF before SEV-SNP: no {name} page")
    return found


def _table(data: bytes) -> dict[bytes, bytes]:
    end = len(data) - RESET_VECTOR - HEADER.size
    size, guid = HEADER.unpack_from(data, end) if end >= 0 else (0, b"")
    if guid != FOOTER:
        kind = "SeaBIOS" if b"SeaBIOS" in data else "no OVMF: it has no table of GUIDs at its end"
        raise NoOvmf(f"it is {kind}")
    left = size - HEADER.size
    if not 0 <= left <= end:
        raise NoOvmf("its table of GUIDs is longer than the image")
    found: dict[bytes, bytes] = {}
    while left >= HEADER.size:
        size, guid = HEADER.unpack_from(data, end - HEADER.size)
        if not HEADER.size <= size <= left:
            raise NoOvmf("an entry of its table of GUIDs is longer than the table")
        found[guid] = data[end - size : end - HEADER.size]
        end, left = end - size, left - size
    return found


def _number(entry: bytes, name: str) -> int:
    if len(entry) < OFFSET.size:
        raise NoOvmf(f"its {name} entry is too short")
    return int(OFFSET.unpack_from(entry)[0])


def _sections(data: bytes, from_end: int) -> tuple[Section, ...]:
    start = len(data) - from_end
    if not 0 <= start <= len(data) - METADATA.size:
        raise NoOvmf("its SEV metadata is outside the image")
    magic, size, version, count = METADATA.unpack_from(data, start)
    if magic != b"ASEV" or version != 1:
        raise NoOvmf("its SEV metadata is not of version 1")
    need = METADATA.size + count * SECTION.size
    if size < need or start + need > len(data):
        raise NoOvmf("its SEV metadata names more sections than it holds")
    if count > SECTIONS_MAX:
        raise NoOvmf(f"its SEV metadata names {count} sections; at most {SECTIONS_MAX} can be used")
    found = []
    for number in range(count):
        at = start + METADATA.size + number * SECTION.size
        section = Section(*SECTION.unpack_from(data, at))
        if section.kind not in KNOWN:
            raise NoOvmf(f"its SEV metadata has a section of unknown kind {section.kind:#x}")
        if section.address % PAGE or section.size % PAGE or not 0 < section.size <= SIZE_MAX:
            raise NoOvmf("a section of its SEV metadata is not made of pages")
        found.append(section)
    return tuple(found)
