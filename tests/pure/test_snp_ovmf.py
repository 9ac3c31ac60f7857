# SPDX-License-Identifier: Apache-2.0
"""The table at the end of an OVMF image: read, refused, and never a crash."""

from __future__ import annotations

import struct
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cpcctl.snp import ovmf
from cpcctl.snp.ovmf import NoOvmf, Section

SIZE = 16384
OLD = ((0x800000, 0x9000, ovmf.MEMORY), (0x80D000, 0x1000, ovmf.SECRETS), (0x80E000, 4096, 3))
NEW = (*OLD, (0x80F000, 0x1000, ovmf.SVSM_AREA))


def metadata(sections: Iterable[tuple[int, int, int]], count: int | None = None) -> bytes:
    listed = list(sections)
    return struct.pack(
        "<4sIII", b"ASEV", 16 + 12 * len(listed), 1, len(listed) if count is None else count
    ) + b"".join(struct.pack("<III", *section) for section in listed)


def entry(guid: bytes, data: bytes) -> bytes:
    return data + struct.pack("<H16s", len(data) + 18, guid)


def image(blob: bytes, *, entries: bytes | None = None, footer: bytes = ovmf.FOOTER) -> bytes:
    """An image whose metadata is blob, 4096 bytes before its end."""
    if entries is None:
        entries = entry(b"x" * 16, b"of somebody else")
        entries += entry(ovmf.SEV_METADATA, struct.pack("<I", 4096))
        entries += entry(ovmf.RESET_BLOCK, struct.pack("<I", 0x80B004))
    table = entries + struct.pack("<H16s", len(entries) + 18, footer)
    body = bytes(SIZE - 4096) + blob
    return body.ljust(SIZE - 32 - len(table), b"\0") + table + bytes(32)


def test_what_the_processor_prepares() -> None:
    found = ovmf.read(image(metadata(NEW)))
    assert found.ap_entry == 0x80B004
    assert found.sections == tuple(Section(*section) for section in NEW)
    assert found.launch[0] == ((4 << 30) - SIZE, SIZE)
    assert found.launch[1:] == tuple((address, size) for address, size, _ in NEW)
    assert found.recent
    assert not ovmf.read(image(metadata(OLD))).recent


RESET = entry(ovmf.RESET_BLOCK, b"\0\0\0\0")


def pointing(offset: int) -> bytes:
    return image(
        metadata(NEW), entries=entry(ovmf.SEV_METADATA, struct.pack("<I", offset)) + RESET
    )


BROKEN: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "no OVMF"),
    "short": (b"x" * 4096, "no OVMF"),
    "odd": (b"x" * 4097, "4097 bytes is not the size"),
    "huge": (bytes(ovmf.SIZE_MAX + 4096), "is not the size"),
    "seabios": (b"SeaBIOS (version 1.16)".ljust(4096, b"\0"), "it is SeaBIOS"),
    "other": (image(metadata(NEW), footer=b"y" * 16), "no table of GUIDs"),
    "code": (image(metadata(NEW), entries=RESET), "without SEV metadata: too old"),
    "old": (image(metadata(NEW[:1])), "before SEV-SNP: no secrets page"),
    "no-cpuid": (image(metadata(NEW[:2])), "no CPUID page"),
    "outside": (pointing(SIZE + 1), "SEV metadata is outside"),
    "end": (pointing(3), "SEV metadata is outside"),
    "elsewhere": (pointing(8192), "not of version 1"),
    "version": (image(metadata(NEW).replace(b"\1\0\0\0", b"\2\0\0\0", 1)), "not of version 1"),
    "count": (image(metadata(NEW, 5)), "more sections than it holds"),
    "many": (image(metadata(NEW, 1 << 31)), "more sections than it holds"),
    "overlap": (image(metadata([*NEW, (NEW[0][0], 4096, 1)])), "overlap each other"),
    "over-image": (image(metadata([*NEW, ((4 << 30) - 4096, 4096, 1)])), "overlap each other"),
    "too-many": (image(metadata([(0, 4096, 1)] * 32)), "names 32 sections; at most 31"),
    "kind": (image(metadata([*NEW, (0, 4096, 99)])), "unknown kind 0x63"),
    "unaligned": (image(metadata([*NEW, (1, 4096, 1)])), "not made of pages"),
    "no-size": (image(metadata([*NEW, (0, 0, 1)])), "not made of pages"),
    "entry": (image(metadata(NEW), entries=entry(ovmf.SEV_METADATA, b"") + RESET), "too short"),
    "length": (
        image(metadata(NEW), entries=struct.pack("<H16s", 99, b"z" * 16)), "longer than the table"
    ),
    "zero": (
        image(metadata(NEW), entries=struct.pack("<H16s", 0, b"z" * 16)), "longer than the table"
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_refused(name: str) -> None:
    data, words = BROKEN[name]
    with pytest.raises(NoOvmf) as caught:
        ovmf.read(data)
    assert words in str(caught.value)


@given(st.binary(max_size=600), st.integers(0, 1 << 32), st.binary(max_size=200))
@settings(max_examples=300, deadline=None)
def test_any_table_is_read_or_refused(blob: bytes, offset: int, more: bytes) -> None:
    pointer = entry(ovmf.SEV_METADATA, struct.pack("<I", offset % (1 << 32)))
    for data in (blob, image(blob), image(metadata(NEW), entries=more + pointer + RESET)):
        try:
            found = ovmf.read(data)
        except NoOvmf:
            continue
        assert found.sections


@given(st.lists(st.tuples(st.integers(0, SIZE - 1), st.integers(0, 255)), min_size=1, max_size=8))
@settings(max_examples=300, deadline=None)
def test_a_damaged_image_is_read_or_refused(changes: list[tuple[int, int]]) -> None:
    data = bytearray(image(metadata(NEW)))
    for at, value in changes:
        # Nearly all of the image is nothing; what counts is near its metadata and its end.
        data[SIZE - 4096 + at % 80 if at % 2 else SIZE - 1 - at % 140] = value
    try:
        found = ovmf.read(bytes(data))
    except NoOvmf:
        return
    assert all(section.size <= ovmf.SIZE_MAX for section in found.sections)
