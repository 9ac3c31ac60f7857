# SPDX-License-Identifier: Apache-2.0
"""Proof that a process is gone: a lock that it and all its children inherited.

A number in a file says little: the file may be lost or old. A lock on an open file
lives exactly as long as somebody has that file open, so a lock that is free is proof
that nobody who inherited it lives, and one that is held is proof of the contrary. The
lock is asked about, never taken: two who ask at once do not see each other.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import struct
from collections.abc import Iterator
from pathlib import Path

from cpcctl.host import atomic

# struct flock of Linux on 64 bits: type, whence, start, length (0: the whole file), process
_FLOCK = struct.Struct("hhqqi4x")
_WHOLE = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)


@contextlib.contextmanager
def lock(path: Path) -> Iterator[int]:
    """The descriptor to hand to a child; the lock lives on in it when this is left.

    :raise BlockingIOError: somebody who inherited it lives. :raise OSError: no file.
    """
    fd = atomic.update(path)
    try:
        try:
            fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _WHOLE)
        except PermissionError as error:  # the other number that POSIX allows for it
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN), str(path)) from error
        yield fd
    finally:
        os.close(fd)


def held(path: Path) -> bool | None:
    """Whether somebody who inherited the lock lives; None when there is no such file.

    :raise OSError: it cannot be opened.
    """
    try:
        fd = os.open(path, os.O_RDONLY | atomic.OURS)
    except FileNotFoundError:
        return None
    try:
        answer = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, _WHOLE)
    finally:
        os.close(fd)
    return bool(_FLOCK.unpack(answer)[0] != fcntl.F_UNLCK)
