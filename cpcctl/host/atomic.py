# SPDX-License-Identifier: Apache-2.0
"""Files of our own, written: never through a link, and never into a file that was there."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

OURS = os.O_NOFOLLOW | os.O_CLOEXEC


def create(path: Path) -> int:
    """A descriptor to write a file that is new, mode 0600. :raise OSError: it exists."""
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | OURS, 0o600)


def append(path: Path) -> int:
    """A descriptor at the end of a file, made with mode 0600. :raise OSError:"""
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | OURS, 0o600)


def update(path: Path) -> int:
    """A descriptor to read and write a file, made with mode 0600. :raise OSError:"""
    return os.open(path, os.O_RDWR | os.O_CREAT | OURS, 0o600)


def write_new(path: Path, data: bytes, *, durable: bool = True) -> None:
    """A new file with that content; durable: on the disk. :raise OSError: nothing is left of it."""
    fd = create(path)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
        if durable:
            os.fsync(fd)
    except OSError:
        with contextlib.suppress(OSError):
            path.unlink()
        raise
    finally:
        os.close(fd)


def write_atomic(path: Path, data: bytes, *, durable: bool = True) -> None:
    """Write so that a reader sees the old content or the new; durable: also after a
    crash of this host. Raises OSError and leaves the old content."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.new")
    # Of a process that had our number and died while it wrote.
    temporary.unlink(missing_ok=True)
    write_new(temporary, data, durable=durable)
    try:
        temporary.rename(path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    if not durable:
        return
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
