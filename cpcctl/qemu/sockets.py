# SPDX-License-Identifier: Apache-2.0
"""UNIX sockets that a QEMU inherits, so that it needs no right in the folder they are in."""

from __future__ import annotations

import fcntl
import os
import resource
import socket
from pathlib import Path

from cpcctl.qemu.sandbox import FILES_MAX


def listening(path: Path) -> int:
    """The descriptor of a socket that listens at path. Raises OSError.

    What the socket takes for its own name leads nowhere in QEMU, which has no
    descriptor of that number: it removes the file of that name when it ends, and says so
    in its log when it may not.
    """
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        high = fcntl.fcntl(folder, fcntl.F_DUPFD_CLOEXEC, _highest())
    finally:
        os.close(folder)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
            server.bind(f"/proc/self/fd/{high}/{path.name}")
            server.listen(1)
            return server.detach()
    finally:
        os.close(high)


def _highest() -> int:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return FILES_MAX if soft == resource.RLIM_INFINITY or soft > FILES_MAX else soft - 1
