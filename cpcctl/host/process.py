# SPDX-License-Identifier: Apache-2.0
"""Processes of ours: start one, know it again, end it."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from cpcctl.host import atomic


@dataclass(frozen=True)
class ProcessId:
    """A process that cannot be mistaken for a later one with its number.

    started: clock ticks after boot, field 22 of /proc/PID/stat
    """

    pid: int
    started: int

    @classmethod
    def of(cls, pid: int) -> ProcessId | None:
        """The process with that number now; None when there is none."""
        fields = _stat(pid)
        return cls(pid, int(fields[19])) if fields else None

    @classmethod
    def myself(cls) -> ProcessId:
        """This process."""
        found = cls.of(os.getpid())
        assert found is not None
        return found

    @property
    def alive(self) -> bool:
        """True while it runs; a zombie does not."""
        fields = _stat(self.pid)
        return bool(fields) and int(fields[19]) == self.started and fields[0] not in ("Z", "X")

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, if it is still that process."""
        try:
            handle = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return
        try:
            # The descriptor holds the process, so the check cannot go stale.
            if self.alive:
                signal.pidfd_send_signal(handle, number)
        except ProcessLookupError:
            pass
        finally:
            os.close(handle)

    def wait_gone(self, timeout: float) -> bool:
        """True when it is gone within timeout seconds."""
        return ends(lambda: self.alive, timeout)


def ends(alive: Callable[[], bool], timeout: float) -> bool:
    """True when alive() is False within timeout seconds."""
    deadline = time.monotonic() + timeout
    while alive():
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.01)
    return True


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the third (state) on; [] if gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return []
    # The second field is the name in brackets and may contain anything.
    return text.rpartition(")")[2].split()


def spawn(
    argv: list[str], log: Path, pass_fds: Iterable[int] = ()
) -> subprocess.Popen[bytes]:
    """Start a process that outlives us, in a session of its own.

    Its stdout and stderr are appended to `log`; stdin is empty; of our open files it
    inherits pass_fds, under the same numbers. Raises OSError.
    """
    with open(atomic.append(log), "ab") as output:
        return subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            cwd="/",
            pass_fds=tuple(pass_fds),
        )
