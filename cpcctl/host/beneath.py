# SPDX-License-Identifier: Apache-2.0
"""Opens files below folders, and nothing that a link or a rename leads to outside them."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Iterable

from cpcctl.host.files import open_regular

# The same on every architecture since Linux 5.6; man 2 openat2.
SYS_OPENAT2 = 437
RESOLVE_NO_SYMLINKS, RESOLVE_BENEATH = 0x04, 0x08

_libc = ctypes.CDLL(None, use_errno=True)


class _OpenHow(ctypes.Structure):
    _fields_ = (
        ("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64),
    )  # fmt: skip


class Outside(OSError):
    """The path leads out of every folder."""


def open_beneath(path: str, writes: bool, folders: Iterable[str]) -> int:
    """A descriptor of a plain file below one of these folders.

    Links are followed where they lead into one of them. What is opened then is opened
    from the folder on without following any, so that nothing that changes meanwhile
    leads elsewhere. Raises OSError: Outside, files.NotPlain, what the kernel says, or
    ENOSYS where it has no openat2.
    """
    real = os.path.realpath(path)
    for folder in map(os.path.realpath, folders):
        inside = os.path.relpath(real, folder)
        if inside == "." or inside.split("/")[0] == "..":
            continue
        top = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            handle = _openat2(top, inside, path)
        finally:
            os.close(top)
        return open_regular(path, writes, handle)
    raise Outside(errno.EXDEV, "it is not below a folder that this host's operator allows", path)


def _openat2(top: int, inside: str, path: str) -> int:
    how = _OpenHow(os.O_PATH | os.O_CLOEXEC, 0, RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS)
    fd = _libc.syscall(
        SYS_OPENAT2, top, os.fsencode(inside), ctypes.byref(how), ctypes.sizeof(how)
    )
    if fd >= 0:
        return int(fd)
    code = ctypes.get_errno()
    words = "this kernel has no openat2" if code == errno.ENOSYS else os.strerror(code)
    raise OSError(code, words, path)
