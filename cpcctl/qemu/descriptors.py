# SPDX-License-Identifier: Apache-2.0
"""Open files that a QEMU inherits, and how its command line names them.

What was looked at is what QEMU uses: it opens nothing by a path that may lead elsewhere
by then, and needs no right of its own to get at a file.
"""

from __future__ import annotations

import fcntl
import os
import stat

CHUNK = 1 << 20
# A content that nobody can change any more, whoever opens it.
SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


class Descriptors:
    """For one start of QEMU: fill it, pass `argv` and `pass_fds` to spawn, close it.

    It owns every descriptor that it was given; QEMU has copies of its own.
    """

    def __init__(self) -> None:
        self._owned: set[int] = set()
        self._sets: dict[int, str] = {}

    def block(self, fd: int, what: str) -> str:
        """The name of a file for -blockdev. It must be open as the node needs it: O_RDONLY
        or O_RDWR. what: words for query-fdsets, such as the path."""
        self._owned.add(fd)
        self._sets[fd] = what
        return f"/dev/fdset/{fd}"

    def inherit(self, fd: int) -> int:
        """The number of a descriptor that QEMU uses as it is."""
        self._owned.add(fd)
        return fd

    def plain(self, fd: int) -> str:
        """The name of a file for everything that QEMU opens itself, to read it: kernel,
        firmware.

        QEMU gets a sealed copy of a file that not everybody may read. Raises OSError.
        """
        self._owned.add(fd)
        if not os.fstat(fd).st_mode & stat.S_IROTH:
            fd = sealed_copy(fd)
            self._owned.add(fd)
        return f"/proc/self/fd/{fd}"

    @property
    def argv(self) -> list[str]:
        """Options that give the sets of block() to QEMU."""
        argv = []
        for fd, what in self._sets.items():
            words = what.replace(",", ",,")
            argv += ["-add-fd", f"fd={fd},set={fd},opaque={words}"]
        return argv

    @property
    def pass_fds(self) -> tuple[int, ...]:
        """What the child must inherit, under the same numbers."""
        return tuple(sorted(self._owned))

    def close(self) -> None:
        """Close ours. May be called twice."""
        while self._owned:
            os.close(self._owned.pop())
        self._sets.clear()

    def __enter__(self) -> Descriptors:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def sealed_copy(fd: int) -> int:
    """A file in memory with the content of another one, read from its start, that anybody
    may open and nobody can change. Raises OSError."""
    copy = os.memfd_create("cpc-file", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        offset = 0
        while data := os.pread(fd, CHUNK, offset):
            view = memoryview(data)
            while view:
                view = view[os.write(copy, view) :]
            offset += len(data)
        fcntl.fcntl(copy, fcntl.F_ADD_SEALS, SEALS)
    except BaseException:
        os.close(copy)
        raise
    return copy
