# SPDX-License-Identifier: Apache-2.0
"""Ctrl-C, SIGTERM and a terminal that is closed: each of them cancels first."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from cpcctl.errors import ExitCode

NUMBERS = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)
LOOK_SECONDS = 0.01
# After a signal, for what is still to be said.
LEAVE_SECONDS = 2.0
_kept: dict[int, Any] = {}
_came: list[int] = []
_ends: list[int] = []
_codes: list[Callable[[], int | None]] = []


class Interrupted(KeyboardInterrupt):
    """SIGTERM or SIGHUP: the same clean-up as Ctrl-C, another exit code."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.exit_code = ExitCode(128 + number)


def exit_code(stop: KeyboardInterrupt) -> ExitCode:
    """129 after SIGHUP, 130 after Ctrl-C, 143 after SIGTERM."""
    return stop.exit_code if isinstance(stop, Interrupted) else ExitCode.INTERRUPTED


def word(stop: KeyboardInterrupt) -> str:
    """"interrupted" or "terminated"."""
    return "interrupted" if exit_code(stop) is ExitCode.INTERRUPTED else "terminated"


def hear() -> None:
    """Let SIGTERM and SIGHUP end what runs as Ctrl-C does; `nohup` stays in force."""
    signal.signal(signal.SIGTERM, _interrupted)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        signal.signal(signal.SIGHUP, _interrupted)


def ignore() -> None:
    """Asked again, clean-up would only leave behind what it was asked to end."""
    for number in NUMBERS:
        signal.signal(number, signal.SIG_IGN)


def end_with(code: Callable[[], int | None], *, heard: bool = False) -> None:
    """All is done, or is being ended, but for what is still to be said: a signal ends that.

    code: with this exit code, once there is one; the last that was given counts
    heard: one has come already
    By a thread, since who waits for a reader that has stalled may not come to run a handler.
    Who says it has LEAVE_SECONDS more once there is a code, or until another signal.
    """
    heard = heard or bool(_came)
    _kept.clear()
    _came.clear()
    _codes[:] = [code]
    late: list[int] = []
    for number in NUMBERS:
        signal.signal(number, lambda number, _frame: late.append(number))
    if not _ends:
        reading, writing = os.pipe()
        os.set_blocking(writing, False)
        signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        _ends.append(writing)
        threading.Thread(target=_end, args=(reading,), name="cpc-end", daemon=True).start()
    if heard or late:
        os.write(_ends[0], b"\0")


def _end(reading: int) -> None:
    """End the process once it was asked for, and the code is known; not if all is said before."""
    try:
        if not os.read(reading, 1):
            return
        while (ended := _code()) is None:
            time.sleep(LOOK_SECONDS)
        # Those that came before that asked for what the first one did.
        while select.select([reading], [], [], 0)[0]:
            if not os.read(reading, 64):
                return
        # Another signal, or the end of what there was to say.
        if select.select([reading], [], [], LEAVE_SECONDS)[0] and not os.read(reading, 1):
            return
        os._exit(ended)
    finally:
        os.close(reading)


def _code() -> int | None:
    return _codes[-1]() if _codes else None


def all_is_said() -> None:
    """Undo end_with(); what comes from now on changes no exit code.

    Ignored, for Python takes handlers of its own away while it ends.
    """
    if _ends:
        ignore()
    while _ends:
        signal.set_wakeup_fd(-1)
        os.close(_ends.pop())


def defer() -> None:
    """Keep what comes from now on for deliver(): what is begun gets to where it can be undone."""
    for number in NUMBERS:
        handler = signal.getsignal(number)
        if handler is not signal.SIG_IGN and number not in _kept:
            _kept[number] = handler
            signal.signal(number, lambda number, _frame: _came.append(number))


@contextlib.contextmanager
def without() -> Iterator[None]:
    """What comes meanwhile is dropped: what is settled half says nothing."""
    defer()
    try:
        yield
    finally:
        _came.clear()
        deliver()


@contextlib.contextmanager
def whole() -> Iterator[None]:
    """A part that is not to be broken off in its middle: what comes is heard at its end.

    :raise KeyboardInterrupt: then, unless all of this runs without().
    """
    if _kept or threading.current_thread() is not threading.main_thread():
        yield
        return
    defer()
    try:
        yield
    finally:
        deliver()


@contextlib.contextmanager
def heard() -> Iterator[None]:
    """Within without(): a part that takes long, and that can be undone or has done nothing yet.

    :raise KeyboardInterrupt: for what has come before, or comes meanwhile.
    """
    if not _kept or threading.current_thread() is not threading.main_thread():
        yield
        return
    try:
        deliver()
        yield
    finally:
        defer()


def deliver() -> None:
    """Hear again. :raise KeyboardInterrupt: for what defer() has kept."""
    while _kept:
        number, handler = _kept.popitem()
        signal.signal(number, handler)
    if _came:
        number = _came[0]
        _came.clear()
        raise KeyboardInterrupt if number == signal.SIGINT else Interrupted(number)


def _interrupted(number: int, _frame: object) -> None:
    raise Interrupted(number)
