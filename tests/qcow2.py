# SPDX-License-Identifier: Apache-2.0
"""Headers of qcow2 images, made field by field."""

from __future__ import annotations

import struct
import time
from pathlib import Path
from typing import Any

from cpcctl.host import find
from cpcctl.host.qmp import Qmp
from tests.patience import patient

BACKING_FORMAT, DATA_FILE = 0xE2792ACA, 0x44415441
CLUSTER_BITS = 16


def extension(kind: int, data: bytes) -> bytes:
    """One header extension, padded."""
    return struct.pack(">II", kind, len(data)) + data.ljust(-(-len(data) // 8) * 8, b"\0")


def header(
    base: str | None = None, base_format: str | None = "qcow2", data_file: str | None = None,
    version: int = 3, features: int = 0,
) -> bytes:
    """The first cluster of an image of 1 MiB; QEMU wants more of one than that."""  # fmt: skip
    more = b""
    if base is not None and base_format is not None:
        more += extension(BACKING_FORMAT, base_format.encode())
    if data_file is not None:
        more += extension(DATA_FILE, data_file.encode())
        features |= 4
    more += extension(0, b"")
    length = 104 if version >= 3 else 72
    name = (base or "").encode()
    head = struct.pack(
        ">4sIQIIQIIQQIIQ", b"QFI\xfb", version, length + len(more) if name else 0, len(name),
        CLUSTER_BITS, 1 << 20, 0, 1, 3 << CLUSTER_BITS, 1 << CLUSTER_BITS, 1, 0, 0,
    )  # fmt: skip
    if version >= 3:
        head += struct.pack(">QQQII", features, 0, 0, 4, length)
    return (head + more + name).ljust(1 << CLUSTER_BITS, b"\0")


def write(path: Path, base: str | None = None, base_format: str | None = "qcow2") -> str:
    """Such an image in a file; its path."""
    path.write_bytes(header(base, base_format))
    return str(path)


def create(built: Any, path: Path, size: int, base: str, base_format: str) -> None:
    """A whole one, by QEMU, with a backing file."""

    def question(qmp: Qmp) -> None:
        file = {"driver": "file", "filename": str(path), "node-name": "file"}
        qmp.execute_raw("blockdev-add", file)
        options = {
            "driver": "qcow2", "file": "file", "size": size,
            "backing-file": base, "backing-fmt": base_format,
        }
        qmp.execute_raw("blockdev-create", {"job-id": "create", "options": options})
        deadline = time.monotonic() + patient(30)
        while True:
            (job,) = qmp.execute("query-jobs")
            if job["status"] == "concluded":
                break
            assert time.monotonic() < deadline, job
            time.sleep(0.01)
        assert "error" not in job, job
        qmp.execute_raw("job-dismiss", {"id": "create"})
        qmp.execute_raw("blockdev-del", {"node-name": "file"})

    path.write_bytes(b"")
    find.ask(built.qemu, built.qemu_data, question)
