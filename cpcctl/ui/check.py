# SPDX-License-Identifier: Apache-2.0
"""One finding of preflight or doctor: what was looked at, where, and with what result. Pure."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from cpcctl.errors import CpcError, ExitCode


@dataclass(frozen=True)
class Check:
    """A named look at one thing on one host.

    reason: what is wrong, a whole sentence without its stop; None when ok
    fix: what to do or to type, one remedy a line; None when ok, or when there is none
    """

    name: str
    host: str
    ok: bool
    reason: str | None = None
    fix: str | None = None

    @classmethod
    def of(cls, host: str, name: str, ok: bool, reason: str, fix: str = "") -> Check:
        """A check whose reason and fix are only meant where it failed."""
        return cls(name, host, ok) if ok else cls(name, host, ok, reason, fix or None)

    def document(self) -> dict[str, Any]:
        """For JSON and for the other host."""
        return asdict(self)


def refusal(checks: Iterable[Check], *, peer: bool = False) -> CpcError | None:
    """One error for all that failed; None when nothing did.

    peer: the other host found them. What it suggests is part of the cause, as its
    words: only what is ours is printed as something to type.
    """
    failed = [check for check in checks if not check.ok]
    if not failed:
        return None
    words = []
    for check in failed:
        words.append(f"{check.name}: {check.reason}")
        if peer and check.fix:
            words += [f'it suggests: "{line}"' for line in check.fix.splitlines()]
    fixes = [] if peer else [line for c in failed if c.fix for line in c.fix.splitlines()]
    return CpcError(
        "preflight refuses this migration; nothing was changed",
        exit_code=ExitCode.REFUSED,
        host=failed[0].host,
        cause="\n".join(words),
        hint="\n".join(dict.fromkeys(fixes)) or None,
    )


# Cells, what is said of them, and the remedies.
Row = tuple[tuple[str, ...], str, str | None]


def listing(rows: Sequence[Row], width: int) -> str:
    """Checks for people. The cells are aligned; what is said is broken between words.

    width: columns of the terminal; a word that is longer stays whole
    """
    widths = [max(map(len, column)) for column in zip(*(row[0] for row in rows), strict=True)]
    margin = sum(widths) + 2 * len(widths)
    lines = []
    for cells, text, fix in rows:
        head = "".join(f"{cell:<{wide}}  " for cell, wide in zip(cells, widths, strict=True))
        lines += _wrapped(text, width, head, margin) or [head.rstrip()]
        for remedy in (fix or "").splitlines():
            lines += _wrapped(remedy, width, " " * margin + "try: ", margin + len("try: "))
    return "\n".join(lines)


def _wrapped(text: str, width: int, head: str, margin: int) -> list[str]:
    return textwrap.wrap(
        text, max(width, margin + 20), initial_indent=head, subsequent_indent=" " * margin,
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip
