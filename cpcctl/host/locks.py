# SPDX-License-Identifier: Apache-2.0
"""One byte of a file, locked far behind its end, to tell the file from any copy of it.

Hosts that share a file see each other's locks on it, and QEMU relies on that already: its
own locks keep two hosts from writing to one image. A copy has no lock, on whatever file
system and with whatever inode number. The byte is chosen at random, so that another lock
is not taken for it. The content is not touched.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import secrets
import struct
import sys

# Behind every file and QEMU's own lock bytes, and positive as an off_t.
FIRST, LAST = 1 << 48, 1 << 62
# struct flock of Linux on 64 bits: type, whence, start, length, process
# struct statfs of Linux on 64 bits begins with the kind of file system; linux/magic.h
STATFS_SIZE, NFS_MAGIC = 120, 0x6969
FLOCK = struct.Struct("hhqqi4x")


_libc = ctypes.CDLL(None, use_errno=True)


def hold(fd: int, byte: int) -> None:
    """Lock a byte until the open file is closed; it need not be open for writing.

    Raises OSError: the file system has no locks, or somebody else holds it.
    """
    fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _flock(fcntl.F_RDLCK, byte))


def held(fd: int, byte: int) -> bool:
    """Whether this byte is locked by somebody else, and its neighbours are not.

    Never one that QEMU or another program locks by itself, as any image in use has them.
    Raises OSError: the file system has no locks.
    """
    if not FIRST <= byte < LAST:
        return False
    return [_locked(fd, at) for at in (byte - 1, byte, byte + 1)] == [False, True, False]


def delegates(fd: int) -> bool:
    """Whether a file is on NFS, whose server lends files to its clients."""
    answer = ctypes.create_string_buffer(STATFS_SIZE)
    if _libc.fstatfs(fd, answer) != 0:
        return False
    return int.from_bytes(answer.raw[:8], sys.byteorder) == NFS_MAGIC


def random_byte() -> int:
    """A place for hold()."""
    return FIRST + secrets.randbelow(LAST - FIRST)


def _locked(fd: int, byte: int) -> bool:
    # A lock for writing would meet any other.
    answer = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, _flock(fcntl.F_WRLCK, byte))
    return bool(FLOCK.unpack(answer)[0] != fcntl.F_UNLCK)


def _flock(kind: int, byte: int) -> bytes:
    return FLOCK.pack(kind, os.SEEK_SET, byte, 1, 0)
