# SPDX-License-Identifier: Apache-2.0
"""Ctrl-C, SIGTERM and a terminal that is closed: each of them cancels first."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from cpcctl.errors import ExitCode

NUMBERS = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)
LOOK_SECONDS = 0.01
_kept: dict[int, Any] = {}
_came: list[int] = []
_ends: list[int] = []


class Interrupted(KeyboardInterrupt):
    """SIGTERM or SIGHUP: the same clean-up as Ctrl-C, another exit code."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.exit_code = ExitCode(128 + number)


def exit_code(stop: KeyboardInterrupt) -> ExitCode:
    """129 after SIGHUP, 130 after Ctrl-C, 143 after SIGTERM."""
    return stop.exit_code if isinstance(stop, Interrupted) else ExitCode.INTERRUPTED


def hear() -> None:
    """Let SIGTERM and SIGHUP end what runs as Ctrl-C does; `nohup` stays in force."""
    signal.signal(signal.SIGTERM, _interrupted)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        signal.signal(signal.SIGHUP, _interrupted)


def ignore() -> None:
    """Asked again, clean-up would only leave behind what it was asked to end."""
    for number in NUMBERS:
        signal.signal(number, signal.SIG_IGN)


def end_with(code: Callable[[], int | None]) -> None:
    """All is done but for what is still to be said: a signal ends that.

    code: with this exit code, once there is one
    By a thread, since who waits for a reader that has stalled may not come to run a handler.
    """
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    _ends.append(writing)
    for number in NUMBERS:
        signal.signal(number, lambda *_: None)

    def wait() -> None:
        came = os.read(reading, 1)
        os.close(reading)
        if not came:
            return
        while (ended := code()) is None:
            time.sleep(LOOK_SECONDS)
        os._exit(ended)

    threading.Thread(target=wait, name="cpc-end", daemon=True).start()


def all_is_said() -> None:
    """Undo end_with()."""
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
