# SPDX-License-Identifier: Apache-2.0
"""One interface for progress, three renderers: bar, plain and none. On stderr."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from typing import Protocol, TextIO, cast

from cpcctl.ui.output import say, size
from cpcctl.ui.streams import Quiet

PLAIN_EVERY = 1.0


class Progress(Protocol):
    """phase() when a new phase begins, update() as often as you like, then
    finish(). Bytes are those moved so far in this phase, and those expected."""

    def phase(self, name: str) -> None:
        """Begin a phase."""

    def update(self, done: int, total: int | None = None, note: str = "") -> None:
        """Say how far the phase is."""

    def finish(self, ok: bool) -> None:
        """Remove what is drawn; only an `ok` job ever showed 100 %."""


def percent(done: int, total: int | None) -> int | None:
    """Whole percents, never 100 before finish(); None when unknown."""
    if not total:
        return None
    return max(0, min(99, done * 100 // total))


class NoProgress:
    """Says nothing."""

    def phase(self, name: str) -> None: ...

    def update(self, done: int, total: int | None = None, note: str = "") -> None: ...

    def finish(self, ok: bool) -> None: ...


class PlainProgress:
    """A line when a phase begins and about one a second while it lasts."""

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._clock = clock
        self._phase = ""
        self._next = 0.0

    def phase(self, name: str) -> None:
        self._phase = name
        self._next = self._clock() + PLAIN_EVERY
        say(f"phase {name}", self._stream)

    def update(self, done: int, total: int | None = None, note: str = "") -> None:
        now = self._clock()
        if now < self._next:
            return
        self._next = now + PLAIN_EVERY
        say(f"phase {self._phase}: {amount(done, total, note)}", self._stream)

    def finish(self, ok: bool) -> None:
        if ok:
            say("phase done", self._stream)


class BarProgress:
    """A bar that redraws one line."""

    def __init__(self, stream: TextIO, color: bool) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn
        from rich.progress import Progress as RichProgress

        console = Console(file=cast(TextIO, Quiet(stream)), force_terminal=True, no_color=not color)
        self._bar = RichProgress(
            TextColumn("{task.description:<12}"),
            # Short, so that 80 columns hold the words beside it.
            BarColumn(12),
            TextColumn("{task.fields[text]}"),
            console=console,
            transient=True,
        )
        self._task = self._bar.add_task("", total=None, text="")
        self._bar.start()

    def phase(self, name: str) -> None:
        self._bar.reset(self._task, total=None, description=name, text="")

    def update(self, done: int, total: int | None = None, note: str = "") -> None:
        share = percent(done, total)
        self._bar.update(
            self._task,
            completed=share or 0,
            total=None if share is None else 100,
            text=amount(done, total, note),
        )

    def finish(self, ok: bool) -> None:
        self._bar.stop()


def amount(done: int, total: int | None, note: str) -> str:
    """"12.0 MiB of 2.0 GiB, 0 %, round 2"."""
    share = percent(done, total)
    parts = [size(done) + (f" of {size(total)}" if total else "")]
    if share is not None:
        parts.append(f"{share} %")
    if note:
        parts.append(note)
    return ", ".join(parts)


def make(mode: str, stream: TextIO, env: Mapping[str, str] = os.environ) -> Progress:
    """The renderer for --progress; auto is a bar on a terminal, else plain."""
    if mode == "auto":
        mode = "bar" if stream.isatty() and env.get("TERM", "dumb") != "dumb" else "plain"
    if mode == "bar":
        return BarProgress(stream, color="NO_COLOR" not in env)
    return PlainProgress(stream) if mode == "plain" else NoProgress()
