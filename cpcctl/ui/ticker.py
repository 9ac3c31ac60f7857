# SPDX-License-Identifier: Apache-2.0
"""A line that shows that something goes on: what, for how long, and how far it is.

On a terminal it is drawn anew twice a second, below whatever else is said. Elsewhere only the
lines that are said appear.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from typing import TextIO

from cpcctl.ui.output import columns, say

TICK_SECONDS = 0.5


class Ticker:
    """A context manager; its methods may be called by any thread."""

    def __init__(self, stream: TextIO, progress: str = "auto") -> None:
        """progress: as --progress says; `plain` and `none` draw nothing."""
        self.terminal = stream.isatty() and progress in ("auto", "bar")
        self._stream = stream
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._what = self._detail = ""
        self._since = 0.0
        self._thread = threading.Thread(target=self._run, name="ticker", daemon=True)

    def __enter__(self) -> Ticker:
        if self.terminal:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self.terminal:
            self._thread.join()
            self.clear()

    def say(self, text: str) -> None:
        """A line that stays."""
        with self._lock:
            self._clear()
            say(text, self._stream)
            self._draw()

    def doing(self, what: str) -> None:
        """Say in a line that stays what begins; it is what goes on from now."""
        self.say(what)
        with self._lock:
            self._what, self._detail, self._since = what, "", time.monotonic()

    def detail(self, text: str) -> None:
        """How far it is."""
        with self._lock:
            self._detail = text

    @contextlib.contextmanager
    def silent(self) -> Iterator[None]:
        """While something else writes on the terminal."""
        with self._lock:
            self._clear()
            before, self._what = self._what, ""
        yield
        with self._lock:
            self._what = before

    def clear(self) -> None:
        """Remove the line."""
        with self._lock:
            self._what = ""
            self._clear()

    def _run(self) -> None:
        while not self._stop.wait(TICK_SECONDS):
            with self._lock:
                self._draw()

    def _clear(self) -> None:
        self._write("\r\033[K")

    def _draw(self) -> None:
        if self._what:
            line = f"  {time.monotonic() - self._since:.0f} s"
            line += f", {self._detail}" if self._detail else ""
            self._write(f"\r\033[K{line[: columns() - 1]}")

    def _write(self, text: str) -> None:
        if self.terminal:
            # A terminal that takes nothing must not stop the work.
            with contextlib.suppress(OSError):
                self._stream.write(text)
                self._stream.flush()
