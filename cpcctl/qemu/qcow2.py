# SPDX-License-Identifier: Apache-2.0
"""Which other files a qcow2 image names. Strict: what it does not understand it refuses.

QEMU is never left to follow a header, so a mistake here can make an image unusable, but
no other file used. The format is in docs/interop/qcow2.txt of QEMU's source.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass

MAGIC = b"QFI\xfb"
# magic, version, offset and size of the backing file's name, cluster bits, size, encryption
FIRST = struct.Struct(">4sIQIIQI")
# incompatible, compatible and autoclear features, refcount order, length of the header
MORE = struct.Struct(">QQQII")
V2_LENGTH, V3_LENGTH = 72, 104
CLUSTER_BITS = range(9, 22)
NAME_MAX = 1023
DATA_FILE = 1 << 2
# dirty, corrupt, data file, compression type, extended L2 entries
FEATURES = 0x1F
END, BACKING_FORMAT, DATA_FILE_NAME = 0, 0xE2792ACA, 0x44415441


class Malformed(ValueError):
    """No qcow2 image, or one that is not understood; the words follow its name."""


@dataclass(frozen=True)
class Header:
    """backing, data_file: names as the image has them, which may be relative paths.

    backing_format: None when the image does not say.
    """

    backing: str | None = None
    backing_format: str | None = None
    data_file: str | None = None


def read(fd: int) -> Header:
    """The header of an image that is open for reading.

    :raise Malformed: it is not understood. :raise OSError: it cannot be read.
    """
    head = os.pread(fd, V3_LENGTH, 0)
    if len(head) < V2_LENGTH or head[:4] != MAGIC:
        raise Malformed("is not a qcow2 image")
    _, version, offset, size, bits, _, encryption = FIRST.unpack_from(head)
    if version not in (2, 3):
        raise Malformed(f"is a qcow2 image of version {version}, which is not known")
    if bits not in CLUSTER_BITS:
        raise Malformed("has a damaged header")
    if encryption:
        raise Malformed("is encrypted, which is not supported")
    features, length = 0, V2_LENGTH
    if version == 3:
        if len(head) < V3_LENGTH:
            raise Malformed("has a damaged header")
        features, _, _, _, length = MORE.unpack_from(head, V2_LENGTH)
    if features & ~FEATURES:
        raise Malformed("has features that are not known")
    if not (V2_LENGTH if version == 2 else V3_LENGTH) <= length <= 1 << bits or length % 8:
        raise Malformed("has a damaged header")
    cluster = os.pread(fd, 1 << bits, 0)
    backing = _name(cluster, offset, size, length)
    found = _extensions(cluster, length, offset or 1 << bits)
    if features & DATA_FILE and not found.get(DATA_FILE_NAME):
        raise Malformed("keeps its data in another file and does not say which")
    return Header(
        backing,
        _text(found[BACKING_FORMAT]) if BACKING_FORMAT in found else None,
        _text(found[DATA_FILE_NAME]) if features & DATA_FILE else None,
    )


def _name(cluster: bytes, offset: int, size: int, length: int) -> str | None:
    if (offset, size) == (0, 0):
        return None
    if not 1 <= size <= NAME_MAX or not length <= offset <= len(cluster) - size:
        raise Malformed("has a damaged header")
    return _text(cluster[offset : offset + size])


def _extensions(cluster: bytes, at: int, end: int) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    while at < end:
        if at + 8 > min(end, len(cluster)):
            raise Malformed("has a damaged header")
        kind, size = struct.unpack_from(">II", cluster, at)
        at += 8
        if kind == END:
            break
        if size > min(end, len(cluster)) - at or kind in found:
            raise Malformed("has a damaged header")
        found[kind] = cluster[at : at + size]
        at += size + 7 & ~7
    return found


def _text(data: bytes) -> str:
    if b"\0" in data:
        raise Malformed("has a damaged header")
    return data.decode("utf-8", "surrogateescape")
