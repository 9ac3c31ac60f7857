# SPDX-License-Identifier: Apache-2.0
"""One exception for everything an operator may see, and the exit codes.

An error says what failed, on which host, that host's own words, and the next
command to type.
"""

from __future__ import annotations

import reprlib
from enum import IntEnum


class ExitCode(IntEnum):
    """What the exit status of cpcctl means; scripts may rely on it."""

    OK = 0
    FAILED = 1  # the VM is confirmed where it was
    USAGE = 2  # usage, configuration or unsupported flag
    REFUSED = 3  # by preflight, policy or attestation, or a part is missing; nothing changed
    UNREACHABLE = 4  # host, QMP or firmware; nothing started
    UNPROVEN = 5  # the VM's place or state is not proven; a person must look
    TIMED_OUT = 6  # cancelled; the VM is confirmed on the source
    LOST = 7  # proven lost; restore from a snapshot
    ENDED = 8  # the guest ended by itself; the VM is stopped
    DEFECT = 70  # a defect of ours
    BUSY = 75  # retry later
    HUNG_UP = 129
    INTERRUPTED = 130
    TERMINATED = 143


SHOWN_MAX = 2000
QUOTED_MAX = 80
# Of what an error says in all; an end of a log and the words of two hosts fit in.
MESSAGE_MAX, CAUSE_MAX = 1000, 16_000
# What to do about LOST.
RESTORE = "restore it from a snapshot or a backup"


class _Quoting(reprlib.Repr):
    """Never builds more of a value than it shows."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxstring, self.maxother, self.maxlong = 2, QUOTED_MAX, 40, 40

    def repr_int(self, x: int, level: int) -> str:
        """Python refuses to write out a number of many digits."""
        return super().repr_int(x, level) if x.bit_length() < 256 else "a number of many digits"


def quoted(value: object) -> str:
    """A value as an error quotes it: in quotes, shortened in its middle when it is long."""
    return _Quoting().repr(value)


def shown(text: object, limit: int = SHOWN_MAX) -> str:
    """Text of unknown origin as a terminal may see it: one line, nothing that
    moves the cursor or hides, at most limit characters of it."""
    words = str(text)
    cut = words[:limit] + ("..." if len(words) > limit else "")
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode("ascii")
        for char in cut
    )


def shown_lines(text: object, limit: int = SHOWN_MAX) -> str:
    """As shown(), but line by line; limit counts for the whole."""
    words = str(text)
    cut = words[:limit] + ("..." if len(words) > limit else "")
    return "\n".join(shown(line, len(line)) for line in cut.splitlines())


class CpcError(Exception):
    """A failure to show to the operator.

    message:   what failed, one line, no trailing stop
    exit_code: what the process should return
    host:      name of the host whose words `cause` are
    cause:     those words, unchanged; may have several lines
    hint:      the next command to type, or what to do; one remedy a line
    """

    def __init__(
        self,
        message: str,
        *,
        exit_code: ExitCode = ExitCode.FAILED,
        host: str | None = None,
        cause: str | None = None,
        hint: str | None = None,
    ) -> None:
        message = _cut(message, MESSAGE_MAX)
        super().__init__(message)
        self.message = message
        self.exit_code = exit_code
        self.host = host
        self.cause = cause and _cut(cause, CAUSE_MAX)
        self.hint = hint and _cut(hint, MESSAGE_MAX)

    def render(self) -> str:
        """The text for stderr, without a final newline."""
        lines = [f"error: {_safe(self.message)}"]
        if self.cause:
            label = f"  cause ({_safe(self.host)}): " if self.host else "  cause: "
            first, *rest = self.cause.rstrip().splitlines() or [""]
            lines.append(label + _safe(first))
            lines.extend("    " + _safe(line) for line in rest)
        if self.hint:
            lines.extend(f"  try: {_safe(line)}" for line in self.hint.splitlines())
        return "\n".join(lines)

    def as_dict(self) -> dict[str, object]:
        """The same for --format json and for the other host."""
        return {
            "message": self.message,
            "exit_code": int(self.exit_code),
            "host": self.host,
            "cause": self.cause,
            "hint": self.hint,
        }


def _cut(words: str, limit: int) -> str:
    return words if len(words) <= limit else words[:limit] + "..."


def _safe(words: str) -> str:
    """The last line of defence: whatever got this far cannot steer a terminal."""
    return shown(words, len(words))


def reason(error: BaseException) -> str:
    """An exception's words for people: no number, and the file it is about."""
    if isinstance(error, OSError) and error.strerror:
        named = f": {error.filename}" if error.filename is not None else ""
        return error.strerror + named
    return str(error) or type(error).__name__
