# SPDX-License-Identifier: Apache-2.0
"""Results go to stdout, as text or as one JSON value; nothing else does."""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
from collections.abc import Iterable, Sequence
from typing import TextIO

from cpcctl.errors import CpcError, reason, shown_lines
from cpcctl.ui import interrupts


class Output:
    """Where a verb puts its result and its remarks."""

    def __init__(
        self, fmt: str, stdout: TextIO | None = None, stderr: TextIO | None = None,
        *, acts: bool = False,
    ) -> None:  # fmt: skip
        """acts: the verb has done something to a VM by the time it has a result."""
        self.format = fmt
        self._acts = acts
        self.stdout = stdout or sys.stdout
        self.stderr = stderr or sys.stderr

    def result(self, value: object, text: str, *, code: int = 0) -> None:
        """The result of the verb: `value` as JSON, or `text` (may be empty).

        code: the verb's exit code, when that is clear by now
        """
        shown = json.dumps(value, indent=2) if self.format == "json" else text
        if not shown:
            return
        if self._acts:
            # What was done was done, though nobody reads of it.
            interrupts.end_with(lambda: code)
        try:
            print(shown, file=self.stdout, flush=True)
        except OSError as error:
            # What was done was done; who asks again is told as well.
            if self._acts:
                self.note(f"the result was not written: {reason(error)}")
            elif isinstance(error, BrokenPipeError):
                raise
            else:
                raise unwritable(error) from error

    def note(self, text: str) -> None:
        """A remark for people, on stderr."""
        say(shown_lines(text, len(text)), self.stderr)


def say(text: str, stream: TextIO) -> None:
    """Write a line; a stream that takes none must not stop the work."""
    with contextlib.suppress(OSError):
        print(text, file=stream, flush=True)


def unwritable(error: OSError) -> CpcError:
    """The error for a stdout that takes nothing more."""
    return CpcError(f"cannot write to stdout: {reason(error)}")


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Columns padded to the widest cell, two spaces between."""
    cells = [[str(cell) for cell in row] for row in (columns, *rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(columns))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in cells
    )


def pairs(items: Iterable[tuple[str, object]]) -> str:
    """One "name: value" a line, values aligned."""
    listed = [(name + ":", str(value)) for name, value in items]
    width = max((len(name) for name, _ in listed), default=0)
    return "\n".join(f"{name.ljust(width)}  {value}".rstrip() for name, value in listed)


def columns() -> int:
    """Width of the terminal; 80 where there is none."""
    return shutil.get_terminal_size((80, 24)).columns


def number(count: int, thing: str) -> str:
    """"1 round", "2 rounds"."""
    return f"{count} {thing}" if count == 1 else f"{count} {thing}s"


def size(count: float) -> str:
    """Bytes in the largest binary unit that keeps a digit before the point."""
    for unit in ("B", "KiB", "MiB"):
        if abs(count) < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB" if count < 1024 else f"{count / 1024:.1f} TiB"
