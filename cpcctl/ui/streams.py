# SPDX-License-Identifier: Apache-2.0
"""Standard streams that may be closed, full, or gone: none of that stops any work."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from typing import TextIO


def prepare() -> None:
    """Open what the caller closed (`2>&-`), and let no character be unprintable.

    A file or socket of ours would have the free number otherwise, and be written to
    by whoever takes it for stderr.
    """
    for fd, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
        if getattr(sys, name) is None:
            setattr(sys, name, open(fd, "w" if fd else "r", closefd=False))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


class Quiet(io.TextIOBase):
    """A stream that takes everything, and passes on what the one behind it takes."""

    def __init__(self, behind: TextIO) -> None:
        self._behind = behind

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """That of the one behind it."""
        return self._behind.encoding

    def write(self, text: str) -> int:
        """All of it, whatever becomes of it."""
        with contextlib.suppress(OSError):
            self._behind.write(text)
        return len(text)

    def flush(self) -> None:
        """As far as that can be done."""
        with contextlib.suppress(OSError):
            self._behind.flush()

    def isatty(self) -> bool:
        """As the one behind it."""
        return self._behind.isatty()

    def fileno(self) -> int:
        """As the one behind it. :raise OSError: it has none."""
        return self._behind.fileno()
