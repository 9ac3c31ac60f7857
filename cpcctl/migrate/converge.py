# SPDX-License-Identifier: Apache-2.0
"""When to stop copying: to switch over, or because it leads nowhere. Pure.

After each round the dirty pages found are what a switchover would still have
to move while the guest stands still. It is time when that fits the downtime
the operator allows, at the speed the link has shown.

A guest that writes faster than its memory is copied never comes to that. Where no
--timeout is given, a copy ends that has made no progress for STALL_SECONDS.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

PAGE = 4096
# What a switchover costs besides pages: freeze, device state, signatures.
HANDOVER_SECONDS = 0.12
# Nothing is gained by another round below this.
FEW_PAGES = 64
# A round that moved so many bytes shows how fast the link is.
ENOUGH = 1 << 20
# As long as KubeVirt waits (progressTimeout), from which operators know it.
STALL_SECONDS = 150.0
# Fewer pages than ever before, and not by chance.
FEWER = 0.99
# Of a migration of days; each round writes the job file anew.
FIRST_KEPT, LAST_KEPT = 10, 30
# From then on people are told.
TELL_SECONDS = 5.0


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


def kept(rounds: Sequence[Round]) -> tuple[list[Round], int]:
    """Those that a job notes, the first and the last ones; how many are left out between."""
    out = max(0, len(rounds) - FIRST_KEPT - LAST_KEPT)
    if not out:
        return list(rounds), 0
    return [*rounds[:FIRST_KEPT], *rounds[-LAST_KEPT:]], out


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


@dataclass(frozen=True)
class Rates:
    """Bytes a second: what the guest made dirty in a round, and what was copied."""

    dirty: float
    copy: float


def rates(last: Round) -> Rates:
    """Of a round whose dirty count is known; of pages written twice once."""
    seconds = max(last.seconds, 1e-6)
    return Rates((last.dirty or 0) * PAGE / seconds, last.bytes / seconds)


class Progress:
    """How long a copy has got nowhere. now: monotonic seconds.

    A round is progress when it leaves clearly fewer pages than every one before;
    while it lasts, whatever is sent is.
    """

    def __init__(self, now: float) -> None:
        self._lowest: int | None = None
        self._better_at = self._moved_at = now
        self._moved: object = None

    def after_round(self, dirty: int, now: float) -> float:
        """A round has left so many dirty pages; seconds since the last progress."""
        self._moved_at = now
        if self._lowest is None or dirty < self._lowest * FEWER:
            self._lowest, self._better_at = dirty, now
        return now - self._better_at

    def within_round(self, moved: object, now: float) -> float:
        """Counters that change while anything is sent; seconds since they did."""
        if moved != self._moved:
            self._moved, self._moved_at = moved, now
        return now - self._moved_at


def behind(stalled: float, found: Rates) -> str:
    """"no progress for 35 s: the guest writes 210 MiB/s, 80 are copied"; "" before that."""
    if stalled < TELL_SECONDS:
        return ""
    return (
        f"no progress for {stalled:.0f} s: the guest writes {found.dirty / (1 << 20):.0f} MiB/s, "
        f"{found.copy / (1 << 20):.0f} are copied"
    )
