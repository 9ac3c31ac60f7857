# SPDX-License-Identifier: Apache-2.0
"""When to stop copying and switch over. Pure.

After each round the dirty pages found are what a switchover would still have
to move while the guest stands still. It is time when that fits the downtime
the operator allows, at the speed the link has shown.
"""

from __future__ import annotations

from dataclasses import dataclass

PAGE = 4096
# What a switchover costs besides pages: freeze, device state, signatures.
HANDOVER_SECONDS = 0.12
# Nothing is gained by another round below this.
FEW_PAGES = 64
# A round that moved so many bytes shows how fast the link is.
ENOUGH = 1 << 20


@dataclass(frozen=True)
class Round:
    """One round as it is reported. seconds is wall time; bytes are on the wire.

    dirty is the number of pages found dirty after it, None after the last.
    """

    number: int
    pages: int
    zero_pages: int
    bytes: int
    seconds: float
    dirty: int | None = None


@dataclass(frozen=True)
class Decision:
    """switch: freeze now. expected: the downtime this would mean, in seconds."""

    switch: bool
    expected: float


def speed(rounds: list[Round], limit: float | None) -> float:
    """Bytes of page content a second that the link has shown so far.

    Of the fastest round that moved enough to tell: the first one may be full of zero
    pages, which are work for the destination and no bytes. When none was, of the one
    that moved most. The limit (bytes a second) caps it, because it holds for the last
    round too. 0.0 when nothing was moved.
    """
    timed = [entry for entry in rounds if entry.seconds > 0]
    telling = [entry for entry in timed if entry.bytes >= ENOUGH]
    most = max(timed, key=lambda r: r.bytes, default=None)
    shown = max(r.bytes / r.seconds for r in telling or [most]) if most else 0.0
    return min(shown, limit) if limit else shown


def decide(
    rounds: list[Round], max_downtime: float, limit: float | None, paused: bool = False
) -> Decision:
    """What to do after the last of rounds, whose dirty count must be known.

    paused: the guest was stopped by --on-timeout pause, so nothing gets dirty.
    """
    last = rounds[-1]
    if last.dirty is None:
        raise ValueError("the round has no dirty count")
    rate = speed(rounds, limit)
    # A round that moved next to nothing says nothing about the link.
    copy = last.dirty * PAGE / rate if rate else 0.0
    expected = HANDOVER_SECONDS + copy
    return Decision(paused or last.dirty <= FEW_PAGES or expected <= max_downtime, expected)
