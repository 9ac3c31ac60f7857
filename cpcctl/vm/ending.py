# SPDX-License-Identifier: Apache-2.0
"""Why a QEMU that is gone went: what its log says of its end. Pure.

Three lines tell, and all of them are there when no job was attached: QEMU's trace of
the shutdown request with its reason; its own words where it has some; and the exit
status, which watcher.py notes.
"""

from __future__ import annotations

import re
import signal
from dataclasses import dataclass
from enum import Enum

from cpcctl.qemu.watcher import NOTE, NOTED, SIGNALLED
from cpcctl.snp import termination

# One line for each request to end, on stderr and so in the log.
TRACE = "qemu_system_shutdown_request"
TRACED = re.compile(rf"^(?:\S+:)?{TRACE} reason=(\d+)", re.M)
# What is in the log for this module only.
OURS = re.compile(rf"^(?:(?:\S+:)?{TRACE} |{NOTE})")
CRASHES = (
    signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGTRAP,
    signal.SIGSYS,
)  # fmt: skip


class Why(Enum):
    """Who or what ended it, for whom to turn to."""

    SHUTDOWN = "guest-shutdown"
    RESET = "guest-reset"
    PANIC = "guest-panic"
    TERMINATED = "guest-terminated"
    ASKED = "host-asked"
    KILLED = "killed"
    CRASHED = "crashed"
    UNKNOWN = "unknown"


BY_GUEST = (Why.SHUTDOWN, Why.RESET, Why.PANIC, Why.TERMINATED)
# ShutdownCause of QEMU's qapi/run-state.json, by its place there.
CAUSES = {
    1: (Why.CRASHED, "QEMU gave up after an error of its own"),
    2: (Why.ASKED, "QEMU was told to quit over QMP"),
    4: (Why.KILLED, "QEMU was ended by a signal"),
    5: (Why.ASKED, "QEMU was closed on this host"),
    6: (Why.SHUTDOWN, "the guest shut down"),
    7: (Why.RESET, "the guest reset itself, which ends a guest of its kind"),
    8: (Why.PANIC, "the guest panicked"),
}


@dataclass(frozen=True)
class Ending:
    """words: one sentence, without its stop."""

    why: Why
    words: str

    @property
    def by_guest(self) -> bool:
        """The guest ended itself; nothing failed on this host."""
        return self.why in BY_GUEST


def read(log: str) -> Ending:
    """From the log of one life of a QEMU that is gone, or the end of it."""
    noted = NOTED.findall(log)
    status = int(noted[-1]) if noted else None
    if status is not None and status > SIGNALLED:
        return _signalled(status - SIGNALLED)
    said = termination.in_log(log)
    if said is not None:
        why = Why.TERMINATED if termination.LOGGED.search(log) else Why.RESET
        return Ending(why, said)
    traced = TRACED.findall(log)
    if traced and int(traced[-1]) in CAUSES:
        why, words = CAUSES[int(traced[-1])]
        return Ending(why, words)
    if (killed := re.search(r"terminating on signal (\d+)", log)) is not None:
        return _signalled(int(killed[1]))
    if status is None:
        return Ending(
            Why.UNKNOWN, "QEMU left no message: it was killed, or the host went down"
        )
    return Ending(Why.CRASHED, f"QEMU ended with exit status {status}")


def _signalled(number: int) -> Ending:
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = f"signal {number}"
    if number in CRASHES:
        return Ending(Why.CRASHED, f"QEMU crashed ({name})")
    return Ending(Why.KILLED, f"QEMU was killed ({name})")


def without_ours(log: str) -> str:
    """The log without what only this module reads."""
    return "\n".join(line for line in log.splitlines() if not OURS.match(line))
