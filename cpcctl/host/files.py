# SPDX-License-Identifier: Apache-2.0
"""Files that an operator names: looked at before they are opened.

Opening or reading a FIFO or a terminal waits for somebody, perhaps for ever, and opening
some devices does something.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}


class NotPlain(OSError):
    """There is something else than a plain file."""


class FileTooLarge(OSError):
    """A file has more in it than it can have rightly."""


def other_kind(path: Path) -> str:
    """"" for a plain file, else what it is. Follows symbolic links. Raises OSError."""
    return _kind(path.stat())


def open_plain(path: Path) -> BinaryIO:
    """Open a file to read. Raises OSError, NotPlain among them."""
    _refuse(path, path.stat())
    # It may be another one by now: opened so that a FIFO does not wait, and looked at again.
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    file = open(fd, "rb")  # noqa: SIM115 - handed out
    try:
        _refuse(path, os.fstat(fd))
    except NotPlain:
        file.close()
        raise
    return file


def read_all(path: Path, limit: int) -> bytes:
    """A plain file of at most limit bytes. Raises OSError, FileTooLarge among them."""
    with open_plain(path) as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise FileTooLarge(errno.EFBIG, f"it is larger than {limit} bytes", str(path))
    return data


def read_end(path: Path, limit: int) -> bytes:
    """The last bytes of a plain file, at most limit of them. Raises OSError."""
    with open_plain(path) as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - limit))
        return file.read(limit)


def open_regular(path: str, writes: bool, handle: int | None = None) -> int:
    """A descriptor of a plain file, to read and, if asked for, to write.

    It is looked at before it is opened: opening some devices does something.
    handle: of that path, made with O_PATH; it is closed.
    Raises OSError, NotPlain among them.
    """
    if handle is None:
        handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        _refuse(Path(path), os.fstat(handle))
        mode = os.O_RDWR if writes else os.O_RDONLY
        try:
            return os.open(f"/proc/self/fd/{handle}", mode | os.O_CLOEXEC)
        except OSError as error:
            error.filename = path
            raise
    finally:
        os.close(handle)


def _kind(found: os.stat_result) -> str:
    return KINDS.get(stat.S_IFMT(found.st_mode), "")


def _refuse(path: Path, found: os.stat_result) -> None:
    kind = _kind(found)
    if kind:
        raise NotPlain(errno.EINVAL, f"it is {kind} and not a plain file", str(path))
