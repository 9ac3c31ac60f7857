# SPDX-License-Identifier: Apache-2.0
"""Which other files a qcow2 image makes QEMU open: its base, and the base's."""

from __future__ import annotations

import os
import stat
import struct

MAGIC = b"QFI\xfb"
HEADER = 80
DATA_FILE = 1 << 2  # incompatible feature: the data is in another file
NAME_MAX = 1023
CHAIN_MAX = 16


def base(path: str) -> str | None:
    """The file that an image names as its base; None when it has none.

    :raise OSError: it cannot be read. :raise ValueError: it names something
    that is no plain file, or keeps its data elsewhere.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        kind = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(kind) and not stat.S_ISBLK(kind):
            raise ValueError("is no file")
        head = os.pread(descriptor, HEADER, 0)
        if head[:4] != MAGIC or len(head) < HEADER:
            return None
        version, offset, size = struct.unpack(">IQI", head[4:20])
        features = struct.unpack(">Q", head[72:80])[0] if version >= 3 else 0
        if features & DATA_FILE:
            raise ValueError("keeps its data in another file")
        if offset == 0 or size == 0:
            return None
        if size > NAME_MAX or offset > 1 << 21:
            raise ValueError("has a damaged header")
        name = os.pread(descriptor, size, offset).decode("utf-8", "surrogateescape")
    finally:
        os.close(descriptor)
    if ":" in name.split("/")[0] or "\0" in name:
        raise ValueError("has a base that is no plain file")
    return os.path.join(os.path.dirname(path), name)
